"""Pages that need no other file, no script and no network. Texts of users are never taken for markup."""

from __future__ import annotations

import functools
import math
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raysweep._text import plain
from raysweep.report.effects import NOT_TESTED
from raysweep.report.sections.records import HeatCell

if TYPE_CHECKING:
    from jinja2 import Environment


def render(template: str, **values: Any) -> str:
    """A page as HTML. Every text is escaped, and control characters and marks of writing direction are replaced.

    Args:
        template: a file beside this one.
    """
    return environment().get_template(template).render(values)


@functools.cache
def environment(*folders: Path) -> Environment:
    """What makes HTML of templates.

    Args:
        folders: where templates are looked for before the folder of this file.
    """
    import jinja2
    from markupsafe import Markup

    def shown(value: Any) -> Any:
        if isinstance(value, str) and not isinstance(value, Markup):
            return plain(value)
        return value

    made = jinja2.Environment(
        autoescape=True,
        finalize=shown,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=jinja2.FileSystemLoader([*folders, Path(__file__).parent]),
    )
    made.filters |= {
        "percent": lambda v: "-" if v is None or math.isnan(v) else f"{v:.1%}",
        "decimals": lambda v: "-" if v is None else f"{v:.3f}",
        "points": lambda v: "?" if math.isnan(v) else f"{100 * v:+.1f}",
        "svg": Markup,  # made by sections/chart.py, without any text of a user
        "lines": lambda text: Markup("\n").join(plain(line) for line in text.split("\n")),
        "tint": _tint,
    }
    made.globals["version"] = version("raysweep")
    return made


def _tint(cell: HeatCell) -> str:
    """The CSS classes of a cell of the heat map: its direction, in 20 steps the strength of its colour, whether it is shown."""
    effect = cell.e
    if effect.label == NOT_TESTED:  # a few images make the largest differences
        return "untested"
    if effect.difference == 0 or math.isnan(effect.difference):
        return "real" if effect.shown else ""
    steps = round(20 * cell.strength)
    names = ["better" if effect.difference > 0 else "worse", f"s{steps}"]
    return " ".join([*names, *(["real"] if effect.shown else []), *(["deep"] if steps >= 8 else [])])
