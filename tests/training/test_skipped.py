"""Networks that do not use all their parameters in every training pass: exact on two workers, or refused."""

from __future__ import annotations

import pytest

from raysweep.errors import ConfigError, Interrupted
from raysweep.launch import resume as resuming
from raysweep.launch import run as launching
from raysweep.plan import experiment as experiment_plan
from raysweep.store import checkpoint
from raysweep.store.experiment import Experiment
from raysweep.store.root import Root
from tests.conftest import Recorder, small_settings, weights_hash

NETS = """
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

class Net(nn.Module):
    norm, chance, spare, reentrant = False, 0.0, False, False

    def __init__(self, num_classes, channels, widths=None):
        super().__init__()
        self.first, self.second = self.block(channels), self.block(4)
        self.head, self.aux, self.never = nn.Linear(4, num_classes), nn.Linear(4, num_classes), nn.Linear(4, 4)

    def block(self, channels):
        norm = [nn.BatchNorm2d(4)] if self.norm else []
        return nn.Sequential(nn.Conv2d(channels, 4, 3, padding=1), *norm, nn.ReLU())

    def forward(self, x):
        x = self.first(x)
        if not (self.training and self.chance and torch.rand(()) < self.chance):
            x = x + (checkpoint(self.second, x, use_reentrant=True) if self.reentrant else self.second(x))
        x = x.mean((2, 3))
        self.spares = self.aux(x) if self.spare else None  # in no loss
        return self.head(x)

class Skips(Net):
    chance, spare = 0.5, True
class Unused(Net):
    spare = True
class SkipsNormalised(Skips):
    norm = True
class Reentrant(Net):
    reentrant = True
    def __init__(self, num_classes, channels, widths=None):
        super().__init__(num_classes, channels)
        del self.aux, self.never
class ReentrantUnused(Net):
    reentrant = True
"""
TRAINING = {"epochs": 2, "batch_size": 101, "augment": {"crop_padding": 0, "flip": False}, "weight_decay": 0.1}


@pytest.fixture
def run(project, tmp_path, monkeypatch, two_ranks):
    """(name, ranks or None, batches until a stop) → the experiment."""
    from raysweep.launch.workers import start as workers
    from raysweep.training.loop import train

    project(nets=NETS)

    def go(name: str, ranks: bool = True, stop_after: int | None = None, **sections: object) -> Experiment:
        root = tmp_path / f"{name}{ranks}{stop_after}"
        root.mkdir()

        def launched(job, fitted, progress):
            stop, launched.stop = launched.stop, None
            return two_ranks.train(job, stop) if ranks else train(job, Recorder(stop))

        launched.stop = stop_after
        monkeypatch.setattr(workers, "in_this_process", launched)
        settings = small_settings(
            root,
            model={"name": f"python:nets:{name}"},
            training=TRAINING,
            sampling={"samples_per_epoch": 303},
            **sections,
        )
        try:
            return launching.run(experiment_plan.plan_experiment(settings)).experiment
        except Interrupted:
            return next(Experiment(p, Root.open(root)) for p in root.glob("small_*"))

    return go


def state_of(experiment: Experiment) -> dict:
    return checkpoint.read_checkpoint(experiment.folder / "checkpoint_epoch_2.pt")


@pytest.mark.slow  # quick twin: layers skipped at random
def test_layers_that_are_never_used_are_left_alone_as_in_one_process(run):
    import torch

    one, two = run("Unused", ranks=False), run("Unused")
    states = [state_of(e)["model_state_dict"] for e in (one, two)]
    assert {k for k in states[0] if not torch.equal(states[0][k], states[1][k])}.isdisjoint(
        {"never.weight", "never.bias", "aux.weight", "aux.bias"}
    )  # neither a gradient nor weight decay has changed them
    for key in states[0]:
        assert torch.allclose(states[0][key], states[1][key], rtol=1e-3, atol=1e-4), key
    assert [e.metrics["order_sha256"] for e in one.entries()] == [e.metrics["order_sha256"] for e in two.entries()]


@pytest.mark.parametrize(
    "stop_after", [pytest.param(2, marks=pytest.mark.slow), 3, pytest.param(5, marks=pytest.mark.slow)]
)
def test_layers_skipped_at_random_train_the_same_bits_after_a_stop(run, stop_after):
    whole, broken = run("Skips"), run("Skips", stop_after=stop_after)
    assert broken.status() == "interrupted"
    done = resuming.continue_experiment(broken.root, broken.id).experiment
    assert weights_hash(done) == weights_hash(whole)


def _rank(rank: int, size: int, folder: str) -> None:
    import torch
    import torch.distributed as dist
    from torch import nn

    from raysweep.training.world import World

    class Skips(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two, self.never = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3)

        def forward(self, x):
            return self.two(self.one(x)) if rank == 1 else self.one(x)

    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=size)
    torch.manual_seed(0)
    model, parallel = World(torch.device("cpu")).wrap(Skips(), True, "python:nets:Skips", (3,))
    for _ in range(2):
        model.zero_grad(set_to_none=True)
        parallel(torch.full((2, 3), 1.0 + rank)).sum().backward()
    torch.save({name: p.grad for name, p in model.named_parameters()}, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_a_layer_that_one_worker_skips_gets_the_mean_of_the_gradients_on_both(tmp_path):
    import torch
    from torch import nn

    from tests import forks

    ranks = [forks.server().Process(target=_rank, args=(rank, 2, str(tmp_path))) for rank in (0, 1)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(120)
    assert [process.exitcode for process in ranks] == [0, 0]
    zero, one = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    torch.manual_seed(0)
    first, second = nn.Linear(3, 3), nn.Linear(3, 3)
    (first(torch.ones(2, 3)).sum() / 2 + second(first(torch.full((2, 3), 2.0))).sum() / 2).backward()
    expected = {
        "one.weight": first.weight.grad,
        "one.bias": first.bias.grad,
        "two.weight": second.weight.grad,
        "two.bias": second.bias.grad,
    }
    for key, gradient in expected.items():
        assert torch.equal(zero[key], one[key]), key
        assert torch.allclose(zero[key], gradient), key
    assert zero["never.weight"] is None is one["never.weight"]


@pytest.mark.parametrize(
    ("name", "told"),
    [
        (
            "SkipsNormalised",
            r"does not call the same batch normalisations .*scaling\.sync_batchnorm=false\. Or train it in one process",
        ),
        (
            "ReentrantUnused",
            r"does not use all of its parameters .*\(aux\.weight, .*use_reentrant=False\. Or train it in one process",
        ),
    ],
)
def test_what_two_workers_cannot_train_is_refused_before_anything_is_made(project, tmp_path, name, told):
    project(nets=NETS)
    root = tmp_path / "experiments"
    model = {"name": f"python:nets:{name}"}
    settings = small_settings(root, model=model, scaling={"num_workers": 2, "threads": 1}, training=TRAINING)
    with pytest.raises(ConfigError, match=told):
        experiment_plan.plan_experiment(settings)
    assert not list(root.glob("small_*"))
