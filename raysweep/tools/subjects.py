"""What a user asks to evaluate: a checkpoint, an experiment, a model that others trained, or the chosen branch of a sweep."""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass

from raysweep.config.grid import CONTROL
from raysweep.report import chosen, comparison
from raysweep.report.findings.findings import CHOSEN_BY
from raysweep.report.findings.selection import Winner
from raysweep.store import layout, resolve
from raysweep.store.root import Root
from raysweep.store.sweep import Sweep
from raysweep.tools import pretrained

CHECKPOINT, EXPERIMENT, SWEEP, MODEL, HUNT = "checkpoint", "experiment", "sweep", "model", "hunt"
_MOST_NOTES = 5


@dataclass(frozen=True)
class Group:
    """Networks that are evaluated together: all seeds of a branch, or a single one."""

    name: str
    references: tuple[str, ...]


@dataclass(frozen=True)
class Subject:
    """``groups`` are one group, or for a sweep the chosen branch and the control. ``winner`` and ``metric``: how it was chosen; ``luck``: how much
    of its gain on other images is luck of its seeds, in the mean."""

    kind: str
    reference: str
    name: str  # what the evaluation's folder is called after
    groups: tuple[Group, ...]
    winner: Winner | None = None
    metric: str = CHOSEN_BY[0]
    luck: float = math.nan
    notes: tuple[str, ...] = ()


def find(root: Root, reference: str) -> Subject:
    """What a reference means. Of an experiment it is the best epoch, of a sweep the last epoch of the branch that the grid's
    ``select`` names and of the control.

    Raises:
        NotFoundError, AmbiguousReferenceError: there is no such thing, or several. InputError: the sweep cannot be compared.
    """
    if pretrained.is_named(reference):
        name = re.sub(r"[^\w.-]+", "-", reference, flags=re.ASCII).strip("-._")[:60]
        return Subject(MODEL, reference, name, (Group(reference, (reference,)),))
    if resolve.split_reference(reference) is not None or reference.endswith(".pt"):
        experiment, entry, path = resolve.find_checkpoint(root, reference)
        at = f"{experiment.id}@{entry.epoch}" if entry is not None and entry.batch is None else str(path)
        return Subject(CHECKPOINT, at, _short(experiment.id), (Group(at, (reference,)),))
    found = resolve.find_any(root, reference)
    if isinstance(found, Sweep):
        return _of_sweep(root, found)
    best = f"{found.id}@best"
    return Subject(EXPERIMENT, best, _short(found.id), (Group(best, (_at(root, found.root, best),)),))


def _at(root: Root, its_root: Root, reference: str) -> str:
    """A checkpoint as it is found from ``root``: what was named by its path may be in another one."""
    return reference if its_root.path.resolve() == root.path.resolve() else os.path.join(its_root.path, reference)


def _of_sweep(root: Root, sweep: Sweep) -> Subject:
    found = comparison.of_sweep(sweep)
    winner, metric, luck = chosen.of_sweep(sweep, found)
    branch = next(b for b in found.branches if b.name == winner.branch)
    groups = [
        Group(name, tuple(_at(root, sweep.root, f"{id_}@{branch.epoch}") for id_ in ids))
        for name, ids in ((branch.name, branch.experiments), (CONTROL, [n.experiment.id for n in found.networks[""]]))
    ]
    omitted = [note for note in found.notes if "omitted" in note]
    notes = omitted[:_MOST_NOTES]
    if len(omitted) > _MOST_NOTES:
        notes.append(f"{len(omitted) - _MOST_NOTES:,} more branches are omitted, so nothing was chosen among them.")
    if branch.reference:
        notes.append(
            f"{branch.name} was chosen against the sweep's control, so it is judged against that here; the comparison of the sweep has "
            f"its difference from {branch.reference}, the control of the same settings."
        )
    return Subject(SWEEP, sweep.id, _short(sweep.id), tuple(groups), winner, metric, luck, tuple(notes))


def _short(experiment_id: str) -> str:
    return layout.split_id(experiment_id)[0]
