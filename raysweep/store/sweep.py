"""A sweep's folder: what was planned, which branch became which experiment, and the results. No torch, no ray.

The branches' own folders are the original record: each names its sweep and its branch. ``sweep.json`` has the plan; the
status of the branches in it and ``results.csv`` are derived from the folders and can be written again at any time.
"""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from raysweep._text import check_name
from raysweep.errors import (
    RaysweepError,
    RootError,
    StoreError,
)
from raysweep.store import files, groups, layout
from raysweep.store.experiment import Experiment
from raysweep.store.records_sweep import SweepRecord
from raysweep.store.root import Root

MAX_NAME = 50  # the experiments are called SWEEP-BRANCH


_json = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode


def create(root: Root, name: str, when: datetime) -> Sweep:
    """Make the folder of a new sweep; if the name was already used in this second, ``_2``, ``_3`` … is appended.

    Raises:
        RootError: the name or the root cannot be used.
    """
    check_sweep_name(name)
    return Sweep(groups.new_folder(root, layout.SWEEPS, name, when), root)


def experiment_name(sweep_id: str, branch: str) -> str:
    """What a branch's experiment is called; the time is appended to it."""
    return f"{layout.split_id(sweep_id)[0]}-{branch}"


def check_sweep_name(name: str) -> None:
    """Raises RootError if a sweep cannot be called so."""
    try:
        check_name(name)
    except ValueError as error:
        raise RootError(f"The sweep cannot be made: {error}.") from None
    if len(name) > MAX_NAME:
        raise RootError(f"The sweep's name has {len(name)} characters; at most {MAX_NAME} are allowed.")


class Sweep:
    """A view of one sweep's folder. Every call reads the files again."""

    def __init__(self, folder: str | Path, root: Root | None = None) -> None:
        self.folder = Path(folder)
        self._root = root

    @property
    def id(self) -> str:
        return self.folder.name

    @property
    def root(self) -> Root:
        """The root that it is in."""
        return self._root or Root.at(self.folder.parent.parent)

    @property
    def address(self) -> str:
        """What another machine finds its folder by."""
        return Root.address_of(self.folder)

    def record(self) -> SweepRecord:
        """``sweep.json``.

        Raises:
            StoreError: it is missing or damaged.
        """
        path = self.folder / layout.SWEEP
        try:
            with files.reading(path):
                value = files.read_json(path)
        except ValueError as error:
            raise StoreError(f"{path} is not valid JSON ({error}). Restore it from a copy.") from None
        try:
            return SweepRecord.from_json(value)
        except ValueError as error:
            raise StoreError(f"{path} does not hold a sweep: {error}. Restore it from a copy.") from None

    def write_record(self, record: SweepRecord) -> None:
        """Write ``sweep.json``, a branch a line.

        Raises:
            StoreError: it cannot be written, or would be larger than what is read again.
        """
        branches = [_json(b.to_json()) for b in record.branches]
        rest = replace(record, branches=()).to_json()
        rest["branches"] = rest.pop("branches")  # after all other keys
        head = json.dumps(rest, indent=2, ensure_ascii=False, allow_nan=False).removesuffix("]\n}")
        rows = ",".join(f"\n    {row}" for row in branches)
        data = f"{head}{rows}\n  ]\n}}\n".encode(errors="backslashreplace")  # a lone surrogate cannot be encoded
        path = self.folder / layout.SWEEP
        if len(data) > files.LIMIT:
            raise StoreError(
                f"{path} would have {len(data):,} bytes for {len(branches):,} branches; at most {files.LIMIT:,} are read. "
                "Make several sweeps of fewer branches."
            )
        files.write_atomic(path, data)

    def experiments(self) -> dict[str, Experiment]:
        """Branch → its experiment, found by the sweep and branch that the experiments' folders name.

        If several folders name the same branch (one was copied), the one in ``sweep.json`` counts, else the first by name.
        """
        found: dict[str, Experiment] = {}
        original_id, recorded = self._known()
        prefix = f"{layout.split_id(original_id)[0]}-"
        with os.scandir(self.root.path) as rows:
            names = sorted(r.name for r in rows if r.name.startswith(prefix) and not r.is_symlink() and r.is_dir())
        for name in names:
            experiment = Experiment(self.root.path / name, self.root)
            try:
                config = experiment.config()
            except RaysweepError:
                continue  # made a moment ago, or damaged: it cannot be continued
            if config.sweep == original_id and config.branch is not None:
                branch = config.branch.name
                if branch not in found or recorded.get(branch) == experiment.id:
                    found[branch] = experiment
        return found

    def experiment(self, branch: str, original_id: str, recorded: str | None = None) -> Experiment | None:
        """The experiment of one branch. No other experiment is read, so ten thousand branches can each call this once.

        Args:
            original_id: the sweep's :attr:`original_id`.
            recorded: the experiment's name in ``sweep.json``; the folder may have been renamed since.
        """
        name = experiment_name(original_id, branch)
        with os.scandir(self.root.path) as rows:
            names = sorted(
                r.name
                for r in rows
                if (r.name == recorded or (r.name.startswith(f"{name}_") and layout.split_id(r.name)[0] == name))
                and not r.is_symlink()
                and r.is_dir()
            )
        for found in sorted(names, key=lambda n: n != recorded):
            experiment = Experiment(self.root.path / found, self.root)
            with contextlib.suppress(RaysweepError):  # made a moment ago, or damaged
                config = experiment.config()
                if config.sweep == original_id and config.branch is not None and config.branch.name == branch:
                    return experiment
        return None

    @property
    def original_id(self) -> str:
        """The id that the sweep was made under. Its branches use it even if the folder has been renamed since."""
        return self._known()[0]

    def _known(self) -> tuple[str, dict[str, str | None]]:
        """The id that the sweep was made under, and branch → experiment, as ``sweep.json`` says."""
        try:
            record = self.record()
        except StoreError:
            return self.id, {}
        return str(record.id or self.id), {b.name: b.experiment for b in record.branches}

    def traceback(self, branch: str) -> Path:
        """Where the traceback of a branch that failed is."""
        return self.folder / layout.TRACEBACKS / f"{branch}.txt"

    def keep_traceback(self, branch: str, text: str) -> str:
        """Write the traceback of a branch that failed; it replaces that of an earlier try.

        Returns:
            Its path or address, or an empty text if it could not be written, which must not stop the other branches.
        """
        path = self.traceback(branch)
        try:
            if not text or path.parent.name != layout.TRACEBACKS or not files.inside(self.folder, path):
                return ""
            path.parent.mkdir(exist_ok=True)
            files.write_atomic(path, f"{text.rstrip()}\n".encode(errors="backslashreplace"))
        except (RaysweepError, OSError, ValueError):  # ValueError: a name that no file can have
            return ""
        return Root.address_of(path)


def all_sweeps(root: Root) -> list[Sweep]:
    """The sweeps under a root, oldest first. Links that lead out of the root are left out."""
    parent = root.path / layout.SWEEPS
    if not files.inside(root.path, parent):
        return []
    try:
        with os.scandir(parent) as rows:
            folders = [
                r.path
                for r in rows
                if r.is_dir()
                and os.path.isfile(os.path.join(r.path, layout.SWEEP))
                and (not r.is_symlink() or files.inside(root.path, Path(r.path)))
            ]
    except (OSError, ValueError):
        return []
    return sorted((Sweep(f, root) for f in folders), key=lambda s: (layout.split_id(s.id)[1] or "", s.id))
