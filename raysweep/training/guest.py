"""A user's code by its name, ``python:MODULE:NAME``: find it and import it.

The code is imported as if the user's program did it: its folder is searched last and only while the name is resolved, what it
prints goes to stderr, it does not see the words of our command line, and the random generators are afterwards as they were.
So a network has the same first weights in every process, whenever its code was imported.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib
import importlib.machinery
import inspect
import os
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import nn

from raysweep import _scratch
from raysweep._paths import user_path
from raysweep.errors import ConfigError, did_you_mean
from raysweep.training import device, guest_errors, guest_main, sources
from raysweep.training.sources import Sources

_SEED_OF_IMPORTS = 1
_cuda_started: Callable[[], bool] = torch.cuda.is_initialized

_loaded: dict[str, tuple[Path, Path, str]] = {}  # module that was imported here → its folder, its file, its SHA-256
_sent: dict[str, Sources] = {}  # target → the code as another process had it
_unpacked: dict[str, Path] = {}  # hash → where that code was written


def target_of(name: str) -> str | None:
    """``python:MODULE:NAME`` → ``MODULE:NAME``; None for any other name."""
    kind, _, target = name.partition(":")
    return target if kind == "python" and target else None


# --- where it is ------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def searching(target: str, path: str | None) -> Iterator[None]:
    """In this context Python also finds modules in the folder of the code and in the working directory, last."""
    first = _folder_of_sent(target, path)
    last = [str(user_path(path).absolute())] if path else []
    with contextlib.suppress(FileNotFoundError):  # the working directory was deleted
        last.append(os.getcwd())
    before = list(sys.path)
    sys.path[:] = [*([str(first)] if first else []), *before, *(p for p in last if p not in before)]
    written, sys.dont_write_bytecode = sys.dont_write_bytecode, True  # nothing is left in the user's folder
    try:
        yield
    finally:
        sys.dont_write_bytecode = written
        added = [p for p in sys.path if p not in before and p not in last and p != str(first)]  # by the user's code
        sys.path[:] = [*before, *added]


@contextlib.contextmanager
def sent(code: Sources | None) -> Iterator[None]:
    """In this context the code is used as another process had it, where the files here are not the same ones."""
    if code is None:
        yield
        return
    before = _sent.get(code.target)
    _sent[code.target] = code
    try:
        yield
    finally:
        del _sent[code.target]
        _sent.update({} if before is None else {code.target: before})


def _elsewhere(target: str, path: str | None) -> Sources | None:
    """The code as another process sent it, or as an experiment keeps that of a notebook; None where the files here are used."""
    return _sent.get(target) or guest_main.recorded_code(target, path)


def _folder_of_sent(target: str, path: str | None) -> Path | None:
    """The folder with the code of :func:`_elsewhere`; None where there is none, or the files here are the same."""
    code = _elsewhere(target, path)
    if code is None or code.left_out:  # what is too large to be sent must be here
        return None
    here = {name: _sha256(Path(code.folder, name)) for name in code.hashes}
    if here == dict(code.hashes):
        return None
    key = hashlib.sha256(repr(sorted(code.hashes.items())).encode()).hexdigest()
    if key not in _unpacked:
        folder = _scratch.folder("code")
        for name, content in code.files.items():
            file = folder / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        _unpacked[key] = folder
    return _unpacked[key]


def _sha256(file: Path) -> str | None:
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError:
        return None


@contextlib.contextmanager
def as_a_guest() -> Iterator[None]:
    """The surroundings of a user's code: stdout is stderr, and the command line is empty."""
    words, sys.argv = sys.argv, sys.argv[:1]
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        sys.argv = words


def quiet(name: str) -> contextlib.AbstractContextManager[Any]:
    """In this context, what the code of a ``python:`` name prints goes to stderr; other names change nothing."""
    return contextlib.redirect_stdout(sys.stderr) if target_of(name) else contextlib.nullcontext()


@contextlib.contextmanager
def generators_kept() -> Iterator[None]:
    """In this context the random generators start alike in every process; afterwards they are as before."""
    state, numbers, generator = random.getstate(), np.random.get_state(), torch.get_rng_state()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() and _cuda_started() else None
    others = device.generator_state()
    random.seed(_SEED_OF_IMPORTS)
    np.random.seed(_SEED_OF_IMPORTS)
    torch.default_generator.manual_seed(_SEED_OF_IMPORTS)
    try:
        yield
    finally:
        random.setstate(state)
        np.random.set_state(numbers)
        torch.set_rng_state(generator)
        if cuda is not None:
            torch.cuda.set_rng_state_all(cuda)
        device.set_generator_state(others)


# --- import -----------------------------------------------------------------------------------------------------------


def load(target: str, path: str | None = None, option: str = "model.name") -> Any:
    """The object ``MODULE:NAME``; its module is imported unless it was before, and again if its files have changed since.

    Args:
        path: a folder to search, besides Python's own and the working directory.
        option: in which the name stands, for messages.

    Raises:
        ConfigError: there is none, or importing it failed; the message shows where in the user's code.
    """
    module_name, _, name = target.partition(":")
    if not module_name or not name or module_name.startswith("."):
        raise ConfigError(
            f"{option}: 'python:{target}' does not have the form python:MODULE:FUNCTION. Write, for example, "
            "python:mynets.models:build."
        )
    if guest_main.is_main(target):
        with searching(target, path), as_a_guest(), generators_kept():
            return guest_main.load(target, option, _elsewhere(target, path))
    with searching(target, path):
        module = _module(module_name, target, option)
        try:
            return functools.reduce(getattr, name.split("."), module)
        except AttributeError:
            have = [n for n, v in vars(module).items() if callable(v) and not n.startswith("_")]
            raise ConfigError(
                f"{option}: the module {module_name!r} ({_place(module)}) has no function {name!r}.{did_you_mean(name, have)} "
                "Check the name after the colon."
            ) from None


def _place(module: ModuleType) -> str:
    return str(getattr(module, "__file__", None) or "it has no file")


def _module(name: str, target: str, option: str) -> ModuleType:
    _forget_old(name.partition(".")[0])
    if name in sys.modules:
        return sys.modules[name]
    before = set(sys.modules)
    importlib.invalidate_caches()
    try:
        with as_a_guest(), generators_kept():
            module = importlib.import_module(name)
    except BaseException as error:
        for new in set(sys.modules) - before:  # so that the corrected files are imported the next time
            if sources.is_users(getattr(sys.modules[new], "__file__", None)):
                del sys.modules[new]
        if isinstance(error, KeyboardInterrupt):
            raise
        if isinstance(error, ModuleNotFoundError) and error.name and f"{name}.".startswith(f"{error.name}."):
            raise ConfigError(
                f"{option}: the module {name!r} cannot be imported ({error}). Check its name, run the command in its folder, "
                f"or name the folder: {'model.path' if option == 'model.name' else 'code_path'}=FOLDER."
            ) from None
        raise guest_errors.explained(error, target, "imported", option) from error
    _note_loaded(module, before)
    return module


def _note_loaded(module: ModuleType, before: set[str]) -> None:
    """Note which modules of the folder of ``module`` were imported since ``before``."""
    folder = _folder(module)
    for new in set(sys.modules) - before:
        file = getattr(sys.modules[new], "__file__", None) or ""
        if folder is not None and sources.is_users(file) and Path(file).resolve().is_relative_to(folder):
            _loaded[new] = folder, Path(file).resolve(), _sha256(Path(file)) or ""


@contextlib.contextmanager
def calling(target: str, path: str | None) -> Iterator[None]:
    """The surroundings in which an object that was loaded is called: what it imports then is found, and noted."""
    before = set(sys.modules)
    with searching(target, path), as_a_guest():
        try:
            yield
        finally:
            _note_loaded(sys.modules[target.partition(":")[0]], before)


def _forget_old(top: str) -> None:
    """Forget what was imported here, if its files have changed or the same name now means another file."""
    old = {folder for folder, file, digest in _loaded.values() if _sha256(file) != digest}
    if top in _loaded:
        importlib.invalidate_caches()
        spec = importlib.machinery.PathFinder.find_spec(top)
        if spec is None or spec.origin is None or Path(spec.origin).resolve() != _loaded[top][1]:
            old.add(_loaded[top][0])
    for module, (folder, _, _) in list(_loaded.items()):
        if folder in old:
            sys.modules.pop(module, None)
            del _loaded[module]


def _folder(module: ModuleType) -> Path | None:
    """The folder in which the outermost package of a module lies; None for a module without a file."""
    file = getattr(module, "__file__", None)
    if not file:
        return None
    path = Path(file).resolve()
    inside = len(module.__name__.split(".")) - (path.name != "__init__.py")
    return path.parents[inside] if inside < len(path.parents) else None


def code_of(name: str, path: str | None = None, option: str = "model.name") -> Sources | None:
    """The source files of a ``python:`` name; None for other names and for what is installed, which has versions.

    Raises:
        ConfigError: as :func:`load`.
    """
    target = target_of(name)
    if target is None:
        return None
    found = load(target, path, option)
    if guest_main.is_main(target):
        return guest_main.collect(target, found, option, _elsewhere(target, path))
    module = sys.modules[target.partition(":")[0]]
    folder = _folder(module)
    if folder is None or not sources.is_users(module.__file__):
        return None
    return sources.collect(target, folder, file_of(found), option)


def file_of(found: Any) -> Path | None:
    """The file in which a function or class is defined; None if it is not written in Python."""
    while isinstance(found, functools.partial):
        found = found.func
    try:
        file = inspect.getsourcefile(
            inspect.unwrap(found if callable(found) and not isinstance(found, nn.Module) else type(found))
        )
    except TypeError:  # an object that can be called, or a function that is not written in Python
        file = None
    return Path(file).resolve() if file else None
