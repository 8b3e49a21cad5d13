"""Whoever reads the output may go away: a training goes on, a reading command ends quietly or with one line."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from raysweep.display.streams import OutputGone, Steady
from raysweep.store.experiment import Experiment
from tests.conftest import weights_hash


class Broken(io.StringIO):
    """Takes so many texts, then fails."""

    def __init__(self, error: Exception, after: int = 0) -> None:
        super().__init__()
        self.error, self.after, self.tries = error, after, 0

    def write(self, text: str) -> int:
        self.tries += 1
        if self.tries > self.after:
            raise self.error
        return super().write(text)

    def isatty(self) -> bool:
        return True


ERRORS = [BrokenPipeError(32, "Broken pipe"), OSError(5, "Input/output error"), OSError(28, "No space left on device"), ValueError("I/O operation on closed file")]  # fmt: skip


@pytest.mark.parametrize("error", ERRORS, ids=str)
def test_what_is_shown_is_dropped_after_the_first_error(error):
    broken = Broken(error, after=1)
    stream = Steady(broken, strict=False)
    for i in range(3):
        print(f"line {i}", file=stream, end="", flush=True)
    assert broken.getvalue() == "line 0"
    assert broken.tries == 2  # a reader that is gone is not asked again
    assert stream.gone
    assert not stream.isatty()  # nothing draws for nobody


@pytest.mark.parametrize(("error", "quiet"), list(zip(ERRORS, [True, False, False, True], strict=True)), ids=str)
def test_a_reading_command_learns_of_it_each_time(error, quiet):
    stream = Steady(Broken(error), strict=True)
    for _ in range(2):  # click tries, and ignores the first error
        with pytest.raises(OutputGone) as gone:
            print("x", file=stream)
        assert gone.value.quiet is quiet


def test_an_encoding_that_lacks_a_letter_is_no_reader_that_left():
    stream = Steady(io.TextIOWrapper(io.BytesIO(), "ascii"), strict=False)
    with pytest.raises(UnicodeEncodeError):
        stream.write("é")
    assert not stream.gone


@pytest.mark.parametrize("kind", ["run", "sweep"])
def test_a_live_display_survives_its_terminal(monkeypatch, kind):
    from raysweep.display.run import RunDisplay
    from raysweep.display.sweep import SweepDisplay
    from raysweep.events import BatchDone, BranchEvent, Loading, Note, TrainingStarted

    broken = Broken(OSError(5, "Input/output error"), after=3)
    monkeypatch.setattr(sys, "stderr", Steady(broken, strict=False))
    monkeypatch.setenv("TERM", "xterm")
    with RunDisplay() if kind == "run" else SweepDisplay() as display:
        assert display.live is not None
        for event in (Loading(), Note("a"), TrainingStarted(3), BatchDone(1, 1, 2, 0.5, 9.0), Note("b")):
            display(event if kind == "run" or not isinstance(event, BatchDone) else BranchEvent("x", event))
    assert broken.tries == 4


def run(arguments: list[object], redirect: str) -> tuple[int, str]:
    """(exit code, what arrived on stdout and stderr) of the program behind a shell's redirection."""
    words = " ".join(map(str, arguments))
    done = subprocess.run(
        ["bash", "-c", f"{sys.executable} -m raysweep {words} {redirect}; exit ${{PIPESTATUS[0]}}"],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
    )  # fmt: skip
    return done.returncode, done.stdout


def test_reading_commands_end_as_other_tools_do(tmp_path):
    list_ = ["list", "--json", "--root", tmp_path]
    assert run(list_, "| true") == (0, "")
    assert run(list_, ">&-") == (0, "")
    assert run(list_, "2>&-") == (0, "[]\n")
    full = "error: the output could not be written: [Errno 28] No space left on device.\n"
    assert run(list_, ">/dev/full") == (1, full)
    assert run(["list", "--help"], ">/dev/full") == (1, full)


@pytest.mark.slow
@pytest.mark.parametrize(
    "redirect", ["2>&1 | true", *(pytest.param(r, marks=pytest.mark.long) for r in (">/dev/full 2>&1", "<&- >&- 2>&-"))]
)
def test_a_training_goes_on_without_readers_and_changes_no_bit(tmp_path, quick_run, redirect):
    from tests.cli.test_errors import config_file

    sections: dict[str, Any] = {
        "training": {"epochs": 2, "batch_size": 100, "augment": {"crop_padding": 1, "flip": False}},
        "sampling": {"samples_per_epoch": 500},
    }
    config = config_file(tmp_path, **sections, scaling={"num_workers": 0, "threads": 1})
    code, told = run(["run", config, "--name", "deaf", "--root", tmp_path], redirect)
    assert (code, told) == (0, "")
    (folder,) = tmp_path.glob("deaf_*")
    assert Experiment(folder).status() == "finished"
    assert weights_hash(Experiment(folder)) == weights_hash(quick_run(**sections))
