"""Trackers show an experiment in TensorBoard, MLflow, Weights & Biases or trackio.

The experiment's folder is the only source. A tracker copies from it and is never read back. Every tracker has one
operation, ``sync``, which brings the tracker's run up to date with ``training_history.csv``. It may be called at any
time and any number of times. What could not be sent, because a process was killed, a disk was full or a server was down,
is sent by the next call. The module of a tracker imports the tracker's package only when a tracker is made.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from typing import Protocol, cast

from raysweep.config.tracking import TrackersSection
from raysweep.errors import ConfigError
from raysweep.trackers.snapshot import Snapshot

EXTRAS = ("mlflow", "wandb", "trackio")  # each names a package, an extra of raysweep and a section of the configuration
OFF = {"tensorboard": False, **dict.fromkeys(EXTRAS)}  # the section that turns every tracker off
_MODULES = {"tensorboard": "tensorboard", **{name: f"{name}_" for name in EXTRAS}}


class Tracker(Protocol):
    """One tracker, which mirrors any number of experiments.

    Two rules hold for every implementation:

    * It can find a run again. The ids that the tracker gave, and how many rows of the history it has, stand in the
      experiment's folder (:class:`raysweep.trackers.state.TrackerState`), so that another process on another machine
      continues the same run.
    * It shows every epoch once. Where epochs were trained again, the tracker's rows no longer are the beginning of the
      history, and a new run takes the place of the old one.

    A tracker is used by one thread. TensorBoard runs in the driver's process, all others in a process of their own
    (:mod:`raysweep.trackers.worker`). The caller catches every error and calls ``sync`` again after the next epoch, so an
    implementation neither retries for long nor hides errors.
    """

    def sync(self, snapshot: Snapshot) -> None:
        """Bring the tracker up to date with an experiment.

        After a return without an error the tracker shows every row of ``snapshot.points`` once, and the status. A call
        that has nothing new to send writes nothing.

        Raises:
            Exception: the tracker could not be brought up to date, or only in part. The next call sends the rest.
        """
        ...

    def close(self) -> None:
        """Send what is left and release every file and connection. No other call follows.

        Raises:
            Exception: something could not be sent.
        """
        ...


_Factory = Callable[[], Tracker]


class _Module(Protocol):
    """What the module of a tracker defines."""

    TITLE: str  # the tracker's name in messages
    Tracker: _Factory


def make(name: str) -> Tracker:
    """Make the tracker ``name`` and import its package.

    Raises:
        ImportError: the package is not installed.
    """
    return _module(name).Tracker()


def title(name: str) -> str:
    """The name of a tracker as messages write it, such as ``Weights & Biases``."""
    return _module(name).TITLE


def _module(name: str) -> _Module:
    return cast(_Module, importlib.import_module(f"raysweep.trackers.{_MODULES[name]}"))


def asked_for(section: TrackersSection) -> list[str]:
    """The trackers that a configuration turns on, except TensorBoard."""
    return [name for name in EXTRAS if getattr(section, name) is not None]


def check(section: TrackersSection) -> None:
    """Check that the package of every tracker in a configuration is installed, without importing it.

    Raises:
        ConfigError: a package is not installed.
    """
    for name in asked_for(section):
        if importlib.util.find_spec(name) is None:
            raise ConfigError(
                f"trackers.{name} is set, but {title(name)} is not installed. Install it with: pip install "
                f"'raysweep[{name}]', or turn this tracker off with trackers.{name}=null."
            )
