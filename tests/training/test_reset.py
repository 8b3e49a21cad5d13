"""A child with a new last layer on its parent's network (``--reset head``)."""

from __future__ import annotations

import pytest

from raysweep.errors import ConfigError

STILL = {"training": {"learning_rate": 1e-30, "weight_decay": 0.0}}  # a step that changes no weight


def tensors(experiment, which: str = "latest"):
    from raysweep.store import checkpoint

    return checkpoint.read_checkpoint(experiment.folder / experiment.entry(which).file)["model_state_dict"]


def head_of(state) -> str:
    """The name of the last weight matrix."""
    return [name for name, value in state.items() if name.endswith("weight") and value.ndim == 2][-1]


def test_only_the_last_layer_begins_anew(quick_run, quick_child, without_ray, tmp_path):
    import torch

    from raysweep.report import commands
    from raysweep.store import lineage

    parent = quick_run(training={"epochs": 1})
    before = tensors(parent)
    child = quick_child(f"{parent.id}@1", epochs=1, overrides=STILL, reset_head=True)
    after, head = tensors(child), head_of(before)
    changed = {
        n for n in before if not torch.equal(before[n], after[n]) and "running" not in n and "num_batch" not in n
    }
    assert changed == {head, head.replace("weight", "bias")}
    # drawn as the network draws it: within the bounds of torch's Linear, by the seed
    assert float(after[head].abs().max()) <= before[head].shape[1] ** -0.5
    other = quick_child(f"{parent.id}@1", epochs=1, overrides={**STILL, "seed": 5}, reset_head=True)
    assert not torch.equal(tensors(other)[head], after[head])
    assert child.config().reset_head
    events = lineage.read(child.folder)
    assert next(e for e in events if e.type == lineage.RESUME).fields["reset"] == "head"
    told = [e.fields["text"] for e in events if e.type == lineage.NOTE]
    assert any(
        t.startswith(f"the last layer {head.removesuffix('.weight')} begins anew: its weights are") for t in told
    )
    assert "--reset head" in commands.of_child(child)
    assert "reset_head" not in (parent.folder / "experiment_config.json").read_text()


def test_a_new_last_layer_that_is_frozen_is_the_one_that_is_kept(quick_run, quick_child):
    import torch

    from raysweep.store import checkpoint

    training = {"epochs": 1, "batch_size": 250}
    parent = quick_run(model={"freeze": ["11"]}, training=training)
    child = quick_child(f"{parent.id}@1", epochs=1, reset_head=True)
    before, after, bare = tensors(parent), tensors(child), checkpoint.read(child.folder / "epoch_2_model.pt")
    head = head_of(before)
    assert not torch.equal(before[head], after[head])
    assert all(torch.equal(after[name], bare[name]) for name in bare)


@pytest.fixture
def stopped(quick_child, without_ray, tmp_path, monkeypatch):
    """Starts a child with a new head that is stopped after so many batches (0: killed before it trains), continues it, and
    returns it."""
    from raysweep.errors import Interrupted
    from raysweep.launch.resume import continue_experiment
    from raysweep.launch.workers import start as workers
    from raysweep.store import index
    from raysweep.store.root import Root
    from tests.conftest import Recorder

    def killed(job, fitted, progress):
        raise KeyboardInterrupt

    def go(reference: str, epochs: int, batches: int):
        without_ray(Recorder(batches))
        if not batches:
            monkeypatch.setattr(workers, "in_this_process", killed)
        with pytest.raises(Interrupted):
            quick_child(reference, name=f"stopped{batches}", epochs=epochs, reset_head=True)
        without_ray(Recorder())
        root = Root.open(tmp_path / "experiments")
        broken = next(row.id for row in index.rows(root) if row.id.startswith(f"stopped{batches}_"))
        return continue_experiment(root, broken).experiment

    return go


@pytest.mark.slow
def test_a_child_with_a_new_head_that_was_stopped_ends_with_the_same_bits(quick_run, quick_child, stopped):
    from tests.conftest import weights_hash

    parent = quick_run(training={"epochs": 1})
    whole = quick_child(f"{parent.id}@1", epochs=1, reset_head=True)
    for batches in (0, 2):  # before its first checkpoint, and after it
        assert weights_hash(stopped(f"{parent.id}@1", 1, batches)) == weights_hash(whole)


@pytest.mark.slow  # the test above is its quick twin
@pytest.mark.parametrize("kind", ["adamw", "sgd"])
def test_a_child_with_a_new_head_that_was_stopped_in_a_later_epoch_ends_with_the_same_bits(
    quick_run, quick_child, stopped, kind
):
    from tests.conftest import weights_hash

    parent = quick_run(training={"epochs": 2, "optimizer": kind})
    whole = quick_child(f"{parent.id}@2", epochs=2, reset_head=True)
    assert weights_hash(stopped(f"{parent.id}@2", 2, 4)) == weights_hash(whole)


@pytest.mark.parametrize("kind", ["adamw", "sgd", "adagrad"])
def test_the_optimizer_forgets_the_last_layer_alone(kind):
    import copy

    import torch
    from torch import nn

    from raysweep.config.settings import TrainingSection
    from raysweep.training import head, optim

    def step(model, optimizer):
        optimizer.zero_grad()
        model(torch.ones(4, 3)).sum().backward()
        optimizer.step()

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))

    def optimizer(model):
        if kind == "adagrad":  # a user's own, whose state exists from the start and is not zero then
            return torch.optim.Adagrad(model.parameters(), lr=0.1, initial_accumulator_value=0.5)
        return optim.optimizer(model, TrainingSection(optimizer=kind, learning_rate=0.1))

    used = optimizer(model)
    step(model, used), step(model, used)
    fresh_model, kept_model = copy.deepcopy(model), copy.deepcopy(model)
    fresh, kept, new = optimizer(fresh_model), optimizer(kept_model), dict(optimizer(model).state)
    kept.load_state_dict(copy.deepcopy(used.state_dict()))
    head.forget(model, used, new, 2, "net")
    for pair in ((model, used), (fresh_model, fresh), (kept_model, kept)):
        step(*pair)
    assert torch.equal(model[1].weight, fresh_model[1].weight)  # as at a first step
    assert torch.equal(model[0].weight, kept_model[0].weight)
    assert not torch.equal(model[0].weight, fresh_model[0].weight)
    assert not torch.equal(model[1].weight, kept_model[1].weight)


def test_what_can_begin_anew():
    import torch
    from torch import nn
    from torch.nn.utils.parametrizations import weight_norm

    from raysweep.training import head

    class Cosine(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(4, 3))

    for layer in (Cosine(), nn.Linear(4, 3), weight_norm(nn.Linear(4, 3)), nn.Conv2d(4, 3, 3)):
        model = nn.Sequential(nn.Linear(2, 4), layer, nn.BatchNorm1d(3))
        assert head.restarted(model, 3, "net") == "1"
        other = {key: torch.full_like(value, 7.0) for key, value in model.state_dict().items()}
        mixed = head.anew(model, other, 3, "net")
        own = {key for key in mixed if mixed[key] is not other[key]}
        assert own == {key for key in model.state_dict() if key.startswith("1.")}
    from raysweep.training import models

    old = {f"body.{key}": value for key, value in model.state_dict().items()}  # of a gray network of an earlier version
    assert head.anew(model, models.as_named(model, old), 3, "net").keys() == model.state_dict().keys()
    with pytest.raises(ConfigError, match="the last layer of net, 1, does not have 5 outputs"):
        head.restarted(model, 5, "net")


@pytest.mark.slow
def test_changed_options_of_the_model_are_answered_with_words_that_the_commands_have(quick_run, quick_child):
    parent = quick_run(training={"epochs": 1})
    with pytest.raises(ConfigError) as found:
        quick_child(f"{parent.id}@1", overrides={"model": {"options": {"widths": [4, 4, 8, 4]}}})
    text = str(found.value)
    assert (
        "of model.options, widths is [4, 4, 8, 4] instead of [4, 4, 8, 8], and the weights of the checkpoint do not fit"
        in text
    )
    assert "omit what differs" in text
    assert "--reset head" in text
    assert "raysweep run" in text
    assert "model.init_strict=false" in text


def test_a_sweep_with_new_last_layers_is_recorded_and_planned_again(quick_run, tmp_path, capsys):
    import json

    from raysweep.config import grid as grids
    from raysweep.launch.sweep.driver import _record
    from raysweep.plan.sweep import plan_branch, plan_sweep
    from raysweep.plan.types import SweepRequest
    from raysweep.store.records_sweep import SweepRecord
    from raysweep.store.root import Root
    from tests.cli.test_errors import run_cli

    parent = quick_run(training={"epochs": 1})
    root = Root.open(tmp_path / "experiments")
    grid = grids.check({"weights": {"0": [3.0]}, "epochs": 1})
    request = SweepRequest(root, f"{parent.id}@1", grid, fresh_optimizer=True, reset_head=True)
    plan = plan_sweep(request)
    from datetime import datetime

    again = SweepRecord.from_json(json.loads(json.dumps(_record(plan, "s", datetime.now()).to_json())))
    assert (again.fresh_optimizer, again.reset_head) == (True, True)
    for point in plan.points:
        branch = plan_branch(plan.base, "s", point)
        assert (branch.fresh_optimizer, branch.reset_head) == (True, True)
        assert any("begins anew" in note.text for note in branch.notes)
    (tmp_path / "grid.json").write_text(json.dumps({"weights": {"0": [3.0]}, "epochs": 1}))
    words = [
        "branch",
        "--from",
        f"{parent.id}@1",
        "--weights-grid",
        tmp_path / "grid.json",
        "--dry-run",
        "--root",
        root.path,
    ]
    code, out, err = run_cli(capsys, *words, "--reset", "head", "--weights-only", "--json")
    assert code == 0, err
    assert any("begins anew" in note for note in json.loads(out)["notes"])
    code, _, err = run_cli(capsys, *words, "--reset", "tail")
    assert (code, "the part that can begin anew is head" in err) == (2, True)
