"""Plan one experiment: check everything it needs before anything is made."""

from __future__ import annotations

import contextlib
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import replace
from pathlib import Path

from raysweep._text import counted, differences
from raysweep.config.own import target_of
from raysweep.config.settings import Settings
from raysweep.config.treatment import SamplingSection
from raysweep.data import cache, decoded, sampling
from raysweep.data.roles.record import Before, ImageRoles
from raysweep.errors import CheckpointError, ConfigError
from raysweep.events import Building, Decoding, Note, Progress, ignore
from raysweep.label_sets import images_in
from raysweep.plan import augmentation, follow, networks, resources
from raysweep.plan.types import Plan
from raysweep.store import space
from raysweep.store.root import Root
from raysweep.trackers import base as trackers
from raysweep.weights import SamplingWeights, listed
from raysweep.weights_by_rule import Wanted
from raysweep.weights_schedule import Schedule, Step

_READ: ContextVar[dict[Hashable, cache.Dataset] | None] = ContextVar("images that were read", default=None)


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
    first_epoch: int = 1,
    root: Root | None = None,
    new_weights: bool = True,
    trusted: bool = True,
    before: Before | None = None,
    here: bool = True,
) -> Plan:
    """Check everything a run needs. Only the image cache is written, and with ``writable`` the root.

    Args:
        classes: of the checkpoint that will be loaded; the data must have the same, in the same order.
        tracked: whether the trackers asked for must be installed.
        inherited: the parent's weights, which classes that are not named keep; default: 1.
        asked: the weights asked for; default: those of the settings.
        first_epoch: of this training, counted with the parent's epochs.
        root: where it will be, opened; default: the one that the settings name.
        new_weights: False where the weights will come from a checkpoint. The files that a network begins with, of
            ``model.init_from`` or of a pretrained network, are then not read: they may be gone.
        trusted: the user wrote or approved what the settings run and fetch. False: they may be somebody else's.
        before: the roles of images that an ancestor, or the experiment itself, had; default: none has one.
        here: whether it trains in this process, where its resources say so.

    Raises:
        InputError: in one paragraph, what is wrong and what to do.
    """
    _no_fork(settings)
    root, where = _place(settings, root, tracked, writable)
    settings, of_library = networks.of_library(settings) if new_weights else (settings, ())
    settings, own, of_code = networks.with_own_code(settings, trusted)
    data = read_images(settings, root, progress, before, audited=writable)
    settings = _with_cache(settings, data)
    roles = ImageRoles.of(data) if before is None else before.inherited(ImageRoles.of(data))
    progress(Building())
    settings, code, origin = networks.found(settings, new_weights, trusted)
    settings, data = _ordered(settings, data, classes, origin.classes)
    held, counts = _pool(settings, data)
    settings, weights, by_rule = _treatment(settings, root, asked, inherited, first_epoch, counts, held)
    wanted = settings.sampling.samples_per_epoch or images_in(counts)
    draws = sampling.draws(wanted, settings.training.augment.repeats)
    settings, of_images = augmentation.settled(settings, data.classes, data.shape, draws)
    of_code += networks.own_tried(settings, trusted, counts, data.shape)
    place = networks.Place(where, draws, here)
    settings, size, notes = networks.tried(settings, data, code, origin, new_weights, trusted, place, first_epoch)
    notes = (*_of_device(where), *notes, *resources.notes(settings.scaling, where), *_of_root(root, writable))
    for line in (*data.reading.lines(), *_of_disk(settings, root, size, here)):  # last: an error is one paragraph
        progress(Note(line, once=True))
    of_data = (*_of_cache(settings), *of_images, *_of_fold(settings, data))
    notes = (*of_library, *of_data, *by_rule, *map(Note, of_code), *notes)
    plan = Plan(settings, root, data.facts, counts, weights, draws, where, *size, notes=notes, trusted=trusted)
    networks.check_travels([code, *own] if where.workers else [])
    return replace(plan, roles=roles, held=held, code=code, own=own)


def _of_root(root: Root, writable: bool) -> tuple[Note, ...]:
    """What is to be said of a root that can do less than a folder."""
    caveat = root.caveat() if writable else None
    return () if caveat is None else (Note(caveat),)


def _no_fork(settings: Settings) -> None:
    """Raises ConfigError where an experiment without a parent is told what to do at a fork."""
    if settings.training.fork is not None and settings.training.fork.start is None:
        raise ConfigError(
            "training.fork is what becomes of the learning rate where a child starts, and this run has no parent. Omit it here, and give "
            "it to `raysweep resume` or `raysweep branch`."
        )


def _place(settings: Settings, root: Root | None, tracked: bool, writable: bool) -> tuple[Root, resources.Resources]:
    """(the root, the resources), where everything that is needed is there."""
    root = root or Root.open(settings.root, look=False)
    if tracked:
        trackers.check(settings.trackers)
    where = resources.decide(settings.scaling)
    if writable:
        root.check_writable()
    return root, where


def _of_disk(settings: Settings, root: Root, size: networks.Size, here: bool) -> tuple[str, ...]:
    """What is to be said where the checkpoints will fill the disk of a local root; a sweep has a sentence of its own."""
    models = settings.checkpoint.epoch_models
    each = space.of_epoch(size.parameters, settings.training.optimizer, size.trained, models)
    keep = space.rule(settings.checkpoint.keep)
    text = None if root.is_remote else space.too_little(root.path, settings.training.epochs, each, keep)
    return (text,) if here and text is not None else ()


def _of_device(where: resources.Resources) -> tuple[Note, ...]:
    """What is not exact on this machine's accelerator."""
    from raysweep.training import device

    text = device.caveat(device.current()) if where.use_gpu and not where.workers and device.found() else None
    return (Note(text),) if text else ()


def _of_fold(settings: Settings, data: cache.Dataset) -> tuple[Note, ...]:
    section = settings.data
    if section.folds is None:
        return ()
    shown = f"{len(data.val.labels):,} of {len(data.val.labels) + len(data.train.labels):,}"
    return (Note(f"Fold {section.fold} of {section.folds} of the training images is for validation: {shown}."),)


def _pool(settings: Settings, data: cache.Dataset) -> tuple[int, dict[str, int]]:
    """(training images that are held out, class → those that may be shown)."""
    held, members = cache.holdout_and_pool(data, settings.sampling, settings.data.split_seed)
    return len(held), sampling.class_counts(data.train.labels[members], data.classes)


def _treatment(
    settings: Settings,
    root: Root,
    asked: Wanted | None,
    inherited: SamplingWeights | None,
    first_epoch: int,
    counts: Mapping[str, int],
    held: int,
) -> tuple[Settings, SamplingWeights, tuple[Note, ...]]:
    """(settings with the weight of every class, the weights of the first epoch, what is to be said of them and of the loss)."""
    settings, told = follow.resolved(settings, root, counts)
    settings, schedule, notes = _weights(settings, asked, inherited, counts, held)
    weights = schedule.at(first_epoch, counts)
    return settings, weights, (*(Note(text) for text in told), *notes, *loss_notes(settings, weights, counts))


def _weights(
    settings: Settings, asked: Wanted | None, inherited: SamplingWeights | None, counts: Mapping[str, int], held: int
) -> tuple[Settings, Schedule, tuple[Note, ...]]:
    """(settings with the weight of every class, the weights of each epoch, what is to be said of them).

    The settings keep the numbers instead of a rule, so that what continues from them shows the same images even if the
    data have grown.

    Raises:
        WeightsError: the weights do not fit the classes, or with them no image could be drawn.
    """
    base, asked = inherited or SamplingWeights.complete({}, tuple(counts)), asked or settings.sampling.wanted()
    weights, rule = asked.resolve(base, counts), asked.describe(base)
    told = [f"Sampling weights by {rule}: {weights.describe()}."] if rule else []
    steps, points = [], []
    for point in settings.sampling.schedule:
        wanted = point.wanted()
        step = Step(point.start, wanted.resolve(weights, counts), point.linear)
        steps.append(step)
        points.append(point.model_copy(update={"weights": step.weights.as_dict(), "shares": {}}))
        name = wanted.describe(weights)
        way = "by a straight line until" if point.linear else "from"
        told.append(
            f"Sampling weights {way} epoch {point.start}{f' by {name}' if name else ''}: {step.weights.describe()}."
        )
    told += [f"{counted(held, 'training image')} held out, which no epoch shows."] if held else []
    told += _of_policy(settings.sampling, counts)
    for one in (weights, *(step.weights for step in steps)):
        one.shares(counts)  # raises if no image could be drawn
    if rule or steps:
        numbers = {"weights": weights.as_dict(), "shares": {}, "schedule": points}
        settings = settings.model_copy(update={"sampling": settings.sampling.model_copy(update=numbers)})
    return settings, Schedule(weights, tuple(steps)), tuple(Note(text) for text in told)


def _of_policy(section: SamplingSection, counts: Mapping[str, int]) -> list[str]:
    """What is to be said of a policy.

    Raises:
        ConfigError: it leaves no class for the rest of the images.
    """
    policy = section.policy
    if policy is None:
        return []
    there = sum(n > 0 for n in counts.values())
    if policy.kind == "worst" and policy.classes >= there:
        raise ConfigError(
            f"sampling.policy.classes is {policy.classes}, and {there} classes have images. Give less, so that other classes get the "
            "rest of the images."
        )
    on = "images held out of training" if policy.on == "holdout" else "the validation images"
    what = policy.kind if target_of(policy.kind) else f"the {policy.metric} of each class"
    told = f"The weights of each epoch are decided by {what} on {on}, after the epoch before."
    if policy.on == "val":
        told += " The results are judged on the same images, so they may look better than they are; policy.on=holdout avoids that."
    return [told]


def loss_notes(settings: Settings, weights: SamplingWeights, counts: Mapping[str, int]) -> tuple[Note, ...]:
    """What is to be said of a loss that treats classes differently.

    Raises:
        WeightsError: its weights do not fit the classes.
    """
    section, notes = settings.loss, []
    if section.weighted:
        from raysweep.training import losses

        if settings.data.multi_label:
            numbers = losses.label_weights(section, counts)
        else:
            numbers = losses.class_weights(section, weights.shares(counts), counts)
        shown = listed([f"{c} {w:.4g}" for c, w in zip(weights.classes, numbers, strict=True)])
        notes.append(f"Weights of the classes in the loss: {shown}.")
    even = len({round(share, 9) for share in weights.shares(counts).values()}) == 1
    if section.prior and even:
        notes.append(
            f"loss.kind={section.kind} adds the log of the shares shown, which are equal for all classes here: it changes nothing."
        )
    return tuple(Note(text) for text in notes)


def read_images(
    settings: Settings, root: Root, progress: Progress, before: Before | None = None, audited: bool = True
) -> cache.Dataset:
    """The images, decoded unless they were before. Images that had a role keep it, where a split is made here.

    Args:
        audited: also look for copies of the sealed images.
    """
    caches = cache_dir(settings, root)
    was = None if before is None else (before.name, before.sha256)
    key = (settings.data.model_dump_json(), str(caches), was, audited)
    if (known := _READ.get()) is not None and key in known:
        return known[key]
    data = cache.load_as(
        settings.data,
        caches,
        before.sha256 if before else None,
        before.roles.known if before else None,
        lambda done, total: progress(Decoding(done, total)),
        lambda text: progress(Note(text)),
        audited,
    )
    if known is not None:
        known[key] = data
    return data


@contextlib.contextmanager
def reading_once() -> Iterator[None]:
    """Within this block, or function where it is a decorator, the same images are looked at once: a sweep plans a child for each of its settings, and whether the files
    of a large folder are still the same takes a second each time."""
    if _READ.get() is not None:
        yield
        return
    token = _READ.set({})
    try:
        yield
    finally:
        _READ.reset(token)


def _with_cache(settings: Settings, data: cache.Dataset) -> Settings:
    """The settings with what was chosen for ``data.cache``: whoever goes on from here keeps the images in the same way."""
    return settings.model_copy(update={"data": settings.data.model_copy(update={"cache": data.kind})})


def _of_cache(settings: Settings) -> tuple[Note, ...]:
    """What is to be said where an option of encoded images has no effect."""
    d = settings.data
    if d.cache != "pixels" or d.large == "shrink":
        return ()
    text = f"data.large={d.large} changes nothing, because the images are kept as pixels; data.cache=encoded keeps their bytes."
    return (Note(text),)


def _ordered(
    settings: Settings, data: cache.Dataset, classes: Sequence[str] | None, outputs: Sequence[str] | None
) -> tuple[Settings, cache.Dataset]:
    """Settings and data with the classes in the order of the checkpoint, or else of the trained network, if it has the same classes.

    Args:
        outputs: of the trained network, by its own names.

    Raises:
        CheckpointError: the checkpoint has other classes. ConfigError: ``model.init_classes`` are not those of the data.
    """
    from raysweep.data.order import as_written, in_order, matched

    data = as_written(data, classes)
    wanted = settings.data.classes
    for known in (classes, outputs):
        found = None if known is None else matched(known, data.classes)
        if wanted is None and found is not None and found != data.classes:
            wanted = list(found)
    if settings.model.init_classes is not None and classes is None:
        order = matched(settings.model.init_classes, data.classes)
        if order is None or (wanted is not None and tuple(wanted) != order):
            raise ConfigError(
                f"{differences(settings.model.init_classes, wanted or data.classes, 'model.init_classes', 'the data')}. Name every "
                "class of the data once, in the order of the outputs, and omit data.classes."
            )
    if wanted is not None:
        settings = settings.model_copy(update={"data": settings.data.model_copy(update={"classes": wanted})})
        data = in_order(data, wanted)
    if classes is not None and tuple(classes) != data.classes:
        raise CheckpointError(
            f"{differences(classes, data.classes, 'the checkpoint', 'the data')}. Classes and their order must be the same, or "
            "every label would be read wrongly."
        )
    return settings, data
