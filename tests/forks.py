"""Programs in forks of a process that has imported everything: they start at once.

:class:`Forked` forks this process, which must have no threads of Ray's. Tests, whose process may be connected to a cluster,
use :func:`program` and :func:`lines_of`: these fork a server of :mod:`multiprocessing`, one for all tests of a process.
"""

from __future__ import annotations

import contextlib
import functools
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NoReturn

Work = Callable[[], int | None]


def perform(work: Work, out: int, err: int) -> int:
    """Do ``work`` as a program of its own, with these descriptors as stdout and stderr; returns its exit code.

    After an error, whose traceback it prints, that is 99.
    """
    code: object = 99
    with contextlib.suppress(OSError):
        os.setpgid(0, 0)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # as a program gets them
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    os.dup2(out, 1)
    os.dup2(err, 2)
    # Not those of pytest.
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
    try:
        code = work() or 0
    except SystemExit as error:
        code = error.code or 0
    except BaseException:
        traceback.print_exc()
    with contextlib.suppress(Exception):
        sys.stdout.flush()
        sys.stderr.flush()
    return code if isinstance(code, int) else 1


class Forked:
    """A forked process that does ``work`` and ends; as much of ``Popen`` as the tests use."""

    def __init__(self, work: Work, out: int, err: int) -> None:
        self.returncode: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            code = 99
            try:
                code = perform(work, out, err)
            finally:
                os._exit(code)

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


def answer(found: Any) -> NoReturn:
    """Print ``found`` as JSON and end this process at once: a thread of Ray's may crash an interpreter that ends."""
    print(json.dumps(found), flush=True)
    os._exit(0)


def command_line(*arguments: object, folder: Path | None = None) -> None:
    """The program, from its first line on, in the working folder ``folder``."""
    if folder is not None:
        os.chdir(folder)
    from raysweep.cli.entry import entry

    sys.argv = ["raysweep", *map(str, arguments)]
    entry()


def _served(
    function: Callable[..., Any], arguments: tuple[Any, ...], pipes: list[Connection], environment: dict[str, str]
) -> None:
    """Runs in a fork of the server."""
    os.environ.clear()
    os.environ.update(environment)
    os.fsync = lambda fd: os.fstat(fd) and None  # type: ignore[assignment,func-returns-value]  # as in the tests' process

    def work() -> int | None:
        for pipe in pipes:  # now stdout and stderr
            pipe.close()
        return function(*arguments)

    out, err = (pipe.fileno() for pipe in pipes)
    os._exit(perform(work, out, err))


def server() -> Any:
    """The context of :mod:`multiprocessing` whose processes are forks of the server. It starts with the first of them."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.loaded"])
    return context


class Served:
    """``function(*arguments)`` in a fork of the server, with pipes for stdout and stderr; use as a context."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        context = server()
        heard, told = zip(*(context.Pipe(duplex=False) for _ in range(2)), strict=True)
        self._process = context.Process(target=_served, args=(function, arguments, list(told), dict(os.environ)))
        self._process.start()
        self.stdout, self.stderr = (os.fdopen(os.dup(pipe.fileno())) for pipe in heard)
        for pipe in (*heard, *told):
            pipe.close()

    def __enter__(self) -> Served:
        return self

    def __exit__(self, *error: object) -> None:
        self._process.kill()
        for stream in (self.stdout, self.stderr):
            stream.close()

    def send_signal(self, number: int) -> None:
        assert self._process.pid is not None
        os.kill(self._process.pid, number)

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self) -> int | None:
        """The exit code."""
        self._process.join(240)
        return self._process.exitcode


def program(*arguments: object, folder: Path | None = None) -> Served:
    """The command line in a fork of the server, in the working folder ``folder``."""
    return Served(functools.partial(command_line, folder=folder), *map(str, arguments))


def lines_of(function: Callable[..., Any], *arguments: Any) -> list[str]:
    """What ``function(*arguments)`` prints in a fork of the server, where it must end well."""
    with Served(function, *arguments) as process:
        told = process.stdout.read()
        errors = process.stderr.read()  # short, else it would wait for a reader
        assert process.wait() == 0, (told[-3000:], errors[-3000:])
    return told.splitlines()
