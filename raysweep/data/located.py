"""Find the files that a list names, also where the list was written on another machine, or its images lie in another folder.

A path counts as it is written if any path of the list does. Else the files are looked for by their names: in the list's folder
and the folders in it, then in the folders beside it. Every image must be found, and in one place only.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import NamedTuple

from raysweep._text import short_repr, truncate
from raysweep.data.listing import only_split_in
from raysweep.data.tree import IMAGE_SUFFIXES, Folder, Rest, is_hidden, walk
from raysweep.errors import DataError


class Named(NamedTuple):
    """A path as a list has it, and where it stands there."""

    text: str
    where: str


class Place(NamedTuple):
    """A named file; ``status`` is None where there is no such file."""

    file: Path
    status: os.stat_result | None


class Locator:
    """Finds the images of one list."""

    def __init__(
        self, folder: Path, own: bool, images: Path | None, around: Path | None = None, split: str | None = None
    ) -> None:
        """
        Args:
            folder: of the list.
            own: the user named the list itself; it may have absolute paths, and images in the folders beside its own.
            images: ``data.images``.
            around: where to look for the files of a list that was found; default: its folder.
            split: that the list's name says; its images are not in the folder of another one.
        """
        self.split = split
        self.base = images or folder
        self.folder = folder
        self.own = own
        self.asked = images is not None
        self.around = around or self.base
        self.notes: list[str] = []

    def located(self, named: Sequence[Named]) -> list[Place]:
        """The file of each path, in their order.

        Raises:
            DataError: a path leads out of the folder or to something that is no regular file, or several files may be meant.
        """
        places = [self._as_written(n) for n in named]
        if not named or any(p.status is not None for p in places):
            return places
        base = self.around if not self.asked else self.base
        found = self._by_name(named, base)
        if found is None and self.own and not self.asked:
            beside = [s for s in _folders_beside(self.folder) if _may_hold(s, named[0].text)]
            if len(beside) > 1:
                raise self._several(named[0], [str(b) for b in beside])
            found = self._by_name(named, beside[0]) if beside else None
        if found is None or any(p.status is None for p in found):
            return places  # other images of the same names may lie there
        self._say(named, found)
        return found

    def at(self, text: str) -> Path:
        """Where a path leads as it is written."""
        return self.base / os.path.normpath(_forward(text))

    def _as_written(self, named: Named) -> Place:
        text, where = named
        inner = os.path.normpath(text)
        if os.path.isabs(text):
            if not self.own:
                raise DataError(
                    f"{where} names {truncate(text, 200)}. In a table that was found in a folder, a path must be relative to the table's own "
                    "folder. Make it relative, or set data.path to the table itself."
                )
        elif _leads_out(inner) or _leads_out(os.path.normpath(_forward(text))):
            raise DataError(
                f"{where} names {truncate(text, 200)}, which lies outside {self.base}. Move the image or the table; or set "
                "data.path to the table itself and write an absolute path, or data.images to the folder with the images."
            )
        place = self._status(self.base / inner, named)
        if place.status is None and "\\" in text:
            place = self._status(self.at(text), named)
        return place

    @staticmethod
    def _status(file: Path, named: Named) -> Place:
        try:
            found = os.stat(file)
        except (OSError, ValueError):  # ValueError: a zero byte in the path
            return Place(file, None)
        if not stat.S_ISREG(found.st_mode):  # reading a pipe would never end
            raise DataError(
                f"{named.where} names {truncate(named.text, 200)}, which is no regular file. Name an image file."
            )
        return Place(file, found)

    def _by_name(self, named: Sequence[Named], base: Path) -> list[Place] | None:
        """The only file in ``base`` of each name; None if there is none for any."""
        index = _index(walk(base, Rest()))
        found = [_matching(index, _parts(n.text)) for n in named]
        if self.split is not None:
            found = [[f for f in some if self._fits(f, base)] or some if len(some) > 1 else some for some in found]
        if any(len(some) > 1 for some in found) and (whole := _only_whole(found)) is not None:
            found = [[f for f in some if f.parent == whole] for some in found]
            self.notes.append(f"Of several files of one name, those in {whole} are used, the only folder that has all.")
        places = []
        for n, some in zip(named, found, strict=True):
            if len(some) > 1:
                raise self._several(n, [str(f) for f in some])
            places.append(self._status(some[0], n) if some else Place(base / PurePosixPath(*_parts(n.text)), None))
        return places if any(p.status is not None for p in places) else None

    def _fits(self, file: Path, base: Path) -> bool:
        """Whether no folder on the way to a file has the name of another split."""
        return {only_split_in(part) for part in file.relative_to(base).parent.parts} <= {None, self.split}

    def _say(self, named: Sequence[Named], places: Sequence[Place]) -> None:
        folder = os.path.commonpath([p.file.parent for p in places])
        self.notes.append(
            f"Images found by their names in {folder}, not where the list says: {truncate(named[0].text, 120)} is "
            f"{truncate(os.path.relpath(places[0].file, folder), 120)} there."
        )

    @staticmethod
    def _several(named: Named, some: Sequence[str]) -> DataError:
        each = " and ".join(truncate(s, 150) for s in some[:2]) + " …" * (len(some) > 2)
        return DataError(
            f"{named.where} names {truncate(named.text, 200)}, which may be in {each}. Say where the images are: "
            "data.images=FOLDER."
        )


def text_of(value: object, where: str) -> str:
    """The path that a row has.

    Raises:
        DataError: it is no text.
    """
    if not isinstance(value, str):
        raise DataError(f"{where} names no image: its path is {short_repr(value)}. Give every row a path.")
    return value


def _leads_out(inner: str) -> bool:
    return inner == os.pardir or inner.startswith(os.pardir + os.sep)


def _forward(text: str) -> str:
    """A path with slashes only, without the letter of a drive."""
    found = PureWindowsPath(text)
    if "\\" not in text and not found.drive:
        return text
    return found.as_posix().removeprefix(found.drive.replace("\\", "/")).lstrip("/")


def _parts(text: str) -> tuple[str, ...]:
    return tuple(p for p in PurePosixPath(_forward(text).lstrip("/")).parts if p not in ("..", "."))


def _index(tree: Folder) -> dict[str, list[Path]]:
    """Every image by its name, by its name in lower case, and by its name without the suffix."""
    found: dict[str, list[Path]] = {}
    for file in tree.every():
        for key in {file.name, f"?{file.name.lower()}", f"?{file.stem.lower()}"}:
            found.setdefault(key, []).append(file)
    return found


def _matching(index: dict[str, list[Path]], parts: tuple[str, ...]) -> list[Path]:
    """The files that a path may mean: those that share most of its last parts."""
    if not parts:
        return []
    name = parts[-1]
    some = index.get(name) or index.get(f"?{name.lower()}") or []
    if len(some) < 2:
        return some

    def common(file: Path) -> int:
        n = 0
        for ours, theirs in zip(reversed(parts[:-1]), reversed(file.parent.parts), strict=False):
            if ours != theirs:
                break
            n += 1
        return n

    most = max(map(common, some))
    return [f for f in some if common(f) == most]


def _only_whole(found: Sequence[Sequence[Path]]) -> Path | None:
    """The only folder that has a file for every name of a list; None if there is none, or several."""
    common: set[Path] | None = None
    for some in found:
        here = {f.parent for f in some}
        common = here if common is None else common & here
        if not common:
            return None
    return next(iter(common)) if common and len(common) == 1 else None


def _folders_beside(folder: Path) -> list[Path]:
    whole = folder.resolve()
    return [folder / os.pardir / f.name for f in _folders_in(whole.parent) if f.name != whole.name]


def _may_hold(folder: Path, text: str) -> bool:
    """Whether the first image of a list is in a folder, or in one directly in it."""
    parts = _parts(text)
    tails = [PurePosixPath(*parts[i:]) for i in range(len(parts))]
    has_suffix = PurePosixPath(parts[-1] if parts else "").suffix.lower() in IMAGE_SUFFIXES
    ends = [""] if has_suffix else ["", *sorted(IMAGE_SUFFIXES)]
    places = [folder, *_folders_in(folder)]
    return any(os.path.isfile(place / f"{tail}{end}") for place in places for tail in tails for end in ends)


def _folders_in(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as scan:
            return sorted(folder / e.name for e in scan if e.is_dir() and not is_hidden(e.name))
    except OSError:
        return []
