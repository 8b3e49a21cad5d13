"""Plan a hunt: checkpoint, space and budget, and the whole first round, checked before anything is made."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from raysweep._text import Nested
from raysweep.config import cells
from raysweep.config import grid as grids
from raysweep.config import load as load_config
from raysweep.config import space as spaces
from raysweep.config.grid import CONTROL
from raysweep.config.space import Space
from raysweep.errors import ConfigError, InputError, StoreError
from raysweep.events import Progress, ignore
from raysweep.label_sets import not_built
from raysweep.plan import capacity
from raysweep.plan import parent as parents
from raysweep.plan.experiment import reading_once
from raysweep.plan.hunt import budget as budgets
from raysweep.plan.hunt import proposals
from raysweep.plan.hunt.budget import Budget
from raysweep.plan.hunt.space import Axes, Treatment
from raysweep.plan.sweep import plan_sweep, title
from raysweep.plan.types import Parent, SweepPlan, SweepRequest
from raysweep.report import history
from raysweep.report.findings import sequential
from raysweep.store import sweep as sweeps
from raysweep.store.experiment import Experiment

MOST_SEEDS = 8  # of a branch in a round
QUARTER = 4  # a round has this part of the parent's epochs


@dataclass(frozen=True)
class HuntRequest:
    """What a user asks of a hunt. ``sweep``: checkpoint, root, resources, overrides and trust, as of a sweep; its grid is not used."""

    sweep: SweepRequest
    budget: Budget
    rounds: int | None = None
    space: Space | None = None
    proposer: str = proposals.MODEL
    seed: int = 0


@dataclass(frozen=True)
class HuntPlan:
    """A hunt that was checked; nothing of it exists yet. ``first``: the sweep of its first round, of which ``treatments`` are the branches."""

    name: str
    request: HuntRequest
    space: Space
    rounds: int
    epochs: int
    images: int  # of each training
    seconds: float  # of each training, while others train at the same time
    at_once: int
    trainings: int  # that the budget is enough for
    first: SweepPlan
    treatments: Mapping[str, Treatment]

    @property
    def parent(self) -> Parent:
        return self.first.parent

    @property
    def bytes(self) -> int:
        """That all trainings together will write, at most."""
        return self.trainings * self.first.branch_bytes

    @property
    def counted_on(self) -> str:
        """How many trainings at once it was planned with, and why."""
        asked = self.request.sweep
        if asked.address is None:
            return f"{self.at_once:,} at a time on this machine"
        why = "as --max-concurrent says" if asked.max_concurrent else "since nobody has asked the cluster"
        return f"{self.at_once:,} at a time, {why}; every round asks it how many it holds, and uses nodes that join meanwhile"

    @property
    def hours(self) -> float:
        """As long as the parent's epochs took, if all of the budget is spent."""
        end = alone(self.request.budget, self.at_once)
        sequential_ones = budgets.after(self.rounds) + budgets.beside(self.rounds)
        units = self.trainings if end > 1 else self.trainings + sequential_ones * (self.at_once - 1)
        return units * self.seconds / 3600


def alone(budget: Budget, at_once: int) -> int:
    """What a training that runs by itself costs, in those that run beside others."""
    return at_once if budget.kind == "hours" else 1


@reading_once()
def plan_hunt(request: HuntRequest, progress: Progress = ignore, writable: bool = True) -> HuntPlan:
    """Check a hunt. Nothing is started or made.

    Raises:
        InputError: what is wrong and what to do.
    """
    if request.proposer not in proposals.PROPOSERS:
        raise InputError(f"The proposer {request.proposer!r} is none of {', '.join(proposals.PROPOSERS)}.")
    asked = replace(request.sweep, root=request.sweep.root.resolved())
    parent = parents.read_parent(asked.root, asked.checkpoint, asked.overrides, trust=asked.trust)
    if parent.settings.data.multi_label:
        raise not_built("A hunt", "Use `raysweep branch` with a grid.")
    if parent.settings.training.patience is not None:
        raise ConfigError(
            "A hunt needs trainings of equal length, but training.patience would end them earlier. Add training.patience=null."
        )
    space = resolved_space(request.space, parent, asked, request.rounds or 1)
    ending = f"-r{request.rounds or budgets.MOST_ROUNDS}"
    name = asked.name or title(parent, "hunt", ending)
    sweeps.check_sweep_name(f"{name}{ending}")
    axes = axes_of(space, parent, asked.overrides)

    def sweep(space: Space, trainings: int, told: Progress) -> tuple[SweepPlan, dict[str, Treatment]]:
        points = proposals.next_round(
            [], axes, axes.parent, budgets.branches_of(trainings), request.proposer, request.seed
        )
        treatments = {arm_name(1, i): axes.treatment(point) for i, point in enumerate(points, 1)}
        if not treatments:
            raise InputError(
                "The space holds nothing but what the parent does already. Give wider ranges, or more values."
            )
        grid = grids.check(round_grid(space, treatments, trainings, 1), "the first round's grid")
        return plan_sweep(replace(asked, name=f"{name}-r1", grid=grid, epochs=space.epochs), told, writable), treatments

    plan, _ = sweep(space, budgets.LEAST, progress)  # to know what a training takes
    images = plan.base.draws * plan.base.settings.training.epochs
    count = asked.max_concurrent or 1
    if asked.address is None:
        count = capacity.at_once(replace(plan, points=plan.points * 8), capacity.this_machine())
    seconds = _seconds(parent, plan, request.budget) / count
    trainings = request.budget.trainings(images, seconds)
    weight = alone(request.budget, count)
    rounds = budgets.rounds_for(trainings, request.rounds, weight)
    space = resolved_space(request.space, parent, asked, rounds)
    first, treatments = sweep(space, _of_first(request.budget, trainings, rounds, weight), ignore)
    return HuntPlan(
        name, replace(request, sweep=asked), space, rounds, plan.base.settings.training.epochs, images, seconds, count,
        trainings, first, treatments,
    )  # fmt: skip


def _of_first(budget: Budget, trainings: int, rounds: int, weight: int) -> int:
    """Trainings of the first round. How long they really take is not known before it: so of a budget in hours it gets at most half of what
    all rounds have."""
    found = budgets.of_round(trainings, 1, rounds, weight)
    return max(budgets.LEAST, found // 2) if budget.kind == "hours" and rounds == 1 else found


def resolved_space(space: Space | None, parent: Parent, asked: SweepRequest, rounds: int) -> Space:
    """The space with its epochs and the schedule at each fork decided: where the parent's would end within the rounds, it starts anew."""
    settings = parent.settings
    if space is None:
        before = settings_before(parent, asked.overrides)
        space = spaces.usual(
            parent.weights.as_dict(), parent.counts, before["loss.kind"], before["training.learning_rate"]
        )
    chosen = asked.epochs or space.epochs or max(1, round(settings.training.epochs / QUARTER))
    own = "fork" in space.model_fields_set
    schedule = space.fork.schedule
    if not own and parent.epoch + chosen * rounds > (settings.training.schedule_epochs or parent.last_epoch):
        schedule = "restart"  # nothing would be left of the learning rate
    return spaces.check(
        {**space.model_dump(mode="json", exclude_none=True), "epochs": chosen, "fork": {"schedule": schedule}}
    )


def settings_before(parent: Parent, overrides: Mapping[str, Any] | None) -> Nested:
    """What all branches start from, by dotted key: the parent's settings with those that the user changes for all of them."""
    return cells.flat(load_config.merge(parent.settings.model_dump(mode="json"), overrides or {}))


def axes_of(space: Space, parent: Parent, overrides: Mapping[str, Any] | None) -> Axes:
    """The coordinates of a space, with the treatment of the first round's control."""
    return Axes(space, Treatment(parent.weights.as_dict(), {}, settings_before(parent, overrides)))


def arm_name(number: int, index: int) -> str:
    return f"r{number}-{index:02}"


def round_grid(space: Space, treatments: Mapping[str, Treatment], trainings: int, number: int) -> Nested:
    """The grid file of a round: an ordinary sweep that is a race."""
    return {
        "epochs": space.epochs,
        "branches": [{"name": arm, **_given(t)} for arm, t in treatments.items()],
        "fork": {"schedule": space.fork.schedule},
        "select": space.select,
        "scheduler": "race",
        "cell_controls": False,
        "race": {
            "most": MOST_SEEDS,
            "most_control": MOST_SEEDS + 4,
            "trainings": trainings,
            "level": sequential.spent(number, sequential.OF_ROUNDS),
        },
    }


def _given(treatment: Treatment) -> Nested:
    return {k: v for k, v in treatment.to_json().items() if v}


def _seconds(parent: Parent, plan: SweepPlan, budget: Budget) -> float:
    """How long a training takes by itself, as long as the parent's own epochs took.

    Raises:
        InputError: that is not known, and the budget is a time.
    """
    try:
        experiment = Experiment(Path(parent.path).parent)
        table = history.read_history(experiment)
        took = [table["seconds"][i] for i in history.own_rows(experiment, table)]
        known = [float(s) for s in took if s]
    except (StoreError, KeyError):
        known = []
    if not known and budget.kind == "hours":
        raise InputError(
            f"How long an epoch takes is not known: the history of {parent.experiment} does not say it. Give the budget as --images "
            "or --branches."
        )
    return (statistics.median(known) if known else 0.0) * plan.base.settings.training.epochs


def recipe(rounds: Any) -> list[Treatment]:
    """What the winner's chain does in each round; nothing where the control survived."""
    found = []
    for r in rounds:
        own = None if r.survivor in (None, CONTROL) else r.treatments[r.survivor]
        found.append(Treatment() if own is None else Treatment(own["weights"], own["shares"], own["settings"]))
    return found
