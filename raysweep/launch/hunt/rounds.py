"""The rounds of a hunt: what each tries, its sweep, and from which branch the next one starts.

All that is decided is a function of finished trainings, and is written into ``hunt.json`` before it is acted on: a hunt that was killed ends
as the undisturbed one. Only a budget in hours depends on how fast the trainings were.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from raysweep._text import counted
from raysweep.config import grid as grids
from raysweep.config import space as spaces
from raysweep.config.grid import CONTROL
from raysweep.errors import StoreError
from raysweep.events import Note, Progress
from raysweep.launch.hunt import chains
from raysweep.launch.hunt.chains import Link
from raysweep.launch.sweep import steps
from raysweep.launch.sweep.steps import How
from raysweep.plan import parent as parents
from raysweep.plan.hunt import budget as budgets
from raysweep.plan.hunt import plan as planning
from raysweep.plan.hunt import proposals
from raysweep.plan.hunt.budget import Budget
from raysweep.plan.hunt.model import Round
from raysweep.plan.hunt.space import Axes, Treatment
from raysweep.plan.types import SweepRequest
from raysweep.report import race as seeing
from raysweep.report.history import cost
from raysweep.report.race import Seen
from raysweep.store import experiment as experiments
from raysweep.store import layout
from raysweep.store.experiment import Experiment
from raysweep.store.hunts import BESIDE, Hunt, HuntRecord, HuntRound
from raysweep.store.sweep import Sweep, all_sweeps


def train(hunt: Hunt, how: How, progress: Progress) -> None:
    """Train all rounds.

    Raises:
        Interrupted: a signal asked to stop. RaysweepError: a sweep could not be trained.
    """
    while True:
        record = hunt.record()
        open_round = next((r for r in record.rounds if r.survivor is None), None)
        if open_round is None:
            if len(record.rounds) >= record.planned or not _begin(hunt, how, progress):
                return
            continue
        begun = time.monotonic()
        earlier = _before(hunt, open_round)
        sweep = _sweep(hunt, open_round, how, progress)
        seconds = earlier + time.monotonic() - begun
        _beside(hunt, open_round, sweep, how, progress)
        _decide(hunt, open_round, sweep, seconds, earlier + time.monotonic() - begun, progress)


def _before(hunt: Hunt, of_round: HuntRound) -> float:
    """Seconds that a round had taken before a kill, from its trainings' own history."""
    sweep = hunt.sweep(of_round.number)
    if sweep is None:
        return 0.0
    return sum(cost(e)[0] for e in sweep.experiments().values()) / max(1, hunt.record().at_once)


def trainings_of(hunt: Hunt, record: HuntRecord) -> list[Experiment]:
    """Everything that a hunt has trained so far."""
    found = {
        e.id: e for r in record.rounds if (s := hunt.sweep(r.number)) is not None for e in s.experiments().values()
    }
    steps = (hunt.step(key) for key in record.steps)
    return list((found | {e.id: e for e in steps if e is not None}).values())


def left(hunt: Hunt, record: HuntRecord) -> int:
    """How many trainings the budget is still enough for."""
    budget = _budget(record)
    count = len(trainings_of(hunt, record))
    seconds = sum(r.seconds for r in record.rounds) + record.seconds
    spent = {"branches": float(count), "images": float(count * record.images), "hours": seconds / 3600}
    return budget.trainings(record.images, record.seconds_each, spent[budget.kind])


def alone(record: HuntRecord) -> int:
    """What a training costs that no other trains beside."""
    return planning.alone(_budget(record), record.at_once)


def _budget(record: HuntRecord) -> Budget:
    return Budget(str(record.budget["kind"]), float(record.budget["amount"]))


def _begin(hunt: Hunt, how: How, progress: Progress) -> bool:
    """Decide what the next round tries, and record it; False where the budget is not enough for another."""
    record = hunt.record()
    number, before = len(record.rounds) + 1, record.rounds[-1]
    wanted = record.planned
    planned = budgets.rounds_left(left(hunt, record), number, wanted, alone(record))
    if planned < wanted:
        record = hunt.note(planned=planned)
        short = "What is left of the budget is not enough for"
        if planned < number:
            progress(Note(f"{short} round {number}: the hunt goes on to its end."))
            return False
        progress(Note(f"{short} {counted(wanted, 'round')}: there will be {planned}."))
    trainings = budgets.of_round(left(hunt, record), number, record.planned, alone(record))
    axes, space = _axes(hunt, record, how), spaces.check(dict(record.space))
    start = chains.end_of(experiment_of(hunt, before))
    own = before.treatments.get(str(before.survivor), {}).get("point", before.point)
    control = np.array(own, dtype=np.float64)
    points = proposals.next_round(
        measured(hunt, record, record.rounds),
        axes,
        control,
        budgets.branches_of(trainings),
        record.proposer,
        record.seed,
    )
    if not len(points):
        progress(Note("The space holds nothing that was not tried: the hunt goes on to its end."))
        hunt.note(planned=len(record.rounds))
        return False
    treatments = {planning.arm_name(number, i): axes.treatment(p) for i, p in enumerate(points, 1)}
    following = HuntRound(
        number,
        start,
        trainings,
        grids.check(planning.round_grid(space, treatments, trainings, number)).model_dump(mode="json"),
        as_stored(treatments, points.tolist()),
        tuple(control.tolist()),
    )
    hunt.note(rounds=(*record.rounds, following))
    return True


def as_stored(treatments: dict[str, Treatment], points: Sequence[Sequence[float]]) -> dict[str, object]:
    """Arm → its treatment and its point of the model."""
    return {a: {**t.to_json(), "point": list(p)} for (a, t), p in zip(treatments.items(), points, strict=True)}


def _axes(hunt: Hunt, record: HuntRecord, how: How) -> Axes:
    over = record.request.get("overrides")
    parent = parents.read_parent(hunt.root, record.parent.reference, over, trust=how.trust)
    return planning.axes_of(spaces.check(dict(record.space)), parent, over)


def _sweep(hunt: Hunt, of_round: HuntRound, how: How, progress: Progress) -> Sweep:
    """Train the sweep of a round, or what is left of it. What has failed stays so."""

    def asked() -> SweepRequest:
        made = chains.request(hunt, of_round.start, of_round.grid, how)
        name = sweep_name(hunt.record(), of_round.number)
        return replace(made, name=name, description=_description(hunt, of_round))

    begun = hunt.sweep(of_round.number) or _unnoted(hunt, of_round)
    return steps.swept(
        hunt.root, begun, asked, lambda s: hunt.note_round(of_round.number, sweep=s), how, progress, failed_again=False
    )[0]


def _unnoted(hunt: Hunt, of_round: HuntRound) -> Sweep | None:
    """A sweep that was made just before a kill, so that ``hunt.json`` does not name it yet."""
    name = sweep_name(hunt.record(), of_round.number)
    for found in (s for s in all_sweeps(hunt.root) if layout.split_id(s.id)[0] == name):
        with contextlib.suppress(StoreError):  # a damaged one is not this one
            told = found.record()
            if told.name == name and told.description == _description(hunt, of_round):
                hunt.note_round(of_round.number, sweep=found.id)
                return found
    return None


def sweep_name(record: HuntRecord, number: int) -> str:
    return f"{record.name}-r{number}"


def _description(hunt: Hunt, of_round: HuntRound) -> str:
    return f"Round {of_round.number} of hunt {hunt.record().id}"


def _beside(hunt: Hunt, of_round: HuntRound, sweep: Sweep, how: How, progress: Progress) -> None:
    """Train the control chain as long as the round. As long as the control has survived every round, the sweep's own control is it."""
    record = hunt.record()
    earlier = record.rounds[: of_round.number - 1]
    if all(r.survivor == CONTROL for r in earlier):
        return
    before = control_chain(hunt, earlier)
    key = f"{BESIDE}/{of_round.number}"
    link = Link(key, f"{record.name}-{CONTROL}-{of_round.number}", chains.end_of(before), Treatment())
    chains.trained(hunt, link, how, progress)


def control_chain(hunt: Hunt, rounds: Sequence[HuntRound]) -> Experiment:
    """The last experiment of the control chain after these rounds."""
    last = rounds[-1]
    beside = hunt.step(f"{BESIDE}/{last.number}")
    return beside if beside is not None else arm_of(hunt, last, CONTROL)


def experiment_of(hunt: Hunt, of_round: HuntRound) -> Experiment:
    """The experiment that the next round starts from: the first seed of the survivor, since the luckiest would be no better."""
    return arm_of(hunt, of_round, str(of_round.survivor))


def arm_of(hunt: Hunt, of_round: HuntRound, arm: str) -> Experiment:
    """The first finished training of an arm.

    Raises:
        StoreError: its sweep is gone, or it has none.
    """
    sweep = hunt.sweep(of_round.number)
    if sweep is not None:
        found = sweep.experiments()
        for b in sweep.record().branches:
            mine = b.control if arm == CONTROL else b.arm == arm
            if mine and b.name in found and found[b.name].status() == experiments.FINISHED:
                return found[b.name]
    raise StoreError(
        f"Round {of_round.number} of {hunt.id} has no finished training of {arm}. Restore its folders from a copy."
    )


def measured(hunt: Hunt, record: HuntRecord, rounds: Sequence[HuntRound]) -> list[Round]:
    """What the rounds have measured, for the model; a round of which nothing is finished is left out."""
    sweeps = ((r, hunt.sweep(r.number)) for r in rounds)
    every = ((r, None if sweep is None else seeing.look(sweep, record.select)) for r, sweep in sweeps)
    return [_measured(r, seen) for r, seen in every if seen is not None]


def _measured(of_round: HuntRound, seen: Seen) -> Round:
    points = np.array([of_round.treatments[name]["point"] for name in seen.names])
    noise = seen.noise + 1e-10 * np.eye(len(points))
    return Round(points, np.array(of_round.point), seen.looked.difference, noise)


def _decide(hunt: Hunt, of_round: HuntRound, sweep: Sweep, of_sweep: float, seconds: float, progress: Progress) -> None:
    """Decide from which branch the next round starts, and record it.

    Args:
        of_sweep, seconds: that the sweep, and the whole round, took.
    """
    record = hunt.record()
    seen = seeing.look(sweep, record.select)
    survivor, gain = CONTROL, 0.0
    why = "no branch is finished" if seen is None else "the model expects no branch to be better"
    if seen is not None:
        earlier = measured(hunt, record, record.rounds[: of_round.number - 1])
        expected = proposals.expected([*earlier, _measured(of_round, seen)])
        best = int(expected.argmax())
        if expected[best] > 0:
            survivor, gain = seen.names[best], float(expected[best])
            why = f"the model of all rounds expects {100 * gain:+.1f} points of it over the round's control"
    hunt.note_round(of_round.number, survivor=survivor, why=why, gain=gain, seconds=seconds)
    trainings = sweep.experiments().values()
    if trainings and of_sweep > 0:
        # On a cluster that is not what was planned with: nobody had asked it, and it may have grown or shrunk.
        at_once = max(1, math.ceil(sum(cost(e)[0] for e in trainings) / of_sweep))
        hunt.note(seconds_each=of_sweep / len(trainings), at_once=at_once)
    progress(Note(f"Round {of_round.number} of {record.planned}: {survivor} goes on, because {why}."))
