"""Networks that others trained, by their names: ``hf:``, ``timm:`` and ``torchvision:``, with the classes of their outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from raysweep._text import Nested, truncate
from raysweep.errors import ConfigError
from raysweep.tools.predict import Network
from raysweep.training import hub, models, trial

KINDS = ("hf", "timm", "torchvision")
_SIDE = 224  # pixels, where a network does not say it
_GRAY = [127.5] * 3


@dataclass(frozen=True)
class _Known:
    """What the library of a network says of it. ``options`` are those with which it gets its trained weights."""

    options: Nested
    outputs: int | None = None
    classes: tuple[str, ...] | None = None  # in the order of the outputs
    mean: Sequence[float] | None = None  # per channel, for pixels in [0, 255]
    std: Sequence[float] | None = None
    side: int | None = None


def is_named(reference: str) -> bool:
    """Whether a reference is the name of such a network."""
    kind, _, rest = reference.partition(":")
    return kind in KINDS and bool(rest)


def load(name: str, overrides: Mapping[str, Any], classes: Sequence[str] | None) -> Network:
    """The network with its trained weights, ready to predict on the CPU.

    Args:
        overrides: ``model.options``, ``data.image_size`` and ``data.channels`` go before what its library says.
        classes: in the order of its outputs; default: as its library names them.

    Raises:
        ConfigError: the library is missing or has no such network, its weights cannot be loaded, or it does not say what its
            outputs mean.
    """
    given, data = dict((overrides.get("model") or {}).get("options") or {}), overrides.get("data") or {}
    known = _known(name, given)
    names = tuple(classes) if classes is not None else known.classes
    if names is None:
        raise ConfigError(f"{name} does not say what its outputs are. Name them in their order: --classes A,B,C")
    if known.outputs is not None and known.outputs != len(names):
        raise ConfigError(
            f"{name} has {known.outputs} outputs, but {len(names)} classes are named. Name all of them, in the order of the outputs."
        )
    channels, side = int(data.get("channels") or 3), int(data.get("image_size") or known.side or _SIDE)
    try:
        model = models.build(name, known.options, len(names), channels, trusted=True)
    except OSError as error:
        raise ConfigError(
            f"The weights of {name} cannot be loaded ({truncate(error, 200)}). Check the network, or name another one."
        ) from None
    model.eval()
    trial.try_out(model, (side, side, channels), len(names))
    moments = hub.Preprocessing(tuple(known.mean or _GRAY), tuple(known.std or _GRAY)).of(channels)
    return Network(model, name, names, tuple(moments[0]), tuple(moments[1]), (side, side, channels), name, "")


def _known(name: str, given: Nested) -> _Known:
    kind, _, rest = name.partition(":")
    if kind == "torchvision":
        return _of_torchvision(rest, given)
    pixels, side = hub.preprocessing(name), hub.input_size(name)
    mean, std = (pixels.mean, pixels.std) if pixels is not None else (None, None)
    if kind == "hf":
        return _Known(given, hub.outputs(name), hub.labels(name), mean, std, side)
    return _of_timm(rest, {"pretrained": True, **given}, mean, std, side)


def _of_timm(
    name: str, options: Nested, mean: Sequence[float] | None, std: Sequence[float] | None, side: int | None
) -> _Known:
    import timm.data

    config = timm.get_pretrained_cfg(name)
    outputs = config.num_classes if config is not None and options["pretrained"] else None
    subset = timm.data.infer_imagenet_subset(config.to_dict()) if outputs else None
    classes = tuple(timm.data.ImageNetInfo(subset).label_names()) if subset else None
    if config is not None and config.label_names:
        classes = tuple(config.label_names)
    return _Known(options, outputs, classes, mean, std, side)


def _of_torchvision(name: str, given: Nested) -> _Known:
    from torchvision import models as library

    if name not in library.list_models(module=library) or ("weights" in given and given["weights"] is None):
        return _Known(given)  # building it tells of an unknown name
    options = {"weights": "DEFAULT", **given}
    weights = library.get_model_weights(name)[str(options["weights"])]
    form = weights.transforms()
    mean, std = ([255.0 * v for v in values] for values in (form.mean, form.std))
    names = list(weights.meta["categories"])
    several = [f"{n} ({i})" if names.count(n) > 1 else n for i, n in enumerate(names)]  # such as the two kinds of crane
    return _Known(options, len(names), tuple(several), mean, std, int(form.crop_size[0]))
