"""Jobs and plans on their way to other machines, on which the copy of a root on an object store is in another folder.

What is sent contains addresses instead of paths. The receiver opens the root and reads what others have written into the
folders that it needs. If the root is a folder, nothing changes: all machines have it under the same path.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from raysweep._paths import is_address
from raysweep.plan.types import Parent, Plan
from raysweep.store.remote import root as remote
from raysweep.training.job import Job


def portable(job: Job) -> Job:
    """``job`` as it can be sent."""
    return _with(job, remote.address)


def arrived(job: Job) -> Job:
    """``job`` with the paths of this machine."""
    if not is_address(job.folder):
        return job
    remote.open_root(job.settings.root, pull=False)
    job = _with(job, lambda text: str(remote.place(text)))
    for folder in {Path(job.folder), *([Path(job.start).parent] if job.start else [])}:
        remote.refresh(folder)
    return job


def _with(job: Job, named: Callable[[str], str]) -> Job:
    return replace(
        job,
        folder=named(job.folder),
        cache_dir=named(job.cache_dir),
        cache_folder=named(job.cache_folder),
        start=None if job.start is None else named(job.start),
    )


def portable_plan(plan: Plan) -> Plan:
    """The plan of a sweep's branches as it can be sent."""
    return replace(plan, parent=_at(plan.parent, lambda path: Path(remote.address(path))))


def arrived_plan(plan: Plan) -> Plan:
    """The same with the paths of this machine."""
    root = remote.open_root(plan.settings.root, pull=False)
    return replace(plan, root=root, parent=_at(plan.parent, remote.place))


def _at(parent: Parent | None, named: Callable[[Path], Path]) -> Parent | None:
    return None if parent is None else replace(parent, path=named(parent.path))
