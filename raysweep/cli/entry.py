"""The program's first and last lines: signals and streams are taken care of before anything else is imported."""

from __future__ import annotations

import atexit
import contextlib
import gc
import os
import signal
import sys
from collections.abc import Callable
from typing import NoReturn

from raysweep.cluster import signals
from raysweep.display import streams

TRAINS = ("run", "resume", "branch", "hunt", "continue", "demo", "resume-experiment")


def _leave_when_done() -> Callable[[object], NoReturn]:
    """``sys.exit``, but nothing follows the functions of :mod:`atexit`: threads of libraries, Ray's among them, may crash a process
    whose interpreter and statics are taken down under them, and a finished training would end with -11.

    Call it before anything is imported: what is registered first runs last.
    """
    pid, codes = os.getpid(), list[int]()

    def leave() -> None:
        if codes and os.getpid() == pid:
            for stream in (sys.stdout, sys.stderr):
                with contextlib.suppress(OSError, ValueError, AttributeError):  # closed, or the reader is gone
                    stream.flush()
            os._exit(codes[-1])

    def end(code: object) -> NoReturn:
        if code is None or isinstance(code, int):
            codes.append((code or 0) & 0xFF)
        sys.exit(code)  # type: ignore[arg-type]

    atexit.register(leave)
    return end


def entry() -> None:
    """Run the command of the command line and end the process."""
    end = _leave_when_done()
    word = next((a for a in sys.argv[1:] if not a.startswith("-")), "")
    trains = word in TRAINS
    streams.open_closed()
    signals.install(quiet=not trains)
    streams.make_steady(strict_output=not trains)
    code: object = 0
    try:
        gc.disable()  # while importing nothing becomes garbage
        from raysweep.cli.main import main

        gc.enable()
        main()
    except SystemExit as error:
        code = error.code
    except KeyboardInterrupt:  # while this program was still being imported
        code = signals.CODE
    except Exception:
        if signals.asked() is None:
            raise
        # Who ends this program may have ended its helpers, too, and what they leave behind is no error of its own.
    reason = signals.asked()
    if reason is None:
        for (
            number
        ) in signals.NUMBERS:  # the work is done, and what a signal could still cut is the interpreter's own end
            signal.signal(number, signal.SIG_IGN)
        streams.release()
        end(code)
    with_line = trains and code in (0, None)
    streams.release()
    signals.leave(signals.last_line() if with_line else None)


if __name__ == "__main__":
    entry()
