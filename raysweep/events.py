"""What happens while something trains: one record per kind of event, and who takes them.

Senders call a :data:`Progress` with them, receivers dispatch by type, mostly with ``match``. Events travel through Ray
actors by the thousand: they hold plain values only, and pickle to about a hundred bytes. What comes from a branch of a
sweep arrives as a :class:`BranchEvent` around what the branch itself has told.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from raysweep.errors import RaysweepError

# --- before anything trains ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Loading:
    """A command is about to import torch and to read data, which takes seconds."""


@dataclass(frozen=True, slots=True)
class Decoding:
    """The image cache is being built: ``done`` of ``total`` images."""

    done: int
    total: int


@dataclass(frozen=True, slots=True)
class ComputingFeatures:
    """What the last layer gets from each image is being computed, once: ``done`` of ``total`` images."""

    done: int
    total: int
    left: float | None  # seconds, as far as one can tell


@dataclass(frozen=True, slots=True)
class Building:
    """The images are there; the plan is about to build the model, load its weights and try it with a batch."""


@dataclass(frozen=True, slots=True)
class Connecting:
    """A run or a sweep is about to connect to the Ray cluster at ``address``; None: to start one on this machine."""

    address: str | None


@dataclass(frozen=True, slots=True)
class Connected:
    """The run or sweep is connected to Ray; ``logs`` is the folder of Ray's own log files."""

    dashboard: str | None  # a sentence for people; None where there is no dashboard
    logs: str


# --- one experiment -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Note:
    """A sentence for people, from anywhere: a plan, a lost worker that is replaced, a tracker that cannot be written."""

    text: str
    inexact: bool = False  # the text says why the bits differ from those of the training that is gone on with
    once: bool = False  # what plans several trainings on the same images, a hunt or folds, shows it only the first time


@dataclass(frozen=True, slots=True)
class ExperimentStarted:
    """The driver of a training has the experiment's folder and is about to start its processes."""

    id: str
    folder: str  # a path, or an address on an object store
    workers: int  # 0: it trains in this process


@dataclass(frozen=True, slots=True)
class TrainingStarted:
    """Rank 0 is about to train its first batch; again after every restart."""

    last_epoch: int


@dataclass(frozen=True, slots=True)
class BatchDone:
    """Rank 0 has trained ``batch`` of ``batches`` batches of ``epoch``; sent a few times a second, and for the last one."""

    epoch: int
    batch: int
    batches: int
    loss: float  # mean of this batch
    images_per_second: float  # of all ranks, over this epoch


@dataclass(frozen=True, slots=True)
class EpochDone:
    """Rank 0 has committed the checkpoint of ``epoch``, which is why the next epoch may have begun meanwhile."""

    epoch: int
    row: Mapping[
        str, Any
    ]  # column → value, the epoch's row of the history; stays a mapping, since its columns are classes
    best: bool  # whether it is the best epoch of its experiment so far
    save_seconds: float  # that the save took
    blocked_seconds: float  # for which training stood still for it


@dataclass(frozen=True, slots=True)
class CheckpointSaved:
    """Rank 0 has committed a checkpoint within an epoch; ``file`` is its name in the experiment's folder."""

    file: str


@dataclass(frozen=True, slots=True)
class RankTraceback:
    """The driver of a training on workers has learnt with which traceback a rank failed."""

    rank: int
    text: str


@dataclass(frozen=True, slots=True)
class Drawing:
    """The driver of a training has seen its last epoch and is about to draw the pictures."""


@dataclass(frozen=True, slots=True)
class ExperimentFinished:
    """The driver of a training has written all of its experiment's files."""


# --- a sweep ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PlannedBranch:
    """A branch as ``sweep.json`` knows it when the sweep starts or is continued."""

    name: str
    control: bool
    seed: int | None
    finished: bool
    changed: tuple[str, ...] = ()  # classes whose weights are not the parent's
    arm: str | None = None  # its name without the seed
    reference: str | None = None  # the arm that it is compared with; None: the control


@dataclass(frozen=True, slots=True)
class SweepStarted:
    """The driver of a sweep is about to hand the branches that are not finished to Ray Tune."""

    id: str
    branches: tuple[PlannedBranch, ...]
    first_epoch: int
    last_epoch: int
    at_once: int
    queue: str  # why not all branches run at once; empty where they do
    notes: tuple[str, ...]
    # the learning rates that there are, the control's first: at the fork, the highest where it is above both, at the end
    rates: tuple[tuple[float, ...], ...] = ()


@dataclass(frozen=True, slots=True)
class SweepEnded:
    """The driver of a sweep has seen every branch end and is about to compare them."""


@dataclass(frozen=True, slots=True)
class BranchStarted:
    """A branch has asked the driver whether it may begin."""


@dataclass(frozen=True, slots=True)
class BranchEnded:
    """A branch has ended, or it is complete already; sent by the branch."""

    status: Literal["finished", "interrupted", "failed"]
    reason: str = ""  # why it was interrupted or failed
    traceback: str = ""  # of a failure
    traceback_file: str = ""  # where the driver has written the traceback, once it has


@dataclass(frozen=True, slots=True)
class BranchEvent:
    """Anything that a branch of a sweep tells, with the branch's name; sent by the branch's reporter."""

    branch: str
    event: Event


Event = (
    Loading
    | Decoding
    | ComputingFeatures
    | Building
    | Connecting
    | Connected
    | Note
    | ExperimentStarted
    | TrainingStarted
    | BatchDone
    | EpochDone
    | CheckpointSaved
    | RankTraceback
    | Drawing
    | ExperimentFinished
    | SweepStarted
    | SweepEnded
    | BranchStarted
    | BranchEnded
    | BranchEvent
)


def opened(event: Event) -> tuple[str | None, Event]:
    """The branch that an event comes from, None for a run of its own, and what it tells."""
    return (event.branch, event.event) if isinstance(event, BranchEvent) else (None, event)


# --- from the ranks of one attempt to its driver, which passes none of them on ------------------------------------------


@dataclass(frozen=True, slots=True)
class RankStarted:
    """A rank is about to train: the handle of its Ray actor, and its node's id."""

    actor: Any
    node: str


@dataclass(frozen=True, slots=True)
class RankDone:
    """Rank 0 has committed the last epoch."""

    epochs: int
    best_acc: float


@dataclass(frozen=True, slots=True)
class RankFailed:
    """A rank could not go on. Sent by the rank itself, or by the driver for ranks that hang."""

    rank: int
    error: RaysweepError  # what to raise if nothing is tried again
    fatal: bool = False  # this rank alone failed, by a fault of its own
    lost_peer: bool = False  # it could not reach another rank: the fault lies there
    traceback: str = ""


RankEvent = RankStarted | RankDone | RankFailed

# --- who takes events ---------------------------------------------------------------------------------------------------

Progress = Callable[[Event], None]


def ignore(event: Event) -> None:
    """A progress that shows nothing."""


class Reporter(Protocol):
    """Where the events of a training go; on rank 0 only."""

    def __call__(self, event: Event, /) -> None: ...

    def should_stop(self) -> str | None:
        """Why to stop after this batch, or None."""
        ...
