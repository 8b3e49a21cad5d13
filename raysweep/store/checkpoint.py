"""Checkpoint files: to bytes and back, never executing anything. torch is imported only inside these functions."""

from __future__ import annotations

import hashlib
import io
import zipfile
from pathlib import Path
from typing import Any

from raysweep.errors import CheckpointError, NotFoundError
from raysweep.store.files import write_atomic

FORMAT_VERSION = 1
# Documented keys every checkpoint has.
REQUIRED = ("epoch", "model_state_dict", "optimizer_state_dict", "best_acc", "history", "config", "timestamp")


def to_bytes(state: Any) -> memoryview:
    """The file's content: torch's zip format, with its CRCs."""
    import torch

    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getbuffer()


def write(path: Path, state: Any) -> tuple[int, str]:
    """Write a checkpoint by the write protocol; returns (bytes, sha256)."""
    data = to_bytes(state)
    digest = hashlib.sha256(data).hexdigest()
    write_atomic(path, data)
    return len(data), digest


def read(path: str | Path) -> Any:
    """Load a file with ``weights_only=True`` onto the CPU.

    Raises:
        NotFoundError: no such file.
        CheckpointError: damaged, not torch's format, or with anything inside that is not tensors and plain values.
    """
    import torch

    path = Path(path)
    if not path.is_file():
        raise NotFoundError(f"There is no checkpoint {path}.")
    _check_container(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        text = str(error).splitlines()[0] if str(error) else type(error).__name__
        if "weights_only" in str(error) or "Unsupported" in str(error):
            raise CheckpointError(
                f"{path} holds Python objects that could run code, so it was not loaded ({text[:200]}). "
                "Only tensors, numbers, texts, lists and dicts are accepted."
            ) from None
        raise CheckpointError(
            f"{path} is damaged or not a checkpoint ({text[:200]}). Take another checkpoint."
        ) from None


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Like :func:`read`; the file must have the documented keys."""
    state = read(path)
    missing = [k for k in REQUIRED if not isinstance(state, dict) or k not in state]
    if missing:
        raise CheckpointError(
            f"{path} is not a complete checkpoint: it lacks {', '.join(missing)}. A bare state_dict can start a new run's "
            "weights with model.init_from."
        )
    return state


def _check_container(path: Path) -> None:
    """Refuse a zip that would unpack to more than it weighs: torch stores its tensors uncompressed."""
    size = path.stat().st_size
    if size == 0:
        raise CheckpointError(f"{path} is empty. Take another checkpoint.")
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged ({error}). Take another checkpoint.") from None
    if any(i.compress_type != zipfile.ZIP_STORED for i in infos) or sum(i.file_size for i in infos) > size:
        raise CheckpointError(
            f"{path} would unpack to more than its {size:,} bytes, which no checkpoint does; it was not loaded."
        )
