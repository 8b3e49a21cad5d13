"""What was read of a data set and how: what was left out, cropped, put on white or converted. Plan, terminal and log tell it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from raysweep._text import join_names, plain, truncate
from raysweep.data.copies import Copies
from raysweep.data.stored import Stored

UNDECODED = "images that cannot be decoded"
ON_TEST = (
    "Chosen on the test images (data.val=test): they are the validation images, so what is best on them is less good on others, and no "
    "sealed images are left to say how good."
)
FEW = 10  # validation images of a class
MAX_SIZES = 12  # that are told apart
OTHER_SIZES = "other sizes"
_ONE = {
    "hidden and system files": "hidden or system file",
    "pipes, sockets and devices": "pipe, socket or device",
    "rows and files of test images without a class": "row or file of a test image without a class",
    "files that are no images": "file that is no image",
}
_NOUN = re.compile(r"(.*?\b(?:image|file|row|link|folder))s\b")
_VERBS = {" that are ": " that is ", " that lead ": " that leads ", " that name ": " that names "}
MAX_EXAMPLES = 3  # of each kind of thing that was left out


@dataclass(frozen=True)
class LeftOut:
    """Things of one kind that lie in the data and were not read."""

    count: int
    examples: tuple[str, ...] = ()  # at most three of them, as paths relative to ``data.path``

    @classmethod
    def of(cls, names: Iterable[object]) -> LeftOut:
        """All of these, with the first three as examples."""
        every = [str(name) for name in names]
        return cls(len(every), tuple(every[:MAX_EXAMPLES]))


@dataclass(frozen=True)
class Seal:
    """The sealed test images, of which only the bytes were hashed: neither their pixels nor their classes were looked at."""

    images: int
    sha256: str  # of their bytes and classes, in any order; empty: not audited
    unread: int = 0  # whose files could not be read
    in_train: int = 0  # that are byte for byte in training, too
    in_val: int = 0
    of_class: Mapping[str, int] = field(
        default_factory=dict
    )  # those in training, by the class that their copies have there

    def line(self) -> str:
        """What people should know of them."""
        if not self.sha256:
            return f"Sealed: {_images(self.images)} for testing. Whether training has copies of them is not looked at now, but when a run begins."
        copies = [f"{n:,} in {where}" for n, where in ((self.in_train, "training"), (self.in_val, "validation")) if n]
        more = f" Byte for byte the same are {' and '.join(copies)}." if copies else ""
        more += " data.duplicates=drop_train takes the training copies out." if self.in_train else ""
        more += f" The files of {self.unread:,} cannot be read." if self.unread else ""
        return f"Sealed: {_images(self.images)} for testing, not looked at until `raysweep evaluate`.{more}"


@dataclass(frozen=True)
class Cropped:
    """Images that were not square, and how much making them so has changed them; what the numbers are depends on ``Reading.fit``."""

    images: int
    # of an image's area that was cut off, of the square that is border, or by which one side was shorter; on average over these images
    mean_percent: float
    most_percent: float
    most_of: str  # the image that was changed most

    def line(self, fit: str) -> str:
        """What people should know of them."""
        several = self.images > 1
        mean = percent(self.mean_percent)
        most = f" on average, at most {percent(self.most_percent)} ({truncate(self.most_of, 80)})" if several else ""
        images = _images(self.images)
        if fit == "pad":
            return f"Put on a border: {images}, where it is {mean} of the square{most}."
        if fit == "stretch":
            return f"Stretched: {images}, whose longer {'sides shrink' if several else 'side shrinks'} by {mean} against the other{most}."
        return f"Cropped to the middle: {images}, which {'lose' if several else 'loses'} {mean} of {'their' if several else 'its'} area{most}."


@dataclass(frozen=True)
class Reading:
    """What happened to the images of a data set on their way into the training.

    ``left_out`` is known from the listing, the rest from decoding.
    """

    left_out: Mapping[str, LeftOut] = field(default_factory=dict)  # kind, in the plural, for people → what
    cropped: Cropped | None = None
    transparent: int = 0  # images with transparent pixels, which were put on the background
    modes: Mapping[str, int] = field(default_factory=dict)  # Pillow's mode, where it is neither L nor RGB(A) → images
    validation: Mapping[str, int] = field(default_factory=dict)  # class → validation images, 0 where there is none
    copies: Copies | None = None
    notes: tuple[str, ...] = ()  # how folders, lists and classes were understood, a sentence each
    several: int = 0  # animations and files with several pages, of which the first picture is used
    seal: Seal | None = None
    on_test: bool = False  # validation images are test images: whatever is chosen is chosen on them
    own_split: bool = False  # validation images are a part of the training images that was set aside here
    prior: Mapping[str, float] | None = None  # class → share in the data, where validation has other shares
    sizes: Mapping[str, int] = field(default_factory=dict)  # width × height as stored → images, see most_common
    stored: Stored | None = None  # how an encoded cache keeps the images; None: as pixels
    fit: str = "crop"  # how images that are not square became so
    background: str = "white"

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Reading:
        """What :meth:`to_json` has made.

        Raises:
            TypeError, AttributeError: it is something else.
        """
        left_out = {k: LeftOut(int(v["count"]), tuple(v["examples"])) for k, v in value["left_out"].items()}
        cropped = None if value["cropped"] is None else Cropped(**value["cropped"])
        return cls(
            left_out,
            cropped,
            int(value["transparent"]),
            dict(value["modes"].items()),
            dict(value["validation"].items()),
            None if value["copies"] is None else Copies.from_json(value["copies"]),
            tuple(value["notes"]),
            int(value.get("several", 0)),
            None if value.get("seal") is None else Seal(**value["seal"]),
            bool(value.get("on_test")),
            bool(value.get("own_split")),
            None if value.get("prior") is None else dict(value["prior"].items()),
            dict(value.get("sizes", {})),  # earlier versions did not record them
            None if value.get("stored") is None else Stored.from_json(value["stored"]),
            str(value.get("fit", "crop")),
            str(value.get("background", "white")),
        )

    def with_told(self, left_out: Mapping[str, LeftOut], notes: tuple[str, ...]) -> Reading:
        """The same with what the listing says now: files that are left out may come and go without other images."""
        bad = {kind: what for kind, what in self.left_out.items() if kind == UNDECODED}
        return replace(self, left_out={**left_out, **bad}, notes=notes)

    def suits(self, cache: str) -> bool:
        """Whether a cache is what ``data.cache`` asks for: what somebody else has asked for was not chosen."""
        return cache != "auto" or self.stored is None or bool(self.stored.why)

    def to_json(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)

    def lines(self) -> list[str]:
        """What people should know, one sentence a line; empty where everything was read as it is."""
        found = [truncate(note, 1000) for note in self.notes]
        found += [
            f"Left out: {what.count:,} {plain(kind if what.count != 1 else one(kind))}"
            + (f" ({join_names(what.examples)}{' …' * (what.count > len(what.examples))})" if what.examples else "")
            + "."
            for kind, what in self.left_out.items()
        ]
        if self.cropped is not None:
            found.append(self.cropped.line(self.fit))
        if self.transparent:
            found.append(f"Put on {self.background}: {_images(self.transparent)} with transparency.")
        if self.several:
            found.append(f"Only the first picture is used: {_images(self.several)} with several, as in animations.")
        if self.modes:
            each = ", ".join(f"{n:,} {plain(mode)}" for mode, n in self.modes.items())
            found.append(f"Converted: {_images(sum(self.modes.values()))} in other modes than gray and RGB ({each}).")
        if self.stored is not None:
            found.append(self.stored.line())
        if self.on_test:
            found.append(ON_TEST)
        if self.seal is not None:
            found.append(self.seal.line())
        if self.prior is not None:
            found.append(
                "Small classes have a larger part of the validation images than of the data: accuracy and loss are weighted back to the "
                "data's shares."
            )
        if self.copies is not None:
            found += self.copies.lines()
        without = [name for name, n in self.validation.items() if n == 0]
        if without:
            found.append(
                f"No validation images: {join_names(without)}. So nothing will be known of {'it' if len(without) == 1 else 'them'}: no part in the means "
                "over all classes, such as macro-F1 or mAP, and no verdict."
            )
        few = [f"{plain(name)} ({n})" for name, n in self.validation.items() if 0 < n < FEW]
        if few:
            least = min(n for n in self.validation.values() if n)
            found.append(
                f"Few validation images: {join_names(few)}. One image is up to {100 / least:.0f} points of its recall, so "
                "small differences of these mean nothing."
            )
        return found


def most_common(sizes: Counter[str]) -> dict[str, int]:
    """The most frequent sizes, the most frequent first, and all others together."""
    told = dict(sorted(sizes.items(), key=lambda item: (-item[1], item[0]))[:MAX_SIZES])
    rest = sizes.total() - sum(told.values())
    return told | ({OTHER_SIZES: rest} if rest else {})


def one(kind: str) -> str:
    """A kind of things that were left out, for one of them: ``image that cannot be decoded``."""
    if kind in _ONE:
        return _ONE[kind]
    found = _NOUN.match(kind)
    if found is None:
        return kind
    rest = kind[found.end() :]
    for verb, of_one in _VERBS.items():
        if rest.startswith(verb):
            rest = of_one + rest[len(verb) :]
    return f"{found[1]}{rest}"


def _images(n: int) -> str:
    return f"{n:,} image{'s' * (n != 1)}"


def percent(value: float) -> str:
    return f"{value:.0f} %" if value >= 0.5 else "less than 1 %"
