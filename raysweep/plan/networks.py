"""Plan the network of an experiment: find its code, build it, try it, and say what its first weights take for granted."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from raysweep._text import counted
from raysweep.config.settings import ModelSection, Settings
from raysweep.data import cache, sampling
from raysweep.data.views import Rows
from raysweep.errors import ConfigError
from raysweep.events import Note
from raysweep.plan.resources import Resources
from raysweep.plan.types import Plan
from raysweep.training.sources import Sources

if TYPE_CHECKING:
    from torch import nn

    from raysweep.training.freezing import Freezing
    from raysweep.training.origin import Origin
    from raysweep.training.trial import Found, Use

TRIED = 50  # validation images that a trained network is tried with
_AT_MOST = 8  # images of a batch that is tried on the CPU for a training on a GPU elsewhere


def found(settings: Settings, new_weights: bool, trusted: bool) -> tuple[Settings, Sources | None, Origin]:
    """The settings with the folder in which the code of a ``python:`` name was found; its files, None for other names; and what
    the trained network that an experiment starts from says of itself, of a file only where it will be read.

    Raises:
        InputError: the code cannot be imported, or there is no such file or network.
    """
    from raysweep.training import origin as origins

    settings, code = with_code(settings, trusted)
    unread = settings.model.init_from and not new_weights
    return settings, code, origins.Origin() if unread else origins.read(settings)


def of_library(settings: Settings) -> tuple[Settings, tuple[Note, ...]]:
    """The settings of a new experiment with what the library of ``model.pretrained`` says: how the network is built, and how large
    its images are.

    Raises:
        ConfigError: no library publishes weights of this network.
    """
    model = settings.model
    if not model.pretrained:
        return settings, ()
    from raysweep.training import published

    known = published.of(model.name, model.options)
    told = [f"the first weights are those of {known.title}" + (", as the file has them" if model.init_from else "")]
    data = settings.data
    if data.image_size is None and known.side is not None:
        data = data.model_copy(update={"image_size": known.side})
        told.append(
            f"images have {known.side}×{known.side} pixels, as those on which the network was trained; data.image_size chooses another "
            "size"
        )
    section = published.completed(model)
    return settings.model_copy(update={"model": section, "data": data}), tuple(map(Note, told))


def with_code(settings: Settings, trusted: bool) -> tuple[Settings, Sources | None]:
    """The settings with the folder of the user's code, and its files."""
    from raysweep.training import guest

    model = settings.model
    code = guest.code_of(model.name, model.path) if trusted else None
    if code is None or model.path == code.folder:
        return settings, code
    return settings.model_copy(update={"model": model.model_copy(update={"path": code.folder})}), code


def with_own_code(settings: Settings, trusted: bool) -> tuple[Settings, tuple[Sources, ...], list[str]]:
    """The settings with the folder of the user's code of other options, its files, and what is to be said of them."""
    from raysweep.training import own

    if not settings.own_code():
        return settings, (), []
    found = own.planned(settings, trusted)
    provide_images(found[0], trusted)
    return found


def check_travels(codes: Sequence[Sources | None]) -> None:
    """Raises ConfigError where code of a notebook cannot be sent to workers or branches."""
    found = [code for code in codes if code is not None and code.stays is not None]
    if found:
        from raysweep.training import guest_main

        guest_main.check_travels(found)


def provide_images(settings: Settings, trusted: bool) -> None:
    """Let images of the user's code be read in this process.

    Raises:
        UntrustedError: nobody has approved of it. ConfigError: it cannot be imported.
    """
    if "data.source" in settings.own_code():
        from raysweep.training import own_data

        own_data.provide(settings, trusted)


def own_tried(settings: Settings, trusted: bool, counts: Mapping[str, int], shape: tuple[int, int, int]) -> list[str]:
    """What is to be said of the user's code of other options, which is tried.

    Raises:
        ConfigError: it fails.
    """
    from raysweep.training import own_code

    return own_code.tried(settings, trusted, counts, shape).told if settings.own_code() else []


@dataclass(frozen=True)
class Place:
    """Where and with how many images a network will be trained."""

    resources: Resources
    draws: int  # images of an epoch
    here: bool  # in this process; it may then use a GPU now


class Size(NamedTuple):
    """How large a network is."""

    parameters: int
    trained: int  # in some epoch


def tried(
    settings: Settings,
    data: cache.Dataset,
    code: Sources | None,
    origin: Origin,
    new_weights: bool,
    trusted: bool,
    place: Place,
    first_epoch: int,
) -> tuple[Settings, Size, tuple[Note, ...]]:
    """(settings with what trying decides, parameters in all and trained, notes) of the network, which is built and tried as it will be used.

    Decided are ``model.head``, ``model.auxiliary_share`` and ``training.channels_last``.

    Args:
        first_epoch: of the training, counted with the parent's epochs.

    Raises:
        ConfigError: it cannot be built, or does not take the images.
    """
    from raysweep.training import guest, guest_network, initial, trial
    from raysweep.training import origin as origins
    from raysweep.training.freezing import Freezing

    section, model = _built(settings.model, data, new_weights, trusted)
    settings = settings.model_copy(update={"model": section})
    told = [f"{section.name}: {text}" for text in guest_network.notes(model)]
    if code is not None and (left_out := code.note()) is not None:
        told.append(left_out)
    loaded = initial.initialise(model, section) if new_weights else None
    freezing = Freezing.of(model, section, len(data.classes))
    told += _of_training(model, freezing, settings, new_weights and loaded is None)
    with guest.quiet(section.name):
        found = trial.as_used(model, _use(settings, data, place), freezing)
    model.to("cpu")
    settings, heads = _decided(settings, found)
    heads += _of_features(model, freezing, settings, data, first_epoch)
    told += [f"{section.name}: {text}" for text in (*found.notes, *heads)]
    if new_weights:
        mean, std = origins.moments(settings, data, origin)
        told += [text for text in (loaded and loaded.text, origins.of_pixels(settings, origin, mean, std)) if text]
        if initial.keeps_head(section, loaded, len(data.classes)) and data.train.labels.ndim == 1:
            text = origins.of_outputs(origin, data.classes)
            right = _accuracy(model, section.name, data, mean, std, settings.training.channels_last)
            told += [*([text] if text else []), right]
        elif section.pretrained and loaded is None:
            told.append(f"the last layer is a new one of {len(data.classes)} outputs, for these classes")
    sizes = {name: p.numel() for name, p in model.named_parameters()}
    size = Size(sum(sizes.values()), sum(sizes[name] for name in freezing.trained()))
    return settings, size, tuple(map(Note, told))


def _of_training(model: nn.Module, freezing: Freezing, settings: Settings, no_file: bool) -> list[str]:
    """What is to be said of what is trained, and how fast.

    Args:
        no_file: the weights come neither from a file nor from a checkpoint.

    Raises:
        ConfigError: ``training.head_lr`` is for a layer that is not known.
    """
    from raysweep.training import groups, published

    training, told = settings.training, []
    groups.check(freezing, training, settings.model.name)
    if (text := freezing.describe(model)) is not None:
        told.append(text)
        section = settings.model
        if no_file and not published.is_asked(section) and not section.name.startswith("python:"):
            told.append(
                "what is frozen has random weights; model.pretrained=true or model.init_from=FILE starts from trained ones"
            )
    if training.layer_decay is not None:
        factors = groups.layers(groups.of(model, freezing, training))
        told.append(f"the learning rate of the layers, from the input on, is multiplied by {factors}")
    return told


def _of_features(
    model: nn.Module, freezing: Freezing, settings: Settings, data: cache.Dataset, first_epoch: int
) -> list[str]:
    """What is to be said of features that are computed once, or are not.

    Raises:
        ConfigError: they are demanded, and cannot be.
    """
    import torch

    from raysweep.training import features, guest, trial

    if not features.asked(settings, freezing, first_epoch):
        return []
    height, width, channels = data.shape
    x = trial.arranged(
        torch.randn(2, channels, height, width, generator=torch.Generator().manual_seed(1)),
        settings.training.channels_last,
    )
    model.to(memory_format=torch.channels_last if settings.training.channels_last else torch.contiguous_format)
    with guest.quiet(settings.model.name):
        why = features.decide(settings, freezing, model, x, first_epoch)
        row = None if why is not None else features.computed(model, freezing.head, x)[1]
    if row is not None:
        held, members = cache.holdout_and_pool(data, settings.sampling, settings.data.split_seed)
        rows = Rows(members, held, settings.data.views)
        size = features.size_of(settings, len(rows) + len(data.val.labels), row[0].numel())
        whose = f"each of {counted(rows.views, 'view')} of each image" if rows.views else "each image"
        return [
            f"what the last layer gets from {whose} is computed once, and epochs are trained on that (model.features): "
            f"{size} in the cache"
        ]
    if freezing.head_only(first_epoch):
        augment = settings.training.augment
        fixed = settings.data.views is None and not augment.mixes and augment.own is None
        hint = "; data.views=8 changes each in 8 fixed ways, whose features are computed once" if fixed else ""
        return [f"every epoch passes the images through the whole network, because {why}{hint}"]
    return []


def _use(settings: Settings, data: cache.Dataset, place: Place) -> Use:
    """How the network will be used: with the images that one rank computes of a batch, and of the last one."""
    from raysweep.training import device as devices
    from raysweep.training.trial import Use

    t, where = settings.training, place.resources
    world, total = max(1, where.workers), sampling.batches(place.draws, t.batch_size)
    bounds = {sampling.batch_bounds(batch, place.draws, t.batch_size) for batch in (0, total - 1)}
    slices = [(b, np.arange(*sampling.rank_slice(*b, rank, world))) for b in bounds for rank in (0, world - 1)]
    sizes = {len(part) for b, mine in slices for part in sampling.pieces(mine, b, t.accumulate, world)}
    if world > 1 and settings.scaling.sync_batchnorm:  # the statistics are those of all ranks, which have more images
        sizes = {max(2, n) for n in sizes}
    gpu_here = where.use_gpu and place.here and not where.workers
    if where.use_gpu and not gpu_here:
        sizes = {min(n, _AT_MOST) for n in sizes}
    device = devices.current() if gpu_here else devices.CPU
    remedy = f"Choose a larger training.batch_size than {t.batch_size}, or sampling.samples_per_epoch."
    if world > 1:
        remedy = "Set scaling.sync_batchnorm=true, or choose a larger training.batch_size or fewer workers."
    bf16 = t.precision == "bf16" or (t.precision == "auto" and devices.kind(device) == "cuda")
    batches = tuple(sorted(sizes, reverse=True))
    sync, ranks = settings.scaling.sync_batchnorm, world if settings.model.name.startswith("python:") else 1
    return Use(data.shape, len(data.classes), batches, t.channels_last, device, bf16, ranks, sync, remedy)


def _decided(settings: Settings, found: Found) -> tuple[Settings, list[str]]:
    """The settings with what trying has decided, and what is to be said of auxiliary heads."""
    from raysweep.training import outputs

    training, model, told = settings.training, settings.model, []
    if not found.channels_last:
        training = training.model_copy(update={"channels_last": False})
    if found.auxiliaries:
        share = outputs.share(found.auxiliaries) if model.auxiliary_share is None else model.auxiliary_share
        model = model.model_copy(update={"auxiliary_share": share})
        heads = counted(found.auxiliaries, "auxiliary head")
        told.append(
            f"it has {heads}; the loss of each is added {share:g} times, also in train_loss (model.auxiliary_share)"
        )
    return settings.model_copy(update={"training": training, "model": model}), told


def built(plan: Plan) -> nn.Module:
    """The network of a plan, with random weights."""
    return _built(plan.settings.model, plan.data, False, plan.trusted)[1]


def _built(
    section: ModelSection, data: cache.Dataset | cache.Facts, new_weights: bool, trusted: bool
) -> tuple[ModelSection, nn.Module]:
    """The network. Its last layer stays where the output fits without a new one: the layer that comes last in a network is not
    always the one that gives its output."""
    from raysweep.training import guest, guest_network, models, published, trial

    def build(head: Literal["keep", "replace"] | None) -> nn.Module:
        return models.build(
            section.name,
            section.options,
            len(data.classes),
            data.shape[2],
            pretrained=new_weights and published.are_fetched(section),
            trusted=trusted,
            path=section.path,
            head=head,
            size=data.shape[:2],
        )

    model = build(section.head)
    if new_weights and guest_network.has_new_head(model):
        kept = build("keep")
        with contextlib.suppress(ConfigError), guest.quiet(section.name):
            trial.try_out(kept, data.shape, len(data.classes))
            return section.model_copy(update={"head": "keep"}), kept
    return section, model


def _accuracy(
    model: nn.Module, name: str, data: cache.Dataset, mean: list[float], std: list[float], channels_last: bool
) -> str:
    """How many of a few validation images a trained network names correctly, as a sentence."""
    import torch

    from raysweep.training import guest, trial

    labels = data.val.labels
    each = max(1, TRIED // len(data.classes))
    places = [np.flatnonzero(labels == c) for c in range(len(data.classes))]
    some = np.concatenate([p[np.linspace(0, len(p) - 1, min(each, len(p))).astype(int)] for p in places if len(p)])
    some = some[np.linspace(0, len(some) - 1, min(TRIED, len(some))).astype(int)]  # where there are very many classes
    was_training = model.training
    model.eval()
    with torch.no_grad(), guest.quiet(name):
        x = torch.from_numpy(data.val.take(some)).permute(0, 3, 1, 2).float()
        x = (x - torch.tensor(mean).view(1, -1, 1, 1)) / torch.tensor(std).view(1, -1, 1, 1)
        x = trial.arranged(x, channels_last)
        found = torch.cat([model(part).argmax(1) for part in torch.split(x, 16)]).numpy()
    right = int((found == labels[some]).sum())
    model.train(was_training)
    return (
        f"before training, the network names {right} of {len(some)} validation images correctly ({right / len(some):.0%}; "
        f"{1 / len(data.classes):.0%} by chance). If it was trained on these classes, this should be high: else check data.mean, "
        "data.std and the order of the classes"
    )
