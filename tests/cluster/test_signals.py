"""SIGTERM and SIGINT to a driver: it saves, exits with 130 and leaves no process, and `continue` gives the same bits."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from raysweep.launch import run as launching
from raysweep.plan import experiment as experiment_plan
from raysweep.store.experiment import Experiment
from tests import forks
from tests.cli.test_errors import config_file
from tests.conftest import small_settings, weights_hash

TRAINING = {"epochs": 3, "batch_size": 10, "augment": {"crop_padding": 1, "flip": False}}
SECTIONS = {"training": TRAINING, "sampling": {"samples_per_epoch": 500}}


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "raysweep", *arguments, "--root", str(folder / "experiments")]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}  # for the network below
    return subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, cwd=folder, env=environment
    )


def after_epoch(process: subprocess.Popen[str] | forks.Served, epoch: int) -> None:
    assert process.stderr is not None
    seen = []
    for line in process.stderr:
        seen.append(line)
        if line.startswith(f"epoch  {epoch}/"):
            return
    raise AssertionError("".join(seen))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, two_ranks) -> str:
    from raysweep.launch.workers import start as workers

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workers, "in_this_process", lambda job, *_: two_ranks.train(job))
        return weights_hash(
            launching.run(
                experiment_plan.plan_experiment(small_settings(tmp_path_factory.mktemp("whole"), **SECTIONS))
            ).experiment
        )


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.ray
def test_sigterm_on_workers_saves_and_continue_gives_the_same_bits(tmp_path, undisturbed):
    config = config_file(tmp_path, **SECTIONS, scaling={"num_workers": 2, "threads": 1})
    process = start(tmp_path, "run", str(config), "--name", "broken")
    after_epoch(process, 1)
    everybody = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGTERM)
    told = process.stderr.read() if process.stderr else ""
    assert process.wait() == 130, told
    (folder,) = (tmp_path / "experiments").glob("broken_*")
    assert f"raysweep continue {folder.name}" in told.strip().splitlines()[-1]
    broken = Experiment(folder)
    assert broken.status() == "interrupted"
    assert broken.entries()[-1].epoch >= 2  # nothing of what was trained is lost
    _, alive = psutil.wait_procs(everybody, timeout=120)
    assert [p.name() for p in alive] == []
    done = start(tmp_path, "continue", "broken", "--root", str(tmp_path / "experiments"))
    assert done.stderr is not None
    text = done.stderr.read()
    assert done.wait() == 0, text
    assert weights_hash(broken) == undisturbed


def appears(path: Path) -> None:
    """Wait for a file, as long as the test's own limit allows."""
    while not path.exists():
        time.sleep(0.02)


@pytest.mark.slow
def test_a_second_sigint_stops_at_once_and_damages_nothing(tmp_path):
    # One batch that never ends by itself: after the first signal the program waits for its end.
    slow = {"model": {"name": f"python:{__name__}:sleeper", "options": {}}, "training": {**TRAINING, "epochs": 5000}}
    config = config_file(tmp_path, **{**SECTIONS, **slow}, scaling={"num_workers": 0, "threads": 1})
    words = ("run", config, "--name", "broken", "--root", tmp_path / "experiments")
    with forks.program(*words, folder=tmp_path) as process:
        check_a_second_sigint(process, tmp_path)


def check_a_second_sigint(process: forks.Served, tmp_path: Path) -> None:
    after_epoch(process, 1)
    (tmp_path / "go").touch()
    appears(tmp_path / "in a batch")
    (folder,) = (tmp_path / "experiments").glob("broken_*")
    epochs = int((tmp_path / "in a batch").read_text())
    while Experiment(folder).entries()[-1].epoch < epochs:  # the last one is saved in the background
        time.sleep(0.02)
    committed = (folder / "manifest.json").read_bytes()
    process.send_signal(signal.SIGINT)
    appears(tmp_path / "1 handled")
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    told = process.stderr.read()
    assert process.wait() == 130
    assert "Stopped at once" in told
    assert not (tmp_path / "2 handled").exists()  # it left within the handler, and waited for no batch
    assert (folder / "manifest.json").read_bytes() == committed
    good, problems = Experiment(folder).newest_good()
    assert good is not None
    assert good.epoch == epochs
    assert not problems


def sleeper(num_classes: int, channels: int, **options: object):
    """A network with a batch that never ends by itself, from when there is a file ``go``. Files in the working folder tell
    of the epochs before that batch, and of the signals that were handled in it."""
    from torch import nn

    class Sleeper(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(64 * channels, num_classes)
            self.calls = 0

        def forward(self, x):
            if self.training:
                self.calls += 1
                # An epoch has 50 batches, and planning has tried a few.
                if self.calls % 50 == 30 and Path("go").exists():
                    Path("told").write_text(str(self.calls // 50))
                    handler, arrived = signal.getsignal(signal.SIGINT), []

                    def hear(number, frame):
                        handler(number, frame)
                        arrived.append(number)
                        Path(f"{len(arrived)} handled").touch()

                    signal.signal(signal.SIGINT, hear)
                    Path("told").rename("in a batch")
                    while len(arrived) < 2:
                        time.sleep(0.05)
            return self.linear(x.flatten(1))

    return Sleeper()
