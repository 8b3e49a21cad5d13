"""raysweep: branch your training from any checkpoint, change the data ratio, and know which class it helped.

The public Python interface. Each name is imported when it is first used, so that ``import raysweep`` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from raysweep import _openmp

if TYPE_CHECKING:
    from raysweep.api import (
        branch,
        create_experiment_config,
        evaluate,
        list_experiments,
        load_checkpoint,
        run_experiment,
    )
    from raysweep.errors import (
        AmbiguousReferenceError,
        CheckpointError,
        ConfigError,
        DataError,
        InputError,
        Interrupted,
        LockedError,
        NewerFormatError,
        NonFiniteLossError,
        NotFoundError,
        RaysweepError,
        ResourceError,
        RootError,
        StoreError,
        TrainingError,
        UntrustedError,
        WeightsError,
    )

__all__ = [
    "AmbiguousReferenceError",
    "CheckpointError",
    "ConfigError",
    "DataError",
    "InputError",
    "Interrupted",
    "LockedError",
    "NewerFormatError",
    "NonFiniteLossError",
    "NotFoundError",
    "RaysweepError",
    "ResourceError",
    "RootError",
    "StoreError",
    "TrainingError",
    "UntrustedError",
    "WeightsError",
    "branch",
    "create_experiment_config",
    "evaluate",
    "list_experiments",
    "load_checkpoint",
    "run_experiment",
]


_openmp.calm()  # before anything loads torch


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module(f"raysweep.{'api' if name.islower() else 'errors'}"), name)
    raise AttributeError(f"module 'raysweep' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
