"""Networks of transformers and timm: loaded from a folder without network access, with their weights and parameter names."""

from __future__ import annotations

import socket

import pytest

from raysweep.errors import ConfigError, Interrupted
from tests.plan import old


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*arguments, **options):
        raise AssertionError("a network was used")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture(scope="module")
def vit(tmp_path_factory):
    pytest.importorskip("transformers", reason="transformers is not installed: pip install -e '.[hf]'")
    return old.tiny_vit(tmp_path_factory.mktemp("hub") / "vit")


def test_a_folder_of_transformers(vit, no_network):
    import torch
    import transformers

    from raysweep.training import hub, models

    model = models.build(f"hf:{vit}", {}, 3, 3)
    theirs = transformers.ViTForImageClassification.from_pretrained(vit)
    assert list(model.state_dict()) == list(theirs.state_dict())
    x = torch.randn(2, 3, 12, 12)
    assert torch.allclose(model.eval()(x), theirs.eval()(pixel_values=x).logits, atol=1e-6)
    assert hub.labels(f"hf:{vit}") == old.CLASSES
    assert hub.preprocessing(f"hf:{vit}") == hub.Preprocessing((127.5,) * 3, (127.5,) * 3)
    assert hub.input_size(f"hf:{vit}") == 12


@pytest.mark.slow
@pytest.mark.parametrize(("size", "channels"), [(12, 1), (48, 3), (9, 1)])
def test_images_of_any_size_gray_or_not(vit, size, channels):
    from raysweep.training import models, trial

    trial.try_out(models.build(f"hf:{vit}", {}, 3, channels), (size, size, channels), 3)


def test_gray_images_are_repeated(vit):
    import torch

    from raysweep.training import models

    model = models.build(f"hf:{vit}", {}, 3, 1).eval()
    x = torch.randn(2, 1, 12, 12)
    assert torch.equal(model(x), model(x.expand(-1, 3, -1, -1)))


def test_another_number_of_classes_replaces_only_the_head(vit):
    import torch

    from raysweep.training import models

    one, other = (models.build(f"hf:{vit}", {}, n, 3).state_dict() for n in (3, 5))
    changed = [k for k in one if one[k].shape != other[k].shape]
    assert changed == ["classifier.weight", "classifier.bias"]
    assert all(torch.equal(one[k], other[k]) for k in one if k not in changed)


def test_options_are_passed_to_the_models_configuration(vit):
    from raysweep.training import models

    assert models.build(f"hf:{vit}", {"hidden_dropout_prob": 0.3}, 3, 3).config.hidden_dropout_prob == 0.3


def test_an_outline_is_on_the_meta_device(vit):
    from raysweep.training import models

    outline = models.outline(f"hf:{vit}", {}, 3, 3)
    assert {p.device.type for p in outline.parameters()} == {"meta"}
    assert list(outline.state_dict()) == list(models.build(f"hf:{vit}", {}, 3, 3).state_dict())


def test_timm(no_network):
    from raysweep.training import hub, models, trial

    timm = pytest.importorskip("timm", reason="timm is not installed: pip install -e '.[timm]'")
    model = models.build("timm:resnet10t", {}, 3, 1)
    assert list(model.state_dict()) == list(timm.create_model("resnet10t", num_classes=3, in_chans=1).state_dict())
    trial.try_out(model, (20, 20, 1), 3)
    trial.try_out(models.build("timm:vit_tiny_patch16_224", {}, 3, 3), (48, 48, 3), 3)  # of a fixed size
    told = hub.preprocessing("timm:resnet10t")
    assert told is not None
    mean, std = told.of(1)
    assert mean == [pytest.approx(sum(told.mean) / 3)]
    assert std == [pytest.approx(sum(told.std) / 3)]
    assert {p.device.type for p in models.outline("timm:resnet10t", {}, 3, 1).parameters()} == {"meta"}


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("timm:resnet10x", "Did you mean 'resnet10t'"),
        ("hf:./nowhere", "there is no folder ./nowhere"),
        ("hf:", "is not known"),
    ],
)
def test_a_model_that_does_not_exist_is_named(name, told):
    from raysweep.training import models

    with pytest.raises(ConfigError, match=told):
        models.build(name, {}, 3, 3)


@pytest.mark.parametrize(("kind", "module"), [("hf", "transformers"), ("timm", "timm")])
def test_a_missing_library_is_reported_with_the_command_that_installs_it(monkeypatch, kind, module):
    from raysweep.training import hub, models

    def without(name):
        raise ImportError(name)

    monkeypatch.setattr(hub.importlib, "import_module", without)
    hub._hf_config.cache_clear()
    with pytest.raises(ConfigError, match=rf"needs {module}, which is not installed.*pip install 'raysweep\[{kind}\]'"):
        models.build(f"{kind}:x", {}, 3, 3)
    hub._hf_config.cache_clear()


def test_a_run_uses_the_models_labels_and_preprocessing(vit, image_folder, tmp_path, without_ray):
    """The data's classes are cat, dog, eel; the model's outputs are eel, cat, dog."""
    from raysweep.launch import run as launching
    from raysweep.plan import experiment as experiment_plan
    from raysweep.store import checkpoint
    from tests.conftest import small_settings

    settings = small_settings(
        tmp_path / "e", data={"source": "folder", "path": str(image_folder)}, model={"name": f"hf:{vit}", "options": {}},
        training={"epochs": 1, "learning_rate": 1e-12, "batch_size": 16},
    )  # fmt: skip
    made = launching.run(experiment_plan.plan_experiment(settings)).experiment
    assert made.config().classes == list(old.CLASSES)
    assert made.config().class_counts == {"eel": 20, "cat": 30, "dog": 10}
    saved = checkpoint.read_checkpoint(made.folder / "checkpoint_epoch_1.pt")
    assert saved["preprocessing"]["mean"] == [127.5]
    assert saved["preprocessing"]["std"] == [127.5]


def test_the_pretrained_weights_are_needed_only_where_the_weights_are_new(vit, image_folder, tmp_path, without_ray):
    import shutil

    from raysweep.launch import run as launching
    from raysweep.launch.resume import continue_experiment
    from raysweep.plan import experiment as experiment_plan
    from raysweep.store import catalog
    from raysweep.store.root import Root
    from tests.conftest import Recorder, small_settings, weights_hash

    folder = shutil.copytree(vit, tmp_path / "network")
    settings = small_settings(
        tmp_path / "e", data={"source": "folder", "path": str(image_folder)}, model={"name": f"hf:{folder}", "options": {}},
        training={"epochs": 2, "batch_size": 16},
    )  # fmt: skip

    def run():
        return launching.run(experiment_plan.plan_experiment(settings)).experiment

    whole = run()
    without_ray(Recorder(stop_after=5))
    with pytest.raises(Interrupted):
        run()
    without_ray(Recorder())
    root = Root.open(tmp_path / "e")
    stopped = next(e for e in catalog.experiments(root) if e.status() == "interrupted")
    (folder / "model.safetensors").unlink()
    assert weights_hash(continue_experiment(root, stopped).experiment) == weights_hash(whole)
    with pytest.raises(ConfigError, match="cannot be loaded"):
        run()
