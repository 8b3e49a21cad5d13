"""raysweep: branch your training from any checkpoint, change the data ratio, and know which class it helped.

The public Python interface; everything is imported when it is first used, so that ``import raysweep`` costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from raysweep.api import branch, create_experiment_config, list_experiments, load_checkpoint, run_experiment

__all__ = ["branch", "create_experiment_config", "list_experiments", "load_checkpoint", "run_experiment"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from raysweep import api

        return getattr(api, name)
    raise AttributeError(f"module 'raysweep' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
