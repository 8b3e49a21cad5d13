"""An experiment as users of the Python interface hold it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raysweep._text import counted, percent
from raysweep.api import pages
from raysweep.api.given import Held, Reference, trusting
from raysweep.errors import NotFoundError, RaysweepError
from raysweep.report.card import MOST_CLASSES, MOST_ROWS, Card, Shown, Table, left_out
from raysweep.store import catalog
from raysweep.store.experiment import Experiment as StoredExperiment
from raysweep.store.fields import Row
from raysweep.store.records import ExperimentConfig

if TYPE_CHECKING:
    import pandas as pd

    from raysweep.api.predictions import Predictions
    from raysweep.store.trust import Trust
    from raysweep.tools.images import Image


@dataclass(frozen=True, repr=False)
class Checkpoint(Shown):
    """A committed checkpoint. It is a path, too: every function that takes a checkpoint takes this object."""

    experiment: str
    epoch: int  # that has ended; within an epoch the one that runs
    batch: int | None  # batches done of the running epoch; None at an epoch's end
    path: Path
    metrics: Mapping[str, Any]  # train_loss, val_acc, …; shares in [0, 1]
    best: bool  # whether it is the best of its experiment's own epochs

    def __fspath__(self) -> str:
        return str(self.path)

    @property
    def reference(self) -> str:
        """``EXPERIMENT@5``; of a checkpoint within an epoch, its path."""
        return f"{self.experiment}@{self.epoch}" if self.batch is None else str(self.path)

    def card(self) -> Card:
        where = f"epoch {self.epoch}" + ("" if self.batch is None else f", batch {self.batch}")
        told = [f"{k} {v:.4g}" for k, v in self.metrics.items() if isinstance(v, float) and "_" in k][:6]
        return Card(
            "Checkpoint",
            self.reference,
            [where + (", the best" if self.best else ""), *([", ".join(told)] * bool(told))],
        )


class Checkpoints(tuple[Checkpoint, ...], Shown):
    """The committed checkpoints of an experiment, oldest first."""

    __slots__ = ()
    __repr__ = Shown.__repr__

    def card(self) -> Card:
        shown = self[-MOST_ROWS:]
        columns, rows = pages.checkpoints([(c.epoch, c.batch, c.metrics, c.best) for c in shown])
        more = left_out(len(self) - len(shown), "older checkpoint", "older checkpoints", "iterating over it")
        table = Table(columns, rows, more)
        return Card("", counted(len(self), "checkpoint"), tables=[table] if rows else [])


class Experiment(Held, Shown):
    """One training: a folder of checkpoints, its history and its results.

    ``raysweep.run``, ``raysweep.resume`` and ``raysweep.get_experiment`` return it. It shows itself in notebooks.
    """

    stored: StoredExperiment

    @property
    def summary(self) -> Row:
        """The fields of ``raysweep list --json``. Never fails: of a damaged folder ``note`` says what is wrong."""
        return catalog.summary(self.stored)

    @property
    def status(self) -> str:
        """running, finished, interrupted, failed, crashed or legacy."""
        return self.stored.status()

    @property
    def config(self) -> ExperimentConfig:
        """``experiment_config.json``. Raises StoreError if it is damaged."""
        return self.stored.config()

    @property
    def classes(self) -> tuple[str, ...]:
        """In the order of the network's outputs; empty where the folder does not say it."""
        return tuple(self.config.classes or ())

    @property
    def weights(self) -> Mapping[str, float]:
        """Class → sampling weight."""
        return self.config.sampling_weights

    @property
    def history(self) -> pd.DataFrame:
        """A row per epoch, the parent's first, with the columns of ``training_history.csv``; the index is the epoch, counted from 1. Losses,
        shares in [0, 1] (``val_acc``, ``recall_CLASS`` …), ``seconds``, ``images_per_second``, and images shown (``realised_CLASS``). What is
        not known is NaN. Empty before the first epoch has ended.

        Raises:
            StoreError: the file is damaged.
        """
        import pandas as pd

        from raysweep.report import history
        from raysweep.store import layout

        if not (self.folder / layout.HISTORY_CSV).exists() and not self.stored.manifest().ends:
            return pd.DataFrame(index=pd.Index([], dtype=int, name="epoch"))
        found = history.read_history(self.stored)
        index = pd.Index(history.epochs_of(found), name="epoch")
        return pd.DataFrame(
            {
                k: pd.array(v, dtype="float64") if None not in v else pd.Series(v, dtype="float64").array
                for k, v in found.items()
                if k != "epoch"
            },
            index=index,
        )

    @property
    def checkpoints(self) -> Checkpoints:
        """The committed checkpoints, oldest first. In a folder of the old system, its files, of which nothing records the metrics."""
        manifest = self.stored.manifest()
        if not manifest.entries:
            from raysweep.store import layout

            old = self.stored.old_checkpoints()
            names = {layout.parse_checkpoint_name(name): name for name in os.listdir(self.folder)}
            return Checkpoints(Checkpoint(self.id, p.epoch, p.batch, self.folder / names[p], {}, False) for p in old)
        return Checkpoints(
            Checkpoint(self.id, e.epoch, e.batch, self.folder / e.file, dict(e.metrics), e.file == manifest.best_file)
            for e in manifest.entries
        )

    @property
    def best(self) -> Checkpoint:
        """The best of its own epochs, as ``EXPERIMENT@best``.

        Raises:
            NotFoundError: no epoch has ended.
        """
        return self._at("best")

    @property
    def latest(self) -> Checkpoint:
        """The newest checkpoint, as ``EXPERIMENT@latest``.

        Raises:
            NotFoundError: there is none.
        """
        return self._at("latest")

    def __getitem__(self, epoch: int) -> Checkpoint:
        """The checkpoint at the end of an epoch, counted from 1: ``experiment[2]`` is ``EXPERIMENT@2``."""
        return self._at(str(epoch))

    __iter__ = None  # else Python would try experiment[0], [1] …

    def _at(self, which: str) -> Checkpoint:
        entry = self.stored.entry(which)
        return next(c for c in self.checkpoints if c.path.name == entry.file)

    def predict(
        self,
        images: Image | Sequence[Image],
        which: int | str = "best",
        *,
        adjust: str | None = None,
        classes: Sequence[str] | None = None,
        settings: Mapping[str, Any] | None = None,
        trust: bool | Trust = False,
    ) -> Predictions:
        """The classes that a checkpoint predicts for images, decoded and resized as those of its training.

        Args:
            images: one or many of: a path, a PIL image, a uint8 array (height, width), (height, width, 1) or (height, width, 3); or one uint8
                array (n, height, width, 1 or 3). Pixels from 0 to 255.
            which: the checkpoint: ``best``, ``latest`` or an epoch.
            adjust: a metric for which offsets are fitted on the validation images and added to the logits.
            classes, settings: what a checkpoint of the old system does not say.
            trust: run the code that the checkpoint names, although this user did not make it on this machine.

        Returns:
            One row for each image. Images that cannot be used are named in ``left_out``, in a warning, and have no class.

        Raises:
            NotFoundError, CheckpointError: no such checkpoint, or it is damaged. DataError: an array is no image.
            UntrustedError: it names code that nobody has approved.
        """
        from raysweep.api import predictions

        return predictions.predict(
            self.stored.root, f"{self.id}@{which}", images, adjust, classes, settings, trusting(trust)
        )

    def report(self, path: Reference | None = None) -> Path:
        """Write the self-contained HTML report, by default ``report.html`` in its folder; returns its path.

        Raises:
            InputError: ``path`` is a folder, or in a folder that is not there. StoreError: it cannot be written.
        """
        return pages.write_report(self, path)

    def card(self) -> Card:
        row = self.summary
        best = f", {text}" if (text := row.best_text("accuracy ")) else ""
        target = counted(row.epochs_target, "epoch") if row.epochs_target else "? epochs"
        facts = [f"{row.status}, {row.epochs_done} of {target}{best}"]
        facts += [f"child of {row.parent.reference}"] if row.parent else []
        facts += (
            [f"branch {row.branch} of {row.sweep}" + (", the control" if row.control else "")]
            if row.sweep and row.branch
            else []
        )
        facts += [f"in {self.folder}"] + ([row.note] if row.note else [])
        try:
            tables = [*self._shares(), *(self.checkpoints.card().tables)]
        except (RaysweepError, OSError):  # a damaged folder; the note says what is wrong
            tables = []
        return Card("Experiment", self.id, facts, tables)

    def _shares(self) -> Iterator[Table]:
        """A row for each class: its images, its weight, and what the best epoch reached; of many classes those of low recall and changed weight."""
        from raysweep.store import class_metrics

        config, best = self.config, self.stored.manifest().best
        counts, weights = config.class_counts or {}, config.sampling_weights
        names = list(counts or weights)
        reached = {} if best is None else class_metrics.of_epoch(self.stored, best.epoch)
        order = sorted(names, key=lambda c: (weights.get(c, 1.0) == 1.0, reached.get(f"recall_{c}", 1.0)))
        chosen = set(order[:MOST_CLASSES])
        columns = [("class", "l"), ("images", "r"), ("weight", "r"), ("recall", "r"), ("F1", "r"), ("precision", "r")]
        rows = [
            [
                c,
                f"{counts[c]:,}" if c in counts else "",
                f"{weights.get(c, 1.0):g}",
                *(percent(reached.get(f"{kind}_{c}")) for kind in ("recall", "f1", "precision")),
            ]
            for c in names
            if c in chosen
        ]
        if rows:
            yield Table(columns, rows, left_out(len(names) - len(rows), "class", "classes", ".history"))


def opened(experiment: StoredExperiment) -> Experiment:
    """The same in a user's hands.

    Raises:
        NotFoundError: there is none in this folder.
    """
    from raysweep.store import layout

    if not (experiment.folder / layout.CONFIG).is_file():
        raise NotFoundError(f"{experiment.folder} is not an experiment. `raysweep list` shows all.")
    return Experiment(experiment)
