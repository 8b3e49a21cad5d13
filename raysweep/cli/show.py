"""``raysweep show``: one experiment, or one of its checkpoints."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from raysweep._text import plain
from raysweep.display.terminal import decimals, percent, put, put_json, say, table
from raysweep.store.root import Root

if TYPE_CHECKING:
    from raysweep.store.records import ExperimentConfig


def register(app: typer.Typer) -> None:
    app.command("show", no_args_is_help=True)(show)


def show(
    reference: str = typer.Argument(
        ..., help="An experiment (id, name, prefix, path) or a checkpoint (path, EXPERIMENT@5, @best, @latest)."
    ),
    as_json: bool = typer.Option(False, "--json", help="Print JSON."),
    root: str = typer.Option(
        "experiments", "--root", envvar="RAYSWEEP_ROOT", help="Folder of all experiments, or s3://BUCKET/PREFIX."
    ),
) -> None:
    """Show one experiment or checkpoint. For an experiment: its parent, class shares, results and checkpoints."""

    from raysweep.store import catalog, resolve

    folder = Root.open(root)
    if resolve.split_reference(reference) is not None or reference.endswith(".pt"):
        experiment, entry, path = resolve.find_checkpoint(folder, reference)
        _show_checkpoint(experiment, entry, path, as_json)
        return
    experiment = resolve.find_experiment(folder, reference)
    summary = catalog.summary(experiment)
    config = experiment.config()
    manifest = experiment.manifest()
    if as_json:
        rows = [
            {
                "file": e.file,
                "epoch": e.epoch,
                "batch": e.batch,
                "bytes": e.bytes,
                "sha256": e.sha256,
                "metrics": e.metrics,
            }
            for e in manifest.entries
        ]
        put_json({**summary.to_json(), "config": config.to_json(), "checkpoints": rows})
        return
    put(plain(summary.id))
    if config.experiment_description:
        put(f"  {plain(config.experiment_description)}")
    target = summary.epochs_target or "?"
    put(
        f"  {summary.status}, {summary.epochs_done} of {target} epochs, model {plain(config.model_name)}, in {plain(experiment.folder)}"
    )
    if summary.parent:
        put(f"  child of {plain(summary.parent.reference)}")
    if summary.note:
        say(plain(summary.note))
    put("")
    _shares(config)
    if manifest.entries:
        put("")
        table(
            None,
            [
                ("checkpoint", "l"),
                ("loss", "r"),
                ("val loss", "r"),
                ("accuracy", "r"),
                ("macro-F1", "r"),
                ("worst class", "l"),
                ("", "l"),
            ],
            [_row(e, manifest.best_file) for e in manifest.entries],
        )
    old = [p.epoch for p in experiment.old_checkpoints() if p.batch is None]
    if old:
        say(f"Written by the old system, with checkpoints of epochs {', '.join(map(str, old))}.")
        say(f"Next: raysweep resume --from {plain(summary.id)}@{old[-1]} data.path=FOLDER")
    if summary.status in ("interrupted", "dead"):
        say(f"Next: raysweep continue {plain(summary.id)}")


def _row(e: Any, best: str | None) -> list[str]:
    m = e.metrics
    if e.batch is not None:
        return [f"epoch {e.epoch}, batch {e.batch}", "", "", "", "", "", ""]
    return [
        f"@{e.epoch}",
        decimals(m.get("train_loss")),
        decimals(m.get("val_loss")),
        percent(m.get("val_acc")),
        decimals(m.get("val_macro_f1")),
        plain(f"{m['worst_class']} {percent(m.get('worst_recall'))}") if m.get("worst_class") else "-",
        "best" if e.file == best else "",
    ]


def _shares(config: ExperimentConfig) -> None:
    """Print the weights and the resulting share of each class."""
    from raysweep.errors import RaysweepError
    from raysweep.weights import SamplingWeights

    counts, given = config.class_counts, config.sampling_weights
    try:
        if not counts:
            put("  weights: " + ", ".join(f"{plain(c)} {plain(w)}" for c, w in given.items()))
            return
        sampled = SamplingWeights.complete(given, list(counts))
        weights, shown = sampled.as_dict(), sampled.shares(counts)
        total = sum(counts.values())
        rows = [
            [plain(c), f"{n:,}", percent(n / total), f"{weights[c]:g}", percent(shown[c])] for c, n in counts.items()
        ]
    except (RaysweepError, TypeError, ValueError, AttributeError, ArithmeticError):  # the file was edited by hand
        put("  class_counts or sampling_weights in experiment_config.json are not valid")
        return
    table(
        None,
        [("class", "l"), ("images", "r"), ("share of the data", "r"), ("weight", "r"), ("share shown", "r")],
        rows,
    )


def _show_checkpoint(experiment: Any, entry: Any, path: Any, as_json: bool) -> None:
    problem = entry.verify(experiment.folder) if entry is not None else None
    row = {
        "path": str(path),
        "experiment": experiment.id,
        "committed": entry is not None,
        "epoch": entry.epoch if entry else None,
        "batch": entry.batch if entry else None,
        "bytes": path.stat().st_size,
        "sha256": entry.sha256 if entry else None,
        "metrics": entry.metrics if entry else {},
        "problem": problem,
    }
    if as_json:
        put_json(row)
        return
    put(plain(path))
    if entry is None:
        put(f"  not in a manifest of {plain(experiment.id)}; {row['bytes']:,} bytes")
        return
    where = f"epoch {entry.epoch}" + ("" if entry.batch is None else f", batch {entry.batch}")
    put(f"  {plain(experiment.id)}, {where}, {entry.bytes:,} bytes, {'intact' if problem is None else plain(problem)}")
    put(f"  sha256 {plain(entry.sha256)}")
    for key, value in entry.metrics.items():
        put(f"  {plain(key)}: {f'{value:.4f}' if isinstance(value, float) else plain(value)}")
