"""The index never shows anything but what the folders say, and costs no look into those that did not change."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sqlite3
import tempfile
import time
from datetime import datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raysweep.errors import RootError, StoreError
from raysweep.store import catalog, index, layout, lineage
from raysweep.store import experiment as store
from raysweep.store.lock import WriterLock
from raysweep.store.records import ExperimentConfig
from raysweep.store.records_manifest import Manifest, ManifestEntry
from raysweep.store.root import Root
from tests.store.making import make_experiment

TIME = "20250108_143022"
SETTLED = 0.015  # seconds; some ticks of the clock of change times


def truth(root: Path) -> dict[str, dict]:
    return {e.id: json.loads(json.dumps(catalog.summary(e).to_json())) for e in catalog.experiments(Root.open(root))}


def told(root: Path) -> dict[str, dict]:
    time.sleep(SETTLED)  # so that rows are kept, and the next look uses them
    return {r.id: r.to_json() for r in index.rows(Root.open(root))}


def file_of(root: Path) -> Path:
    return root / layout.CACHES / layout.INDEX


@pytest.fixture
def root(tmp_path, monkeypatch) -> Path:
    """Four finished experiments; change times are soon settled."""
    monkeypatch.setattr(index, "_SETTLED", SETTLED)
    return four(tmp_path / "root")


def four(root: Path) -> Path:
    for i, name in enumerate((f"cats_{TIME}", f"dogs_{TIME}", "cats_20250109_000000", f"cats2_{TIME}")):
        experiment = make_experiment(
            root / name, [(1, None), (2 + i, None)], 1, sweep=f"s{i % 2}_{TIME}", timestamp=TIME
        )
        lineage.record(experiment.folder, (lineage.FINISHED, lineage.FAILED)[i % 2])
    return root


@pytest.fixture
def read(monkeypatch) -> list[str]:
    """The experiments whose folders were read."""
    seen: list[str] = []
    original = catalog.summary
    monkeypatch.setattr(catalog, "summary", lambda e: (seen.append(e.id), original(e))[1])
    return seen


def test_it_says_what_the_folders_say(root):
    assert told(root) == truth(root)
    assert told(root) == truth(root)
    assert file_of(root).is_file()
    rows = index.rows(Root.open(root))
    assert [r.id for r in rows] == sorted((r.id for r in rows), key=lambda i: (len(i), i))  # one age: by name


def test_what_did_not_change_is_not_read_again(root, read):
    told(root)
    assert len(read) == 4
    read.clear()
    told(root)
    assert read == []
    lineage.record(root / f"dogs_{TIME}", lineage.CONTINUED)
    told(root)
    assert read == [f"dogs_{TIME}"]


def in_place(path: Path, old: str, new: str) -> None:
    """Change a file as no part of this program does: same inode, same size, same time of modification."""
    before = path.stat()
    text = path.read_text()
    assert old in text
    assert len(old) == len(new)
    with open(path, "r+") as file:
        file.write(text.replace(old, new))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


CHANGES = {
    "configuration in place": lambda f: in_place(f / layout.CONFIG, '"num_epochs": 9', '"num_epochs": 7'),
    "manifest in place": lambda f: in_place(f / layout.MANIFEST, '"val_acc": 0.1', '"val_acc": 0.3'),
    "log in place": lambda f: in_place(f / layout.LINEAGE, "FAILED", "FAI_ED"),
    "one more event": lambda f: lineage.record(f, lineage.CONTINUED),
    "one more checkpoint": lambda f: store.Experiment(f).write_manifest(Manifest(
        [*store.Experiment(f).entries(), ManifestEntry("checkpoint_epoch_9.pt", 1, "0", 9, None, "")]
    )),
    "no manifest": lambda f: (f / layout.MANIFEST).unlink(),
    "no log": lambda f: (f / layout.LINEAGE).unlink(),
    "no folder": shutil.rmtree,
    "no configuration": lambda f: (f / layout.CONFIG).unlink(),
    "another name": lambda f: f.rename(f.with_name(f"mice_{TIME}")),
    "another of this name": lambda f: (shutil.rmtree(f), make_experiment(f, [(1, None)])),
    "one more folder": lambda f: shutil.copytree(f, f.with_name(f"copy_{TIME}")),
    "a link instead": lambda f: (f.rename(f.parent.parent / "away"), f.symlink_to(f.parent.parent / "away")),
    "damage": lambda f: (f / layout.CONFIG).write_text("{"),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_every_change_is_seen(root, change):
    before = told(root)
    CHANGES[change](root / f"dogs_{TIME}")
    assert told(root) == truth(root) != before


def test_two_changes_in_one_tick_of_the_clock_are_both_seen(root, monkeypatch, read):
    monkeypatch.setattr(index, "_SETTLED", 3600.0)  # as if no change time could be trusted yet
    index.rows(Root.open(root))
    read.clear()
    index.rows(Root.open(root))
    assert len(read) == 4


def test_a_writer_that_dies_without_a_trace_is_seen(root, monkeypatch):
    folder = root / f"dogs_{TIME}"
    lineage.record(folder, lineage.CONTINUED)
    lock = WriterLock.acquire(folder)
    assert told(root)[folder.name]["status"] == store.RUNNING
    monkeypatch.setattr("raysweep.store.lock.alive", lambda who: False)  # nothing on the disk has changed
    assert told(root)[folder.name]["status"] == store.CRASHED
    monkeypatch.undo()
    lock.release()
    assert told(root) == truth(root)


operations = st.lists(
    st.tuples(
        st.sampled_from(["make", "delete", "finish", "continue", "commit", "break", "damage the index", "look"]),
        st.integers(0, 5),
    ),
    max_size=25,
)


@given(operations)
@settings(max_examples=60, deadline=None)
def test_after_any_operations_it_says_what_the_folders_say(steps):
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        patch.setattr(index, "_SETTLED", SETTLED)
        root = Path(name)
        for what, number in steps:
            folder = root / f"exp{number}_{TIME}"
            if what == "damage the index" and file_of(root).exists():
                data = file_of(root).read_bytes()
                at = number * len(data) // 6
                file_of(root).write_bytes(data[:at] + b"\xff" * 64 + data[at + 64 :])
            elif what == "look":
                assert told(root) == truth(root)
            elif what == "make" and not folder.exists():
                make_experiment(folder, [(1, None)], 1)
            elif folder.exists():
                if what == "delete":
                    shutil.rmtree(folder)
                elif what in ("finish", "continue"):
                    with contextlib.suppress(StoreError):  # it is broken
                        lineage.record(folder, lineage.FINISHED if what == "finish" else lineage.CONTINUED)
                elif what == "commit":
                    store.Experiment(folder).write_manifest(Manifest([]))
                elif what == "break":
                    (folder / layout.LINEAGE).write_text('{"type": "NOTE"}\n')
        assert told(root) == truth(root)


# Filters and order


@pytest.fixture(scope="module")
def listed(tmp_path_factory) -> tuple[Path, dict[str, dict]]:
    """Five experiments that no test changes, and what their folders say."""
    root = four(tmp_path_factory.mktemp("listed") / "root")
    make_experiment(root / f"none_{TIME}", sampling_weights={}, timestamp="20240101_000000")
    return root, truth(root)


@pytest.mark.parametrize("sort", index.SORT_KEYS)
@pytest.mark.parametrize("status", [None, "finished", "failed", "running"])
@pytest.mark.parametrize("sweep", [None, "s0", "s1_2025", "", "%", f"s1_{TIME}x"])
@pytest.mark.parametrize("limit", [None, 1, 3])
def test_filters_and_order(listed, monkeypatch, sort, status, sweep, limit):
    monkeypatch.setattr(index, "_SETTLED", SETTLED)
    root, said = listed
    if sweep is None and limit == 3:  # from the folders; else from the index: to make it anew waits for the disk
        file_of(root).unlink(missing_ok=True)
    found = [r.to_json() for r in index.rows(Root.open(root), sort=sort, status=status, sweep=sweep, limit=limit)]
    wanted = [
        r
        for r in said.values()
        if (status is None or r["status"] == status) and (sweep is None or str(r["sweep"] or "").startswith(sweep))
    ]
    wanted.sort(key=lambda r: (r[sort] is not None, r[sort] or 0, r["created"], len(r["id"]), r["id"]))
    assert found == (wanted if limit is None else wanted[-limit:])


def test_the_path_is_as_the_root_was_named(root, monkeypatch):
    index.rows(Root.open(root))
    monkeypatch.chdir(root.parent)
    assert {r.path for r in index.rows(Root.open(Path("root")))} == {f"root/{i}" for i in told(root)}
    assert all(Path(r.path) == root / r.id for r in index.rows(Root.open(root)))


def test_experiments_of_one_second_are_listed_as_they_were_made(tmp_path):
    made = []
    for _ in range(12):
        experiment = store.create(Root.open(tmp_path), "exp", datetime(2025, 1, 8))
        experiment.write_config(ExperimentConfig.from_json({"timestamp": "20250108_000000"}))
        made.append(experiment.id)
    assert [r.id for r in index.rows(Root.open(tmp_path))] == made


# The file


def test_nothing_is_made_where_there_is_nothing(tmp_path):
    assert index.rows(Root.open(tmp_path / "nowhere")) == []
    assert index.rows(Root.open(tmp_path)) == []
    assert os.listdir(tmp_path) == []
    (tmp_path / "file").touch()
    with pytest.raises(RootError, match="cannot be read"):
        index.rows(Root.open(tmp_path / "file"))
    with pytest.raises(RootError, match="null byte"):
        index.rows(Root.open(tmp_path / "a\0b"))


def lie(path: Path) -> None:
    """A trigger that would rewrite every row."""
    with sqlite3.connect(path) as database:
        database.execute(
            'CREATE TRIGGER t AFTER INSERT ON experiments BEGIN UPDATE experiments SET head = \'{"id": "x", "path": "\'; END'
        )
        database.execute("UPDATE experiments SET stamp = 1")


DAMAGES = {
    "gone": Path.unlink,
    "empty": lambda p: p.write_bytes(b""),
    "cut off": lambda p: p.write_bytes(p.read_bytes()[:5000]),
    "no database": lambda p: p.write_bytes(b"hello" * 1000),
    "another version": lambda p: p.write_bytes(p.read_bytes().replace(b"best_macro_f1", b"best_macro_f2")),
    "a trigger in it": lie,
    "a folder": lambda p: (p.unlink(), p.mkdir()),
    "a link": lambda p: (p.rename(p.with_name("other")), p.symlink_to("other")),
    "a link to nowhere": lambda p: (p.unlink(), p.symlink_to("/dev/null/x")),
    "a pipe": lambda p: (p.unlink(), os.mkfifo(p)),
    "a file for its folder": lambda p: (shutil.rmtree(p.parent), p.parent.touch()),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_index_costs_nothing_but_time(root, damage):
    index.rows(Root.open(root))
    DAMAGES[damage](file_of(root))
    for _ in range(2):
        assert told(root) == truth(root)


def test_a_locked_index_is_not_waited_for(root, monkeypatch):
    monkeypatch.setattr(index, "_WAIT", 0.05)
    index.rows(Root.open(root))
    lineage.record(root / f"dogs_{TIME}", lineage.CONTINUED)
    holder = sqlite3.connect(file_of(root), isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    assert told(root) == truth(root)
    holder.close()
    assert told(root) == truth(root)


def test_names_that_would_steer_a_terminal_are_escaped(root):
    odd = "x\x1b[31m\u202e_20250108_143022"
    make_experiment(root / odd, sweep="s\udc80", sampling_weights={"\x1b]0;a\x07": 1.0})
    raw = os.fsencode(str(root)) + b"/raw\xff_20250108_143022"
    shutil.copytree(os.fsencode(str(root / odd)), raw)
    texts = index.texts(Root.open(root))
    assert all(t.decode().isprintable() for t in texts)
    rows = {r["id"]: r for r in map(json.loads, texts)}
    assert rows[odd]["path"] == str(root / odd)
    assert os.fsencode(rows[os.fsdecode(b"raw\xff_20250108_143022")]["path"]) == raw
    assert len(index.rows(Root.open(root), sweep="s\udc80")) == 2


def test_a_history_that_comes_later_is_seen(root):
    """A folder that is still being copied: its files have their stamps, the parent's rows are not there yet."""
    child = make_experiment(
        root / f"kid_{TIME}", [(2, None)], 2, timestamp=TIME, parent={"experiment": "cats", "epoch": 1, "sha256": "0"}
    )
    lineage.record(child.folder, lineage.FINISHED)
    assert told(root)[child.id]["parent_best_acc"] is None
    (child.folder / layout.HISTORY_CSV).write_text("val_acc,epoch\n0.7,1\n0.6,2\n")
    assert told(root)[child.id]["parent_best_acc"] == 0.7
    assert told(root) == truth(root)


def test_nothing_behind_a_link_is_removed(root, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / layout.INDEX).write_text("precious")
    (root / layout.CACHES).symlink_to(elsewhere)
    assert told(root) == truth(root)
    assert (elsewhere / layout.INDEX).read_text() == "precious"
