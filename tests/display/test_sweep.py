"""The display of a sweep of ten thousand branches: it takes no longer for an event than that of ten."""

from __future__ import annotations

import time

from raysweep.display import sweep
from raysweep.display.sweep import ROWS, SweepDisplay

WORST = {"worst_class": "a", "worst_recall": 0.25}


class Live:
    """Counts what would be drawn."""

    drawn = 0

    def update(self, table, refresh):
        self.drawn += 1


def sweep_of(branches: int) -> SweepDisplay:
    display = SweepDisplay()
    rows = [{"name": f"b{i}", "control": i % 100 == 0, "seed": i % 100 // 50, "weights": {}} for i in range(branches)]
    display._sweep({"id": "s", "branches": rows, "at_once": 2, "first_epoch": 2, "last_epoch": 2, "notes": []})
    return display


def test_branches_are_compared_with_the_control_of_their_seed(capsys):
    display = SweepDisplay()
    rows = [{"name": n, "control": n[0] == "c", "seed": int(n[1])} for n in ("c0", "c1", "x0", "x1", "x2")]
    display({"kind": "sweep", "id": "s", "branches": rows, "at_once": 2, "last_epoch": 1, "notes": []})
    for name, accuracy in (("c0", 0.5), ("c1", 0.25), ("x0", 0.75), ("x1", 0.75), ("x2", 0.75)):
        display({"kind": "epoch", "branch": name, "epoch": 1, "row": {**WORST, "val_acc": accuracy}})
    told = capsys.readouterr().err
    assert "x0  epoch 1/1  acc 75.0% (+25.0 against the control)" in told
    assert "x1  epoch 1/1  acc 75.0% (+50.0 against the control)" in told
    assert "x2  epoch 1/1  acc 75.0%  worst" in told


def test_ten_thousand_branches_are_not_drawn_at_every_event(monkeypatch):
    few, many = sweep_of(10), sweep_of(10_000)
    now = [0.0]
    monkeypatch.setattr(sweep.time, "monotonic", lambda: now[0])
    for display in (few, many):
        display.live = live = Live()
        for i in range(1000):
            now[0] += 0.01
            display({"kind": "start", "branch": f"b{i % 10}"})
        assert live.drawn <= (1000 if display is few else 4)


def test_the_table_of_ten_thousand_shows_those_that_run():
    display = sweep_of(10_000)
    for i in (17, 4321):
        display._batch({"branch": f"b{i}", "epoch": 2, "batch": 1, "batches": 2})
    began = time.perf_counter()
    shown = display._shown()
    assert len(shown) == ROWS
    assert {"b17", "b4321"} <= {r.name for r in shown}
    display._table()
    assert time.perf_counter() - began < 2  # 0.1 s on a machine that is not busy
