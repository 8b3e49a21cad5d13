"""Parquet shards as the Hugging Face Hub lays them out, and files that declare what they do not hold."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raysweep.data import tables
from raysweep.data.folders import FolderSource
from raysweep.data.listing import Listing
from raysweep.data.manifest import ManifestSource
from raysweep.data.parquet import ParquetSource, shards
from raysweep.data.sources import open_source
from raysweep.errors import DataError
from tests.data.drawing import as_folder, as_hub, encoded, pictures, section, write_table

SOME = pictures({"cat": 4, "dog": 5}, {"cat": 1, "dog": 2})
IMAGE = encoded(SOME[0].pixels)


def read(path: Path, **options) -> Listing:
    return open_source(section(path, **options)).listing()


def write(to: Path, names: list[str] | None = None, **columns) -> Path:
    to.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table(columns)
    if names is not None:
        told = {"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(told)})
    pq.write_table(table, to)
    return to


def test_a_repository_of_the_hub(tmp_path):
    found = read(as_hub(tmp_path / "d", SOME))
    assert found.classes == ("cat", "dog")
    assert (len(found.train), len(found.val)) == (9, 3)
    assert found.train[0].content == IMAGE
    assert found.train[5].name == "train-00001-of-00002.parquet row 0"
    assert sorted(found.classes[i.label] for i in found.train) == ["cat"] * 4 + ["dog"] * 5


@pytest.mark.parametrize(
    ("names", "wanted"),
    [
        (["data/train-00000-of-00001.parquet", "data/test-00000-of-00001.parquet"], "train test"),
        (["train.parquet", "valid.parquet"], "train val"),
        (["training_1.parquet", "dev_1.parquet"], "train val"),
        (["fer-train.parquet", "fer-eval.parquet"], "train test"),
        (["default/train/0000.parquet", "default/validation/0000.parquet"], "train val"),  # refs/convert/parquet
        (["value.parquet", "testimony.parquet"], "none none"),
        (["a.parquet", "test.parquet"], "none test"),
        (["train.parquet", ".cache/test.parquet", "._test.parquet"], "none"),  # a split of one part is none
        (["train.parquet", "validation.parquet", "test.parquet"], "train val test"),
    ],
)
def test_the_split_of_a_shard(tmp_path, names, wanted):
    for name in names:
        write(tmp_path / name, image=[IMAGE], label=["a"])
    found = {str(table.file.relative_to(tmp_path)): str(split).lower() for table, split in shards(tmp_path)}
    assert [found[n] for n in names if n in found] == wanted.split()
    val = read(tmp_path).val
    assert (val is None) == (not {"val", "test"} & set(found.values()))


def test_a_single_file_has_no_split_whatever_its_name(tmp_path):
    path = write(tmp_path / "test-00000-of-00001.parquet", image=[IMAGE] * 2, label=["a", "b"])
    assert (len(read(path).train), read(path).val) == (2, None)
    with pytest.raises(DataError, match="has images for test, but none for train"):
        read(tmp_path)


def test_an_unlabelled_test_set_beside_a_validation_set_does_not_matter(tmp_path):
    for split in ("train", "validation"):
        write(tmp_path / f"{split}.parquet", ["a", "b"], image=[IMAGE] * 2, label=[0, 1])
    write(tmp_path / "test.parquet", image=[IMAGE])
    assert len(read(tmp_path).val) == 2


def test_each_file_has_its_own_names_for_its_numbers(tmp_path):
    write(tmp_path / "train.parquet", ["cat", "dog"], image=[IMAGE] * 2, label=[0, 1])
    write(tmp_path / "test.parquet", ["dog", "cat"], image=[IMAGE] * 2, label=[0, 1])
    found = read(tmp_path)
    assert [found.classes[i.label] for i in found.train + found.val] == ["cat", "dog", "dog", "cat"]
    write(tmp_path / "train-2.parquet", image=[IMAGE], label=[0])
    with pytest.raises(DataError, match=r"train-2\.parquet does not say which classes its labels stand for"):
        read(tmp_path)
    write(tmp_path / "test.parquet", ["cat", "dog"], image=[IMAGE] * 2, label=[0, 1])
    found = read(tmp_path)  # the others agree
    assert [found.classes[i.label] for i in found.train] == ["cat", "cat", "dog"]


def test_labels_as_text_and_as_numbers_without_names(tmp_path):
    assert read(write(tmp_path / "x.parquet", image=[IMAGE] * 2, label=["b", "a"])).classes == ("a", "b")
    numbers = read(write(tmp_path / "y.parquet", image=[IMAGE] * 12, label=list(range(12))))
    assert numbers.classes == tuple(str(n) for n in range(12))
    text = pa.array(["b", "a"]).dictionary_encode()  # as pandas writes a categorical
    assert read(write(tmp_path / "z.parquet", image=[IMAGE] * 2, label=text)).classes == ("a", "b")


@pytest.mark.parametrize(
    ("names", "label", "told"),
    [
        (["a", "b", "a"], 0, "several numbers for the class a"),
        (["a", "b"], -1, r"row 0: label -1 is not one of 0 to 1 \(a, b\)"),
        (["a", "b\nc"], 1, "the name of class"),
    ],
)
def test_names_that_do_not_fit(tmp_path, names, label, told):
    with pytest.raises(DataError, match=told) as error:
        read(write(tmp_path / "x.parquet", names, image=[IMAGE], label=[label]))
    assert str(error.value).isprintable()


@pytest.mark.parametrize(
    "told", [b"[" * 100_000, b"{}", b"\xff", b'{"info": {"features": {"label": {"names": "ab"}}}}', b"3"]
)
def test_metadata_without_names_are_ignored(tmp_path, told):
    table = pa.table({"image": [IMAGE] * 2, "label": [0, 1]}).replace_schema_metadata({b"huggingface": told})
    pq.write_table(table, tmp_path / "x.parquet")
    assert read(tmp_path / "x.parquet").classes == ("0", "1")


def test_bytes_are_preferred_to_paths(tmp_path):
    (tmp_path / "0.png").write_bytes(IMAGE)
    both = write(tmp_path / "x.parquet", image=[IMAGE], path=["0.png"], label=["a"])
    assert type(open_source(section(both)).source) is ParquetSource
    paths = write_table(tmp_path / "y.parquet", [{"image": "0.png", "label": "a"}])
    assert type(open_source(section(paths)).source) is ManifestSource
    with pytest.raises(DataError, match=r"the column image does not hold the bytes of images"):
        read(write(tmp_path / "z.parquet", image=[[1, 2]], label=["a"]))
    table = pa.Table.from_arrays([pa.array([IMAGE]), *[pa.array(["a"])] * 2], ["image", "label", "label"])
    pq.write_table(table, tmp_path / "w.parquet")
    with pytest.raises(DataError, match="the column label more than once"):
        read(tmp_path / "w.parquet")


def test_a_folder_without_parquet_files_is_told(tmp_path):
    with pytest.raises(DataError, match=r"holds no \.parquet file"):
        read(tmp_path, source="parquet")


def test_class_folders_beside_shards_are_ambiguous_and_beside_notes_are_not(tmp_path):
    as_folder(tmp_path, SOME)
    write(tmp_path / "train" / "notes.parquet", image=[IMAGE], label=["a"])
    assert type(open_source(section(tmp_path)).source) is FolderSource
    as_hub(tmp_path, SOME)
    with pytest.raises(
        DataError, match=r"several data sets: class folders, Parquet files\. .*data\.source=folder or parquet"
    ):
        open_source(section(tmp_path))
    assert type(open_source(section(tmp_path, source="folder")).source) is FolderSource
    assert type(open_source(section(tmp_path, source="parquet")).source) is ParquetSource


# Files that unpack to far more than they are


def test_a_megabyte_that_stands_in_every_row_is_refused_before_it_fills_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "FREE_BYTES", 4_000_000)
    one = pa.array([b"\0" * 1_000_000]).dictionary_encode().dictionary
    many = pa.DictionaryArray.from_arrays(pa.array([0] * 100_000, pa.int32()), one)  # 100 GB if it were written out
    path = write(tmp_path / "x.parquet", image=many, label=[0] * 100_000)
    assert path.stat().st_size < 2_000_000
    with pytest.raises(DataError, match=r"declares 100,000 rows of .* bytes or more in total"):
        sum(len(item.content) for item in read(path).train)


def test_zeros_that_were_packed_are_refused_by_what_they_declare(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "FREE_BYTES", 4_000_000)
    table = pa.table({"image": [bytes(1_000_000)[i:] for i in range(30)], "label": [0] * 30})
    pq.write_table(table, tmp_path / "x.parquet", compression="zstd", use_dictionary=False)
    with pytest.raises(DataError, match="declares 30 rows of"):
        read(tmp_path / "x.parquet")


def test_a_billion_rows_of_nothing_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "MAX_ROWS", 1000)
    with pytest.raises(DataError, match=r"declares 1,001 rows"):
        read(write(tmp_path / "x.parquet", image=pa.nulls(1001), label=[0] * 1001))
