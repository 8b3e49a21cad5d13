"""What keeps Ray from starting here is said in one line with the remedy, by ``doctor`` too, before Ray is asked."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest

from raysweep import _machine
from raysweep.cluster import connect, machine
from raysweep.errors import ResourceError
from raysweep.plan import resources
from tests.cli.test_errors import run_cli

Disk = namedtuple("Disk", "total used free")


@pytest.fixture(autouse=True)
def well(tmp_path, monkeypatch):
    """A user with a home and a short temporary folder."""
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE", "TMPDIR", "OMP_THREAD_LIMIT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("RAY_TMPDIR", "/tmp")
    assert list(machine.obstacles()) == []


def the_obstacle() -> str:
    """The one obstacle, which is also the error of a start."""
    (text,) = machine.obstacles()
    assert "\n" not in text
    with pytest.raises(ResourceError) as refused:
        connect.connect(None)
    assert str(refused.value) == f"Ray cannot be started on this machine: {text}"
    return text


def test_a_temporary_folder_with_a_long_path(tmp_path, monkeypatch):
    most = machine.LONGEST_SOCKET - len(f"/ray/{machine.SESSION}")
    monkeypatch.setenv("RAY_TMPDIR", "/tmp/" + "x" * (most - len("/tmp/")))
    assert list(machine.obstacles()) == []
    monkeypatch.setenv("RAY_TMPDIR", "/tmp/" + "x" * (most - len("/tmp/") + 1))
    told = the_obstacle()
    assert f"its sockets would have {machine.LONGEST_SOCKET + 1} bytes" in told
    assert "Set RAY_TMPDIR to a short path" in told


def test_the_folder_is_where_ray_itself_puts_it(monkeypatch):
    from ray._common.utils import get_default_ray_temp_dir

    for name, value in (("RAY_TMPDIR", "/a"), ("TMPDIR", "/b")):
        monkeypatch.delenv("RAY_TMPDIR", raising=False)
        monkeypatch.setenv(name, value)
        assert str(machine.ray_folder()) == get_default_ray_temp_dir() == f"{value}/ray"


def test_a_temporary_folder_of_another_user(monkeypatch):
    monkeypatch.setattr(machine.os, "access", lambda path, mode: str(path) != "/tmp/ray" and str(path) != "/tmp")
    assert "Ray's temporary folder /tmp/ray cannot be written by this user. Set RAY_TMPDIR" in the_obstacle()


def test_a_temporary_folder_that_is_a_file(tmp_path, monkeypatch):
    (tmp_path / "t").touch()
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / "t"))
    monkeypatch.setattr(machine, "LONGEST_SOCKET", 1000)
    assert "cannot be written" in the_obstacle()


def test_a_full_temporary_folder(monkeypatch):
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda path: Disk(10**12, 10**12, 3 * 10**6))
    assert "has 3 MB free, and Ray needs 200. Remove old sessions there" in the_obstacle()


def test_a_user_without_a_home(monkeypatch):
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(machine.Path, "home", staticmethod(homeless))
    assert "no home folder" in the_obstacle()
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "/somewhere/else")
    assert list(machine.obstacles()) == []
    monkeypatch.delenv("HOME")
    assert connect.dashboard_hint("http://here")  # it may not know where ~ is


@pytest.mark.parametrize("home", ["/proc", "/nowhere"])
def test_a_home_that_cannot_be_written(monkeypatch, home):
    monkeypatch.setenv("HOME", home)
    monkeypatch.setattr(machine.os, "access", lambda path, mode: str(path).startswith("/tmp"))
    assert f"token cannot be written to {home}/.ray/auth_token. Set HOME" in the_obstacle()


def test_small_limits(monkeypatch):
    limits = {resource.RLIMIT_NOFILE: (64, 4096), resource.RLIMIT_AS: (resource.RLIM_INFINITY,) * 2}
    monkeypatch.setattr(resource, "getrlimit", limits.__getitem__)
    monkeypatch.setattr(resource, "setrlimit", limits.__setitem__)
    assert list(machine.obstacles()) == []
    assert limits[resource.RLIMIT_NOFILE] == (machine.FILES, 4096)  # it may be raised, so it was
    limits[resource.RLIMIT_NOFILE] = (64, 256)
    told = the_obstacle()
    assert told.startswith(f"This process may use only 256 open files, and {machine.FILES:,} are needed.")
    assert f"ulimit -n {machine.FILES}" in told
    limits[resource.RLIMIT_NOFILE] = (4096, 4096)
    limits[resource.RLIMIT_AS] = (2**30, 2**30)
    assert f"ulimit -v {machine.ADDRESS_SPACE // 1024}" in the_obstacle()


@pytest.mark.parametrize(
    ("free_mb", "expected"), [(20_000, None), (1_000, 800 * 10**6), (10, machine.STORE_BYTES)]
)  # fmt: skip
def test_a_full_shared_memory_gets_a_smaller_object_store(monkeypatch, free_mb, expected):
    monkeypatch.setattr(machine, "_SHM", Path("/"))
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda path: Disk(0, 0, free_mb * 10**6))
    monkeypatch.setattr(_machine, "memory_here", lambda: 32 * 10**9)
    size, note = machine.object_store()
    assert size == expected
    assert (note is not None) == (free_mb == 10)


@pytest.mark.parametrize(
    ("limit", "threads", "right"),
    [("1", 2, False), ("1", 1, True), ("4", 2, True), ("", 2, True), ("many", 2, True), ("0", 2, True)],
)
def test_fewer_threads_than_a_training_waits_for(monkeypatch, limit, threads, right):
    from raysweep.config.running import ScalingSection

    monkeypatch.setenv("OMP_THREAD_LIMIT", limit)
    monkeypatch.setattr(_machine, "cpus_here", lambda: 4)
    monkeypatch.setattr(resources, "gpus_here", lambda: 0)
    wanted = ScalingSection(num_workers=0, threads=threads)
    if right:
        assert resources.decide(wanted).threads == threads
    else:
        with pytest.raises(ResourceError, match=r"OMP_THREAD_LIMIT=1 .* scaling.threads=1"):
            resources.decide(wanted)


def test_doctor_looks(capsys, monkeypatch, tmp_path):
    _, out, _ = run_cli(capsys, "doctor", "--root", tmp_path)
    assert "ok     Ray can be started on this machine; its files lie in /tmp/ray" in out
    monkeypatch.setenv("RAY_TMPDIR", f"/tmp/{'x' * 90}")
    monkeypatch.setenv("OMP_THREAD_LIMIT", "1")
    monkeypatch.setattr(_machine, "cpus_here", lambda: 4)
    code, out, _ = run_cli(capsys, "doctor", "--root", tmp_path)
    faults = [line for line in out.splitlines() if line.startswith("FAULT")]
    assert code == 1
    assert ["OMP_THREAD_LIMIT=1" in faults[0], "too long a path" in faults[1]] == [True, True]
    assert len(faults) == 2


def test_too_little_address_space_for_torch_is_said_before_it_is_loaded(tmp_path):
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    command = f"ulimit -v 2000000; {sys.executable} -m raysweep run none.yaml --root {tmp_path}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, env=environment)
    assert done.returncode == 2
    assert "error: This process may use only 2,048,000,000 bytes of address space" in done.stderr
    assert "`ulimit -v 6291456`" in done.stderr


def test_a_fork_ends_no_cluster_of_its_parent(monkeypatch):
    """A fork knows what its parent has started, and may end like a program that a signal has stopped."""
    import os

    from raysweep.cluster import connect, processes

    ended: list[str] = []
    monkeypatch.setattr(processes, "end", ended.append)
    with processes.marked() as mark:
        pass
    for started in ([mark], [f"{os.getpid() + 1}-abcd1234"], [mark, f"{os.getppid()}-abcd1234"]):
        monkeypatch.setattr(connect, "_started", started)
        connect._end_processes()
        assert started == []
    assert ended == [mark, mark]
