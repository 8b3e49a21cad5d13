"""Write and read checkpoint files without ever executing their content. torch is imported only inside the functions."""

from __future__ import annotations

import io
import os
import warnings
from collections import OrderedDict
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

from raysweep._text import truncate
from raysweep.errors import CheckpointError, NewerFormatError
from raysweep.store import checkpoint_format, frozen, layout
from raysweep.store.checkpoint_format import State
from raysweep.store.files import write_stream
from raysweep.store.untrusted import pickle_check, schema, torch_file
from raysweep.store.untrusted.pickle_check import LEGACY, PLAIN, damaged
from raysweep.store.untrusted.zip_check import zip_problem

if TYPE_CHECKING:
    import torch

_DEEP = 60  # levels of tuples that are searched for NumPy's numbers
# The documented keys, which every checkpoint has.
REQUIRED = ("epoch", "model_state_dict", "optimizer_state_dict", "best_acc", "history", "config", "timestamp")


def write(path: Path, state: Any) -> tuple[int, str]:
    """Write a checkpoint durably (see :mod:`raysweep.store.files`) in torch's zip format; returns (bytes, SHA-256)."""
    import torch

    return write_stream(path, lambda sink: torch.save(state, cast(IO[bytes], sink)))


def read(path: str | Path, allowed: frozenset[str] = PLAIN) -> Any:
    """Load a file with ``weights_only=True`` onto the CPU.

    Args:
        allowed: the names that its pickles may contain. With LEGACY also NumPy's scalars, which become Python's numbers.

    Raises:
        NotFoundError: there is no such file.
        CheckpointError: the file is damaged, is not in torch's format, contains more than tensors and plain values, or
            would need more memory than its size.
    """
    import torch

    path = Path(path)
    file = torch_file.opened(path, f"There is no checkpoint {truncate(path)}.")
    # Opened only once, so that the bytes that are checked are the bytes that are loaded.
    with file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's advice is for people who load their own files
        _check_file(file, path, allowed)
        file.seek(0)
        try:
            state = _load(file) if allowed is LEGACY else torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:
            text = str(error).strip().partition("\n")[0] or type(error).__name__
            raise (pickle_check.unsafe if "weights_only" in str(error) else damaged)(path, text) from None
        _check_tensors(state, path, os.fstat(file.fileno()).st_size)
    return state


def from_bytes(data: Any) -> Any:
    """The content of a checkpoint from its bytes (any buffer); only for a file that :func:`read_checkpoint` accepted."""
    return checkpoint_format.upgraded(_load(io.BytesIO(data)))


def _load(file: Any) -> Any:
    """Load a file in which NumPy's scalars are allowed, and replace them by Python's numbers."""
    import numpy as np
    import torch

    scalar = np.float64(0).__reduce__()[0]
    types = [type(np.dtype(code)) for code in "?bhilqBHILQefd"]
    names: list[Any] = [(scalar, f"numpy.{module}.multiarray.scalar") for module in ("core", "_core")]
    with torch.serialization.safe_globals([*names, (np.dtype, "numpy.dtype"), *types]):
        return _plain_numbers(torch.load(file, map_location="cpu", weights_only=True))


def _plain_numbers(state: Any) -> Any:
    """Replace every NumPy scalar by a Python number, in place; containers may contain themselves."""
    import numpy as np

    made: dict[int, tuple[Any, Any]] = {}  # id of a tuple → (it, its replacement); one tuple may occur very often

    def plain(value: Any, level: int = 0) -> Any:
        if isinstance(value, np.generic):
            return value.item()
        # Anything nested deeper is no checkpoint and is refused later, when the keys are checked.
        if type(value) is tuple and level < _DEEP and any(isinstance(v, (np.generic, tuple)) for v in value):
            if id(value) not in made:
                made[id(value)] = value, tuple(plain(v, level + 1) for v in value)
            return made[id(value)][1]
        return value

    rest, seen = [state], set()
    while rest:
        value = rest.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, dict):
            for key, item in value.items():
                value[key] = plain(item)
            rest += value.values()
        elif isinstance(value, list):
            value[:] = map(plain, value)
            rest += value
        elif type(value) is tuple:
            rest += value
    return plain(state)


def read_checkpoint(path: str | Path) -> State:
    """Like :func:`read`, but the file must also have every documented key with its documented content.

    Files of the old system, in torch's legacy format and with NumPy's scalars, are accepted, too.
    """
    state = read(path, LEGACY)
    missing = [k for k in REQUIRED if not isinstance(state, dict) or k not in state]
    if missing:
        raise CheckpointError(
            f"{truncate(path)} is not a complete checkpoint: it lacks {', '.join(missing)}. To start a new run from a bare state_dict, "
            "set model.init_from."
        )
    checkpoint_format.check(state, path)
    schema.check(state, path)
    return frozen.whole(checkpoint_format.upgraded(state), Path(path), read)


def whole_bytes(path: Path, content: bytes) -> bytes:
    """The content of a checkpoint's file as :func:`from_bytes` takes it: with the frozen part of its network, which lies beside it."""
    import torch

    if not path.with_name(layout.FROZEN).exists() or (state := from_bytes(content)).get(frozen.KEY) is None:
        return content
    sink = io.BytesIO()
    torch.save(frozen.whole(state, path, read), sink)
    return sink.getvalue()


def _check_file(file: io.BufferedReader, path: Path, allowed: frozenset[str]) -> None:
    """Refuse a file that torch should not even begin to load."""
    size = os.fstat(file.fileno()).st_size
    start = file.read(4)
    if not start:
        raise CheckpointError(f"{truncate(path)} is empty. Take another checkpoint.")
    if start == b"PK\x03\x04":  # by this, torch recognises its zip format
        # torch itself does not check the CRCs; a flipped bit would change a weight.
        problem = zip_problem(file)
        if problem is not None:
            raise damaged(path, problem)
        pickle_check.check([io.BytesIO(torch_file.program(file, path))], size, path, allowed)
    elif start[:1] == b"\x80":
        file.seek(0)
        # Five pickles (magic number, version, system, state, keys of the storages); then the storages themselves.
        pickle_check.check([torch_file.Within(file, size)] * 5, size, path, allowed)
    else:
        raise damaged(path, "neither torch's zip format nor a pickle")


def _check_tensors(state: Any, path: Path, size: int) -> None:
    """Refuse tensors that are larger than their data: sparse, without storage, or a few numbers expanded to terabytes."""
    import torch

    excess, seen, rest = 0, set(), [state]
    while rest:
        value = rest.pop()
        if id(value) in seen:  # a pickle may refer to one object many times, also in circles
            continue
        seen.add(id(value))
        if isinstance(value, OrderedDict) and {*vars(value)} - {"_metadata"}:
            raise damaged(path, "an OrderedDict whose methods are replaced")
        if isinstance(value, dict):
            rest += [*value.keys(), *value.values()]
        elif isinstance(value, (list, tuple, set)):
            rest += value
        elif isinstance(value, torch.Tensor):
            excess += _excess(value, path)
    if excess > size:
        raise CheckpointError(
            f"{truncate(path)} holds tensors that would need {excess:,} bytes more than the file has, so it was not loaded. "
            "Take another checkpoint."
        )


def _excess(tensor: torch.Tensor, path: Path) -> int:
    """Bytes that a tensor would need beyond its storage, if it were copied.

    Raises:
        CheckpointError: it is not dense, or not on the CPU.
    """
    import torch

    if tensor.layout != torch.strided or tensor.device.type != "cpu":
        raise CheckpointError(
            f"{truncate(path)} holds a tensor that is not dense ({tensor.layout}, {tensor.device}). No training writes such "
            "a checkpoint, so it was not loaded. Convert the tensor with .to_dense(), or take another checkpoint."
        )
    return max(0, tensor.numel() * tensor.element_size() - tensor.untyped_storage().nbytes())


def misplaced(folder: Path, entry: Any) -> str | None:
    """What is wrong if a file holds another epoch or batch than its manifest entry says, or None.

    The checksums of a file cannot detect this.

    Raises:
        NewerFormatError: a newer raysweep wrote it. That is no damage: no older checkpoint must be taken instead.
    """
    try:
        saved = read_checkpoint(folder / entry.file)
    except NewerFormatError:
        raise
    except CheckpointError as error:
        return f"{entry.file} cannot be used: {error}"
    batch = int(saved.get("current_batch") or 0) or None
    place = int(saved["epoch"]) + (batch is not None), batch
    return None if place == (entry.epoch, entry.batch) else f"{entry.file} holds epoch {place[0]}, batch {place[1]}"
