"""SIGINT and SIGTERM ask the training to save and stop after its current batch. A second SIGINT ends the process at once."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any


class StopFlag:
    """Why to stop: a signal's name, or None. Set by the signal's handler, read by the training loop."""

    def __init__(self) -> None:
        self.reason: str | None = None


@contextlib.contextmanager
def signals(flag: StopFlag, forward: Callable[[str], None] | None = None) -> Iterator[None]:
    """Handle SIGINT and SIGTERM within this block. Does nothing outside the main thread, where Python allows no handlers.

    The first signal sets ``flag``. A SIGINT after that ends the process at once with 130; committed files stay intact.

    Args:
        forward: called in the handler with the signal's name.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, frame: Any) -> None:
        if flag.reason is not None and number == signal.SIGINT:
            os.write(2, b"\nStopped at once. The last committed checkpoint is intact.\n")
            os._exit(130)
        flag.reason = signal.Signals(number).name
        if forward is not None:
            forward(flag.reason)

    old = {s: signal.signal(s, handle) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for s, handler in old.items():
            signal.signal(s, handler)
