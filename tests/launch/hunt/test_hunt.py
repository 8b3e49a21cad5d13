"""A hunt in this process: rounds, chains, new seeds, the same bits again, and that a kill changes nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from raysweep.errors import InputError, Interrupted
from raysweep.store.root import Root
from tests.cli.test_errors import config_file
from tests.conftest import folder_run, weights_hash
from tests.launch import waiting
from tests.launch.sweep.test_early import InProcess
from tests.launch.sweep.test_folds import without_tune

SPACE = {
    "weights": {"dog": {"log_uniform": [0.5, 8.0]}},
    "settings": {
        "training.learning_rate": {"log_uniform": [0.01, 0.1]},
        "loss.kind": ["cross_entropy", "balanced_softmax"],
    },
    "epochs": 1,
    "fork": {"schedule": "restart"},  # in every round anew
}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """An experiment on images of which some are sealed, which has hardly learned anything."""
    splits = {split: {"cat": 24, "dog": 12} for split in ("train", "val", "test")}
    training = {"epochs": 1, "batch_size": 2, "learning_rate": 0.0001, "schedule": "constant", "warmup_epochs": 0}
    return folder_run(tmp_path_factory.mktemp("hunt"), splits, size=8, training=training)


def without_pictures(monkeypatch):
    """Train here, and draw nothing of the sweeps and of the evaluation."""
    from raysweep.launch.sweep import driver
    from raysweep.tools import evaluate

    without_tune(monkeypatch)
    monkeypatch.setattr(driver, "write_effects", lambda *_: None)
    monkeypatch.setattr(evaluate.figures, "matrix_png", lambda *_, **__: b"")
    monkeypatch.setattr(evaluate.reliability, "reliability_png", lambda *_, **__: b"")


@pytest.fixture(autouse=True)
def quickly(request, monkeypatch):
    if "ray_cluster" not in request.fixturenames:
        without_pictures(monkeypatch)


def planned(base, name, branches=31, rounds=2, space=SPACE, **options):
    from raysweep.config import grid as grids
    from raysweep.config import space as spaces
    from raysweep.plan.hunt import plan
    from raysweep.plan.hunt.budget import Budget
    from raysweep.plan.types import SweepRequest

    nothing = grids.check({"weights": ["natural"]})
    sweep = SweepRequest(base.root, f"{base.id}@1", nothing, name=name, overrides=options.pop("overrides", None))
    budget = options.pop("budget", Budget("branches", branches))
    return plan.plan_hunt(plan.HuntRequest(sweep, budget, rounds, spaces.check(space), **options), writable=False)


def finished(base, name, **options):
    from raysweep.launch.hunt import driver
    from raysweep.tools import hunted

    told = []
    return driver.run(planned(base, name, **options), told.append, hunted.finish), told


def everything(hunt):
    """Whatever was trained → the hash of its network: by round and branch, or by step."""

    record = hunt.record()
    found = {
        (r.number, branch): weights_hash(e)
        for r in record.rounds
        for branch, e in hunt.sweep(r.number).experiments().items()
    }
    return found | {key: weights_hash(hunt.step(key)) for key in record.steps}


@pytest.fixture(scope="module")
def whole(base):
    patch = pytest.MonkeyPatch()
    try:
        without_pictures(patch)
        return finished(base, "whole", branches=15, rounds=1)
    finally:
        patch.undo()


@pytest.fixture(scope="module")
def long(base):
    """Of two rounds."""
    patch = pytest.MonkeyPatch()
    try:
        without_pictures(patch)
        return finished(base, "long")
    finally:
        patch.undo()


def test_a_hunt_of_one_round_ends_with_new_seeds_of_the_winner_and_of_the_control(base, whole):
    from raysweep.launch.hunt import rounds

    hunt, told = whole
    record = hunt.record()
    assert hunt.sweep(record.rounds[0].number).record().parent.experiment == base.id
    assert record.rounds[0].survivor in record.rounds[0].treatments
    assert any("Round 1 of 1: r1-" in e.text for e in told if hasattr(e, "text"))
    assert len(record.seeds) == 3
    assert 0 not in record.seeds  # that of the round
    for seed in record.seeds:
        for arm in ("winner", "control"):
            child = hunt.step(f"{arm}/{seed}/1")
            assert child.config().parent.experiment == base.id
            assert child.config().setting("seed") == seed
        assert child.config().sampling_weights == base.config().sampling_weights
    assert len(rounds.trainings_of(hunt, record)) <= 15  # the budget


def test_the_page_says_what_was_tried_and_found(base, whole):
    hunt, told = whole
    record, text = hunt.record(), (hunt.folder / "hunt.md").read_text()
    assert record.end["sealed"] is True
    assert record.end["look"] == 1
    assert any("irst look at these 36 test images" in e.text for e in told if hasattr(e, "text"))
    assert ("Found: it is better." if record.end["found"] else "Not shown to be better.") in text
    for part in (
        "What was tried",
        "What it cost",
        "What was learned",
        "for nothing",
        "chain of ratios",
        "without the search",
    ):
        assert part in text, part
    assert "15 branches; 100% of it was spent" in text
    assert "gave the same network, bit for bit" in text
    assert f"raysweep resume --name whole-made-1 --from {base.id}@1 --epochs 1" in text
    assert "| dog |" in text
    html = (hunt.folder / "hunt.html").read_text()
    assert "<table>" in html
    assert "whole-made-1" in html


def test_nobody_looks_twice(whole):
    from raysweep.launch.hunt import driver
    from raysweep.store import layout
    from raysweep.tools import hunted

    hunt, _ = whole
    before, looks = everything(hunt), sorted((hunt.root.path / layout.EVALUATIONS).iterdir())
    text = (hunt.folder / layout.HUNT_PAGE).read_text()
    driver.continue_hunt(hunt, finish=hunted.finish)
    assert everything(hunt) == before
    assert sorted((hunt.root.path / layout.EVALUATIONS).iterdir()) == looks
    again = (hunt.folder / layout.HUNT_PAGE).read_text()
    assert "Nobody looked a second time" in again
    assert again.split("##")[1] == text.split("##")[1]


def test_the_commands_know_a_hunt(whole, capsys):
    import raysweep
    from tests.cli.test_errors import run_cli

    hunt, _ = whole
    root = hunt.root.path
    found = raysweep.get_hunt("whole", root)
    assert found.found is bool(hunt.record().end["found"])
    assert set(found.sweeps) == {1}
    assert "Hunt" in str(found.card())
    assert "again/1" in found.steps
    code, _, err = run_cli(capsys, "compare", hunt.id, "--root", root)
    assert (code, f"is a hunt. Each of its rounds is a sweep: {found.sweeps[1].id}" in err) == (2, True)
    code, _, err = run_cli(capsys, "continue", "whole", "--more-seeds", 1, "--root", root)
    assert (code, "is a hunt" in err) == (2, True)


@pytest.mark.parametrize(
    ("survivor", "changes", "expected"),
    [
        ("r1-01", {"end": {"evaluation": "e", "found": True}}, True),
        ("r1-01", {"end": {"evaluation": "e", "found": False}}, False),
        ("r1-01", {"end": {"same_bits": True}}, None),  # between its trainings and its look
        ("r1-01", {"end": {}, "seeds": ()}, None),  # a winner is known, and not yet tried with new seeds
        ("control", {"end": {}, "seeds": ()}, False),
        (None, {"end": {}, "seeds": ()}, None),
        ("control", {"end": {}, "seeds": (), "planned": 2}, None),
    ],
)
def test_whether_a_better_model_was_found_is_not_said_before_it_is_known(
    whole, monkeypatch, survivor, changes, expected
):
    from dataclasses import replace

    import raysweep
    from raysweep.store import hunts

    record = whole[0].record()
    record = replace(record, rounds=(replace(record.rounds[0], survivor=survivor),), **changes)
    found = raysweep.get_hunt("whole", whole[0].root.path)
    monkeypatch.setattr(hunts.Hunt, "record", lambda _: record)
    assert found.found is expected


def test_a_second_sigint_names_the_hunt_and_not_the_sweep_of_a_round(whole, monkeypatch):
    from raysweep.cluster import signals
    from raysweep.launch.hunt import driver

    def stop(*_):
        signals.begun("a part")
        raise Interrupted("stopped", "SIGINT")

    monkeypatch.setattr(signals, "_state", signals._State())
    monkeypatch.setattr(driver.rounds, "train", stop)
    with pytest.raises(Interrupted):
        driver.continue_hunt(whole[0])
    assert f" continue {whole[0].id}" in signals._state.go_on


@pytest.mark.long
@pytest.mark.slow
def test_sigint_stops_the_command_and_it_goes_on_with_the_hunt(tmp_path):
    """It saves and says how to go on, also where the network waits in a batch."""
    from raysweep.store import hunts

    (tmp_path / "space.yaml").write_text(json.dumps({"weights": {"1": {"log_uniform": [0.5, 8.0]}}, "epochs": 1}))
    config = config_file(tmp_path, **waiting.sections(tmp_path / "wait", 2), training={"epochs": 1, "batch_size": 200})
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])}

    def start(*words):
        command = [sys.executable, "-m", "raysweep", *map(str, words), "--root", tmp_path / "experiments"]
        return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=tmp_path, env=environment)

    assert start("run", config, "--name", "base").wait() == 0
    (tmp_path / "wait").touch()
    words = ["--space", "space.yaml", "--branches", 15, "--rounds", 1, "--name", "h", "--in-process"]
    process = start("hunt", "--from", "base@1", *words)
    while not list((tmp_path / "experiments").glob("h-r1-*")):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    told = process.communicate(timeout=120)[1]
    assert process.returncode == 130, told
    hunt = hunts.find(Root.open(tmp_path / "experiments"), "h")
    assert told.strip().splitlines()[-1].endswith(f"continue {hunt.id}"), told
    assert "Stopped by SIGINT; what had begun has its checkpoint." in told
    (tmp_path / "wait").unlink()
    done = start("continue", "h")
    told = done.communicate(timeout=600)[1]
    assert done.returncode == 0, told
    assert hunt.record().end["same_bits"] is True


@pytest.mark.slow
def test_every_step_is_an_experiment_of_the_lineage(base, long):
    from raysweep.launch.hunt import rounds

    hunt, _ = long
    record = hunt.record()
    assert [r.number for r in record.rounds] == [1, 2]
    second = hunt.sweep(record.rounds[1].number).record()
    assert second.parent.experiment == rounds.experiment_of(hunt, record.rounds[0]).id
    beside = rounds.control_chain(hunt, record.rounds)
    assert beside.config().parent.experiment == rounds.control_chain(hunt, record.rounds[:1]).id
    assert beside.manifest().ends[-1].epoch == rounds.experiment_of(hunt, record.rounds[1]).manifest().ends[-1].epoch
    for e in (
        *hunt.sweep(2).experiments().values(),
        beside,
        hunt.step("again/2"),
        hunt.step(f"winner/{record.seeds[0]}/2"),
    ):
        fork = e.config().setting("training", "fork")
        assert (fork["schedule"], fork["start"]) == ("restart", e.config().fork)
    for seed in record.seeds:
        links = [hunt.step(f"winner/{seed}/{n}") for n in (1, 2)]
        assert links[1].config().parent.experiment == links[0].id
        assert {e.config().setting("seed") for e in links} == {seed}
    assert record.end["same_bits"] is True
    assert len(rounds.trainings_of(hunt, record)) <= 31


def test_the_winner_made_again_without_the_search_has_the_same_bits(whole):
    from raysweep.launch.hunt import rounds

    hunt, _ = whole
    record = hunt.record()
    assert record.end["same_bits"] is True
    again, won = hunt.step("again/1"), rounds.experiment_of(hunt, record.rounds[-1])
    assert weights_hash(again) == weights_hash(won)


class Killed(InProcess):
    """Trains here, and is as if killed when so many trainings have begun, of sweeps and beside them; half of the kills come after one."""

    def __init__(self, kills):
        super().__init__()
        self.kills, self.count = list(kills), 0

    def maybe(self, after):
        self.count += not after
        if self.kills and self.count >= self.kills[0] and after == bool(self.kills[0] % 2):
            self.kills.pop(0)
            raise KeyboardInterrupt

    def __call__(self, work, progress):
        from dataclasses import replace

        from raysweep.launch.sweep import tune

        for point in work.points:
            self.maybe(after=False)
            super().__call__(replace(work, points=[point]), progress)
            self.maybe(after=True)
        return tune.TuneOutcome()

    def link(self, run):
        def killed(plan, progress):
            self.maybe(after=False)
            result = run(plan, progress)
            self.maybe(after=True)
            return result

        return killed


@pytest.mark.slow
def test_a_hunt_killed_ten_times_ends_as_the_undisturbed_one(base, long, monkeypatch):
    import random

    from raysweep.launch.hunt import driver
    from raysweep.launch.sweep import driver as sweeping
    from raysweep.launch.sweep import steps
    from raysweep.store import hunts
    from raysweep.tools import hunted

    killed = Killed(sorted(random.Random(7).sample(range(2, 28), 10)))
    monkeypatch.setattr(sweeping.tuning, "launch", killed)
    monkeypatch.setattr(steps.launching, "run", killed.link(steps.launching.run))
    with pytest.raises(KeyboardInterrupt):
        driver.run(planned(base, "killed"))
    for _ in range(9):
        with pytest.raises(KeyboardInterrupt):
            driver.continue_hunt(hunts.find(base.root, "killed"))
    hunt = driver.continue_hunt(hunts.find(base.root, "killed"), finish=hunted.finish)
    assert killed.kills == []
    assert everything(hunt) == everything(long[0])
    one, other = hunt.record(), long[0].record()
    assert [(r.survivor, r.treatments) for r in one.rounds] == [(r.survivor, r.treatments) for r in other.rounds]
    assert one.seeds == other.seeds
    same = [{k: v for k, v in r.end.items() if k not in ("evaluation", "look")} for r in (one, other)]
    assert same[0] == same[1]


def test_a_budget_that_is_too_small_is_refused_with_what_it_takes(base):
    with pytest.raises(
        InputError, match=r"enough for 12 trainings, but 2 rounds and the look at the end take at least 31"
    ):
        planned(base, "small", branches=12)


def test_a_dry_run_makes_nothing(base):
    before = sorted(p.name for p in base.root.path.iterdir())
    plan = planned(base, "dry", branches=60)
    assert (plan.trainings, plan.images, plan.rounds) == (60, 36, 2)
    assert json.dumps(sorted(plan.treatments)) == json.dumps([f"r1-{i:02}" for i in range(1, len(plan.treatments) + 1)])
    assert sorted(p.name for p in base.root.path.iterdir()) == before


def test_a_link_of_a_chain_is_planned_as_its_branch_was(base):
    """Also where the user changes for all branches what the space varies."""
    from datetime import datetime

    from raysweep.events import ignore
    from raysweep.launch.hunt import chains, driver
    from raysweep.launch.sweep.steps import How
    from raysweep.plan.hunt.plan import axes_of
    from raysweep.plan.resources import ResourceOverrides
    from raysweep.plan.types import base_of
    from raysweep.store import hunts

    kinds = ["cross_entropy", "focal"]
    space = {**SPACE, "weights": {}, "settings": {"loss.kind": kinds}}
    plan = planned(base, "loss", branches=15, rounds=1, space=space, overrides={"loss": {"kind": "focal"}})
    hunt = hunts.create(base.root, "loss", datetime.now())
    hunt.write_record(driver._record(plan, hunt.id, datetime.now()))
    assert axes_of(plan.space, plan.parent, {"loss": {"kind": "focal"}}).parent.tolist() == [0.75]
    points = {p.arm: p for p in plan.first.points}
    assert [t.settings["loss.kind"] for t in plan.treatments.values()] == ["cross_entropy"]  # the control is the other
    for arm, treatment in plan.treatments.items():
        link = chains.Link("again/1", "link", f"{base.id}@1", treatment)
        made = chains._plan(hunt, link, How(), ignore).settings
        branch = base_of(points[arm], plan.first.base, plan.first.bases).settings
        assert made.loss == branch.loss
        assert made.loss.kind == "cross_entropy"
        assert made.training == branch.training
    with_two = How(asked=ResourceOverrides(threads=2))
    assert chains._plan(hunt, link, with_two, ignore).settings.scaling.threads == 2  # when it goes on with as many
    # A survivor has what the user changes, unless its round has changed it once more.
    grid = plan.first.grid.model_dump(mode="json")
    later = {start: chains.request(hunt, start, grid, How()).overrides for start in (f"{base.id}@1", "loss_1@2")}
    assert later == {f"{base.id}@1": {"loss": {"kind": "focal"}}, "loss_1@2": None}


@pytest.mark.parametrize(
    ("address", "threads", "expected"), [(None, None, None), ("there:1", 4, 4), ("there:1", None, 2)]
)
def test_on_a_cluster_a_link_has_the_threads_of_the_branches(whole, monkeypatch, address, threads, expected):
    """By itself it would take as many as its node has CPUs, and end with other bits."""
    from dataclasses import replace

    from raysweep.launch.hunt import chains
    from raysweep.launch.sweep.steps import How
    from raysweep.store.sweep import Sweep

    hunt, _ = whole
    record = hunt.sweep(1).record()
    monkeypatch.setattr(Sweep, "record", lambda _: replace(record, threads=2))
    asked = replace(
        chains.request(hunt, f"{hunt.record().parent.reference}", hunt.record().rounds[0].grid, How()),
        address=address,
        threads=threads,
    )
    given = {} if threads is None else {"threads": threads}
    found = chains._as_branches(hunt, asked, {"scaling": given})
    assert found["scaling"].get("threads") == expected


@pytest.mark.slow
def test_on_ray_tune(ray_cluster, base, whole):
    """The same networks as in this process."""
    from raysweep.launch.hunt import driver

    hunt = driver.run(planned(base, "ray", branches=15, rounds=1))
    assert everything(hunt) == everything(whole[0])
    assert hunt.record().end["same_bits"] is True


def test_a_schedule_that_would_end_within_the_rounds_starts_anew(base):
    """The parent has one epoch, so nothing would be left of its learning rate."""
    open_space = {k: v for k, v in SPACE.items() if k != "fork"}
    plan = planned(base, "fork", space=open_space, branches=60)
    assert plan.space.fork.schedule == "restart"
    assert plan.first.base.settings.training.fork.schedule == "restart"
    inherits = planned(base, "fork", space={**SPACE, "fork": {"schedule": "inherit"}})
    assert inherits.space.fork.schedule == "inherit"  # the user said so


def test_the_usual_name_leaves_room_for_those_of_its_sweeps(base, monkeypatch):
    from dataclasses import replace

    from raysweep.plan import parent as parents

    read = parents.read_parent
    named = f"{'x' * 48}_20260101_000000"
    monkeypatch.setattr(parents, "read_parent", lambda *given, **more: replace(read(*given, **more), experiment=named))
    plan = planned(base, None, branches=15, rounds=1)
    assert (plan.name, plan.first.name) == ("x" * 47, "x" * 47 + "-r1")


def test_a_dry_run_says_how_many_trainings_at_once_it_counted_on(base):
    from dataclasses import replace

    plan = planned(base, "counted", branches=15, rounds=1)

    def of(**where):
        sweep = replace(plan.request.sweep, **where)
        return replace(plan, at_once=3, request=replace(plan.request, sweep=sweep)).counted_on

    assert of() == "3 at a time on this machine"
    assert of(address="auto").startswith("3 at a time, since nobody has asked the cluster; every round asks it")
    assert of(address="auto", max_concurrent=3).startswith("3 at a time, as --max-concurrent says; every round asks it")


@pytest.mark.parametrize(("took", "at_once"), [(1.0, 4), (1.5, 3), (9.0, 1)])  # four trainings of a second each
def test_how_many_train_at_once_is_measured_by_every_round(whole, monkeypatch, took, at_once):
    """On a cluster nobody knows it before."""
    from types import SimpleNamespace

    from raysweep.launch.hunt import rounds

    hunt, noted = whole[0], {}
    sweep = SimpleNamespace(experiments=lambda: dict.fromkeys("abcd"))
    monkeypatch.setattr(rounds.seeing, "look", lambda *_: None)
    monkeypatch.setattr(rounds, "cost", lambda _: (1.0, 0))
    monkeypatch.setattr(type(hunt), "note_round", lambda *_, **__: None)
    monkeypatch.setattr(type(hunt), "note", lambda _, **changes: noted.update(changes))
    rounds._decide(hunt, hunt.record().rounds[0], sweep, took, took, lambda _: None)
    assert noted == {"seconds_each": took / 4, "at_once": at_once}


def test_hours_are_counted_by_the_parents_own_epochs(base):
    from raysweep.plan.hunt.budget import Budget

    plan = planned(base, "hours", budget=Budget("hours", 1.0), rounds=1)
    assert plan.seconds > 0
    assert plan.trainings == int(3600 / plan.seconds)
    assert plan.first.grid.race.trainings <= plan.trainings / 2
    assert plan.hours == pytest.approx(1.0, rel=0.05)
