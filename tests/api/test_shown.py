"""How objects show themselves: with 7, 40 and 1,000 classes, with names of any kind, in light and dark notebooks."""

from __future__ import annotations

import re

import pytest

from raysweep.report.card import BETTER, MOST_CLASSES, MOST_ROWS, WORSE, Bar, Card, Cell, Table
from tests.report.making import sweep_of

HOSTILE = ("<script>alert(1)</script>", "a\u202eb", "厌恶 & co")


@pytest.fixture(scope="module")
def objects(tmp_path_factory):
    """Number of classes → every object of a sweep with so many. To search offsets takes longer than everything else."""
    import raysweep
    from raysweep.report import moved

    found = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(moved, "too_many", lambda *_: True)
        for count in (3, 7, 40, 1000):
            found[count] = _objects_of(raysweep, tmp_path_factory.mktemp(f"shown{count}") / "e", count)
    return found


def _objects_of(raysweep, root, count):
    names = HOSTILE if count == 3 else tuple(f"class number {i}" for i in range(count))
    base, images = [0.6] * count, [20 if count < 1000 else 2] * count
    branches = {"first5": ({names[0]: 5.0}, [0.9, *base[1:]])}
    sweep_of(root, names, base, branches, seeds=(0, 1) if count < 1000 else (0,), images=images)
    sweep = raysweep.get_sweep("s", root)
    every = [sweep, sweep.comparison, sweep.best, sweep.best.checkpoints, sweep.best.best, raysweep.lineage(root=root)]
    return [*every, raysweep.suggest(sweep)] if count < 40 else every


@pytest.mark.parametrize("count", [3, 7, 40, 1000])
def test_every_object_is_small_whatever_it_holds(objects, count):
    for shown in objects[count]:
        text, html = repr(shown), shown._repr_html_()
        assert len(text) < 12_000
        assert len(html) < 40_000
        rows = [line for line in text.split("\n") if not line.startswith("Note: ")]  # which name up to 20 classes
        assert max(line.count("class number") for line in rows) <= MOST_CLASSES + 1
        head = re.search(r"<tr>(.*?)</tr>", html)
        assert head is None or head[1].count("<th") <= MOST_CLASSES + 3


@pytest.mark.parametrize("count", [40, 1000])
def test_what_is_left_out_is_said_and_counted(objects, count):
    _, comparison, experiment, *_ = objects[count]
    assert f"… {count - MOST_CLASSES:,} more classes with smaller differences; .to_pandas() has all." in repr(
        comparison
    )
    assert f"… {count - MOST_CLASSES:,} more classes; .history has all." in experiment._repr_html_()
    assert "class number 0" in repr(comparison)  # the one that was changed, and gained


def test_names_are_text_and_never_markup(objects):
    for shown in objects[3]:
        html, text = shown._repr_html_(), repr(shown)
        assert "<script" not in html
        assert not re.search(r"[\x1b\u202e]", html + text)
    assert "&lt;script&gt;alert(1)" in objects[3][1]._repr_html_()


def test_a_page_needs_nothing_but_itself(objects):
    for shown in objects[7]:
        assert not re.search(r"<script|<link|https?://|@import|url\(", shown._repr_html_())


def test_ipython_gets_the_text_and_not_the_fields(objects):
    class Printer:
        told = ""

        def text(self, value):
            self.told += value

    for shown in objects[7]:
        shown._repr_pretty_(printer := Printer(), False)
        assert printer.told == repr(shown)
        assert "Effect(" not in printer.told


def test_the_text_of_a_table_is_aligned_also_in_chinese():
    card = Card(
        "Kind",
        "title",
        ["fact"],
        [Table([("name", "l"), ("n", "r")], [["厌恶", "1"], [Cell("ab", BETTER), "20"]], "… 2 more.")],
    )
    assert card.text().split("\n") == [
        "Kind title",
        "  fact",
        "",
        "  name   n",
        "  厌恶   1",
        "  ab    20",
        "… 2 more.",
    ]


def test_secrets_in_addresses_are_hidden():
    card = Card("Sweep", "s", ["in s3://me:secret@host/bucket"])
    assert "secret" not in card.text() + card.html()


def test_marks_have_a_contrast_on_white_and_on_black():
    """The colours of better and worse stay the same, whatever the notebook's own are."""
    style = Card("a", "b").html()

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    for tone in (BETTER, WORSE):
        found = luminance(re.search(rf"--{tone}: (#\w{{6}})", style)[1])
        assert 1.05 / (found + 0.05) > 3.9
        assert (found + 0.05) / (luminance("#111111") + 0.05) > 3.9


@pytest.mark.parametrize(("share", "told"), [(0.25, 'value="0.250"'), (None, "<progress max")])
def test_a_bar_says_how_much_is_done(share, told):
    html = Card("a", "b", bar=Bar(share, "epoch 1/4 <x>")).html()
    assert told in html
    assert "epoch 1/4 &lt;x&gt;" in html


def test_long_tables_are_cut(tmp_path):
    import raysweep

    many = {f"b{i:02}": ({"a": 2.0}, (0.5, 0.6)) for i in range(MOST_ROWS + 5)}
    sweep_of(tmp_path / "e", ("a", "b"), (0.4, 0.6), many, seeds=(0,), images=(30, 30))
    sweep = raysweep.get_sweep("s", tmp_path / "e")
    assert repr(sweep).count("finished") == MOST_ROWS + 1  # and the fact that counts them
    assert "… 6 more branches of smaller macro-F1; .to_pandas() has all." in repr(sweep)
    assert "control (control)" in repr(sweep)
    assert repr(raysweep.lineage(root=tmp_path / "e")).count("\n") < 3 * MOST_ROWS


@pytest.mark.browser
def test_in_a_browser_nothing_is_wider_than_the_cell(objects, browser, tmp_path):
    page = browser.new_page(viewport={"width": 700, "height": 600})
    for count, every in objects.items():
        body = "".join(shown._repr_html_() for shown in every)
        (tmp_path / "page.html").write_text(f"<meta charset=utf-8><body style='width:600px'>{body}</body>")
        page.goto(f"file://{tmp_path}/page.html")
        widths = page.evaluate("[...document.querySelectorAll('.raysweep-card')].map(e => e.scrollWidth)")
        assert max(widths) <= 600, count
    page.close()
