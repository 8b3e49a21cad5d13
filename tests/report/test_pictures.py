"""The images on a page: those that a branch fixed and broke, confident errors, possible label errors."""

from __future__ import annotations

import base64
import io
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest

from raysweep.report import comparison, content, images, page
from raysweep.report.sections import pictures
from raysweep.store import layout
from raysweep.store.root import Root
from tests.conftest import draw_classes
from tests.report.making import COUNTS, sweep_of, write_predictions
from tests.report.test_leaks import first_of

CLASSES = ("ant", "bee", "cow")  # in the order of the labels that test_leaks has
LABELS = np.repeat(np.arange(3), COUNTS)
SMALL = 6  # pixels of an image's side


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(a root, its images): the branch fixes 5 ants that the control calls bees, and breaks 3 cows; both call a fourth cow an ant."""
    from raysweep.config import load as load_config
    from raysweep.data import cache

    folder = tmp_path_factory.mktemp("pictures")
    draw_classes(folder / "d" / "train", dict.fromkeys(CLASSES, 2), size=SMALL, seed=7)
    draw_classes(folder / "d" / "val", dict(zip(CLASSES, COUNTS, strict=True)), size=SMALL)
    settings = load_config.validate({"data": {"source": "folder", "path": str(folder / "d")}})
    data = cache.load(settings.data, folder / "e" / layout.CACHES / layout.IMAGE_CACHE)
    sweep = sweep_of(folder / "e", CLASSES, (0.9, 0.9, 0.9), {"ant5": ({"ant": 5.0}, (0.9, 0.9, 0.9))})
    control = np.where(first_of(0, 5), 1, LABELS)
    control = np.where(first_of(2, 4) & ~first_of(2, 3), 0, control)
    branch = np.where(first_of(0, 5), 0, control)
    branch = np.where(first_of(2, 3), 0, branch)
    told = images.of_data(data)
    for name, experiment in sweep.experiments().items():
        write_predictions(experiment, CLASSES, LABELS, control if name.startswith("control") else branch, 4)
        experiment.write_config(replace(experiment.config(), data_sha256=data.sha256))
        images.write(experiment, told)
    return folder / "e", data


@pytest.fixture(scope="module")
def shown_page(made):
    """The page of the whole sweep."""
    from raysweep.store import resolve

    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAYSWEEP_CACHE")
        return content.of_sweep(resolve.find_sweep(Root.open(made[0]), "s"))


@pytest.fixture
def sweep(made, tmp_path, monkeypatch):
    """A copy of the root that the test may change; its cache is the one under the root."""
    from raysweep.store import resolve

    monkeypatch.delenv("RAYSWEEP_CACHE")
    root = shutil.copytree(made[0], tmp_path / "e")
    return resolve.find_sweep(Root.open(root), "s")


def found(sweep):
    """The candidates for the sweep's page, without its other parts."""
    return pictures.compared(comparison.of_sweep(sweep), ["ant5"])


def rows_of(shown, name):
    (of_class,) = [c for c in shown.classes if c.name == name]
    return {row.title: row for row in of_class.rows}


def seen(uri):
    from PIL import Image

    kind, _, text = uri.partition(";base64,")
    assert kind == "data:image/webp"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text))).convert("L"))


def test_every_class_has_what_a_branch_fixed_and_broke(sweep, made):
    candidates = found(sweep)
    shown = pictures.filled(candidates, 10**6)
    ant, cow = rows_of(shown, "ant"), rows_of(shown, "cow")
    assert (ant["ant5 fixed"].count, ant["ant5 fixed"].label) == (5, "better")
    assert "ant5 broke" not in ant
    assert (cow["ant5 broke"].count, cow["ant5 broke"].label) == (3, "worse")
    assert {p.caption for p in ant["ant5 fixed"].pictures} == {"bee → ant"}
    data = made[1]
    names = images.of_data(data).names
    for p in cow["ant5 broke"].pictures:
        i = names.index(p.name)
        assert LABELS[i] == 2
        assert seen(p.uri).shape == (SMALL, SMALL)
        assert abs(seen(p.uri).mean() - data.val.pixels[i].mean()) < 6  # it is this image
    about = ant["ant5 fixed"].pictures[0].about
    assert "the control: bee (2 of 2); ant5: ant (2 of 2)" in about
    assert shown.command == f"raysweep flips {sweep.id} ant5 --class ant --root {sweep.root.path}"


def test_an_image_that_all_networks_take_for_another_class_may_have_a_wrong_label(sweep):
    """The fourth cow: all four networks call it an ant. They must be as sure of that as of ants."""
    sure = np.full((len(LABELS), 3), 0.05, dtype=np.float32)
    for experiment in sweep.experiments().values():
        from raysweep.report import predictions

        (last,) = predictions.read_all(experiment).values()
        mine = sure.copy()
        mine[np.arange(len(LABELS)), last.predicted] = 0.9
        write_predictions(experiment, CLASSES, LABELS, last.predicted, 4, mine)
    shown = pictures.filled(found(sweep), 10**6)
    title = "possible label errors: all 4 networks are sure of another class"
    row = rows_of(shown, "cow")[title]
    assert (row.count, [p.caption for p in row.pictures]) == (1, ["→ ant 90%"])
    assert title not in rows_of(shown, "ant")  # the branch has these right
    errors = rows_of(shown, "ant")["most confident errors of the control"]
    assert errors.count == 5


def test_networks_that_disagree_are_told():
    every = np.array([[0, 1, 2], [0, 1, 0], [0, 2, 1], [0, 0, 1]])
    from raysweep.report.flips import Voted

    mean = np.full((3, 3), 1 / 3, dtype=np.float32)
    voted = Voted(1, every[0], np.ones(3, int), mean)
    making = pictures._Making(CLASSES, np.zeros(3, int), None, {"": voted}, every, "the control")
    row, chosen = making._disputed(np.ones(3, bool))
    assert (row.count, chosen) == (2, [1, 2])  # of the first image all say the same
    assert row.pictures[0].about.endswith("of 4 networks: bee 2, ant 1, cow 1")


def test_as_many_pictures_as_fit_are_shown_and_of_every_row_the_first_comes_first(sweep):
    candidates = found(sweep)
    rows = sum(len(c.rows) for c in candidates.shown.classes)
    whole = pictures.filled(candidates, 10**6)
    most = max(len(row.pictures) for c in whole.classes for row in c.rows)
    assert most > 1
    few = pictures.filled(candidates, 700 * (rows + 1))
    counts = [len(row.pictures) for c in few.classes for row in c.rows]
    assert max(counts) - min(counts) <= 1
    assert sum(counts) < sum(len(row.pictures) for c in whole.classes for row in c.rows)
    assert pictures.filled(candidates, 0).classes == []


def test_the_page_has_its_pictures_and_stays_within_its_size(shown_page, monkeypatch):
    text = page.html(shown_page)
    sources = re.findall(r'<img src="([^"]*)"', text)
    assert len(sources) >= 8
    assert all(source.startswith("data:image/webp;base64,") for source in sources)
    assert "<script" not in text
    smaller = len(text.encode()) - 2000
    monkeypatch.setattr(page, "MOST_BYTES", smaller)
    less = page.html(shown_page)
    assert 0 < less.count("<img ") < len(sources)
    assert len(less.encode()) <= smaller + 1000  # the section's own frame


def test_where_the_cache_is_gone_the_page_says_so_and_shows_names(sweep, shown_page):
    shutil.rmtree(sweep.root.path / layout.CACHES)
    text = page.html(replace(shown_page, pictures=found(sweep)))
    assert "<img " not in text
    assert "The pictures cannot be shown: the decoded images are not on this machine any more." in text
    assert re.search(r'<span class="gone">val/ant/\d+\.png</span>', text)
    assert "ant5 fixed" in text
    assert 'id="commands"' in text


def test_an_image_that_is_not_the_one_that_was_validated_is_not_shown(sweep):
    for experiment in sweep.experiments().values():
        there = images.read(experiment)
        pixels = there.pixels.copy()
        pixels[first_of(0, 5)] = b"0" * 32
        images.write(experiment, replace(there, pixels=pixels))
    shown = pictures.filled(found(sweep), 10**6)
    assert {p.uri for p in rows_of(shown, "ant")["ant5 fixed"].pictures} == {""}
    assert all(p.uri for p in rows_of(shown, "cow")["ant5 broke"].pictures)
    assert any(
        note.startswith("5 pictures cannot be shown: what is decoded now is another image") for note in shown.notes
    )


def test_of_an_earlier_version_the_cache_tells_the_names(sweep):
    for experiment in sweep.experiments().values():
        (experiment.folder / layout.VAL_IMAGES).unlink()
    shown = pictures.filled(found(sweep), 10**6)
    assert all(p.uri and p.name.startswith("val/") for p in rows_of(shown, "ant")["ant5 fixed"].pictures)
    shutil.rmtree(sweep.root.path / layout.CACHES)
    shown = pictures.filled(found(sweep), 10**6)
    assert any("The names of the images are not known" in note for note in shown.notes)
    assert rows_of(shown, "ant")["ant5 fixed"].pictures[0].name.startswith("image ")


def test_one_experiment_shows_its_own_errors(sweep):
    parent = sweep.record().parent.experiment
    from raysweep.store import resolve

    alone = resolve.by_id(sweep.root, parent)
    alone.write_config(replace(alone.config(), data_sha256=sweep.experiments()["ant5-seed0"].config().data_sha256))
    shown = pictures.filled(content.of_experiment(sweep.root, alone).pictures, 10**6)
    row = rows_of(shown, "ant")["most confident errors of the network"]
    assert row.count == len(row.pictures) or row.count > 8
    assert all(p.uri for p in row.pictures)


def test_a_name_of_an_image_stays_text(sweep, shown_page):
    evil = '"><script>alert(1)</script>'
    for experiment in sweep.experiments().values():
        there = images.read(experiment)
        images.write(experiment, replace(there, names=[evil] * len(there.names)))
    text = page.html(replace(shown_page, pictures=found(sweep)))
    assert evil not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text


@pytest.mark.parametrize(("width", "scheme"), [(1200, "light"), (390, "dark")])
def test_in_a_browser(browser, shown_page, tmp_path, width, scheme):
    file = tmp_path / "report.html"
    file.write_text(page.html(shown_page))
    tab = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme).new_page()
    requests, messages = [], []
    tab.on("request", lambda r: requests.append(r.url))
    tab.on("console", lambda m: messages.append(m.text))
    tab.goto(file.as_uri())
    assert [r for r in requests if not r.startswith("data:")] == [file.as_uri()]
    assert messages == []
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    pictures_shown = tab.locator("#pictures details[open] img")
    assert pictures_shown.count() >= 5
    assert pictures_shown.first.is_visible()
    assert tab.evaluate("[...document.querySelectorAll('#pictures img')].every(i => i.complete && i.naturalWidth > 0)")
    assert not tab.locator("#pictures details:not([open]) img").first.is_visible()
    tab.context.close()
