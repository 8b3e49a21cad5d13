"""An experiment's folder: making it, its manifest of committed checkpoints, its status. No torch, no ray."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from raysweep.errors import CheckpointError, NotFoundError, RootError, StoreError
from raysweep.names import check_name
from raysweep.store import files, layout, lineage, lock
from raysweep.store.layout import Position

RUNNING, FINISHED, INTERRUPTED, FAILED, DEAD, LEGACY = "running", "finished", "interrupted", "failed", "dead", "legacy"

# Columns of the history that are put back when the manifest is lost.
_METRICS = ("train_loss", "train_acc", "val_loss", "val_acc", "val_macro_f1", "balanced_accuracy")


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
            if not files.inside(folder.resolve().parent, path):
                return f"{self.file} is a link that leads out of the root"
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
        probe = root / f"{layout.TEMP_PREFIX}{secrets.token_hex(8)}"  # never the name of one that a kill left
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
        value = self._written_manifest()
        if value is None:
            return {"format_version": 1, "experiment": self.id, "checkpoints": [], "best": None}
        return value if isinstance(value.get("best"), dict) else {**value, "best": None}

    def _written_manifest(self) -> dict[str, Any] | None:
        try:
            value = json.loads((self.folder / layout.MANIFEST).read_bytes())
        except (OSError, ValueError):
            return None
        return value if isinstance(value, dict) and isinstance(value.get("checkpoints"), list) else None

    def entries(self) -> list[Entry]:
        """Committed checkpoints, oldest first; where the manifest is missing or torn, the files that verify by the
        checksums inside them (slow: each is read)."""
        manifest = self._written_manifest()
        if manifest is None:
            return self._recovered()[0]
        result = []
        for row in manifest["checkpoints"]:
            with contextlib.suppress(KeyError, TypeError, ValueError, OverflowError):
                name = str(row["file"])
                if layout.parse_checkpoint_name(name) is not None:  # a manifest cannot point out of its folder
                    result.append(
                        Entry(
                            name,
                            int(row["bytes"]),
                            str(row["sha256"]),
                            int(row["epoch"]),
                            None if row.get("batch") is None else int(row["batch"]),
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
        """The newest checkpoint whose size and hash verify, and what was wrong with newer ones or the manifest."""
        if self._written_manifest() is None:
            found, problems = self._recovered()
            return (found[-1] if found else None), problems
        problems = []
        for entry in reversed(self.entries()):
            problem = entry.verify(self.folder)
            if problem is None:
                return entry, problems
            problems.append(problem)
        return None, problems

    def lost_manifest(self) -> list[str]:
        """Why checkpoints are judged without a manifest, and which of them are damaged; empty where it is whole."""
        return self._recovered()[1] if self._written_manifest() is None else []

    def _recovered(self) -> tuple[list[Entry], list[str]]:
        """What can be used where the manifest is missing or torn: entries, oldest first, and what is wrong.

        The last epoch's file may be one whose commit a kill prevented. It counts only if something written after that
        commit knows of it: its row of the history, or a later checkpoint.
        """
        if not (self.folder / layout.LINEAGE).exists():
            return [], []  # a folder of the old system, which has no manifest
        names = {p: n for n in os.listdir(self.folder) if (p := layout.parse_checkpoint_name(n)) is not None}
        history = self._history()
        found: list[Entry] = []
        damaged: list[str] = []
        latest = max(names, key=lambda p: p.order, default=None)
        for position in sorted(names, key=lambda p: p.order):
            if position == latest and position.batch is None and position.epoch not in history:
                continue
            path = self.folder / names[position]
            if not files.inside(self.folder.resolve().parent, path):
                damaged.append(f"{path.name} is a link that leads out of the root")
            elif (problem := files.zip_problem(path)) is not None:
                damaged.append(f"{path.name} is damaged ({problem})")
            else:
                stat = path.stat()
                created = datetime.fromtimestamp(stat.st_mtime).isoformat(timespec="seconds")
                metrics = history.get(position.epoch, {}) if position.batch is None else {}
                found.append(Entry(path.name, stat.st_size, files.sha256_file(path), *position, created, metrics))
        if not found and not damaged:
            return [], []
        state = "torn" if (self.folder / layout.MANIFEST).exists() else "missing"
        told = f"{layout.MANIFEST} is {state}; the checkpoints were judged by the checksums inside them"
        return found, [told, *reversed(damaged)]

    def _history(self) -> dict[int, dict[str, float]]:
        """Epoch → the metrics that choose the best one, from the history; nothing of it where it cannot be read."""
        import csv

        rows = {}
        with (
            contextlib.suppress(OSError, ValueError, KeyError, TypeError, csv.Error),
            open(self.folder / layout.HISTORY_CSV, newline="", encoding="utf-8") as file,
        ):
            for line in csv.DictReader(file):
                rows[int(line["epoch"])] = {k: float(line[k]) for k in _METRICS if line.get(k)}
        return rows

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
        if which.isdecimal():
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
