"""An experiment's folder: making it, its manifest of committed checkpoints, its status. No torch, no ray."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from raysweep.errors import CheckpointError, NotFoundError, RootError, StoreError
from raysweep.names import check_name
from raysweep.store import files, layout, lineage, lock
from raysweep.store.layout import Position

RUNNING, FINISHED, INTERRUPTED, FAILED, DEAD, LEGACY = "running", "finished", "interrupted", "failed", "dead", "legacy"


@dataclass(frozen=True)
class Entry:
    """One committed checkpoint, as the manifest records it."""

    file: str
    bytes: int
    sha256: str
    epoch: int  # the epoch that ended, or the running one of a mid-epoch checkpoint
    batch: int | None  # batches done of the running epoch; None at an epoch's end
    created: str
    metrics: dict[str, Any] = field(default_factory=dict)

    @property
    def position(self) -> Position:
        return Position(self.epoch, self.batch)

    def verify(self, folder: Path) -> str | None:
        """What is wrong with the file, or None if size and hash agree."""
        path = folder / self.file
        try:
            size = path.stat().st_size
            if size != self.bytes:
                return f"{self.file} has {size:,} bytes instead of {self.bytes:,}"
            if files.sha256_file(path) != self.sha256:
                return f"{self.file} does not have the recorded SHA-256"
        except FileNotFoundError:
            return f"{self.file} is missing"
        except OSError as error:
            return f"{self.file} cannot be read ({error.strerror})"
        return None


def create(root: Path, name: str, when: datetime | None = None) -> Experiment:
    """Make a new, empty experiment folder: ``<name>_<YYYYMMDD_HHMMSS>``, or with ``_2``, ``_3`` … appended.

    Raises:
        RootError: the root cannot be used, or the name is no folder's name.
    """
    try:
        check_name(name)
    except ValueError as error:
        raise RootError(f"The experiment cannot be made: {error}.") from None
    check_root(root)
    moment = when or datetime.now()
    for attempt in range(1, 10_000):
        folder = root / layout.make_id(name, moment, attempt)
        try:
            folder.mkdir()
        except FileExistsError:
            continue
        except OSError as error:
            raise RootError(f"{folder} cannot be made: {error.strerror}. Choose another --root.") from None
        return Experiment(folder)
    raise RootError(f"{root} already has 10,000 experiments called {name} of this second.")


def check_root(root: Path) -> None:
    """Make the root if it is missing, and try whether it can be written.

    Raises:
        RootError: it cannot.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        probe = root / f"{layout.TEMP_PREFIX}{socket.gethostname()}-{os.getpid()}"
        probe.mkdir()
        probe.rmdir()
    except OSError as error:
        raise RootError(
            f"Experiments cannot be written to {root.absolute()}: {error.strerror}. Choose another folder with --root or make it writable."
        ) from None


class Experiment:
    """A view of one folder; reads anew at every call, so that it never shows an old state."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    @classmethod
    def open(cls, folder: str | Path) -> Experiment:
        """Raises NotFoundError if there is no experiment in the folder."""
        experiment = cls(folder)
        if not (experiment.folder / layout.CONFIG).is_file():
            raise NotFoundError(
                f"{experiment.folder} is not an experiment: it has no {layout.CONFIG}. See `raysweep list`."
            )
        return experiment

    @property
    def id(self) -> str:
        return self.folder.name

    def config(self) -> dict[str, Any]:
        """``experiment_config.json``: flat names first, everything under ``settings``."""
        path = self.folder / layout.CONFIG
        try:
            with files.reading(path):
                value = json.loads(path.read_bytes())
        except ValueError as error:
            raise StoreError(f"{path} is not valid JSON ({error}). Restore it from a copy.") from None
        if not isinstance(value, dict):
            raise StoreError(f"{path} does not hold an object. Restore it from a copy.")
        return value

    def write_config(self, value: dict[str, Any]) -> None:
        files.write_json(self.folder / layout.CONFIG, value)

    def manifest(self) -> dict[str, Any]:
        """The manifest, or an empty one where it is missing or torn (see :meth:`entries`)."""
        try:
            value = json.loads((self.folder / layout.MANIFEST).read_bytes())
            if isinstance(value, dict) and isinstance(value.get("checkpoints"), list):
                return value
        except (OSError, ValueError):
            pass
        return {"format_version": 1, "experiment": self.id, "checkpoints": [], "best": None}

    def entries(self) -> list[Entry]:
        """Committed checkpoints, oldest first."""
        result = []
        for row in self.manifest()["checkpoints"]:
            with contextlib.suppress(KeyError, TypeError, ValueError):
                name = str(row["file"])
                if layout.parse_checkpoint_name(name) is not None:  # a manifest cannot point out of its folder
                    result.append(
                        Entry(
                            name,
                            int(row["bytes"]),
                            str(row["sha256"]),
                            int(row["epoch"]),
                            row.get("batch"),
                            str(row.get("created", "")),
                            dict(row.get("metrics") or {}),
                        )
                    )
        return sorted(result, key=lambda e: e.position.order)

    def write_manifest(self, entries: list[Entry], best: dict[str, Any] | None) -> None:
        """The commit point: a checkpoint that is not listed here does not exist."""
        rows = [
            {
                "file": e.file,
                "bytes": e.bytes,
                "sha256": e.sha256,
                "epoch": e.epoch,
                "batch": e.batch,
                "created": e.created,
                "metrics": e.metrics,
            }
            for e in sorted(entries, key=lambda e: e.position.order)
        ]
        files.write_json(
            self.folder / layout.MANIFEST,
            {"format_version": 1, "experiment": self.id, "checkpoints": rows, "best": best},
        )

    def newest_good(self) -> tuple[Entry | None, list[str]]:
        """The newest checkpoint whose size and hash verify, and what was wrong with newer ones."""
        problems = []
        for entry in reversed(self.entries()):
            problem = entry.verify(self.folder)
            if problem is None:
                return entry, problems
            problems.append(problem)
        return None, problems

    def entry(self, which: str) -> Entry:
        """The entry that ``best``, ``latest`` or an epoch's number names.

        Raises:
            NotFoundError: there is no such checkpoint; the message lists those there are.
        """
        entries = self.entries()
        ends = [e for e in entries if e.batch is None]
        if which == "latest" and entries:
            return entries[-1]
        if which == "best":
            best = (self.manifest().get("best") or {}).get("file")
            for e in entries:
                if e.file == best:
                    return e
        if which.isdigit():
            for e in ends:
                if e.epoch == int(which):
                    return e
        have = ", ".join(str(e.epoch) for e in ends) or "none yet"
        raise NotFoundError(
            f"{self.id} has no checkpoint {which!r}. It has the epochs {have}; @best and @latest work too."
        )

    def status(self) -> str:
        """running, finished, interrupted, failed, dead (it stopped without a word), or legacy (an old folder)."""
        event = lineage.last(self.folder)
        if event is None:
            return RUNNING if lock.holder(self.folder) else LEGACY
        ended = {lineage.FINISHED: FINISHED, lineage.INTERRUPTED: INTERRUPTED, lineage.FAILED: FAILED}
        if event.get("type") in ended:
            return ended[event["type"]]
        who = lock.holder(self.folder)
        return DEAD if who is None or lock.alive(who) is False else RUNNING


def resolve_entry(experiment: Experiment, which: str) -> Entry:
    """Like :meth:`Experiment.entry`, and the file must verify.

    Raises:
        CheckpointError: the file is damaged; the message names the newest one that is whole.
    """
    entry = experiment.entry(which)
    problem = entry.verify(experiment.folder)
    if problem is None:
        return entry
    good, _ = experiment.newest_good()
    advice = (
        f"The newest whole checkpoint is {experiment.id}@{good.epoch}." if good else "No checkpoint of it is whole."
    )
    raise CheckpointError(f"{experiment.folder}: {problem}. {advice}")
