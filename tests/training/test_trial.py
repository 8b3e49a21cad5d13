"""A network is tried as it will be used, before anything is made."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from raysweep.errors import ConfigError


def use(batches=(4, 2), channels: int = 3, channels_last: bool = True, size: int = 8, remedy: str = ""):
    import torch

    from raysweep.training.trial import Use

    return Use((size, size, channels), 5, batches, channels_last, torch.device("cpu"), remedy=remedy)


def net(forward=None, channels: int = 3, norm: bool = False):
    """A convolution, 4×4 maps, a linear layer of 5 outputs. ``forward(self, maps)`` can replace what follows the maps."""
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.maps = nn.Sequential(nn.Conv2d(channels, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
            self.last = nn.Linear(96, 5)
            self.norm = nn.BatchNorm1d(96) if norm else nn.Identity()

        def forward(self, x):
            maps = self.maps(x)
            return self.last(self.norm(maps.flatten(1))) if forward is None else forward(self, maps)

    torch.manual_seed(0)
    return Net()


def viewing(self, maps):
    return self.last(maps.view(maps.size(0), -1))


def test_a_plain_network_is_taken_as_it_is():
    import torch

    from raysweep.training import trial

    model = net(norm=True)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    found = trial.as_used(model, use())
    assert (found.channels_last, found.auxiliaries, found.notes) == (True, 0, ())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())  # running statistics, too
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("channels", [1, 3])
def test_a_network_that_views_its_maps_gets_the_ordinary_format(channels):
    from raysweep.training import trial

    found = trial.as_used(net(viewing, channels), use(channels=channels))
    assert not found.channels_last
    (note,) = found.notes
    assert "it does not take the memory format channels_last (view size is not compatible" in note
    assert trial.as_used(net(viewing, channels), use(channels=channels, channels_last=False)).notes == ()


def test_the_format_of_gray_images_is_what_was_asked_for():
    import torch

    from raysweep.training.trial import arranged

    pixels = torch.arange(2 * 4 * 4).reshape(2, 4, 4, 1).float().permute(0, 3, 1, 2)
    assert arranged(pixels, False).stride() == (16, 16, 4, 1)
    assert arranged(pixels, True).stride() == pixels.contiguous(memory_format=torch.channels_last).stride()
    assert torch.equal(arranged(pixels, False), pixels)


def fails_in_training(self, maps):
    if self.training:
        raise KeyError("no such thing")
    return self.last(maps.flatten(1))


def in_place(self, maps):
    hidden = self.maps[0].weight.sum().exp()
    product = hidden * self.last(maps.flatten(1))
    hidden.add_(1)
    return product


def last_batch(self, maps):
    return self.last(maps.reshape(4, -1) if self.training else maps.flatten(1))


FAULTS = {
    "in training": (fails_in_training, (4, 2), "fails in training mode, with a batch of 4 images .KeyError: 'no such"),
    "on the way back": (in_place, (4,), "fails in training mode.*modified by an inplace operation"),
    "of the last batch": (last_batch, (4, 3), "fails in training mode, with a batch of 3 images"),
    "of one image": (
        lambda self, m: self.last(m.squeeze(0).flatten(1)),
        (4,),
        "cannot take images of 8×8 with 3 channels",
    ),
    "of the output": (
        lambda self, m: self.last(m.flatten(1)).view(1, -1),
        (4,),
        r"returns \(1, 10\) for 2 images; logits of shape",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_would_fail_later_is_found(fault):
    from raysweep.training import trial

    forward, batches, told = FAULTS[fault]
    with pytest.raises(ConfigError, match=told) as found:
        trial.as_used(net(forward), use(batches))
    assert "\n" not in str(found.value)


def test_a_last_batch_of_one_image_and_batch_normalisation():
    from raysweep.training import trial

    with pytest.raises(ConfigError, match=r"has 1 image, and the model's batch normalisation.* Take two"):
        trial.as_used(net(norm=True), use((4, 1), remedy="Take two."))
    trial.as_used(net(), use((4, 1)))


def test_the_batches_that_are_tried_are_those_of_the_training(tmp_path):
    from raysweep.plan.networks import Place, _use
    from raysweep.plan.resources import Resources
    from tests.conftest import small_settings

    data = SimpleNamespace(shape=(8, 8, 3), classes=tuple("abcde"))

    def sizes(draws: int, batch: int, workers: int = 0, sync: bool = True, gpu: bool = False, parts: int = 1):
        training = {"batch_size": batch, "accumulate": parts}
        settings = small_settings(tmp_path, training=training, scaling={"sync_batchnorm": sync})
        return _use(settings, data, Place(Resources(workers, 1, 1, gpu), draws, here=False)).batches

    assert sizes(130, 64) == (64, 2)
    assert sizes(129, 64) == (65, 64)  # the last image joins the batch before
    assert sizes(30, 64) == (30,)
    assert sizes(1, 64) == (1,)
    assert sizes(128, 64, workers=3) == (22, 21)
    assert sizes(130, 64, workers=2, sync=False) == (32, 1)
    assert sizes(130, 64, workers=2) == (32, 2)  # the statistics are those of both ranks
    assert sizes(130, 64, gpu=True) == (8, 2)  # it will train elsewhere
    assert sizes(64, 64, parts=3) == (22, 21)
    assert sizes(7, 7, workers=2, parts=4, sync=False) == (2, 1)  # three parts: one rank has no more images


def test_frozen_networks():
    from raysweep.training import trial

    model = net()
    model.maps.requires_grad_(False)
    assert trial.as_used(model, use()).notes == ("168 of its parameters are frozen and stay as they are",)
    model.requires_grad_(False)
    with pytest.raises(ConfigError, match="all its parameters are frozen"):
        trial.as_used(model, use())
    from torch import nn

    with pytest.raises(ConfigError, match="it has no parameters"):
        trial.as_used(nn.Flatten(), use())


def test_an_auxiliary_head_of_other_classes_is_said():
    from torch import nn

    from raysweep.training import outputs, trial

    def two(self, maps):
        logits = self.last(maps.flatten(1))
        return {"logits": logits, "aux": self.aux(maps.flatten(1))} if self.training else logits

    model = outputs.adapt(net(two), 5)
    model.aux = nn.Linear(96, 7)
    found = trial.as_used(model, use())
    assert found.auxiliaries == 0
    assert "its auxiliary heads aux do not have 5 outputs, so their loss is left out" in found.notes[0]
    model.aux = nn.Linear(96, 5)
    assert (trial.as_used(model, use()).auxiliaries, trial.as_used(model, use()).notes) == (1, ())


def softmax(log: bool, evaluation: bool):
    def forward(self, maps):
        logits = self.last(maps.flatten(1))
        if evaluation and self.training:
            return logits
        return logits.log_softmax(1) if log else logits.softmax(1)

    return forward


@pytest.mark.parametrize(
    ("log", "evaluation", "told"),
    [
        (
            False,
            False,
            "as of a last layer Softmax. The loss takes the softmax of them again, so it trains slowly and badly: let it",
        ),
        (True, False, "as of a last layer LogSoftmax. That changes nothing"),
        (False, True, "in evaluation its outputs are probabilities"),
    ],
)
def test_a_softmax_at_the_end_is_said(log, evaluation, told):
    from raysweep.training import trial

    (note,) = trial.as_used(net(softmax(log, evaluation)), use()).notes
    assert told in note


def test_lazy_layers_get_their_shapes_from_a_batch():
    import torch
    from torch import nn

    from raysweep.training import trial

    def lazy():
        torch.manual_seed(3)
        return nn.Sequential(nn.LazyConv2d(4, 3), nn.LazyBatchNorm2d(), nn.Flatten(), nn.LazyLinear(5))

    one, other = lazy(), lazy()
    for model in (one, other):
        torch.manual_seed(4)
        trial.materialise(model, (3, 8, 8))
    assert type(one[3]) is nn.Linear
    assert one[3].in_features == 144
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))
    assert float(one[1].running_mean.abs().sum()) == 0
    unused = nn.Sequential(nn.Flatten(), nn.Linear(192, 5))
    unused[1].spare = nn.LazyLinear(2)
    with pytest.raises(ConfigError, match=r"were not used when it was tried, so they have no shape: 1\.spare"):
        trial.materialise(unused, (3, 8, 8))
