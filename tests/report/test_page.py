"""The report is complete, makes no request, runs no script, and never takes a user's text for markup."""

from __future__ import annotations

import html as html_module
import re
import shlex
from dataclasses import replace

import pytest

from raysweep.errors import NotFoundError
from raysweep.report import commands, content, page
from raysweep.report.sections import confusion, learning_curves
from raysweep.store import gate, layout
from raysweep.store.experiment import Experiment
from raysweep.store.lock import WriterLock
from raysweep.store.root import Root
from tests.cli.test_errors import run_cli
from tests.conftest import weights_hash
from tests.parsed import Parsed
from tests.report.making import made, sweep_of

EVIL = "<script>alert(1)</script>"
CLASSES = ("rare", EVIL, "many")
BASE = (0.4, 0.7, 0.8)
BRANCHES = {"rare5": ({"rare": 5.0}, (0.9, 0.7, 0.8)), "odd2": ({EVIL: 2.0}, (0.4, 0.7, 0.8))}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("page") / "experiments"


@pytest.fixture(scope="module")
def sweep(root):
    return sweep_of(root, CLASSES, BASE, BRANCHES)


@pytest.fixture(scope="module")
def text(sweep):
    return page.html(content.of_sweep(sweep))


def test_it_has_every_part(text, sweep):
    found = Parsed(text)
    ids = {a["id"] for _, a in found.tags if "id" in a}
    assert {"tree", "branches", "heat", "shares", "curves", "confusions", "commands"} <= ids
    words = " ".join(found.words)
    for part in (sweep.id, "rare5", "Verdict", "better", "macro-F1", "450 validation images"):
        assert part in words
    sentence = r"rare5: .{1,40}: recall [+-]\d+\.\d and predicted \d\.\d\d × as often; the control gets [+-]\d+\.\d by moving its threshold"
    assert re.search(sentence + "; at equal alarms", words)
    heads = [t for t, _ in found.tags].count("svg")
    assert heads == 2 + 3  # macro-F1, accuracy, and a chart for each class


def test_shares_follow_from_counts_and_weights(sweep):
    found = content.of_sweep(sweep).shares
    cells = {row.name: dict(zip(found.classes, row.cells, strict=True)) for row in found.rows}
    assert cells["rare5"]["rare"].realised == pytest.approx(5 * 100 / 1400, abs=1e-3)
    assert cells["rare5"]["rare"].requested == pytest.approx(5 * 100 / 1400, abs=1e-3)
    assert (cells["rare5"]["rare"].weight, cells["rare5"]["rare"].off) == (5.0, 0)
    assert cells["control"]["rare"].realised == pytest.approx(0.1)


def test_the_page_makes_no_request_and_runs_no_script(text):
    for tag, attributes in Parsed(text).tags:
        assert tag not in ("script", "iframe", "img", "object", "embed", "base", "form")
        assert not [a for a in attributes if a.startswith("on")]
        for key in ("href", "src", "action", "xlink:href"):
            assert str(attributes.get(key, "#")).startswith(("#", "data:,"))
    style = re.search(r"<style>(.*?)</style>", text, re.S)
    assert style
    assert "url(" not in style[1].replace("url(#", "")
    assert "@import" not in text
    assert "default-src 'none'" in text


def test_a_class_named_like_a_script_stays_text(text):
    assert EVIL not in text
    assert html_module.escape(EVIL) in text
    assert EVIL in "".join(Parsed(text).words)


def test_marks_of_writing_direction_and_markup_in_class_names_are_replaced(tmp_path):
    classes = ("a\u202eb", '"><b onmouseover=x>', "{{ 7 * 7 }}")
    sweep = sweep_of(tmp_path / "e", classes, BASE, {"x": ({classes[0]: 2.0}, BASE)}, seeds=(0,))
    text = page.html(content.of_sweep(sweep))
    found = Parsed(text)
    assert "\u202e" not in text
    assert "b" not in [t for t, _ in found.tags]
    assert "{{ 7 * 7 }}" in "".join(found.words)


def test_without_a_real_difference_the_page_names_no_winner(tmp_path):
    sweep = sweep_of(tmp_path / "e", ("a", "b", "c"), BASE, {"x": ({"a": 2.0}, BASE), "y": ({"b": 2.0}, BASE)})
    found = content.of_sweep(sweep)
    assert {v.label for v in found.verdicts} == {"nothing"}
    assert "No difference is shown" in page.html(found)


def test_a_sweep_without_a_control_says_so(tmp_path):
    sweep = sweep_of(tmp_path / "e", ("a", "b", "c"), BASE, {"x": ({"a": 2.0}, BASE)}, control=False)
    assert "There is no control" in page.html(content.of_sweep(sweep))


def test_a_sweep_that_cannot_be_compared_still_has_a_page(tmp_path):
    sweep = sweep_of(tmp_path / "e", ("a", "b", "c"), BASE, {"x": ({"a": 2.0}, BASE)})
    for experiment in sweep.experiments().values():
        (experiment.folder / layout.PREDICTIONS).unlink()
    assert "is missing" in (page.write_all(sweep)[1] or "")
    text = (sweep.folder / layout.PAGE).read_text()
    assert "val_predictions.parquet is missing" in text
    assert 'id="tree"' in text
    assert 'id="heat"' not in text


def test_many_classes_and_branches_stay_readable(tmp_path, monkeypatch):
    monkeypatch.setattr(confusion, "MOST_CLASSES", 2)
    monkeypatch.setattr(content, "MOST_BRANCHES", 2)
    monkeypatch.setattr(learning_curves, "MOST_PANELS", 1)
    sweep = sweep_of(
        tmp_path / "e", ("a", "b", "c"), BASE, {f"x{i}": ({"a": 1.0 + i}, BASE) for i in range(1, 5)}, seeds=(0,)
    )
    found = content.of_sweep(sweep)
    assert found.branches[0].name == "control"
    assert len(found.branches) == 2
    assert any("best 2 of 5" in n for n in found.notes)
    assert len(found.panels) == 3
    assert found.confusions[0].most
    Parsed(page.html(found))


@pytest.mark.slow
def test_where_there_are_many_branches_tables_and_charts_have_fewer_classes(sweep, monkeypatch):
    """So that the page can be sent: of 60 branches and 40 classes it had 4.4 MB."""
    from raysweep.report import comparison
    from raysweep.report.sections import differences

    found = comparison.of_sweep(sweep)
    assert [differences.columns(found, branches) for branches in (1, 14, 60, 1000)] == [40, 40, 20, 8]
    monkeypatch.setattr(differences, "MOST_CELLS", 2)
    monkeypatch.setattr(differences, "FEWEST_CLASSES", 1)
    whole = content.of_sweep(sweep)
    assert len(whole.heat.heads) == 1 + 2
    assert any("The tables show the 1 classes with the largest changes" in n for n in whole.notes)
    points = 4 * 75 + 500  # of each of six networks
    monkeypatch.setattr(learning_curves, "MOST_BYTES", 3 * 6 * points)
    shown = content.of_sweep(sweep)
    assert [p.title for p in shown.panels] == ["macro-F1", "accuracy", "F1 of rare"]
    assert "Learning curves are shown for the first 1 of 3 classes." in shown.notes
    monkeypatch.setattr(learning_curves, "MOST_BYTES", 2 * 4 * points)
    shown = content.of_sweep(sweep)
    assert [len(shown.legend), len(shown.panels)] == [2, 2]
    assert "Learning curves are shown of the first 2 of 3 branches." in shown.notes
    assert "Learning curves are shown for none of 3 classes." in shown.notes


def test_one_experiment_has_a_page(root, sweep, capsys, tmp_path):
    code, out, err = run_cli(capsys, "report", "parent", "--root", root, "-o", tmp_path / "x.html")
    assert code == 0, err
    assert out.strip() == str(tmp_path / "x.html")
    text = (tmp_path / "x.html").read_text()
    assert "raysweep run settings.yaml" in text
    assert 'id="confusions"' in text
    control, *_, branch = sweep.experiments().values()
    page.write(Root.open(root), control.id, tmp_path / "y.html")
    assert "This is the control of its sweep" in (tmp_path / "y.html").read_text()
    page.write(Root.open(root), branch.id, tmp_path / "z.html")
    text = (tmp_path / "z.html").read_text()
    assert "no control" not in text
    assert "against the control, trained for as many epochs" in text


@pytest.mark.slow  # quick twin: a finished run
def test_what_still_runs_gets_its_report_elsewhere(root, sweep, capsys, tmp_path):
    held = WriterLock.acquire(sweep.folder)
    gate.leave(sweep.folder)  # as in another process
    before = {p.name: p.read_bytes() for p in sweep.folder.iterdir() if p.is_file()}
    code, _, err = run_cli(capsys, "report", "s", "--root", root)
    assert code == 2
    assert "is being written by process" in err
    assert "with -o FILE" in err
    assert {p.name: p.read_bytes() for p in sweep.folder.iterdir() if p.is_file()} == before
    assert run_cli(capsys, "report", "s", "--root", root, "-o", tmp_path / "x.html")[0] == 0
    held.release()
    assert run_cli(capsys, "report", "s", "--root", root)[0] == 0


def test_the_command(root, sweep, capsys, tmp_path):
    code, out, _ = run_cli(capsys, "report", "s", "--root", root)
    assert code == 0
    assert out.strip() == str(sweep.folder / "report.html")
    assert (sweep.folder / "report.html").read_text().startswith("<!DOCTYPE html>")
    with pytest.raises(NotFoundError):
        page.write(Root.open(root), "nothing")
    for bad in (tmp_path, tmp_path / "no" / "x.html"):
        code, _, err = run_cli(capsys, "report", "s", "--root", root, "-o", bad)
        assert code == 2
        assert "name of a file" in err


def test_commands_name_what_differs(sweep):
    found = {c.name.split("_2026")[0]: c.command for c in content.of_sweep(sweep).commands}
    where = f" --root {sweep.root}"
    assert found["s-control-seed0"] == f"raysweep resume --from {sweep.record().parent.experiment}@2 --epochs 2{where}"
    assert found["s-rare5-seed1"].endswith(f"""--weights '{{"rare": 5.0}}' seed=1{where}""")
    assert found["the whole sweep"].startswith("raysweep branch --from parent_")


def test_a_command_reproduces_the_weights_bit_by_bit(quick_run, quick_child, capsys, tmp_path):
    parent = quick_run(training={"epochs": 2})
    overrides = {"seed": 3, "training": {"learning_rate": 0.002}}
    child = quick_child(f"{parent.id}@1", epochs=1, name="child", weights={"3": 4.0}, overrides=overrides)
    (found,) = content.of_experiment(parent.root, child).commands
    words = shlex.split(found.command)
    code, _, err = run_cli(capsys, *words[1:], "--name", "again")
    assert code == 0, err
    (again,) = parent.folder.parent.glob("again_*")
    assert weights_hash(Experiment(again)) == weights_hash(child)


# In a browser


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1200, 390])
def test_in_a_browser(browser, sweep, tmp_path, text, scheme, width):
    file = tmp_path / "report.html"
    file.write_text(text)
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
    tab = context.new_page()
    messages: list[str] = []
    tab.on("console", lambda m: messages.append(m.text))
    tab.on("pageerror", lambda e: messages.append(str(e)))
    tab.on("dialog", lambda d: (messages.append("dialog"), d.dismiss()))
    requests: list[str] = []
    tab.on("request", lambda r: requests.append(r.url))
    tab.goto(file.as_uri())
    assert messages == []
    assert [r for r in requests if not r.startswith("data:")] == [file.as_uri()]
    assert tab.evaluate("document.documentElement.scrollWidth") <= width  # wide tables scroll by themselves
    assert tab.locator("#tree .row").count() == 1 + len(sweep.record().branches)
    assert tab.locator("#tree .row").first.is_visible()
    cells = tab.locator("#heat .p-learned td:not(.name)")
    assert cells.count() == 2 * 5
    assert cells.first.is_visible()
    assert EVIL in tab.locator("#heat").inner_text()
    assert not tab.locator("#heat .p-recall").is_visible()
    tab.locator("label[for=m-recall]").click()
    assert tab.locator("#heat .p-recall").is_visible()
    ink, back = tab.evaluate("[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]")
    dark = sum(map(int, re.findall(r"\d+", back)[:3])) < 200
    assert dark == (scheme == "dark")
    assert (sum(map(int, re.findall(r"\d+", ink)[:3])) > 500) == dark
    # The charts' lines and text have the page's text colour, which differs from its background.
    assert tab.evaluate("getComputedStyle(document.querySelector('#curves svg')).color") == ink
    context.close()


def test_in_print(browser, tmp_path, text):
    file = tmp_path / "report.html"
    file.write_text(text)
    tab = browser.new_page(color_scheme="dark")
    tab.goto(file.as_uri())
    tab.emulate_media(media="print")
    assert tab.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert tab.pdf(format="A4").startswith(b"%PDF")
    shown = [label.inner_text() for label in tab.locator("#heat label").all() if label.is_visible()]
    assert shown == ["learned"]  # only the chosen one of the four
    tab.close()


def test_branches_without_a_comparison_are_limited_too(tmp_path, monkeypatch):
    monkeypatch.setattr(content, "MOST_BRANCHES", 3)
    sweep = sweep_of(
        tmp_path / "e", ("a", "b", "c"), BASE, {f"x{i}": ({"a": 2.0 + i}, BASE) for i in range(6)}, seeds=(0,)
    )
    for experiment in sweep.experiments().values():
        (experiment.folder / layout.PREDICTIONS).unlink()
    found = content.of_sweep(sweep)
    assert len(found.branches) == len(found.shares.rows) == len(found.legend) == 3
    assert any("first 3 of 7" in n for n in found.notes)


def test_an_old_folder_has_curves(tmp_path):
    root = tmp_path / "e"
    experiment = made(root, "old", ("a", "b", "c"), BASE)
    path = experiment.folder / layout.HISTORY_CSV
    path.write_text("train_loss,train_acc,val_loss,val_acc\n1,0.1,1,0.2\n1,0.1,1,0.6\n")
    (experiment.folder / layout.LINEAGE).unlink()
    (experiment.folder / layout.MANIFEST).unlink()
    (panel,) = content.of_experiment(Root.open(root), experiment).panels
    assert panel.title == "accuracy"
    assert len(re.findall(r"<use ", panel.svg)) > 6  # ticks, and a marker for each epoch


def test_commands_of_children_with_special_parents_and_overrides(tmp_path):
    root = tmp_path / "e"
    parent = made(root, "parent", ("a", "b", "c"), BASE)
    child = made(root, "kid", ("a", "b", "c"), BASE, parent=parent)
    config = child.config()

    def command(**changes) -> str:
        child.write_config(replace(config, **changes))
        return commands.of_child(child)

    ending = f" --root {root}"
    assert command() == f"raysweep resume --from {parent.id}@2 --epochs 2{ending}"
    assert command(fresh_optimizer=True) == f"raysweep resume --from {parent.id}@2 --epochs 2 --weights-only{ending}"
    within = replace(config.parent, batch=7, file="/x y/checkpoint_epoch_3_batch_7.pt")
    assert "--from '/x y/checkpoint_epoch_3_batch_7.pt'" in command(parent=within)
    stray = replace(config.parent, experiment="elsewhere", file="/tmp/a.pt")
    assert "--from /tmp/a.pt" in command(parent=stray)
    text = (child.folder / layout.LINEAGE).read_text()
    given = '"RESUME_FROM_CHECKPOINT", "given": {"data.path": "my images", "data.classes": ["b", "a", "c"]}'
    (child.folder / layout.LINEAGE).write_text(text.replace('"RESUME_FROM_CHECKPOINT"', given))
    assert """'data.path="my images"' 'data.classes=["b", "a", "c"]'""" in command()
    assert commands.settings_of(parent) is not None
    parent.write_config(replace(parent.config(), imported_from={"folder": "x"}))
    assert commands.settings_of(parent) is None
