"""``raysweep import``: a clean copy of an experiment of the old system, with manifest and lineage. The original is only read."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from raysweep.config.settings import Settings
from raysweep.data import cache
from raysweep.errors import CheckpointError, InputError, NotFoundError
from raysweep.events import Loading, Progress, ignore
from raysweep.launch import runner
from raysweep.plan import experiment as experiment_plan
from raysweep.plan import legacy
from raysweep.store import checkpoint, files, layout, lineage
from raysweep.store.experiment import Experiment
from raysweep.store.records import ExperimentConfig
from raysweep.store.records_manifest import BestEpoch, Manifest, ManifestEntry
from raysweep.store.root import Root


def import_folder(
    source: Path,
    root: Root,
    overrides: Mapping[str, Any] | None = None,
    classes: Sequence[str] | None = None,
    progress: Progress = ignore,
) -> Experiment:
    """Copy one old experiment into ``root`` under its own name; nothing is there before all of it is.

    Args:
        overrides: nested settings of the user: where the images and the model are. With images, every epoch is evaluated,
            so that the copy has predictions and can be compared.
        classes: in the order of the network's outputs.

    Raises:
        NotFoundError: there is no experiment. InputError: it is one of ours, or was imported before. CheckpointError: a
        checkpoint is damaged or unsafe, or the order of its classes is not known.
    """
    over = dict(overrides or {})
    old = Experiment(source)
    if not (source / layout.CONFIG).is_file():
        raise NotFoundError(f"{source} is not an experiment: it has no {layout.CONFIG}.")
    positions = old.old_checkpoints()
    if not positions:
        if (source / layout.LINEAGE).exists() or old.has_manifest:
            raise InputError(f"{source} was written by raysweep itself. Copy the folder as it is.")
        raise InputError(f"{source} has no checkpoint_epoch_N.pt, so there is nothing to import.")
    root.check_writable()
    target = root.path / source.resolve().name
    if target.exists() and target.resolve() == source.resolve():
        raise InputError(
            f"{source} lies in this root itself, where it stays as it is. Name another --root for its copy."
        )
    if target.exists():
        raise InputError(f"{target} is there already, from an earlier import. Name another --root for a second copy.")

    def read(position: layout.Position) -> State:
        return _read(old, layout.checkpoint_name(position), over, classes)

    # All is read before anything is made; one at a time, since each may take a gigabyte.
    evaluate = _evaluation(root, over, progress)
    results = [evaluate(read(p)) for p in positions]
    temp = files.temp_path(target)
    temp.mkdir()
    try:
        _write(Experiment(temp), old, positions, read, results, target.name)
        os.rename(temp, target)
    except BaseException:
        shutil.rmtree(temp, ignore_errors=True)
        raise
    files.fsync_folder(root.path)
    root.publish(target)
    return Experiment(target)


State = tuple[dict[str, Any], dict[str, Any], str]  # (checkpoint, settings, its SHA-256 in the original)


def _read(old: Experiment, name: str, over: Mapping[str, Any], classes: Sequence[str] | None) -> State:
    path = old.folder / name
    if not files.inside(old.folder.resolve().parent, path):
        raise CheckpointError(f"{path} is a link that leads out of the root; it was not read.")
    saved = checkpoint.read_checkpoint(path)
    full, settings = legacy.completed(saved, old, path, over, classes)
    return full, settings, files.sha256_file(path)


def _evaluation(root: Root, over: Mapping[str, Any], progress: Progress) -> Callable[[State], dict[str, Any] | None]:
    """What evaluates a checkpoint on the user's images: metrics, and (labels, probabilities); nothing where he names none."""
    data = over.get("data") or {}
    if not data.get("path") and not data.get("source"):
        return lambda state: None
    import torch

    from raysweep.config import load as load_config
    from raysweep.data.order import in_order
    from raysweep.training import evaluate, metrics, models
    from raysweep.training.feed import Feed
    from raysweep.training.world import World

    device = torch.device("cpu")
    known: dict[str, Any] = {}

    def run(state: State) -> dict[str, Any]:
        saved, settings, _ = state
        chosen = Settings.model_validate(load_config.merge(settings, {**over, "root": root.address}))
        if not known:
            progress(Loading())
            known["found"] = cache.load(chosen.data, experiment_plan.cache_dir(chosen, root))
        images = in_order(known["found"], chosen.data.classes)
        moments = saved["preprocessing"]
        feed = Feed(images, moments["mean"], moments["std"], device, chosen.training.channels_last)
        model = models.build(chosen.model.name, chosen.model.options, len(images.classes), images.shape[2])
        models.load_weights(model, saved, "the old checkpoint")
        labels, probabilities, _ = evaluate.validate(
            model, feed, images.val, len(images.classes), World(device), contextlib.nullcontext()
        )
        matrix = metrics.confusion(labels, probabilities.argmax(1), len(images.classes))
        return {
            "summary": metrics.summarise(matrix, images.classes),
            "predictions": {"labels": labels, "probabilities": probabilities},
            "sha256": images.sha256,
            "counts": images.train.counts(images.classes),
        }

    return run


def _write(
    new: Experiment,
    old: Experiment,
    positions: Sequence[layout.Position],
    read: Callable[[layout.Position], State],
    results: Sequence[dict[str, Any] | None],
    name: str,
) -> None:
    """The copy, as training would have left it."""
    from raysweep.training.checkpointing import CheckpointWriter, rebuild_best, write_history

    last, settings, _ = read(positions[-1])
    final = results[-1]
    flat = {
        **old.written_config(),
        "classes": list(last["classes"]),
        "sampling_weights": last["sampling_weights"],
        "class_counts": final["counts"] if final else None,
        "data_sha256": final["sha256"] if final else None,
        "threads": None,
        "world_size": 1,
        "parent": None,
        "imported_from": {"folder": str(old.folder.resolve()), "sha256": {}},
        "settings": settings,
    }
    text = _own_file(old, layout.CHANGES)
    if text:
        files.write_atomic(new.folder / layout.CHANGES, text.rstrip(b"\n") + b"\n")
    lineage.record(
        new.folder, lineage.START, imported_from=str(old.folder.resolve()), model=settings["model"]["name"],
        epochs=settings["training"]["epochs"], new_weights=last["sampling_weights"],
    )  # fmt: skip
    entries = []
    generators = _seeded(settings["seed"])
    history = _history(last, results, positions)
    writer = CheckpointWriter(new.folder, "", last["classes"], "val_acc")
    for i, old_position in enumerate(positions):
        saved, its_settings, original = read(old_position)
        position = legacy.epoch_of(saved)
        result = results[i]
        rows = int(saved["epoch"])
        full = {
            **saved,
            "format_version": checkpoint.FORMAT_VERSION,
            "current_batch": position.batch or 0,
            "total_batches": int(saved.get("total_batches") or 0),
            "history": {c: v[:rows] for c, v in history.items()},
            "config": {**flat, "settings": its_settings},
            "experiment": name,
            "world_size": 1,
            "rng_state": [generators],
            "sampler_state": {},
            "scheduler_state_dict": {},
            "scaler_state_dict": {},
            "versions": {},
            "parent": None,
        }
        size, digest = checkpoint.write(new.folder / layout.checkpoint_name(position), full)
        metrics: dict[str, Any] = {}
        if position.batch is None:
            metrics = {
                c: v[rows - 1] for c, v in history.items() if "_" in c and rows <= len(v) and v[rows - 1] is not None
            }
            metrics = {k: v for k, v in metrics.items() if not k.startswith(("recall_", "f1_", "precision_"))}
            metrics |= _worst(result["summary"]) if result else {}
            if bare := _own_file(old, layout.model_name(position.epoch)):
                files.write_atomic(new.folder / layout.model_name(position.epoch), bare)
            if result:
                writer.save_predictions(position.epoch, result["predictions"], keep=_best_epoch(history, rows - 1))
        entries.append(
            ManifestEntry(
                layout.checkpoint_name(position),
                size,
                digest,
                *position,
                datetime.now().isoformat(timespec="seconds"),
                metrics,
            )
        )
        flat["imported_from"]["sha256"][layout.checkpoint_name(position)] = original
    new.write_config(ExperimentConfig.from_json(flat))
    entries = _without_overtaken(entries, new)
    best = _best_epoch(history, int(last["epoch"]))
    kept = next((e for e in entries if e.batch is None and e.epoch == best), None) or next(
        (e for e in reversed(entries) if e.batch is None), None
    )
    told = BestEpoch(kept.epoch, kept.file, value=kept.metrics.get("val_acc", -1.0)) if kept is not None else None
    new.write_manifest(Manifest(entries, told))
    rebuild_best(new)
    write_history(new.folder, history, last["classes"])
    done = max((e.epoch for e in entries if e.batch is None), default=0)
    finished = done >= int(flat.get("num_epochs") or 0)
    kind = lineage.FINISHED if finished else lineage.INTERRUPTED
    lineage.record(new.folder, kind, epochs=done, best_acc=float(last["best_acc"]))
    if final:
        runner.derive(new)


def _seeded(seed: int) -> dict[str, Any]:
    """Generators for a child to start from; the old system kept none."""
    from raysweep.training import state

    before = state.rng_state()
    state.seed_everything(seed, 0)
    fresh = state.rng_state()
    state.set_rng_state(before)
    return dict(fresh)


def _own_file(old: Experiment, name: str) -> bytes | None:
    """The content of a file of the old folder; None where there is none, or a link that leads elsewhere."""
    path = old.folder / name
    return files.read_all(path) if path.is_file() and files.inside(old.folder, path) else None


def _without_overtaken(entries: list[ManifestEntry], new: Experiment) -> list[ManifestEntry]:
    """What was saved within an epoch counts only where that epoch's end is not there, as in every folder of ours."""
    ends = {e.epoch for e in entries if e.batch is None}
    kept = [e for e in entries if e.batch is None or e.epoch not in ends]
    for entry in entries:
        if entry not in kept:
            files.remove(new.folder / entry.file)
    return kept


def _history(
    last: Mapping[str, Any], results: Sequence[dict[str, Any] | None], positions: Sequence[layout.Position]
) -> dict[str, list[Any]]:
    """The old four columns as they were, the epochs numbered, and what an evaluation adds."""
    history = {c: list(v) for c, v in last["history"].items()}
    rows = max((len(v) for v in history.values()), default=0)
    history.setdefault("epoch", list(range(1, rows + 1)))
    for position, result in zip(positions, results, strict=True):
        if result is None or position.batch is not None or position.epoch > rows:
            continue
        summary = result["summary"]
        values = {"val_macro_f1": summary["val_macro_f1"], "balanced_accuracy": summary["balanced_accuracy"]}
        for what in ("recall", "f1", "precision"):
            values |= {f"{what}_{c}": v for c, v in summary[what].items()}
        for column, value in values.items():
            history.setdefault(column, [None] * rows)[position.epoch - 1] = value
    return history


def _worst(summary: Mapping[str, Any]) -> dict[str, Any]:
    worst = min(summary["recall"], key=summary["recall"].__getitem__)
    return {"worst_class": worst, "worst_recall": summary["recall"][worst]}


def _best_epoch(history: Mapping[str, Sequence[Any]], rows: int) -> int | None:
    """The epoch with the best accuracy among the first ``rows``, the earlier one in a tie."""
    values = [v for v in history.get("val_acc", [])[:rows] if v is not None]
    return values.index(max(values)) + 1 if values else None
