"""``raysweep prune``: delete checkpoints that nothing needs."""

from __future__ import annotations

import typer

from raysweep._text import plain
from raysweep.display.terminal import put, say
from raysweep.store.root import Root


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
    root: str = typer.Option(
        "experiments", "--root", envvar="RAYSWEEP_ROOT", help="Folder of all experiments, or s3://BUCKET/PREFIX."
    ),
) -> None:
    """Delete old checkpoints. The rule is checkpoint.keep, or --last and --every. The best checkpoint, the newest, and those
    that a child or a sweep starts from are never deleted. Every deletion is logged in the experiment."""

    from raysweep.errors import LockedError, StoreError
    from raysweep.store import catalog, resolve, retention
    from raysweep.store.lock import WriterLock

    folder = Root.open(root)
    chosen = [resolve.find_experiment(folder, r) for r in references] if references else catalog.experiments(folder)
    used = retention.in_use(folder)
    total = 0
    for experiment in chosen:
        rule = None
        if last is None or every is None:
            try:
                rule = retention.rule(experiment)
            except StoreError as error:
                if references:
                    raise
                say(f"{plain(experiment.id)} is skipped: {plain(error)}")
                continue
        if last is None and every is None and rule is None:
            continue
        newest = last if last is not None else rule[0] if rule else 1
        multiple = every if every is not None or last is not None else rule and rule[1]
        entries = retention.removable(experiment, newest, multiple, used)
        size = sum(e.bytes for e in entries)
        if not entries:
            continue
        if not dry_run:
            try:
                lock = WriterLock.acquire(experiment.folder)
            except LockedError as error:
                say(f"{plain(experiment.id)} is skipped: {plain(error)}")
                continue
            try:
                size = retention.remove(experiment, entries, "raysweep prune")
            finally:
                lock.release()
        total += size
        epochs = ", ".join(f"@{e.epoch}" for e in entries)
        put(f"{plain(experiment.id)}\t{epochs}\t{size / 1e6:.1f} MB")
    what = "would be freed; nothing was deleted" if dry_run else "freed"
    say(f"{total / 1e6:,.1f} MB {what}.")
