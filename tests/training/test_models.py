"""Building networks by name, and starting from somebody's weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from raysweep.errors import CheckpointError, ConfigError
from raysweep.training import models


def tiny(num_classes: int, channels: int, width: int = 2) -> nn.Module:
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
    models.try_out(models.build("cnn", {}, 7, channels), (size, size, channels), 7)


def test_a_function_of_the_users_and_its_options():
    model = models.build(f"python:{HERE}:tiny", {"width": 5}, 7, 1)
    models.try_out(model, (16, 16, 1), 7)
    assert model[0].out_channels == 5


def test_torchvision_models_take_gray_images():
    models.try_out(models.build("torchvision:squeezenet1_1", {}, 7, 1), (48, 48, 1), 7)


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
def test_models_that_cannot_be_built_say_why(name, options, told):
    with pytest.raises(ConfigError, match=told):
        models.build(name, options, 7, 1)


def test_a_network_that_does_not_fit_the_data_is_found_before_training():
    with pytest.raises(ConfigError, match=r"logits of shape \(1, 7\)"):
        models.try_out(models.build(f"python:{HERE}:two_outputs", {}, 7, 1), (16, 16, 1), 7)
    with pytest.raises(ConfigError, match="1×1"):
        models.try_out(tiny(7, 1), (1, 1, 1), 7)


def test_weights_that_do_not_fit_are_named():
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
    first = quick_run(training={"epochs": 1})
    second = quick_run(
        training={"epochs": 1, "learning_rate": 1e-12}, model={"init_from": str(first.folder / "epoch_1_model.pt")}
    )
    one, two = (torch.load(e.folder / "epoch_1_model.pt", weights_only=True) for e in (first, second))
    torch.testing.assert_close(two["0.0.weight"], one["0.0.weight"])
