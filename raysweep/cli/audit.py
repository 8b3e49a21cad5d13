"""``raysweep audit``: copies and contradictions among the images of a data set, and how they are read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from raysweep._paths import user_path
from raysweep._text import plain
from raysweep.cli.options import RootOption
from raysweep.display.tables import table
from raysweep.display.terminal import put_json, say
from raysweep.store.root import Root

if TYPE_CHECKING:
    from raysweep.data.audit import Near, Place
    from raysweep.data.cache import Dataset

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
    from raysweep.config.settings import DataSection
    from raysweep.display.run import RunDisplay

    target = None if html is None else _new_file(html)
    given = load_config.parse_overrides(overrides or []).get("data", {})
    builtin = data in DataSection.model_fields["source"].annotation.__args__  # type: ignore[union-attr]
    values = {"data": {("source" if builtin else "path"): data, **given}}
    settings = load_config.validate(values, "the command line")
    with RunDisplay() as display:
        from raysweep.data import audit as auditing
        from raysweep.data import cache
        from raysweep.events import Decoding
        from raysweep.plan.experiment import cache_dir

        found = cache.load(
            settings.data, cache_dir(settings, Root.open(root)), lambda done, total: display(Decoding(done, total)), say
        )
        pairs = auditing.near(found, lambda done, total: display(Decoding(done, total))) if near else None
    put_json(_as_json(found, pairs)) if as_json else _show(found, pairs)
    if target is not None:
        from raysweep.report import audit_page
        from raysweep.store import files

        files.write_atomic(target, audit_page.html(found, pairs, data).encode(errors="backslashreplace"))
        say(f"Written to {plain(target)}. Open it in a browser; it works offline.")


def _new_file(name: str) -> Path:
    """
    Raises:
        InputError: it exists, or cannot be there.
    """
    from raysweep.errors import InputError

    target = user_path(name)
    if target.is_dir() or not target.absolute().parent.is_dir():
        raise InputError(f"--html {plain(name)}: give the name of a file in a folder that exists, such as audit.html.")
    if target.exists():
        raise InputError(f"--html {plain(name)}: the file exists. Name a new one, or delete it.")
    return target


def _exact(data: Dataset) -> tuple[list[dict[str, Any]], list[list[Place]]]:
    """(validation images that are also in training, groups of equal training images)."""
    from raysweep.data import audit as auditing
    from raysweep.data.audit import TRAIN, VAL

    groups, places = auditing.exact(data), auditing.Places(data)
    leaked = []
    for i, rows in groups.sources.items():
        mine, theirs = places.at(VAL, i), [places.at(TRAIN, j) for j in rows]
        leaked.append(
            {
                "validation": mine.name,
                "class": mine.of_class,
                "training": [p.name for p in theirs],
                "training_classes": sorted({p.of_class for p in theirs}),
            }
        )
    return leaked, [[places.at(TRAIN, i) for i in rows] for rows in groups.repeated]


def _as_json(data: Dataset, pairs: tuple[Near, ...] | None) -> dict[str, object]:
    leaked, repeated = _exact(data)
    reading = data.reading.to_json()
    return {
        "sha256": data.sha256,
        "images": {"train": data.train.counts(data.classes), "val": data.val.counts(data.classes)},
        "copies": reading["copies"],
        "leaked": leaked,
        "repeated": [[vars(p) for p in group] for group in repeated],
        "near": None
        if pairs is None
        else [{"one": vars(p.one), "other": vars(p.other), "distance": p.distance} for p in pairs],
        "reading": reading,
    }


def _show(data: Dataset, pairs: tuple[Near, ...] | None) -> None:
    train, val = data.train.counts(data.classes), data.val.counts(data.classes)
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
    found, repeated = _exact(data)
    contradicting = [group for group in repeated if len({p.of_class for p in group}) > 1]
    _few([f"{plain(r['validation'])} = {plain(r['training'][0])}" for r in found], "In training, too")
    _few([" = ".join(f"{plain(p.name)} ({plain(p.of_class)})" for p in g) for g in contradicting], "Contradicting")
    if pairs is not None:
        across = [p for p in pairs if p.one.split != p.other.split]
        _few(
            [f"{plain(p.one.name)} ~ {plain(p.other.name)} ({p.distance} of 64 bits)" for p in across],
            f"Nearly equal ({len(pairs):,} pairs, {len(across):,} of them across the split; look at them)",
        )
    if not found and not repeated:
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
