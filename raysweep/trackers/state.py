"""What a tracker knows an experiment by: a small JSON file in the experiment's folder, so that going on with it, wherever
that is, goes on with the same run there."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from raysweep.store import files, layout
from raysweep.store.untrusted import schema
from raysweep.trackers.snapshot import Snapshot


class TrackerState:
    """``tracker_<name>.json``: the ids a tracker gave (``ids``), and how much of the history it has."""

    def __init__(self, folder: Path, tracker: str) -> None:
        self.path = folder / layout.tracker_name(tracker)
        self.ids: dict[str, str] = {}
        self.rows = 0  # of the history that the tracker has
        self.digest = ""  # of these rows
        self.status: str | None = None  # as the tracker has it
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

    def begin(self, story: Snapshot, **ids: str) -> None:
        """A new run of the tracker, which has nothing of the history yet.

        Raises:
            StoreError: the file cannot be written.
        """
        self.ids, self.rows, self.digest, self.status = ids, 0, story.digest(0), None
        self.started = self.started or story.started or time.time()
        self._save()

    def given(self, story: Snapshot) -> None:
        """The tracker has the whole story now.

        Raises:
            StoreError: the file cannot be written.
        """
        if not self.current(story):
            self.rows, self.digest, self.status = len(story.points), story.digest(len(story.points)), story.status
            self._save()

    def current(self, story: Snapshot) -> bool:
        """Whether the tracker has all of the story already."""
        same = bool(self.ids) and self.rows == len(story.points) and self.status == story.status
        return same and self.fits(story)

    def fits(self, story: Snapshot) -> bool:
        """Whether what the tracker has is the beginning of the history; not so where epochs were trained anew."""
        return self.rows <= len(story.points) and self.digest == story.digest(self.rows)

    def _save(self) -> None:
        value: dict[str, Any] = {
            "ids": self.ids,
            "rows": self.rows,
            "digest": self.digest,
            "status": self.status,
            "started": self.started,
        }
        files.write_json(self.path, value)
