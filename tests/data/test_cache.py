"""The cache: each image decoded once, the same whatever file it came from, and no broken image shown as another one."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from raysweep.data import cache, writers
from raysweep.data.roles import split
from raysweep.errors import DataError
from tests.conftest import draw_classes
from tests.data.drawing import as_csv, as_folder, as_parquet, csv_row, encoded, pictures, section

SOME = pictures({"angry": 5, "happy": 9, "sad": 3}, {"angry": 2, "happy": 4, "sad": 2})


def of(path: Path, progress=None, **options) -> cache.Dataset:
    """The data set of a path, cached beside it."""
    return cache.load(section(path, **options), path.parent / "cache", progress)


def refuse(done: int, total: int) -> None:
    raise AssertionError("an image was decoded again")


def caches(path: Path) -> list[str]:
    """What lies in the cache's folder, apart from the lock files."""
    folder = path.parent / "cache"
    return sorted(p.name for p in folder.iterdir() if p.suffix != ".lock") if folder.exists() else []


def same(a: cache.Dataset, b: cache.Dataset) -> bool:
    return (
        (a.classes, a.sha256, a.mean, a.std) == (b.classes, b.sha256, b.mean, b.std)
        and all(np.array_equal(x.pixels, y.pixels) for x, y in ((a.train, b.train), (a.val, b.val)))
        and all(np.array_equal(x.labels, y.labels) for x, y in ((a.train, b.train), (a.val, b.val)))
    )


@pytest.fixture
def jpegs(tmp_path) -> Path:
    folder = tmp_path / "jpegs"
    draw_classes(folder / "train", {"cat": 6, "dog": 5}, suffix=".jpg")
    draw_classes(folder / "val", {"cat": 3, "dog": 3}, seed=1, suffix=".jpg")
    return folder


# One data set, whatever it is stored as


def test_folders_csv_and_parquet_give_the_same_images_in_the_same_order(tmp_path):
    made = [
        of(as_folder(tmp_path / "folder", SOME)),
        of(as_csv(tmp_path / "fer.csv", SOME)),
        of(as_parquet(tmp_path / "shards", SOME)),
        of(as_csv(tmp_path / "reversed.csv", SOME[::-1])),  # nor does the order of the rows or names matter
        of(as_folder(tmp_path / "reversed", SOME[::-1])),
    ]
    assert len({d.folder for d in made}) == 5  # none of them is another one's cache
    assert all(same(made[0], d) for d in made)
    assert made[0].classes == ("angry", "happy", "sad")


def test_images_and_labels_are_those_of_the_files(tmp_path):
    data = of(as_folder(tmp_path / "d", SOME))
    for part, images in (("train", data.train), ("val", data.val)):
        found = sorted((data.classes[c], p.tobytes()) for c, p in zip(images.labels, images.pixels, strict=True))
        assert found == sorted((p.label, p.pixels.tobytes()) for p in SOME if p.split == part)
        names = json.loads((data.folder / f"{part}_names.json").read_text())
        for name, pixels in zip(names, images.pixels, strict=True):  # and each name is its image's
            assert np.array_equal(np.asarray(Image.open(tmp_path / "d" / name)), pixels[:, :, 0])
    assert data.train.counts(data.classes) == {"angry": 5, "happy": 9, "sad": 3}
    assert data.shape == (8, 8, 1)
    assert data.skipped == ()


def test_the_hash_depends_on_pixels_labels_classes_and_split(tmp_path):
    def variant(name, change):
        some = [p._replace(pixels=p.pixels.copy()) for p in SOME]
        change(some)
        return of(as_csv(tmp_path / f"{name}.csv", some)).sha256

    def pixel(some):
        some[0].pixels[0, 0] ^= 1

    def label(some):
        some[0] = some[0]._replace(label="happy")

    def split(some):
        some[0] = some[0]._replace(split="val")

    def rename(some):
        some[:] = [p._replace(label={"sad": "sorrow"}.get(p.label, p.label)) for p in some]

    hashes = {variant(f.__name__, f) for f in (lambda some: None, pixel, label, split, rename)}
    assert len(hashes) == 5


def test_the_hash_depends_on_a_label_that_does_not_change_the_order_of_the_images(tmp_path):
    # Images are kept by (label, digest): moving the border between two classes along the digests moves no image.
    rows = sorted(pictures({"angry": 8}), key=lambda p: hashlib.blake2b(p.pixels.tobytes(), digest_size=16).hexdigest())
    val = pictures({}, {"angry": 1, "happy": 1}, seed=1)
    made = [
        of(as_csv(tmp_path / f"{border}.csv", rows[:border] + [p._replace(label="happy") for p in rows[border:]] + val))
        for border in (3, 4)
    ]
    assert np.array_equal(made[0].train.pixels, made[1].train.pixels)
    assert made[0].sha256 != made[1].sha256


def test_the_moments_are_those_of_the_training_pixels(tmp_path):
    data = of(as_folder(tmp_path / "d", SOME))
    train = np.stack([p.pixels for p in SOME if p.split == "train"]).astype(np.float64)
    assert data.mean == pytest.approx((train.mean(),), rel=1e-12)
    assert data.std == pytest.approx((train.std(),), rel=1e-12)


def test_images_of_one_value_do_not_divide_by_zero(tmp_path):
    some = [p._replace(pixels=np.full((8, 8), 7, dtype=np.uint8)) for p in SOME]
    data = of(as_csv(tmp_path / "x.csv", some))
    assert (data.mean, data.std) == ((7.0,), (1.0,))


def test_the_arrays_are_shared_and_cannot_be_changed_by_accident(tmp_path):
    data = of(as_folder(tmp_path / "d", SOME))
    assert isinstance(data.train.pixels, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        data.train.pixels[0] = 0


# Built once


def test_nothing_is_decoded_twice(tmp_path):
    path = as_folder(tmp_path / "d", SOME)
    told = []
    first = of(path, lambda done, total: told.append((done, total)))
    assert told[-1] == (len(SOME), len(SOME))
    assert same(of(path, refuse), first)
    assert caches(path) == [first.folder.name]


def test_rewritten_files_are_decoded_again_and_are_the_same_data(tmp_path):
    path = as_folder(tmp_path / "d", SOME)
    first = of(path)
    os.utime(path / "train" / "angry" / "0000.png", ns=(1, 1))
    with pytest.raises(AssertionError, match="decoded again"):
        of(path, refuse)
    assert same(of(path), first)


@pytest.mark.parametrize("option", [{"image_size": 9}, {"channels": 3}, {"on_bad_image": "skip"}])
def test_other_options_are_another_cache(tmp_path, option):
    path = as_folder(tmp_path / "d", SOME)
    assert of(path).folder != of(path, **option).folder


BUILDER = """
import json, sys, time
from raysweep.config.settings import DataSection
from raysweep.data import build, cache
print("ready", flush=True)
sys.stdin.readline()
built, original = [], build.build
def slow(*args):  # long enough for the other process to reach the same lock
    built.append(1)
    time.sleep(0.3)
    original(*args)
build.build = slow
data = cache.load(DataSection(path=sys.argv[1], val="test", min_val=0), sys.argv[2])
print(json.dumps([len(built), data.sha256, int(data.train.pixels.sum())]))
"""


def test_of_two_processes_one_builds_and_both_get_the_same(tmp_path):
    path = as_folder(tmp_path / "d", SOME)
    pipe = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "cwd": Path(__file__).parents[2]}
    arguments = [sys.executable, "-c", BUILDER, str(path), str(tmp_path / "cache")]
    builders = [subprocess.Popen(arguments, **pipe) for _ in range(2)]
    try:
        assert [b.stdout.readline() for b in builders] == ["ready\n"] * 2
        for b in builders:
            b.stdin.write("go\n")
            b.stdin.flush()
        said = [json.loads(b.communicate(timeout=200)[0]) for b in builders]
    finally:
        for b in builders:
            b.kill()
            b.wait()
    assert sorted(n for n, _, _ in said) == [0, 1]
    data = of(path, refuse)
    assert {tuple(rest) for _, *rest in said} == {(data.sha256, int(data.train.pixels.sum()))}
    assert caches(path) == [data.folder.name]


@pytest.mark.parametrize(
    "harm",
    [
        lambda folder: (folder / "meta.json").unlink(),
        lambda folder: (folder / "meta.json").write_text((folder / "meta.json").read_text()[:-5]),
        lambda folder: (folder / "meta.json").write_text("[]"),
        lambda folder: (folder / "meta.json").write_text(
            json.dumps({"shapes": {"train": [17, 8, 8, 1], "val": [8, 8, 8, 1]}})
        ),
        lambda folder: (folder / "meta.json").write_bytes(b"\xff"),
        lambda folder: (folder / "train_images.npy").unlink(),
        lambda folder: os.truncate(folder / "train_images.npy", 500),
        lambda folder: os.truncate(folder / "val_images.npy", 0),
        lambda folder: os.truncate(folder / "val_labels.npy", 130),
        lambda folder: np.save(folder / "train_labels.npy", np.zeros(3, dtype=np.int64)),
        lambda folder: np.save(folder / "val_images.npy", np.zeros((1, 8, 8, 1), dtype=np.uint8)),
        lambda folder: os.rename(folder / "val_labels.npy", folder / "val_images.npy"),
    ],
)
def test_a_damaged_cache_is_rebuilt(tmp_path, harm):
    path = as_folder(tmp_path / "d", SOME)
    first = of(path)
    kept = [np.array(first.train.pixels), np.array(first.val.pixels)]
    harm(first.folder)
    again = of(path)
    assert again.sha256 == first.sha256
    assert all(np.array_equal(a, b) for a, b in zip(kept, (again.train.pixels, again.val.pixels), strict=True))
    assert same(of(path, refuse), again)  # and is whole now


def test_what_a_killed_builder_left_is_cleaned_by_the_next(tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    def kill(*args):
        raise Killed

    path = as_folder(tmp_path / "d", SOME)
    with monkeypatch.context() as m:
        m.setattr(writers, "moments", kill)
        m.setattr(cache.shutil, "rmtree", lambda *args, **kwargs: None)  # a killed process cleans nothing up
        with pytest.raises(Killed):
            of(path)
    assert len(caches(path)) == 1
    data = of(path)
    assert caches(path) == [data.folder.name]


def test_a_failed_build_leaves_nothing(tmp_path, jpegs):
    (jpegs / "train" / "cat" / "0001.jpg").write_bytes(b"")
    with pytest.raises(DataError):
        of(jpegs)
    assert caches(jpegs) == []


def test_a_cache_folder_that_cannot_be_made_is_named(tmp_path):
    path = as_folder(tmp_path / "d", SOME)
    (tmp_path / "cache").touch()
    with pytest.raises(DataError, match=r"The image cache .*cache/\w+ cannot be written: .*data\.cache_dir"):
        of(path)


# Bad images


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


HARMS = [cut, lambda path: path.write_bytes(b""), lambda path: path.write_bytes(b"no image at all")]


@pytest.mark.parametrize("harm", HARMS, ids=["cut", "empty", "text"])
def test_a_corrupt_image_is_an_error_that_names_the_file(jpegs, harm):
    harm(jpegs / "train" / "cat" / "0003.jpg")
    with pytest.raises(
        DataError, match=r"1 of 17 images .* cannot be decoded: train/cat/0003\.jpg \(.*on_bad_image=skip"
    ):
        of(jpegs)


@pytest.mark.parametrize("harm", HARMS, ids=["cut", "empty", "text"])
def test_a_skipped_corrupt_image_is_recorded_and_not_replaced(tmp_path, jpegs, harm):
    whole = of(jpegs)
    bad = jpegs / "train" / "cat" / "0003.jpg"
    pixels = np.asarray(Image.open(bad)).tobytes()
    harm(bad)
    data = of(jpegs, on_bad_image="skip")
    assert [s["image"] for s in data.skipped] == ["train/cat/0003.jpg"]
    assert data.skipped[0]["reason"]
    assert data.train.counts(data.classes) == {"cat": 5, "dog": 5}
    before = [p.tobytes() for p in whole.train.pixels]
    before.remove(pixels)
    assert [p.tobytes() for p in data.train.pixels] == before  # neither a black image nor a neighbour twice
    assert data.sha256 != whole.sha256
    assert of(jpegs, refuse, on_bad_image="skip").skipped == data.skipped  # also when read from the cache


def test_many_corrupt_images_are_counted_and_the_first_named(tmp_path):
    draw_classes(tmp_path / "d", {"cat": 14, "dog": 3})
    for path in (tmp_path / "d" / "cat").iterdir():
        path.write_bytes(b"x")
    with pytest.raises(DataError, match=r"14 of 17 images .*cat/0000\.png.*cat/0009\.png \([^;]*\) and 4 more"):
        of(tmp_path / "d")
    with pytest.raises(DataError, match="There are no readable images of class cat"):
        of(tmp_path / "d", on_bad_image="skip")


def test_a_bad_row_of_the_csv_is_named_by_its_line(tmp_path):
    path = as_csv(tmp_path / "x.csv", SOME)
    path.write_text(path.read_text() + csv_row(SOME[0]).replace(",", ",300 ", 1) + "\n")
    with pytest.raises(DataError, match=f"line {len(SOME) + 2} "):
        of(path)


# Sizes and colours


def test_images_of_several_sizes_need_an_image_size(tmp_path):
    draw_classes(tmp_path / "d", {"cat": 3}, size=12)
    draw_classes(tmp_path / "d", {"dog": 3}, size=20)
    with pytest.raises(DataError, match=r"12×12 to 20×20 pixels\. .*data\.image_size=20"):
        of(tmp_path / "d")
    assert of(tmp_path / "d", image_size=16).shape == (16, 16, 1)


def test_an_image_that_is_no_square_is_cut_to_its_middle(tmp_path):
    picture = np.zeros((16, 48), dtype=np.uint8)
    picture[:, 16:32] = 200
    for name, first in (("a", 0), ("b", 3)):
        (tmp_path / "d" / name).mkdir(parents=True)
        for i in range(3):
            Image.fromarray(picture + first + i).save(tmp_path / "d" / name / f"{i}.png")
    data = of(tmp_path / "d", image_size=8)
    assert data.train.pixels[:, :, 1:-1].min() >= 200  # not squeezed: the black sides are cut off,
    assert data.train.pixels.min() > 150  # but for what smoothing lets through at the cut


def test_one_colour_image_makes_three_channels_unless_channels_is_set(tmp_path):
    draw_classes(tmp_path / "d", {"cat": 3, "dog": 3}, size=8)
    colour = np.zeros((8, 8, 3), dtype=np.uint8)
    colour[:] = (250, 10, 30)
    Image.fromarray(colour).save(tmp_path / "d" / "dog" / "red.png")
    data = of(tmp_path / "d")
    assert data.shape == (8, 8, 3)
    assert any((p == (250, 10, 30)).all() for split in (data.train, data.val) for p in split.pixels)
    assert len(data.mean) == len(data.std) == 3
    assert of(tmp_path / "d", channels=1).shape == (8, 8, 1)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".pgm", "rotated.png"])
def test_sixteen_bits_keep_their_upper_eight(tmp_path, suffix):
    # PIL's own conversion clips everything above 255: nearly all of a 16-bit image would be white.
    rng = np.random.default_rng(0)
    deep = {name: rng.integers(0, 2**16, (3, 8, 8)).astype(np.uint16) for name in ("a", "b")}
    for name, images in deep.items():
        (tmp_path / "d" / name).mkdir(parents=True)
        for i, pixels in enumerate(images):
            path = tmp_path / "d" / name / f"{i}{suffix}"
            if suffix == ".pgm":
                path.write_bytes(b"P5 8 8 65535\n" + pixels.astype(">u2").tobytes())
            else:
                exif = Image.Exif()
                exif[0x0112] = 3 if suffix == "rotated.png" else 1  # 3: shown turned by 180 degrees
                Image.fromarray(pixels).save(path, exif=exif)
    data = of(tmp_path / "d")
    assert data.shape == (8, 8, 1)
    found = {p.tobytes() for split in (data.train, data.val) for p in split.pixels}
    turn = 2 if suffix == "rotated.png" else 0
    wanted = [np.rot90(p >> 8, turn).astype(np.uint8) for images in deep.values() for p in images]
    assert found == {p.tobytes() for p in wanted}


def test_pixels_of_thirty_two_bits_are_refused(tmp_path):
    draw_classes(tmp_path / "d", {"cat": 3, "dog": 3}, size=8)
    Image.fromarray(np.full((8, 8), 0.5, dtype=np.float32)).save(tmp_path / "d" / "dog" / "float.tif")
    with pytest.raises(DataError, match=r"dog/float\.tif \(.*32 bits"):
        of(tmp_path / "d")


def test_a_rotation_in_the_exif_header_is_applied(tmp_path):
    picture = np.zeros((8, 8), dtype=np.uint8)
    picture[:4] = 255  # the upper half
    exif = Image.Exif()
    exif[0x0112] = 6  # shown rotated by 90 degrees to the right
    for name, first in (("a", 0), ("b", 2)):
        (tmp_path / "d" / name).mkdir(parents=True)
        for i in range(first, first + 2):
            Image.fromarray(picture - i * (picture > 0).astype(np.uint8)).save(
                tmp_path / "d" / name / f"{i}.png", exif=exif
            )
    data = of(tmp_path / "d")
    assert (data.train.pixels[:, :, 4:] > 250).all()
    assert (data.train.pixels[:, :, :4] == 0).all()


# Classes


@pytest.mark.parametrize(
    ("name", "told"),
    [("empty class", "sad holds no image"), ("one class", "single class .*'angry'"), ("nothing", "holds no images")],
)
def test_classes_that_cannot_be_trained_on(tmp_path, name, told):
    path = as_folder(tmp_path / "d", [p for p in SOME if p.label == "angry"] if name != "nothing" else [])
    (path / "train" / "sad").mkdir(parents=True)
    if name == "one class":
        (path / "train" / "sad").rmdir()
    with pytest.raises(DataError, match=told):
        of(path)


def test_a_csv_without_rows_or_validation_images_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"x\.csv holds no images"):
        of(as_csv(tmp_path / "x.csv", []))
    alone = of(as_csv(tmp_path / "y.csv", [p for p in SOME if p.split == "train"]))  # train alone is no split
    assert len(alone.val.labels)
    broken = as_folder(tmp_path / "v", [p for p in SOME if p.split == "train"])
    (broken / "test" / "sad").mkdir(parents=True)
    (broken / "test" / "sad" / "0.png").write_bytes(b"no image")
    with pytest.raises(DataError, match="has no validation images"):
        of(broken, on_bad_image="skip")
    with pytest.raises(DataError, match="there are no training images of class sad"):
        of(as_csv(tmp_path / "z.csv", [p for p in SOME if p.split == "val" or p.label != "sad"]))


def test_a_class_without_validation_images_is_accepted_and_said(tmp_path):
    made = [
        as_folder(tmp_path / "d", [p for p in SOME if p.split == "train" or p.label != "sad"]),
        as_csv(tmp_path / "z.csv", [p for p in SOME if p.split == "train" or p.label != "sad"]),
    ]
    for path in made:
        data = of(path)
        assert data.reading.validation["sad"] == 0
        assert "No validation images: sad. " in "\n".join(data.reading.lines())


def test_what_is_left_out_is_told_anew_without_decoding_again(tmp_path, monkeypatch):
    path = as_folder(tmp_path / "d", SOME)
    first = of(path)
    (path / "train" / "happy" / ".ipynb_checkpoints").mkdir()
    (path / "train" / "happy" / ".ipynb_checkpoints" / "x.png").write_bytes(b"x")
    again = of(path)
    assert again.folder == first.folder
    assert [line for line in again.reading.lines() if line not in first.reading.lines()] == [
        "Left out: 1 hidden or system file (train/happy/.ipynb_checkpoints/x.png)."
    ]


STRANGE = ["<script>alert(1)<", "=cmd()", "+1", "Gefühl", "q\u0301", "é", "😀", "\u202eevil", "a b", "a,b", "no", "1"]


def test_class_names_of_any_kind_stay_unchanged(tmp_path):
    some = pictures(dict.fromkeys(STRANGE, 2), dict.fromkeys(STRANGE, 1))
    data = of(as_folder(tmp_path / "d", some))
    assert data.classes == tuple(sorted(STRANGE))
    assert of(tmp_path / "d", refuse).classes == data.classes
    label = {p.pixels.tobytes(): p.label for p in some}
    for images in (data.train, data.val):
        assert [data.classes[c] for c in images.labels] == [label[p.tobytes()] for p in images.pixels]


def test_a_class_folder_whose_name_is_not_utf8_is_refused(tmp_path):
    path = as_folder(tmp_path / "d", SOME, {"train": ""})
    os.rename(os.fsencode(path / "sad"), os.fsencode(path) + b"/caf\xe9")
    with pytest.raises(DataError, match=r"d: the name of class 'caf\\udce9' contains '\\udce9'"):
        of(path)


# The split


@given(st.lists(st.integers(2, 30), min_size=2, max_size=5), st.floats(0.01, 0.99), st.integers(0, 1000))
@settings(deadline=None)
def test_the_split_takes_its_share_of_each_class_and_every_image_once(counts, fraction, seed):
    labels = np.repeat(np.arange(len(counts)), counts)
    order = np.lexsort((np.arange(len(labels))[::-1], labels))  # any order by label
    names = tuple("abcde"[: len(counts)])
    asked = section("", val_fraction=fraction, split_seed=seed)
    parts = split.own_split(order, labels, asked, names, np.arange(len(labels)))
    assert sorted([*parts["train"], *parts["val"]]) == list(range(len(labels)))
    for c, n in enumerate(counts):
        of_val = int((labels[parts["val"]] == c).sum())
        assert 1 <= of_val <= n - 1
        assert abs(of_val - n * fraction) <= 1 or of_val in (1, n - 1)
    for part in parts.values():  # each part keeps the order
        assert [i for i in order if i in set(part.tolist())] == part.tolist()
    again = split.own_split(order, labels, asked, names, np.arange(len(labels)))
    assert all(np.array_equal(parts[k], again[k]) for k in parts)


def test_the_split_is_seeded_and_does_not_depend_on_names_or_order(tmp_path):
    some = pictures({"angry": 20, "happy": 30})
    folders = [of(as_folder(tmp_path / n, rows, {}), val_fraction=0.3) for n, rows in (("a", some), ("b", some[::-1]))]
    assert same(*folders)
    assert folders[0].val.counts(folders[0].classes) == {"angry": 6, "happy": 9}
    others = [of(tmp_path / "a", val_fraction=0.3, split_seed=s) for s in (1, 2)]
    assert len({folders[0].sha256, *(d.sha256 for d in others)}) == 3
    assert others[0].val.counts(others[0].classes) == {"angry": 6, "happy": 9}


def test_a_class_with_one_image_cannot_be_split(tmp_path):
    with pytest.raises(DataError, match="Class 'angry' has a single readable image"):
        of(as_folder(tmp_path / "d", pictures({"angry": 1, "happy": 5}), {}))


@given(st.integers(0, 2**32), st.integers(1, 3))
@settings(max_examples=20, deadline=None)
def test_moments_do_not_depend_on_the_order(seed, channels):
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (7, 3, 4, channels), dtype=np.uint8)
    assert writers.moments(pixels) == writers.moments(pixels[rng.permutation(7)])
    mean, std = writers.moments(pixels)
    assert mean == pytest.approx(pixels.reshape(-1, channels).mean(0).tolist())
    assert std == pytest.approx(pixels.reshape(-1, channels).std(0).tolist())


def test_images_may_come_as_encoded_bytes_of_any_format(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [(form, SOME[i].pixels) for i, form in enumerate(("PNG", "BMP", "TIFF", "GIF"))]
    table = pa.table({"image": [encoded(p, f) for f, p in rows], "label": ["a", "a", "b", "b"]})
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.parquet"
        pq.write_table(table, path)
        data = of(path, channels=1)
        found = {p.tobytes() for split in (data.train, data.val) for p in split.pixels}
        assert found == {p.tobytes() for _, p in rows}
