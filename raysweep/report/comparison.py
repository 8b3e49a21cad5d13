"""What is compared with what: the branches of a sweep with their controls, a child with its parent, or experiments with
the first one named; always the predictions of the last epoch, on the same validation images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from raysweep.errors import InputError, NotFoundError, RaysweepError
from raysweep.report import effects, figures, predictions
from raysweep.report.effects import Effect, Pair
from raysweep.report.predictions import Predictions
from raysweep.store import catalog, files, layout
from raysweep.store import sweep as sweeps
from raysweep.store.experiment import FINISHED, Experiment
from raysweep.store.sweep import Sweep
from raysweep.weights import changes


@dataclass(frozen=True)
class Compared:
    """One branch, with all its seeds."""

    name: str
    experiments: list[str]
    references: list[str]
    change: dict[str, tuple[float, float]]  # class → (weight of the reference, of the branch)
    seconds: float  # training, all seeds, the parent's epochs not counted
    images: int  # shown, likewise
    epoch: int


@dataclass(frozen=True)
class Comparison:
    """``against`` says in words what every difference is to; ``notes`` what could not be compared, and what to beware of."""

    title: str
    against: str
    classes: tuple[str, ...]
    counts: dict[str, int]  # validation images per class
    branches: list[Compared]
    effects: list[Effect]
    notes: list[str] = field(default_factory=list)

    def of(self, branch: str, target: str, metric: str) -> Effect:
        """Raises KeyError if that was not compared."""
        for effect in self.effects:
            if (effect.branch, effect.target, effect.metric) == (branch, target, metric):
                return effect
        raise KeyError((branch, target, metric))


ONE_SEED = (
    "There is one seed: what is called better or worse is a difference of these trainings; how much of it another seed "
    "would undo is not known. `seeds: [0, 1, 2]` in the grid tells."
)


def compare(root: Path, references: Sequence[str]) -> Comparison:
    """Compare a sweep, one experiment with its parent, or several experiments with the first.

    Raises:
        NotFoundError: no such thing, or it has no predictions yet. InputError: they cannot be compared.
    """
    if len(references) == 1:
        try:
            return of_sweep(sweeps.find(root, references[0]))
        except NotFoundError:
            return _with_parent(root, catalog.find(root, references[0]))
    return _with_first([catalog.find(root, r) for r in references])


def of_sweep(sweep: Sweep) -> Comparison:
    """Every branch against the control of its seed; branches that differ only in their seed are one branch.

    Raises:
        InputError: there is no finished control with a branch beside it.
    """
    plan = sweep.plan()
    found = sweep.experiments()
    notes: list[str] = []
    done: dict[str, tuple[Experiment, Predictions]] = {}
    for branch in plan["branches"]:
        experiment = found.get(branch["name"])
        if experiment is None or experiment.status() != FINISHED:
            notes.append(f"{branch['name']} is not finished and was left out.")
            continue
        done[branch["name"]] = experiment, _last(experiment)
    controls = {b["seed"]: done[b["name"]] for b in plan["branches"] if b.get("control") and b["name"] in done}
    if not controls:
        raise InputError(
            f"{sweep.id} has no finished control, so there is nothing to compare its branches with. Compare experiments by "
            "name, or run a sweep with `control: true`."
        )
    groups: dict[str, list[tuple[Experiment, Predictions, Experiment, Predictions]]] = {}
    weights: dict[str, Mapping[str, float]] = {}
    for branch in plan["branches"]:
        if branch.get("control") or branch["name"] not in done:
            continue
        if branch["seed"] not in controls:
            notes.append(f"{branch['name']} has no finished control of its seed and was left out.")
            continue
        mine, theirs = done[branch["name"]], controls[branch["seed"]]
        if mine[1].epoch != theirs[1].epoch:
            notes.append(
                f"{branch['name']} ended at epoch {mine[1].epoch}, its control at {theirs[1].epoch}: left out."
            )
            continue
        name = str(branch["name"]).removesuffix(f"-seed{branch['seed']}")
        groups.setdefault(name, []).append((*mine, *theirs))
        weights[name] = branch["weights"]
    seeds = f", {len(controls)} seeds each" if len(controls) > 1 else ""
    before = plan.get("parent_weights") or {}
    changed = {name: changes(before, weights[name]) for name in groups}
    return _compared(sweep.id, f"the control, trained exactly as long{seeds}", groups, changed, notes)


def _with_first(experiments: Sequence[Experiment]) -> Comparison:
    first, *others = experiments
    reference = _last(first)
    groups = {e.id: [(e, _last(e), first, reference)] for e in others}
    before = first.config().get("sampling_weights") or {}
    changed = {e.id: changes(before, e.config().get("sampling_weights") or {}) for e in others}
    notes = [
        f"{e.id} ended at epoch {groups[e.id][0][1].epoch}, {first.id} at {reference.epoch}."
        for e in others
        if groups[e.id][0][1].epoch != reference.epoch
    ]
    return _compared(f"{first.id} and {len(others)} more", f"{first.id}", groups, changed, notes)


def _with_parent(root: Path, child: Experiment) -> Comparison:
    """A child against the checkpoint that it started from, or what the parent has predictions of."""
    told = child.config().get("parent")
    if not told:
        raise InputError(
            f"{child.id} has no parent to be compared with. Name another experiment beside it: "
            f"raysweep compare OTHER {child.id}"
        )
    parent = catalog.find(root, str(told["experiment"]))
    try:
        reference = predictions.read(parent, int(told["epoch"]))
        words = "the checkpoint it started from"
    except NotFoundError:
        reference = _last(parent)
        words = f"its parent at epoch {reference.epoch} (predictions of epoch {told['epoch']}, where it began, are not kept)"
    notes = [
        "There is no control: what comes of training on, and what of the other ratio, cannot be told apart. "
        "`raysweep branch` trains a control."
    ]
    mine = _last(child)
    change = changes(parent.config().get("sampling_weights") or {}, child.config().get("sampling_weights") or {})
    return _compared(child.id, words, {child.id: [(child, mine, parent, reference)]}, {child.id: change}, notes)


def _last(experiment: Experiment) -> Predictions:
    ends = [e for e in experiment.entries() if e.batch is None]
    if not ends:
        raise NotFoundError(f"{experiment.id} has no finished epoch yet, so there is nothing to compare.")
    return predictions.read(experiment, ends[-1].epoch)


def _compared(
    title: str,
    against: str,
    groups: Mapping[str, list[tuple[Experiment, Predictions, Experiment, Predictions]]],
    changed: Mapping[str, dict[str, tuple[float, float]]],
    notes: list[str],
) -> Comparison:
    if not groups:
        raise InputError(f"{title}: no branch can be compared. {' '.join(notes)}".strip())
    _, _, first, one = next(iter(groups.values()))[0]
    data = first.config().get("data_sha256")
    for rows in groups.values():
        for mine, predicted, other, reference in rows:
            for experiment, found in ((mine, predicted), (other, reference)):
                # Another split can have the same labels in the same order; the hash of the images tells.
                same = experiment.config().get("data_sha256") == data and found.classes == one.classes
                if not same or not np.array_equal(found.labels, one.labels):
                    raise InputError(
                        f"{experiment.id} was not validated on the same images as the others, so a difference would mean "
                        "nothing. Compare experiments of the same data."
                    )
    pairs = [
        Pair(name, one.labels, np.stack([r[1].predicted for r in rows]), np.stack([r[3].predicted for r in rows]))
        for name, rows in groups.items()
    ]
    branches = []
    for name, rows in groups.items():
        costs = [_cost(mine) for mine, *_ in rows]
        branches.append(
            Compared(
                name,
                [mine.id for mine, *_ in rows],
                [r[2].id for r in rows],
                dict(changed[name]),
                sum(c[0] for c in costs),
                sum(c[1] for c in costs),
                rows[0][1].epoch,
            )
        )
    if all(len(rows) == 1 for rows in groups.values()):
        notes = [*notes, ONE_SEED]
    counts = dict(zip(one.classes, np.bincount(one.labels, minlength=len(one.classes)).tolist(), strict=True))
    return Comparison(title, against, one.classes, counts, branches, effects.effects(pairs, one.classes), notes)


def _cost(experiment: Experiment) -> tuple[float, int]:
    """Seconds of training and images shown since the fork."""
    try:
        history = figures.read_history(experiment)
    except (OSError, ValueError):
        return float("nan"), 0
    first = int((experiment.config().get("parent") or {}).get("epoch") or 0)
    own = [i for i, epoch in enumerate(history.get("epoch", [])) if epoch is not None and epoch > first]
    seconds = sum(history["seconds"][i] or 0.0 for i in own if "seconds" in history)
    shown = sum(values[i] or 0 for name, values in history.items() if name.startswith("realised_") for i in own)
    return float(seconds), int(shown)


COLUMNS = ("branch", "target", "metric", "reference", "value", "difference", "low", "high", "p", "q", "noise", "label")


def write_csv(comparison: Comparison, path: Path) -> None:
    """``effects.csv``: one row per branch, class and metric; ``(all)`` for what is of all classes."""
    rows: list[list[Any]] = [list(COLUMNS)]
    rows += [[getattr(e, c) for c in COLUMNS] for e in comparison.effects]
    files.write_atomic(path, files.csv_text(rows).encode())


def write_all(sweep: Sweep) -> str | None:
    """Write what is derived from a sweep that ended; returns why it could not be, since that fails no sweep."""
    from raysweep.report import effects_picture

    try:
        comparison = of_sweep(sweep)
        write_csv(comparison, sweep.folder / layout.EFFECTS_CSV)
        files.write_atomic(sweep.folder / layout.EFFECTS_PNG, effects_picture.heat_map(comparison))
    except RaysweepError as error:
        return str(error)
    except Exception as error:
        return f"The effects could not be computed: {type(error).__name__}: {error}"
    return None
