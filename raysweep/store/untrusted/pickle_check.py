"""Check a pickle without running it: which functions it would call, and how much memory it declares.

``torch.load(weights_only=True)`` runs no foreign code, but it still makes calls that can use up all memory or take a day:
``bytearray(10**9)``, slow codecs, tensors of any size without data. So each file is first followed with :mod:`pickletools`,
instruction by instruction. Only what a checkpoint needs is accepted; everything that is not named here is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from raysweep._text import truncate
from raysweep.errors import CheckpointError
from raysweep.store.untrusted.stack import Source, Stack

# Kinds of the data of tensors → bytes of one element.
STORAGES = {
    **{f"torch {kind}Storage": 1 for kind in ("Byte", "Char", "Bool")},
    **{f"torch {kind}Storage": 2 for kind in ("Short", "Half", "BFloat16")},
    **{f"torch {kind}Storage": 4 for kind in ("Int", "Float")},
    **{f"torch {kind}Storage": 8 for kind in ("Long", "Double", "ComplexFloat")},
    "torch ComplexDoubleStorage": 16,
    "torch.storage UntypedStorage": 1,
}
TYPES = {
    *(f"torch {kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)),
    *("torch bool", "torch bfloat16", "torch float16", "torch float32", "torch float64"),
    *("torch complex64", "torch complex128", "torch float8_e4m3fn", "torch float8_e5m2"),
}
_CALLED = {
    *("collections OrderedDict", "torch Size", "torch device", "torch._utils _rebuild_parameter"),
    *("torch._utils _rebuild_tensor", "torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_tensor_v3"),
}
_NUMPY = {"numpy.core.multiarray scalar", "numpy._core.multiarray scalar", "numpy dtype", "_codecs encode"}

# The names that a pickle may contain: tensors and plain values.
PLAIN = frozenset({*STORAGES, *TYPES, *_CALLED})
# The same with NumPy's scalars, which the old system wrote. torch itself accepts them only within ``safe_globals``.
LEGACY = PLAIN | _NUMPY

_NOT_DENSE = {
    *("torch._utils _rebuild_sparse_tensor", "torch.serialization _get_layout"),
    "torch._utils _rebuild_meta_tensor_no_storage",
}
_MOST_HASHED = 50_000_000  # nested tuples take a few bytes, but can take for ever to hash
_DEEP = 50


def unsafe(path: str | Path, what: str) -> CheckpointError:
    """The error for a file that contains more than tensors and plain values; ``what`` names the first such thing."""
    return CheckpointError(
        f"{truncate(path)} holds Python objects that could run code, so it was not loaded ({truncate(what, 200)}). "
        "Only tensors, numbers, texts, lists and dicts are accepted. Take another checkpoint, or save only these."
    )


def damaged(path: str | Path, what: object) -> CheckpointError:
    """The error for a file that is no valid checkpoint; ``what`` says why."""
    return CheckpointError(
        f"{truncate(path)} is damaged or not a checkpoint ({truncate(what, 200)}). Take another checkpoint."
    )


def check(pickles: Iterable[Source], size: int, path: str | Path, allowed: frozenset[str] = PLAIN) -> None:
    """Follow the pickles of a file of ``size`` bytes. Afterwards each source is at the end of its pickle.

    Raises:
        CheckpointError: a pickle is damaged, or names, calls or declares something that no checkpoint needs.
    """
    storages: dict[Any, int] = {}
    for source in pickles:
        try:
            _Machine(path, allowed, storages).follow(source)
        except (ValueError, IndexError, KeyError, TypeError, MemoryError, OverflowError) as error:
            raise damaged(path, error if str(error) else type(error).__name__) from None
    declared = sum(storages.values())
    if declared > size:
        raise damaged(path, f"it declares tensors of {declared:,} bytes, but the file has {size:,}")


class _Name(str):
    """A function or a type that a pickle names."""


class _Made(str):
    """The result of a call; the text is the name of the called function."""


class _Tuple(tuple[Any, ...]):
    """A tuple that knows how large it is."""

    values: int  # in it and in all tuples in it, each counted as often as it occurs
    levels: int  # of nesting


_OTHER = object()  # a list or a dict
_ENDLESS = object()  # a tuple that is too large or too deep to hash


class _Machine(Stack):
    """Follows a pickle like an unpickler, but with placeholders for objects.

    ``_INSTRUCTIONS`` lists the instructions that it accepts: those that torch's own restricted unpickler knows.
    """

    def __init__(self, path: str | Path, allowed: frozenset[str], storages: dict[Any, int]) -> None:
        super().__init__()
        self.path, self.allowed, self.storages = path, allowed, storages
        self.hashed = 0

    def follow(self, source: Source) -> None:
        """Follow one pickle to its end.

        Raises:
            CheckpointError: it names or calls something that no checkpoint needs.
            ValueError, IndexError, KeyError, TypeError: it is no valid pickle, or has instructions that no checkpoint has.
        """
        self.run(source, _INSTRUCTIONS)

    # One method per kind of instruction; each takes the instruction's argument.

    def push_true(self, _: Any) -> None:
        self.stack.append(True)

    def push_false(self, _: Any) -> None:
        self.stack.append(False)

    def push_container(self, _: Any) -> None:
        self.stack.append(_OTHER)

    def tuple_of_marked(self, _: Any) -> None:
        items = self.above_mark()
        self.stack.append(_tuple(items))

    def tuple_of(self, count: int) -> None:
        self.stack.append(_tuple(self.popped(count)))

    def put_marked(self, _: Any) -> None:
        self.put(*self.above_mark())

    def put_value(self, _: Any) -> None:
        self.put(self.stack.pop())

    def put_pair(self, _: Any) -> None:
        self.put(self.stack.pop(), self.stack.pop())

    def name(self, name: str) -> None:
        self.stack.append(self.named(name))

    def call(self, _: Any) -> None:
        arguments = self.stack.pop()
        self.put(arguments)
        self.stack[-1] = self.called(self.stack[-1], arguments)

    def change(self, _: Any) -> None:
        self.put(self.stack.pop())
        if self.stack[-1] not in ("collections OrderedDict", "numpy dtype") or type(self.stack[-1]) is not _Made:
            raise unsafe(self.path, "unsupported change of an object")

    def refer(self, _: Any) -> None:
        self.stack.append(self.storage(self.stack.pop()))

    def put(self, *values: Any) -> None:
        """Put these values into a container or a call, which may hash them."""
        for value in values:
            self.hashed += value.values if type(value) is _Tuple else 1
            if value is _ENDLESS or self.hashed > _MOST_HASHED:
                raise ValueError("tuples that are nested too deep, or contain one another too many times")

    def named(self, name: str) -> _Name:
        """A global, if it is one of the allowed ones."""
        if name in _NOT_DENSE:
            raise CheckpointError(
                f"{truncate(self.path)} holds a tensor that is not dense. No training writes such a checkpoint, so it was not loaded. "
                "Convert the tensor with .to_dense(), or take another checkpoint."
            )
        if name not in self.allowed:
            raise unsafe(self.path, f"unsupported global {name.replace(' ', '.', 1)}")
        return _Name(name)

    def called(self, what: Any, arguments: Any) -> _Made:
        """The result of a call, if the function and its arguments are allowed ones."""
        if type(what) is not _Name or what not in _CALLED | _NUMPY or type(arguments) is not _Tuple:
            raise unsafe(self.path, f"unsupported call of {what if isinstance(what, str) else type(what).__name__}")
        if what == "_codecs encode" and not _are_bytes(arguments):
            raise unsafe(self.path, "unsupported bytes")
        if what == "numpy dtype" and not (type(arguments[0]) is str and len(arguments[0]) <= 3):
            raise unsafe(self.path, "unsupported type of a number")  # "f8" is one, "(999,999)f8" is not
        return _Made(what)

    def storage(self, reference: Any) -> Any:
        """A reference to the data of tensors: ("storage", type, key, device, number of elements, …)."""
        self.put(reference)
        word, kind, key, _, count = reference[:5]
        if word != "storage" or type(kind) is not _Name or type(key) not in (str, int) or type(count) is not int:
            raise ValueError("a reference to something other than the data of tensors")
        if count < 0:
            raise ValueError("a negative number of elements")
        self.storages[key] = max(self.storages.get(key, 0), count * STORAGES[kind])
        return _OTHER


_INSTRUCTIONS: dict[str, Callable[[_Machine, Any], None]] = {
    **dict.fromkeys(("PROTO", "STOP"), _Machine.skip),
    **dict.fromkeys(("NONE", "BININT", "BININT1", "BININT2", "LONG1"), _Machine.push),
    **dict.fromkeys(("BINFLOAT", "BINUNICODE", "SHORT_BINSTRING"), _Machine.push),
    "NEWTRUE": _Machine.push_true,
    "NEWFALSE": _Machine.push_false,
    **dict.fromkeys(("EMPTY_LIST", "EMPTY_DICT"), _Machine.push_container),
    **dict.fromkeys(("BINPUT", "LONG_BINPUT"), _Machine.remember),
    **dict.fromkeys(("BINGET", "LONG_BINGET"), _Machine.recall),
    "MARK": _Machine.mark,
    "TUPLE": _Machine.tuple_of_marked,
    "EMPTY_TUPLE": lambda machine, _: machine.tuple_of(0),
    "TUPLE1": lambda machine, _: machine.tuple_of(1),
    "TUPLE2": lambda machine, _: machine.tuple_of(2),
    "TUPLE3": lambda machine, _: machine.tuple_of(3),
    **dict.fromkeys(("APPENDS", "SETITEMS"), _Machine.put_marked),
    "APPEND": _Machine.put_value,
    "SETITEM": _Machine.put_pair,
    "GLOBAL": _Machine.name,
    "REDUCE": _Machine.call,
    "BUILD": _Machine.change,
    "BINPERSID": _Machine.refer,
}


def _are_bytes(arguments: Sequence[Any]) -> bool:
    """Whether a call of ``_codecs.encode`` makes the few bytes of a number; other codecs could take hours."""
    text, *codec = arguments
    return codec == ["latin1"] and type(text) is str and len(text) <= 64


def _tuple(items: list[Any]) -> Any:
    made = _Tuple(items)
    inner = [item for item in items if type(item) is _Tuple]
    made.values = 1 + len(items) + sum(item.values for item in inner)
    made.levels = 1 + max((item.levels for item in inner), default=0)
    endless = any(item is _ENDLESS for item in items) or made.values > _MOST_HASHED or made.levels > _DEEP
    return _ENDLESS if endless else made
