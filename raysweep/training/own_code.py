"""Try the user's code of every option with made-up values, as each will be called."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from raysweep.config.settings import Settings
from raysweep.training import optim, own, own_augment, own_loss, own_metrics, own_optim, own_policy
from raysweep.training.own import Own
from raysweep.weights import SamplingWeights


class Tried(NamedTuple):
    """The user's code of every option but the model."""

    codes: Mapping[str, Own]  # by option
    told: list[str]  # what is to be said of it
    inexact: list[str]  # why a training that is interrupted would not have the same bits


def tried(settings: Settings, trusted: bool, counts: Mapping[str, int], shape: tuple[int, int, int]) -> Tried:
    """Find it and call it. What the code imports when it is called is imported afterwards.

    Args:
        counts: class → images that may be drawn.
        shape: of an image, (height, width, channels).

    Raises:
        UntrustedError: without ``trusted``. ConfigError: the code cannot be imported, or fails.
    """
    codes, told = own.load(settings, trusted), []
    inexact: list[str] = []
    if code := codes.get(own_loss.OPTION):
        told += own_loss.tried(code, settings.loss, counts, settings.training.augment.mixes)
        if settings.training.label_smoothing:
            told.append(f"training.label_smoothing is not applied: the loss python:{code.target} is your own.")
    for metric in own_metrics.of(codes).values():
        own_metrics.tried(metric, tuple(counts))
    if code := codes.get(own_optim.OPTIMIZER):
        of_optimizer, inexact = own_optim.tried(code, settings.training)
        told += of_optimizer
    if code := codes.get(own_optim.SCHEDULE):
        own_optim.schedule_tried(code, settings.training)
        optim.use_schedule(code)
    if code := codes.get(own_augment.OPTION):
        why = own_augment.tried(code, shape)
        told += [f"not bit-exact once it is interrupted: {text}." for text in why]
        inexact += why
    if code := codes.get(own_policy.OPTION):
        own_policy.tried(code, SamplingWeights.complete({}, tuple(counts)), counts)
    return Tried(codes, told, inexact)
