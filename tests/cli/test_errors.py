"""Wrong input: one paragraph, exit code 2, and no folder left behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from raysweep._machine import cpus_here
from raysweep.cli.main import main
from tests.conftest import SMALL_NET, draw_classes


def config_file(folder: Path, **sections) -> Path:
    path = folder / "c.yaml"
    base = {"data": {"source": "digits"}, "model": SMALL_NET, "scaling": {"num_workers": 0}}
    path.write_text(yaml.safe_dump({**base, **sections}))
    return path


def run_cli(capsys, *arguments: object) -> tuple[int, str, str]:
    """(exit code, stdout, stderr) of a command."""
    code = 0
    try:
        main([str(a) for a in arguments])
    except SystemExit as leave:
        code = leave.code if isinstance(leave.code, int) else int(bool(leave.code))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def refused(capsys, root: Path, *arguments: object) -> str:
    """The error of a command that must be refused before it makes anything."""
    code, out, err = run_cli(capsys, *arguments, "--root", root)
    assert code == 2, err
    assert out == ""
    message = err.strip()
    assert message.startswith("error: ")
    assert "\n" not in message, "an error is one paragraph"
    assert "Traceback" not in message
    made = [p.name for p in root.iterdir() if not p.name.startswith(".raysweep")] if root.exists() else []
    assert made == []
    return message


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["training.epohcs=3"], "Did you mean 'epochs'"),
        (["sampling.weights.33=2"], "name class '33'"),
        (["sampling.weights.3=-1"], "cannot be negative"),
        (["sampling.weights.3=.nan"], "nan"),
        (["sampling.weights={" + ",".join(f"'{d}': 0" for d in range(10)) + "}"], "All sampling weights are zero"),
        (["training.epochs=0"], "training.epochs"),
        (["training.learning_rate=fast"], "training.learning_rate"),
        (["experiment.name=../x"], "not a path"),
        (["model.name=torchvision:resnt18"], "Did you mean 'resnet18'"),
        (["model.init_from=nowhere.pt"], "nowhere.pt"),
        (["training.augment.crop_padding=8"], "crop_padding"),
        ([f"scaling.num_workers={cpus_here() + 7}"], f"this machine has {cpus_here()} CPU"),
        (["scaling.use_gpu=true"], "no GPU"),
        (["epochs"], "key=value"),
    ],
)
def test_wrong_settings(capsys, tmp_path, overrides, expected):
    if "no GPU" in expected:
        import torch

        if torch.cuda.is_available():
            pytest.skip("this machine has a GPU")
    assert expected in refused(capsys, tmp_path / "root", "run", config_file(tmp_path), *overrides)


def test_a_misspelt_class_gets_a_suggestion(capsys, tmp_path):
    path = config_file(tmp_path, data={"source": "faces"}, sampling={"weights": {"disgsut": 5}})
    assert "Did you mean 'disgust'" in refused(capsys, tmp_path / "root", "run", path)


def test_wrong_data(capsys, tmp_path, image_folder):
    root = tmp_path / "root"

    def message(path: object) -> str:
        return refused(capsys, root, "run", config_file(tmp_path, data={"path": str(path)}))

    assert "there is no" in message(tmp_path / "missing")
    (image_folder / "train" / "cat" / "broken.jpg").write_bytes(b"\xff\xd8\xff not really")
    assert "broken.jpg" in message(image_folder)
    (image_folder / "train" / "cat" / "broken.jpg").unlink()
    (image_folder / "train" / "fox").mkdir()
    assert "fox" in message(image_folder)
    draw_classes(tmp_path / "single", {"cat": 4})
    assert "at least two" in message(tmp_path / "single")
    (tmp_path / "x.csv").write_text("emotion,colour\n1,2\n")
    assert "no column for the image" in (told := message(tmp_path / "x.csv"))
    assert "its columns are emotion, colour" in told
    assert "FER-2013's CSV also has a column pixels" in told
    (tmp_path / "y.csv").write_bytes(b"\x00\xff\xfe\x80" * 9)
    assert "y.csv" in message(tmp_path / "y.csv")


def test_a_missing_configuration_and_an_unwritable_root(capsys, tmp_path):
    assert "There is no file" in refused(capsys, tmp_path / "root", "run", tmp_path / "none.yaml")
    (tmp_path / "file").write_text("")
    code, _, err = run_cli(capsys, "run", config_file(tmp_path), "--root", tmp_path / "file" / "below")
    assert code == 2
    assert "cannot be written" in err


@pytest.mark.skipif(os.getuid() == 0 and not os.path.exists("/proc/self"), reason="root may write everywhere here")
def test_a_root_that_may_not_be_written(capsys, tmp_path):
    if os.getuid() == 0:  # permissions do not bind root, but /proc does
        code, _, err = run_cli(capsys, "run", config_file(tmp_path), "--root", "/proc/nothing")
    else:
        (tmp_path / "locked").mkdir(mode=0o500)
        code, _, err = run_cli(capsys, "run", config_file(tmp_path), "--root", tmp_path / "locked" / "root")
    assert code == 2
    assert "cannot be written" in err


@pytest.mark.parametrize("verb", ["run", "list", "resume", "branch"])
def test_an_address_is_refused_and_no_folder_of_that_name_is_made(capsys, tmp_path, monkeypatch, verb):
    monkeypatch.chdir(tmp_path)
    needed = {
        "run": [config_file(tmp_path)],
        "list": [],
        "resume": ["--from", "x@1"],
        "branch": ["--from", "x@1", "--weights-grid", Path(__file__).parents[2] / "configs" / "grid.yaml"],
    }
    code, _, err = run_cli(capsys, verb, *needed[verb], "--root", "gs://bucket/prefix")
    assert code == 2
    assert "gs://bucket/prefix is an address" in err
    assert "may be an address: s3://bucket/prefix" in err
    assert [p.name for p in tmp_path.iterdir()] == ["c.yaml"]


def test_wrong_usage_ends_with_exit_code_2_and_a_suggestion(capsys):
    code, _, err = run_cli(capsys, "lst")
    assert code == 2
    assert "Did you mean 'list'" in err
    assert run_cli(capsys, "run", "--epohcs", "3")[0] == 2
    assert run_cli(capsys, "list", "--sort", "bset_acc")[2].count("Did you mean 'best_acc'") == 1
    assert run_cli(capsys, "show", "nothing")[0] == 2


def test_debug_shows_the_traceback(tmp_path):
    command = [sys.executable, "-m", "raysweep", "run", str(tmp_path / "none.yaml"), "--debug"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert "Traceback" in done.stderr
    assert "ConfigError" in done.stderr


def test_dry_run_shows_counts_and_shares_and_makes_nothing(capsys, tmp_path):
    path = config_file(tmp_path, sampling={"weights": {"3": 5}})
    code, out, err = run_cli(capsys, "run", path, "--dry-run", "--root", tmp_path / "root")
    assert code == 0, err
    assert "Nothing was started" in err
    assert out.startswith("class\t"), "the plan comes first, and the configuration only if it is asked for"
    assert "batch_size" not in out
    row = next(line.split("\t") for line in out.splitlines() if line.startswith("3\t"))
    assert row[3] == "5"
    _, whole, _ = run_cli(capsys, "run", path, "--dry-run", "--show-config", "--root", tmp_path / "root")
    assert whole.endswith(out)
    config = yaml.safe_load(whole.removesuffix(out))
    assert config["sampling"]["weights"]["3"] == 5
    assert config["training"]["batch_size"] > 0
    code, out, _ = run_cli(capsys, "run", path, "--dry-run", "--json", "--root", tmp_path / "root")
    plan = json.loads(out)
    counts = plan["counts"]
    total = sum(n * (5 if c == "3" else 1) for c, n in counts.items())
    assert plan["shares"]["3"] == pytest.approx(5 * counts["3"] / total)
    assert row[4] == f"{plan['shares']['3']:.1%}"
    assert sum(plan["images_per_epoch"].values()) == sum(counts.values())
    assert plan["settings"]["training"]["epochs"] == 5
    assert not (tmp_path / "root" / "base").exists()
    assert not list((tmp_path / "root").glob("experiment_*"))
