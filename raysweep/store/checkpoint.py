"""Checkpoint files: to bytes and back, never executing anything. torch is imported only inside these functions."""

from __future__ import annotations

import io
import os
import warnings
from collections import OrderedDict
from pathlib import Path
from typing import IO, Any, cast

from raysweep._text import truncate
from raysweep.errors import CheckpointError, NotFoundError
from raysweep.store.files import open_regular, write_stream
from raysweep.store.untrusted import pickle_check, schema
from raysweep.store.untrusted.pickle_check import LEGACY, PLAIN, damaged
from raysweep.store.untrusted.zip_check import zip_problem

FORMAT_VERSION = 1
_DEEP = 60  # levels of tuples in which numbers of NumPy are looked for
# Documented keys every checkpoint has.
REQUIRED = ("epoch", "model_state_dict", "optimizer_state_dict", "best_acc", "history", "config", "timestamp")


def write(path: Path, state: Any) -> tuple[int, str]:
    """Write a checkpoint, torch's zip format with its CRCs, by the write protocol; returns (bytes, sha256)."""
    import torch

    return write_stream(path, lambda sink: torch.save(state, cast(IO[bytes], sink)))


def read(path: str | Path, allowed: frozenset[str] = PLAIN) -> Any:
    """Load a file with ``weights_only=True`` onto the CPU.

    Args:
        allowed: what its pickles may name; with LEGACY, numpy's scalars, too, which come back as Python's numbers.

    Raises:
        NotFoundError: no such file.
        CheckpointError: damaged, not torch's format, or with anything inside that is not tensors and plain values, or
            that would need more memory than the file weighs.
    """
    import torch

    path = Path(path)
    try:
        file = open_regular(path)
    except OSError as error:
        if isinstance(error, PermissionError):
            raise CheckpointError(f"{truncate(path)} cannot be read: {error.strerror}. Make it readable.") from None
        raise NotFoundError(f"There is no checkpoint {truncate(path)}.") from None
    # Opened once: what is looked at is what is loaded.
    with file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # advice to people who load files of their own
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
    """The content of a file that :func:`read_checkpoint` has accepted before, from its bytes (any buffer)."""
    return _load(io.BytesIO(data))


def _load(file: Any) -> Any:
    """What torch loads where numpy's scalars are admitted, with Python's numbers in their place."""
    import numpy as np
    import torch

    scalar = np.float64(0).__reduce__()[0]
    types = [type(np.dtype(code)) for code in "?bhilqBHILQefd"]
    names: list[Any] = [(scalar, f"numpy.{room}.multiarray.scalar") for room in ("core", "_core")]
    with torch.serialization.safe_globals([*names, (np.dtype, "numpy.dtype"), *types]):
        return _plain_numbers(torch.load(file, map_location="cpu", weights_only=True))


def _plain_numbers(state: Any) -> Any:
    """``state`` with every numpy scalar replaced by a Python number, in place; it may hold itself."""
    import numpy as np

    made: dict[int, tuple[Any, Any]] = {}  # tuple → itself, and what it becomes: it may be in a billion places

    def plain(value: Any, level: int = 0) -> Any:
        if isinstance(value, np.generic):
            return value.item()
        # What is nested deeper is no checkpoint, and refused when its keys are checked.
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


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Like :func:`read`; the file must have the documented keys, and each key must hold what it is documented to hold.

    Files of the old system, in torch's legacy format and with numpy's scalars, are read, too.
    """
    state = read(path, LEGACY)
    missing = [k for k in REQUIRED if not isinstance(state, dict) or k not in state]
    if missing:
        raise CheckpointError(
            f"{truncate(path)} is not a complete checkpoint: it lacks {', '.join(missing)}. A bare state_dict can start a new run's "
            "weights with model.init_from."
        )
    schema.check(state, path)
    return state


def _check_file(file: io.BufferedReader, path: Path, allowed: frozenset[str]) -> None:
    """Refuse what torch should not even begin to load."""
    size = os.fstat(file.fileno()).st_size
    start = file.read(4)
    if not start:
        raise CheckpointError(f"{truncate(path)} is empty. Take another checkpoint.")
    if start == b"PK\x03\x04":  # by which torch takes a file for its container
        # torch itself does not look at the CRCs; a flipped bit would become a weight.
        problem = zip_problem(file)
        if problem is not None:
            raise damaged(path, problem)
        pickle_check.check([io.BytesIO(_program(file, path))], size, path, allowed)
    elif start[:1] == b"\x80":
        file.seek(0)
        # a magic number, a version, the system, the state, the keys of its storages; then come these
        pickle_check.check([_Within(file, size)] * 5, size, path, allowed)
    else:
        raise damaged(path, "neither torch's container nor a pickle")


def _program(file: io.BufferedReader, path: Path) -> bytes:
    """The pickle in the container, as torch's own reader finds it: two readers may differ about a strange file."""
    import torch

    file.seek(0)
    try:
        reader: Any = torch._C.PyTorchFileReader(file)
        if reader.has_record("constants.pkl"):
            raise damaged(path, "a TorchScript archive")
        if sum(map(reader.get_record_size, reader.get_all_records())) > os.fstat(file.fileno()).st_size:
            raise damaged(path, "its parts have more bytes than the file")
        return reader.get_record("data.pkl")
    except (RuntimeError, ValueError, UnicodeDecodeError) as error:
        raise damaged(path, str(error).partition("\n")[0]) from None


class _Within:
    """A file that is never asked for more than it has, whatever length a pickle declares."""

    def __init__(self, file: io.BufferedReader, size: int) -> None:
        self.file, self.size = file, size
        self.tell = file.tell

    def read(self, size: int, /) -> bytes:
        return self.file.read(max(0, min(size, self.size - self.file.tell())))

    def readline(self) -> bytes:
        return self.file.readline(1000)


def _check_tensors(state: Any, path: Path, size: int) -> None:
    """Refuse tensors whose size is only declared: sparse, without storage, or one number spread over terabytes."""
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
            if value.layout != torch.strided or value.device.type != "cpu":
                raise CheckpointError(
                    f"{truncate(path)} holds a tensor that is not dense ({value.layout}, {value.device}), which no checkpoint of a "
                    "training has; it was not loaded."
                )
            excess += max(0, value.numel() * value.element_size() - value.untyped_storage().nbytes())
    if excess > size:
        raise CheckpointError(
            f"{truncate(path)} holds tensors that would need {excess:,} bytes more than the file has; it was not loaded."
        )


def misplaced(folder: Path, entry: Any) -> str | None:
    """Whether a file is a checkpoint of another place than its entry says, which its own checksums cannot tell; or None."""
    try:
        saved = read_checkpoint(folder / entry.file)
    except CheckpointError as error:
        return f"{entry.file} cannot be used: {error}"
    batch = int(saved.get("current_batch") or 0) or None
    place = int(saved["epoch"]) + (batch is not None), batch
    return None if place == (entry.epoch, entry.batch) else f"{entry.file} holds epoch {place[0]}, batch {place[1]}"
