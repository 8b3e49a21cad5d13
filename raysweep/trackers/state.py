"""What a tracker has of an experiment, in a small JSON file in the experiment's folder.

Whoever continues the experiment, on whatever machine, continues the same run of the tracker.
"""

from __future__ import annotations

import time
from pathlib import Path

from raysweep.store import files, layout
from raysweep.store.untrusted import schema
from raysweep.trackers.snapshot import Snapshot


class TrackerState:
    """``tracker_<name>.json``: the ids that a tracker gave (``ids``), and how much of the history it has.

    A file that is missing or damaged reads as the state of a tracker that has nothing.
    """

    def __init__(self, folder: Path, tracker: str) -> None:
        self.path = folder / layout.tracker_name(tracker)
        self.ids: dict[str, str] = {}
        self.rows = 0  # rows of the history that the tracker has
        self.digest = ""  # of these rows
        self.status: str | None = None  # that the tracker shows
        self.started = 0.0  # seconds since 1970; the time of every point is counted from here
        try:
            value = files.read_json(self.path)
            ids, rows, started = value["ids"], value["rows"], value["started"]
        except (OSError, ValueError, KeyError, TypeError):
            return
        if isinstance(ids, dict) and type(rows) is int and rows >= 0 and schema.number(started):
            self.ids = {str(k): str(v) for k, v in ids.items()}
            self.rows, self.started = rows, float(started)
            self.digest, self.status = str(value.get("digest")), value.get("status")

    def begin(self, snapshot: Snapshot, **ids: str) -> None:
        """Record a new run of the tracker, which has no row of the history yet.

        Raises:
            StoreError: the file cannot be written.
        """
        self.ids, self.rows, self.digest, self.status = ids, 0, snapshot.digest(0), None
        self.started = self.started or snapshot.started or time.time()
        self._save()

    def complete(self, snapshot: Snapshot) -> None:
        """Record that the tracker has the whole snapshot.

        Raises:
            StoreError: the file cannot be written.
        """
        if not self.has_all(snapshot):
            self.rows, self.status = len(snapshot.points), snapshot.status
            self.digest = snapshot.digest(self.rows)
            self._save()

    def has_all(self, snapshot: Snapshot) -> bool:
        """Whether the tracker has every row and the status of the snapshot already."""
        same = bool(self.ids) and self.rows == len(snapshot.points) and self.status == snapshot.status
        return same and self.has_beginning(snapshot)

    def has_beginning(self, snapshot: Snapshot) -> bool:
        """Whether the tracker's rows are the first rows of the snapshot. They are not where epochs were trained again."""
        return self.rows <= len(snapshot.points) and self.digest == snapshot.digest(self.rows)

    def _save(self) -> None:
        value = {
            "ids": self.ids,
            "rows": self.rows,
            "digest": self.digest,
            "status": self.status,
            "started": self.started,
        }
        files.write_json(self.path, value)
