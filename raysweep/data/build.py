"""Build a cache: decode every image, sort the images, split them, and write the arrays that all processes share."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np

from raysweep.config.settings import DataSection
from raysweep.data import (
    ahead,
    arrays,
    copies,
    decode,
    integrity,
    multi_label,
    pillow,
    places,
    sampling,
    storing,
    writers,
)
from raysweep.data.listing import Item, Listing, unpacked
from raysweep.data.pillow import Decoded, Geometry
from raysweep.data.reading import UNDECODED, Cropped, LeftOut, Reading, Seal, most_common
from raysweep.data.roles import groups, seal
from raysweep.data.roles.sides import Hashed, Known, sided, without_copies
from raysweep.data.storing import Way
from raysweep.data.writers import Made, Writer
from raysweep.errors import DataError

MAX_REPORTED = 10  # undecodable images that an error names
_REPORT_EVERY = 100  # images between two calls of ``progress``
_NONE = np.empty((0, 0, 0), dtype=np.uint8)  # pixels that are written, and not kept in memory

Progress = Callable[[int, int], None]


@dataclass
class _Seen:
    """What decoding has met, image by image."""

    bad: dict[int, str] = field(default_factory=dict)  # position of an image that cannot be decoded → why
    cut: dict[int, float] = field(default_factory=dict)  # position of a cropped image → per cent of its area
    transparent: int = 0
    several: int = 0
    modes: Counter[str] = field(default_factory=Counter)
    sizes: Counter[str] = field(default_factory=Counter)

    def add(self, i: int, found: Decoded) -> None:
        if found.cut_percent:
            self.cut[i] = found.cut_percent
        self.transparent += found.transparent
        self.several += found.several
        self.sizes[found.size] += 1
        if found.mode is not None:
            self.modes[found.mode] += 1

    def reading(
        self, listing: Listing, items: list[Item], validation: Mapping[str, int], geometry: Geometry
    ) -> Reading:
        cropped = None
        if self.cut:
            most = max(self.cut, key=self.cut.__getitem__)
            mean = sum(self.cut.values()) / len(self.cut)
            cropped = Cropped(len(self.cut), mean, self.cut[most], items[most].name)
        bad = {UNDECODED: LeftOut.of(items[i].name for i in self.bad)} if self.bad else {}
        modes = dict(sorted(self.modes.items()))
        return Reading(
            {**listing.left_out, **bad},
            cropped,
            self.transparent,
            modes,
            validation,
            notes=listing.notes,
            several=self.several,
            on_test=listing.on_test,
            sizes=most_common(self.sizes),
            own_split=listing.val is None,
            fit=geometry.fit,
            background=geometry.background,
        )


@dataclass(frozen=True)
class _Decoded:
    """All images of a source, in the source's order; the entries of an image that cannot be decoded are zero."""

    writer: Writer
    digests: np.ndarray  # S32 (n,): a hash of each image's pixels
    files: np.ndarray  # S32 (n,): a hash of each image's bytes
    seen: _Seen


def settled(listing: Listing, data: DataSection, base: Path, least: int = 2) -> Way:
    """How the images of a data set will be kept.

    Args:
        base: the folder of all caches.
        least: as :func:`check_classes` takes it.

    Raises:
        DataError: no images, too few classes, or images of several sizes.
    """
    items = listing.train + (listing.val or [])
    if not items:
        raise DataError(f"{data.path or data.source} holds no images. Add some, or correct data.path.")
    check_classes(listing.classes, data, least)
    with pillow.quiet(), _threads() as pool:
        return storing.choose(data, items, _form(items, data, pool), base)


def check_classes(classes: Sequence[str], data: DataSection, least: int = 2) -> None:
    """Raises DataError for fewer than ``least`` classes or labels: two for a training, one where a network is evaluated."""
    if len(classes) >= least:
        return
    what, where = "label" if data.multi_label else "class", data.path or data.source
    if not classes:
        raise DataError(
            f"{where}: no image has a {what}. Give some images one, or correct data.path; columns of 0 and 1 are named by data.labels=[…]."
        )
    if data.multi_label:
        raise DataError(
            f"{where} has a single label ({classes[0]!r}), but a classifier needs at least two. A single yes or no is two classes: give the list a "
            "column label with a name for either, and omit data.multi_label."
        )
    raise DataError(
        f"{where} has a single class ({classes[0]!r}), but a classifier needs at least two. Add images of another class, or correct data.path."
    )


def build(
    folder: Path,
    data: DataSection,
    listing: Listing,
    way: Way,
    progress: Progress | None,
    known: Known | None = None,
    audited: bool = True,
) -> None:
    """Write the images of a data set, and ``meta.json`` last, into an empty folder.

    Args:
        way: as :func:`settled` gives it.
        progress: called with (images decoded, images in all).
        known: hashes of images whose role is fixed.
        audited: whether the bytes of sealed images are hashed now; else :func:`seal_later` does it. They always are where their
            training copies are to be taken out.

    Raises:
        DataError: undecodable images, a class or a split without images, or too little space.
        OSError: the folder cannot be written.
    """
    items = listing.train + (listing.val or [])
    out = writers.writer(folder, len(items), way)
    with pillow.quiet(), arrays.space(folder, out.needed(items)):
        decoded = _decode_all(out, items, way, progress)
        sealed = seal.digests(listing.test) if audited or data.duplicates == copies.DROP_TRAIN else None
        _write(folder, data, listing, decoded, way, sealed, known)


def _threads() -> ThreadPoolExecutor:
    """PIL decodes outside the GIL."""
    return ThreadPoolExecutor(max_workers=min(16, (os.cpu_count() or 2) + 2))


def _write(
    folder: Path,
    data: DataSection,
    listing: Listing,
    decoded: _Decoded,
    way: Way,
    sealed: np.ndarray | None,
    known: Known | None,
) -> None:
    """Write both splits and the record of them."""
    items = listing.train + (listing.val or [])
    seen = decoded.seen
    if seen.bad and data.on_bad_image == "error":
        raise _undecodable(items, seen.bad, data)
    labels = np.array([item.label for item in items], dtype=np.int64)
    of_group = groups.numbered(items)
    strata, names = (labels, listing.classes) if listing.sets is None else multi_label.strata(listing, labels, seen.bad)
    has = multi_label.labels_of(listing, labels)
    hashed = Hashed(strata, decoded.digests, decoded.files, frozenset(seen.bad), of_group, has, listing.classes)
    stratified = listing._replace(classes=names)
    sides = sided(hashed, stratified, data, known)
    parts, dropped = without_copies(sides.parts, hashed, stratified, data, sealed)
    train, val = parts["train"], parts["val"]
    found = copies.groups(decoded.digests[train], labels[train], decoded.digests[val], labels[val])
    of_copies = None if listing.sets is None else [[items[i].name for i in part] for part in (train, val)]
    counted = copies.count(found, labels[train], labels[val], listing.kinds, dropped, of_copies)
    told = {} if listing.sets is None else {"sets": listing.sets}
    identity = hashlib.sha256(json.dumps(listing.classes).encode() + (json.dumps(told).encode() if told else b""))
    for part, index in parts.items():
        _write_split(folder, part, index, decoded, labels, items, of_group)
        identity.update(labels[index].tobytes())
        identity.update(decoded.digests[index].tobytes())
        identity.update(decoded.writer.identity(index))
    decoded.writer.divide(parts)
    of_seal = Seal(len(listing.test), "") if listing.test else None
    if sealed is not None and of_seal is not None:
        np.save(folder / places.SEALED, sealed)
        files = {part: decoded.files[index] for part, index in parts.items()}
        of_seal = seal.of_items(listing.test, sealed, listing.kinds, files, labels[train])
    mean, std = decoded.writer.moments(parts)
    in_val = sampling.totals(multi_label.of_val(listing, labels, train, val), len(listing.classes))
    side, channels = way.form
    meta = {
        "classes": list(listing.classes),
        "shapes": {part: [len(index), side, side, channels] for part, index in parts.items()},
        "mean": mean,
        "std": std,
        "sha256": identity.hexdigest(),
        "skipped": [{"image": items[i].name, "reason": why} for i, why in seen.bad.items()],
        "reading": replace(
            seen.reading(listing, items, dict(zip(listing.classes, in_val.tolist(), strict=True)), way.geometry),
            copies=counted,
            seal=of_seal,
            prior=sides.prior,
            stored=decoded.writer.record(parts),
        ).to_json(),
        "hashes": _hashes(folder),
        **told,
    }
    integrity.write_signed(folder / places.META, meta)


def _hashes(folder: Path) -> dict[str, list[str]]:
    """Of the files of a cache, but the encoded images: each of these is checked by a hash of its own whenever it is read."""
    return {file.name: integrity.hashes(file) for file in sorted(folder.iterdir()) if file.name != places.ENCODED}


def seal_later(folder: Path, listing: Listing) -> None:
    """Hash the sealed images of a cache that was built without."""
    meta = integrity.read_signed(folder / places.META)
    sealed = seal.digests(listing.test)
    files = {part: np.load(folder / places.files(part)) for part in ("train", "val")}
    of_seal = seal.of_items(listing.test, sealed, listing.kinds, files, np.load(folder / places.labels("train")))
    temp = folder / f".tmp-{places.META}"
    np.save(folder / places.SEALED, sealed)
    meta["reading"] = replace(Reading.from_json(meta["reading"]), seal=of_seal).to_json()
    meta["hashes"][places.SEALED] = integrity.hashes(folder / places.SEALED)
    integrity.write_signed(temp, meta)
    os.replace(temp, folder / places.META)


def build_sealed(
    folder: Path, data: DataSection, listing: Listing, form: tuple[int, int], progress: Progress | None
) -> None:
    """Write the test images, and ``meta.json`` last, into an empty folder. What cannot be decoded is recorded.

    Args:
        form: (side, channels) of every image.
    """
    items = list(listing.test)
    way = storing.choose(data, items, form, folder)
    out = writers.writer(folder, len(items), way)
    with pillow.quiet(), arrays.space(folder, out.needed(items)):
        decoded = _decode_all(out, items, way, progress)
        labels = np.array([item.label for item in items], dtype=np.int64)
        good = np.array([i for i in range(len(items)) if i not in decoded.seen.bad], dtype=np.int64)
        order = good[np.lexsort((decoded.digests[good], labels[good]))]
        _write_split(folder, "test", order, decoded, labels, items, groups.numbered(items))
        out.divide({"test": order})
    stored = out.record({"test": order})
    meta = {
        "classes": list(listing.classes),
        "shapes": {"test": [len(order), form[0], *form]},
        "stored": None if stored is None else asdict(stored),
        "sha256": seal.sha256(decoded.files.tolist(), labels.tolist(), listing.kinds),
        "undecodable": [
            {"name": items[i].name, "of_class": listing.kinds[items[i].label], "reason": why}
            for i, why in decoded.seen.bad.items()
        ],
        "hashes": _hashes(folder),
        **({} if listing.sets is None else {"sets": listing.sets}),
    }
    integrity.write_signed(folder / places.META, meta)


def _decode_all(out: Writer, items: list[Item], way: Way, progress: Progress | None) -> _Decoded:
    """Decode every image, and write what is kept of it."""
    digests = np.zeros(len(items), dtype="S32")
    files = np.zeros(len(items), dtype="S32")
    seen = _Seen()

    def read(item: Item) -> tuple[Decoded | str, Made | None, bytes]:
        try:
            payload = out.source(item.content)
        except OSError as error:
            return pillow.reason(error), None, b""
        item = item._replace(payload=payload)
        found, digest = decode.decode(item, *way.form, way.geometry), seal.file_digest(item)
        if isinstance(found, str):
            return found, None, digest
        return found._replace(pixels=_NONE), out.made(payload, found), digest

    with _threads() as pool, out.open():
        for i, (result, made, files[i]) in enumerate(ahead.mapped(pool, read, unpacked(items))):
            out.add(i, made)
            if isinstance(result, str) or made is None:
                seen.bad[i] = str(result)
            else:
                digests[i] = made.digest
                seen.add(i, result)
            if progress is not None and ((i + 1) % _REPORT_EVERY == 0 or i + 1 == len(items)):
                progress(i + 1, len(items))
    return _Decoded(out, digests, files, seen)


def _form(items: list[Item], data: DataSection, pool: ThreadPoolExecutor) -> tuple[int, int]:
    """(side, channels) of the data set; headers are read only where the user leaves one of the two open."""
    if data.image_size is not None and data.channels is not None:
        return data.image_size, data.channels
    headers = [h for h in ahead.mapped(pool, decode.header, unpacked(items)) if h is not None]
    return decode.common_form(headers, data.image_size, data.channels, data.fit)


def _undecodable(items: list[Item], bad: Mapping[int, str], data: DataSection) -> DataError:
    first = "; ".join(f"{items[i].name} ({why})" for i, why in list(bad.items())[:MAX_REPORTED])
    more = f" and {len(bad) - MAX_REPORTED} more" if len(bad) > MAX_REPORTED else ""
    return DataError(
        f"{len(bad)} of {len(items)} images under {data.path} cannot be decoded: {first}{more}. Repair or remove them, or "
        "set data.on_bad_image=skip to omit them; the experiment then records which ones were skipped."
    )


def _write_split(
    folder: Path,
    part: str,
    index: np.ndarray,
    decoded: _Decoded,
    labels: np.ndarray,
    items: list[Item],
    of_group: np.ndarray | None,
) -> None:
    """Write the labels, the hashes and the names of one split."""
    np.save(folder / places.labels(part), labels[index])
    np.save(folder / places.digests(part), decoded.digests[index])
    np.save(folder / places.files(part), decoded.files[index])
    if of_group is not None:
        np.save(folder / places.groups(part), of_group[index])
    (folder / places.names(part)).write_text(json.dumps([items[i].name for i in index]), encoding="utf-8")
