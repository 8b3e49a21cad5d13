"""How much of a disk checkpoints take, and whether it is there."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from raysweep._text import counted

if TYPE_CHECKING:
    from raysweep.config.running import KeepSection

_OF_OPTIMIZER = {"adamw": 2, "sgd": 1}  # numbers that it keeps for each parameter
_RESERVE = 200 * 10**6  # for tables, pictures and the temporary file of a save


def of_epoch(parameters: int, optimizer: str, trained: int | None = None, models: bool = True) -> int:
    """About how many bytes an epoch writes: a checkpoint of what is trained, with the optimizer's state, and the bare weights of all.

    Args:
        trained: so many of the parameters are; default: all of them. models: whether the bare weights are written.
    """
    return 4 * (
        parameters * models + (parameters if trained is None else trained) * (1 + _OF_OPTIMIZER.get(optimizer, 2))
    )


def rule(keep: str | KeepSection) -> tuple[int | None, int | None]:
    """(``last``, ``every``) of ``checkpoint.keep``; None where it has none."""
    return (None, None) if isinstance(keep, str) else (keep.last, keep.every)


def epochs_kept(epochs: int, last: int | None, every: int | None) -> int:
    """How many of ``epochs`` epochs stay at most; ``last`` and ``every`` as in ``checkpoint.keep``, None: all of them."""
    if last is None:
        return epochs
    return min(epochs, last + 1 + (epochs // every if every else 0))  # and the best one


def free(folder: Path) -> int | None:
    """Bytes that are free where a folder is, or will be; None if the system does not say."""
    try:
        there = next(p for p in (folder.absolute(), *folder.absolute().parents) if p.exists())
        return shutil.disk_usage(there).free
    except (OSError, StopIteration):
        return None


def size(number: float) -> str:
    """Bytes for people.

    >>> size(12_345), size(123_456_789), size(12_345_678_900)
    ('0.01 MB', '123 MB', '12.3 GB')
    """
    if number >= 1e9:
        return f"{number / 1e9:,.1f} GB"
    return f"{number / 1e6:,.0f} MB" if number >= 1e7 else f"{number / 1e6:.2f} MB"


def too_little(folder: Path, epochs: int, each: int, keep: tuple[int | None, int | None], times: int = 1) -> str | None:
    """A warning where checkpoints will fill the disk; None where they fit.

    Args:
        epochs: that are to be trained. each: bytes that one takes. keep: ``last`` and ``every`` of ``checkpoint.keep``.
        times: how many branches do the same.
    """
    needed, there = times * epochs_kept(epochs, *keep) * each, free(folder)
    if there is None or needed + _RESERVE < there:
        return None
    what = f"{counted(times, 'branch', 'branches')} of " if times > 1 else ""
    fewest = times * epochs_kept(epochs, 1, None) * each
    remedy = "Free space, or name a --root on a larger disk"
    if fewest < needed:
        remedy = f"checkpoint.keep={{last: 1}} needs about {size(fewest)}; else free space, or name a --root on a larger disk"
    return (
        f"The disk will be full before the end: the checkpoints of {what}{counted(epochs, 'epoch')} take about {size(needed)}, and "
        f"{size(there)} are free in {folder}. {remedy}."
    )


class Watch:
    """Warns once while something trains, before the disk is full.

    Args:
        last_epoch: at which it ends. keep: as in :func:`too_little`.
    """

    def __init__(self, folder: Path, last_epoch: int, keep: tuple[int | None, int | None]) -> None:
        self.folder, self.last_epoch, self.keep = folder, last_epoch, keep
        self._before: int | None = None
        self._said = False

    def after(self, epoch: int) -> str | None:
        """What to say after the save of an epoch; None if nothing is to be said, or it was said before."""
        there, before = free(self.folder), self._before
        self._before = there
        left = self.last_epoch - epoch
        if self._said or there is None or before is None or left <= 0:
            return None
        each = max(0, before - there)  # with what other programs write there at the same time
        if self.keep[0] is not None or there > each * (left + 1):
            return None
        self._said = True
        return (
            f"The disk will be full in about {counted(max(0, there // each - 1), 'epoch')}: {size(there)} are free in {self.folder}, the "
            f"last epoch took {size(each)}, and {counted(left, 'epoch')} are to come. Free space, for instance by `raysweep prune`; what "
            "is committed stays, and `raysweep continue` goes on."
        )
