"""Branches of a parent with a frozen backbone train on its features, and have its frozen part beside their checkpoints."""

from __future__ import annotations

import pytest

from tests.conftest import weights_hash
from tests.launch.sweep.test_processes import made, planned

ONCE = {
    "model": {"freeze": "backbone"},
    "training": {"epochs": 3, "augment": {"crop_padding": 0, "flip": False}},
    "scaling": {"num_workers": 0, "threads": 1},
}


@pytest.mark.slow  # quick twins: tests/training/test_features.py::test_a_child_trains_on_its_parents_features, test_frozen_part.py
def test_branches_in_processes_train_on_their_parents_features(tmp_path, monkeypatch):
    from raysweep.launch.sweep import driver as sweeping

    monkeypatch.setenv("RAYSWEEP_CACHE", str(tmp_path / "cache"))
    parent = made(tmp_path, **ONCE)
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "cache" / "features").glob("*/*.npy")}
    assert len(before) == 2
    result = sweeping.run(planned(parent, "frozen"))
    assert not result.failed
    control = next(e for name, e in result.experiments.items() if name.startswith("control"))
    assert weights_hash(control) == weights_hash(parent)
    for branch in result.experiments.values():
        assert (branch.folder / "frozen.pt").read_bytes() == (parent.folder / "frozen.pt").read_bytes()
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "cache" / "features").glob("*/*.npy")} == before
    assert {p.parent.name for p in before} == {
        p.name for p in (tmp_path / "cache" / "features").iterdir() if p.is_dir()
    }


@pytest.mark.slow
def test_branches_on_ray_train_on_features_that_the_first_of_them_computes(tmp_path, ray_cluster):
    """The parent was trained whole; its branches get a new last layer on its frozen network."""
    from raysweep.launch.sweep import driver as sweeping
    from raysweep.store import checkpoint

    parent = made(tmp_path)
    plan = planned(
        parent,
        "heads",
        in_process=False,
        reset_head=True,
        overrides={"model": {"freeze": "backbone"}, "training": {"augment": ONCE["training"]["augment"]}},
    )
    result = sweeping.run(plan)
    assert not result.failed, result.failed
    states = [checkpoint.read_checkpoint(e.folder / e.entry("latest").file) for e in result.experiments.values()]
    assert len({state["conditions"]["features"] for state in states}) == 1
    parts = {(e.folder / "frozen.pt").read_bytes() for e in result.experiments.values()}
    assert len(parts) == 1
