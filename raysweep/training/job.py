"""What a process is to train, and what it returns. Both travel between Ray's processes by pickle."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from raysweep.config.settings import Settings
from raysweep.store.records import ExperimentConfig, ParentRef
from raysweep.training.sources import Sources
from raysweep.weights import SamplingWeights


@dataclass(frozen=True)
class Job:
    """All that a process needs to know to train. It was checked in planning and is not checked again where it arrives."""

    folder: str
    token: str  # of the writer's lock
    settings: Settings
    weights: SamplingWeights  # in the order of the classes
    cache_dir: str
    cache_folder: str  # the decoded images of this run, where this machine has them already
    threads: int
    use_gpu: bool
    first_epoch: int  # the first epoch to train, counted from 1 and including the parent's epochs
    last_epoch: int
    start: str | None = None  # path of the checkpoint to start from
    same_run: bool = False  # True: continue in place; False: a child of that checkpoint
    fresh_optimizer: bool = False
    reset_head: bool = False  # the last layer does not come from that checkpoint, but begins anew
    keep_rng: bool = True
    keep_position: bool = True  # False: the running epoch is drawn anew from its start
    parent: ParentRef | None = None
    config: ExperimentConfig = field(default_factory=ExperimentConfig)  # for its checkpoints
    versions: dict[str, str] = field(default_factory=dict)
    code: Sources | None = None  # of a python: name, as the driver has it
    own: tuple[Sources, ...] = ()  # of the user's code of other options, as the driver has it
    trusted: bool = False  # the driver's user wrote or approved what the settings run and fetch; see store/trust.py


def from_own_checkpoint(job: Job, file: str, epoch: int, batch: int | None) -> Job:
    """``job``, continued in place from a checkpoint of its own folder.

    Args:
        file: path of the checkpoint.
        epoch: the epoch in which it was taken, and ``batch`` the number of batches done by then; None: at the epoch's end.
    """
    return replace(
        job,
        start=file,
        same_run=True,
        first_epoch=epoch if batch is not None else epoch + 1,
        fresh_optimizer=False,
        reset_head=False,
        keep_rng=True,
        keep_position=True,
    )


@dataclass
class Outcome:
    """The result of a finished training."""

    epochs: int
    best_acc: float
