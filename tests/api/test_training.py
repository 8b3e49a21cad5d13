"""The Python interface, with every keyword that the specification uses."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from raysweep import branch, create_experiment_config, list_experiments, load_checkpoint, run_experiment
from raysweep.errors import CheckpointError, ConfigError, NotFoundError
from tests.conftest import SMALL_NET

SMALL = {
    "model": SMALL_NET,
    "training": {"augment": {"crop_padding": 1, "flip": False}},
    "scaling": {"num_workers": 0, "threads": 1},
}


@pytest.fixture
def first(tmp_path, without_ray):
    config = create_experiment_config(
        experiment_name="my_experiment",
        sampling_weights={"3": 3.0, "8": 0.8},
        num_epochs=2,
        batch_size=200,
        sample_per_class=40,
        experiment_description="Testing different sampling weights",
        root=str(tmp_path / "experiments"),
        data={"source": "digits"},
        settings=SMALL,
    )
    return run_experiment(config, progress=lambda event: None)


def test_an_experiment_and_its_child_as_the_specification_writes_them(first):
    output_dir, best_acc = first
    assert 0 < best_acc <= 1
    saved = load_checkpoint(f"{output_dir}/checkpoint_epoch_2.pt")
    assert saved["best_acc"] == best_acc
    assert sum(saved["history"][f"realised_{c}"][0] for c in "0123456789") == 400  # sample_per_class caps the pool

    child_dir, child_best = run_experiment(
        create_experiment_config(
            experiment_name="resumed_experiment",
            sampling_weights={"3": 5.0},
            resume_from_checkpoint=f"{output_dir}/checkpoint_epoch_1.pt",
            num_epochs=2,
            experiment_description="Resumed with different sampling weights",
        ),
        progress=lambda event: None,
    )
    assert Path(child_dir).parent == Path(output_dir).parent
    assert child_best >= saved["history"]["val_acc"][0]
    config = json.loads((Path(child_dir) / "experiment_config.json").read_text())
    assert config["sampling_weights"]["3"] == 5.0
    assert config["sampling_weights"]["8"] == 0.8  # not named, so the parent's
    assert config["resume_from_checkpoint"].endswith("checkpoint_epoch_1.pt")
    assert config["num_epochs"] == 2
    log = (Path(child_dir) / "experiment_changes.log").read_text()
    assert "Change Type: RESUME_FROM_CHECKPOINT" in log
    assert "Change Type: TRAINING_DATA_RATIO_CHANGE" in log
    assert load_checkpoint(f"{child_dir}/checkpoint_epoch_3.pt")["epoch"] == 3
    ids = [row["id"] for row in list_experiments(Path(child_dir).parent)]
    assert ids == [Path(output_dir).name, Path(child_dir).name]


def test_an_unknown_keyword_is_suggested():
    with pytest.raises(ConfigError, match="Did you mean 'num_epochs'"):
        create_experiment_config("x", num_epoch=3)
    for key, meant in (
        ("num_epoch", "Did you mean 'num_epochs'"),
        ("model", "Did you mean 'model_name'"),
        (3, "key 3"),
    ):
        with pytest.raises(ConfigError, match=meant):  # nothing that is given is ignored
            run_experiment({"experiment_name": "x", key: 3})


def test_missing_and_incomplete_checkpoints(tmp_path, first):
    with pytest.raises(NotFoundError):
        load_checkpoint(tmp_path / "none.pt")
    bare = f"{first[0]}/epoch_1_model.pt"
    with pytest.raises(CheckpointError, match=r"init_from"):
        load_checkpoint(bare)


@pytest.fixture
def no_terminal(monkeypatch):
    """Importing a display fails."""
    for name in [*(m for m in sys.modules if m.startswith("raysweep.display")), "raysweep.display"]:
        monkeypatch.setitem(sys.modules, name, None)
    for name in ("run", "sweep", "terminal"):
        monkeypatch.setitem(sys.modules, f"raysweep.display.{name}", None)


def test_a_caller_that_passes_progress_gets_no_terminal(tmp_path, no_terminal, without_ray):
    options = {"num_epochs": 1, "batch_size": 200, "sample_per_class": 20, "data": {"source": "digits"}}
    config = create_experiment_config("quiet", root=str(tmp_path / "e"), settings=SMALL, **options)
    events = []
    folder, _ = run_experiment(config, progress=events.append)
    assert events
    with pytest.raises(NotFoundError, match="has no checkpoint '9'"):
        branch(f"{folder}@9", {"weights": {"3": [2.0]}}, progress=events.append)
    with pytest.raises(ModuleNotFoundError, match=r"raysweep\.display"):
        run_experiment(config)


def test_errors_can_be_caught_by_the_names_of_the_package():
    import raysweep

    with pytest.raises(raysweep.ConfigError):
        create_experiment_config("x", num_epoch=3)
    assert issubclass(raysweep.ConfigError, raysweep.RaysweepError)
