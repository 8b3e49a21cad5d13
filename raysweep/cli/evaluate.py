"""``raysweep evaluate``: how good trained networks are, with intervals; the one command that looks at sealed test images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import typer

from raysweep._text import counted, plain
from raysweep.cli.consent import consent
from raysweep.cli.options import Classes, RootOption, TrustOption
from raysweep.display.tables import table
from raysweep.display.terminal import put_json, say, split_classes
from raysweep.label_sets import MAP

if TYPE_CHECKING:
    from raysweep.report.evaluation import Evaluation, Gain, Moved
    from raysweep.report.findings.estimates import Estimate, Estimated

MAX_NAMED = 20  # images that cannot be decoded, in the error
NAMES = {
    "mAP": "mAP", "accuracy": "accuracy", "macro_f1": "macro-F1", "balanced_accuracy": "balanced accuracy",
    "ece": "calibration error", "brier": "Brier score", "log_loss": "log-loss",
    "recall": "recall", "precision": "precision", "f1": "F1", "ap": "AP", "auroc": "AUROC",
}  # fmt: skip
IMAGES = {"test": "test image", "val": "validation image", "all": "image"}


def register(app: typer.Typer) -> None:
    app.command("evaluate", no_args_is_help=True)(evaluate)


def evaluate(
    reference: str = typer.Argument(
        ...,
        metavar="REF",
        help="A checkpoint, an experiment (its best epoch), a sweep (the branch that its grid selects, and the control), or "
        "hf:NAME, timm:NAME, torchvision:NAME with data.path=….",
    ),
    overrides: list[str] | None = typer.Argument(
        None,
        metavar="[key=value]...",
        help="Other images (data.path=FOLDER), and what an old checkpoint does not contain.",
    ),
    split: str = typer.Option(
        "test", "--split", help="test: the sealed images; every look is recorded. val: validation."
    ),
    classes: Classes = None,
    as_json: bool = typer.Option(False, "--json", help="Print everything as one JSON object."),
    trust: TrustOption = False,
    root: RootOption = "experiments",
) -> None:
    """Evaluate trained networks on test images: every metric with its interval, calibration, confusion matrix. Of a sweep, what the
    chosen branch really gained. Each look at sealed images is recorded and counted."""
    from raysweep.config import load as load_config
    from raysweep.errors import RaysweepError

    over = load_config.parse_overrides(overrides or [])
    from raysweep.api import looking
    from raysweep.display.run import RunDisplay

    with RunDisplay() as display:
        found = looking.evaluate(
            reference,
            split,
            settings=over,
            classes=split_classes(classes),
            root=root,
            progress=display,
            trust=consent(trust, display),
        )
    if as_json:
        put_json(found.to_json())
    else:
        _show(found)
    skips = (over.get("data") or {}).get("on_bad_image") == "skip"
    if found.left_out and not skips:
        named = "; ".join(f"{plain(name)} ({why})" for name, why in found.left_out[:MAX_NAMED])
        more = f"; and {len(found.left_out) - MAX_NAMED} more, all of which --json names" * (
            len(found.left_out) > MAX_NAMED
        )
        raise RaysweepError(
            f"{len(found.left_out)} of {found.images + len(found.left_out)} images cannot be decoded and are left out of these "
            f"numbers: {named}{more}. Repair them, or accept that with data.on_bad_image=skip."
        )


def _show(found: Evaluation) -> None:
    several = len(found.arms) > 1
    for arm in found.arms:
        name = f"{plain(arm.name)}, " if several else ""
        seeds = f", mean of {arm.networks} seeds" if arm.networks > 1 else ""
        title = f"{name}{counted(found.images, IMAGES[found.split])}{seeds}; ± half of a 95 % interval, or its ends where 0 or 100 cuts it off"
        shown = {m: e for m, e in arm.overall.items() if arm.together is None or m != "ece"}
        rows = [[NAMES[m], _value(m, e), _plus_minus(m, e), *_ends(m, e)] for m, e in shown.items()]
        table(title, [(f"{name}over all classes", "l"), ("value", "r"), ("±", "r"), ("from", "r"), ("to", "r")], rows)
        _classes(found, arm, name)
        if arm.together is not None:
            if text := _widest(found, arm):
                say(plain(text))
            continue
        say(
            f"By luck alone a calibrated network would show a calibration error of {100 * arm.ece_by_luck:.1f} points on so many "
            "images."
        )
    for line in _lines(found):
        say(plain(line))
    say(f"Written to {plain(found.folder)}")


def _widest(found: Evaluation, arm: Estimated) -> str:
    """Which label alone makes most of the interval of mAP, the mean over the labels that have images; empty where none does."""
    there = {c: of["ap"] for c, of in zip(found.classes, arm.of_class, strict=True) if found.counts[c]}
    parts = {c: _half(e) / len(there) for c, e in there.items()}
    whole = _half(arm.overall[MAP])
    c = max(parts, key=lambda c: parts[c], default=None)
    if c is None or not whole > 0.02 or not parts[c] > 0.8 * whole:  # NaN is neither
        return ""
    of = counted(found.counts[c], "image")
    return f"{c} ({of}) alone makes ±{100 * min(parts[c], whole):.1f} of the ±{100 * whole:.1f} points of {MAP}."


def _half(e: Estimate) -> float:
    """Half of an interval, also of one that 0 or 1 cuts off on one side."""
    return max(e.high - e.value, e.value - e.low)


def _classes(found: Evaluation, arm: Estimated, name: str) -> None:
    """A row for each class. Programs get no title, so the head names the arm."""
    rows = []
    for c, of, predicted in zip(found.classes, arm.of_class, arm.predicted, strict=True):
        cells = [_with_interval(m, e) for m, e in of.items()]
        rows.append([plain(c), f"{found.counts[c]:,}", f"{predicted:,.0f}", *cells])
    head = [(f"{name}class", "l"), ("images", "r"), ("predicted", "r"), *((NAMES[m], "r") for m in arm.of_class[0])]
    table(None, head, rows)


def _form(metric: str) -> tuple[float, str]:
    """(what a metric is shown times, its format): a share is shown in points."""
    from raysweep.report.evaluation import NO_SHARES

    return (1.0, ".3f") if metric in NO_SHARES else (100.0, ".1f")


def _value(metric: str, e: Estimate) -> str:
    """A number, in points where it is a share; empty where nothing is known."""
    factor, form = _form(metric)
    return "" if math.isnan(e.value) else format(factor * e.value, form)


def _plus_minus(metric: str, e: Estimate) -> str:
    """Half of its interval; empty where nothing is known, or 0 or 1 cuts the interval off."""
    factor, form = _form(metric)
    above, below = e.high - e.value, e.value - e.low
    return f"±{factor * above:{form}}" if math.isclose(above, below, abs_tol=1e-9) else ""  # NaN is not close


def _with_interval(metric: str, e: Estimate) -> str:
    """A number with half of its interval, or where that is cut off with its ends, in one cell."""
    low, high = _ends(metric, e)
    spread = (_plus_minus(metric, e) or f"({low} … {high})") if low else ""
    return f"{_value(metric, e)} {spread}"


def _ends(metric: str, e: Estimate) -> list[str]:
    factor, form = _form(metric)
    return ["" if math.isnan(v) else format(factor * v, form) for v in (e.low, e.high)]


def _lines(found: Evaluation) -> list[str]:
    """What is to be said of the numbers, a sentence each."""
    from raysweep.store.evaluations import ordinal

    lines = [] if found.gain is None else _of_gain(found, found.gain)
    lines += [] if found.moved is None else [_of_moved(found, found.moved)]
    if found.leaked is not None and found.leaked.images:
        lines += _of_leaks(found)
    if found.look is not None:
        last = (
            f" The last one was of {found.before[-1].of}, {found.before[-1].time[:16].replace('T', ' ')}."
            if found.before
            else ""
        )
        lines.append(f"This is the {ordinal(found.look)} look at these images.{last}")
        if found.before:
            lines.append(
                "Whoever chooses after a look chooses on these images, and they no longer tell what is to be expected."
            )
    return [*lines, *(f"Note: {note}" for note in found.notes)]


def _of_gain(found: Evaluation, g: Gain) -> list[str]:
    name = NAMES[g.metric]
    among = f"Chosen by {name} among {counted(g.among, 'branch', 'branches')}" if g.among > 1 else "The only branch"
    interval = "" if math.isnan(g.low) else f" (95 % interval {100 * g.low:+.1f} … {100 * g.high:+.1f})"
    here = f"{interval}: {g.label}" if g.label else interval
    on_validation = found.split == "val"
    text = f"{among}: {g.branch}. Gain over the control in {name}, in points: on validation {100 * g.validation:+.1f}"
    text += here if on_validation else ""
    if math.isnan(g.corrected):
        text += "; one seed cannot tell how much of that is luck of having been chosen"
    elif g.among > 1:
        text += f"; corrected for having been chosen {100 * g.corrected:+.1f}"
    none = " No branch is above the control on the validation images, so the control is the better choice."
    none = none if g.validation <= 0 else ""
    if on_validation:
        return [f"{text}.{none}"]
    text += f"; on these {IMAGES[found.split]}s {100 * g.value:+.1f}{here}."
    if g.among > 1 and not math.isnan(g.luck):
        text += f" The best of equal branches would gain {100 * g.luck:+.1f} there by lucky seeds."
    return [text + none]


def _of_moved(found: Evaluation, m: Moved) -> str:
    """What the control gets for nothing, and what the branch has beyond that."""
    name, images = NAMES[m.metric], IMAGES[found.split]
    interval = "" if math.isnan(m.low) else f" (95 % interval {100 * m.low:+.1f} … {100 * m.high:+.1f})"
    label = f": {m.label}" if m.label else ""
    return (
        f"Moved thresholds alone, fitted on the validation images, give the control {100 * m.gain:+.1f} points of {name} on these {images}s, without any "
        f"training. The branch has {100 * m.beyond:+.1f} beyond that{interval}{label}."
    )


def _of_leaks(found: Evaluation) -> Sequence[str]:
    leaked = found.leaked
    assert leaked is not None
    told = f"{leaked.images:,} of the {found.images:,} images are pixel for pixel in training."
    if not leaked.arms:
        return [f"{told} Nothing is left without them, so these numbers say nothing of other images."]
    each = "; ".join(
        f"{a.name}: accuracy {100 * a.overall['accuracy'].value:.1f}, macro-F1 {100 * a.overall['macro_f1'].value:.1f}"
        for a in leaked.arms
    )
    gain = "" if leaked.gain is None else f"; gain {100 * leaked.gain:+.1f}"
    return [f"{told} Without them: {each}{gain}."]
