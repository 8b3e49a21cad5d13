"""The kernel's locks on files. Some systems have none that Python knows (``fcntl`` is missing, as on Windows): what only reads
works there all the same, and what writes refuses."""

from __future__ import annotations

from types import ModuleType

from raysweep.errors import ResourceError

_fcntl: ModuleType | None
try:
    import fcntl as _fcntl
except ImportError:
    _fcntl = None

SHARED, ALONE, AT_ONCE = 1, 2, 4  # LOCK_SH, LOCK_EX, LOCK_NB: the same numbers on every system that has them


def there() -> bool:
    """Whether this system has them."""
    return _fcntl is not None


def demand() -> None:
    """
    Raises:
        ResourceError: this system has no locks, so nothing can be written without a danger for what is there.
    """
    if _fcntl is None:
        raise ResourceError(
            "This system has no locks on files that Python knows (its module fcntl is missing), so nothing keeps two programs from "
            "writing the same experiment, and nothing is written here. What only reads works: list, show, lineage, diff, compare. "
            "To train, use Linux or macOS; on Windows, the Windows Subsystem for Linux (wsl --install)."
        )


def flock(fd: int, kind: int) -> None:
    """Lock an open file.

    Args:
        kind: ``SHARED`` or ``ALONE``, with ``| AT_ONCE`` for who does not want to wait.

    Raises:
        BlockingIOError: another process has it. OSError: the system or the file system has no such locks.
    """
    _module().flock(fd, kind)


def control(fd: int, command: str, asked: bytes) -> bytes:
    """``fcntl.fcntl`` by the command's name. Raises OSError where there is no such command."""
    found = getattr(_module(), command, None)
    if found is None:
        raise OSError(f"this system has no {command}")
    return bytes(_module().fcntl(fd, found, asked))


def number(name: str) -> int:
    """A constant such as ``F_WRLCK``. Raises OSError where there is none."""
    return int(getattr(_module(), name))


def clone(target: int, command: int, source: int) -> None:
    """``fcntl.ioctl``, by which a file system clones a file. Raises OSError where it cannot."""
    _module().ioctl(target, command, source)


def _module() -> ModuleType:
    if _fcntl is None:
        raise OSError("this system has no locks on files")
    return _fcntl
