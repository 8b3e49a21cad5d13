"""The budget of a hunt: how it is divided among rounds and the look at the end.

It is counted in trainings of a round's length; of hours, one that trains alone takes as long as ``alone`` of those that train beside others. What comes after the rounds is set aside first: the winner's recipe and the control chain
with new seeds, the winner once more by its commands, and the control chain beside the rounds.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from raysweep.errors import InputError

KINDS = ("images", "hours", "branches")
SEEDS = 3  # new ones of the winner and of the control, at least
CONTROLS = 4  # trainings of the control with which a round begins
LEAST = CONTROLS + 4  # trainings of a round
FULL = 25  # trainings for each round where their number is free
MOST_ROUNDS, MOST_BRANCHES = 4, 24


@dataclass(frozen=True)
class Budget:
    """``amount`` of one of KINDS."""

    kind: str
    amount: float

    def trainings(self, images: int, seconds: float, spent: float = 0.0) -> int:
        """How many trainings it is enough for.

        Args:
            images, seconds: of one training. spent: of the budget, in its own unit.
        """
        each = {"images": float(images), "hours": seconds / 3600, "branches": 1.0}[self.kind]
        return max(0, math.floor((self.amount - spent) / max(each, 1e-12) + 1e-9))


def parse(budget: str | None, images: str | None, branches: int | None) -> Budget:
    """What a user gives: exactly one of a time (``2h``, ``90m``), a number of images (``2M``, ``500k``) or of branches.

    Raises:
        InputError: none or several are given, or one cannot be read.
    """
    given = [one for one in (budget, images, branches) if one is not None]
    if len(given) != 1:
        raise InputError("Give the budget once: --budget 2h, or --images 2M, or --branches 60.")
    if branches is not None:
        found = Budget("branches", float(branches))
    elif budget is not None:
        found = Budget(
            "hours", _number(budget, {"h": 1.0, "m": 1 / 60, "min": 1 / 60, "d": 24.0}, "--budget", "2h, 90m")
        )
    else:
        found = Budget("images", _number(str(images), {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9}, "--images", "2M, 500k"))
    if not 0 < found.amount < 1e15:
        raise InputError(f"The budget must be larger than 0, not {given[0]}.")
    return found


def _number(text: str, units: dict[str, float], option: str, examples: str) -> float:
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)", text.strip().replace(",", "").replace("_", ""))
    if match is None or match[2] not in units:
        raise InputError(f"{option} {text} cannot be read. Write it as {examples}.")
    return float(match[1]) * units[match[2]]


def after(rounds: int, seeds: int = SEEDS) -> int:
    """Trainings after ``rounds`` rounds: the winner and the control with new seeds, and the winner by its commands."""
    return rounds * (2 * seeds + 1)


def beside(rounds: int) -> int:
    """Trainings of the control chain beside the rounds; in the first one the sweep's own control is it."""
    return max(0, rounds - 1)


def rounds_for(trainings: int, asked: int | None = None, alone: int = 1) -> int:
    """How many rounds there are.

    Raises:
        InputError: the budget is too small; the message says what it takes.
    """
    rounds = asked or max(1, min(MOST_ROUNDS, trainings // (FULL - 8 + 8 * alone)))
    least = rounds * LEAST + alone * (after(rounds) + beside(rounds))
    if trainings < least:
        fewer = f", or fewer --rounds (one takes {LEAST + alone * after(1)})" if rounds > 1 else ""
        raise InputError(
            f"The budget is enough for {trainings:,} trainings, but {rounds} round{'s' * (rounds > 1)} and the look at the end take at least "
            f"{least}. Give a larger budget{fewer}; of images or hours, shorter rounds (--epochs) take less, too."
        )
    return rounds


def of_round(left: int, number: int, rounds: int, alone: int = 1) -> int:
    """Trainings of the sweep of round ``number``.

    Args:
        left: trainings that the budget is still enough for.
    """
    to_come = rounds - number + 1
    free = left - alone * (after(rounds) + beside(rounds) - beside(number - 1))
    return max(0, free // to_come)


def rounds_left(left: int, number: int, planned: int, alone: int = 1) -> int:
    """How many rounds there can be in all, from round ``number`` on, once it is known how long trainings take: at most ``planned``; ``number - 1`` where not even
    that one is possible. Fewer rounds also need fewer trainings at the end, so a budget that is too small for four may well hold two.

    Args:
        left: trainings that the budget is still enough for.
    """
    fitting = (n for n in range(planned, number - 1, -1) if of_round(left, number, n, alone) >= LEAST)
    return next(fitting, number - 1)


def branches_of(trainings: int) -> int:
    """Branches that a round of so many trainings begins with; the others are seeds where they decide something."""
    return max(4, min(MOST_BRANCHES, round((trainings - CONTROLS) * 0.6)))


def seeds_at_end(left: int, rounds: int, alone: int = 1, most: int = 12) -> int:
    """New seeds of the winner and of the control: what is left is spent on them."""
    return max(SEEDS, min(most, (left // alone - rounds) // (2 * rounds)))
