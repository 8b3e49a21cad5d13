"""Takes the checkpoints of a training: what they hold, and handing them to the thread that writes them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from raysweep.errors import DataError
from raysweep.events import CheckpointSaved, EpochDone, Note, Progress
from raysweep.label_sets import MAP
from raysweep.report import images as validation
from raysweep.store import checkpoint_format, frozen, space
from raysweep.store.checkpoint_format import State
from raysweep.store.records_manifest import SealedRef
from raysweep.training import evaluate, own_loss, state
from raysweep.training.background import BackgroundSaver
from raysweep.training.checkpointing import CheckpointWriter
from raysweep.training.progress import TrainingProgress
from raysweep.training.setup import Setup


class Saver:
    """Saves the state of a training in the background. Every rank has one and must make the same calls; rank 0's writes.

    The caller polls, flushes and closes ``background``, the thread that writes.

    Args:
        report: receives the event of each committed save.
    """

    def __init__(self, setup: Setup, progress: TrainingProgress, report: Progress) -> None:
        self.setup, self.progress = setup, progress
        self.writer = _writer(setup, report) if setup.world.rank == 0 else None
        self.background = BackgroundSaver(report)
        self._report = report
        self._watch = space.Watch(
            Path(setup.job.folder), setup.job.last_epoch, space.rule(setup.settings.checkpoint.keep)
        )
        self._constant = _constant(setup)
        self._part = self.writer.part if self.writer is not None else None
        self._of_labels = (MAP,) if setup.settings.data.multi_label else ()
        self._settled = False  # whether the check of the images has ended well

    def epoch_end(self, epoch: int, row: Mapping[str, Any] | None, validation: evaluate.Validation) -> None:
        """Save the end of an epoch.

        Args:
            row: of the history; None on the ranks other than 0.
        """
        saved, writer = self._state(epoch, 0), self.writer
        if writer is None or row is None:
            return
        if (text := self._watch.after(epoch - 1)) is not None:  # whose save has ended by now
            self._report(Note(text))
        summary = {k: row[k] for k in (*evaluate.SUMMARY, *self.setup.own_metrics, *self._of_labels)}
        predictions = {"labels": validation.labels, "probabilities": validation.probabilities}
        self.background.submit(
            lambda: writer.epoch_end(saved, epoch, summary, predictions),
            lambda best, save_seconds, blocked_seconds: EpochDone(epoch, row, best, save_seconds, blocked_seconds),
        )

    def within_epoch(self, epoch: int, batch: int) -> None:
        """Save the state after ``batch`` batches of ``epoch``."""
        saved, writer = self._state(epoch, batch), self.writer
        if writer is not None:
            self.background.submit(
                lambda: writer.mid_epoch(saved, epoch, batch).file, lambda file, *_: CheckpointSaved(file)
            )

    def _settle(self) -> None:
        """Before the first save: the images that were trained on are those that were decoded. Collective.

        Raises:
            DataError: they are not, on any rank; all ranks raise it.
        """
        if self._settled:
            return
        mine = self.setup.data.settle() or (self.setup.net.features.settle() if self.setup.net.features else None)
        faults = [fault for fault in self.setup.world.gather(mine) if fault is not None]
        if faults:
            raise DataError(faults[0])
        self._settled = True

    def _state(self, epoch: int, batch: int) -> State:
        """The checkpoint after ``batch`` batches of ``epoch``; 0: at its end. The writer adds the time.

        On rank 0 it is a snapshot that is valid until the next call, which waits for the save of this one. Collective.
        """
        setup, progress = self.setup, self.progress
        self._settle()
        self.background.begin()
        ranks = setup.world.gather((state.rng_state(), progress.meters.as_list()))
        kept = {} if setup.own_loss is None else own_loss.kept(setup.own_loss, setup.world.gather)
        if setup.world.rank != 0:
            return {}
        average = {} if setup.net.average is None else setup.net.average.tensors
        state_dict = {**setup.model.state_dict(), **average}
        partly = self._part is not None and bool(setup.net.freezing.frozen(epoch))
        still = self._part.tensors if self._part is not None and partly else {}
        raw = {} if setup.net.average is None else {"trained_state_dict": setup.net.average.weights()}
        return checkpoint_format.versioned(
            {
                **self._constant,
                "sampling_weights": setup.weights(epoch).as_dict(),
                **_decision(setup),
                **({frozen.KEY: {"names": [*state_dict]}} if partly else {}),
                **({"own_state": kept} if kept else {}),
                "epoch": epoch if batch == 0 else epoch - 1,
                "current_batch": batch,
                **self.background.take(
                    {
                        "model_state_dict": {n: t for n, t in state_dict.items() if n not in still},
                        **raw,
                        "optimizer_state_dict": setup.optimizer.state_dict(),
                    }
                ),
                "scheduler_state_dict": {
                    "kind": setup.settings.training.schedule,
                    "progress": epoch if batch == 0 else epoch - 1 + batch / setup.total_batches,
                },
                "best_acc": float(progress.best_acc),
                "history": {k: list(v) for k, v in progress.history.items()},
                **({} if batch else self._patience()),
                "sampler_state": {
                    "strategy": setup.settings.sampling.strategy,
                    "seed": setup.settings.seed,
                    "draws": setup.draws,
                    "meters": [meters for _, meters in ranks] if batch else [],
                },
                "rng_state": [generators for generators, _ in ranks],
            }
        )

    def _patience(self) -> State:
        """How long the run has waited for a better epoch."""
        found = self.progress.waited(self.setup.settings.training, self.setup.job.config.fork)
        return {} if found is None else {"patience": found.to_json()}


def _decision(setup: Setup) -> State:
    """What the policy has decided last, of the running epoch or of the next one."""
    latest = None if setup.policy is None else setup.policy.latest
    return {} if latest is None else {"policy_decision": latest.to_json()}


def _writer(setup: Setup, report: Progress) -> CheckpointWriter:
    job, keep = setup.job, setup.settings.checkpoint.keep
    best_metric = setup.settings.training.best_metric
    images = None
    try:
        images = validation.of_data(setup.data)
    except (OSError, ValueError) as error:  # the check of the cache says more, before anything is saved
        report(
            Note(
                f"The names of the validation images are not recorded, because the image cache cannot be read: {error}."
            )
        )
    seal = setup.data.reading.seal
    sealed = None if seal is None else SealedRef(seal.images, seal.sha256)
    kept = None if keep == "all" else keep
    models = setup.settings.checkpoint.epoch_models
    return CheckpointWriter(
        job.folder, job.token, setup.classes, best_metric, kept, sealed, images, _part(setup), models
    )


def _part(setup: Setup) -> frozen.Part | None:
    """The frozen part of the network, as it is when the training begins; None where there is none."""
    freezing, epoch = setup.net.freezing, setup.job.first_epoch
    if not freezing.frozen(epoch):
        return None
    moving = {*freezing.moving(setup.model, epoch)}
    copied = (
        freezing.unfreeze is not None
    )  # it is trained once that epoch begins, while a save of the one before may still run
    still = {n: t.clone() if copied else t for n, t in setup.model.state_dict().items() if n not in moving}
    return frozen.Part(still, setup.frozen_before)


def _constant(setup: Setup) -> State:
    """The part of a checkpoint that never changes. It is built once, because the training stands still during a save."""
    job = setup.job
    return {
        "total_batches": setup.total_batches,
        "scaler_state_dict": {},  # bf16 needs no loss scaling
        "config": job.config.to_json(),
        "classes": list(setup.classes),
        "world_size": setup.world.size,
        "threads": job.threads,
        "conditions": dict(setup.conditions),
        "preprocessing": {"mean": setup.mean, "std": setup.std, "shape": list(setup.data.shape)},
        "data_sha256": setup.data.sha256,
        **({checkpoint_format.MULTI_LABEL: True} if setup.settings.data.multi_label else {}),
        "experiment": Path(job.folder).name,
        "parent": job.parent.to_json() if job.parent else None,
        "versions": job.versions,
    }
