"""Saving in the background: takes a snapshot of the state, which a thread writes while the next epoch runs.

At most one save runs at a time, so one set of buffers is enough and commits keep their order. The training thread reports the
event of a save only after its commit, so whoever receives the event of an epoch finds the epoch in the folder.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import torch

from raysweep.events import Event, Progress

T = TypeVar("T")
_Kind = tuple[bool, torch.dtype, torch.Size, tuple[int, ...]]  # whether it is on a GPU, its dtype, shape and strides
_PLAIN = {int, float, bool, str, type(None)}  # the types of most values in an optimizer's state
_new_cuda_event: Callable[[], torch.cuda.Event] = torch.cuda.Event


class Snapshot:
    """Copies nested dicts and lists. Their tensors are copied into buffers in CPU memory, which the next call uses again.

    Copies from a GPU are only queued, into page-locked memory: call :meth:`wait` before reading them. Kernels that the
    training queues later run after the copies.
    """

    def __init__(self) -> None:
        self._buffers: list[torch.Tensor] = []
        self._kinds: list[_Kind] = []
        self._copied: torch.cuda.Event | None = None

    def take(self, value: Any) -> Any:
        """A copy of ``value`` as it is now. It is valid until the next call.

        Only dicts, lists, tuples (which become lists) and tensors are copied; other values are passed on.
        """
        form, sources, kinds = self._outline(value)
        if kinds != self._kinds:
            self._buffers = [torch.empty_like(t, device="cpu", pin_memory=t.is_cuda) for t in sources]
            self._kinds = kinds
            form, sources, _ = self._outline(value)
        with torch.no_grad():
            if any(kind[0] for kind in kinds):
                for buffer, tensor in zip(self._buffers, sources, strict=True):
                    buffer.copy_(tensor, non_blocking=True)
                self._copied = _new_cuda_event()
                self._copied.record()
            elif sources:
                torch._foreach_copy_(self._buffers, sources)
        return form

    def _outline(self, value: Any) -> tuple[Any, list[torch.Tensor], list[_Kind]]:
        """(``value`` with buffers in place of its tensors, these tensors, their kinds).

        This is a single pass, because the training stands still during it. Where the kinds differ from those of the buffers,
        the first result is of no use.
        """
        sources: list[torch.Tensor] = []
        kinds: list[_Kind] = []
        places: dict[int, int] = {}  # address → index in sources: tensors that share their memory are copied once
        views: dict[tuple[int, _Kind], int] = {}  # the same for tensors of another kind at a known address
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
        """Wait until the copies of the last :meth:`take` are complete."""
        if self._copied is not None:
            self._copied.synchronize()


class BackgroundSaver:
    """Runs one save at a time in a thread of its own.

    Args:
        report: receives the event of each committed save, in the thread that calls the methods of this object.
    """

    def __init__(self, report: Progress) -> None:
        self._report = report
        self._snapshot = Snapshot()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="raysweep-save")
        self._running: Future[Event] | None = None
        self._began = 0.0

    def begin(self) -> None:
        """Call this before :meth:`take`. It waits for the previous save, which reads the buffers of the snapshot.

        Raises:
            StoreError: the previous save failed.
        """
        self._began = time.perf_counter()
        self.flush()

    def take(self, value: Any) -> Any:
        """A snapshot of ``value`` for the next save; see :class:`Snapshot`."""
        return self._snapshot.take(value)

    def submit(self, save: Callable[[], T], event: Callable[[T, float, float], Event]) -> None:
        """Run ``save`` in the background while the training continues.

        Args:
            save: writes and commits a checkpoint.
            event: makes the event to report from the result of ``save``, the seconds that the save took, and the seconds for
                which the training stood still since :meth:`begin`.
        """
        blocked = time.perf_counter() - self._began

        def timed() -> Event:
            self._snapshot.wait()
            began = time.perf_counter()
            done = save()
            return event(done, time.perf_counter() - began, blocked)

        self._running = self._pool.submit(timed)

    def poll(self) -> None:
        """Report the save if it has been committed. Never waits. Raises as :meth:`begin` does."""
        if self._running is not None and self._running.done():
            self.flush()

    def flush(self) -> None:
        """Wait until the running save is committed, and report it. Raises as :meth:`begin` does."""
        if self._running is not None:
            running, self._running = self._running, None
            self._report(running.result())

    def close(self) -> None:
        """Wait for the running save, ignore its errors, and end the thread."""
        self._pool.shutdown(wait=True)
