"""The table of a sweep's branches: which one each is compared with."""

from __future__ import annotations

from typing import Any

from raysweep.display.results import results_table


def row(name: str, recall: float, seed: int = 0, **more: Any) -> dict[str, Any]:
    known = {
        "val_acc_minus_control": None,
        "val_macro_f1_minus_control": None,
        "worst_class": None,
        "worst_recall": None,
    }
    return {
        "branch": name, "seed": seed, "control": 0, "status": "finished", "epoch": 4, "val_acc": 0.5, "val_macro_f1": 0.5, **known,
        "recall_cat": recall, "weight_cat": 1.0, **more,
    }  # fmt: skip


def test_a_branch_is_compared_with_the_control_of_its_cell_and_seed(capsys):
    rows = [
        row("control-seed0", 0.5, control=1), row("control-seed1", 0.25, seed=1, control=1),
        row("focal-seed0", 0.625, arm="focal"), row("focal-seed1", 0.125, seed=1, arm="focal"),
        row("focal_cat5-seed0", 0.75, reference="focal"), row("focal_cat5-seed1", 0.75, seed=1, reference="focal"),
        row("cat5-seed1", 0.75, seed=1), row("late-seed0", 0.75, epoch=3), row("missing-seed2", 0.75, seed=2),
    ]  # fmt: skip
    results_table(rows)
    head, *lines = (line.split("\t") for line in capsys.readouterr().out.splitlines())
    assert head[-1] == "cat"
    assert {line[0]: line[-1] for line in lines} == {
        "control-seed0 *": "50.0%", "control-seed1 *": "25.0%", "focal-seed0": "+12.5", "focal-seed1": "-12.5",
        "focal_cat5-seed0": "+12.5", "focal_cat5-seed1": "+62.5", "cat5-seed1": "+50.0", "late-seed0": "75.0%", "missing-seed2": "75.0%",
    }  # fmt: skip
