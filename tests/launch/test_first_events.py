"""A kill while the first events of a log are written, and damage to them later: `continue` adds what is missing, once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from raysweep.errors import Interrupted
from raysweep.store import files, layout, lineage, ratio
from raysweep.store.experiment import Experiment
from raysweep.store.root import Root
from tests.conftest import Recorder, small_settings
from tests.store.making import Killed

OTHER = {"weights": {"3": 9.0}, "overrides": {"training": {"learning_rate": 0.002}}, "epochs": 1}


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Root:
    """With a parent of one epoch."""
    from raysweep.launch import run as launching
    from raysweep.launch import runner
    from raysweep.plan import experiment as experiment_plan

    root = tmp_path_factory.mktemp("root")
    with Training(Recorder()) as patch:
        patch.setattr(runner, "derive", lambda *_: None)  # no pictures
        settings = small_settings(root, experiment={"name": "parent"}, training={"epochs": 1})
        launching.run(experiment_plan.plan_experiment(settings))
    return Root.open(str(root))


class Training:
    """Train in this process, without Ray; None: do not train, as if the training ended at once."""

    def __init__(self, recorder: Recorder | None) -> None:
        self.recorder = recorder

    def __enter__(self) -> pytest.MonkeyPatch:
        from raysweep.launch.workers import start as workers
        from raysweep.training.job import Outcome
        from raysweep.training.loop import train

        self.patch = pytest.MonkeyPatch()
        recorder = self.recorder
        self.patch.setattr(
            workers,
            "in_this_process",
            lambda job, fitted, progress: Outcome(2, 0.5) if recorder is None else train(job, recorder),
        )
        return self.patch

    def __exit__(self, *_: object) -> None:
        self.patch.undo()


def run_child(root: Root, name: str, **sections: Any) -> Experiment:
    from raysweep.launch import run as launching
    from raysweep.plan import child
    from raysweep.plan import parent as parents

    options = {**OTHER, "overrides": {**OTHER["overrides"], **sections}}
    plan = child.plan_child(parents.read_parent(root, "parent@1"), root, name=name, **options)
    return launching.run(plan).experiment


def go_on(root: Root, name: str) -> Experiment:
    from raysweep.launch.resume import continue_experiment

    return continue_experiment(root, name).experiment


def told(experiment: Experiment) -> list[tuple[str, dict[str, Any]]]:
    """The events without what differs between two runs."""
    return [(e.type, {k: v for k, v in e.fields.items() if k != "best_acc"}) for e in lineage.read(experiment.folder)]


def first(experiment: Experiment) -> list[tuple[str, dict[str, Any]]]:
    return [e for e in told(experiment) if e[0] not in (lineage.CONTINUED, lineage.FINISHED, lineage.INTERRUPTED)]


def kill_at(patch: pytest.MonkeyPatch, number: int) -> None:
    """Die at one of the lines of the logs, counted from 0."""
    append, count = files.append_line, iter(range(1000))

    def killing(path: Path, text: str) -> None:
        if next(count) == number:
            raise Killed
        append(path, text)

    patch.setattr(lineage, "append_line", killing)


def appended(experiment: Experiment) -> int:
    """How many lines were appended to both logs at the start: the head, and two for each event."""
    return 1 + 2 * len(first(experiment))


@pytest.mark.parametrize("every", [4, pytest.param(1, marks=pytest.mark.slow)])
def test_a_kill_between_the_first_events_is_made_good_once(root, every):
    with Training(None):
        whole = run_child(root, f"whole_{every}")
    kinds = [kind for kind, _ in first(whole)]
    assert kinds[:4] == [lineage.START, lineage.RESUME, lineage.RATIO, lineage.CONFIGURATION]
    for number in range(0, appended(whole), every):
        name = f"killed_{every}_at_{number}"
        with Training(None) as patch:
            kill_at(patch, number)
            with pytest.raises(Killed):
                run_child(root, name)
        for _ in range(2):
            with Training(None):
                killed = go_on(root, name)
            assert first(killed) == first(whole)
        assert ratio.of_fork(killed.folder) == ratio.of_fork(whole.folder) is not None
        assert (killed.folder / layout.CHANGES).read_text().startswith(f"EXPERIMENT LOG - {name}\n")
        assert lineage.problems(killed.folder) == []


def without(experiment: Experiment, kinds: set[str]) -> None:
    """As raysweep 0.1 left a log whose start was killed, after it had trained on."""
    kept = [e for e in lineage.read(experiment.folder) if e.type not in kinds]
    lines = [json.dumps({**e.to_json(), "seq": n}) + "\n" for n, e in enumerate(kept, start=1)]
    (experiment.folder / layout.LINEAGE).write_text("".join(lines))


@pytest.fixture
def stopped(root, request) -> Experiment:
    """A child that was stopped within its epoch."""
    name = request.node.name[5:35]
    with Training(Recorder(stop_after=2)), pytest.raises(Interrupted):
        run_child(root, name, checkpoint={"every_n_batches": 1})
    (folder,) = root.path.glob(f"{name}_2*")
    return Experiment(folder)


FORK = {lineage.RESUME, lineage.RATIO, lineage.CONFIGURATION}


def test_what_an_earlier_version_never_recorded_is_added_once(root, stopped):
    before = dict(first(stopped))
    without(stopped, FORK)
    for _ in range(2):
        with Training(None):
            go_on(root, stopped.id)
        after = [e for e in first(stopped) if e[0] in FORK]
        assert after == [(k, v) for k, v in before.items() if k in FORK]


def test_if_the_parent_is_gone_the_log_says_so(root, stopped, monkeypatch):
    from raysweep.errors import NotFoundError
    from raysweep.launch import resume

    def gone(*_: object) -> None:
        raise NotFoundError("There is no parent.")

    without(stopped, FORK)
    monkeypatch.setattr(resume, "_same_parent", gone)
    for _ in range(2):
        with Training(None):
            go_on(root, stopped.id)
        found = [(k, v) for k, v in told(stopped) if k in FORK]
        assert [(k, v["experiment"], v["epoch"]) for k, v in found] == [
            (lineage.RESUME, stopped.config().parent.experiment, 1)
        ]
        assert sum("There is no parent." in str(v.get("text")) for _, v in told(stopped)) == 1


def test_a_damaged_log_never_blocks_continue_and_is_told(root, stopped, capsys):
    from raysweep.events import Note
    from raysweep.launch.resume import continue_experiment
    from tests.cli.test_errors import run_cli

    path = stopped.folder / layout.LINEAGE
    lines = path.read_bytes().splitlines(keepends=True)
    bad = lines[1][:-9] + b"\n"
    path.write_bytes(lines[0] + bad + b"".join(lines[2:]))
    code, out, _ = run_cli(capsys, "verify", stopped.id, "--root", root.path)
    assert (code, "lineage.jsonl is damaged (line 2: " in out) == (1, True)
    notes: list[str] = []
    with Training(Recorder()):
        continue_experiment(root, stopped.id, progress=lambda e: notes.append(e.text) if isinstance(e, Note) else None)
    assert f"1 damaged line of lineage.jsonl moved to {layout.DAMAGED_LINES}." in notes
    assert (stopped.folder / layout.DAMAGED_LINES).read_bytes() == bad
    assert stopped.status() == "finished"
    assert [k for k, _ in told(stopped)].count(lineage.RESUME) == 1  # the line was that event
    code, out, _ = run_cli(capsys, "verify", stopped.id, "--root", root.path)
    assert (code, layout.DAMAGED_LINES in out) == (0, True), out
