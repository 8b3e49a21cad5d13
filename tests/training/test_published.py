"""``model.pretrained: true``: the weights that a library publishes, without a network: fetching is replaced, or a file has them."""

from __future__ import annotations

import urllib.error

import pytest

from raysweep.config.settings import ModelSection
from raysweep.errors import ConfigError
from tests.conftest import small_settings
from tests.plan import old
from tests.training.test_origin import SHORT, notes, of_images

TIMM, TORCHVISION = "timm:test_resnet", "torchvision:squeezenet1_1"


@pytest.fixture(scope="module")
def originals():
    """Networks of the libraries with weights of their own: name → network."""
    import timm
    import torch
    from torchvision import models

    with torch.random.fork_rng():
        torch.manual_seed(0)
        return {TIMM: timm.create_model("test_resnet"), TORCHVISION: models.get_model("squeezenet1_1")}


@pytest.fixture
def fetched(monkeypatch, originals):
    """What the libraries would fetch are these networks' weights; holds what was asked for."""
    from timm.models import _builder
    from torchvision.models import WeightsEnum

    asked = []

    def of_torchvision(weights, *arguments, **options):
        asked.append(str(weights))
        return originals[TORCHVISION].state_dict()

    def of_timm(config):
        asked.append(config["tag"])
        return "state_dict", originals[TIMM].state_dict()

    monkeypatch.setattr(WeightsEnum, "get_state_dict", of_torchvision)
    monkeypatch.setattr(_builder, "_resolve_pretrained_source", of_timm)
    return asked


@pytest.fixture
def unreachable(monkeypatch):
    import timm
    from timm.models import _builder
    from torchvision.models import WeightsEnum

    def fails(*arguments, **options):
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr(WeightsEnum, "get_state_dict", fails)
    monkeypatch.setattr(_builder, "_resolve_pretrained_source", fails)
    return timm


def section(name, **more):
    from raysweep.training import published

    return published.completed(ModelSection(name=name, pretrained=True, **more))


def built(section, num_classes, channels, new=True):
    from raysweep.training import initial, models, published

    model = models.build(
        section.name,
        section.options,
        num_classes,
        channels,
        pretrained=new and published.are_fetched(section),
        head=section.head,
    )
    return model, initial.initialise(model, section) if new else None


@pytest.mark.parametrize(
    ("name", "from_file"),
    [
        (TIMM, False),
        (TORCHVISION, True),
        pytest.param(TIMM, True, marks=pytest.mark.slow),
        pytest.param(TORCHVISION, False, marks=pytest.mark.slow),
    ],
)
def test_the_weights_are_the_published_ones(name, from_file, originals, fetched, tmp_path):
    """With the same classes the same predictions; with others all but the last layer; gray images as three equal colours."""
    import torch

    original, more = originals[name].eval(), {}
    if from_file:
        torch.save(original.state_dict(), tmp_path / "file.pth")
        more = {"init_from": str(tmp_path / "file.pth")}
    x = torch.randn(2, 3, 32, 32)
    whole, loaded = built(section(name, **more), 1000, 3)
    with torch.no_grad():
        assert torch.allclose(whole.eval()(x), original(x), rtol=0, atol=1e-5)
        gray, _ = built(section(name, **more), 1000, 1)
        one = x[:, :1]
        assert torch.allclose(gray.eval()(one), original(one.expand(-1, 3, -1, -1)), rtol=0, atol=1e-5)
    assert list(gray.state_dict()) == list(original.state_dict())
    seven, loaded = built(section(name, **more), 7, 3)
    mine, theirs = seven.state_dict(), original.state_dict()
    other = [k for k in theirs if not torch.equal(mine[k], theirs[k])] if {*mine} == {*theirs} else None
    assert other == [k for k in theirs if mine[k].shape != theirs[k].shape]
    assert len(other) == 2
    assert (fetched == []) == from_file
    if from_file:
        assert loaded is not None
        assert not loaded.head
        assert "the last layer begins anew" in loaded.text


def test_a_plan_says_size_normalisation_and_last_layer(tmp_path, image_folder):
    """Gray images of other classes, and of another size."""
    from raysweep.plan import experiment as experiment_plan

    vit = old.tiny_vit(tmp_path / "vit", ("a", "b", "c", "d", "e"))
    name = f"hf:{vit}"
    settings = small_settings(
        tmp_path / "experiments", training={**SHORT, "batch_size": 4}, data=of_images(image_folder)
    )
    settings = settings.model_copy(update={"model": ModelSection(name=name, pretrained=True)})
    plan = experiment_plan.plan_experiment(settings)
    assert plan.data.shape == (12, 12, 1)
    assert plan.settings.data.image_size == 12
    text = notes(plan)
    assert f"the first weights are those of {name}" in text
    assert "images have 12×12 pixels, as those on which the network was trained" in text
    assert f"pixels are standardised as {name} says (mean 0.500, standard deviation 0.500" in text
    assert "the last layer is a new one of 3 outputs" in text


def test_the_settings_name_the_weights(tmp_path):
    from raysweep.plan import networks

    def planned(name, **data):
        settings = small_settings(tmp_path, data=data)
        found, told = networks.of_library(
            settings.model_copy(update={"model": ModelSection(name=name, pretrained=True)})
        )
        return found, "\n".join(note.text for note in told)

    found, text = planned(TIMM)
    assert (found.data.image_size, found.model.options) == (160, {"pretrained": True})
    assert "the first weights are those of timm:test_resnet.r160_in1k" in text
    assert "images have 160×160 pixels" in text
    found, text = planned(TORCHVISION, image_size=32)
    assert (found.data.image_size, found.model.options) == (32, {"weights": "IMAGENET1K_V1"})
    assert "pixels, as those" not in text


def test_torchvisions_normalisation_is_used(tmp_path, image_folder, fetched):
    from raysweep.data import cache
    from raysweep.training import origin

    model = {"name": TORCHVISION, "options": {}, "pretrained": True}
    settings = small_settings(tmp_path, data=of_images(image_folder, image_size=32), model=model)
    data = cache.load(settings.data, tmp_path)
    mean, std = origin.moments(settings, data, origin.read(settings))
    assert mean == [pytest.approx(255 * (0.485 + 0.456 + 0.406) / 3)]
    assert std == [pytest.approx(255 * (0.229 + 0.224 + 0.225) / 3)]


@pytest.mark.parametrize(
    ("name", "told"),
    [
        (
            TORCHVISION,
            r"IMAGENET1K_V1 of torchvision:squeezenet1_1 cannot be fetched.*Download https://download\.pytorch.*init_from=FILE",
        ),
        (
            TIMM,
            r"timm:test_resnet cannot be fetched.*Download them from https://huggingface\.co/timm/test_resnet.*init_from=FILE",
        ),
    ],
)
def test_without_a_network_a_file_is_asked_for(name, told, unreachable):
    with pytest.raises(ConfigError, match=told):
        built(section(name), 3, 3)
    built(section(name), 3, 3, new=False)  # a child, predict and export need no weights


@pytest.mark.parametrize(
    ("name", "options", "told"),
    [
        ("cnn", {}, r"model\.pretrained is for networks of libraries.*init_from=FILE"),
        ("python:tests.training.test_models:tiny", {}, r"is for networks of libraries"),
        ("torchvision:resnet18", {"weights": "V9"}, r"no weights V9 for resnet18; it has: IMAGENET1K_V1"),
        ("torchvision:resnet1", {}, "torchvision has no classifier"),
        ("timm:test_resnet.nothing", {}, "timm has no weights"),
        ("timm:resnet50t", {}, "timm has no weights for timm:resnet50t"),
        ("hf:./nowhere", {}, "there is no folder"),
    ],
)
def test_what_has_no_published_weights_is_refused(name, options, told):
    with pytest.raises(ConfigError, match=told):
        section(name, options=options)


@pytest.mark.slow
def test_a_folder_of_transformers_trains_and_branches_on(tmp_path, image_folder, quick_run, quick_child):
    """Gray images of another number of classes; afterwards the folder is not needed."""
    import shutil

    import torch
    import transformers

    from raysweep.tools import predict

    vit = old.tiny_vit(tmp_path / "vit", ("a", "b", "c", "d", "e"))
    model = {"name": f"hf:{vit}", "options": {}, "pretrained": True}
    run = quick_run(data=of_images(image_folder), training={**SHORT, "learning_rate": 1e-12}, model=model)
    assert run.config().classes == ["cat", "dog", "eel"]
    saved = torch.load(run.folder / "checkpoint_epoch_1.pt", weights_only=True)
    assert saved["preprocessing"]["shape"] == [12, 12, 1]
    assert saved["preprocessing"]["mean"] == [127.5]
    original = transformers.ViTForImageClassification.from_pretrained(vit).state_dict()
    mine = saved["model_state_dict"]
    assert all(torch.allclose(mine[k], v, atol=1e-6) for k, v in original.items() if "classifier" not in k)
    (vit / "model.safetensors").unlink()
    child = quick_child(f"{run.id}@1", epochs=1)
    assert child.status() == "finished"
    predict.load(run.root, f"{child.id}@2")
    shutil.rmtree(vit)


def test_random_weights_of_a_folder_of_transformers(tmp_path):
    import torch

    from raysweep.training import models, published

    vit = old.tiny_vit(tmp_path / "vit")
    said = ModelSection(name=f"hf:{vit}", pretrained=False)
    assert not published.are_fetched(said)
    assert not published.is_asked(said)
    one = models.build(said.name, {}, 3, 3, pretrained=published.are_fetched(said))
    two = models.build(said.name, {}, 3, 3)
    assert not torch.equal(one.classifier.weight, two.classifier.weight)


@pytest.mark.slow
def test_every_kind_of_torchvisions_classifiers_is_built_alike_with_and_without_its_weights(monkeypatch):
    """What a child builds without weights is what was trained with them: the same tensors, the same changes of the input."""
    from torch import nn
    from torchvision import models as library

    from raysweep.training import head, hub, hub_torchvision, models

    monkeypatch.setattr(library.WeightsEnum, "get_state_dict", lambda *a, **k: {})
    monkeypatch.setattr(nn.Module, "load_state_dict", lambda *a, **k: None)
    kinds = {}  # one of each file of torchvision, number of classes and size
    for name in library.list_models(module=library):
        for weights in library.get_model_weights(name):
            facts = weights.meta
            kinds.setdefault(
                (library.get_model_builder(name).__module__, *map(str, facts["min_size"])), (name, weights)
            )
    assert len(kinds) > 15
    for name, weights in kinds.values():
        build = hub_torchvision.builder(name)
        with models._NoMemory():
            new = build(7, 3, weights=weights.name)
            with hub.shapes_only():
                again = build(7, 3, weights=weights.name)
        shapes = [{k: tuple(v.shape) for k, v in m.state_dict().items()} for m in (new, again)]
        assert shapes[0] == shapes[1], (name, weights)
        found = head.find(new)
        assert found is not None, name
        assert head.width(found[1]) == 7, name
        assert 1000 not in [s[0] for k, s in shapes[0].items() if k.endswith("bias")], name
        assert getattr(new, "transform_input", None) == getattr(again, "transform_input", None), name


def test_weights_without_a_last_layer_are_refused():
    from raysweep.training import hub_torchvision

    with pytest.raises(ConfigError, match=r"no weights IMAGENET1K_FEATURES for vgg16; it has: IMAGENET1K_V1\."):
        hub_torchvision.weights("vgg16", "IMAGENET1K_FEATURES")
