"""Sampling weights, the shares of the classes they cause, and what changed between two sets of them.

A weight multiplies how often an image of a class is drawn: the chance of class c per draw is
``n_c * w_c / sum_k(n_k * w_k)``, n_c being the number of images of c in the pool. A class that is not named has 1.0.
Only the standard library is used here, so that reading verbs stay light.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from raysweep._text import join_names, short_repr
from raysweep.errors import WeightsError, did_you_mean
from raysweep.label_sets import LabelCounts, LabelSet, images_in

MOST_LISTED = 20  # classes in one text
NO_IMAGE = "No class with a weight above zero has any image, so no image could be drawn."
Changed = dict[str, tuple[float, float]]  # class → (weight before, weight after), of the classes that differ


@dataclass(frozen=True, slots=True)
class SamplingWeights:
    """The weight of every class, in the order of the classes. Checked when it is made, and nowhere else.

    Raises:
        WeightsError: a class is named twice, a bad number, or no class has a weight above zero.
    """

    classes: tuple[str, ...]
    values: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.classes) != len(self.values) or len(set(self.classes)) != len(self.classes):
            raise WeightsError(
                f"Sampling weights need one number for each class, and each class once: {len(self.values)} numbers were "
                f"given for the classes {join_names(self.classes)}."
            )
        values = tuple(check_number(name, value) for name, value in zip(self.classes, self.values, strict=True))
        if not any(values):
            raise WeightsError(
                f"All sampling weights are zero ({join_names(self.classes)}), so no image could be drawn. "
                "Give at least one class a weight above zero."
            )
        object.__setattr__(self, "values", values)

    @classmethod
    def complete(cls, given: Mapping[str, Any], classes: Sequence[str]) -> SamplingWeights:
        """Weights of every one of ``classes``; those that ``given`` does not name get 1.0.

        Raises:
            WeightsError: an unknown class, or as the class says.
        """
        given = spelled(given, classes)
        check_classes(given, classes, "The sampling weights name")
        return cls(tuple(classes), tuple(given.get(name, 1.0) for name in classes))

    @classmethod
    def of_shares(
        cls, classes: Sequence[str], shares: Mapping[str, float | Fraction], counts: Mapping[str, int]
    ) -> SamplingWeights:
        """Weights that give each class its share of the images shown; 1 for a class without images.

        Args:
            shares: class → part of the images shown, of all classes.
            counts: class → images in the pool.
        """
        images = images_in(counts)
        return cls(tuple(classes), tuple(float(shares[c] * images / counts[c]) if counts[c] else 1.0 for c in classes))

    def inherit(self, changes: Mapping[str, Any]) -> SamplingWeights:
        """These weights with the classes that ``changes`` names changed.

        Raises:
            WeightsError: as :meth:`complete`.
        """
        return self.complete({**self.as_dict(), **changes}, self.classes) if changes else self

    def shares(self, counts: Mapping[str, int]) -> dict[str, float]:
        """The share of each class among the images shown, in [0, 1]: ``n_c w_c / sum(n w)``. Of several labels for an image: the share
        of the images that have it, so that the sum is not 1.

        Args:
            counts: class → images in the pool.

        Raises:
            WeightsError: every class with a weight above zero is empty.
        """
        return {c: float(share) for c, share in self.exact_shares(counts).items()}

    def quotas(self, counts: Mapping[str, int], draws: int) -> dict[str, int]:
        """How many of ``draws`` images each class gets: ``draws * n_c w_c / sum(n w)``, rounded by largest remainder.

        The sum is exactly ``draws``. Exact rational arithmetic, so no platform rounds differently; ties go to the class
        that comes first. (Hamilton's method: https://en.wikipedia.org/wiki/Largest_remainders_method)

        Raises:
            WeightsError: every class with a weight above zero is empty.
        """
        if isinstance(counts, LabelCounts):
            return counts.per_label(self.set_quotas(counts, draws))
        exact = {c: draws * share for c, share in self.exact_shares(counts).items()}
        result = {c: int(q) for c, q in exact.items()}
        by_remainder = sorted(exact, key=lambda c: result[c] - exact[c])  # stable: ties keep the class order
        for c in by_remainder[: draws - sum(result.values())]:
            result[c] += 1
        return result

    def exact_shares(self, counts: Mapping[str, int]) -> dict[str, Fraction]:
        """The same as :meth:`shares`, as fractions.

        Raises:
            WeightsError: every class with a weight above zero is empty.
        """
        if isinstance(counts, LabelCounts):
            of_sets, every = self._set_masses(counts)
            return {c: Fraction(whole, every) for c, whole in counts.per_label(of_sets).items()}
        weights = self.as_dict()
        mass = {c: Fraction(n) * Fraction(weights[c]) for c, n in counts.items()}
        total = sum(mass.values())
        if total == 0:
            raise WeightsError(NO_IMAGE)
        return {c: m / total for c, m in mass.items()}

    def set_quotas(self, counts: LabelCounts, draws: int) -> dict[LabelSet, int]:
        """As :meth:`quotas`, for each set of labels."""
        masses, total = self._set_masses(counts)
        parts = {labels: divmod(draws * mass, total) for labels, mass in masses.items()}
        result = {labels: whole for labels, (whole, _) in parts.items()}
        by_remainder = sorted(parts, key=lambda labels: -parts[labels][1])  # stable, as for classes
        for labels in by_remainder[: draws - sum(result.values())]:
            result[labels] += 1
        return result

    def _set_masses(self, counts: LabelCounts) -> tuple[dict[LabelSet, int], int]:
        """(set of labels → what it weighs, in whole numbers; their sum)."""
        masses = counts.masses(self.as_dict())
        if not (total := sum(masses.values())):
            raise WeightsError(NO_IMAGE)
        return masses, total

    def describe(self) -> str:
        """A short text such as ``disgust 5, happy 0.5`` of what is not 1.0."""
        return listed([f"{c} {w:g}" for c, w in zip(self.classes, self.values, strict=True) if w != 1.0]) or "all 1"

    def as_dict(self) -> dict[str, float]:
        """Class → weight, as it stands in checkpoints and configurations."""
        return dict(zip(self.classes, self.values, strict=True))


@dataclass(frozen=True, slots=True)
class RatioChange:
    """What a fork changed. It is written into the child's log, and what is said of the change later is read from there.

    The shares are in the order of the classes of the weights beside them, and empty where they are not known.
    """

    old: SamplingWeights
    new: SamplingWeights
    old_shares: tuple[float, ...] = ()
    new_shares: tuple[float, ...] = ()

    @classmethod
    def between(cls, old: SamplingWeights, new: SamplingWeights, counts: Mapping[str, int]) -> RatioChange:
        """The change from ``old`` to ``new`` among the images of ``counts`` (class → images in the pool).

        Raises:
            WeightsError: with one of the two no image could be drawn.
        """
        before, after = old.shares(counts), new.shares(counts)
        return cls(old, new, tuple(before[c] for c in old.classes), tuple(after[c] for c in new.classes))

    @classmethod
    def from_event(cls, event: Mapping[str, Any]) -> RatioChange:
        """The change that an event of a log tells of.

        Raises:
            WeightsError: it holds something else.
        """
        weights = [event.get("old_weights"), event.get("new_weights")]
        shares = [event.get("old_shares") or {}, event.get("new_shares") or {}]
        if not all(isinstance(part, Mapping) for part in (*weights, *shares)):
            raise WeightsError("The log's event about the ratio does not hold weights and shares of classes.")
        old, new = (SamplingWeights.complete(w or {}, list(w or {})) for w in weights)
        return cls(old, new, *(_in_order(s, w) for s, w in zip(shares, (old, new), strict=True)))

    def to_event(self) -> dict[str, dict[str, float]]:
        """The details of the log's event."""
        return {
            "old_weights": self.old.as_dict(),
            "new_weights": self.new.as_dict(),
            "old_shares": dict(zip(self.old.classes, self.old_shares, strict=False)),
            "new_shares": dict(zip(self.new.classes, self.new_shares, strict=False)),
        }

    @property
    def changed(self) -> Changed:
        """The classes whose weight differs."""
        return changes(self.old.as_dict(), self.new.as_dict())

    def describe(self, with_shares: bool = False) -> str:
        """``disgust 1→5, fear 1→2``, or ``unchanged``; with shares ``disgust 1 → 5 (1.5% → 7.1%)``."""
        before = dict(zip(self.old.classes, self.old_shares, strict=False))
        after = dict(zip(self.new.classes, self.new_shares, strict=False))
        if not (with_shares and before and after and self.changed):
            return describe_changed(self.changed)
        return listed(
            [
                f"{c} {old:g} → {new:g} ({before.get(c, 0):.1%} → {after.get(c, 0):.1%})"
                for c, (old, new) in self.changed.items()
            ]
        )


def _in_order(shares: Mapping[str, Any], weights: SamplingWeights) -> tuple[float, ...]:
    return tuple(check_number(c, shares.get(c, 0.0)) for c in weights.classes) if shares else ()


def changes(old: Mapping[str, float], new: Mapping[str, float]) -> Changed:
    """The classes whose weight differs; one that is not named has 1.0."""
    names = list(old) + [c for c in new if c not in old]
    return {c: (old.get(c, 1.0), new.get(c, 1.0)) for c in names if old.get(c, 1.0) != new.get(c, 1.0)}


def describe_changed(changed: Mapping[str, Sequence[float]]) -> str:
    """What changed, as ``disgust 1→5, fear 1→2``, or ``unchanged``."""
    return listed([f"{c} {old:g}→{new:g}" for c, (old, new) in changed.items()]) or "unchanged"


def listed(parts: Sequence[str]) -> str:
    """The parts, at most MOST_LISTED of them, and how many more there are: a class in a thousand must not fill a page."""
    more = len(parts) - MOST_LISTED
    return ", ".join(parts[:MOST_LISTED]) + (f" and {more:,} more" if more > 0 else "")


def spelled(given: Mapping[str, Any], classes: Sequence[str]) -> Mapping[str, Any]:
    """``given`` with the classes' own spelling where a name differs in its Unicode form or in outer spaces alone."""
    forms = {unicodedata.normalize("NFC", name).strip(): name for name in classes}
    known = set(classes)
    return {
        name if name in known else forms.get(unicodedata.normalize("NFC", str(name)).strip(), name): value
        for name, value in given.items()
    }


def check_classes(names: Mapping[str, Any], classes: Sequence[str], what: str) -> None:
    """Every one of ``names`` is a class.

    Args:
        what: the start of the message, such as "The sampling weights name".

    Raises:
        WeightsError: one is not; the message suggests the nearest class.
    """
    known = set(classes)
    for name in names:
        if name not in known:
            raise WeightsError(
                f"{what} class {short_repr(name)}, which the data do not have."
                f"{did_you_mean(name, classes)} The classes are: {join_names(classes)}."
            )


def check_number(name: str, value: Any) -> float:
    """One weight as a float.

    Raises:
        WeightsError: not a number, NaN, infinite or negative; the message names the class.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise WeightsError(
            f"The weight of class {short_repr(name)} is {short_repr(value)}, which is not a number. Give a number ≥ 0."
        )
    try:
        number = float(value)
    except OverflowError:
        raise WeightsError(
            f"The weight of class {short_repr(name)} is {short_repr(value)}. Give a smaller one."
        ) from None
    if not math.isfinite(number):
        raise WeightsError(f"The weight of class {short_repr(name)} is {number}. Give a finite number ≥ 0.")
    if number < 0:
        raise WeightsError(
            f"The weight of class {short_repr(name)} is {number:g}, but a weight says how often a class is shown and cannot be "
            "negative. Use 0 to leave the class out."
        )
    return number
