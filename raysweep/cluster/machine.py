"""What keeps Ray from starting on this machine: its folders and the limits of this process, with the remedy for each.

Ray itself says little of these: its processes die, and the program waits for them, or a traceback names a socket.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from raysweep import _machine

LONGEST_SOCKET = 103 if sys.platform == "darwin" else 107  # bytes in the path of a socket
SESSION = "session_2026-01-31_23-59-59_999999_4194304/sockets/plasma_store"  # as long as Ray's can be
FREE_BYTES = 200 * 10**6  # for the log files and the object store's overflow
FILES = 1024  # a small cluster opens about 300 in one process
ADDRESS_SPACE = 64 * 2**30  # each of Ray's processes reserves far more than it uses, the object store included
STORE_BYTES = 256 * 2**20  # the smallest object store: a sweep keeps one checkpoint and its plan in it
_SHM = Path("/dev/shm")


def ray_folder() -> Path:
    """Where Ray keeps its sockets and log files."""
    chosen = os.environ.get("RAY_TMPDIR") or (os.environ.get("TMPDIR") if sys.platform == "linux" else None)
    return Path(chosen or ("/tmp" if os.name == "posix" else tempfile.gettempdir())) / "ray"


def obstacles() -> Iterator[str]:
    """A sentence or two for everything that keeps Ray from starting here: what is wrong and what to do."""
    folder = ray_folder()
    yield from _of_folder(folder)
    yield from _of_token()
    yield from _machine.small_limit("RLIMIT_NOFILE", FILES, "open files", "n")
    yield from _machine.small_limit("RLIMIT_AS", ADDRESS_SPACE, "bytes of address space", "v")


def _of_folder(folder: Path) -> Iterator[str]:
    elsewhere = "Set RAY_TMPDIR to a short path of a folder that is yours and has space, such as /tmp/$USER."
    longest = len(os.fsencode(folder / SESSION))
    if longest > LONGEST_SOCKET:
        yield (
            f"Ray's temporary folder {folder} has too long a path: its sockets would have {longest} bytes, and at most "
            f"{LONGEST_SOCKET} are possible. {elsewhere}"
        )
    existing = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        yield f"Ray's temporary folder {folder} cannot be written by this user. {elsewhere}"
        return
    free = shutil.disk_usage(existing).free
    if free < FREE_BYTES:
        yield (
            f"Ray's temporary folder {folder} has {free / 1e6:,.0f} MB free, and Ray needs {FREE_BYTES / 1e6:,.0f}. Remove old "
            f"sessions there, or free space otherwise. {elsewhere}"
        )


def _of_token() -> Iterator[str]:
    if os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH"):
        return
    if os.environ.get("RAY_AUTH_MODE", "token").lower() != "token":
        return
    remedy = "Set HOME to a folder of yours, or name another file for the token in RAY_AUTH_TOKEN_PATH."
    try:
        home = Path.home()
    except RuntimeError:
        yield f"This user has no home folder, where Ray's authentication token belongs. {remedy}"
        return
    place = home / ".ray"
    token = place / "auth_token"
    if token.exists():
        if not os.access(token, os.R_OK):
            yield f"Ray's authentication token {token} cannot be read by this user. {remedy}"
    elif not os.access(place if place.exists() else home, os.W_OK | os.X_OK):
        yield f"Ray's authentication token cannot be written to {token}. {remedy}"


def object_store() -> tuple[int | None, str | None]:
    """(bytes, note): the size of the object store where ``/dev/shm`` is too full for Ray's own, and a sentence that says so.

    Ray takes 30 % of the memory, and refuses to start where ``/dev/shm`` has less free. Much less is enough for us.
    """
    if not _SHM.is_dir():
        return None, None
    free, wanted = shutil.disk_usage(_SHM).free, int(0.3 * _machine.memory_here())
    if free >= wanted:
        return None, None
    if free > 1.25 * STORE_BYTES:
        return int(0.8 * free), None
    return STORE_BYTES, (
        f"/dev/shm has {free / 1e6:,.0f} MB free, so Ray's object store lies in {ray_folder()}, which is slower. Free space "
        "there (docker run --shm-size=2g)."
    )
