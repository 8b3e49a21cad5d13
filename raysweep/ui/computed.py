"""What takes seconds to compute, kept in memory as long as the folders that it was computed from have not changed."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

MOST = 8  # results; one of a large sweep has some megabytes

_T = TypeVar("_T")


class Computed:
    """Results by what they are, each with the state that it was computed from. Two who ask for the same wait for one computation;
    one result may be made of another."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._kept: OrderedDict[Hashable, tuple[Hashable, Any]] = OrderedDict()
        self._lock = threading.RLock()

    def get(self, key: Hashable, state: Hashable, make: Callable[[], _T]) -> _T:
        """The result of ``make``, of now or of the same state before."""
        with self._lock:
            if key in self._kept and self._kept[key][0] == state:
                self._kept.move_to_end(key)
                kept: _T = self._kept[key][1]
                return kept
            made = make()
            self._kept[key] = (state, made)
            self._kept.move_to_end(key)
            while len(self._kept) > self._most:
                self._kept.popitem(last=False)
            return made
