"""``training.patience``: a run ends where so many epochs were no better than the best before. A function of its history alone, so a
run that is killed anywhere, or continued on workers, ends at the same epoch.

Only epochs since the fork count: a child with other weights begins below its parent's best, and may still be learning.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

from raysweep._text import counted

WORD = "patience"  # in the log: why a run stopped early


@dataclass(frozen=True)
class Waited:
    """How a run stands after an epoch: its best one, and for how many epochs none was better."""

    metric: str  # training.best_metric
    best_epoch: int
    best: float
    waited: int
    patience: int

    @property
    def over(self) -> bool:
        return self.waited >= self.patience

    def describe(self) -> str:
        """``no better val_acc than 0.912 of epoch 4 for 3 epochs``."""
        return f"no better {self.metric} than {self.best:.4g} of epoch {self.best_epoch} for {counted(self.waited, 'epoch')}"

    def to_json(self) -> Mapping[str, Any]:
        """What a checkpoint holds."""
        return asdict(self)

    @classmethod
    def of_checkpoint(cls, saved: Mapping[str, Any]) -> Self | None:
        """What a checkpoint at an epoch's end holds; None without ``training.patience``, and within an epoch."""
        found = saved.get("patience")
        return None if found is None else cls(**{name: found[name] for name in cls.__dataclass_fields__})


def waited(history: Mapping[str, Sequence[Any]], metric: str, patience: int | None, fork: int) -> Waited | None:
    """How a run stands after the last epoch of its history; None where it has no patience, or no epoch of its own.

    Args:
        history: column → a value per epoch, the parent's epochs first.
        metric: ``training.best_metric``.
        patience: ``training.patience``.
        fork: the parent's epoch at which the run began; 0 without a parent.
    """
    column = history["val_macro_f1" if metric == "macro_f1" else metric]
    own = [(e, v) for e, v in zip(history["epoch"], column, strict=False) if e > fork]
    if patience is None or not own:
        return None
    epoch, best = max(own, key=lambda row: (row[1], -row[0]))  # of equal ones, the first
    return Waited(metric, int(epoch), float(best), int(own[-1][0] - epoch), patience)
