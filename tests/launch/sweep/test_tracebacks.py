"""Tracebacks of failed branches: written into the sweep's folder, named by the event, and never lost."""

from __future__ import annotations

import pytest

from raysweep.errors import NotFoundError, TrainingError
from raysweep.events import BranchEnded, BranchEvent, Note, RankTraceback
from raysweep.launch.sweep.tracebacks import Tracebacks
from raysweep.store.results import refresh
from tests.store.test_sweep import branch_folder, new_sweep

FAILED = BranchEnded("failed", "ArithmeticError: unwell", "Traceback …\nArithmeticError: unwell\n")


@pytest.fixture
def told():
    return []


def test_a_branch_without_a_folder_gets_its_traceback_into_that_of_the_sweep(tmp_path, told):
    sweep = new_sweep(tmp_path, "a")
    Tracebacks(sweep, told.append)(BranchEvent("a", FAILED))
    path = sweep.folder / "tracebacks" / "a.txt"
    assert path.read_text() == FAILED.traceback
    (event,) = told
    assert event.branch == "a"
    assert event.event.reason == FAILED.reason
    assert event.event.traceback_file == str(path)


def test_the_traceback_of_the_rank_that_failed_comes_first(tmp_path, told):
    sweep = new_sweep(tmp_path, "a", "b")
    tell = Tracebacks(sweep, told.append)
    tell(BranchEvent("a", RankTraceback(1, "in forward\n")))
    tell(BranchEvent("b", FAILED))
    tell(BranchEvent("a", FAILED))
    texts = {name: sweep.traceback(name).read_text() for name in "ab"}
    assert texts == {"a": f"Traceback of rank 1:\nin forward\n\n{FAILED.traceback}", "b": FAILED.traceback}


def test_another_try_replaces_it_and_what_did_not_fail_writes_nothing(tmp_path, told):
    sweep = new_sweep(tmp_path, "a", "b")
    tell = Tracebacks(sweep, told.append)
    tell(BranchEvent("a", BranchEnded("failed", "x", "first")))
    tell(BranchEvent("a", FAILED))
    others = [BranchEvent("b", BranchEnded("interrupted", "SIGINT")), BranchEvent("b", Note("x")), Note("y")]
    for event in others:
        tell(event)
    assert told[2:] == others
    assert [p.name for p in (sweep.folder / "tracebacks").iterdir()] == ["a.txt"]
    assert sweep.traceback("a").read_text() == FAILED.traceback


@pytest.mark.parametrize("name", ["../a", "x/../../a", "/tmp/a", "a\0b", "x" * 300])
def test_a_name_that_is_no_file_s_writes_nothing_anywhere(tmp_path, told, name):
    sweep = new_sweep(tmp_path, "a")
    before = sorted(tmp_path.rglob("*"))
    Tracebacks(sweep, told.append)(BranchEvent(name, FAILED))
    assert told == [BranchEvent(name, FAILED)]
    mere = ("tracebacks", ".writer.fence")  # an empty folder, and the empty file that writers lock
    assert [p for p in sorted(tmp_path.rglob("*")) if p not in before and p.name not in mere] == []


def test_a_folder_that_cannot_be_written_and_a_link_out_of_it_stop_nothing(tmp_path, told):
    sweep = new_sweep(tmp_path / "root", "a")
    (tmp_path / "elsewhere").mkdir()
    (sweep.folder / "tracebacks").symlink_to(tmp_path / "elsewhere")
    Tracebacks(sweep, told.append)(BranchEvent("a", FAILED))
    assert list((tmp_path / "elsewhere").iterdir()) == []
    (sweep.folder / "tracebacks").unlink()
    (sweep.folder / "tracebacks").write_text("")
    Tracebacks(sweep, told.append)(BranchEvent("a", FAILED))
    assert told == [BranchEvent("a", FAILED)] * 2  # the event still has it


def test_a_branch_that_goes_on_without_its_parent_and_fails_is_told_with_its_traceback(tmp_path, told, monkeypatch):
    from raysweep.launch.sweep import resume as resume_sweep
    from raysweep.plan.resources import AS_BEFORE
    from raysweep.store.experiment import Experiment
    from raysweep.store.trust import NOBODY

    sweep = new_sweep(tmp_path, "a")
    branch_folder(tmp_path, sweep.id, "a", 0.5)
    monkeypatch.setattr(Experiment, "newest_good", lambda self: (self.entries()[-1], []))
    monkeypatch.setattr(Experiment, "status", lambda self: "failed")

    def fails(*args, progress, **options):
        progress(Note("going on"))
        raise TrainingError("this branch is unwell")

    monkeypatch.setattr(resume_sweep, "continue_experiment", fails)
    monkeypatch.setattr(resume_sweep.sweeping, "write_effects", lambda *_: None)
    gone = NotFoundError("the parent is gone")
    result = resume_sweep._without_parent(sweep, refresh(sweep), str(gone), False, AS_BEFORE, told.append, NOBODY)
    assert result.failed == {"a": "this branch is unwell"}
    _, note, ended = told
    assert note == BranchEvent("a", Note("going on"))
    assert "raise TrainingError" in sweep.traceback("a").read_text()
    assert ended.event.traceback_file == str(sweep.traceback("a"))
