"""A folder as it lies on disk: which of its files are images, and why each of the others is none.

Every file is counted once: it is an image of a :class:`Folder`, or it is in :class:`Rest`. Linked folders are followed.
"""

from __future__ import annotations

import copy
import functools
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from raysweep.data.pillow import FORMATS
from raysweep.data.reading import MAX_EXAMPLES, LeftOut

HIDDEN = "hidden and system files"
NOWHERE = "links that lead nowhere"
CIRCLES = "links that lead in a circle"
SPECIAL = "pipes, sockets and devices"
CLOSED = "hidden folders that cannot be opened"
OTHERS = "files that are no images"

_SYSTEM = {
    "@eadir", "@recycle", "#recycle", "#snapshot", "__macosx", "__pycache__", "$recycle.bin", "system volume information",
    "lost+found", "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r",
}  # fmt: skip
IMAGE_SUFFIXES = frozenset(suffix for suffixes in FORMATS.values() for suffix in suffixes)
_MAX_LINKS = 8  # on the way to one file


def is_hidden(name: str) -> bool:
    """Whether a file or folder is hidden, or belongs to a system or a program that looks at folders."""
    return name.startswith(".") or name.lower() in _SYSTEM


def is_image(path: Path) -> bool:
    """Whether a file is an image by its suffix; one without a suffix, by its first bytes."""
    suffix = path.suffix.lower()
    if suffix in IMAGE_SUFFIXES:
        return True
    return (not suffix or suffix[1:].isdecimal()) and _opens(path)


def _opens(path: Path) -> bool:
    from PIL import Image

    try:
        with Image.open(path, formats=tuple(FORMATS)):
            return True
    except Exception:  # Pillow raises many kinds of errors
        return False


class Rest:
    """What was left out, by kind; see :class:`~raysweep.data.reading.LeftOut`."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._examples: dict[str, list[str]] = {}
        self._suffixes: Counter[str] = Counter()

    def copy(self) -> Rest:
        """The same, to add to."""
        return copy.deepcopy(self)

    def add(self, kind: str, names: Iterable[object]) -> None:
        """These files, which are of one kind."""
        for name in names:
            self._counts[kind] += 1
            examples = self._examples.setdefault(kind, [])
            if len(examples) < MAX_EXAMPLES:
                examples.append(str(name))

    def add_other(self, name: Path) -> None:
        """A file that is no image."""
        self._suffixes[name.suffix.lower() or "without a suffix"] += 1
        self.add(OTHERS, [name])

    def left_out(self) -> dict[str, LeftOut]:
        """Kind, in the plural → what was left out. The kind of files that are no images names their suffixes."""
        common = sorted(self._suffixes.items(), key=lambda item: (-item[1], item[0]))[:6]
        each = ", ".join(f"{n:,} {s}" for s, n in common) + " …" * (len(self._suffixes) > len(common))
        return {
            f"{kind} ({each})" if kind == OTHERS else kind: LeftOut(n, tuple(self._examples[kind]))
            for kind, n in self._counts.items()
        }


@dataclass
class Folder:
    """A folder that is not hidden."""

    path: Path  # as it is reached, through links
    images: list[Path] = field(default_factory=list)  # directly in it, sorted
    folders: list[Folder] = field(default_factory=list)  # sorted by name
    others: Counter[str] = field(default_factory=Counter)  # suffix → files that are no images, directly in it

    @property
    def name(self) -> str:
        return self.path.name

    @functools.cached_property
    def total(self) -> int:
        """Images at any depth."""
        return len(self.images) + sum(f.total for f in self.folders)

    @property
    def inner(self) -> list[Folder]:
        """The folders in it that have images at any depth."""
        return [f for f in self.folders if f.total]

    def every(self) -> Iterator[Path]:
        """Its images at any depth."""
        yield from self.images
        for folder in self.folders:
            yield from folder.every()

    def every_other(self) -> Counter[str]:
        """Suffix → files at any depth that are no images."""
        return sum((f.every_other() for f in self.folders), self.others.copy())


def walk(root: Path, rest: Rest) -> Folder:
    """The folder ``root`` with all in it; what is no image goes to ``rest``, with its path in ``root``.

    A link to a folder on the way to it leads in a circle and is not followed.

    Raises:
        OSError: a folder cannot be read.
    """
    return _Walk(root, rest).folder(root, (os.path.realpath(root),), 0)


class _Walk:
    def __init__(self, root: Path, rest: Rest) -> None:
        self.root = root
        self.rest = rest

    def folder(self, path: Path, real: tuple[str, ...], links: int) -> Folder:
        """
        Args:
            real: the real path of each folder on the way, from the root to ``path``.
            links: how many of them were links.
        """
        found = Folder(path)
        with os.scandir(path) as scan:
            entries = sorted(scan, key=lambda e: e.name)
        for entry in entries:
            self._entry(entry, found, real, links)
        return found

    def _entry(self, entry: os.DirEntry[str], found: Folder, real: tuple[str, ...], links: int) -> None:
        path = found.path / entry.name
        if is_hidden(entry.name):
            name = self._name(path)
            self.rest.add(HIDDEN, self._hidden(path, name) if entry.is_dir(follow_symlinks=False) else [name])
        elif entry.is_dir():
            linked = entry.is_symlink()
            target = os.path.realpath(path) if linked else os.path.join(real[-1], entry.name)
            if linked and (links >= _MAX_LINKS or _on_the_way(target, real)):
                self.rest.add(CIRCLES, [self._name(path)])
            else:
                found.folders.append(self.folder(path, (*real, target), links + linked))
        elif entry.is_file():
            if is_image(path):
                found.images.append(path)
            else:
                found.others[path.suffix.lower() or "without a suffix"] += 1
                self.rest.add_other(self._name(path))
        else:
            self.rest.add(NOWHERE if entry.is_symlink() and not path.exists() else SPECIAL, [self._name(path)])

    def _name(self, path: Path) -> Path:
        return path.relative_to(self.root)

    def _hidden(self, path: Path, name: Path) -> Iterator[Path]:
        """Every file in a hidden folder; links are not followed."""
        try:
            with os.scandir(path) as scan:
                entries = sorted(scan, key=lambda e: e.name)
        except OSError:  # lost+found is the administrator's
            self.rest.add(CLOSED, [name])
            return
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from self._hidden(path / entry.name, name / entry.name)
            else:
                yield name / entry.name


def _on_the_way(target: str, real: tuple[str, ...]) -> bool:
    """Whether a folder is one of those on the way, or one above them."""
    return any(target == r or os.path.commonpath([target, r]) == target for r in real)
