"""A schedule of weights: what each epoch shows, what the log says, and the same bits after a stop."""

from __future__ import annotations

import re

import pytest

from raysweep.errors import ConfigError, WeightsError
from raysweep.store import lineage
from tests.conftest import Recorder, small_settings, weights_hash

PROGRESSIVE = [{"from": 1, "weights": {"3": 0.0}}, {"from": 3, "weights": "balanced", "linear": True}]
DEFERRED = [{"from": 3, "weights": {"3": "50%"}}]


def shown(experiment, name: str = "3") -> list[int]:
    """Images of a class shown in each epoch."""
    import pandas as pd

    return [int(n) for n in pd.read_csv(experiment.folder / "training_history.csv")[f"realised_{name}"]]


def ratios(experiment) -> list[tuple[int | None, float]]:
    """(epoch, new share of class 3) of each change of the ratio in the log."""
    events = [e for e in lineage.read(experiment.folder) if e.type == lineage.RATIO]
    return [(e.fields.get("epoch"), round(e.fields["new_shares"]["3"], 6)) for e in events]


def saved(experiment, epoch: int) -> dict[str, float]:
    from raysweep.store import checkpoint

    return checkpoint.read_checkpoint(experiment.folder / f"checkpoint_epoch_{epoch}.pt")["sampling_weights"]


def test_each_epoch_shows_what_the_schedule_says_and_the_log_tells_each_change(quick_run):
    made = quick_run(training={"epochs": 4}, sampling={"schedule": PROGRESSIVE})
    assert shown(made) == [0, 25, 50, 50]
    assert ratios(made) == [(2, 0.05), (3, 0.1)]
    assert saved(made, 1)["3"] == 0
    assert saved(made, 3) == saved(made, 4) != saved(made, 2)
    assert made.config().sampling_weights["3"] == 0
    later = quick_run(training={"epochs": 4}, sampling={"schedule": DEFERRED})
    assert shown(later)[2:] == [250, 250]
    assert ratios(later) == [(3, 0.5)]


@pytest.mark.parametrize("stop_after", [3, pytest.param(4, marks=pytest.mark.slow)])
def test_stopped_and_continued_equals_undisturbed(quick_run, tmp_path, without_ray, stop_after):
    from raysweep.launch import resume as resuming
    from raysweep.store.root import Root
    from tests.training.test_exactness import interrupted

    sections = {"training": {"epochs": 3}, "sampling": {"schedule": PROGRESSIVE}}
    whole = quick_run(**sections)
    broken = interrupted(tmp_path, without_ray, stop_after, **sections)
    without_ray(Recorder())
    result = resuming.continue_experiment(Root.open(tmp_path / "experiments"), broken.id)
    assert weights_hash(result.experiment) == weights_hash(whole)
    assert ratios(result.experiment) == ratios(whole) == [(2, 0.05), (3, 0.1)]


@pytest.mark.slow
def test_a_child_follows_the_schedule_unless_it_is_given_weights(quick_run, quick_child):
    whole = quick_run(training={"epochs": 3, "schedule_epochs": 3}, sampling={"schedule": PROGRESSIVE})
    first = quick_run(training={"epochs": 1, "schedule_epochs": 3}, sampling={"schedule": PROGRESSIVE})
    child = quick_child(f"{first.id}@1", epochs=2)
    assert weights_hash(child) == weights_hash(whole)
    assert ratios(child) == [(None, 0.05), (3, 0.1)]
    constant = quick_child(f"{first.id}@1", epochs=2, weights={"3": "20%"})
    assert shown(constant)[1:] == [100, 100]
    assert constant.config().settings["sampling"]["schedule"] == []
    other = quick_child(f"{first.id}@1", epochs=2, overrides={"sampling": {"schedule": DEFERRED}})
    assert shown(other)[1:] == [0, 250]


def test_the_control_of_a_sweep_follows_the_schedule_and_branches_have_their_weights(quick_run, tmp_path):
    from raysweep.config import grid as grids
    from raysweep.plan import sweep as sweep_plan
    from raysweep.plan.types import SweepRequest
    from raysweep.store.root import Root

    parent = quick_run(training={"epochs": 1}, sampling={"schedule": PROGRESSIVE})
    request = SweepRequest(
        Root.open(tmp_path / "experiments"), f"{parent.id}@1", grids.check({"weights": {"3": [2.0]}})
    )
    plan = sweep_plan.plan_sweep(request, writable=False)
    schedules = {
        p.name: len(sweep_plan.plan_branch(plan.base, "s_20260101_000000", p).settings.sampling.schedule)
        for p in plan.points
    }
    assert schedules == {"control": 2, "3=2": 0}


def test_replay_follows_the_schedule(quick_run, tmp_path):
    from raysweep.store.root import Root
    from raysweep.tools import replay

    made = quick_run(training={"epochs": 3}, sampling={"schedule": PROGRESSIVE})
    found = replay.replay(Root.open(tmp_path / "experiments"), made, made.entry("1"), made.entry("2"))
    assert found.difference is None


@pytest.mark.parametrize(
    ("schedule", "told"),
    [
        ([{"from": 3}, {"from": 3}], "must rise from point to point; they are 3, 3"),
        ([{"from": 0}], "greater than or equal to 1"),
        ([{"weights": "balanced"}], "from"),
        ([{"from": 3, "linear": True}], "put one at from: 1"),
        ([{"from": 3, "weights": "balance"}], "Did you mean 'balanced'"),
        ([{"from": 3, "until": 9}], "there is no such option"),
    ],
)
def test_schedules_that_cannot_be_followed_are_refused(tmp_path, schedule, told):
    with pytest.raises(ConfigError, match=re.compile(told)):
        small_settings(tmp_path, sampling={"schedule": schedule})


def test_unknown_classes_of_a_later_epoch_are_refused_before_anything_is_made(quick_run, tmp_path):
    with pytest.raises(WeightsError, match="'nine'"):
        quick_run(sampling={"schedule": [{"from": 9, "weights": {"nine": 2}}]})
    assert not list((tmp_path / "experiments").glob("small*"))
