"""What planning returns and launching gets: the plan of one experiment, its parent, and the request and plan of a sweep."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from raysweep.config import cells
from raysweep.config.grid import Grid, Point
from raysweep.config.settings import Settings
from raysweep.data import cache
from raysweep.data.roles.record import ImageRoles
from raysweep.events import Note
from raysweep.plan.rates import Rates
from raysweep.plan.resources import Resources
from raysweep.plan.upgrade import FilledIn, Source
from raysweep.store.records import ParentRef
from raysweep.store.root import Root
from raysweep.store.trust import NOBODY, Trust
from raysweep.training.sources import Sources
from raysweep.weights import RatioChange, SamplingWeights


@dataclass(frozen=True)
class Parent:
    """A checkpoint to start from. It is read and verified once."""

    path: Path
    experiment: str
    epoch: int  # completed epochs
    batch: int  # batches done of the running epoch; 0 at an epoch's end
    sha256: str
    weights: SamplingWeights
    decided: SamplingWeights | None  # by a policy, for the epoch that comes next
    settings: Settings
    counts: dict[str, int]
    threads: int | None
    world_size: int
    data_sha256: str | None
    last_epoch: int  # the epoch at which the parent's own run ends
    rows: int  # epochs in its history
    channels: int  # of its images
    filled_in: tuple[FilledIn, ...]  # settings that the checkpoint does not have
    notes: tuple[Note, ...]  # what a child does differently because of where the checkpoint comes from
    trusted: bool  # what its settings run and fetch was approved; False where only its tensors may be used
    own: bool  # a committed checkpoint under the root whose places are this user's; any other may come from anybody

    @property
    def classes(self) -> tuple[str, ...]:
        """In the order of the network's outputs."""
        return self.weights.classes

    @property
    def given(self) -> dict[str, Any]:
        """Dotted key → what the user had to say, because the checkpoint does not."""
        return {row.key: row.value for row in self.filled_in if row.source is Source.USER}

    def record(self) -> ParentRef:
        """What a child's configuration says of its parent."""
        return ParentRef(self.experiment, self.epoch, self.batch, self.sha256, Root.address_of(self.path))


@dataclass(frozen=True)
class Plan:
    """An experiment of which everything was checked; its folder does not exist yet."""

    settings: Settings
    root: Root
    data: cache.Facts
    counts: dict[str, int]  # images of the pool per class
    weights: SamplingWeights
    draws: int
    resources: Resources
    parameters: int
    parent: Parent | None = None
    fresh_optimizer: bool = False
    reset_head: bool = False  # a child begins with a new last layer
    rates: Rates | None = None  # of a child
    notes: tuple[Note, ...] = ()  # what differs from the parent, or was not loaded from init_from; for the log
    roles: ImageRoles | None = field(default=None, compare=False, repr=False)  # those of its ancestors included
    trusted: bool = False  # the user wrote or approved what the settings run and fetch
    held: int = 0  # training images that no epoch shows
    code: Sources | None = None  # of a python: name
    own: tuple[Sources, ...] = ()  # of the user's code of other options

    @property
    def all_code(self) -> list[Sources]:
        """The user's code, of the model and of other options."""
        return [*([self.code] if self.code else []), *self.own]

    @property
    def shares(self) -> dict[str, float]:
        return self.weights.shares(self.counts)

    @property
    def quotas(self) -> dict[str, int]:
        return self.weights.quotas(self.counts, self.draws)

    @property
    def ratio_change(self) -> RatioChange | None:
        """What the fork changes; None where there is no parent, or the weights stay as they are.

        Raises:
            WeightsError: with the parent's weights no image of these data could be drawn.
        """
        if self.parent is None or self.parent.weights == self.weights:
            return None
        return RatioChange.between(self.parent.weights, self.weights, self.counts)


@dataclass(frozen=True)
class SweepRequest:
    """What a user asks of a sweep.

    Threads, workers and GPUs are those of each branch. What is None is decided in planning.
    """

    root: Root
    checkpoint: str  # a reference: what all branches start from
    grid: Grid
    name: str | None = None
    description: str = ""
    epochs: int | None = None  # additional ones; overrides the grid's
    threads: int | None = None  # None: the parent's, so that the control equals the parent to the bit
    workers: int | None = None  # None: as many as the parent had, 0 for one
    address: str | None = None
    max_concurrent: int | None = None
    in_process: bool = False  # in processes of this machine, without Ray
    gpus_per_branch: float | None = None  # a fraction lets several branches share a GPU
    fresh_optimizer: bool = False  # of all branches
    reset_head: bool = False  # of all branches
    overrides: Mapping[str, Any] | None = None  # nested settings in which all branches differ from the parent
    trust: Trust = NOBODY  # whether the checkpoint may run what it names


@dataclass(frozen=True)
class SweepPlan:
    """A sweep that was checked; nothing of it exists yet."""

    name: str
    description: str
    root: Root
    grid: Grid
    points: list[Point]
    notes: list[str]
    base: Plan  # a child with unchanged weights: what all branches have in common
    gpus_per_branch: float
    max_concurrent: int | None
    branch_bytes: int  # that one branch will write
    in_process: bool = False  # in processes of this machine, without Ray
    trust: Trust = NOBODY  # the decision on the branches, for the processes that train them
    bases: Mapping[str, Plan] = field(default_factory=dict)  # the same with other settings, see :func:`base_of`

    @property
    def parent(self) -> Parent:
        assert self.base.parent is not None  # the base is a child
        return self.base.parent

    @property
    def branches(self) -> int:
        """How many branches there will be, those of a search included."""
        searched = self.grid.search.num_samples or 0 if self.grid.search.algorithm == "optuna" else 0
        return len(self.points) + searched

    def of(self, point: Point) -> Plan:
        """What a branch has in common with those of its settings."""
        return base_of(point, self.base, self.bases)

    def shares(self, weights: SamplingWeights, of: Point | None = None) -> dict[str, float]:
        """The share of each class among the images that a branch with these weights draws, in [0, 1].

        Args:
            of: the branch, where its settings decide which images there are.
        """
        return weights.shares((self.base if of is None else self.of(of)).counts)


def base_of(point: Point, base: Plan, bases: Mapping[str, Plan]) -> Plan:
    """The plan with a branch's settings; ``base`` where it has none of its own. Resources are the same for all branches."""
    if not point.settings:
        return base
    return replace(bases[cells.key(point.settings, point.seed)], resources=base.resources)
