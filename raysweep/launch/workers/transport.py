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
from raysweep.store.root import Root
from raysweep.training.job import Job


def portable(job: Job) -> Job:
    """``job`` as it can be sent."""
    return _with(job, Root.address_of)


def arrived(job: Job) -> Job:
    """``job`` with the paths of this machine."""
    if not is_address(job.folder):
        return job
    Root.open(job.settings.root, look=False)
    job = _with(job, lambda text: str(Root.locate(text)))
    for folder in {Path(job.folder), *([Path(job.start).parent] if job.start else [])}:
        Root.at(folder.parent).refresh(folder)
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
    return replace(plan, parent=_at(plan.parent, lambda path: Path(Root.address_of(path))))


def arrived_plan(plan: Plan) -> Plan:
    """The same with the paths of this machine."""
    root = Root.open(plan.root.address, look=False)
    return replace(plan, root=root, parent=_at(plan.parent, Root.locate))


def _at(parent: Parent | None, named: Callable[[Path], Path]) -> Parent | None:
    return None if parent is None else replace(parent, path=named(parent.path))
