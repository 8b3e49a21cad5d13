"""The folders of a root that hold folders: ``sweeps/`` and ``evaluations/``."""

from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path

from raysweep._text import short_repr
from raysweep.errors import RootError, StoreError
from raysweep.store import files, layout
from raysweep.store.root import Root


def new_folder(root: Root, group: str, name: str, when: datetime) -> Path:
    """A new folder in a group; if the name was already used in this second, ``_2``, ``_3`` … is appended.

    Args:
        group: one of ``layout.GROUPS``.
        name: was checked.

    Raises:
        RootError: the root cannot be used.
    """
    root.check_writable()
    parent = root.path / group
    if not files.inside(root.path, parent):
        raise RootError(f"{parent} is a link that leads out of the root. Put a folder in its place.")
    try:
        parent.mkdir(exist_ok=True)
        for attempt in range(1, 10_000):
            folder = parent / layout.make_id(name, when, attempt)
            try:
                folder.mkdir()
            except FileExistsError:
                continue
            if root.claim(folder):
                return folder
            folder.rmdir()
    except OSError as error:
        raise RootError(f"{parent} cannot be written: {error.strerror}. Choose another --root.") from None
    raise RootError(f"{parent} already has 10,000 {group} called {name} of this second.")


def folders_with(root: Root, group: str, file: str) -> list[Path]:
    """The folders of a group that hold this file, by name; links are left out."""
    parent = root.path / group
    if not files.inside(root.path, parent) or not parent.is_dir():
        return []
    found = [parent / row.name for row in os.scandir(parent) if row.is_dir(follow_symlinks=False)]
    return sorted(folder for folder in found if (folder / file).is_file())


def find(root: Root, reference: str, group: str, file: str, what: str) -> tuple[Path, Root] | None:
    """The folder with this file that a path, an id or a name means, and its root; None where none has it.

    Args:
        what: several of them, for a message.

    Raises:
        StoreError: several have this name.
    """
    as_path = Root.locate(reference)
    if os.path.isfile(as_path / file):
        return as_path, Root.at(as_path.parent.parent)
    known = {folder.name: folder for folder in folders_with(root, group, file)}
    if reference in known:
        return known[reference], root
    named = [folder for name, folder in known.items() if layout.split_id(name)[0] == reference]
    if len(named) > 1:
        several = ", ".join(sorted(f.name for f in named))
        raise StoreError(f"Several {what} are called {short_repr(reference)}: {several}. Name one of them.")
    return (named[0], root) if named else None
