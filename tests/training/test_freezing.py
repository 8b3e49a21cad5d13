"""What of a network is trained (``model.freeze``), and that the rest keeps its bits."""

from __future__ import annotations

import pytest

from raysweep.errors import ConfigError, Interrupted

STILL = {"augment": {"crop_padding": 0, "flip": False}}


@pytest.fixture(autouse=True)
def without_pictures(monkeypatch):
    """They take longer than such a training."""
    from raysweep.launch import runner

    monkeypatch.setattr(runner, "derive", lambda *_: None)


def state_of(experiment, which="latest"):
    from raysweep.store import checkpoint

    return checkpoint.read_checkpoint(experiment.folder / experiment.entry(which).file)


def same(a, b):
    import torch

    return {name for name in a if name in b and torch.equal(a[name], b[name])}


@pytest.fixture
def section():
    from raysweep.config.settings import ModelSection

    def make(**options):
        return ModelSection.model_validate(options)

    return make


@pytest.fixture
def net():
    from raysweep.training import models

    return models.build("cnn", {"widths": [4, 4, 8, 8]}, 3, 1)


def test_patterns_name_layers_and_parameters(net, section):
    from raysweep.training.freezing import Freezing

    names = [name for name, _ in net.named_parameters()]
    assert Freezing.of(net, section(freeze="backbone"), 3).held == {n for n in names if not n.startswith("11.")}
    assert Freezing.of(net, section(freeze=["0", "1.*"]), 3).held == {n for n in names if n[:2] in ("0.", "1.")}
    assert Freezing.of(net, section(freeze="*.bias"), 3).held == {n for n in names if n.endswith("bias")}
    late = Freezing.of(net, section(freeze="backbone", unfreeze=3), 3)
    assert late.frozen(2) == late.held
    assert not late.frozen(3)
    assert late.begins(3)
    assert not late.begins(4)
    assert late.trained() == tuple(names)


@pytest.mark.parametrize(
    ("options", "classes", "words"),
    [
        ({"freeze": ["layer9"]}, 3, r"nothing in the network is called 'layer9'.*0, 1, 3"),
        ({"freeze": "*"}, 3, "leaves nothing to be trained"),
        ({"freeze": "backbone"}, 5, "does not have 5 outputs.*patterns"),
        ({"unfreeze": 2}, 3, "freezes nothing"),
    ],
)
def test_what_cannot_be_frozen_is_refused(net, section, options, classes, words):
    from raysweep.training.freezing import Freezing

    with pytest.raises(ConfigError, match=words):
        Freezing.of(net, section(**options), classes)


def test_a_frozen_layer_works_as_in_evaluation_and_others_as_in_training(net, section):
    from torch import nn

    from raysweep.training.freezing import Freezing

    norms = {name: m for name, m in net.named_modules() if isinstance(m, nn.BatchNorm2d)}
    some = Freezing.of(net, section(freeze=["0", "3"]), 3)
    some.apply(net, 1)
    some.train(net, 1)
    assert {name for name, m in norms.items() if not m.training} == {"0.1", "3.1"}
    assert net.training
    only = Freezing.of(net, section(freeze="backbone"), 3, some.able)
    only.apply(net, 1)
    for before in (net.train, net.eval, lambda: None):
        before()
        only.train(net, 1)
        assert [name for name, m in net.named_modules() if m.training] == ["11"]
    assert only.moving(net, 1) == ["11.weight", "11.bias"]
    assert not [n for n in some.moving(net, 1) if n.startswith(("0.", "3."))]


def test_groups_have_the_rates_of_their_layers(net, section):
    from raysweep.config.settings import TrainingSection
    from raysweep.training import groups, optim
    from raysweep.training.freezing import Freezing

    def of(freezing, **options):
        return groups.of(net, freezing, TrainingSection.model_validate({"learning_rate": 0.01, **options}))

    everything = Freezing.of(net, section(), 3)
    assert [g.scale for g in of(everything)] == [1.0, 1.0]
    head = of(everything, head_lr=0.1)
    assert [(g.scale, g.decays, len(g.names)) for g in head][2:] == [(10.0, True, 1), (10.0, False, 1)]
    scales = {name.partition(".")[0]: g.scale for g in of(everything, layer_decay=0.5) for name in g.names}
    # blocks 0, 1, 3, 4, 6, 7, then the last layer, 11
    assert scales == pytest.approx({"0": 2**-6, "1": 2**-5, "3": 2**-4, "4": 2**-3, "6": 0.25, "7": 0.5, "11": 1.0})
    only = Freezing.of(net, section(freeze="backbone"), 3)
    assert [g.names for g in of(only)] == [("11.weight",), ("11.bias",)]
    optimizer = optim.optimizer(net, TrainingSection.model_validate({"head_lr": 0.3}), None, everything)
    optim.set_learning_rate(optimizer, 0.0015)  # the half of 0.003, so half of the head's
    assert [g["lr"] for g in optimizer.param_groups] == pytest.approx([0.0015, 0.0015, 0.15, 0.15])


def test_layers_of_known_networks_are_numbered_from_the_input_on():
    from raysweep.training.groups import _depths

    vit = [
        "vit.embeddings.cls_token",
        "vit.encoder.layer.0.a.weight",
        "vit.encoder.layer.1.a.weight",
        "vit.layernorm.weight",
    ]
    assert list(_depths([*vit, "classifier.weight"], "classifier").values()) == [0, 1, 2, 2, 3]
    resnet = ["conv1.weight", "layer1.0.conv1.weight", "layer1.1.conv1.weight", "layer2.0.conv1.weight", "fc.weight"]
    assert list(_depths(resnet, "fc").values()) == [0, 1, 2, 3, 4]
    dense = [
        "features.conv0.weight",
        "features.denseblock1.denselayer1.a.weight",
        "features.norm5.weight",
        "classifier.weight",
    ]
    assert list(_depths(dense, "classifier").values()) == [1, 2, 3, 4]
    assert list(_depths(["a.weight", "b.weight", "c.weight"], "c").values()) == [1, 2, 3]


def test_a_frozen_tensor_keeps_its_bits_until_it_is_thawed(quick_run):
    experiment = quick_run(model={"freeze": "backbone", "unfreeze": 3}, training={"epochs": 3})
    one, two, three = (state_of(experiment, n)["model_state_dict"] for n in "123")
    assert same(one, two) == {name for name in one if not name.startswith("11.")}  # batch normalisation's numbers, too
    assert not same(two, three)
    optimizer = state_of(experiment, "2")["optimizer_state_dict"]
    assert len(optimizer["state"]) == 2
    assert len(state_of(experiment, "3")["optimizer_state_dict"]["state"]) == len(
        [n for n in one if "running" not in n and "num" not in n]
    )
    log = (experiment.folder / "experiment_changes.log").read_text()
    assert "parameters are frozen until epoch 3" in log
    assert log.count("Epoch 3 begins to train what was frozen") == 1


ALL = {
    "model": {"freeze": ["0", "1"], "unfreeze": 2},
    "training": {"epochs": 2, "head_lr": 0.01, "layer_decay": 0.7, "ema": 0.9, "accumulate": 3},
}


@pytest.mark.parametrize(
    "stop_after", [pytest.param(2, marks=pytest.mark.slow), 3, pytest.param(4, marks=pytest.mark.slow)]
)
def test_a_stop_anywhere_changes_no_bit(quick_run, without_ray, tmp_path, stop_after):
    from raysweep.launch.resume import continue_experiment
    from raysweep.store.catalog import experiments
    from raysweep.store.root import Root
    from tests.conftest import Recorder, weights_hash

    whole = quick_run(**ALL)
    without_ray(Recorder(stop_after))
    with pytest.raises(Interrupted):
        quick_run(**ALL, experiment={"name": "stopped"})
    without_ray(Recorder())
    root = Root.open(tmp_path / "experiments")
    stopped = next(e for e in experiments(root) if e.id.startswith("stopped"))
    assert stopped.entry("latest").batch is not None or stopped.entry("latest").epoch == 1
    done = continue_experiment(root, stopped.id).experiment
    assert weights_hash(done) == weights_hash(whole)
    a, b = state_of(done), state_of(whole)
    assert same(a["trained_state_dict"], b["trained_state_dict"]) == {*b["trained_state_dict"]}
    assert a["history"]["val_loss"] == b["history"]["val_loss"]


def test_a_child_takes_another_part_of_the_network_with_its_state(quick_run, quick_child):
    """Parameters that parent and child train keep the optimizer's state, by name."""
    import torch

    parent = quick_run(training={"epochs": 1})
    child = quick_child(f"{parent.id}@1", epochs=1, overrides={"model": {"freeze": "backbone"}})
    before, after = state_of(parent), state_of(child)
    assert same(before["model_state_dict"], after["model_state_dict"]) == {
        n for n in before["model_state_dict"] if n[:3] != "11."
    }
    steps = [row["step"] for row in after["optimizer_state_dict"]["state"].values()]
    assert [float(s) for s in steps] == [6.0, 6.0]  # three batches an epoch, in both
    again = quick_child(f"{child.id}@2", epochs=1, overrides={"model": {"freeze": None}, "training": {"head_lr": 0.01}})
    state = state_of(again)["optimizer_state_dict"]
    heads = {float(state["state"][i]["step"]) for g in state["param_groups"][2:] for i in g["params"]}
    others = {float(state["state"][i]["step"]) for g in state["param_groups"][:2] for i in g["params"]}
    assert (heads, others) == ({9.0}, {3.0})
    assert torch.isfinite(state_of(again)["model_state_dict"]["11.weight"]).all()
    assert "model.freeze" in (child.folder / "experiment_changes.log").read_text()


def test_the_average_is_that_of_the_weights_of_all_steps():
    import torch
    from torch import nn

    from raysweep.training.average import Average
    from raysweep.training.world import World

    net = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        net.weight.fill_(0.0)
    average, expected = Average(net, 0.5, ["weight"]), 0.0
    for step, value in enumerate([1.0, 2.0, 4.0], start=1):
        with torch.no_grad():
            net.weight.fill_(value)
        average.step(step)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * value
    assert float(average.tensors["weight"]) == pytest.approx(expected)
    with average.in_place(net, World(torch.device("cpu"))):
        assert net.weight.item() == pytest.approx(expected)
    assert net.weight.item() == 4.0


def test_the_average_is_what_is_validated_kept_and_predicted_with(quick_run, quick_child, tmp_path):
    import numpy as np
    import torch

    from raysweep.data import cache
    from raysweep.report import predictions
    from raysweep.store import checkpoint
    from raysweep.store.root import Root
    from raysweep.tools import predict

    experiment = quick_run(training={"epochs": 1, "ema": 0.99, **STILL})
    saved = state_of(experiment)
    assert saved["format_version"] == 2  # an earlier raysweep would go on from the average
    apart = {*saved["trained_state_dict"]} - same(saved["model_state_dict"], saved["trained_state_dict"])
    assert {"11.weight", "0.0.weight", "0.1.running_mean"} <= apart
    assert same(checkpoint.read(experiment.folder / "epoch_1_model.pt"), saved["model_state_dict"]) == {
        *saved["model_state_dict"]
    }
    network = predict.load(Root.open(tmp_path / "experiments"), f"{experiment.id}@1")
    found = predictions.read(experiment)
    data = next(d for d in _caches(cache) if d.sha256 == saved["data_sha256"])
    shown = network.probabilities(data.val.take(np.arange(20)))
    assert np.allclose(shown, found.probabilities[:20], atol=1e-5)
    plain = quick_child(f"{experiment.id}@1", epochs=1, overrides={"training": {"ema": None, "learning_rate": 1e-30}})
    after = state_of(plain)
    assert after["format_version"] == 1
    trained = saved["trained_state_dict"]
    assert torch.allclose(
        after["model_state_dict"]["11.weight"], trained["11.weight"], atol=1e-6
    )  # goes on from the weights


def _caches(cache):
    import os
    from pathlib import Path

    return [
        d for f in Path(os.environ["RAYSWEEP_CACHE"]).iterdir() if f.is_dir() and (d := cache.reopen(f)) is not None
    ]


def test_accumulated_gradients_are_those_of_the_batch(quick_run, monkeypatch):
    """Without batch normalisation in training, which takes each part by itself."""
    import torch

    from raysweep.training.feed import Feed

    frozen = {"model": {"freeze": ["[0-7].*"], "features": "off"}}
    training = {"epochs": 1, "optimizer": "sgd", "learning_rate": 1.0, "warmup_epochs": 0}
    trained, batch = [], Feed.batch
    monkeypatch.setattr(
        Feed,
        "batch",
        lambda self, images, index, *more: trained.append(len(index)) or batch(self, images, index, *more),
    )
    one = state_of(quick_run(training=training, **frozen))["model_state_dict"]
    parts = state_of(quick_run(training={**training, "accumulate": 7}, **frozen))["model_state_dict"]
    assert all(torch.allclose(one[n], parts[n], atol=1e-5) for n in one)
    assert {n for n in trained if n <= 200 / 7 + 1} == {
        100 // 7,
        100 // 7 + 1,
        200 // 7,
        200 // 7 + 1,
    }  # of 200, 200 and 100


@pytest.mark.slow
def test_two_workers_freeze_thaw_average_and_accumulate_as_one(two_ranks, tmp_path, monkeypatch):
    """Up to rounding, and with the same bits where they are stopped while everything is frozen that will be thawed."""
    import torch

    from raysweep.launch.resume import continue_experiment
    from raysweep.launch.workers import start as workers
    from raysweep.store.root import Root
    from tests.conftest import weights_hash
    from tests.training.test_ranks import Trainer, go

    def run(ranks, folder, stop_after=None, **more):
        trainer = Trainer(ranks)
        monkeypatch.setattr(workers, "in_this_process", trainer)
        training = {"epochs": 2, "head_lr": 0.01, "ema": 0.9, "optimizer": "sgd", **more}
        model = {"freeze": ["0", "1", "3"], "unfreeze": 2}
        return go(trainer, tmp_path / folder, stop_after, training=training, model=model)

    one, two = run(None, "one"), run(two_ranks, "two")
    a, b = state_of(one)["model_state_dict"], state_of(two)["model_state_dict"]
    assert {n: float((a[n] - b[n]).abs().max()) for n in a if not torch.allclose(a[n], b[n], atol=1e-4)} == {}
    two, stopped = run(two_ranks, "two", accumulate=2), run(two_ranks, "stopped", stop_after=2, accumulate=2)
    assert stopped.status() == "interrupted"
    done = continue_experiment(Root.open(tmp_path / "stopped"), stopped.id).experiment
    assert weights_hash(done) == weights_hash(two)


@pytest.mark.parametrize("value", [True, "true", ["backbone", "0"]])
def test_a_word_that_says_not_what_is_frozen_is_refused(section, value):
    with pytest.raises(ValueError, match="backbone"):
        section(freeze=value)
