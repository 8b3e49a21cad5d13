"""Ratios that adapt: after each epoch the weights of the next one are decided by what the network gets wrong.

- ``worst``: the classes with the lowest metric share ``share`` of the images equally; the others keep the proportions
  of ``sampling.weights``.
- ``python:MODULE:NAME``: a function of the user; see :mod:`raysweep.training.own_policy`
- ``proportional``: a class gets images in proportion to its error, 1 - metric; ``momentum`` of the present shares stays.

The error is counted as (1 - metric + 1/n) / (1 + 2/n) with n images of the class, so that a class without errors is
still shown.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from raysweep.config.treatment import PolicySection
from raysweep.training import metrics, own_policy
from raysweep.training.own import Own
from raysweep.weights import SamplingWeights
from raysweep.weights_by_rule import Wanted


@dataclass(frozen=True)
class Decision:
    """The weights of an epoch, and why."""

    epoch: int  # that they are for
    weights: SamplingWeights
    reason: Mapping[str, Any]  # kind, metric, on, images, and values: class → metric

    def to_json(self) -> dict[str, Any]:
        """What a checkpoint holds."""
        return {"epoch": self.epoch, "weights": self.weights.as_dict(), "reason": dict(self.reason)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """What :meth:`to_json` wrote."""
        weights = value["weights"]
        return cls(int(value["epoch"]), SamplingWeights.complete(weights, list(weights)), value["reason"])


class Policy:
    """The weights of every epoch of a run: those it begins with, and then those that were decided."""

    def __init__(
        self,
        section: PolicySection,
        base: SamplingWeights,
        counts: Mapping[str, int],
        first: SamplingWeights,
        code: Own | None = None,
    ) -> None:
        """
        Args:
            code: of a policy of the user.
        """
        self.code = code
        self.section, self.base, self.counts, self.first = section, base, counts, first
        self.known: dict[int, SamplingWeights] = {}
        self.latest: Decision | None = None

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Take over what a checkpoint of this run holds."""
        running = int(saved["epoch"]) + (int(saved.get("current_batch") or 0) > 0)
        weights = saved["sampling_weights"]
        self.known[running] = SamplingWeights.complete(weights, self.base.classes)
        if saved.get("policy_decision"):
            self.latest = Decision.from_json(saved["policy_decision"])
            self.known[self.latest.epoch] = self.latest.weights

    def weights(self, epoch: int) -> SamplingWeights:
        """The weights of an epoch that is running or done, or comes next."""
        return self.known.get(epoch, self.first)

    def decide(self, epoch: int, labels: np.ndarray, probabilities: np.ndarray) -> None:
        """Decide the weights of the epoch after ``epoch`` by predictions of the images that decide."""
        now, predicted = self.weights(epoch), probabilities.argmax(1)
        if self.code is None:
            self.latest = decide(self.section, epoch, labels, predicted, now, self.base, self.counts)
        else:
            weights = own_policy.decided(self.code, epoch, labels, probabilities, now, self.base, self.counts)
            found = metrics.summarise(metrics.confusion(labels, predicted, len(self.base.classes)), self.base.classes)
            reason = {"kind": self.section.kind, "metric": "recall", "on": self.section.on, "images": len(labels)}
            values = {c: v for c, v in found["recall"].items() if v is not None}
            self.latest = Decision(epoch + 1, weights, {**reason, "values": values})
        self.known = {epoch: now, epoch + 1: self.latest.weights}


def decide(
    section: PolicySection,
    epoch: int,
    labels: np.ndarray,
    predicted: np.ndarray,
    now: SamplingWeights,
    base: SamplingWeights,
    counts: Mapping[str, int],
) -> Decision:
    """The weights of the epoch after ``epoch``.

    Args:
        labels, predicted: int64 (n,), of the images that decide.
        now: the weights of ``epoch``.
        base: those of ``sampling.weights``.
        counts: class → images that may be shown. A class without any, or without an image that decides, is left as it is.
    """
    found = metrics.summarise(metrics.confusion(labels, predicted, len(base.classes)), base.classes)
    seen = np.bincount(labels, minlength=len(base.classes))
    of_class = found["f1"] if section.metric == "f1" else found["recall"]
    values = {c: v for c in base.classes if (v := of_class[c]) is not None and counts[c]}
    reason = {"kind": section.kind, "metric": section.metric, "on": section.on, "images": len(labels), "values": values}
    if section.kind == "worst":
        chosen = sorted(values, key=values.__getitem__)[: section.classes]  # of equals, the first class
        shares = dict.fromkeys(chosen, section.share / len(chosen)) if chosen else {}
        return Decision(epoch + 1, Wanted({}, shares).resolve(base, counts), reason)
    present = now.shares(counts)
    images = dict(zip(base.classes, (int(n) for n in seen), strict=True))
    errors = {c: (1 - v + 1 / images[c]) / (1 + 2 / images[c]) for c, v in values.items()}
    total, free = sum(errors.values()), sum(present[c] for c in errors)
    shares = {
        c: section.momentum * s + (1 - section.momentum) * (free * errors[c] / total if c in errors else s)
        for c, s in present.items()
    }
    return Decision(epoch + 1, SamplingWeights.of_shares(base.classes, shares, counts), reason)
