"""The names of classes: compared in one Unicode form, renamed, dropped and chosen as the user says; and what they contradict.

``café`` can be written in two ways that look the same, and ``happy `` looks like ``happy``: each is one class. Names that differ
in upper and lower case alone are refused, since nobody but the user knows whether they are one class.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from raysweep._text import join_names, plain, truncate
from raysweep.config.settings import DataSection
from raysweep.data import multi_label, sizes
from raysweep.data.listing import (
    Found,
    Item,
    Listing,
    Row,
    SeveralLabelsError,
    canonical,
    check_reserved,
    class_name,
    digest,
    ordered,
)
from raysweep.data.reading import LeftOut
from raysweep.data.roles import groups, words
from raysweep.data.suspicious import combined, masks
from raysweep.errors import DataError, did_you_mean

STRANGE = "test images of classes without training images"
MAX_PAIRS = 3  # of contradicting files that a note names


def shown(names: Iterable[str]) -> str:
    """Names for a message; one that is not ASCII also with escapes, because different names may look the same."""
    return join_names(plain(n) if n.isascii() else f"{plain(n)} ({n!a})" for n in names)


class Naming:
    """What the user says of the classes: ``data.rename``, ``data.drop`` and ``data.classes``."""

    def __init__(self, data: DataSection) -> None:
        self.where = data.path or data.source
        self.rename = {canonical(old): canonical(new) for old, new in data.rename.items()}
        self.drop = [canonical(name) for name in data.drop]
        self.choice = None if data.classes is None else [canonical(name) for name in data.classes]

    def asked(self, labels: set[str] | None) -> list[object]:
        """What changes the images that are read; nothing where ``labels`` are exactly the classes chosen.

        Args:
            labels: the classes as the source writes them; None: not known yet.
        """
        chosen = None if self.choice is None else sorted(self.choice)
        if labels is not None and chosen is not None and chosen == sorted({self._renamed(n) for n in labels}):
            chosen = None
        return [value for value in (sorted(self.rename.items()), self.drop, chosen) if value]

    def _renamed(self, name: str) -> str:
        name = canonical(name)
        return self.rename.get(name, name)

    def applied(self, found: Found) -> tuple[Found, list[str]]:
        """The images with the names of the classes that are used, and what is to be said of it.

        Raises:
            DataError: the user names a class that is not there, or two names differ in case alone.
        """
        every = [*found.train, *(found.val or []), *found.test]
        written = {row.label for row in every}
        names = {label: class_name(canonical(label), self.where) for label in written}
        self._check_known("data.rename", self.rename, set(names.values()))
        final = {label: self.rename.get(name, name) for label, name in names.items()}
        self._check_known("data.drop", self.drop, {*names.values(), *final.values()})
        gone = {label for label in written if final[label] in self.drop or names[label] in self.drop}
        kept = {final[label] for label in written - gone}
        check_reserved(sorted(kept), self.where)
        self._check_case(Counter(final[r.label] for r in every if r.label not in gone))
        if self.choice is None:
            self._check_combined(kept)
        left_out = dict(found.left_out)
        notes = _merged(final, gone)
        if self.choice is not None:
            self._check_choice(kept)
            gone |= {label for label in written if final[label] not in self.choice}
        found, dropped = self._rows(found, final, gone)
        known = {row.label for row in [*found.train, *(found.val or [])]}
        strange = [row.name for row in found.test if row.label not in known]
        if strange and found.train:
            left_out[STRANGE] = LeftOut.of(strange)
            found = replace(found, test=[row for row in found.test if row.label in known])
        if dropped:
            each = ", ".join(f"{n:,} {plain(name)}" for name, n in sorted(dropped.items()))
            left_out[f"images of classes that are not used ({truncate(each, 300)})"] = LeftOut(sum(dropped.values()))
        return replace(found, left_out=left_out), notes

    @staticmethod
    def _rows(found: Found, final: Mapping[str, str], gone: set[str]) -> tuple[Found, Counter[str]]:
        dropped: Counter[str] = Counter()
        parts: dict[str, list[Row]] = {}
        for role, rows in (("train", found.train), ("val", found.val or []), ("test", found.test)):
            dropped.update(final[row.label] for row in rows if row.label in gone)
            parts[role] = [row._replace(label=final[row.label]) for row in rows if row.label not in gone]
        val = None if found.val is None else parts["val"]
        return replace(found, train=parts["train"], val=val, test=parts["test"]), dropped

    def _check_known(self, option: str, names: Iterable[str], known: set[str]) -> None:
        missing = [name for name in names if name not in known]
        if missing:
            raise DataError(
                f"{option} names {shown(missing)}; {self.where} has {shown(ordered(known))}.{did_you_mean(missing[0], known)} "
                "Correct the name, or remove it."
            )

    def _check_choice(self, kept: set[str]) -> None:
        missing = [name for name in self.choice or [] if name not in kept]
        if missing:
            raise DataError(
                f"data.classes names {shown(missing)}; the data have {shown(ordered(kept))}. Name only classes of the data, in "
                "the order of the network's outputs; images of classes that are not named are left out."
            )

    def _check_combined(self, kept: set[str]) -> None:
        """Raises DataError where names are several classes at once, as in a data set with several classes for an image."""
        several = combined(kept)
        if several:
            each = "; ".join(f"{plain(name)} is {shown(parts)}" for name, parts in sorted(several.items())[:3])
            single = json.dumps([name for name in ordered(kept) if name not in several], ensure_ascii=False)
            leave = f" 'data.classes={single}' would leave these images out." if len(several) < len(kept) else ""
            raise SeveralLabelsError(
                f"{self.where} has {len(several):,} class{'es' * (len(several) > 1)} that seem{'s' * (len(several) == 1)} to be several "
                f"at once: {each}{' …' * (len(several) > 3)}. If an image may have several labels, say data.multi_label=true. If each of these is a class of its "
                f"own, name all classes with data.classes.{leave}"
            )

    def _check_case(self, counts: Counter[str]) -> None:
        """Raises DataError where names differ in upper and lower case alone."""
        alike: dict[str, list[str]] = {}
        for name, _ in counts.most_common():
            alike.setdefault(name.casefold(), []).append(name)
        several = [names for names in alike.values() if len(names) > 1]
        if several:
            rename = {other: names[0] for names in several for other in names[1:]}
            each = "; ".join(", ".join(f"{plain(n)} ({counts[n]:,} images)" for n in names) for names in several[:5])
            line = json.dumps({**self.rename, **rename}, ensure_ascii=False)
            raise DataError(
                f"{self.where} has classes whose names differ in upper and lower case alone: {each}. If they are one class, add "
                f"'data.rename={line}'; else rename one of them to something else."
            )


def _merged(final: Mapping[str, str], gone: set[str]) -> list[str]:
    """Which classes are written in several ways that look the same, or were renamed."""
    forms: dict[str, list[str]] = {}
    for label in sorted(final.keys() - gone):
        forms.setdefault(final[label], []).append(label)
    several = {name: labels for name, labels in forms.items() if len(labels) > 1}
    return [f"Read as one class {plain(name)}: {join_names(map(ascii, labels))}." for name, labels in several.items()]


class Chosen:
    """A source, with what the user wants of its classes: what :func:`~raysweep.data.sources.open_source` returns."""

    def __init__(self, source: object, data: DataSection, notes: Iterable[str] = ()) -> None:
        """
        Args:
            notes: what is to be said of how the source was found.
        """
        self.source = source
        self.naming = Naming(data)
        self.image_size = data.image_size
        self.asked = data.val
        self.group = data.group
        self.notes = tuple(notes)
        self.data = data
        self._listing: Listing | None = None

    def fingerprint(self) -> str:
        """A text that changes whenever the data or the choice of classes change; computed without reading all images."""
        labels = None if self.data.multi_label else getattr(self.source, "labels", lambda: None)()
        print_of_all: str = self.source.fingerprint()  # type: ignore[attr-defined]
        asked = self.naming.asked(labels)
        return digest([print_of_all, asked]) if asked else print_of_all

    def told(self) -> tuple[Mapping[str, LeftOut], tuple[str, ...]] | None:
        """What is left out and to be said now; None where only reading all images would tell."""
        if getattr(self.source, "labels", None) is None:
            return None
        listing = self.listing()
        return listing.left_out, listing.notes

    def listing(self) -> Listing:
        """All images, not yet decoded, with the number of each one's class.

        Raises:
            DataError: the names of the classes are not plain, or a class has no training images.
        """
        if self._listing is not None:
            return self._listing
        read: Found = words.settled(self.source.found(), self.asked)  # type: ignore[attr-defined]
        if self.data.multi_label:
            found = groups.assigned(read, self.group, self.naming.where)
            every = (*self.notes, *found.notes, *_repeated(found, several=True), *masks(found))
            self._listing = multi_label.listing(found, self.data, every)
            return self._listing
        try:
            found, notes = self.naming.applied(read)
            found = groups.assigned(found, self.group, self.naming.where)
        except DataError as error:
            files = [row.payload for row in read.train if isinstance(row.payload, Path)]
            some = files[:: len(files) // 2000 + 1]  # from all parts of a list
            raise type(error)(f"{error}{sizes.advice(self.image_size, some)}") from None
        parts = (found.train, found.val, found.test)
        classes = ordered({row.label for rows in parts for row in rows or []})
        lacking = ordered({row.label for row in found.val or []} - {row.label for row in found.train})
        if lacking and found.train:
            line = json.dumps(list(lacking), ensure_ascii=False)
            raise DataError(
                f"{self.naming.where}: there are no training images of class {shown(lacking)}, only images for validation. Add "
                f"some, or leave the class out with 'data.drop={line}'."
            )
        index = {c: i for i, c in enumerate(classes)}
        train, val, test = (
            None if r is None else [Item(x.name, index[x.label], x.payload, x.group) for x in r] for r in parts
        )
        every = (*self.notes, *found.notes, *notes, *_repeated(found), *masks(found))
        self._listing = Listing(classes, train or [], val, found.left_out, every, test or [], found.on_test)
        return self._listing


def _repeated(found: Found, several: bool = False) -> list[str]:
    """Files that are read several times: under two classes, in training and validation, or twice in the same place.

    Args:
        several: an image has several labels, and a row's label is a set of them.
    """
    words = multi_label.in_words if several else plain
    differs = "there with different labels" if several else "in two classes"
    seen: dict[tuple[int, int], tuple[str, str, str]] = {}
    pairs: dict[str, list[str]] = {
        differs: [],
        "both in training and validation": [],
        "both for testing and for something else": [],
        "read more than once": [],
    }
    for split, rows in (("train", found.train), ("val", found.val or []), ("test", found.test)):
        for row in rows:
            if not isinstance(row.payload, Path):
                continue
            try:
                status = os.stat(row.payload)
            except OSError:  # decoding will report it
                continue
            key = (status.st_dev, status.st_ino)
            label, other, name = seen.setdefault(key, (row.label, split, row.name))
            if name is row.name:
                continue
            kind = differs if label != row.label else "both in training and validation"
            if split == "test" and other != split:
                kind = "both for testing and for something else"
            kind = "read more than once" if (label, other) == (row.label, split) else kind
            labels = f" as {words(label)} and {words(row.label)}" if label != row.label else ""
            same = "" if name == row.name and labels else f" is {truncate(row.name, 80)}"
            pairs[kind].append(f"{truncate(name, 80)}{same}{labels}")
    return [
        f"{len(some):,} file{'s are' if len(some) > 1 else ' is'} {kind}: {'; '.join(some[:MAX_PAIRS])}{' …' * (len(some) > MAX_PAIRS)}."
        for kind, some in pairs.items()
        if some
    ]
