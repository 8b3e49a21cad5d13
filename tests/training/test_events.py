"""A kill or an I/O error at every file operation of a training's saves loses nothing committed and changes no bit."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests import forks

MID, BEFORE, LAST = "checkpoint_epoch_2_batch_2.pt", "checkpoint_epoch_1.pt", "checkpoint_epoch_2.pt"


@pytest.fixture(
    scope="module",
    params=[41, pytest.param(1, marks=[pytest.mark.slow, pytest.mark.long])],
    ids=["every 41st", "every one"],
)
def step(request: pytest.FixtureRequest) -> int:
    """Which of the events are met by a fate."""
    return request.param


@pytest.fixture(scope="module")
def told(step: int, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    from tests.training import events

    first, *rest = forks.lines_of(events.main, tmp_path_factory.mktemp("events"), step)
    return json.loads(first), [json.loads(line) for line in rest]


@pytest.fixture(scope="module")
def kills(told):
    return told[0], [row for row in told[1] if row["how"] != "fault"]


@pytest.fixture(scope="module")
def faults(told):
    return told[0], [row for row in told[1] if row["how"] == "fault"]


def test_every_file_operation_was_tried(step, kills, faults):
    undisturbed, rows = kills
    seen = undisturbed["seen"]
    assert {"open", "write", "fsync", "replace", "unlink"} <= set(seen)
    assert len(seen) > 50  # a checkpoint within an epoch, one at its end, model, predictions, history, best, both logs
    chosen = range(0, len(seen), step)
    assert [r["event"] for r in rows if r["how"] == "before"] == list(chosen)
    assert [r["event"] for r in rows if r["how"] == "within"] == [n for n in chosen if seen[n] == "write"]
    assert all(r["code"] == -9 for r in rows)  # each really was killed there
    assert len(faults[1]) > 40 // step


def test_a_killed_training_continues_to_the_same_bits_and_the_same_folder(kills):
    undisturbed, rows = kills
    for row in rows:
        assert row["again"] == 0, row
        assert row["end"]["hash"] == undisturbed["hash"], row
        assert row["end"]["status"] == "finished", row
        assert row["after"] == undisturbed["after"] | {"log": row["after"]["log"]}, row
        assert row["after"]["log"][-1] == "FINISHED", row


def test_after_a_kill_the_newest_committed_checkpoint_is_whole(kills):
    _, rows = kills
    newest = [r["left"]["newest"] for r in rows]
    assert not [r for r in rows if r["left"]["problems"]]
    assert set(newest) == {BEFORE, MID, LAST}
    order = [(BEFORE, MID, LAST).index(n) for n in newest]
    assert order == sorted(order)  # what was committed once is never gone again


def test_every_error_of_a_write_fsync_or_rename_is_reported_with_its_path(faults):
    for row in faults[1]:
        assert row["code"] == 0, row
        if row["tracker"]:  # a tracker that cannot be written never fails a training; the log says so
            assert row["told"]["status"] == "finished", row
            assert row["left"]["log"][-1] == "NOTE", row
            continue
        if row["fence"] and row["told"].get("status") == "finished":  # an old checkpoint was not removed; nothing else
            assert row["told"]["hash"] == faults[0]["hash"], row
            continue
        assert row["told"].get("error", "").startswith("StoreError"), row
        assert "could not be written" in row["told"]["error"], row
        reason = "No space left on device. Free space" if row["name"] == "write" else "Input/output error"
        assert reason in row["told"]["error"], row


def test_after_an_error_the_last_checkpoint_loads_and_continuing_gives_the_same_bits(faults):
    undisturbed, rows = faults
    for row in rows:
        assert row["left"]["newest"] in (BEFORE, MID, LAST), row
        assert row["left"]["problems"] == [], row
        assert row["end"]["hash"] == undisturbed["hash"], row
        assert row["after"] == undisturbed["after"] | {"log": row["after"]["log"]}, row
