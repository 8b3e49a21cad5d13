"""How far a training has come: the history, the best accuracy, and the sums of the running epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from raysweep.config.settings import TrainingSection
from raysweep.training import patience
from raysweep.training.checkpointing import history_columns
from raysweep.training.world import World


@dataclass
class Meters:
    """Sums over the images of the running epoch that this rank has trained."""

    loss: float = 0.0
    correct: float = 0.0
    images: int = 0
    seconds: float = 0.0

    def as_list(self) -> list[float]:
        """The sums as a checkpoint holds them."""
        return [self.loss, self.correct, self.images, self.seconds]

    @classmethod
    def restored(cls, ranks: Sequence[Sequence[float]], world: World) -> Meters:
        """The sums of this rank from those of all ranks. Where the number of ranks has changed, rank 0 takes the totals."""
        if len(ranks) == world.size:
            loss, correct, images, seconds = ranks[world.rank]
        else:
            loss, correct, images = ([sum(r[i] for r in ranks) for i in range(3)]) if world.rank == 0 else (0.0, 0.0, 0)
            seconds = ranks[0][3]
        return cls(float(loss), float(correct), int(images), float(seconds))


@dataclass
class TrainingProgress:
    """What changes from batch to batch and from epoch to epoch, apart from the network and the optimizer."""

    history: dict[str, list[Any]]  # column → a value per epoch, the parent's epochs first
    best_acc: float = 0.0  # over the whole history
    batch_done: int = 0  # batches of the running epoch that are done when it begins; 0 for a whole epoch
    meters: Meters = field(default_factory=Meters)

    @classmethod
    def new(cls, classes: Sequence[str], metrics: Sequence[str] = ()) -> TrainingProgress:
        """The progress of a training that has not begun; ``metrics``: the columns of the user's own."""
        return cls({column: [] for column in (*history_columns(classes), *metrics)})

    @classmethod
    def restored(
        cls,
        saved: Mapping[str, Any],
        classes: Sequence[str],
        world: World,
        keep_position: bool,
        metrics: Sequence[str] = (),
    ) -> TrainingProgress:
        """The progress that a checkpoint holds.

        Args:
            keep_position: whether a checkpoint within an epoch continues that epoch; otherwise the epoch begins again.
        """
        progress = cls.new(classes, metrics)
        history = progress.history
        history |= {column: list(values) for column, values in saved["history"].items()}
        rows = len(history["val_acc"])
        for values in history.values():
            values += [None] * (rows - len(values))
        # the old system did not number the epochs
        history["epoch"] = [i if e is None else e for i, e in enumerate(history["epoch"], start=1)]
        progress.best_acc = float(saved["best_acc"])
        meters = (saved.get("sampler_state") or {}).get("meters")
        if keep_position and meters and int(saved.get("current_batch") or 0) > 0:
            progress.batch_done = int(saved["current_batch"])
            progress.meters = Meters.restored(meters, world)
        return progress

    def add_epoch(self, row: Mapping[str, Any]) -> None:
        """Append a row to the history; columns that it lacks get None."""
        for column, values in self.history.items():
            values.append(row.get(column))
        self.best_acc = max(self.best_acc, row["val_acc"])

    def waited(self, training: TrainingSection, fork: int) -> patience.Waited | None:
        """How long the run has waited for a better epoch, where the history is complete: on rank 0, and after a start on all."""
        return patience.waited(self.history, training.best_metric, training.patience, fork)

    def begin_epoch(self) -> None:
        """Reset what belongs to the epoch before."""
        self.batch_done, self.meters = 0, Meters()
