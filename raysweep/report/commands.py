"""The commands that reproduce an experiment or a sweep, as a user would type them."""

from __future__ import annotations

import json
from pathlib import Path

from raysweep._text import Nested, hide_credentials
from raysweep.errors import StoreError
from raysweep.store import layout, lineage, ratio
from raysweep.store.commands import command
from raysweep.store.experiment import Experiment
from raysweep.store.records import ExperimentConfig, ParentRef
from raysweep.store.records_sweep import SweepRecord
from raysweep.store.root import Root
from raysweep.store.sweep import Sweep

# Settings that ``resume`` derives by itself, or has an option for.
_OWN = ("experiment.", "root", "sampling.weights", "training.epochs", "training.schedule_epochs")
_PLANNED = ("training.fork.start", "training.fork.end", "training.fork.rate")  # which planning fills in


def of_child(experiment: Experiment) -> str | None:
    """The ``raysweep resume`` that reproduces a child, to the bit on the same machine; None if it has no parent.

    Raises:
        StoreError: its configuration or its log cannot be read.
    """
    config = experiment.config()
    if config.parent is None:
        return None
    root = experiment.root
    words = ["resume", "--from", reference(root, config.parent), "--epochs", str(config.num_epochs or 1)]
    weights, overrides = _changed(experiment)
    if weights:
        words += ["--weights", json.dumps(weights, ensure_ascii=False)]
    return command(root, *words, *_reset(config), *_assignments(overrides))


def _reset(made: ExperimentConfig | SweepRecord) -> list[str]:
    """The options by which a part of the checkpoint is left out."""
    return [*(["--weights-only"] if made.fresh_optimizer else []), *(["--reset", "head"] if made.reset_head else [])]


def reference(root: Root, parent: ParentRef) -> str:
    """What ``--from`` takes for a recorded parent: ``EXPERIMENT@5``, or the file if the checkpoint is not of an epoch's end, or
    the parent is not under this root."""
    name = parent.experiment
    here = Path(name).name == name and (root.path / name / layout.MANIFEST).is_file()
    return parent.file if parent.file and (parent.batch or not here) else parent.reference


def _changed(experiment: Experiment) -> tuple[dict[str, float], Nested]:
    """(weights, settings) in which a child differs from its parent according to its log, with the settings that had to be given
    for the parent."""
    events = lineage.early(experiment.folder)
    change = ratio.of_events(events)
    weights = {} if change is None else {c: new for c, (_, new) in change.changed.items()}
    overrides: Nested = {}
    for event in events:
        if event.type == lineage.RESUME:
            overrides |= event.given
        elif event.type == lineage.CONFIGURATION:
            known = (*_OWN, *_PLANNED)
            overrides |= {key: new for key, (_, new) in event.changes.items() if not key.startswith(known)}
            if "training.fork.start" in event.changes:  # also where the parent's own fork had the same schedule
                overrides["training.fork.schedule"] = experiment.config().setting("training", "fork", "schedule")
    return weights, overrides


def _assignments(overrides: Nested) -> list[str]:
    from raysweep.config.load import assignment

    return [assignment(key, value) for key, value in overrides.items()]


def of_sweep(sweep: Sweep) -> tuple[str, str]:
    """(the ``raysweep branch`` that reproduces a sweep, the content of its grid file).

    Raises:
        StoreError: ``sweep.json`` cannot be read.
    """
    from raysweep.config import yaml as yaml_file

    record = sweep.record()
    if record.parent is None:
        raise StoreError(f"{sweep.folder} does not say which checkpoint it started from.")
    words = ["branch", "--from", reference(sweep.root, record.parent), "--weights-grid", "grid.yaml"]
    if record.epochs:
        words += ["--epochs", str(record.epochs)]
    if record.threads:
        words += ["--threads", str(record.threads)]
    words += _reset(record)
    words += _assignments(_common(sweep, record))
    grid = {k: v for k, v in record.grid.items() if v not in (None, [], {})}
    return command(sweep.root, *words), yaml_file.dump(grid)


def _common(sweep: Sweep, record: SweepRecord) -> Nested:
    """The settings in which all branches differ from the parent, apart from what the grid says."""
    found = sweep.experiments()
    plain = [b.name for b in record.branches if not b.settings and b.name in found] or [b.name for b in record.branches]
    one = next((b for b in record.branches if b.name == next(iter(plain), None) and b.name in found), None)
    if one is None:
        return {}
    of_grid = ["seed", "scaling.threads", *one.settings]
    if (record.grid.get("fork") or {}).get("schedule", "inherit") != "inherit":
        of_grid.append("training.fork.schedule")
    return {k: v for k, v in _changed(found[one.name])[1].items() if k not in of_grid}


def settings_of(experiment: Experiment) -> str | None:
    """The whole configuration as a file for ``raysweep run``; None if the old system made the experiment."""
    from raysweep.config import yaml as yaml_file

    config = experiment.config()
    settings = None if config.imported_from else config.settings  # another program made that one
    return hide_credentials(yaml_file.dump(dict(settings))) if settings else None  # raysweep 0.1 stored addresses whole
