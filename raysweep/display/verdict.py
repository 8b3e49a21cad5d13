"""What a sweep shows, in sentences."""

from __future__ import annotations

from typing import TYPE_CHECKING

from raysweep._text import counted, plain
from raysweep.display.terminal import say

if TYPE_CHECKING:
    from raysweep.report.comparison import Comparison

MOST_VERDICTS = 8  # sentences at the end of a sweep


def say_verdict(comparison: Comparison) -> None:
    """Print what the sweep shows: what was learned, what only moved a threshold."""
    from raysweep.report import verdict

    lines, more = verdict.sentences(comparison, MOST_VERDICTS)
    for line in lines:
        say(plain(line.text))
    if more:
        say(f"{counted(more, 'more sentence')}, which `raysweep compare` prints.")
