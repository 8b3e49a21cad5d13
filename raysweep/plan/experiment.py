"""Plan one experiment: check everything it needs before anything is made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from raysweep._text import differences
from raysweep.config.settings import Settings
from raysweep.data import augment, cache, decoded, sampling
from raysweep.errors import CheckpointError, ConfigError
from raysweep.events import Building, Decoding, Note, Progress, ignore
from raysweep.plan import resources
from raysweep.plan.types import Plan
from raysweep.store.root import Root
from raysweep.trackers import base as trackers
from raysweep.weights import SamplingWeights
from raysweep.weights_by_rule import Wanted


def cache_dir(settings: Settings, root: Root) -> Path:
    """Where decoded images are kept: the configuration's folder, RAYSWEEP_CACHE, or .raysweep/cache under the root."""
    return decoded.cache_dir(settings.data.cache_dir, root)


def plan_experiment(
    settings: Settings,
    progress: Progress = ignore,
    writable: bool = True,
    classes: Sequence[str] | None = None,
    tracked: bool = True,
    inherited: SamplingWeights | None = None,
    asked: Wanted | None = None,
    root: Root | None = None,
    new_weights: bool = True,
    trusted: bool = True,
) -> Plan:
    """Check everything a run needs. Only the image cache is written, and with ``writable`` the root.

    Args:
        classes: of the checkpoint that will be loaded; the data must have the same, in the same order.
        tracked: whether the trackers asked for must be installed.
        inherited: the parent's weights, which classes that are not named keep; default: 1.
        asked: the weights asked for; default: those of the settings.
        root: where it will be, opened; default: the one that the settings name.
        new_weights: False where the weights will come from a checkpoint. The files that a network begins with, of
            ``model.init_from`` or of a pretrained network, are then not read: they may be gone.
        trusted: the user wrote or approved what the settings run and fetch. False: they may be somebody else's.

    Raises:
        InputError: in one paragraph, what is wrong and what to do.
    """
    root = root or Root.open(settings.root, look=False)
    if tracked:
        trackers.check(settings.trackers)
    where = resources.decide(settings.scaling)
    if writable:
        root.check_writable()
    data = read_images(settings, root, progress)
    progress(Building())
    settings, data = _ordered(settings, data, classes)
    settings, mirrored = _mirrored(settings, data.classes)
    counts = _pool(settings, data)
    asked = asked or settings.sampling.wanted()
    settings, weights, by_rule = _weights(
        settings, asked, inherited or SamplingWeights.complete({}, data.classes), counts
    )
    parameters, notes = _network(settings, data, new_weights, trusted)
    if writable and (caveat := root.caveat()) is not None:
        notes = (*notes, Note(caveat))
    draws = settings.sampling.samples_per_epoch or sum(counts.values())
    for line in data.reading.lines():  # last: an error is one paragraph
        progress(Note(line))
    return Plan(
        settings,
        root,
        data.facts,
        counts,
        weights,
        draws,
        where,
        parameters,
        notes=(*mirrored, *by_rule, *notes),
        trusted=trusted,
    )


def _pool(settings: Settings, data: cache.Dataset) -> dict[str, int]:
    """Class → training images that may be shown."""
    members = sampling.pool(
        data.train.labels, data.classes, settings.sampling.sample_per_class, settings.data.split_seed
    )
    return cache.Images(data.train.pixels, data.train.labels[members]).counts(data.classes)


def _weights(
    settings: Settings, asked: Wanted, base: SamplingWeights, counts: Mapping[str, int]
) -> tuple[Settings, SamplingWeights, tuple[Note, ...]]:
    """(settings with the weight of every class, the weights, what is to be said of them).

    The settings keep the numbers instead of the rule, so that what continues from them shows the same images even if
    the data have grown.

    Raises:
        WeightsError: the weights do not fit the classes, or with them no image could be drawn.
    """
    weights = asked.resolve(base, counts)
    weights.shares(counts)  # raises if no image could be drawn
    rule = asked.describe(base)
    if rule:
        numbers = settings.sampling.model_copy(update={"weights": weights.as_dict(), "shares": {}})
        settings = settings.model_copy(update={"sampling": numbers})
    text = f"Sampling weights by {rule}: {weights.describe()}."
    return settings, weights, (Note(text),) if rule else ()


def _mirrored(settings: Settings, classes: Sequence[str]) -> tuple[Settings, tuple[Note, ...]]:
    """The settings with ``flip`` decided where the user leaves it open, and what is to be said of it."""
    if settings.training.augment.flip is not None:
        return settings, ()
    why = augment.unlike_its_mirror(classes)
    of_augment = settings.training.augment.model_copy(update={"flip": why is None})
    training = settings.training.model_copy(update={"augment": of_augment})
    text = f"Images are not mirrored, because {why}; training.augment.flip=true mirrors them."
    return settings.model_copy(update={"training": training}), (Note(text),) if why else ()


def _network(settings: Settings, data: cache.Dataset, new_weights: bool, trusted: bool) -> tuple[int, tuple[Note, ...]]:
    """(parameters, notes) of the network, which is built and tried with images of this size."""
    from raysweep.training import models

    name, options = settings.model.name, settings.model.options
    model = models.build(name, options, len(data.classes), data.shape[2], pretrained=new_weights, trusted=trusted)
    note = models.initialise(model, settings.model) if new_weights else None
    models.try_out(model, data.shape, len(data.classes))
    pad = settings.training.augment.crop_padding
    if pad >= min(data.shape[:2]):
        raise ConfigError(
            f"training.augment.crop_padding is {pad}, but the images have {min(data.shape[:2])} pixels a side. Choose less."
        )
    return sum(p.numel() for p in model.parameters()), (Note(note),) if note else ()


def read_images(settings: Settings, root: Root, progress: Progress) -> cache.Dataset:
    """The images, decoded unless they were before."""
    data = cache.load(
        settings.data,
        cache_dir(settings, root),
        lambda done, total: progress(Decoding(done, total)),
        lambda text: progress(Note(text)),
    )
    return data


def _ordered(settings: Settings, data: cache.Dataset, classes: Sequence[str] | None) -> tuple[Settings, cache.Dataset]:
    """Settings and data with the classes in the order of the checkpoint, or else of the trained network, if it has the same classes.

    Raises:
        CheckpointError: the checkpoint has other classes.
    """
    from raysweep.data.order import as_written, in_order
    from raysweep.training import hub

    data = as_written(data, classes)
    wanted = settings.data.classes
    for known in (classes, hub.labels(settings.model.name)):
        if wanted is None and known is not None and known != data.classes and sorted(known) == sorted(data.classes):
            wanted = list(known)
    if wanted is not None:
        settings = settings.model_copy(update={"data": settings.data.model_copy(update={"classes": wanted})})
        data = in_order(data, wanted)
    if classes is not None and tuple(classes) != data.classes:
        raise CheckpointError(
            f"{differences(classes, data.classes, 'the checkpoint', 'the data')}. Classes and their order must be the same, or "
            "every label would be read wrongly."
        )
    return settings, data
