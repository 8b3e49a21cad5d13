"""Predictions for paths, PIL images and arrays are those of the command, and what is no image is never guessed at."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from tests.cli.test_encodings import call
from tests.conftest import draw_classes
from tests.tools.evaluating import draw_nothing, train


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    import raysweep

    folder = tmp_path_factory.mktemp("predict")
    draw_classes(folder / "images" / "train", {"cat": 30, "dog": 10, "eel": 20})
    draw_classes(folder / "images" / "val", {"cat": 6, "dog": 6, "eel": 6}, seed=1)
    with pytest.MonkeyPatch.context() as patch:
        draw_nothing(patch)
        experiment = train(folder / "e", folder / "images")
    return raysweep.get_experiment(experiment.id, folder / "e"), sorted((folder / "images" / "val").rglob("*.png"))


def test_paths_pictures_and_arrays_get_what_the_command_says(trained):
    experiment, paths = trained
    code, out, _ = call(["predict", f"{experiment.id}@2", *paths, "--json", "--root", experiment.root], "utf-8")
    assert code == 0
    printed = json.loads(out)
    shares = np.array([[row["probabilities"][c] for c in experiment.classes] for row in printed], np.float32)
    pictures = [Image.open(p) for p in paths]
    arrays = np.stack([np.asarray(p) for p in pictures])
    for images in (paths, [str(p) for p in paths], pictures, [*arrays], arrays[..., None], tuple(arrays[..., None])):
        found = experiment.predict(images, 2)
        assert found.probabilities.shape == (18, 3)
        assert found.probabilities.dtype == np.float32
        np.testing.assert_array_equal(found.probabilities, shares)
        assert found.labels == [row["class"] for row in printed]
    assert found.source == f"{experiment.id}@2"
    assert list(found.names[:2]) == ["#0", "#1"]
    frame = experiment.predict(paths).to_pandas()
    assert frame.columns.tolist() == ["image", "class", "probability", "p_cat", "p_dog", "p_eel"]
    assert frame["image"].tolist() == [str(p) for p in paths]


def test_one_image_and_none(trained):
    experiment, paths = trained
    assert len(experiment.predict(paths[0])) == 1
    assert len(experiment.predict(str(paths[0]))) == 1
    assert len(experiment.predict(Image.open(paths[0]))) == 1
    assert len(experiment.predict(np.zeros((12, 12), np.uint8))) == 1
    nothing = experiment.predict([])
    assert (len(nothing), nothing.labels, nothing.probabilities.shape) == (0, [], (0, 3))
    assert "0 images" in repr(nothing)


def test_images_of_another_size_and_colour_are_brought_to_the_networks(trained, tmp_path):
    experiment, _ = trained
    red = Image.new("RGB", (50, 80), (200, 10, 10))
    red.save(tmp_path / "red.png")
    found = experiment.predict([red, tmp_path / "red.png", np.asarray(red), red.convert("RGBA")])
    assert np.ptp(found.probabilities, axis=0).max() == 0
    assert red.size == (50, 80)


@pytest.mark.parametrize(
    ("image", "told"),
    [
        (np.zeros((12, 12), np.float32), r"float32 \(12, 12\): an array has to be uint8.*round\(\).astype\('uint8'\)"),
        (np.zeros((3, 12, 12), np.uint8), r"Channels come last: image.transpose\(1, 2, 0\)"),
        (np.zeros((12, 12, 4), np.uint8), r"uint8 \(12, 12, 4\)"),
        (np.zeros((0, 12), np.uint8), r"uint8 \(0, 12\)"),
        (np.zeros((12, 12), bool), "bool"),
        (3, "images is a int"),
        ([3], "Image 0 is a int"),
        ([None], "Image 0 is a NoneType"),
    ],
)
def test_what_is_no_image_is_refused(trained, image, told):
    import raysweep

    with pytest.raises(raysweep.DataError, match=told):
        trained[0].predict(image)


def test_files_that_are_no_images_are_named_and_the_others_are_answered(trained, tmp_path):
    experiment, paths = trained
    (tmp_path / "broken.png").write_bytes(b"no image")
    with pytest.warns(
        UserWarning, match=r"2 of 4 images cannot be used: .*broken.png \(not an image.*missing.png \(No such file"
    ):
        found = experiment.predict([paths[0], tmp_path / "broken.png", paths[1], tmp_path / "missing.png"])
    assert [label is None for label in found.labels] == [False, True, False, True]
    assert np.isnan(found.probabilities[[1, 3]]).all()
    assert not np.isnan(found.probabilities[[0, 2]]).any()
    assert set(found.left_out) == {str(tmp_path / "broken.png"), str(tmp_path / "missing.png")}
    assert "2 images could not be used." in repr(found)
    html = found._repr_html_()
    assert html.count("data:image/webp") == 2
    assert "No such file" in html


def test_a_checkpoint_that_is_not_there(trained):
    import raysweep

    with pytest.raises(raysweep.NotFoundError, match="It has the epochs 1, 2"):
        trained[0].predict(np.zeros((12, 12), np.uint8), 7)


def test_offsets_are_said(trained):
    experiment, paths = trained
    plain, found = experiment.predict(paths), experiment.predict(paths, adjust="macro_f1")
    assert plain.notes == ()
    assert any("macro_f1" in note or "macro-F1" in note for note in found.notes)
