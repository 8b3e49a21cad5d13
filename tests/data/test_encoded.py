"""Images kept as the bytes of their files: the same images in the same order as decoded ones, and no changed byte is trained on."""

from __future__ import annotations

import io
import os
import shutil
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from raysweep.data import arrays, cache, encoded, keep, pillow, places, storing
from raysweep.data.arrays import ImageFile
from raysweep.errors import DataError
from tests.data.drawing import as_csv, as_folder, as_parquet, pictures, section

SOME = pictures({"angry": 5, "happy": 9, "sad": 3}, {"angry": 2, "happy": 4, "sad": 2})


def of(path: Path, tell=None, **options) -> cache.Dataset:
    return cache.load(section(path, **{"cache": "encoded", **options}), path.parent / "cache", tell=tell)


def smooth(seed: int, width: int, height: int) -> np.ndarray:
    """A picture in colour that compresses as photographs do."""
    small = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


def photographs(folder: Path, sizes: dict[str, tuple[int, int]], form: str = "JPEG", each: int = 4, **options) -> Path:
    """Class folders ``train`` and ``val``, all images of a class of one size."""
    for split, seed in (("train", 0), ("val", 100)):
        for c, (name, size) in enumerate(sizes.items()):
            (folder / split / name).mkdir(parents=True)
            for i in range(each):
                path = folder / split / name / f"{i}.{form.lower()}"
                Image.fromarray(smooth(seed + 10 * c + i, *size)).save(path, form, quality=90, **options)
    return folder


def same_images(a: cache.Dataset, b: cache.Dataset) -> bool:
    return all(np.array_equal(x.pixels, y.pixels) for x, y in ((a.train, b.train), (a.val, b.val)))


def same_order(a: cache.Dataset, b: cache.Dataset) -> bool:
    return all(
        cache.names(a, part) == cache.names(b, part) and np.array_equal(cache.digests(a, part), cache.digests(b, part))
        for part in ("train", "val")
    ) and all(np.array_equal(x.labels, y.labels) for x, y in ((a.train, b.train), (a.val, b.val)))


# The same as decoded images


@pytest.mark.parametrize("make", [as_folder, lambda p, s: as_csv(p.with_suffix(".csv"), s), as_parquet])
def test_images_that_are_kept_whole_are_the_same_data(tmp_path, make):
    path = make(tmp_path / "d", SOME)
    decoded, kept = of(path, cache="pixels"), of(path)
    assert (decoded.kind, kept.kind) == ("pixels", "encoded")
    assert kept.folder != decoded.folder
    assert same_images(decoded, kept)
    assert same_order(decoded, kept)
    assert (kept.sha256, kept.mean, kept.std, kept.classes) == (
        decoded.sha256,
        decoded.mean,
        decoded.std,
        decoded.classes,
    )
    assert not list(kept.folder.glob("*_images.npy"))


def test_jpegs_a_little_larger_than_needed_keep_their_bytes_and_their_pixels(tmp_path):
    path = photographs(tmp_path / "d", {"cat": (40, 40), "dog": (44, 36)})
    kept = of(path, image_size=32)
    assert same_images(of(path, cache="pixels", image_size=32), kept)
    stored = kept.reading.stored
    assert (stored.kept, stored.shrunk, stored.exact, stored.other_pixels) == (16, 0, 0, 0)
    on_disk = sum(f.stat().st_size for f in path.rglob("*.jpeg"))
    assert stored.bytes == (kept.folder / places.ENCODED).stat().st_size == on_disk


def test_large_images_are_shrunk_once_in_the_same_order_and_that_is_said(tmp_path):
    path = photographs(tmp_path / "d", {"cat": (40, 40), "dog": (300, 200)})
    decoded, kept = of(path, cache="pixels", image_size=32), of(path, image_size=32)
    assert same_order(decoded, kept)
    assert kept.mean == decoded.mean
    assert kept.sha256 != decoded.sha256  # the pixels are others
    assert (kept.reading.stored.kept, kept.reading.stored.shrunk) == (8, 8)
    assert any("8 large ones shrunk once" in line for line in kept.reading.lines())
    off = np.abs(decoded.train.pixels.astype(int) - kept.train.pixels)
    assert off[kept.train.labels == 0].max() == 0
    assert 0 < off[kept.train.labels == 1].mean() < 2


def test_large_images_that_are_lossless_lose_nothing(tmp_path):
    path = photographs(tmp_path / "d", {"cat": (300, 200), "dog": (200, 300)}, "PNG")
    decoded, kept = of(path, cache="pixels", image_size=32), of(path, image_size=32)
    assert same_images(decoded, kept)
    assert kept.sha256 == decoded.sha256
    assert kept.reading.stored.exact == 16
    assert kept.reading.stored.bytes < sum(f.stat().st_size for f in path.rglob("*.png")) / 2


@pytest.mark.parametrize(("large", "same"), [("full", True), ("draft", False)])
def test_large_images_may_be_kept_whole(tmp_path, large, same):
    path = photographs(tmp_path / "d", {"cat": (40, 40), "dog": (300, 200)})
    decoded, kept = of(path, cache="pixels", image_size=32), of(path, image_size=32, large=large)
    assert same_order(decoded, kept)
    assert (kept.sha256 == decoded.sha256) == same_images(decoded, kept) == same
    assert kept.reading.stored.bytes == sum(f.stat().st_size for f in path.rglob("*.jpeg"))
    assert kept.reading.stored.other_pixels == (0 if same else 8)
    assert any("data.large=draft" in line for line in kept.reading.lines()) != same


@pytest.mark.parametrize(("form", "how"), [("BMP", "exact"), ("TIFF", "exact"), ("WEBP", "kept"), ("PNG", "kept")])
def test_formats_of_images(form, how):
    buffer = io.BytesIO()
    Image.fromarray(smooth(0, 40, 40)).save(buffer, form)
    found = pillow.decode_here(buffer.getvalue(), 32, 3)
    kept = keep.keep(buffer.getvalue(), found, "shrink")
    assert kept.how == how
    assert np.array_equal(pillow.decode_here(kept.content, 32, 3).pixels, found.pixels)


def test_what_takes_long_to_decode_is_decoded_once(monkeypatch):
    monkeypatch.setattr(keep.decode, "LIGHT_PIXELS", 1000)
    buffer = io.BytesIO()
    Image.fromarray(smooth(0, 60, 40)).save(buffer, "JPEG")
    found = pillow.decode_here(buffer.getvalue(), 32, 3)
    for large in ("shrink", "draft", "full"):
        kept = keep.keep(buffer.getvalue(), found, large)
        assert kept.how == "exact"
        assert np.array_equal(pillow.decode_here(kept.content, 32, 3).pixels, found.pixels)


def test_copies_bad_images_and_the_split_are_as_ever(tmp_path):
    path = as_folder(tmp_path / "d", [*SOME, SOME[0]._replace(split="val"), SOME[1]], {})
    (path / "angry" / "bad.png").write_bytes(b"no image")
    options = {"on_bad_image": "skip", "duplicates": "drop_train", "val_fraction": 0.3}
    decoded, kept = of(path, cache="pixels", **options), of(path, **options)
    assert kept.skipped == decoded.skipped
    assert kept.reading.copies == decoded.reading.copies
    assert same_order(decoded, kept)
    assert kept.sha256 == decoded.sha256


def test_sealed_images_are_kept_in_the_same_way(tmp_path):
    from raysweep.data import sealed

    some = [*SOME, *(p._replace(split="test") for p in pictures({"angry": 3, "happy": 2, "sad": 1}, seed=7))]
    path = as_folder(tmp_path / "d", some, {"train": "train", "val": "val", "test": "test"})
    found = [
        sealed.open_sealed(section(path, val="auto", cache=kind), tmp_path / kind, form=(8, 1))
        for kind in ("pixels", "encoded")
    ]
    assert np.array_equal(found[0].images.pixels, found[1].images.pixels)
    assert found[0].sha256 == found[1].sha256
    assert len(list((tmp_path / "encoded").glob(f"sealed-*/{places.ENCODED}"))) == 1


@pytest.mark.parametrize("first", ["pixels", "encoded"])
def test_who_opens_sealed_images_first_decides_nothing_for_others(tmp_path, first):
    from raysweep.data import sealed

    path = photographs(tmp_path / "d", {"cat": (40, 36), "dog": (300, 200)}, each=2)
    (path / "val").rename(path / "test")

    def opened(kind, **options):
        data = section(path, val="auto", cache=kind, image_size=32, channels=3, **options)
        return sealed.open_sealed(data, tmp_path / "cache", form=(32, 3), classes=["dog", "cat"])

    opened(first, large="draft")
    found = {kind: opened(kind) for kind in ("pixels", "encoded")}
    assert isinstance(found["pixels"].images.file, ImageFile)
    assert isinstance(found["encoded"].images.file, encoded.EncodedFile)
    assert found["encoded"].images.file.path.exists()
    for one in found.values():
        assert one.labels.tolist() == one.images.labels.tolist() == [1, 1, 0, 0]
    as_pixels, as_encoded = (found[kind].images.file.path.parent for kind in ("pixels", "encoded"))
    shutil.rmtree(as_pixels)
    as_encoded.rename(as_pixels)  # as an earlier version called it
    assert isinstance(opened("pixels").images.file, ImageFile)


# Read by index, and ahead


def test_batches_said_ahead_are_those_that_are_taken(tmp_path, monkeypatch):
    images = of(as_folder(tmp_path / "d", SOME)).train
    wanted = images.pixels
    monkeypatch.setattr(encoded, "AHEAD", 200)  # bytes: four images
    batches = [np.array(index) for index in ([3, 1], [1, 16, 0], [5], [2, 2])]
    asked = []

    def told():
        for batch in batches:
            asked.append(batch)
            yield batch

    images.ahead(map(encoded.Asked, told()))
    assert 1 <= len(asked) <= 2  # no more than fits
    # others may be asked for in between, and a batch may be taken in parts
    for batch in (batches[0], np.array([7]), batches[1][:1], batches[1][1:], *batches[2:], np.array([4])):
        assert np.array_equal(images.take(batch), wanted[batch])
    assert len(asked) == 4
    images.ahead(map(encoded.Asked, batches))
    images.ahead([encoded.Asked(np.array([9]))])  # another epoch, after one that was broken off
    assert np.array_equal(images.take(np.array([9])), wanted[[9]])


def test_a_fork_decodes_with_threads_of_its_own(tmp_path):
    images = of(as_folder(tmp_path / "d", SOME)).train
    wanted = images.pixels
    child = os.fork()
    if child == 0:
        os._exit(int(not np.array_equal(images.take(np.arange(5)), wanted[:5])))
    assert os.waitpid(child, 0)[1] == 0


# Damage


def flip(folder: Path, at: int) -> None:
    content = bytearray((folder / places.ENCODED).read_bytes())
    content[at] ^= 1
    (folder / places.ENCODED).write_bytes(content)


def test_a_flipped_bit_is_found_when_its_image_is_read_and_the_next_start_makes_the_cache_anew(tmp_path):
    path = as_folder(tmp_path / "d", SOME)
    first = of(path)
    wanted = first.train.pixels, first.val.pixels
    flip(first.folder, 700)
    again = of(path)  # opening reads no image
    assert again.folder == first.folder
    errors = []
    for images, pixels in ((again.train, wanted[0]), (again.val, wanted[1])):
        for i in range(len(images.labels)):
            try:
                found = images.one(i)
            except DataError as error:
                errors.append(str(error))
            else:
                assert np.array_equal(found, pixels[i])
    assert len(errors) == 1
    assert "encoded.bin has changed between bytes" in errors[0]
    assert "raysweep continue" in errors[0]
    assert not (first.folder / places.META).exists()
    assert same_images(of(path), of(path, cache="pixels"))


@pytest.mark.parametrize(
    "harm",
    [
        lambda folder: os.truncate(folder / places.ENCODED, 900),
        lambda folder: (folder / places.ENCODED).open("ab").write(b"x"),
        lambda folder: (folder / places.ENCODED).unlink(),
        lambda folder: np.save(folder / places.index("val"), np.load(folder / places.index("val"))[::-1]),
        lambda folder: np.save(folder / places.index("val"), np.zeros(8)),
        lambda folder: np.save(folder / places.labels("train"), np.zeros(17, dtype=np.int64)),
    ],
)
def test_other_damage_is_found_when_the_cache_is_opened(tmp_path, harm):
    path = as_folder(tmp_path / "d", SOME)
    first = of(path)
    harm(first.folder)
    said: list[str] = []
    assert same_images(of(path, said.append), of(path, cache="pixels"))
    assert len(said) == 1
    assert "is damaged" in said[0]


def test_a_file_that_is_cut_short_meanwhile_is_an_error(tmp_path):
    found = of(as_folder(tmp_path / "d", SOME))
    os.truncate(found.folder / places.ENCODED, 0)
    with pytest.raises(DataError, match="was cut short while it was in use"):
        found.val.take(np.array([0]))


# Which of the two


def space(monkeypatch, free: int, memory: int) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(storing.space.shutil, "disk_usage", lambda folder: usage(10**12, 0, free))
    monkeypatch.setattr(storing, "memory_here", lambda: memory)


@pytest.mark.parametrize(
    ("free", "memory", "kind", "why"),
    [
        (10**9, 10**9, "pixels", ""),
        (1_500_000, 10**9, "encoded", "as pixels they would take 0.79 MB, and 1.50 MB are free there"),
        (
            10**9,
            700_000,
            "encoded",
            "as pixels they would take 0.79 MB, more than the 0.70 MB of this machine's memory",
        ),
    ],
)
def test_auto_chooses_by_free_space_and_memory_and_says_why(tmp_path, monkeypatch, free, memory, kind, why):
    path = photographs(tmp_path / "d", {"cat": (300, 200), "dog": (200, 300)})
    space(monkeypatch, free, memory)
    found = of(path, cache="auto", image_size=128)
    assert found.kind == kind
    if why:
        assert any(f"because {why}." in line for line in found.reading.lines())
    space(monkeypatch, 10**9, 10**9)
    assert of(path, cache="auto", image_size=128).kind == kind  # what is there is used


def test_auto_does_not_take_encoded_where_little_is_won(tmp_path, monkeypatch):
    path = as_csv(tmp_path / "d.csv", SOME)  # nothing is encoded there
    space(monkeypatch, 10**9, 100)
    assert of(path, cache="auto").kind == "pixels"


def test_auto_does_not_take_an_encoded_cache_that_was_asked_for_where_pixels_fit(tmp_path, monkeypatch):
    path = photographs(tmp_path / "d", {"cat": (300, 200), "dog": (200, 300)})
    of(path, image_size=128)
    assert of(path, cache="auto", image_size=128).kind == "pixels"
    other = photographs(tmp_path / "e", {"cat": (300, 200), "dog": (200, 300)})
    asked = of(other, image_size=128)
    space(monkeypatch, 10**9, 700_000)
    assert of(other, cache="auto", image_size=128).folder == asked.folder  # nothing is made twice


def test_too_little_space_for_the_bytes_is_said(tmp_path, monkeypatch):
    path = photographs(tmp_path / "d", {"cat": (40, 40), "dog": (40, 40)})
    space(monkeypatch, 1000, 10**9)
    with pytest.raises(DataError, match=r"it takes [\d,]+ bytes while it is made, and 1,000 are free"):
        of(path, image_size=32)
    assert [p.name for p in (tmp_path / "cache").iterdir() if p.suffix != ".lock"] == []


def test_the_peak_of_pixels_has_no_second_copy():
    assert arrays.peak((10**6, 32, 32, 3)) == 10**6 * 32 * 32 * 3 + arrays.MOVED_AT_ONCE


# Random crops of images as they are stored


def test_a_part_of_a_large_image_is_taken_of_all_its_pixels(tmp_path):
    path = photographs(tmp_path / "d", {"cat": (40, 40), "dog": (300, 200)})
    images = of(path, image_size=32, large="crop").train
    index = np.arange(8)
    height, width = images.sizes(index)
    assert sorted(zip(height.tolist(), width.tolist(), strict=True)) == [(0, 0)] * 4 + [(200, 300)] * 4
    boxes = np.where((height > 0)[:, None], [20, 100, 80, 150], 0)
    found = images.take(index, boxes)
    plain = images.take(index)
    assert np.array_equal(found[height == 0], plain[height == 0])
    names = cache.names(of(path, image_size=32, large="crop"), "train")
    for i in np.flatnonzero(height):
        with Image.open(path / names[i]) as image:
            wanted = np.asarray(image.resize((32, 32), Image.Resampling.BILINEAR, box=(100, 20, 250, 100)))
        assert np.abs(found[i].astype(int) - wanted).mean() < 2  # decoded at half of its size
    assert of(path, image_size=32, large="draft").train.sizes(index) is None


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_a_part_is_one_of_the_upright_image(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    Image.fromarray(smooth(3, 300, 200)).save(buffer, "JPEG", quality=95, exif=exif)
    found = pillow.decode_here(buffer.getvalue(), 32, 3)
    kept = keep.keep(buffer.getvalue(), found, "crop")
    assert kept.size == ((200, 300) if orientation in (6, 8) else (300, 200))
    box = (30, 60, 90, 70)
    with Image.open(io.BytesIO(buffer.getvalue())) as image:
        upright = ImageOps.exif_transpose(image)
    wanted = np.asarray(upright.resize((32, 32), Image.Resampling.BILINEAR, box=(60, 30, 130, 120)))
    got = pillow.decode_here(buffer.getvalue(), 32, 3, draft=True, box=box).pixels
    assert np.abs(got.astype(int) - wanted).mean() < 3


@pytest.mark.parametrize("fit", ["pad", "stretch"])
def test_images_become_squares_in_the_same_way(tmp_path, fit):
    path = photographs(tmp_path / "d", {"cat": (40, 30), "dog": (30, 40)})
    options = {"image_size": 32, "fit": fit, "background": "#102030"}
    decoded, kept = of(path, cache="pixels", **options), of(path, **options)
    assert same_images(decoded, kept)
    assert kept.sha256 == decoded.sha256
