"""What a pickle would do, found out without doing it: which functions it calls and how much memory it declares.

``torch.load(weights_only=True)`` runs nothing foreign, but it still calls what can take all memory or a day: ``bytearray(10**9)``,
slow codecs, tensors of any size without data. So a file is first followed with :mod:`pickletools`, instruction by instruction,
and only what a checkpoint needs is let through. Everything not named here is refused.
"""

from __future__ import annotations

import pickletools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol

from raysweep._text import truncate
from raysweep.errors import CheckpointError

# Bytes of one element.
_STORAGES = {
    **{f"torch {kind}Storage": 1 for kind in ("Byte", "Char", "Bool")},
    **{f"torch {kind}Storage": 2 for kind in ("Short", "Half", "BFloat16")},
    **{f"torch {kind}Storage": 4 for kind in ("Int", "Float")},
    **{f"torch {kind}Storage": 8 for kind in ("Long", "Double", "ComplexFloat")},
    "torch ComplexDoubleStorage": 16,
    "torch.storage UntypedStorage": 1,
}
_TYPES = {
    *(f"torch {kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)),
    *("torch bool", "torch bfloat16", "torch float16", "torch float32", "torch float64"),
    *("torch complex64", "torch complex128", "torch float8_e4m3fn", "torch float8_e5m2"),
}
_CALLED = {
    *("collections OrderedDict", "torch Size", "torch device", "torch._utils _rebuild_parameter"),
    *("torch._utils _rebuild_tensor", "torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_tensor_v3"),
}
_NUMPY = {"numpy.core.multiarray scalar", "numpy._core.multiarray scalar", "numpy dtype", "_codecs encode"}

# What a pickle may name: tensors and plain values.
PLAIN = frozenset({*_STORAGES, *_TYPES, *_CALLED})
# The same and numpy's scalars, which the old system wrote. torch itself admits them only within ``safe_globals``.
LEGACY = PLAIN | _NUMPY

_NOT_DENSE = {
    *("torch._utils _rebuild_sparse_tensor", "torch.serialization _get_layout"),
    "torch._utils _rebuild_meta_tensor_no_storage",
}
_MOST_STEPS = 20_000_000
_MOST_HASHED = 50_000_000  # a tuple of tuples of … takes a few bytes, and ages to hash
_DEEP = 50


def unsafe(path: str | Path, what: str) -> CheckpointError:
    return CheckpointError(
        f"{truncate(path)} holds Python objects that could run code, so it was not loaded ({truncate(what, 200)}). "
        "Only tensors, numbers, texts, lists and dicts are accepted."
    )


def damaged(path: str | Path, what: object) -> CheckpointError:
    return CheckpointError(
        f"{truncate(path)} is damaged or not a checkpoint ({truncate(what, 200)}). Take another checkpoint."
    )


class Source(Protocol):
    """A file as :mod:`pickletools` reads it."""

    def read(self, size: int, /) -> bytes: ...
    def readline(self) -> bytes: ...
    def tell(self) -> int: ...


def check(pickles: Iterable[Source], size: int, path: str | Path, allowed: frozenset[str] = PLAIN) -> None:
    """Follow the pickles of a file of ``size`` bytes; each source is left behind its pickle.

    Raises:
        CheckpointError: a pickle names, calls or declares what no checkpoint needs, or is none.
    """
    storages: dict[Any, int] = {}
    for source in pickles:
        try:
            _Machine(path, allowed, storages).follow(source)
        except (ValueError, IndexError, KeyError, TypeError, MemoryError, OverflowError) as error:
            raise damaged(path, error if str(error) else type(error).__name__) from None
    declared = sum(storages.values())
    if declared > size:
        raise damaged(path, f"it declares tensors of {declared:,} bytes, and has {size:,}")


class _Name(str):
    """Something that a pickle names."""


class _Made(str):
    """What a call returned; the text is what was called."""


class _Tuple(tuple[Any, ...]):
    """With the values it would have if it were written out, and its levels."""

    values: int
    levels: int


_OTHER = object()  # a list or a dict
_ENDLESS = object()  # a tuple that nobody may hash


class _Machine:
    """Does with signs what an unpickler does with objects. The instructions are those that torch knows."""

    def __init__(self, path: str | Path, allowed: frozenset[str], storages: dict[Any, int]) -> None:
        self.path, self.allowed, self.storages = path, allowed, storages
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.hashed = 0

    def follow(self, source: Source) -> None:
        steps: Iterator[tuple[Any, Any, Any]] = pickletools.genops(source)  # type: ignore[arg-type]
        for count, (instruction, argument, _) in enumerate(steps):
            if count > _MOST_STEPS:
                raise ValueError(f"a pickle of more than {_MOST_STEPS:,} instructions")
            self.step(instruction.name, argument)

    def step(self, name: str, argument: Any) -> None:
        stack = self.stack
        if name in ("BINPUT", "LONG_BINPUT"):
            self.memo[argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(self.memo[argument])
        elif name in _CONSTANTS:
            stack.append(argument if name not in ("NEWTRUE", "NEWFALSE") else name == "NEWTRUE")
        elif name in ("EMPTY_LIST", "EMPTY_DICT"):
            stack.append(_OTHER)
        elif name == "MARK":
            self.below.append(stack)
            self.stack = []
        elif name in _TUPLES:
            count = _TUPLES[name]
            items = self.above_mark() if count < 0 else [stack.pop() for _ in range(count)][::-1]
            self.stack.append(_tuple(items))
        elif name in ("APPENDS", "SETITEMS"):
            self.put(*self.above_mark())
        elif name == "APPEND":
            self.put(stack.pop())
        elif name == "SETITEM":
            self.put(stack.pop(), stack.pop())
        elif name == "GLOBAL":
            stack.append(self.named(argument))
        elif name == "REDUCE":
            arguments = stack.pop()
            self.put(arguments)
            stack[-1] = self.called(stack[-1], arguments)
        elif name == "BUILD":
            self.put(stack.pop())
            if stack[-1] not in ("collections OrderedDict", "numpy dtype") or type(stack[-1]) is not _Made:
                raise unsafe(self.path, "unsupported change of an object")
        elif name == "BINPERSID":
            stack.append(self.storage(stack.pop()))
        elif name not in ("PROTO", "STOP"):
            raise ValueError(f"the instruction {name} is not one of a checkpoint")

    def above_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.below.pop()
        return items

    def put(self, *values: Any) -> None:
        """These values go into something that may hash them."""
        for value in values:
            self.hashed += value.values if type(value) is _Tuple else 1
            if value is _ENDLESS or self.hashed > _MOST_HASHED:
                raise ValueError("tuples that are nested very deep, or hold one another many times over")

    def named(self, name: str) -> _Name:
        if name in _NOT_DENSE:
            raise CheckpointError(
                f"{truncate(self.path)} holds a tensor that is not dense, which no checkpoint of a training has; it was not loaded."
            )
        if name not in self.allowed:
            raise unsafe(self.path, f"unsupported global {name.replace(' ', '.', 1)}")
        return _Name(name)

    def called(self, what: Any, arguments: Any) -> _Made:
        if type(what) is not _Name or what not in _CALLED | _NUMPY or type(arguments) is not _Tuple:
            raise unsafe(self.path, f"unsupported call of {what if isinstance(what, str) else type(what).__name__}")
        if what == "_codecs encode":  # bytes; some codecs take hours
            text, *codec = arguments
            if codec != ["latin1"] or type(text) is not str or len(text) > 64:
                raise unsafe(self.path, "unsupported bytes")
        if what == "numpy dtype" and not (
            type(arguments[0]) is str and len(arguments[0]) <= 3
        ):  # "f8", not "(999,999)f8"
            raise unsafe(self.path, "unsupported type of a number")
        return _Made(what)

    def storage(self, told: Any) -> Any:
        """What stands for the data of tensors: ("storage", type, key, where it was, number of elements, …)."""
        self.put(told)
        word, kind, key, _, count = told[:5]
        if word != "storage" or type(kind) is not _Name or type(key) not in (str, int) or type(count) is not int:
            raise ValueError("a reference to something else than the data of tensors")
        if count < 0:
            raise ValueError("a negative number of elements")
        self.storages[key] = max(self.storages.get(key, 0), count * _STORAGES[kind])
        return _OTHER


_CONSTANTS = {
    *("NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1"),
    *("BINFLOAT", "BINUNICODE", "SHORT_BINSTRING"),
}
_TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3, "TUPLE": -1}


def _tuple(items: list[Any]) -> Any:
    made = _Tuple(items)
    inner = [item for item in items if type(item) is _Tuple]
    made.values = 1 + len(items) + sum(item.values for item in inner)
    made.levels = 1 + max((item.levels for item in inner), default=0)
    endless = any(item is _ENDLESS for item in items) or made.values > _MOST_HASHED or made.levels > _DEEP
    return _ENDLESS if endless else made
