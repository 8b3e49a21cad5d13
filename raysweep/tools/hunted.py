"""The end of a hunt: one look at the sealed test images, with new seeds of the winner and of the control, and the page."""

from __future__ import annotations

import contextlib
import math
import shlex
from collections.abc import Mapping, Sequence

from raysweep._text import Nested
from raysweep.config.grid import CONTROL
from raysweep.errors import DataError, RaysweepError
from raysweep.events import Note, Progress
from raysweep.launch.hunt import chains, rounds
from raysweep.report import commands, effects, evaluated, hunt_page, moved
from raysweep.report.effects import ALL, Effect
from raysweep.report.evaluated import Evaluated
from raysweep.report.evaluation import Evaluation
from raysweep.report.findings import estimates, fitted
from raysweep.report.findings.sequential import OF_THE_END
from raysweep.report.history import class_sums, cost, read_history
from raysweep.report.hunt_page import BEGAN, SHOWN, WITH_OFFSETS, Facts, RoundFacts
from raysweep.store import experiment as experiments
from raysweep.store import files, layout
from raysweep.store.experiment import Experiment
from raysweep.store.hunts import AGAIN, WINNER, Hunt, HuntRecord
from raysweep.store.trust import NOBODY, Trust
from raysweep.tools import evaluate as evaluating
from raysweep.tools import shown
from raysweep.tools.subjects import HUNT, Group, Subject

_NOT_AGAIN = (
    "The page was written again after the look. Nobody looked a second time: the classes' differences are those on the validation images; the folder "
    "of the evaluation has those on the test images."
)


def finish(hunt: Hunt, progress: Progress, trust: Trust = NOBODY) -> None:
    """Look once, and write the page.

    Raises:
        RaysweepError: the networks could not be evaluated.
    """
    record = hunt.record()
    found: Sequence[Effect] = ()
    notes: list[str] = []
    if record.seeds and "evaluation" not in record.end:
        look = _look(hunt, record, progress, trust)
        found = look.effects
        record = hunt.note(end={**record.end, **_end(record, look)})
    elif record.seeds:
        found = _seen_on_validation(hunt, record)
        notes.append(_NOT_AGAIN)
    page = hunt_page.page(_facts(hunt, record, found, notes))
    files.write_atomic(hunt.folder / layout.HUNT_PAGE, page.markdown().encode(errors="backslashreplace"))
    files.write_atomic(hunt.folder / layout.HUNT_HTML, page.html().encode(errors="backslashreplace"))


def _look(hunt: Hunt, record: HuntRecord, progress: Progress, trust: Trust) -> Evaluation:
    """The evaluation of the new seeds: on the sealed test images, or where there are none on the validation images."""
    groups = tuple(Group(arm, tuple(chains.end_of(e) for e in _arm(hunt, record, arm))) for arm in (WINNER, CONTROL))
    subject = Subject(HUNT, record.id, record.name, groups, metric=record.select)
    try:
        return evaluating.evaluate_subject(hunt.root, subject, shown.TEST, trust=trust, progress=progress)
    except DataError as error:
        progress(Note(f"{error} The hunt ends on its validation images instead, on which its winner was chosen."))
        return evaluating.evaluate_subject(hunt.root, subject, shown.VAL, trust=trust, progress=progress)


def _arm(hunt: Hunt, record: HuntRecord, arm: str) -> list[Experiment]:
    """The last networks of the winner's or the control's chain, one for each new seed."""
    last = len(record.rounds)
    found = [hunt.step(f"{arm}/{seed}/{last}") for seed in record.seeds]
    return [e for e in found if e is not None]


def _end(record: HuntRecord, look: Evaluation) -> dict[str, object]:
    metric = record.select
    of = next(e for e in look.effects if (e.target, e.metric) == (ALL, metric))
    tested = not math.isnan(of.p)
    return {
        "evaluation": look.id,
        "split": look.split,
        "sealed": look.look is not None,
        "look": look.look,
        "images": look.images,
        "metric": metric,
        "gain": of.difference,
        "low": of.low if tested else None,
        "high": of.high if tested else None,
        "p": of.p if tested else None,
        "found": tested and of.difference > 0 and of.p <= OF_THE_END and look.look is not None,
        "overall": _overall(look),
        "moved": None if look.moved is None else vars(look.moved),
        "notes": list(look.notes),
    }


def _overall(look: Evaluation) -> Nested:
    """Arm → metric → its value on the images of the look."""
    every = {arm.name: {m: arm.overall[m].value for m in SHOWN} for arm in look.arms}
    moved_ = {} if look.moved is None else {WITH_OFFSETS: {m: look.moved.overall[m] for m in SHOWN}}
    return {CONTROL: every[CONTROL], **moved_, WINNER: every[WINNER]}


def _seen_on_validation(hunt: Hunt, record: HuntRecord) -> Sequence[Effect]:
    """Where a hunt was killed between its look and its page, nobody looks again: the page has the effects on the validation images."""
    arms = [[evaluated.last(e) for e in _arm(hunt, record, arm)] for arm in (CONTROL, WINNER)]
    if not all(arms):
        return ()
    control, winner = (
        effects.arm(name, [e.predictions.probabilities for e in row])
        for name, row in zip((CONTROL, WINNER), arms, strict=True)
    )
    one = arms[0][0].predictions
    return effects.of_arms(control, [winner], one.cases, one.classes)[0]


def _facts(hunt: Hunt, record: HuntRecord, found: Sequence[Effect], notes: Sequence[str]) -> Facts:
    every = rounds.trainings_of(hunt, record)
    costs = [cost(e) for e in every]
    ends = _ends_of_chains(hunt, record)
    return Facts(
        record,
        [_of_round(hunt, record, number) for number in range(len(record.rounds))],
        len(every),
        sum(images for _, images in costs),
        (sum(r.seconds for r in record.rounds) + record.seconds) / 3600,
        found,
        _free(ends[CONTROL], record.select),
        _shares(hunt, record),
        _commands(hunt, record),
        [*record.end.get("notes", ()), *notes],
        _on_validation(hunt, record, ends),
    )


def _ends_of_chains(hunt: Hunt, record: HuntRecord) -> dict[str, list[Evaluated]]:
    """The last networks of the control's and the winner's chain with their predictions of the validation images; none where these are not kept."""
    found: dict[str, list[Evaluated]] = {}
    for name in (CONTROL, WINNER):
        mine = _arm(hunt, record, name) or ([rounds.control_chain(hunt, record.rounds)] if name == CONTROL else [])
        found[name] = []
        with contextlib.suppress(RaysweepError):
            found[name] = [evaluated.last(e) for e in mine]
    return found


def _on_validation(hunt: Hunt, record: HuntRecord, ends: Mapping[str, list[Evaluated]]) -> dict[str, float]:
    """The hunt's metric on the validation images: of the checkpoint that it began with, and of the ends of its chains."""
    found: dict[str, float] = {}
    with contextlib.suppress(RaysweepError):
        start, _ = evaluated.parent_of(hunt.root, record.parent)
        if start.predictions.epoch == record.parent.epoch:
            found[BEGAN] = _mean([start], record.select)
    return found | {name: _mean(rows, record.select) for name, rows in ends.items() if rows}


def _mean(rows: Sequence[Evaluated], metric: str) -> float:
    """A metric of all classes, mean over networks."""
    arm = effects.arm("", [e.predictions.probabilities for e in rows])
    (found,) = estimates.estimate([arm], rows[0].predictions.cases)
    return found.overall[metric].value


def _of_round(hunt: Hunt, record: HuntRecord, index: int) -> RoundFacts:
    of_round = record.rounds[index]
    sweep = hunt.sweep(of_round.number)
    if sweep is None:
        return RoundFacts(of_round, 0, ())
    told = sweep.record()
    lost = sum(b.status in (experiments.FAILED, experiments.CRASHED) for b in told.branches)
    return RoundFacts(of_round, len(told.branches), () if told.race is None else told.race.shown, lost)


def _free(rows: Sequence[Evaluated], metric: str) -> Effect | None:
    """What the control chain, whose last networks these are, gets from offsets that are fitted for the hunt's metric, on the validation images."""
    if not rows:
        return None
    one = rows[0].predictions
    if metric not in fitted.METRICS or moved.too_many(len(one.classes), len(one.labels)):
        return None
    arm = effects.arm(CONTROL, [e.predictions.probabilities for e in rows])
    every = moved.effects(WITH_OFFSETS, arm, one.cases, one.classes, metric)
    return next(e for e in every if (e.target, e.metric) == (ALL, metric))


def _shares(hunt: Hunt, record: HuntRecord) -> list[tuple[str, dict[str, float]]]:
    """The share of each class among the images that each link of the winner's chain was shown."""
    found = []
    for of_round in record.rounds:
        experiment = rounds.experiment_of(hunt, of_round)
        sums = class_sums(experiment, read_history(experiment), "realised_")
        total = sum(sums.values()) or 1.0
        found.append((f"round {of_round.number}", {c: n / total for c, n in sums.items()}))
    return found


def _commands(hunt: Hunt, record: HuntRecord) -> list[str]:
    """The commands that make the winner again, each from what the one before has made."""
    found: list[str] = []
    before = ""
    for number in range(1, len(record.rounds) + 1):
        link = hunt.step(f"{AGAIN}/{number}")
        text = None if link is None else commands.of_child(link)
        if text is None:
            return []
        words = shlex.split(text)
        name = f"{record.name}-made-{number}"
        if before:
            words[words.index("--from") + 1] = f"{before}@latest"
        words[2:2] = ["--name", name]
        found.append(shlex.join(words))
        before = name
    return found
