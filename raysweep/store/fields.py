"""What ``raysweep list --json`` tells of an experiment, in this order; documented, and changed only with a line in CHANGELOG."""

from __future__ import annotations

from typing import Any

FIELDS: dict[str, Any] = {  # with what is told of an experiment that cannot be read
    "id": None,
    "name": None,
    "created": None,
    "status": "damaged",
    "epochs_done": 0,
    "epochs_target": None,
    "best_acc": None,
    "best_epoch": None,
    "best_macro_f1": None,
    "worst_class": None,  # of the best epoch, with its recall
    "worst_recall": None,
    "sampling_weights": {},
    "seed": None,
    "parent": None,
    "parent_best_acc": None,  # the best of the epochs before the fork
    "parent_seed": None,
    "change": {},  # class → [weight before the fork, after it]
    "sweep": None,
    "branch": None,
    "control": False,
    "path": None,
}
