"""Make a hunt's folder, train its rounds and what comes after them, and continue it after any kill."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime
from functools import partial

from raysweep.config.grid import CONTROL
from raysweep.events import Note, Progress, ignore
from raysweep.launch.hunt import chains, rounds
from raysweep.launch.hunt.chains import Link
from raysweep.launch.sweep import steps
from raysweep.launch.sweep.steps import How
from raysweep.plan.hunt import budget as budgets
from raysweep.plan.hunt.plan import HuntPlan, axes_of, recipe
from raysweep.plan.hunt.space import Treatment
from raysweep.plan.resources import AS_BEFORE, ResourceOverrides
from raysweep.report.history import cost
from raysweep.store import hunts as store
from raysweep.store import layout
from raysweep.store.experiment import Experiment
from raysweep.store.hunts import AGAIN, WINNER, Hunt, HuntRecord, HuntRound
from raysweep.store.trust import NOBODY, Trust

Finish = Callable[[Hunt, Progress], None]  # the look at the sealed images, and the page


def run(plan: HuntPlan, progress: Progress = ignore, finish: Finish | None = None) -> Hunt:
    """Make the folder of a hunt and train all of it.

    Args:
        finish: what is done at its end, while it is still locked.

    Raises:
        Interrupted: a signal asked to stop. RaysweepError: the work failed; what is finished stays.
    """
    with steps.making(
        store.create, plan.request.sweep.root, plan.name, plan.first.base, partial(_record, plan), progress
    ) as hunt:
        return _train(hunt, How(trust=plan.request.sweep.trust), progress, finish)


def continue_hunt(
    hunt: Hunt,
    *,
    steal: bool = False,
    asked: ResourceOverrides = AS_BEFORE,
    progress: Progress = ignore,
    trust: Trust = NOBODY,
    finish: Finish | None = None,
) -> Hunt:
    """Finish a hunt: what is finished stays, what has begun goes on, what is missing starts.

    Raises:
        UntrustedError: it names code or places that nobody has approved. LockedError: it is running.
        Interrupted, or what :func:`run` raises.
    """
    how = How(steal, asked, trust)
    steps.settle(hunt, how)
    with steps.at_work(hunt, steal):
        return _train(hunt, how, progress, finish)


def _record(plan: HuntPlan, identifier: str, now: datetime) -> HuntRecord:
    """What ``hunt.json`` says before anything has run: enough to continue after any kill."""
    asked = plan.request.sweep
    axes = axes_of(plan.space, plan.parent, asked.overrides)
    points = [axes.point(treatment).tolist() for treatment in plan.treatments.values()]
    first = HuntRound(
        1,
        plan.parent.record().reference,
        plan.first.grid.race.trainings or 0,
        plan.first.grid.model_dump(mode="json"),
        rounds.as_stored(dict(plan.treatments), points),
        tuple(axes.parent.tolist()),
    )
    return HuntRecord(
        id=identifier,
        name=plan.name,
        description=asked.description,
        timestamp=now.strftime(layout.TIME_FORMAT),
        parent=plan.parent.record(),
        budget={"kind": plan.request.budget.kind, "amount": plan.request.budget.amount},
        planned=plan.rounds,
        seed=plan.request.seed,
        epochs=plan.epochs,
        images=plan.images,
        seconds_each=plan.seconds,
        at_once=plan.at_once,
        space=plan.space.model_dump(mode="json", exclude_none=True),
        proposer=plan.request.proposer,
        request=steps.stored_request(asked, plan.first.base),
        settings=plan.first.base.settings.model_dump(mode="json"),
        rounds=(first,),
    )


def _train(hunt: Hunt, how: How, progress: Progress, finish: Finish | None) -> Hunt:
    rounds.train(hunt, how, progress)
    _end(hunt, how, progress)
    if finish is not None:
        finish(hunt, progress)
    return hunt


def _end(hunt: Hunt, how: How, progress: Progress) -> None:
    """Train the winner's recipe and the control chain with new seeds, and the winner once more by its commands."""
    record = hunt.record()
    does = recipe(record.rounds)
    if all(t.nothing for t in does):
        progress(Note("The control survived every round: there is no winner to be tried with new seeds."))
        return
    if not record.seeds:
        count = budgets.seeds_at_end(rounds.left(hunt, record), len(does), rounds.alone(record))
        record = hunt.note(seeds=tuple(_new_seeds(hunt, record, count)))
    begun = time.monotonic()
    for seed in record.seeds:
        for arm, each in ((WINNER, does), (CONTROL, [Treatment()] * len(does))):
            _chain(hunt, arm, each, seed, how, progress)
    again = _chain(hunt, AGAIN, does, None, how, progress)
    if "same_bits" not in hunt.record().end:
        same = chains.same_bits(again, rounds.experiment_of(hunt, record.rounds[-1]))
        hunt.note(end={**hunt.record().end, "same_bits": same}, seconds=_seconds(hunt, time.monotonic() - begun))


def _seconds(hunt: Hunt, now: float) -> float:
    """Seconds that the trainings after the rounds took; of those before a kill, what their histories say."""
    record = hunt.record()
    found = [hunt.step(key) for key in record.steps if not key.startswith("beside/")]
    return max(now, sum(cost(e)[0] for e in found if e is not None))


def _chain(hunt: Hunt, arm: str, does: list[Treatment], seed: int | None, how: How, progress: Progress) -> Experiment:
    """The last experiment of a chain from the hunt's checkpoint."""
    record = hunt.record()
    start, last = record.parent.reference, None
    of = "" if seed is None else f"-seed{seed}"
    for number, treatment in enumerate(does, 1):
        key = f"{arm}/{'' if seed is None else f'{seed}/'}{number}"
        link = Link(key, f"{record.name}-{arm}{of}-{number}", start, treatment, seed)
        last = chains.trained(hunt, link, how, progress)
        start = chains.end_of(last)
    assert last is not None, "a hunt has a round"
    return last


def _new_seeds(hunt: Hunt, record: HuntRecord, count: int) -> list[int]:
    """The smallest seeds that no training of the hunt has had."""
    used = {e.config().setting("seed") for e in rounds.trainings_of(hunt, record)}
    used.add(record.settings.get("seed"))
    found: list[int] = []
    seed = 0
    while len(found) < count:
        if seed not in used:
            found.append(seed)
        seed += 1
    return found
