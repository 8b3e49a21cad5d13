"""Shows training events: a live bar and a line per epoch on a terminal, plain lines elsewhere."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from raysweep._text import plain
from raysweep.cluster import signals
from raysweep.display.base import Display
from raysweep.display.terminal import duration, percent, say
from raysweep.events import (
    BatchDone,
    Building,
    CheckpointSaved,
    ComputingFeatures,
    Connecting,
    Decoding,
    Drawing,
    EpochDone,
    Event,
    ExperimentStarted,
    Loading,
    RankTraceback,
    TrainingStarted,
)
from raysweep.label_sets import MAP

if TYPE_CHECKING:
    from raysweep.store.experiment import Experiment


_ROOM_FOR_BAR = 80  # columns of the terminal


class RunDisplay(Display):
    """Shows one training: a progress bar that moves with every batch, and a line per epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.task: Any = None
        self.last_epoch: int | None = None
        self.epoch_started = 0.0
        self.epoch_seconds: list[float] = []

    def _make_live(self, console: Any) -> Any:
        from rich.progress import BarColumn, Progress, TextColumn

        title, text = TextColumn("{task.description}", markup=False), TextColumn("{task.fields[text]}", markup=False)
        bar = [BarColumn(bar_width=24)] if console.width >= _ROOM_FOR_BAR else []  # words say more than a bar
        return Progress(title, *bar, text, console=console, transient=True)

    def _bar(self, title: str, done: float | None, total: float | None, text: str = "") -> None:
        if self.live is None:
            return
        if self.task is None:
            self.task = self.live.add_task(title, total=total, text=text)
        self.live.update(self.task, description=title, completed=done or 0, total=total, text=text)

    def __call__(self, event: Event) -> None:
        signals.check()
        match event:
            case Loading():
                self._bar("loading torch", None, None)
            case Decoding(done, total):
                self._bar("decoding images, once", done, total, f"{done:,} of {total:,}")
            case ComputingFeatures(done, total, left):
                told = "" if left is None else f"  {duration(left)} left"
                self._bar("computing features, once", done, total, f"{done:,} of {total:,}{told}")
            case Building():
                self._bar("building the model", None, None)
            case Connecting(address):
                self._line(
                    f"Connecting to the Ray cluster at {address} …" if address else "Starting on a local Ray cluster …"
                )
                self._bar("starting Ray", None, None)
                self.told_busy |= address is not None  # it trains elsewhere
            case ExperimentStarted():
                self._busy()
                self._line(f"Experiment {plain(event.id)}")
                self._bar("starting the workers" if event.workers else "preparing the training", None, None)
            case TrainingStarted(last_epoch):
                self.last_epoch, self.epoch_started = last_epoch, time.monotonic()
            case BatchDone():
                self._batch(event)
            case EpochDone():
                self._epoch(event)
            case CheckpointSaved(file):
                self._line(f"saved {file}")
            case Drawing():
                self._bar("drawing", None, None)
            case RankTraceback(rank, text):
                self._line(f"Traceback of rank {rank}:\n{text.rstrip()}")
            case _:
                super().__call__(event)

    def working(self, title: str, done: int, total: int) -> None:
        """Show how far something is that no event tells."""
        self._bar(title, done, total, f"{done:,} of {total:,}")

    def _batch(self, event: BatchDone) -> None:
        if event.batch == event.batches:  # what follows takes a while, too, and is no training
            self._bar(f"epoch {event.epoch}/{self.last_epoch or '?'}", None, None, "validating and saving")
            return
        title = f"epoch {event.epoch}/{self.last_epoch or '?'}"
        speed, left = f"{event.images_per_second:,.0f} img/s", self._left(event.epoch, event.batch / event.batches)
        told = [f"batch {event.batch}/{event.batches}", f"loss {event.loss:.3f}", speed, left]
        room = shutil.get_terminal_size().columns - len(title) - 1
        for leaves in (speed, told[1], told[0]):  # in a narrow terminal, the speed first
            if len("  ".join(told)) > room:
                told.remove(leaves)
        self._bar(title, event.batch, event.batches, "  ".join(told))

    def _left(self, epoch: int, part: float) -> str:
        """Time left, estimated from the last three epochs, or from the running one if none has ended."""
        remaining = (self.last_epoch or epoch) - epoch + 1 - part
        if self.epoch_seconds:
            per_epoch = sum(self.epoch_seconds[-3:]) / len(self.epoch_seconds[-3:])
        elif part > 0.1:
            per_epoch = (time.monotonic() - self.epoch_started) / part
        else:
            return ""
        return f"{duration(remaining * per_epoch)} left"

    def _epoch(self, event: EpochDone) -> None:
        now = time.monotonic()
        self.epoch_seconds.append(now - self.epoch_started)
        self.epoch_started = now
        row = event.row
        self._line(
            f"epoch {event.epoch:>2}/{self.last_epoch or '?'}  loss {row['train_loss']:.3f}  val loss {row['val_loss']:.3f}  "
            f"{_of_labels(row)}acc {percent(row['val_acc']):>6}  macro-F1 {row['val_macro_f1']:.3f}  worst {_recall_of(row)}{plain(row['worst_class'])} {percent(row['worst_recall'])}  "
            f"lr {row['lr']:.2g}  {row['images_per_second']:,.0f} img/s" + ("  best" if event.best else "")
        )

    def summary(self, experiment: Experiment) -> None:
        """Print the confusion matrix of the best epoch, and where the files are."""
        from raysweep.display.confusion import print_confusion
        from raysweep.report import predictions

        found = predictions.read(experiment)
        self.close()
        say("")
        print_confusion(found)
        say(
            f"Best: epoch {found.epoch}, {f'{MAP} {found.mean_precision:.3f}, ' if found.several else ''}accuracy {percent(found.accuracy)}{' (chosen on the test images)' * found.on_test}. Done in {duration(time.monotonic() - self.started)}. Everything is in {experiment.folder}"
        )


def _recall_of(row: Mapping[str, Any]) -> str:
    """Of labels that accuracy is not the mean of, what the number is."""
    return "recall " if row.get(MAP) is not None else ""


def _of_labels(row: Mapping[str, Any]) -> str:
    """The metric that only a training with several labels for an image has."""
    return f"{MAP} {row[MAP]:.3f}  " if row.get(MAP) is not None else ""
