"""Find what is there: experiments, sweeps, checkpoints, and the tree of all. Nothing here loads torch, Ray or NumPy by itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from raysweep._text import counted
from raysweep.api.experiment import Experiment
from raysweep.api.given import Reference, checkpoint, place, text
from raysweep.api.hunted import Hunt
from raysweep.api.sweep import Folds, Sweep
from raysweep.errors import InputError
from raysweep.report import tree
from raysweep.report.card import MOST_ROWS, Card, Shown, Table, left_out
from raysweep.report.tree import Node
from raysweep.store import folds, hunts, index, resolve
from raysweep.store.records import Json
from raysweep.store.sweep import Sweep as StoredSweep


def list_experiments(root: Reference | None = None) -> list[dict[str, Any]]:
    """The documented fields of every experiment under a root, oldest first, as ``raysweep list --json`` prints them."""
    return [row.to_json() for row in index.rows(place(root))]


def load_checkpoint(reference: Reference, root: Reference | None = None) -> dict[str, Any]:
    """The content of a checkpoint: a path, or ``EXPERIMENT@5``, ``@best``, ``@latest``. Never runs code from the file.

    Raises:
        NotFoundError: no such checkpoint. CheckpointError: it is damaged, or holds more than tensors and plain values.
    """
    from raysweep.store import checkpoint as checkpoints

    opened, name = checkpoint(reference, root)
    return checkpoints.read_checkpoint(resolve.find_checkpoint(opened, name)[2])


def get_experiment(reference: Reference, root: Reference | None = None) -> Experiment:
    """An experiment by its id, its name, the start of its id, or its path.

    Args:
        root: the folder of all experiments; default: ``RAYSWEEP_ROOT`` or ``experiments``.

    Raises:
        NotFoundError: there is none. AmbiguousReferenceError: several fit.
    """
    return Experiment(resolve.find_experiment(place(root, reference), text(reference)))


def get_sweep(reference: Reference, root: Reference | None = None) -> Sweep:
    """A sweep by its id, its name, the start of its id, or its path.

    Args:
        root: the folder of all experiments; default: ``RAYSWEEP_ROOT`` or ``experiments``.

    Raises:
        NotFoundError: there is none. AmbiguousReferenceError: several fit. InputError: it is an experiment or a k-fold sweep.
    """
    found = find(reference, root)
    if isinstance(found, Experiment):
        raise InputError(f"{found.id} is an experiment, not a sweep. get_experiment({found.id!r}) opens it.")
    if isinstance(found, Folds):
        raise InputError(
            f"{found.id} is a k-fold sweep. Name the sweep of a fold, or compare({found.id!r}) over all folds."
        )
    if isinstance(found, Hunt):
        raise InputError(f"{found.id} is a hunt; each of its rounds is a sweep: get_hunt({found.id!r}).sweeps.")
    return found


def get_hunt(reference: Reference, root: Reference | None = None) -> Hunt:
    """A hunt by its id, its name, or its path.

    Args:
        root: the folder of all experiments; default: ``RAYSWEEP_ROOT`` or ``experiments``.

    Raises:
        NotFoundError: there is none. InputError: it is something else.
    """
    found = find(reference, root)
    if not isinstance(found, Hunt):
        raise InputError(f"{found.id} is no hunt. `raysweep hunt` makes one.")
    return found


def find(reference: Reference, root: Reference | None = None) -> Experiment | Sweep | Folds | Hunt:
    """What a reference means, by the rule of all commands that take either.

    Raises:
        NotFoundError: there is nothing. AmbiguousReferenceError: several fit.
    """
    opened, name = place(root, reference), text(reference)
    of_folds = folds.find(opened, name)
    if of_folds is not None:
        return Folds(of_folds)
    of_hunt = hunts.find(opened, name)
    if of_hunt is not None:
        return Hunt(of_hunt)
    found = resolve.find_any(opened, name)
    return Sweep(found) if isinstance(found, StoredSweep) else Experiment(found)


@dataclass(frozen=True, repr=False)
class Lineage(Shown):
    """The tree of experiments by parent checkpoint. ``nodes``: id → experiment, with the ratio change on the edge to its parent."""

    root: str
    nodes: dict[str, Node]

    def lines(self) -> Iterator[tuple[str, str, str]]:
        """(guides and edge, id, epochs and best accuracy) of every experiment, parents before children."""
        return tree.lines(self.nodes)

    def rows(self) -> Sequence[Json]:
        """What ``raysweep lineage --json`` prints."""
        return tree.rows(self.nodes)

    def picture(self) -> bytes:
        """The tree as PNG: epochs to the right, a line per experiment, coloured by its best accuracy."""
        return tree.picture(self.nodes)

    def __len__(self) -> int:
        return len(self.nodes)

    def card(self) -> Card:
        every = list(self.lines())
        rows = [[f"{guides}{name}", about] for guides, name, about in every[: 2 * MOST_ROWS]]
        more = left_out(len(every) - len(rows), "experiment", "experiments", ".rows()")
        table = Table([("experiment", "l"), ("epochs", "l")], rows, more)
        return Card("Lineage", counted(len(every), "experiment"), [f"under {self.root}"], [table] if rows else [])


def lineage(reference: Reference | None = None, *, root: Reference | None = None) -> Lineage:
    """The tree of experiments, with the ratio change on every edge (``raysweep lineage``).

    Args:
        reference: only this experiment, its ancestors and its descendants.
        root: the folder of all experiments; default: that of the object, else ``RAYSWEEP_ROOT`` or ``experiments``.

    Raises:
        NotFoundError: there is no such experiment.
    """
    opened = place(root, reference)
    return Lineage(opened.address, tree.build(opened, None if reference is None else text(reference)))
