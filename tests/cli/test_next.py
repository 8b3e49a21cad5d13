"""Every command that raysweep tells its user to type can be pasted: it parses, and names the root where it must."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from raysweep.errors import InputError, TrainingError
from raysweep.store import resolve
from raysweep.store.root import Root
from tests.cli.test_errors import run_cli
from tests.store.making import make_experiment

PACKAGE = Path(__file__).parents[2] / "raysweep"
NAME = "it_20260102_030405"


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A root whose name must be quoted; the current folder is another one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAYSWEEP_ROOT", raising=False)
    return tmp_path / "my runs"


def named(text: str, root: Path) -> list[list[str]]:
    """The words of every printed command, without the root that each of them must name."""
    commands = [
        shlex.split(c)
        for c in re.findall(r"(?:Next: |&& |then |with: |`)(raysweep [^`\n]*?)(?=, then | && |`|\n|$)", text)
    ]
    assert commands, text
    for words in commands:
        assert words[-2:] == ["--root", str(root)], text
    return [words[1:-2] for words in commands]


def test_show_of_an_interrupted_experiment(capsys, root):
    made = make_experiment(root / NAME, [(1, None)])
    for reference, options in (
        (NAME, ("--root", root)),
        (made.folder, ()),
    ):  # a path needs no --root; what is printed does
        code, _, err = run_cli(capsys, "show", reference, *options)
        assert code == 0, err
        assert named(err, root) == [["continue", NAME]]


def test_the_usual_root_is_not_named(capsys, root, monkeypatch):
    make_experiment(root / NAME, [(1, None)])
    monkeypatch.setenv("RAYSWEEP_ROOT", str(root))
    assert f"Next: raysweep continue {NAME}\n" in run_cli(capsys, "show", NAME)[2]


@pytest.mark.parametrize("verb", ["list", "lineage"])
def test_an_empty_root(capsys, root, verb):
    assert named(run_cli(capsys, verb, "--root", root)[2], root) == [
        ["run", "base"]
    ]  # an example that comes with the program


def test_an_experiment_of_the_old_system(capsys, root):
    (root / NAME).mkdir(parents=True)
    (root / NAME / "experiment_config.json").write_text('{"experiment_name": "it", "num_epochs": 3}')
    (root / NAME / "checkpoint_epoch_3.pt").write_bytes(b"as it was")
    code, _, err = run_cli(capsys, "show", root / NAME)
    assert code == 0, err
    assert named(err, root) == [["resume", "--from", f"{NAME}@3", "data.path=FOLDER"]]


@pytest.mark.parametrize("data", [[], ["data.path=images"]])
def test_import(capsys, root, monkeypatch, data):
    from raysweep.tools import import_legacy

    def copy(folder, to, *rest, **trusting):
        return make_experiment(to.path / NAME, [(1, None), (2, None)])

    monkeypatch.setattr(import_legacy, "import_folder", copy)
    code, _, err = run_cli(capsys, "import", "old", *data, "--root", root)
    assert code == 0, err
    assert named(err, root) == [["resume", "--from", f"{NAME}@2", *([] if data else ["data.path=FOLDER"])]]


def test_suggest(capsys, root, tmp_path):
    from tests.report.making import sweep_of

    made = sweep_of(root, ("a", "b", "c"), (0.4, 0.7, 0.8), {"a5": ({"a": 5.0}, (0.7, 0.7, 0.8))})
    parent = made.record().parent.reference
    _, out, err = run_cli(capsys, "suggest", made.folder)
    following = ["branch", "--from", parent, "--weights-grid", "grid.yaml"]
    assert named(err, root) == [["suggest", made.id, "-o", "grid.yaml"], following]
    assert shlex.split(out.splitlines()[0].partition(": ")[2])[-2:] == ["--root", str(root)]
    target = tmp_path / "my grid.yaml"
    _, _, err = run_cli(capsys, "suggest", made.id, "-o", target, "--root", root)
    assert named(err, root) == [[*following[:-1], str(target)]]


def test_a_finished_run_and_a_finished_sweep(capsys, root, monkeypatch):
    from raysweep.cli import branch, run
    from raysweep.display.verdict import MOST_VERDICTS
    from raysweep.launch.sweep.driver import SweepResult
    from raysweep.report import comparison, verdict
    from tests.report.making import sweep_of

    class Display:
        def summary(self, experiment):
            pass

    made = sweep_of(root, ("a", "b", "c"), (0.4, 0.7, 0.8), {"a5": ({"a": 5.0}, (0.7, 0.7, 0.8))})
    parent = resolve.find_experiment(Root.open(root), "parent")
    run.announce(Display(), parent)
    ((*words, grid),) = named(capsys.readouterr().err, root)
    assert words[:3] == ["branch", "--from", f"{parent.id}@2"]
    assert grid == "rules"  # these classes are not those of the example grid, and differ in size
    child = made.experiments()["a5-seed0"]  # which has them, so they are not advised again
    run.announce(Display(), child)
    assert named(capsys.readouterr().err, root) == [["compare", child.id]]
    branch.summarise(SweepResult(made, made.experiments(), {}))
    silent = capsys.readouterr().err
    assert named(silent, root) == [["compare", made.id]]
    with (
        monkeypatch.context() as patch
    ):  # the comparison that was written is the one that is told: it is not computed twice
        compared = comparison.of_sweep(made)
        patch.setattr(comparison, "of_sweep", None)
        branch.summarise(SweepResult(made, made.experiments(), {}, compared))
    told = capsys.readouterr().err
    lines = [line.text for line in verdict.sentences(compared, MOST_VERDICTS)[0]]
    assert lines
    assert set(lines) <= set(told.splitlines())
    assert not set(lines) & set(silent.splitlines())
    with pytest.raises(TrainingError) as failed:
        branch.summarise(SweepResult(made, made.experiments(), {"a5": "unwell"}))
    assert named(str(failed.value), root) == [["continue", made.id]]


def test_continue_takes_a_sweep_or_an_experiment_by_any_reference(capsys, root, monkeypatch):
    from raysweep.display.run import RunDisplay
    from raysweep.launch import resume
    from raysweep.launch.runner import Result
    from raysweep.launch.sweep import resume as sweep_resume
    from raysweep.launch.sweep.driver import SweepResult
    from tests.report.making import sweep_of

    monkeypatch.setattr(sweep_resume, "continue_sweep", lambda root, s, **_: SweepResult(s, s.experiments(), {}))
    monkeypatch.setattr(resume, "continue_experiment", lambda root, e, **_: Result(e, 0.5))
    monkeypatch.setattr(RunDisplay, "summary", lambda self, experiment: None)
    made = sweep_of(root, ("a", "b", "c"), (0.4, 0.7, 0.8), {"a5": ({"a": 5.0}, (0.7, 0.7, 0.8))})
    for reference, options in ((made.id, ("--root", root)), ("s", ("--root", root)), (made.folder, ())):
        code, out, err = run_cli(capsys, "continue", reference, *options)
        assert code == 0, err
        assert out.strip() == str(made.folder)
        assert named(err, root) == [["compare", made.id]]
    branch = made.experiments()["a5-seed1"]
    for reference, options in ((branch.id, ("--root", root)), ("s-a5-seed1", ("--root", root)), (branch.folder, ())):
        code, out, err = run_cli(capsys, "continue", reference, *options)
        assert code == 0, err
        assert out.strip() == str(branch.folder)
        assert named(err, root) == [["compare", branch.id]]


def test_what_cannot_be_compared_or_suggested(capsys, root):
    from raysweep.report import suggestion
    from tests.report.making import sweep_of

    single = make_experiment(root / NAME, [(1, None)])
    assert named(run_cli(capsys, "compare", single.folder)[2], root) == [["compare", "OTHER", NAME]]
    made = sweep_of(root, ("a", "b", "c"), (0.4, 0.7, 0.8), {"a5": ({"a": 5.0}, (0.7, 0.7, 0.8))}, control=False)
    with pytest.raises(InputError) as refused:
        suggestion.suggest(made)
    assert named(str(refused.value).replace("`control: true`", ""), root) == [["continue", made.id]]


def test_a_sweep_or_an_experiment_where_the_other_is_needed(capsys, root):
    from tests.report.making import sweep_of

    made = sweep_of(root, ("a", "b", "c"), (0.4, 0.7, 0.8), {"a5": ({"a": 5.0}, (0.7, 0.7, 0.8))})
    for verb in ("lineage", "verify"):  # 's' fits four experiments, all of them branches of the sweep
        code, _, err = run_cli(capsys, verb, "s", "--root", root)
        assert code == 2
        assert f"'s' is the sweep {made.id}, but one experiment is needed here" in err
    code, _, err = run_cli(capsys, "suggest", "parent", "--root", root)
    assert code == 2
    assert "is an experiment; suggest takes a sweep" in err
    code, _, err = run_cli(capsys, "compare", made.id, "parent", "--root", root)
    assert code == 2
    assert f"{made.id} is a sweep" in err


@pytest.mark.parametrize("reference", ["s", "id", "path"])
def test_show_takes_a_sweep(capsys, root, reference):
    from tests.report.making import sweep_of

    made = sweep_of(root, ("a", "b", "c"), (0.4, 0.7, 0.8), {"a5": ({"a": 5.0}, (0.7, 0.7, 0.8))})
    which = {"s": "s", "id": made.id, "path": made.folder}[reference]
    code, out, err = run_cli(capsys, "show", which, "--root", root)
    assert code == 0, err
    assert "4 branches of 2 epochs: 4 finished" in out
    assert "\na5-seed1\tfinished\t" in out
    assert named(err, root) == [["compare", made.id]]
    found = json.loads(run_cli(capsys, "show", which, "--json", "--root", root)[1])
    assert found["id"] == made.id
    assert [r["branch"] for r in found["results"]] == [b["name"] for b in found["branches"]]
    (made.folder / "results.csv").unlink()
    code, out, err = run_cli(capsys, "show", which, "--root", root)
    assert code == 0, err
    assert "\na5-seed1\tfinished\t" in out


@pytest.mark.parametrize("options", [(), ("--json",), ("--checkpoints",)])
def test_a_sweep_that_is_not_there_is_no_empty_root(capsys, root, options):
    from tests.report.making import sweep_of

    made = sweep_of(root, ("a", "b", "c"), (0.4, 0.7, 0.8), {"a5": ({"a": 5.0}, (0.7, 0.7, 0.8))})
    code, out, err = run_cli(capsys, "list", "--sweep", "typo", "--root", root, *options)
    assert (code, out) == (2, "")
    assert "No sweep under" in err
    assert made.id in err
    code, out, err = run_cli(capsys, "list", "--sweep", made.folder, "--root", root, "--json")
    assert (code, len(json.loads(out))) == (0, 4)
    code, out, err = run_cli(capsys, "list", "--sweep", "s", "--status", "failed", "--root", root)
    assert (code, out) == (0, "")
    assert err.startswith("No experiment with status failed of sweep s under ")


def test_suggest_names_a_file_that_is_not_there(capsys, root, tmp_path):
    from tests.report.making import sweep_of

    made = sweep_of(root, ("a", "b", "c"), (0.4, 0.7, 0.8), {"a5": ({"a": 5.0}, (0.7, 0.7, 0.8))})
    (tmp_path / "grid.yaml").touch()
    (first, then) = named(run_cli(capsys, "suggest", made.id, "--root", root)[2], root)
    assert first[-1] == then[-1] == "grid-2.yaml"


def test_no_other_module_spells_a_next_command():
    spelled = [p.name for p in PACKAGE.rglob("*.py") if re.search(r"(Next|Go on with): ?raysweep", p.read_text())]
    assert spelled == []
