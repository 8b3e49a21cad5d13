"""The learning rate at which a child trains: after a finished cosine next to nothing of it is left, which must not go unsaid."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from raysweep._text import Nested
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


def forked(before: TrainingSection, asked: Mapping[str, Any], epoch: int) -> Nested | None:
    """``training.fork`` of a child, with what planning fills in.

    Args:
        before: the parent's settings.
        asked: those of the child, not checked yet; ``fork`` may hold what is left of the parent's.
        epoch: completed at the fork.

    Raises:
        ConfigError: something else in ``asked`` is wrong.
    """
    from raysweep.training.optim import learning_rate

    own = None if before.fork is None else before.fork.model_dump(mode="json")
    wanted = asked.get("fork")
    if wanted is None or wanted == own or not isinstance(wanted, Mapping):
        return wanted  # it is inherited, or wrong, which is said with all other mistakes
    if wanted.get("schedule", "inherit") == "inherit":
        return own
    try:
        training = TrainingSection.model_validate({**asked, "fork": own})
    except ValidationError:
        return dict(wanted)
    rate = learning_rate(training, epoch)
    return {**wanted, "start": epoch, "end": epoch + training.epochs, "rate": rate}


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
    if not rates(training, fork, fork + epochs).low:
        return []
    if training.fork is not None:
        return (
            ["training.warmup_epochs=0"] if training.fork.schedule == "restart" else ["training.fork.schedule=restart"]
        )
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
    peak = f"training.learning_rate={training.learning_rate:g} is only the peak of the schedule. " if given else ""
    return (
        f"WARNING: it trains at {found.highest / found.peak:.1%} of the learning rate's peak or less, because {_why(training)}: other "
        f"weights will change little. {peak}In a grid, fork: {{schedule: restart}} starts the schedule anew. Add "
        f"{' '.join(remedy(training, fork, epochs))}"
    )


def _why(training: TrainingSection) -> str:
    if training.fork is not None:
        return {"constant": "that is the rate of the fork", "cooldown": "that was the rate of the fork"}.get(
            training.fork.schedule, "it warms up"
        )
    return {"cosine": "the cosine has ended", "step": "the steps have lowered it"}.get(training.schedule, "it warms up")
