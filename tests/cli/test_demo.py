"""The demonstration, and that its checks can fail; the old system's command line."""

from __future__ import annotations

import json
import shutil

import pytest

from raysweep.cli import demo
from raysweep.store.experiment import Experiment
from raysweep.store.root import Root
from tests.cli.test_errors import run_cli
from tests.conftest import SMALL_NET


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """A small demonstration, of few images and with a small network: (experiments, root)."""
    from raysweep.data import faces

    root = tmp_path_factory.mktemp("demo") / "experiments"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(faces, "TRAIN_IMAGES", 600)
        patch.setattr(faces, "VAL_IMAGES", 100)
        patch.setattr(demo, "SETTINGS", demo.SETTINGS | {"model": SMALL_NET})
        patch.setattr(demo, "IMAGES", 192)
        made = demo._train(Root.open(root))
    return made, root


def test_everything_is_checked_and_shown(shown, monkeypatch, capsys):
    made, root = shown
    monkeypatch.setattr(demo, "IMAGES", 192)
    monkeypatch.setattr(demo, "_train", lambda place: made)
    code, out, err = run_cli(capsys, "demo", "--root", root)
    assert code == 0, out
    assert "FAULT" not in out
    assert out.count("ok   ") == 3 * 4 + 6
    assert "Change Type: TRAINING_DATA_RATIO_CHANGE" in out
    assert "@3 disgust 1→5, fear 1→3, happy 1→0.5" in out
    assert "All checks passed" in err
    assert "raysweep branch" in err


BREAKS = {
    "every documented file": lambda f: (f / "classification_report.txt").unlink(),
    "it has checkpoints of epochs": lambda f: (f / "manifest.json").write_text((f / "manifest.json").read_text().replace('"epoch": 5', '"epoch": 6').replace("epoch_5.pt", "epoch_6.pt")),
    "size and hash": lambda f: (f / "checkpoint_epoch_4.pt").write_bytes(b"x"),
    "one row for each": lambda f: (f / "training_history.csv").write_text("".join((f / "training_history.csv").read_text().splitlines(keepends=True)[:-1])),
    "was shown exactly as often": lambda f: in_history(f, "realised_fear", "1"),
    "logged with old and new": lambda f: (f / "lineage.jsonl").write_text((f / "lineage.jsonl").read_text().replace('"disgust": 5.0', '"disgust": 4.0')),
    "name the checkpoint": lambda f: (f / "lineage.jsonl").write_text((f / "lineage.jsonl").read_text().replace("RESUME_FROM", "RESUMED_FROM")),
}  # fmt: skip


def in_history(folder, column: str, value: str) -> None:
    path = folder / "training_history.csv"
    head, *rows = [line.split(",") for line in path.read_text().splitlines()]
    rows[-1][head.index(column)] = value
    path.write_text("\n".join(",".join(r) for r in [head, *rows]) + "\n")


@pytest.mark.parametrize("what", BREAKS)
def test_its_checks_can_fail(shown, monkeypatch, capsys, tmp_path, what):
    (base, same, other), _ = shown
    broken = tmp_path / other.id
    shutil.copytree(other.folder, broken)
    BREAKS[what](broken)
    monkeypatch.setattr(demo, "IMAGES", 192)
    found = demo._checks(base, same, Experiment(broken))
    assert [w for w, right in found if not right and what in w]


@pytest.mark.slow
def test_the_old_flags(shown, capsys):
    (base, _, _), root = shown
    code, out, err = run_cli(capsys, "resume-experiment", "--list", "--root", root)
    assert code == 0
    assert f"{base.id}@3" in out
    assert "Today: raysweep list --checkpoints" in err
    checkpoint = base.folder / "checkpoint_epoch_3.pt"
    code, out, err = run_cli(
        capsys, "resume-experiment", "--checkpoint", checkpoint, "--name", "again", "--epochs", 1, "--weights", json.dumps({"disgust": 5.0}),
        "--description", "as ever", "--root", root,
    )  # fmt: skip
    assert code == 0, err
    (made,) = root.glob("again_*")
    assert out.strip() == str(made)
    config = Experiment(made).config()
    assert (config.experiment_description, config.num_epochs, config.sampling_weights["disgust"]) == (
        "as ever",
        1,
        5.0,
    )
    code, _, err = run_cli(capsys, "resume-experiment", "--root", root)
    assert code == 2
    assert "--checkpoint" in err
    assert "resume-experiment" not in run_cli(capsys, "--help")[1]
