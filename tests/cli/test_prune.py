"""``raysweep prune``: it shows and asks, works on a full disk, and finishes what a killed program has left."""

from __future__ import annotations

import errno
import itertools
import os
import shutil
import time
from pathlib import Path

import pytest

from raysweep.cli.main import main
from raysweep.store import experiment as experiments
from raysweep.store import files, layout, leftovers, lineage
from raysweep.store.experiment import Experiment
from raysweep.store.lock import WriterLock
from raysweep.store.records import ExperimentConfig
from raysweep.store.root import Root
from tests.cli.test_errors import run_cli
from tests.store.test_retention import NOW, child_of, with_epochs


class Killed(BaseException):
    """The process ends here."""


@pytest.fixture
def made(tmp_path) -> Experiment:
    """Four epochs, of which the last is the best."""
    return with_epochs(tmp_path, 4, 4)


def left(experiment: Experiment) -> list[int]:
    return [e.epoch for e in experiment.entries()]


def prune(capsys, made: Experiment, *options: object) -> tuple[int, str, str]:
    return run_cli(capsys, "prune", *options, "--root", made.folder.parent)


@pytest.mark.parametrize("dry", [pytest.param(True, marks=pytest.mark.slow), False])
def test_the_verb(quick_run, quick_child, tmp_path, capsys, dry):
    run = quick_run(training={"epochs": 4})
    quick_child(f"{run.id}@1", epochs=1, name="young")
    best = run.manifest().best.epoch
    code, out, err = prune(capsys, run, run.id, "--last", 1, "--dry-run" if dry else "--yes")
    assert code == 0
    gone = {1, 2, 3, 4} - {1, best, 4}
    assert out.split("\t")[1:3] == [
        ", ".join(f"@{e}" for e in sorted(gone)),
        f"{len(gone)} checkpoint{'s' * (len(gone) > 1)}",
    ]
    assert set(left(run)) == ({1, 2, 3, 4} if dry else {1, best, 4})
    assert ("nothing was deleted" in err) == dry
    assert (f"{len(gone)} checkpoint" in err) != dry


def test_without_a_terminal_it_refuses_and_shows_what_it_would_do(made, capsys):
    code, out, err = prune(capsys, made, "--last", 1)
    assert code == 2
    assert out == f"{made.id}\t@1, @2, @3\t3 checkpoints\t0.0 MB\n"
    assert "3 checkpoints of 1 experiment (0.0 MB) would be deleted, but there is no terminal to ask on" in err
    assert "--yes" in err
    assert left(made) == [1, 2, 3, 4]


@pytest.mark.parametrize(("answer", "code", "stay"), [("n", 1, [1, 2, 3, 4]), ("", 1, [1, 2, 3, 4]), ("y", 0, [4])])
def test_on_a_terminal_it_asks(made, capsys, monkeypatch, answer, code, stay):
    import typer

    asked = []

    def confirm(text: str, default: bool = False, **_: object) -> bool:
        asked.append((text, left(made)))
        return {"y": True, "n": False, "": default}[answer]

    monkeypatch.setattr(typer, "confirm", confirm)
    monkeypatch.setattr("raysweep.cli.prune._can_ask", lambda: True)
    found, _, err = prune(capsys, made, "--last", 1)
    assert asked == [("Delete 3 checkpoints of 1 experiment (0.0 MB)?", [1, 2, 3, 4])]
    assert (found, left(made)) == (code, stay)
    assert ("Nothing was deleted." in err) == (code == 1)


def test_with_nothing_to_delete_it_does_not_ask(made, capsys):
    assert prune(capsys, made)[0] == 0  # without a rule everything stays
    assert prune(capsys, made, "--last", 4)[0] == 0


def test_a_running_experiment_is_left_alone(made, capsys):
    lock = WriterLock.acquire(made.folder)
    (made.folder / f"{layout.TEMP_PREFIX}1234-x").write_bytes(b"being written")
    code, out, err = prune(capsys, made, "--last", 1, "--yes")
    assert (code, out) == (0, "")
    assert f"{made.id} is skipped: process {os.getpid()}" in err
    lock.release()
    assert left(made) == [1, 2, 3, 4]
    assert (made.folder / f"{layout.TEMP_PREFIX}1234-x").exists()


def test_one_damaged_experiment_does_not_keep_the_others_from_being_pruned(tmp_path, capsys):
    made = with_epochs(tmp_path, 3, 3)
    made.write_config(ExperimentConfig.from_json({"settings": {"checkpoint": {"keep": {"last": 1}}}}))
    broken = experiments.create(Root.open(tmp_path), "broken", NOW)
    files.write_json(broken.folder / layout.CONFIG, {"settings": "x"})
    code, out, err = prune(capsys, made, "--yes")
    assert (code, out.split("\t")[:2]) == (0, [made.id, "@1, @2"])
    assert "broken_20260102_030405 is skipped" in err
    assert left(made) == [3]


def test_a_folder_that_does_not_say_what_it_starts_from_is_named(made, tmp_path, capsys):
    broken = experiments.create(Root.open(tmp_path), "broken", NOW)
    (broken.folder / layout.CONFIG).write_text("{")
    _, _, err = prune(capsys, made, made.id, "--last", 1, "--dry-run")
    assert f"{broken.id} is damaged and does not say what it starts from" in err


def test_a_child_that_starts_while_the_user_thinks_keeps_its_source(made, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("raysweep.cli.prune._ask", lambda *_: child_of(tmp_path, "sha2"))
    code, out, err = prune(capsys, made, "--last", 1)
    assert (code, out.split("\t")[1]) == (0, "@1, @2, @3")
    assert f"{made.id}@2 is kept: something has started from it meanwhile." in err
    assert "2 checkpoints deleted" in err
    assert left(made) == [2, 4]


def test_an_experiment_that_has_gone_on_while_the_user_thinks_keeps_what_the_rule_now_keeps(made, capsys, monkeypatch):
    from dataclasses import replace

    from raysweep.store.records_manifest import BestEpoch

    def think(*_: object) -> None:
        made.write_manifest(replace(made.manifest(), best=BestEpoch(3, "checkpoint_epoch_3.pt")))

    monkeypatch.setattr("raysweep.cli.prune._ask", think)
    code, _, err = prune(capsys, made, "--last", 1)
    assert code == 0
    assert f"{made.id}@3 is kept: the experiment has changed meanwhile." in err
    assert left(made) == [3, 4]


# --- a full disk ------------------------------------------------------------------------------------------------------


@pytest.fixture
def full(made, monkeypatch):
    """No byte more fits under the root than there is now; what is deleted makes room."""
    root, write = made.folder.parent, os.write

    def used() -> int:
        return sum(p.stat().st_size for p in root.rglob("*") if p.is_file())

    capacity = used()

    def limited(fd: int, data: bytes) -> int:
        if os.readlink(f"/proc/self/fd/{fd}").startswith(str(root)) and used() + len(data) > capacity:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(fd, data)

    monkeypatch.setattr(os, "write", limited)
    return root


def grow(made: Experiment, names: str) -> None:
    for path in made.folder.glob(names):
        path.write_bytes(bytes(5000))


@pytest.mark.parametrize("names", ["*.pt", "checkpoint*"])
def test_it_frees_space_on_a_full_disk(made, capsys, request, names):
    grow(made, names)
    if names != "*.pt":  # nothing but the checkpoints themselves
        for path in made.folder.glob("epoch_*"):
            path.unlink()
    request.getfixturevalue("full")
    with pytest.raises(Exception, match="No space left"):
        files.write_json(made.folder.parent / "anything", {})
    code, _, err = prune(capsys, made, "--last", 1, "--yes")
    assert code == 0, err
    assert "3 checkpoints deleted, 0.0 MB freed" in err
    assert left(made) == [4]
    assert sorted(p.name for p in made.folder.glob("checkpoint_*")) == ["checkpoint_epoch_4.pt"]
    assert lineage.read(made.folder)[-1].fields["text"].startswith("removed checkpoint_epoch_1.pt")
    assert not (made.folder / layout.LOCK).exists()


def killed_at(moment: int, made: Experiment, *names: str) -> bool:
    """Whether a process that prunes was killed before the call of number ``moment`` of these functions of ``os``."""
    pid = os.fork()
    if pid == 0:
        calls = 0

        def counted(original):
            def call(*args, **options):
                nonlocal calls
                calls += 1
                return original(*args, **options) if calls < moment else os._exit(9)

            return call

        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(1, 2)
        for name in names:
            setattr(os, name, counted(getattr(os, name)))
        Path.unlink = lambda self, missing_ok=False: os.unlink(self)  # type: ignore[method-assign]
        code = 1
        try:
            main(["prune", "--last", "1", "--yes", "--root", str(made.folder.parent)])
            code = 0
        except SystemExit as leave:
            code = int(leave.code or 0)
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert code in (0, 9)
    return code == 9


@pytest.mark.parametrize("bare", [pytest.param(True, marks=pytest.mark.slow), False])
def test_killed_anywhere_on_a_full_disk_the_next_one_finishes_it(made, capsys, request, tmp_path, bare):
    grow(made, "*.pt" if bare else "checkpoint*")
    if not bare:
        for path in made.folder.glob("epoch_*"):
            path.unlink()
    whole = shutil.copytree(made.folder, tmp_path.with_name(f"{tmp_path.name}-whole"))
    request.getfixturevalue("full")
    stay = ["checkpoint_epoch_4.pt", *(["epoch_4_model.pt"] if bare else [])]
    for moment in itertools.count(1):
        if not killed_at(moment, made, "replace", "unlink", "write", "fsync"):
            break
        assert made.has_manifest  # what stays is whole at every moment
        assert left(made)[-1] == 4
        assert all((made.folder / n).read_bytes() == (whole / n).read_bytes() for n in stay)
        code, _, err = prune(capsys, made, "--last", 1, "--yes")
        assert code == 0, err
        assert left(made) == [4]
        assert sorted(p.name for p in made.folder.glob("*.pt")) == stay
        assert not list(made.folder.glob(f"{layout.TEMP_PREFIX}*"))
        assert lineage.read(made.folder)
        shutil.rmtree(made.folder)
        shutil.copytree(whole, made.folder)
    assert moment > 12


# --- leftovers --------------------------------------------------------------------------------------------------------


def test_what_a_killed_prune_has_left_goes_with_the_next(made, capsys, monkeypatch):
    gone: list[Path] = []

    def killed(path: Path) -> None:
        if len(gone) == 2:
            raise Killed
        gone.append(path)
        path.unlink()

    with monkeypatch.context() as m:
        m.setattr(files, "remove", killed)
        with pytest.raises(Killed):
            prune(capsys, made, "--last", 1, "--yes")
    (made.folder / layout.LOCK).unlink(missing_ok=True)  # of this process, which lives
    assert left(made) == [4]
    capsys.readouterr()
    orphans = ["checkpoint_epoch_2.pt", "checkpoint_epoch_3.pt", "epoch_2_model.pt", "epoch_3_model.pt"]
    assert [p.name for p in leftovers.of_experiment(made)] == orphans
    code, out, _ = prune(capsys, made, "--yes")  # also without a rule for what else would go
    assert code == 0
    assert out == f"{made.id}\t-\t0 checkpoints + 4 unused files\t0.0 MB\n"
    assert sorted(p.name for p in made.folder.glob("*.pt")) == ["checkpoint_epoch_4.pt", "epoch_4_model.pt"]
    assert lineage.read(made.folder)[-1].fields["text"] == f"removed {', '.join(orphans)} (left by a killed program)"
    assert prune(capsys, made, "--yes")[1] == ""


def test_only_what_nothing_needs_is_a_leftover(made):
    """A save that was killed before its commit, a temporary file, a file that a user has put there."""
    for name in ("checkpoint_epoch_5.pt", "epoch_5_model.pt", "notes.txt", "checkpoint_epoch_5_batch_3.pt"):
        (made.folder / name).write_bytes(b"x")
    (made.folder / f"{layout.TEMP_PREFIX}ab12-checkpoint_epoch_5.pt").write_bytes(b"x")
    assert [p.name for p in leftovers.of_experiment(made)] == [f"{layout.TEMP_PREFIX}ab12-checkpoint_epoch_5.pt"]
    (made.folder / layout.MANIFEST).write_text("{")  # what is committed is not known
    assert leftovers.of_experiment(made) == []


def test_a_row_that_is_damaged_makes_no_leftover_of_its_file(made):
    import json

    path = made.folder / layout.MANIFEST
    value = json.loads(path.read_text())
    value["checkpoints"][1]["bytes"] = "many"
    path.write_text(json.dumps(value))
    assert leftovers.of_experiment(made) == []


def test_a_leftover_that_a_child_starts_from_stays(made, tmp_path, capsys):
    from dataclasses import replace

    child_of(tmp_path, files.sha256_file(made.folder / "checkpoint_epoch_1.pt"))
    made.write_manifest(replace(made.manifest(), entries=made.entries()[1:]))
    assert prune(capsys, made, made.id, "--yes")[0] == 0
    assert (made.folder / "checkpoint_epoch_1.pt").exists()


def import_folder(root: Path, age_s: float) -> Path:
    folder = root / f"{layout.TEMP_PREFIX}0a1b2c3d-old_20250108_143022"
    folder.mkdir()
    (folder / "checkpoint_epoch_1.pt").write_bytes(bytes(2_000_000))
    for path in (folder / "checkpoint_epoch_1.pt", folder):
        os.utime(path, (time.time() - age_s,) * 2)
    return folder


def test_what_a_killed_import_has_left_goes(made, tmp_path, capsys):
    folder = import_folder(tmp_path, 3600)
    code, out, _ = prune(capsys, made, "--dry-run")
    assert (code, out) == (0, f"{folder.name}\t-\tan import that was killed\t2.0 MB\n")
    assert prune(capsys, made, made.id, "--yes")[1] == ""  # not of the experiment that was named
    assert folder.exists()
    code, _, err = prune(capsys, made, "--yes")
    assert code == 0
    assert "2.0 MB freed" in err
    assert not folder.exists()


def test_an_import_that_runs_is_left_alone(made, tmp_path, capsys):
    folder = import_folder(tmp_path, 3600)
    with leftovers.importing(folder) as mine:
        assert mine
        assert prune(capsys, made, "--yes")[1] == ""
        assert leftovers.remove_import(folder) == 0
    young = import_folder(tmp_path, 0) if folder.rename(tmp_path / "away") else folder  # it may run on another machine
    assert prune(capsys, made, "--yes")[1] == ""
    assert young.exists()
