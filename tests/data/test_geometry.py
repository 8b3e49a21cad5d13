"""Images that are not square: cropped, put on a border or stretched; what that changes is counted, told, and the same wherever an image is drawn."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from raysweep.config.settings import DataSection
from raysweep.data import cache, decode, heavy, pillow
from raysweep.data.listing import Item
from raysweep.data.pillow import Geometry
from raysweep.data.reading import Cropped, Reading
from raysweep.errors import ConfigError, DataError
from tests.conftest import SMALL_NET, small_settings
from tests.data.drawing import section

PAD, STRETCH = Geometry("pad", "#ff8000"), Geometry("stretch")


def noise(height: int, width: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def encoded(image: Image.Image, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", **options)
    return buffer.getvalue()


def drawn(
    image: Image.Image, geometry: Geometry, size: int = 8, channels: int = 3, **options: object
) -> pillow.Decoded:
    found = decode.decode(Item("x", 0, encoded(image, **options)), size, channels, geometry)
    assert not isinstance(found, str)
    return found


def test_a_wide_image_is_put_in_the_middle_of_a_border():
    image = noise(16, 64)
    found = drawn(image, PAD)
    inner = np.asarray(image.resize((8, 2), Image.Resampling.BILINEAR))
    assert np.array_equal(found.pixels[3:5], inner)
    border = np.concatenate([found.pixels[:3], found.pixels[5:]])
    assert (border == (255, 128, 0)).all()
    assert found.cut_percent == 75.0


def test_a_tall_image_has_its_border_at_the_sides():
    found = drawn(noise(64, 16), PAD)
    assert (found.pixels[:, [0, 1, 2, 5, 6, 7]] == (255, 128, 0)).all()


def test_a_stretched_image_is_all_there():
    image = noise(16, 64)
    found = drawn(image, STRETCH)
    assert np.array_equal(found.pixels, np.asarray(image.resize((8, 8), Image.Resampling.BILINEAR)))
    assert found.cut_percent == 75.0


@pytest.mark.parametrize("geometry", [PAD, STRETCH, pillow.USUAL])
def test_squares_are_the_same_whatever_the_fit_and_lines_of_one_pixel_are_drawn(geometry):
    square = noise(20, 20)
    assert np.array_equal(drawn(square, geometry).pixels, drawn(square, pillow.USUAL).pixels)
    assert drawn(square, geometry).cut_percent == 0
    assert drawn(noise(1, 3000), geometry).pixels.shape == (8, 8, 3)


@pytest.mark.parametrize("geometry", [PAD, STRETCH])
def test_an_image_is_turned_upright_before_it_is_fitted(geometry):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn it clockwise
    image = noise(16, 64)
    upright = image.transpose(Image.Transpose.ROTATE_270)
    assert np.array_equal(drawn(image, geometry, exif=exif).pixels, drawn(upright, geometry).pixels)


def test_sixteen_bits_are_reduced_to_the_upper_eight_with_every_fit():
    deep = np.random.default_rng(0).integers(0, 65536, (4, 8), dtype=np.uint16)
    for geometry in (PAD, STRETCH):
        same = Image.fromarray((deep >> 8).astype(np.uint8))
        assert np.array_equal(
            drawn(Image.fromarray(deep), geometry, channels=1).pixels, drawn(same, geometry, channels=1).pixels
        )


@pytest.mark.parametrize(
    ("background", "channels", "value"), [("gray", 1, 128), ("#102030", 3, (16, 32, 48)), ("black", 3, 0)]
)
def test_transparent_pixels_get_the_background(background, channels, value):
    clear = noise(8, 8)
    clear.putalpha(0)
    found = drawn(clear, Geometry("crop", background), channels=channels)
    assert found.transparent
    assert (found.pixels == value).all()


def test_a_large_image_is_fitted_in_its_own_process_to_the_same_bits():
    image = encoded(noise(16, 64))
    found = heavy.decode(image, 8, 3, PAD)
    assert not isinstance(found, str)
    assert np.array_equal(found.pixels, pillow.decode_here(image, 8, 3, PAD).pixels)


@pytest.fixture
def folder(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / "d" / name).mkdir(parents=True)
        for i in range(12):
            noise(8, 8, seed=i + 100 * (name == "dog")).save(tmp_path / "d" / name / f"{i}.png")
    noise(8, 32, seed=50).save(tmp_path / "d" / "cat" / "wide.png")
    noise(16, 8, seed=51).save(tmp_path / "d" / "cat" / "tall.png")
    clear = noise(8, 8, seed=52)
    clear.putalpha(0)
    clear.save(tmp_path / "d" / "dog" / "clear.png")
    return tmp_path / "d"


TOLD = {
    "pad": "Put on a border: 2 images, where it is 62 % of the square on average, at most 75 % (cat/wide.png).",
    "stretch": "Stretched: 2 images, whose longer sides shrink by 62 % against the other on average, at most 75 % (cat/wide.png).",
    "crop": "Cropped to the middle: 2 images, which lose 62 % of their area on average, at most 75 % (cat/wide.png).",
}


@pytest.mark.parametrize("fit", TOLD)
def test_what_fitting_changes_is_counted_told_and_kept_with_the_cache(folder, tmp_path, fit):
    data = section(folder, image_size=8, fit=fit, background="black")
    for _ in range(2):  # decoded, and read from the cache
        reading = cache.load(data, tmp_path / "cache").reading
        assert reading.cropped == Cropped(2, 62.5, 75.0, "cat/wide.png")
        assert reading.lines()[:2] == [TOLD[fit], "Put on black: 1 image with transparency."]
        assert Reading.from_json(reading.to_json()) == reading


def test_one_image_is_told_of_in_the_singular():
    one = Reading(cropped=Cropped(1, 25.0, 25.0, "x"), fit="pad")
    assert one.lines() == ["Put on a border: 1 image, where it is 25 % of the square."]
    assert Reading(cropped=one.cropped, fit="stretch").lines() == [
        "Stretched: 1 image, whose longer side shrinks by 25 % against the other."
    ]


def test_each_fit_and_background_has_a_cache_of_its_own_and_the_usual_one_that_of_earlier_versions():
    def key(**more: object) -> str:
        return cache.key("x", DataSection(source="digits", **more))

    assert key() == "ba72f7699d7efeab9d06"  # as before there was a choice: nothing is decoded again
    assert key(folds=5, fold=1) == "6e8601fc7a315b5a1e6d"
    others = [key(fit="pad"), key(fit="stretch"), key(background="black"), key(fit="pad", background="black")]
    assert len({key(), *others}) == 5
    old = {k: v for k, v in Reading().to_json().items() if k not in ("fit", "background")}
    assert Reading.from_json(old) == Reading()


def test_without_a_size_the_message_says_what_each_fit_would_change(folder, tmp_path):
    with pytest.raises(DataError) as error:
        cache.load(section(folder), tmp_path / "cache")
    assert (
        "data.image_size=8. 2 of 27 are not square: 62 % of the area of each is cut off on average, at most 75 % (data.fit=crop); with "
        "data.fit=pad 62 % of the square is border, with data.fit=stretch one side shrinks by 62 % against the other."
    ) in str(error.value)
    with pytest.raises(DataError, match=r"62 % of the square is border on average, at most 75 % \(data.fit=pad\)"):
        cache.load(section(folder, fit="pad"), tmp_path / "cache")


@pytest.mark.parametrize("word", ["red", "#fff", "#12345g", "white "])
def test_a_background_is_a_word_or_six_digits(tmp_path, word):
    if word.strip() == "white":
        assert small_settings(tmp_path, data={"background": word}).data.background == "white"
        return
    with pytest.raises(
        ConfigError, match=r"data\.background: .* is no colour: take white, black, gray or one such as '#ff8800'"
    ):
        small_settings(tmp_path, data={"background": word})


def test_a_network_is_given_images_as_it_was_trained_on_and_a_child_keeps_them(
    folder, tmp_path, quick_run, quick_child
):
    from raysweep.store.root import Root
    from raysweep.tools import images, predict

    data = {
        "source": "folder",
        "path": str(folder),
        "image_size": 8,
        "fit": "pad",
        "background": "black",
        "val_fraction": 0.3,
    }
    made = quick_run(
        data=data, model=SMALL_NET, training={"epochs": 1, "batch_size": 8}, sampling={"samples_per_epoch": 16}
    )
    network = predict.load(Root.open(tmp_path / "experiments"), f"{made.id}@1")
    wide = folder / "cat" / "wide.png"
    wanted = decode.decode_file(wide, 8, 3, Geometry("pad", "black")).pixels
    assert network.geometry == Geometry("pad", "black")
    assert np.array_equal(predict.read_image(network, wide), wanted)
    (drawn_in_memory,) = images.drawn([Image.open(wide)], 8, 3, network.geometry)
    assert np.array_equal(drawn_in_memory, wanted)
    assert network.facts()["input"]["fit"] == "pad"
    for other in ({"fit": "crop"}, {"background": "white"}):
        with pytest.raises(ConfigError, match="its images would be others"):
            quick_child(f"{made.id}@1", overrides={"data": other})


def test_a_checkpoint_whose_settings_name_no_known_fit_is_refused_and_an_older_one_is_cropped():
    from pathlib import Path

    from raysweep.tools.predict import _geometry

    assert _geometry({"data": {"path": "x"}}, {}, Path("x.pt")) == pillow.USUAL
    assert _geometry({"data": {"fit": "pad"}}, {"data": {"background": "black"}}, Path("x.pt")) == Geometry(
        "pad", "black"
    )
    with pytest.raises(ConfigError, match=r"data of .*x\.pt: fit: Input should be 'crop', 'pad' or 'stretch'"):
        _geometry({"data": {"fit": "../evil"}}, {}, Path("x.pt"))
