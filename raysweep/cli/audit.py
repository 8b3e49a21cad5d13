"""``raysweep audit``: copies and contradictions among the images of a data set, and how they are read."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from raysweep._text import plain
from raysweep.cli.options import RootOption
from raysweep.display.tables import table
from raysweep.display.terminal import put_json, say

if TYPE_CHECKING:
    from raysweep.data.audit import Audit

MOST_ROWS = 20  # that are printed of a table; --json has all


def register(app: typer.Typer) -> None:
    app.command("audit", no_args_is_help=True)(audit)


def audit(
    data: str = typer.Argument(
        ..., metavar="DATA", help="Folder or list of images, or the name of a built-in data set."
    ),
    overrides: list[str] | None = typer.Argument(
        None, metavar="[data.key=value]...", help="How to read it, such as data.image_size=48."
    ),
    near: bool = typer.Option(True, "--near/--no-near", help="Also look for nearly equal images."),
    as_json: bool = typer.Option(False, "--json", help="Print everything as one JSON object."),
    html: str | None = typer.Option(
        None, "--html", metavar="FILE", help="Also write one page with thumbnails of the copies and contradictions."
    ),
    root: RootOption = "experiments",
) -> None:
    """Look for copies among images. Says which validation images are also in training, exactly or nearly, which training images
    repeat or contradict each other, and what was left out, cropped or converted."""
    from raysweep.config import load as load_config
    from raysweep.display.run import RunDisplay

    if html is not None:
        from raysweep.report import audit_page

        audit_page.new_file(html)
    given = load_config.parse_overrides(overrides or [])
    with RunDisplay() as display:
        from raysweep.api import looking

        found = looking.audit(data, near=near, settings=given, root=root, progress=display)
    put_json(found.to_json()) if as_json else _show(found)
    if html is not None:
        say(f"Written to {plain(found.report(html))}. Open it in a browser; it works offline.")


def _show(audit: Audit) -> None:
    data, pairs, (train, val) = audit.data, audit.pairs, audit.counts
    copies = data.reading.copies
    leaked = {} if copies is None else copies.leaked
    most = sorted(data.classes, key=lambda c: -leaked.get(c, 0))
    rows = [[plain(c), f"{train[c]:,}", f"{val[c]:,}", f"{leaked.get(c, 0):,}"] for c in most]
    columns = [("class", "l"), ("training", "r"), ("validation", "r"), ("of these also in training", "r")]
    sealed = {} if data.reading.seal is None else data.reading.seal.of_class
    if sealed:  # their own classes stay closed
        columns.append(("sealed copies of its training images", "r"))
        rows = [[*row, f"{sealed.get(c, 0):,}"] for row, c in zip(rows, most, strict=True)]
    table("Images per class", columns, rows[:MOST_ROWS])
    if len(rows) > MOST_ROWS:
        say(f"{len(rows) - MOST_ROWS:,} more classes; --json has all.")
    for line in data.reading.lines():
        say(line)
    _few([f"{plain(r.image.name)} = {plain(r.copies[0].name)}" for r in audit.leaked], "In training, too")
    equal = [" = ".join(f"{plain(p.name)} ({plain(p.of_class)})" for p in g) for g in audit.contradicting]
    _few(equal, "Contradicting")
    if pairs is not None:
        across = [p for p in pairs if p.one.split != p.other.split]
        _few(
            [f"{plain(p.one.name)} ~ {plain(p.other.name)} ({p.distance} of 64 bits)" for p in across],
            f"Nearly equal ({len(pairs):,} pairs, {len(across):,} of them across the split; look at them)",
        )
    if not audit.leaked and not audit.repeated:
        say("No image is an exact copy of another one.")


def _few(lines: list[str], what: str) -> None:
    """Print the first few of a list."""
    if not lines:
        return
    say(f"{what}:")
    for line in lines[:5]:
        say(f"  {line}")
    if len(lines) > 5:
        say(f"  … {len(lines) - 5:,} more; --json has all.")
