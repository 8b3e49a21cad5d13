"""Jobs and plans on their way to other machines: a root on an object store has its copy in another folder there.

What travels names places by their addresses; who receives it opens the root, and sees what others have written into the
folders that it will read. Where the root is a folder, nothing changes: all machines see it under the same path.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from raysweep._paths import is_address
from raysweep.plan.types import Parent, Plan
from raysweep.store.root import Root
from raysweep.training.job import Job

_OF_A_JOB = ("folder", "cache_dir", "cache_folder", "start")


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
    paths: dict[str, Any] = {k: named(v) for k in _OF_A_JOB if (v := getattr(job, k)) is not None}
    return replace(job, **paths)


def portable_plan(plan: Plan) -> Plan:
    """The plan of a sweep's branches as it can be sent."""
    return replace(plan, parent=_at(plan.parent, lambda path: Path(Root.address_of(path))))


def arrived_plan(plan: Plan) -> Plan:
    """The same with the paths of this machine."""
    root = Root.open(plan.root.address, look=False)
    return replace(plan, root=root, parent=_at(plan.parent, Root.locate))


def _at(parent: Parent | None, named: Callable[[Path], Path]) -> Parent | None:
    return None if parent is None else replace(parent, path=named(parent.path))
