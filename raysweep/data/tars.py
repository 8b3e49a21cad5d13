"""Tar files of images, read where they lie: shards of samples as WebDataset writes them, or packed class folders.

A sample is what has one name up to the first dot of its file name: ``0001.jpg`` with ``0001.cls`` (a number or a name) or
``0001.json`` (with one of the usual names for a label). Where no file has a label, the folder that an image lies in is its class.
The split comes from a folder within, else from the name of the tar file or of a folder that it lies in.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from raysweep.data.listing import Found, Row, digest, label_name, reason, split_in, split_of, stamp
from raysweep.data.reading import LeftOut
from raysweep.data.roles.groups import grouped
from raysweep.data.roles.words import AUTO, choose
from raysweep.data.tables import LABEL_COLUMNS, MAX_ROWS, column
from raysweep.data.tree import HIDDEN, IMAGE_SUFFIXES, OTHERS, is_hidden
from raysweep.errors import DataError

_LABELS = (".cls", ".json")
_MOST_TEXT = 1 << 20  # bytes of a label
_MOST_IMAGE = 1 << 30


@dataclass(frozen=True)
class InTar:
    """An image's bytes in a tar file."""

    file: Path
    start: int
    size: int

    def read(self) -> bytes:
        from raysweep.store.files import open_regular

        if self.size > _MOST_IMAGE:
            return b""
        with open_regular(self.file) as opened:
            opened.seek(self.start)
            content: bytes = opened.read(self.size)
        if len(content) < self.size:
            raise OSError(f"{self.file.name} has become shorter")
        return content


@dataclass
class _Sample:
    """What has one name in a tar file."""

    name: str  # of the image, within
    image: InTar
    label: Any = None  # as it is written there; None where nothing is
    group: Any = None


@dataclass
class _Shard:
    """The samples of one tar file."""

    file: Path
    split: str | None
    samples: list[_Sample] = field(default_factory=list)
    hidden: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)

    @property
    def labelled(self) -> bool:
        return any(sample.label is not None for sample in self.samples)


def shards(path: Path) -> list[tuple[Path, str | None]]:
    """The tar files of a folder, and the split that the name of each says; a file given as ``data.path`` has none."""
    if not path.is_dir():
        return [(path, None)]
    every = ((file, file.relative_to(path)) for file in sorted(path.rglob("*.tar")) if file.is_file())
    files = [(file, inner) for file, inner in every if not any(map(is_hidden, inner.parts))]
    words = [next((s for s in map(split_in, (i.stem, *reversed(i.parent.parts))) if s), None) for _, i in files]
    if {"val", "test"}.isdisjoint(words):  # train/ alone is no split
        words = [None] * len(files)
    return [(file, word) for (file, _), word in zip(files, words, strict=True)]


class TarSource:
    """Images in tar files, which are not unpacked."""

    def __init__(self, path: Path, asked: str = AUTO, group: str | None = None) -> None:
        """
        Args:
            asked: ``data.val``.
            group: the key that ``data.group`` names, in the samples' JSON.

        Raises:
            DataError: there is no tar file.
        """
        self.path, self.asked, self.group = path, asked, group
        self.files = shards(path)
        if not self.files:
            raise DataError(f"{path} holds no .tar file. Set data.path to a tar file, or to a folder of them.")

    def fingerprint(self) -> str:
        return digest([stamp(file) for file, _ in self.files])

    def found(self) -> Found:
        read = [self._shard(file, split) for file, split in self.files]
        labelled = any(shard.labelled for shard in read)
        rows: list[Row] = []
        splits: list[str | None] = []
        for shard in read:
            for sample in shard.samples:
                row, split = self._row(shard, sample, labelled)
                rows.append(row)
                splits.append(split)
        roles = choose(splits, self.path, self.asked)
        left_out = roles.left_out(lambda i: rows[i].name)
        for kind, names in (
            (HIDDEN, [n for s in read for n in s.hidden]),
            (OTHERS, [n for s in read for n in s.others]),
        ):
            if names:
                left_out[kind] = LeftOut.of(names)
        note = "" if labelled else "The classes are the names of the folders within the tar files."
        return roles.found(rows, left_out, (*roles.notes, *([note] if note and rows else [])))

    def _row(self, shard: _Shard, sample: _Sample, labelled: bool) -> tuple[Row, str | None]:
        inner = PurePosixPath(sample.name)
        where = f"{shard.file}: {sample.name}"
        split = next((s for s in map(split_of, inner.parent.parts[: None if labelled else -1]) if s), shard.split)
        label = sample.label if labelled else (inner.parent.name or None)
        if label is None and not labelled:
            raise DataError(
                f"{where} has no label: neither {inner.stem.partition('.')[0]}.cls nor .json is beside it, and it lies in no folder. Add "
                "labels, or pack folders of classes."
            )
        row = Row(f"{shard.file.name}/{inner}", label_name(label, None, where), sample.image)
        return (row if sample.group is None else grouped(row, sample.group)), split

    def _shard(self, file: Path, split: str | None) -> _Shard:
        shard = _Shard(file, split)
        images: dict[str, _Sample] = {}
        texts: dict[str, dict[str, bytes]] = {}
        for member, opened in self._members(file):
            inner = PurePosixPath(member.name)
            stem, _, ending = inner.name.partition(".")
            key, suffix = str(inner.parent / stem), f".{ending}".lower()
            if any(is_hidden(part) for part in inner.parts if part != "."):
                shard.hidden.append(member.name)
            elif inner.suffix.lower() in IMAGE_SUFFIXES and member.isreg() and not member.issparse():
                # a second image of a sample (0001.left.jpg, 0001.right.jpg) is one of its own
                name = key if key not in images else member.name
                images[name] = _Sample(member.name, InTar(file, member.offset_data, member.size))
            elif suffix in _LABELS and member.isreg() and member.size <= _MOST_TEXT:
                text = opened.extractfile(member)
                texts.setdefault(key, {})[suffix] = b"" if text is None else text.read()
            else:
                shard.others.append(member.name)
        for key, sample in images.items():
            told = texts.pop(key, {}) if key in texts else {}
            self._tell(sample, told, f"{file}: {sample.name}")
        shard.others += [f"{key}{suffix}" for key, told in texts.items() for suffix in told]
        shard.samples = list(images.values())
        return shard

    def _tell(self, sample: _Sample, told: dict[str, bytes], where: str) -> None:
        """What the files beside an image say of it."""
        if (text := told.get(".cls")) is not None:
            sample.label = text.decode("utf-8", errors="replace").strip() or None
        if (content := told.get(".json")) is not None:
            try:
                value = json.loads(content)
            except (ValueError, RecursionError) as error:
                raise DataError(f"{where}: the JSON beside it cannot be read: {reason(error)}. Correct it.") from None
            if isinstance(value, dict):
                name = column(list(value), LABEL_COLUMNS)
                if sample.label is None and name is not None:
                    sample.label = value[name]
                if self.group is not None:
                    sample.group = value.get(self.group)

    @staticmethod
    def _members(file: Path) -> Iterator[tuple[tarfile.TarInfo, tarfile.TarFile]]:
        """The files in a tar file, in their order."""
        try:
            with tarfile.open(file, "r:") as opened:
                count = 0
                while (member := opened.next()) is not None:
                    count += 1
                    if count > 2 * MAX_ROWS:
                        raise DataError(
                            f"{file} has more than {2 * MAX_ROWS:,} files, more than raysweep reads. Split it."
                        )
                    opened.members = []  # type: ignore[attr-defined]  # else all stay in memory
                    if not member.isdir():
                        yield member, opened
        except (tarfile.TarError, EOFError, ValueError) as error:
            raise DataError(
                f"{file} cannot be read as a tar file that is not compressed: {reason(error)}. Unpack it and give the folder, or write it "
                "again without compression."
            ) from None
