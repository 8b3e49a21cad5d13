"""The frozen part of a network: one file in an experiment's folder, ``frozen.pt``, which its checkpoints name by its hash instead of
holding it themselves. Who reads a checkpoint gets the whole network.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from raysweep._text import truncate
from raysweep.errors import CheckpointError, StoreError
from raysweep.store import files, layout
from raysweep.store.checkpoint_format import State

KEY = "frozen"  # of a checkpoint: what the file is called, its size and SHA-256, and the names of all tensors of the network in order


def whole(saved: State, path: Path, read: Callable[[Path], Any]) -> State:
    """A checkpoint whose keys were checked, with the tensors of the file beside it.

    Args:
        read: reads a file of tensors without running anything.

    Raises:
        CheckpointError: the file is missing, or is not the one that the checkpoint names.
    """
    told = saved.get(KEY)
    if told is None:
        return saved
    file = path.with_name(layout.FROZEN)
    if (wrong := problem(file, told)) is not None:
        raise CheckpointError(
            f"{truncate(path)} needs the frozen part of its network, and {wrong}. Copy {layout.FROZEN} of the same experiment beside it; "
            "epoch_N_model.pt, where there is one, holds the whole network of its epoch, too."
        )
    tensors, own = read(file), saved["model_state_dict"]
    if not isinstance(tensors, dict) or {*tensors} & {*own} or {*tensors, *own} != {*told["names"]}:
        raise CheckpointError(
            f"{truncate(path)} and {layout.FROZEN} beside it are not of the same network. Take another checkpoint."
        )
    together = {**tensors, **own}
    state = {name: together[name] for name in told["names"]}
    return {**saved, "model_state_dict": state, KEY: {**told, "still": [*tensors]}}


def problem(file: Path, told: Mapping[str, Any]) -> str | None:
    """What is wrong with a frozen part, or None if it is the one that a checkpoint names."""
    try:
        if files.sha256_file(file) == told["sha256"]:
            return None
    except FileNotFoundError:
        return f"there is no {layout.FROZEN} beside it"
    except OSError as error:
        return f"{layout.FROZEN} beside it cannot be read ({error.strerror or error})"
    return f"{layout.FROZEN} beside it does not have the recorded SHA-256"


class Part:
    """The frozen part of the experiment that is being trained.

    Args:
        tensors: name → tensor, which do not change.
        before: where the training starts from a checkpoint: the file beside that, and what the checkpoint says of it.
    """

    def __init__(self, tensors: Mapping[str, Any], before: tuple[Path, Mapping[str, Any]] | None) -> None:
        self.tensors = tensors
        self._before = before if before is not None and {*before[1].get("still", ())} == {*tensors} else None
        self._written: State | None = None

    def committed(self, folder: Path, write: Callable[[Path, Any], tuple[int, str]]) -> State:
        """What a checkpoint says of the file, which is in ``folder`` from now on: the one that is there, a copy of the parent's, which
        shares its blocks where the file system can do that, or a new one."""
        if self._written is None:
            self._written = self._copied(folder) or self._new(folder, write)
        return self._written

    def _copied(self, folder: Path) -> State | None:
        if self._before is None:
            return None
        source, told = self._before
        target = folder / layout.FROZEN
        with contextlib.suppress(StoreError, OSError):
            if source != target:
                files.clone_or_copy(source, target)
            if problem(target, told) is None:
                return {key: told[key] for key in ("file", "bytes", "sha256")}
        return None

    def _new(self, folder: Path, write: Callable[[Path, Any], tuple[int, str]]) -> State:
        size, digest = write(folder / layout.FROZEN, dict(self.tensors))
        return {"file": layout.FROZEN, "bytes": size, "sha256": digest}
