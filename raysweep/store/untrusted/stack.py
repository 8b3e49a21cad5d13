"""The stack, the marks and the memory of a pickle that is followed instead of run; what each instruction means is the reader's."""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol, Self

_MOST_STEPS = 20_000_000


class Source(Protocol):
    """A file as :mod:`pickletools` reads it."""

    def read(self, size: int, /) -> bytes: ...
    def readline(self) -> bytes: ...
    def tell(self) -> int: ...


class Stack:
    """What an unpickler keeps. Each method for an instruction takes the instruction's argument."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def run(self, source: Source, instructions: Mapping[str, Callable[[Self, Any], None]]) -> None:
        """Follow one pickle to its end, by the instructions that are accepted.

        Raises:
            ValueError, IndexError, KeyError, TypeError: it is no valid pickle, or has other instructions, or too many.
        """
        steps: Iterator[tuple[Any, Any, Any]] = pickletools.genops(source)  # type: ignore[arg-type]
        for count, (instruction, argument, _) in enumerate(steps):
            if count > _MOST_STEPS:
                raise ValueError(f"a pickle of more than {_MOST_STEPS:,} instructions")
            action = instructions.get(instruction.name)
            if action is None:
                raise ValueError(f"the instruction {instruction.name} is not one of a checkpoint")
            action(self, argument)

    def skip(self, _: Any) -> None:
        pass

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def mark(self, _: Any) -> None:
        self.below.append(self.stack)
        self.stack = []

    def above_mark(self) -> list[Any]:
        """Take everything above the last mark from the stack."""
        items, self.stack = self.stack, self.below.pop()
        return items

    def remember(self, key: int) -> None:
        self.memo[key] = self.stack[-1]

    def recall(self, key: int) -> None:
        self.stack.append(self.memo[key])

    def popped(self, count: int) -> list[Any]:
        """Take the last values from the stack, in the order in which they were put there."""
        return [self.stack.pop() for _ in range(count)][::-1]
