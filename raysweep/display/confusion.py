"""The confusion matrix on a terminal: the whole of a small one, of a large one what is confused most. Of several labels for an image the
table of how often they are predicted together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from raysweep._text import counted, labels
from raysweep.display.terminal import as_written, cell_len, say

if TYPE_CHECKING:
    from raysweep.report.predictions import Predictions

MOST_CLASSES = 20  # of a matrix that is printed whole
MOST_MISTAKES = 10  # that are listed of a larger one
_CELL = 5  # columns of the terminal
_IMAGES = 10  # columns for the number of images


def print_confusion(found: Predictions) -> None:
    """Print true classes in rows and predicted ones in columns, in percent of the row; larger shares are brighter. If there
    are too many for the width, print what is confused most."""
    import sys

    from rich.console import Console

    console = Console(stderr=True, highlight=False)
    names = [as_written(name, sys.stderr) for name in labels(found.classes)]
    longest, k = max(map(cell_len, names)), len(names)
    numbered = sum(max(_CELL, cell_len(n)) + 1 for n in names) + longest + _IMAGES > console.width
    needed = longest + (len(str(k)) + 1) * numbered + (_CELL + 1) * k + _IMAGES
    if k > MOST_CLASSES or needed > console.width:
        _print_mistakes(found, names)
    else:
        console.print(_matrix(found, names, numbered))
        if found.several:
            say(
                "On the diagonal: recall. ·: none, or less than 0.5%. The share that truly has both labels is in confusion_matrix_benchmark.png."
            )


def _print_mistakes(found: Predictions, names: list[str]) -> None:
    import numpy as np

    if found.several:
        say("The picture is in confusion_matrix_benchmark.png.")
        return
    wrong = found.matrix * (1 - np.eye(len(names), dtype=np.int64))
    order = np.argsort(-wrong, axis=None, kind="stable")
    kinds = int(np.count_nonzero(wrong))
    if not kinds:
        say(f"Epoch {found.epoch}: all {counted(len(found.labels), 'image')} of {len(names):,} classes are recognised.")
        return
    say(f"What is confused most in epoch {found.epoch}, of {len(names):,} classes:")
    for at in order[: min(kinds, MOST_MISTAKES)]:
        i, j = divmod(int(at), len(names))
        total = int(found.matrix[i].sum())
        say(f"  {names[i]} taken for {names[j]}: {int(wrong[i, j]):,} of {counted(total, 'image')}")
    more = f"{kinds - MOST_MISTAKES:,} more pairs are confused less often. " if kinds > MOST_MISTAKES else ""
    say(f"{more}The picture is in confusion_matrix_benchmark.png.")


def _matrix(found: Predictions, names: list[str], numbered: bool) -> object:
    from rich import box
    from rich.style import Style
    from rich.table import Table
    from rich.text import Text

    table = Table(
        title=f"Epoch {found.epoch}: percent of the images with each label (rows) on which … is predicted"
        if found.several
        else f"Epoch {found.epoch}: percent of each true class (rows) predicted as …",
        box=box.SIMPLE,
        title_justify="left",
        pad_edge=False,
        padding=(0, 0),
    )
    table.add_column("", no_wrap=True)
    heads = [str(i) for i in range(1, len(names) + 1)] if numbered else names
    for head in heads:
        table.add_column(Text(head), justify="right", min_width=_CELL, no_wrap=True)
    table.add_column("images", justify="right")
    for i, row in enumerate(found.matrix.tolist()):
        total = int(found.cases.counts[i]) if found.several else sum(row)
        cells = []
        for j, count in enumerate(row):
            share = count / max(1, total)
            style = Style(color="white", bgcolor=_colour(share, i == j)) if share >= 0.005 else Style()
            text = f" {share:.0%} " if share >= 0.005 else " · "
            cells.append(Text(text, style=style, justify="right"))
        name = f"{heads[i]} {names[i]} " if numbered else f"{names[i]} "
        table.add_row(Text(name), *cells, Text(f"{total:,}" if total else "no images"))
    return table


def _colour(share: float, right: bool) -> str:
    level = int(share * 120)
    if right:
        return f"rgb({20 + level // 3},{70 + level},{20 + level // 3})"
    return f"rgb({60 + level},{40 + level // 3},{20 + level // 4})"
