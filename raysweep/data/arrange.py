"""Which folders are splits and which are classes. What is not plain is refused, with the lines that settle it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from raysweep._text import join_names, plain
from raysweep.data.listing import FER_TESTS, only_split_in, split_of, written_split
from raysweep.data.roles import words as roles
from raysweep.data.suspicious import told_of_words
from raysweep.data.tree import Folder, Rest
from raysweep.errors import DataError

OUTSIDE = "images outside of class folders"
BESIDE = "images in folders that are no split"
UNPLAIN = "test images whose classes are not plain"
ABOVE = "images above the level of the classes"
# A folder with nothing but these is no class whose images cannot be read.
_NOTES = {
    ".txt", ".csv", ".tsv", ".json", ".jsonl", ".xml", ".md", ".html", ".yaml", ".yml", ".py", ".ipynb", ".mat", ".npy",
    ".npz", ".pkl", ".pdf", ".log", ".parquet", ".zip", ".gz", ".tar", ".xlsx", ".h5", ".pt", ".pth",
}  # fmt: skip

_NO_CLASS = {"images", "image", "imgs", "img", "pictures", "photos", "data", "all", "unlabelled", "unlabeled"}


class LayoutError(DataError):
    """Folders can be understood in several ways, or in none."""


class _MayBeClassesError(LayoutError):
    """Folders may be splits or classes; ``data.level=1`` says that they are classes."""


@dataclass
class Arranged:
    """Class → the folders with its images, of each split. ``val`` is None where there is no split."""

    train: dict[str, list[Folder]] = field(default_factory=dict)
    val: dict[str, list[Folder]] | None = None
    test: dict[str, list[Folder]] = field(default_factory=dict)  # sealed
    on_test: bool = False  # ``val`` are test images
    notes: list[str] = field(default_factory=list)


@dataclass
class _Splits:
    train: Folder
    val: list[Folder]
    test: list[Folder]
    on_test: bool


def arrange(root: Folder, level: int | None, rest: Rest, asked: str = roles.AUTO) -> Arranged:
    """Find the splits and the classes in a folder. Images that are in none of them go to ``rest``.

    Args:
        level: 1: the classes are the first folders below the split, or below ``root``; 2: the second ones. None: as it is
            plain; else the user is asked.
        asked: ``data.val``.

    Raises:
        LayoutError: it is not plain, or there are no class folders.
    """
    return _Arranging(root, level, rest, asked).arranged()


class _Arranging:
    def __init__(self, root: Folder, level: int | None, rest: Rest, asked: str) -> None:
        self.root = root
        self.level = level
        self.asked = asked
        self.rest = rest
        self.notes: list[str] = []

    def arranged(self) -> Arranged:
        folder = self.root
        while True:
            splits = self._splits(folder)
            inner = folder.inner
            if splits is not None or self.level == 1 or not self._is_wrapper(inner):
                break
            self._outside(folder)
            folder = self._through(inner[0])
        if splits is None:
            found = Arranged(self._classes([folder], needed=True), None)
        else:
            parts = [splits.train, *(splits.val or splits.test)]
            joined = self.level == 2 and _names_repeat(parts)
            train = self._classes([splits.train], needed=True, joined=joined)
            val = self._classes(splits.val, needed=False, joined=joined) if splits.val else None
            found = Arranged(train, val, self._sealed(splits, joined), splits.on_test)
        found.notes = self.notes
        return found

    def _sealed(self, splits: _Splits, joined: bool) -> dict[str, list[Folder]]:
        """The classes of the test images. Where there are validation images, those that are not plain stop nobody."""
        try:
            return self._classes(splits.test, needed=False, joined=joined)
        except LayoutError:
            if not splits.val:
                raise
            for part in splits.test:
                self._leave(UNPLAIN, part)
            return {}

    # Splits

    def _splits(self, folder: Folder) -> _Splits | None:
        """The folders of the splits directly in ``folder``; None where its folders are no splits."""
        try:
            return self._found_splits(folder)
        except _MayBeClassesError:
            if self.level == 1:
                return None
            raise

    def _found_splits(self, folder: Folder) -> _Splits | None:
        inner = folder.inner
        named = {f.name: split_of(f.name) for f in inner if split_of(f.name)}
        hinted = {f.name: s for f in inner if f.name not in named and f.inner and (s := only_split_in(f.name))}
        if self.level == 1:  # only whole words are plain enough
            hinted = {}
        deep = [f for f in inner if f.inner]
        if not named and not self._are_splits(folder, inner, hinted):
            return None
        kinds = named | hinted
        splits: dict[str, list[Folder]] = {"train": [], "val": [], "test": []}
        for f in deep:
            if f.name in kinds:
                splits[kinds[f.name] or ""].append(f)
        self._check(folder, splits, {f.name: f for f in inner if f.name in named})
        beside = [f for f in inner if f.name not in kinds]
        if len(beside) > 1 and not splits["val"] and not splits["test"]:
            raise self._may_be_classes(
                f"{folder.path} has {_quoted(splits['train'])} beside {_quoted(beside)}: it may be a split or a class.",
                f"data.path={splits['train'][0].path} if it is the training data, or data.level=1 if all of these are classes",
            )
        return self._chosen(folder, splits, kinds)

    def _are_splits(self, folder: Folder, inner: Sequence[Folder], hinted: dict[str, str]) -> bool:
        """Whether folders with the word for a split in their names are splits.

        Raises:
            LayoutError: they may be.
        """
        kinds = Counter(hinted.values())
        if self.level is None and not any(f.inner for f in inner) and self._flat_splits(inner):
            raise self._flat(folder, inner)
        if not kinds["train"] or len(kinds) < 2:
            return False
        if len(hinted) == len(inner):
            return True
        names = [{g.name.casefold() for g in self._core(f).inner} for f in inner if f.name in hinted]
        if len(names) > 1 and all(names[0] & other for other in names[1:]):
            return True
        some = [f for f in inner if f.name in hinted]
        raise self._may_be_classes(
            f"{folder.path} has {_quoted(some)}, whose names have the words for splits, beside "
            f"{_quoted([f for f in inner if f.name not in hinted])}.",
            "rename the folders of the splits to train and val, or set data.level=1 if all of these are classes",
        )

    @staticmethod
    def _flat_splits(inner: Sequence[Folder]) -> bool:
        kinds = {only_split_in(f.name) for f in inner}
        return None not in kinds and "train" in kinds and len(kinds) > 1

    def _flat(self, folder: Folder, splits: Sequence[Folder]) -> LayoutError:
        lists = [g.path / name for g in splits for name in _lists_in(g.path)]
        beside = (
            f"{join_names(lists[:3])} may list their classes: give such a list as data.path, with data.columns if its columns "
            "have no names."
            if lists
            else "Put the images of each class into a folder of its own, or give a list of the images and their classes as data.path."
            + told_of_words([p.name for f in splits if only_split_in(f.name) == "train" for p in f.images])
        )
        return self._may_be_classes(
            f"{_quoted(splits)} in {folder.path} hold their images directly, not in one folder per class. {beside}",
            "data.level=1 if these folders are the classes",
        )

    def _check(self, folder: Folder, splits: dict[str, list[Folder]], whole: dict[str, Folder]) -> None:
        """Raises LayoutError where there are two of a kind, or no training images in class folders."""
        flat = [f for f in whole.values() if not f.inner]
        if not splits["train"]:
            others = [f for f in folder.inner if f.name not in whole]
            trains = [f for f in flat if split_of(f.name) == "train"]
            if trains and not others:
                raise self._flat(folder, list(whole.values()))
            if trains or others:
                raise self._may_be_classes(
                    f"{folder.path} has {_quoted(list(whole.values()))} beside {_quoted(others)}: it may be a split or a class.",
                    "move it away if its images have no class, or set data.level=1 if all of these are classes",
                    told_of_words([p.name for f in trains for p in f.images]),
                )
            name = next(iter(whole))
            raise LayoutError(
                f"{folder.path} has {plain(name)}/ but no train/. Put the training images under {folder.path / 'train'}."
            )
        for found in splits.values():
            names = {f.name.lower() for f in found}
            if len(found) > 1 and not names <= set(FER_TESTS):
                raise self._refused(
                    f"{folder.path} has several folders for the same split: {_quoted(found)}.",
                    "move one of them away, or put their images together",
                )

    def _chosen(self, folder: Folder, splits: dict[str, list[Folder]], kinds: dict[str, str | None]) -> _Splits:
        """The folders of each role; all other images of ``folder`` go to ``rest``."""
        self._outside(folder)
        train = splits["train"][0]
        others = [*splits["val"], *splits["test"]]
        words = {f.name: written_split(f.name) or kinds[f.name] for f in others}
        role_of = roles.by_words(words.values(), self.asked)
        of_role: dict[str | None, list[Folder]] = {"val": [], "test": []}
        for f in others:
            if not self._is_unlabelled(f, train):
                of_role[role_of[words[f.name] or ""]].append(f)
        unused, val = (of_role["val"], []) if self.asked == roles.SPLIT else ([], of_role["val"])
        used = [train, *val, *of_role["test"]]
        for f in folder.inner:
            if any(f is u for u in used):
                continue
            if f.name in kinds and (not f.inner or self._is_unlabelled(f, train)):
                self._leave(f"images without a class in {plain(f.name)}/", f)
            else:
                self._leave(roles.UNUSED if any(f is u for u in unused) else BESIDE, f)
        on_test = self.asked == roles.TEST and bool(val) and not splits["val"]
        if on_test:
            self.notes.append(
                f"{_quoted(val)} {'are' if len(val) > 1 else 'is'} used for validation: there are no validation images of their own."
            )
        if any(split_of(f.name) is None for f in used):
            aims = ["training"] + ["validation"] * len(val) + ["testing, sealed"] * len(of_role["test"])
            each = [f"{plain(f.name)}/ for {aim}" for f, aim in zip(used, aims, strict=True)]
            self.notes.append(f"Splits by the names of folders: {join_names(each)}.")
        closed = [self._unwrapped(f) for f in of_role["test"]]
        return _Splits(self._unwrapped(train), [self._unwrapped(f) for f in val], closed, on_test)

    def _is_unlabelled(self, split: Folder, train: Folder) -> bool:
        """Whether a split has all its images in one folder that is no class: Tiny ImageNet's ``val/images/``."""
        inner = split.inner
        if self.level is not None or len(inner) != 1 or inner[0].inner:
            return False
        name = inner[0].name.lower()
        return (name in _NO_CLASS or split_of(name) is not None) and name not in {
            f.name.lower() for f in self._core(train).inner
        }

    def _unwrapped(self, split: Folder) -> Folder:
        """The folder with the class folders of a split: ``seg_train/seg_train/`` for ``seg_train/``."""
        while self.level is None and self._is_wrapper(split.inner, strict=True):
            self._outside(split)
            split = self._through(split.inner[0])
        return split

    # Levels

    def _is_wrapper(self, inner: Sequence[Folder], strict: bool = False) -> bool:
        """Whether these are a single folder that is no class: there must be several.

        Args:
            strict: it has nothing but folders; else it may be the only class of a split.
        """
        if len(inner) != 1 or (strict and inner[0].images):
            return False
        if self.level == 2 and not any(f.inner for f in inner[0].inner):
            return False
        return len(inner[0].inner) > 1 or self._is_wrapper(inner[0].inner, strict)

    def _core(self, folder: Folder) -> Folder:
        """The folder itself, or the one that it is gone through to."""
        while self._is_wrapper(folder.inner, strict=True):
            folder = folder.inner[0]
        return folder

    def _through(self, folder: Folder) -> Folder:
        self.notes.append(
            f"Read in {plain(folder.path.relative_to(self.root.path))}/, the only folder with images there."
        )
        return folder

    def _classes(self, parts: Sequence[Folder], needed: bool, joined: bool | None = None) -> dict[str, list[Folder]]:
        """Class → its folders in these parts of one split.

        Args:
            needed: a class folder without images is an error.
            joined: whether the names of classes on the second level have the name of the folder above in front.
        """
        found: dict[str, list[Folder]] = {}
        if joined is None:
            joined = self.level == 2 and _names_repeat(parts)
        for part in parts:
            self._outside(part)
            self._ask(part)
            for folder in part.folders:
                if self.level != 2:
                    self._add(found, folder.name, folder, needed)
                    continue
                self.rest.add(ABOVE, self._names(folder.images))
                for second in folder.folders:
                    self._add(found, f"{folder.name}/{second.name}" if joined else second.name, second, needed)
        deep = [f for folders in found.values() for f in folders if f.inner]
        if deep:
            total, example = sum(f.total - len(f.images) for f in deep), self._names([deep[0].inner[0].path])[0]
            self.notes.append(
                f"{total:,} image{'s lie' if total > 1 else ' lies'} in folders below their class, such as {plain(example)}/."
            )
        return found

    def _add(self, found: dict[str, list[Folder]], name: str, folder: Folder, needed: bool) -> None:
        others = folder.every_other()
        if folder.total or (needed and not (others and others.keys() <= _NOTES)):
            found.setdefault(name, []).append(folder)

    def _ask(self, part: Folder) -> None:
        """Raises LayoutError where the classes may as well be a level deeper, or where splits lie below classes."""
        inner = part.inner
        below = [f for f in inner if _has_train(f)]
        if below and self.level is None:
            raise self._refused(
                f"The folder{'s' * (len(below) > 1)} {_quoted(below)} in {part.path} hold{'s' * (len(below) == 1)} splits.",
                f"data.path={below[0].path} for the data in one of them, or data.level=1 to take all images below each folder as "
                "one class",
            )
        mixed = [f for f in inner if not f.images and len(f.inner) > 1]
        if self.level is not None or not mixed:
            return
        if any(f.images for f in inner):
            others = [f for f in inner if f.images]
            raise self._refused(
                f"{_quoted(mixed)} in {part.path} hold{'s' * (len(mixed) == 1)} {sum(len(f.inner) for f in mixed):,} folders with "
                f"images ({join_names(f.name for f in mixed[0].inner[:3])}{' …' * (len(mixed[0].inner) > 3)}), but {_quoted(others)} "
                f"hold{'s' * (len(others) == 1)} images directly: the classes may be on either level.",
                f"data.path={mixed[0].path} for the folders in it, or data.level=1 to take all images below each folder as one class",
            )
        second = sum(len(f.inner) for f in inner)
        third = [g for f in inner for g in f.inner if not g.images and len(g.inner) > 1]
        deeper = f", or data.path={inner[0].path} with either for the folders in one of them" if third else ""
        raise self._refused(
            f"The images in {part.path} lie two levels deep, for example {next(inner[0].every())}: the classes may be the "
            f"{len(inner):,} folders of the first level ({join_names(f.name for f in inner[:3])}{' …' * (len(inner) > 3)}) or the "
            f"{second:,} of the second ({join_names(f.name for f in inner[0].inner[:3])} …).",
            f"data.level=1 or data.level=2{deeper}",
        )

    # What is left out

    def _outside(self, folder: Folder) -> None:
        self.rest.add(OUTSIDE, self._names(folder.images))

    def _leave(self, kind: str, folder: Folder) -> None:
        self.rest.add(kind, self._names(folder.every()))

    def _names(self, files: Iterable[Path]) -> list[Path]:
        return [p.relative_to(self.root.path) for p in files]

    @staticmethod
    def _refused(text: str, remedy: str) -> LayoutError:
        return LayoutError(f"{text} Say what is meant: {remedy}.")

    @staticmethod
    def _may_be_classes(text: str, remedy: str, more: str = "") -> LayoutError:
        return _MayBeClassesError(f"{text} Say what is meant: {remedy}.{more}")


def _has_train(folder: Folder) -> bool:
    """Whether a folder has folders of a split for training and of another one."""
    kinds = {split_of(f.name) for f in folder.inner}
    return "train" in kinds and len(kinds - {None}) > 1


def _names_repeat(parts: Sequence[Folder]) -> bool:
    """Whether a name on the second level stands below several folders of the first."""
    above: dict[str, set[str]] = {}
    for part in parts:
        for first in part.inner:
            for second in first.inner:
                above.setdefault(second.name, set()).add(first.name)
    return any(len(names) > 1 for names in above.values())


def _quoted(folders: Sequence[Folder]) -> str:
    return join_names(f"{f.name}/" for f in folders)


def _lists_in(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if p.suffix.lower() in (".csv", ".tsv", ".txt", ".jsonl"))
