"""The weights that libraries publish for their networks, ``model.pretrained: true``, and what the libraries say of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from raysweep._text import Nested, truncate
from raysweep.config.settings import ModelSection
from raysweep.errors import ConfigError
from raysweep.training import head as heads
from raysweep.training import hub, hub_torchvision
from raysweep.training.hub import Preprocessing

KINDS = ("hf", "timm", "torchvision")


@dataclass(frozen=True)
class Published:
    """What the library of a network says of its published weights."""

    options: Nested  # of the network, with those by which its library loads the weights
    title: str  # the name of the weights
    outputs: int | None = None
    classes: tuple[str, ...] | None = None  # in the order of the outputs
    pixels: Preprocessing | None = None
    side: int | None = None


def of(name: str, options: Mapping[str, Any]) -> Published:
    """What the library says of the published weights of a network.

    Raises:
        ConfigError: the library is missing, has no such network or no weights for it, or publishes none at all.
    """
    kind, _, rest = name.partition(":")
    if kind not in KINDS or not rest:
        raise ConfigError(
            f"model.pretrained is for networks of libraries (torchvision:, timm:, hf:), not for {truncate(name)}. Omit it; "
            "model.init_from=FILE starts from weights of your own."
        )
    if kind == "torchvision":
        return _of_torchvision(rest, options)
    if kind == "timm":
        return _of_timm(rest, options)
    return Published(
        dict(options), name, hub.outputs(name), hub.labels(name), hub.preprocessing(name), hub.input_size(name)
    )


def is_asked(section: ModelSection) -> bool:
    """Whether a network starts from published weights, by ``model.pretrained`` or by its library's own option."""
    kind = section.name.partition(":")[0]
    if section.pretrained is not None:
        return section.pretrained
    asked = {"hf": True, "timm": section.options.get("pretrained"), "torchvision": section.options.get("weights")}
    return bool(asked.get(kind))


def are_fetched(section: ModelSection) -> bool:
    """Whether a library reads its weights itself, when a new network is built."""
    return section.pretrained is not False and not (section.pretrained and section.init_from)


def completed(section: ModelSection) -> ModelSection:
    """The section with the options by which the library builds the network for its weights.

    Raises:
        ConfigError: as :func:`of`.
    """
    if not section.pretrained:
        return section
    return section.model_copy(update={"options": of(section.name, section.options).options})


def keeps_head(section: ModelSection, num_classes: int) -> bool:
    """Whether a network is built with the last layer that it was published with."""
    return is_asked(section) and are_fetched(section) and of(section.name, section.options).outputs == num_classes


def heads_of(model: nn.Module) -> tuple[str, ...]:
    """The names of the tensors of the last layer, and of second classifiers."""
    beside = [f"{n}.{k}" for n in hub_torchvision.SECOND_CLASSIFIERS.values() for k in ("weight", "bias")]
    state = model.state_dict()
    return (*heads.keys(model), *(k for k in beside if k in state))


def _of_timm(name: str, given: Mapping[str, Any]) -> Published:
    import timm
    import timm.data

    options = {**given, "pretrained": True}
    full = f"timm:{name}"
    config = hub.timm_config(name)
    if config is None or not config.has_weights:
        raise ConfigError(
            f"model.pretrained: timm has no weights for {truncate(full)}. Omit it to start from random weights, or name another network."
        )
    subset = timm.data.infer_imagenet_subset(config.to_dict())
    classes = tuple(timm.data.ImageNetInfo(subset).label_names()) if subset else None
    if config.label_names:
        classes = tuple(config.label_names)
    tag = f".{config.tag}" if config.tag and "." not in name else ""
    return Published(
        options, f"{full}{tag}", config.num_classes, classes, hub.preprocessing(full), hub.input_size(full)
    )


def _of_torchvision(name: str, given: Mapping[str, Any]) -> Published:
    weights = hub_torchvision.weights(name, given.get("weights") or "DEFAULT")
    form = weights.transforms()
    names: Sequence[str] = weights.meta["categories"]
    several = [f"{n} ({i})" if names.count(n) > 1 else n for i, n in enumerate(names)]  # such as the two kinds of crane
    pixels = Preprocessing(tuple(255.0 * v for v in form.mean), tuple(255.0 * v for v in form.std))
    options = {**given, "weights": weights.name}
    return Published(
        options, f"torchvision:{name} ({weights.name})", len(names), tuple(several), pixels, int(form.crop_size[0])
    )
