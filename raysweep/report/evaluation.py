"""An evaluation as a record: every number of the networks with its interval, the winner's gains, and who has looked before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from raysweep.report import effects
from raysweep.report.effects import Effect
from raysweep.report.findings.estimates import OF_CLASS, Estimate, Estimated
from raysweep.store import files
from raysweep.store.evaluations import FINISHED, Look
from raysweep.store.records import Json

FORMAT = 1
FORMAT_OF_LABELS = 2  # of several labels for an image, which has no confusion matrix
NO_SHARES = ("brier", "log_loss")  # metrics that are not shown in percent


@dataclass(frozen=True)
class NetworkRef:
    """A network that was evaluated: its checkpoint, or the name of a model that is none."""

    reference: str
    sha256: str | None
    seed: int | None = None


@dataclass(frozen=True)
class Gain:
    """What the chosen branch of a sweep gains over the control in one metric, as shares.

    ``validation`` is the gain on the images it was chosen on, ``corrected`` the same corrected for having been chosen among
    ``among`` branches (NaN where no arm has two seeds); ``value``, ``low``, ``high`` and ``label`` are those of the gain on
    the images of this evaluation. Its networks are the same there, and so is the luck of their seeds: the best of equal
    branches would gain ``luck`` on any images, in the mean (NaN where it is not known).
    """

    metric: str
    branch: str
    among: int
    validation: float
    corrected: float
    value: float
    low: float
    high: float
    label: str
    luck: float


@dataclass(frozen=True)
class Moved:
    """What the control gets on these images without any training: each of its networks with offsets of its own, fitted for ``metric`` on its
    validation images. ``overall``: metric → its value with them; ``gain``: what they add to ``metric``. ``beyond``, with its interval ``low`` …
    ``high``, p-value and label: the chosen branch minus the control with offsets."""

    metric: str
    overall: Mapping[str, float]
    gain: float
    beyond: float
    low: float
    high: float
    p: float
    label: str


@dataclass(frozen=True)
class Leaked:
    """The images that the networks were trained on, and every number without them: ``arms`` as in :class:`Evaluation`, and the
    chosen branch's gain. Empty where nothing is left."""

    images: int
    arms: tuple[Estimated, ...]
    gain: float | None


@dataclass(frozen=True)
class Evaluation:
    """What `raysweep evaluate` has found out.

    ``arms`` has one entry, or for a sweep two: the chosen branch and the control. ``networks`` are their checkpoints, in the
    same order. ``counts``: class → images. ``effects``: branch − control on these images. ``look``: which look at these sealed
    images it is, counted from 1, None where they are not sealed; ``before``: the earlier ones. ``left_out``: image → why it
    could not be decoded. ``leaked`` is None where it is not known what the networks were trained on, and ``moved`` where there is no control, the
    images are those that offsets are fitted on, or nothing can be fitted, which a note says.
    """

    id: str
    looked: str  # the time
    reference: str
    kind: str  # checkpoint, experiment, sweep or model
    split: str
    images: int
    cases: int
    sha256: str  # of the images and their classes
    classes: tuple[str, ...]
    counts: Mapping[str, int]
    networks: tuple[tuple[NetworkRef, ...], ...]
    arms: tuple[Estimated, ...]
    effects: tuple[Effect, ...] = ()
    gain: Gain | None = None
    look: int | None = None
    before: tuple[Look, ...] = ()
    leaked: Leaked | None = None
    moved: Moved | None = None
    left_out: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()
    folder: str = ""  # where the files are

    def to_json(self) -> Json:
        """As in ``evaluation.json``; NaN is null."""
        return {
            "format_version": FORMAT if self.arms[0].together is None else FORMAT_OF_LABELS,
            "id": self.id,
            "status": FINISHED,
            "looked": self.looked,
            "reference": self.reference,
            "kind": self.kind,
            "split": self.split,
            "images": self.images,
            "cases": self.cases,
            "images_sha256": self.sha256,
            "sealed_sha256": self.sha256 if self.look is not None else None,
            "look": self.look,
            "earlier_looks": [vars(look) for look in self.before],
            "classes": list(self.classes),
            "counts": dict(self.counts),
            "arms": [
                {"networks": [vars(n) for n in refs], **_arm(arm, self.classes)}
                for arm, refs in zip(self.arms, self.networks, strict=True)
            ],
            "gain": None if self.gain is None else vars(self.gain),
            "moved": None if self.moved is None else vars(self.moved),
            "effects": [effects.as_row(e) for e in self.effects],
            "leaked": None
            if self.leaked is None
            else {
                "images": self.leaked.images,
                "without_them": [_numbers(arm, self.classes) for arm in self.leaked.arms],
                "gain_without_them": self.leaked.gain,
            },
            "left_out": [{"image": name, "reason": why} for name, why in self.left_out],
            "notes": list(self.notes),
            "folder": self.folder,
        }

    def csv(self) -> str:
        """``evaluation.csv``: one row per arm, class and metric; metrics over all classes have the class ``(all)``, and what is not
        known is empty."""
        rows: list[Sequence[object]] = [("arm", "class", "images", "metric", "value", "low", "high")]
        for arm in self.arms:
            for m, e in arm.overall.items():
                rows.append((arm.name, effects.ALL, self.images, m, *_cells(e)))
            for c, of in zip(self.classes, arm.of_class, strict=True):
                rows += [(arm.name, c, self.counts[c], m, *_cells(of[m])) for m in OF_CLASS]
        return files.csv_text(rows)


def _cells(e: Estimate) -> list[float | None]:
    return [v if v == v else None for v in (e.value, e.low, e.high)]


def _numbers(arm: Estimated, classes: Sequence[str]) -> Json:
    return {
        "name": arm.name,
        "overall": {m: vars(e) for m, e in arm.overall.items()},
        "per_class": {c: {m: vars(e) for m, e in of.items()} for c, of in zip(classes, arm.of_class, strict=True)},
    }


def _arm(arm: Estimated, classes: Sequence[str]) -> Json:
    return {
        **_numbers(arm, classes),
        "predicted": dict(zip(classes, arm.predicted.tolist(), strict=True)),
        "ece_by_luck": arm.ece_by_luck,
        "bins": [vars(b) for b in arm.bins],
        **(
            {"confusion": arm.matrix.tolist()}
            if arm.together is None
            else {"predicted_together": arm.matrix.tolist(), "together": arm.together.tolist()}
        ),
    }
