"""Pickles of numbers, text, lists, dicts and numpy arrays, read without an unpickler.

A pickle is a program, and Python's unpickler calls whatever it names. Here its instructions are only followed: those that
make plain values do so, numpy's three functions that rebuild an array are recognised by name and carried out by checked
code of this module, and everything else is refused. No name is ever looked up, so nothing foreign can run. Memory stays in
proportion to the file: no instruction used here makes more than it brings along.
"""

from __future__ import annotations

import io
import math
import pickletools
from collections.abc import Iterator
from typing import Any

import numpy as np

from raysweep._text import truncate
from raysweep.errors import DataError

_MOST_STEPS = 5_000_000  # CIFAR-100's training images take 250,000
_ARRAY = {"numpy.core.multiarray _reconstruct", "numpy._core.multiarray _reconstruct"}
_BUFFER = {"numpy.core.numeric _frombuffer", "numpy._core.numeric _frombuffer"}  # from pickle protocol 5 on
# Python 3 writes bytes so in protocol 2: a text to be encoded, and no bytes as a call without arguments.
_BYTES = {"_codecs encode", "__builtin__ bytes"}
_NAMES = {*_ARRAY, *_BUFFER, *_BYTES, "numpy ndarray", "numpy dtype"}
_TYPES = {f"{kind}{size}" for kind in "iu" for size in (1, 2, 4, 8)} | {"f4", "f8", "b1"}

_CONSTANTS = {
    *("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"),
    *("SHORT_BINSTRING", "BINSTRING", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
    *("SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}
_VALUES = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class _Refused(Exception):
    """It names or calls what no plain data need."""


class _Name(str):
    """Something that the pickle names: a text, and never what it stands for."""


class _Type:
    """A numpy type being made: its code, such as ``u1``, and the order of its bytes."""

    def __init__(self, code: str) -> None:
        self.code, self.order = code, "<"


class _Array:
    """An array being made."""

    value: np.ndarray | None = None


def load(data: bytes, where: object) -> dict[str, Any]:
    """The dict that a pickle holds; its arrays are read-only views of memory, its Python 2 texts are read as Latin-1.

    Args:
        data: the whole pickle, of protocol 2 to 5.
        where: the file, for messages.

    Raises:
        DataError: it names anything but numpy's arrays, is damaged, or holds something else than a dict with names.
    """
    try:
        value = _follow(data)
    except _Refused as error:
        raise DataError(
            f"{where} holds Python objects that could run code, so it was not loaded ({truncate(error, 200)}). Only numbers, "
            "texts, lists, dicts and numpy arrays are read. Take the file from its original source."
        ) from None
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, MemoryError, OverflowError) as error:
        what = truncate(error if str(error) else type(error).__name__, 200)
        raise DataError(
            f"{where} is damaged or no pickle of plain data ({what}). Take the file from its original source."
        ) from None
    if not isinstance(value, dict):
        raise DataError(f"{where} is a pickle, but holds no dict of names. Take the file from its original source.")
    # Keys are bytes where Python 3 wrote again what it had read with encoding="bytes".
    named = {k.decode("latin1") if isinstance(k, bytes) else k: v for k, v in value.items()}
    return {k: v.value if isinstance(v, _Array) else v for k, v in named.items() if isinstance(k, str)}


def _follow(data: bytes) -> Any:
    stack: list[Any] = []
    below: list[list[Any]] = []
    memo: dict[int, Any] = {}
    # In memory, where asking for more than there is returns what there is: a file would reserve what a length declares.
    steps: Iterator[tuple[Any, Any, Any]] = pickletools.genops(io.BytesIO(data))
    for count, (instruction, argument, _) in enumerate(steps):
        name = instruction.name
        if count > _MOST_STEPS:
            raise ValueError(f"more than {_MOST_STEPS:,} instructions")
        if name in _CONSTANTS:
            stack.append(bytes(argument) if name == "BYTEARRAY8" else argument)
        elif name in ("BINPUT", "LONG_BINPUT"):
            memo[argument] = stack[-1]
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name in _VALUES:
            stack.append(_VALUES[name])
        elif name == "EMPTY_LIST":
            stack.append([])
        elif name == "EMPTY_DICT":
            stack.append({})
        elif name == "EMPTY_TUPLE":
            stack.append(())
        elif name == "MARK":
            below.append(stack)
            stack = []
        elif name in _TUPLES:
            items = [stack.pop() for _ in range(_TUPLES[name])][::-1]
            stack.append(tuple(items))
        elif name == "APPEND":
            item = stack.pop()
            _append(stack[-1], [item])
        elif name == "SETITEM":
            item, key = stack.pop(), stack.pop()
            _set(stack[-1], [key, item])
        elif name in ("APPENDS", "SETITEMS", "TUPLE"):
            items, stack = stack, below.pop()
            if name == "TUPLE":
                stack.append(tuple(items))
            elif name == "APPENDS":
                _append(stack[-1], items)
            else:
                _set(stack[-1], items)
        elif name == "GLOBAL":
            stack.append(_named(argument))
        elif name == "STACK_GLOBAL":
            attribute, module = stack.pop(), stack.pop()
            stack.append(_named(f"{module} {attribute}"))
        elif name == "REDUCE":
            arguments = stack.pop()
            stack[-1] = _called(stack[-1], arguments)
        elif name == "BUILD":
            state = stack.pop()
            _built(stack[-1], state)
        elif name == "STOP":
            return stack[-1]
        elif name not in ("PROTO", "FRAME"):
            raise _Refused(f"the instruction {name}")
    raise ValueError("it does not end")  # genops raises first


def _append(to: Any, items: list[Any]) -> None:
    if type(to) is not list:
        raise _Refused("a change of an object")
    to += items


def _set(to: Any, items: list[Any]) -> None:
    if type(to) is not dict:
        raise _Refused("a change of an object")
    for key, value in zip(items[::2], items[1::2], strict=True):
        if not isinstance(key, (str, bytes, int)):  # tuples of tuples of … would take ages to hash
            raise ValueError(f"a key that is a {type(key).__name__}")
        to[key] = value


def _named(name: str) -> _Name:
    if name not in _NAMES:
        raise _Refused(f"it names {name.replace(' ', '.', 1)}")
    return _Name(name)


def _called(what: Any, arguments: Any) -> Any:
    if type(what) is not _Name or type(arguments) is not tuple:
        raise _Refused("a call of something that is no function")
    if what == "numpy dtype":
        code = arguments[0].decode("latin1") if isinstance(arguments[0], bytes) else arguments[0]
        if code not in _TYPES:
            raise _Refused(f"an array of {code if isinstance(code, str) else type(code).__name__}")
        return _Type(code)
    if what in _ARRAY:
        return _Array()
    if what in _BUFFER:
        data, kind, shape, order = arguments
        array = _Array()
        array.value = _array(data, kind, shape, order)
        return array
    if what == "__builtin__ bytes" and not arguments:
        return b""
    if what == "_codecs encode":
        text, *codec = arguments
        if codec != ["latin1"]:  # some codecs take hours
            raise _Refused("a call of _codecs.encode")
        return text.encode("latin1")
    raise _Refused(f"a call of {what.replace(' ', '.', 1)}")


def _built(what: Any, state: Any) -> None:
    if type(what) is _Type:
        what.order = state[1].decode("latin1") if isinstance(state[1], bytes) else state[1]
        if what.order not in ("<", ">", "|"):
            raise ValueError(f"numbers whose bytes have the order {what.order!r}")
    elif type(what) is _Array and what.value is None:
        _, shape, kind, by_column, data = state
        what.value = _array(data, kind, shape, "F" if by_column else "C")
    else:
        raise _Refused("a change of an object")


def _array(data: Any, kind: Any, shape: Any, order: Any) -> np.ndarray:
    """The array of these bytes, which must be exactly as many as the shape needs."""
    data = data.encode("latin1") if isinstance(data, str) else data  # Python 2 had no other bytes
    if type(kind) is not _Type or type(data) is not bytes or order not in ("C", "F"):
        raise _Refused("an array of something else than numbers")
    if type(shape) is not tuple or len(shape) > 4 or not all(type(n) is int and n >= 0 for n in shape):
        raise ValueError("an array without a shape")
    wanted = math.prod(shape) * int(kind.code[1:])
    if wanted != len(data):
        raise ValueError(f"an array that needs {wanted:,} bytes and has {len(data):,}")
    dtype = np.dtype(kind.code).newbyteorder("=" if kind.order == "|" else kind.order)  # type: ignore[arg-type]
    return np.frombuffer(data, dtype).reshape(shape, order=order)
