"""Single images: transparency, modes, cropping, and files that are not what they are called or ask for too much."""

from __future__ import annotations

import io
import os
import signal
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image

from raysweep.data import cache, decode, heavy
from raysweep.data.listing import Item
from raysweep.data.pillow import FORMATS, Decoded
from raysweep.data.reading import Cropped
from raysweep.errors import DataError
from tests.data.drawing import EPS, encoded, section


def drawn(image: Image.Image | bytes, form: str = "PNG", size: int = 4, channels: int = 3, **options) -> Decoded | str:
    """An image as the training sees it."""
    if isinstance(image, Image.Image):
        buffer = io.BytesIO()
        image.save(buffer, form, **options)
        image = buffer.getvalue()
    return decode.decode(Item("x", 0, image), size, channels)


def noise(height: int, width: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    shape = (height, width) if channels == 1 else (height, width, channels)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


# Transparency


def with_alpha(alpha: np.ndarray, colours: np.ndarray | None = None) -> Image.Image:
    colours = noise(4, 4) if colours is None else colours
    return Image.fromarray(np.dstack([colours, alpha.astype(np.uint8)]), "RGBA")


def palette(keep: bool) -> Image.Image:
    """A palette image whose first colour, red, is transparent; it is used only where ``keep``."""
    image = Image.new("P", (4, 4), 1)
    image.putpalette([255, 0, 0, 0, 0, 255])
    if keep:
        image.putpixel((0, 0), 0)
    return image


def test_colour_under_transparent_pixels_is_never_seen():
    alpha = np.zeros((4, 4))
    alpha[0] = 255
    for colours in (noise(4, 4), noise(4, 4, seed=1), np.zeros((4, 4, 3), np.uint8)):
        found = drawn(with_alpha(alpha, colours))
        assert found.transparent
        assert np.array_equal(found.pixels[0], colours[0])  # where it is opaque, it is the image
        assert (found.pixels[1:] == 255).all()
        gray = drawn(with_alpha(alpha, colours), channels=1)
        assert np.array_equal(gray.pixels[:, :, 0], np.asarray(Image.fromarray(found.pixels).convert("L")))


def test_half_transparent_pixels_are_mixed_with_white():
    found = drawn(with_alpha(np.full((4, 4), 51), np.full((4, 4, 3), 100, np.uint8)))  # 51 of 255: a fifth
    assert (found.pixels == 224).all()  # 100 / 5 + 255 × 4 / 5


@pytest.mark.parametrize("suffix", ["PNG", "GIF"])
def test_a_transparent_colour_of_a_palette_is_white(suffix):
    found = drawn(palette(keep=True), suffix, transparency=0)
    assert found.transparent
    assert found.pixels[0, 0].tolist() == [255, 255, 255]
    assert found.pixels[1, 1].tolist() == [0, 0, 255]


def test_gray_with_transparency_is_white_where_it_is_transparent():
    gray = noise(4, 4, 1)
    alpha = np.where(np.arange(16).reshape(4, 4) < 5, 0, 255).astype(np.uint8)
    image = Image.fromarray(np.dstack([gray, alpha]), "LA")
    found = drawn(image, channels=1)
    assert found == (found.pixels, 0.0, True, None, False, "4×4")
    assert np.array_equal(found.pixels[:, :, 0], np.where(alpha == 0, 255, gray))
    key = int(gray[0, 0])  # a gray value that means transparent
    found = drawn(Image.fromarray(gray), channels=1, transparency=key)
    assert np.array_equal(found.pixels[:, :, 0], np.where(gray == key, 255, gray))


def test_a_transparent_value_of_sixteen_bits_is_white():
    deep = np.arange(16, dtype=np.uint16).reshape(4, 4) * 4000
    buffer = io.BytesIO()
    Image.fromarray(deep).save(buffer, "PNG", transparency=8000)
    found = drawn(buffer.getvalue(), channels=1)
    assert found.transparent
    assert found.mode.startswith("I;16")
    assert np.array_equal(found.pixels[:, :, 0], np.where(deep == 8000, 255, deep >> 8))


@pytest.mark.parametrize("channels", [1, 3])
def test_an_image_without_transparent_pixels_keeps_the_bits_that_pillow_gives(channels):
    mode = "L" if channels == 1 else "RGB"
    used = palette(keep=False)
    for image, options in (
        (with_alpha(np.full((4, 4), 255)), {}),
        (Image.fromarray(np.dstack([noise(4, 4, 1), np.full((4, 4), 255, np.uint8)]), "LA"), {}),
        (used, {"transparency": 0}),  # a transparent colour that no pixel has
        (Image.fromarray(noise(4, 4)), {}),
        (Image.fromarray(noise(4, 4, 1)), {}),
    ):
        buffer = io.BytesIO()
        image.save(buffer, "PNG", **options)
        found = drawn(buffer.getvalue(), channels=channels)
        assert not found.transparent
        wanted = np.asarray(Image.open(buffer).convert(mode)).reshape(4, 4, channels)
        assert np.array_equal(found.pixels, wanted)


# What is counted


def test_crops_modes_and_transparency_are_counted_and_kept_with_the_cache(tmp_path):
    def add(name: str, image: Image.Image) -> None:
        file = tmp_path / "d" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        image.save(file)

    for i in range(4):
        add(f"cat/{i}.png", Image.fromarray(noise(8, 8, seed=i)))
        add(f"dog/{i}.png", Image.fromarray(noise(8, 8, seed=10 + i)))
    add("cat/wide.png", Image.fromarray(noise(8, 32, seed=20)))  # three quarters are cut off
    add("cat/tall.png", Image.fromarray(noise(16, 8, seed=21)))  # half
    add("dog/clear.png", with_alpha(np.arange(16).reshape(4, 4) * 10))
    add("dog/opaque.png", with_alpha(np.full((4, 4), 255)))
    add("dog/print.jpg", Image.fromarray(noise(8, 8, 4, seed=22), "CMYK"))
    add("dog/black.png", Image.fromarray(noise(8, 8, 1, seed=23) > 99))
    (tmp_path / "d" / "dog" / "broken.png").write_bytes(b"")
    data = section(tmp_path / "d", image_size=8, on_bad_image="skip", val_fraction=0.2)
    for _ in range(2):  # decoded, and read from the cache
        found = cache.load(data, tmp_path / "cache")
        assert found.facts.reading == found.reading
        assert found.reading.cropped == Cropped(2, 62.5, 75.0, "cat/wide.png")
        assert found.reading.transparent == 1
        assert found.reading.modes == {"1": 1, "CMYK": 1}
        assert found.reading.validation == found.val.counts(found.classes) == {"cat": 1, "dog": 2}
        assert found.reading.lines() == [
            "Left out: 1 image that cannot be decoded (dog/broken.png).",
            "Cropped to the middle: 2 images, which lose 62 % of their area on average, at most 75 % (cat/wide.png).",
            "Put on white: 1 image with transparency.",
            "Converted: 2 images in other modes than gray and RGB (1 1, 1 CMYK).",
            "Few validation images: cat (1), dog (2). One image is up to 100 points of its recall, so small differences of "
            "these mean nothing.",
        ]


# Files that are not what they are called


def test_every_offered_format_is_read_and_no_other():
    for form in FORMATS:
        assert not isinstance(drawn(Image.fromarray(noise(8, 8)), form), str)
    for form in ("ICO", "TGA", "PCX", "ICNS", "PDF", "EPS"):
        assert drawn(Image.fromarray(noise(16, 16)), form).startswith("not an image of a kind that is read (JPEG, PNG,")


def test_a_program_in_a_file_called_png_is_not_run(tmp_path, monkeypatch):
    def run(*args):
        raise AssertionError("Ghostscript was started")

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", run)
    for i, name in enumerate(("cat", "dog")):
        (tmp_path / "d" / name).mkdir(parents=True)
        for k in range(3):
            Image.fromarray(noise(8, 8, seed=3 * i + k)).save(tmp_path / "d" / name / f"{k}.png")
    (tmp_path / "d" / "dog" / "1.png").write_bytes(EPS)
    for size in (None, 8):
        with pytest.raises(DataError, match=r"1 of 6 images .*dog/1\.png \(not an image of a kind that is read"):
            cache.load(section(tmp_path / "d", image_size=size), tmp_path / "cache")


def test_a_pipe_or_device_is_no_image(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    for path in (tmp_path / "pipe.png", Path("/dev/zero"), tmp_path):
        assert decode.decode_file(path, 8, 1) == "it is not a regular file"
        assert decode.header(Item("x", 0, path)) is None


# Images that ask for much


@pytest.fixture
def all_heavy(monkeypatch):
    monkeypatch.setattr(decode, "LIGHT_PIXELS", 10)


def test_a_large_image_is_decoded_apart_to_the_same_bits(tmp_path, monkeypatch):
    path = tmp_path / "x.png"
    alpha = np.full((12, 30), 255)
    alpha[3] = 0
    with_alpha(alpha, noise(12, 30)).save(path)
    here = [decode.decode_file(path, 8, 3), decode.decode(Item("x", 0, path.read_bytes()), 8, 3)]
    monkeypatch.setattr(decode, "LIGHT_PIXELS", 10)
    apart = [decode.decode_file(path, 8, 3), decode.decode(Item("x", 0, path.read_bytes()), 8, 3)]
    for a, b in zip(here, apart, strict=True):
        assert np.array_equal(a.pixels, b.pixels)
        assert list(a[1:]) == list(b[1:]) == [60.0, True, None, False, "30×12"]


@pytest.mark.parametrize(
    ("limit", "form"), [("LIGHT_PIXELS", "PNG"), ("LIGHT_BYTES", "PNG"), ("LIGHT_WORK", "JPEG"), (None, "JPEG")]
)
def test_size_in_pixels_and_bytes_and_the_passes_of_a_jpeg_count(monkeypatch, limit, form):
    apart = []
    monkeypatch.setattr(heavy, "decode", lambda *args: apart.append(args) or "apart")
    encoded_image = io.BytesIO()
    Image.fromarray(noise(32, 32)).save(encoded_image, form, **({"progressive": True} if form == "JPEG" else {}))
    assert encoded_image.getvalue().count(b"\xff\xda") > 5 or form == "PNG"
    if limit is not None:
        monkeypatch.setattr(decode, limit, {"LIGHT_PIXELS": 1023, "LIGHT_BYTES": 100, "LIGHT_WORK": 5 * 1024}[limit])
    found = drawn(encoded_image.getvalue())
    assert (found == "apart") == bool(apart) == (limit is not None)


def test_a_tile_that_is_larger_than_its_image_counts(monkeypatch):
    monkeypatch.setattr(heavy, "decode", lambda *args: "apart")
    monkeypatch.setattr(decode, "LIGHT_PIXELS", 1000)
    tags = {256: 8, 257: 8, 258: 8, 259: 1, 262: 1, 277: 1, 322: 4096, 323: 4096, 324: 0, 325: 64}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    tiff = b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4)
    assert Image.open(io.BytesIO(tiff)).size == (8, 8)
    assert drawn(tiff) == "apart"


def test_an_image_may_not_take_more_memory_than_the_limit(all_heavy, monkeypatch):
    monkeypatch.setattr(heavy, "MEMORY", 20 << 20)
    assert drawn(encoded(np.zeros((6000, 6000), np.uint8))) == "decoding it takes more memory than there is"


@pytest.mark.slow  # it takes a second of CPU time; the next test is its quick twin
def test_an_image_may_not_take_more_time_than_the_limit(all_heavy, monkeypatch):
    monkeypatch.setattr(heavy, "CPU_SECONDS", 1)
    lines = b"P3 3000 3000 255\n" + b"1 2 3\n" * (3000 * 3000)  # numbers as text, which Pillow reads slowly
    assert drawn(lines) == "decoding it takes more than 1 s"


def test_how_a_decoder_ended_is_told():
    assert heavy.how_it_ended(-signal.SIGXCPU) == "decoding it takes more than 60 s"
    assert heavy.how_it_ended(-signal.SIGSEGV) == "decoding it crashed (SIGSEGV)"
    assert heavy.how_it_ended(1) == "decoding it failed (exit code 1)"


def dark_png(side: int, value: int) -> bytes:
    """A PNG in RGB of one value, made without holding its pixels in memory."""
    packing = zlib.compressobj(1)
    packed = b"".join([*(packing.compress(b"\0" + bytes([value]) * (3 * side)) for _ in range(side)), packing.flush()])
    chunks = {b"IHDR": struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0), b"IDAT": packed, b"IEND": b""}
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks.items()
    )


MEASURED = """
import re, resource, sys
from raysweep.config.settings import DataSection
from raysweep.data import cache
found = cache.load(DataSection(path=sys.argv[1], image_size=48), sys.argv[2])
assert max(found.train.pixels.max(), found.val.pixels.max()) == 3
mine = int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])  # not what pytest had when it forked
print((mine + resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss) * 1024)
"""


@pytest.mark.slow
def test_four_images_of_almost_as_many_pixels_as_pillow_opens_take_little_memory(tmp_path):
    for name in ("a", "b"):
        (tmp_path / "d" / name).mkdir(parents=True)
        for i in range(2):  # four different ones: equal images never stand on both sides of a split
            (tmp_path / "d" / name / f"{i}.png").write_bytes(dark_png(13_300, 2 * (name == "b") + i))
    arguments = [sys.executable, "-c", MEASURED, str(tmp_path / "d"), str(tmp_path / "cache")]
    said = subprocess.run(arguments, check=True, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert int(said.stdout) < 1_100_000_000
    assert said.stderr == ""
