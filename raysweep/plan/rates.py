"""The learning rate at which a child trains: after a finished cosine next to nothing of it is left, which must not go unsaid."""

from __future__ import annotations

from dataclasses import dataclass

from raysweep.config.own import target_of
from raysweep.config.settings import TrainingSection

LOW = 0.1  # of the peak; a child that never trains at more is warned of


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

    def describe(self) -> str:
        """``learning rate 0.00051 at the fork, 1e-05 at the end``."""
        if self.fork == self.end == self.highest:
            return f"learning rate {self.fork:.2g} from the fork to the end"
        return f"learning rate {self.fork:.2g} at the fork, {self.end:.2g} at the end"


def rates(training: TrainingSection, start: float, end: float) -> Rates:
    """The rates of a child that trains from ``start`` to ``end``, both in epochs since the beginning of its parents' training."""
    from raysweep.training.optim import learning_rate

    steps = 64
    between = [learning_rate(training, start + (end - start) * i / steps) for i in range(steps)]
    return Rates(between[0], learning_rate(training, max(start, end - 1e-3)), max(between), training.learning_rate)


def remedy(training: TrainingSection, fork: int, epochs: int) -> list[str]:
    """What to add to the command for a rate that changes something: a cosine that ends with the child, or if that is too low
    at the fork, too, a constant rate. Empty where nothing is needed."""
    if target_of(training.schedule) is not None or not rates(training, fork, fork + epochs).low:
        return []  # what the user's own schedule should be nobody else knows
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
    what = {"cosine": "the cosine has ended", "step": "the steps have lowered it", "constant": "it warms up"}
    why = what.get(training.schedule, "your schedule has lowered it")
    add = remedy(training, fork, epochs)
    peak = f"training.learning_rate={training.learning_rate:g} is only the peak of the schedule. " if given else ""
    return (
        f"WARNING: it trains at {found.highest / found.peak:.1%} of the learning rate's peak or less, because {why}: other "
        f"weights will change little. {peak}{' '.join(['Add', *add] if add else [])}".rstrip()
    )
