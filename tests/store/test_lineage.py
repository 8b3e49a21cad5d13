"""The two logs: numbered events, a torn last line dropped, damaged lines told and set aside, and no text that forges an event."""

from __future__ import annotations

import json
import os
import re
import tempfile
from datetime import datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raysweep.errors import StoreError
from raysweep.store import files, layout, lineage
from tests.store.making import Killed

WHEN = datetime(2025, 1, 8, 14, 30, 22)
# Any text, also what an argument that is no UTF-8 becomes (lone surrogates), and lines that look like an event's.
hostile = st.one_of(
    st.text(st.characters(exclude_categories=[]), max_size=40),
    st.lists(
        st.sampled_from(
            [
                "\n",
                "\r",
                "\x0b",
                "\x85",
                "\u2028",
                "\x1b[2J",
                "Change Type: FINISHED",
                '{"seq": 1, "type": "FINISHED"}',
                "#7",
            ]
        ),
        max_size=6,
    ).map("".join),
)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """The disk's part is tested with the files; here it would only cost time."""
    monkeypatch.setattr(files.os, "fsync", lambda fd: None)


def events_for_people(folder: Path) -> list[str]:
    """The lines of the log that announce an event: ``Change Type:`` not indented, whatever a reader takes for a line."""
    text = (folder / layout.CHANGES).read_text(encoding="utf-8")
    return [line.partition(": ")[2] for line in text.splitlines() if line.startswith("Change Type:")]


def damage(folder: Path, change) -> None:
    path = folder / layout.LINEAGE
    path.write_bytes(change(path.read_bytes()))


def three_events(folder: Path) -> list[dict]:
    return [lineage.record(folder, kind) for kind in (lineage.START, lineage.CONTINUED, lineage.FINISHED)]


def test_events_are_numbered_from_one_and_read_back_as_written(tmp_path):
    written = [
        lineage.record(tmp_path, lineage.START, description="first"),
        lineage.record(tmp_path, lineage.RATIO, old_weights={"a": 1.0}, new_weights={"a": 2.0, "ü": 0.5}),
        lineage.record(tmp_path, lineage.FINISHED, best_acc=0.5),
    ]
    assert [e.seq for e in written] == [1, 2, 3]
    assert lineage.read(tmp_path) == written
    assert lineage.last(tmp_path) == written[-1]
    assert written[1].fields["new_weights"] == {"a": 2.0, "ü": 0.5}
    assert events_for_people(tmp_path) == [lineage.START, lineage.RATIO, lineage.FINISHED]


def test_no_log_is_no_events(tmp_path):
    assert lineage.read(tmp_path) == []
    assert lineage.last(tmp_path) is None


def test_order_is_by_number_also_when_the_clock_went_back(tmp_path, monkeypatch):
    class Clock(datetime):
        days = iter((9, 8))

        @classmethod
        def now(cls, tz=None):
            return datetime(2025, 1, next(cls.days))

    monkeypatch.setattr(lineage, "datetime", Clock)
    lineage.record(tmp_path, lineage.START)
    lineage.record(tmp_path, lineage.FINISHED)
    events = lineage.read(tmp_path)
    assert [e.type for e in events] == [lineage.START, lineage.FINISHED]
    assert events[0].time > events[1].time


@given(st.integers(1, 400))
@settings(max_examples=30, deadline=None)
def test_a_torn_last_line_is_dropped_and_its_number_used_again(cut):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        kept = three_events(folder)[:2]
        last_line = (folder / layout.LINEAGE).read_bytes().splitlines(keepends=True)[-1]
        damage(folder, lambda data: data[: -min(cut, len(last_line))])
        assert lineage.read(folder) == kept
        assert lineage.last(folder) == kept[-1]
        lineage.record(folder, lineage.INTERRUPTED)
        assert [(e.seq, e.type) for e in lineage.read(folder)] == [
            (1, lineage.START),
            (2, lineage.CONTINUED),
            (3, lineage.INTERRUPTED),
        ]


DAMAGE = {
    # how a log of three events is damaged; the bad lines, the events that stay, and those after one more event
    "a number twice": (lambda d: d.replace(b'"seq": 2', b'"seq": 3'), [2], [1, 3], [1, 2, 3, 4]),
    "a number that jumps": (lambda d: d.replace(b'"seq": 2', b'"seq": 2000000'), [2], [1, 3], [1, 2, 3, 4]),
    "a number as a text": (lambda d: d.replace(b'"seq": 2', b'"seq": "2"'), [2], [1, 3], [1, 2, 3, 4]),
    "a number for a type": (lambda d: d.replace(b'"type": "CONTINUED"', b'"type": 7'), [2], [1, 3], [1, 2, 3, 4]),
    "no JSON before": (lambda d: b"not json" + d, [1], [2, 3], [1, 2, 3, 4]),
    "a list behind": (lambda d: d + b"[1, 2]\n", [4], [1, 2, 3], [1, 2, 3, 4, 5]),
    "no text": (lambda d: d + b"\xff\n", [4], [1, 2, 3], [1, 2, 3, 4, 5]),
    "zeros": (lambda d: d + b"\0" * 4096 + b"\n", [4], [1, 2, 3], [1, 2, 3, 4, 5]),
    "an empty line": (lambda d: d + b"\n", [4], [1, 2, 3], [1, 2, 3, 4, 5]),
    "a line in two": (lambda d: d[:20] + b"\n" + d[20:], [1, 2], [2, 3], [1, 2, 3, 4]),
    "of a stalled writer": (lambda d: d + d.splitlines(keepends=True)[1], [4], [1, 2, 3], [1, 2, 3, 4, 5]),
    "all of it": (lambda d: b"x\n" * 3, [1, 2, 3], [], [1, 2, 3, 4]),
}


@pytest.mark.parametrize(("change", "bad", "stay", "then"), DAMAGE.values(), ids=DAMAGE)
def test_bad_lines_are_told_and_set_aside_and_the_log_goes_on(tmp_path, change, bad, stay, then):
    three_events(tmp_path)
    damage(tmp_path, change)
    lines = (tmp_path / layout.LINEAGE).read_bytes().splitlines(keepends=True)
    assert [e.seq for e in lineage.read(tmp_path)] == stay
    assert [re.search(r"damaged \(line (\d+): ", p)[1] for p in lineage.problems(tmp_path)] == [str(n) for n in bad]
    assert lineage.told_of_damage(tmp_path) == []
    lineage.record(tmp_path, lineage.INTERRUPTED)
    events = lineage.read(tmp_path)
    assert [e.seq for e in events] == then
    notes = [e for e in events if e.type == lineage.NOTE]
    assert [e.seq for e in events if e.type not in (lineage.NOTE, lineage.INTERRUPTED)] == stay
    assert all(layout.DAMAGED_LINES in e.fields["text"] for e in notes)
    assert lineage.problems(tmp_path) == []
    assert (tmp_path / layout.DAMAGED_LINES).read_bytes() == b"".join(lines[n - 1] for n in bad)
    assert re.match(rf"{len(bad)} damaged lines? of", lineage.told_of_damage(tmp_path)[0])
    assert lineage.set_aside(tmp_path) == 0


def test_a_line_that_is_gone_is_told_for_ever(tmp_path):
    three_events(tmp_path)
    damage(tmp_path, lambda d: d.replace(d.splitlines(keepends=True)[1], b""))
    for seqs in ([1, 3], [1, 3, 4]):
        assert [e.seq for e in lineage.read(tmp_path)] == seqs
        assert lineage.problems(tmp_path) == ["lineage.jsonl is damaged (line 2: event 3 instead of 2)"]
        lineage.record(tmp_path, lineage.INTERRUPTED)
    assert not (tmp_path / layout.DAMAGED_LINES).exists()


def test_a_kill_while_lines_are_set_aside_loses_none_and_keeps_none_twice(tmp_path, monkeypatch):
    three_events(tmp_path)
    damage(tmp_path, lambda d: d.replace(b'"type": "CONTINUED"', b'"type": 7'))
    bad = (tmp_path / layout.LINEAGE).read_bytes().splitlines()[1]
    write = files.write_atomic

    def killed_before_the_log(path: Path, data: bytes) -> None:
        if path.name == layout.LINEAGE:
            raise Killed
        write(path, data)

    monkeypatch.setattr(lineage, "write_atomic", killed_before_the_log)
    with pytest.raises(Killed):
        lineage.set_aside(tmp_path)
    monkeypatch.undo()
    assert lineage.set_aside(tmp_path) == 1
    assert (tmp_path / layout.DAMAGED_LINES).read_bytes() == bad + b"\n"
    damage(tmp_path, lambda d: d + b"x\n")
    assert lineage.set_aside(tmp_path) == 1
    assert (tmp_path / layout.DAMAGED_LINES).read_bytes() == bad + b"\nx\n"
    assert "2 damaged lines" in lineage.told_of_damage(tmp_path)[0]


def test_the_last_event_is_found_without_reading_all_and_damage_is_not_called_no_event(tmp_path):
    for i in range(5):
        lineage.record(tmp_path, lineage.FAILED, reason=f"{i}" * 3000)  # each longer than the piece read first
        assert lineage.last(tmp_path).seq == i + 1
    damage(tmp_path, lambda d: d + b'{"seq": 6, "torn": "' + b"x" * 20_000)
    assert lineage.last(tmp_path).seq == 5
    damage(tmp_path, lambda d: d + b"\n")  # a whole line now, and no event
    assert lineage.last(tmp_path).seq == 5
    damage(tmp_path, lambda d: b"x\n" + d)
    assert [e.seq for e in lineage.early(tmp_path)] == [1, 2, 3, 4, 5]


def test_a_note_does_not_hide_how_the_run_ended(tmp_path):
    lineage.record(tmp_path, lineage.FINISHED)
    for _ in range(30):
        lineage.record(tmp_path, lineage.NOTE, text="x" * 300)
    assert lineage.last(tmp_path).type == lineage.FINISHED


@given(st.lists(st.tuples(hostile, hostile), min_size=1, max_size=3))
@settings(max_examples=60, deadline=None)
def test_no_name_or_description_forges_an_event(texts):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        lineage.open_log(folder, texts[0][0], texts[0][1], WHEN)
        for a, b in texts:
            lineage.record(
                folder,
                lineage.RATIO,
                description=a,
                path=b,
                texts=[a, b],
                classes={a: b},
                changes={a: [b, a]},
                old_weights={a: 1.0},
                new_weights={a: 2.0, b: 1.0},
                old_shares={a: 0.1},
                new_shares={a: 0.2, b: 0.8},
            )
        assert events_for_people(folder) == [lineage.RATIO] * len(texts)
        read = lineage.read(folder)
        assert [e.type for e in read] == [lineage.RATIO] * len(texts)
        assert [(e.fields["description"], e.fields["path"]) for e in read] == texts  # and nothing is lost for machines
        # No control characters either: the log is read in terminals.
        assert not re.search(
            r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", (folder / layout.CHANGES).read_text(encoding="utf-8")
        )


def test_the_head_of_the_log_has_the_old_systems_form(tmp_path):
    lineage.open_log(tmp_path, "my_experiment", "two\nlines", WHEN)
    assert (tmp_path / layout.CHANGES).read_text().splitlines()[:3] == [
        "EXPERIMENT LOG - my_experiment",
        "Started: 2025-01-08T14:30:22",
        "Description: two lines",
    ]


def test_a_ratio_change_shows_weights_and_shares_before_and_after(tmp_path):
    lineage.record(
        tmp_path,
        lineage.RATIO,
        old_weights={"angry": 1.0, "sad": 1.0},
        new_weights={"angry": 1.0, "sad": 2.5},
        old_shares={"angry": 0.5, "sad": 0.5},
        new_shares={"angry": 0.25, "sad": 0.75},
    )
    rows = [line.split() for line in (tmp_path / layout.CHANGES).read_text().splitlines()]
    assert ["angry", "1", "->", "1"] in rows
    assert ["sad", "1", "->", "2.5", "*"] in rows
    assert ["sad", "50.0%", "->", "75.0%", "*"] in rows


def test_numbers_that_json_does_not_have_are_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        lineage.record(tmp_path, lineage.FINISHED, best_acc=float("nan"))
    assert list(tmp_path.iterdir()) == []


def test_the_log_for_machines_is_plain_json_lines(tmp_path):
    three_events(tmp_path)
    lines = (tmp_path / layout.LINEAGE).read_text().splitlines()
    assert [json.loads(line)["seq"] for line in lines] == [1, 2, 3]


@pytest.mark.parametrize(
    "line",
    [
        '{"seq": 1, "type": ' + "[" * 200_000,
        '{"seq": 1, "type": ["FINISHED"]}',
        '{"seq": 1, "type": 7}',
        "[]",
        "x",
    ],
    ids=["deep", "a list for a type", "a number for a type", "a list", "no JSON"],
)
def test_a_line_that_is_no_event_is_damage(tmp_path, line):
    (tmp_path / layout.LINEAGE).write_text(line + "\n")
    assert lineage.read(tmp_path) == []
    assert len(lineage.problems(tmp_path)) == 1
    for reader in (lineage.early, lineage.last):
        with pytest.raises(StoreError, match="damaged") as error:
            reader(tmp_path)
        assert len(str(error.value)) < 800


def test_a_log_that_is_no_file_is_neither_waited_for_nor_taken_for_none(tmp_path):
    path = tmp_path / layout.LINEAGE
    os.mkfifo(path)
    for reader in (lineage.read, lineage.last):
        with pytest.raises(StoreError, match="not a regular file"):
            reader(tmp_path)
    path.unlink()
    with open(path, "wb") as file:
        file.truncate(1_000_000_000)
    for reader in (lineage.read, lineage.last):
        with pytest.raises(StoreError, match=r"at most|no event in its last"):
            reader(tmp_path)
    path.unlink()
    assert (lineage.read(tmp_path), lineage.last(tmp_path)) == ([], None)


def test_what_a_failed_write_or_a_kill_kept_out_of_the_log_for_people_is_added(tmp_path):
    """Wherever the text of the last event was cut off."""
    lineage.open_log(tmp_path, "base", "", WHEN)
    lineage.record(tmp_path, lineage.START, new_weights={"cat": 1.0, "dog": 2.0})
    path = tmp_path / layout.CHANGES
    before = len(path.read_bytes())
    lineage.record(tmp_path, lineage.NOTE, text="second", more="of it")
    whole = path.read_bytes()
    for size in range(before, len(whole)):
        path.write_bytes(whole[:size])
        lineage.mend(tmp_path)
        found = path.read_bytes()
        lines = [line for line in found.splitlines() if line]
        assert lines == [line for line in whole.splitlines() if line], size
        lineage.mend(tmp_path)
        assert path.read_bytes() == found


def test_an_event_that_only_one_log_has_is_told_before_the_next(tmp_path, monkeypatch):
    lineage.open_log(tmp_path, "base", "", WHEN)
    lineage.record(tmp_path, lineage.START)
    append = files.append_line

    def full(path: Path, text: str) -> None:
        if path.name == layout.CHANGES:
            raise StoreError("No space left on device")
        append(path, text)

    with monkeypatch.context() as m:
        m.setattr(lineage, "append_line", full)
        with pytest.raises(StoreError):
            lineage.record(tmp_path, lineage.FAILED, reason="the disk")
    lineage.record(tmp_path, lineage.CONTINUED)
    assert events_for_people(tmp_path) == [lineage.START, lineage.FAILED, lineage.CONTINUED]
    assert [e.seq for e in lineage.read(tmp_path)] == [1, 2, 3]


def test_what_people_wrote_into_their_log_stays(tmp_path):
    lineage.open_log(tmp_path, "base", "", WHEN)
    lineage.record(tmp_path, lineage.START)
    path = tmp_path / layout.CHANGES
    path.write_text(mine := path.read_text() + "  note: looks good\n")
    lineage.mend(tmp_path)
    assert path.read_text() == mine
