"""Temporary folders: none stays behind for long, however a process ends, and none goes that is in use."""

from __future__ import annotations

import os
import signal
import tempfile
from pathlib import Path

import pytest

from raysweep import _locks, _scratch


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(_scratch, "_mine", {})
    monkeypatch.setattr(_scratch.atexit, "register", lambda action: None)
    yield tmp_path
    _scratch.clean()


def in_a_fork(end) -> Path:
    """The folder that a forked process made before ``end()``; it has ended if that ends it."""
    heard, told = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(told, str(_scratch.folder("code")).encode())
        end()
        os._exit(0)
    os.close(told)
    folder = Path(os.read(heard, 1000).decode())
    os.close(heard)
    os.waitpid(pid, 0)
    return folder


@pytest.mark.parametrize(
    "end", [lambda: os._exit(1), lambda: os.kill(os.getpid(), signal.SIGKILL)], ids=["exit", "kill"]
)
def test_what_a_process_has_left_goes_with_the_next_folder(temporary, end):
    left = in_a_fork(end)
    assert left.is_dir()
    assert left.parent == temporary
    mine = _scratch.folder("replay")
    assert [*temporary.iterdir()] == [mine]


def test_what_another_process_uses_stays(temporary):
    heard, told = os.pipe()
    go_on, end = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(end)
        os.write(told, str(_scratch.folder("code")).encode())
        os.read(go_on, 1)
        os._exit(0)
    os.close(go_on)
    theirs = Path(os.read(heard, 1000).decode())
    _scratch.sweep()
    assert theirs.is_dir()
    os.close(end)
    os.waitpid(pid, 0)
    _scratch.sweep()
    assert not theirs.exists()
    os.close(heard)
    os.close(told)


def test_a_fork_deletes_nothing_of_its_parent(temporary):
    mine = _scratch.folder("code")
    in_a_fork(_scratch.clean)
    assert mine.is_dir()
    _scratch.clean()
    assert not mine.exists()


def test_a_folder_for_a_block_goes_with_it_and_nothing_else_is_touched(temporary):
    others = [
        temporary / name for name in ("raysweep-mine-1.20260101", "raysweep-scratch-code-1", "raysweep-code-abcdefgh")
    ]
    for path in others:
        path.mkdir()
    target = temporary / "target"
    target.mkdir()
    (temporary / "raysweep-scratch-code-1.abcdefgh").symlink_to(target)
    (temporary / "raysweep-scratch-code-2.abcdefgh").write_text("no folder")
    with _scratch.within("replay") as folder:
        (folder / "file").write_text("x")
        assert folder.parent == temporary
    assert not folder.exists()
    assert all(path.is_dir() for path in [*others, target])


def test_without_locks_nothing_is_swept(temporary, monkeypatch):
    left = in_a_fork(lambda: os._exit(1))
    monkeypatch.setattr(_locks, "_fcntl", None)
    assert _scratch.folder("code").is_dir()
    assert left.is_dir()


def test_a_signal_that_ends_the_program_leaves_none(temporary):
    from raysweep.cluster import signals

    left = in_a_fork(lambda: signals.leave(None))
    assert not left.exists()
