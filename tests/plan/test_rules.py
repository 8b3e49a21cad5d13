"""Weights by a rule or by shares, from the configuration, a child, the API and a grid: numbers in checkpoint and log."""

from __future__ import annotations

import pytest

from raysweep.store import lineage

TEN = {"training": {"epochs": 1}, "sampling": {"samples_per_epoch": 300}}


def saved(experiment) -> dict:
    from raysweep.store import checkpoint

    return checkpoint.read_checkpoint(experiment.folder / experiment.entry("latest").file)


def shown(experiment) -> dict[str, int]:
    """Class → images shown in the last epoch, from the history."""
    import pandas as pd

    last = pd.read_csv(experiment.folder / "training_history.csv").iloc[-1]
    return {c: int(last[f"realised_{c}"]) for c in experiment.config().classes}


def test_a_rule_in_the_configuration_gives_numbers_everywhere(quick_run):
    made = quick_run(training={"epochs": 1}, sampling={"weights": "balanced", "samples_per_epoch": 300})
    weights, counts = saved(made)["sampling_weights"], made.config().class_counts
    most = max(counts.values())
    assert weights == pytest.approx({c: most / n for c, n in counts.items()})
    assert made.config().sampling_weights == weights
    assert made.config().settings["sampling"]["weights"] == weights
    assert set(shown(made).values()) == {30}


@pytest.mark.slow
def test_a_child_by_a_rule_or_by_shares_logs_the_change(quick_run, quick_child):
    parent = quick_run(training={"epochs": 1}, sampling={"weights": {"3": 4.0}, "samples_per_epoch": 300})
    even = quick_child(f"{parent.id}@1", weights="balanced", epochs=1)
    assert set(shown(even).values()) == {30}
    event = next(e for e in lineage.read(even.folder) if e.type == lineage.RATIO).fields
    assert event["new_weights"] == saved(even)["sampling_weights"]
    assert event["new_shares"] == pytest.approx(dict.fromkeys(event["new_shares"], 0.1), abs=1e-12)
    more = quick_child(f"{parent.id}@1", weights={"3": "50%"}, epochs=1)
    assert shown(more)["3"] == 150
    same = quick_child(f"{parent.id}@1", overrides={"sampling": {"shares": {"3": 0.5}}}, epochs=1)
    assert saved(same)["sampling_weights"] == saved(more)["sampling_weights"]
    assert "Sampling weights by 3 50%" in (more.folder / "experiment_changes.log").read_text()
    again = quick_child(f"{more.id}@2", epochs=1)  # numbers are inherited
    assert saved(again)["sampling_weights"] == saved(more)["sampling_weights"]


def test_the_api_takes_rules(tmp_path, without_ray):
    from raysweep import create_experiment_config, run_experiment
    from raysweep.store.experiment import Experiment

    settings = {
        "sampling": {"samples_per_epoch": 300},
        "model": {"options": {"widths": [4, 4, 8, 8]}},
        "scaling": {"threads": 1},
    }
    config = create_experiment_config(
        "even",
        "balanced",
        num_epochs=1,
        batch_size=100,
        data={"source": "digits"},
        settings=settings,
        root=str(tmp_path),
    )
    folder, _ = run_experiment(config)
    assert set(shown(Experiment.open(folder)).values()) == {30}


def test_a_sweep_takes_rules_and_shares(quick_run, tmp_path):
    from raysweep.config import grid as grids
    from raysweep.plan import sweep as sweep_plan
    from raysweep.plan.types import SweepRequest
    from raysweep.store.root import Root

    parent = quick_run(training={"epochs": 1})
    grid = grids.check({"weights": ["balanced"], "branches": [{"name": "half", "shares": {"3": 0.5}}], "epochs": 1})
    root = Root.open(tmp_path / "experiments")
    plan = sweep_plan.plan_sweep(SweepRequest(root, f"{parent.id}@1", grid, name="s"), writable=False)
    shares = {p.name: plan.shares(p.weights) for p in plan.points}
    assert list(shares) == ["control", "half", "balanced"]
    assert shares["half"]["3"] == pytest.approx(0.5)
    assert shares["balanced"] == pytest.approx(dict.fromkeys(shares["balanced"], 0.1))
