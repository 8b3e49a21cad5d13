"""Tells the open pages that something has changed: looks at the folders twice a second while a page is open, and never otherwise."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Executor
from dataclasses import dataclass, field

from raysweep.errors import RaysweepError
from raysweep.store.experiment import RUNNING
from raysweep.ui.listing import Listing

TICK = 0.5  # seconds


@dataclass(eq=False)
class Reader:
    """An open page: what it shows, and whether there is news. With neither an experiment nor a sweep it shows a list."""

    experiment: str = ""
    sweep: str = ""  # the id under which it was made
    news: asyncio.Event = field(default_factory=asyncio.Event)
    ended: bool = False  # whether something that it shows has begun or ended since it was told last

    def told(self) -> str:
        """The news as JSON, for the page; they are then no news any more."""
        text = json.dumps({"ended": self.ended})
        self.news.clear()
        self.ended = False
        return text


class Watch:
    """The open pages, and the one who looks for them."""

    def __init__(self, listing: Listing, pool: Executor) -> None:
        self.listing, self.pool = listing, pool
        self.readers: set[Reader] = set()
        self._somebody = asyncio.Event()

    @contextlib.contextmanager
    def reading(self, reader: Reader) -> Iterator[Reader]:
        """While a page is open."""
        self.readers.add(reader)
        self._of_readers()
        try:
            yield reader
        finally:
            self.readers.discard(reader)
            self._of_readers()

    def _of_readers(self) -> None:
        self.listing.watched = Counter(r.experiment for r in self.readers if r.experiment)
        if self.readers:
            self._somebody.set()
        else:
            self._somebody.clear()

    async def run(self) -> None:
        """Look, for ever. What cannot be read now is looked at again later; the pages themselves say what is wrong."""
        loop = asyncio.get_running_loop()
        while True:
            await self._somebody.wait()
            before = self.listing.lines
            with contextlib.suppress(RaysweepError, OSError):
                changed = await loop.run_in_executor(self.pool, self.listing.look)
                if changed:
                    self._tell(changed, {i for i in changed if _state(before, i) != _state(self.listing.lines, i)})
            await asyncio.sleep(TICK)

    def _tell(self, changed: set[str], ended: set[str]) -> None:
        sweeps = {line.sweep for i in changed if (line := self.listing.lines.get(i)) is not None}
        sweeps_ended = {line.sweep for i in ended if (line := self.listing.lines.get(i)) is not None}
        for reader in self.readers:
            if reader.experiment and reader.experiment not in changed:
                continue
            if reader.sweep and reader.sweep not in sweeps:
                continue
            reader.ended |= reader.experiment in ended if reader.experiment else reader.sweep in sweeps_ended
            reader.news.set()


def _state(lines: object, name: str) -> bool | None:
    """Whether an experiment runs; None if it is not there."""
    found = lines.get(name) if isinstance(lines, dict) else None
    return None if found is None else found.status == RUNNING
