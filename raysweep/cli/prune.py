"""``raysweep prune``: delete checkpoints that nothing needs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import typer

from raysweep._text import plain
from raysweep.cli.options import RootOption
from raysweep.display.terminal import put, say
from raysweep.store.root import Root

if TYPE_CHECKING:
    from raysweep.store.experiment import Experiment
    from raysweep.store.records_manifest import ManifestEntry


def register(app: typer.Typer) -> None:
    app.command("prune")(prune)


def prune(
    references: list[str] | None = typer.Argument(
        None, metavar="[EXPERIMENT]...", help="Default: all experiments under the root."
    ),
    last: int | None = typer.Option(
        None, "--last", min=1, help="Keep this many newest epochs; default: checkpoint.keep."
    ),
    every: int | None = typer.Option(
        None, "--every", min=1, help="Also keep each epoch that is a multiple of this number."
    ),
    dry_run: bool = typer.Option(False, "--dry-run", help="Show what would be deleted, but delete nothing."),
    root: RootOption = "experiments",
) -> None:
    """Delete old checkpoints. The rule is checkpoint.keep, or --last and --every. The best checkpoint, the newest, and those
    that a child or a sweep starts from are never deleted. Every deletion is logged in the experiment."""

    from raysweep.errors import LockedError, StoreError
    from raysweep.store import catalog, resolve, retention

    folder = Root.open(root)
    chosen = [resolve.find_experiment(folder, r) for r in references] if references else catalog.experiments(folder)
    used = retention.in_use(folder)
    total = 0
    for experiment in chosen:
        try:
            rule = _rule(experiment, last, every)
        except StoreError as error:
            if references:
                raise
            say(f"{plain(experiment.id)} is skipped: {plain(error)}")
            continue
        entries = [] if rule is None else retention.removable(experiment, *rule, used)
        if not entries:
            continue
        try:
            size = sum(e.bytes for e in entries) if dry_run else _remove(experiment, entries)
        except LockedError as error:
            say(f"{plain(experiment.id)} is skipped: {plain(error)}")
            continue
        total += size
        epochs = ", ".join(f"@{e.epoch}" for e in entries)
        put(f"{plain(experiment.id)}\t{epochs}\t{size / 1e6:.1f} MB")
    what = "would be freed; nothing was deleted" if dry_run else "freed"
    say(f"{total / 1e6:,.1f} MB {what}.")


def _rule(experiment: Experiment, last: int | None, every: int | None) -> tuple[int, int | None] | None:
    """How many newest epochs to keep, and of which number also every multiple; None keeps everything.

    Options override the experiment's own rule; with --last alone, its multiples are not kept.

    Raises:
        StoreError: an option was not given, and the experiment's rule cannot be read.
    """
    from raysweep.store import retention

    rule = None if last is not None and every is not None else retention.rule(experiment)
    if last is not None:
        return last, every
    if every is not None:
        return (rule[0] if rule else 1), every
    return rule


def _remove(experiment: Experiment, entries: Sequence[ManifestEntry]) -> int:
    """Delete checkpoints; returns the bytes that this freed.

    Raises:
        LockedError: another process writes to the experiment.
    """
    from raysweep.store import retention
    from raysweep.store.lock import WriterLock

    lock = WriterLock.acquire(experiment.folder)
    try:
        return retention.remove(experiment, list(entries), "raysweep prune")
    finally:
        lock.release()
