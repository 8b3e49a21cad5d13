"""Classifiers of torchvision, with random weights or with those that it publishes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from torch import nn

from raysweep._text import Nested, truncate
from raysweep.errors import ConfigError, did_you_mean
from raysweep.training import guest_network, hub
from raysweep.training import head as heads

# Which some networks have while they train: the module, and its last layer.
SECOND_CLASSIFIERS = {"AuxLogits.": "AuxLogits.fc", "aux1.": "aux1.fc2", "aux2.": "aux2.fc2"}


def builder(name: str) -> Callable[..., nn.Module]:
    """The function that builds a classifier; it is called as ``(num_classes=…, channels=…, **options)``.

    Raises:
        ConfigError: there is no such classifier.
    """
    _check(name)

    def build(num_classes: int, channels: int, weights: str | None = None, **options: Any) -> nn.Module:
        from torchvision import models

        if weights is None:
            model = models.get_model(name, num_classes=num_classes, **options)
        else:
            model = _published(name, weights, num_classes, options)
        return guest_network.repeat_gray(model) if channels == 1 else model

    return build


def weights(name: str, word: str) -> Any:
    """The published weights of a classifier, by their name there.

    Raises:
        ConfigError: there is no such classifier, or no such weights for it.
    """
    from torchvision import models

    _check(name)
    known = models.get_model_weights(name)
    usable = [w for w in known.__members__ if known[w].meta["categories"]]  # some have no last layer
    if str(word) not in usable:
        have = ", ".join(w for w in usable if w != "DEFAULT")
        raise ConfigError(
            f"torchvision has no weights {truncate(word, 100)} for {name}; it has: {have or 'none'}. Name one of them as "
            "model.options.weights, or omit model.pretrained."
        )
    return known[str(word)]


def _check(name: str) -> None:
    from torchvision import models  # the import takes 3.5 s

    known = models.list_models(module=models)
    if name not in known:
        raise ConfigError(f"model.name: torchvision has no classifier {name!r}.{did_you_mean(name, known)}")


def _published(name: str, word: str, num_classes: int, options: Nested) -> nn.Module:
    """A network as it was published, with new last layers where it has another number of classes."""
    from torchvision import models

    found = weights(name, word)
    own = len(found.meta["categories"])
    if hub.with_weights():
        try:
            model = models.get_model(name, weights=found, progress=False, **options)
        except OSError as error:
            raise ConfigError(
                f"model.name: the weights {found.name} of torchvision:{name} cannot be fetched ({truncate(error, 200)}). Download "
                f"{found.url} on another machine; then set model.pretrained=true and model.init_from=FILE."
            ) from None
    else:
        model = models.get_model(name, num_classes=own, **{**_structure(name, found), **options})
    model = cast(nn.Module, model)
    if num_classes != own:
        layers = dict(model.named_modules())
        for place in (*SECOND_CLASSIFIERS.values(), (heads.find(model) or ("",))[0]):
            layer = layers.get(place)
            if isinstance(layer, heads.Head):
                model = heads.replace(model, place, layer, num_classes)
    return model


def _structure(name: str, found: Any) -> Nested:
    """What torchvision sets by itself in a network for which it loads these weights."""
    structure: Nested = {}
    if name in ("googlenet", "inception_v3"):
        structure |= {"transform_input": True, "init_weights": False}
        structure |= {"aux_logits": name == "inception_v3"}
    if name.startswith("vit_"):
        structure |= {"image_size": found.meta["min_size"][0]}
    if name == "maxvit_t":
        structure |= {"input_size": found.meta["min_size"]}
    return structure
