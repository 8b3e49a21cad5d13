"""Follow a pickle of anybody without running anything of it: tensors, numbers, texts, lists and dicts become values, and whatever
else it would make becomes a :class:`Thing`, which only has the name of its class.

:mod:`raysweep.store.untrusted.pickle_check` refuses a file for the first thing that is no tensor. This is for files of other
programs, of which only the tensors are wanted: next to them lie the words of a command line, callbacks, numbers of NumPy, or the
whole network as a Python object.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from raysweep.store.untrusted.pickle_check import STORAGES, TYPES
from raysweep.store.untrusted.stack import Source, Stack

_DICTS = {"collections OrderedDict", "collections defaultdict", "builtins dict", "__builtin__ dict"}
_SETS = {f"{module} {kind}" for module in ("builtins", "__builtin__") for kind in ("set", "frozenset")}
_REBUILT = {f"torch._utils _rebuild_tensor{version}" for version in ("", "_v2", "_v3")}
_AS_GIVEN = {"torch._utils _rebuild_parameter", "torch._utils _rebuild_parameter_with_state"}


@dataclass(frozen=True)
class Name:
    """A function or a class that a pickle names, as ``module name``. It is never looked up."""

    text: str


@dataclass(eq=False)
class Thing:
    """Stands for an object that is no plain value. What the pickle would put into it is kept, as data."""

    name: str  # of its class or of the function that would make it, such as argparse.Namespace
    entries: dict[Any, Any] = field(default_factory=dict)
    state: Any = None


@dataclass(frozen=True)
class Storage:
    """The data of tensors, which lie elsewhere in the file."""

    key: str
    kind: str  # a key of STORAGES
    count: int  # elements
    start: int = 0  # the first element


@dataclass(frozen=True)
class TensorPlace:
    """A tensor as a pickle describes it; its numbers are not read yet. Offset and strides count elements."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: str | None = None  # "torch float32"; None: as the storage says

    @property
    def is_complex(self) -> bool:
        return "omplex" in (self.dtype or self.storage.kind)


def follow(source: Source, storages: dict[str, Storage] | None = None) -> Any:
    """The value of one pickle. Afterwards the source is at the end of it.

    Args:
        storages: gets the data of tensors that it refers to.

    Raises:
        ValueError, IndexError, KeyError, TypeError, OverflowError: it is no valid pickle.
    """
    return _Machine({} if storages is None else storages).follow(source)


class _Machine(Stack):
    """An unpickler whose functions all only take notes."""

    def __init__(self, storages: dict[str, Storage]) -> None:
        super().__init__()
        self.storages = storages

    def follow(self, source: Source) -> Any:
        self.run(source, _INSTRUCTIONS)
        return self.stack.pop()

    # One method per kind of instruction; each takes the instruction's argument.

    def memoize(self, _: Any) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def list_of_marked(self, _: Any) -> None:
        items = self.above_mark()
        self.stack.append(items)

    def tuple_of_marked(self, _: Any) -> None:
        items = self.above_mark()
        self.stack.append(tuple(items))

    def dict_of_marked(self, _: Any) -> None:
        items = self.above_mark()
        self.stack.append({})
        self._set(items)

    def tuple_of(self, count: int) -> None:
        self.stack.append(tuple(self.popped(count)))

    def append(self, _: Any) -> None:
        self._extend([self.stack.pop()])

    def append_marked(self, _: Any) -> None:
        self._extend(self.above_mark())

    def set_pair(self, _: Any) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._set([key, value])

    def set_marked(self, _: Any) -> None:
        self._set(self.above_mark())

    def _extend(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is list:
            target += items
        elif type(target) is Thing:
            target.entries.update((len(target.entries) + i, item) for i, item in enumerate(items))
        else:
            raise ValueError("something is added to what is no list")

    def _set(self, items: list[Any]) -> None:
        target = self.stack[-1]
        entries = target.entries if type(target) is Thing else target
        if not isinstance(entries, dict):
            raise ValueError("something is put into what is no dict")
        for key, value in zip(items[::2], items[1::2], strict=True):
            # Other keys could take for ever to hash; nothing is looked up by them.
            entries[key if type(key) in (str, int, float, bool, bytes, type(None)) else Thing("a key")] = value

    def name(self, text: str) -> None:
        self.stack.append(Name(text))

    def name_from_stack(self, _: Any) -> None:
        own, module = self.stack.pop(), self.stack.pop()
        if type(own) is not str or type(module) is not str:
            raise ValueError("a name that is no text")
        self.stack.append(Name(f"{module} {own}"))

    def call(self, _: Any) -> None:
        arguments, what = self.stack.pop(), self.stack.pop()
        self.stack.append(_called(what, arguments))

    def call_with_keywords(self, _: Any) -> None:
        self.stack.pop()
        self.call(None)

    def call_of_marked(self, _: Any) -> None:
        what, *arguments = self.above_mark()
        self.stack.append(_called(what, tuple(arguments)))

    def call_of_name(self, text: str) -> None:
        arguments = self.above_mark()
        self.stack.append(_called(Name(text), tuple(arguments)))

    def change(self, _: Any) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if type(target) is Thing:
            target.state = state
        elif type(target) is OrderedDict and type(state) is dict and _is_metadata(state.get("_metadata")):
            target._metadata = state["_metadata"]  # type: ignore[attr-defined]  # torch's versions of the modules

    def refer(self, _: Any) -> None:
        found = _reference(self.stack.pop())
        if type(found) is Storage:
            self.storages[found.key] = found
        self.stack.append(found)

    def drop(self, _: Any) -> None:
        self.stack.pop()

    def drop_marked(self, _: Any) -> None:
        self.above_mark()

    def double(self, _: Any) -> None:
        self.stack.append(self.stack[-1])


def _is_metadata(value: Any) -> bool:
    return isinstance(value, dict) and all(
        type(k) is str and type(v) is dict and all(type(n) is int for n in v.values()) for k, v in value.items()
    )


def _called(what: Any, arguments: Any) -> Any:
    """What a call gives: a tensor, a plain value, or a :class:`Thing`."""
    if type(arguments) is not tuple:
        raise ValueError("a call without arguments")
    if type(what) is not Name:
        return Thing(f"what {what.name} returns" if type(what) is Thing else "an object")
    if what.text in _DICTS:
        return _dict(arguments)
    if what.text == "torch Size" or what.text in _SETS:
        return arguments[0] if arguments else []
    if what.text in _AS_GIVEN and arguments:
        return arguments[0]
    if what.text == "torch._tensor _rebuild_from_type_v2" and len(arguments) >= 3:  # a tensor with attributes
        return _called(arguments[0], arguments[2]) if arguments[0] != what else Thing("a tensor")
    if what.text == "copyreg _reconstructor" and arguments and type(arguments[0]) is Name:
        what = arguments[0]
    if what.text in _REBUILT and (found := _tensor(what.text.endswith("v3"), arguments)) is not None:
        return found
    return Thing(what.text.replace(" ", ".", 1))


def _dict(arguments: tuple[Any, ...]) -> OrderedDict[Any, Any]:
    """Python 2 and old protocols give an OrderedDict its pairs in the call."""
    made: OrderedDict[Any, Any] = OrderedDict()
    pairs = arguments[0] if arguments and type(arguments[0]) is list else []
    for pair in pairs:
        if type(pair) not in (list, tuple) or len(pair) != 2 or type(pair[0]) not in (str, int):
            raise ValueError("an OrderedDict of what are no pairs")
        made[pair[0]] = pair[1]
    return made


def _tensor(typed: bool, arguments: tuple[Any, ...]) -> TensorPlace | None:
    """A dense tensor within its data; None for any other."""
    storage, offset, shape, strides, *more = arguments
    if type(storage) is not Storage or type(shape) is not tuple or type(strides) is not tuple:
        return None
    dtype = more[2].text if typed and len(more) > 2 and type(more[2]) is Name else None
    if typed and dtype not in TYPES:
        return None
    if any(type(n) is not int or n < 0 for n in (offset, *shape, *strides)) or len(shape) != len(strides):
        raise ValueError("a tensor with an impossible shape")
    if len(shape) > 64 or max((*shape, 0)) > 2**40:
        raise ValueError("a tensor with an impossible shape")
    return TensorPlace(storage, offset, shape, strides, dtype)


def _reference(reference: Any) -> Any:
    """What a reference to something outside of the pickle means: the data of tensors, or in old files a class with its source."""
    if type(reference) is tuple and len(reference) == 4 and reference[0] == "module" and type(reference[1]) is Name:
        return reference[1]
    if type(reference) is not tuple or len(reference) < 5 or reference[0] != "storage":
        raise ValueError("a reference to something other than the data of tensors")
    _, kind, key, _, count, *view = reference
    if type(kind) is not Name or kind.text not in STORAGES or type(key) not in (str, int) or type(count) is not int:
        raise ValueError("a reference to an unknown kind of data")
    start = 0
    if view and view[0] is not None:  # (key of the view, its first element, how many)
        _, start, count = view[0]
    if type(start) is not int or type(count) is not int or min(start, count) < 0:
        raise ValueError("a part of the data that cannot be")
    return Storage(str(key), kind.text, count, start)


def _push(make: Callable[[], Any]) -> Callable[[_Machine, Any], None]:
    return lambda machine, _: machine.stack.append(make())


_INSTRUCTIONS: dict[str, Callable[[_Machine, Any], None]] = {
    **dict.fromkeys(("PROTO", "FRAME", "STOP"), _Machine.skip),
    **dict.fromkeys(
        ("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"), _Machine.push
    ),
    **dict.fromkeys(("STRING", "BINSTRING", "SHORT_BINSTRING"), _Machine.push),
    **dict.fromkeys(("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"), _Machine.push),
    **dict.fromkeys(("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"), _Machine.push),
    "NONE": _push(lambda: None),
    "NEWTRUE": _push(lambda: True),
    "NEWFALSE": _push(lambda: False),
    "EMPTY_LIST": _push(list),
    "EMPTY_DICT": _push(dict),
    "EMPTY_SET": _push(list),
    "EMPTY_TUPLE": _push(tuple),
    "LIST": _Machine.list_of_marked,
    "FROZENSET": _Machine.list_of_marked,
    "TUPLE": _Machine.tuple_of_marked,
    "DICT": _Machine.dict_of_marked,
    "TUPLE1": lambda machine, _: machine.tuple_of(1),
    "TUPLE2": lambda machine, _: machine.tuple_of(2),
    "TUPLE3": lambda machine, _: machine.tuple_of(3),
    "MARK": _Machine.mark,
    "POP": _Machine.drop,
    "POP_MARK": _Machine.drop_marked,
    "DUP": _Machine.double,
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), _Machine.remember),
    "MEMOIZE": _Machine.memoize,
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), _Machine.recall),
    "APPEND": _Machine.append,
    **dict.fromkeys(("APPENDS", "ADDITEMS"), _Machine.append_marked),
    "SETITEM": _Machine.set_pair,
    "SETITEMS": _Machine.set_marked,
    "GLOBAL": _Machine.name,
    "STACK_GLOBAL": _Machine.name_from_stack,
    **dict.fromkeys(("REDUCE", "NEWOBJ"), _Machine.call),
    "NEWOBJ_EX": _Machine.call_with_keywords,
    "OBJ": _Machine.call_of_marked,
    "INST": _Machine.call_of_name,
    "BUILD": _Machine.change,
    "BINPERSID": _Machine.refer,
}
