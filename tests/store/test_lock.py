"""One writer per experiment: the second is told who writes, the dead lose the lock, and whoever lost it stops writing."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from raysweep import _locks
from raysweep.errors import LockedError, StoreError
from raysweep.store import fence, files, gate, layout, lock
from raysweep.store.lock import WriterLock
from tests.store.making import failing, start_python, temps

ROOM = Path(__file__).parents[2]
# Every racer is ready before the first may go; the winner keeps the lock until all have tried.
RACER = """
import os, sys, time
from pathlib import Path
from raysweep.errors import LockedError
from raysweep.store import lock
from raysweep.store.lock import WriterLock
def slow_holder(folder, look=lock.holder):  # time for all to look before anybody takes: the race at its worst
    who = look(folder)
    time.sleep(0.02)
    return who
lock.holder = slow_holder
folder, gate, name = map(Path, sys.argv[1:])
(gate / f"ready-{name}").touch()
while not (gate / "go").exists():
    time.sleep(0.001)
try:
    held = WriterLock.acquire(folder)
    print("won", flush=True)
    while not (gate / "done").exists():
        time.sleep(0.005)
    held.check()
except LockedError:
    print("lost", flush=True)
"""
DIES_HOLDING = """
import os, sys
from pathlib import Path
from raysweep.store.lock import WriterLock
WriterLock.acquire(Path(sys.argv[1]))
os._exit(9)  # as after SIGKILL: nothing is given back
"""


# In a container of its own, where process ids mean something else. It writes until it is killed.
HOLDS = """
import sys, time
from pathlib import Path
from raysweep.store.lock import WriterLock
held = WriterLock.acquire(Path(sys.argv[1]))
print("holds", flush=True)
time.sleep(600)
"""
TRIES = """
import sys
from pathlib import Path
from raysweep.errors import LockedError
from raysweep.store.lock import WriterLock
for steal in (False, True):
    try:
        WriterLock.acquire(Path(sys.argv[1]), steal)
        print("took it", flush=True)
    except LockedError as error:
        print(error, flush=True)
"""
LEAVES_A_CHILD = """
import os, signal, sys
from pathlib import Path
from raysweep.store.lock import WriterLock
held = WriterLock.acquire(Path(sys.argv[1]))
child = os.fork()
if child == 0:
    os.closerange(0, 3)
    signal.pause()
Path(sys.argv[1], "child").write_text(str(child))
os._exit(9)
"""


def unshared(code: str, folder: Path) -> subprocess.Popen[str]:
    """A process in a PID namespace of its own, with its own /proc, as in a container."""
    for more in ([], ["--user", "--map-root-user"]):
        command = ["unshare", *more, "--pid", "--fork", "--kill-child", "--mount-proc"]
        if shutil.which("unshare") and subprocess.run([*command, "true"], capture_output=True).returncode == 0:
            return subprocess.Popen(
                [*command, sys.executable, "-c", code, str(folder)], stdout=subprocess.PIPE, text=True, cwd=ROOM
            )
    pytest.skip("this machine lets nobody make a PID namespace; the test with a namespace that is only said still runs")


def write_lock(folder: Path, **fields) -> None:
    """A lock as another process would have written it."""
    who = {"host": socket.gethostname(), "pid": os.getpid(), "started": gate.started(os.getpid()), "token": "theirs"}
    (folder / layout.LOCK).write_text(json.dumps({**who, "since": "2025-01-08T14:30:22", **fields}))


def leave_by_dying(folder: Path, code: str = DIES_HOLDING) -> None:
    process = start_python(code, folder)
    process.communicate(timeout=200)
    assert process.returncode == 9
    assert lock.holder(folder) is not None


def wait_for(condition) -> None:
    end = time.monotonic() + 200
    while not condition():
        assert time.monotonic() < end, "the processes did not get ready"
        time.sleep(0.005)


def test_the_second_writer_is_refused_and_told_who_writes(tmp_path):
    held = WriterLock.acquire(tmp_path)
    with pytest.raises(LockedError) as caught:
        WriterLock.acquire(tmp_path)
    text = str(caught.value)
    assert f"process {os.getpid()} on {socket.gethostname()} since {lock.holder(tmp_path).since}" in text
    assert "--steal" not in text  # it runs on this machine and is alive: stealing would make two writers
    with pytest.raises(LockedError):
        WriterLock.acquire(tmp_path, steal=True)
    held.check()
    assert temps(tmp_path) == []


def test_the_lock_is_free_after_release(tmp_path):
    first = WriterLock.acquire(tmp_path)
    first.release()
    assert [p.name for p in tmp_path.iterdir()] == [layout.FENCE]  # which the kernel's locks are on
    second = WriterLock.acquire(tmp_path)
    first.release()  # once more: not its own any longer
    second.check()
    with pytest.raises(LockedError):
        first.check()


def test_a_dead_holder_is_taken_over(tmp_path):
    leave_by_dying(tmp_path)
    assert lock.alive(lock.holder(tmp_path)) is False
    WriterLock.acquire(tmp_path).check()
    assert lock.holder(tmp_path).pid == os.getpid()


def test_a_reused_process_number_is_not_mistaken_for_the_holder(tmp_path):
    write_lock(tmp_path, started="1")
    assert lock.alive(lock.holder(tmp_path)) is False
    WriterLock.acquire(tmp_path)


def test_a_dead_holder_without_a_start_time_is_dead(tmp_path):
    leave_by_dying(tmp_path)
    dead = lock.holder(tmp_path).pid
    write_lock(tmp_path, pid=dead, started=None)
    assert lock.alive(lock.holder(tmp_path)) is False
    write_lock(tmp_path, started=None)  # but a process with that number that runs may be the holder
    assert lock.alive(lock.holder(tmp_path)) is True


def test_a_holder_on_another_host_keeps_the_lock_unless_it_is_stolen(tmp_path):
    write_lock(tmp_path, host="elsewhere", pid=1234)
    assert lock.alive(lock.holder(tmp_path)) is None
    with pytest.raises(LockedError, match=r"process 1234 on elsewhere since 2025-01-08T14:30:22\..*--steal"):
        WriterLock.acquire(tmp_path)
    assert lock.holder(tmp_path).token == "theirs"
    WriterLock.acquire(tmp_path, steal=True).check()
    assert lock.holder(tmp_path).host == socket.gethostname()


def test_a_writer_that_lost_the_lock_stops_and_does_not_release_it_for_the_new_holder(tmp_path):
    mine = WriterLock.acquire(tmp_path)
    write_lock(tmp_path, host="elsewhere", pid=77)
    with pytest.raises(LockedError, match=r"taken by process 77 on elsewhere\. This process stops writing"):
        mine.check()
    mine.release()
    assert lock.holder(tmp_path).pid == 77
    (tmp_path / layout.LOCK).unlink()
    with pytest.raises(LockedError, match="lock of this writer was removed"):
        mine.check()


def test_the_token_proves_the_lock_in_another_object(tmp_path):
    held = WriterLock.acquire(tmp_path)
    WriterLock(tmp_path, held.token).check()  # as in a worker process, which gets the token
    with pytest.raises(LockedError):
        WriterLock(tmp_path, "guessed").check()


def test_a_live_writer_in_another_container_is_seen_from_here(tmp_path):
    process = unshared(HOLDS, tmp_path)
    try:
        assert process.stdout.readline() == "holds\n"
        who = lock.holder(tmp_path)
        assert who.host == socket.gethostname()  # nothing but the namespace tells them apart
        assert who.namespace != gate.namespace()
        for steal in (False, True):
            with pytest.raises(LockedError, match="Wait for it or stop it"):
                WriterLock.acquire(tmp_path, steal)
    finally:
        process.kill()
        process.communicate()
    wait_for(lambda: lock.alive(lock.holder(tmp_path)) is False)
    WriterLock.acquire(tmp_path).check()


def test_a_live_writer_here_is_seen_from_another_container(tmp_path):
    held = WriterLock.acquire(tmp_path)
    said = unshared(TRIES, tmp_path).communicate(timeout=200)[0].splitlines()
    assert [f"being written by process {os.getpid()}" in line and "--steal" not in line for line in said] == [True] * 2
    held.check()


def test_in_another_namespace_the_kernels_lock_decides(tmp_path):
    there = {"boot": gate.boot(), "namespace": "pid:[1]"}
    write_lock(tmp_path, **there)  # our own pid, which means another process there
    assert lock.alive(lock.holder(tmp_path)) is None  # its writer could not lock the fence
    life = fence.hold(tmp_path, "theirs")
    assert lock.alive(lock.holder(tmp_path)) is True
    write_lock(tmp_path, **there, token="theirs.3")  # renewed
    assert lock.alive(lock.holder(tmp_path)) is True
    with pytest.raises(LockedError, match="Wait for it or stop it"):
        WriterLock.acquire(tmp_path, steal=True)
    fence.let_go(life)
    assert lock.alive(lock.holder(tmp_path)) is False
    WriterLock.acquire(tmp_path).check()


def test_on_another_machine_the_kernels_lock_is_not_enough(tmp_path):
    there = {"boot": "another", "host": "elsewhere"}
    fence.let_go(fence.hold(tmp_path, "theirs"))
    write_lock(tmp_path, **there)
    assert lock.alive(lock.holder(tmp_path)) is None  # its lock may not reach this machine
    life = fence.hold(tmp_path, "theirs")
    assert lock.alive(lock.holder(tmp_path)) is None
    WriterLock.acquire(tmp_path, steal=True).check()  # a machine that is suspended keeps its locks
    fence.let_go(life)


def test_a_copy_of_this_machine_is_another_machine(tmp_path):
    """A virtual machine that was started twice from one snapshot: all but the name is the same."""
    write_lock(tmp_path, boot=gate.boot(), namespace=gate.namespace(), host="elsewhere")
    assert lock.alive(lock.holder(tmp_path)) is None


def test_after_a_restart_of_this_machine_nobody_is_asked_for_steal(tmp_path):
    life = fence.hold(tmp_path, "theirs")
    write_lock(tmp_path, boot="before the restart")
    assert lock.alive(lock.holder(tmp_path)) is None  # another machine of this name
    fence.let_go(life)
    assert lock.alive(lock.holder(tmp_path)) is False
    WriterLock.acquire(tmp_path).check()


def test_a_copy_of_the_folder_is_not_locked_by_the_writer_of_the_original(tmp_path):
    original, copy = tmp_path / "original", tmp_path / "copy"
    original.mkdir()
    life = fence.hold(original, "theirs")
    write_lock(original, boot=gate.boot(), namespace="pid:[1]")
    shutil.copytree(original, copy)
    assert lock.alive(lock.holder(original)) is True
    assert lock.alive(lock.holder(copy)) is False
    (copy / layout.FENCE).unlink()  # as in the local copy of a root on an object store
    assert lock.alive(lock.holder(copy)) is None
    fence.let_go(life)


def test_a_child_that_survives_its_writer_keeps_nothing_locked(tmp_path, monkeypatch):
    leave_by_dying(tmp_path, LEAVES_A_CHILD)
    child = int((tmp_path / "child").read_text())
    try:
        os.kill(child, 0)
        monkeypatch.setattr(gate, "namespace", lambda: "pid:[1]")
        assert lock.alive(lock.holder(tmp_path)) is False
        WriterLock.acquire(tmp_path).check()
    finally:
        os.kill(child, signal.SIGKILL)


def test_a_change_that_stands_still_is_waited_for_only_for_a_while(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "PATIENCE_S", 0.05)
    write_lock(tmp_path, host="elsewhere", boot="another")
    with fence.alone(tmp_path), pytest.raises(LockedError, match=r"has not gone on for 0\.05 s\. It may be suspended"):
        WriterLock.acquire(tmp_path, steal=True)
    assert lock.holder(tmp_path).token == "theirs"
    WriterLock.acquire(tmp_path, steal=True).check()


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"null", b"[]", b"{}", b'{"pid": "x"}', b'{"pid": null, "host": "h"}', b'{"pid": true}', b"\xff\xfe"],
)
def test_a_damaged_lock_blocks_nobody(tmp_path, content):
    (tmp_path / layout.LOCK).write_bytes(content)
    assert lock.holder(tmp_path) is None
    WriterLock.acquire(tmp_path).check()


def test_a_folder_that_cannot_be_written_is_a_store_error(tmp_path, monkeypatch):
    with monkeypatch.context() as m:
        m.setattr(lock.os, "replace", failing(errno.EROFS))
        with pytest.raises(StoreError, match="Make the folder writable"):
            WriterLock.acquire(tmp_path)
    assert temps(tmp_path) == []
    assert lock.holder(tmp_path) is None
    with pytest.raises(StoreError):
        WriterLock.acquire(tmp_path / "nowhere")


@pytest.mark.parametrize("calls", [["fcntl"], ["fcntl", "flock"]], ids=["no OFD locks", "nor flock"])
def test_where_the_file_system_cannot_lock_the_lock_still_works(tmp_path, monkeypatch, calls):
    for call in calls:
        monkeypatch.setattr(_locks._fcntl, call, failing(errno.ENOLCK))
    held = WriterLock.acquire(tmp_path)
    held.check()
    with pytest.raises(LockedError):
        WriterLock.acquire(tmp_path)
    monkeypatch.setattr(gate, "namespace", lambda: "pid:[1]")  # another container cannot ask for what was not locked
    assert lock.alive(lock.holder(tmp_path)) is None
    with pytest.raises(LockedError, match="--steal"):
        WriterLock.acquire(tmp_path)
    held.release()
    WriterLock.acquire(tmp_path).release()


def test_cleaning_temps_does_not_take_the_lock(tmp_path):
    held = WriterLock.acquire(tmp_path)
    files.clean_temps(tmp_path)
    held.check()


@pytest.mark.parametrize("before", [pytest.param("nobody", marks=pytest.mark.slow), "a dead holder"])
def test_of_many_processes_exactly_one_gets_the_lock(tmp_path, before):
    folder, gate = tmp_path / "experiment", tmp_path / "gate"
    folder.mkdir()
    gate.mkdir()
    if before == "a dead holder":
        leave_by_dying(folder)
    racers = [start_python(RACER, folder, gate, i) for i in range(8)]
    try:
        wait_for(lambda: len(list(gate.iterdir())) == len(racers))
        (gate / "go").touch()
        said = [r.stdout.readline().strip() for r in racers]
        (gate / "done").touch()
        ends = [(r.wait(timeout=200), r.stderr.read()) for r in racers]
    finally:
        for r in racers:
            r.kill()
            r.communicate()
    assert ends == [(0, "")] * len(racers)
    assert sorted(said) == ["lost"] * (len(racers) - 1) + ["won"]
    assert temps(folder) == []


@pytest.mark.parametrize("make", [os.mkfifo, Path.mkdir, lambda path: path.write_text("[" * 200_000)])
def test_something_that_is_no_lock_has_no_holder(tmp_path, make):
    make(tmp_path / layout.LOCK)
    assert lock.holder(tmp_path) is None


def test_a_lock_whose_taking_fails_after_its_file_was_written_is_given_back(tmp_path, monkeypatch):
    (tmp_path / layout.CONFIG).write_text("{}")

    def failing(folder: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as m:
        m.setattr(files, "fsync_folder", failing)
        with pytest.raises(StoreError, match=r"No space left on device\. Free space"):
            WriterLock.acquire(tmp_path)
    assert not (tmp_path / layout.LOCK).exists()
    WriterLock.acquire(tmp_path).release()
