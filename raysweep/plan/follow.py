"""Weights that follow those of another experiment, also with its classes exchanged: the control of a ratio that adapts.

What adapting adds is what it gains over the same sequence of shares given to other classes. Without that control nobody
can tell a good decision from the disturbance that any change makes.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction

from raysweep._text import join_names
from raysweep.config.settings import Settings
from raysweep.config.treatment import SchedulePoint
from raysweep.data.sampling import FOLLOW, permutation
from raysweep.errors import ConfigError
from raysweep.store import lineage, resolve
from raysweep.store.experiment import Experiment
from raysweep.store.root import Root
from raysweep.weights import SamplingWeights


def resolved(settings: Settings, root: Root, counts: Mapping[str, int]) -> tuple[Settings, list[str]]:
    """(settings with the followed weights as a schedule of numbers, what is to be said of it).

    Args:
        counts: class → images in the pool.

    Raises:
        NotFoundError: there is no such experiment.
        ConfigError: it has other classes.
    """
    section = settings.sampling.follow
    if section is None:
        return settings, []
    experiment = resolve.find_experiment(root, section.experiment)
    source = _permuted(tuple(counts), settings.seed) if section.permute else {c: c for c in counts}
    points = []
    for epoch, shares in _sequence(experiment, list(counts)):
        mine = {c: shares[source[c]] for c in counts}
        empty = [c for c in counts if mine[c] and not counts[c]]
        if empty:
            raise ConfigError(f"sampling.follow gives a share to {join_names(empty)}, of which there are no images.")
        weights = SamplingWeights.of_shares(tuple(counts), mine, counts)
        points.append(SchedulePoint.model_validate({"from": epoch, "weights": weights.as_dict()}))
    sampling = settings.sampling.model_copy(update={"schedule": points, "follow": None})
    told = f"The weights follow those of {experiment.id}"
    if section.permute:
        told += f", with its classes exchanged by seed {settings.seed}: " + ", ".join(
            f"{c} gets the share of {source[c]}" for c in counts
        )
    return settings.model_copy(update={"sampling": sampling}), [f"{told}."]


def _sequence(experiment: Experiment, classes: list[str]) -> list[tuple[int, dict[str, Fraction]]]:
    """(epoch, class → share) of each change of the ratio, the first epoch's first."""
    config = experiment.config()
    counts = dict(config.class_counts or {})
    if sorted(counts) != sorted(classes):
        raise ConfigError(
            f"sampling.follow: the classes of {experiment.id} are {join_names(list(counts))}; those of the data are "
            f"{join_names(classes)}. Name an experiment on the same classes."
        )
    found = [(config.fork + 1, config.sampling_weights)]
    for event in lineage.read(experiment.folder):
        if event.type == lineage.RATIO and "epoch" in event.fields:
            found.append((int(event.fields["epoch"]), event.fields["new_weights"]))
    return [(epoch, SamplingWeights.complete(w, list(counts)).exact_shares(counts)) for epoch, w in found]


def _permuted(classes: tuple[str, ...], seed: int) -> dict[str, str]:
    """Class → the class whose share it gets; never each its own, where there are two or more."""
    for attempt in range(100):
        order = permutation(len(classes), (seed, FOLLOW, attempt)).tolist()
        if order != list(range(len(classes))):
            break
    return {c: classes[i] for c, i in zip(classes, order, strict=True)}
