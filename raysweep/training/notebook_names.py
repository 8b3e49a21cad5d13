"""Where the names of a notebook come from: imports, definitions with what they refer to, and values that can be written down.

A definition is taken for an object only if it is the one that was run: its compiled code, its bases, its defaults and its plain
attributes are compared with those of the object.
"""

from __future__ import annotations
import __future__

import ast
import inspect
import linecache
import math
import symtable
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import CodeType, FunctionType, ModuleType
from typing import Any

import torch

from raysweep._text import join_names

MODULE = "__main__"
_PLAIN = (bool, int, float, complex, str, bytes, type(None), type(...))
_ANNOTATIONS = __future__.annotations.compiler_flag
_Node = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Assign


class NotFound(Exception):
    """Why there is no definition, as the end of a sentence about the object."""


@dataclass(frozen=True)
class Definition:
    """The text that defines a class or function."""

    text: str
    file: str  # as linecache knows it
    at_once: tuple[str, ...]  # names that it reads when it is run: bases, decorators, defaults
    later: tuple[str, ...]  # names that its functions read when they are called
    future: tuple[str, ...]  # import statements of __future__


# --- values and imports -----------------------------------------------------------------------------------------------


def literal(value: Any) -> str | None:
    """A value as Python writes it, so that reading it gives the same one; None where there is no such text."""
    if type(value) is float and not math.isfinite(value):
        return f"float({str(value)!r})"
    if type(value) in _PLAIN:
        return repr(value)
    if type(value) in (set, frozenset):
        inner = [literal(v) for v in value]
        return None if None in inner else f"{type(value).__name__}([{', '.join(map(str, inner))}])"
    if type(value) is dict:
        pairs = [(literal(k), literal(v)) for k, v in value.items()]
        return None if any(None in p for p in pairs) else f"{{{', '.join(f'{k}: {v}' for k, v in pairs)}}}"
    if type(value) in (list, tuple):
        inner = [literal(v) for v in value]
        body = ", ".join(map(str, inner)) + ("," if type(value) is tuple and len(inner) == 1 else "")
        return None if None in inner else f"[{body}]" if type(value) is list else f"({body})"
    return None


def import_of(name: str, value: Any, known: Sequence[ast.Module]) -> str | None:
    """The statement that imports ``value`` as ``name``; None for what was not imported."""
    if isinstance(value, ModuleType):
        real = value.__name__
        if real == MODULE or sys.modules.get(real) is not value:
            return None
        return f"import {real}" if real == name else f"import {real} as {name}"
    for tree in known:
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module and not node.level and node.module != "__future__":
                for alias in node.names:
                    real = name if alias.name == "*" else alias.name
                    if (alias.asname or real) == name and _is(node.module, real, value):
                        return _from(node.module, real, name)
    module, own = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
    if isinstance(module, str) and isinstance(own, str) and module != MODULE and _is(module, own, value):
        return _from(module, own, name)
    return f"from torch import {str(value).partition('.')[2]} as {name}" if isinstance(value, torch.dtype) else None


def _is(module: str, name: str, value: Any) -> bool:
    return name.isidentifier() and getattr(sys.modules.get(module), name, NotFound) is value


def _from(module: str, real: str, name: str) -> str:
    return f"from {module} import {real}" + (f" as {name}" if real != name else "")


def submodules(text: str, space: Mapping[str, Any]) -> Iterator[str]:
    """Import statements of modules that a text reaches by dots, such as ``torch.utils.data``."""
    for node in ast.walk(ast.parse(text)):
        chain: list[str] = []
        part: ast.AST = node
        while isinstance(part, ast.Attribute):
            chain.insert(0, part.attr)
            part = part.value
        if chain and isinstance(part, ast.Name) and isinstance(value := space.get(part.id), ModuleType):
            real = value.__name__
            for attribute in chain:
                real = f"{real}.{attribute}"
                if real not in sys.modules:
                    break
                yield f"import {real}"


# --- definitions ------------------------------------------------------------------------------------------------------


def known_texts() -> list[ast.Module]:
    """What was run here as cells, and the script."""
    script = getattr(sys.modules[MODULE], "__file__", None)
    names = [n for n in linecache.cache if n.startswith("<") or "ipykernel" in n or n == script]
    return [tree for name in [*names, *([script] if script and script not in names else [])] if (tree := _tree(name))]


def _tree(file: str) -> ast.Module | None:
    try:
        return ast.parse("".join(linecache.getlines(file)))
    except (SyntaxError, ValueError, RecursionError):
        return None


def definition(name: str, value: Any, space: Mapping[str, Any]) -> Definition:
    """The text of a class or function that is called ``name``.

    Args:
        space: the variables of the notebook.

    Raises:
        NotFound: it is not known, or would make something else.
    """
    thing = value if inspect.isclass(value) else inspect.unwrap(value)
    if thing.__module__ != MODULE:
        raise NotFound(f"of the module {thing.__module__}, where it has no name")
    outer = thing.__qualname__.rpartition(".")[0]
    if outer:
        within = outer.removesuffix(".<locals>")
        inside = [*thing.__code__.co_freevars] if isinstance(thing, FunctionType) else []
        holds = f" and holds its {join_names(inside)}" if inside else ""
        raise NotFound(f"it was made in {within}{holds}")
    own = name if thing.__name__ == "<lambda>" else thing.__name__
    if space.get(own) is not value:
        raise NotFound(f"it was defined as {own}, which now means something else")
    file, node = _of_class(thing) if inspect.isclass(thing) else _of_function(thing, own)
    lines = linecache.getlines(file)
    first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", ()))])
    text = textwrap.dedent("".join(lines[first - 1 : node.end_lineno])).rstrip()
    _check(thing, own, text, file, space)
    at_once, later = _read(text)
    postponed = any(f.__code__.co_flags & _ANNOTATIONS for f in _functions(thing))
    future = ("from __future__ import annotations",) if postponed else ()
    return Definition(text, file, at_once, later, future)


def _statements(body: Sequence[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements of a text, also those within if, try and with, in their order."""
    for node in body:
        yield node
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            for part in ("body", "orelse", "finalbody"):
                yield from _statements(getattr(node, part, ()))
            for handler in getattr(node, "handlers", ()):
                yield from _statements(handler.body)


def _of_function(function: Any, name: str) -> tuple[str, _Node]:
    if not isinstance(function, FunctionType):
        raise NotFound(f"a {type(function).__name__}, whose text is not known")
    code = function.__code__
    for node in _statements(getattr(_tree(code.co_filename), "body", ())):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.name == name:
            if code.co_firstlineno == min([node.lineno, *(d.lineno for d in node.decorator_list)]):
                return code.co_filename, node
        elif (
            isinstance(node, ast.Assign)
            and isinstance(node.value, ast.Lambda)
            and [*map(ast.dump, node.targets)] == [ast.dump(ast.Name(name, ast.Store()))]
            and code.co_firstlineno == node.value.lineno
        ):
            return code.co_filename, node
    raise NotFound("its text is not known")


def _of_class(found: type) -> tuple[str, _Node]:
    places = [(f.__code__.co_filename, f.__code__.co_firstlineno) for f in _functions(found) if _belongs(f, found)]
    names = {file for file, _ in places} or {n for n in linecache.cache if n.startswith("<") or "ipykernel" in n}
    if script := getattr(sys.modules[MODULE], "__file__", None):
        names.add(script)
    classes = [
        (file, node)
        for file in names
        for node in _statements(getattr(_tree(file), "body", ()))
        if isinstance(node, ast.ClassDef) and node.name == found.__name__
    ]
    within = [
        (f, n)
        for f, n in classes
        if not places or any(f == p and n.lineno <= at <= (n.end_lineno or 0) for p, at in places)
    ]
    if not within:
        raise NotFound("its text is not known")
    if len({ast.dump(node) for _, node in within}) > 1:
        raise NotFound("several texts define it")
    return within[0]


def _functions(thing: Any) -> Iterator[FunctionType]:
    """A function, or those of a class."""
    for part in vars(thing).values() if inspect.isclass(thing) else [thing]:
        inner = next((v for n in ("__func__", "fget", "func") if (v := getattr(part, n, None)) is not None), part)
        function = inspect.unwrap(inner) if callable(inner) else inner
        if isinstance(function, FunctionType):
            yield function


def _belongs(function: FunctionType, found: type) -> bool:
    """Whether a function of a class was defined in its text."""
    made = function.__code__.co_filename == "<string>"  # by dataclass and the like
    return not made and function.__module__ == MODULE and function.__qualname__.startswith(f"{found.__qualname__}.")


def _check(thing: Any, name: str, text: str, file: str, space: Mapping[str, Any]) -> None:
    """Raises NotFound where the text does not make this object."""
    try:
        # as a whole: how an attribute is read depends on whether its name was imported in the same text
        whole, flags = "".join(linecache.getlines(file)), _flags(thing) | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
        compiled, nodes = (
            compile(whole, file, "exec", flags=flags, dont_inherit=True),
            dict(_defined(ast.parse(text).body)),
        )
    except (SyntaxError, ValueError) as error:
        raise NotFound("its text cannot be read by itself") from error
    codes: dict[str, list[CodeType]] = {}
    for code in _codes(compiled):
        codes.setdefault(code.co_qualname, []).append(code)
    if inspect.isclass(thing):
        _check_class(thing, nodes[name], space)
    for function in _functions(thing):
        if inspect.isclass(thing) and not _belongs(function, thing):
            continue
        path = function.__qualname__
        if function.__code__.co_filename != file or not any(same(function.__code__, c) for c in codes.get(path, ())):
            raise NotFound(f"{'' if path == name else path} is no longer as its text has it".strip())
        if isinstance(node := nodes.get(path), (ast.FunctionDef, ast.AsyncFunctionDef)):
            _check_defaults(function, node, space)


def _flags(thing: Any) -> int:
    return _ANNOTATIONS if any(f.__code__.co_flags & _ANNOTATIONS for f in _functions(thing)) else 0


def _defined(body: Sequence[ast.stmt], outer: str = "") -> Iterator[tuple[str, ast.stmt]]:
    for node in body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield f"{outer}{node.name}", node
            if isinstance(node, ast.ClassDef):
                yield from _defined(node.body, f"{outer}{node.name}.")


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


def same(one: CodeType, other: CodeType) -> bool:
    """Whether two pieces of code do the same; where they stand does not count."""
    alike = all(
        getattr(one, key) == getattr(other, key)
        for key in (
            *("co_code", "co_names", "co_varnames", "co_freevars", "co_cellvars"),
            *("co_argcount", "co_kwonlyargcount", "co_posonlyargcount"),
        )
    )
    return (
        alike
        and len(one.co_consts) == len(other.co_consts)
        and all(
            same(a, b)
            if isinstance(a, CodeType) and isinstance(b, CodeType)
            else (type(a), repr(a)) == (type(b), repr(b))
            for a, b in zip(one.co_consts, other.co_consts, strict=True)
        )
    )


def _check_class(found: type, node: ast.stmt, space: Mapping[str, Any]) -> None:
    """Raises NotFound where its bases, or what it holds, are not those of its text."""
    for base in found.__bases__:
        if base.__module__ == MODULE and space.get(base.__name__) is not base:
            raise NotFound(f"it was derived from another {base.__name__} than the one of now")
    bound: dict[str, ast.expr | None] = {}
    for statement in _statements(getattr(node, "body", ())):
        if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            bound[statement.name] = None
        for target in [*getattr(statement, "targets", ()), getattr(statement, "target", None)]:
            for part in ast.walk(target) if target is not None else ():
                if isinstance(part, ast.Name):
                    bound[part.id] = getattr(statement, "value", None) if part is target else None
    methods = {path.rpartition(".")[2] for path, inner in _defined(getattr(node, "body", ())) if "." not in path}
    for name, value in vars(found).items():
        function = next(_functions(type("", (), {name: value})), None) if name in methods else None
        if name.startswith("_") and name not in bound:
            continue
        if name not in bound or (function is not None and not _belongs(function, found)):
            raise NotFound(f"its {name} was set after it was defined")
        if type(found) is type:  # others, as that of enumerations, make something of the values
            _check_value(value, bound[name], f"its {name}", {})


def _check_defaults(
    function: FunctionType, node: ast.FunctionDef | ast.AsyncFunctionDef, space: Mapping[str, Any]
) -> None:
    given = [*zip(node.args.defaults, function.__defaults__ or (), strict=False)]
    named = function.__kwdefaults__ or {}
    given += [
        (default, named[a.arg])
        for a, default in zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)
        if default is not None and a.arg in named
    ]
    for written, value in given:
        _check_value(value, written, "a default of it", space)


def _check_value(value: Any, written: ast.expr | None, what: str, space: Mapping[str, Any]) -> None:
    """Raises NotFound where a plain value is not what its text says, or what the name that it has there means now."""
    if isinstance(written, ast.Name) and written.id in space:
        now = space[written.id]
        changed = now is not value and (literal(value) is None or literal(now) != literal(value))
    else:
        try:
            changed = written is not None and literal(ast.literal_eval(written)) != literal(value)
        except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
            return  # an expression, which is computed again
    if changed:
        raise NotFound(f"{what} is another one than when it was defined")


def _read(text: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The names that a definition reads when it is run, and those that its functions read when they are called."""
    at_once: dict[str, None] = {}
    later: dict[str, None] = {}
    table = symtable.symtable(text, "cell", "exec")
    for symbol in table.get_symbols():
        if symbol.is_referenced():
            at_once[symbol.get_name()] = None
    waiting = [(child, _runs_at_once(child)) for child in table.get_children()]
    while waiting:
        scope, runs = waiting.pop()
        for symbol in scope.get_symbols():
            if symbol.is_global() and (symbol.is_referenced() or symbol.is_assigned()):
                (at_once if runs else later)[symbol.get_name()] = None
        waiting += [(child, runs and _runs_at_once(child)) for child in scope.get_children()]
    return tuple(at_once), tuple(later)


def _runs_at_once(scope: symtable.SymbolTable) -> bool:
    """Whether a scope is run with what surrounds it: a class, or a comprehension."""
    return scope.get_type() != "function" or scope.get_name() in ("listcomp", "setcomp", "dictcomp", "genexpr")
