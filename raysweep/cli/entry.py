"""The program's first and last lines: signals and streams are taken care of before anything else is imported."""

from __future__ import annotations

import gc
import signal
import sys

from raysweep.cluster import signals
from raysweep.display import streams

TRAINS = ("run", "resume", "branch", "hunt", "continue", "demo", "resume-experiment")


def entry() -> None:
    """Run the command of the command line and end the process."""
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
        # Triton, which may come with torch, complains of 500 leaks where its objects are frozen.
        if "torch" not in sys.modules:
            gc.freeze()  # else the interpreter, when it ends, looks for garbage among all objects: 0.1 s after a `list`
        sys.exit(code)  # type: ignore[arg-type]
    with_line = trains and code in (0, None)
    streams.release()
    signals.leave(signals.last_line() if with_line else None)


if __name__ == "__main__":
    entry()
