"""Building networks by name, and starting from somebody's weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from raysweep.config.settings import TrainingSection
from raysweep.errors import CheckpointError, ConfigError, Interrupted, NotFoundError
from raysweep.store import catalog

if TYPE_CHECKING:
    import torch
    from torch import nn


def tiny(num_classes: int, channels: int, width: int = 2) -> nn.Module:
    from torch import nn

    return nn.Sequential(
        nn.Conv2d(channels, width, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, num_classes)
    )


def two_outputs(num_classes: int, channels: int) -> nn.Module:
    return tiny(2, channels)


def no_module(num_classes: int, channels: int) -> str:
    return "a text"


HERE = __name__


@pytest.mark.parametrize("size", [8, 28, 48, 100])
@pytest.mark.parametrize("channels", [1, 3])
def test_cnn_takes_images_of_any_size(size, channels):
    from raysweep.training import models, trial

    trial.try_out(models.build("cnn", {}, 7, channels), (size, size, channels), 7)


def test_a_function_of_the_user_gets_its_options():
    from raysweep.training import models, trial

    model = models.build(f"python:{HERE}:tiny", {"width": 5}, 7, 1, trusted=True)
    trial.try_out(model, (16, 16, 1), 7)
    assert model[0].out_channels == 5


def test_torchvision_models_take_gray_images():
    from raysweep.training import models, trial

    trial.try_out(models.build("torchvision:squeezenet1_1", {}, 7, 1), (48, 48, 1), 7)


@pytest.mark.parametrize(
    ("name", "options", "told"),
    [
        ("ccn", {}, "'ccn' is not known"),
        ("torchvision:resnt18", {}, "Did you mean 'resnet18'"),
        ("python:no_such_module:f", {}, "cannot be imported"),
        (f"python:{HERE}:missing", {}, "has no function 'missing'"),
        (f"python:{HERE}", {}, "python:MODULE:FUNCTION"),
        (f"python:{HERE}:HERE", {}, "not a function"),
        (f"python:{HERE}:no_module", {}, "no_module|module"),
        ("cnn", {"widht": 3}, "widht"),
    ],
)
def test_a_model_that_cannot_be_built_is_reported_with_the_reason(name, options, told):
    from raysweep.training import models

    with pytest.raises(ConfigError, match=told):
        models.build(name, options, 7, 1, trusted=True)


def test_a_network_that_does_not_fit_the_data_is_found_before_training():
    from raysweep.training import models, trial

    with pytest.raises(ConfigError, match=r"logits of shape \(1, 7\)"):
        trial.try_out(models.build(f"python:{HERE}:two_outputs", {}, 7, 1, trusted=True), (16, 16, 1), 7)
    with pytest.raises(ConfigError, match="1×1"):
        trial.try_out(tiny(7, 1), (1, 1, 1), 7)


def test_weights_that_do_not_fit_are_named():
    import torch

    from raysweep.training import models

    state = tiny(7, 1).state_dict()
    state["extra"] = torch.zeros(1)
    state["0.weight"] = torch.zeros(3, 1, 3, 3)
    del state["3.bias"]
    with pytest.raises(CheckpointError) as error:
        models.load_weights(tiny(7, 1), state, "w.pt")
    for told in ("1 missing: 3.bias", "1 unexpected: extra", "0.weight is (3, 1, 3, 3), the model needs (2, 1, 3, 3)"):
        assert told in str(error.value)
    with pytest.raises(CheckpointError, match="not a state_dict"):
        models.load_weights(tiny(7, 1), {"a": 1}, "w.pt")


def test_a_bare_state_dict_starts_the_weights(tmp_path, quick_run):
    import torch

    first = quick_run(training={"epochs": 1})
    second = quick_run(
        training={"epochs": 1, "learning_rate": 1e-12}, model={"init_from": str(first.folder / "epoch_1_model.pt")}
    )
    one, two = (torch.load(e.folder / "epoch_1_model.pt", weights_only=True) for e in (first, second))
    torch.testing.assert_close(two["0.0.weight"], one["0.0.weight"])


@pytest.mark.parametrize("name", ["cnn", "torchvision:resnet18", "torchvision:regnet_y_128gf", "torchvision:swin_t"])
def test_an_outline_has_shapes_but_no_memory(name):
    import torch

    from raysweep.training import models, state

    outline = models.outline(name, {}, 7, 3)
    assert all(p.is_meta for p in outline.parameters())
    if name in ("cnn", "torchvision:resnet18"):
        model = models.build(name, {}, 7, 3)
        state = models.fitting_weights(outline, model.state_dict(), "x.pt")
        models.load_weights(model, state, "x.pt")
        assert torch.ones(1).device.type == "cpu"  # nothing of it stays


def test_a_network_of_gigabytes_is_compared_before_it_is_built():
    import torch

    from raysweep.training import models

    huge = models.outline("cnn", {"widths": [4, 4, 8, 500_000]}, 3, 1)
    with pytest.raises(CheckpointError, match="of another shape"):
        models.fitting_weights(huge, models.build("cnn", {"widths": [4, 4, 8, 8]}, 3, 1).state_dict(), "x.pt")
    with pytest.raises(ConfigError, match=r"model\.options do not fit cnn"):
        models.outline("cnn", {"widths": [4, 4, 8, 10**18]}, 3, 1)
    complex_weights = {k: v.to(torch.complex64) for k, v in tiny(3, 1).state_dict().items()}
    with pytest.raises(CheckpointError, match=r"is complex \("):
        models.load_weights(tiny(3, 1), complex_weights, "x.pt")


# What besides the weights a training starts from


def stepped(kind: str) -> tuple[nn.Module, torch.optim.Optimizer]:
    import torch

    from raysweep.training import optim

    model = tiny(3, 1)
    settings = TrainingSection(optimizer=kind)
    optimizer = optim.optimizer(model, settings)
    model(torch.ones(2, 1, 8, 8)).sum().backward()
    optimizer.step()
    return model, optimizer


@pytest.mark.parametrize("kind", ["adamw", "sgd"])
def test_an_optimizers_state_is_tried_on_an_outline(kind):
    from raysweep.training import optim, state

    model, optimizer = stepped(kind)
    saved = {"optimizer_state_dict": state.without_data(optimizer.state_dict())}
    model.to("meta")
    training = TrainingSection(optimizer=kind)
    state.restore_optimizer(model, optim.optimizer(model, training), saved, "x.pt", training)


@pytest.mark.parametrize(
    ("slot", "make"),
    [
        ("exp_avg", lambda torch: torch.zeros(1, 1)),
        ("exp_avg", lambda torch: "x"),
        ("step", lambda torch: torch.tensor(-1.0)),
        ("step", lambda torch: torch.tensor(float("nan"))),
        ("step", lambda torch: torch.zeros(3)),
        ("exp_avg_sq", lambda torch: None),
    ],
)
def test_an_optimizer_state_that_would_fail_at_the_first_step_is_refused(slot, make):
    import torch

    from raysweep.training import optim, state

    model, optimizer = stepped("adamw")
    saved = optimizer.state_dict()
    if slot == "exp_avg_sq":
        del saved["state"][0][slot]
    else:
        saved["state"][0][slot] = make(torch)
    fresh = optim.optimizer(model, TrainingSection())
    with pytest.raises(CheckpointError, match=r"optimizer state in x\.pt does not fit"):
        state.restore_optimizer(model, fresh, {"optimizer_state_dict": saved}, "x.pt", TrainingSection())


@pytest.mark.parametrize(
    "make",
    [
        lambda torch: {"python": 1},
        lambda torch: {"python": [3, [1, 2], None]},
        lambda torch: {"numpy": ["MT19937", torch.zeros(624, dtype=torch.int64), 10**6, 0, 0.0]},
        lambda torch: {"numpy": ["MT19937", torch.zeros(3, dtype=torch.int64), 1, 0, 0.0]},
        lambda torch: {"torch": torch.zeros(3, dtype=torch.uint8)},
        lambda torch: {"cuda": 4},
    ],
)
def test_trying_the_generators_of_a_checkpoint_keeps_those_of_this_process(make):
    import torch

    from raysweep.training import state

    before = state.rng_state()
    state.try_rng_states([before, before], "x.pt")
    with pytest.raises(CheckpointError, match=r"random generators in x\.pt cannot be restored"):
        state.try_rng_states([before, {**before, **make(torch)}], "x.pt")
    with pytest.raises(CheckpointError, match="a mapping is needed"):
        state.try_rng_states([torch.ones(2)], "x.pt")
    after = state.rng_state()
    assert after["python"] == before["python"]
    assert torch.equal(after["torch"], before["torch"])
    assert torch.equal(after["numpy"][1], before["numpy"][1])


# Starting from somebody's weights


def test_the_log_names_the_tensors_that_were_omitted(quick_run, tmp_path):
    import torch

    from raysweep.store import lineage

    first = quick_run(training={"epochs": 1})
    state = torch.load(first.folder / "epoch_1_model.pt", weights_only=True)
    del state[list(state)[-1]]
    torch.save(state, tmp_path / "x.pt")
    again = quick_run(training={"epochs": 1}, model={"init_from": str(tmp_path / "x.pt"), "init_strict": False})
    notes = [e.fields["text"] for e in lineage.read(again.folder) if e.type == lineage.NOTE]
    assert any("tensors were taken from" in n and "1 missing" in n for n in notes)


@pytest.mark.slow
def test_the_file_of_init_from_is_needed_only_where_the_weights_are_new(
    quick_run, quick_child, without_ray, tmp_path, capsys
):
    import torch

    from raysweep.launch.resume import continue_experiment
    from raysweep.store.root import Root
    from raysweep.training import models
    from tests.cli.test_errors import run_cli
    from tests.conftest import SMALL_NET, Recorder, weights_hash

    root, path = Root.open(tmp_path / "experiments"), tmp_path / "w.pt"
    torch.save(models.build("cnn", SMALL_NET["options"], 10, 1).state_dict(), path)
    begun = {"training": {"epochs": 2}, "model": {"init_from": str(path)}}
    whole = quick_run(**begun)
    without_ray(Recorder(stop_after=4))
    with pytest.raises(Interrupted):
        quick_run(**begun)
    without_ray(Recorder())
    stopped = next(e for e in catalog.experiments(root) if e.status() == "interrupted")
    path.unlink()
    assert weights_hash(continue_experiment(root, stopped).experiment) == weights_hash(whole)
    child = quick_child(f"{whole.id}@2", epochs=1)
    assert child.status() == "finished"
    assert child.config().setting("model", "init_from") == str(path)  # where the first of the family began
    code, out, _ = run_cli(capsys, "verify", f"{whole.id}@1", "--replay", "--root", root.path)
    assert (code, "the same bits" in out) == (0, True), out
    with pytest.raises(NotFoundError, match=r"w\.pt"):
        quick_run(**begun)


def test_a_child_refuses_weights_that_it_would_not_read(quick_run, quick_child, tmp_path):
    run = quick_run(training={"epochs": 1})
    with pytest.raises(
        ConfigError, match=r"init_from is 'w\.pt', but a child starts with the weights of its checkpoint"
    ):
        quick_child(f"{run.id}@1", overrides={"model": {"init_from": "w.pt"}})
