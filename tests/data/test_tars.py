"""Tar files: shards of samples as WebDataset writes them, and packed class folders; nothing is unpacked."""

from __future__ import annotations

import io
import json
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest

from raysweep.data import cache
from raysweep.data.sources import open_source
from raysweep.errors import DataError
from tests.data.drawing import as_folder, encoded, pictures, section

SOME = pictures({"cat": 4, "dog": 5}, {"cat": 2, "dog": 2})
IMAGE = encoded(SOME[0].pixels)


def pack(to: Path, files: dict[str, bytes], mode: str = "w") -> Path:
    to.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(to, mode) as out:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            out.addfile(member, io.BytesIO(content))
    return to


def shard(some, label) -> dict[str, bytes]:
    files = {}
    for i, p in enumerate(some):
        files |= {f"{i:05}.png": encoded(p.pixels), **label(f"{i:05}", p)}
    return files


LABELS = {
    "cls": lambda key, p: {f"{key}.cls": p.label.encode()},
    "json": lambda key, p: {f"{key}.json": json.dumps({"label": p.label, "patient": 1}).encode()},
    "before": lambda key, p: {f"./{key}.cls": f"{p.label}\n".encode()},
}


def read(path: Path, **options):
    return open_source(section(path, **options)).listing()


def as_shards(folder: Path, some, label=LABELS["cls"]) -> Path:
    for split in ("train", "val"):
        rows = [p for p in some if p.split == split]
        for n in range(2):
            pack(folder / f"{split}-{n:06}.tar", shard(rows[n::2], label))
    return folder


@pytest.mark.parametrize("label", [LABELS["cls"], LABELS["json"]], ids=["cls", "json"])
@pytest.mark.parametrize("kind", ["pixels", "encoded"])
def test_shards_are_the_same_data_as_class_folders(tmp_path, label, kind):
    of = [
        cache.load(section(path, val="auto", cache=kind), tmp_path / "cache")
        for path in (
            as_folder(tmp_path / "d", SOME, {"train": "train", "val": "val"}),
            as_shards(tmp_path / "s", SOME, label),
        )
    ]
    assert of[0].sha256 == of[1].sha256
    assert all(np.array_equal(a.pixels, b.pixels) for a, b in ((of[0].train, of[1].train), (of[0].val, of[1].val)))
    assert sorted(f.name for f in (tmp_path / "s").iterdir()) == [
        "train-000000.tar", "train-000001.tar", "val-000000.tar", "val-000001.tar"
    ]  # fmt: skip


def test_packed_class_folders_are_the_same_data_as_unpacked_ones(tmp_path):
    path = as_folder(tmp_path / "d", SOME, {"train": "train", "val": "valid"})
    files = {str(f.relative_to(path)): f.read_bytes() for f in sorted(path.rglob("*.png"))}
    packed = pack(
        tmp_path / "d.tar", {**{f"./{name}": c for name, c in files.items()}, "._x": b"", "readme.md": b"text"}
    )
    found = [cache.load(section(p, val="auto"), tmp_path / "cache") for p in (path, packed)]
    assert found[0].sha256 == found[1].sha256
    listing = read(packed, val="auto")
    assert listing.train[0].name == "d.tar/train/cat/0000.png"
    assert {kind: what.count for kind, what in listing.left_out.items()} == {
        "hidden and system files": 1,
        "files that are no images": 1,
    }
    assert any("names of the folders" in note for note in listing.notes)


def test_nothing_is_in_memory_until_it_is_read(tmp_path):
    found = read(as_shards(tmp_path / "s", SOME))
    assert not any(isinstance(item.payload, bytes) for item in found.train)
    assert {item.content for item in found.train} == {encoded(p.pixels) for p in SOME if p.split == "train"}
    assert [item.payload.size for item in found.train] == [len(item.content) for item in found.train]


def test_labels_may_be_numbers_and_groups_are_those_of_the_json(tmp_path):
    files = {}
    for i in range(6):
        files |= {
            f"{i}.png": encoded(SOME[i].pixels),
            f"{i}.json": json.dumps({"label": i % 2, "patient": i // 2}).encode(),
        }
    found = read(pack(tmp_path / "x.tar", files), val="split", group="patient")
    assert found.classes == ("0", "1")
    assert [item.group for item in found.train] == [
        item.group for item in sorted(found.train, key=lambda item: item.name)
    ]
    assert len({item.group for item in found.train}) == 3


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"0.png": IMAGE, "1.png": IMAGE, "1.cls": b"cat"}, r"x\.tar: 0\.png has no label"),
        ({"0.png": IMAGE}, r"0\.png has no label: neither 0\.cls nor \.json is beside it"),
        ({"0.png": IMAGE, "0.json": b"{"}, r"0\.png: the JSON beside it cannot be read"),
        ({"0.png": IMAGE, "0.json": b'{"label": [1]}'}, "neither text nor a number"),
        ({"readme.md": b"x"}, "has no images|holds no images"),
    ],
)
def test_wrong_shards_are_refused_with_the_place(tmp_path, files, message):
    with pytest.raises(DataError, match=message):
        cache.load(section(pack(tmp_path / "x.tar", files)), tmp_path / "cache")


@pytest.mark.parametrize("harm", ["gz", "cut", "text", "empty"])
def test_what_is_no_tar_file_is_refused(tmp_path, harm):
    path = pack(tmp_path / "x.tar", shard(SOME, LABELS["cls"]), "w:gz" if harm == "gz" else "w")
    if harm in ("cut", "text", "empty"):
        path.write_bytes({"cut": path.read_bytes()[:3000], "text": b"no tar at all" * 100, "empty": b""}[harm])
    with pytest.raises(
        DataError, match=r"x\.tar cannot be read as a tar file that is not compressed: .* without compression"
    ):
        read(path)


def test_links_out_of_a_tar_file_are_not_followed(tmp_path):
    secret = tmp_path / "secret.png"
    secret.write_bytes(IMAGE)
    path = pack(tmp_path / "x.tar", shard(SOME, LABELS["cls"]))
    with tarfile.open(path, "a") as out:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
            member = tarfile.TarInfo(f"link{kind!r}.png")
            member.type, member.linkname = kind, str(secret)
            out.addfile(member)
    found = read(path, val="split")
    assert len(found.train) == len(SOME)
    assert found.left_out["files that are no images"].count == 2


def test_a_tar_file_that_is_cut_meanwhile_names_its_images(tmp_path):
    path = pack(tmp_path / "x.tar", shard(SOME, LABELS["cls"]))
    listing = read(path, val="split")
    os.truncate(path, 2000)
    with pytest.raises(OSError, match=r"x\.tar has become shorter"):
        _ = listing.train[-1].content


def test_tar_files_beside_class_folders_are_not_read(tmp_path):
    path = as_folder(tmp_path / "d", SOME, {"train": "train", "val": "val"})
    before = read(path, val="auto")
    pack(path / "backup.tar", shard(SOME, LABELS["cls"]))
    assert len(read(path, val="auto").train) == len(before.train)
