"""The training function: one process's part of one experiment. Knows neither Ray nor the terminal.

Every way of launching calls :func:`train` with the same :class:`Job`; what happens is told to a reporter.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from torch.nn import functional

from raysweep.data import augment, cache, sampling
from raysweep.data.order import in_order
from raysweep.errors import CheckpointError, Interrupted, NonFiniteLossError
from raysweep.events import BatchDone, CheckpointSaved, EpochDone, Event, Note, Reporter, TrainingStarted
from raysweep.store import checkpoint, checkpoint_format, layout, lineage
from raysweep.training import conditions, evaluate, models, optim, state
from raysweep.training.background import BackgroundSaver
from raysweep.training.checkpointing import CheckpointWriter, history_columns
from raysweep.training.evaluate import Shown
from raysweep.training.feed import Feed
from raysweep.training.job import Job, Outcome
from raysweep.training.world import World

REPORT_EVERY_S = 0.2
FLAGS_EVERY_GPU = 20  # reading a flag waits for the GPU; on the CPU every batch is checked


@dataclass
class _Meters:
    """Sums over the batches of an epoch that this rank has computed."""

    loss: float = 0.0
    correct: float = 0.0
    images: int = 0
    seconds: float = 0.0


def train(job: Job, reporter: Reporter, start: Mapping[str, Any] | None = None) -> Outcome:
    """Train ``job`` to its last epoch.

    Args:
        job: what to train.
        reporter: where events go, and who may ask to stop.
        start: the content of ``job.start`` where the caller has it already; it is not changed.

    Raises:
        Interrupted: the reporter asked to stop; a checkpoint was committed.
        NonFiniteLossError: the loss is NaN or infinite; what was committed before stays.
    """
    return _Training(job, reporter, start).run()


class _Training:
    def __init__(self, job: Job, reporter: Reporter, start: Mapping[str, Any] | None) -> None:
        self.job, self.reporter = job, reporter
        self.settings = job.settings
        torch.set_num_threads(job.threads)
        self.device = torch.device("cuda", torch.cuda.current_device()) if job.use_gpu else torch.device("cpu")
        self.world = World(self.device)
        found = cache.reopen(job.cache_folder) or cache.load(self.settings.data, job.cache_dir)
        self.data = in_order(found, self.settings.data.classes)
        self.classes = self.data.classes
        t = self.settings.training
        self.members = sampling.pool(
            self.data.train.labels, self.classes, self.settings.sampling.sample_per_class, self.settings.data.split_seed
        )
        self.draws = self.settings.sampling.samples_per_epoch or len(self.members)
        self.total_batches = sampling.batches(self.draws, t.batch_size)
        self.mean, self.std = models.moments(self.settings.model.name, self.data)
        self.history: dict[str, list[Any]] = {c: [] for c in history_columns(self.classes)}
        self.best_acc = 0.0
        self.batch_done = 0
        self.meters = _Meters()
        self.stop: str | None = None  # why to stop, once somebody asked

        state.seed_everything(self.settings.seed, 0)  # the same weights on every rank
        model = models.build(
            self.settings.model.name, self.settings.model.options, len(self.classes), self.data.shape[2]
        )
        if job.start is None:
            models.initialise(model, self.settings.model)
        model.to(self.device)
        model.to(memory_format=torch.channels_last if t.channels_last else torch.contiguous_format)
        state.seed_everything(self.settings.seed, self.world.rank, 1)
        saved = self._restore(model, start) if job.start else None
        self.feed = Feed(self.data, self.mean, self.std, self.device, t.channels_last)
        self.model, self.trained = self.world.wrap(model, self.settings.scaling.sync_batchnorm)
        generators = state.rng_state()
        height, width, channels = self.data.shape
        self.world.settle(self.model, self.trained, (channels, height, width))
        state.set_rng_state(generators)
        if t.compile:
            self.trained = torch.compile(self.trained)  # type: ignore[assignment]
        self.optimizer = optim.optimizer(self.model, t)
        if saved is not None and not job.fresh_optimizer:
            state.restore_optimizer(self.model, self.optimizer, saved, str(job.start))
        if saved is not None and job.keep_rng:
            ranks = saved.get("rng_state") or []
            if self.world.rank < len(ranks):
                state.set_rng_state(ranks[self.world.rank])
        self.bf16 = t.precision == "bf16" or (t.precision == "auto" and self.device.type == "cuda")
        self.conditions = conditions.here(self.device, self.bf16, job.threads, self.world.size)
        self.not_as_it_was = (
            [] if saved is None else conditions.differences(conditions.of_checkpoint(saved), self.conditions)
        )
        self.flags_every = 1 if self.device.type == "cpu" else FLAGS_EVERY_GPU
        keep = self.settings.checkpoint.keep
        self.writer = (
            CheckpointWriter(job.folder, job.token, self.classes, t.best_metric, None if keep == "all" else keep)
            if self.world.rank == 0
            else None
        )
        self.saver = BackgroundSaver(self._tell)
        self.always = self._always()

    # --- from a checkpoint, and to one -------------------------------------------------------------------------------

    def _restore(self, model: torch.nn.Module, start: Mapping[str, Any] | None) -> Mapping[str, Any]:
        assert self.job.start is not None
        saved = start if start is not None else checkpoint.read_checkpoint(self.job.start)
        classes = saved.get("classes")
        if classes is not None and list(classes) != list(self.classes):
            raise CheckpointError(
                f"The checkpoint's classes are {', '.join(classes)}; the data's are {', '.join(self.classes)}. "
                "Classes and their order must be the same."
            )
        state.restore_model(model, saved, self.job.start)
        known = saved.get("preprocessing") or {}
        self.mean, self.std = list(known.get("mean", self.mean)), list(known.get("std", self.std))
        rows = len(saved["history"].get("val_acc", []))
        for column, values in saved["history"].items():
            self.history[column] = list(values)
        for column in self.history:
            self.history[column] += [None] * (rows - len(self.history[column]))
        # The old system wrote four columns and did not number the epochs.
        self.history["epoch"] = [i if e is None else e for i, e in enumerate(self.history["epoch"], start=1)]
        self.best_acc = float(saved["best_acc"])
        sampler = saved.get("sampler_state") or {}
        if self.job.keep_position and int(saved.get("current_batch") or 0) > 0 and sampler.get("meters"):
            self.batch_done = int(saved["current_batch"])
            self._take_meters(sampler["meters"])
        return saved

    def _take_meters(self, ranks: list[list[float]]) -> None:
        """Each rank its own sums; where the number of ranks has changed, rank 0 carries those of all."""
        if len(ranks) == self.world.size:
            mine = ranks[self.world.rank]
        else:
            mine = [sum(r[i] for r in ranks) if self.world.rank == 0 else 0.0 for i in range(3)] + [ranks[0][3]]
        self.meters = _Meters(float(mine[0]), float(mine[1]), int(mine[2]), float(mine[3]))

    def _state(self, epoch: int, batch: int) -> dict[str, Any]:
        """The checkpoint after ``batch`` batches of ``epoch`` (0: after its end). Collective: every rank must call.

        On rank 0 it is a snapshot, valid until the next one; the save before it has ended. The writer adds the time.
        """
        self.saver.begin()
        meters = [self.meters.loss, self.meters.correct, self.meters.images, self.meters.seconds]
        ranks = self.world.gather((state.rng_state(), meters))
        if self.world.rank != 0:
            return {}
        return {
            **self.always,
            "epoch": epoch if batch == 0 else epoch - 1,
            "current_batch": batch,
            **self.saver.take(
                {
                    "model_state_dict": self.model.state_dict(),
                    "optimizer_state_dict": self.optimizer.state_dict(),
                }
            ),
            "scheduler_state_dict": {
                "kind": self.settings.training.schedule,
                "progress": epoch if batch == 0 else epoch - 1 + batch / self.total_batches,
            },
            "best_acc": float(self.best_acc),
            "history": {k: list(v) for k, v in self.history.items()},
            "sampler_state": {
                "strategy": self.settings.sampling.strategy,
                "seed": self.settings.seed,
                "draws": self.draws,
                "meters": [m for _, m in ranks] if batch else [],
            },
            "rng_state": [r for r, _ in ranks],
        }

    def _always(self) -> dict[str, Any]:
        """What every checkpoint of this training holds; it is put together once, since at each save the training stands still."""
        return {
            "format_version": checkpoint_format.FORMAT_VERSION,
            "total_batches": self.total_batches,
            "scaler_state_dict": {},  # bf16 needs no loss scaling
            "config": self.job.config.to_json(),
            "classes": list(self.classes),
            "sampling_weights": self.job.weights.as_dict(),
            "world_size": self.world.size,
            "threads": self.job.threads,
            "conditions": dict(self.conditions),
            "preprocessing": {"mean": self.mean, "std": self.std, "shape": list(self.data.shape)},
            "data_sha256": self.data.sha256,
            "experiment": Path(self.job.folder).name,
            "parent": self.job.parent.to_json() if self.job.parent else None,
            "versions": self.job.versions,
        }

    # --- the epochs --------------------------------------------------------------------------------------------------

    def _tell(self, event: Event) -> None:
        if self.world.rank == 0:
            self.reporter(event)

    def run(self) -> Outcome:
        try:
            outcome = self._run()
            self.saver.flush()
            return outcome
        except Exception:
            # What was reached before is committed, too; trouble with that must not hide why the training ends.
            with contextlib.suppress(Exception):
                self.saver.flush()
            raise
        finally:
            self.saver.close()

    def _run(self) -> Outcome:
        job = self.job
        if self.not_as_it_was and self.world.rank == 0:
            text = f"not bit-exact: {', '.join(self.not_as_it_was)}"
            lineage.record(Path(job.folder), lineage.NOTE, text=text)
            self._tell(Note(text, inexact=True))
        counts = {
            c: int(n)
            for c, n in zip(
                self.classes,
                np.bincount(self.data.train.labels[self.members], minlength=len(self.classes)),
                strict=True,
            )
        }
        self._tell(TrainingStarted(job.last_epoch))
        for epoch in range(job.first_epoch, job.last_epoch + 1):
            self._epoch(epoch, counts)
            self.batch_done, self.meters = 0, _Meters()
            if epoch < job.last_epoch:
                self._leave_if_asked(epoch, None)
        return Outcome(job.last_epoch, self.best_acc)

    def _epoch(self, epoch: int, counts: dict[str, int]) -> None:
        s = self.settings
        order = sampling.epoch_order(
            self.data.train.labels,
            self.members,
            self.classes,
            self.job.weights,
            self.draws,
            seed=s.seed,
            epoch=epoch,
            strategy=s.sampling.strategy,
        )
        a = s.training.augment
        draws = (
            augment.epoch_draws(self.draws, a.crop_padding, a.flip, seed=s.seed, epoch=epoch)
            if a.crop_padding or a.flip
            else None
        )
        positions = self._train_epoch(epoch, order, draws)
        started = time.perf_counter()
        self.world.share_buffers(self.model)
        validation = evaluate.validate(
            self.model, self.feed, self.data.val, len(self.classes), self.world, self._autocast()
        )
        m = self.meters
        ranks = self.world.gather(Shown(m.loss, m.correct, m.images, positions))
        if self.world.rank == 0:
            row = evaluate.history_row(
                s,
                self.classes,
                self.job.weights,
                counts,
                epoch=epoch,
                total_batches=self.total_batches,
                order=order,
                train_labels=self.data.train.labels,
                ranks=ranks,
                validation=validation,
                train_seconds=m.seconds,
                val_seconds=time.perf_counter() - started,
            )
            for column in self.history:
                self.history[column].append(row.get(column))
            self.best_acc = max(self.best_acc, row["val_acc"])
        saved, writer = self._state(epoch, 0), self.writer
        if writer is not None:
            summary = {k: row[k] for k in evaluate.SUMMARY}
            labels, probabilities, _ = validation
            predictions = {"labels": labels, "probabilities": probabilities}
            self.saver.submit(
                lambda: writer.epoch_end(saved, epoch, summary, predictions),
                lambda best, save_seconds, blocked_seconds: EpochDone(epoch, row, best, save_seconds, blocked_seconds),
            )

    def _train_epoch(self, epoch: int, order: np.ndarray, draws: np.ndarray | None) -> np.ndarray:
        """Train the batches from ``batch_done`` on; returns the positions of the epoch that this rank computed."""
        t, world = self.settings.training, self.world
        self.model.train()
        self.trained.train()
        shown: list[np.ndarray] = []
        for batch in range(self.batch_done):  # what an earlier process has shown, by the same rule
            shown.append(self._positions(batch)[0])
        last_report = 0.0
        bad = torch.full((), math.inf, device=self.device)  # the first batch whose loss was not finite
        loss_sum = torch.zeros((), dtype=torch.float64, device=self.device)
        correct = torch.zeros((), dtype=torch.float64, device=self.device)
        base_loss, base_correct = self.meters.loss, self.meters.correct
        loss_sum += base_loss
        correct += base_correct
        started, base_seconds = time.perf_counter(), self.meters.seconds
        for batch in range(self.batch_done, self.total_batches):
            positions, size, counted = self._positions(batch)
            x, y = self.feed.batch(self.data.train, order[positions], None if draws is None else draws[positions])
            optim.set_learning_rate(self.optimizer, optim.learning_rate(t, epoch - 1 + batch / self.total_batches))
            self.optimizer.zero_grad(set_to_none=True)
            with self._autocast():
                logits = self.trained(x)
            loss = functional.cross_entropy(logits.float(), y, label_smoothing=t.label_smoothing, reduction="sum")
            # DDP averages over ranks: this makes the result the mean over the images of the global batch, also when the
            # ranks' shares differ in size.
            (loss * (world.size / size)).backward()
            if t.grad_clip is not None:
                torch.nn.utils.clip_grad_norm_(self.model.parameters(), t.grad_clip)
            with torch.no_grad():
                if counted:
                    loss_sum += loss.detach().double()
                    correct += (logits.argmax(1) == y).sum()
                    self.meters.images += len(y)
                    shown.append(positions)
                bad = torch.where(torch.isfinite(loss), bad, torch.minimum(bad, torch.full_like(bad, batch + 1)))
            done = batch + 1
            every = self.settings.checkpoint.every_n_batches
            due = every is not None and done % every == 0  # what is saved must have been looked at
            if due or batch % self.flags_every == 0 or done == self.total_batches:
                self._check(epoch, bad)  # before the step, so that no weight is spoilt where it can be seen in time
            self.optimizer.step()
            self.saver.poll()
            self.meters.seconds = base_seconds + time.perf_counter() - started
            if done < self.total_batches and (due or self.stop):
                self.meters.loss, self.meters.correct = float(loss_sum), float(correct)
                self._save_within(epoch, done)
                self._leave_if_asked(epoch, done)
            now = time.perf_counter()
            if world.rank == 0 and (now - last_report > REPORT_EVERY_S or done == self.total_batches):
                last_report = now
                images = max(1, self.meters.images) * world.size
                mean_loss = float(loss.detach()) / max(1, len(y))
                speed = images / max(1e-9, self.meters.seconds)
                self._tell(BatchDone(epoch, done, self.total_batches, mean_loss, speed))
        self.meters.loss, self.meters.correct = float(loss_sum), float(correct)
        return np.concatenate(shown) if shown else np.empty(0, dtype=np.int64)

    def _positions(self, batch: int) -> tuple[np.ndarray, int, bool]:
        """(positions of the epoch this rank computes, images its loss is averaged with, whether it counts them)."""
        start, stop = sampling.batch_bounds(batch, self.draws, self.settings.training.batch_size)
        a, b = sampling.rank_slice(start, stop, self.world.rank, self.world.size)
        # A batch smaller than the number of ranks is computed whole by each: the mean of equal gradients is that gradient.
        whole = stop - start < self.world.size
        return np.arange(a, b), (stop - start) * (self.world.size if whole else 1), self.world.rank == 0 or not whole

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        return torch.autocast(self.device.type, dtype=torch.bfloat16) if self.bf16 else contextlib.nullcontext()

    def _check(self, epoch: int, bad: torch.Tensor) -> None:
        """Agree among the ranks whether a loss was not finite (raises) or a stop was asked for (``self.stop``)."""
        reason = self.reporter.should_stop() if self.world.rank == 0 else None
        first_bad = float(bad)
        worst, stop = self.world.highest([0.0 if math.isinf(first_bad) else first_bad, float(reason is not None)])
        if worst:
            self._not_finite(f"The loss became NaN or infinite in epoch {epoch}, batch {int(worst)}")
        self.stop = (reason or "request") if stop else None

    def _not_finite(self, what: str) -> NoReturn:
        raise NonFiniteLossError(
            f"{what} of {self.total_batches}. The checkpoints before it are intact. Try a smaller training.learning_rate, "
            "training.grad_clip=1.0, or look at the data."
        )

    def _leave_if_asked(self, epoch: int, done: int | None) -> None:
        """End here, after a commit, if a stop was asked for."""
        if self.stop is not None:
            self.saver.flush()
            where = "at its end" if done is None else f"after batch {done} of {self.total_batches}"
            name = layout.checkpoint_name(layout.Position(epoch, done))
            raise Interrupted(
                f"Stopped by {self.stop} in epoch {epoch} {where}; the checkpoint {name} was saved.", self.stop
            )

    def _save_within(self, epoch: int, done: int) -> None:
        # A finite loss can still have had an infinite gradient; all ranks hold the same weights, so all agree.
        if not all(bool(torch.isfinite(p).all()) for p in self.model.parameters()):
            self._not_finite(f"The weights became NaN or infinite in epoch {epoch}, batch {done}")
        saved, writer = self._state(epoch, done), self.writer
        if writer is not None:
            self.saver.submit(lambda: writer.mid_epoch(saved, epoch, done).file, lambda file, *_: CheckpointSaved(file))
