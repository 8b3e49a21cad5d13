"""The site: its generated pages are complete, and it can be built, strictly, with nothing from other servers."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def hooks() -> Any:
    spec = importlib.util.spec_from_file_location("raysweep_docs_hooks", ROOT / "docs" / "hooks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def leaves(schema: dict[str, Any], node: dict[str, Any], prefix: str = "") -> list[str]:
    """The dotted names of all options in a schema."""
    found = []
    for name, option in node["properties"].items():
        kinds = [
            schema["$defs"][v["$ref"].rpartition("/")[2]] if "$ref" in v else v for v in option.get("anyOf", [option])
        ]
        sections = [kind for kind in kinds if kind.get("properties")]
        found += leaves(schema, sections[0], f"{prefix}{name}.") if len(sections) == 1 else [prefix + name]
    return found


@pytest.mark.parametrize(("page", "file"), [("options", "schema.json"), ("grid", "grid.schema.json")])
def test_the_reference_has_every_option(hooks, page, file):
    schema = json.loads((ROOT / "configs" / file).read_text(encoding="utf-8"))
    text = hooks.PAGES[f"reference/{page}.md"]()
    shown = re.findall(r"^\| `([\w.]+)` \|", text, re.MULTILINE)
    names = leaves(schema, schema)
    assert len(names) > 10
    assert set(names) <= set(shown)
    assert len(shown) == len(set(shown))


def test_the_reference_says_what_an_option_takes(hooks):
    text = hooks.PAGES["reference/options.md"]()
    (line,) = [x for x in text.splitlines() if x.startswith("| `training.epochs` ")]
    assert line.split(" | ")[1] == "whole number ≥ 1; default `5`"
    (line,) = [x for x in text.splitlines() if x.startswith("| `checkpoint.keep` ")]
    assert "| `all` or {last, every}; default `all` |" in line


def test_the_reference_has_every_command_with_every_option(hooks):
    from raysweep.cli import main

    text = hooks.PAGES["reference/commands.md"]()
    assert re.findall(r"^### (\S+)$", text, re.MULTILINE) != []
    assert set(re.findall(r"^### (\S+)$", text, re.MULTILINE)) == set(main.VERBS)
    branch = text.partition("### branch\n")[2].partition("### ")[0]
    assert "--gpus-per-branch" in branch
    assert "raysweep branch --from base@best --weights-grid grid" in branch


def test_the_page_of_commands_has_every_command():
    from raysweep.cli import main

    shown = re.findall(r"^raysweep ([\w-]+)", (ROOT / "docs" / "commands.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert set(main.VERBS) - {"resume-experiment"} <= set(shown)


def test_the_python_reference_has_every_public_name(hooks):
    import raysweep

    text = hooks.PAGES["reference/python.md"]()
    for name in raysweep.__all__:
        assert f".{name}\n" in text or f"| `{name}` |" in text


def test_a_page_that_nav_does_not_name_is_added(hooks, monkeypatch, tmp_path):
    from types import SimpleNamespace

    (tmp_path / "index.md").write_text("")
    (tmp_path / "new.md").write_text("")
    monkeypatch.setattr(hooks, "DOCUMENTS", tmp_path)
    config = SimpleNamespace(nav=[{"Home": "index.md"}, {"Guides": []}])
    assert hooks.on_config(config).nav == [{"Home": "index.md"}, {"Guides": ["new.md"]}]


@pytest.mark.slow
def test_the_site_is_built_without_a_warning_and_needs_no_other_server(tmp_path):
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-d", str(tmp_path / "site")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert built.returncode == 0, built.stderr[-3000:]
    pages = sorted((tmp_path / "site").rglob("*.html"))
    assert len(pages) > 30
    loaded = re.compile(r"<(?:script|img|iframe|link)\b[^>]*\b(?:src|href)=\"?(?:https?:)?//[^\s\">]+")
    for page in pages:
        assert loaded.findall(page.read_text(encoding="utf-8")) == [], page.name
    for sheet in (tmp_path / "site").rglob("*.css"):
        assert not re.search(r"(?:@import|url\()\s*[\"']?https?:", sheet.read_text(encoding="utf-8")), sheet.name
