"""What a race sees of a sweep: the metric of every finished training, with the variance of seeds and of images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from raysweep.report import evaluated
from raysweep.report.evaluated import Evaluated
from raysweep.report.findings import arms, measures, sequential
from raysweep.report.findings.arms import Cases
from raysweep.report.findings.sequential import Looked
from raysweep.report.findings.variance import ArmSummary, own_variance
from raysweep.store.sweep import Sweep

CONTROL = ""  # the control of the sweep; others are the controls of cells, by their names
_ROWS = {metric: -len(arms.OVERALL) + i for i, metric in enumerate(arms.OVERALL)}


@dataclass(frozen=True)
class Seen:
    """The branches of a sweep in one metric. ``controls``: what each is compared with, CONTROL or another branch. ``values``: of every branch,
    and of CONTROL, the metric of each seed."""

    names: list[str]
    controls: list[str]
    looked: Looked
    values: dict[str, list[float]]
    noise: np.ndarray  # (B, B), the covariance of the differences that the seeds make


@dataclass(frozen=True)
class _Arm:
    summary: ArmSummary
    influence: np.ndarray  # (G,), of the mean over the seeds


def look(sweep: Sweep, metric: str) -> Seen | None:
    """What the finished trainings of a sweep show in one of ``CHOSEN_BY``; None where no control or no branch is finished.

    Raises:
        RaysweepError: predictions are missing or damaged.
    """
    found = evaluated.of_sweep(sweep)
    if evaluated.NO_CONTROL in found.notes or not found.groups:
        return None
    cases = found.references[0].predictions.cases
    measured = {name: _arm(row, cases, metric) for name, row in found.rows.items()}
    names, row = list(found.groups), _ROWS[metric]
    controls = [found.of.get(name, CONTROL) for name in names]
    known = list(dict.fromkeys(controls))
    apart = [measured[n].influence - measured[c].influence for n, c in zip(names, controls, strict=True)]
    looked = sequential.of_arms(
        [measured[n].summary for n in names],
        [measured[c].summary for c in known],
        [known.index(c) for c in controls],
        np.array([float(one @ one) for one in apart]),
        float(arms.floors(cases)[row]),
        float(arms.sizes(cases)[row]),
    )
    values = {name: one.summary.values[:, 0].tolist() for name, one in measured.items()}
    return Seen(names, controls, looked, values, _noise(looked, controls))


def _noise(looked: Looked, controls: Sequence[str]) -> np.ndarray:
    """From the standard error of each difference: branches of one control share its part."""
    variance = looked.error**2
    of_control = variance * looked.seeds / (looked.seeds + looked.of_control)
    same = np.array([[a == b for b in controls] for a in controls])
    shared = np.where(same, np.sqrt(np.outer(of_control, of_control)), 0.0)
    np.fill_diagonal(shared, variance)
    result: np.ndarray = shared
    return result


def _arm(row: Sequence[Evaluated], cases: Cases, metric: str) -> _Arm:
    found = [_measured(e, cases, metric) for e in row]
    influence = np.stack([ψ for _, ψ in found])
    mean = influence.mean(0)
    own = own_variance(len(row), np.array([mean @ mean]), np.array([float((influence**2).sum())]))
    return _Arm(ArmSummary(np.array([[value] for value, _ in found]), own), mean)


def _measured(e: Evaluated, cases: Cases, metric: str) -> tuple[float, np.ndarray]:
    """(the metric of one network, the influence of every case on it)."""
    predicted = e.predictions.probabilities.argmax(1)
    if metric == "accuracy":
        of = cases.mean(predicted == cases.labels)
    else:
        each = measures.per_class(cases.labels, predicted, cases.classes)
        of = measures.mean(each.f1 if metric == "macro_f1" else each.recall)
    return float(of.value[0]), np.asarray(cases.by_case(of.influence))[0]
