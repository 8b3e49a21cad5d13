"""Standard output and error, which may be gone at any time: a closed pipe or terminal, a full disk, descriptors never opened.

What is shown is never worth a training. So writing to stderr never raises, and writing to stdout does so only for commands
whose output is all that they are for; they end with :class:`OutputGone`.
"""

from __future__ import annotations

import os
import sys
from typing import Any


class OutputGone(Exception):
    """Standard output cannot be written; ``cause`` is the error."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(str(cause))
        self.cause = cause

    @property
    def quiet(self) -> bool:
        """Whether the reader has simply left, as ``head`` does."""
        return not isinstance(self.cause, OSError) or isinstance(self.cause, BrokenPipeError)


class Steady:
    """A text or binary stream whose reader may go away. After the first error it writes nothing more.

    Args:
        strict: raise :class:`OutputGone` then; else nothing is raised.
    """

    def __init__(self, stream: Any, strict: bool) -> None:
        self._stream, self.strict = stream, strict
        self._error: Exception | None = None

    @property
    def gone(self) -> bool:
        return self._error is not None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    @property
    def buffer(self) -> Steady:
        return Steady(self._stream.buffer, self.strict)

    def isatty(self) -> bool:
        return not self.gone and bool(self._stream.isatty())

    def write(self, data: Any) -> int:
        self._try(lambda: self._stream.write(data))
        return len(data)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        self._try(self._stream.flush)

    def _try(self, action: Any) -> None:
        if self._error is None:
            try:
                action()
            except UnicodeError:
                raise
            except (OSError, ValueError) as error:  # ValueError: somebody has closed it
                self._error = error
        if self._error is not None and self.strict:
            raise OutputGone(self._error) from None


def open_closed() -> None:
    """Open those of the descriptors 0 to 2 that are closed on ``/dev/null``.

    Otherwise the next file that is opened, a checkpoint perhaps, would become standard error. So this comes first of all.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # it takes the lowest free number


def make_steady(strict_output: bool) -> None:
    """Replace ``sys.stdout`` and ``sys.stderr``.

    Args:
        strict_output: stdout is all that this command is for.
    """
    for name, number in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name) or open(number, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
        setattr(sys, name, Steady(stream, strict_output and number == 1))


def release() -> None:
    """Let the interpreter's end find nothing that it cannot write."""
    for number, stream in ((1, sys.stdout), (2, sys.stderr)):
        if isinstance(stream, Steady):
            stream.strict = False
            stream.flush()
            if stream.gone:  # what it still holds goes nowhere
                os.dup2(os.open(os.devnull, os.O_WRONLY), number)
