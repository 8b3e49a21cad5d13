"""Losses: what a network is trained to make small, and how each treats rare classes.

z are the logits of an image, y its class, p = softmax(z), π_c the share of class c among the images shown in the epoch,
n_c the images of class c in the pool, w_c the weights of ``loss.weights``, scaled so that Σ π_c w_c = 1.

- ``cross_entropy``: −log p_y; with label smoothing as in PyTorch
- ``class_weights``: w_y times that
- ``focal``: w_y (1 − p_y)^gamma times it (Lin et al. 2017, https://arxiv.org/abs/1708.02002)
- ``balanced_softmax``: the cross-entropy of z + log π (Ren et al. 2020, https://arxiv.org/abs/2007.10740)
- ``logit_adjusted``: that of z + tau log π (Menon et al. 2021, https://arxiv.org/abs/2007.07314)
- ``python:MODULE:NAME``: of the user; see :mod:`raysweep.training.own_loss`
- ``ldam``: w_y times the cross-entropy of z with ``margin`` · (n_min / n_y)^¼ taken from z_y (Cao et al. 2019,
  https://arxiv.org/abs/1906.07413; their s belongs to a head of cosines: a head that puts out s·cos needs ``margin`` · s)

Where an image has several labels (``data.multi_label``), each label has a sigmoid of its own, p_c of label c with target t_c, and the loss
of an image is the mean over the labels of the binary cross-entropy −w_c t_c log p_c − (1 − t_c) log(1 − p_c); with label smoothing s the
target is t_c (1 − s) + s/2. ``class_weights``: w_c is N/n_c − 1 in the pool (balanced), or as given; ``focal``: times (1 − p)^gamma, p being
the probability of what is true; all others have no binary form.

The prior and the margins are a matter of training alone: a network predicts from its own logits, whatever the loss was.
Label smoothing moves those logits towards equal ones: with a prior its part of the target is spread over the classes as the prior is.
Spread evenly it would claim that each image is of the rarest class with a probability far above its prior, and the network would predict
the rarest class for most images.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch.nn import functional

from raysweep.config.treatment import LossSection
from raysweep.errors import WeightsError
from raysweep.label_sets import images_in
from raysweep.weights import SamplingWeights, check_classes, spelled
from raysweep.weights_by_rule import Wanted


class Mixed(NamedTuple):
    """The soft targets of mixed images, beside the class of each image itself."""

    other: torch.Tensor  # int64 (n,), the class of the image that was mixed in
    share: torch.Tensor  # float32 (n,), the part of the image itself, 0.5 to 1


class Function(Protocol):
    """(logits, float32 (n, classes); targets, int64 (n,), or bool (n, classes) of several labels; where images are mixed, how) → the loss, summed over the images."""

    def __call__(self, logits: torch.Tensor, y: torch.Tensor, mixed: Mixed | None = None) -> torch.Tensor: ...


def soft_targets(y: torch.Tensor, mixed: Mixed | None, classes: int) -> torch.Tensor:
    """The part of each class in each image, float32 (n, classes)."""
    own = functional.one_hot(y, classes).to(torch.float32)
    if mixed is None:
        return own
    share = mixed.share[:, None]
    return own * share + functional.one_hot(mixed.other, classes) * (1 - share)


@dataclass(frozen=True)
class Loss:
    """The loss of one epoch.

    Attributes:
        weights: float32 (classes,), or None where all are 1.
        shift: float32 (classes,), added to the logits, or None.
        margins: float32 (classes,), taken from the logit of the image's own class, or None.
        gamma: of the focal loss; 0 elsewhere.
    """

    smoothing: float = 0.0
    weights: torch.Tensor | None = None
    shift: torch.Tensor | None = None
    margins: torch.Tensor | None = None
    gamma: float = 0.0

    def __call__(self, logits: torch.Tensor, y: torch.Tensor, mixed: Mixed | None = None) -> torch.Tensor:
        """The loss, summed over the images.

        Args:
            logits: float32 (n, classes).
            y: int64 (n,).
            mixed: of mixed images, for a loss that takes soft targets; see :data:`raysweep.config.augmentation.HARD_TARGETS`.
        """
        if mixed is not None:
            return self._of_mixed(logits, y, mixed)
        if self.shift is not None:  # no weights, margins or gamma beside it
            logits = logits + self.shift
            if self.smoothing:
                own = functional.one_hot(y, logits.shape[1])
                target = (1 - self.smoothing) * own + self.smoothing * torch.softmax(self.shift, dim=0)
                return functional.cross_entropy(logits, target.to(logits.dtype), reduction="sum")
        if self.margins is not None:
            logits = logits - functional.one_hot(y, logits.shape[1]) * self.margins[y, None]
        if self.weights is None and not self.gamma:
            return functional.cross_entropy(logits, y, label_smoothing=self.smoothing, reduction="sum")
        each = functional.cross_entropy(logits, y, label_smoothing=self.smoothing, reduction="none")
        if self.gamma:
            own = functional.log_softmax(logits, dim=1).gather(1, y[:, None])[:, 0]
            # 1 - p by expm1 keeps its digits where p is close to 1; a gamma below 1 would have an infinite slope at 0.
            each = each * (-torch.expm1(own)).clamp_min(1e-12) ** self.gamma
        if self.weights is not None:
            each = each * self.weights[y]
        return each.sum()

    def _of_mixed(self, logits: torch.Tensor, y: torch.Tensor, mixed: Mixed) -> torch.Tensor:
        """The cross-entropy of the soft targets, each class with its weight, smoothed as that of others. It is linear in the target: the
        loss of a mixture is the mixture of the losses."""
        classes = logits.shape[1]
        target = soft_targets(y, mixed, classes).to(logits.dtype)
        smooth = torch.full_like(target[:1], 1 / classes)
        if self.shift is not None:
            logits, smooth = logits + self.shift, torch.softmax(self.shift, dim=0)[None].to(logits.dtype)
        weight = target if self.weights is None else target * self.weights
        logs = functional.log_softmax(logits, dim=1)
        whole = (1 - self.smoothing) * weight + self.smoothing * weight.sum(1, keepdim=True) * smooth
        return -(whole * logs).sum()


@dataclass(frozen=True)
class BinaryLoss:
    """The loss of one epoch, where an image has several labels; the attributes are those of :class:`Loss`."""

    smoothing: float = 0.0
    weights: torch.Tensor | None = None
    gamma: float = 0.0

    def __call__(self, logits: torch.Tensor, y: torch.Tensor, mixed: Mixed | None = None) -> torch.Tensor:
        """The loss, summed over the images; ``y`` bool (n, classes), and so is what was mixed in."""
        target = y.to(logits.dtype)
        if mixed is not None:
            share = mixed.share[:, None]
            target = target * share + mixed.other.to(logits.dtype) * (1 - share)
        soft = target * (1 - self.smoothing) + self.smoothing / 2
        each = functional.binary_cross_entropy_with_logits(logits, soft, pos_weight=self.weights, reduction="none")
        if self.gamma:
            wrong = torch.sigmoid(torch.where(y, -logits, logits))  # 1 - p of what is true
            each = each * wrong.clamp_min(1e-12) ** self.gamma
        return each.mean(1).sum()


def binary_of_epoch(
    section: LossSection,
    smoothing: float,
    counts: Mapping[str, int],
    epoch: int,
    device: torch.device | str = "cpu",
) -> BinaryLoss:
    """The loss of an epoch where an image has several labels; the arguments are those of :func:`of_epoch`."""
    weights = None
    if section.weighted and not (section.from_epoch is not None and epoch < section.from_epoch):
        weights = torch.tensor(label_weights(section, counts), dtype=torch.float64).float().to(device)
    return BinaryLoss(smoothing, weights, section.gamma if section.kind == "focal" else 0.0)


def label_weights(section: LossSection, counts: Mapping[str, int]) -> list[float]:
    """How many times as much it counts that a label is there as that it is not.

    Raises:
        WeightsError: they do not fit the labels, or all are 0.
    """
    wanted = Wanted(section.weights if section.weights is not None else "balanced")
    if isinstance(wanted.given, str):  # a label that all images have, or none, has nothing to be balanced with
        images = images_in(counts)
        return [images / n - 1 if 0 < n < images else 1.0 for n in counts.values()]
    if (rule := wanted.rule(SamplingWeights.complete({}, tuple(counts)))) is not None:
        raise WeightsError(
            f"loss.weights has the rule {rule}. Where an image has several labels, give balanced, or a number for each label, such as {{mass: 3}}."
        )
    given = _of_classes(wanted.given, counts)
    if set(given) >= set(counts) and not any(given.values()):
        raise WeightsError(
            "loss.weights are 0 for every label, so that none could be learned. Give at least one label a weight above zero."
        )
    return list(SamplingWeights.complete(given, tuple(counts)).values)


def _of_classes(given: Mapping[str, float], counts: Mapping[str, int]) -> Mapping[str, float]:
    """The weights as the classes are spelled. Raises WeightsError where one names no class."""
    found = spelled(given, tuple(counts))
    check_classes(found, tuple(counts), "The loss weights (loss.weights) name")
    return found


def of_epoch(
    section: LossSection,
    smoothing: float,
    shares: Mapping[str, float],
    counts: Mapping[str, int],
    epoch: int,
    device: torch.device | str = "cpu",
) -> Loss:
    """The loss of an epoch.

    Args:
        smoothing: of the labels, in [0, 1).
        shares: class → part of the images shown in this epoch, in the order of the network's outputs.
        counts: class → images in the pool, in the same order.
        epoch: counted from 1, the parent's epochs included.
    """
    deferred = section.from_epoch is not None and epoch < section.from_epoch

    def tensor(values: list[float]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.float64).float().to(device)

    weights = shift = margins = None
    if section.weighted and not deferred:
        weights = tensor(class_weights(section, shares, counts))
    if section.prior and not deferred:
        # A class that is not shown counts as if it were half an image: its logits stay finite.
        least = 0.5 / max(1, sum(counts.values()))
        shift = section.prior * torch.log(torch.tensor([max(s, least) for s in shares.values()], dtype=torch.float64))
        shift = shift.float().to(device)
    if section.kind == "ldam":
        fewest = min((n for n in counts.values() if n), default=1)
        margins = tensor([section.margin * (fewest / n) ** 0.25 if n else 0.0 for n in counts.values()])
    return Loss(smoothing, weights, shift, margins, section.gamma if section.kind == "focal" else 0.0)


def class_weights(section: LossSection, shares: Mapping[str, float], counts: Mapping[str, int]) -> list[float]:
    """The weight of each class in the loss, scaled so that the mean over the images shown is 1.

    Raises:
        WeightsError: they do not fit the classes, or no class that is shown has one above zero.
    """
    wanted = Wanted(section.weights if section.weights is not None else "balanced")
    named: Mapping[str, float] = {}
    if isinstance(wanted.given, Mapping) and wanted.rule(SamplingWeights.complete({}, tuple(counts))) is None:
        named = _of_classes(wanted.given, counts)
    all_zero = set(named) >= set(counts) and not any(named.values())
    given = wanted.resolve(SamplingWeights.complete({}, tuple(counts)), counts).as_dict() if not all_zero else {}
    mean = sum(shares[c] * w for c, w in given.items())
    if not mean:
        raise WeightsError("loss.weights are 0 for every class that is shown, so that nothing could be learned.")
    return [w / mean for w in given.values()]
