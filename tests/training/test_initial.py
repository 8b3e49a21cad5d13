"""Starting from the weights in a file, of raysweep or of anybody else's program: all that is tensors, and nothing by guess."""

from __future__ import annotations

import os
import re

import pytest

from raysweep.config.settings import ModelSection
from raysweep.errors import CheckpointError, InputError, NotFoundError
from tests.training import foreign_files
from tests.training.foreign_files import CLASSES, saved, small, trained, under
from tests.training.test_models import tiny


def section(path, **more) -> ModelSection:
    return ModelSection(init_from=str(path), **more)


def loaded(path, model, **more):
    from raysweep.training import initial

    found = initial.initialise(model, section(path, **more))
    assert found is not None
    return found


def test_no_file_changes_nothing():
    from raysweep.training import initial

    assert initial.initialise(tiny(3, 1), ModelSection()) is None


@pytest.mark.parametrize("ending", [".pt", ".safetensors"])
def test_a_network_starts_from_the_weights_in_a_file(tmp_path, ending):
    import torch
    from safetensors.torch import save_file

    source, path = tiny(3, 1), tmp_path / f"x{ending}"
    torch.save(source.state_dict(), path) if ending == ".pt" else save_file(source.state_dict(), path)
    model = tiny(3, 1)
    found = loaded(path, model)
    assert (found.text, found.head) == (f"4 of 4 tensors were taken from {path}", True)
    assert all(torch.equal(v, source.state_dict()[k]) for k, v in model.state_dict().items())


def test_tensors_that_do_not_fit_are_named_or_omitted(tmp_path):
    import torch

    source, path = tiny(3, 1).state_dict(), tmp_path / "x.pt"
    source["extra"] = torch.zeros(1)
    del source["0.bias"]
    torch.save(source, path)
    model = tiny(5, 1)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(
        CheckpointError, match=r"1 missing: 0.bias; 1 unexpected: extra; 2 of another shape: 3.weight is \(3, 2\)"
    ):
        loaded(path, model)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    found = loaded(path, model, init_strict=False)
    assert found.text.startswith("1 of 4 tensors were taken from")
    assert "extra" in found.text
    assert not found.head
    after = model.state_dict()
    assert torch.equal(after["0.weight"], source["0.weight"])
    assert all(torch.equal(after[k], before[k]) for k in before if k != "0.weight")
    torch.save({"other": torch.zeros(1)}, path)
    with pytest.raises(CheckpointError, match="Nothing in"):
        loaded(path, model, init_strict=False)


@pytest.mark.parametrize("content", [b"", b"no tensors", b"\xff" * 100, b"\x08\0\0\0\0\0\0\0{}      "])
def test_a_damaged_safetensors_file_is_refused(tmp_path, content):
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError):
        loaded(path, tiny(3, 1))
    with pytest.raises(NotFoundError, match="no file"):
        loaded(tmp_path / "nowhere.safetensors", tiny(3, 1))


# --- what other programs write ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", foreign_files.SHAPES)
def test_a_file_of_another_program_gives_the_same_predictions(name, tmp_path):
    import torch

    path = foreign_files.SHAPES[name](tmp_path)
    model = small(CLASSES, 3)
    found = loaded(path, model)
    assert found.text.startswith(f"{7 + 2 - ('before 0.4.1' in name)} of 9 tensors were taken from {path}"), found.text
    assert found.head
    x = torch.randn(5, 3, 12, 12, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        theirs, ours = trained()(x), model.eval()(x)
    assert torch.allclose(theirs, ours, rtol=0, atol=1e-5 if "half" not in name else 1e-2)
    if "half" in name:  # the very numbers of the file
        half = {k: v.half().float() if v.is_floating_point() else v for k, v in trained().state_dict().items()}
        assert all(torch.equal(v, half[k]) for k, v in model.state_dict().items())
        assert "converted from float16" in found.text


@pytest.mark.parametrize("name", foreign_files.REFUSED)
def test_a_file_is_refused_with_the_reason(name, tmp_path):
    import torch

    write, told = foreign_files.REFUSED[name]
    path, model = write(tmp_path), small(CLASSES, 3)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(InputError) as caught:
        loaded(path, model)
    assert re.search(told, str(caught.value)), caught.value
    assert "\n" not in str(caught.value)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_what_is_read_and_what_is_left_is_said(tmp_path):
    found = loaded(foreign_files.fer_lists(tmp_path), small(CLASSES, 3))
    assert (
        "(its net); beside them it holds, unused: best_val_acc (a number of NumPy), train_loss_list (a number of NumPy), "
        "array (numpy._core.multiarray._reconstruct), optimizer"
    ) in found.text
    found = loaded(foreign_files.namespace(tmp_path), small(CLASSES, 3))
    assert "args (argparse.Namespace)" in found.text
    found = loaded(foreign_files.bag_of_tricks(tmp_path), small(CLASSES, 3))
    assert "(its state_dict, without module., backbone. before the names)" in found.text
    found = loaded(foreign_files.fer(tmp_path), small(CLASSES, 3))
    assert "1 counter of batch normalisation, which old files do not have, stay at zero" in found.text


def test_the_user_says_which_network_is_meant(tmp_path):
    import torch

    def first_of(path, **more):
        model = small(CLASSES, 3)
        loaded(path, model, **more)
        return model.state_dict()["conv1.weight"]

    mine = [trained(seed).state_dict()["conv1.weight"] for seed in (0, 1)]
    for write, keys in (
        (foreign_files.references, ("model", "model_ema")),
        (foreign_files.dino, ("student", "teacher")),
        (foreign_files.interleaved, ("net", "model")),
        (foreign_files.moco, ("state_dict.module.encoder_q", "state_dict.module.encoder_k")),
    ):
        for key, own in zip(keys, mine, strict=True):
            assert torch.equal(first_of(write(tmp_path), init_key=key), own), key
    path = foreign_files.classifier_balancing(tmp_path)
    with pytest.raises(CheckpointError, match=r"2 missing: fc\.weight, fc\.bias"):
        first_of(path, init_key="state_dict_best.feat_model")
    assert torch.equal(first_of(path, init_key="state_dict_best.feat_model", init_strict=False), mine[0])
    with pytest.raises(CheckpointError, match=r"no tensors under ema .*There are: model, model_ema"):
        first_of(foreign_files.references(tmp_path), init_key="ema")


def test_a_last_layer_of_other_classes(tmp_path):
    import torch

    path, model = foreign_files.pytorch_cifar(tmp_path), small(7, 3)
    with pytest.raises(CheckpointError, match=r"2 of another shape.*model\.head=replace lets it begin anew"):
        loaded(path, model)
    before = model.fc.weight.clone()
    found = loaded(path, model, head="replace")
    assert "the last layer begins anew (fc.bias, fc.weight)" in found.text
    assert not found.head
    assert torch.equal(model.fc.weight, before)
    assert torch.equal(model.conv1.weight, trained().conv1.weight)


def test_gray_images_add_up_the_colours(tmp_path):
    import torch

    model = small(CLASSES, 1)
    found = loaded(foreign_files.bare(tmp_path), model)
    assert "the three colours of conv1.weight were added up" in found.text
    x = torch.randn(5, 1, 12, 12)
    with torch.no_grad():
        assert torch.allclose(model.eval()(x), trained()(x.expand(-1, 3, -1, -1)), atol=1e-5)
    with pytest.raises(CheckpointError, match=r"1 of another shape: conv1\.weight"):
        loaded(saved(tmp_path / "gray.pt", trained(channels=1).state_dict()), small(CLASSES, 3))


def test_a_network_within_a_wrapper_of_the_user(tmp_path):
    import torch

    class Mine(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.net = small(CLASSES, 3)

    model = Mine()
    assert loaded(foreign_files.pytorch_cifar(tmp_path), model).head
    assert torch.equal(model.net.fc.weight, trained().fc.weight)


def test_names_of_old_densenets(tmp_path):
    import torch

    new = torch.nn.Sequential()
    new.add_module("norm1", torch.nn.BatchNorm1d(2))
    new.add_module("conv2", torch.nn.Linear(2, 3))
    layer = torch.nn.Sequential()
    layer.add_module("layer", new)
    state = {f"layer.{k.replace('norm1', 'norm.1').replace('conv2', 'conv.2')}": v for k, v in new.state_dict().items()}
    assert "layer.norm.1.weight" in state
    assert loaded(saved(tmp_path / "d.pth", {**state, "layer.conv.2.bias": torch.ones(3)}), layer).head
    assert torch.equal(layer.layer.conv2.bias, torch.ones(3))


def test_what_a_file_says_of_its_classes_and_pixels(tmp_path):
    from raysweep.training import others

    state = trained().state_dict()
    names = ["eel", "cat", "dog", "fox"]
    for beside in (
        {"classes": names}, {"class_names": tuple(names)}, {"class_to_idx": {"cat": 1, "eel": 0, "fox": 3, "dog": 2}},
        {"id2label": {str(i): n for i, n in enumerate(names)}}, {"idx_to_class": dict(enumerate(names))},
    ):  # fmt: skip
        said = others.said(str(saved(tmp_path / "x.pt", {"net": state, **beside})))
        assert list(said.classes) == names
    for beside in ({"class_to_idx": {"cat": 1, "eel": 5}}, {"classes": 4}, {"id2label": {"a": "b"}}):
        assert others.said(str(saved(tmp_path / "x.pt", {"net": state, **beside}))).classes is None
    foreign_files.accelerate(tmp_path)
    (tmp_path / "x.pt").unlink()
    (tmp_path / "config.json").write_text('{"id2label": {"0": "eel", "1": "cat"}, "architectures": ["Net"]}')
    (tmp_path / "preprocessor_config.json").write_text(
        '{"image_mean": [0.5, 0.5, 0.5], "image_std": [0.25, 0.25, 0.25], "rescale_factor": 0.00392156862745098}'
    )
    said = others.said(str(tmp_path))
    assert (said.classes, said.network) == (["eel", "cat"], "Net")
    assert said.pixels == {"mean": [pytest.approx(127.5)] * 3, "std": [pytest.approx(63.75)] * 3}


class Calls:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("how", [{}, {"_use_new_zipfile_serialization": False}, {"pickle_protocol": 5}])
def test_nothing_in_a_file_is_run(tmp_path, how):
    marker = tmp_path / "marker"
    code = Calls(os.system, f"touch {marker}")
    content = {"net": trained().state_dict(), "args": code, "list": [code], "nested": {"deep": (code,)}}
    found = loaded(saved(tmp_path / "x.pt", content, **how), small(CLASSES, 3))
    assert re.search(r"args \(posix\.system\), list \(posix\.system\), nested \(posix\.system\)", found.text)
    for inner in ({**trained().state_dict(), "fc.weight": code}, code):
        with pytest.raises(CheckpointError):
            loaded(saved(tmp_path / "x.pt", inner, **how), small(CLASSES, 3))
    assert not marker.exists()


def test_a_checkpoint_of_an_earlier_version_for_gray_images_is_read(tmp_path):
    import torch

    from raysweep.training import models

    model = models.build("torchvision:squeezenet1_1", {}, 3, 1)
    assert not any(k.startswith("body.") for k in model.state_dict())
    old = {"model_state_dict": {k: v + 1 for k, v in under("body.", model).items()}}
    wanted = {k: v + 1 for k, v in model.state_dict().items()}
    models.load_weights(model, old, "an old checkpoint")
    assert all(torch.equal(v, wanted[k]) for k, v in model.state_dict().items())
    loaded(saved(tmp_path / "x.pt", old), model)
