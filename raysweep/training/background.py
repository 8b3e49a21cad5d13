"""Saving behind the training's back: a snapshot of the state, and one thread that writes it while the next epoch runs.

At most one save is under way, so one set of buffers is enough, and commits keep their order. Events of a save are told by
the training thread once its commit is done: whoever hears of an epoch finds it in the folder.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import torch

from raysweep.events import Event, Progress

T = TypeVar("T")
_Kind = tuple[bool, torch.dtype, torch.Size, tuple[int, ...]]  # on a GPU, and how it lies in memory
_PLAIN = {int, float, bool, str, type(None)}  # most of an optimizer's state, number by number


class Snapshot:
    """Copies of nested dicts and lists, their tensors in CPU memory that is used again at the next call.

    From a GPU the copies go to page-locked memory and are only queued: :meth:`wait` before they are read. Whatever the
    training queues afterwards comes after them.
    """

    def __init__(self) -> None:
        self._buffers: list[torch.Tensor] = []
        self._kinds: list[_Kind] = []
        self._copied: torch.cuda.Event | None = None

    def take(self, value: Any) -> Any:
        """A copy of ``value`` as it is now. It is valid until the next call."""
        form, sources, kinds = self._outline(value)
        if kinds != self._kinds:
            self._buffers = [torch.empty_like(t, device="cpu", pin_memory=t.is_cuda) for t in sources]
            self._kinds = kinds
            form, sources, _ = self._outline(value)
        with torch.no_grad():
            if any(kind[0] for kind in kinds):
                for buffer, tensor in zip(self._buffers, sources, strict=True):
                    buffer.copy_(tensor, non_blocking=True)
                self._copied = torch.cuda.Event()
                self._copied.record()
            elif sources:
                torch._foreach_copy_(self._buffers, sources)
        return form

    def _outline(self, value: Any) -> tuple[Any, list[torch.Tensor], list[_Kind]]:
        """``value`` with the buffers in its tensors' places, these tensors, and of which kind they are.

        The training stands still meanwhile, so it is one pass; where the kinds turn out to be others than the buffers were
        made for, its form is worth nothing.
        """
        sources: list[torch.Tensor] = []
        kinds: list[_Kind] = []
        places: dict[int, int] = {}  # tensors that share their memory stay one
        views: dict[tuple[int, _Kind], int] = {}  # of memory that another kind of tensor has, too
        buffers, have = self._buffers, len(self._buffers)

        def outline(part: Any) -> Any:
            if type(part) in _PLAIN:
                return part
            if isinstance(part, torch.Tensor):
                kind = part.is_cuda, part.dtype, part.shape, part.stride()
                pointer = part.data_ptr()
                place = places.setdefault(pointer, len(sources)) if pointer else len(sources)
                if place < len(sources) and kinds[place] != kind:
                    place = views.setdefault((pointer, kind), len(sources))
                if place == len(sources):
                    sources.append(part.detach() if part.requires_grad else part)
                    kinds.append(kind)
                return buffers[place] if place < have else None
            if type(part) is dict or isinstance(part, Mapping):
                return {k: outline(v) for k, v in part.items()}
            return list(map(outline, part)) if isinstance(part, (list, tuple)) else part

        return outline(value), sources, kinds

    def wait(self) -> None:
        """Return once the copies of the last :meth:`take` are complete."""
        if self._copied is not None:
            self._copied.synchronize()


class BackgroundSaver:
    """Runs one save at a time in a thread of its own.

    Args:
        tell: where the event of a committed save goes; it is called by the thread that calls this object's methods.
    """

    def __init__(self, tell: Progress) -> None:
        self._tell = tell
        self._snapshot = Snapshot()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="raysweep-save")
        self._running: Future[Event] | None = None
        self._began = 0.0

    def begin(self) -> None:
        """Call before a snapshot is taken: waits for the save before, whose buffers will be used again.

        Raises:
            StoreError: that save failed.
        """
        self._began = time.perf_counter()
        self.flush()

    def take(self, value: Any) -> Any:
        """A snapshot of ``value``, which the next save may read; see :class:`Snapshot`."""
        return self._snapshot.take(value)

    def submit(self, save: Callable[[], T], event: Callable[[T, float, float], Event]) -> None:
        """Run ``save``, which commits, while the training goes on.

        Args:
            event: makes the event to tell of what ``save`` returned, of the seconds that the save took, and of the seconds
                for which the training stood still since :meth:`begin`.
        """
        blocked = time.perf_counter() - self._began

        def timed() -> Event:
            self._snapshot.wait()
            began = time.perf_counter()
            done = save()
            return event(done, time.perf_counter() - began, blocked)

        self._running = self._pool.submit(timed)

    def poll(self) -> None:
        """Tell what is committed meanwhile. Raises as :meth:`begin` does; costs nothing while a save is under way."""
        if self._running is not None and self._running.done():
            self.flush()

    def flush(self) -> None:
        """Wait until everything is committed, and tell it. Raises as :meth:`begin` does."""
        if self._running is not None:
            running, self._running = self._running, None
            self._tell(running.result())

    def close(self) -> None:
        """Let the save under way end, whatever becomes of it, and end the thread."""
        self._pool.shutdown(wait=True)
