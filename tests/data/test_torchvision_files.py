"""What torchvision downloads: CIFAR's batches and MNIST's idx files, whole, cut off, lying about their size, or hostile."""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import pickle
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raysweep.data import cache, torchvision_files
from raysweep.data.listing import Listing
from raysweep.data.sources import open_source
from raysweep.errors import DataError
from tests.data.drawing import as_cifar, as_folder, as_hub, as_idx, cifar_batch, idx, pictures, publish, section

DIGITS = [str(n) for n in range(10)]
GRAY = pictures(dict.fromkeys(DIGITS, 2), dict.fromkeys(DIGITS, 1), size=28)
CLASSES = ["dog", "cat", "airplane"]
COLOUR = pictures(dict.fromkeys(CLASSES, 5), dict.fromkeys(CLASSES, 2), size=32, channels=3)
FILES = ["train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"]


def read(path: Path, **options) -> Listing:
    return open_source(section(path, **options)).listing()


def shown(found: Listing) -> list[tuple[str, bytes]]:
    """(class, pixels) of every image."""
    return [(found.classes[i.label], i.payload.tobytes()) for i in found.train + (found.val or [])]


def drawn(some) -> list[tuple[str, bytes]]:
    return [(p.label, p.pixels.tobytes()) for p in some]


# idx


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("inside", ["MNIST/raw", "MNIST", "raw", ".", "FashionMNIST/raw", "KMNIST/raw"])
def test_mnist_wherever_torchvision_puts_it(tmp_path, inside, packed):
    as_idx(tmp_path / "root" / inside, GRAY, DIGITS, packed)
    found = read(tmp_path / "root")
    names = {"F": torchvision_files.FASHION, "K": torchvision_files.KUZUSHIJI}.get(inside[0], DIGITS)
    assert found.classes == tuple(sorted(names))
    assert (len(found.train), len(found.val)) == (20, 10)
    assert shown(found) == [(names[int(label)], pixels) for label, pixels in drawn(GRAY)]
    assert found.train[3].name == f"train-images-idx3-ubyte{'.gz' * packed} 3"
    assert shown(read(tmp_path / "root" / inside)) == shown(found)


@pytest.mark.parametrize(
    ("folder", "first"),
    [
        *((name, "Ankle boot") for name in ("FashionMNIST", "fashion-mnist", "Fashion_MNIST/raw")),
        *(("KMNIST", "ha"), ("mnist", "0"), ("MNIST/raw", "0"), ("anything", "0")),
    ],
)
def test_the_names_of_the_classes_come_with_the_name_of_the_folder(tmp_path, folder, first):
    assert read(as_idx(tmp_path / folder, GRAY, DIGITS)).classes[0] == first


def test_the_unpacked_file_is_taken_where_there_are_both_and_a_dot_may_stand_for_the_dash(tmp_path):
    path = as_idx(tmp_path / "d", GRAY, DIGITS)
    (path / f"{FILES[0]}.gz").write_bytes(b"rubbish")
    assert len(read(path).train) == 20
    for name in FILES:
        (path / name).rename(path / name.replace("-idx", ".idx"))
    assert len(read(path).train) == 20


def test_numbers_without_names_are_classes_in_their_order(tmp_path):
    path = as_idx(tmp_path / "letters", GRAY, DIGITS)
    for part, n in (("train", 20), ("t10k", 10)):
        (path / f"{part}-labels-idx1-ubyte").write_bytes(idx((np.arange(n) % 10 * 7).astype(np.uint8)))
    assert read(path).classes == tuple(str(n * 7) for n in range(10))
    path.rename(tmp_path / "KMNIST")
    with pytest.raises(DataError, match=r"labels-idx1-ubyte 2: label 14 is not one of 0 to 9 \(o, ki, su"):
        read(tmp_path / "KMNIST")


@pytest.mark.parametrize("gone", FILES)
def test_a_missing_idx_file_is_named(tmp_path, gone):
    path = as_idx(tmp_path / "MNIST" / "raw", GRAY, DIGITS)
    (path / gone).unlink()
    with pytest.raises(DataError, match=f"looks like MNIST's files, but lacks {gone}"):
        read(tmp_path / "MNIST")


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("keep", [0, 3, 4, 9, 15, 16, 17, -1])
def test_a_truncated_idx_file_is_refused(tmp_path, keep, packed):
    path = as_idx(tmp_path / "d", GRAY, DIGITS, packed)
    name = FILES[0] + ".gz" * packed
    whole = gzip.decompress((path / name).read_bytes()) if packed else (path / name).read_bytes()
    (path / name).write_bytes(gzip.compress(whole[:keep]) if packed else whole[:keep])
    with pytest.raises(DataError, match=rf"{FILES[0]}.*(is no idx file|declares 20 × 28 × 28 bytes, but holds fewer)"):
        read(path)


def test_a_truncated_or_damaged_gzip_file_is_refused(tmp_path):
    path = as_idx(tmp_path / "d", GRAY, DIGITS, packed=True)
    file = path / f"{FILES[0]}.gz"
    whole = file.read_bytes()
    for harm in (
        whole[:50],
        whole[:-4],
        whole[:-8] + bytes(8),
        b"",
        b"rubbish",
        whole[:100] + b"\xff" * 50 + whole[150:],
    ):
        file.write_bytes(harm)
        with pytest.raises(DataError, match=rf"{FILES[0]}\.gz (cannot be unpacked|is no idx file)"):
            read(path)


def test_bytes_behind_the_last_image_are_refused(tmp_path):
    path = as_idx(tmp_path / "d", GRAY, DIGITS)
    with open(path / FILES[2], "ab") as file:
        file.write(b"\0")
    with pytest.raises(DataError, match="declares 10 × 28 × 28 bytes, but holds more"):
        read(path)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("sizes", [(2**20, 2**10, 2**10), (2**32 - 1,) * 3, (2**31, 1, 1), (30_000, 256, 256)])
def test_an_idx_file_that_declares_terabytes_takes_no_memory(tmp_path, sizes, packed):
    path = as_idx(tmp_path / "d", GRAY, DIGITS, packed)
    data = bytes((0, 0, 8, 3)) + b"".join(n.to_bytes(4, "big") for n in sizes) + bytes(1000)
    (path / (FILES[0] + ".gz" * packed)).write_bytes(gzip.compress(data) if packed else data)
    tracemalloc.start()
    with pytest.raises(DataError, match=rf"{FILES[0]}.* declares {sizes[0]:,} × .* bytes, but holds fewer"):
        read(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 5_000_000


def test_gzip_that_unpacks_to_gigabytes_is_read_no_further_than_it_declares(tmp_path):
    path = as_idx(tmp_path / "d", GRAY, DIGITS, packed=True)
    whole = gzip.decompress((path / f"{FILES[0]}.gz").read_bytes())
    (path / f"{FILES[0]}.gz").write_bytes(gzip.compress(whole + bytes(50_000_000)))
    tracemalloc.start()
    with pytest.raises(DataError, match="holds more"):
        read(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 5_000_000


@pytest.mark.parametrize(
    "magic", [b"\0\0\x0d\3", b"\0\0\x08\1", b"\0\0\x08\2", b"\1\0\x08\3", b"\x89PNG", b"\x1f\x8b\x08\0"]
)
def test_another_kind_of_file_is_refused(tmp_path, magic):
    path = as_idx(tmp_path / "d", GRAY, DIGITS)
    (path / FILES[0]).write_bytes(magic + (path / FILES[0]).read_bytes()[4:])
    with pytest.raises(DataError, match=f"is no idx file of bytes with 3 dimensions: it begins with {magic[0]:02x} "):
        read(path)


def test_as_many_labels_as_images_are_needed(tmp_path):
    path = as_idx(tmp_path / "d", GRAY, DIGITS)
    (path / FILES[1]).write_bytes(idx(np.zeros(19, dtype=np.uint8)))
    with pytest.raises(DataError, match=r"train-images.* has 20 images, and .*train-labels.* 19 labels"):
        read(path)


def test_gigabytes_and_pipes_are_refused(tmp_path):
    path = as_idx(tmp_path / "d", GRAY, DIGITS)
    with open(path / FILES[0], "wb") as file:
        file.truncate(torchvision_files.MAX_IDX_BYTES + 1)
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte cannot be read: it has 2,000,000,001 bytes"):
        cache.load(section(path), tmp_path / "cache")
    (path / FILES[0]).unlink()
    os.mkfifo(path / FILES[0])
    with pytest.raises(DataError, match="lacks train-images-idx3-ubyte"):
        read(path)


@given(st.binary(max_size=60), st.integers(1, 3))
@settings(deadline=None)
def test_any_bytes_are_an_idx_file_or_refused(tmp_path_factory, data, dimensions):
    file = tmp_path_factory.getbasetemp() / "any-idx"
    for head in (b"", bytes((0, 0, 8, dimensions)), bytes((0, 0, 8, dimensions)) + b"\0\0\0\1" * dimensions):
        file.write_bytes(head + data)
        with contextlib.suppress(DataError):
            assert idx(torchvision_files.read_idx(file, dimensions)) == head + data


# CIFAR


@pytest.fixture
def ten(tmp_path, monkeypatch) -> Path:
    """A small CIFAR-10 that torchvision takes for the published one."""
    return publish(monkeypatch, as_cifar(tmp_path / "root" / "cifar-10-batches-py", COLOUR, CLASSES))


@pytest.mark.parametrize("name", ["cifar-10-batches-py", "cifar-100-python", "under another name"])
def test_cifar_from_its_own_folder_and_from_torchvisions_root(tmp_path, monkeypatch, name):
    path = publish(monkeypatch, as_cifar(tmp_path / "root" / name, COLOUR, CLASSES))
    found = read(path)
    assert found.classes == ("airplane", "cat", "dog")
    assert (len(found.train), len(found.val)) == (15, 6)
    assert sorted(shown(found)) == sorted(drawn(COLOUR))
    assert found.train[0].payload.shape == (32, 32, 3)
    assert found.train[0].name == ("train row 0" if "100" in name else "data_batch_1 row 0")
    if name != "under another name":
        assert shown(read(tmp_path / "root")) == shown(found)


@pytest.mark.parametrize("name", ["cifar-10-batches-py", "cifar-100-python"])
def test_cifar_is_what_torchvision_makes_of_it(tmp_path, monkeypatch, name):
    from torchvision.datasets import CIFAR10, CIFAR100

    path = publish(monkeypatch, as_cifar(tmp_path / name, COLOUR, CLASSES))
    parts = [(CIFAR100 if "100" in name else CIFAR10)(tmp_path, train=train) for train in (True, False)]
    there = [(p.classes[label], p.data[i].tobytes()) for p in parts for i, label in enumerate(p.targets)]
    assert shown(read(path)) == there


def python_2(rows: list) -> bytes:
    """A batch as CIFAR's own files have it: written by Python 2 with numpy 1, which had no other text than bytes."""

    def text(value: bytes) -> bytes:
        return b"U" + bytes([len(value)]) + value

    def number(value: int) -> bytes:
        return b"K" + bytes([value]) if value < 256 else b"M" + struct.pack("<H", value)

    batch = cifar_batch(rows, CLASSES)
    count, columns = batch["data"].shape
    return b"".join(
        [
            b"\x80\x02}q\x01(" + text(b"batch_label") + b"q\x02" + text(b"training batch 1 of 5") + b"q\x03",
            text(b"labels") + b"q\x04]q\x05(" + b"".join(map(number, batch["labels"])) + b"e",
            text(b"data") + b"q\x06cnumpy.core.multiarray\n_reconstruct\nq\x07cnumpy\nndarray\nq\x08K\x00\x85",
            text(b"b") + b"\x87Rq\x09(K\x01" + number(count) + number(columns) + b"\x86cnumpy\ndtype\nq\x0a",
            text(b"u1") + b"K\x00K\x01\x87Rq\x0b(K\x03" + text(b"|"),
            b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89",
            b"T" + struct.pack("<i", batch["data"].size) + batch["data"].tobytes() + b"tb",
            text(b"filenames") + b"q\x0c]q\x0d(" + b"".join(map(text, [b"a.png"] * count)) + b"eu.",
        ]
    )


def test_what_python_2_wrote_is_read_without_a_warning(ten, monkeypatch, recwarn):
    wanted = shown(read(ten))
    for i in range(5):
        (ten / f"data_batch_{i + 1}").write_bytes(python_2([p for p in COLOUR if p.split == "train"][i::5]))
    assert shown(read(publish(monkeypatch, ten))) == wanted
    assert not [w for w in recwarn if "numpy" in str(w.message).lower()]


@pytest.mark.parametrize(
    ("name", "gone"),
    [("cifar-10-batches-py", n) for n in ("data_batch_3", "test_batch", "batches.meta")]
    + [("cifar-100-python", n) for n in ("train", "test", "meta")],
)
def test_a_missing_batch_is_named(tmp_path, name, gone):
    path = as_cifar(tmp_path / name, COLOUR, CLASSES)
    (path / gone).unlink()
    with pytest.raises(DataError, match=f"looks like CIFAR's Python files, but lacks {gone}"):
        read(path)


class Payload:
    """Runs a command when it is unpickled."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("file", ["data_batch_4", "test_batch", "batches.meta"])
def test_a_hostile_batch_does_not_run(ten, tmp_path, file, protocol):
    mark = tmp_path / "it ran"
    batch = {**cifar_batch(COLOUR[:2], CLASSES), "label_names": CLASSES, "more": Payload(f"touch '{mark}'")}
    (ten / file).write_bytes(pickle.dumps(batch, protocol))
    with pytest.raises(DataError, match=rf"{file} is not the published file of CIFAR-10.*so it was not loaded"):
        cache.load(section(ten), tmp_path / "cache")
    assert not mark.exists()
    pickle.loads((ten / file).read_bytes())  # the control: it does run in Python's own unpickler
    assert mark.exists()


@pytest.mark.parametrize("name", ["cifar-10-batches-py", "cifar-100-python"])
def test_nothing_but_the_published_files_is_unpickled(tmp_path, monkeypatch, name):
    def refuse(*arguments, **options):
        raise AssertionError("it was unpickled")

    path = as_cifar(tmp_path / name, COLOUR, CLASSES)
    monkeypatch.setattr(pickle, "loads", refuse)
    told = rf"is not the published file of {name[:5].upper()}-{name[6:9].strip('-')}: .*class folders or Parquet"
    with pytest.raises(DataError, match=told):  # torchvision's own checksums
        read(path)
    publish(monkeypatch, path)
    for file in sorted(path.iterdir()):
        whole = file.read_bytes()
        with monkeypatch.context() as patch:  # every other file is as published
            patch.setattr(pickle, "loads", lambda data, **options: pickle.Unpickler(io.BytesIO(data), **options).load())
            for harm in (whole[:-1], whole + b"\0", bytes([whole[0] ^ 1]) + whole[1:], b""):
                file.write_bytes(harm)
                with pytest.raises(DataError, match=f"{file.name} {told}"):
                    read(path)
        file.write_bytes(whole)


def test_gigabytes_are_refused(ten, tmp_path):
    os.truncate(ten / "data_batch_2", torchvision_files.MAX_BATCH_BYTES + 1)
    with pytest.raises(DataError, match="data_batch_2 cannot be read: it has 500,000,001 bytes"):
        cache.load(section(ten), tmp_path / "cache")


# Which of them


def test_a_root_with_several_data_sets_asks_which(tmp_path, monkeypatch):
    as_idx(tmp_path / "MNIST" / "raw", GRAY, DIGITS)
    publish(monkeypatch, as_cifar(tmp_path / "cifar-10-batches-py", COLOUR, CLASSES))
    with pytest.raises(
        DataError,
        match=r"several data sets: cifar-10-batches-py, MNIST/raw\. Set data\.path to the folder or file of one of them\.",
    ):
        read(tmp_path)
    assert len(read(tmp_path / "MNIST").train) == 20
    assert len(read(tmp_path / "cifar-10-batches-py").train) == 15


def test_class_folders_or_shards_beside_them_ask_which(tmp_path):
    as_idx(tmp_path / "MNIST" / "raw", GRAY, DIGITS)
    as_hub(tmp_path, GRAY)
    with pytest.raises(DataError, match=r"several data sets: Parquet files, MNIST/raw\. .*data\.source=parquet"):
        read(tmp_path)
    as_folder(tmp_path, GRAY)
    with pytest.raises(DataError, match=r"several data sets: class folders, Parquet files, MNIST/raw"):
        read(tmp_path)


def test_the_fingerprint_sees_every_file(tmp_path):
    for path in (as_idx(tmp_path / "i", GRAY, DIGITS), as_cifar(tmp_path / "c", COLOUR, CLASSES)):
        seen = {open_source(section(path)).fingerprint()}
        files = sorted(path.iterdir())
        for file in files:
            os.utime(file, ns=(1, 1))
            seen.add(open_source(section(path)).fingerprint())
        assert len(seen) == len(files) + 1
