"""The learning rate from a fork on: inherited, begun anew, kept or cooled down, for the control and all branches alike."""

from __future__ import annotations

import json

import pytest

from raysweep.config.settings import TrainingSection
from raysweep.plan import rates
from tests.cli.test_errors import run_cli


def training(schedule: str | None = None, **values) -> TrainingSection:
    given = {
        "epochs": 10,
        "learning_rate": 0.01,
        "warmup_epochs": 0,
        "schedule_epochs": 10,
        "min_lr_ratio": 0.0,
        **values,
    }
    before = TrainingSection.model_validate(given)
    asked = {**before.model_dump(mode="json"), "epochs": 4}
    asked["fork"] = {"schedule": schedule} if schedule else None
    made = TrainingSection.model_validate({**asked, "fork": rates.forked(before, asked, 5)})
    return rates.with_rate(made, before)


def at(section: TrainingSection, *epochs: float) -> list[float]:
    from raysweep.training.optim import learning_rate

    return [round(learning_rate(section, e), 9) for e in epochs]


def test_each_schedule_begins_at_the_fork():
    plain = at(training(), 5, 7, 9)
    assert plain[0] == 0.005  # half of the cosine is done
    assert at(training("inherit"), 5, 7, 9) == plain
    assert at(training("restart"), 5, 7, 9) == [0.01, 0.005, 0.0]
    assert at(training("constant"), 5, 7, 9) == [0.005] * 3
    assert at(training("cooldown"), 5, 7, 8, 9, 12) == [0.005, 0.0025, 0.00125, 0.0, 0.0]
    assert at(training("restart", warmup_epochs=2), 6, 7, 9) == [0.005, 0.01, 0.0]
    assert at(training("cooldown"), 4) == at(training(), 4)  # before the fork nothing is another


def test_a_child_of_a_child_inherits_it():
    before = training("constant")
    asked = before.model_dump(mode="json")
    assert rates.forked(before, asked, 9, named=False) == asked["fork"]
    again = {**asked, "epochs": 2, "fork": {**asked["fork"], "schedule": "cooldown"}}
    made = TrainingSection.model_validate({**again, "fork": rates.forked(before, again, 9)})
    made = rates.with_rate(made, before)
    assert at(made, 9, 10, 11) == [0.005, 0.0025, 0.0]
    back = {**asked, "fork": {**asked["fork"], "schedule": "inherit"}}
    assert rates.forked(before, back, 9) == asked["fork"]


def test_a_schedule_that_began_anew_begins_anew_again_where_a_child_asks_for_it():
    """Round 2 of a hunt that restarts in every round trained at what round 1 had left of its rate: next to nothing."""
    before = training("restart", warmup_epochs=0)
    assert at(before, 5, 9) == [0.01, 0.0]
    asked = {**before.model_dump(mode="json"), "epochs": 2}
    again = rates.with_rate(TrainingSection.model_validate({**asked, "fork": rates.forked(before, asked, 9)}), before)
    assert at(again, 9, 10, 11) == [0.01, 0.005, 0.0]
    goes_on = TrainingSection.model_validate({**asked, "fork": rates.forked(before, asked, 7, named=False)})
    assert at(goes_on, 7, 9) == at(before, 7, 9)
    text = rates.warning(before, rates.rates(before, 9, 11), 9, 2, given=False)
    assert text is not None
    assert "because the schedule that began anew at an earlier fork has ended" in text
    assert text.endswith("Add training.fork.schedule=restart")
    assert not rates.rates(again, 9, 11).low


@pytest.mark.parametrize("schedule", ["constant", "cooldown"])
def test_a_low_rate_that_is_kept_is_warned_of_with_what_helps(schedule):
    found = training(schedule, min_lr_ratio=0.01, schedule_epochs=5)
    text = rates.warning(found, rates.rates(found, 5, 9), 5, 4, given=False)
    assert text is not None
    assert "the rate of the fork" in text
    assert text.endswith("Add training.fork.schedule=restart")
    better = training("restart", min_lr_ratio=0.01, schedule_epochs=5)
    assert not rates.rates(better, 5, 9).low


def test_a_run_without_a_parent_has_no_fork(tmp_path, capsys):
    code, _, err = run_cli(
        capsys, "run", "data.source=faces", "training.fork.schedule=restart", "--dry-run", "--root", tmp_path
    )
    assert (code, "this run has no parent" in err) == (2, True)


@pytest.mark.slow
def test_plan_dry_run_and_log_tell_it(quick_run, quick_child, tmp_path, capsys):
    parent = quick_run(training={"epochs": 2, "warmup_epochs": 0, "learning_rate": 0.01})
    root = tmp_path / "experiments"
    grid = tmp_path / "grid.yaml"
    settings = "settings: {training.learning_rate: [0.02]}\n"
    grid.write_text(f"epochs: 1\nfork: {{schedule: restart}}\nweights: {{'3': [5]}}\n{settings}")
    words = ("branch", "--from", f"{parent.id}@2", "--weights-grid", grid, "--dry-run", "--root", root)
    code, _, err = run_cli(capsys, *words)
    assert code == 0, err
    assert "learning rate 0.01 at the fork, 0.0001 at the end" in err
    assert "learning_rate=0.02: learning rate 0.02 at the fork, 0.0002 at the end" in err
    assert "not an exact continuation, also without other weights or settings" in err
    assert "WARNING" not in err
    code, out, err = run_cli(capsys, *words, "--json")
    assert code == 0, err
    plan = json.loads(out)
    assert {b["arm"]: (b["reference"], b["learning_rate"]["fork"]) for b in plan["branches"]} == {
        "control": (None, 0.01),
        "learning_rate=0.02": (None, 0.02),
        "learning_rate=0.02_3=5": ("learning_rate=0.02", 0.02),
    }
    child = quick_child(f"{parent.id}@2", epochs=1, overrides={"training": {"fork": {"schedule": "cooldown"}}})
    log = (child.folder / "experiment_changes.log").read_text()
    assert "learning rate 0.0001 at the fork" in log
    assert "it falls to zero in a straight line" in log
    assert "training.fork" in log
