"""Every error that raysweep raises on purpose.

A message is one paragraph: what is wrong, where, and the remedy. The number behind a class is its ``exit_code``, with
which the command line ends::

    RaysweepError (1)
    ├── InputError (2)                      the user can correct something that was given
    │   ├── ConfigError                     a configuration file, or an override on the command line
    │   ├── WeightsError                    sampling weights, or a grid of them
    │   ├── DataError                       images, labels or classes
    │   ├── NotFoundError                   no such experiment, sweep, checkpoint or epoch
    │   │   └── AmbiguousReferenceError     several fit
    │   ├── CheckpointError                 a checkpoint that is damaged, unsafe or does not fit
    │   │   ├── NewerFormatError            one that a newer raysweep has written
    │   │   └── UntrustedError              one that wants to run code of somebody else
    │   ├── ResourceError                   more CPUs, GPUs, workers or nodes than exist
    │   ├── RootError                       the root folder or address of the experiments
    │   └── LockedError                     another process writes to the experiment
    ├── TrainingError (1)                   the training itself failed
    │   └── NonFiniteLossError              the loss became NaN or infinite
    ├── StoreError (1)                      the files of an experiment cannot be read or written
    └── Interrupted (130)                   asked to stop; what was done is saved

A subclass without a number has its parent's.
"""

from __future__ import annotations

import difflib
import itertools
import os
import traceback
from collections.abc import Iterable, Sequence


class RaysweepError(Exception):
    """Base of all errors of this package; catch it to catch all of them. Exit code 1.

    Attributes:
        exit_code: what the command line ends with.
    """

    exit_code = 1

    def _render_traceback_(self) -> list[str]:
        """What a notebook shows in place of a traceback: which line of the user's called, and the message. With ``RAYSWEEP_DEBUG``
        set, everything."""
        if os.environ.get("RAYSWEEP_DEBUG"):
            return "".join(traceback.format_exception(self)).splitlines()
        inside = os.path.dirname(__file__)
        places = [f for f in traceback.extract_tb(self.__traceback__) if "IPython" not in f.filename]
        mine = list(itertools.takewhile(lambda f: not f.filename.startswith(inside), places))
        called = [f"line {mine[-1].lineno}: {mine[-1].line}", ""] if mine and mine[-1].line else []
        return [*called, f"{type(self).__name__}: {self}"]


class InputError(RaysweepError):
    """Something that the user gave cannot be used: an option, a file or a reference. Exit code 2."""

    exit_code = 2


class ConfigError(InputError):
    """Raised when a configuration file or an override has an unknown key, a wrong value or wrong syntax. Exit code 2."""


class WeightsError(InputError):
    """Raised when sampling weights, or a grid of them, are malformed or do not fit the classes. Exit code 2."""


class DataError(InputError):
    """Raised when images, labels or classes are missing, unreadable or contradictory. Exit code 2."""


class NotFoundError(InputError):
    """Raised when a reference names no experiment, sweep, checkpoint or epoch. Exit code 2."""


class AmbiguousReferenceError(NotFoundError):
    """Raised when a reference fits several experiments or sweeps. Exit code 2."""


class CheckpointError(InputError):
    """Raised when a checkpoint is damaged, could run code, or does not fit the model or the run. Exit code 2."""


class NewerFormatError(CheckpointError):
    """Raised when a checkpoint has a version of the format that this raysweep does not know. Exit code 2."""


class UntrustedError(CheckpointError):
    """Raised when a checkpoint or folder that may be somebody else's wants to run code, fetch an address or open a path. Exit code 2."""


class ResourceError(InputError):
    """Raised when more CPUs, GPUs, workers or nodes are asked for than exist, or Ray cannot be reached. Exit code 2."""


class RootError(InputError):
    """Raised when the root of the experiments is no valid address, or cannot be read or written. Exit code 2."""


class LockedError(InputError):
    """Raised when another process writes to the experiment, or has taken over its lock. Exit code 2."""


class TrainingError(RaysweepError):
    """Raised when the training itself failed: a worker, all attempts, or a branch of a sweep. Exit code 1."""


class NonFiniteLossError(TrainingError):
    """Raised when the loss became NaN or infinite; another attempt would end alike. Exit code 1."""


class StoreError(RaysweepError):
    """Raised when reading or writing the files of an experiment or a sweep failed. Exit code 1."""


class Interrupted(RaysweepError):
    """Raised when the run was asked to stop. What it had done is saved. Exit code 130.

    Attributes:
        reason: who asked: the name of a signal, or another word; None if unknown.
    """

    exit_code = 130

    def __init__(self, message: str, reason: str | None = None) -> None:
        super().__init__(message)
        self.reason = reason


# What values of a file raise that somebody has edited, where they are used.
EDITED = (RaysweepError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError)


class Faults(str):
    """The message of an error with several faults: one paragraph, which the command line shows as a list, one fault a line.

    >>> str(Faults.of("2 errors in x.yaml", ["a: too small", "b: unknown"]))
    '2 errors in x.yaml: a: too small; b: unknown.'
    """

    head: str
    faults: tuple[str, ...]

    @classmethod
    def of(cls, head: str, faults: Sequence[str]) -> Faults:
        text = f"{head}: {'; '.join(faults)}"
        made = cls(text if text.endswith("?") else f"{text}.")
        made.head, made.faults = head, tuple(faults)
        return made


def did_you_mean(word: object, choices: Iterable[str]) -> str:
    """A sentence ``Did you mean …?`` with a leading space; empty if no choice is similar."""
    close = difflib.get_close_matches(str(word), list(choices), n=1, cutoff=0.5)
    if not close:
        return ""
    escaped = (
        "" if close[0].isascii() and str(word).isascii() else f" ({close[0]!a}, not {str(word)!a})"
    )  # they may look the same
    return f" Did you mean {close[0]!r}{escaped}?"
