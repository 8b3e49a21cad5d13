"""Read the tensors of a file that another program wrote. Nothing of the file is ever run.

A file of ``torch.save`` (zip or the older format) may hold any Python objects beside its tensors, see
:mod:`raysweep.store.untrusted.pickled`; safetensors hold only tensors. Tensors are read when they are asked for.
"""

from __future__ import annotations

import contextlib
import io
import os
import struct
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raysweep._text import truncate
from raysweep.errors import CheckpointError
from raysweep.store.untrusted import pickled, torch_file
from raysweep.store.untrusted.pickle_check import STORAGES, damaged
from raysweep.store.untrusted.pickled import Storage, TensorPlace
from raysweep.store.untrusted.zip_check import zip_problem

if TYPE_CHECKING:
    import torch

_MAGIC = 0x1950A86A20F9469CFC6C  # of torch's older format
_ERRORS = (ValueError, IndexError, KeyError, TypeError, OverflowError, MemoryError, EOFError, struct.error)
# How files begin that are often taken for weights, and what to say of them.
_NO_WEIGHTS = {
    b"version https://git-lfs": "it is a pointer of Git LFS, not the file itself. Fetch it with `git lfs pull`",
    b"<!DOCTYPE": "it is a web page, not the file itself. Download it again",
    b"<html": "it is a web page, not the file itself. Download it again",
    b"\x89HDF": "it is an HDF5 file, as Keras writes it. Convert it to a state_dict",
    b"\x1f\x8b": "it is packed by gzip. Unpack it",
    b"\x93NUMPY": "it is an array of NumPy. Save a state_dict with torch.save",
}


@dataclass(frozen=True)
class SafePlace:
    """A tensor of a safetensors file."""

    name: str
    shape: tuple[int, ...]
    is_complex: bool


Place = TensorPlace | SafePlace


@dataclass(frozen=True)
class Opened:
    """A file of which nothing but its structure was read."""

    content: Any  # plain values, with a place instead of each tensor and a Thing instead of each other object
    load: Callable[[Any], torch.Tensor]  # a place → its tensor, on the CPU, with memory of its own
    metadata: Mapping[str, str] = field(default_factory=dict)  # of safetensors


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Opened]:
    """A file with tensors.

    Raises:
        NotFoundError: there is no such file. CheckpointError: it is damaged, or is no such file.
    """
    file = torch_file.opened(path, f"There is no file {truncate(path)}. Check the path.")
    with file:
        start = file.read(64)
        file.seek(0)
        if start[:4] == b"PK\x03\x04":
            yield _zip(file, path)
        elif path.suffix == ".safetensors" or start[8:9] == b"{":  # after its length, which may begin like a pickle
            with _safetensors(path) as found:
                yield found
        elif start[:1] == b"\x80":
            yield _older(file, path)
        else:
            for beginning, told in _NO_WEIGHTS.items():
                if start.startswith(beginning):
                    raise CheckpointError(f"{truncate(path)} holds no weights: {told}.")
            raise damaged(path, "neither a file of torch.save nor safetensors" if start else "it is empty")


def _zip(file: io.BufferedReader, path: Path) -> Opened:
    problem = zip_problem(file)
    if problem is not None:
        raise damaged(path, torch_file.SCRIPT if torch_file.is_script(file) else problem)
    program = torch_file.program(file, path)
    reader = torch_file.reader(file)
    if reader.has_record("byteorder") and reader.get_record("byteorder") != sys.byteorder.encode():
        raise CheckpointError(
            f"{truncate(path)} was written on a machine with another order of bytes. Save it again there as safetensors."
        )
    content = _followed(io.BytesIO(program), path)

    @lru_cache(maxsize=1)  # tensors may be parts of the same data
    def data(key: str) -> bytearray:
        try:
            return bytearray(reader.get_record(f"data/{key}"))
        except RuntimeError as error:
            raise damaged(path, str(error).partition("\n")[0]) from None

    return Opened(content, lambda place: _tensor(data(place.storage.key), place, path))


def _older(file: io.BufferedReader, path: Path) -> Opened:
    """Five pickles (magic number, version, system, content, keys of the data), then the data in this order, each with its size."""
    size = os.fstat(file.fileno()).st_size
    source = torch_file.Within(file, size)
    if _followed(source, path) != _MAGIC:
        raise CheckpointError(
            f"{truncate(path)} is a pickle, but was not written by torch.save. Save the network's state_dict() with torch.save or "
            "as safetensors."
        )
    storages: dict[str, Storage] = {}
    _, system, content, keys = (_followed(source, path, storages) for _ in range(4))
    if isinstance(system, dict) and system.get("little_endian", True) != (sys.byteorder == "little"):
        raise CheckpointError(
            f"{truncate(path)} was written on a machine with another order of bytes. Save it again there."
        )
    places: dict[str, tuple[int, int]] = {}  # key → first byte, bytes
    for key in keys if isinstance(keys, list) else ():
        head = file.read(8)
        if len(head) < 8 or str(key) not in storages:
            raise damaged(path, "the list of its data does not fit its tensors")
        length = struct.unpack("<q", head)[0] * STORAGES[storages[str(key)].kind]
        places[str(key)] = file.tell(), length
        if length < 0 or file.seek(length, os.SEEK_CUR) > size:
            raise damaged(path, "it is cut off")

    @lru_cache(maxsize=1)
    def data(key: str) -> bytearray:
        if key not in places:
            raise damaged(path, "a tensor has no data")
        start, length = places[key]
        file.seek(start)
        return bytearray(file.read(length))

    return Opened(content, lambda place: _tensor(data(place.storage.key), place, path))


def _followed(source: Any, path: Path, storages: dict[str, Storage] | None = None) -> Any:
    try:
        return pickled.follow(source, storages)
    except _ERRORS as error:
        raise damaged(path, error if str(error) else type(error).__name__) from None


def inner(value: Any) -> list[Any]:
    """What is directly in a value of :attr:`Opened.content`."""
    if isinstance(value, dict):
        return [*value.keys(), *value.values()]
    if isinstance(value, pickled.Thing):
        return [*value.entries.values(), value.state]
    return list(value) if isinstance(value, (list, tuple)) else []


def _tensor(data: bytearray, place: TensorPlace, path: Path) -> torch.Tensor:
    """The tensor at a place within its data.

    Raises:
        CheckpointError: the data are too few for it.
    """
    import torch

    storage = place.storage
    width = STORAGES[storage.kind]
    dtype = getattr(torch, place.dtype.partition(" ")[2]) if place.dtype else _dtype(storage.kind)
    count = 1
    for n in place.shape:
        count *= n
    first = storage.start * width
    if place.dtype:  # the data are bytes, or of another type
        elements = storage.count * width // dtype.itemsize
    else:
        elements = storage.count
    last = place.offset + sum((n - 1) * stride for n, stride in zip(place.shape, place.strides, strict=True))
    if first + storage.count * width > len(data) or (count and (last >= elements or count > elements)):
        raise damaged(path, f"a tensor of the shape {place.shape} is larger than its data")
    if not count:
        return torch.empty(place.shape, dtype=dtype)
    flat = torch.frombuffer(data, dtype=dtype, count=elements, offset=first)
    return torch.as_strided(flat, place.shape, place.strides, place.offset).clone()


def _dtype(kind: str) -> Any:
    import torch

    names = {
        "Byte": "uint8", "Char": "int8", "Bool": "bool", "Short": "int16", "Half": "float16", "BFloat16": "bfloat16", "Int": "int32",
        "Float": "float32", "Long": "int64", "Double": "float64", "ComplexFloat": "complex64", "ComplexDouble": "complex128",
    }  # fmt: skip
    return getattr(torch, names.get(kind.removeprefix("torch ").removesuffix("Storage"), "uint8"))


@contextlib.contextmanager
def _safetensors(path: Path) -> Iterator[Opened]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            places = {}
            for key in file.keys():  # noqa: SIM118
                part = file.get_slice(key)
                places[key] = SafePlace(key, tuple(part.get_shape()), str(part.get_dtype()).startswith("C"))
            yield Opened(places, lambda place: file.get_tensor(place.name), file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{truncate(path)} is damaged or is not a safetensors file ({truncate(error, 200)}). Copy it again, or name another file."
        ) from None
