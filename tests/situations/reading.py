"""What the program reads in a situation, and what it says of it."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.data.drawing import encoded, pictures, section

IMAGES = [encoded(p.pixels) for p in pictures({"a": 64})]
IMAGE = IMAGES[0]


@dataclass
class Told:
    """Class → images of each split, and all that is said."""

    train: dict[str, int]
    val: dict[str, int] | None
    notes: str
    left_out: dict[str, int]  # kind → how many
    names: dict[str, list[str]] = field(default_factory=dict)  # class → its training images
    test: dict[str, int] = field(default_factory=dict)  # sealed


def plant(root: Path, files: dict[str, int | bytes | str]) -> Path:
    """Files below a folder: so many images in a folder whose name ends in a slash, or one file with this content. Of the images 64
    are different ones."""
    images = itertools.cycle(IMAGES)
    for name, content in files.items():
        if isinstance(content, int):
            (root / name).mkdir(parents=True, exist_ok=True)
            for i in range(content):
                (root / name / f"{i:02}.png").write_bytes(next(images))
        else:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return root


def read(path: Path, **options: Any) -> Told:
    """What is read of a path, as planning reads it."""
    from raysweep.data.sources import open_source

    found = open_source(section(path, **options)).listing()
    train, val, test = (
        None if items is None else dict(sorted(Counter(found.classes[i.label] for i in items).items()))
        for items in (found.train, found.val, found.test)
    )
    names: dict[str, list[str]] = {}
    for item in found.train:
        names.setdefault(found.classes[item.label], []).append(item.name)
    left_out = {kind: what.count for kind, what in found.left_out.items()}
    return Told(train or {}, val, " ".join(found.notes), left_out, names, test or {})


def refusal(path: Path, **options: Any) -> str:
    """The one paragraph with which a path is refused."""
    import pytest

    from raysweep.errors import DataError

    with pytest.raises(DataError) as error:
        read(path, **options)
    message = str(error.value)
    assert "\n" not in message
    assert str(path) in message
    return message
