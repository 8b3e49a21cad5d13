"""Sealed test images: opened by `evaluate` alone, counted look by look, and told apart from those that something was chosen on."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raysweep.data.reading import ON_TEST
from raysweep.errors import DataError, InputError
from raysweep.store import layout, lineage
from raysweep.store.root import Root
from tests.cli.test_errors import run_cli
from tests.conftest import draw_classes
from tests.tools.evaluating import draw_nothing, look_at, train


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[Path, Any]:
    """(a folder, an experiment on the images in it); a test image is broken, and another is in training, too."""
    folder = tmp_path_factory.mktemp("sealed")
    draw_classes(folder / "images" / "train", {"cat": 24, "dog": 24})
    draw_classes(folder / "images" / "val", {"cat": 6, "dog": 6}, seed=1)
    draw_classes(folder / "images" / "test", {"cat": 12, "dog": 10}, seed=2)
    shutil.copy(folder / "images" / "train" / "dog" / "0000.png", folder / "images" / "test" / "dog" / "x.png")
    (folder / "images" / "test" / "cat" / "broken.png").write_bytes(b"no image")
    return folder, train(folder / "root", folder / "images")


@pytest.fixture
def experiment(made, tmp_path, monkeypatch) -> Any:
    """A copy of it in a root of its own."""
    from raysweep.store.experiment import Experiment

    draw_nothing(monkeypatch)
    shutil.copytree(made[0] / "root", tmp_path / "root")
    return Experiment(tmp_path / "root" / made[1].id, Root.open(tmp_path / "root"))


def test_a_run_passes_with_broken_test_images_and_evaluate_names_them(experiment, capsys):
    words = ["evaluate", experiment.id, "--root", experiment.root.path]
    code, out, err = run_cli(capsys, *words, "--json")
    assert code == 1
    told = json.loads(out)
    assert (told["split"], told["images"], told["look"]) == ("test", 23, 1)
    assert [row["image"] for row in told["left_out"]] == ["test/cat/broken.png"]
    assert "1 of 24 images cannot be decoded and are left out of these numbers: test/cat/broken.png (" in err
    assert told["sealed_sha256"] == experiment.manifest().sealed.sha256
    assert told["leaked"]["images"] == 1
    code, out, err = run_cli(capsys, *words, "data.on_bad_image=skip")
    assert code == 0, err
    assert "This is the second look at these images." in err
    assert "1 of the 23 images are pixel for pixel in training. Without them: " in err


def test_the_numbers_are_those_of_the_test_images(experiment, made):
    from raysweep.tools import predict

    found = look_at(experiment.root, f"{experiment.id}@2")
    network = predict.load(experiment.root, f"{experiment.id}@2")
    files = [p for p in sorted((made[0] / "images" / "test").glob("*/*.png")) if p.name != "broken.png"]
    said = np.array([p for _, p in predict.predictions(network, files)])
    truth = np.array([network.classes.index(p.parent.name) for p in files])
    assert found.arms[0].overall["accuracy"].value == (said.argmax(1) == truth).mean()
    assert found.arms[0].overall["log_loss"].value == pytest.approx(
        -np.log(said[np.arange(len(truth)), truth]).mean(), abs=1e-5
    )
    (event,) = [e for e in lineage.read(experiment.folder) if e.type == lineage.EVALUATION]
    assert event.fields["text"] == "first look at these 23 test images"


def test_looks_of_other_models_at_the_same_images_count_together(experiment, made, monkeypatch):
    from raysweep.tools import predict, pretrained

    assert look_at(experiment.root, experiment.id).look == 1
    network = predict.load(experiment.root, f"{experiment.id}@2")
    stranger = replace(network, settings={}, source="hf:somebody/net", sealed=None)
    monkeypatch.setattr(pretrained, "load", lambda name, over, classes: stranger)
    found = look_at(experiment.root, "hf:somebody/net", over={"data": {"path": str(made[0] / "images")}})
    assert (found.look, found.images) == (2, 23)


def test_a_folder_of_the_test_images_alone_is_the_same_images(tmp_path):
    """Its hash is that of the bytes, so it does not depend on how large the images are made."""
    from raysweep.config import load as load_config
    from raysweep.data import cache
    from raysweep.events import ignore
    from raysweep.tools import shown

    draw_classes(tmp_path / "d" / "train", {"cat": 8, "dog": 8})
    draw_classes(tmp_path / "d" / "test", {"cat": 5, "dog": 4}, seed=2)

    def section(path: Path, **more: Any) -> Any:
        return load_config.validate({"data": {"path": str(path), **more}}).data

    opened = shown.sealed(section(tmp_path / "d"), tmp_path / "c", (12, 1), ("dog", "cat"), None, ignore)
    alone = cache.load(section(tmp_path / "d" / "test", image_size=8), tmp_path / "c")
    found = shown.whole(alone, ("cat", "dog", "fox"))
    assert found.sha256 == opened.sha256
    assert np.bincount(opened.labels).tolist() == [4, 5]
    assert np.bincount(found.labels, minlength=3).tolist() == [5, 4, 0]


def test_other_images_in_the_place_of_the_sealed_ones_are_refused(made, tmp_path):
    draw_classes(tmp_path / "images" / "train", {"cat": 16, "dog": 16})
    draw_classes(tmp_path / "images" / "test", {"cat": 6, "dog": 6}, seed=2)
    found = train(tmp_path / "root", tmp_path / "images")
    (tmp_path / "images" / "test" / "cat" / "0000.png").unlink()
    with pytest.raises(DataError, match="not those that were sealed when the experiment began"):
        look_at(found.root, found.id)
    assert not (tmp_path / "root" / layout.EVALUATIONS).exists()
    with pytest.raises(InputError, match=r"data\.val cannot be changed: which images are for training"):
        look_at(found.root, found.id, over={"data": {"val": "test"}})


def test_test_images_that_something_was_chosen_on_are_no_sealed_ones(tmp_path, monkeypatch):
    """Where validation images were the test images, as in all experiments of earlier versions."""
    draw_nothing(monkeypatch)
    draw_classes(tmp_path / "images" / "train", {"cat": 16, "dog": 16})
    draw_classes(tmp_path / "images" / "test", {"cat": 6, "dog": 6}, seed=2)
    old = train(tmp_path / "root", tmp_path / "images", val="test")
    found = look_at(old.root, f"{old.id}@2")
    assert (found.split, found.images, found.look) == ("test", 12, None)
    assert ON_TEST in found.notes
    assert found.arms[0].overall["accuracy"].value == old.entry("2").metrics["val_acc"]
    assert not [e for e in lineage.read(old.folder) if e.type == lineage.EVALUATION]


def test_where_a_split_gave_small_classes_more_the_numbers_are_those_of_the_training(tmp_path, monkeypatch):
    """Accuracy and log-loss are weighted back to the shares that the classes have in the data."""
    from raysweep.report import predictions

    draw_nothing(monkeypatch)
    draw_classes(tmp_path / "images", {"cat": 80, "dog": 20})
    found = train(tmp_path / "root", tmp_path / "images")
    told = look_at(found.root, f"{found.id}@2", "val")
    metrics = found.entry("2").metrics
    assert told.counts["dog"] / told.images > 0.3  # 10 of 26
    overall = told.arms[0].overall
    assert overall["accuracy"].value == pytest.approx(metrics["val_acc"], abs=1e-12)
    assert overall["log_loss"].value == pytest.approx(metrics["val_loss"], abs=1e-5)
    known = predictions.read(found, 2)
    plain = -np.log(known.probabilities[np.arange(len(known.labels)), known.labels]).mean()
    assert overall["log_loss"].value != pytest.approx(plain, rel=0.05)


def test_images_of_one_group_are_one_case(experiment):
    from raysweep.tools import evaluate as evaluating
    from raysweep.tools import subjects
    from raysweep.tools.shown import Shown

    subject = subjects.find(experiment.root, f"{experiment.id}@2")
    labels, groups = np.array([0, 0, 1, 1, 1]), np.array([7, 7, 8, 8, 9])
    images = Shown("test", (), labels, ("cat", "dog"), np.zeros(5, "S32"), "", True, groups)
    logs = [[np.log(np.full((5, 2), 0.5))]]
    cases, _ = evaluating._part(subject, images, logs, np.array([True, True, True, True, False]))
    assert cases.number == 2
