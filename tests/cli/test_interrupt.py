"""A signal to the program: a checkpoint, exit code 130, and `continue` ends with the bits of the undisturbed run."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from raysweep.store.experiment import Experiment
from tests.cli.test_errors import config_file
from tests.conftest import weights_hash

EPOCHS = 3
TRAINING = {"epochs": EPOCHS, "batch_size": 8, "augment": {"crop_padding": 1, "flip": False}}


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "raysweep.cli.main", *arguments, "--root", str(folder / "experiments")]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=folder)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_continue_gives_the_same_bits(tmp_path, number):
    config = config_file(tmp_path, training=TRAINING, scaling={"num_workers": 0, "threads": 1})
    process = start(tmp_path, "run", str(config), "--name", "broken")
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("epoch  1/3"):
            process.send_signal(number)
            break
    rest = process.stderr.read()
    assert process.wait(60) == 130
    (folder,) = (tmp_path / "experiments").glob("broken_*")
    assert f"raysweep continue {folder.name}" in rest.strip().splitlines()[-1]
    broken = Experiment(folder)
    assert broken.status() == "interrupted"
    assert len(broken.entries()) < EPOCHS

    done = start(tmp_path, "continue", "broken")
    assert done.wait(100) == 0, done.stderr.read() if done.stderr else ""
    assert broken.status() == "finished"
    whole = start(tmp_path, "run", str(config), "--name", "whole")
    assert whole.wait(100) == 0
    (other,) = (tmp_path / "experiments").glob("whole_*")
    assert weights_hash(broken) == weights_hash(Experiment(other))
    # Chatter goes to stderr; stdout has the folder and nothing else.
    assert whole.stdout is not None
    assert whole.stdout.read().strip() == str(tmp_path / "experiments" / other.name)
