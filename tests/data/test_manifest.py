"""Tables of paths and classes: what their columns may be called, where their paths may lead, and imagefolder's own ones."""

from __future__ import annotations

import json
import os
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raysweep.data import folders, listing, tables
from raysweep.data.folders import FolderSource
from raysweep.data.listing import Listing
from raysweep.data.manifest import ManifestSource
from raysweep.data.sources import open_source
from raysweep.errors import DataError
from tests.data.drawing import as_folder, as_hub, as_imagefolder, as_manifest, encoded, pictures, section, write_table

SOME = pictures({"cat": 2, "dog": 3}, {"cat": 1, "dog": 1})
IMAGE = encoded(SOME[0].pixels)
KINDS = ["csv", "jsonl", "parquet"]


def read(path: Path, **options) -> Listing:
    return open_source(section(path, **options)).listing()


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(IMAGE)


def of(found: Listing) -> list[tuple[str, str, str]]:
    """(split, class, name) of every image, in their order."""
    parts = [("train", found.train), ("val", found.val or [])]
    return [(split, found.classes[i.label], i.name) for split, items in parts for i in items]


# Columns


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("image", tables.PATH_COLUMNS)
def test_every_name_for_the_path_and_every_kind_of_table(tmp_path, image, kind):
    found = read(as_manifest(tmp_path / f"x.{kind}", SOME, (image, "label", "split")))
    assert found.classes == ("cat", "dog")
    assert (len(found.train), len(found.val)) == (5, 2)
    assert found.train[0].payload == tmp_path / "x_files" / "0000.png"
    assert found.train[0].name == "x_files/0000.png"  # as a person would look for it


@pytest.mark.parametrize("label", ["label", "class", "emotion", "target", "Label", " CLASS "])
@pytest.mark.parametrize("split", ["split", "usage", "subset", "Usage", ""])
def test_names_for_the_class_and_the_split(tmp_path, label, split):
    columns = ("path", label, split) if split else ("path", label)
    found = read(as_manifest(tmp_path / "x.csv", SOME, columns))
    assert found.classes == ("cat", "dog")
    assert (found.val is None) == (not split)


def test_of_several_columns_the_first_in_the_documented_order_counts(tmp_path):
    touch(tmp_path / "a.png", tmp_path / "b.png")
    rows = [{"target": 1, "file": f"{c}.png", "id": 7, "filename": "no", "label": c} for c in "ab"]
    assert of(read(write_table(tmp_path / "x.csv", rows))) == [("train", "a", "a.png"), ("train", "b", "b.png")]


@pytest.mark.parametrize(
    ("word", "split"),
    [(w, "train") for w in ("train", "Training", " TRAIN ")]
    + [(w, "val") for w in ("val", "valid", "validation", "Dev", "test", "testing", "eval", "PublicTest")],
)
def test_words_for_splits(tmp_path, word, split):
    touch(*(tmp_path / f"{i}.png" for i in range(3)))
    rows = [{"path": f"{i}.png", "label": "a", "split": "train"} for i in range(2)]
    found = read(write_table(tmp_path / "x.csv", [*rows, {"path": "2.png", "label": "a", "split": word}]))
    assert of(found)[-1] == (split, "a", "2.png")


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
@pytest.mark.parametrize("word", ["", "holdout", "trian", "1"])
def test_an_unknown_word_for_a_split_is_an_error_that_names_the_line(tmp_path, word, kind):
    touch(tmp_path / "0.png")
    rows = [{"path": "0.png", "label": "a", "split": s} for s in ("train", word)]
    path = write_table(tmp_path / f"x.{kind}", rows)
    with pytest.raises(DataError, match=rf"x\.{kind}, line {3 if kind == 'csv' else 2}: the split '{word}' is none of"):
        read(path)


@pytest.mark.parametrize(
    ("columns", "told"),
    [
        (
            "path,kind",
            r"no column for the class .*its columns are path, kind\. Its first row is 0\.png, a\. .*'data\.columns=\{",
        ),
        ("kind,what", r"no column for the class .* its columns are kind, what\. "),
    ],
)
def test_a_table_that_lacks_a_column_says_what_it_found_and_the_line_to_type(tmp_path, columns, told):
    (tmp_path / "x.csv").write_text(f"{columns}\n0.png,a\n")
    with pytest.raises(DataError, match=rf"x\.csv .*{told}"):
        read(tmp_path / "x.csv")


def test_train_rows_are_needed_where_there_are_others(tmp_path):
    some = [p for p in SOME if p.split == "val"]
    with pytest.raises(DataError, match="has images for val, but none for train"):
        read(as_manifest(tmp_path / "x.csv", some))


@pytest.mark.parametrize(
    ("label", "kind", "told"),
    [
        ("", "csv", "line 3 has no label"),
        (None, "jsonl", "line 2 has no label"),
        (float("nan"), "jsonl", "line 2 has no label"),
        ([1, 2], "jsonl", r"line 2: the label \[1, 2\] is neither text nor a number"),
        ({"a": 1}, "jsonl", "neither text nor a number"),
        (10**300, "jsonl", "line 2: the label is a number of 300 digits"),
        ("x" * 300, "csv", "the name of class .* has 300 characters"),
        ("a\nb", "csv", "line 4: the name of class"),  # the line where the row ends
    ],
    ids=lambda value: str(value)[:20],
)
def test_labels_that_name_no_class(tmp_path, label, kind, told):
    touch(tmp_path / "0.png")
    rows = [{"path": "0.png", "label": "a"}, {"path": "0.png", "label": label}]
    with pytest.raises(DataError, match=told) as error:
        read(write_table(tmp_path / f"x.{kind}", rows))
    assert str(error.value).isprintable()


def test_an_unlabelled_test_set_does_not_matter_where_it_is_not_read(tmp_path):
    touch(tmp_path / "0.png")
    rows = [{"path": "0.png", "label": "a", "split": s} for s in ("train", "val")]
    path = write_table(tmp_path / "x.csv", [*rows, {"path": "gone.png", "label": "", "split": "test"}])
    assert [s for s, _, _ in of(read(path))] == ["train", "val"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("path,label\n0.png,a,b\n", "line 2 has 3 fields, but the first line names 2 columns"),
        ("path,label\n0.png\n", "line 2 has 1 field, but"),
        ("path,label\n0.png,a\n\n\n'x',\"a\n", "cannot be read as CSV"),
        ("path,label,label\n0.png,a,b\n", "the column label more than once"),
        ("path,label\n0.png,caf\udce9\n", "cannot be read as CSV: .*utf-8"),
        ("path,label\n0.png," + "x" * tables.MAX_LINE + "\n", "line 2 is longer than 1,000,000 characters"),
    ],
)
def test_malformed_csv_is_an_error_that_names_the_line(tmp_path, text, told):
    (tmp_path / "x.csv").write_text(text, encoding="utf-8", errors="surrogateescape")
    with pytest.raises(DataError, match=told):
        read(tmp_path / "x.csv")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"path": "0.png", "label": "a"}\n{"path": \n', "line 2 is no JSON"),
        ('{"path": "0.png", "label": "a"}\n\n[1]\n', r"line 3 is \[1\]"),
        ('{"path": "0.png", "label": "a"}\n' + "[" * 100_000 + "\n", "line 2 is no JSON"),
        ('{"path": "0.png", "label": ' + "1" * 5000 + "}\n", "line 1 is no JSON"),
        ('{"label": "a"}\n{"path": "", "label": "a"}\n', "has no column for the image"),
        ('{"path": " ", "label": "a"}\n{"label": "a"}\n', "line 1 names no image, and no other row does"),
        ('{"path": "0.png", "label": "a"}\n{"path": 7, "label": "a"}\n', "line 2 names no image: its path is 7"),
        ("", "is empty: it has no column path"),
    ],
)
def test_malformed_json_lines_are_an_error_that_names_the_line(tmp_path, text, told):
    touch(tmp_path / "0.png")
    (tmp_path / "x.jsonl").write_text(text)
    with pytest.raises(DataError, match=told):
        read(tmp_path / "x.jsonl")


def test_a_byte_order_mark_and_empty_lines_are_ignored(tmp_path):
    touch(tmp_path / "0.png")
    (tmp_path / "x.csv").write_bytes(b"\xef\xbb\xbfpath,label\r\n\r\n0.png , a\r\n   \r\n")
    assert of(read(tmp_path / "x.csv")) == [("train", "a", "0.png")]


def test_a_table_of_gigabytes_is_refused(tmp_path):
    for kind in ("csv", "jsonl"):
        with open(tmp_path / f"x.{kind}", "wb") as file:
            file.truncate(tables.MAX_BYTES + 1)
        with pytest.raises(DataError, match="larger than 2,000,000,000 bytes"):
            read(tmp_path / f"x.{kind}")


def test_too_many_rows_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "MAX_ROWS", 4)
    for kind in KINDS:
        with pytest.raises(DataError, match=r"more than 4 rows|declares 7 rows"):
            read(as_manifest(tmp_path / f"x.{kind}", SOME))


# Paths


@pytest.mark.parametrize("kind", KINDS)
def test_a_missing_file_is_named_with_its_row(tmp_path, kind):
    path = as_manifest(tmp_path / "in" / f"x.{kind}", SOME)  # folders of other tests have files of the same names
    (path.parent / "x_files" / "0002.png").unlink()
    where = {"csv": ", line 4", "jsonl": ", line 3", "parquet": " row 2"}[kind]
    with pytest.raises(
        DataError, match=rf"1 of 7 images that .* are missing: .*x\.{kind}{where}: x_files/0002\.png\. "
    ):
        read(path)
    for image in (path.parent / "x_files").iterdir():
        image.unlink()
    with pytest.raises(DataError, match=r"7 of 7 images .*0004\.png …"):
        read(path)


@pytest.mark.parametrize("name", ["a\0b.png", "x" * 5000, "0.png/1.png"])
def test_a_text_that_cannot_be_a_path_is_a_missing_file(tmp_path, name):
    touch(tmp_path / "in" / "0.png")
    with pytest.raises(DataError, match="1 of 1 images") as error:
        read(write_table(tmp_path / "in" / "x.jsonl", [{"path": name, "label": "a"}]))
    assert len(str(error.value)) < 1000


@pytest.mark.parametrize("text", ["../out.png", "a/../../out.png", "..", "./../out.png", "a/b/../../../out.png"])
def test_a_relative_path_stays_within_the_folder_of_its_table(tmp_path, text):
    touch(tmp_path / "out.png", tmp_path / "d" / "a" / "b" / "0.png")
    with pytest.raises(DataError, match=r"x\.csv, line 2 names .*which lies outside .*/d\. "):
        read(write_table(tmp_path / "d" / "x.csv", [{"path": text, "label": "a"}]))


def test_dots_behind_a_link_cannot_leave_the_folder(tmp_path):
    touch(tmp_path / "secret.png", tmp_path / "d" / "secret.png", tmp_path / "far" / "0.png")
    (tmp_path / "d" / "link").symlink_to(tmp_path / "far")
    path = write_table(tmp_path / "d" / "x.csv", [{"path": "link/../secret.png", "label": "a"}])
    assert read(path).train[0].payload == tmp_path / "d" / "secret.png"  # the kernel would take ../far/../secret.png


def test_an_absolute_path_is_accepted_only_from_the_users_own_table(tmp_path):
    touch(tmp_path / "elsewhere" / "0.png")
    row = {"file_name": str(tmp_path / "elsewhere" / "0.png"), "label": "a"}
    path = write_table(tmp_path / "d" / "metadata.csv", [row])
    assert read(path).train[0].payload == tmp_path / "elsewhere" / "0.png"
    with pytest.raises(DataError, match="a path must be relative to the table's own folder"):
        read(tmp_path / "d")


def test_links_are_followed_as_hugging_faces_cache_needs(tmp_path):
    touch(tmp_path / "blobs" / "abc")
    (tmp_path / "snapshot").mkdir()
    (tmp_path / "snapshot" / "0.png").symlink_to(tmp_path / "blobs" / "abc")
    write_table(tmp_path / "snapshot" / "metadata.jsonl", [{"file_name": "0.png", "label": "a"}])
    assert read(tmp_path / "snapshot").train[0].payload.read_bytes() == IMAGE


def test_pipes_devices_and_folders_are_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    for name in ("pipe.png", "folder.png", ".", "/dev/zero"):
        with pytest.raises(DataError, match=r"line 2 names .*no regular file"):
            read(write_table(tmp_path / "x.csv", [{"path": name, "label": "a"}]))


@given(st.lists(st.sampled_from(["..", ".", "a", "link", "", "b.png"]), min_size=1, max_size=6))
@settings(max_examples=200, deadline=None)
def test_no_relative_path_leads_out(parts):
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder) / "in"
        touch(base / "b.png", base / "a" / "b.png", Path(folder) / "b.png")
        (base / "link").symlink_to(base / "a")
        text = "/".join(parts).lstrip("/")
        try:
            found = read(write_table(base / "x.jsonl", [{"path": text, "label": "a"}]))
        except DataError:
            return
        assert found.train[0].payload.resolve().is_relative_to(base.resolve())


def test_the_fingerprint_sees_the_table_and_every_image(tmp_path):
    path = as_manifest(tmp_path / "x.csv", SOME)

    def mark() -> str:
        return open_source(section(path)).fingerprint()

    seen = [mark()]
    assert mark() == seen[0]
    os.utime(tmp_path / "x_files" / "0003.png", ns=(1, 1))
    seen.append(mark())
    os.utime(path, ns=(1, 1))
    seen.append(mark())
    path.write_text(path.read_text().replace("dog", "cow"))
    seen.append(mark())
    assert len(set(seen)) == 4


def test_many_rows_take_seconds(tmp_path):
    touch(tmp_path / "0.png")
    (tmp_path / "x.csv").write_text("path,label,split\n0.png,b,train\n" + "0.png,a,train\n0.png,b,test\n" * 10_000)
    start = time.process_time()
    found = read(tmp_path / "x.csv")
    assert (len(found.train), len(found.val)) == (10_001, 10_000)
    assert time.process_time() - start < 10  # under 1 s on a machine that is not busy


# imagefolder


@pytest.mark.parametrize("kind", KINDS)
def test_a_metadata_file_in_each_split(tmp_path, kind):
    found = read(as_imagefolder(tmp_path, SOME, kind))
    assert found.classes == ("cat", "dog")
    assert (len(found.train), len(found.val)) == (5, 2)
    assert found.val[0].payload == tmp_path / "test" / "0000.png"


def test_the_cache_makes_the_split_if_only_training_images_have_metadata(tmp_path):
    found = read(as_imagefolder(tmp_path, [p for p in SOME if p.split == "train"]))
    assert (len(found.train), found.val) == (5, None)


@pytest.mark.parametrize("kind", KINDS)
def test_one_metadata_file_beside_the_images(tmp_path, kind):
    touch(tmp_path / "images" / "0.png", tmp_path / "1.png", tmp_path / "unlisted" / "2.png")
    rows = [{"file_name": "images/0.png", "label": "b"}, {"file_name": "1.png", "label": "a"}]
    found = read(write_table(tmp_path / f"metadata.{kind}", rows).parent)
    assert of(found) == [("train", "b", "images/0.png"), ("train", "a", "1.png")]  # what is not listed is not there
    assert found.val is None


def test_the_folders_give_the_split_of_the_images_in_one_metadata_file(tmp_path):
    touch(tmp_path / "train" / "0.png", tmp_path / "train" / "1.png", tmp_path / "test" / "2.png")
    rows = [{"file_name": f"{s}/{i}.png", "label": "a"} for i, s in enumerate(("train", "train", "test"))]
    found = read(write_table(tmp_path / "metadata.jsonl", rows).parent)
    assert [s for s, _, _ in of(found)] == ["train", "train", "val"]
    assert read(tmp_path / "metadata.jsonl").val is None  # a list that says no split has none
    touch(tmp_path / "3.png")
    write_table(tmp_path / "metadata.jsonl", [*rows, {"file_name": "3.png", "label": "a"}])
    assert read(tmp_path).val is None  # nor if some lie elsewhere


def test_a_column_for_the_split_overrides_the_folders(tmp_path):
    touch(tmp_path / "train" / "0.png", tmp_path / "test" / "1.png")
    rows = [{"file_name": "train/0.png", "label": "a", "split": "test"}]
    rows += [{"file_name": "test/1.png", "label": "a", "split": "train"}]
    found = read(write_table(tmp_path / "metadata.csv", rows).parent)
    assert of(found) == [("train", "a", "test/1.png"), ("val", "a", "train/0.png")]


def test_metadata_override_the_names_of_folders(tmp_path):
    as_folder(tmp_path, SOME)
    (tmp_path / "train" / "notes.csv").write_text("file_name,label\n")
    assert type(open_source(section(tmp_path)).source) is FolderSource
    for folder in ("train", "test"):
        images = sorted((tmp_path / folder).rglob("*.png"))
        rows = [{"file_name": str(p.relative_to(tmp_path / folder)), "label": f"not {p.parent.name}"} for p in images]
        write_table(tmp_path / folder / "metadata.csv", rows)
    assert read(tmp_path).classes == ("not cat", "not dog")
    assert read(tmp_path, source="folder").classes == ("cat", "dog")


def test_metadata_without_classes_are_explained(tmp_path):
    as_folder(tmp_path, SOME, {})
    write_table(tmp_path / "metadata.csv", [{"file_name": "cat/0000.png", "text": "a cat"}])
    with pytest.raises(
        DataError, match=r"no column for the class.*file_name, text\. .*data\.columns=.*, or set data\.source=folder"
    ):
        read(tmp_path)
    assert read(tmp_path, source="folder").classes == ("cat", "dog")


@pytest.mark.parametrize("content", [b"photographer,place\nme,here\n", b"\xff\xfe\x00", b"", b'"'])
def test_a_metadata_file_without_file_names_is_ignored_among_class_folders(tmp_path, content):
    as_folder(tmp_path, SOME)
    (tmp_path / "metadata.csv").write_bytes(content)
    (tmp_path / "metadata.jsonl").write_bytes(content)
    assert type(open_source(section(tmp_path)).source) is FolderSource


def test_an_unreadable_metadata_file_is_an_error_if_there_are_no_class_folders(tmp_path):
    touch(tmp_path / "train" / "0.png")
    (tmp_path / "train" / "metadata.jsonl").write_text('{"file_name": ')
    with pytest.raises(DataError, match=r"train/metadata\.jsonl, line 1 is no JSON"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("files", "told"),
    [
        (["metadata.csv", "metadata.jsonl"], r"has metadata\.csv, metadata\.jsonl, and each names images"),
        (["metadata.csv", "train/metadata.csv"], r"Both .*/metadata\.csv and .*/train/metadata\.csv name images"),
        (["train/metadata.csv"], r"train/metadata\.csv gives the classes .*, but .*/test has no metadata\.csv"),
        (["test/metadata.csv"], r"test/metadata\.csv gives the classes .*, but .*/train has no metadata\.csv"),
    ],
)
def test_several_metadata_files_that_contradict_one_another(tmp_path, files, told):
    touch(tmp_path / "train" / "0.png", tmp_path / "test" / "0.png")
    for name in files:
        write_table(tmp_path / name, [{"file_name": "0.png", "label": "a"}])
    with pytest.raises(DataError, match=told):
        read(tmp_path)


def test_shards_beside_metadata_are_ambiguous(tmp_path):
    as_imagefolder(tmp_path, SOME)
    as_hub(tmp_path, SOME)
    with pytest.raises(
        DataError, match=r"several data sets: metadata\.csv with a column file_name, Parquet files\..*source"
    ):
        read(tmp_path)
    assert type(open_source(section(tmp_path, source="parquet")).source) is not ManifestSource


def test_a_list_beside_images_without_class_folders_is_read_and_named(tmp_path):
    touch(tmp_path / "0.png", tmp_path / "1.png")
    write_table(tmp_path / "labels.csv", [{"path": "0.png", "label": "a"}])
    found = read(tmp_path)
    assert of(found) == [("train", "a", "0.png")]
    assert found.notes == ("Read from the list labels.csv.",)
    assert found.left_out["images that the list does not name"].examples == ("1.png",)


def test_the_words_for_splits_are_those_of_the_datasets_library():
    # docs/source/repository_structure.mdx, "Split name keywords"
    words = {"train": "train training", "val": "validation valid val dev", "test": "test testing eval evaluation"}
    for split, names in words.items():
        assert {listing.split_of(n) for n in names.split()} == {split}
    for name, split in {
        "train-00000-of-00002-9f3a": "train",
        "my_test_file": "test",
        "test1": "test",
        "validation.2024": "val",
        "fer2013 dev": "val",
        "value": None,
        "testimony": None,
        "contest": None,
        "0000": None,
    }.items():
        assert listing.split_in(name) == split
    assert folders.METADATA[:2] == ("metadata.csv", "metadata.jsonl")


@given(st.lists(st.integers(-20, 20), min_size=1, max_size=30), st.randoms(use_true_random=False))
def test_whole_numbers_are_in_the_order_of_their_values_and_text_in_its_own(numbers, random):
    names = [str(n) for n in numbers]
    assert listing.ordered(names) == tuple(str(n) for n in sorted(set(numbers)))
    mixed = [*names, "a"]
    random.shuffle(mixed)
    assert listing.ordered(mixed) == tuple(sorted(set(mixed)))
    assert json.loads(json.dumps(listing.ordered(["007", "7", "10"]))) == ["007", "7", "10"]
