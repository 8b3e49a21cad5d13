"""trackio: one run per experiment, in trackio's SQLite files on this machine, or on a server that its environment
variables name.

trackio has one open run per process and writes in the background. So each call opens the run, logs what is missing and
closes the run, which waits until the points are written.
"""

from __future__ import annotations

import importlib
import warnings
from typing import Any

from raysweep.trackers.snapshot import Snapshot
from raysweep.trackers.state import TrackerState

TITLE = "trackio"


class Tracker:
    """``tracker_trackio.json`` names the run of an experiment: its ``project`` and its name, ``run``."""

    def __init__(self) -> None:
        self.trackio: Any = importlib.import_module("trackio")
        self.warned: list[str] = []  # trackio warns where other trackers raise an error
        warnings.simplefilter("always")
        warnings.showwarning = lambda message, *rest, **more: self.warned.append(str(message))

    def sync(self, snapshot: Snapshot) -> None:
        """Bring the experiment's run up to date.

        Raises:
            RuntimeError: trackio warned that something was not written. Exception: any error of trackio.
        """
        state = TrackerState(snapshot.experiment.folder, "trackio")
        if state.has_all(snapshot):
            return
        if state.ids and not state.has_beginning(snapshot):  # trackio cannot remove a point
            for run in self._runs(state.ids["project"]):
                if run.name == state.ids["run"]:
                    run.delete()
            state.ids = {}
        if not state.ids:
            assert snapshot.trackers.trackio is not None
            project = snapshot.trackers.trackio.project
            state.begin(snapshot, project=project, run=self._free_name(project, snapshot.experiment.id))
        if len(snapshot.points) > state.rows:
            self._log(snapshot, state)
        state.complete(snapshot)

    def close(self) -> None:
        """Nothing is open."""

    def _log(self, snapshot: Snapshot, state: TrackerState) -> None:
        self.warned.clear()
        run = self.trackio.init(
            project=state.ids["project"],
            name=state.ids["run"],
            group=snapshot.tags.get("sweep"),
            config={**{f"raysweep.{k}": v for k, v in snapshot.tags.items()}, **snapshot.parameters},
            resume="allow",
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )
        # If this program was killed before it recorded what it sent, trackio itself knows the step after its last one.
        known = getattr(run, "_next_step", 0)
        for point in snapshot.points[state.rows :]:
            if point.epoch >= known:
                run.log(point.values, step=point.epoch)
        run.finish()
        if self.warned:
            raise RuntimeError(self.warned[0])

    def _runs(self, project: str) -> list[Any]:
        try:
            return list(self.trackio.Api().runs(project))
        except ValueError:  # the project does not exist yet
            return []

    def _free_name(self, project: str, name: str) -> str:
        """``name``, or the first of ``name-2``, ``name-3`` … that is free: another root may have an experiment of the same
        name, made in the same second."""
        taken = {run.name for run in self._runs(project)}
        return next(n for n in (name, *(f"{name}-{i}" for i in range(2, 10_000))) if n not in taken)
