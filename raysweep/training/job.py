"""What a process has to train, and what it returns. It travels to Ray workers by pickle."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from raysweep.config.settings import Settings
from raysweep.store.records import ExperimentConfig, ParentRef
from raysweep.weights import SamplingWeights


@dataclass(frozen=True)
class Job:
    """Everything a process needs in order to train. It was checked in planning and is not checked again where it arrives."""

    folder: str
    token: str  # of the writer's lock
    settings: Settings
    weights: SamplingWeights  # in the order of the classes
    cache_dir: str
    cache_folder: str  # the decoded images of this run, where this machine has them already
    threads: int
    use_gpu: bool
    first_epoch: int  # the first epoch to train, from 1, the parent's epochs counted
    last_epoch: int
    start: str | None = None  # checkpoint to start from
    same_run: bool = False  # True: go on in place; False: a child of that checkpoint
    fresh_optimizer: bool = False
    keep_rng: bool = True
    keep_position: bool = True  # False: the running epoch is drawn anew from its start
    parent: ParentRef | None = None
    config: ExperimentConfig = field(default_factory=ExperimentConfig)  # for its checkpoints
    versions: dict[str, str] = field(default_factory=dict)


def from_own_checkpoint(job: Job, file: str, epoch: int, batch: int | None) -> Job:
    """``job`` going on in place from a checkpoint of its own folder, at running epoch ``epoch`` after ``batch`` batches,
    or after the end of ``epoch`` where ``batch`` is None."""
    return replace(
        job,
        start=file,
        same_run=True,
        first_epoch=epoch if batch is not None else epoch + 1,
        fresh_optimizer=False,
        keep_rng=True,
        keep_position=True,
    )


@dataclass
class Outcome:
    """What a finished training returns."""

    epochs: int
    best_acc: float
