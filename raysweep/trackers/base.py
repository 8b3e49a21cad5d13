"""Trackers: TensorBoard, MLflow, Weights & Biases and trackio show what the experiments' folders tell.

The folder is the truth. Every tracker has one operation, ``sync``: bring the tracker's run up to date with the history.
It can be called at any time and any number of times; what a kill, a full disk or a server that was down kept back comes
with the next call. The module of a tracker imports its package only when it is used.
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any, Protocol

from raysweep.config.settings import TrackersSection
from raysweep.errors import ConfigError
from raysweep.trackers.snapshot import Snapshot

EXTRAS = ("mlflow", "wandb", "trackio")  # each is a package, an extra of ours, a section of the configuration
OFF = {"tensorboard": False, **dict.fromkeys(EXTRAS)}  # the section of what shall not be tracked
_MODULES = {"tensorboard": "tensorboard", **{name: f"{name}_" for name in EXTRAS}}


class Tracker(Protocol):
    """What a tracker can do."""

    def sync(self, story: Snapshot) -> None:
        """Bring the tracker up to date with an experiment; raises whatever goes wrong."""
        ...

    def close(self) -> None:
        """Send what is left and end; raises whatever goes wrong."""
        ...


def make(name: str) -> Tracker:
    """The tracker of this name; imports its package.

    Raises:
        ImportError: it is not installed.
    """
    return _module(name).Tracker()


def title(name: str) -> str:
    """What people call a tracker."""
    return _module(name).TITLE


def _module(name: str) -> Any:
    return importlib.import_module(f"raysweep.trackers.{_MODULES[name]}")


def asked_for(section: TrackersSection) -> list[str]:
    """The trackers that a configuration names, TensorBoard apart."""
    return [name for name in EXTRAS if getattr(section, name) is not None]


def check(section: TrackersSection) -> None:
    """Look whether the packages are installed; imports none.

    Raises:
        ConfigError: one is not.
    """
    for name in asked_for(section):
        if importlib.util.find_spec(name) is None:
            raise ConfigError(
                f"trackers.{name} is set, but {title(name)} is not installed. Install it with: pip install "
                f"'raysweep[{name}]', or leave it out with trackers.{name}=null."
            )
