"""What a trained network says of its pixels and outputs is used, and what it does not say is told."""

from __future__ import annotations

import json

import pytest

from raysweep.errors import ConfigError
from raysweep.store import checkpoint, lineage
from tests.cli.test_errors import run_cli
from tests.conftest import SMALL_NET, small_settings


def planned(tmp_path, **sections):
    from raysweep.plan import experiment as experiment_plan

    return experiment_plan.plan_experiment(small_settings(tmp_path / "experiments", **sections))


def notes(plan) -> str:
    return "\n".join(note.text for note in plan.notes)


@pytest.fixture
def bare(tmp_path, image_folder):
    """A file of weights that says nothing: trained on the images with pixels from -1 to 1, its outputs in another order."""
    import torch

    from raysweep.training import models

    torch.manual_seed(0)
    path = tmp_path / "bare.pt"
    torch.save(models.build("cnn", SMALL_NET["options"], 3, 1).state_dict(), path)
    return path


def of_images(image_folder, **more):
    return {"source": "folder", "path": str(image_folder), **more}


SHORT = {"epochs": 1, "batch_size": 30, "augment": {"crop_padding": 0, "flip": False}}


# --- pixels -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "mean", "std"),
    [
        ({"mean": "half"}, [127.5], [127.5]),
        ({"std": "none"}, [0.0], [255.0]),
        ({"mean": "imagenet"}, [(123.675 + 116.28 + 103.53) / 3], [(58.395 + 57.12 + 57.375) / 3]),
        ({"mean": 0.5, "std": 0.25}, [127.5], [63.75]),
        ({"mean": [0.4, 0.5, 0.6], "std": [0.2]}, [127.5], [51.0]),
        ({"mean": "none", "std": 0.5}, [0.0], [127.5]),
    ],
)
def test_the_user_says_how_pixels_are_standardised(tmp_path, image_folder, said, mean, std):
    from raysweep.data import cache
    from raysweep.training import origin

    settings = small_settings(tmp_path, data=of_images(image_folder, **said), model=SMALL_NET)
    data = cache.load(settings.data, tmp_path)
    found = origin.moments(settings, data, origin.Origin())
    assert found[0] == pytest.approx(mean)
    assert found[1] == pytest.approx(std)
    default = small_settings(tmp_path, data=of_images(image_folder), model=SMALL_NET)
    assert origin.moments(default, data, origin.Origin()) == (list(data.mean), list(data.std))
    dataset = small_settings(tmp_path, data=of_images(image_folder, mean="dataset"), model=SMALL_NET)
    assert origin.moments(dataset, data, origin.Origin()) == (list(data.mean), list(data.std))


def test_colours_are_standardised_each(tmp_path):
    from types import SimpleNamespace

    from raysweep.training import origin

    data = SimpleNamespace(shape=(8, 8, 3), mean=(1.0, 2.0, 3.0), std=(4.0, 5.0, 6.0))
    settings = small_settings(tmp_path, data={"mean": "imagenet"})
    assert origin.moments(settings, data, origin.Origin()) == ([123.675, 116.28, 103.53], [58.395, 57.12, 57.375])
    settings = small_settings(tmp_path, data={"mean": [0.1], "std": 0.2})
    assert origin.moments(settings, data, origin.Origin()) == ([25.5] * 3, [51.0] * 3)
    two = small_settings(tmp_path, data={"mean": [0.1, 0.2], "std": 0.2})
    with pytest.raises(ConfigError, match=r"data\.mean has 2 numbers, but the images have 3 channels"):
        origin.moments(two, data, origin.Origin())


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ({"mean": [123.7, 116.3, 103.5], "std": [58.4, 57.1, 57.4]}, "divide those for pixels from 0 to 255 by 255"),
        ({"mean": [0.5]}, "std is missing"),
        ({"std": 0.5}, "mean is missing"),
        ({"mean": 0.5, "std": 0}, "above zero"),
        ({"mean": "imagnet"}, "imagenet"),
        ({"mean": True, "std": 1}, "number"),
    ],
)
def test_other_values_are_refused(tmp_path, said, told):
    with pytest.raises(ConfigError, match=told):
        small_settings(tmp_path, data=said)


def test_they_are_in_checkpoint_and_export_and_a_child_keeps_them(
    tmp_path, image_folder, quick_run, quick_child, capsys
):
    data = of_images(image_folder, mean="half")
    run = quick_run(data=data, training=SHORT, sampling={"samples_per_epoch": 60})
    saved = checkpoint.read_checkpoint(run.folder / "checkpoint_epoch_1.pt")
    assert (saved["preprocessing"]["mean"], saved["preprocessing"]["std"]) == ([127.5], [127.5])
    root, target = tmp_path / "experiments", tmp_path / "x.safetensors"
    code, _, err = run_cli(capsys, "export", f"{run.id}@1", "--to", "safetensors", "-o", target, "--root", root)
    assert code == 0, err
    assert json.loads((tmp_path / "x.safetensors.json").read_text())["input"]["mean"] == [127.5]
    child = quick_child(f"{run.id}@1", epochs=1)
    assert checkpoint.read_checkpoint(child.folder / "checkpoint_epoch_2.pt")["preprocessing"]["mean"] == [127.5]
    with pytest.raises(ConfigError, match="a child standardises pixels as its checkpoint's network was trained"):
        quick_child(f"{run.id}@1", epochs=1, overrides={"data": {"mean": "none"}})
    # What was exported says how its pixels are standardised, and what its outputs are.
    again = planned(tmp_path, data=of_images(image_folder), training=SHORT, model={"init_from": str(target)})
    assert "pixels are standardised as" in notes(again)
    assert "mean 0.500, standard deviation 0.500" in notes(again)
    assert "does not name its outputs" not in notes(again)


def test_a_file_that_does_not_say_it_is_told_with_what_is_used(tmp_path, image_folder, bare):
    told = notes(planned(tmp_path, data=of_images(image_folder), training=SHORT, model={"init_from": str(bare)}))
    assert (
        f"{bare} does not say how its network's pixels were standardised; used are the values of the training images (mean 0."
        in told
    )
    said = planned(tmp_path, data=of_images(image_folder, mean="half"), training=SHORT, model={"init_from": str(bare)})
    assert "standardised" not in notes(said)
    assert "standardised" not in notes(planned(tmp_path, data=of_images(image_folder), training=SHORT))


def test_an_experiment_of_an_earlier_version_has_no_mean_of_its_own(tmp_path, image_folder):
    from raysweep.plan.upgrade import completed

    assert completed({"data": {"source": "digits"}})["data"]["mean"] is None
    assert completed({"data": {"source": "digits", "mean": "half", "std": "half"}})["data"]["std"] == "half"


# --- classes ----------------------------------------------------------------------------------------------------------


def test_the_order_of_a_files_outputs_is_used_where_it_is_known(tmp_path, image_folder, bare, quick_run):
    import torch

    model = {"init_from": str(bare), "init_classes": ["Eel", "CAT", "dog"]}
    plan = planned(tmp_path, data=of_images(image_folder), training=SHORT, model=model)
    assert plan.data.classes == ("eel", "cat", "dog")
    assert plan.settings.data.classes == ["eel", "cat", "dog"]
    assert "are Eel, CAT, dog; they are taken for eel, cat, dog" in notes(plan)
    state = {"model_state_dict": torch.load(bare), "classes": ["dog", "eel", "cat"]}
    torch.save(state, bare)
    plan = planned(tmp_path, data=of_images(image_folder), training=SHORT, model={"init_from": str(bare)})
    assert plan.settings.data.classes == ["dog", "eel", "cat"]
    run = quick_run(
        data=of_images(image_folder),
        training=SHORT,
        sampling={"samples_per_epoch": 60},
        model={"init_from": str(bare)},
    )
    assert run.config().classes == ["dog", "eel", "cat"]
    assert any("validation images correctly" in e.fields.get("text", "") for e in lineage.read(run.folder))


def test_a_head_whose_order_is_not_known_is_told_with_the_order_in_which_it_is_taken(tmp_path, image_folder, bare):
    import torch

    data, init = of_images(image_folder), {"init_from": str(bare)}
    told = notes(planned(tmp_path, data=data, training=SHORT, model=init))
    assert f"{bare} does not name its outputs; they are taken in this order: cat, dog, eel." in told
    assert "before training, the network names" in told
    assert "of 21 validation images correctly" in told
    told = notes(planned(tmp_path, data=data, training=SHORT, model={**init, "head": "replace"}))
    assert "outputs" not in told
    assert "validation images" not in told
    torch.save({"model_state_dict": torch.load(bare), "classes": ["happy", "sad", "fear"]}, bare)
    told = notes(planned(tmp_path, data=data, training=SHORT, model=init))
    assert (
        "are happy, sad, fear, but the classes are cat, dog, eel: its last layer is taken over, in this order" in told
    )


def test_classes_that_are_not_those_of_the_data_are_refused(tmp_path, image_folder, bare):
    with pytest.raises(ConfigError, match=r"model\.init_classes"):
        planned(
            tmp_path,
            data=of_images(image_folder),
            training=SHORT,
            model={"init_from": str(bare), "init_classes": ["cat", "dog", "owl"]},
        )
    with pytest.raises(ConfigError, match=r"omit data\.classes"):
        planned(
            tmp_path,
            data=of_images(image_folder, classes=["cat", "dog", "eel"]),
            training=SHORT,
            model={"init_from": str(bare), "init_classes": ["eel", "dog", "cat"]},
        )


def test_a_new_head_takes_nothing_from_the_file(tmp_path, bare):
    import torch

    from raysweep.config.settings import ModelSection
    from raysweep.training import head, initial, models

    model = models.build("cnn", SMALL_NET["options"], 3, 1, head="replace")
    mine = {k: v.clone() for k, v in model.state_dict().items()}
    loaded = initial.initialise(model, ModelSection(init_from=str(bare), head="replace"))
    assert loaded is not None
    assert not loaded.head
    assert "the last layer begins anew" in loaded.text
    after, file, own = model.state_dict(), torch.load(bare), head.keys(model)
    assert own
    assert all(torch.equal(after[k], (mine if k in own else file)[k]) for k in after)
    five = models.build("cnn", SMALL_NET["options"], 5, 1, head="replace")  # other classes than the file's
    assert initial.initialise(five, ModelSection(init_from=str(bare), head="replace")).text == loaded.text


def test_the_accuracy_before_training_is_that_of_the_validation_images(tmp_path, image_folder):
    """A network that knows the brightness of the classes, and its outputs in the order of another tool."""
    import torch

    from raysweep.data import cache
    from raysweep.plan import networks

    settings = small_settings(tmp_path, data=of_images(image_folder))
    data = cache.load(settings.data, tmp_path)

    class Bright(torch.nn.Module):
        def forward(self, x):
            level = x.mean((1, 2, 3))
            return -torch.stack([(level - at).abs() for at in (40.0, 100.0, 160.0)], 1)

    text = networks._accuracy(Bright(), "cnn", data, [0.0], [1.0], True)
    assert text.startswith(
        "before training, the network names 21 of 21 validation images correctly (100%; 33% by chance)"
    )
    assert "names 9 of 21" in networks._accuracy(
        Bright(), "cnn", data, [1000.0], [1.0], False
    )  # all as the first class
