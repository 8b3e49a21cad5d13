"""Hashes of a cache's files, in chunks: whether the arrays that a training reads are still those that were decoded."""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from raysweep.data import places

CHUNK = 1 << 24  # bytes under one hash
_READ = 1 << 19  # bytes of one read; a processor's cache holds them
_NICE = 19  # of the thread in the background: it must not slow the training


def hashes(file: Path) -> list[str]:
    """The XXH3 hash, 128 bits as text, of each chunk of a file.

    Raises:
        OSError: the file cannot be read.
    """
    return list(_hashed(file))


def _hashed(file: Path) -> Iterator[str]:
    from xxhash import xxh3_128

    buffer = bytearray(min(_READ, CHUNK))
    with open(file, "rb", buffering=0) as opened:
        while True:
            digest, left = xxh3_128(), CHUNK
            while left and (n := opened.readinto(memoryview(buffer)[:left])):
                digest.update(memoryview(buffer)[:n])
                left -= n
            if left < CHUNK:
                yield digest.hexdigest()
            if left:
                return


def write_signed(path: Path, value: Mapping[str, Any]) -> None:
    """Write a record, which holds a hash of itself, as JSON."""
    path.write_text(json.dumps({**value, "hash": _of_record(value)}), encoding="utf-8")


def read_signed(path: Path) -> dict[str, Any]:
    """What :func:`write_signed` has written.

    Raises:
        OSError: there is none. UnsignedError: it has no hash. ValueError: it is damaged.
    """
    value = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(value, dict):
        raise ValueError("it is no record")
    known = value.pop("hash", None)
    if known is None:
        raise UnsignedError
    if known != _of_record(value):
        raise ValueError("it has changed since it was written")
    return value


class UnsignedError(Exception):
    """Raised where a record has no hash: an older version has written it."""


def _of_record(value: Mapping[str, Any]) -> str:
    from xxhash import xxh3_128_hexdigest

    return xxh3_128_hexdigest(json.dumps(value, sort_keys=True).encode())


def given_up(folder: Path, fault: str) -> str:
    """What is to be said of a damaged cache while a network trains; the next training makes it anew."""
    remedy = "Go on with `raysweep continue`, which decodes the images again"
    try:
        (folder / places.META).unlink(missing_ok=True)
    except OSError:
        remedy = "Delete this folder; then go on with `raysweep continue`"
    return (
        f"The image cache {folder} is damaged: {fault}. Nothing that was trained on it was saved. "
        f"{remedy}; if it happens again, check the disk."
    )


class Check:
    """Compares the files of a folder with their hashes: for a while at once, and the rest in the background.

    Attributes:
        fault: what is wrong, for people; None while nothing was found.
        done: whether nothing is left to check.
    """

    def __init__(self, folder: Path, recorded: Mapping[str, Sequence[str]]) -> None:
        """
        Args:
            recorded: name of a file → :func:`hashes` of it when it was written.
        """
        self.fault: str | None = None
        self.done = False
        self._steps = _compare(folder, recorded)
        self._thread: threading.Thread | None = None

    def run(self, seconds: float = math.inf) -> None:
        """Check until all is done, a fault is found or the time is spent; at least one chunk."""
        end = time.monotonic() + seconds
        while not self.done:
            try:
                self.fault = next(self._steps)
            except StopIteration:
                self.done = True
            except OSError as error:
                self.fault = f"{error.filename or 'a file'} cannot be read: {error.strerror or error}"
            self.done = self.done or self.fault is not None
            if time.monotonic() > end:
                return

    def start(self) -> None:
        """Check what is left in a thread of its own, when no one else needs the CPU."""
        if not self.done and self._thread is None:
            self._thread = threading.Thread(target=self._politely, name="raysweep-check", daemon=True)
            self._thread.start()

    def finish(self) -> None:
        """Check what is left, or wait for the thread that does."""
        if self._thread is not None:
            self._thread.join()
        self.run()

    def _politely(self) -> None:
        if sys.platform == "linux":  # where a thread has a priority of its own
            with contextlib.suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
        self.run()


def _compare(folder: Path, recorded: Mapping[str, Sequence[str]]) -> Iterator[str | None]:
    """For each chunk what is wrong with it, None if nothing; small files first."""
    for name, wanted in sorted(recorded.items(), key=lambda item: len(item[1])):
        found = 0
        for found, (digest, known) in enumerate(zip(_hashed(folder / name), wanted, strict=False), start=1):
            where = f"between bytes {(found - 1) * CHUNK:,} and {found * CHUNK:,}"
            yield None if digest == known else f"{name} has changed {where} since it was written"
        size = (folder / name).stat().st_size
        if found != len(wanted) or math.ceil(size / CHUNK) != len(wanted):
            yield f"{name} has another length than when it was written"
