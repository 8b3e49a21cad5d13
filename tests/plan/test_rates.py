"""A child of a finished cosine: the rate at the fork and at the end is told everywhere, and next to nothing of it is warned of."""

from __future__ import annotations

import pytest

from raysweep.config.settings import TrainingSection
from raysweep.plan import rates
from tests.cli.test_errors import run_cli


def section(**values) -> TrainingSection:
    return TrainingSection.model_validate({"epochs": 10, "learning_rate": 0.01, "warmup_epochs": 0, **values})


def test_at_the_end_of_the_cosine_one_percent_is_left():
    training = section(schedule_epochs=10)
    found = rates.rates(training, 10, 15)
    assert (found.fork, found.end, found.peak) == (pytest.approx(1e-4), pytest.approx(1e-4), 0.01)
    assert found.low
    text = rates.warning(training, found, 10, 5, given=True)
    assert text is not None
    assert "1.0% of the learning rate's peak" in text
    assert "training.learning_rate=0.01 is only the peak" in text
    assert text.endswith("Add training.schedule_epochs=15")


@pytest.mark.parametrize(
    ("training", "fork", "epochs"),
    [
        (section(schedule_epochs=10), 10, 10),
        (section(schedule_epochs=10), 9, 1),
        (section(schedule_epochs=100), 100, 1),
        (section(schedule="step", step_epochs=3), 9, 3),
    ],
)
def test_the_remedy_helps(training, fork, epochs):
    words = rates.remedy(training, fork, epochs)
    values = dict(word.removeprefix("training.").split("=") for word in words)
    better = TrainingSection.model_validate({**training.model_dump(), **values})
    assert not rates.rates(better, fork, fork + epochs).low


@pytest.mark.parametrize(
    ("training", "fork", "epochs"),
    [(section(schedule="constant"), 10, 5), (section(schedule_epochs=10), 5, 5), (section(warmup_epochs=5), 1, 9)],
)
def test_a_rate_that_is_high_enough_is_told_and_not_warned_of(training, fork, epochs):
    found = rates.rates(training, fork, fork + epochs)
    assert rates.warning(training, found, fork, epochs, given=False) is None
    assert rates.remedy(training, fork, epochs) == []
    assert found.describe().startswith("learning rate 0.0")


def test_the_rate_between_is_told_where_it_is_above_both():
    """A schedule that starts anew begins and ends near zero, whatever its peak."""
    found = rates.rates(
        section(warmup_epochs=1, fork={"schedule": "restart", "start": 10, "end": 12, "rate": 1e-4}), 10, 12
    )
    assert found.course == (found.fork, pytest.approx(0.01), found.end)
    assert found.describe() == f"learning rate {found.fork:.2g} at the fork, 0.01 at most, {found.end:.2g} at the end"
    falling = rates.rates(section(schedule_epochs=10), 5, 10)
    assert falling.course == (falling.fork, falling.end)


def test_it_is_told_in_plan_dry_run_and_log(quick_run, quick_child, tmp_path, capsys):
    parent = quick_run(training={"epochs": 2, "warmup_epochs": 0, "learning_rate": 0.01})
    root = tmp_path / "experiments"
    code, _, err = run_cli(capsys, "resume", "--from", f"{parent.id}@2", "--epochs", 1, "--dry-run", "--root", root)
    assert code == 0, err
    assert "learning rate 0.0001 from the fork to the end" in err
    assert "WARNING: it trains at 1.0%" in err
    grid = tmp_path / "grid.yaml"
    grid.write_text("epochs: 1\nweights: {'3': [5]}\n")
    arguments = ("branch", "--from", f"{parent.id}@2", "--weights-grid", grid, "--dry-run", "--root", root)
    code, _, err = run_cli(capsys, *arguments)
    assert code == 0, err
    assert "learning rate 0.0001 from the fork to the end" in err
    assert "WARNING" in err
    code, _, err = run_cli(capsys, *arguments, "training.schedule_epochs=3")
    assert code == 0, err
    assert "WARNING" not in err
    child = quick_child(f"{parent.id}@2", epochs=1)
    log = (child.folder / "experiment_changes.log").read_text()
    assert "learning rate 0.0001 from the fork to the end" in log
    assert "WARNING" in log


def test_continue_with_epochs_points_to_resume(capsys, tmp_path):
    from tests.store.making import make_experiment

    root = tmp_path / "e"
    settings = {"training": section(epochs=2).model_dump()}
    made = make_experiment(root / "it_20260102_030405", [(1, None), (2, None)], settings=settings)
    code, _, err = run_cli(capsys, "continue", made.id, "--epochs", 3, "--root", root)
    assert code == 2
    assert (
        f"start a child: `raysweep resume --from {made.id}@2 --epochs 3 training.schedule_epochs=5 --root {root}`"
        in err
    )
