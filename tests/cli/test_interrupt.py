"""A signal to the program: a checkpoint, exit code 130, and `continue` gives the bits of a run without interruption.

The programs are forks; test_signals_at_random has programs that load their libraries."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from raysweep.store.experiment import Experiment
from tests import forks
from tests.cli.test_errors import config_file, run_cli
from tests.conftest import weights_hash

EPOCHS = 3
TRAINING = {"epochs": EPOCHS, "batch_size": 8, "augment": {"crop_padding": 1, "flip": False}}


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("config")
    return config_file(folder, training=TRAINING, scaling={"num_workers": 0, "threads": 1})


@pytest.fixture(scope="module")
def undisturbed(config: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The bits of a whole run, by a program of its own."""
    root = tmp_path_factory.mktemp("whole")
    with forks.program("run", config, "--name", "whole", "--root", root) as whole:
        out, err = whole.stdout.read(), whole.stderr.read()
        assert whole.wait() == 0, err
    (folder,) = root.glob("whole_*")
    # Messages go to stderr; stdout has the folder and nothing else.
    assert out.strip() == str(folder)
    return weights_hash(Experiment(folder))


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_a_signal_saves_and_continue_gives_the_same_bits(tmp_path, capsys, config, undisturbed, number):
    root = tmp_path / "experiments"
    with forks.program("run", config, "--name", "broken", "--root", root) as process:
        for line in process.stderr:
            if line.startswith("epoch  1/3"):
                process.send_signal(number)
                break
        rest = process.stderr.read()
        assert process.wait() == 130
    (folder,) = root.glob("broken_*")
    assert f"raysweep continue {folder.name}" in rest.strip().splitlines()[-1]
    broken = Experiment(folder)
    assert broken.status() == "interrupted"
    assert len(broken.entries()) < EPOCHS

    code, out, err = run_cli(capsys, "continue", "broken", "--root", root)
    assert code == 0, err
    assert out.strip() == str(folder)
    assert broken.status() == "finished"
    assert weights_hash(broken) == undisturbed
