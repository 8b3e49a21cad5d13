"""``raysweep verify``: are the checkpoints intact, and does training from them give the recorded bits?"""

from __future__ import annotations

from typing import Any

import typer

from raysweep._text import plain
from raysweep.display.terminal import put, put_json, say
from raysweep.store.root import Root


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
    root: str = typer.Option(
        "experiments", "--root", envvar="RAYSWEEP_ROOT", help="Folder of all experiments, or s3://BUCKET/PREFIX."
    ),
) -> None:
    """Check that checkpoints are intact. Checks hash, content, class order, random generators and position; exits with code 1
    if any check fails."""

    from raysweep.errors import RaysweepError
    from raysweep.store import lineage, verify
    from raysweep.tools import replay as verifying

    folder = Root.open(root)
    rows: list[dict[str, Any]] = []

    def tell(experiment: Any, file: str | None, faults: list[str], text: str = "") -> None:
        rows.append({"experiment": experiment.id, "file": file, "faults": faults, "text": text})
        if as_json:
            return
        where = plain(f"{experiment.id} {file or ''}".strip())
        for fault in faults[:5]:
            put(f"FAULT  {where}: {plain(fault)}")
        if not faults:
            put(f"ok     {where}: {plain(text)}")

    for experiment, entries in _chosen(folder, references or []):
        manifest = experiment.manifest()
        if manifest.problems:
            tell(experiment, None, list(manifest.problems))
        try:
            lineage.read(experiment.folder)
        except RaysweepError as error:
            tell(experiment, None, [str(error)])
        ends = {e.epoch: e for e in manifest.ends}
        for entry in entries:
            wrong = verify.problems(experiment, entry)
            after = ends.get(entry.epoch if entry.batch is not None else entry.epoch + 1)
            text = "intact"
            if replay and not wrong and after is not None:
                wrong, text = _replayed(verifying.replay(folder, experiment, entry, after), after.epoch)
            tell(experiment, entry.file, wrong, text)
    if as_json:
        put_json(rows)
    checked = sum(r["file"] is not None for r in rows)
    faults = sum(len(r["faults"]) for r in rows)
    say(f"{checked} checkpoint{'s' * (checked != 1)} checked, {faults} fault{'s' * (faults != 1)}.")
    raise typer.Exit(1 if faults else 0)


def _replayed(found: Any, epoch: int) -> tuple[list[str], str]:
    """Faults, and the text if there are none. Different bits under different conditions are not a fault."""
    if not found.differences:
        return [], f"intact; epoch {epoch} trained again: the same bits"
    if found.conditions:
        other = ", ".join(found.conditions)
        return [], f"intact; epoch {epoch} trained again: not comparable, because it ran with {other}"
    return found.differences, ""


def _is_old(experiment: Any) -> bool:
    """Whether the old system wrote the folder. A damaged log does not count; it is reported as a fault."""
    from raysweep.errors import RaysweepError

    try:
        return experiment.status() == "legacy"
    except RaysweepError:
        return False


def _chosen(root: Any, references: list[str]) -> list[tuple[Any, list[Any]]]:
    from raysweep.errors import NotFoundError
    from raysweep.store import catalog, resolve

    if not references:
        return [(e, e.entries()) for e in catalog.experiments(root) if not _is_old(e)]
    found = []
    for reference in references:
        if resolve.split_reference(reference) is None and not reference.endswith(".pt"):
            experiment = resolve.find_experiment(root, reference)
            found.append((experiment, experiment.entries()))
            continue
        experiment, entry, path = resolve.find_checkpoint(root, reference)
        if entry is None:
            raise NotFoundError(
                f"{path} is not in a manifest, so there is no recorded hash to compare with. Is it a copy?"
            )
        found.append((experiment, [entry]))
    return found
