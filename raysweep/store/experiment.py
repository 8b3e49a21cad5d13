"""An experiment's folder: making it, its manifest of committed checkpoints, its status. No torch, no ray."""

from __future__ import annotations

import contextlib
import csv
import io
import os
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from raysweep._paths import read_regular
from raysweep._text import check_name
from raysweep.errors import NotFoundError, RaysweepError, RootError, StoreError
from raysweep.store import files, layout, lineage, lock
from raysweep.store.layout import Position
from raysweep.store.records import ExperimentConfig
from raysweep.store.records_manifest import Manifest, ManifestEntry
from raysweep.store.root import Root
from raysweep.store.untrusted import zip_check

RUNNING, FINISHED, INTERRUPTED, FAILED, CRASHED, LEGACY = (
    "running",
    "finished",
    "interrupted",
    "failed",
    "crashed",
    "legacy",
)

# Columns of the history that are put back when the manifest is lost.
_METRICS = ("train_loss", "train_acc", "val_loss", "val_acc", "val_macro_f1", "balanced_accuracy")


def create(root: Root, name: str, when: datetime | None = None) -> Experiment:
    """Make a new, empty experiment folder: ``<name>_<YYYYMMDD_HHMMSS>``, or with ``_2``, ``_3`` … appended.

    Raises:
        RootError: the root cannot be used, or the name is no folder's name.
    """
    try:
        check_name(name)
    except ValueError as error:
        raise RootError(f"The experiment cannot be made: {error}.") from None
    root.check_writable()
    moment = when or datetime.now()
    for attempt in range(1, 10_000):
        folder = root.path / layout.make_id(name, moment, attempt)
        try:
            folder.mkdir()
            if not root.claim(folder):
                folder.rmdir()
                continue
        except FileExistsError:
            continue
        except OSError as error:
            raise RootError(f"{folder} cannot be made: {error.strerror}. Choose another --root.") from None
        return Experiment(folder, root)
    raise RootError(f"{root} already has 10,000 experiments called {name} of this second.")


@contextlib.contextmanager
def beginning(experiment: Experiment) -> Iterator[None]:
    """Around all that is done in a new folder. If that fails before the log has an event, there is nothing to continue, and the
    folder is removed again as far as possible. In an object store it stays, because its name does."""
    try:
        yield
    except Exception:
        with contextlib.suppress(OSError, RaysweepError):
            if not experiment.root.is_remote and not lineage.read(experiment.folder):
                _remove_folder(experiment.folder)
        raise


def _remove_folder(folder: Path) -> None:
    code = folder / layout.CODE
    if code.is_dir():
        for path in code.iterdir():
            files.remove(path)
        code.rmdir()
    for path in sorted(folder.iterdir(), key=lambda p: p.name == layout.FENCE):  # it is needed until the end
        files.remove(path)
    folder.rmdir()


class Experiment:
    """A view of one folder. Every call reads the files again, so it never shows an old state."""

    def __init__(self, folder: str | Path, root: Root | None = None) -> None:
        self.folder = Path(folder)
        self._root = root

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

    @property
    def root(self) -> Root:
        """The root that it is in."""
        return self._root or Root.at(self.folder.parent)

    @property
    def address(self) -> str:
        """What another machine finds its folder by."""
        return Root.address_of(self.folder)

    def config(self) -> ExperimentConfig:
        """``experiment_config.json``.

        Raises:
            StoreError: the file is missing or damaged, or a value in it is not valid.
        """
        try:
            return ExperimentConfig.from_json(self.written_config())
        except ValueError as error:
            raise StoreError(
                f"{self.folder / layout.CONFIG} is damaged: {error}. Correct it, or restore it from a copy."
            ) from None

    def written_config(self) -> dict[str, Any]:
        """The same, without a check of the values.

        Raises:
            StoreError: the file is missing or is not a JSON object.
        """
        path = self.folder / layout.CONFIG
        try:
            with files.reading(path):
                value = files.read_json(path)
        except ValueError as error:
            raise StoreError(f"{path} is not valid JSON ({error}). Restore it from a copy.") from None
        if not isinstance(value, dict):
            raise StoreError(f"{path} does not hold an object. Restore it from a copy.")
        return value

    def write_config(self, config: ExperimentConfig) -> None:
        files.write_json(self.folder / layout.CONFIG, config.to_json())

    def keep_code(self, contents: Mapping[str, bytes], hashes: Mapping[str, str]) -> None:
        """Write the source files of the user's code; states of them that are there already stay.

        Args:
            contents: path within the code's folder → the file.
            hashes: path → SHA-256.
        """
        folder = self.folder / layout.CODE
        if contents:
            folder.mkdir(exist_ok=True)
        for path, content in contents.items():
            file = folder / layout.code_name(path, hashes[path])
            if not file.exists():
                files.write_atomic(file, content)

    def manifest(self) -> Manifest:
        """The committed checkpoints. If the manifest is missing or torn, these are the files that agree with the checksums
        inside them (slow: every file is read), and ``problems`` says so and names the damaged ones."""
        manifest = self._written_manifest()
        if manifest is not None:
            return manifest
        found, told = self._recovered()
        who = lock.holder(self.folder)
        if who is not None and lock.alive(who) is not False:
            return Manifest(tuple(found))  # its writer has not committed the first one yet
        # The writer may have committed and ended meanwhile.
        return self._written_manifest() or Manifest(tuple(found), problems=tuple(told))

    def _written_manifest(self) -> Manifest | None:
        try:
            return Manifest.from_json(files.read_json(self.folder / layout.MANIFEST, any_depth=True))
        except (OSError, ValueError):
            return None

    def entries(self) -> list[ManifestEntry]:
        """Committed checkpoints, oldest first; see :meth:`manifest`."""
        return list(self.manifest().entries)

    def old_checkpoints(self) -> list[Position]:
        """Positions of the checkpoint files in a folder of the old system, oldest first; empty for any other folder. The old
        system wrote no manifest, so nothing records which files are whole."""
        if (self.folder / layout.LINEAGE).exists() or self.has_manifest:
            return []
        names = map(layout.parse_checkpoint_name, os.listdir(self.folder))
        return sorted((p for p in names if p is not None), key=_old_order)

    def write_manifest(self, manifest: Manifest) -> None:
        """The commit point: a checkpoint that is not listed here does not exist."""
        files.write_json(self.folder / layout.MANIFEST, manifest.to_json(self.id))

    def newest_good(
        self, misplaced: Callable[[Path, ManifestEntry], str | None] | None = None
    ) -> tuple[ManifestEntry | None, list[str]]:
        """The newest checkpoint whose size and hash verify, and what was wrong with newer ones or the manifest.

        Args:
            misplaced: says what is wrong with a file that is whole but is another checkpoint than its name says. It is called
                if there is no manifest. See :func:`raysweep.store.checkpoint.misplaced`.
        """
        manifest = self._written_manifest()
        if manifest is None:
            found, problems = self._recovered()
            while found and misplaced is not None and (problem := misplaced(self.folder, found[-1])) is not None:
                problems.append(problem)
                found.pop()
            return (found[-1] if found else None), problems
        problems = list(manifest.problems)
        for entry in reversed(manifest.entries):
            problem = entry.verify(self.folder)
            if problem is None:
                return entry, problems
            problems.append(problem)
        return None, problems

    @property
    def has_manifest(self) -> bool:
        """Whether there is a manifest that can be read."""
        return self._written_manifest() is not None

    def _recovered(self) -> tuple[list[ManifestEntry], list[str]]:
        """What can be used if the manifest is missing or torn: entries, oldest first, and what is wrong.

        A kill may have prevented the commit of the last epoch's file. The file counts only if something that is written after
        the commit exists: its row of the history, or a later checkpoint.
        """
        if not (self.folder / layout.LINEAGE).exists():
            return [], []  # a folder of the old system, which has no manifest
        names = {p: n for n in os.listdir(self.folder) if (p := layout.parse_checkpoint_name(n)) is not None}
        history = self.history_metrics()
        found: list[ManifestEntry] = []
        damaged: list[str] = []
        latest = max(names, key=lambda p: p.order, default=None)
        for position in sorted(names, key=lambda p: p.order):
            if position == latest and position.batch is None and position.epoch not in history:
                continue
            path = self.folder / names[position]
            if not files.inside(self.folder.resolve().parent, path):
                damaged.append(f"{path.name} is a link that leads out of the root")
                continue
            if (problem := zip_check.zip_problem(path)) is not None:
                damaged.append(f"{path.name} is damaged ({problem})")
                continue
            with contextlib.suppress(FileNotFoundError):  # its writer has just replaced it
                stat = path.stat()
                created = datetime.fromtimestamp(stat.st_mtime).isoformat(timespec="seconds")
                metrics = history.get(position.epoch, {}) if position.batch is None else {}
                found.append(
                    ManifestEntry(path.name, stat.st_size, files.sha256_file(path), *position, created, metrics)
                )
        if not found and not damaged:
            return [], []
        missing = not (self.folder / layout.MANIFEST).exists()
        if missing and not damaged and len(names) == 1 and found[0].batch is not None:
            return found, []  # the first save within an epoch ended before its commit: nothing is lost
        state = "missing" if missing else "torn"
        told = f"{layout.MANIFEST} is {state}; the checkpoints were judged by the checksums inside them"
        return found, [told, *reversed(damaged)]

    def history_metrics(self) -> dict[int, dict[str, float]]:
        """Epoch → the metrics that choose the best one, from the history; what cannot be read is omitted."""
        rows = {}
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, csv.Error):
            text = read_regular(self.folder / layout.HISTORY_CSV, files.LIMIT).decode()
            for line in csv.DictReader(io.StringIO(text, newline="")):
                rows[int(line["epoch"])] = {k: float(line[k]) for k in _METRICS if line.get(k)}
        return rows

    def entry(self, which: str) -> ManifestEntry:
        """The entry that ``best``, ``latest`` or an epoch's number names.

        Raises:
            NotFoundError: there is no such checkpoint; the message lists the existing ones.
        """
        manifest = self.manifest()
        if which == "latest" and manifest.entries:
            return manifest.entries[-1]
        if which == "best":
            for e in manifest.entries:
                if e.file == manifest.best_file:
                    return e
        if which.isdecimal():
            for e in manifest.ends:
                if e.epoch == int(which):
                    return e
        have = ", ".join(str(e.epoch) for e in manifest.ends) or "none yet"
        raise NotFoundError(
            f"{self.id} has no checkpoint {which!r}. It has the epochs {have}; @best and @latest work too."
        )

    def status(self) -> str:
        """running, finished, interrupted, failed, crashed (its process stopped without recording an end), or legacy (an old folder)."""
        ended = {lineage.FINISHED: FINISHED, lineage.INTERRUPTED: INTERRUPTED, lineage.FAILED: FAILED}
        event = lineage.last(self.folder)
        while True:
            if event is not None and event.type in ended:
                return ended[event.type]
            who = lock.holder(self.folder)
            if who is not None and (event is None or lock.alive(who) is not False):
                return RUNNING
            before, event = event, lineage.last(self.folder)  # it may have ended between the two looks
            if event == before:
                return LEGACY if event is None else CRASHED


def _old_order(position: Position) -> tuple[int, int]:
    """The old system counted epochs from 0 in the names of what it saved within one: batch 19 of epoch 2 comes after the
    end of epoch 2."""
    return position.epoch, -1 if position.batch is None else position.batch
