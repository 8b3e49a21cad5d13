"""What ``doctor`` looks at on this machine, and the remedy where something is not well."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from raysweep import _locks, _machine
from raysweep._text import counted
from raysweep.store import space

OK, NOTE, FAULT = "ok", "note", "FAULT"
DASHBOARD = 8265  # Ray's, which takes the next one where this is taken
_SHM = Path("/dev/shm")


@dataclass(frozen=True)
class Found:
    """One thing that was looked at: ``OK``, a ``NOTE`` that should be known, or a ``FAULT``."""

    level: str
    text: str


def system() -> Iterator[Found]:
    """What does not depend on any library."""
    yield from _home()
    yield from _locked()
    yield from _load()
    yield from _shared_memory()
    yield from _ports()


def _home() -> Iterator[Found]:
    try:
        home = Path.home()
    except RuntimeError:
        yield Found(
            NOTE, "This user has no home folder: set HOME to a folder of yours, for Ray's token and what you approve."
        )
        return
    if not home.is_dir():
        yield Found(NOTE, f"The home folder {home} is not there: set HOME to a folder of yours.")
    elif not os.access(home, os.W_OK | os.X_OK):
        yield Found(NOTE, f"The home folder {home} cannot be written: set HOME to a folder of yours.")
    else:
        yield Found(OK, f"The home folder {home} is writable.")


def _locked() -> Iterator[Found]:
    try:
        _locks.demand()
        yield Found(OK, "The system has locks on files.")
    except Exception as error:
        yield Found(FAULT, str(error))


def _load() -> Iterator[Found]:
    cpus, quota = _machine.cpus_here(), _machine.cpu_quota()
    if quota is not None:
        yield Found(
            OK, f"This container may use {quota:g} CPUs at a time; scaling.threads is {cpus} unless you set it."
        )
    busy = _machine.busy()
    if busy is not None:
        yield Found(NOTE, f"{busy} Fewer threads wait for each other less: scaling.threads=1.")
    elif hasattr(os, "getloadavg"):
        yield Found(OK, f"The load is {os.getloadavg()[0]:.1f} on {counted(cpus, 'CPU')}.")


def _shared_memory() -> Iterator[Found]:
    if _SHM.is_dir():
        from raysweep.cluster import machine

        note = machine.object_store()[1]
        free = space.size(shutil.disk_usage(_SHM).free)
        yield Found(OK, f"/dev/shm has {free} free.") if note is None else Found(NOTE, note)


def _ports() -> Iterator[Found]:
    """Whether processes of this machine can reach each other, as Ray's must."""
    try:
        with (
            socket.create_server(("127.0.0.1", 0)) as server,
            socket.create_connection(server.getsockname(), timeout=5),
        ):
            pass
    except OSError as error:
        yield Found(
            FAULT,
            f"Processes of this machine cannot reach each other on 127.0.0.1 ({error}), as Ray's must. Allow it in the firewall or the "
            "container's settings.",
        )
        return
    with socket.socket() as mine:
        mine.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            mine.bind(("127.0.0.1", DASHBOARD))
            yield Found(OK, f"Ports of 127.0.0.1 can be used; {DASHBOARD} is free for Ray's dashboard.")
        except OSError:
            yield Found(NOTE, f"Port {DASHBOARD} is taken, so Ray's dashboard will take the next one.")


def of_run(epochs: int, parameters: int, optimizer: str, keep: tuple[int | None, int | None], folder: Path) -> Found:
    """How much of the disk a run will take.

    Args:
        keep: ``last`` and ``every`` of ``checkpoint.keep``.
    """
    each = space.of_epoch(parameters, optimizer)
    short = space.too_little(folder, epochs, each, keep)
    if short is not None:
        return Found(NOTE, short)
    there = space.free(folder)
    left = "" if there is None else f"; {space.size(there)} are free"
    return Found(
        OK,
        f"{counted(parameters, 'parameter')}: about {space.size(each)} an epoch, and "
        f"{space.size(space.epochs_kept(epochs, *keep) * each)} for {counted(epochs, 'epoch')} with this checkpoint.keep{left}.",
    )
