"""Every error raysweep raises on purpose.

A message is one paragraph: what was wrong, where, and the remedy. ``exit_code`` is what the command line ends with.

* RaysweepError (1)
    + InputError (2): the user can fix it by typing something else
        - ConfigError: a configuration file or override
        - WeightsError: sampling weights or a grid of them
        - DataError: images, labels, classes
        - NotFoundError: no such experiment, sweep or checkpoint
            . AmbiguousReferenceError: there are several
        - CheckpointError: a checkpoint that is damaged, foreign or does not fit
        - ResourceError: more CPUs, GPUs or workers than there are
        - RootError: the place for experiments cannot be used
        - LockedError: another process writes this experiment
    + TrainingError: the work itself failed
        - NonFiniteLossError
    + StoreError: writing or reading the experiment's folder failed
    + Interrupted (130): asked to stop; a checkpoint was saved
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class RaysweepError(Exception):
    """Base of all errors of this package."""

    exit_code = 1


class InputError(RaysweepError):
    """Something the user gave cannot be used."""

    exit_code = 2


class ConfigError(InputError):
    """A configuration file or an override is wrong."""


class WeightsError(InputError):
    """Sampling weights, or a grid of them, are wrong."""


class DataError(InputError):
    """Images, labels or classes cannot be used."""


class NotFoundError(InputError):
    """There is no such experiment, sweep or checkpoint."""


class AmbiguousReferenceError(NotFoundError):
    """Several experiments or sweeps are meant by the same words."""


class CheckpointError(InputError):
    """A checkpoint is damaged, foreign or does not fit."""


class ResourceError(InputError):
    """More CPUs, GPUs or workers were asked for than there are."""


class RootError(InputError):
    """The folder for experiments cannot be used."""


class LockedError(InputError):
    """Another process writes to this experiment."""


class TrainingError(RaysweepError):
    """The training itself failed."""


class NonFiniteLossError(TrainingError):
    """The loss became NaN or infinite."""


class StoreError(RaysweepError):
    """Reading or writing an experiment's folder failed."""


class Interrupted(RaysweepError):
    """The run was asked to stop; what it had done is saved.

    Attributes:
        reason: who asked: a signal's name, or another word.
    """

    exit_code = 130

    def __init__(self, message: str, reason: str | None = None) -> None:
        super().__init__(message)
        self.reason = reason


def did_you_mean(word: object, choices: Iterable[str]) -> str:
    """A ``Did you mean …?`` sentence with a leading space, or an empty string."""
    close = difflib.get_close_matches(str(word), list(choices), n=1, cutoff=0.5)
    return f" Did you mean {close[0]!r}?" if close else ""
