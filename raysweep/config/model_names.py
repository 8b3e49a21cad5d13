"""The names that ``model.name`` may have: known without torch, so that a wrong one is refused at once."""

from __future__ import annotations

from raysweep.errors import ConfigError

KINDS = ("torchvision", "hf", "timm", "python")  # before the colon


def check(name: str) -> None:
    """Raises ConfigError if no network can have this name. Whether a library has the network is known when it is built."""
    kind, _, rest = name.partition(":")
    if name != "cnn" and not (kind in KINDS and rest):
        raise unknown(name)


def unknown(name: str) -> ConfigError:
    return ConfigError(
        f"model.name: {name!r} is not known. Use cnn, torchvision:NAME, hf:NAME_OR_FOLDER, timm:NAME or python:MODULE:FUNCTION."
    )
