"""The parts of a file that ``torch.save`` wrote, found without running any of its pickles."""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path
from typing import Any

from raysweep._text import truncate
from raysweep.errors import CheckpointError, NotFoundError
from raysweep.store.files import open_regular
from raysweep.store.untrusted.pickle_check import damaged

SCRIPT = "a TorchScript archive; save the state_dict() of what torch.jit.load gives"


def opened(path: Path, missing: str) -> io.BufferedReader:
    """A file of weights, open for reading.

    Raises:
        NotFoundError: there is no such file; ``missing`` says so. CheckpointError: nobody lets us read it.
    """
    try:
        return open_regular(path)
    except PermissionError as error:
        raise CheckpointError(f"{truncate(path)} cannot be read: {error.strerror}. Make it readable.") from None
    except OSError:
        raise NotFoundError(missing) from None


def is_script(file: io.BufferedReader) -> bool:
    """Whether a zip file is an archive of TorchScript; parts of it are compressed."""
    file.seek(0)
    try:
        with zipfile.ZipFile(file) as archive:
            return any(name.endswith("/constants.pkl") for name in archive.namelist())
    except (OSError, ValueError, EOFError, RuntimeError, zipfile.BadZipFile):
        return False


def reader(file: io.BufferedReader) -> Any:
    """torch's own reader of its zip format."""
    import torch

    file.seek(0)
    return torch._C.PyTorchFileReader(file)


def program(file: io.BufferedReader, path: Path) -> bytes:
    """The pickle in torch's zip format, found by torch's own reader: another reader could find another one."""
    try:
        found = reader(file)
        if found.has_record("constants.pkl"):
            raise damaged(path, SCRIPT)
        if sum(map(found.get_record_size, found.get_all_records())) > os.fstat(file.fileno()).st_size:
            raise damaged(path, "its parts have more bytes than the file")
        program: bytes = found.get_record("data.pkl")
        return program
    except (RuntimeError, ValueError, UnicodeDecodeError) as error:
        raise damaged(path, str(error).partition("\n")[0]) from None


class Within:
    """A file of which no more is read than it has, whatever length a pickle declares."""

    def __init__(self, file: io.BufferedReader, size: int) -> None:
        self.file, self.size = file, size
        self.tell = file.tell

    def read(self, size: int, /) -> bytes:
        return self.file.read(max(0, min(size, self.size - self.file.tell())))

    def readline(self) -> bytes:
        return self.file.readline(1000)
