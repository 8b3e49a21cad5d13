"""raysweep: branch your training from any checkpoint, change the data ratio, and know which class it helped.

The public Python interface. Each name is imported when it is first used, so that ``import raysweep`` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from raysweep import _openmp

if TYPE_CHECKING:
    from raysweep.api.config import create_experiment_config
    from raysweep.api.experiment import Checkpoint, Experiment
    from raysweep.api.hunted import Hunt
    from raysweep.api.hunting import hunt
    from raysweep.api.looking import audit, compare, evaluate, suggest
    from raysweep.api.predictions import Predictions
    from raysweep.api.reading import (
        Lineage,
        get_experiment,
        get_hunt,
        get_sweep,
        lineage,
        list_experiments,
        load_checkpoint,
    )
    from raysweep.api.results import Audit, Comparison, Evaluation, Suggestion
    from raysweep.api.sweep import Folds, Sweep
    from raysweep.api.training import branch, continue_, resume, run, run_experiment
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
    "Audit",
    "Checkpoint",
    "CheckpointError",
    "Comparison",
    "ConfigError",
    "DataError",
    "Evaluation",
    "Experiment",
    "Folds",
    "Hunt",
    "InputError",
    "Interrupted",
    "Lineage",
    "LockedError",
    "NewerFormatError",
    "NonFiniteLossError",
    "NotFoundError",
    "Predictions",
    "RaysweepError",
    "ResourceError",
    "RootError",
    "StoreError",
    "Suggestion",
    "Sweep",
    "TrainingError",
    "UntrustedError",
    "WeightsError",
    "audit",
    "branch",
    "compare",
    "continue_",
    "create_experiment_config",
    "evaluate",
    "get_experiment",
    "get_hunt",
    "get_sweep",
    "hunt",
    "lineage",
    "list_experiments",
    "load_checkpoint",
    "resume",
    "run",
    "run_experiment",
    "suggest",
]


# Name → the module of raysweep.api that has it; all others are errors.
_OF_API = {
    "create_experiment_config": "config",
    **dict.fromkeys(("branch", "continue_", "resume", "run", "run_experiment"), "training"),
    **dict.fromkeys(("audit", "compare", "evaluate", "suggest"), "looking"),
    **dict.fromkeys(
        ("get_experiment", "get_hunt", "get_sweep", "lineage", "list_experiments", "load_checkpoint"), "reading"
    ),
    **dict.fromkeys(("Checkpoint", "Experiment"), "experiment"),
    **dict.fromkeys(("Folds", "Sweep"), "sweep"),
    **dict.fromkeys(("Audit", "Comparison", "Evaluation", "Suggestion"), "results"),
    "Hunt": "hunted",
    "hunt": "hunting",
    "Lineage": "reading",
    "Predictions": "predictions",
}

_openmp.settle_before_torch()


def __getattr__(name: str) -> Any:
    if name in __all__:
        module = f"api.{_OF_API[name]}" if name in _OF_API else "errors"
        return getattr(import_module(f"raysweep.{module}"), name)
    raise AttributeError(f"module 'raysweep' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
