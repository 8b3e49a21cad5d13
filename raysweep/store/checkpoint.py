"""Checkpoint files: to bytes and back, never executing anything. torch is imported only inside these functions."""

from __future__ import annotations

import hashlib
import io
import re
import zipfile
from pathlib import Path
from typing import Any

from raysweep.errors import CheckpointError, NotFoundError
from raysweep.store.files import write_atomic, zip_problem

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
        CheckpointError: damaged, not torch's format, or with anything inside that is not tensors and plain values, or
            that would need more memory than the file weighs.
    """
    import torch

    path = Path(path)
    if not path.is_file():
        raise NotFoundError(f"There is no checkpoint {path}.")
    _check_container(path)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # torch wraps the unpickler's own words in advice; what it could not even parse is garbage, not code.
        words = re.search(r"unsupported.*?(?=\. |\.?$)", str(error), re.IGNORECASE | re.MULTILINE)
        text = words[0] if words else (str(error).strip().partition("\n")[0] or type(error).__name__)
        if "weights_only" in str(error) and not text.startswith("Unsupported operand"):
            raise CheckpointError(
                f"{path} holds Python objects that could run code, so it was not loaded ({text[:200]}). "
                "Only tensors, numbers, texts, lists and dicts are accepted."
            ) from None
        raise CheckpointError(
            f"{path} is damaged or not a checkpoint ({text[:200]}). Take another checkpoint."
        ) from None
    _check_tensors(state, path)
    return state


def from_bytes(data: Any) -> Any:
    """The content of a file that :func:`read` has accepted before, from its bytes (any buffer)."""
    import torch

    return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)


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
    try:
        if not zipfile.is_zipfile(path):
            return
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise CheckpointError(f"{path} is damaged ({error}). Take another checkpoint.") from None
    if any(i.compress_type != zipfile.ZIP_STORED for i in infos) or sum(i.file_size for i in infos) > size:
        raise CheckpointError(
            f"{path} would unpack to more than its {size:,} bytes, which no checkpoint does; it was not loaded."
        )
    # torch itself does not look at the CRCs; a flipped bit would become a weight.
    problem = zip_problem(path)
    if problem is not None:
        raise CheckpointError(f"{path} is damaged ({problem}). Take another checkpoint.")


def _check_tensors(state: Any, path: Path) -> None:
    """Refuse tensors whose size is only declared: sparse, without storage, or one number spread over terabytes."""
    import torch

    excess, seen, rest = 0, set(), [state]
    while rest:
        value = rest.pop()
        if id(value) in seen:  # a pickle may refer to one object many times, also in circles
            continue
        seen.add(id(value))
        if isinstance(value, dict):
            rest += [*value.keys(), *value.values()]
        elif isinstance(value, (list, tuple, set)):
            rest += value
        elif isinstance(value, torch.Tensor):
            if value.layout != torch.strided or value.device.type != "cpu":
                raise CheckpointError(
                    f"{path} holds a tensor that is not dense ({value.layout}, {value.device}), which no checkpoint of a "
                    "training has; it was not loaded."
                )
            excess += max(0, value.numel() * value.element_size() - value.untyped_storage().nbytes())
    if excess > path.stat().st_size:
        raise CheckpointError(
            f"{path} holds tensors that would need {excess:,} bytes more than the file has; it was not loaded."
        )
