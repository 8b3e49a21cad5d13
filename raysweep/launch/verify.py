"""Is a checkpoint what it claims to be: whole, loadable, complete; and does training from it give the recorded bits?"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raysweep.errors import RaysweepError
from raysweep.launch import child, trackers
from raysweep.launch import run as launching
from raysweep.launch.run import Progress, ignore
from raysweep.store import checkpoint, mirror
from raysweep.store.experiment import Entry, Experiment

NEEDED = ("classes", "sampling_weights", "rng_state", "sampler_state", "current_batch", "total_batches", "world_size")


def problems(experiment: Experiment, entry: Entry) -> list[str]:
    """What is wrong with one committed checkpoint; empty where nothing is."""
    wrong = entry.verify(experiment.folder)
    if wrong is not None:
        return [wrong]
    try:
        saved = checkpoint.read_checkpoint(experiment.folder / entry.file)
    except RaysweepError as error:
        return [str(error)]
    found = [f"{entry.file} lacks {key}" for key in NEEDED if key not in saved]
    if found:
        return found
    classes = experiment.config().get("classes")
    if classes is not None and list(saved["classes"]) != list(classes):
        found.append(f"{entry.file} has the classes {', '.join(saved['classes'])}, the experiment {', '.join(classes)}")
    if len(saved["rng_state"]) != int(saved["world_size"]):
        found.append(
            f"{entry.file} has the generators of {len(saved['rng_state'])} ranks, not of {saved['world_size']}"
        )
    place = (int(saved["epoch"]) + (entry.batch is not None), int(saved["current_batch"]) or None)
    if place != (entry.epoch, entry.batch):
        found.append(
            f"{entry.file} stands at epoch {place[0]}, batch {place[1]}, the manifest says {entry.epoch}, {entry.batch}"
        )
    return found


@dataclass(frozen=True)
class Replay:
    """What training an epoch again gave."""

    differences: list[str]  # which tensors differ and by how much at most; empty where all bits are equal
    conditions: list[str]  # what was not as it had been: with these, other bits are no fault


def replay(root: Path, experiment: Experiment, entry: Entry, after: Entry, progress: Progress = ignore) -> Replay:
    """Train the epoch after ``entry`` again and compare with the recorded ``after``, bit for bit."""
    import torch

    from raysweep.training import conditions

    parent = child.read_parent(root, str(experiment.folder / entry.file))
    with tempfile.TemporaryDirectory(prefix="raysweep-replay-") as folder:
        cache = str(launching.cache_dir(_settings(experiment)).resolve())
        over = {"data": {"cache_dir": cache}, "trackers": trackers.OFF}
        plan = child.plan_child(parent, folder, epochs=1, name="replay", overrides=over)
        again = launching.run(plan, progress).experiment
        mine = checkpoint.read_checkpoint(again.folder / again.entry("latest").file)
    recorded = checkpoint.read_checkpoint(experiment.folder / after.file)
    found = []
    for part in ("model_state_dict", "optimizer_state_dict"):
        old, new = dict(_tensors(recorded[part])), dict(_tensors(mine[part]))
        for name in old:
            if name not in new or not torch.equal(old[name], new[name]):
                far = float((old[name].double() - new[name].double()).abs().max()) if name in new else float("nan")
                found.append(f"{part} {name} differs by up to {far:.3g}")
    now, then = conditions.of_checkpoint(mine), conditions.of_checkpoint(recorded)
    return Replay(found, conditions.differences(then, now))


def _settings(experiment: Experiment) -> Any:
    from raysweep.config import Settings

    return Settings.model_validate(
        {**experiment.config()["settings"], "root": mirror.root_address(experiment.folder.parent)}
    )


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
