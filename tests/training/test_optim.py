"""The learning rate as a function of the position, and what weight decay touches."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raysweep.config.settings import TrainingSection


def section(**options):
    return TrainingSection.model_validate({"epochs": 10, "learning_rate": 0.1, **options})


def test_warm_up_rises_to_the_rate_and_cosine_falls_to_its_end_and_stays():
    from raysweep.training import optim

    t = section(warmup_epochs=2, min_lr_ratio=0.01)
    assert 0 < optim.learning_rate(t, 0) < optim.learning_rate(t, 1) == pytest.approx(0.05)
    assert optim.learning_rate(t, 2) == pytest.approx(0.1)
    assert optim.learning_rate(t, 6) == pytest.approx(0.1 * (0.01 + 0.99 * 0.5))
    assert optim.learning_rate(t, 10) == pytest.approx(0.001) == optim.learning_rate(t, 25)


def test_step_and_constant():
    from raysweep.training import optim

    t = section(schedule="step", step_epochs=3, step_gamma=0.5, warmup_epochs=0)
    assert [optim.learning_rate(t, p) for p in (0, 2.99, 3, 6)] == pytest.approx([0.1, 0.1, 0.05, 0.025])
    assert optim.learning_rate(section(schedule="constant", warmup_epochs=0), 99) == 0.1


@given(st.floats(0, 100), st.sampled_from(["constant", "cosine", "step"]), st.floats(0, 20))
def test_the_rate_is_above_zero_and_never_above_the_configured_one(progress, schedule, warm):
    from raysweep.training import optim

    assert 0 < optim.learning_rate(section(schedule=schedule, warmup_epochs=warm), progress) <= 0.1


def test_biases_and_norms_are_not_decayed():
    import torch

    from raysweep.training import models, optim

    model = models.build("cnn", {"widths": [4, 4, 8, 8]}, 3, 1)
    decayed, free = optim.optimizer(model, section(weight_decay=0.5)).param_groups
    assert decayed["weight_decay"] == 0.5
    assert all(p.ndim > 1 for p in decayed["params"])
    assert free["weight_decay"] == 0.0
    assert all(p.ndim <= 1 for p in free["params"])
    assert sum(len(g["params"]) for g in (decayed, free)) == len(list(model.parameters()))
    assert isinstance(optim.optimizer(model, section(optimizer="sgd")), torch.optim.SGD)


@pytest.mark.parametrize("momentum", [0.9, 0.0])
def test_parameters_that_get_their_first_gradient_late_are_trained_by_sgd(momentum):
    """As in a network with stochastic depth."""
    import torch

    from raysweep.training import optim

    torch.manual_seed(0)
    model = torch.nn.ModuleList([torch.nn.Linear(3, 3) for _ in range(2)])
    twin = torch.nn.ModuleList([torch.nn.Linear(3, 3) for _ in range(2)])
    twin.load_state_dict(model.state_dict())
    one = optim.optimizer(model, section(optimizer="sgd", momentum=momentum, weight_decay=0.0))
    other = torch.optim.SGD(twin.parameters(), lr=0.1, momentum=momentum)
    for last in (1, 2, 2, 1):
        for layers, optimizer in ((model, one), (twin, other)):
            x = torch.ones(2, 3)
            for layer in layers[:last]:
                x = layer(x).relu()
            optimizer.zero_grad()
            x.sum().backward()
            optimizer.step()
    for a, b in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-6)


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_our_optimizers_give_the_same_bits_as_torchs(name):
    import torch

    from raysweep.training import optim

    torch.manual_seed(0)
    mine = torch.nn.Linear(5, 3)
    theirs = torch.nn.Linear(5, 3)
    theirs.load_state_dict(mine.state_dict())
    t = section(optimizer=name, weight_decay=0.1)
    ours = optim.optimizer(mine, t)
    groups = [{"params": [theirs.weight], "weight_decay": 0.1}, {"params": [theirs.bias], "weight_decay": 0.0}]
    other = (
        torch.optim.AdamW(groups, lr=0.1, fused=True)
        if name == "adamw"
        else torch.optim.SGD(groups, lr=0.1, momentum=t.momentum, fused=True)
    )
    for _ in range(5):
        x = torch.randn(8, 5)
        for model, optimizer in ((mine, ours), (theirs, other)):
            optimizer.zero_grad()
            model(x).square().mean().backward()
            optimizer.step()
    assert torch.equal(mine.weight, theirs.weight)
    assert torch.equal(mine.bias, theirs.bias)
    assert ours.state_dict()["param_groups"][0].keys() == other.state_dict()["param_groups"][0].keys()
    other.load_state_dict(ours.state_dict())  # files of one are files of the other
    ours.load_state_dict(other.state_dict())


@pytest.mark.slow
def test_a_step_does_not_import_the_compiler():
    import subprocess
    import sys

    code = (
        "import sys, torch\nfrom raysweep.training import optim\nfrom raysweep.config.settings import TrainingSection\n"
        "m = torch.nn.Linear(2, 2)\no = optim.optimizer(m, TrainingSection())\no.zero_grad()\nm(torch.ones(1, 2)).sum().backward()\n"
        "o.step()\no.load_state_dict(o.state_dict())\nprint('torch._dynamo' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"
