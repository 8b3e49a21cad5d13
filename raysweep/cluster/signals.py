"""SIGINT, SIGTERM and SIGHUP ask the program to save and end. A second SIGINT ends it at once.

A handler only notes the signal: it logs nothing, takes no lock and raises nothing, because it may run between any two
instructions of Ray, of a logger or of an import. Whoever can end well looks at the note: the training loop after each batch,
and :func:`check` at the safe points before and after it.

The command line calls :func:`install`. A thread then hears every signal too, even while the main thread is inside Ray's own
code, and ends the program where no safe point comes within ``GRACE_S``. What is committed is safe from that, as from a kill.
Programs that use the Python interface keep their own handlers, except while something trains.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from raysweep.errors import Interrupted

NUMBERS = tuple(getattr(signal, n) for n in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, n))
GRACE_S = 2.0  # how long a signal waits for a safe point
BEFORE = "before training began; nothing was lost"
DONE = "after everything was written; nothing is left to do"
SAME = "the same command"
CODE = 130


class StopFlag:
    """Why to stop: a signal's name, or None. Set by the signal's handler, read by the training loop."""

    def __init__(self) -> None:
        self.reason: str | None = None


@dataclass
class _State:
    """Of this process."""

    installed: bool = False
    quiet: bool = False  # the command makes nothing that one could go on with
    reason: str | None = None  # the first signal's name
    handled: bool = False  # whether the handler has run
    flags: list[StopFlag] = field(default_factory=list)  # of the trainings that run
    places: list[str | None] = field(
        default_factory=lambda: [BEFORE]
    )  # where the program is; None: it must not end here
    go_on: str = SAME  # what to type to go on
    whole: str | None = None  # and while what runs is a part of something
    at_end: list[Callable[[], None]] = field(default_factory=list)
    pipe: int = -1

    @property
    def last_line(self) -> str:
        line = f"Stopped by {self.reason} {self.places[-1] or BEFORE}."
        return line if self.places[-1] == DONE else f"{line} Go on with: {self.go_on}"


_state = _State()


def _note(number: int, frame: Any) -> None:
    """The handler."""
    # Not by the reason: the thread that listens may have set it already.
    again = _state.handled and number == signal.SIGINT
    _state.handled = True
    _state.reason = _state.reason or signal.Signals(number).name
    for flag in _state.flags:
        flag.reason = flag.reason or _state.reason
    if again:
        end_at_once()
    if _state.quiet and _state.installed and not again:
        raise KeyboardInterrupt


def install(quiet: bool = False) -> None:
    """Handle signals from now on until the process ends. For the main thread of the command line.

    A signal that the parent has told this process to ignore, as ``nohup`` does with SIGHUP, stays ignored.

    Args:
        quiet: signals raise KeyboardInterrupt: for commands that train nothing.
    """
    _state.installed, _state.quiet = True, quiet
    heard, pipe = os.pipe()
    for end in (heard, pipe):
        os.set_blocking(end, False)
    signal.set_wakeup_fd(pipe, warn_on_full_buffer=False)
    _set_handlers()
    os.register_at_fork(after_in_child=_of_a_fork)
    threading.Thread(target=_listen, args=(heard,), name="raysweep-signals", daemon=True).start()


def _set_handlers() -> dict[int, Any]:
    """Install :func:`_note`; returns the handlers of before."""
    before = {n: signal.getsignal(n) for n in NUMBERS}
    for number, old in before.items():
        if old is not signal.SIG_IGN or number == signal.SIGINT:
            signal.signal(number, _note)
    return before


def _of_a_fork() -> None:
    """A forked process is a helper: signals end it as they end any process, and it never speaks for its parent."""
    if _state.installed:
        _state.installed = False
        signal.set_wakeup_fd(-1)
        for number in NUMBERS:
            if signal.getsignal(number) is _note:
                signal.signal(number, signal.SIG_DFL)


def _listen(heard: int) -> None:
    """Ends the program where the main thread does not: on a second SIGINT, or without a safe point for ``GRACE_S``."""
    asked, since = False, 0.0
    while True:
        ready, _, _ = select.select([heard], [], [], 0.1 if asked else None)
        for number in os.read(heard, 64) if ready else b"":
            if number in NUMBERS:
                if asked and number == signal.SIGINT:
                    end_at_once()
                _state.reason = _state.reason or signal.Signals(number).name
                asked, since = True, since or time.monotonic()
        if asked and _state.places[-1] is None:
            since = time.monotonic()  # it saves; who does not want to wait presses Ctrl-C again
        elif asked and time.monotonic() - since > GRACE_S:
            leave(None if _state.quiet else _state.last_line)


_last_words = threading.Lock()  # never released


def end_at_once() -> None:
    """End the process within a signal's handler. Committed files stay intact."""
    more = "" if _state.go_on == SAME else f" Go on with: {_state.go_on}"
    leave(None if _state.quiet else f"\nStopped at once. The last committed checkpoint is intact.{more}")


def leave(line: str | None = None, code: int = CODE) -> None:
    """End this process and its helpers now, without the interpreter's own end, in which other threads could hang or crash."""
    text = "" if line is None else f"{line}\n"
    with contextlib.suppress(OSError):
        if os.isatty(2):
            text = f"\x1b[?25h{text}"  # a live display hides the cursor
        if _last_words.acquire(blocking=False):  # the handler and the thread that listens may both end the process
            os.write(2, text.encode())
            nowhere = os.open(os.devnull, os.O_WRONLY)
            for stream in (1, 2):  # what other threads say of helpers that end is nobody's business
                os.dup2(nowhere, stream)
    for action in _state.at_end:
        with contextlib.suppress(Exception):
            action()
    with contextlib.suppress(Exception):
        if (scratch := sys.modules.get("raysweep._scratch")) is not None:  # most commands have no temporary folder
            scratch.clean()
    os._exit(code)


def at_end(action: Callable[[], None]) -> None:
    """Call ``action`` when a signal ends the program: it ends helpers. It must not take locks."""
    _state.at_end.append(action)


def asked() -> str | None:
    """The name of the signal that has asked this program to end; None as long as none has."""
    return _state.reason if _state.installed else None


def last_line() -> str:
    """Where the program was stopped, and how to go on."""
    return _state.last_line


def check() -> None:
    """A safe point: end here if a signal has asked for it.

    Raises:
        Interrupted: it has, and nothing needs to be saved first.
    """
    if asked() and _state.places[-1] is not None and threading.current_thread() is threading.main_thread():
        raise Interrupted(_state.last_line, _state.reason)


def remember(go_on: str) -> None:
    """From now on the last line names ``go_on``, a command, as the way to go on, or that of the whole of which this is a part."""
    _state.go_on = _state.whole or go_on


@contextlib.contextmanager
def part_of(go_on: str) -> Iterator[None]:
    """What begins within this block is a part of what goes on with ``go_on``."""
    before, _state.whole = _state.whole, go_on
    remember(go_on)
    try:
        yield
    finally:
        _state.whole = before


def begun(go_on: str) -> None:
    """There is a folder from now on: except in places that say otherwise, the program ends where it has saved."""
    remember(go_on)
    _state.places[0] = None


def all_done() -> None:
    """From now on nothing is left to do."""
    _state.places[0] = DONE


@contextlib.contextmanager
def place(text: str | None) -> Iterator[None]:
    """Within this block the program may end as soon as a signal asks, and says that it was stopped at the place ``text``.

    With None it must not: the block looks at its flag, or is short and leaves something half made if it is cut.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _state.places.append(text)
    try:
        yield
    finally:
        _state.places.pop()


@contextlib.contextmanager
def signals(flag: StopFlag) -> Iterator[None]:
    """Within this block signals set ``flag``. Does nothing outside the main thread, where Python allows no handlers.

    The first signal sets the flag, also one that came before. A SIGINT after that ends the process at once with 130.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _state.flags.append(flag)
    flag.reason = flag.reason or asked()
    before = _set_handlers()
    try:
        with place(None):
            yield
    finally:
        _state.flags.remove(flag)
        for number, handler in before.items():
            signal.signal(number, handler)
        if not _state.installed and not _state.flags:
            _state.reason, _state.handled = None, False


@contextlib.contextmanager
def kept() -> Iterator[None]:
    """Put the handlers of before back at the end of this block, in which others may replace them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {n: signal.getsignal(n) for n in NUMBERS}
    try:
        yield
    finally:
        put_back(before)


def put_back(handlers: Mapping[int, Any] | None = None) -> None:
    """Install these handlers again, or those that Python knows of, also where Python believes that they are installed: Ray's
    library replaces the handler of SIGTERM when it starts, and takes every handler away when it ends, and Python hears of
    neither."""
    if threading.current_thread() is threading.main_thread():
        for number, handler in ({n: signal.getsignal(n) for n in NUMBERS} if handlers is None else handlers).items():
            if handler is not None:  # of a handler that was not installed from Python it knows nothing
                signal.signal(number, handler)
