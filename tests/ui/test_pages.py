"""Every page and part: complete, reachable, and no text of a user is ever taken for markup."""

from __future__ import annotations

import html
import json
import re

import pytest

from raysweep.store import layout
from tests import parsed
from tests.ui.asking import ask, with_client
from tests.ui.conftest import EVIL


class Parsed(parsed.Parsed):
    VOID = (*parsed.Parsed.VOID, "img")


def leads_to(found: Parsed) -> set[str]:
    """The addresses of this server that a page names."""
    named = {
        v for _, a in found.tags for k, v in a.items() if k in ("href", "src", "action", "data-part", "data-curves")
    }
    for address in named:
        assert address.startswith(("/", "#", "data:")), address
    return {address for address in named if address.startswith("/")}


@pytest.fixture(scope="module")
def crawled(made_root):
    """Every address that can be reached from the first page → (status, kind, text)."""
    from yarl import URL

    async def use(client):
        found, todo = {}, ["/"]
        while todo:
            path = todo.pop()
            if path in found:
                continue
            address = URL(str(client.make_url("/")).rstrip("/") + path, encoded=True)
            async with client.session.get(address) as answer:
                found[path] = answer.status, answer.content_type, await answer.text()
            if answer.content_type == "text/html":
                todo += leads_to(Parsed(found[path][2]))
        return found

    return with_client(made_root, use)


def test_every_link_leads_to_a_page(crawled):
    assert {path: status for path, (status, _, _) in crawled.items() if status != 200} == {}
    for kind in (
        "/sweeps/s_[0-9_]+$",
        "/sweeps/[^/]+/effects",
        "/sweeps/[^/]+/flips",
        "/sweeps/[^/]+/confusion",
        "/experiments/parent_[0-9_]+$",
        "/experiments/[^/]+/results",
        "/lineage",
    ):
        assert [path for path in crawled if re.match(kind, path)], kind


def test_no_page_takes_a_name_for_markup_or_has_scripts_or_styles_within(crawled):
    seen = 0
    for path, (_, kind, text) in crawled.items():
        if kind != "text/html":
            continue
        assert EVIL not in text, path
        seen += html.escape(EVIL) in text or EVIL in html.unescape(text)
        for tag, attributes in Parsed(text).tags:
            assert tag not in ("style", "iframe", "object", "embed", "base"), path
            assert (tag == "script") <= (attributes.get("src") == "/ui.js"), path
            assert not [name for name in attributes if name.startswith("on") or name == "style"], path
            assert (tag == "img") <= str(attributes.get("src", "")).startswith("data:image/"), path
    assert seen > 5


def part(crawled, pattern):
    return next(text for path, (_, _, text) in crawled.items() if re.match(pattern, path))


def test_a_sweep_shows_what_the_report_says_of_it(crawled, made_root):
    from raysweep.report import content
    from raysweep.store import resolve
    from raysweep.store.root import Root

    page = content.of_sweep(resolve.find_sweep(Root.open(made_root), "s"), charts=False)
    effects = Parsed(part(crawled, "/sweeps/[^/]+/effects")).text
    for verdict in page.verdicts:
        assert verdict.text in effects
    cells = page.heat.tables["f1"][1].cells
    for cell in cells:
        assert f"{100 * cell.e.difference:+.1f}" in effects
    confusion = Parsed(part(crawled, "/sweeps/[^/]+/confusion")).text
    m = page.confusions[1] if page.confusions[0].name == "control" else page.confusions[0]
    for row in m.rows:
        for cell in row.cells:
            assert f"{100 * cell.share:.0f} %" in confusion
    flips = Parsed(part(crawled, "/sweeps/[^/]+/flips")).text
    assert re.search(r"fixed \d+", flips)


def test_the_curves_are_those_of_the_history(crawled, made_root):
    (name,) = [p.name for p in made_root.iterdir() if p.name.startswith("s-rare5")]
    curves = json.loads(part(crawled, f"/experiments/{name}/curves"))
    (line,) = curves["lines"]
    rows = (made_root / name / layout.HISTORY_CSV).read_text().splitlines()
    head, *body = [row.split(",") for row in rows[:5]]
    assert line["epochs"] == [int(row[head.index("epoch")]) for row in body] == [1, 2, 3, 4]
    assert line["fork"] == 2
    (panel,) = [p for p in curves["panels"] if p["title"] == "accuracy"]
    assert line["values"][panel["at"]] == pytest.approx([float(row[head.index("val_acc")]) for row in body], abs=1e-5)
    assert [p["title"] for p in curves["panels"]][:3] == ["macro-F1", "accuracy", "loss"]


def test_an_empty_root_says_what_to_type(tmp_path):
    first, sweeps, lineage = ask(tmp_path / "none", "/", "/sweeps", "/lineage")
    assert "raysweep run base" in first.text
    assert "raysweep branch" in sweeps.text
    assert "raysweep run base" in lineage.text
    assert not (tmp_path / "none").exists()


def test_what_is_not_there_or_damaged_is_said(own_root):
    name = next(p.name for p in own_root.iterdir() if p.name.startswith("s-rare5"))
    (own_root / name / layout.CONFIG).write_text("{")
    sweep = next((own_root / layout.SWEEPS).iterdir())
    missing, gone, page, part_, rows = ask(
        own_root,
        "/experiments/nothing",
        "/nowhere",
        f"/experiments/{name}",
        f"/sweeps/{sweep.name}/effects",
        "/parts/experiments",
    )
    assert (missing.status, gone.status) == (404, 404)
    assert "is not under" in missing.text
    assert page.status in (200, 409)
    assert "not valid JSON" in page.text
    assert part_.status == 200
    assert "There is none yet" in part_.text
    assert "damaged file" in rows.text
    (only,) = ask(own_root, "/experiments/nothing", X_Part="1")
    assert "<html" not in only.text


def test_a_sweep_that_has_just_begun_has_a_page(own_root):
    import shutil

    for folder in own_root.glob("s-*"):
        shutil.rmtree(folder)
    sweep = next((own_root / layout.SWEEPS).iterdir()).name
    page, effects, flips, confusion, curves = ask(
        own_root, *(f"/sweeps/{sweep}{p}" for p in ("", "/effects", "/flips", "/confusion", "/curves"))
    )
    assert page.status == effects.status == confusion.status == 200
    assert "missing" in page.text
    assert "There is none yet" in effects.text
    assert "finished" in flips.text
    assert json.loads(curves.text)["panels"] == []


def test_nonsense_in_an_address_does_not_count(made_root):
    sweep = next((made_root / layout.SWEEPS).iterdir()).name
    odd = (
        "?page=x&sort=nothing&order=q&status=%F0%9F%92%A9",
        "?page=99999999999",
        "?page=-1&page=2",
        "?q=%00%ff%26",
        "?q=" + "a" * 3000,
    )
    for answer in ask(
        made_root, *(f"/{q}" for q in odd), *(f"/sweeps{q}" for q in odd), f"/sweeps/{sweep}/flips?kind=x&page=%C2%B2"
    ):
        assert answer.status == 200
    for answer in ask(
        made_root,
        f"/sweeps/{sweep}/flips?branch=no",
        f"/sweeps/{sweep}/confusion?branch=no",
        f"/sweeps/{sweep}/flips?class=no",
        "/lineage?of=no",
    ):
        assert answer.status in (404, 409)
        assert "class=" not in answer.text or "problem" in answer.text
