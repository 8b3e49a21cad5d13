"""``raysweep branch``: what is refused before Ray starts, and what --dry-run shows."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml

from raysweep.store.results import refresh
from tests.cli.test_errors import run_cli

GRID = {"weights": {"3": [4.0, 1.0]}, "epochs": 2, "seeds": [0, 1]}


@pytest.fixture
def parent(quick_run):
    return quick_run()


def branch(capsys, tmp_path: Path, grid: dict, *options: object, root: Path | None = None) -> tuple[int, str, str]:
    path = tmp_path / "grid.yaml"
    path.write_text(yaml.safe_dump(grid))
    root = root or tmp_path / "experiments"
    before = sorted(p.name for p in root.iterdir())
    result = run_cli(capsys, "branch", "--weights-grid", path, "--root", root, *options)
    assert "Ray cluster" not in result[2], "Ray must not be started for what is wrong"
    assert sorted(p.name for p in root.iterdir()) == before, "nothing may be made"
    return result


@pytest.mark.parametrize(
    ("grid", "expected"),
    [
        ({"weights": {"33": [4.0]}}, "name class '33'"),
        ({}, "the grid is empty"),
        pytest.param({"weights": {"3": ["much"]}}, "not a number", marks=pytest.mark.slow),
        ({"weights": {"3": [-1.0]}}, "negative"),
        pytest.param(
            {"search": {"algorithm": "random", "num_samples": 2, "ranges": {"33": {"choice": [1]}}}},
            "'33'",
            marks=pytest.mark.slow,
        ),
        ({"search": {"algorithm": "optuna", "num_samples": 2, "ranges": {"33": {"choice": [1]}}}}, "Did you mean '3'?"),
        ({"weights": {"3": [4.0]}, "scheduler": "soon"}, "scheduler"),
    ],
)
def test_wrong_grids(capsys, tmp_path, parent, grid, expected):
    code, out, err = branch(capsys, tmp_path, grid, "--from", f"{parent.id}@1")
    assert code == 2, err
    assert out == ""
    assert expected in err
    assert len(err.strip().splitlines()) == 1


def test_wrong_checkpoints(capsys, tmp_path, parent):
    import torch

    def message(*options: object) -> str:
        code, _, err = branch(capsys, tmp_path, GRID, *options)
        assert code == 2, err
        assert len(err.strip().splitlines()) == 1
        return err

    assert "has no checkpoint '9'" in message("--from", f"{parent.id}@9")
    assert "There is no file" in message("--from", str(tmp_path / "none.pt"))
    assert "for a grid: grid, rules" in message("--from", f"{parent.id}@1", "--weights-grid", "gird.yaml")
    assert "init_from" in message("--from", parent.folder / "epoch_1_model.pt")
    assert "Did you mean" in message("--from", f"{parent.id}@1", "training.epohcs=3")
    assert "this machine has" in message("--from", f"{parent.id}@1", "--threads", "4096")
    assert "Use seeds in the grid" in message("--from", f"{parent.id}@1", "seed=5")
    assert "Use weights or branches in the grid" in message("--from", f"{parent.id}@1", "sampling.weights.3=5")
    assert "Use --root" in message("--from", f"{parent.id}@1", "root=elsewhere")
    assert "at most 50" in message("--from", f"{parent.id}@1", "--name", "x" * 51)
    # a checkpoint of other classes, a checkpoint of another model
    other = tmp_path / "other.pt"
    saved = torch.load(parent.folder / "checkpoint_epoch_1.pt", weights_only=True)
    torch.save({**saved, "classes": list("abcdefghij"), "sampling_weights": dict.fromkeys("abcdefghij", 1.0)}, other)
    code, _, err = branch(capsys, tmp_path, {"weights": {"a": [2.0]}}, "--from", other)
    assert code == 2
    assert "a, b, c" in err
    assert "0, 1, 2" in err
    assert "do not fit the model" in message("--from", f"{parent.id}@1", "model.options.widths=[4,4,8,12]")
    # truncated
    whole = parent.folder / "checkpoint_epoch_1.pt"
    shutil.copy(whole, tmp_path / "backup.pt")
    whole.write_bytes(whole.read_bytes()[:5000])
    assert "The newest intact checkpoint is" in message("--from", f"{parent.id}@1")
    cut = tmp_path / "cut.pt"
    cut.write_bytes((tmp_path / "backup.pt").read_bytes()[:5000])
    assert "damaged" in message("--from", cut)


def test_dry_run_shows_branches_shares_and_bytes(capsys, tmp_path, parent):
    code, out, err = branch(capsys, tmp_path, GRID, "--from", f"{parent.id}@1", "--dry-run")
    assert code == 0, err
    names = [line.split("\t")[0] for line in out.splitlines()]
    assert names == ["branch", "(parent)", "control-seed0 *", "control-seed1 *", "3=4-seed0", "3=4-seed1"]
    assert "3=1 shows the classes as control does; it runs once." in err
    assert "Nothing was started" in err
    code, out, _ = branch(capsys, tmp_path, GRID, "--from", f"{parent.id}@1", "--dry-run", "--json")
    plan = json.loads(out)
    counts = parent.config().class_counts
    mass = {c: n * (4 if c == "3" else 1) for c, n in counts.items()}
    assert plan["branches"][2]["shares"]["3"] == pytest.approx(mass["3"] / sum(mass.values()))
    assert plan["parent_shares"]["3"] == pytest.approx(counts["3"] / sum(counts.values()))
    assert plan["at_once"] >= 1
    written = sum((parent.folder / f).stat().st_size for f in ("checkpoint_epoch_2.pt", "epoch_2_model.pt"))
    assert plan["bytes"] == pytest.approx(4 * 2 * written, rel=0.25)


def test_continue_of_nothing(capsys, tmp_path, parent):
    code, _, err = run_cli(capsys, "continue", "nothing", "--root", tmp_path / "experiments")
    assert code == 2
    assert "No experiment" in err


def test_the_summary_names_the_file_with_the_traceback_of_a_failure(tmp_path, capsys):
    from raysweep.cli.branch import summarise
    from raysweep.errors import TrainingError
    from raysweep.launch.sweep.driver import SweepResult
    from tests.store.test_sweep import new_sweep

    mine, failed = new_sweep(tmp_path, "a", "b"), {"a": "ArithmeticError: unwell", "b": "its process died"}
    refresh(mine, failed)
    path = mine.keep_traceback("a", "Traceback …")
    with pytest.raises(TrainingError, match="2 of 2 branches failed"):
        summarise(SweepResult(mine, {}, failed))
    err = capsys.readouterr().err
    assert f"a failed: ArithmeticError: unwell (traceback: {path})\n" in err
    assert "b failed: its process died\n" in err


def test_a_grid_is_a_file_or_a_line(capsys, tmp_path):
    for given in ([], ["--weights-grid", "grid.yaml", "--grid", "a=2"]):
        code, _, err = run_cli(capsys, "branch", "--from", "x@1", *given, "--root", tmp_path)
        assert (code, "either as a file" in err) == (2, True)
