"""``raysweep list``: the experiments under the root."""

from __future__ import annotations

from typing import Any

import typer

from raysweep.cli.terminal import age, decimals, percent, plain, put_json, say, table
from raysweep.regular import user_path

SORT_KEYS = ("created", "id", "best_acc", "best_macro_f1", "epochs_done", "status")


def register(app: typer.Typer) -> None:
    app.command("list")(list_)


def list_(
    checkpoints: bool = typer.Option(False, "--checkpoints", help="Every checkpoint, with the reference to pass on."),
    sweep: str | None = typer.Option(None, "--sweep", help="Only the branches of this sweep."),
    status: str | None = typer.Option(None, "--status", help="running, finished, interrupted, failed, dead or legacy."),
    sort: str = typer.Option("created", "--sort", help=f"One of {', '.join(SORT_KEYS)}."),
    limit: int | None = typer.Option(None, "--limit", min=1, help="At most so many, the last in order."),
    as_json: bool = typer.Option(False, "--json", help="One JSON array, with documented fields."),
    root: str = typer.Option("experiments", "--root", envvar="RAYSWEEP_ROOT", help="Folder of all experiments."),
) -> None:
    """Show the experiments under the root, oldest first."""

    from raysweep.errors import InputError, did_you_mean
    from raysweep.store import catalog, experiment

    known = (
        experiment.RUNNING,
        experiment.FINISHED,
        experiment.INTERRUPTED,
        experiment.FAILED,
        experiment.DEAD,
        experiment.LEGACY,
    )
    if sort not in SORT_KEYS:
        raise InputError(
            f"--sort {sort}: there is no such key.{did_you_mean(sort, SORT_KEYS)} Use one of {', '.join(SORT_KEYS)}."
        )
    if status is not None and status not in known:
        raise InputError(
            f"--status {status}: there is no such status.{did_you_mean(status, known)} Use one of {', '.join(known)}."
        )
    folder = user_path(root)
    rows = [catalog.summary(e) for e in catalog.experiments(folder)]
    rows = [
        r
        for r in rows
        if (status is None or r["status"] == status) and (sweep is None or str(r["sweep"] or "").startswith(sweep))
    ]
    rows.sort(key=lambda r: (r[sort] is not None, r[sort] if r[sort] is not None else 0, r["id"]))
    if limit is not None:
        rows = rows[-limit:]
    if checkpoints:
        _checkpoints(rows, as_json)
        return
    if as_json:
        put_json(rows)
        return
    if not rows:
        say(f"No experiments under {folder.absolute()}. Next: raysweep run configs/base.yaml")
        return
    table(
        None,
        [
            ("id", "l"),
            ("status", "l"),
            ("epochs", "r"),
            ("best acc", "r"),
            ("macro-F1", "r"),
            ("weights", "l"),
            ("parent", "l"),
            ("age", "r"),
        ],
        [_cells(r) for r in rows],
    )
    for r in rows:
        if r.get("note"):
            say(plain(r["note"]))


def _cells(r: dict[str, Any]) -> list[str]:
    from raysweep.weights import describe

    try:
        weights = describe({c: float(w) for c, w in r["sampling_weights"].items()})
    except (TypeError, ValueError, AttributeError):
        weights = "?"
    parent = r["parent"] or {}
    return [
        plain(r["id"]),
        r["status"],
        f"{r['epochs_done']}/{r['epochs_target'] or '?'}",
        percent(r["best_acc"]),
        decimals(r["best_macro_f1"]),
        plain(weights),
        plain(f"{parent['experiment']}@{parent['epoch']}") if parent else "-",
        age(r["created"]),
    ]


def _checkpoints(rows: list[dict[str, Any]], as_json: bool) -> None:
    from raysweep.store.experiment import Experiment

    found: list[dict[str, Any]] = []
    for r in rows:
        experiment = Experiment(r["path"])
        best = (experiment.manifest().get("best") or {}).get("file")
        for e in experiment.entries():
            reference = f"{r['id']}@{e.epoch}" if e.batch is None else str(experiment.folder / e.file)
            found.append(
                {
                    "reference": reference,
                    "file": str(experiment.folder / e.file),
                    "epoch": e.epoch,
                    "batch": e.batch,
                    "bytes": e.bytes,
                    "val_acc": e.metrics.get("val_acc"),
                    "best": e.file == best,
                }
            )
    if as_json:
        put_json(found)
        return
    table(
        None,
        [("reference", "l"), ("accuracy", "r"), ("MB", "r"), ("", "l")],
        [
            [plain(f["reference"]), percent(f["val_acc"]), f"{f['bytes'] / 1e6:.1f}", "best" if f["best"] else ""]
            for f in found
        ],
    )
