"""Programs in forks of the process that runs the tests. It has imported everything, so they start at once."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from typing import TextIO


class Forked:
    """A forked process that does ``work`` and ends; as much of ``Popen`` as the tests use.

    Its exit code is what ``work`` returns or ends with; after any other error, whose traceback it prints, it is 99.

    Args:
        out, err: file descriptors; None: a pipe, whose text is ``stdout`` or ``stderr``.
    """

    def __init__(self, work: Callable[[], int | None], out: int | None = None, err: int | None = None) -> None:
        self.returncode: int | None = None
        pipes = [(None, given) if given is not None else os.pipe() for given in (out, err)]
        self.pid = os.fork()
        if self.pid == 0:
            _child(work, [end for _, end in pipes])
        for heard, end in pipes:
            if heard is not None:
                os.close(end)
        self._out, self._err = (None if heard is None else os.fdopen(heard) for heard, _ in pipes)

    @property
    def stdout(self) -> TextIO:
        assert self._out is not None
        return self._out

    @property
    def stderr(self) -> TextIO:
        assert self._err is not None
        return self._err

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def poll(self) -> int | None:
        if self.returncode is None:
            found, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if found else None
        return self.returncode

    def wait(self, timeout: float = 240.0) -> int:
        deadline = time.monotonic() + timeout
        while (code := self.poll()) is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired("a forked program", timeout)
            time.sleep(0.005)
        return code


def _child(work: Callable[[], int | None], outputs: list[int]) -> None:
    code: object = 99
    try:
        os.setpgid(0, 0)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # as a program gets them
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        for fd, end in zip((1, 2), outputs, strict=True):
            os.dup2(end, fd)
        # Not those of pytest.
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
        if "ray" in sys.modules:  # a cluster of the tests is not this process's
            sys.modules["ray"]._private.worker.global_worker.set_mode(None)
        code = work() or 0
    except SystemExit as error:
        code = error.code or 0
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 1)


def program(*arguments: object, out: int | None = None, err: int | None = None) -> Forked:
    """The command line, from its first line on."""

    def work() -> None:
        from raysweep.cli.entry import entry

        sys.argv = ["raysweep", *map(str, arguments)]
        entry()

    return Forked(work, out, err)


def load() -> None:
    """Import, in the process that forks, what takes seconds."""
    import ray.train.torch  # noqa: F401

    import raysweep.cli.continue_
    import raysweep.cli.entry
    import raysweep.cli.main
    import raysweep.cli.run
    import raysweep.launch.resume
    import raysweep.report.figures
    import raysweep.training.loop  # noqa: F401


def lines_of(work: Callable[[], int | None]) -> list[str]:
    """What ``work`` prints in a fork, which must end well."""
    process = Forked(work, err=2)
    told = process.stdout.read()
    assert process.wait() == 0, told[-3000:]
    return told.splitlines()
