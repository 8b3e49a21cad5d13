"""The list in memory: what fits, in which order, which page; and that only what has changed is read again."""

from __future__ import annotations

from dataclasses import replace

import pytest

from raysweep.store.experiment import Experiment
from raysweep.store.root import Root
from tests.ui.asking import add_epoch, go_on


@pytest.fixture
def ten_thousand(tmp_path):
    from raysweep.store.fields import Row
    from raysweep.ui.listing import Line, Listing

    listing = Listing(Root.open(tmp_path))
    rows = (
        Row(
            f"run{i:05}",
            f"run{i:05}",
            created=f"2026-01-01T00:{i // 60 % 60:02}:{i % 60:02}",
            status="finished" if i % 3 else "failed",
            best_acc=None if i % 10 == 0 else i % 997 / 1000,
        )
        for i in range(10_000)
    )
    listing.lines = {row.id: Line.of(row) for row in rows}
    listing._last = float("inf")  # nothing is looked for in the folder
    return listing


def test_a_list_of_ten_thousand_comes_in_pages(ten_thousand):
    from raysweep.ui.listing import PER_PAGE, Wanted
    from raysweep.ui.pages import Pages

    first, last = ten_thousand.page(Wanted()), ten_thousand.page(Wanted(page=10**6))
    assert (len(first.lines), first.total, first.first, first.pages) == (PER_PAGE, 10_000, 1, 100)
    assert (first.lines[0].id, last.lines[-1].id, last.number) == ("run09999", "run00000", 100)
    every = [line.id for n in range(1, 101) for line in ten_thousand.page(Wanted(page=n)).lines]
    assert len(set(every)) == 10_000
    text = Pages(ten_thousand.root, ten_thousand).all_experiments("", {"q": "run"})
    assert text.count('href="/experiments/') == PER_PAGE
    assert "1–100 of 10,000" in text
    assert len(text) < 200_000


def test_filters_and_orders(ten_thousand):
    from raysweep.ui.listing import Wanted

    best = ten_thousand.page(Wanted(sort="best_acc"))
    assert [line.best_acc for line in best.lines] == sorted((line.best_acc for line in best.lines), reverse=True)
    assert best.lines[0].best_acc == 0.996
    worst = ten_thousand.page(Wanted(sort="best_acc", down=False, page=100)).lines
    assert {line.best_acc for line in worst} == {None}  # those without a value come last, in either direction
    assert ten_thousand.page(Wanted(text="RUN0123 finished")).total == 6
    assert ten_thousand.page(Wanted(status="failed")).total == 3334
    assert ten_thousand.page(Wanted(status="nothing")).total == 0
    assert ten_thousand.page(Wanted(sort="created", down=False)).lines[0].id == "run00000"


def test_only_what_has_changed_is_read_again(own_root, monkeypatch):
    from raysweep.store import catalog, index
    from raysweep.ui.listing import Listing

    now = [100.0]
    listing = Listing(Root.open(own_root), clock=lambda: now[0])
    assert len(listing.look()) == 3
    child = next(name for name in listing.lines if "rare5" in name)
    lock = go_on(Experiment(own_root / child))
    now[0] += 60
    assert listing.look() == {child}
    read, through = [], []
    summary, texts = catalog.summary, index.texts
    monkeypatch.setattr(catalog, "summary", lambda e: (read.append(e.id), summary(e))[1])
    monkeypatch.setattr(index, "texts", lambda root: (through.append(1), texts(root))[1])
    now[0] += 0.5
    listing.look()
    read.clear()
    now[0] += 0.5
    assert listing.look() == set()
    epoch = add_epoch(Experiment(own_root / child), 0.61)
    now[0] += 0.5
    assert listing.look() == {child}
    assert (listing.lines[child].epochs_done, set(read), through) == (epoch, {child}, [])
    lock.release()


def test_a_new_experiment_is_seen_at_once(own_root):
    import shutil

    from raysweep.ui.listing import Listing

    now = [100.0]
    listing = Listing(Root.open(own_root), clock=lambda: now[0])
    listing.look()
    parent = next(own_root.glob("parent_*"))
    shutil.copytree(parent, own_root / "another_20270101_000000")
    now[0] += 1
    assert listing.look() == {"another_20270101_000000"}
    shutil.rmtree(own_root / "another_20270101_000000")
    now[0] += 1
    assert listing.look() == {"another_20270101_000000"}
    assert "another_20270101_000000" not in listing.lines


def test_a_killed_writer_is_seen_although_it_changes_no_file(own_root):
    from raysweep.store import lock
    from raysweep.ui.listing import Listing

    now = [100.0]
    listing = Listing(Root.open(own_root), clock=lambda: now[0])
    child = next(own_root.glob("s-rare5*")).name
    held = go_on(Experiment(own_root / child))
    listing.look()
    assert listing.lines[child].status == "running"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lock, "alive", lambda who: False)
        now[0] += 2.5
        assert child in listing.look()
        assert listing.lines[child].status == "crashed"
    held.release()


def test_an_address_that_says_nonsense_is_the_usual_list():
    from raysweep.ui.listing import Wanted

    assert Wanted.of({"sort": "path", "order": "x", "page": "²"}) == Wanted()
    assert Wanted.of({"sort": "id", "page": "7"}) == replace(Wanted(), sort="id", down=False, page=7)
