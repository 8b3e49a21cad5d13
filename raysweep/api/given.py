"""What users give to the functions of the Python interface: a root, a reference or an object, trust, a progress."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from raysweep.errors import InputError, NotFoundError
from raysweep.events import Progress
from raysweep.store.experiment import Experiment
from raysweep.store.folds import Folds
from raysweep.store.hunts import Hunt
from raysweep.store.root import Root
from raysweep.store.sweep import Sweep

if TYPE_CHECKING:
    from raysweep.store.trust import Trust

Reference = str | os.PathLike[str]  # a name, an id, a path, or an object


class Held:
    """An experiment or a sweep in the hands of a user. It is a path, too: that of its folder. Nothing is read before it is asked for,
    and every access reads the files again."""

    stored: Experiment | Sweep | Folds | Hunt

    def __init__(self, stored: Experiment | Sweep | Folds | Hunt) -> None:
        self.stored = stored

    def __fspath__(self) -> str:
        return str(self.folder)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Held) and self.folder.resolve() == other.folder.resolve()

    def __hash__(self) -> int:
        return hash(self.folder.resolve())

    @property
    def id(self) -> str:
        """The name of its folder: ``NAME_YYYYMMDD_HHMMSS``."""
        return self.stored.id

    @property
    def folder(self) -> Path:
        """Its folder on this machine; of an object store, in the local copy."""
        return self.stored.folder

    @property
    def root(self) -> str:
        """The folder or address of all experiments: what other functions take as ``root``."""
        return self.stored.root.address


def place(root: Reference | None, of: object = None) -> Root:
    """The root that is meant: ``root``, else that of an object, else ``RAYSWEEP_ROOT``, else ``experiments``.

    Raises:
        RootError: it cannot be used.
    """
    if root is None and isinstance(of, Held):
        return of.stored.root
    return Root.open(os.fspath(root) if root is not None else usual())


def usual() -> str:
    """The root of every command that names none."""
    return os.environ.get("RAYSWEEP_ROOT") or "experiments"


def text(reference: Reference) -> str:
    """A reference as commands take it."""
    return os.fspath(reference)


def checkpoint(reference: Reference, root: Reference | None) -> tuple[Root, str]:
    """(root, text) of a reference to a checkpoint; without a root, that in which the file lies.

    Raises:
        NotFoundError: an experiment or a sweep was given, or there is no such checkpoint. RootError: the root cannot be used.
    """
    from raysweep.store import resolve

    if isinstance(reference, Held):
        what = "an experiment" if isinstance(reference.stored, Experiment) else "a sweep"
        hint = ".best.best" if what == "a sweep" else ".best"
        raise NotFoundError(
            f"{reference.id} is {what}, not a checkpoint. Give one of its checkpoints, such as {hint}, or "
            f"{reference.id if what == 'an experiment' else 'EXPERIMENT'}@best."
        )
    name = text(reference)
    path = Root.locate(name)
    found = Root.open(os.fspath(root)) if root is not None else None
    if found is None:
        found = Root.at(path.parent.parent) if path.is_file() else Root.open(usual())
    resolve.check(found, name)
    return found, name


def resets_head(reset: str | None) -> bool:
    """
    Raises:
        InputError: ``reset`` names another part than the head.
    """
    if reset not in (None, "head"):
        raise InputError(f"reset={reset!r}: the part that can begin anew is 'head'.")
    return reset is not None


def trusting(trust: bool | Trust) -> Trust:
    """What the user says of code that somebody else may have named."""
    from raysweep.store.trust import Trust

    return Trust(trust) if isinstance(trust, bool) else trust


@contextmanager
def showing(progress: Progress | None, sweep: bool = False) -> Iterator[Progress]:
    """Whom to tell what happens: the given one; else in a notebook a bar in the cell's output, elsewhere lines on stderr."""
    if progress is not None:
        yield progress
        return
    from raysweep.display import notebook  # the terminal is not imported for those who do without it

    with notebook.display(sweep) as shown:
        yield shown
