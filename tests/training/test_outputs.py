"""What a network returns: which part are the logits, and what auxiliary heads add to the loss."""

from __future__ import annotations

from collections import OrderedDict, namedtuple
from types import SimpleNamespace

import pytest

from raysweep.errors import ConfigError

GoogLeNetOutputs = namedtuple("GoogLeNetOutputs", ["logits", "aux_logits2", "aux_logits1"])
InceptionOutputs = namedtuple("InceptionOutputs", ["logits", "aux_logits"])


class ModelOutput(OrderedDict):
    """As transformers has it: a dictionary whose values can be None or tuples."""


def network(returns, classes: int = 3):
    """A network that returns ``returns(a, b, features)``: two outputs of all classes and features of 5 columns."""
    import torch
    from torch import nn

    from raysweep.training import outputs

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, classes), nn.Linear(4, classes), nn.Linear(4, 5)

        def forward(self, x):
            x = x.flatten(1)
            return returns(self.a(x), self.b(x), self.c(x), self.training)

    torch.manual_seed(0)
    return outputs.adapt(Net(), classes)


# name → (what it returns of a, b and features, auxiliary heads)
RETURNS = {
    "a tensor": (lambda a, b, f, training: a, 0),
    "a tuple with features": (lambda a, b, f, training: (f, a), 0),
    "a list of one": (lambda a, b, f, training: [a], 0),
    "a dictionary": (lambda a, b, f, training: {"features": f, "prediction": a}, 0),
    "a dictionary of any name": (lambda a, b, f, training: {"z": a, "features": f}, 0),
    "an auxiliary head in a dictionary": (lambda a, b, f, training: {"logits": a, "aux": b}, 1),
    "features as wide as the logits": (lambda a, b, f, training: {"logits": a, "features": b}, 0),
    "a tuple while it trains": (lambda a, b, f, training: (a, b) if training else a, 1),
    "GoogLeNetOutputs": (lambda a, b, f, training: GoogLeNetOutputs(a, b, b) if training else a, 2),
    "InceptionOutputs": (lambda a, b, f, training: InceptionOutputs(a, b) if training else a, 1),
    "heads that are turned off": (lambda a, b, f, training: GoogLeNetOutputs(a, None, None), 0),
    "ModelOutput": (lambda a, b, f, training: ModelOutput(loss=None, logits=a, hidden_states=(b, f)), 0),
    "an object": (lambda a, b, f, training: SimpleNamespace(logits=a, hidden=f), 0),
}


@pytest.mark.parametrize("shape", RETURNS)
def test_the_logits_are_found(shape):
    import copy

    import torch

    from raysweep.training import outputs

    returns, heads = RETURNS[shape]
    model = network(returns)
    x = torch.randn(2, 1, 2, 2)
    expected = torch.nn.functional.linear(x.flatten(1), model.a.weight, model.a.bias)
    for net in (model, copy.deepcopy(model)):
        assert torch.equal(net.eval()(x), expected)
        logits, auxiliaries = outputs.parts(net.train()(x))
        assert torch.equal(logits, expected)
        assert len(auxiliaries) == heads


@pytest.mark.parametrize(
    ("returns", "told"),
    [
        (lambda a, b, f, training: (a, b), r"a tuple with \(2, 3\), \(2, 3\), and 2 parts"),
        (lambda a, b, f, training: {"x": a, "y": b}, "2 parts of it could be the logits of 3 classes"),
        (lambda a, b, f, training: (f,), r"a tuple with \(2, 5\), and none of it"),
        (lambda a, b, f, training: None, "a NoneType, and none of it"),
        (lambda a, b, f, training: "text", "a str, and none of it"),
    ],
)
def test_nothing_is_guessed_between_two(returns, told):
    import torch

    with pytest.raises(ConfigError, match=told):
        network(returns).eval()(torch.zeros(2, 1, 2, 2))


@pytest.mark.parametrize(("shape", "share"), [("GoogLeNetOutputs", 0.3), ("InceptionOutputs", 0.4)])
def test_auxiliary_heads_add_their_share_to_the_loss(shape, share):
    import contextlib

    import torch
    from torch.nn import functional

    from raysweep.training import outputs
    from raysweep.training.augmentation.batches import Batch
    from raysweep.training.loop import _Loop
    from raysweep.training.losses import Loss
    from raysweep.training.profile import Clock

    assert outputs.share(RETURNS[shape][1]) == share
    model = network(RETURNS[shape][0]).train()
    x, y = torch.randn(4, 1, 2, 2), torch.tensor([0, 1, 2, 0])
    loop = _Loop.__new__(_Loop)
    loop.setup = SimpleNamespace(
        net=SimpleNamespace(autocast=contextlib.nullcontext, parallel=model),
        world=SimpleNamespace(size=1),
        auxiliary_share=outputs.share,
    )
    loop.clock = Clock(False, x.device)
    loss, logits = loop._backward(Batch(x, y, None), 4, Loss())
    a, b = (functional.linear(x.flatten(1), layer.weight, layer.bias) for layer in (model.a, model.b))
    ce = lambda z: functional.cross_entropy(z, y, reduction="sum")  # noqa: E731
    expected = ce(a) + RETURNS[shape][1] * share * ce(b)
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-6)
    assert torch.equal(logits, a)
    found = model.b.weight.grad
    assert found is not None
    model.zero_grad()
    (expected / 4).backward()
    assert torch.allclose(found, model.b.weight.grad, atol=1e-7)
