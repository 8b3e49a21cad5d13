"""Are the files beside the checkpoints those of this experiment? What can be computed again is computed again and compared.

A file may lag behind the newest commit where a training did not reach its end: that is told, and is no fault.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, field

from raysweep._text import short_repr
from raysweep.errors import NotFoundError, RaysweepError, StoreError
from raysweep.report import figures, images, predictions
from raysweep.report.predictions import Predictions
from raysweep.store import checkpoint, files, layout
from raysweep.store import experiment as experiments
from raysweep.store.commands import command
from raysweep.store.experiment import Experiment
from raysweep.store.records_manifest import Manifest, ManifestEntry


@dataclass
class Found:
    """What was found out about the files of an experiment."""

    faults: list[str] = field(default_factory=list)
    told: list[str] = field(default_factory=list)  # no fault, but people should know


def check(experiment: Experiment, intact: Sequence[ManifestEntry]) -> Found:
    """Compare every file that is written beside the checkpoints.

    Args:
        intact: the committed checkpoints in which nothing was found to be wrong.
    """
    try:
        status = experiment.status()
    except StoreError:  # the log is damaged, which is a fault of its own
        status = experiments.CRASHED
    if status == experiments.RUNNING:
        return Found(told=["it is running, so only its checkpoints were checked"])
    looking = _Check(experiment, experiment.manifest(), intact, status == experiments.FINISHED)
    try:
        return looking.run()
    except RaysweepError as error:
        looking.found.faults.append(str(error))
        return looking.found


class _Check:
    """The check of one experiment that no process writes to."""

    def __init__(
        self, experiment: Experiment, manifest: Manifest, intact: Sequence[ManifestEntry], finished: bool
    ) -> None:
        self.experiment, self.manifest, self.intact = experiment, manifest, {e.file: e for e in intact}
        self.finished = finished  # everything was written after the last commit
        self.again = f"`{command(experiment.root, 'continue', experiment.id)}` writes it again"
        self.found = Found()

    def run(self) -> Found:
        if not self.manifest.ends:
            return self.found
        self._models()
        self._best()
        whole = self._history()
        self._images()
        shown = None
        try:
            shown = self._predictions()
        except NotFoundError as error:
            if self.manifest.predictions:
                self.found.faults.append(str(error))
        except StoreError as error:
            self.found.faults.append(str(error))
        if shown is not None:
            self._report(shown)
            self._picture(layout.CONFUSION, "predictions", shown)
        if shown is not None and whole:
            self._picture(layout.HISTORY_PNG, "history", shown)
        return self.found

    def _fault(self, name: str, what: str) -> None:
        self.found.faults.append(f"{name} {what}. {self.again}.")

    def _behind(self, name: str, what: str) -> None:
        """A file is not of the newest commit: a fault only where the training reached its end."""
        if self.finished:
            self._fault(name, what)
        else:
            self.found.told.append(f"{name} {what}; {self.again}")

    def _models(self) -> None:
        for entry in self.manifest.ends:
            path = self.experiment.folder / layout.model_name(entry.epoch)
            # people may delete it, because the checkpoint has the same weights
            if entry.model_sha256 is not None and path.is_file() and files.sha256_file(path) != entry.model_sha256:
                self.found.faults.append(f"{path.name} is not what was saved with {entry.file}, which has its weights.")

    def _best(self) -> None:
        best = next((e for e in self.manifest.entries if e.file == self.manifest.best_file), None)
        if best is None:
            return
        value = best.metrics.get(self.manifest.best.metric) if self.manifest.best is not None else None
        if value is not None and self.manifest.best is not None and value != self.manifest.best.value:
            told = f"says that the best {self.manifest.best.metric} is {self.manifest.best.value}, but its epoch has {value}"
            self.found.faults.append(f"{layout.MANIFEST} {told}.")
        path = self.experiment.folder / layout.BEST
        if not path.is_file():
            self._behind(layout.BEST, "is missing")
            return
        there = files.sha256_file(path)
        if there == best.sha256:
            return
        other = next((e for e in self.manifest.ends if e.sha256 == there), None)
        if other is None:
            self._fault(layout.BEST, f"is not the best epoch's checkpoint, {best.file}")
        else:
            self._behind(layout.BEST, f"is {other.file}, but the best is {best.file}")

    def _history(self) -> bool:
        """The table is written from the newest checkpoint, which holds every row of it. Returns whether nothing is wrong."""
        before = len(self.found.faults)
        self._compare_history()
        return len(self.found.faults) == before and (self.experiment.folder / layout.HISTORY_CSV).is_file()

    def _compare_history(self) -> None:
        newest = next((e for e in reversed(self.manifest.ends) if e.file in self.intact), None)
        path = self.experiment.folder / layout.HISTORY_CSV
        if newest is None:
            return
        if not path.is_file():
            self._behind(path.name, "is missing")
            return
        from raysweep.training import checkpointing

        saved = checkpoint.read_checkpoint(self.experiment.folder / newest.file)
        expected = _table(checkpointing.history_csv(saved["history"], saved["classes"]))
        try:
            there = _table(files.read_all(path))
        except (UnicodeDecodeError, csv.Error) as error:
            self._fault(path.name, f"is damaged ({error})")
            return
        if (wrong := _cell(there, expected, newest.file)) is not None:
            self._fault(path.name, wrong)
        elif len(there) < len(expected):
            self._behind(path.name, f"has {len(there)} rows, {newest.file} has {len(expected)}")
        elif len(there) > len(expected) and newest == self.manifest.ends[-1]:
            self._fault(path.name, f"has {len(there)} rows, {newest.file} has {len(expected)}")

    def _predictions(self) -> Predictions | None:
        """Those of the best epoch; None where they are not what was saved.

        Raises:
            NotFoundError: there are none. StoreError: they are damaged.
        """
        name, there = layout.PREDICTIONS, predictions.read_all(self.experiment)
        newest = self.manifest.ends[-1].epoch
        # an earlier version that went on with the experiment has left what it did not know as it was
        known = self.manifest.predictions if newest in self.manifest.predictions else {}
        ahead = any(epoch > newest for epoch in there)  # a save that was never committed has replaced the last epoch's
        faults = len(self.found.faults)
        for epoch, digest in known.items():
            if epoch not in there:
                if not ahead or (self.manifest.best is not None and epoch == self.manifest.best.epoch):
                    self.found.faults.append(f"{name} lacks the predictions of epoch {epoch}.")
            elif there[epoch].sha256 != digest:
                self.found.faults.append(f"{name}: those of epoch {epoch} are not what was saved.")
        imported = self.experiment.config().imported_from is not None  # the old system's numbers, of images of its own
        for entry in [] if imported else self.manifest.ends:
            of = there.get(entry.epoch)
            recorded = entry.metrics.get("val_acc")
            if of is None or recorded is None or not len(of.labels):
                continue
            accuracy = of.accuracy
            if entry.epoch not in known and abs(accuracy - recorded) > 1e-9:
                told = f"have an accuracy of {accuracy:.4f}, the manifest says {recorded:.4f}"
                self.found.faults.append(f"{name}: those of epoch {entry.epoch} {told}.")
        if len(self.found.faults) > faults:
            return None
        best = self.manifest.best
        return there[best.epoch] if best is not None and best.epoch in there else there[max(there)]

    def _images(self) -> None:
        """Which images were predicted; experiments of earlier versions do not say it."""
        if self.manifest.images is None:
            return
        try:
            if images.read(self.experiment).sha256 != self.manifest.images:
                self.found.faults.append(f"{layout.VAL_IMAGES} is not what was saved.")
        except (NotFoundError, StoreError) as error:
            self.found.faults.append(str(error))

    def _report(self, shown: Predictions) -> None:
        name = layout.REPORT
        path = self.experiment.folder / name
        if not path.is_file():
            self._behind(name, "is missing")
            return
        there, expected = (_without_name(text) for text in (files.read_all(path), figures.report(shown, "")))
        if there == expected:
            return
        what = f"is not what the predictions of epoch {shown.epoch} give"
        earlier = any(there[-1:] == [f"Epoch {e.epoch}"] for e in self.manifest.ends if e.epoch != shown.epoch)
        if earlier:
            self._behind(name, what)
        else:
            self._fault(name, what)

    def _picture(self, name: str, what: str, shown: Predictions) -> None:
        path = self.experiment.folder / name
        if not path.is_file():
            self._behind(name, "is missing")
            return
        try:
            pixels, source = figures.drawn_from(files.read_all(path))
        except Exception as error:  # Pillow's decoders raise errors of many kinds
            self._fault(name, f"is damaged ({type(error).__name__})")
            return
        if source is None:
            self._unsigned(name, pixels, shown)
        elif source == "":
            self._fault(name, "was changed after it was drawn")
        elif source != self._source(name, shown):
            self._behind(name, f"was not drawn from the {what} of this folder")

    def _source(self, name: str, shown: Predictions) -> str:
        return shown.sha256 if name == layout.CONFUSION else figures.history_source(self.experiment)

    def _unsigned(self, name: str, pixels: str, shown: Predictions) -> None:
        """A picture that does not say what it shows: drawn by an earlier version, or by somebody else."""
        confusion = name == layout.CONFUSION
        again = figures.confusion_png(shown, self.experiment.id) if confusion else figures.history_png(self.experiment)
        if figures.drawn_from(again)[0] == pixels:
            return
        if self.manifest.predictions:
            self._behind(name, "was not drawn by this program")
        else:
            self.found.told.append(f"{name} was drawn by an earlier version, and cannot be compared; {self.again}")


Rows = list[dict[str, str]]


def _table(content: bytes) -> Rows:
    header, *rows = [*csv.reader(io.StringIO(content.decode(), newline=""))] or [[]]
    return [dict(zip(header, row, strict=False)) for row in rows]


def _cell(there: Rows, expected: Rows, source: str) -> str | None:
    """The first cell that is not as expected, in words."""
    for row, wanted in zip(there, expected, strict=False):
        for column in wanted.keys() | row.keys():
            if row.get(column) != wanted.get(column):
                epoch = wanted.get("epoch") or "?"
                values = short_repr(row.get(column)), short_repr(wanted.get(column))
                return f"says that {short_repr(column)} of epoch {epoch} is {values[0]}, but {source} says {values[1]}"
    return None


def _without_name(report: bytes) -> list[str]:
    """The lines of a report; of the last one only the epoch, because the folder may have been renamed."""
    lines = report.decode(errors="replace").splitlines()
    return [*lines[:-1], *(line.partition(" of ")[0] for line in lines[-1:])]
