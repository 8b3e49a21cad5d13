"""Where images come from: every documented layout is read, anything else is refused by file and line."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from raysweep.config.settings import DataSection
from raysweep.data import faces, parquet, pixels_csv, sources, tables
from raysweep.data.folders import FolderSource
from raysweep.data.sources import open_source
from raysweep.errors import DataError
from tests.data.drawing import FER, as_csv, as_folder, as_parquet, encoded, pictures, section

SOME = pictures({"angry": 2, "happy": 3}, {"angry": 1, "happy": 2})
IMAGE = encoded(SOME[0].pixels)


def listing(path: Path, **options):
    return open_source(section(path, **options)).listing()


def labels(items, classes) -> list[str]:
    return sorted(classes[item.label] for item in items)


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(IMAGE)


NO_LINES = [(kind, name) for kind in ("folder", "csv", "parquet") for name in ("a\nb", "a\rb", "\tb", "\x1b[2J")]


@pytest.mark.parametrize(("kind", "name"), [*NO_LINES, ("folder", "caf\udce9")])
def test_classes_that_are_no_line_of_text_are_refused(tmp_path, kind, name):
    if kind == "folder":
        touch(tmp_path / "d" / "good" / "0.png", tmp_path / "d" / name / "0.png")
        path = tmp_path / "d"
    elif kind == "csv":
        path = tmp_path / "x.csv"
        path.write_bytes(f'emotion,pixels\ngood,1 2 3 4\n"_{name}",1 2 3 4\n'.encode())
    else:
        path = write_parquet(tmp_path / "x.parquet", image=[IMAGE, IMAGE], label=["good", name])
    with pytest.raises(DataError, match=r"the name of class .* contains") as error:
        listing(path)
    assert str(error.value).isprintable()


def test_classes_of_any_writing_are_read(tmp_path):
    classes = sorted(["\u202eright to left", "עברית", "🙂 emoji", "=cmd()"])
    touch(*(tmp_path / c / "0.png" for c in classes))
    assert listing(tmp_path).classes == tuple(classes)


@pytest.mark.parametrize("name", ["x.csv", "x.parquet", "x"])
def test_a_pipe_is_refused_at_once(tmp_path, name):
    os.mkfifo(tmp_path / name)
    with pytest.raises(DataError, match=r"no regular file|neither a folder nor"):
        listing(tmp_path / name)
    with pytest.raises(DataError, match="no regular file"):
        listing(tmp_path / name, source="csv")


def test_pipes_among_images_are_left_out(tmp_path):
    touch(tmp_path / "images" / "a" / "0.png")
    os.mkfifo(tmp_path / "images" / "a" / "1.png")
    assert len(listing(tmp_path / "images").train) == 1
    (tmp_path / "shards").mkdir()
    os.mkfifo(tmp_path / "shards" / "train-0.parquet")
    write_parquet(tmp_path / "shards" / "train-1.parquet", image=[IMAGE], label=["a"])
    assert len(listing(tmp_path / "shards").train) == 1


def test_a_csv_of_gigabytes_is_refused(tmp_path):
    with open(tmp_path / "x.csv", "wb") as file:
        file.truncate(tables.MAX_BYTES + 1)
    with pytest.raises(DataError, match="larger than 2,000,000,000 bytes"):
        listing(tmp_path / "x.csv")


# Class folders


@pytest.mark.parametrize(
    ("train", "val"), [("train", "val"), ("Training", "TEST"), ("train", "validation"), ("training", "valid")]
)
def test_folders_with_a_split(tmp_path, train, val):
    found = listing(as_folder(tmp_path / "d", SOME, {"train": train, "val": val}))
    assert found.classes == ("angry", "happy")
    assert labels(found.train, found.classes) == ["angry"] * 2 + ["happy"] * 3
    assert labels(found.val, found.classes) == ["angry", "happy", "happy"]
    assert found.train[0].name == f"{train}/angry/0000.png"  # as a person would look for it


def test_folders_without_a_split(tmp_path):
    found = listing(as_folder(tmp_path / "d", [p for p in SOME if p.split == "train"], {}))
    assert (found.classes, found.val) == (("angry", "happy"), None)
    assert [i.name for i in found.train] == [
        "angry/0000.png",
        "angry/0001.png",
        *(f"happy/000{i}.png" for i in (2, 3, 4)),
    ]


def test_training_folders_alone_leave_the_split_to_the_cache(tmp_path):
    assert listing(as_folder(tmp_path / "d", SOME, {"train": "train", "val": "other"})).val is None


def test_only_images_count_in_any_case_and_depth(tmp_path):
    touch(tmp_path / "a" / "1.JPG", tmp_path / "a" / "deep" / "er" / "2.png", tmp_path / "b" / "3.webp")
    touch(
        tmp_path / "a" / "notes.txt", tmp_path / ".hidden" / "4.png", tmp_path / "b" / "Thumbs.db", tmp_path / "5.png"
    )
    (tmp_path / "b" / "folder.png").mkdir()
    found = listing(tmp_path)
    assert [i.name for i in found.train] == ["a/1.JPG", "a/deep/er/2.png", "b/3.webp"]


def test_an_empty_class_folder_is_named(tmp_path):
    as_folder(tmp_path, SOME)
    (tmp_path / "train" / "sad").mkdir()
    with pytest.raises(DataError, match="train/sad holds no image"):
        listing(tmp_path)
    (tmp_path / "train" / "fear").mkdir()
    with pytest.raises(DataError, match=r"class folders .*train/fear, .*train/sad hold no image"):
        listing(tmp_path)


def test_a_folder_without_images_says_what_it_looked_for(tmp_path):
    touch(tmp_path / "1.png")  # images, but in no class folder
    with pytest.raises(DataError, match=r"holds no images in class folders .*\.jpg.*CLASS/IMAGE"):
        listing(tmp_path)


def test_a_test_folder_without_training_images_is_refused(tmp_path):
    touch(tmp_path / "test" / "a" / "1.png")
    with pytest.raises(DataError, match="has test/ but no train/"):
        listing(tmp_path)


def test_a_class_of_validation_images_needs_training_images(tmp_path):
    as_folder(tmp_path, SOME)
    touch(tmp_path / "test" / "sad" / "1.png")
    with pytest.raises(
        DataError, match=r"no training images of class sad, only images for validation.*data\.drop=\[\"sad\"\]"
    ):
        listing(tmp_path)


def test_a_link_in_a_circle_does_not_hang(tmp_path):
    touch(tmp_path / "a" / "1.png", tmp_path / "b" / "2.png")
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    (tmp_path / "b" / "broken.png").symlink_to(tmp_path / "nowhere")
    assert [i.name for i in listing(tmp_path).train] == ["a/1.png", "b/2.png"]


# FER-2013's CSV


def test_the_csv_of_fer_2013(tmp_path):
    found = listing(as_csv(tmp_path / "fer.csv", SOME))
    assert found.classes == ("angry", "happy")
    assert labels(found.train, found.classes) == ["angry"] * 2 + ["happy"] * 3
    assert labels(found.val, found.classes) == ["angry", "happy", "happy"]
    assert np.array_equal(found.train[0].payload, SOME[0].pixels)
    assert found.train[1].name == "line 3"


def test_the_numbers_of_the_csv_are_kaggles():
    assert pixels_csv.FER_LABELS == ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
    assert {name: pixels_csv.FER_LABELS.index(name) for name in FER} == FER
    assert sorted(pixels_csv.FER_LABELS) == list(faces.CLASSES)


def test_a_csv_with_names_spaces_and_no_split(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text(" emotion ,pixels\nhappy,1 2 3 4\n sad ,5 6 7 8\n<b>,1 1 1 1\n=cmd(),2 2 2 2\nNA,3 3 3 3\n")
    found = listing(path)
    assert found.classes == ("<b>", "=cmd()", "NA", "happy", "sad")  # text as it is: NA is no missing value
    assert found.val is None
    assert next(i for i in found.train if i.name == "line 3").payload.tolist() == [[5, 6], [7, 8]]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "is empty"),
        ('emotion,pixels\n0,"1 2', "cannot be read as CSV"),
        ("emotion,pixels\n0,1 2 3 4\n0,1 2 3 4,Training\n", "cannot be read as CSV"),
        ("emotion,pixels\n0,1 2 3 4,Training\n3,1 2 3 4,Training\n", "more fields than its first line has names"),
        ("label,pixels\n0,1\n", r"lacks the column emotion: it has label, pixels\. FER-2013's columns"),
        ("a,b\n0,1\n", r"no column for the image .*its columns are a, b\. Its first row is 0, 1\. .*data\.columns="),
        ("emotion,pixels\n0,1 2 3 4\n7,1 2 3 4\n", "line 3: emotion 7 is not one of 0 to 6 .*neutral"),
        ("emotion,pixels\n0,1 2 3 4\n,1 2 3 4\n", "line 3: the column emotion is empty"),
        ("emotion,pixels\n" + "1" * 5000 + ",1 2 3 4\n", "line 2: emotion 111.* is not one of 0 to 6"),
        ("emotion,pixels\n" + "x" * 5000 + ",1 2 3 4\n", "line 2: the name of class .* has 5,000 characters"),
        ("emotion,pixels\n0,1 2 3 4\n²,1 2 3 4\n9,1 2 3 4\n", "line 4: emotion 9"),
    ],
)
def test_an_unreadable_csv_is_refused_by_line(tmp_path, text, told):
    path = tmp_path / "x.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=told) as caught:
        listing(path)
    assert str(path) in str(caught.value)


def test_binary_rubbish_is_no_csv(tmp_path):
    (tmp_path / "x.csv").write_bytes(b"\xff\xfe\x00\x01" * 50)
    with pytest.raises(DataError, match=r"x\.csv"):
        listing(tmp_path / "x.csv")


@pytest.mark.parametrize("pixels", ["", "1 2 3", "1 2 x 4", "256 0 0 0", "-1 0 0 0", "1.5 0 0 0", "nan 0 0 0"])
def test_bad_pixels_are_left_for_decoding_to_report_and_never_become_others(tmp_path, pixels):
    path = tmp_path / "x.csv"
    path.write_text(f"emotion,pixels\n0,1 2 3 4\n3,{pixels}\n")
    assert listing(path).train[1].content == pixels.encode()


# Parquet


def test_parquet_shards_with_the_names_of_the_datasets_library(tmp_path):
    found = listing(as_parquet(tmp_path / "d", SOME))
    assert found.classes == ("angry", "happy")
    assert labels(found.train, found.classes) == ["angry"] * 2 + ["happy"] * 3
    assert labels(found.val, found.classes) == ["angry", "happy", "happy"]
    assert found.train[0].content == IMAGE
    assert found.val[0].name == "test-00000-of-00001.parquet row 0"


def write_parquet(path: Path, **columns) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table(columns), path)
    return path


def test_one_parquet_file_with_a_column_for_the_split(tmp_path):
    path = write_parquet(
        tmp_path / "x.parquet", img=[IMAGE] * 3, emotion=["b", "a", "a"], split=["train", "Training", "validation"]
    )
    found = listing(path)
    assert found.classes == ("a", "b")
    assert (len(found.train), len(found.val)) == (2, 1)


def test_one_parquet_file_without_a_split(tmp_path):
    found = listing(write_parquet(tmp_path / "x.parquet", image=[IMAGE] * 2, label=[0, 1]))
    assert (found.classes, found.val) == (("0", "1"), None)


@pytest.mark.parametrize(
    ("columns", "told"),
    [
        (
            {"picture": [IMAGE], "label": [0]},
            "has no column image or img or image_bytes: its columns are picture, label",
        ),
        ({"image": [IMAGE], "name": ["a"]}, "has no column label or labels or emotion"),
        ({"image": [IMAGE, IMAGE], "label": [0, None]}, "x.parquet row 1 has no label"),
    ],
)
def test_parquet_that_does_not_fit_is_refused(tmp_path, columns, told):
    with pytest.raises(DataError, match=told):
        listing(write_parquet(tmp_path / "x.parquet", **columns))


def test_a_label_without_a_name_is_refused(tmp_path, monkeypatch):
    path = write_parquet(tmp_path / "x.parquet", image=[IMAGE] * 2, label=[0, 2])
    monkeypatch.setattr(tables.ParquetTable, "class_names", lambda table, label: ["a", "b"])
    with pytest.raises(DataError, match=r"row 1: label 2 is not one of 0 to 1 \(a, b\)"):
        listing(path)


def test_rubbish_is_no_parquet_and_a_null_image_is_left_for_decoding(tmp_path):
    (tmp_path / "x.parquet").write_bytes(b"PAR1 rubbish")
    with pytest.raises(DataError, match=r"x\.parquet cannot be read as Parquet"):
        listing(tmp_path / "x.parquet")
    path = write_parquet(tmp_path / "y.parquet", image=[IMAGE, None], label=["a", "b"])
    assert listing(path).train[1].content == b""


# Which source


def test_auto_takes_what_the_path_is(tmp_path):
    kinds = {
        as_folder(tmp_path / "folder", SOME): FolderSource,
        as_csv(tmp_path / "x.CSV", SOME): pixels_csv.CsvSource,
        as_parquet(tmp_path / "shards", SOME): parquet.ParquetSource,
        write_parquet(tmp_path / "x.parquet", image=[IMAGE], label=["a"]): parquet.ParquetSource,
    }
    for path, kind in kinds.items():
        assert type(open_source(section(path)).source) is kind
    write_parquet(tmp_path / "folder" / "train" / "index.parquet", a=[1])  # images beside it: still class folders
    (tmp_path / "flat").mkdir()
    as_folder(tmp_path / "flat", SOME, {})
    write_parquet(tmp_path / "flat" / "index.parquet", a=[1])
    assert type(open_source(section(tmp_path / "flat")).source) is FolderSource
    assert type(open_source(DataSection(source="faces")).source) is sources.FacesSource
    assert type(open_source(DataSection(source="digits")).source) is sources.DigitsSource


@pytest.mark.parametrize(
    ("name", "source", "told"),
    [
        ("gone", "auto", r"data\.path: there is no .*gone \(looked in "),
        ("x.zip", "auto", r"neither a folder nor a \.csv, \.tsv, \.txt, \.jsonl, \.parquet or \.tar file"),
        ("x.txt", "folder", "is a file, but data.source is folder"),
        ("d", "csv", "is a folder, but data.source is csv"),
        ("x" * 300, "auto", r"data\.path: there is no"),
    ],
)
def test_a_path_of_another_kind_is_refused(tmp_path, name, source, told):
    (tmp_path / "x.zip").touch()
    (tmp_path / "x.txt").touch()
    (tmp_path / "d").mkdir()
    with pytest.raises(DataError, match=told):
        open_source(section(tmp_path / name, source=source))


def test_fingerprints_change_with_what_would_be_read(tmp_path):
    def print_of(path):
        return open_source(section(path)).fingerprint()

    folder = as_folder(tmp_path / "d", SOME)
    seen = [print_of(folder)]
    assert print_of(folder) == seen[0]
    image = folder / "train" / "happy" / "0002.png"
    os.utime(image, ns=(1, 1))  # written anew
    seen.append(print_of(folder))
    image.rename(folder / "train" / "angry" / "0002.png")  # another label
    seen.append(print_of(folder))
    touch(folder / "train" / "angry" / "more.png")
    seen.append(print_of(folder))
    (folder / "train" / "angry" / "more.png").unlink()
    (folder / "train" / "happy").rename(folder / "train" / "joy")
    (folder / "test" / "happy").rename(folder / "test" / "joy")
    seen.append(print_of(folder))
    for make in (as_csv, as_parquet):
        path = make(tmp_path / ("x.csv" if make is as_csv else "shards"), SOME)
        seen.append(print_of(path))
        os.utime(next(path.iterdir()) if path.is_dir() else path, ns=(1, 1))
        seen.append(print_of(path))
    assert len(set(seen)) == len(seen)


def test_the_digits_are_there_without_a_download():
    found = open_source(DataSection(source="digits")).listing()
    assert (len(found.train), found.val) == (1797, None)
    assert found.classes == tuple("0123456789")
    assert max(i.payload.max() for i in found.train) == 255


def test_the_faces_come_with_their_split(monkeypatch):
    before = open_source(DataSection(source="faces")).fingerprint()
    monkeypatch.setattr(faces, "TRAIN_IMAGES", 70)
    monkeypatch.setattr(faces, "VAL_IMAGES", 35)
    source = open_source(DataSection(source="faces"))
    assert source.fingerprint() != before
    found = source.listing()
    assert (found.classes, len(found.train), len(found.val)) == (faces.CLASSES, 70, 35)
