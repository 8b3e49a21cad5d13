"""What planning produces: a checked experiment, a checked sweep, and the checkpoint they start from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raysweep import weights as weights_module
from raysweep.config.grid import Grid, Point
from raysweep.config.settings import Settings
from raysweep.data import cache
from raysweep.events import (
    Note,
)
from raysweep.plan.resources import Resources
from raysweep.store.records import ParentRef
from raysweep.store.remote import root as remote


@dataclass(frozen=True)
class Parent:
    """A checkpoint to start from, read and verified once."""

    path: Path
    experiment: str
    epoch: int  # completed epochs
    batch: int  # batches done of the running epoch; 0 at an epoch's end
    sha256: str
    classes: tuple[str, ...]
    weights: dict[str, float]
    settings: dict[str, Any]
    counts: dict[str, int]
    threads: int | None
    world_size: int
    data_sha256: str | None
    last_epoch: int  # the epoch at which the parent's own run ends
    rows: int  # epochs in its history
    channels: int  # of its images
    old: bool  # written by the old system
    given: dict[str, Any]  # dotted key → what the user had to say, because an old or imported checkpoint does not
    own: bool  # a committed checkpoint of an experiment under the root; any other may come from anybody

    def record(self) -> ParentRef:
        """What a child's configuration says of its parent."""
        return ParentRef(self.experiment, self.epoch, self.batch, self.sha256, remote.address(self.path))


@dataclass(frozen=True)
class Plan:
    """Everything that was checked before the folder is made."""

    settings: Settings
    root: Path
    data: cache.Facts
    counts: dict[str, int]  # images of the pool per class
    weights: dict[str, float]
    draws: int
    resources: Resources
    parameters: int
    parent: Any = None  # launch.child.Parent of a child
    fresh_optimizer: bool = False
    notes: tuple[Note, ...] = ()  # what is not as it was at the parent, or of init_from not taken, for the log

    @property
    def shares(self) -> dict[str, float]:
        return weights_module.shares(self.counts, self.weights)

    @property
    def quotas(self) -> dict[str, int]:
        return weights_module.quotas(self.counts, self.weights, self.draws)


@dataclass(frozen=True)
class SweepPlan:
    """A sweep that was checked; nothing of it exists yet."""

    name: str
    description: str
    root: Path
    grid: Grid
    points: list[Point]
    notes: list[str]
    base: Plan  # a child with unchanged weights: what all branches have in common
    gpus_per_branch: float
    max_concurrent: int | None
    branch_bytes: int  # that one branch will write

    @property
    def branches(self) -> int:
        """How many branches there will be, those of a search included."""
        searched = self.grid.search.num_samples or 0 if self.grid.search.algorithm == "optuna" else 0
        return len(self.points) + searched

    def shares(self, point: Point) -> dict[str, float]:
        from raysweep.weights import shares

        return shares(self.base.counts, point.weights)
