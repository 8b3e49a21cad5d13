"""An index of the experiments under a root: a SQLite file under ``.raysweep/`` that only speeds the catalog up.

The folders are the original record. Each time, the stamp of each folder (the inodes and change times of the files that the
catalog reads) is compared with the stamp that is stored with its row; if they differ, the folder is read again. If the index
is missing, damaged, locked or cannot be written, the result is the same, but takes longer.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from stat import S_ISREG
from typing import Any

from raysweep._text import json_text
from raysweep.errors import RootError
from raysweep.store import layout
from raysweep.store.fields import FIELDS, Row
from raysweep.store.root import Root

SORT_KEYS = ("created", "id", "best_acc", "best_macro_f1", "epochs_done", "status")

# The rows are in the order of the list: oldest first, and within one second in the order of creation (_2 before _10).
# The columns are bytes, not texts, so that no time is spent on decoding and encoding.
_TABLE = """CREATE TABLE experiments (created BLOB, length INTEGER, name BLOB, stamp INTEGER, head BLOB, tail BLOB, crc INTEGER, PRIMARY KEY (created, length, name)) WITHOUT ROWID"""
# Another version of the program may have other fields, so its index is not used.
_VERSION = zlib.crc32(f"3 {','.join(FIELDS)} {_TABLE}".encode()) & 0x7FFFFFFF
_WAIT = 1.0  # seconds to wait for another process that writes the index
_SETTLED = 2.0  # seconds after which a change time tells two changes apart on every file system
_UNSURE = 0  # the stamp of a folder that must be read every time

_Row = tuple[bytes, int, bytes, int, bytes, bytes, int]


def texts(
    root: Root, *, status: str | None = None, sweep: str | None = None, sort: str = "created", limit: int | None = None
) -> list[bytes]:
    """The rows of ``list --json``, each as one line of JSON (UTF-8) without control characters.

    Args:
        sweep: only branches of sweeps whose id starts with this text.
        sort: one of SORT_KEYS. Experiments without a value come first, those with equal values are sorted by age.
        limit: return at most this many, the last ones in the order.

    Raises:
        RootError: the root cannot be read.
    """
    stamps = _stamps(root)
    # The paths begin with the root as the user named it, so they are not in the index.
    start = _inner(os.path.join(str(root.path), ""))
    found = [head + start + tail for *_, head, tail, _ in _true_rows(root, stamps)] if stamps else []
    if (status, sweep, sort) != (None, None, "created"):
        rows = [(json.loads(text), text) for text in found]
        chosen = [
            (row, text)
            for row, text in rows
            if status in (None, row["status"]) and (sweep is None or str(row["sweep"] or "").startswith(sweep))
        ]
        if sort != "created":
            chosen.sort(key=lambda pair: (pair[0][sort] is not None, pair[0][sort] or 0))  # stable: equals by age
        found = [text for _, text in chosen]
    return found if limit is None else found[-limit:]


def rows(root: Root, **filters: Any) -> list[Row]:
    """The same as records: :func:`catalog.summary` of every experiment, oldest first."""
    return [Row.from_json(json.loads(text)) for text in texts(root, **filters)]


def _inner(value: str) -> bytes:
    """A text as JSON, without its quotes."""
    return json_text(value)[1:-1].encode()


# --- stamps -----------------------------------------------------------------------------------------------------------


def _stamps(root: Root) -> dict[bytes, int]:
    """Name of the folder → its stamp, for every experiment under a root. Links are omitted: they may lead out of the root."""
    found = {}
    settled = time.time_ns() - int(_SETTLED * 1e9)
    try:
        here = os.open(
            root.path, os.O_RDONLY
        )  # paths relative to this are short, which saves time with ten thousand folders
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:  # ValueError: NUL in the path
        raise _unreadable(root, error) from None
    try:
        with os.scandir(here) as entries:
            for entry in entries:
                if not entry.name.startswith(".") and entry.is_dir(follow_symlinks=False):
                    stamp = _stamp(here, entry.name, settled)
                    if stamp is not None:
                        found[entry.name.encode(errors="surrogateescape")] = stamp
    except OSError as error:
        raise _unreadable(root, error) from None
    finally:
        os.close(here)
    return found


def _unreadable(root: Root, error: OSError | ValueError) -> RootError:
    reason = error.strerror if isinstance(error, OSError) else error
    return RootError(f"{root} cannot be read: {reason}. Name the folder of the experiments.")


_CONFIG, _MANIFEST, _LINEAGE = (f"/{name}" for name in (layout.CONFIG, layout.MANIFEST, layout.LINEAGE))
_FURTHER = ("", f"/{layout.HISTORY_CSV}")


def _stamp(here: int, name: str, settled: int) -> int | None:
    """One number for the state of a folder, or None if it is not an experiment.

    If a file is replaced, its inode and its change time differ. If it is appended to or changed in place, its change time
    differs, which unlike the modification time cannot be set back.
    """
    try:
        config = os.stat(name + _CONFIG, dir_fd=here)
    except OSError:
        return None
    if not S_ISREG(config.st_mode):
        return None
    try:
        manifest, log = os.stat(name + _MANIFEST, dir_fd=here), os.stat(name + _LINEAGE, dir_fd=here)
    except OSError:  # then the catalog also reads the names in the folder and the history
        seen = [config]
        for further in (_MANIFEST, _LINEAGE, *_FURTHER):
            with contextlib.suppress(OSError):
                seen.append(os.stat(name + further, dir_fd=here))
        times = tuple(s.st_ctime_ns for s in seen)
        inodes = tuple(s.st_ino for s in seen)
    else:  # the same, without a loop: this is the most frequent case
        times = config.st_ctime_ns, manifest.st_ctime_ns, log.st_ctime_ns
        inodes = config.st_ino, manifest.st_ino, log.st_ino
    if max(times) > settled:
        return _UNSURE
    return hash(times + inodes) or 1  # a hash of integers is the same in every process


# --- the file ---------------------------------------------------------------------------------------------------------


def _true_rows(root: Root, stamps: dict[bytes, int]) -> list[_Row]:
    """An up-to-date row for every experiment, in the order of the table."""
    path = root.path / layout.CACHES / layout.INDEX
    for place in (path, path, None):  # the file as it is; a new file; in memory
        try:
            with contextlib.closing(_opened(place)) as database:
                return _filled(database, root, stamps)
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF not in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                _remove(place)
        except (sqlite3.Error, OSError, OverflowError, TypeError):  # TypeError: NULL in a damaged row
            _remove(place)
    raise RootError(f"The experiments under {root} cannot be listed: SQLite does not work, not even in memory.")


def _remove(place: Path | None) -> None:
    if place is not None:
        with contextlib.suppress(OSError):
            if not place.parent.is_symlink():  # a link may lead out of the root
                place.unlink()


def _opened(path: Path | None) -> sqlite3.Connection:
    """A database with our table. Any other schema is refused: it might have triggers."""
    if path is None:
        database = sqlite3.connect(":memory:", isolation_level=None)
    else:
        path.parent.mkdir(exist_ok=True)
        if path.is_symlink() or path.parent.is_symlink() or (path.exists() and not path.is_file()):
            raise OSError(f"{path} is not a regular file")
        database = sqlite3.connect(path, timeout=_WAIT, isolation_level=None)
    try:
        version = database.execute("PRAGMA user_version").fetchone()[0]
        known = [sql for (sql,) in database.execute("SELECT sql FROM sqlite_master")]
        if not known and version == 0:
            database.execute("PRAGMA page_size = 65536")  # the file is always read as a whole
            database.execute("BEGIN IMMEDIATE")
            database.execute(_TABLE)
            database.execute(f"PRAGMA user_version = {_VERSION}")
            database.execute("COMMIT")
        elif version != _VERSION or known != [_TABLE]:
            raise sqlite3.DatabaseError("it is the index of another version")
    except BaseException:
        database.close()
        raise
    return database


def _filled(database: sqlite3.Connection, root: Root, stamps: dict[bytes, int]) -> list[_Row]:
    """Bring every row up to date in one transaction; without one if nothing has changed.

    Raises:
        sqlite3.Error: the file is damaged, or another process writes it.
    """
    kept: list[_Row] = []
    stale: list[_Row] = []
    missing = dict(stamps)
    query = "SELECT created, length, name, stamp, head, tail, crc FROM experiments ORDER BY created, length, name"
    for row in database.execute(query):
        created, _, name, stamp, head, tail, crc = row
        if type(tail) is not bytes or crc != _crc(created, name, head, tail):
            raise sqlite3.DatabaseError("a row does not match its checksum")
        # A row with the stamp 0 was right when it was read, but must be read again.
        if stamp and stamp == missing.get(name):
            kept.append(row)
            del missing[name]
        else:
            stale.append(row)
    if not stale and not missing:
        return kept
    made = list(_made(root, missing))
    database.execute("BEGIN IMMEDIATE")
    database.executemany(
        "DELETE FROM experiments WHERE created = ? AND length = ? AND name = ?", [r[:3] for r in stale]
    )
    database.executemany("INSERT OR REPLACE INTO experiments VALUES (?, ?, ?, ?, ?, ?, ?)", made)
    database.execute("COMMIT")
    return sorted([*kept, *made], key=lambda row: row[:3])


def _made(root: Root, missing: dict[bytes, int]) -> Iterator[_Row]:
    from raysweep.store import catalog  # imported here because usually no folder is read
    from raysweep.store.experiment import Experiment

    for name, read_under in missing.items():
        folder = os.fsdecode(name)
        experiment = Experiment(root.path / folder, root)
        found = catalog.summary(experiment)
        # Not stored: what depends on more than the stamped files, such as a running writer or damaged checkpoints.
        alive = found.status in ("running", "crashed") or os.path.lexists(experiment.folder / layout.LOCK)
        # The history is not in the stamp and may be written later.
        late = found.parent is not None and found.parent_best_acc is None
        stamp = _UNSURE if alive or late or found.note is not None else read_under
        row = found.to_json()
        del row["path"]
        created, head = (found.created or "").encode(), json_text(row)[:-1].encode() + b', "path": "'
        tail = _inner(folder) + b'"}'
        yield created, len(name), name, stamp, head, tail, _crc(created, name, head, tail)


def _crc(created: bytes, name: bytes, head: bytes, tail: bytes) -> int:
    return zlib.crc32(tail, zlib.crc32(head, zlib.crc32(name, zlib.crc32(created))))
