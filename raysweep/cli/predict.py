"""``raysweep predict``: the classes that a checkpoint predicts for images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from raysweep._paths import user_path
from raysweep._text import counted, plain, truncate
from raysweep.cli.consent import consent
from raysweep.cli.options import Adjust, Checkpoint, Classes, RootOption, TrustOption
from raysweep.display.tables import table
from raysweep.display.terminal import percent, put_json, say, split_classes
from raysweep.label_sets import not_built
from raysweep.store.root import Root

if TYPE_CHECKING:
    from raysweep.data.roles.record import ImageRoles
    from raysweep.tools.asked import Asked
    from raysweep.tools.frames import Series, Step
    from raysweep.tools.predict import Network

THRESHOLD = 0.5  # above which an image has a label
MAX_NAMED = 20  # files that cannot be used, in the error
MOST_SHOWN = 200  # images in a terminal's table
MOST_SERIES = 20  # of which people are told


def register(app: typer.Typer) -> None:
    app.command("predict", no_args_is_help=True)(predict)


@dataclass(frozen=True)
class _Answers:
    """What the network says of each image, and where the image stands in its series."""

    classes: Sequence[str]
    asked: Asked
    said: Sequence[list[float] | str]  # the probability of every class, or why the image cannot be used
    series: Sequence[Series]
    steps: Mapping[int, tuple[Series, Step]]
    adjusted: str | None
    several: bool = False  # labels for an image

    @property
    def with_truth(self) -> bool:
        return not self.several and any(image.truth is not None for image in self.asked.images)

    def label(self, row: int) -> str | None:
        """The class, or of several the labels with a probability above 0.5, as ``a|b``; None where the image cannot be used."""
        said = self.said[row]
        if isinstance(said, str):
            return None
        if self.several:
            return "|".join(self.labels(said))
        return self.classes[max(range(len(said)), key=said.__getitem__)]

    def labels(self, said: Sequence[float]) -> list[str]:
        return [c for c, p in zip(self.classes, said, strict=True) if p > THRESHOLD]


def predict(
    checkpoint: Checkpoint,
    images: list[str] = typer.Argument(
        ...,
        metavar="IMAGE|FOLDER...",
        help="Image files, or folders with all that lies in them; and key=value for settings that an old checkpoint does not contain.",
    ),
    classes: Classes = None,
    csv: str | None = typer.Option(
        None, "--csv", metavar="FILE.csv", help="Write a row for each image, with the probability of every class."
    ),
    series: bool = typer.Option(
        False, "--series", help="The images are numbered frames: say how the answer changes from one to the next."
    ),
    as_json: bool = typer.Option(False, "--json", help="Print JSON with the probability of every class."),
    adjust: Adjust = None,
    trust: TrustOption = False,
    root: RootOption = "experiments",
) -> None:
    """Predict the classes of images. Where some cannot be used, the others are answered, and the exit code is 1. Where the images lie
    in folders that are called as the classes, the accuracy is said."""
    import os

    from raysweep.config import load as load_config
    from raysweep.errors import InputError
    from raysweep.store import resolve

    paths = [i for i in images if "=" not in i or os.path.exists(i)]
    over = load_config.parse_overrides([i for i in images if i not in paths])
    if not paths:
        raise InputError("Name at least one image file, or a folder of images.")
    target = None if csv is None else _target(csv)
    place = Root.open(root)
    resolve.check(place, checkpoint)
    from raysweep.display.run import RunDisplay
    from raysweep.events import Building, Loading

    with RunDisplay() as display:
        display(Loading())
        from raysweep.tools import asked as asking
        from raysweep.tools import predict as networks

        display(Building())
        found = networks.load(place, checkpoint, over, split_classes(classes), consent(trust, display), adjust)
    for line in (*(f"Note: {note}." for note in found.notes), *([found.adjustment] if found.adjustment else [])):
        say(plain(line))
    if found.multi_label and series:
        raise not_built("--series", "Omit it.")
    answers = _answered(found, asking.gather([user_path(p) for p in paths], found.classes), series, adjust)
    if target is not None:
        _write(answers, target)
    if as_json:
        put_json([_as_json(answers, row) for row in range(len(answers.said))])
    elif target is None:
        _table(answers)
    _tell(answers)
    if not found.multi_label:  # a folder is called as one class
        _score(answers, networks.roles_of(place, checkpoint), checkpoint)
    _name_the_bad(answers)


def _score(answers: _Answers, roles: ImageRoles | None, checkpoint: str) -> None:
    """Say the accuracy, where folders say the classes of images."""
    from raysweep.tools import asked as asking

    predicted = [answers.label(row) for row in range(len(answers.said))]
    score = asking.score(answers.asked.images, predicted, answers.classes, roles)
    for line in () if score is None else asking.told(score, checkpoint):
        say(plain(line))


def _target(csv: str) -> Path:
    """Where the CSV file goes.

    Raises:
        InputError: it is no such file's name, as where somebody takes ``--csv`` for a switch, or its folder is not there.
    """
    from raysweep.errors import InputError

    path = user_path(csv)
    if path.suffix.lower() != ".csv" or path.is_dir():
        raise InputError(f"--csv {truncate(csv)}: give the name of the file to write, which ends in .csv.")
    if not path.absolute().parent.is_dir():
        raise InputError(
            f"--csv {truncate(csv)}: there is no folder {truncate(path.absolute().parent)}. Make it first."
        )
    return path


def _answered(found: Network, asked: Asked, wanted: bool, adjusted: str | None) -> _Answers:
    from raysweep.display.run import RunDisplay
    from raysweep.tools import frames
    from raysweep.tools import predict as networks

    usable = [row for row, image in enumerate(asked.images) if image.fault is None]
    said: list[list[float] | str] = [image.fault or "" for image in asked.images]
    with RunDisplay() as display:
        answers = networks.predictions(found, [asked.images[row].path for row in usable])
        for done, (row, (_, answer)) in enumerate(zip(usable, answers, strict=True), start=1):
            said[row] = answer
            if done % networks.AT_ONCE == 0:
                display.working("predicting", done, len(usable))
    numbered = frames.series_of([asked.images[row].path for row in usable]) if wanted else []
    of = [frames.Series(s.name, s.numbers, tuple(usable[row] for row in s.rows)) for s in numbered]
    each = _Answers(found.classes, asked, said, of, {}, adjusted, found.multi_label)
    if not of:
        return each
    known = {row: (label, p) for row, p in enumerate(said) if not isinstance(p, str) and (label := each.label(row))}
    steps = {row: (s, step) for s in of for row, step in frames.steps(s, known).items()}
    return _Answers(found.classes, asked, said, of, steps, adjusted)


# --- how it is shown --------------------------------------------------------------------------------------------------


def _order(answers: _Answers) -> list[int]:
    """The images that have an answer; with series, each series in the order of its numbers, then those of none."""
    rows = [row for s in answers.series for row in s.rows]
    of_series = set(rows)
    rows += [row for row in range(len(answers.said)) if row not in of_series]
    return [row for row in rows if not isinstance(answers.said[row], str)]


def _table(answers: _Answers) -> None:
    import sys

    rows = _order(answers)
    if not rows:
        return
    more = len(rows) - MOST_SHOWN if sys.stdout.isatty() else 0
    columns = [("image", "l"), ("class", "l"), ("probability", "r"), ("next", "l")]
    columns = [("image", "l"), ("labels", "l"), ("next", "l")] if answers.several else columns
    columns += [("folder", "l")] if answers.with_truth else []
    columns += [("number", "r"), ("change", "r"), ("was", "l")] if answers.series else []
    shown = rows[:MOST_SHOWN] if more > 0 else rows
    cells = [_labels(answers, row) if answers.several else _cells(answers, row) for row in shown]
    table(None, columns, cells, optional=[2 if answers.several else 3], whole="--csv FILE.csv")
    if more > 0:
        say(f"… {counted(more, 'more image')}; --csv FILE.csv has all.")


def _labels(answers: _Answers, row: int) -> list[str]:
    """The image, its labels, and the likeliest of the others."""
    said = answers.said[row]
    assert not isinstance(said, str)
    order = sorted(zip(said, answers.classes, strict=True), key=lambda pair: -pair[0])
    told = [(p > THRESHOLD, plain(f"{c} {percent(p)}")) for p, c in order]
    others = [text for yes, text in told if not yes]
    return [plain(answers.asked.images[row].path), ", ".join(t for yes, t in told if yes) or "–", *(others[:1] or [""])]


def _cells(answers: _Answers, row: int) -> list[str]:
    said = answers.said[row]
    assert not isinstance(said, str)
    first, second = sorted(range(len(said)), key=lambda i: -said[i])[:2]
    image = answers.asked.images[row]
    cells = [
        plain(image.path),
        plain(answers.classes[first]),
        percent(said[first]),
        plain(f"{answers.classes[second]} {percent(said[second])}"),
    ]
    cells += [plain(image.truth or "")] if answers.with_truth else []
    if answers.series:
        step = answers.steps[row][1] if row in answers.steps else None
        cells += [
            "" if step is None else str(step.number),
            "" if step is None or step.change is None else percent(step.change),
            plain(step.was) if step is not None and step.was is not None and step.turns else "",
        ]
    return cells


def _as_json(answers: _Answers, row: int) -> dict[str, object]:
    image, said = answers.asked.images[row], answers.said[row]
    if isinstance(said, str):
        return {"image": str(image.path), "error": said}
    found: dict[str, object] = {
        "image": str(image.path),
        **({"labels": answers.labels(said)} if answers.several else {"class": answers.label(row)}),
        "probabilities": dict(zip(answers.classes, said, strict=True)),
    }
    found |= {"folder": image.truth} if image.truth is not None and not answers.several else {}
    if row in answers.steps:
        series, step = answers.steps[row]
        found |= {"series": series.name, "number": step.number, "before": step.before, "change": step.change}
    return found if answers.adjusted is None else found | {"adjusted": answers.adjusted}


def _write(answers: _Answers, target: Path) -> None:
    """Write the CSV file, in UTF-8: a row for each path, those that cannot be used with the reason."""
    import csv
    import io

    from raysweep.store import files

    text = io.StringIO()
    out = csv.writer(text, lineterminator="\n")
    head = [
        "image",
        "labels" if answers.several else "class",
        "probability",
        "folder",
        "series",
        "number",
        "before",
        "change",
        "error",
    ]
    out.writerow([*head, *(f"p_{c}" for c in answers.classes)])
    bad = [row for row, said in enumerate(answers.said) if isinstance(said, str)]
    for row in [*_order(answers), *bad]:
        image, said = answers.asked.images[row], answers.said[row]
        series, step = answers.steps.get(row, (None, None))
        place = [
            "" if series is None else series.name,
            *("" if v is None else v for v in ((step.number, step.before, step.change) if step else (None,) * 3)),
        ]
        if isinstance(said, str):
            out.writerow([image.path, "", "", image.truth or "", *place, said, *[""] * len(answers.classes)])
        else:
            out.writerow(
                [
                    image.path,
                    answers.label(row),
                    "" if answers.several else max(said),
                    image.truth or "",
                    *place,
                    "",
                    *said,
                ]
            )
    files.write_atomic(target, text.getvalue().encode("utf-8", errors="surrogateescape"))
    say(f"{counted(len(answers.said) - len(bad), 'image')} written to {plain(target)}.")


def _tell(answers: _Answers) -> None:
    """What people should know beside the answers."""
    from raysweep._text import join_names
    from raysweep.tools import asked, frames

    for kind, left in answers.asked.left_out.items():
        say(plain(f"Left out: {left.count:,} {kind}."))
    usable = [not isinstance(said, str) for said in answers.said]
    if not answers.several and (strange := asked.strange(answers.asked.images, usable)):
        names = join_names(f"{name} ({n:,})" for name, n in strange.items())
        say(
            plain(
                f"These folders are called as no class of the network, so their images count in no accuracy: {names}."
            )
        )
    steps = {row: step for row, (_, step) in answers.steps.items()}
    for s in answers.series[:MOST_SERIES]:
        for line in frames.told(s, steps):
            say(plain(line))
    if len(answers.series) > MOST_SERIES:
        say(f"… {len(answers.series) - MOST_SERIES:,} more series; --csv FILE.csv has all.")


def _name_the_bad(answers: _Answers) -> None:
    """
    Raises:
        RaysweepError: some images cannot be used; it names them.
    """
    from raysweep.errors import RaysweepError

    bad = [
        f"{truncate(image.path)} ({said})"
        for image, said in zip(answers.asked.images, answers.said, strict=True)
        if isinstance(said, str)
    ]
    if bad:
        more = f"; and {len(bad) - MAX_NAMED} more, all of which --json and --csv name" if len(bad) > MAX_NAMED else ""
        raise RaysweepError(
            f"{len(bad)} of {len(answers.said)} files cannot be used: {'; '.join(bad[:MAX_NAMED])}{more}. Give image files such as "
            ".jpg or .png."
        )
