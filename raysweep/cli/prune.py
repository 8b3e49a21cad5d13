"""``raysweep prune``: delete checkpoints that nothing needs, and what a killed program has left."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from raysweep._text import plain
from raysweep.cli.options import RootOption
from raysweep.display.terminal import put, say
from raysweep.store.root import Root

if TYPE_CHECKING:
    from raysweep.store.experiment import Experiment
    from raysweep.store.records_manifest import ManifestEntry
    from raysweep.store.retention import InUse, Removed


@dataclass(frozen=True)
class Doomed:
    """What shall go of one experiment."""

    experiment: Experiment
    entries: Sequence[ManifestEntry]
    leftovers: Sequence[Path]  # of a killed prune or save
    bytes: int

    def line(self) -> str:
        epochs = ", ".join(f"@{e.epoch}" for e in self.entries) or "-"
        count = _checkpoints(len(self.entries))
        more = f" + {len(self.leftovers)} unused file{'s' * (len(self.leftovers) != 1)}" if self.leftovers else ""
        return f"{plain(self.experiment.id)}\t{epochs}\t{count}{more}\t{self.bytes / 1e6:.1f} MB"


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
    yes: bool = typer.Option(False, "--yes", "-y", help="Do not ask. Needed where there is no terminal to ask on."),
    root: RootOption = "experiments",
) -> None:
    """Delete old checkpoints, after showing them and asking. The rule is checkpoint.keep, or --last and --every. The best
    checkpoint, the newest, and those that a child or a sweep under the same root starts from are never deleted. Every deletion is
    logged in the experiment. What a killed prune, save or import has left goes, too."""

    from raysweep.store import catalog, leftovers, resolve, retention

    folder = Root.open(root)
    chosen = [resolve.find_experiment(folder, r) for r in references] if references else catalog.experiments(folder)
    used = retention.InUse(folder)
    doomed = _doomed(chosen, last, every, used, strict=bool(references))
    imports = [] if references else leftovers.imports(folder)
    total = sum(d.bytes for d in doomed) + sum(map(leftovers.size, imports))
    for one in doomed:
        put(one.line())
    for path in imports:
        put(f"{plain(path.name)}\t-\tan import that was killed\t{leftovers.size(path) / 1e6:.1f} MB")
    for name in used.unknown if doomed else ():
        say(
            f"{plain(name)} is damaged and does not say what it starts from; a checkpoint that it starts from may be listed."
        )
    if dry_run or not (doomed or imports):
        what = "would be freed; nothing was deleted" if dry_run else "freed"
        say(f"{total / 1e6:,.1f} MB {what}.")
        return
    if not yes:
        _ask(doomed, len(imports), total)
    freed = sum(map(leftovers.remove_import, imports))  # first: on a full disk, this makes room for the rest
    done = [_remove(one, last, every, used) for one in doomed]
    count = sum(len(removed.entries) for removed in done if removed is not None)
    freed += sum(removed.freed for removed in done if removed is not None)
    say(f"{_checkpoints(count)} deleted, {freed / 1e6:,.1f} MB freed.")
    if None in done:
        raise typer.Exit(1)


def _checkpoints(count: int) -> str:
    return f"{count:,} checkpoint{'s' * (count != 1)}"


def _doomed(
    chosen: Sequence[Experiment], last: int | None, every: int | None, used: InUse, strict: bool
) -> list[Doomed]:
    """What shall go of each experiment; one of which nothing goes is left out.

    Args:
        strict: whether an experiment that cannot be read is an error, because the user named it.
    """
    from raysweep.errors import StoreError
    from raysweep.store import leftovers, lock, retention
    from raysweep.store.layout import model_name

    found = []
    sources = used.look()
    for experiment in chosen:
        try:
            rule = _rule(experiment, last, every)
        except StoreError as error:
            if strict:
                raise
            say(f"{plain(experiment.id)} is skipped: {plain(error)}")
            continue
        entries = [] if rule is None else retention.removable(experiment, *rule, sources)
        unused = leftovers.of_experiment(experiment)
        if not entries and not unused:
            continue
        who = lock.holder(experiment.folder)
        if who is not None and lock.alive(who) is not False:
            say(f"{plain(experiment.id)} is skipped: process {who.pid} on {who.host} is writing it.")
            continue
        names = [name for e in entries for name in (e.file, model_name(e.epoch))]
        going = [*(experiment.folder / name for name in names), *unused]
        found.append(Doomed(experiment, entries, unused, sum(map(leftovers.size, going))))
    return found


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


def _ask(doomed: Sequence[Doomed], imports: int, total: int) -> None:
    """Let the user confirm what was shown.

    Raises:
        ConfigError: there is no terminal to ask on. typer.Exit: the answer is no.
    """
    from raysweep.errors import ConfigError

    what = f"{_checkpoints(sum(len(d.entries) for d in doomed))} of {len(doomed)} experiment{'s' * (len(doomed) != 1)}"
    unused = sum(len(d.leftovers) for d in doomed) + imports
    what += f" and {unused} unused file{'s' * (unused != 1)}" if unused else ""
    what = f"{what} ({total / 1e6:,.1f} MB)"
    if not _can_ask():
        raise ConfigError(
            f"{what} would be deleted, but there is no terminal to ask on, so nothing was. Repeat with --yes; --dry-run shows it only."
        )
    if not typer.confirm(f"Delete {what}?", err=True):
        say("Nothing was deleted.")
        raise typer.Exit(1)


def _can_ask() -> bool:
    return all(stream is not None and stream.isatty() for stream in (sys.stdin, sys.stderr))


def _remove(one: Doomed, last: int | None, every: int | None, used: InUse) -> Removed | None:
    """Delete what was shown of an experiment, as far as the rule still allows it now; None if something could not be written."""
    from raysweep.errors import LockedError, StoreError
    from raysweep.store import leftovers, retention
    from raysweep.store.lock import WriterLock

    experiment = one.experiment
    first = 0
    try:
        try:
            lock = WriterLock.acquire(experiment.folder)
        except StoreError as error:
            if not retention.is_full(error):
                raise
            first = retention.make_room_before_the_lock(experiment, one.entries, used)
            lock = WriterLock.acquire(experiment.folder)
        try:
            rule = _rule(experiment, last, every)
            now = [] if rule is None else retention.removable(experiment, *rule, set())
            shown = {e.file: e.sha256 for e in one.entries}
            entries = [e for e in now if shown.get(e.file) == e.sha256]
            unused = [p for p in leftovers.of_experiment(experiment) if p in one.leftovers]
            first += leftovers.remove(experiment, unused, used)
            removed = retention.remove(experiment, entries, "raysweep prune", used)
        finally:
            lock.release()
    except LockedError as error:
        say(f"{plain(experiment.id)} is skipped: {plain(error)}")
        return retention.Removed(freed=first)
    except StoreError as error:
        say(f"error: {plain(error)}")
        return None
    removed.freed += first
    for entry in one.entries:
        if entry in removed.spared:
            say(f"{plain(experiment.id)}@{entry.epoch} is kept: something has started from it meanwhile.")
        elif entry not in removed.entries:
            say(f"{plain(experiment.id)}@{entry.epoch} is kept: the experiment has changed meanwhile.")
    return removed
