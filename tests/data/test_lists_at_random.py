"""Lists at random, whose right reading is known: read rightly, in any dialect and with any form of path."""

from __future__ import annotations

import csv
import io
import shutil
import tempfile
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath, PureWindowsPath

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data.drawing import section

CLASSES = ["happy", "sad face", "café", "日本", "NA", "a,b", "c;d"]
FOLDERS = ["img", "my images", "a/b", ""]
PATHS = {
    "as it is": lambda path: path,
    "backslashes": lambda path: str(PureWindowsPath(path)),
    "another drive": lambda path: "C:\\Users\\me\\data\\" + str(PureWindowsPath(path)),
    "another machine": lambda path: "/home/somebody/data/" + path,
    "one folder more": lambda path: "data/" + path,
    "the name": lambda path: PurePosixPath(path).name,
    "an id": lambda path: PurePosixPath(path).stem,
}
HEADERS = [
    ("path", "label", "split"),
    ("Image name", "Emotion", "Usage"),
    ("image_id", "dx", "set"),
    ("Filename", "Species", "Subset"),
]
WORDS = {"train": ["train", "Training"], "val": ["val", "Valid", "dev"]}


@dataclass(frozen=True)
class Shape:
    """How a list is written."""

    rows: list[tuple[str, str]]  # (split, class)
    folder: str
    path: str
    header: tuple[str, str, str] | None
    delimiter: str
    encoding: str
    end: str
    split: bool
    empty: int  # rows without a name
    blank: bool  # an empty line in the middle
    elsewhere: bool  # the images lie beside the folder of the list


shapes = st.builds(
    Shape,
    rows=st.lists(st.tuples(st.sampled_from(["train", "val"]), st.sampled_from(CLASSES)), min_size=1, max_size=8),
    folder=st.sampled_from(FOLDERS),
    path=st.sampled_from(sorted(PATHS)),
    header=st.sampled_from([*HEADERS, None]),
    delimiter=st.sampled_from([",", ";", "\t", "|"]),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-16-le"]),
    end=st.sampled_from(["\n", "\r\n", "\r"]),
    split=st.booleans(),
    empty=st.integers(0, 2),
    blank=st.booleans(),
    elsewhere=st.booleans(),
)


def check(shape: Shape) -> None:
    from raysweep.data.sources import open_source

    split = shape.split and shape.header is not None
    if shape.elsewhere and shape.path in ("the name", "an id") and shape.folder == "a/b":
        shape = replace(shape, folder="a")  # only one folder deep, where the list says nothing of folders
    rows = [("train" if i == 0 else s, c if i else "happy") for i, (s, c) in enumerate(shape.rows)]
    rows = rows if not split else [*rows, *(("train", c) for _, c in rows)]  # every class has training images
    wanted: Counter[tuple[str, str, str]] = Counter()
    lines = []
    folder = Path(tempfile.mkdtemp())
    try:
        base = folder / ("other" if shape.elsewhere else "lists")
        (folder / "lists").mkdir()
        for i, (part, label) in enumerate(rows):
            name = f"{shape.folder}/{i:03} x.png".lstrip("/")
            (base / name).parent.mkdir(parents=True, exist_ok=True)
            (base / name).write_bytes(b"x")
            fields = [PATHS[shape.path](name), label]
            lines.append([*fields, WORDS[part][i % len(WORDS[part])]] if split else fields)
            wanted["val" if split and part == "val" else "train", label, name] += 1
        lines[2:2] = [["", "happy", "train"] if split else ["", "happy"]] * shape.empty
        out = io.StringIO()
        writer = csv.writer(out, delimiter=shape.delimiter, lineterminator=shape.end)
        if shape.header is not None:
            writer.writerow(shape.header if split else shape.header[:2])
        writer.writerow(lines[0])
        if shape.blank:
            out.write(shape.end)
        writer.writerows(lines[1:])
        file = folder / "lists" / "list.csv"
        file.write_bytes(out.getvalue().encode(shape.encoding))
        columns = {} if shape.header or shape.path != "an id" else {"columns": {"path": 1, "label": 2}}
        found = open_source(section(file, **columns)).listing()
        read: Counter[tuple[str, str, str]] = Counter()
        for part, items in (("train", found.train), ("val", found.val or [])):
            for item in items:
                inner = (file.parent / item.payload).resolve().relative_to(base.resolve())
                read[part, found.classes[item.label], str(inner)] += 1
        assert read == wanted, found.notes
        assert (found.val is not None) == (split and any(part == "val" for part, _ in rows))
        assert sum(what.count for what in found.left_out.values()) == shape.empty
    finally:
        shutil.rmtree(folder)


@given(shapes)
@settings(max_examples=20, deadline=None)
def test_a_list_is_read_rightly(shape):
    check(shape)


@pytest.mark.slow
@given(shapes)
@settings(max_examples=500, deadline=None)
def test_500_lists_are_read_rightly(shape):
    check(shape)
