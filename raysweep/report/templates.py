"""Pages that need no other file, no script and no network. Texts of users are never taken for markup."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raysweep._text import plain

if TYPE_CHECKING:
    from jinja2 import Environment


def render(template: str, filters: Mapping[str, Callable[..., Any]], **values: Any) -> str:
    """A page as HTML. Every text is escaped, and control characters and marks of writing direction are replaced.

    Args:
        template: a file beside this one.
        filters: of this page only.
    """
    environment = _environment()
    if filters:  # else its templates are compiled once
        environment = environment.overlay()
        environment.filters = {**environment.filters, **filters}
    return environment.get_template(template).render(version=_version(), **values)


@cache
def _version() -> str:
    return version("raysweep")


@cache
def _environment() -> Environment:
    import jinja2
    from markupsafe import Markup

    def shown(value: Any) -> Any:
        if isinstance(value, str) and not isinstance(value, Markup):
            return plain(value)
        return value

    environment = jinja2.Environment(
        autoescape=True,
        finalize=shown,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
    )
    environment.filters |= {
        "percent": lambda v: "-" if v is None or math.isnan(v) else f"{v:.1%}",
        "decimals": lambda v: "-" if v is None else f"{v:.3f}",
        "points": lambda v: "?" if math.isnan(v) else f"{100 * v:+.1f}",
        "svg": Markup,  # made by sections/chart.py, without any text of a user
        "lines": lambda text: Markup("\n").join(plain(line) for line in text.split("\n")),
    }
    return environment
