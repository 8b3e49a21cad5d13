"""One rule says what SWEEP|EXPERIMENT means, whatever the command."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import pytest

from raysweep.errors import AmbiguousReferenceError, NotFoundError
from raysweep.store import resolve, sweep
from raysweep.store.experiment import Experiment
from raysweep.store.records_sweep import SweepRecord
from raysweep.store.root import Root
from raysweep.store.sweep import Sweep
from tests.store.making import make_experiment

NOW = datetime(2026, 1, 2, 3, 4, 5)
TIME = "20260102_030405"


def make_sweep(root: Path, name: str, *branches: str) -> Sweep:
    made = sweep.create(Root.open(root), name, NOW)
    made.write_record(
        SweepRecord.from_json(
            {"name": name, "branches": [{"name": b, "seed": 0, "weights": {"a": 1.0}} for b in branches]}
        )
    )
    for branch in branches:
        make_experiment(root / f"{name}-{branch}_{TIME}", sweep=made.id, branch={"name": branch, "seed": 0})
    return made


@pytest.fixture
def root(tmp_path):
    """An experiment, and a sweep of it with two branches."""
    make_experiment(tmp_path / f"base_{TIME}")
    make_sweep(tmp_path, "base-sweep", "control", "d5")
    return tmp_path


@pytest.mark.parametrize(
    ("reference", "kind", "name"),
    [
        ("base", Experiment, f"base_{TIME}"),  # a name goes before the start of another
        (f"base_{TIME}", Experiment, f"base_{TIME}"),
        ("base_", Experiment, f"base_{TIME}"),
        ("base-sweep", Sweep, f"base-sweep_{TIME}"),
        (f"base-sweep_{TIME}", Sweep, f"base-sweep_{TIME}"),
        ("base-s", Sweep, f"base-sweep_{TIME}"),  # also the start of its branches
        ("base-sweep-d5", Experiment, f"base-sweep-d5_{TIME}"),
        ("base-sweep-c", Experiment, f"base-sweep-control_{TIME}"),
        (f"{{root}}/base_{TIME}", Experiment, f"base_{TIME}"),
        (f"{{root}}/sweeps/base-sweep_{TIME}", Sweep, f"base-sweep_{TIME}"),
    ],
)
def test_a_path_an_id_a_name_and_a_start_are_found(root, reference, kind, name):
    found = resolve.find_any(Root.open(root), reference.format(root=root))
    assert isinstance(found, kind)
    assert found.id == name


def test_a_start_that_a_sweep_and_an_experiment_share_is_refused_in_one_error(root):
    with pytest.raises(AmbiguousReferenceError) as refused:
        resolve.find_any(Root.open(root), "ba")
    text = str(refused.value)
    assert "'ba' fits 1 sweep and 1 experiment" in text
    assert f"sweep base-sweep_{TIME}, experiment base_{TIME}" in text


def test_a_name_that_a_sweep_and_an_experiment_share_is_refused_in_one_error(root):
    make_experiment(root / f"base-sweep_{TIME}")
    for reference in ("base-sweep", f"base-sweep_{TIME}"):
        with pytest.raises(AmbiguousReferenceError, match=r"fits 1 sweep and 1 experiment .* path of the folder"):
            resolve.find_any(Root.open(root), reference)
    assert isinstance(resolve.find_any(Root.open(root), str(root / "sweeps" / f"base-sweep_{TIME}")), Sweep)


def test_an_experiment_that_is_only_called_like_a_branch_is_not_one(root):
    make_experiment(root / f"base-sweep-later_{TIME}")
    with pytest.raises(AmbiguousReferenceError, match="fits 1 sweep and 1 experiment"):
        resolve.find_any(Root.open(root), "base-sw")


def test_what_is_not_there_is_suggested(root):
    with pytest.raises(NotFoundError, match=r"No experiment or sweep .*Did you mean 'base-sweep'\?") as refused:
        resolve.find_any(Root.open(root), "base-swep")
    assert f"`raysweep list --root {root}` shows the experiments" in str(refused.value)
    with pytest.raises(NotFoundError, match="No experiment or sweep"):
        resolve.find_any(Root.open(root / "empty"), "base")
