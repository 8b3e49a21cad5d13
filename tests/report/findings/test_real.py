"""What may be called better or worse, on real trainings: controls of one checkpoint that differ in nothing but their seeds.

The simulations of ``test_findings.py`` are the quick twin of this.
"""

from __future__ import annotations

import multiprocessing

import numpy as np
import pytest

from raysweep.report import effects, predictions
from raysweep.store.root import Root
from tests.conftest import SMALL_NET

SWEEPS = 40
SEEDS = 5  # of the branch and of the control
TRAINED = 40  # controls, from which every sweep draws its ten


def _train(root: str, parent: str, seed: int) -> np.ndarray:
    """The probabilities (n, K) of one more control, which is trained in this process."""
    from raysweep.launch import run as launching
    from raysweep.plan import child
    from raysweep.plan import parent as parents

    place = Root.open(root)
    plan = child.plan_child(parents.read_parent(place, parent), place, epochs=1, overrides={"seed": seed})
    return predictions.read(launching.run(plan).experiment).probabilities


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(1800)
def test_controls_with_other_seeds_are_rarely_labelled(quick_run, tmp_path):
    """40 sweeps of a branch and a control that are the same treatment, five seeds each. Each draws its ten networks, all different,
    from one pool of trained controls. A count of 4 out of 40 is 5 % with its spread."""
    parent = quick_run(
        data={"source": "faces"},
        model=SMALL_NET,
        training={"epochs": 8, "batch_size": 64, "learning_rate": 0.01},
        sampling={"samples_per_epoch": 2000},
    )
    known = predictions.read(parent)
    arguments = [(str(tmp_path / "experiments"), f"{parent.id}@8", 100 + i) for i in range(TRAINED)]
    with multiprocessing.get_context("fork").Pool(2) as pool:
        networks = pool.starmap(_train, arguments, chunksize=1)
    assert len({n.tobytes() for n in networks}) == TRAINED, "every seed is another training"
    accuracy = [float(np.mean(n.argmax(1) == known.labels)) for n in networks]
    largest = np.bincount(known.labels).max() / len(known.labels)
    assert np.mean(accuracy) > largest + 0.05, "they have learned something"
    rng, labelled, shown = np.random.default_rng(0), 0, []
    for _ in range(SWEEPS):
        drawn = rng.permutation(TRAINED)[: 2 * SEEDS]
        control, branch = (
            effects.arm(name, [networks[i] for i in which])
            for name, which in (("control", drawn[:SEEDS]), ("branch", drawn[SEEDS:]))
        )
        found, _ = effects.of_arms(control, [branch], known.cases, known.classes)
        here = [f"{e.target} {e.metric} {e.label}" for e in found if e.shown]
        labelled += bool(here)
        shown += here
    print(f"\n{labelled} of {SWEEPS} sweeps with a label; sd of accuracy between seeds {np.std(accuracy):.4f}: {shown}")
    assert labelled <= 4, shown
