"""The learning rate at which a child trains: after a finished cosine next to nothing of it is left, which must not go unsaid."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from raysweep._text import Nested
from raysweep.config.own import target_of
from raysweep.config.settings import TrainingSection

LOW = 0.1  # of the peak; a child that never trains at more is warned of
WORTH_SAYING = 1.05  # so many times its first and last rate, the highest in between is told, too: a schedule that starts anew warms up first


@dataclass(frozen=True)
class Rates:
    """The learning rate of a child's first and last batch, the highest in between, and the peak of its schedule."""

    fork: float
    end: float
    highest: float
    peak: float

    @property
    def low(self) -> bool:
        return self.highest < LOW * self.peak

    @property
    def course(self) -> tuple[float, ...]:
        """The first rate and the last; between them the highest, where it is above both."""
        if self.highest > WORTH_SAYING * max(self.fork, self.end):
            return self.fork, self.highest, self.end
        return self.fork, self.end

    def describe(self) -> str:
        """``learning rate 0.00051 at the fork, 1e-05 at the end``."""
        if self.fork == self.end == self.highest:
            return f"learning rate {self.fork:.2g} from the fork to the end"
        between = f"{self.highest:.2g} at most, " if len(self.course) == 3 else ""
        return f"learning rate {self.fork:.2g} at the fork, {between}{self.end:.2g} at the end"


def rates(training: TrainingSection, start: float, end: float) -> Rates:
    """The rates of a child that trains from ``start`` to ``end``, both in epochs since the beginning of its parents' training."""
    from raysweep.training.optim import learning_rate

    steps = 64
    between = [learning_rate(training, start + (end - start) * i / steps) for i in range(steps)]
    return Rates(between[0], learning_rate(training, max(start, end - 1e-3)), max(between), training.learning_rate)


def forked(before: TrainingSection, asked: Mapping[str, Any], epoch: int, named: bool = True) -> Nested | None:
    """``training.fork`` of a child, with the place; :func:`with_rate` adds the rate, once a schedule of the user is known.

    Args:
        before: the parent's settings.
        asked: those of the child, not checked yet; ``fork`` may hold what is left of the parent's.
        epoch: completed at the fork.
        named: whether the child's own request names it. A schedule that began anew in the parent begins anew again where the child asks for it, and else goes on.
    """
    own = None if before.fork is None else before.fork.model_dump(mode="json")
    wanted = asked.get("fork")
    if wanted is None or (wanted == own and not named) or not isinstance(wanted, Mapping):
        return wanted  # it is inherited, or wrong, which is said with all other mistakes
    if wanted.get("schedule", "inherit") == "inherit":
        return own
    epochs = asked["epochs"]
    end = epoch + epochs if isinstance(epochs, int) else None  # what else it may be is said with all other mistakes
    return {**wanted, "start": epoch, "end": end, "rate": None}


def with_rate(training: TrainingSection, before: TrainingSection) -> TrainingSection:
    """``training`` of a child with the rate at its fork, if that is to be kept or cooled down and is not known yet.

    Args:
        before: the parent's.
    """
    from raysweep.training.optim import learning_rate

    fork = training.fork
    if fork is None or fork.start is None or fork.rate is not None:
        return training
    rate = learning_rate(training.model_copy(update={"fork": before.fork}), fork.start)
    return training.model_copy(update={"fork": fork.model_copy(update={"rate": rate})})


def told(training: TrainingSection, before: TrainingSection) -> str:
    """That the learning rate goes another way than the parent's, where it does."""
    if training.fork is None or training.fork == before.fork:
        return ""
    what = {
        "restart": "its schedule starts anew",
        "constant": "it keeps the value that it has there",
        "cooldown": "it falls to zero in a straight line",
    }[training.fork.schedule]
    return f"not an exact continuation, also without other weights or settings: from the fork on the learning rate is another, {what}"


def remedy(training: TrainingSection, fork: int, epochs: int) -> list[str]:
    """What to add to the command for a rate that changes something: a cosine that ends with the child, or if that is too low
    at the fork, too, a constant rate; where there is another schedule from the fork on, its restart. Empty where nothing is needed."""
    # what the user's own schedule should be nobody else knows; and a branch's process has not tried it yet
    if target_of(training.schedule) is not None or not rates(training, fork, fork + epochs).low:
        return []
    if training.fork is not None:
        warms_up = training.fork.schedule == "restart" and not _restart_ended(training, fork)
        return ["training.warmup_epochs=0"] if warms_up else ["training.fork.schedule=restart"]
    longer = training.model_copy(update={"schedule_epochs": fork + epochs})
    if training.schedule == "cosine" and not rates(longer, fork, fork + epochs).low:
        return [f"training.schedule_epochs={fork + epochs}"]
    return ["training.schedule=constant", f"training.learning_rate={training.learning_rate / 3:.2g}"]


def warning(training: TrainingSection, found: Rates, fork: int, epochs: int, given: bool) -> str | None:
    """What is wrong and what to do; None where the rate is high enough.

    Args:
        given: whether the user gave another ``training.learning_rate``.
    """
    if not found.low:
        return None
    add = remedy(training, fork, epochs)
    peak = f"training.learning_rate={training.learning_rate:g} is only the peak of the schedule. " if given else ""
    return (
        f"WARNING: it trains at {found.highest / found.peak:.1%} of the learning rate's peak or less, because {_why(training, fork)}: other "
        f"weights will change little. {peak}{' '.join(['Add', *add]) if add else 'In a grid, fork: {schedule: restart} starts the schedule anew.'}"
    )


def _restart_ended(training: TrainingSection, fork: int) -> bool:
    """Whether a schedule that began anew at an earlier fork had ended at this one."""
    own = training.fork
    return own is not None and own.schedule == "restart" and own.end is not None and fork >= own.end


def _why(training: TrainingSection, fork: int) -> str:
    if _restart_ended(training, fork):
        return "the schedule that began anew at an earlier fork has ended"
    if training.fork is not None:
        return {"constant": "that is the rate of the fork", "cooldown": "that was the rate of the fork"}.get(
            training.fork.schedule, "it warms up"
        )
    what = {"cosine": "the cosine has ended", "step": "the steps have lowered it", "constant": "it warms up"}
    return what.get(training.schedule, "your schedule has lowered it")
