"""What to type next after a training: always something that can work, from the best epoch, and that has not been done."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from raysweep.config import examples
from raysweep.config.settings import TrainingSection
from raysweep.errors import RaysweepError
from raysweep.plan import rates
from raysweep.store import resolve
from raysweep.store.experiment import Experiment

RULES = "rules"  # the grid for any classes, which comes with the program
UNEVEN = 1.2  # how many times as many images the most frequent class has, from which on rules differ from the data
MORE = 5.0  # the weight that is proposed for the worst class


def following(experiment: Experiment, grid: str) -> list[str]:
    """The words of the next command, without ``raysweep`` and the root.

    A child is compared with what it came from. From any other experiment, other weights are tried from its best epoch: those
    of the grid file, if it is there and names only classes of these data; else the rules of the grid ``rules``, where classes
    differ in size; else more images of the worst class.
    """
    config, manifest = experiment.config(), experiment.manifest()
    if _can_be_compared(experiment):
        return ["compare", experiment.id]
    epoch = manifest.best.epoch if manifest.best is not None else manifest.ends[-1].epoch
    entry = next((e for e in manifest.ends if e.epoch == epoch), manifest.ends[-1])
    classes = config.classes or ()
    fits = _grid_epochs(grid, classes)
    if fits is None and _uneven(config.class_counts):
        grid, fits = RULES, _grid_epochs(RULES, classes)
    if fits is not None:
        words = from_checkpoint(experiment, entry.epoch, fits or None, given=bool(fits))
        return ["branch", *words, "--weights-grid", grid]
    worst = str(entry.metrics.get("worst_class") or [*classes, "CLASS"][0])
    weight = float(f"{max(MORE, 2 * config.sampling_weights.get(worst, 1.0)):.4g}")
    plain = "," not in worst and worst == worst.strip()
    weights = f"{worst}={weight:g}" if plain else json.dumps({worst: weight}, ensure_ascii=False)
    return ["resume", *from_checkpoint(experiment, entry.epoch), "--weights", weights]


def _uneven(counts: Mapping[str, Any] | None) -> bool:
    numbers = [n for n in (counts or {}).values() if isinstance(n, (int, float)) and n > 0]
    return len(numbers) > 1 and max(numbers) >= UNEVEN * min(numbers)


def from_checkpoint(experiment: Experiment, epoch: int, epochs: int | None = None, given: bool = False) -> list[str]:
    """``--from``, and what else a child needs that shall train at a rate that changes something.

    Args:
        epochs: of the child; default: as many as the experiment had.
        given: whether they are given elsewhere, so that ``--epochs`` is left out.
    """
    words = ["--from", f"{experiment.id}@{epoch}"]
    training = _training(experiment)
    if training is None:
        return words
    left = experiment.config().fork + training.epochs - epoch
    wanted = epochs or (left if left > 0 else training.epochs)
    found = rates.remedy(training, epoch, wanted)
    if not found:
        return words
    if epochs is None:  # not the one epoch that was left
        wanted = training.epochs
        found = rates.remedy(training, epoch, wanted)
    return [*words, *([] if given else ["--epochs", str(wanted)]), *found]


def _training(experiment: Experiment) -> TrainingSection | None:
    """The experiment's training settings; None if another program or an editor made them."""
    given = experiment.config().setting("training")
    try:
        return TrainingSection.model_validate(given) if given else None
    except ValueError:
        return None


def _can_be_compared(experiment: Experiment) -> bool:
    config = experiment.config()
    if config.parent is None:
        return False
    try:
        parent = resolve.by_id(experiment.root, config.parent.experiment)
        return bool(parent.manifest().ends) and parent.config().data_sha256 == config.data_sha256
    except RaysweepError:
        return False


def _grid_epochs(grid: str, classes: Sequence[str]) -> int | None:
    """The epochs of a grid file, 0 if it does not say; None if there is no such file, or it names other classes."""
    from raysweep.config import grid as grids

    if not examples.find(grid).is_file():
        return None
    try:
        read = grids.read(grid)
    except RaysweepError:
        return None
    of_branches = [*(b.weights for b in read.branches), *(b.shares for b in read.branches)]
    named = {*read.search.ranges, *read.shares}
    for weights in (read.weights, *of_branches):
        named |= set(weights) if isinstance(weights, dict) else set()  # a rule names no class
    return (read.epochs or 0) if named <= set(classes) else None
