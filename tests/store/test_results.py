"""sweep.json and results.csv while a sweep runs: seldom written, few branches read, and in the end what the folders say."""

from __future__ import annotations

import json

import pytest

from raysweep.errors import StoreError
from raysweep.events import BatchDone, BranchEnded, BranchEvent, EpochDone, ExperimentStarted
from raysweep.store import experiment as experiments
from raysweep.store import files, lineage, sweep
from raysweep.store.experiment import Experiment
from raysweep.store.records_manifest import Manifest
from raysweep.store.records_sweep import SweepRecord
from raysweep.store.results import SHARE, Results, refresh
from raysweep.store.root import Root
from tests.store.test_sweep import branch_folder, new_sweep

BATCH, EPOCH, END = BatchDone(1, 1, 2, 1.0, 1.0), EpochDone(1, {}, True, 0.0, 0.0), BranchEnded("finished")


def tell(results: Results, name: str, made: Experiment, *events: BatchDone | EpochDone | BranchEnded) -> None:
    for event in events or (ExperimentStarted(made.id, str(made.folder), 0), EPOCH, END):
        results.told(BranchEvent(name, event))


def written(of: sweep.Sweep) -> tuple[dict, str]:
    return of.record().to_json(), (of.folder / "results.csv").read_text()


def test_what_is_written_bit_by_bit_is_what_is_read_at_once(tmp_path):
    mine = new_sweep(tmp_path, "control", "x", "y")
    results = Results(mine)
    for name, accuracy in (("y", 0.75), ("drawn", 0.9), ("control", 0.5)):
        tell(results, name, branch_folder(tmp_path, mine.id, name, accuracy, name == "control"))
        results.write({"x": "its process died"})
    bit_by_bit = written(mine)
    refresh(mine, {"x": "its process died"})
    assert written(mine) == bit_by_bit
    assert [b.status for b in mine.record().branches] == ["finished", "missing", "finished", "finished"]


def test_only_branches_with_news_are_read_again(tmp_path, monkeypatch):
    mine = new_sweep(tmp_path, *(f"b{i}" for i in range(20)))
    for i in range(20):
        branch_folder(tmp_path, mine.id, f"b{i}", 0.5)
    results = Results(mine)
    results.write({})
    read = []
    monkeypatch.setattr(Experiment, "manifest", lambda self: read.append(self.id) or Manifest())
    tell(results, "b7", results.found["b7"], BATCH, EPOCH)
    results.write({})
    assert set(read) == {results.found["b7"].id}


def test_writing_takes_a_small_share_of_the_time_and_nothing_stays_unwritten(tmp_path, monkeypatch):
    mine = new_sweep(tmp_path, "a", "b")
    now = [0.0]
    results = Results(mine, clock=lambda: now[0])
    count = []

    def write(self, reasons):
        now[0] += 2.0  # it is dear
        count.append(now[0])
        self.news, self.reasons = {}, len(reasons)

    monkeypatch.setattr(Results, "write", write)
    made = branch_folder(tmp_path, mine.id, "a", 0.5)
    for _ in range(10_000):
        tell(results, "a", made, EPOCH)
        results.write_when_due({})
        now[0] += 0.5
    assert 2.0 * len(count) / now[0] == pytest.approx(SHARE, rel=0.05)
    tell(results, "a", made, END)
    for _ in range(200):  # no more news: it is written all the same, once
        results.write_when_due({})
        now[0] += 0.5
    assert results.news == {}
    last = len(count)
    results.write_when_due({})
    assert len(count) == last
    results.write_when_due({"b": "why"})  # a reason is news, too
    assert len(count) == last + 1


def test_a_kill_between_two_writings_loses_nothing(tmp_path):
    mine = new_sweep(tmp_path, "control", "x")
    results = Results(mine)
    results.write({})
    tell(results, "x", branch_folder(tmp_path, mine.id, "x", 0.75))
    del results  # before it has written
    assert [b.status for b in mine.record().branches] == ["missing", "missing"]
    record = refresh(sweep.Sweep(mine.folder))
    assert [b.status for b in record.branches] == ["missing", "finished"]


def test_one_branch_is_found_without_reading_the_others(tmp_path, monkeypatch):
    mine = new_sweep(tmp_path, "x", "x_2", "y")
    own = branch_folder(tmp_path, mine.id, "x", 0.5)
    branch_folder(tmp_path, mine.id, "x_2", 0.5)
    branch_folder(tmp_path, "another", "y", 0.5)
    renamed = branch_folder(tmp_path, mine.id, "z", 0.5)
    renamed.folder.rename(tmp_path / "mine")
    read = []
    config = Experiment.config
    monkeypatch.setattr(Experiment, "config", lambda self: read.append(self.id) or config(self))
    found = mine.experiment("x", mine.id)
    assert found is not None
    assert [found.id] == read == [own.id]
    assert mine.experiment("y", mine.id) is None  # of another sweep
    assert mine.experiment("z", mine.id) is None
    known = mine.experiment("z", mine.id, recorded="mine")
    assert known is not None
    assert known.id == "mine"
    assert mine.experiment("z", mine.id, recorded="../mine") is None
    (tmp_path / "link").symlink_to(own.folder)
    assert mine.experiment("nothing", mine.id, recorded="link") is None


def test_a_branch_that_is_damaged_is_not_gone_on_with(tmp_path):
    mine = new_sweep(tmp_path, "x")
    made = branch_folder(tmp_path, mine.id, "x", 0.5)
    (made.folder / "experiment_config.json").write_text("{")
    assert mine.experiment("x", mine.id) is None
    assert experiments.create(Root.open(tmp_path), "s-x").id != made.id


def test_the_plan_has_a_branch_a_line_and_is_read_as_it_was_written(tmp_path):
    mine = new_sweep(tmp_path)
    for branches in ([], [{"name": f"b{i}", "weights": {"a": 1.0, "é": 2.5}} for i in range(3)]):
        plan = {"id": mine.id, "grid": {"branches": []}, "branches": branches, "description": '"branches": []\n]'}
        mine.write_record(SweepRecord.from_json(plan))
        assert mine.record().to_json() == plan
        text = (mine.folder / "sweep.json").read_text()
        assert json.loads(text) == plan
        assert sum(line.startswith('    {"name"') for line in text.splitlines()) == len(branches)


def test_a_plan_that_could_not_be_read_again_is_not_written(tmp_path, monkeypatch):
    mine = new_sweep(tmp_path, "a")
    before = mine.record()
    monkeypatch.setattr(files, "LIMIT", 1000)
    with pytest.raises(StoreError, match=r"sweep\.json would have 1,\d+ bytes for 50 branches.*Make several sweeps"):
        mine.write_record(SweepRecord.from_json({"branches": [{"name": f"b{i}", "weights": {}} for i in range(50)]}))
    assert mine.record() == before


def test_a_failed_branch_without_a_folder_keeps_its_reason(tmp_path):
    mine = new_sweep(tmp_path, "a")
    results = Results(mine)
    results.write_when_due({"a": "no room"})
    assert mine.record().branches[0].reason == "no room"
    made = branch_folder(tmp_path, mine.id, "a", 0.5)
    lineage.record(made.folder, lineage.FINISHED, epochs=1)
    tell(results, "a", made)
    results.write({})
    assert "reason" not in mine.record().to_json()["branches"][0]
