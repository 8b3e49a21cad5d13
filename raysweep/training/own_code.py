"""Try the user's code of every option with made-up values, as each will be called."""

from __future__ import annotations

from collections.abc import Mapping

from raysweep.config.settings import Settings
from raysweep.training import own, own_loss
from raysweep.training.own import Own


def tried(settings: Settings, trusted: bool, counts: Mapping[str, int]) -> tuple[dict[str, Own], list[str]]:
    """(option → the user's code, what is to be said of it). What the code imports when it is called is imported afterwards.

    Args:
        counts: class → images that may be drawn.

    Raises:
        UntrustedError: without ``trusted``. ConfigError: the code cannot be imported, or fails.
    """
    codes, told = own.load(settings, trusted), []
    for option, code in codes.items():
        if option == own_loss.OPTION:
            told += own_loss.tried(code, settings.loss, counts)
            if settings.training.label_smoothing:
                told.append(f"training.label_smoothing is not applied: the loss python:{code.target} is your own.")
    return codes, told
