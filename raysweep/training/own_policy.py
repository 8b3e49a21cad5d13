"""A policy of the user: ``sampling.policy.kind=python:MODULE:NAME`` decides what each epoch shows.

After every epoch it is called with labels, int64 (n,), and probabilities, float32 (n, classes), of the images that decide, and under
these names, if it takes them: ``classes``, their names; ``shares``, class → its part of the images of the epoch that has ended;
``counts``, class → images that may be drawn; ``epoch``, the one that has ended. It returns class → part of the next epoch's
images. Classes that it does not name keep their proportions to each other by ``sampling.weights``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from raysweep.errors import WeightsError
from raysweep.training import guest, own
from raysweep.training.own import Own
from raysweep.weights import SamplingWeights
from raysweep.weights_by_rule import Wanted

OPTION = "sampling.policy.kind"


def decided(
    code: Own,
    epoch: int,
    labels: np.ndarray,
    probabilities: np.ndarray,
    now: SamplingWeights,
    base: SamplingWeights,
    counts: Mapping[str, int],
) -> SamplingWeights:
    """The weights of the epoch after ``epoch``; the arguments are those of :func:`raysweep.training.policy.decide`.

    Raises:
        ConfigError: it returns no shares of these classes.
    """
    known = {"classes": base.classes, "shares": dict(now.shares(counts)), "counts": dict(counts), "epoch": epoch}
    with guest.generators_kept():  # so that it changes the order of images, and no random number
        found: Any = code.found(
            *own.read_only(labels, probabilities), **{n: known[n] for n in own.takes(code.found, *known)}
        )
    if not isinstance(found, Mapping):
        raise code.wrong(f"returned {type(found).__name__}. Return a mapping: class → part of the images.")
    try:
        shares = {str(name): float(share) for name, share in found.items()}
        if unknown := [name for name in shares if name not in counts]:
            raise WeightsError(f"there is no class {unknown[0]!r}")
        if any(not 0 <= s < float("inf") for s in shares.values()):
            raise WeightsError("a part of the images is a number from 0 to 1")
        if shares.keys() >= {name for name, n in counts.items() if n}:
            total = sum(shares.values())
            if abs(total - 1) > 1e-6:
                raise WeightsError(f"the parts of all classes add up to {total:g}, not to 1")
            return SamplingWeights.of_shares(base.classes, {**dict.fromkeys(base.classes, 0.0), **shares}, counts)
        return Wanted({}, shares).resolve(base, counts)
    except (WeightsError, TypeError, ValueError) as error:
        raise code.wrong(f"returned shares that cannot be used: {error}") from None


def tried(code: Own, base: SamplingWeights, counts: Mapping[str, int]) -> None:
    """Let it decide by two images of each class.

    Raises:
        ConfigError: it fails, or returns no shares.
    """
    with code.tried():
        if not callable(code.found):
            raise code.wrong("is no function of labels and probabilities.")
        decided(code, 1, *own.made_up(len(counts)), base, base, counts)
