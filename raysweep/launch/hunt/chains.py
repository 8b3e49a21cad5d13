"""Trainings of a hunt beside its sweeps: each is an ordinary child of the one before."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from raysweep._text import Nested
from raysweep.config import cells
from raysweep.config import load as load_config
from raysweep.errors import StoreError
from raysweep.events import Progress
from raysweep.launch.sweep import steps
from raysweep.launch.sweep.steps import How
from raysweep.plan import child
from raysweep.plan import parent as parents
from raysweep.plan.hunt.plan import settings_before
from raysweep.plan.hunt.space import Treatment
from raysweep.plan.sweep import common
from raysweep.plan.types import Plan, SweepRequest
from raysweep.store import checkpoint
from raysweep.store.experiment import Experiment
from raysweep.store.hunts import Hunt
from raysweep.store.records import Json


@dataclass(frozen=True)
class Link:
    """One training to be: ``key`` in ``hunt.json``, its name, the checkpoint that it starts from, what it does; ``seed``: None for that of its
    parent."""

    key: str
    name: str
    start: str
    treatment: Treatment
    seed: int | None = None


def trained(hunt: Hunt, link: Link, how: How, progress: Progress) -> Experiment:
    """The finished training of a link: it is trained now, or goes on, or is there already."""
    begun, note = hunt.step(link.key), partial(hunt.note_step, link.key)
    return steps.trained(hunt.root, link.name, begun, partial(_plan, hunt, link, how), note, how, progress)


def _plan(hunt: Hunt, link: Link, how: How, progress: Progress) -> Plan:
    """The plan of a link: with what the sweeps' branches override, so that the bits are theirs."""
    record = hunt.record()
    asked = request(hunt, link.start, record.rounds[0].grid, how)
    parent = parents.read_parent(hunt.root, link.start, asked.overrides, trust=how.trust)
    over = _as_branches(hunt, asked, common(asked, parent))
    before = settings_before(parent, over)
    over = load_config.merge(over, cells.overrides(cells.differing(link.treatment.settings, before)))
    if link.treatment.shares:
        over = load_config.merge(over, {"sampling": {"shares": dict(link.treatment.shares)}})
    if link.seed is not None:
        over = load_config.merge(over, {"seed": link.seed})
    return child.plan_child(
        parent,
        hunt.root,
        name=link.name,
        description=f"{link.key} of hunt {record.id}",
        epochs=record.epochs,
        weights=link.treatment.weights or None,
        overrides=over,
        progress=progress,
    )


def _as_branches(hunt: Hunt, asked: SweepRequest, over: Nested) -> Nested:
    """``over`` with the threads that the branches had on a cluster: a run by itself would take as many as its node has CPUs."""
    first = hunt.sweep(1)
    threads = None if first is None or asked.address is None or asked.threads else first.record().threads
    return load_config.merge(over, {"scaling": {"threads": threads}}) if threads else over


def request(hunt: Hunt, start: str, grid: Json, how: How) -> SweepRequest:
    """What is asked of a sweep from ``start``; see :func:`raysweep.launch.sweep.steps.request`."""
    record = hunt.record()
    given = {**record.request, "epochs": record.epochs}
    if start != record.parent.reference:
        # Its settings have them already. A round may have changed one of them since, which stays.
        given["overrides"] = None
    return steps.request(hunt, start, grid, how, given)


def end_of(experiment: Experiment) -> str:
    """The reference of its last epoch.

    Raises:
        StoreError: it has none.
    """
    ends = experiment.manifest().ends
    if not ends:
        raise StoreError(f"{experiment.id} has no finished epoch, so nothing can start from it.")
    return f"{experiment.id}@{ends[-1].epoch}"


def same_bits(one: Experiment, other: Experiment) -> bool:
    """Whether the networks of both last epochs are equal, bit for bit."""
    import torch

    states = [_network(e) for e in (one, other)]
    names = [set(state) for state in states]
    return names[0] == names[1] and all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def _network(experiment: Experiment) -> Mapping[str, Any]:
    last = experiment.manifest().ends[-1]
    state: Mapping[str, Any] = checkpoint.read(experiment.folder / last.file)["model_state_dict"]
    return state
