"""Learning curves as SVG."""

from __future__ import annotations

from raysweep.report.sections import chart


def test_what_branches_have_in_common_is_drawn_once():
    before = [0.2, 0.3]
    same = [chart.Line([1, 2, 3], [*before, end], style, 2) for style, end in enumerate([0.4, 0.5, 0.6])]
    other = chart.Line([1, 2, 3], [0.1, 0.3, 0.7], 3, 2)
    grey = [
        line
        for line in chart.svg([*same, other], "a").splitlines()
        if "#808080" in line and "stroke-width: 1.4" in line
    ]
    assert len(grey) == 2
