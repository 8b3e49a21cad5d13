"""The commands that make an experiment again, as a user would type them."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from raysweep.errors import StoreError
from raysweep.store import layout, lineage
from raysweep.store.experiment import Experiment
from raysweep.store.remote import root as remote
from raysweep.store.sweep import Sweep

# What ``resume`` finds out by itself, or has an option of its own for.
_OWN = ("experiment.", "root", "sampling.weights", "training.epochs", "training.schedule_epochs")


def of_child(experiment: Experiment) -> str | None:
    """The ``raysweep resume`` that makes a child again, with the same bits on the same machine; None where it has no parent.

    Raises:
        StoreError: its configuration or its log cannot be read.
    """
    config = experiment.config()
    parent = config.get("parent")
    if not parent:
        return None
    root = experiment.folder.parent
    words = ["raysweep", "resume", "--from", reference(root, parent), "--epochs", str(config.get("num_epochs") or 1)]
    weights, overrides = _changed(experiment)
    if weights:
        words += ["--weights", json.dumps(weights, ensure_ascii=False)]
    if config.get("fresh_optimizer"):
        words.append("--weights-only")
    return shlex.join([*words, *_assignments(overrides), *_root(root)])


def reference(root: Path, parent: Mapping[str, Any]) -> str:
    """What ``--from`` takes for a recorded parent: ``EXPERIMENT@5``, or the file where it is none of an epoch's end under
    this root."""
    name = str(parent.get("experiment", "PARENT"))
    here = Path(name).name == name and (root / name / layout.MANIFEST).is_file()
    file = parent.get("file")
    return str(file) if file and (parent.get("batch") or not here) else f"{name}@{parent.get('epoch', 'latest')}"


def _root(root: Path) -> list[str]:
    """The option that names the root where it is not the one that is looked into."""
    usual = remote.open_root(os.environ.get("RAYSWEEP_ROOT") or "experiments", pull=False)
    return [] if root.resolve() == usual.resolve() else ["--root", remote.root_address(root)]


def _changed(experiment: Experiment) -> tuple[dict[str, float], dict[str, Any]]:
    """(weights, settings) in which a child differs from its parent, and what had to be said of the parent, as its log tells."""
    weights: dict[str, float] = {}
    overrides: dict[str, Any] = {}
    for event in lineage.early(experiment.folder):
        if event["type"] == lineage.RATIO and isinstance(event.get("old_weights"), dict):
            old, new = event["old_weights"], event.get("new_weights") or {}
            weights = {str(c): w for c, w in new.items() if old.get(c) != w}
        elif event["type"] == lineage.RESUME and isinstance(event.get("given"), dict):
            overrides |= event["given"]
        elif event["type"] == lineage.CONFIGURATION and isinstance(event.get("changes"), dict):
            for key, pair in event["changes"].items():
                if not str(key).startswith(_OWN) and isinstance(pair, list) and len(pair) == 2:
                    overrides[str(key)] = pair[1]
    return weights, overrides


def _assignments(overrides: dict[str, Any]) -> list[str]:
    return [f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in overrides.items()]


def of_sweep(sweep: Sweep) -> tuple[str, str]:
    """(the ``raysweep branch`` that makes a sweep again, the grid file it takes).

    Raises:
        StoreError: ``sweep.json`` cannot be read.
    """
    from raysweep.config import yaml as yaml_file

    plan = sweep.plan()
    parent = plan.get("parent")
    if not parent:
        raise StoreError(f"{sweep.folder} does not say which checkpoint it started from.")
    words = ["raysweep", "branch", "--from", reference(sweep.root, parent), "--weights-grid", "grid.yaml"]
    if plan.get("epochs"):
        words += ["--epochs", str(plan["epochs"])]
    if plan.get("threads"):
        words += ["--threads", str(plan["threads"])]
    for experiment in list(sweep.experiments().values())[:1]:  # in what all branches differ from the parent
        _, overrides = _changed(experiment)
        words += _assignments({k: v for k, v in overrides.items() if k not in ("seed", "scaling.threads")})
    grid = {k: v for k, v in (plan.get("grid") or {}).items() if v not in (None, [], {})}
    return shlex.join([*words, *_root(sweep.root)]), yaml_file.dump(grid)


def settings_of(experiment: Experiment) -> str | None:
    """The whole configuration as a file for ``raysweep run``; None of one that the old system made."""
    from raysweep.config import yaml as yaml_file

    config = experiment.config()
    settings = None if config.get("imported_from") else config.get("settings")  # another program made that one
    return yaml_file.dump(settings) if settings else None
