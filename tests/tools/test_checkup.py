"""What ``doctor`` says of a machine, each with its remedy."""

from __future__ import annotations

import os
import shutil
import socket
from collections import namedtuple
from pathlib import Path

import pytest

from raysweep import _locks, _machine
from raysweep.cluster import machine
from raysweep.tools import checkup
from raysweep.tools.checkup import FAULT, NOTE, OK


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    """A machine of four CPUs on which all is well."""
    monkeypatch.setattr(_machine, "cpus_here", lambda: 4)
    monkeypatch.setattr(os, "getloadavg", lambda: (0.5, 0.5, 0.5))
    monkeypatch.setattr(_machine, "cpu_quota", lambda: None)
    monkeypatch.setattr(machine, "object_store", lambda: (None, None))


def levels() -> set[str]:
    return {found.level for found in checkup.system() if "dashboard" not in found.text}


def told(level: str) -> str:
    return " ".join(f.text for f in checkup.system() if f.level == level)


def test_a_quiet_machine_is_well():
    assert levels() == {OK}
    assert "The load is 0.5 on 4 CPUs." in told(OK)


def test_a_busy_machine_is_told(monkeypatch):
    monkeypatch.setattr(os, "getloadavg", lambda: (14.2, 0, 0))
    assert "4 CPUs, load 14: other programs use them, too" in told(NOTE)
    assert "scaling.threads=1" in told(NOTE)


def test_the_quota_of_a_container_is_told(monkeypatch):
    monkeypatch.setattr(_machine, "cpu_quota", lambda: 1.5)
    assert "This container may use 1.5 CPUs at a time" in told(OK)


@pytest.mark.parametrize("home", ["gone", None])
def test_a_home_that_cannot_be_used_is_told(monkeypatch, tmp_path, home):
    def of_nobody() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", of_nobody if home is None else lambda: tmp_path / home)
    assert "set HOME to a folder of yours" in told(NOTE)


def test_a_home_that_cannot_be_written_is_told(monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert "cannot be written: set HOME" in told(NOTE)


def test_full_shared_memory_and_missing_locks_are_told(monkeypatch):
    monkeypatch.setattr(machine, "object_store", lambda: (1, "/dev/shm has 3 MB free, …"))
    monkeypatch.setattr(_locks, "_fcntl", None)
    if Path("/dev/shm").is_dir():
        assert "/dev/shm has 3 MB free" in told(NOTE)
    assert "no locks on files" in told(FAULT)


def test_a_firewall_and_a_taken_port_are_told(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as other:
        monkeypatch.setattr(checkup, "DASHBOARD", other.getsockname()[1])
        assert f"Port {other.getsockname()[1]} is taken" in told(NOTE)

    def refused(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(socket, "create_connection", refused)
    assert "cannot reach each other on 127.0.0.1" in told(FAULT)


def test_how_much_of_the_disk_a_run_takes(monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(0, 0, 5 * 10**9))
    found = checkup.of_run(100, 10**6, "adamw", (None, None), Path("/x"))
    assert found.level == OK
    assert "1,000,000 parameters: about 16 MB an epoch, and 1.6 GB for 100 epochs" in found.text
    assert "5.0 GB are free" in found.text
    found = checkup.of_run(1000, 10**6, "sgd", (None, None), Path("/x"))
    assert found.level == NOTE
    assert "take about 12.0 GB, and 5.0 GB are free" in found.text
