"""trackio: one run per experiment, in trackio's SQLite files on this machine or, as its variables say, on a server.

trackio has one open run per process and writes in the background, so each call opens the run, logs what is missing and
closes it: when that returns, the points are there.
"""

from __future__ import annotations

import importlib
import warnings
from typing import Any

from raysweep.trackers.snapshot import Snapshot
from raysweep.trackers.state import TrackerState

TITLE = "trackio"


class Tracker:
    """Runs are found again by ``project`` and ``run``, their name, in ``tracker_trackio.json``."""

    def __init__(self) -> None:
        self.trackio: Any = importlib.import_module("trackio")
        self.said: list[str] = []  # trackio warns where others raise
        warnings.simplefilter("always")
        warnings.showwarning = lambda message, *rest, **more: self.said.append(str(message))

    def sync(self, story: Snapshot) -> None:
        """Bring the experiment's run up to date.

        Raises:
            RuntimeError: trackio said that something was not written. Exception: whatever else it raises.
        """
        memory = TrackerState(story.experiment.folder, "trackio")
        if memory.current(story):
            return
        if memory.ids and not memory.fits(story):  # a point cannot be taken back
            for run in self._runs(memory.ids["project"]):
                if run.name == memory.ids["run"]:
                    run.delete()
            memory.ids = {}
        if not memory.ids:
            assert story.trackers.trackio is not None
            project = story.trackers.trackio.project
            memory.begin(story, project=project, run=self._free_name(project, story.experiment.id))
        if len(story.points) > memory.rows:
            self._log(story, memory)
        memory.given(story)

    def close(self) -> None:
        """Nothing is open."""

    def _log(self, story: Snapshot, memory: TrackerState) -> None:
        self.said.clear()
        run = self.trackio.init(
            project=memory.ids["project"],
            name=memory.ids["run"],
            group=story.tags.get("sweep"),
            config={**{f"raysweep.{k}": v for k, v in story.tags.items()}, **story.parameters},
            resume="allow",
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )
        # What a kill kept this program from noting, trackio knows: the step after its last.
        known = getattr(run, "_next_step", 0)
        for point in story.points[memory.rows :]:
            if point.epoch >= known:
                run.log(point.values, step=point.epoch)
        run.finish()
        if self.said:
            raise RuntimeError(self.said[0])

    def _runs(self, project: str) -> list[Any]:
        try:
            return list(self.trackio.Api().runs(project))
        except ValueError:  # there is no such project yet
            return []

    def _free_name(self, project: str, name: str) -> str:
        """``name``, or with ``-2`` and so on: another root may have an experiment of the same name and second."""
        taken = {run.name for run in self._runs(project)}
        return next(n for n in (name, *(f"{name}-{i}" for i in range(2, 10_000))) if n not in taken)
