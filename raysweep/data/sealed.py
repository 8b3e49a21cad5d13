"""Open the sealed test images. Only `raysweep evaluate` does: running, branching and comparing never decode them, read their
classes or score them. They are decoded when they are first opened, into a part of the cache of their own."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from raysweep._paths import user_path
from raysweep._text import differences
from raysweep.config.settings import DataSection
from raysweep.data import build, cache, integrity, multi_label, places, storing
from raysweep.data.arrays import ImageFile
from raysweep.data.build import Progress
from raysweep.data.cache import Images
from raysweep.data.integrity import Check, UnsignedError
from raysweep.data.listing import Listing
from raysweep.data.places import META
from raysweep.data.sources import open_source
from raysweep.data.stored import Stored
from raysweep.errors import DataError

PART = "test"


@dataclass(frozen=True)
class Undecodable:
    """A test image that cannot be decoded, and why."""

    name: str
    of_class: str
    reason: str


@dataclass(frozen=True)
class Sealed:
    """The test images, sorted by (class in the data's own order, hash of the pixels)."""

    classes: tuple[str, ...]  # ``labels`` are numbers of these
    images: Images
    labels: np.ndarray  # int64 (n,), or bool (n, classes)
    names: tuple[str, ...]  # (n,), as a person would look for them
    digests: (
        np.ndarray
    )  # S32 (n,): hashes of the pixels, as :func:`raysweep.data.cache.digests` has them for the other images
    files: np.ndarray  # S32 (n,): hashes of the bytes
    groups: np.ndarray | None  # int64 (n,), the same number for images of one ``data.group``; None without groups
    undecodable: tuple[Undecodable, ...]
    sha256: str  # of the bytes and classes of all, those that cannot be decoded included; the manifest has the same

    @property
    def count(self) -> int:
        """How many test images there are, those that cannot be decoded included."""
        return len(self.labels) + len(self.undecodable)

    def among(self, digests: np.ndarray) -> np.ndarray:
        """bool (n,): which of the images have the same pixels as one of these hashes (S32), such as those of the training."""
        return np.isin(self.digests, digests)


def open_sealed(
    data: DataSection,
    cache_dir: str | Path,
    *,
    form: tuple[int, int],
    classes: Sequence[str] | None = None,
    recorded: str | None = None,
    progress: Progress | None = None,
    tell: Callable[[str], None] | None = None,
) -> Sealed:
    """The test images of a configuration, decoded now unless somebody has opened them before.

    Args:
        data: what to read and how; of an experiment: its recorded settings.
        cache_dir: folder that holds the caches, as for :func:`raysweep.data.cache.load`.
        form: (side, channels) of every image: those that the network was trained on.
        classes: in the order of the network's outputs; default: the data's own order.
        recorded: the hash in the experiment's manifest (``sealed.sha256``); None: any images will do.
        progress: called with (images decoded, images in all).
        tell: called with a sentence where images are decoded again, and why.

    Raises:
        DataError: there are no test images, they are not those that were recorded, their classes are others, or they or the cache
            cannot be read.
    """
    source = open_source(data)
    key = json.dumps([cache.key(cache.asked(source.fingerprint, data), data, kind=data.cache), *form])
    base = user_path(cache_dir)
    folder = base / f"sealed-{hashlib.sha256(key.encode()).hexdigest()[:20]}"
    found = _reopened(folder, data, tell)
    if found is None:
        from filelock import FileLock

        try:
            base.mkdir(parents=True, exist_ok=True)
            with FileLock(str(base / f"{folder.name}.lock")):
                found = _reopened(folder, data, tell) or _built(source.listing, folder, data, form, progress)
        except OSError as error:
            raise DataError(
                f"The cache of the test images, {folder}, cannot be written: {error.strerror or error}. Free space, or name "
                "another folder with data.cache_dir."
            ) from None
    if recorded is not None and found.sha256 != recorded:
        raise DataError(
            f"The test images of {data.path} are not those that were sealed when the experiment began: {found.count:,} are there "
            "now, and their hash differs. Put the images back, or name the test images with data.path=FOLDER."
        )
    return _ordered(found, classes)


def _built(
    listing: Callable[[], Listing],
    folder: Path,
    data: DataSection,
    form: tuple[int, int],
    progress: Progress | None,
) -> Sealed:
    every = cache.asked(listing, data)
    if not every.test:
        raise DataError(
            f"{data.path or data.source} has no sealed test images. Give data with a test split"
            f"{'; with data.val=test its test images are used for validation' if every.on_test else ''}."
        )
    for left in (folder, *folder.parent.glob(f".tmp-{folder.name}-*")):
        shutil.rmtree(left, ignore_errors=True)
    temp = folder.parent / f".tmp-{folder.name}-{secrets.token_hex(4)}"
    temp.mkdir()
    try:
        build.build_sealed(temp, data, every, form, progress)
        os.rename(temp, folder)
    finally:
        shutil.rmtree(temp, ignore_errors=True)
    found = _reopened(folder, data)
    if found is None:
        raise DataError(f"The cache {folder} was damaged right after it was written. Delete it and try again.")
    return found


def _reopened(folder: Path, data: DataSection, tell: Callable[[str], None] | None = None) -> Sealed | None:
    """The sealed images in a folder, wholly checked; None if there are none, or if they are damaged, or not kept as it is asked for."""
    try:
        meta = integrity.read_signed(folder / META)
        check = Check(folder, meta["hashes"])
        check.run()
        if check.fault is not None:
            raise ValueError(check.fault)
        stored, shape = meta.get("stored"), meta.get("shapes", {}).get(PART)
        if stored is not None and data.cache == storing.PIXELS:  # an earlier version gave both the same name
            return None
        if shape is None:  # an earlier version recorded none, and kept pixels only
            shape = ImageFile(folder / places.images(PART)).shape
        kept = None if stored is None else Stored.from_json(stored)
        images = cache.opened(folder, PART, shape, kept, multi_label.table(meta))
        of_group = folder / places.groups(PART)
        return Sealed(
            tuple(meta["classes"]),
            images,
            images.labels,
            tuple(json.loads((folder / places.names(PART)).read_text(encoding="utf-8"))),
            np.load(folder / places.digests(PART)),
            np.load(folder / places.files(PART)),
            np.load(of_group) if of_group.exists() else None,
            tuple(Undecodable(**row) for row in meta["undecodable"]),
            meta["sha256"],
        )
    except FileNotFoundError:
        return None
    except (OSError, ValueError, LookupError, TypeError, EOFError, UnsignedError) as error:
        if tell is not None:
            tell(f"The cache of test images {folder} is damaged ({error}). They are decoded again.")
        return None


def _ordered(found: Sealed, classes: Sequence[str] | None) -> Sealed:
    if classes is None or tuple(classes) == found.classes:
        return found
    if sorted(classes) != sorted(found.classes):
        raise DataError(
            f"{differences(classes, found.classes, 'the checkpoint', 'the data')}. Classes must be the same, or every label would "
            "be read wrongly."
        )
    labels = multi_label.in_columns(found.labels, found.classes, classes)
    return replace(found, classes=tuple(classes), images=replace(found.images, labels=labels), labels=labels)
