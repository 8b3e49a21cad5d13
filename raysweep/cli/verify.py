"""``raysweep verify``: are the checkpoints intact, and does training from them give the recorded bits?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import typer

from raysweep._text import counted, plain
from raysweep.cli.consent import consent
from raysweep.cli.options import RootOption, TrustOption
from raysweep.display.terminal import put, put_json, say
from raysweep.store.root import Root

if TYPE_CHECKING:
    from raysweep.store.experiment import Experiment
    from raysweep.store.records_manifest import ManifestEntry
    from raysweep.store.trust import Trust
    from raysweep.tools.replay import Replay


@dataclass(frozen=True)
class Row:
    """The result for one checkpoint, or for an experiment (``file`` is None)."""

    experiment: str
    file: str | None
    faults: list[str]
    text: str
    replayed: bool = False  # trained again, and compared


def register(app: typer.Typer) -> None:
    app.command("verify")(verify)


def verify(
    references: list[str] | None = typer.Argument(
        None, metavar="[EXPERIMENT|CKPT]...", help="Default: all experiments under the root."
    ),
    replay: bool = typer.Option(
        False, "--replay", help="Train the epoch after each checkpoint again and compare the bits."
    ),
    as_json: bool = typer.Option(
        False, "--json", help="Print one JSON array: one row per checkpoint with its faults and a text."
    ),
    trust: TrustOption = False,
    root: RootOption = "experiments",
) -> None:
    """Check that checkpoints are intact: hash, content, class order, random generators and position. Of whole experiments also
    the files beside them: the best checkpoint, predictions, history, report and pictures. Exits with code 1 if any check fails."""

    folder = Root.open(root)
    rows: list[Row] = []
    for experiment, entries in _chosen(folder, references or []):
        for row in _checked(folder, experiment, entries, consent(trust) if replay else None):
            rows.append(row)
            if not as_json:
                _print(row)
    if as_json:
        put_json([vars(r) for r in rows])
    checked = sum(r.file is not None for r in rows)
    faults = sum(len(r.faults) for r in rows)
    say(
        f"{counted(checked, 'checkpoint')} checked, {counted(faults, 'fault')}.{_trained_again(rows) if replay else ''}"
    )
    raise typer.Exit(1 if faults else 0)


def _trained_again(rows: list[Row]) -> str:
    """How many epochs a replay has compared; and if none, that nothing is known of what training gives."""
    count = sum(r.replayed for r in rows)
    if count:
        return f" {counted(count, 'epoch')} trained again."
    return " No epoch was trained again, so nothing was found out about what training gives."


def _print(row: Row) -> None:
    where = plain(f"{row.experiment} {row.file or ''}".strip())
    for fault in row.faults[:5]:
        put(f"FAULT  {where}: {plain(fault)}")
    if not row.faults:
        put(f"ok     {where}: {plain(row.text)}")


def _checked(root: Root, experiment: Experiment, one: ManifestEntry | None, replay: Trust | None) -> Iterator[Row]:
    """The faults of the experiment's manifest and log, if any, then a row for each checkpoint, then what is wrong with the
    other files.

    Args:
        one: the only checkpoint to check, and nothing else.
        replay: train again, if what the checkpoints name may run; None: do not train.
    """
    from raysweep.errors import InputError, RaysweepError, TrainingError
    from raysweep.store import lineage, verify
    from raysweep.tools import derived
    from raysweep.tools import replay as replaying

    manifest = experiment.manifest()
    if manifest.problems:
        yield Row(experiment.id, None, list(manifest.problems), "")
    try:
        wrong = lineage.problems(experiment.folder)
    except RaysweepError as error:
        wrong = [str(error)]
    told = lineage.told_of_damage(experiment.folder)
    if wrong or told:
        yield Row(experiment.id, None, wrong, "; ".join(told))
    ends = {e.epoch: e for e in manifest.ends}
    intact = []
    for entry in [one] if one is not None else manifest.entries:
        faults = verify.problems(experiment, entry)
        after = ends.get(entry.epoch if entry.batch is not None else entry.epoch + 1)
        text, trained = "intact", False
        if not faults:
            intact.append(entry)
        if replay is not None and not faults:
            if after is None:
                text = f"intact; not trained again from here: {_no_end(entry, manifest.ends)}"
            else:
                try:
                    faults, text = _replayed(
                        replaying.replay(root, experiment, entry, after, trust=replay), after.epoch
                    )
                    trained = True
                except (InputError, TrainingError) as error:  # the other experiments are checked
                    faults = [f"intact, but not trained again: {error}"]
        yield Row(experiment.id, entry.file, faults, text, trained)
    if replay is not None and one is None and (first := _never_replayed(experiment, manifest.ends)):
        yield Row(experiment.id, None, [], first)
    if one is None:
        found = derived.check(experiment, intact)
        if found.faults or found.told:
            yield Row(experiment.id, None, found.faults, "; ".join(found.told))


def _no_end(entry: ManifestEntry, ends: Sequence[ManifestEntry]) -> str:
    """Why there is nothing to compare with."""
    epoch = entry.epoch if entry.batch is not None else entry.epoch + 1
    later = any(e.epoch > epoch for e in ends)
    return f"the checkpoint of epoch {epoch} is {'gone' if later else 'not there'}, so there is nothing to compare with"


def _never_replayed(experiment: Experiment, ends: Sequence[ManifestEntry]) -> str:
    """Which epoch no checkpoint of an experiment comes before; empty where there is none."""
    from raysweep.errors import StoreError

    if not ends:
        return ""
    try:
        parent = experiment.config().parent
    except StoreError:  # a fault that is told elsewhere
        return ""
    where = "new weights" if parent is None else f"its parent's checkpoint, {parent.reference}"
    return f"epoch {ends[0].epoch} was not trained again: it started from {where}, and no checkpoint here is before it"


def _replayed(found: Replay, epoch: int) -> tuple[list[str], str]:
    """Faults, and the text if there are none. Different bits under different conditions are not a fault."""
    again = f"epoch {epoch} trained again"
    if found.difference is None:
        return [], f"intact; {again}: the same bits"
    if found.conditions:
        other = ", ".join(found.conditions)
        return [], f"intact; {again}: not comparable, because it ran with {other} ({found.difference})"
    fault = f"{again}: {found.difference}"
    if found.unrecorded:
        fault += f". It does not record its {', '.join(found.unrecorded)}: one of these may be the reason"
    return [fault], ""


def _is_old(experiment: Experiment) -> bool:
    """Whether the old system wrote the folder. A damaged log does not count; it is reported as a fault."""
    from raysweep.errors import RaysweepError

    try:
        return experiment.status() == "legacy"
    except RaysweepError:
        return False


def _chosen(root: Root, references: list[str]) -> list[tuple[Experiment, ManifestEntry | None]]:
    """The experiments to check; of some only one checkpoint.

    Raises:
        NotFoundError: a reference means nothing, or a checkpoint whose hash is not recorded.
    """
    from raysweep.errors import NotFoundError
    from raysweep.store import catalog, resolve

    if not references:
        return [(e, None) for e in catalog.experiments(root) if not _is_old(e)]
    found: list[tuple[Experiment, ManifestEntry | None]] = []
    for reference in references:
        if resolve.split_reference(reference) is None and not reference.endswith(".pt"):
            found.append((resolve.find_experiment(root, reference), None))
            continue
        experiment, entry, path = resolve.find_checkpoint(root, reference)
        if entry is None:
            raise NotFoundError(
                f"{path} is not in a manifest, so there is no recorded hash to compare with. Is it a copy?"
            )
        found.append((experiment, entry))
    return found
