"""Whether a zip file, such as torch's checkpoints are, is whole and means the same to Python's reader and to torch's."""

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
    """What is wrong with a zip file by the CRCs inside it (torch's checkpoints are such files), or None.

    Its parts must be stored as they are, under names that no reader confuses: it cannot unpack to more than it weighs.
    Where all CRCs are zero, torch was told not to compute them (``set_crc32_options``): nothing is known then.
    """
    try:
        with open_regular(source) if isinstance(source, Path) else contextlib.nullcontext(source) as file:
            size = file.seek(0, os.SEEK_END)
            with zipfile.ZipFile(file) as archive:
                infos = archive.infolist()
                if any(i.compress_type != zipfile.ZIP_STORED for i in infos) or sum(i.file_size for i in infos) > size:
                    return f"it would unpack to more than its {size:,} bytes"
                if len({i.filename.lower() for i in infos}) < len(infos):  # torch's reader does not mind the case
                    return "two parts of it have the same name"
                file.seek(archive.start_dir)
                if any(_is_odd(i) for i in infos) or not _ends_well(file.read(LIMIT), archive.start_dir, len(infos)):
                    return "its directory is inconsistent"
                bad = archive.testzip() if any(i.CRC for i in infos) else None
    except _ERRORS as error:
        return str(error) or type(error).__name__
    return None if bad is None else f"the checksum of {bad} does not agree"


def _is_odd(info: zipfile.ZipInfo) -> bool:
    """Whether torch's reader takes a part of a zip file otherwise than Python's: it would leave the memory of a "folder"
    as it was, and refuses what is encrypted or on another disk over its neighbours."""
    return (
        info.compress_size != info.file_size
        or bool(info.external_attr & 0x10)
        or bool(info.flag_bits & ~0x0808)
        or bool(info.volume)
    )


def _ends_well(tail: bytes, start: int, count: int) -> bool:
    """Whether the directory of a zip file, which begins at ``start``, ends where its entries and its zip64 records say.

    Python's reader looks at few of these numbers, torch's at all (APPNOTE.TXT 4.3.12 to 4.3.15).
    """
    size = 0
    for _ in range(count):
        size += 46 + sum(struct.unpack_from("<3H", tail, size + 28))
    if tail[size : size + 4] != b"PK\6\6":
        return tail[size : size + 4] == b"PK\5\6"
    found = struct.unpack_from("<Q4x2L4Q4sLQL", tail, size + 4)
    return found == (44, 0, 0, count, count, size, start, b"PK\6\7", 0, start + size, 1)
