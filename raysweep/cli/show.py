"""``raysweep show``: one experiment, or one of its checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import typer

from raysweep._text import counted, plain
from raysweep.cli import pictures
from raysweep.cli.options import RootOption
from raysweep.display.shares import show_shares
from raysweep.display.tables import table
from raysweep.display.terminal import put, put_json, put_words, say, say_next
from raysweep.errors import EDITED, InputError
from raysweep.store.root import Root

if TYPE_CHECKING:
    from pathlib import Path

    from raysweep.store.experiment import Experiment
    from raysweep.store.records import ExperimentConfig
    from raysweep.store.records_manifest import ManifestEntry
    from raysweep.store.sweep import Sweep


MOST_VERDICTS = 8  # sentences


def register(app: typer.Typer) -> None:
    app.command("show", no_args_is_help=True)(show)


def show(
    reference: str = typer.Argument(
        ...,
        help="An experiment or a sweep (id, name, prefix, path) or a checkpoint (path, EXPERIMENT@5, @best, @latest).",
    ),
    as_json: bool = typer.Option(False, "--json", help="Print JSON."),
    augmented: int | None = typer.Option(
        None,
        "--augmented",
        metavar="N",
        help="Draw N training images as they are and as the epoch of the checkpoint showed them: augmented and mixed.",
    ),
    output: str | None = typer.Option(
        None, "--output", "-o", metavar="FILE", help="With --augmented: the PNG file. Default: augmented.png."
    ),
    root: RootOption = "experiments",
) -> None:
    """Show one experiment, checkpoint or sweep. For an experiment: its parent, class shares, results and checkpoints."""

    from raysweep.store import resolve
    from raysweep.store.sweep import Sweep

    folder = Root.open(root)
    if augmented is not None:
        _draw_augmented(folder, reference, augmented, output or "augmented.png", as_json)
        return
    if output is not None:
        raise InputError("--output is the file of --augmented; give --augmented N, too.")
    if resolve.split_reference(reference) is not None or reference.endswith(".pt"):
        _show_checkpoint(*resolve.find_checkpoint(folder, reference), as_json)
        return
    found = resolve.find_any(folder, reference)
    if isinstance(found, Sweep):
        put_json(_sweep_json(found)) if as_json else _show_sweep(found)
        return
    if as_json:
        put_json(_experiment_json(found))
    else:
        _show_experiment(found)


def _draw_augmented(root: Root, reference: str, images: int, output: str, as_json: bool) -> None:
    from raysweep.tools import augmented

    target = pictures.write("--output", output, lambda: augmented.picture(root, reference, images))
    if as_json:
        put_json({"picture": str(target)})
        return
    put(plain(target))
    say("On the left of each pair is the image as it is, on the right as training saw it.")


def _sweep_json(sweep: Sweep) -> dict[str, object]:
    """What --json prints of a sweep: ``sweep.json``, the last epoch of every branch, and the verdict as it was written."""
    from raysweep.store import results, verdict_file

    told = verdict_file.read(sweep)
    verdict = None if told is None else list(told.sentences)
    return {**sweep.record().to_json(), "id": sweep.id, "results": results.rows_of(sweep), "verdict": verdict}


def _show_sweep(sweep: Sweep) -> None:
    from collections import Counter

    from raysweep.display.results import results_table
    from raysweep.store import results

    record, rows = sweep.record(), results.rows_of(sweep)
    put(plain(sweep.id))
    if record.description:
        put_words(f"  {plain(record.description)}")
    states = ", ".join(f"{n} {status}" for status, n in Counter(str(r["status"]) for r in rows).items())
    put_words(
        f"  {counted(len(rows), 'branch', 'branches')} of {_epochs(record.epochs)}: {states}; in {plain(sweep.folder)}"
    )
    if record.parent:
        put_words(f"  from {plain(record.parent.reference)}")
    for note in record.notes:
        put_words(f"  {plain(note)}")
    put("")
    results_table(rows)
    done = all(r["status"] == "finished" for r in rows)
    _show_verdict(sweep, {str(r["branch"]) for r in rows if r["status"] == "finished"})
    say_next(sweep.root, "compare" if done else "continue", sweep.id)


def _show_verdict(sweep: Sweep, finished: set[str]) -> None:
    """Print what the comparison said at the end of the sweep, and whether other branches have finished since."""
    from raysweep.store import verdict_file

    told = verdict_file.read(sweep)
    if told is None:
        return
    put_words("Verdict:")
    for sentence in told.sentences[:MOST_VERDICTS]:
        put_words(f"  {plain(sentence)}")
    if (more := len(told.sentences) - MOST_VERDICTS) > 0:
        put_words(f"  … {more:,} more; --json has all.")
    if set(told.branches) != finished:
        said = counted(len(told.branches), "branch had", "branches had")
        say(f"The verdict was written when {said} finished; now {len(finished):,} have. `compare` tells of all.")


def _experiment_json(experiment: Experiment) -> dict[str, object]:
    """What --json prints: the fields of ``list --json``, the configuration, the committed checkpoints, and recall, F1 and precision of
    each class at the best epoch."""
    from raysweep.store import catalog

    rows = [
        {"file": e.file, "epoch": e.epoch, "batch": e.batch, "bytes": e.bytes, "sha256": e.sha256, "metrics": e.metrics}
        for e in experiment.manifest().entries
    ]
    summary = catalog.summary(experiment).to_json()
    return {**summary, "config": experiment.config().to_json(), "checkpoints": rows, "classes": _reached(experiment)}


def _reached(experiment: Experiment) -> Mapping[str, float]:
    """``recall_CLASS``, ``f1_CLASS`` and ``precision_CLASS`` of the best epoch, as far as they are known."""
    from raysweep.store import class_metrics

    best = experiment.manifest().best
    return {} if best is None else class_metrics.of_epoch(experiment, best.epoch)


def _show_experiment(experiment: Experiment) -> None:
    from raysweep.store import catalog

    summary, config, manifest = catalog.summary(experiment), experiment.config(), experiment.manifest()
    put(plain(summary.id))
    if config.experiment_description:
        put_words(f"  {plain(config.experiment_description)}")
    put_words(
        f"  {summary.status}, {summary.epochs_done} of {_epochs(summary.epochs_target)}, model {plain(config.model_name)}, in {plain(experiment.folder)}"
    )
    if summary.parent:
        put_words(f"  child of {plain(summary.parent.reference)}")
    if summary.note:
        say(plain(summary.note))
    put("")
    _shares(config, _reached(experiment))
    if manifest.entries:
        put("")
        from raysweep.api import pages

        best = manifest.best_file
        columns, rows = pages.checkpoints([(e.epoch, e.batch, e.metrics, e.file == best) for e in manifest.entries])
        names = [name for name, _ in columns]
        worst = names.index("macro-F1") + 1  # of the class or the label
        table(None, columns, rows, optional=[names.index("loss"), worst, names.index("val loss")])
    root = experiment.root
    old = [p.epoch for p in experiment.old_checkpoints() if p.batch is None]
    if old:
        say(f"Written by the old system, with checkpoints of epochs {', '.join(map(str, old))}.")
        say_next(root, "resume", "--from", f"{summary.id}@{old[-1]}", "data.path=FOLDER")
    if summary.status in ("interrupted", "crashed"):
        say_next(root, "continue", summary.id)


def _epochs(count: int | None) -> str:
    return counted(count, "epoch") if count else "? epochs"


def _shares(config: ExperimentConfig, reached: Mapping[str, float]) -> None:
    """Print the weights and the resulting share of each class, and what the best epoch reached of it."""
    from raysweep.weights import SamplingWeights

    counts, given = config.class_counts, config.sampling_weights
    try:
        if not counts:
            put_words("  weights: " + ", ".join(f"{plain(c)} {plain(w)}" for c, w in given.items()))
            return
        sampled, pool = SamplingWeights.complete(given, list(counts)), config.pool
        weights, shown = sampled.as_dict(), sampled.shares(pool)
        show_shares(pool, weights, shown, reached=reached)
    except EDITED:
        put_words("  class_counts or sampling_weights in experiment_config.json are not valid")
        return


def _show_checkpoint(experiment: Experiment, entry: ManifestEntry | None, path: Path, as_json: bool) -> None:
    problem = None if entry is None else entry.verify(experiment.folder)
    if as_json:
        put_json(_checkpoint_json(experiment, entry, path, problem))
        return
    put(plain(path))
    if entry is None:
        put_words(f"  not in a manifest of {plain(experiment.id)}; {path.stat().st_size:,} bytes")
        return
    where = f"epoch {entry.epoch}" + ("" if entry.batch is None else f", batch {entry.batch}")
    put_words(
        f"  {plain(experiment.id)}, {where}, {entry.bytes:,} bytes, {'intact' if problem is None else plain(problem)}"
    )
    put_words(f"  sha256 {plain(entry.sha256)}")
    for key, value in entry.metrics.items():
        put_words(f"  {plain(key)}: {f'{value:.4f}' if isinstance(value, float) else plain(value)}")


def _checkpoint_json(
    experiment: Experiment, entry: ManifestEntry | None, path: Path, problem: str | None
) -> dict[str, object]:
    return {
        "path": str(path),
        "experiment": experiment.id,
        "committed": entry is not None,
        "epoch": entry and entry.epoch,
        "batch": entry and entry.batch,
        "bytes": path.stat().st_size,
        "sha256": entry and entry.sha256,
        "metrics": entry.metrics if entry else {},
        "problem": problem,
    }
