"""Tracebacks of branches that fail: each is written into the sweep's folder, and the events say where it is."""

from __future__ import annotations

from dataclasses import replace

from raysweep.events import BranchEnded, BranchEvent, Event, Progress, RankTraceback
from raysweep.store.sweep import Sweep


class Tracebacks:
    """A progress that writes the traceback of every branch that fails, and passes all events on."""

    def __init__(self, sweep: Sweep, progress: Progress) -> None:
        self.sweep, self.progress = sweep, progress
        self.of_ranks: dict[
            str, str
        ] = {}  # branch → the traceback that its failed rank reported; the branch ends after that

    def __call__(self, event: Event) -> None:
        match event:
            case BranchEvent(branch, RankTraceback(rank, text)):
                self.of_ranks[branch] = f"Traceback of rank {rank}:\n{text.rstrip()}\n\n"
            case BranchEvent(branch, BranchEnded(status="failed") as end):
                text = self.of_ranks.pop(branch, "") + end.traceback
                file = self.sweep.keep_traceback(branch, text)
                event = BranchEvent(branch, replace(end, traceback=text, traceback_file=file))
        self.progress(event)
