"""The training function: the part of one process in one experiment. It knows neither Ray nor the terminal.

Every way of launching calls :func:`train` with the same :class:`Job` and receives the events through a reporter.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from raysweep.errors import TrainingError
from raysweep.events import BatchDone, Note, Progress, Reporter, TrainingStarted, ignore
from raysweep.store import files, layout, lineage
from raysweep.training import device as devices
from raysweep.training import evaluate, features, guest_errors, losses, multi_label, optim, outputs, own, profile
from raysweep.training.augmentation.batches import Batch
from raysweep.training.average import steps
from raysweep.training.evaluate import RankEpoch
from raysweep.training.job import Job, Outcome
from raysweep.training.policy import Policy
from raysweep.training.progress import Meters, TrainingProgress
from raysweep.training.saving import Saver
from raysweep.training.setup import Part, Setup, prepare
from raysweep.training.stopping import Stopping

REPORT_EVERY_S = 0.2
CHECK_EVERY_GPU = 20  # batches; a check waits for the GPU. On the CPU every batch is checked


def train(job: Job, reporter: Reporter, start: Mapping[str, Any] | None = None) -> Outcome:
    """Train ``job`` to its last epoch.

    Args:
        job: what to train.
        reporter: receives the events, and may request a stop.
        start: the content of ``job.start`` where the caller has it already; it is not changed.

    Raises:
        Interrupted: the reporter requested a stop; a checkpoint was committed.
        NonFiniteLossError: the loss is NaN or infinite; checkpoints committed before stay.
    """
    with own.quiet(job.settings):
        try:
            setup, progress = prepare(job, start, reporter)
            return _Loop(setup, progress, reporter).run()
        except SystemExit as error:  # Ray Tune raises it, too, to end a branch early
            place = guest_errors.where(error)
            if not place:
                raise
            raise TrainingError(
                f"The training was ended by your code: {guest_errors.said(error)}. It happened in {place}. Let it raise an error."
            ) from error


class _Counted:
    """What this rank counts in an epoch. The sums stay on an accelerator, so that no batch waits for it; on the CPU they are plain
    numbers of the same precision, which takes less time."""

    def __init__(self, meters: Meters, device: torch.device) -> None:
        self.meters = meters
        self.shown: list[np.ndarray] = []  # positions of the epoch
        self.precision = devices.sums(device)
        self.plain = devices.kind(device) == "cpu"

        def number(value: float, **form: Any) -> Any:
            return value if self.plain else torch.full((), value, device=device, **form)

        self.loss = number(meters.loss, dtype=self.precision)
        self.correct = number(meters.correct, dtype=self.precision)
        self.first_bad = number(math.inf)  # the first batch, from 1, whose loss was not finite

    @torch.no_grad()
    def add(self, batch: int, part: Part, loss: torch.Tensor, logits: torch.Tensor, y: torch.Tensor) -> None:
        """Count a batch; ``batch`` is counted from 1, ``loss`` is the sum over its images."""
        if part.counted:
            self.loss += loss.item() if self.plain else loss.detach().to(self.precision)
            right = multi_label.all_right(logits, y) if y.ndim == 2 else (logits.argmax(1) == y).sum()
            self.correct += right.item() if self.plain else right
            self.meters.images += len(y)
            self.shown.append(part.positions)
        bad = self.first_bad
        if self.plain:
            self.first_bad = bad if math.isfinite(loss.item()) else min(bad, float(batch))
            return
        self.first_bad = torch.where(torch.isfinite(loss), bad, torch.minimum(bad, torch.full_like(bad, batch)))

    def update_meters(self) -> None:
        """Copy the sums from the device, which waits for it."""
        self.meters.loss, self.meters.correct = float(self.loss), float(self.correct)

    def positions(self) -> np.ndarray:
        """int64, in the order in which they were trained."""
        return np.concatenate(self.shown) if self.shown else np.empty(0, dtype=np.int64)


class _Loop:
    """The epochs and batches of one training."""

    def __init__(self, setup: Setup, progress: TrainingProgress, reporter: Reporter) -> None:
        self.setup, self.progress = setup, progress
        self.report: Progress = reporter if setup.world.rank == 0 else ignore
        self.stopping = Stopping(setup.world, reporter, setup.total_batches)
        self.saver = Saver(setup, progress, self.report)
        self.clock = profile.Clock(setup.settings.scaling.profile, setup.world.device)
        setup.net.pixels.clock = self.clock
        self.check_every = 1 if devices.kind(setup.world.device) == "cpu" else CHECK_EVERY_GPU

    def run(self) -> Outcome:
        background = self.saver.background
        try:
            outcome = self._run()
            background.flush()
            return outcome
        except Exception:
            # Commit what was reached before. An error of that must not hide why the training ends.
            with contextlib.suppress(Exception):
                background.flush()
            raise
        finally:
            background.close()

    def _run(self) -> Outcome:
        setup, job = self.setup, self.setup.job
        if setup.inexact and setup.world.rank == 0:
            text = f"not bit-exact: {', '.join(setup.inexact)}"
            lineage.record(Path(job.folder), lineage.NOTE, text=text)
            self.report(Note(text, inexact=True))
        if setup.net.features is not None:
            self._record_once(
                features.describe(setup.net.features, setup.settings.data.views), aloud=False
            )  # planning has said it
        self.report(TrainingStarted(job.last_epoch))
        epoch = job.first_epoch - 1
        while epoch < job.last_epoch and not self._waited_enough(epoch):
            if epoch >= job.first_epoch:
                self._leave_if_asked(layout.Position(epoch, None))
            epoch += 1
            self._epoch(epoch)
            self.progress.begin_epoch()
        self._profile()
        return Outcome(epoch, self.progress.best_acc)

    def _profile(self) -> None:
        """Tell and keep what the time was spent on, if that was asked for."""
        setup = self.setup
        if not self.clock.on or setup.world.rank != 0 or not self.clock.images:
            return
        x = setup.some(setup.settings.training.batch_size)
        found = profile.of(self.clock, setup.net.called, x, setup.net.bf16, setup.job.threads)
        files.write_json(Path(setup.job.folder) / layout.PROFILE, found.to_json())
        for line in found.lines():
            self.report(Note(line))

    def _waited_enough(self, epoch: int) -> bool:
        """Whether ``training.patience`` ends the run after ``epoch``. Collective: rank 0 has the history, and decides for all."""
        t, world = self.setup.settings.training, self.setup.world
        if t.patience is None:
            return False
        found = self.progress.waited(t, self.setup.job.config.fork) if world.rank == 0 else None
        (over,) = world.highest([float(found is not None and found.over)])
        if found is not None and found.over:
            self.report(Note(f"Stopped early after epoch {epoch}: {found.describe()}."))
        return bool(over)

    def _epoch(self, epoch: int) -> None:
        setup, meters = self.setup, self.progress.meters
        self._record_ratio(epoch)
        if setup.net.freezing.begins(epoch) and epoch != setup.job.first_epoch:
            self._record_once(setup.net.thaw(epoch))
            self.clock.restart(epoch)
        order = setup.order(epoch)
        positions = self._train_epoch(epoch, order, setup.batches.moves(epoch, order))
        started = time.perf_counter()
        setup.world.share_buffers(setup.model)
        with self.clock.all("validation"), setup.net.shown():
            validation = evaluate.validate(
                setup.net.called,
                setup.net.feed,
                setup.data.val,
                len(setup.classes),
                setup.world,
                setup.net.autocast(),
                prior=setup.prior,
            )
            if setup.policy is not None:
                self._decide(setup.policy, epoch, validation)
        ranks = setup.world.gather(RankEpoch(meters.loss, meters.correct, meters.images, positions))
        row = None
        if setup.world.rank == 0:
            seconds = meters.seconds, time.perf_counter() - started
            row = evaluate.history_row(setup, epoch, order, ranks, validation, *seconds)
            self.progress.add_epoch(row)
        self.clock.lap("rest")
        self.saver.epoch_end(epoch, row, validation)
        self.clock.lap("checkpoint")

    def _decide(self, policy: Policy, epoch: int, validation: evaluate.Validation) -> None:
        """Decide the weights of the next epoch. Collective: every rank comes to the same decision."""
        setup = self.setup
        if policy.section.on == "holdout":
            validation = evaluate.validate(
                setup.net.called,
                setup.net.feed,
                setup.data.train,
                len(setup.classes),
                setup.world,
                setup.net.autocast(),
                members=setup.held,
            )
        policy.decide(epoch, validation.labels, validation.probabilities)

    def _record_ratio(self, epoch: int) -> None:
        """Write into the log that a schedule or policy changes the ratio with this epoch. Once: a kill may make the epoch begin twice."""
        change = self.setup.ratio_change(epoch) if self.setup.world.rank == 0 else None
        folder = Path(self.setup.job.folder)
        if change is None or any(
            e.type == lineage.RATIO and e.fields.get("epoch") == epoch for e in lineage.read(folder)
        ):
            return
        latest = None if self.setup.policy is None else self.setup.policy.latest
        decided = {} if latest is None or latest.epoch != epoch else {"decided": dict(latest.reason)}
        lineage.record(folder, lineage.RATIO, epoch=epoch, **change.to_event(), **decided)
        self.report(Note(f"Epoch {epoch} begins with other sampling weights: {change.describe()}."))

    def _record_once(self, text: str, aloud: bool = True) -> None:
        """Write a note into the log, and tell it ``aloud``. Once: a kill may make the epoch begin twice."""
        folder = Path(self.setup.job.folder)
        if self.setup.world.rank != 0 or any(e.fields.get("text") == text for e in lineage.read(folder)):
            return
        lineage.record(folder, lineage.NOTE, text=text)
        if aloud:
            self.report(Note(text))

    def _train_epoch(self, epoch: int, order: np.ndarray, moves: np.ndarray | None) -> np.ndarray:
        """Train the batches that are not done yet.

        Args:
            moves: how the image at each position of ``order`` is shifted and mirrored.

        Returns:
            The positions of the epoch that this rank counts, int64, those of the batches done before included.
        """
        setup, meters, first = self.setup, self.progress.meters, self.progress.batch_done
        t, total, every = setup.settings.training, setup.total_batches, setup.settings.checkpoint.every_n_batches
        loss_of = setup.loss(epoch)
        setup.net.parallel.train()
        setup.net.freezing.train(setup.model, epoch)
        counted = _Counted(meters, setup.world.device)
        counted.shown += [part.positions for part in map(setup.part, range(first)) if part.counted]
        setup.ahead(epoch, order, range(first, total))
        began, last_report = time.perf_counter() - meters.seconds, 0.0
        for batch in range(first, total):
            pieces, done = setup.pieces(batch), batch + 1
            self.clock.lap("rest")
            optim.set_learning_rate(setup.optimizer, optim.learning_rate(t, epoch - 1 + batch / total))
            setup.optimizer.zero_grad(set_to_none=True)
            for part in pieces:
                shown = setup.shown(epoch, order, moves, batch, part)
                self.clock.lap("augment" if setup.net.features is None else "gather", len(shown.y))
                with setup.world.waiting(setup.net.parallel, part is not pieces[-1]):
                    loss, logits = self._backward(shown, part.divisor, loss_of)
                self.clock.lap("backward")
                counted.add(done, part, loss, logits, shown.y)
            self._check_gradients()
            due = every is not None and done % every == 0
            if due or batch % self.check_every == 0 or done == total:
                # before the step, so that a bad loss seen in time changes no weight; and before every save
                self.stopping.check(epoch, counted.first_bad)
            self.clock.lap("waiting")
            setup.optimizer.step()
            if setup.net.average is not None:
                setup.net.average.step(steps(epoch, done, total))
            self.clock.lap("step")
            self.saver.background.poll()
            now = time.perf_counter()
            meters.seconds = now - began
            if done < total and (due or self.stopping.reason is not None):
                counted.update_meters()
                self._save_within(epoch, done)
            self.clock.lap("checkpoint")
            if setup.world.rank == 0 and (now - last_report > REPORT_EVERY_S or done == total):
                last_report = now
                self._report_batch(epoch, done, loss, len(shown.y))
        counted.update_meters()
        return counted.positions()

    def _backward(self, batch: Batch, divisor: int, loss_of: losses.Function) -> tuple[torch.Tensor, torch.Tensor]:
        """Add the gradients of a part of a batch; returns the loss, summed over its images, and the logits."""
        setup = self.setup
        with setup.net.autocast():
            logits, auxiliaries = outputs.parts(setup.net.parallel(batch.x))
        loss = loss_of(logits.float(), batch.y, batch.mixed)
        for part in auxiliaries:
            loss = loss + setup.auxiliary_share(len(auxiliaries)) * loss_of(part.float(), batch.y, batch.mixed)
        self.clock.lap("forward")
        # DDP averages over the ranks. This factor makes the result the mean over the images of the global batch, also where
        # the parts of the ranks differ in size.
        torch.autograd.backward(loss * (setup.world.size / divisor))
        return loss, logits

    def _check_gradients(self) -> None:
        """Check, and clip if that is asked for, the gradients of a batch."""
        setup, most = self.setup, self.setup.settings.training.grad_clip
        setup.world.check_gradients(setup.model, setup.net.parallel)
        if most is not None:
            torch.nn.utils.clip_grad_norm_(setup.model.parameters(), most)

    def _report_batch(self, epoch: int, done: int, loss: torch.Tensor, images: int) -> None:
        meters, world = self.progress.meters, self.setup.world
        mean_loss = float(loss.detach()) / max(1, images)
        speed = max(1, meters.images) * world.size / max(1e-9, meters.seconds)
        self.report(BatchDone(epoch, done, self.setup.total_batches, mean_loss, speed))

    def _save_within(self, epoch: int, done: int) -> None:
        self.stopping.check_weights(self.setup.model, epoch, done)
        self.saver.within_epoch(epoch, done)
        self._leave_if_asked(layout.Position(epoch, done))

    def _leave_if_asked(self, position: layout.Position) -> None:
        """End here if a stop was requested, once the checkpoint of ``position`` is committed."""
        if self.stopping.reason is not None:
            self.saver.background.flush()
            raise self.stopping.interruption(position)
