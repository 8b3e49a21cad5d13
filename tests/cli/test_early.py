"""What is typed wrongly is refused before torch is loaded, and several faults are a list."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.cli.test_errors import run_cli
from tests.store.making import make_experiment

NAME = "mine_20260102_030405"
WRONG = [
    ["run", "base", "model.name=nothing"],
    ["run", "data.path=nowhere", "--epochs", "2"],
    ["run", "nothing.yaml"],
    ["resume", "--from", "nothing@2"],
    ["resume", "--from", "mine"],
    ["branch", "--from", "nothing@2", "--weights-grid", "grid"],
    ["branch", "--from", "mine@1", "--weights-grid", "nothing.yaml"],
    ["continue", "nothing"],
    ["predict", "nothing@2", "x.png"],
    ["export", "nothing@2", "--to", "onnx"],
    ["export", "mine@1", "--to", "gguf"],
    ["evaluate", "nothing"],
    ["evaluate", "mine@7"],
]
PROGRAM = """
import json, sys
from raysweep.cli.main import main
for words in json.loads(sys.argv[1]):
    try:
        main(words)
        code = 0
    except SystemExit as leave:
        code = leave.code
    print(json.dumps([words, code, [m for m in ("torch", "ray") if m in sys.modules]]))
"""


def test_a_wrong_name_is_refused_before_torch_is_loaded(tmp_path):
    make_experiment(tmp_path / NAME, [(1, None)])
    words = [[*w, "--root", str(tmp_path)] for w in WRONG]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(words)], capture_output=True, text=True, check=True
    )
    assert [json.loads(line) for line in done.stdout.splitlines()] == [[w, 2, []] for w in words]


def test_an_experiment_where_a_checkpoint_is_needed_offers_its_best_epoch(capsys, tmp_path):
    make_experiment(tmp_path / NAME, [(1, None)])
    for verb in (["resume"], ["branch", "--weights-grid", "grid"]):
        code, _, err = run_cli(capsys, *verb, "--from", "mine", "--root", tmp_path)
        assert (code, "Did you mean mine@best, its best epoch?" in err) == (2, True)
    assert "Did you mean 'mine'?" in run_cli(capsys, "resume", "--from", "mien", "--root", tmp_path)[2]


def test_a_sweep_where_a_checkpoint_is_needed_offers_a_branch(capsys, tmp_path):
    from tests.report.making import sweep_of

    sweep_of(tmp_path, ("a", "b", "c"), (0.4, 0.7, 0.8), {"a5": ({"a": 5.0}, (0.7, 0.7, 0.8))}, seeds=(0,))
    _, _, err = run_cli(capsys, "resume", "--from", "s", "--root", tmp_path)
    assert "a sweep, not a checkpoint. Did you mean one of its branches, such as s-control_20260102_030405@best?" in err


def test_several_faults_are_a_list(capsys, tmp_path):
    code, _, err = run_cli(capsys, "run", "base", "epochs=3", "seed=x", "training.batch_size=-1")
    first, *faults = err.splitlines()
    assert (code, first) == (2, "error: 3 errors in base with the overrides given:")
    assert len(faults) == 3
    assert all(f.startswith("  ") for f in faults)
    assert any(f.startswith("  epochs: there is no such option. Did you mean training.epochs?") for f in faults)
    code, _, err = run_cli(capsys, "run", "data.path=nowhere", "model.name=n")
    assert [line.split(":")[0].strip() for line in err.splitlines()] == ["error", "model.name", "data.path"]
    assert run_cli(capsys, "run", "base", "epochs=3")[2].count("\n") == 1


@pytest.mark.parametrize("text", ["fer #2", "a: b", "null", "2024", "1e3", "'quoted'", "x y"])
def test_a_text_stays_what_was_typed(text):
    from raysweep.config.load import load

    settings = load(None, [f"data.path={text}", f"experiment.name={text.replace(': ', '_')}"])
    assert str(settings.data.path) == text.strip("'")
    assert settings.experiment.name == text.replace(": ", "_").strip("'")


def test_cnn_is_a_short_form():
    from raysweep.config.load import load

    assert load(None, ["model=cnn", "data.source=digits"]).model.name == "cnn"
