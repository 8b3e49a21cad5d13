"""What the documents show works: commands and options exist, paths and links lead somewhere, Python code runs."""

from __future__ import annotations

import json
import re
import shlex
import textwrap
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"(?<!`)`([^`\n]+(?:\n[^`\n]+)?)`(?!`)")
GENERATED = re.findall(
    r'^    "(reference/\w+\.md)":', (ROOT / "docs" / "hooks.py").read_text(encoding="utf-8"), re.MULTILINE
)
SLURM = "configs/clusters/slurm.sh"  # passes its arguments to raysweep


def blocks(text: str, *languages: str) -> list[str]:
    return [body for language, body in FENCE.findall(text) if language in languages]


def words_of(line: str) -> list[list[str]]:
    """The arguments of every call of raysweep in a line of shell; a comment ends the line."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="&|;")
    lexer.whitespace_split, lexer.commenters = True, "#"
    found: list[list[str]] = []
    current: list[str] | None = None
    before = ""
    for word in lexer:
        begins = not before or set(before) <= set("&|;") or before in ("--", "Next:") or "=" in before
        if word == SLURM or (word == "raysweep" and begins):
            found.append(current := [])
        elif set(word) <= set("&|;"):
            current = None
        elif current is not None:
            current.append(word)
        before = word
    return found


def calls(path: Path) -> list[tuple[list[str], bool]]:
    """(arguments, whether the call is complete) of every raysweep command in a document.

    Code within a sentence may leave out what the sentence is not about: ``raysweep branch`` alone.
    """
    text = path.read_text(encoding="utf-8")
    found = []
    for body in blocks(text, "", "console", "shell", "bash"):
        for line in body.replace("\\\n", " ").splitlines():
            if "raysweep " in line or SLURM in line:
                found += [(words, True) for words in words_of(line)]
    for code in INLINE.findall(FENCE.sub("", text)):
        if re.match(r"(\w+=\S+ )?raysweep ", code):
            found += [([w for w in words if w != "…"], False) for words in words_of(code)]
    return found


CALLED = [(p, words, whole) for p in DOCUMENTS for words, whole in calls(p)]
SHOWN = [f"{p.name}: {' '.join(words)}" for p, words, _ in CALLED]


def option_exists(schema: dict[str, Any], key: str) -> bool:
    """Whether the schema of the configuration has a dotted key."""
    nodes = [schema]
    for part in key.split("."):
        nodes = [variant for node in nodes for variant in resolved(schema, node)]
        if any(part not in node.get("properties", {}) and node.get("additionalProperties") for node in nodes):
            return True  # a mapping of any keys, such as model.options
        nodes = [node["properties"][part] for node in nodes if part in node.get("properties", {})]
    return bool(nodes)


def resolved(schema: dict[str, Any], node: dict[str, Any]) -> list[dict[str, Any]]:
    if "$ref" in node:
        return resolved(schema, schema["$defs"][node["$ref"].rpartition("/")[2]])
    return [v for variant in node["anyOf"] for v in resolved(schema, variant)] if "anyOf" in node else [node]


@pytest.fixture(scope="module")
def command() -> Any:
    """The command line as click sees it, with every verb."""
    import typer

    from raysweep.cli import main

    main._register([])
    return typer.main.get_command(main.app)


def test_the_documents_show_commands():
    assert len(CALLED) > 60
    assert {words[0] for _, words, _ in CALLED if words} >= {"run", "branch", "resume", "continue", "compare"}


@pytest.mark.parametrize(("path", "words", "whole"), CALLED, ids=SHOWN)
def test_every_command_parses(command, path, words, whole):
    from raysweep.cli.main import _UsageError

    if words == ["--help"]:
        return
    assert words[0] in command.commands, f"{path.name} shows `raysweep {' '.join(words)}`; there is no such command"
    verb = command.commands[words[0]]
    if words[1:] == ["--help"] or (not whole and len(words) == 1):
        return
    try:
        verb.make_context(words[0], list(words[1:]))
    except _UsageError as error:
        if whole or type(error).__name__ != "MissingParameter":
            pytest.fail(f"{path.name} shows `raysweep {' '.join(words)}`: {error.format_message()}")
    schema = json.loads((ROOT / "configs" / "schema.json").read_text())
    settings = [w for before, w in zip(["", *words], words, strict=False) if before not in ("--weights", "--grid")]
    if words[0] in ("flips", "diff"):  # which take no settings, but names of branches, such as disgust=5
        settings = []
    for key in (m[1] for word in settings if (m := re.fullmatch(r"([a-z_.]+)=.+", word))):
        assert option_exists(schema, key), f"{path.name} sets {key}, and there is no such option"


def test_a_wrong_option_is_found(command):
    from raysweep.cli.main import _UsageError

    ((words,),) = [words_of("raysweep list --checkpoint | head  # a comment")]
    assert words == ["list", "--checkpoint"]
    with pytest.raises(_UsageError):
        command.commands["list"].make_context("list", words[1:])
    schema = json.loads((ROOT / "configs" / "schema.json").read_text())
    assert option_exists(schema, "trackers.mlflow.uri")
    assert option_exists(schema, "model.options.widths")
    assert not option_exists(schema, "training.epoch")


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: p.name)
def test_every_path_and_link_leads_somewhere(path):
    text = path.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"https?://", target):
            continue
        file, _, anchor = target.partition("#")
        there = path if not file else path.parent / file
        if file in GENERATED:  # its anchors are checked when the site is built
            continue
        assert there.exists(), f"{path.name} links to {target}"
        if anchor:
            titles = re.findall(r"^#+ (.+)$", there.read_text(encoding="utf-8"), re.MULTILINE)
            slugs = {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}
            assert anchor in slugs, f"{path.name} links to {target}"
    for name in re.findall(r"(?<![\w/.-])(?:configs|docs|tests|benchmarks|raysweep|\.ci|\.github)/[\w./-]+", text):
        assert (ROOT / name.rstrip(".")).exists(), f"{path.name} names {name}"
    for module in re.findall(r"python -m ((?:raysweep|benchmarks)[\w.]*)", text):
        base = ROOT / module.rstrip(".").replace(".", "/")
        assert base.with_suffix(".py").exists() or (base / "__main__.py").exists(), f"{path.name} runs {module}"


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: p.name)
def test_every_variable_is_read_somewhere(path):
    places = [p for folder in ("raysweep", "tests", "configs") for p in (ROOT / folder).rglob("*.*") if p.is_file()]
    known = set()
    for place in places:
        if place.suffix in (".py", ".sh"):
            known |= set(re.findall(r"RAYSWEEP_[A-Z]+", place.read_text(encoding="utf-8")))
    named = set(re.findall(r"RAYSWEEP_[A-Z]+", path.read_text(encoding="utf-8")))
    assert named <= known, f"nothing reads {named - known}"


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: p.name)
def test_yaml_and_python_blocks_can_be_read(path):
    import yaml

    text = path.read_text(encoding="utf-8")
    for body in blocks(text, "yaml"):
        assert yaml.safe_load(body)
    for body in blocks(text, "python"):
        compile(textwrap.dedent(body), path.name, "exec")


def test_the_grid_is_the_one_that_is_shipped():
    import yaml

    page = (ROOT / "docs" / "sweeps.md").read_text(encoding="utf-8")
    shown = next(b for b in blocks(page, "yaml") if "grid.yaml" in b)
    assert yaml.safe_load(shown) == yaml.safe_load((ROOT / "configs" / "grid.yaml").read_text(encoding="utf-8"))


def test_the_python_examples_run(tmp_path, monkeypatch, capsys):
    """The code in README and FAQ, with a smaller network and fewer images; its sweep is planned and not trained."""
    import raysweep
    from raysweep.launch.sweep import driver as sweeping
    from raysweep.store.experiment import Experiment
    from tests.conftest import SMALL_NET

    small = {
        "model": SMALL_NET,
        "training": {"batch_size": 200},
        "sampling": {"samples_per_epoch": 200},
        "scaling": {"num_workers": 0, "threads": 1},
    }
    create, plans = raysweep.create_experiment_config, []

    def smaller(**given: Any) -> dict[str, Any]:
        return create(**given, root=str(tmp_path / "experiments"), settings=small)

    def train_nothing(plan: Any, progress: Any) -> SimpleNamespace:
        plans.append(plan)
        found = {point.name: Experiment(tmp_path) for point in plan.points}
        return SimpleNamespace(sweep=SimpleNamespace(experiments=lambda: found))

    monkeypatch.setattr(raysweep, "create_experiment_config", smaller)
    monkeypatch.setattr(sweeping, "run", train_nothing)
    names: dict[str, Any] = {}
    for page in ("README.md", "docs/faq.md"):
        for body in blocks((ROOT / page).read_text(encoding="utf-8"), "python"):
            exec(compile(body, page, "exec"), names)
    assert "Nothing to start from" in capsys.readouterr().out
    assert 0 < names["best_acc"] <= 1
    assert Path(names["output_dir"], "checkpoint_epoch_3.pt").is_file()
    (plan,) = plans
    assert [point.name for point in plan.points] == ["control", "disgust=1", "disgust=5"]
