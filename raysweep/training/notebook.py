"""The text from which code of a notebook, or of the script that runs, can be made again in another process.

It is put together from the definitions that an object needs, and no more: classes and functions as their cells have them, the imports
of what they name, and the variables whose values can be written down. So running it trains nothing and opens nothing. Where
something cannot be written down, the text is that of the whole cells, for people, and its first line says what is missing.
"""

from __future__ import annotations

import ast
import functools
import inspect
import linecache
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import FunctionType, ModuleType
from typing import Any

from torch import nn

from raysweep._text import join_names, truncate
from raysweep.training import notebook_names as names
from raysweep.training.notebook_names import Definition

MODULE = "__main__"
_WHOLE = "# raysweep: everything that python:{} needs"
_LACKS = "# raysweep: python:{} cannot be made from this text alone: "
MAX_LITERAL = 20_000  # characters of a variable's value


def text_of(target: str, space: Mapping[str, Any], cells: str) -> str:
    """The text for ``__main__:NAME``, whose names have their values in ``space``; empty where no text is found at all.

    Args:
        cells: the whole cells, which are kept for people where something cannot be written down.
    """
    needed = _Needed(space)
    needed.add(target.partition(":")[2].partition(".")[0])
    if needed.lacks:
        return f"{_LACKS.format(target)}{join_names(dict.fromkeys(needed.lacks))}\n\n{cells}" if cells else ""
    return "\n".join([_WHOLE.format(target), *needed.imports(), *needed.parts()]).rstrip() + "\n"


def lacking(target: str, text: str) -> str | None:
    """What a text that :func:`text_of` made lacks, ``it refers to LOCK (a lock)``; None where it is whole.

    Raises:
        ValueError: :func:`text_of` did not make it.
    """
    first = text.partition("\n")[0]
    if first == _WHOLE.format(target):
        return None
    if first.startswith(_LACKS.format(target)):
        return first.removeprefix(_LACKS.format(target))
    raise ValueError("an earlier version recorded whole cells")


def made(target: str, text: str, file: str) -> Any:
    """The object ``__main__:NAME``, made from its text. Its errors are those of the user's code.

    Args:
        file: a name for the text, in errors.
    """
    module = ModuleType(MODULE)
    linecache.cache[file] = len(text), None, text.splitlines(keepends=True), file
    exec(compile(text, file, "exec", dont_inherit=True), module.__dict__)
    return functools.reduce(getattr, target.partition(":")[2].split("."), module)


@dataclass
class _Needed:
    """What a name of a notebook needs, found by following the names in the definitions."""

    space: Mapping[str, Any]
    lacks: list[str] = field(default_factory=list)
    _lines: dict[str, None] = field(default_factory=dict)  # import statements
    _values: dict[str, str] = field(default_factory=dict)  # name → an assignment
    _parts: dict[str, Definition] = field(default_factory=dict)  # name → its definition, in the order of the text
    _after: dict[str, str] = field(default_factory=dict)  # assignments that follow the definitions
    _seen: set[str] = field(default_factory=set)
    _known: Sequence[ast.Module] = field(default_factory=names.known_texts)

    def add(self, name: str) -> None:
        """Follow a name; one that has no value is left to those who run it."""
        if name in self._seen or name not in self.space:
            return
        self._seen.add(name)
        value = self.space[name]
        if line := names.import_of(name, value, self._known):
            self._lines[line] = None
        elif inspect.isclass(value) or isinstance(inspect.unwrap(value) if callable(value) else value, FunctionType):
            self._defined(name, value)
        elif isinstance(value, functools.partial):
            self._partial(name, value)
        elif (written := names.literal(value)) is not None and len(written) <= MAX_LITERAL:
            self._values[name] = f"{name} = {written}"
        else:
            self.lacks.append(f"{name} ({_kind(value)})")

    def _defined(self, name: str, value: Any) -> None:
        own = getattr(value, "__name__", name)
        if own != name and self.space.get(own) is value:  # another name for the same thing
            self.add(own)
            self._after[name] = f"{name} = {own}"
            return
        try:
            found = names.definition(name, value, self.space)
        except names.NotFound as problem:
            self.lacks.append(f"{name} ({problem})")
            return
        self._lines |= dict.fromkeys(found.future)
        for other in found.at_once:  # bases, decorators, defaults: they come first, with all that they need
            self.add(other)
        for line in names.submodules(found.text, self.space):
            self._lines[line] = None
        self._parts[name] = found
        for other in found.later:
            self.add(other)

    def _partial(self, name: str, value: functools.partial[Any]) -> None:
        words = [names.literal(v) for v in value.args]
        words += [None if (w := names.literal(v)) is None else f"{k}={w}" for k, v in value.keywords.items()]
        function = next((n for n, v in self.space.items() if v is value.func), None)
        if function is None and (line := names.import_of("_", value.func, ())) is not None:
            function = f"_of_{name}"
            self._lines[f"{line.removesuffix(' as _')} as {function}"] = None
        if function is None or None in words:
            self.lacks.append(
                f"{name} (a partial of what has no name here, or with values that cannot be written down)"
            )
            return
        self.add(function)
        self._lines["import functools as _functools"] = None
        self._after[name] = f"{name} = _functools.partial({', '.join([function, *map(str, words)])})"

    def imports(self) -> list[str]:
        return sorted(self._lines, key=lambda line: (not line.startswith("from __future__"), line))

    def parts(self) -> Iterator[str]:
        yield from self._values.values()
        for part in self._parts.values():
            yield f"\n\n{part.text}"
        yield "\n"
        yield from self._after.values()


def _kind(value: Any) -> str:
    if isinstance(value, nn.Module):
        return "a ready network, whose weights stand in no text"
    return f"a {truncate(type(value).__name__, 60)}, whose value cannot be written down"
