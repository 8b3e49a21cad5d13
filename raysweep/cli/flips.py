"""``raysweep flips``: which images a branch fixed and which it broke."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from raysweep._text import counted, plain
from raysweep.cli.options import RootOption
from raysweep.display.tables import table
from raysweep.display.terminal import put_json, say
from raysweep.store.root import Root

if TYPE_CHECKING:
    from raysweep.report.flips import Flips

MOST_ROWS = 40  # that a terminal gets
_MANY = {"false alarm": "false alarms", "alarm gone": "alarms gone"}


def register(app: typer.Typer) -> None:
    app.command("flips", no_args_is_help=True)(flips)


def flips(
    sweep: str = typer.Argument(..., metavar="SWEEP", help="Id, name, path, or an unambiguous prefix."),
    branch: str = typer.Argument(..., metavar="BRANCH", help="A branch, as `raysweep compare SWEEP` names it."),
    of_class: str | None = typer.Option(
        None, "--class", metavar="CLASS", help="Only images of this class, and those mistaken for it now or before."
    ),
    as_json: bool = typer.Option(False, "--json", help="Print everything as one JSON object."),
    root: RootOption = "experiments",
) -> None:
    """List the validation images that a branch predicts otherwise than the control. Most seeds of each decide; the numbers say how
    many. Most flips come with a moved threshold: `raysweep compare` says whether anything was learned."""
    from raysweep.errors import InputError
    from raysweep.report import flips as flipping
    from raysweep.store import resolve
    from raysweep.store.sweep import Sweep

    named = resolve.find_any(Root.open(root), sweep)
    if not isinstance(named, Sweep):
        raise InputError(f"{named.id} is an experiment. Name a sweep, and one of its branches.")
    found = flipping.of_branch(named, branch, of_class)
    if as_json:
        told = {"sweep": named.id, "branch": found.branch, "class": of_class, "reference": found.reference}
        seeds = {"reference_seeds": found.old_seeds, "branch_seeds": found.new_seeds}
        put_json({**told, **seeds, "counts": dict(found.counts), "images": [vars(flip) for flip in found.flips]})
        return
    _show(found, of_class)


def _show(found: Flips, of_class: str | None) -> None:
    import sys

    each = ", ".join(counted(n, kind, _MANY.get(kind, kind)) for kind, n in found.counts.items())
    what = f"{found.branch} against {found.reference}{f', {of_class}' if of_class is not None else ''}"
    if not found.flips:
        say(f"{plain(what)}: no image is predicted otherwise.")
        return
    rows = found.flips[:MOST_ROWS] if sys.stdout.isatty() else found.flips
    copied = any(flip.in_training for flip in rows)
    columns = [("image", "l"), ("class", "l"), ("", "l"), ("before", "l"), ("after", "l")]
    cells = [
        [
            plain(flip.name) + (" (in training, too)" if flip.in_training else ""),
            plain(flip.true),
            flip.kind,
            f"{plain(flip.old)} {flip.old_votes}/{found.old_seeds}",
            f"{plain(flip.new)} {flip.new_votes}/{found.new_seeds}",
        ]
        for flip in rows
    ]
    table(f"{plain(what)}: {each}", columns, cells)
    if len(found.flips) > len(rows):
        say(f"{counted(len(found.flips) - len(rows), 'more image')}; --json has all.")
    if copied:
        say("What is in training, too, says nothing of what was learned.")
    if not found.named:
        say(
            "The names of the images are not known: an earlier version made these experiments, and the images that it decoded are "
            "gone. The numbers are positions in val_predictions.parquet."
        )
