"""SIGINT and SIGTERM: ask the training to stop after its batch and to save; a second SIGINT leaves at once."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any


class StopFlag:
    """Why to stop, if asked; set by a signal, read by the training loop."""

    def __init__(self) -> None:
        self.reason: str | None = None


@contextlib.contextmanager
def signals(flag: StopFlag, forward: Callable[[str], None] | None = None) -> Iterator[None]:
    """SIGINT or SIGTERM once: ask to stop after this batch. SIGINT again: leave at once (committed files stay whole)."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, frame: Any) -> None:
        if flag.reason is not None and number == signal.SIGINT:
            os.write(2, b"\nLeaving at once; the last committed checkpoint is intact.\n")
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
