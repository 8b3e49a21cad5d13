"""More seeds for a sweep: which branches are added, and that a look is recorded and told."""

from __future__ import annotations

import pytest

from raysweep.report import comparison, evaluated
from raysweep.store.experiment import CRASHED
from tests.cli.test_errors import run_cli
from tests.report.making import sweep_of

CLASSES, BASE = ("a", "b", "c"), (0.4, 0.7, 0.8)


@pytest.fixture
def sweep(tmp_path):
    return sweep_of(tmp_path / "e", CLASSES, BASE, {"a5": ({"a": 5.0}, BASE), "b2": ({"b": 2.0}, BASE)}, (0, 3))


def test_every_branch_gets_the_smallest_seeds_that_it_has_not(sweep):
    from raysweep.launch.sweep.more_seeds import MoreSeeds, extended

    record = sweep.record()
    more = extended(record, MoreSeeds(2, 4))
    added = more.branches[len(record.branches) :]
    assert more.branches[: len(record.branches)] == record.branches
    assert [(b.name, b.seed) for b in added] == [
        *((f"control-seed{s}", s) for s in (1, 2, 4, 5)),
        *((f"a5-seed{s}", s) for s in (1, 2)),
        *((f"b2-seed{s}", s) for s in (1, 2)),
    ]
    assert {b.status for b in added} == {"missing"}
    assert {b.experiment for b in added} == {None}
    assert all(b.weights == {"a": 5.0, "b": 1.0, "c": 1.0} for b in added if b.name.startswith("a5"))
    groups = evaluated.grouped(more.branches)
    assert {name: len(members) for name, members in groups.items()} == {"control": 6, "a5": 4, "b2": 4}


def test_a_sweep_with_one_seed_keeps_its_names(tmp_path):
    from raysweep.launch.sweep.more_seeds import MoreSeeds, extended

    single = sweep_of(tmp_path / "one", CLASSES, BASE, {"a5": ({"a": 5.0}, BASE)}, (7,)).record()
    more = extended(single, MoreSeeds(1, 0))
    assert [b.name for b in more.branches] == ["control", "a5", "a5-seed0"]
    assert {name: len(members) for name, members in evaluated.grouped(more.branches).items()} == {
        "control": 1, "a5": 2
    }  # fmt: skip


def test_only_seeds_added_after_something_could_be_read_are_a_look(sweep):
    from dataclasses import replace

    from raysweep.launch.sweep.more_seeds import MoreSeeds, extended

    record = sweep.record()
    assert (record.looks, "looks" in record.to_json()) == (0, False)
    assert extended(extended(record, MoreSeeds(1, 1)), MoreSeeds(1, 1)).looks == 2
    unread = replace(
        record, branches=tuple(replace(b, status=CRASHED if not b.control else b.status) for b in record.branches)
    )
    assert extended(unread, MoreSeeds(1, 1)).looks == 0


def test_a_look_is_told_wherever_the_comparison_is(sweep, capsys):
    from dataclasses import replace

    assert not any("Seeds were added" in n for n in comparison.of_sweep(sweep).notes)
    sweep.write_record(replace(sweep.record(), looks=2))
    found = comparison.of_sweep(sweep)
    assert found.against == "the control, trained for as many epochs, 2 seeds, after 2 looks"
    assert any(n.startswith("Seeds were added 2 times after this comparison could be read") for n in found.notes)
    _, _, err = run_cli(capsys, "compare", sweep.id, "--root", sweep.root)
    assert "Seeds were added 2 times" in err


def test_seeds_are_added_before_the_sweep_goes_on(sweep, monkeypatch, capsys):
    """What ``continue`` writes into ``sweep.json`` once everything is checked, and not before."""
    from raysweep.errors import StoreError
    from raysweep.launch.sweep import resume

    def refused(*_):
        raise StoreError("its parent is unwell")

    monkeypatch.setattr(resume, "_plan_again", refused)
    words = ("continue", sweep.id, "--more-seeds", 1, "--more-controls", 2, "--root", sweep.root)
    code, _, err = run_cli(capsys, *words)
    assert (code, "its parent is unwell" in err) == (1, True)
    assert len(sweep.record().branches) == 6
    planned = []

    class Plan:
        class base:
            all_code = ()

            class settings:
                @staticmethod
                def model_dump(mode):
                    return {}

                class scaling:
                    address = None

        grid, name, bases = None, "s", {}

    def plan_again(sweep, record, *_):
        planned.extend(b.name for b in record.branches if b.status == "missing")
        return Plan, []

    monkeypatch.setattr(resume, "_plan_again", plan_again)
    monkeypatch.setattr(resume.tuning, "samples_left", lambda *_: 0)
    monkeypatch.setattr(resume.trusting, "remember_made", lambda *_: None)
    monkeypatch.setattr(resume.sweeping, "write_effects", lambda *_: None)
    run_cli(capsys, *words)
    added = ["control-seed1", "control-seed2", "a5-seed1", "b2-seed1"]
    assert planned == added
    assert [b.name for b in sweep.record().branches[6:]] == added
    assert sweep.record().looks == 1
    experiment = sweep.experiments()["a5-seed0"]
    code, _, err = run_cli(capsys, "continue", experiment.id, "--more-seeds", 1, "--root", sweep.root)
    assert (code, "Only a sweep can get more seeds" in err) == (2, True)
