"""Code that stands in a notebook, or in the script that runs: ``python:__main__:NAME``.

No other process can import it, so it travels by value (cloudpickle, as Ray does), and the text from which it can be made again
(:mod:`raysweep.training.notebook`) is recorded: an experiment that is read where the notebook does not run is built from that, after
:mod:`raysweep.store.trust` has asked. What cannot travel is refused before anything is started elsewhere.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import inspect
import linecache
import os
import pickle
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

from torch import nn

from raysweep._text import truncate
from raysweep.errors import ConfigError
from raysweep.store import recorded
from raysweep.training import guest_errors, notebook, sources
from raysweep.training.sources import Sources

MODULE = recorded.MODULE
FILE = f"{MODULE}.py"
MAX_VALUE = 50_000_000  # bytes that travel

_here: set[str] = set()  # targets that stand in the notebook or script of this process
_arrived: dict[str, object] = {}  # SHA-256 of a value that was sent, or of texts → the object


def is_main(target: str) -> bool:
    """Whether ``MODULE:NAME`` stands in a notebook, or in the script that runs."""
    return target.partition(":")[0] == MODULE


def load(target: str, option: str, code: Sources | None) -> Any:
    """The object: of this process, or as another one sent it, or made from the text that an experiment keeps.

    Raises:
        ConfigError: there is none; or its text lacks something, or fails.
    """
    name = target.partition(":")[2]
    if code is not None and code.value is not None and target not in _here:
        key = hashlib.sha256(code.value).hexdigest()
        if key not in _arrived:
            _arrived[key] = pickle.loads(code.value)  # of this user's own process
        return _arrived[key]
    with contextlib.suppress(AttributeError):
        return recorded.here(name)
    if code is not None and FILE in code.files:
        return _made(target, option, code)
    raise ConfigError(
        f"{option}: there is no {name} in the notebook or script that runs here, and its text is not in the experiment's folder code/ "
        f"as it was recorded. Run this in that notebook, or begin a child with a module: `raysweep resume` with "
        f"{option}=python:MODULE:{name}."
    )


def recorded_code(target: str, path: str | None) -> Sources | None:
    """What an experiment keeps of it, after consent; see :mod:`raysweep.store.recorded`."""
    found = recorded.find(target, path) if is_main(target) else None
    if found is None:
        return None
    ref = found.ref
    return Sources(ref.option or "model.name", target, ref.folder, dict(found.files), dict(ref.files))


def _made(target: str, option: str, code: Sources) -> Any:
    """The object, made from its text; the same one each time.

    Raises:
        ConfigError: the text lacks something, or fails.
    """
    text, name = code.files[FILE].decode(), target.partition(":")[2]
    instead = (
        f"Save the text, which is in the experiment's folder code/, as a module, put in what is missing, and begin a child that names it: "
        f"`raysweep resume` with {option}=python:MODULE:{name}."
    )
    try:
        lacks = notebook.lacking(target, text)
    except ValueError as error:
        lacks = str(error)
    if lacks is not None:
        raise ConfigError(
            f"{option}: python:{target} stood in a notebook or script that does not run here, and its recorded text is not all of it: "
            f"{lacks}. {instead}"
        )
    key = hashlib.sha256(repr((target, sorted(code.hashes.items()))).encode()).hexdigest()
    if key not in _arrived:
        try:
            _arrived[key] = notebook.made(target, text, f"<code/{FILE} {code.hashes[FILE][:12]}>")
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            raise guest_errors.explained(error, target, "made from its recorded text", option) from error
    return _arrived[key]


def collect(target: str, found: Any, option: str, sent: Sources | None) -> Sources:
    """The text of its cells, what they import from the same folder, and its value; or what another process sent."""
    if sent is not None and target not in _here:
        return sent
    _here.add(target)
    file = getattr(sys.modules[MODULE], "__file__", None)
    folder = Path(file).resolve().parent if file and sources.is_users(file) else Path(os.getcwd())
    text = notebook.text_of(target, vars(sys.modules[MODULE]), "\n\n".join(_cells(found)))
    code = sources.collect_text(target, folder, FILE, text, option)
    value, why = _packed(found)
    return replace(code, value=value, stays=why, lacks=notebook.lacking(target, text) if text else None)


def check_travels(codes: Sequence[Sources]) -> None:
    """Raises ConfigError where code of a notebook cannot be sent to another process."""
    for code in codes:
        if code.stays is not None:
            raise ConfigError(
                f"{code.option}: python:{code.target} cannot be sent to workers and branches: {code.stays}. Move it, and what it refers to, "
                f"into a file mine.py, and name it {code.option}=python:mine:{code.target.partition(':')[2]}; or train in this "
                "process: scaling.num_workers=0."
            )


def _packed(found: Any) -> tuple[bytes | None, str | None]:
    """(its value, None), or (None, why it cannot travel)."""
    import cloudpickle

    try:
        value: bytes = cloudpickle.dumps(found)
    except Exception as error:  # whatever they refer to raises its own
        return None, truncate(f"{type(error).__name__}: {error}", 300)
    if len(value) > MAX_VALUE:
        return (
            None,
            f"with what it refers to, it has {len(value) / 1e6:,.0f} MB; at most {MAX_VALUE / 1e6:.0f} MB are sent",
        )
    return value, None


def _cells(found: Any) -> list[str]:
    """The texts of the cells, or of the script, in which an object and what it refers to in them are defined."""
    texts: dict[str, str] = {}
    seen: set[int] = set()
    waiting = [found]
    while waiting:
        thing = waiting.pop()
        while isinstance(thing, functools.partial):
            thing = thing.func
        if isinstance(thing, nn.Module) or not isinstance(thing, (FunctionType, type)):
            thing = type(thing)
        if id(thing) in seen or getattr(thing, "__module__", None) != MODULE:
            continue
        seen.add(id(thing))
        if inspect.isclass(thing):
            waiting += thing.__bases__
        for function in _functions(thing):
            for code in _codes(function.__code__):
                if lines := linecache.getlines(code.co_filename):
                    texts.setdefault(code.co_filename, "".join(lines))
                waiting += [function.__globals__[n] for n in code.co_names if n in function.__globals__]
    return list(texts.values())


def _functions(thing: Any) -> Iterator[FunctionType]:
    for part in vars(thing).values() if inspect.isclass(thing) else [thing]:
        function = inspect.unwrap(getattr(part, "__func__", getattr(part, "fget", None) or part)) if part else part
        if isinstance(function, FunctionType):
            yield function


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)
