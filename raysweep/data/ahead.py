"""Work of threads on many things, of which only a few are in memory at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

A = TypeVar("A")
B = TypeVar("B")
_EACH = 4  # things for each thread that wait or are done


def mapped(pool: ThreadPoolExecutor, function: Callable[[A], B], things: Iterable[A]) -> Iterator[B]:
    """As ``pool.map``, in the order of the things; which it asks for only as far as they are needed."""
    most = _EACH * pool._max_workers
    waiting: deque[Future[B]] = deque()
    try:
        for thing in things:
            waiting.append(pool.submit(function, thing))
            if len(waiting) >= most:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for left in waiting:
            left.cancel()
