"""TensorBoard: event files in the experiment's folder, which show what the history says.

While an experiment trains, each new epoch is appended to one file. Where epochs were trained anew, and where another
process goes on with an experiment, a new file with the whole history is put beside the old ones. It begins with
TensorBoard's mark of a restart, as SummaryWriter's ``purge_step=0`` writes it, so that TensorBoard drops what the older
files showed. They stay: a TensorBoard that is open does not get over the removal of the file that it reads.

tensorboardX writes the files. It is in every installation (Ray Tune needs it) and is imported in 0.1 s;
torch.utils.tensorboard needs the tensorboard package, gRPC with it. Its EventsWriter is used and not its SummaryWriter:
that one hands events to a thread, so that ``flush`` returns before they are on disk and nobody hears of a full disk.
"""

from __future__ import annotations

import importlib
import time
from pathlib import Path
from typing import Any

from raysweep.errors import StoreError
from raysweep.store import layout
from raysweep.store.experiment import RUNNING
from raysweep.store.remote import copies
from raysweep.trackers.snapshot import Point, Snapshot, text
from raysweep.trackers.state import TrackerState

TITLE = "TensorBoard"


class Tracker:
    """Values are float32, as TensorBoard has them; times are seconds of training since the experiment's start."""

    def __init__(self) -> None:
        self.proto: Any = importlib.import_module("tensorboardX.proto.event_pb2")
        self.summary: Any = importlib.import_module("tensorboardX.summary")
        self.writer: Any = importlib.import_module("tensorboardX.event_file_writer").EventsWriter
        self.open: dict[Path, tuple[Path, Any, list[Point]]] = {}  # folder → (event file, its writer, what is in it)

    def sync(self, story: Snapshot) -> None:
        """Make TensorBoard show every epoch of the history once.

        Raises:
            OSError, StoreError: it cannot be written.
        """
        if not story.points:
            return
        folder = story.experiment.folder / layout.TENSORBOARD
        if folder.is_symlink():
            raise StoreError(f"{folder} is a link, which is not followed; put a folder in its place.")
        folder.mkdir(exist_ok=True)
        memory = TrackerState(folder, "tensorboard")  # written once an experiment has ended
        if memory.current(story):
            return
        # Taken out until all is well: after an error the file may end in half a record, and the next call begins anew.
        last = self.open.pop(folder, None)
        if last is not None and (not last[0].exists() or story.points[: len(last[2])] != last[2]):
            last[1].close()
            last = None
        file, writer, shown = last or (*self._begin(story, folder), [])
        with copies.writing(file):
            for point in story.points[len(shown) :]:
                writer.write_event(self._event(story, point))
            writer.flush()
        if story.status == RUNNING:
            self.open[folder] = file, writer, story.points
        else:
            writer.close()
            memory.ids = {"file": file.name}
            memory.given(story)

    def close(self) -> None:
        """Close the files of experiments that have not ended."""
        while self.open:
            _, (_, writer, _) = self.open.popitem()
            writer.close()

    def _begin(self, story: Snapshot, folder: Path) -> tuple[Path, Any]:
        # TensorBoard reads files in the order of their names, which begin with the time in seconds.
        end = f".{time.time_ns()}"
        writer = self.writer(str(folder / "events"), filename_suffix=end)
        (file,) = folder.glob(f"*{end}")
        restart = self.proto.SessionLog(status=self.proto.SessionLog.START)  # with step 0: of all epochs
        pages = self.summary.Summary()
        for title, rows in (("experiment", story.tags), ("settings", story.parameters)):
            lines = [f"| {_cell(k)} | {_cell(text(v))} |" for k, v in rows.items()]
            pages.MergeFrom(self.summary.text(title, "\n".join(["| | |", "|---|---|", *lines])))
        for what in ({"session_log": restart}, {"summary": pages}):
            writer.write_event(self.proto.Event(wall_time=story.started, **what))
        return file, writer

    def _event(self, story: Snapshot, point: Point) -> Any:
        summary = self.summary.Summary()
        for name, value in point.values.items():
            summary.value.add(tag=name, simple_value=value)
        return self.proto.Event(wall_time=story.started + point.offset, step=point.epoch, summary=summary)


def _cell(value: str) -> str:
    """Text in a cell of a Markdown table; TensorBoard itself removes dangerous HTML."""
    return value.replace("|", "\\|").replace("\n", " ").encode(errors="backslashreplace").decode()
