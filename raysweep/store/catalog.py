"""Find experiments under a root and say in a few fields what each is. Read from the folders; no torch, no ray."""

from __future__ import annotations

import contextlib
import csv
import io
import os
import re
from datetime import datetime
from pathlib import Path
from typing import Any

from raysweep.errors import CheckpointError, NotFoundError, RaysweepError, RootError, did_you_mean
from raysweep.names import cut, shown
from raysweep.regular import read_regular
from raysweep.store import files, keys, layout, lineage, mirror
from raysweep.store.experiment import LEGACY, Entry, Experiment
from raysweep.store.fields import FIELDS
from raysweep.weights import changes

_REFERENCE = re.compile(r"(?P<experiment>[^@]+)@(?P<which>[0-9]{1,9}|best|latest)")


def experiments(root: Path) -> list[Experiment]:
    """All experiments under a root, oldest first. Links that lead out of the root are left out."""
    found = []
    try:
        with os.scandir(root) as rows:
            for row in rows:
                if row.name.startswith(".") or row.is_symlink() or not row.is_dir():
                    continue
                if os.path.isfile(os.path.join(row.path, layout.CONFIG)):
                    found.append(Experiment(row.path))
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:  # ValueError: NUL in the path
        reason = error.strerror if isinstance(error, OSError) else error
        raise RootError(f"{root} cannot be read: {reason}. Name the folder of the experiments.") from None
    return sorted(found, key=_age)


def _age(experiment: Experiment) -> tuple[str, str, int, str]:
    """Sorts by time; those of one name and second by the number that was appended, so that _2 comes before _10."""
    name, time = layout.split_id(experiment.id)
    return time or "", name, len(experiment.id), experiment.id


def find(root: Path, reference: str) -> Experiment:
    """The experiment a path, an id, a name or an unambiguous prefix of one means.

    Raises:
        NotFoundError: none or several match; the message lists them.
    """
    as_path = mirror.place(reference)
    if os.path.isfile(as_path / layout.CONFIG):  # unlike Path.is_file, also False for what no path can be
        return Experiment(as_path.resolve())
    everything = experiments(root)
    exact = [e for e in everything if e.id == reference]
    named = [e for e in everything if layout.split_id(e.id)[0] == reference]
    prefixed = [e for e in everything if e.id.startswith(reference)]
    for matches in (exact, named, prefixed):
        if len(matches) == 1:
            return matches[0]
        if matches:
            some = ", ".join(e.id for e in matches[-5:])
            raise NotFoundError(
                f"{shown(reference)} fits {len(matches)} experiments under {root}: {some}. Give more of the id."
            )
    if not everything:
        raise NotFoundError(
            f"There is no experiment under {root.absolute()}. Start one with `raysweep run`, or name the root with --root."
        )
    hint = did_you_mean(reference, [e.id for e in everything] + [layout.split_id(e.id)[0] for e in everything])
    raise NotFoundError(f"No experiment under {root} is called {shown(reference)}.{hint} `raysweep list` shows all.")


def by_id(root: Path, experiment_id: str) -> Experiment:
    """The experiment that a record names: exactly that one, never one whose name only begins so.

    Raises:
        NotFoundError: it is not under this root.
    """
    folder = root / experiment_id
    if Path(experiment_id).name != experiment_id or not os.path.isfile(folder / layout.CONFIG):
        raise NotFoundError(f"{cut(experiment_id)} is not under {root}; it was moved, renamed or deleted.")
    return Experiment(folder)


def split_reference(reference: str) -> tuple[str, str] | None:
    """(experiment, which) of ``EXPERIMENT@5``, ``@best`` or ``@latest``; None for anything else."""
    match = _REFERENCE.fullmatch(reference)
    return (match["experiment"], match["which"]) if match else None


def find_checkpoint(root: Path, reference: str) -> tuple[Experiment, Entry | None, Path]:
    """The checkpoint a reference means: its experiment, its manifest entry (None if it has none) and its path.

    Raises:
        NotFoundError: no such experiment or file. CheckpointError: a link in an experiment's folder that leads out of the root.
    """
    split = split_reference(reference)
    if split is not None and not os.path.exists(reference):
        experiment = find(root, split[0])
        if (old := _old_file(experiment, split[1])) is not None:
            return experiment, None, old
        entry = experiment.entry(split[1])
        return experiment, entry, experiment.folder / entry.file
    path = mirror.place(reference)
    if not os.path.isfile(path):
        if path.suffix != ".pt" and "/" not in reference:
            raise NotFoundError(
                f"{shown(reference)} is no checkpoint. Give a path to a .pt file or EXPERIMENT@5, EXPERIMENT@best, EXPERIMENT@latest; "
                "`raysweep list` shows the experiments."
            )
        raise NotFoundError(
            f"There is no file {cut(path)}. `raysweep list` shows the experiments, `raysweep show ID` their checkpoints."
        )
    # In an experiment's folder its manifest knows the file by this name, also where that is a link.
    folder = path.parent.resolve()
    if os.path.isfile(folder / layout.CONFIG):
        if not files.inside(folder.parent, path):
            raise CheckpointError(f"{path} is a link that leads out of the root. Name the file itself.")
    else:
        folder = path.resolve().parent
    experiment, name = Experiment(folder), path.name
    if name == layout.BEST:
        best = experiment.manifest().get("best") or {}
        name = str(best.get("file", name))
    return experiment, next((e for e in experiment.entries() if e.file == name), None), path


def _old_file(experiment: Experiment, which: str) -> Path | None:
    """The checkpoint that ``best``, ``latest`` or an epoch's number names in a folder of the old system, or None."""
    there = experiment.old_checkpoints()
    if not there:
        return None
    if which == "best" and (experiment.folder / layout.BEST).is_file():
        return experiment.folder / layout.BEST
    for position in there[-1:] if which == "latest" else there:
        if which == "latest" or (position.batch is None and str(position.epoch) == which):
            return experiment.folder / layout.checkpoint_name(position)
    have = ", ".join(str(p.epoch) for p in there if p.batch is None) or "none"
    raise NotFoundError(
        f"{experiment.id} has no checkpoint {which!r}. It has the epochs {have}; @best and @latest work too."
    )


def summary(experiment: Experiment) -> dict[str, Any]:
    """The documented fields of ``list --json`` for one experiment, and ``note`` where a file of it is damaged."""
    row = FIELDS | {
        "id": experiment.id,
        "name": layout.split_id(experiment.id)[0],
        "path": str(experiment.folder),
        "sampling_weights": {},
        "change": {},
    }
    try:
        return row | _read(experiment)
    except RaysweepError as error:
        return row | {"note": str(error)}
    except (TypeError, ValueError, KeyError, AttributeError, OverflowError) as error:
        return row | {
            "note": f"A file in {experiment.folder} holds what it should not ({type(error).__name__}: {error})."
        }


def _read(experiment: Experiment) -> dict[str, Any]:
    """The fields that come out of the folder's files; raises many kinds of errors if they hold the wrong things."""
    config = experiment.config()
    row: dict[str, Any] = {"status": experiment.status()}
    row["created"] = _created(config, experiment)
    row["sampling_weights"] = dict(config.get("sampling_weights") or {})
    parent = config.get("parent") or None
    row["parent"] = (
        parent if parent is None else {"experiment": parent["experiment"], "epoch": parent["epoch"]} | parent
    )
    row["sweep"] = config.get("sweep")
    branch = config.get("branch") or {}
    row["branch"], row["control"] = branch.get("name"), bool(branch.get("control"))
    seed = (config.get("settings") or {}).get("seed")
    row["seed"] = seed if type(seed) is int else None
    if parent:
        row["change"], row["parent_seed"] = _fork(experiment, row["seed"])
        row["parent_best_acc"] = _best_before(experiment, parent["epoch"])
    first = int(parent["epoch"] or 0) if parent else 0
    row["epochs_target"] = first + int(config["num_epochs"]) if config.get("num_epochs") else None
    entries, problems = experiment.listed()
    if problems:
        row["note"] = f"{experiment.id}: {'; '.join(problems)}."
    ends = [e for e in entries if e.batch is None]
    if ends:
        row["epochs_done"] = ends[-1].epoch
        best_file = (experiment.manifest().get("best") or {}).get("file")
        # Without a manifest to say it, the best is the one a user would take.
        most = max(ends, key=lambda e: (float(e.metrics.get("val_acc") or 0), -e.epoch))
        best = next((e for e in ends if e.file == best_file), most)
        row["best_acc"] = _number(best.metrics.get("val_acc"))
        row["best_epoch"] = best.epoch
        row["best_macro_f1"] = _number(best.metrics.get("val_macro_f1"))
        row["worst_class"] = best.metrics.get("worst_class")
        row["worst_recall"] = _number(best.metrics.get("worst_recall"))
    elif row["status"] == LEGACY:
        _legacy(row, experiment)
    return row


def _fork(experiment: Experiment, seed: int | None) -> tuple[dict[str, list[float]], int | None]:
    """Class → [weight before, after], and the seed before, as the experiment's own log tells of the fork."""
    change: dict[str, list[float]] = {}
    for event in lineage.early(experiment.folder):
        with contextlib.suppress(KeyError, TypeError, ValueError, AttributeError):  # somebody else's
            if event["type"] == lineage.RATIO:
                pairs = changes(event["old_weights"], event["new_weights"]).items()
                change = {c: [float(before), float(after)] for c, (before, after) in pairs}
            elif event["type"] == lineage.CONFIGURATION:
                seed = int(event["changes"]["seed"][0])
    return change, seed


def _best_before(experiment: Experiment, fork: Any) -> float | None:
    """The best accuracy of the parent's epochs, which the child's history begins with."""
    known = [m.get("val_acc") for epoch, m in experiment.history_metrics().items() if epoch <= int(fork or 0)]
    return max((v for v in map(_number, known) if v is not None), default=None)


def _number(value: Any) -> float | None:
    return float(value) if keys.number(value) else None


def _created(config: dict[str, Any], experiment: Experiment) -> str | None:
    stamp = config.get("timestamp") or layout.split_id(experiment.id)[1]
    try:
        return datetime.strptime(str(stamp), layout.TIME_FORMAT).isoformat()
    except ValueError:
        event = lineage.last(experiment.folder)
        return datetime.fromisoformat(event["time"]).isoformat() if event else None


def _legacy(row: dict[str, Any], experiment: Experiment) -> None:
    """Fields of an old system's folder, which has no manifest: from its file names and CSV."""
    row["epochs_done"] = max((p.epoch for p in experiment.old_checkpoints() if p.batch is None), default=0)
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, csv.Error):
        text = read_regular(experiment.folder / layout.HISTORY_CSV, files.LIMIT).decode()
        values = [float(line["val_acc"]) for line in csv.DictReader(io.StringIO(text, newline=""))]
        if values:
            row["best_acc"] = _number(max(values))
            row["best_epoch"] = values.index(max(values)) + 1
