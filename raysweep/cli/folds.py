"""What ``branch``, ``continue`` and ``compare`` print of a k-fold sweep."""

from __future__ import annotations

from typing import TYPE_CHECKING

from raysweep._text import counted, plain
from raysweep.cluster import signals
from raysweep.display.tables import table
from raysweep.display.terminal import say, say_next
from raysweep.display.verdict import say_verdict

if TYPE_CHECKING:
    from raysweep.launch.sweep.folds import FoldsResult
    from raysweep.plan.folds import FoldsPlan


def plan_json(plan: FoldsPlan) -> dict[str, object]:
    """What ``branch --dry-run --json`` prints beside the sweep of one fold."""
    return {
        "name": plan.name,
        "folds": [
            {
                "fold": p.settings.data.fold,
                "epochs": p.settings.training.epochs,
                "training_images": sum(p.counts.values()),
                "validation_images": 0 if p.roles is None else len(p.roles.val),
            }
            for p in plan.parents
        ],
    }


def show_plan(plan: FoldsPlan) -> None:
    """Print what ``branch --dry-run`` shows before the sweep of one fold."""
    rows = [
        [
            str(p.settings.data.fold),
            f"{sum(p.counts.values()):,}",
            "" if p.roles is None else f"{len(p.roles.val):,}",
            str(p.settings.training.epochs),
        ]
        for p in plan.parents
    ]
    columns = [("fold", "r"), ("training images", "r"), ("validation images", "r"), ("epochs of the parent", "r")]
    table(f"Folds of {plain(plan.name)}: each has a parent of its own, and all branches", columns, rows)
    total = len(plan.parents) * (plan.sweep.branches + 1)
    say(
        f"{counted(total, 'training')} in all. What follows is the sweep of each fold, checked from the checkpoint itself."
    )


def summarise(result: FoldsResult) -> None:
    """Print what a k-fold sweep shows, and the next command."""
    signals.all_done()
    say(f"All results are in {result.folds.folder}, and in the sweeps of its folds.")
    if result.comparison is not None:
        say_verdict(result.comparison)
    say_next(result.folds.root, "compare", result.folds.id)
