"""What is trained on is what was asked for: replaced images are seen, and no changed byte of a cache is trained on."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from raysweep.data import cache, integrity
from raysweep.data.places import META
from raysweep.errors import DataError
from tests.data.drawing import as_csv, as_folder, as_manifest, csv_row, encoded, pictures, section

SOME = pictures({"angry": 5, "happy": 9}, {"angry": 2, "happy": 4})


def of(path: Path, tell=None, **options) -> cache.Dataset:
    return cache.load(section(path, **options), path.parent / "cache", tell=tell)


def rotated_bytes(data: bytes) -> bytes:
    """As many bytes, others."""
    return bytes(data[:-1]) + bytes([data[-1] ^ 1])


# The files of the images


def replace_by_mv(path: Path, content: bytes) -> None:
    (path.parent / "new").write_bytes(content)
    os.replace(path.parent / "new", path)


def write_in_place(path: Path, content: bytes) -> None:
    path.write_bytes(content)


@pytest.mark.parametrize("replace", [replace_by_mv, write_in_place])
@pytest.mark.parametrize("kind", ["folder", "manifest", "csv"])
def test_an_image_replaced_by_one_of_the_same_size_and_time_is_seen(tmp_path, kind, replace):
    if kind == "csv":
        path = file = as_csv(tmp_path / "fer.csv", SOME)
        lines = file.read_text().splitlines()
        first = [int(v) for v in lines[1].split(",")[1].split()]
        other = csv_row(SOME[0]._replace(pixels=np.array(first[::-1], dtype=np.uint8).reshape(8, 8)))
        content = "\n".join([lines[0], other, *lines[2:]]).encode() + b"\n"
    else:
        path = as_folder(tmp_path / "d", SOME) if kind == "folder" else as_manifest(tmp_path / "d.csv", SOME)
        file = next(iter(sorted(tmp_path.rglob("0000.png"))))
        bitmap = encoded(SOME[0].pixels, "BMP")  # not compressed: as many bytes whatever the pixels are
        file.write_bytes(bitmap)
        content = encoded(255 - SOME[0].pixels, "BMP")
    before, first = file.stat(), of(path)
    assert len(content) == before.st_size
    replace(file, content)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert of(path).sha256 != first.sha256
    assert not any(np.array_equal(SOME[0].pixels, p[:, :, 0]) for p in of(path).train.pixels)


def test_a_folder_that_is_exchanged_for_a_copy_is_decoded_again_and_is_the_same_data(tmp_path):
    path = as_folder(tmp_path / "d", SOME)
    first = of(path)
    shutil.copytree(path, tmp_path / "copy")  # with all times, as rsync -a does
    shutil.rmtree(path)
    os.rename(tmp_path / "copy", path)
    assert of(path).folder != first.folder
    assert of(path).sha256 == first.sha256


# The files of the cache


def change(folder: Path, name: str, at: int = -1) -> None:
    content = bytearray((folder / name).read_bytes())
    content[at] ^= 1
    (folder / name).write_bytes(content)


def rotate_labels(folder: Path) -> None:
    np.save(folder / "train_labels.npy", np.roll(np.load(folder / "train_labels.npy"), 1))


def blacken(folder: Path) -> None:
    pixels = np.load(folder / "train_images.npy")
    pixels[3] = 0
    np.save(folder / "train_images.npy", pixels)


def edit(folder: Path, key: str, value: object) -> None:
    (folder / META).write_text(json.dumps({**json.loads((folder / META).read_text()), key: value}))


HARMS = {
    "labels": rotate_labels,
    "pixels": blacken,
    "last pixel": lambda folder: change(folder, "val_images.npy"),
    "header": lambda folder: change(folder, "val_images.npy", 100),
    "names": lambda folder: change(folder, "train_names.json"),
    "longer": lambda folder: (folder / "val_images.npy").open("ab").write(b"\0"),
    "mean": lambda folder: edit(folder, "mean", [1.0]),
    "classes": lambda folder: edit(folder, "classes", ["happy", "angry"]),
    "hashes": lambda folder: edit(folder, "hashes", {}),
    "missing": lambda folder: (folder / "train_names.json").unlink(),
}


@pytest.mark.parametrize("harm", HARMS.values(), ids=HARMS)
def test_a_change_of_any_file_is_found_when_the_cache_is_opened_and_said(tmp_path, harm):
    path = as_folder(tmp_path / "d", SOME)
    first = of(path)
    whole = {f.name: f.read_bytes() for f in first.folder.iterdir()}
    harm(first.folder)
    said: list[str] = []
    again = of(path, said.append)
    assert len(said) == 1
    assert said[0].startswith(f"The image cache {first.folder} is damaged (")
    assert said[0].endswith("Its images are decoded again.")
    assert {f.name: f.read_bytes() for f in again.folder.iterdir()} == whole
    assert of(path, said.append).check.done  # all was checked
    assert len(said) == 1


def test_nothing_is_said_of_a_whole_cache_or_where_there_was_none(tmp_path):
    path = as_folder(tmp_path / "d", SOME)
    said: list[str] = []
    for _ in range(2):
        of(path, said.append)
    assert said == []


def test_the_hashes_of_all_chunks_are_those_of_the_library(tmp_path, monkeypatch):
    import xxhash

    monkeypatch.setattr(integrity, "CHUNK", 10)
    (tmp_path / "x").write_bytes(b"0123456789abcdefghij!")
    assert integrity.hashes(tmp_path / "x") == [
        xxhash.xxh3_128_hexdigest(part) for part in (b"0123456789", b"abcdefghij", b"!")
    ]


@pytest.mark.parametrize("where", range(5))
def test_what_does_not_fit_into_the_time_is_checked_later(tmp_path, monkeypatch, where):
    monkeypatch.setattr(integrity, "CHUNK", 10)
    content = bytearray(range(45))
    (tmp_path / "x").write_bytes(content)
    recorded = {"x": integrity.hashes(tmp_path / "x")}
    content[10 * where] ^= 1
    (tmp_path / "x").write_bytes(content)
    check = integrity.Check(tmp_path, recorded)
    check.run(-1.0)  # no time: one chunk
    assert (check.fault is not None) == check.done == (where == 0)
    check.start()
    check.finish()
    assert check.done
    assert check.fault == f"x has changed between bytes {10 * where} and {10 * where + 10} since it was written"


# While a network trains


@pytest.fixture
def slow_check(monkeypatch):
    """A check that has done no more than one chunk when the training begins."""
    monkeypatch.setattr(cache, "CHECKED_AT_ONCE_S", -1.0)
    monkeypatch.setattr(integrity, "CHUNK", 1 << 12)


def harmed_run(tmp_path, harm, every=None):
    """A run whose cache is harmed between its plan and its first batch; (its plan, the folder of its experiment, the error)."""
    from raysweep.launch import run as launching
    from raysweep.plan import experiment as experiment_plan
    from tests.conftest import small_settings

    settings = small_settings(tmp_path / "experiments", checkpoint={"every_n_batches": every})
    plan = experiment_plan.plan_experiment(settings)
    harm(plan.data.folder)
    with pytest.raises(DataError) as error:
        launching.run(plan)
    return plan, next((tmp_path / "experiments").glob("small_*")), str(error.value)


@pytest.mark.parametrize("every", [None, 1])
def test_a_damaged_cache_stops_the_training_before_anything_is_saved(
    tmp_path, without_ray, slow_check, monkeypatch, every
):
    monkeypatch.setenv("RAYSWEEP_CACHE", str(tmp_path / "cache"))
    plan, folder, text = harmed_run(tmp_path, lambda cached: change(cached, "train_images.npy"), every)
    assert text.startswith(
        f"The image cache {plan.data.folder} is damaged: train_images.npy has changed between bytes "
    )
    assert "raysweep continue" in text
    assert not list(folder.glob("*.pt"))
    assert cache.reopen(plan.data.folder) is None  # the next training does not find it


@pytest.mark.slow
def test_it_then_continues_to_the_bits_of_an_undisturbed_run(tmp_path, slow_check, monkeypatch, quick_run):
    from raysweep.launch import resume
    from raysweep.store.experiment import Experiment
    from raysweep.store.root import Root
    from tests.conftest import weights_hash

    monkeypatch.setenv("RAYSWEEP_CACHE", str(tmp_path / "cache"))
    _, folder, _ = harmed_run(tmp_path, lambda cached: change(cached, "train_images.npy"))
    resume.continue_experiment(Root.open(tmp_path / "experiments"), folder.name)
    monkeypatch.setenv("RAYSWEEP_CACHE", str(tmp_path / "other"))
    assert weights_hash(Experiment(folder)) == weights_hash(quick_run())


def test_every_rank_stops_where_the_cache_of_one_is_damaged():
    from types import SimpleNamespace

    from raysweep.training.saving import Saver

    world = SimpleNamespace(gather=lambda mine: [mine, "The image cache of another machine is damaged."])
    saver = Saver.__new__(Saver)
    data, net = SimpleNamespace(settle=lambda: None), SimpleNamespace(features=None)
    saver.setup, saver._settled = SimpleNamespace(world=world, data=data, net=net), False
    with pytest.raises(DataError, match="of another machine"):
        saver._settle()


def test_a_cache_that_is_cut_short_while_training_is_an_error(tmp_path, without_ray, monkeypatch):
    from raysweep.training import network

    monkeypatch.setenv("RAYSWEEP_CACHE", str(tmp_path / "cache"))
    original = network.Feed

    def cut_after_opening(data, *args):
        os.truncate(data.folder / "train_images.npy", 20_000)
        return original(data, *args)

    monkeypatch.setattr(network, "Feed", cut_after_opening)
    plan, folder, text = harmed_run(tmp_path, lambda cached: None)
    assert text.startswith(f"{plan.data.folder / 'train_images.npy'} was cut short while it was in use. ")
    assert "raysweep continue" in text
    assert not list(folder.glob("*.pt"))


def test_of_a_large_cache_each_image_is_checked_when_it_is_first_read(tmp_path, monkeypatch):
    path = as_folder(tmp_path / "d", SOME)
    first = of(path)
    wanted = np.array(first.train.pixels)
    monkeypatch.setattr(cache, "CHECKED_WHOLE", 14 * 64 - 1)  # the training images are more, the others are not
    change(first.folder, "train_images.npy", 128 + 5 * 64 + 3)
    images = of(path).train  # opening reads none of them
    everything_else = np.delete(np.arange(14), 5)
    assert np.array_equal(images.take(everything_else), wanted[everything_else])
    with pytest.raises(
        DataError, match=r"train_images\.npy has changed between bytes 448 and 512 since it was written"
    ):
        images.take(np.array([3, 5]))
    assert not (first.folder / META).exists()
    again = of(path)  # decoded again
    assert np.array_equal(again.train.take(np.arange(14)), wanted)
    change(first.folder, "val_images.npy")
    said: list[str] = []
    of(path, said.append)
    assert "val_images.npy has changed" in said[0]


def test_a_copy_of_the_images_equals_the_mapped_ones(tmp_path):
    images = of(as_folder(tmp_path / "d", SOME)).train
    for index in ([3, 3, 0, 13], [4, 5, 6], [2], [], list(range(14))):
        where = np.array(index, dtype=np.int64)
        assert np.array_equal(images.take(where), images.pixels[where])
    os.truncate(images.file.path, images.file.path.stat().st_size - 1)
    assert np.array_equal(images.take(np.arange(13)), images.pixels[:13])
    with pytest.raises(DataError, match="was cut short while it was in use"):
        images.take(np.array([13]))


# Caches of older versions


def test_a_cache_of_an_older_version_is_made_anew_once_and_that_is_said(tmp_path):
    path = as_folder(tmp_path / "d", SOME)
    first = of(path)
    old = first.folder.parent / "0123456789abcdef0123"  # under another key, and with a record that has no hashes
    os.rename(first.folder, old)
    meta = json.loads((old / META).read_text())
    for key in ("hash", "hashes", "reading"):
        del meta[key]
    (old / META).write_text(json.dumps(meta))
    said: list[str] = []
    again = of(path, said.append)
    assert len(said) == 1
    assert said[0].startswith(f"The images are decoded once more, because an older raysweep has written {old.name} in ")
    assert again.sha256 == first.sha256
    of(path, said.append)
    of(as_folder(tmp_path / "e", SOME[:-1]), said.append)  # of other data
    assert len(said) == 1
    assert cache.reopen(old, said.append) is None
    assert said[1] == f"The image cache {old} is damaged (it has no hashes). Its images are decoded again."
