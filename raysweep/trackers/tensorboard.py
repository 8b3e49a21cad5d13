"""TensorBoard: event files in the experiment's folder, which show ``training_hisnapshot.csv``.

While an experiment trains, each new epoch is appended to one file. Where epochs were trained again, and where another
process continues an experiment, a new file with the whole hisnapshot is written beside the old ones. It begins with
TensorBoard's mark of a restart, as SummaryWriter's ``purge_step=0`` writes it, and this mark makes TensorBoard drop what
it read from the older files. They are kept, because an open TensorBoard fails when the file that it reads is removed.

tensorboardX writes the files. Every installation has it (Ray Tune needs it), and importing it takes 0.1 s, while
torch.utils.tensorboard needs the tensorboard package and gRPC. This module uses its EventsWriter instead of its
SummaryWriter: SummaryWriter passes events to a thread, so its ``flush`` returns before they are on disk, and an error such
as a full disk is lost.
"""

from __future__ import annotations

import importlib
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raysweep.errors import StoreError
from raysweep.store import layout
from raysweep.store.experiment import RUNNING
from raysweep.store.remote import copies
from raysweep.trackers.snapshot import Point, Snapshot, text
from raysweep.trackers.state import TrackerState

TITLE = "TensorBoard"


@dataclass(frozen=True, slots=True)
class _EventFile:
    """An event file that this process has open, and the points in it."""

    path: Path
    writer: Any  # tensorboardX's EventsWriter
    points: list[Point]


class Tracker:
    """Values are stored as float32, as TensorBoard does; times are seconds of training since the experiment's start."""

    def __init__(self) -> None:
        self.proto: Any = importlib.import_module("tensorboardX.proto.event_pb2")
        self.summary: Any = importlib.import_module("tensorboardX.summary")
        self.writer: Any = importlib.import_module("tensorboardX.event_file_writer").EventsWriter
        self.open: dict[Path, _EventFile] = {}  # by the folder of the experiment's event files

    def sync(self, snapshot: Snapshot) -> None:
        """Make TensorBoard show every epoch of the hisnapshot once.

        Raises:
            OSError, StoreError: an event file cannot be written.
        """
        if not snapshot.points:
            return
        folder = snapshot.experiment.folder / layout.TENSORBOARD
        if folder.is_symlink():
            raise StoreError(f"{folder} is a symbolic link, which is not followed. Replace it by a folder.")
        folder.mkdir(exist_ok=True)
        state = TrackerState(folder, "tensorboard")  # written when an experiment has ended
        if state.has_all(snapshot):
            return
        file = self._reopened(folder, snapshot) or self._begin(snapshot, folder)
        with copies.writing(file.path):
            for point in snapshot.points[len(file.points) :]:
                file.writer.write_event(self._event(snapshot, point))
            file.writer.flush()
        if snapshot.status == RUNNING:
            self.open[folder] = _EventFile(file.path, file.writer, snapshot.points)
        else:
            file.writer.close()
            state.ids = {"file": file.path.name}
            state.complete(snapshot)

    def close(self) -> None:
        """Close the files of experiments that have not ended."""
        while self.open:
            _, file = self.open.popitem()
            file.writer.close()

    def _reopened(self, folder: Path, snapshot: Snapshot) -> _EventFile | None:
        """The open file of an experiment, if the snapshot continues where the file ends.

        It is removed from ``open`` until it is written: after an error it may end in half a record, and the next call has
        to begin a new file."""
        file = self.open.pop(folder, None)
        if file is None:
            return None
        # a second name comes from `cp -al`: what is written here must not appear there
        if (
            not file.path.exists()
            or file.path.stat().st_nlink > 1
            or snapshot.points[: len(file.points)] != file.points
        ):
            file.writer.close()
            return None
        return file

    def _begin(self, snapshot: Snapshot, folder: Path) -> _EventFile:
        # TensorBoard reads files in the order of their names, and the names begin with the time in seconds.
        end = f".{time.time_ns()}"
        writer = self.writer(str(folder / "events"), filename_suffix=end)
        (file,) = folder.glob(f"*{end}")
        restart = self.proto.SessionLog(status=self.proto.SessionLog.START)  # of step 0, which means all epochs
        pages = self.summary.Summary()
        for title, rows in (("experiment", snapshot.tags), ("settings", snapshot.parameters)):
            lines = [f"| {_cell(k)} | {_cell(text(v))} |" for k, v in rows.items()]
            pages.MergeFrom(self.summary.text(title, "\n".join(["| | |", "|---|---|", *lines])))
        for what in ({"session_log": restart}, {"summary": pages}):
            writer.write_event(self.proto.Event(wall_time=snapshot.started, **what))
        return _EventFile(file, writer, [])

    def _event(self, snapshot: Snapshot, point: Point) -> Any:
        summary = self.summary.Summary()
        for name, value in point.values.items():
            summary.value.add(tag=name, simple_value=value)
        return self.proto.Event(wall_time=snapshot.started + point.offset, step=point.epoch, summary=summary)


def _cell(value: str) -> str:
    """A text for a cell of a Markdown table. TensorBoard itself removes dangerous HTML."""
    return value.replace("|", "\\|").replace("\n", " ").encode(errors="backslashreplace").decode()
