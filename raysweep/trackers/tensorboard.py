"""TensorBoard: one event file in the experiment's folder, which is what the history makes it, byte for byte.

The file's wanted content is computed from the folder. What is there already is the start of that, also where a kill tore
its last record: then the rest is appended. If it is not (epochs were trained anew), a new file takes its place, since
TensorBoard would go on to read the old one from where it was.

tensorboardX is used for the format. It is in every installation (Ray Tune needs it) and is imported in 0.1 s;
torch.utils.tensorboard needs the tensorboard package, gRPC with it.
"""

from __future__ import annotations

import importlib
import struct
from pathlib import Path
from typing import Any

from raysweep._paths import read_regular
from raysweep.errors import StoreError
from raysweep.store import files, layout
from raysweep.store.experiment import RUNNING
from raysweep.store.remote import root as remote
from raysweep.trackers.snapshot import Point, Snapshot, text

TITLE = "TensorBoard"


class Tracker:
    """Values are float32, as TensorBoard has them; times are seconds of training since the experiment's start."""

    def __init__(self) -> None:
        self.proto: Any = importlib.import_module("tensorboardX.proto.event_pb2")
        self.summary: Any = importlib.import_module("tensorboardX.summary")
        self.checksum: Any = importlib.import_module("tensorboardX.record_writer").masked_crc32c
        self.known: dict[Path, dict[int, tuple[Point, bytes]]] = {}  # what was computed before

    def sync(self, story: Snapshot) -> None:
        """Make the event file hold every epoch of the history once.

        Raises:
            OSError, StoreError: it cannot be written.
        """
        if not story.points:
            return
        folder = story.experiment.folder / layout.TENSORBOARD
        if folder.is_symlink():
            raise StoreError(f"{folder} is a link, which is not followed; put a folder in its place.")
        folder.mkdir(exist_ok=True)
        wanted = self._head(story) + b"".join(self._record_of(story, point) for point in story.points)
        if story.status != RUNNING:
            self.known.pop(story.experiment.folder, None)
        old = sorted(p for p in folder.iterdir() if p.name.startswith(layout.EVENTS))
        have = _content(old[0], len(wanted)) if len(old) == 1 else None
        if have is not None and wanted.startswith(have):
            if len(have) < len(wanted):
                with remote.writing(old[0]), open(old[0], "ab") as file:
                    file.write(wanted[len(have) :])
            return
        number = 1 + max((_number(p.name) for p in old), default=0)
        files.write_atomic(folder / layout.events_name(number), wanted)
        for path in old:
            files.remove(path)

    def close(self) -> None:
        """Nothing is open."""

    def _head(self, story: Snapshot) -> bytes:
        begin = self.proto.SessionLog(status=self.proto.SessionLog.START)  # what a reader had of an older file is void
        pages = self.summary.Summary()
        for title, rows in (("experiment", story.tags), ("settings", story.parameters)):
            lines = [f"| {_cell(k)} | {_cell(text(v))} |" for k, v in rows.items()]
            pages.MergeFrom(self.summary.text(title, "\n".join(["| | |", "|---|---|", *lines])))
        at = story.started
        return b"".join(
            self._record(self.proto.Event(wall_time=at, **what))
            for what in ({"file_version": "brain.Event:2"}, {"session_log": begin}, {"summary": pages})
        )

    def _record_of(self, story: Snapshot, point: Point) -> bytes:
        known = self.known.setdefault(story.experiment.folder, {})
        before = known.get(point.epoch)
        if before is not None and before[0] == point:
            return before[1]
        summary = self.summary.Summary()
        for name, value in point.values.items():
            summary.value.add(tag=name, simple_value=value)
        event = self.proto.Event(wall_time=story.started + point.offset, step=point.epoch, summary=summary)
        record = self._record(event)
        known[point.epoch] = (point, record)
        return record

    def _record(self, event: Any) -> bytes:
        """TFRecord: length, its masked CRC-32C, data, its masked CRC-32C (tensorflow/core/lib/io/record_writer.h)."""
        data = event.SerializeToString()
        head = struct.pack("<Q", len(data))
        return b"".join((head, struct.pack("<I", self.checksum(head)), data, struct.pack("<I", self.checksum(data))))


def _cell(value: str) -> str:
    """Text in a cell of a Markdown table; TensorBoard itself removes dangerous HTML."""
    return value.replace("|", "\\|").replace("\n", " ").encode(errors="backslashreplace").decode()


def _content(path: Path, most: int) -> bytes | None:
    """What is in a file of at most so many bytes; None where it is more, or no file of ours: a link, a pipe."""
    try:
        return None if path.is_symlink() else read_regular(path, most)
    except OSError:
        return None


def _number(name: str) -> int:
    digits = name.removeprefix(layout.EVENTS).split(".")[0]
    return int(digits) if digits.isdecimal() else 0
