"""What the control gets without any training on the images of an evaluation, by moved thresholds, and what the branch has beyond that."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from raysweep.errors import RaysweepError
from raysweep.report import effects, moved
from raysweep.report.effects import ALL, Effect
from raysweep.report.evaluation import Moved
from raysweep.report.findings import fitted
from raysweep.report.findings.arms import Arm, Cases
from raysweep.store import resolve
from raysweep.store.root import Root
from raysweep.tools import adjust


def of_control(
    root: Root,
    references: Sequence[str],
    metric: str,
    branch: Arm,
    control: Arm,
    cases: Cases,
    classes: Sequence[str],
    known: Sequence[Effect],
) -> tuple[Moved | None, list[str]]:
    """(what it is, None where it cannot be computed; the reason, if it is one to be told).

    Args:
        references: the control's checkpoints, in the order of its networks. The offsets of each are fitted on the predictions that its experiment keeps of
            the validation images, so the images of the evaluation tell nothing of themselves.
        metric: what the offsets are fitted for, and what is compared; of several labels macro-F1, since no threshold changes mAP.
        cases: the images of the evaluation, which both arms were scored on.
        known: the effects of the branch against the control as it is, on these images.
    """
    metric = fitted.OF_LABELS if cases.several else metric
    try:
        offsets = [_fitted(root, reference, metric, classes) for reference in references]
    except RaysweepError as error:
        return None, [f"What moved thresholds alone would give the control is not known: {error}"]
    plain = next(e.reference for e in known if (e.target, e.metric) == (ALL, metric))
    return compared(metric, offsets, branch, control, cases, classes, plain), []


def compared(
    metric: str,
    offsets: Sequence[np.ndarray],
    branch: Arm,
    control: Arm,
    cases: Cases,
    classes: Sequence[str],
    plain: float,
) -> Moved:
    """The control with offsets, float64 (K,) for each of its networks, beside itself and the branch.

    Args:
        plain: the metric of the control as it is.

    The offsets that few images give are not the best ones, so a branch that is nothing but a moved threshold has a little beyond that too, on average: half a point of
    macro-F1 with 3,500 validation images as rare as FER-2013's, where a difference needs 1.8 to be shown (`tests/tools/test_beyond.py`).
    """

    def moved_by(load: Callable[[], np.ndarray], add: np.ndarray) -> Callable[[], np.ndarray]:
        return lambda: fitted.with_offsets(load(), add, cases.several)

    networks = [moved_by(load, add) for load, add in zip(control.networks, offsets, strict=True)]
    with_offsets = Arm(moved.name_of(control.name), networks)
    after = {e.metric: e for e in effects.of_arms(with_offsets, [branch], cases, classes)[0] if e.target == ALL}
    one, overall = after[metric], {m: after[m].reference for m in cases.overall if m in after}
    return Moved(metric, overall, one.reference - plain, one.difference, one.low, one.high, one.p, one.label)


def _fitted(root: Root, reference: str, metric: str, classes: Sequence[str]) -> np.ndarray:
    """The offsets of a checkpoint, float64 (K,).

    Raises:
        RaysweepError: its experiment keeps no predictions of the epoch, or there are too many to search for offsets.
    """
    experiment, entry, _ = resolve.find_checkpoint(root, reference)
    found = adjust.kept(experiment, entry, reference)
    if found.classes != tuple(classes):
        raise RaysweepError(f"the predictions of {experiment.id} are of other classes than its network.")
    if moved.too_many(len(found.classes), len(found.labels)):
        raise RaysweepError(f"{len(found.classes):,} classes and {len(found.labels):,} validation images are too many.")
    (load,) = effects.arm(experiment.id, [found.probabilities]).networks
    return fitted.fit(np.asarray(load()), found.cases, metric)
