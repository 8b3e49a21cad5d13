"""Two processes of one training, joined by gloo, against one: same samples, same gradient, every image counted once."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from raysweep.errors import NonFiniteLossError
from raysweep.launch import run as launching
from raysweep.plan import experiment as experiment_plan
from raysweep.report import predictions
from raysweep.store import checkpoint
from raysweep.store.experiment import Experiment
from tests.conftest import Recorder, small_settings
from tests.training.ranks import Ranks


@pytest.fixture
def two(two_ranks: Ranks) -> Ranks:
    return two_ranks


def run_with(ranks: Ranks | None, root: Path, monkeypatch: pytest.MonkeyPatch, **sections: object) -> Experiment:
    """A run of plain torch processes, or of this one: what Ray's trainer does, without Ray."""
    from raysweep.launch.workers import start as workers
    from raysweep.training.loop import train

    root.mkdir(exist_ok=True)
    monkeypatch.setattr(
        workers,
        "in_this_process",
        lambda job, fitted, progress: train(job, Recorder()) if ranks is None else ranks.train(job),
    )
    return launching.run(experiment_plan.plan_experiment(small_settings(root, **sections))).experiment


def state_of(experiment: Experiment, epoch: int) -> dict:
    return checkpoint.read_checkpoint(experiment.folder / f"checkpoint_epoch_{epoch}.pt")


# One step an epoch of plain gradient descent with rate 1: old weights minus new ones is the gradient.
ONE_STEP = {
    "training": {
        "epochs": 1,
        "batch_size": 301,  # odd: the two ranks' shares differ in size
        "optimizer": "sgd",
        "momentum": 0.0,
        "weight_decay": 0.0,
        "learning_rate": 1.0,
        "warmup_epochs": 0,
        "schedule": "constant",
    },
    "sampling": {"samples_per_epoch": 301, "weights": {"3": 5, "8": 0.5}},
}


def test_two_processes_take_the_step_of_one(two, tmp_path, monkeypatch):
    import torch

    runs = {n: run_with(r, tmp_path / f"w{n}", monkeypatch, **ONE_STEP) for n, r in ((1, None), (2, two))}
    torch.manual_seed(0)
    after = {n: state_of(r, 1)["model_state_dict"] for n, r in runs.items()}
    # The start is the same on every number of ranks; it is drawn from the seed alone.
    from raysweep.training import models, state

    state.seed_everything(0, 0)
    settings = small_settings(tmp_path)
    before = models.build("cnn", settings.model.options, 10, 1).state_dict()
    for name, start in before.items():
        if not start.is_floating_point():
            continue
        steps = [(start - after[n][name]).double() for n in (1, 2)]
        assert torch.linalg.vector_norm(steps[0] - steps[1]) <= 1e-5 * torch.linalg.vector_norm(steps[0]), name
        assert torch.linalg.vector_norm(steps[0]) > 0, name
    one, two = (r.entries()[0].metrics for r in runs.values())
    assert one["order_sha256"] == two["order_sha256"]
    assert one["train_loss"] == pytest.approx(two["train_loss"], rel=1e-6)
    assert one["train_acc"] == two["train_acc"]
    assert state_of(runs[2], 1)["world_size"] == 2
    assert len(state_of(runs[2], 1)["rng_state"]) == 2


def test_epochs_of_two_processes_show_what_one_shows(two, tmp_path, monkeypatch):
    sections = {
        "training": {"epochs": 2, "batch_size": 128},
        "sampling": {"samples_per_epoch": 257, "weights": {"3": 5}},
    }
    runs = [
        run_with(r, tmp_path / f"w{n}", monkeypatch, **sections) for n, r in ((1, None), (2, two))
    ]  # one image is left over, and joins the last batch
    rows = []
    for r in runs:
        header, *lines = (r.folder / "training_history.csv").read_text().splitlines()
        rows.append([dict(zip(header.split(","), line.split(","), strict=True)) for line in lines])
    for one, two in zip(*rows, strict=True):
        for c in "0123456789":
            assert one[f"requested_{c}"] == one[f"realised_{c}"] == two[f"realised_{c}"]
            assert one[f"distinct_{c}"] == two[f"distinct_{c}"]
    orders = [[e.metrics["order_sha256"] for e in r.entries()] for r in runs]
    assert orders[0] == orders[1]
    assert orders[0][0] != orders[0][1]
    found = [predictions.read(r, 2) for r in runs]
    assert np.array_equal(found[0].labels, found[1].labels)  # every validation image once, in the same order
    assert np.allclose(found[0].probabilities, found[1].probabilities, atol=0.05)


def _norm_rank(rank: int, size: int, folder: str) -> None:
    import torch
    import torch.distributed as dist

    from raysweep.training import world

    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=size)
    x = torch.load(f"{folder}/x.pt")
    layer = world._synchronise(torch.nn.BatchNorm2d(3))
    mine = x[:5] if rank == 0 else x[5:]
    mine.requires_grad_()
    out = layer(mine)
    (out**3).sum().backward()
    torch.save(
        [out.detach(), mine.grad, layer.weight.grad, layer.running_mean, layer.running_var], f"{folder}/{rank}.pt"
    )
    dist.destroy_process_group()


@pytest.mark.slow
def test_synchronised_batch_normalisation_equals_that_of_the_whole_batch(tmp_path):
    import torch
    import torch.multiprocessing as mp

    torch.manual_seed(0)
    x = torch.randn(12, 3, 4, 4) * 3 + 100  # far from zero, where naive sums of squares lose digits
    torch.save(x, tmp_path / "x.pt")
    mp.spawn(_norm_rank, args=(2, str(tmp_path)), nprocs=2)
    layer = torch.nn.BatchNorm2d(3)
    whole = x.clone().requires_grad_()
    out = layer(whole)
    (out**3).sum().backward()
    parts = [torch.load(tmp_path / f"{r}.pt") for r in (0, 1)]
    torch.testing.assert_close(torch.cat([p[0] for p in parts]), out, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(torch.cat([p[1] for p in parts]), whole.grad, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(parts[0][2] + parts[1][2], layer.weight.grad, rtol=1e-4, atol=1e-3)
    for p in parts:
        torch.testing.assert_close(p[3], layer.running_mean)
        torch.testing.assert_close(p[4], layer.running_var, rtol=1e-4, atol=1e-4)


def test_a_loss_that_is_not_finite_is_reported_with_epoch_and_batch_and_keeps_the_checkpoints(quick_run, tmp_path):
    import torch

    root = tmp_path / "experiments"
    with pytest.raises(NonFiniteLossError, match=r"epoch \d, batch \d of 3"):
        quick_run(training={"epochs": 9, "learning_rate": 1e30, "optimizer": "sgd", "warmup_epochs": 0})
    (folder,) = root.glob("small_*")
    broken = Experiment(folder)
    assert broken.status() == "failed"
    reason = json.loads((folder / "lineage.jsonl").read_text().splitlines()[-1])["reason"]
    assert "NaN or infinite" in reason
    for entry in broken.entries():  # whatever was committed is whole and finite
        assert entry.verify(folder) is None
        assert all(torch.isfinite(v).all() for v in state_of(broken, entry.epoch)["model_state_dict"].values())


def test_a_mid_epoch_checkpoint_never_holds_weights_that_are_not_finite(quick_run, tmp_path):
    import torch

    with pytest.raises(NonFiniteLossError):
        quick_run(
            training={"learning_rate": 1e38, "optimizer": "sgd", "warmup_epochs": 0},
            checkpoint={"every_n_batches": 1},
        )
    (folder,) = (tmp_path / "experiments").glob("small_*")
    for entry in Experiment(folder).entries():
        saved = checkpoint.read_checkpoint(folder / entry.file)
        assert all(torch.isfinite(v).all() for v in saved["model_state_dict"].values())
