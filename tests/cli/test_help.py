"""The help: commands in groups, examples that can be copied and that parse; and what the Tab key offers."""

from __future__ import annotations

import shlex

import pytest

from raysweep.cli import help_texts
from raysweep.cli.main import VERBS, _register, app
from tests.cli.test_errors import run_cli
from tests.store.making import make_experiment

NAME = "mine_20260102_030405"
TYPED = [(verb, typed) for verb, told in help_texts.EXAMPLES.items() for _, typed in told]


def test_every_command_is_in_one_group():
    grouped = [v for verbs in help_texts.GROUPS.values() for v in verbs]
    assert sorted(grouped) == sorted(set(VERBS) - {"resume-experiment"})
    assert set(help_texts.EXAMPLES) - {""} <= set(VERBS)


@pytest.mark.parametrize(("verb", "typed"), TYPED, ids=[typed for _, typed in TYPED])
def test_every_example_parses(verb, typed):
    import typer

    program, first, *words = shlex.split(typed)
    assert program == "raysweep"
    assert verb in ("", first)
    _register([first])
    command = typer.main.get_command(app).commands[first]
    assert command.make_context(first, words).args == []


@pytest.mark.parametrize("width", [40, 60, 80])
def test_examples_stay_whole_in_a_narrow_terminal(capsys, monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    for verb in ("", "branch", "show"):
        out = run_cli(capsys, *([verb] if verb else []), "--help")[1]
        for _, typed in help_texts.EXAMPLES[verb]:
            assert f"    {typed}\n" in out
    out = run_cli(capsys, "--help")[1]
    at = [out.index(f"\n{title}:\n") for title in help_texts.GROUPS]
    assert at == sorted(at)
    assert "..." not in out[at[0] :]  # no sentence is cut


@pytest.fixture
def offered(capsys, monkeypatch, tmp_path):
    """What the shell offers for a line."""
    make_experiment(tmp_path / NAME, [(1, None), (2, None), (2, 3)])
    (tmp_path / "sweeps" / "mine-sweep_20260102_030405").mkdir(parents=True)
    (tmp_path / "sweeps" / "mine-sweep_20260102_030405" / "sweep.json").write_text("{}")
    (tmp_path / "other.yaml").touch()
    monkeypatch.chdir(tmp_path)

    def of(line: str, **environment: str) -> list[str]:
        words = line.split()
        given = {
            "_RAYSWEEP_COMPLETE": "complete_bash",
            "COMP_WORDS": line,
            "COMP_CWORD": str(len(words) - (not line.endswith(" "))),
        }
        with monkeypatch.context() as patch:
            for key, value in {"RAYSWEEP_ROOT": str(tmp_path), **given, **environment}.items():
                patch.setenv(key, value)
            return run_cli(capsys)[1].split()

    return of


SWEEP = "mine-sweep_20260102_030405"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("raysweep show mi", [SWEEP, NAME, f"{NAME}@best", f"{NAME}@latest"]),
        ("raysweep diff mi", [NAME, f"{NAME}@best", f"{NAME}@latest"]),
        ("raysweep continue mi", [SWEEP, NAME]),
        ("raysweep compare mi", [SWEEP, NAME]),
        ("raysweep power mi", [SWEEP]),
        ("raysweep list --sweep mi", [SWEEP]),
        ("raysweep lineage mi", [NAME]),
        ("raysweep resume --from mi", [f"{NAME}@best", f"{NAME}@latest"]),
        (f"raysweep branch --from {NAME}@", [f"{NAME}@{w}" for w in ("1", "2", "best", "latest")]),
        (f"raysweep export {NAME}@b", [f"{NAME}@best"]),
        ("raysweep export x --to ", ["safetensors", "onnx", "torchscript"]),
        ("raysweep list --sort best", ["best_acc", "best_macro_f1"]),
        ("raysweep run training.ep", ["training.epochs="]),
        ("raysweep run base training.schedule=co", ["training.schedule=constant", "training.schedule=cosine"]),
        ("raysweep run o", ["other.yaml"]),
        ("raysweep branch --from x --weights-grid ", ["grid", "other.yaml", "rules"]),
        ("raysweep show nothing", []),
    ],
)  # fmt: skip
def test_the_tab_key_offers(offered, line, expected):
    assert offered(line) == expected


def test_the_tab_key_is_silent_where_nothing_can_be_found(offered):
    assert offered("raysweep show mi", RAYSWEEP_ROOT="nowhere") == []
    assert offered("raysweep show mi", RAYSWEEP_ROOT="s3://bucket/place") == []
    assert offered("raysweep branch --from gone@") == []


def test_every_completion_belongs_to_a_parameter():
    import inspect

    from raysweep.cli import completion

    _register([])
    known = {(c.name, p) for c in app.registered_commands for p in inspect.signature(c.callback).parameters}
    assert set(completion._OF_VERB) <= known
    assert set(completion._NAMED) <= {p for _, p in known}


def test_the_words_that_are_offered_are_those_that_are_taken():
    from raysweep.api import looking
    from raysweep.cli import compare, completion, list_

    def words(verb: str, name: str) -> set[str]:
        return set(completion._OF_VERB[verb, name](None, ""))  # type: ignore[arg-type]

    assert words("list", "sort") == set(list_.SORT_KEYS)
    assert words("list", "status") == set(list_.STATUSES)
    assert words("compare", "metric") == set(compare.TITLES)
    assert words("suggest", "metric") == set(looking.IMPROVED)
