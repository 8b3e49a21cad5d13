"""Train an epoch again from its checkpoint and compare the bits with what was recorded."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from raysweep import _scratch
from raysweep.events import Progress, ignore
from raysweep.launch import run as launching
from raysweep.plan import child
from raysweep.plan import experiment as experiment_plan
from raysweep.plan import parent as parents
from raysweep.plan.upgrade import completed
from raysweep.store import checkpoint
from raysweep.store.experiment import Experiment
from raysweep.store.records_manifest import ManifestEntry
from raysweep.store.root import Root
from raysweep.store.trust import NOBODY, Trust
from raysweep.trackers import base as trackers


@dataclass(frozen=True)
class Replay:
    """What training an epoch again gave."""

    difference: str | None  # how many tensors differ, and by how much; None where all bits are equal
    conditions: list[str]  # what was not as it had been: with these, other bits are no fault
    unrecorded: list[str]  # conditions that the checkpoint does not record, so that nobody knows whether they differ


def replay(
    root: Root,
    experiment: Experiment,
    entry: ManifestEntry,
    after: ManifestEntry,
    progress: Progress = ignore,
    trust: Trust = NOBODY,
) -> Replay:
    """Train the epoch after ``entry`` again and compare with the recorded ``after``, bit for bit.

    Raises:
        UntrustedError: the checkpoint names code that nobody has approved.
    """
    from raysweep.training import conditions

    parent = parents.read_parent(root, str(experiment.folder / entry.file), trust=trust)
    with _scratch.within("replay") as folder:
        cache = str(experiment_plan.cache_dir(_settings(experiment), experiment.root).resolve())
        over = {"data": {"cache_dir": cache}, "trackers": trackers.OFF}
        plan = child.plan_child(parent, Root.open(folder), epochs=1, name="replay", overrides=over)
        again = launching.run(plan, progress).experiment
        mine = checkpoint.read_checkpoint(again.folder / again.entry("latest").file)
    recorded = checkpoint.read_checkpoint(experiment.folder / after.file)
    now, then = conditions.of_checkpoint(mine), conditions.of_checkpoint(recorded)
    changed = conditions.differences(then, now)
    if parent.data_sha256 not in (None, plan.data.sha256):
        changed.append("other images")
    return Replay(_difference(recorded, mine), changed, conditions.unrecorded(then, now))


def _difference(recorded: Mapping[str, Any], mine: Mapping[str, Any]) -> str | None:
    """How far two checkpoints are apart, in words; None where weights and optimizer have the same bits."""
    import torch

    apart: dict[str, float] = {}
    count = 0
    for part in ("model_state_dict", "optimizer_state_dict"):
        old, new = dict(_tensors(recorded[part])), dict(_tensors(mine[part]))
        count += len(old)
        for name, tensor in old.items():
            there = new.get(name)
            if there is None or there.shape != tensor.shape:
                apart[f"{part} {name}"] = math.inf
            elif not torch.equal(tensor, there):
                far = (tensor.double() - there.double()).abs().nan_to_num(math.inf)
                apart[f"{part} {name}"] = float(far.max())
    if not apart:
        return None
    most = max(apart, key=apart.__getitem__)
    return f"{len(apart)} of {count} tensors differ, the most {most}, by up to {apart[most]:.3g}"


def _settings(experiment: Experiment) -> Any:
    from raysweep.config.settings import Settings

    return Settings.model_validate({**completed(experiment.config().settings or {}), "root": experiment.root.address})


def _tensors(value: Any, prefix: str = "") -> list[tuple[str, Any]]:
    import torch

    if isinstance(value, torch.Tensor):
        return [(prefix, value)]
    items: list[tuple[Any, Any]] = []
    if isinstance(value, Mapping):
        items = list(value.items())
    elif isinstance(value, (list, tuple)):
        items = list(enumerate(value))
    return [row for key, item in items for row in _tensors(item, f"{prefix}.{key}" if prefix else str(key))]
