"""The report: one HTML file that needs no other file, no script and no network. Texts of users are never taken for markup."""

from __future__ import annotations

from pathlib import Path

from raysweep.errors import LockedError, RaysweepError
from raysweep.report import comparison, content, effects_csv, templates, verdict
from raysweep.report.comparison import Comparison
from raysweep.report.content import Content
from raysweep.report.sections import pictures
from raysweep.store import files, layout, resolve, verdict_file
from raysweep.store.root import Root
from raysweep.store.sweep import Sweep

MOST_BYTES = 2_900_000  # of a page, so that it can be sent
_HERE = "<!-- pictures -->"  # no text of a user can contain this, because they are escaped


def write(root: Root, reference: str, target: Path | None = None) -> Path:
    """Write the page of a sweep or an experiment, by default into its folder, and return its path.

    Raises:
        NotFoundError: there is no such sweep or experiment. StoreError: it cannot be read, or the page cannot be written.
        LockedError: it still runs, and no ``target`` is given.
    """
    found = resolve.find_any(root, reference)
    page = content.of_sweep(found) if isinstance(found, Sweep) else content.of_experiment(root, found)
    folder = found.folder
    target = target or folder / layout.PAGE
    try:
        files.write_atomic(target, html(page).encode(errors="backslashreplace"))
    except LockedError as error:  # it would replace the report that the run itself writes at its end
        raise LockedError(f"{error} Or write the report to another place, with -o FILE.") from None
    return target


def write_all(sweep: Sweep) -> tuple[Comparison | None, str | None]:
    """Write the derived files of a sweep that has ended: its effects as CSV and PNG, and the page.

    Returns (the comparison, if there is one; the reason, if something could not be written). That is not raised: the sweep itself
    has succeeded.
    """
    from raysweep.report import effects_picture

    problem, compared = None, None
    try:
        compared = comparison.of_sweep(sweep)
        effects_csv.write(compared, sweep.folder / layout.EFFECTS_CSV)
        files.write_atomic(sweep.folder / layout.EFFECTS_PNG, effects_picture.heat_map(compared))
        verdict_file.write(sweep, [line.text for line in verdict.lines(compared)])
    except RaysweepError as error:
        problem = str(error)
    except Exception as error:
        problem = f"The effects could not be computed: {type(error).__name__}: {error}"
    try:
        text = html(content.of_sweep(sweep, compared))
        files.write_atomic(sweep.folder / layout.PAGE, text.encode(errors="backslashreplace"))
    except RaysweepError as error:
        problem = problem or str(error)
    except Exception as error:
        problem = problem or f"The report could not be written: {type(error).__name__}: {error}"
    return compared, problem


def html(page: Content) -> str:
    """The page as HTML, with as many pictures as fit into it."""
    from markupsafe import Markup

    text = templates.render("page.html", page=page, pictures=Markup(_HERE))
    if page.pictures is None:
        return text.replace(_HERE, "", 1)
    found = pictures.filled(page.pictures, MOST_BYTES - len(text.encode(errors="backslashreplace")))
    copied = any(p.copied for c in found.classes for row in c.rows for p in row.pictures)
    section = templates.render(
        "parts/pictures.html", pictures=found, compared=page.heat is not None, against=page.against, copied=copied
    )
    return text.replace(_HERE, section if found.classes else "", 1)
