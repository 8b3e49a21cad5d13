"""``raysweep verify``: are the checkpoints whole, and does training from them give the recorded bits?"""

from __future__ import annotations

from typing import Any

import typer

from raysweep.cli.terminal import plain, put, say


def register(app: typer.Typer) -> None:
    app.command("verify")(verify)


def verify(
    references: list[str] | None = typer.Argument(
        None, metavar="[EXPERIMENT|CKPT]...", help="Default: all experiments under the root."
    ),
    replay: bool = typer.Option(
        False, "--replay", help="Train each epoch after a checkpoint again and compare the bits."
    ),
    root: str = typer.Option("experiments", "--root", envvar="RAYSWEEP_ROOT", help="Folder of all experiments."),
) -> None:
    """Check hashes, loadability, class order, generators and position of checkpoints; exit code 1 if anything is wrong."""
    from pathlib import Path

    from raysweep.launch import verify as verifying
    from raysweep.store import lineage

    folder = Path(root).expanduser()
    faults = 0
    checked = 0
    for experiment, entries in _chosen(folder, references or []):
        for text in experiment.lost_manifest():
            faults += 1
            put(f"FAULT  {plain(experiment.id)}: {plain(text)}")
        lineage.read(experiment.folder)
        ends = {e.epoch: e for e in experiment.entries() if e.batch is None}
        for entry in entries:
            wrong = verifying.problems(experiment, entry)
            after = ends.get(entry.epoch if entry.batch is not None else entry.epoch + 1)
            told = "whole"
            if replay and not wrong and after is not None:
                wrong = verifying.replay(folder, experiment, entry, after)
                told = f"whole; epoch {after.epoch} trained again: the same bits"
            checked += 1
            faults += len(wrong)
            for text in wrong[:5]:
                put(f"FAULT  {plain(experiment.id)} {entry.file}: {plain(text)}")
            if not wrong:
                put(f"ok     {plain(experiment.id)} {entry.file}: {told}")
    say(f"{checked} checkpoint{'s' * (checked != 1)} checked, {faults} fault{'s' * (faults != 1)}.")
    raise typer.Exit(1 if faults else 0)


def _chosen(root: Any, references: list[str]) -> list[tuple[Any, list[Any]]]:
    from raysweep.errors import NotFoundError
    from raysweep.store import catalog

    if not references:
        return [(e, e.entries()) for e in catalog.experiments(root) if e.status() != "legacy"]
    found = []
    for reference in references:
        if catalog.split_reference(reference) is None and not reference.endswith(".pt"):
            experiment = catalog.find(root, reference)
            found.append((experiment, experiment.entries()))
            continue
        experiment, entry, path = catalog.find_checkpoint(root, reference)
        if entry is None:
            raise NotFoundError(f"{path} is not in a manifest, so there is nothing to compare it with. Is it a copy?")
        found.append((experiment, [entry]))
    return found
