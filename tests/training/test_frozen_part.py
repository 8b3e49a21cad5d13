"""The frozen part of a network lies in one file beside the checkpoints, which name it by its hash."""

from __future__ import annotations

import shutil

import pytest

from raysweep.errors import CheckpointError
from tests.training.test_features import ONCE, own_cache  # noqa: F401
from tests.training.test_freezing import same, state_of, without_pictures  # noqa: F401

HEAD = {"11.weight", "11.bias"}


@pytest.fixture
def experiment(quick_run):
    return quick_run(**ONCE)


def test_checkpoints_hold_what_is_trained_and_readers_get_the_whole(experiment):
    from raysweep.store import checkpoint, files

    file = experiment.folder / "checkpoint_epoch_1.pt"
    raw, whole = checkpoint.read(file), checkpoint.read_checkpoint(file)
    assert {*raw["model_state_dict"]} == HEAD
    assert raw["format_version"] == 2
    assert raw["frozen"]["sha256"] == files.sha256_file(experiment.folder / "frozen.pt")
    bare = checkpoint.read(experiment.folder / "epoch_1_model.pt")
    assert [*bare] == [*whole["model_state_dict"]]
    assert same(bare, whole["model_state_dict"]) == {*bare}
    assert {*checkpoint.read(experiment.folder / "frozen.pt")} == {*bare} - HEAD
    again = checkpoint.from_bytes(checkpoint.whole_bytes(file, file.read_bytes()))  # as branches get it
    assert same(again["model_state_dict"], bare) == {*bare}
    assert [p.name for p in experiment.folder.glob("frozen*")] == ["frozen.pt"]


def test_a_child_has_a_copy_of_the_same_file_and_what_is_thawed_is_whole(experiment, quick_child):
    from raysweep.store import checkpoint

    child = quick_child(f"{experiment.id}@2", epochs=1)
    assert (child.folder / "frozen.pt").read_bytes() == (experiment.folder / "frozen.pt").read_bytes()
    assert (child.folder / "frozen.pt").stat().st_nlink == 1
    free = quick_child(f"{experiment.id}@2", epochs=1, overrides={"model": {"freeze": None}})
    raw = checkpoint.read(free.folder / "checkpoint_epoch_3.pt")
    assert raw["format_version"] == 1
    assert len(raw["model_state_dict"]) > 2
    assert not (free.folder / "frozen.pt").exists()


def test_without_models_of_epochs_nothing_else_is_missing(experiment, quick_child):
    import torch

    from raysweep.store import checkpoint
    from raysweep.tools import derived

    child = quick_child(f"{experiment.id}@2", epochs=2, overrides={"checkpoint": {"epoch_models": False}})
    assert not [*child.folder.glob("epoch_*_model.pt")]
    assert all(entry.model_sha256 is None for entry in child.entries())
    assert not [fault for fault in derived.check(child, child.entries()).faults if fault.startswith("epoch_")]
    again = quick_child(f"{child.id}@best", epochs=1)  # inherits it
    assert not [*again.folder.glob("epoch_*_model.pt")]
    with_them = quick_child(f"{experiment.id}@2", epochs=2)
    bare = torch.load(with_them.folder / "epoch_4_model.pt", weights_only=True)
    whole = checkpoint.read_checkpoint(child.folder / "checkpoint_epoch_4.pt")["model_state_dict"]
    assert same(whole, bare) == {*bare}


@pytest.mark.parametrize("damage", ["missing", "flipped", pytest.param("another", marks=pytest.mark.slow)])
def test_a_checkpoint_without_its_frozen_part_is_refused(experiment, quick_child, tmp_path, damage):
    from raysweep.store import checkpoint, verify

    part = experiment.folder / "frozen.pt"
    content = bytearray(part.read_bytes())
    if damage == "missing":
        part.unlink()
    elif damage == "flipped":
        content[len(content) // 2] ^= 1
        part.write_bytes(content)
    else:
        checkpoint.write(part, {"0.0.weight": state_of(experiment)["model_state_dict"]["0.0.weight"]})
    words = "there is no frozen.pt beside it" if damage == "missing" else "does not have the recorded SHA-256"
    with pytest.raises(CheckpointError, match=rf"needs the frozen part of its network, and .*{words}.*epoch_N_model"):
        checkpoint.read_checkpoint(experiment.folder / "checkpoint_epoch_1.pt")
    with pytest.raises(CheckpointError, match=words):
        quick_child(f"{experiment.id}@2", epochs=1)
    assert words in verify.problems(experiment, experiment.entry("2"))[0]


def test_a_copied_folder_predicts_verifies_and_starts_runs(experiment, quick_run, tmp_path):
    from raysweep.store import verify
    from raysweep.store.experiment import Experiment
    from raysweep.store.root import Root
    from raysweep.tools import predict

    copy = tmp_path / "elsewhere" / experiment.id
    shutil.copytree(experiment.folder, copy)
    network = predict.load(Root.open(tmp_path / "elsewhere"), f"{experiment.id}@2")
    assert same(network.model.state_dict(), state_of(experiment, "2")["model_state_dict"]) == {
        *network.model.state_dict()
    }
    assert verify.problems(Experiment(copy), Experiment(copy).entry("2")) == []
    started = quick_run(
        model={"init_from": str(copy / "checkpoint_epoch_2.pt")}, training={"epochs": 1, "learning_rate": 1e-30}
    )
    assert len(same(state_of(started)["model_state_dict"], network.model.state_dict())) >= 8


def test_weights_of_an_average_are_what_a_run_starts_from(quick_run):
    import torch

    first = quick_run(training={"epochs": 1, "ema": 0.9})
    started = quick_run(
        model={"init_from": str(first.folder / "checkpoint_epoch_1.pt")},
        training={"epochs": 1, "learning_rate": 1e-30, "weight_decay": 0},
    )
    assert torch.allclose(
        state_of(started)["model_state_dict"]["11.weight"], state_of(first)["model_state_dict"]["11.weight"]
    )


def test_a_name_that_leads_elsewhere_is_refused(experiment):
    from raysweep.store import checkpoint

    file = experiment.folder / "checkpoint_epoch_1.pt"
    raw = checkpoint.read(file)
    checkpoint.write(file, {**raw, "frozen": {**raw["frozen"], "file": "../frozen.pt"}})
    with pytest.raises(CheckpointError, match=r"frozen\.file must be frozen\.pt"):
        checkpoint.read_checkpoint(file)
