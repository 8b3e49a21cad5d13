"""Make folders of finished sweeps without training: predictions of networks with known recalls, and all other files."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raysweep.report.effects import Effect
from raysweep.report.findings.findings import Finding
from raysweep.store import experiment as experiments
from raysweep.store import files, layout, lineage
from raysweep.store import sweep as sweeps
from raysweep.store.experiment import Experiment
from raysweep.store.records import ExperimentConfig
from raysweep.store.records_manifest import BestEpoch, Manifest, ManifestEntry
from raysweep.store.records_sweep import SweepRecord
from raysweep.store.results import refresh
from raysweep.store.root import Root

NOW = datetime(2026, 1, 2, 3, 4, 5)
COUNTS = (60, 150, 240)  # validation images of the three classes


def predicted(rng: np.random.Generator, labels: np.ndarray, recalls: Sequence[float]) -> np.ndarray:
    """Predictions with these recalls; a wrong prediction is one of the other classes at random."""
    right = rng.random(len(labels)) < np.array(recalls)[labels]
    return np.where(right, labels, (labels + rng.integers(1, len(recalls), len(labels))) % len(recalls))


def made(
    root: Path,
    name: str,
    classes: Sequence[str],
    recalls: Sequence[float],
    *,
    seed: int = 0,
    weights: Mapping[str, float] | None = None,
    parent: Experiment | None = None,
    fork: int = 2,
    epochs: int = 2,
    images: Sequence[int] = COUNTS,
    **config: Any,
) -> Experiment:
    """One finished experiment; a child of ``parent`` at epoch ``fork``. ``images``: validation images of each class."""
    experiment = experiments.create(Root.open(root), name, NOW)
    counts = dict(zip(classes, (100, 400, 500, *[300] * len(classes)), strict=False))
    before = dict.fromkeys(classes, 1.0)
    weights = {**before, **(weights or {})}
    lineage.record(experiment.folder, lineage.START)
    first = 0
    if parent is not None:
        first = fork
        config |= {"parent": {"experiment": parent.id, "epoch": fork, "batch": 0, "sha256": "0" * 64}}
        lineage.record(experiment.folder, lineage.RESUME, experiment=parent.id, epoch=fork)
        old = parent.config().sampling_weights
        lineage.record(experiment.folder, lineage.RATIO, old_weights=old, new_weights=weights)
        if seed:
            lineage.record(experiment.folder, lineage.CONFIGURATION, changes={"seed": [0, seed]})
    experiment.write_config(
        ExperimentConfig.from_json(
            {
                "experiment_name": name,
                "timestamp": NOW.strftime(layout.TIME_FORMAT),
                "sampling_weights": weights,
                "num_epochs": epochs,
                "model_name": "cnn",
                "classes": list(classes),
                "class_counts": counts,
                "data_sha256": "d" * 64,
                "settings": {"seed": seed, "training": {"epochs": epochs}},
                **config,
            }
        )
    )
    labels = np.repeat(np.arange(len(classes)), images)
    predictions = predicted(np.random.default_rng([seed, *map(ord, name[:8])]), labels, recalls)
    last = first + epochs
    write_predictions(experiment, classes, labels, predictions, last)
    recall = [float(np.mean(predictions[labels == c] == c)) for c in range(len(classes))]
    metrics = {
        "val_acc": float(np.mean(predictions == labels)), "val_macro_f1": float(np.mean(recall)), "val_loss": 1.0,
        "worst_class": classes[int(np.argmin(recall))], "worst_recall": min(recall),
    }  # fmt: skip
    _write_history(experiment, classes, metrics, recall, weights, counts, last)
    entries = [
        ManifestEntry(layout.checkpoint_name(layout.Position(e, None)), 1, "0" * 64, e, None, "", metrics)
        for e in range(first + 1, last + 1)
    ]
    experiment.write_manifest(Manifest(entries, BestEpoch(last, entries[-1].file, "val_acc", 0.5)))
    lineage.record(experiment.folder, lineage.FINISHED)
    return experiment


def write_predictions(
    experiment: Experiment, classes: Sequence[str], labels: Any, predictions: Any, epoch: int, shares: Any = None
) -> None:
    """``shares``: the probabilities (n, classes); by default random ones of which the predicted class has the highest."""
    n, k = len(labels), len(classes)
    if shares is None:
        scores = np.random.default_rng([n, *predictions[:20]]).random((n, k))
        scores[np.arange(n), predictions] = scores.max(1) + 0.1
        shares = (scores / scores.sum(1, keepdims=True)).astype(np.float32)
    probabilities = pa.FixedSizeListArray.from_arrays(shares.ravel(), k)
    columns = {
        "epoch": np.full(n, epoch),
        "index": np.arange(n),
        "label": labels,
        "prediction": predictions,
        "probabilities": probabilities,
    }
    table = pa.table(columns).replace_schema_metadata({"classes": json.dumps(list(classes))})
    pq.write_table(table, experiment.folder / layout.PREDICTIONS)


def _write_history(experiment, classes, metrics, recall, weights, counts, last) -> None:
    total = sum(counts[c] * weights[c] for c in classes)
    names = ["train_loss", "train_acc", "val_loss", "val_acc", "epoch", "seconds", "val_macro_f1"]
    names += [f"{kind}_{c}" for kind in ("recall", "f1", "requested", "realised") for c in classes]
    drawn = [round(1000 * counts[c] * weights[c] / total) for c in classes]
    rows = [
        [
            1.0,
            0.5,
            1.0,
            metrics["val_acc"] * e / last,
            e,
            2.5,
            metrics["val_macro_f1"] * e / last,
            *recall,
            *recall,
            *drawn,
            *drawn,
        ]
        for e in range(1, last + 1)
    ]
    (experiment.folder / layout.HISTORY_CSV).write_text(files.csv_text([names, *rows]))


def no_curves(patch: pytest.MonkeyPatch) -> None:
    """A report without learning curves: to draw them takes longer than everything else."""
    from raysweep.report.sections import learning_curves
    from raysweep.report.sections.records import Curves

    patch.setattr(learning_curves, "curves", lambda *_: Curves())


def effect(
    branch: str,
    target: str,
    metric: str,
    difference: float,
    label: str,
    *,
    reference: float = 0.5,
    width: float = math.nan,
    **more: Any,
) -> Effect:
    """An effect with an interval of ± ``width``, tested if there is one."""
    tested = (0.5, 0.5, 2 * width) if width == width else (math.nan,) * 3
    ends = difference - width, difference + width
    value = reference + difference
    finding = Finding(branch, None, metric, reference, value, difference, *ends, *tested, label, math.nan)
    return Effect(target, finding, **more)


def sweep_of(
    root: Path,
    classes: Sequence[str],
    base: Sequence[float],
    branches: Mapping[str, tuple[Mapping[str, float], Sequence[float]]],
    seeds: Sequence[int] = (0, 1),
    control: bool = True,
    images: Sequence[int] = COUNTS,
) -> sweeps.Sweep:
    """A parent and a sweep of it, with ``branches`` name → (weights, recalls). The parent and the control have the recalls ``base``."""
    parent = made(root, "parent", classes, base, images=images)
    sweep = sweeps.create(Root.open(root), "s", NOW)
    everything = ({"control": ({}, base)} if control else {}) | dict(branches)
    plan = []
    for name, (weights, recalls) in everything.items():
        for seed in seeds:
            branch = {
                "name": f"{name}-seed{seed}" if len(seeds) > 1 else name,
                "control": name == "control",
                "seed": seed,
            }
            child = made(
                root,
                f"s-{branch['name']}",
                classes,
                recalls,
                seed=seed,
                weights=weights,
                parent=parent,
                images=images,
                sweep=sweep.id,
                branch=branch,
            )
            plan.append({**branch, "weights": child.config().sampling_weights})
    parent_ref = {"experiment": parent.id, "epoch": 2, "batch": 0, "sha256": "0" * 64}
    sweep.write_record(SweepRecord.from_json(
        {
            "id": sweep.id, "name": "s", "parent": parent_ref, "parent_weights": dict.fromkeys(classes, 1.0), "epochs": 2,
            "branches": plan, "grid": {"epochs": 2, "seeds": list(seeds)},
        }
    ))  # fmt: skip
    refresh(sweep)
    return sweep
