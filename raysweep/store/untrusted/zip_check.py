"""Check that a zip file, such as a torch checkpoint, is undamaged and is read alike by Python and by torch."""

from __future__ import annotations

import contextlib
import io
import os
import struct
import zipfile
import zlib
from pathlib import Path

from raysweep.store.files import LIMIT, open_regular

_ERRORS = (OSError, ValueError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error, struct.error)


def zip_problem(source: Path | io.BufferedReader) -> str | None:
    """What is wrong with a zip file, or None.

    Its members must be uncompressed, so that it cannot unpack to more than its own size, and must have different names.
    Their CRCs must be correct. If all CRCs are zero, torch did not compute them (``set_crc32_options``); then they are not
    checked.
    """
    try:
        with open_regular(source) if isinstance(source, Path) else contextlib.nullcontext(source) as file:
            size = file.seek(0, os.SEEK_END)
            with zipfile.ZipFile(file) as archive:
                return _directory_problem(archive, size, file) or _checksum_problem(archive)
    except _ERRORS as error:
        return str(error) or type(error).__name__


def _directory_problem(archive: zipfile.ZipFile, size: int, file: io.BufferedReader) -> str | None:
    """What is wrong with the list of members of a zip file of ``size`` bytes, or None."""
    infos = archive.infolist()
    if any(i.compress_type != zipfile.ZIP_STORED for i in infos) or sum(i.file_size for i in infos) > size:
        return f"it would unpack to more than its {size:,} bytes"
    if len({i.filename.lower() for i in infos}) < len(infos):  # torch's reader ignores the case
        return "two parts of it have the same name"
    file.seek(archive.start_dir)
    if any(_is_ambiguous(i) for i in infos) or not _ends_well(file.read(LIMIT), archive.start_dir, len(infos)):
        return "its directory is inconsistent"
    return None


def _checksum_problem(archive: zipfile.ZipFile) -> str | None:
    bad = archive.testzip() if any(i.CRC for i in archive.infolist()) else None
    return None if bad is None else f"the checksum of {bad} is wrong"


def _is_ambiguous(info: zipfile.ZipInfo) -> bool:
    """Whether torch's reader treats a member differently from Python's.

    torch's reader leaves the memory for a "folder" uninitialised, and refuses members that are encrypted or on another disk.
    """
    return (
        info.compress_size != info.file_size
        or bool(info.external_attr & 0x10)
        or bool(info.flag_bits & ~0x0808)
        or bool(info.volume)
    )


def _ends_well(tail: bytes, start: int, count: int) -> bool:
    """Whether the directory of a zip file, which begins at ``start``, ends where its entries and its zip64 records say.

    Python's reader checks few of these numbers, torch's reader all of them (APPNOTE.TXT 4.3.12 to 4.3.15).

    Args:
        tail: the file from ``start`` to its end.
        count: how many members the directory has.
    """
    size = 0
    for _ in range(count):
        size += 46 + sum(struct.unpack_from("<3H", tail, size + 28))
    if tail[size : size + 4] != b"PK\6\6":
        return tail[size : size + 4] == b"PK\5\6"
    found = struct.unpack_from("<Q4x2L4Q4sLQL", tail, size + 4)
    return found == (44, 0, 0, count, count, size, start, b"PK\6\7", 0, start + size, 1)
