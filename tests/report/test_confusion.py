"""Confusion matrices: shares of each true class, and their change against a reference."""

from __future__ import annotations

import numpy as np
import pytest


@pytest.mark.parametrize("seeds", [1, 2, 8])
def test_the_change_does_not_depend_on_how_many_seeds_the_reference_has(seeds):
    """A control often has more seeds than a branch."""
    from raysweep.report.sections.confusion import _confusion, _matrix

    labels = np.array([0, 0, 0, 0, 1, 1])
    before, after = np.array([0, 0, 1, 1, 1, 0]), np.array([0, 0, 0, 1, 1, 0])
    found = _confusion(
        "b", ("a", "b"), _matrix(labels, after[None], 2), _matrix(labels, np.stack([before] * seeds), 2), 1
    )
    changes = [[cell.change for cell in row.cells] for row in found.rows]
    assert changes == [[0.25, -0.25], [0.0, 0.0]]
