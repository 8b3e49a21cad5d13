"""Networks that others trained, by their names: ``hf:``, ``timm:`` and ``torchvision:``, with the classes of their outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from raysweep._text import Nested
from raysweep.errors import ConfigError
from raysweep.tools.predict import Network
from raysweep.training import hub, models, published, trial
from raysweep.training.published import Published

_SIDE = 224  # pixels, where a network does not say it
_GRAY = hub.Preprocessing((127.5,) * 3, (127.5,) * 3)


def is_named(reference: str) -> bool:
    """Whether a reference is the name of such a network."""
    kind, _, rest = reference.partition(":")
    return kind in published.KINDS and bool(rest)


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
    model = models.build(name, known.options, len(names), channels, trusted=True)
    model.eval()
    trial.try_out(model, (side, side, channels), len(names))
    moments = (known.pixels or _GRAY).of(channels)
    return Network(model, name, names, tuple(moments[0]), tuple(moments[1]), (side, side, channels), name, "")


def _known(name: str, given: Nested) -> Published:
    """What the library says, for trained weights unless the user's options say otherwise."""
    kind = name.partition(":")[0]
    key = {"timm": "pretrained", "torchvision": "weights"}.get(kind, "")
    if key in given and not given[key]:
        return Published(given, name, pixels=hub.preprocessing(name), side=hub.input_size(name))
    return published.of(name, given)
