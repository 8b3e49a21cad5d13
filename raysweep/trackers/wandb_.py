"""Weights & Biases: one run per experiment, online, or offline in a folder of the experiment for ``wandb sync``."""

from __future__ import annotations

import importlib
import os
import secrets
import shutil
from pathlib import Path
from typing import Any

from raysweep._text import truncate
from raysweep.store import layout
from raysweep.store.experiment import RUNNING
from raysweep.trackers.snapshot import Snapshot
from raysweep.trackers.state import TrackerState

TITLE = "Weights & Biases"
_TAG = 64  # characters
_INIT_S = 30.0  # a server that does not answer is asked again after the next epoch


class Tracker:
    """Runs are found again by ``id`` in ``tracker_wandb.json``.

    An online run says at which epoch it is and takes no step twice. An offline run cannot be opened again: a process
    writes a whole one, under the same id, and then removes what an earlier process left of it.
    """

    def __init__(self) -> None:
        self.wandb: Any = importlib.import_module("wandb")
        self.runs: dict[Path, tuple[Any, list[Path]]] = {}  # folder → open run, folders of an earlier process

    def sync(self, story: Snapshot) -> None:
        """Bring the experiment's run up to date.

        Raises:
            Exception: whatever wandb raises.
        """
        folder = story.experiment.folder
        memory = TrackerState(folder, "wandb")
        if memory.current(story):
            return
        if not memory.ids.get("id", "").isalnum():  # it becomes a part of a path
            memory.ids = {}
        if memory.ids and not memory.fits(story):  # a point cannot be taken back, so another run takes its place
            self._finish(folder)
            _remove(_left_by(folder, memory.ids["id"]))
            memory.ids = {}
        if not memory.ids:
            assert story.trackers.wandb is not None
            memory.begin(story, id=secrets.token_hex(8), project=story.trackers.wandb.project)
        if folder not in self.runs:
            old = _left_by(folder, memory.ids["id"])
            self.runs[folder] = (self._open(story, memory), old)
        run, _ = self.runs[folder]
        for point in story.points:
            if point.epoch >= run.step:
                run.log(point.values, step=point.epoch, commit=True)
        if story.status != RUNNING:
            self._finish(folder, 0 if story.status == "finished" else 1)
        memory.given(story)

    def close(self) -> None:
        """Send what is left, and end every run.

        Raises:
            Exception: whatever wandb raises.
        """
        for folder in list(self.runs):
            self._finish(folder)
        self.wandb.teardown()  # its service process

    def _open(self, story: Snapshot, memory: TrackerState) -> Any:
        section = story.trackers.wandb
        assert section is not None
        tags = story.tags
        kind = "run" if "parent" not in tags else "child" if "branch" not in tags else "branch"
        return self.wandb.init(
            project=memory.ids["project"],
            entity=section.entity,
            id=memory.ids["id"],
            name=story.experiment.id,
            group=tags.get("sweep"),
            job_type="control" if tags.get("control") == "true" else kind,
            tags=[truncate(f"{k}: {tags[k]}", _TAG) for k in ("parent", "sweep", "branch") if k in tags],
            notes=truncate(story.config.setting("experiment", "description") or "", 4000),
            config={"raysweep": tags, **story.parameters},
            dir=os.environ.get("WANDB_DIR") or str(story.experiment.folder),
            mode=os.environ.get("WANDB_MODE") or section.mode,
            resume="allow",
            reinit="create_new",
            settings=self.wandb.Settings(
                silent=True,
                console="off",
                init_timeout=_INIT_S,
                x_disable_stats=True,
                disable_git=True,
                disable_code=True,
            ),
        )

    def _finish(self, folder: Path, code: int = 1) -> None:
        run, old = self.runs.pop(folder, (None, []))
        if run is not None:
            run.finish(exit_code=code)
            if run.offline:
                _remove(old)


def _left_by(folder: Path, run_id: str) -> list[Path]:
    """The folders of offline runs with this id."""
    base = Path(os.environ.get("WANDB_DIR") or folder) / layout.WANDB
    found = [] if base.is_symlink() else base.glob(f"offline-run-*-{run_id}")
    return [p for p in found if not p.is_symlink()]


def _remove(folders: list[Path]) -> None:
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
