"""What the displays of running commands share. On a terminal they redraw stderr's last lines; elsewhere they print lines."""

from __future__ import annotations

import shutil
import time
from typing import Any, Self

from raysweep import _machine
from raysweep._text import hide_credentials, plain
from raysweep.display.terminal import is_terminal, say, wrapped
from raysweep.events import Connected, Event, Note


class Display:
    """Call it with events; it ignores kinds that it does not know."""

    def __init__(self) -> None:
        self.live: Any = None  # rich's display, if stderr is a terminal
        self.started = time.monotonic()
        self.told_busy = False
        self.told_once: set[str] = set()

    def __enter__(self) -> Self:
        if is_terminal():
            from rich.console import Console

            self.live = self._make_live(Console(stderr=True, highlight=False))
            self.live.start()
        return self

    def _make_live(self, console: Any) -> Any:
        raise NotImplementedError

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Remove the lines that are redrawn."""
        if self.live is not None:
            self.live.stop()
            self.live = None

    def __call__(self, event: Event) -> None:
        match event:
            case Connected():
                if event.dashboard:
                    self._line(event.dashboard)
                self._line(f"Ray's log files: {event.logs}")
            case Note(text) if self._is_new(event):
                self._line(hide_credentials(plain(text)))

    def _is_new(self, note: Note) -> bool:
        """Whether a note is to be shown: some only the first time."""
        if note.once and note.text in self.told_once:
            return False
        if note.once:
            self.told_once.add(note.text)
        return True

    def _busy(self) -> None:
        """Say once that this machine, on which the training will run, is busy with other work."""
        if not self.told_busy and (text := _machine.busy()) is not None:
            self._line(text)
        self.told_busy = True

    def _line(self, text: str) -> None:
        if self.live is not None:
            from rich.text import Text

            self.live.console.print(Text(wrapped(text, shutil.get_terminal_size().columns)), soft_wrap=True)
        else:
            say(text)
