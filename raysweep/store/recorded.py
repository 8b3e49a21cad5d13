"""Code of a notebook as an experiment's folder keeps it, for a process in which the notebook does not run.

Whoever reads an experiment asks with :mod:`raysweep.store.trust` whether its text may run, by the hashes of its files. What was
approved lies here until a network is built, under the name and the folder by which the settings look for it.
"""

from __future__ import annotations

import functools
import hashlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raysweep._text import dotted, join_names, truncate
from raysweep.config.foreign import Ask
from raysweep.store import layout
from raysweep.store.records import CodeRef

MODULE = "__main__"
_PREFIX = f"{MODULE}:"


@dataclass(frozen=True)
class Recorded:
    """The files of one ``__main__:NAME``."""

    ref: CodeRef
    files: Mapping[str, bytes]  # path within the code's folder → content


_approved: dict[tuple[str, str | None], Recorded] = {}  # name, folder that the settings say → it


def here(name: str) -> Any:
    """What ``name`` means in the notebook, or in the script of the user, that runs in this process.

    Raises:
        AttributeError: there is no such thing.
    """
    found = functools.reduce(getattr, name.split("."), sys.modules[MODULE])
    if (
        str(getattr(found, "__module__", "")).partition(".")[0] == "raysweep"
    ):  # of the program that runs, not of the user
        raise AttributeError(name)
    return found


def ask(code: CodeRef) -> Ask:
    """For consent to run these files; other contents give another digest."""
    files = {path: str(digest) for path, digest in sorted(code.files.items())}
    text = f"run the text of python:{truncate(code.target, 200)} that its folder {layout.CODE}/ keeps ({join_names(files)})"
    return Ask(f"code of {code.option or 'model.name'}", {"target": code.target, "files": files}, text)


def asks(code: Sequence[CodeRef]) -> list[Ask]:
    """For consent to run the code of notebooks among ``code``."""
    return [ask(one) for one in code if one.target.startswith(_PREFIX) and one.files]


def wanted(code: Sequence[CodeRef], settings: Mapping[str, Any]) -> list[CodeRef]:
    """The code of notebooks that nested settings name and that this process does not have."""
    named = {value for _, value in dotted(settings) if isinstance(value, str)}
    return [one for one in code if f"python:{one.target}" in named and one.files and _is_missing(one.target)]


def _is_missing(target: str) -> bool:
    if not target.startswith(_PREFIX):
        return False
    try:
        here(target.removeprefix(_PREFIX))
    except AttributeError:
        return True
    return False


def keep(folder: Path, code: Sequence[CodeRef], settings: Mapping[str, Any]) -> None:
    """Keep what was approved for whoever builds it. What an experiment's folder does not have as it was recorded is left out."""
    for one in code:
        section = settings.get("model") or {}
        place = section.get("path") if one.option is None else settings.get("code_path")
        _approved.pop((one.target, place), None)
        files = {path: _read(folder, path, digest) for path, digest in one.files.items() if path not in one.left_out}
        if all(content is not None for content in files.values()):
            _approved[one.target, place] = Recorded(one, {path: content or b"" for path, content in files.items()})


def _read(folder: Path, path: str, digest: str) -> bytes | None:
    try:
        content = (folder / layout.CODE / layout.code_name(path, digest)).read_bytes()
    except OSError:
        return None
    return content if hashlib.sha256(content).hexdigest() == digest else None


def find(target: str, folder: str | None) -> Recorded | None:
    """What was approved for a name that the settings look for in ``folder``."""
    return _approved.get((target, folder))
