"""Weights & Biases: one run per experiment, online, or offline in the experiment's folder, for ``wandb sync``."""

from __future__ import annotations

import importlib
import os
import secrets
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raysweep._text import truncate
from raysweep.store import layout
from raysweep.store.experiment import RUNNING
from raysweep.trackers.snapshot import Snapshot
from raysweep.trackers.state import TrackerState

TITLE = "Weights & Biases"
_TAG = 64  # the longest tag that wandb accepts, in characters
_INIT_S = 30.0  # to wait for the server; sync is called again after the next epoch


@dataclass(frozen=True, slots=True)
class _Run:
    """An open run, and the folders that an earlier process wrote of the same run offline."""

    run: Any  # wandb's
    old: list[Path]


class Tracker:
    """``tracker_wandb.json`` names the run of an experiment by its ``id``.

    An online run reports its last epoch and accepts no epoch twice. An offline run cannot be opened again, so a new process
    writes the whole run under the same id and then removes the folders of the earlier process.
    """

    def __init__(self) -> None:
        self.wandb: Any = importlib.import_module("wandb")
        self.runs: dict[Path, _Run] = {}  # by the folder of the experiment

    def sync(self, snapshot: Snapshot) -> None:
        """Bring the experiment's run up to date.

        Raises:
            Exception: any error of wandb.
        """
        folder = snapshot.experiment.folder
        state = TrackerState(folder, "wandb")
        if state.has_all(snapshot):
            return
        self._check_run(snapshot, state)
        if folder not in self.runs:
            old = _offline_folders(folder, state.ids["id"])
            self.runs[folder] = _Run(self._open(snapshot, state), old)
        run = self.runs[folder].run
        for point in snapshot.points:
            if point.epoch >= run.step:
                run.log(point.values, step=point.epoch, commit=True)
        if snapshot.status != RUNNING:
            self._finish(folder, 0 if snapshot.status == "finished" else 1)
        state.complete(snapshot)

    def _check_run(self, snapshot: Snapshot, state: TrackerState) -> None:
        """Give ``state`` the id of the experiment's run: of a new one if there is none, or if epochs were trained again, since
        wandb cannot remove a point."""
        if not state.ids.get("id", "").isalnum():  # the id becomes part of a path
            state.ids = {}
        if state.ids and not state.has_beginning(snapshot):
            self._finish(snapshot.experiment.folder)
            _remove(_offline_folders(snapshot.experiment.folder, state.ids["id"]))
            state.ids = {}
        if not state.ids:
            assert snapshot.trackers.wandb is not None
            state.begin(snapshot, id=secrets.token_hex(8), project=snapshot.trackers.wandb.project)

    def close(self) -> None:
        """Send what is left and end every run.

        Raises:
            Exception: any error of wandb.
        """
        for folder in list(self.runs):
            self._finish(folder)
        self.wandb.teardown()  # stops wandb's service process

    def _open(self, snapshot: Snapshot, state: TrackerState) -> Any:
        section = snapshot.trackers.wandb
        assert section is not None
        tags = snapshot.tags
        kind = "run" if "parent" not in tags else "child" if "branch" not in tags else "branch"
        return self.wandb.init(
            project=state.ids["project"],
            entity=section.entity,
            id=state.ids["id"],
            name=snapshot.experiment.id,
            group=tags.get("sweep"),
            job_type="control" if tags.get("control") == "true" else kind,
            tags=[truncate(f"{k}: {tags[k]}", _TAG) for k in ("parent", "sweep", "branch") if k in tags],
            notes=truncate(snapshot.config.setting("experiment", "description") or "", 4000),
            config={"raysweep": tags, **snapshot.parameters},
            dir=os.environ.get("WANDB_DIR") or str(snapshot.experiment.folder),
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
        open_run = self.runs.pop(folder, None)
        if open_run is not None:
            open_run.run.finish(exit_code=code)
            if open_run.run.offline:
                _remove(open_run.old)


def _offline_folders(folder: Path, run_id: str) -> list[Path]:
    """The folders of offline runs with this id."""
    base = Path(os.environ.get("WANDB_DIR") or folder) / layout.WANDB
    found = [] if base.is_symlink() else base.glob(f"offline-run-*-{run_id}")
    return [p for p in found if not p.is_symlink()]


def _remove(folders: list[Path]) -> None:
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
