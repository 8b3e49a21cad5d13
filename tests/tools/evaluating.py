"""Tiny networks that were trained in this process, to be evaluated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from raysweep.store.root import Root
from tests.conftest import Recorder, small_settings

TRAINING = {"epochs": 2, "batch_size": 16, "augment": {"crop_padding": 0, "flip": False}}


def train(root: Path, images: Path, **data: Any) -> Any:
    """A tiny network that was trained in this process; returns its experiment.

    Args:
        data: further options of the section.
    """
    from raysweep.launch import run as launching
    from raysweep.launch.workers import start as workers
    from raysweep.plan import experiment as experiment_plan
    from raysweep.training.loop import train as training

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workers, "in_this_process", lambda job, fitted, progress: training(job, Recorder()))
        section = {"source": "folder", "path": str(images), **data}
        settings = small_settings(root, data=section, training=TRAINING)
        return launching.run(experiment_plan.plan_experiment(settings)).experiment


def look_at(root: Root, reference: str, split: str = "test", over: Any = None, **more: Any) -> Any:
    from raysweep.tools.evaluate import evaluate

    return evaluate(root, reference, split, over, **more)


def draw_nothing(patch: pytest.MonkeyPatch) -> None:
    """Drawing takes longer than everything else."""
    from raysweep.report import figures, reliability

    patch.setattr(figures, "matrix_png", lambda *_, **__: b"")
    patch.setattr(reliability, "reliability_png", lambda *_: b"")
