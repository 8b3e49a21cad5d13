"""The images of a data set as all processes of a machine share them: decoded once into memory-mapped uint8 arrays, or encoded in one
file and decoded whenever they are needed.

The name of a cache's folder is a hash of what was read and how. A cache is built under a lock in a temporary folder,
which is then renamed, so that no process ever sees an incomplete one. Within a split, images are sorted by (label, hash
of the pixels): the same images from folders, CSV, Parquet or any other source give the same arrays, the same order of
samples and the same bits. The numbers of the classes do not depend on the source either: the names are sorted, by value
if all are whole numbers.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from raysweep._paths import user_path
from raysweep._text import counted, join_names, truncate
from raysweep.config.settings import DataSection
from raysweep.config.treatment import SamplingSection
from raysweep.data import build, holdout, integrity, multi_label, places, sampling, storing
from raysweep.data.arrays import ImageFile
from raysweep.data.build import Progress
from raysweep.data.encoded import Asked, EncodedFile
from raysweep.data.integrity import Check, UnsignedError
from raysweep.data.listing import Listing
from raysweep.data.naming import Chosen
from raysweep.data.pillow import USUAL
from raysweep.data.places import META
from raysweep.data.reading import Reading
from raysweep.data.roles.sides import Known
from raysweep.data.sources import open_source
from raysweep.data.stored import Stored
from raysweep.data.storing import Way
from raysweep.errors import DataError
from raysweep.store.space import size

VERSION = 5  # part of every key: raise it when decoding, the order of classes or the choice of a split changes
CHECKED_WHOLE = 1 << 32  # bytes of pixels; of larger files each image is checked when it is first read
CHECKED_AT_ONCE_S = 2.0  # seconds for which opening a cache checks its files
T = TypeVar("T")


@dataclass(frozen=True)
class Images:
    """One split: its images in ``file``, or in memory as uint8 (n, H, W, C); ``labels`` int64 (n,), or
    bool (n, classes) where an image has several labels or none."""

    file: ImageFile | EncodedFile | np.ndarray
    labels: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, H, W, C)."""
        return self.file.shape

    @property
    def nbytes(self) -> int:
        """Bytes of all images as pixels."""
        return int(np.prod(self.shape))

    @property
    def pixels(self) -> np.ndarray:
        """All images, uint8 (n, H, W, C): memory-mapped and read-only, or decoded now. For small data sets and tests; else :meth:`take`."""
        if isinstance(self.file, np.ndarray):
            return self.file
        return self.file.mapped if isinstance(self.file, ImageFile) else self.take(np.arange(len(self.labels)))

    def take(self, index: np.ndarray, boxes: np.ndarray | None = None) -> np.ndarray:
        """A copy of the images at ``index``, int64 (b,), or of the parts ``boxes`` of those whose :meth:`sizes` are known, as in
        :class:`~raysweep.data.encoded.Asked`: uint8 (b, H, W, C).

        Raises:
            DataError: the file was cut short, has changed, or cannot be read any more.
        """
        if isinstance(self.file, np.ndarray):
            found: np.ndarray = self.file[index]
            return found
        return self.file.take(index) if isinstance(self.file, ImageFile) else self.file.take(index, boxes)

    def sizes(self, index: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
        """Height and width of the images at ``index`` as they are stored; None where no parts of them can be taken."""
        return self.file.sizes(index) if isinstance(self.file, EncodedFile) and self.file.crops else None

    def one(self, i: int) -> np.ndarray:
        """Image ``i``, uint8 (H, W, C). Raises as :meth:`take` does."""
        found: np.ndarray = self.take(np.array([i]))[0]
        return found

    def blocks(self, size: int = 256) -> Iterator[np.ndarray]:
        """All images in their order, uint8 (b, H, W, C), at most ``size`` at a time. Raises as :meth:`take` does."""
        batches = [np.arange(a, min(a + size, len(self.labels))) for a in range(0, len(self.labels), size)]
        self.ahead(map(Asked, batches))
        yield from map(self.take, batches)

    def ahead(self, batches: Iterable[Asked]) -> None:
        """Say which images will be taken next, batch by batch; see :meth:`EncodedFile.ahead`."""
        if isinstance(self.file, EncodedFile):
            self.file.ahead(batches)

    def counts(self, classes: Iterable[str]) -> dict[str, int]:
        """How many images each class has."""
        return sampling.class_counts(self.labels, list(classes))


@dataclass(frozen=True)
class Facts:
    """What is known of a data set without opening its images; small enough to be sent to other processes."""

    classes: tuple[str, ...]
    shape: tuple[int, int, int]  # (height, width, channels) of every image
    val_images: int
    sha256: str
    skipped: tuple[dict[str, str], ...]
    folder: Path
    reading: Reading = field(default_factory=Reading)
    images: int = 0  # of both splits

    def kept(self) -> str:
        """A sentence about how the images are kept."""
        if self.reading.stored is not None:
            return self.reading.stored.line()
        return f"Kept as pixels: {counted(self.images, 'image')} in {size(self.images * math.prod(self.shape))}."


@dataclass(frozen=True)
class Dataset:
    """Both splits of a data set.

    ``mean`` and ``std`` are per channel over the training pixels, in [0, 255]. ``sha256`` identifies classes, labels and
    pixels, whatever kind of file they came from.
    """

    classes: tuple[str, ...]
    train: Images
    val: Images
    mean: tuple[float, ...]
    std: tuple[float, ...]
    sha256: str
    skipped: tuple[dict[str, str], ...]
    folder: Path
    reading: Reading
    check: Check  # of the files: how far it has come, and what it has found

    @property
    def shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of every image."""
        h, w, c = self.train.shape[1:]
        return int(h), int(w), int(c)

    @property
    def kind(self) -> str:
        """How the images are kept: ``pixels`` or ``encoded``."""
        return storing.PIXELS if self.reading.stored is None else storing.ENCODED

    @property
    def facts(self) -> Facts:
        """The same without the images."""
        n, val = len(self.train.labels), len(self.val.labels)
        return Facts(self.classes, self.shape, val, self.sha256, self.skipped, self.folder, self.reading, n + val)

    def settle(self) -> str | None:
        """Finish the check of the files. Returns what is wrong, for people; then the next training decodes the images again."""
        self.check.finish()
        return None if self.check.fault is None else integrity.given_up(self.folder, self.check.fault)


def load(
    data: DataSection,
    cache_dir: str | Path,
    progress: Progress | None = None,
    tell: Callable[[str], None] | None = None,
    known: Known | None = None,
    audited: bool = True,
    least: int = 2,
) -> Dataset:
    """The data set of a configuration; decoded now unless a process of this machine has decoded it before.

    Args:
        data: what to read and how.
        cache_dir: folder that holds the caches.
        progress: called with (images decoded, images in all).
        tell: called with a sentence where images are decoded again, and why.
        known: hashes of the images whose role an ancestor has fixed, where a split is made here.
        audited: also hash the bytes of sealed images, where that was not done before.
        least: how many classes or labels the data must have.

    Raises:
        DataError: the data cannot be read (see :func:`raysweep.data.build.build`), or the cache cannot be written.
    """
    source = open_source(data)
    base, fingerprint = user_path(cache_dir), asked(source.fingerprint, data)
    there = (reopen(base / key(fingerprint, data, known, kind)) for kind in storing.kinds(data))
    found = next((cached for cached in there if cached is not None and cached.reading.suits(data.cache)), None)
    if found is None:
        way = build.settled(asked(source.listing, data), data, base, least)
        folder = base / key(fingerprint, data, known, way.kind)
        found = _built(source, folder, data, way, progress, tell, known, audited)
    build.check_classes(found.classes, data, least)
    folder = found.folder
    if audited and found.reading.seal is not None and not found.reading.seal.sha256:
        found = _sealed_now(source, folder, data)
    told = asked(source.told, data)
    return found if told is None else replace(found, reading=found.reading.with_told(*told))


def load_as(
    data: DataSection,
    cache_dir: str | Path,
    sha256: str | None,
    known: Known | None,
    progress: Progress | None = None,
    tell: Callable[[str], None] | None = None,
    audited: bool = True,
) -> Dataset:
    """As :func:`load`; where a split is made here and the images are others than before, every image that had a role keeps it.

    Args:
        sha256: of the data before; None: not known.
        known: hashes of the images that had a role; None: not known.
    """
    found = load(data, cache_dir, progress, tell, audited=audited)
    if known is None or not found.reading.own_split or found.sha256 == sha256:
        return found
    return load(data, cache_dir, progress, tell, known, audited)


def _built(
    source: Chosen,
    folder: Path,
    data: DataSection,
    way: Way,
    progress: Progress | None,
    tell: Callable[[str], None] | None,
    known: Known | None,
    audited: bool,
) -> Dataset:
    """The cache in ``folder``, made now unless another process does."""
    from filelock import FileLock

    base, name = folder.parent, folder.name
    try:
        base.mkdir(parents=True, exist_ok=True)
        with FileLock(str(base / f"{name}.lock")):
            cached = reopen(folder, tell)  # another process may have built it while this one waited
            if cached is not None:
                return cached
            for left in (folder, *base.glob(f".tmp-{name}-*")):  # a damaged cache, or the leftovers of a killed builder
                shutil.rmtree(left, ignore_errors=True)
            listing = asked(source.listing, data)
            if tell is not None and (older := _older(base, listing)):
                tell(older)
            temp = base / f".tmp-{name}-{secrets.token_hex(4)}"
            temp.mkdir()  # unlike tempfile's, open to whom the umask allows
            try:
                build.build(temp, data, listing, way, progress, known, audited)
                os.rename(temp, folder)
            finally:
                shutil.rmtree(temp, ignore_errors=True)
    except OSError as error:
        raise DataError(
            f"The image cache {folder} cannot be written: {error.strerror or error}. "
            "Free space, or name another folder with data.cache_dir."
        ) from None
    return _again(folder)


def _sealed_now(source: Chosen, folder: Path, data: DataSection) -> Dataset:
    """The cache in ``folder`` with the hashes of the sealed images, which nobody needed before."""
    from filelock import FileLock

    listing = asked(source.listing, data)
    try:
        with FileLock(str(folder.parent / f"{folder.name}.lock")):
            build.seal_later(folder, listing)
    except OSError as error:
        raise DataError(f"The image cache {folder} cannot be written: {error.strerror or error}. Free space.") from None
    return _again(folder)


def _again(folder: Path) -> Dataset:
    found = reopen(folder)
    if found is None:
        raise DataError(f"The image cache {folder} was damaged right after it was written. Delete it and try again.")
    return found


def _older(base: Path, listing: Listing) -> str | None:
    """A sentence about caches that older versions have made of these data, as far as one can tell; None if there is none."""
    names = []
    for file in sorted(base.glob(f"*/{META}")):
        try:
            meta = json.loads(file.read_text(encoding="utf-8"))
            images = sum(shape[0] for shape in meta["shapes"].values()) + len(meta["skipped"])
            same = meta["classes"] == list(listing.classes) and images == len(listing.train) + len(listing.val or [])
            if same and "hash" not in meta:
                names.append(file.parent.name)
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            continue
    if not names:
        return None
    return (
        f"The images are decoded once more, because an older raysweep has written {join_names(names)} in {base} without "
        "hashes to check them by. That is not used any more; you may delete it."
    )


def key(fingerprint: str, data: DataSection, known: Known | None = None, kind: str = storing.PIXELS) -> str:
    """The name of the cache's folder: a hash of everything that its content depends on."""
    keys = "image_size channels val_fraction split_seed on_bad_image duplicates val min_val max_val group"
    options = [getattr(data, key) for key in keys.split()]
    options += [] if data.folds is None else [data.folds, data.fold]
    options += ["multi_label"] if data.multi_label else []
    if (fitted := storing.geometry_of(data)) != USUAL:  # older caches have names without it
        options += fitted
    options += [kind, data.large] if kind == storing.ENCODED else []
    fixed = [] if known is None else [hashlib.sha256(part.tobytes()).hexdigest() for part in (known.train, known.val)]
    return hashlib.sha256(json.dumps([VERSION, fingerprint, *options, *fixed]).encode()).hexdigest()[:20]


def asked(question: Callable[[], T], data: DataSection) -> T:
    """The answer of a source. The source reads files for it, and any of them may be missing or not readable."""
    try:
        return question()
    except OSError as error:
        raise DataError(
            f"{error.filename or data.path} cannot be read: {error.strerror or error}. Check the path and its permissions."
        ) from None


def reopen(folder: str | Path, tell: Callable[[str], None] | None = None) -> Dataset | None:
    """The cache in a folder, checked for two seconds; the rest of the check is left to the caller.

    Args:
        tell: called with a sentence where there is a cache that cannot be used.

    Returns:
        None if there is no cache, or if it is damaged or lacks hashes.
    """
    folder = Path(folder)
    why: object
    try:
        found = _opened(folder)
        found.check.run(CHECKED_AT_ONCE_S)
        if found.check.fault is None:
            return found
        why = found.check.fault
    except FileNotFoundError as error:
        if not (folder / META).exists():
            return None
        why = f"{Path(error.filename).name} is missing"
    except UnsignedError:
        why = "it has no hashes"
    except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError) as error:
        why = error
    if tell is not None:
        tell(f"The image cache {folder} is damaged ({truncate(why, 200)}). Its images are decoded again.")
    return None


def find(cache_dir: str | Path, sha256: str) -> Dataset | None:
    """The data set with this hash, if it was decoded into ``cache_dir`` and is still there."""
    for meta in sorted(user_path(cache_dir).glob(f"*/{META}")):
        try:
            same = json.loads(meta.read_text(encoding="utf-8"))["sha256"] == sha256
        except (OSError, ValueError, LookupError, TypeError):
            continue
        if same and (found := reopen(meta.parent)) is not None:
            return found
    return None


def digests(data: Dataset, split: str) -> np.ndarray:
    """A hash of each image's pixels, S32 (n,), in the order of the split."""
    found: np.ndarray = np.load(data.folder / places.digests(split))
    return found


def holds(data: Dataset, split: str, i: int, digest: bytes) -> bool:
    """Whether image ``i`` of a split is the one with this hash of its pixels, decoded whole. Raises what reading it raises."""
    images = data.train if split == "train" else data.val
    if data.kind == storing.ENCODED:  # whose bytes are checked when they are read
        return bool(digests(data, split)[i] == digest)
    return hashlib.blake2b(images.one(i).tobytes(), digest_size=16).hexdigest().encode() == digest


def holdout_and_pool(data: Dataset, section: SamplingSection, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(training images that are held out, those that may be shown): positions, int64, ascending."""
    labels = data.train.labels
    held = None
    if section.holdout:
        held = holdout.members(digests(data, "train"), labels, section.holdout, seed)
    members = sampling.pool(labels, data.classes, section.sample_per_class, seed, held)
    return np.flatnonzero(held if held is not None else np.zeros(len(labels), dtype=bool)), members


def names(data: Dataset, split: str) -> list[str]:
    """The name of each image, in the order of the split."""
    found: list[str] = json.loads((data.folder / places.names(split)).read_text(encoding="utf-8"))
    return found


def files(data: Dataset, split: str) -> np.ndarray:
    """A hash of each image's bytes, S32 (n,), in the order of the split; of the sealed images (``sealed``) in no order. Empty where
    an earlier version decoded the images."""
    path = data.folder / places.files(split)
    if not path.exists():
        return np.zeros({"train": len(data.train.labels), "val": len(data.val.labels)}.get(split, 0), dtype="S32")
    found: np.ndarray = np.load(path)
    return found


def groups(data: Dataset, split: str) -> np.ndarray | None:
    """The number of each image's group, int64 (n,), in the order of the split; None without ``data.group``."""
    path = data.folder / places.groups(split)
    return np.load(path) if path.exists() else None


def _opened(folder: Path) -> Dataset:
    """The cache in a folder, not checked yet. Raises what damaged files raise."""
    meta = integrity.read_signed(folder / META)
    reading = Reading.from_json(meta["reading"])
    sets = multi_label.table(meta)
    parts = {part: opened(folder, part, meta["shapes"][part], reading.stored, sets) for part in ("train", "val")}
    # what is read whole in a moment is checked whole, everything else image by image
    read_alone = {places.images(part) for part, images in parts.items() if images.nbytes > CHECKED_WHOLE}
    return Dataset(
        tuple(meta["classes"]),
        parts["train"],
        parts["val"],
        tuple(meta["mean"]),
        tuple(meta["std"]),
        meta["sha256"],
        tuple(meta["skipped"]),
        folder,
        reading,
        integrity.Check(folder, {name: h for name, h in meta["hashes"].items() if name not in read_alone}),
    )


def opened(
    folder: Path, part: str, shape: Sequence[int], stored: Stored | None, sets: np.ndarray | None = None
) -> Images:
    """One split of a cache, not checked yet; ``sets`` as :func:`multi_label.table` gives it. Raises what damaged files raise."""
    if stored is None:
        large = math.prod(shape) > CHECKED_WHOLE
        digests = np.load(folder / places.digests(part)) if large else None
        file: ImageFile | EncodedFile = ImageFile(folder / places.images(part), digests)
    else:
        file = EncodedFile(folder, part, tuple(shape), stored)
    labels = np.load(folder / places.labels(part))
    if list(file.shape) != list(shape) or len(labels) != shape[0]:
        raise ValueError(f"{part} has another number of images than recorded")
    return Images(file, labels if sets is None else sets[labels])
