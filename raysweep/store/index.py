"""An index of the experiments under a root: a SQLite file under ``.raysweep/`` that only speeds the catalog up.

The folders are the truth. At every look each folder's stamp (the inodes and change times of the files that the catalog reads) is compared with the one its row was read under; a row whose stamp differs is read anew. An index
that is missing, damaged, locked or in a place that cannot be written costs time, never a wrong answer.
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

SORT_KEYS = ("created", "id", "best_acc", "best_macro_f1", "epochs_done", "status")

# In the order in which the rows are told: oldest first, of one second as they were made (so that _2 comes before _10).
# Bytes, not texts: what is neither decoded nor encoded takes no time.
_TABLE = """CREATE TABLE experiments (created BLOB, length INTEGER, name BLOB, stamp INTEGER, head BLOB, tail BLOB, crc INTEGER, PRIMARY KEY (created, length, name)) WITHOUT ROWID"""
# Another version of the program may tell other things: its index is not ours.
_VERSION = zlib.crc32(f"3 {','.join(FIELDS)} {_TABLE}".encode()) & 0x7FFFFFFF
_WAIT = 1.0  # seconds for another process that writes the index
_SETTLED = 2.0  # seconds after which a change time tells two changes apart on every file system
_UNSURE = 0  # the stamp of a row that is read anew at every look

_Row = tuple[bytes, int, bytes, int, bytes, bytes, int]


def texts(
    root: Path, *, status: str | None = None, sweep: str | None = None, sort: str = "created", limit: int | None = None
) -> list[bytes]:
    """The rows of ``list --json``, each as one line of JSON (UTF-8) that no terminal is steered by.

    Args:
        sweep: only branches of sweeps whose id starts so.
        sort: one of SORT_KEYS; what has no value comes first, equals by their age.
        limit: at most so many, the last in order.

    Raises:
        RootError: the root cannot be read.
    """
    stamps = _stamps(root)
    # The path is as the user names the root, so it is put in here.
    start = _inner(os.path.join(str(root), ""))
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


def rows(root: Path, **filters: Any) -> list[Row]:
    """The same as records: :func:`catalog.summary` of every experiment, oldest first."""
    return [Row.from_json(json.loads(text)) for text in texts(root, **filters)]


def _inner(value: str) -> bytes:
    """What stands between the quotes of a JSON text."""
    return json_text(value)[1:-1].encode()


# --- stamps -----------------------------------------------------------------------------------------------------------


def _stamps(root: Path) -> dict[bytes, int]:
    """Folder's name → its stamp, for every experiment under a root. Links are left out: they may lead out of it."""
    found = {}
    settled = time.time_ns() - int(_SETTLED * 1e9)
    try:
        here = os.open(root, os.O_RDONLY)  # paths from here on are short, which counts ten thousand times
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


def _unreadable(root: Path, error: OSError | ValueError) -> RootError:
    reason = error.strerror if isinstance(error, OSError) else error
    return RootError(f"{root} cannot be read: {reason}. Name the folder of the experiments.")


_CONFIG, _MANIFEST, _LINEAGE = (f"/{name}" for name in (layout.CONFIG, layout.MANIFEST, layout.LINEAGE))
_FURTHER = ("", f"/{layout.HISTORY_CSV}")


def _stamp(here: int, name: str, settled: int) -> int | None:
    """One number for the state of a folder, or None where there is no experiment in it.

    Of a file that is replaced, inode and change time are others; of one that is appended to or changed in place, the
    change time, which unlike the time of modification cannot be set back.
    """
    try:
        config = os.stat(name + _CONFIG, dir_fd=here)
    except OSError:
        return None
    if not S_ISREG(config.st_mode):
        return None
    try:
        manifest, log = os.stat(name + _MANIFEST, dir_fd=here), os.stat(name + _LINEAGE, dir_fd=here)
    except OSError:  # then the names in the folder and its history are read, too
        seen = [config]
        for further in (_MANIFEST, _LINEAGE, *_FURTHER):
            with contextlib.suppress(OSError):
                seen.append(os.stat(name + further, dir_fd=here))
        times = tuple(s.st_ctime_ns for s in seen)
        inodes = tuple(s.st_ino for s in seen)
    else:  # the same, written out: it is what takes the time
        times = config.st_ctime_ns, manifest.st_ctime_ns, log.st_ctime_ns
        inodes = config.st_ino, manifest.st_ino, log.st_ino
    if max(times) > settled:
        return _UNSURE
    return hash(times + inodes) or 1  # of whole numbers: the same in every process


# --- the file ---------------------------------------------------------------------------------------------------------


def _true_rows(root: Path, stamps: dict[bytes, int]) -> list[_Row]:
    """A true row for every experiment, in the table's order."""
    path = root / layout.CACHES / layout.INDEX
    for place in (path, path, None):  # as it is; made anew; in memory
        try:
            with contextlib.closing(_opened(place)) as database:
                return _filled(database, root, stamps)
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF not in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                _remove(place)
        except (sqlite3.Error, OSError, OverflowError, TypeError):  # TypeError: damage has put NULL in a row's place
            _remove(place)
    raise RootError(f"The experiments under {root} cannot be listed: SQLite does not work, not even in memory.")


def _remove(place: Path | None) -> None:
    if place is not None:
        with contextlib.suppress(OSError):
            if not place.parent.is_symlink():  # what is behind a link is not ours
                place.unlink()


def _opened(path: Path | None) -> sqlite3.Connection:
    """A database with our table. One that is not ours to the letter is refused: it might hold triggers."""
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
            database.execute("PRAGMA page_size = 65536")  # it is read whole
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


def _filled(database: sqlite3.Connection, root: Path, stamps: dict[bytes, int]) -> list[_Row]:
    """Bring every row up to date, in one transaction, or in none where nothing has changed.

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
            raise sqlite3.DatabaseError("a row is not what was written")
        # A row that is unsure was true when it was read, which was before this look.
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


def _made(root: Path, missing: dict[bytes, int]) -> Iterator[_Row]:
    from raysweep.store import catalog  # only here: most looks read no folder
    from raysweep.store.experiment import Experiment

    for name, read_under in missing.items():
        folder = os.fsdecode(name)
        experiment = Experiment(root / folder)
        found = catalog.summary(experiment)
        # What depends on more than the stamped files is not kept: whether a writer lives, what is in damaged checkpoints.
        alive = found.status in ("running", "crashed") or os.path.lexists(experiment.folder / layout.LOCK)
        # The history, which has no stamp, may yet come.
        late = found.parent is not None and found.parent_best_acc is None
        stamp = _UNSURE if alive or late or found.note is not None else read_under
        row = found.to_json()
        del row["path"]
        created, head = (found.created or "").encode(), json_text(row)[:-1].encode() + b', "path": "'
        tail = _inner(folder) + b'"}'
        yield created, len(name), name, stamp, head, tail, _crc(created, name, head, tail)


def _crc(created: bytes, name: bytes, head: bytes, tail: bytes) -> int:
    return zlib.crc32(tail, zlib.crc32(head, zlib.crc32(name, zlib.crc32(created))))
