"""Which images an evaluation scores, by what the networks were trained on and what the user names; and what is known of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from raysweep._text import join_names
from raysweep.config import load as load_config
from raysweep.config.settings import Settings
from raysweep.data.listing import SeveralLabelsError
from raysweep.data.reading import ON_TEST
from raysweep.data.sources import open_source
from raysweep.errors import DataError, InputError
from raysweep.events import Progress
from raysweep.plan import networks
from raysweep.plan.experiment import cache_dir
from raysweep.store.root import Root
from raysweep.tools import shown
from raysweep.tools.predict import Network
from raysweep.tools.shown import TEST, Shown

_ANEW = (
    "path",
    "source",
    "classes",
    "image_size",
    "cache",
    "cache_dir",
    "on_bad_image",
)  # of the data that a network was trained on


@dataclass(frozen=True)
class Found:
    """``leaked`` bool (n,): which images the networks were trained on; None where that is not known."""

    shown: Shown
    leaked: np.ndarray | None
    notes: tuple[str, ...] = ()


def images(root: Root, network: Network, split: str, over: Mapping[str, Any], progress: Progress) -> Found:
    """The images to score.

    Raises:
        InputError: there are none of this split, or they cannot be read or used.
    """
    given = dict(over.get("data") or {})
    own = _own(network, given)
    several = bool(given.get("labels")) or bool(given.get("multi_label", network.multi_label))
    if several != network.multi_label:
        raise InputError(
            f"{network.source} was trained for {'several labels' if network.multi_label else 'one class'} for each image, and data.multi_label "
            f"says otherwise. Omit it, and data.labels."
        )
    if own is None or _others(network, given):
        return _other(root, network, split, given, own, progress)
    networks.provide_images(own, trusted=True)  # reading the network has asked whether its code may run
    folder = cache_dir(own, root)
    data = shown.load(own.data, folder, progress)
    trained = shown.digests(data, "train")
    notes = (ON_TEST,) if data.reading.on_test else ()
    if split == TEST and data.reading.on_test:
        found = replace(shown.validation(data, network.classes), split=TEST)
    elif split == TEST and data.reading.seal is None:
        raise DataError(_none(own.data.path or own.data.source))
    elif split == TEST:
        found = shown.sealed(own.data, folder, _form(network), network.classes, network.sealed, progress)
    else:
        found = shown.validation(data, network.classes)
    return Found(found, shown.leaked(found, trained), notes)


def _form(network: Network) -> tuple[int, int]:
    side, _, channels = network.shape
    return side, channels


def _none(where: str) -> str:
    return f"{where} has no sealed test images. Use --split val, or name other images with data.path=FOLDER."


def check_named(model: str, over: Mapping[str, Any]) -> None:
    """Raises InputError if the user names no images for a model that comes without any."""
    given = over.get("data") or {}
    if not given.get("path") and not given.get("source"):
        raise InputError(f"{model} comes without images. Say which to evaluate it on: data.path=FOLDER")


def _own(network: Network, given: Mapping[str, Any]) -> Settings | None:
    """The settings that the network was trained with, and what the user says of the data; None for a model of others."""
    if not network.settings:
        return None
    settings = dict(network.settings)
    data = dict(settings.get("data") or {})
    if not network.own:
        data["cache_dir"] = None  # folders are made only where this user asks for it
    if not _others(network, given):
        fixed = [f"data.{key}" for key in given if key not in _ANEW]
        if fixed:
            raise InputError(
                f"{join_names(fixed)} cannot be changed: which images are for training, validation and testing was settled when "
                f"{network.source} began. Omit it, or name other images with data.path=FOLDER."
            )
        data |= given
    return load_config.validate({**settings, "data": data}, f"the settings of {network.source}")


def _others(network: Network, given: Mapping[str, Any]) -> bool:
    """Whether the user names other data than those that the network was trained on."""
    mine = network.settings.get("data") or {}
    return any(key in given and given[key] != mine.get(key) for key in ("path", "source"))


def _other(
    root: Root,
    network: Network,
    split: str,
    given: Mapping[str, Any],
    own: Settings | None,
    progress: Progress,
) -> Found:
    """Other data: the split that they have, or all of them."""
    side, channels = _form(network)
    section = {"image_size": side, "channels": channels, **network.geometry._asdict(), **given}
    section |= {"multi_label": True} if network.multi_label else {}
    settings = load_config.validate({"data": section}, "the command line")
    networks.provide_images(settings, trusted=True)  # the user has named it
    if own is not None:
        networks.provide_images(own, trusted=True)
    folder = cache_dir(settings, root)
    try:
        listing = open_source(settings.data).listing()
    except SeveralLabelsError as error:
        if network.multi_label:
            raise
        raise SeveralLabelsError(
            f"{error} But {network.source} was trained for one class for each image, and can only be evaluated on images that have one."
        ) from None
    where = settings.data.path or settings.data.source
    least = 1 if network.multi_label else 2  # a label alone is a question of its own
    notes = []
    if split == TEST and listing.test:
        found = shown.sealed(settings.data, folder, (side, channels), network.classes, None, progress)
    elif split == TEST and listing.val is None:
        data = shown.load(settings.data, folder, progress, least)
        found = shown.whole(data, network.classes)
        notes.append(f"{where} has no splits, so all of its images are evaluated.")
    elif split == TEST:
        raise DataError(_none(where))
    else:
        found = shown.validation(shown.load(settings.data, folder, progress, least), network.classes)
    trained = "it was not trained here" if own is None else shown.trained_on(own.data, cache_dir(own, root), progress)
    if isinstance(trained, str):
        notes.append(
            f"Whether {network.source} was trained on some of these images is not known: {trained.rstrip('.')}."
        )
        return Found(found, None, tuple(notes))
    return Found(found, shown.leaked(found, trained), tuple(notes))
