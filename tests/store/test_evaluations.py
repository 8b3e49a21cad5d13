"""The folders of evaluations, and the looks at sealed images that they and the experiments' logs record."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path

import pytest

from raysweep.errors import RootError
from raysweep.store import evaluations, layout, lineage
from raysweep.store.evaluations import Look
from raysweep.store.root import Root
from tests.store.making import make_experiment

NOW = datetime(2026, 1, 2, 3, 4, 5)


def told(time: str, sealed: str = "abc", **more: object) -> dict[str, object]:
    return {"looked": time, "reference": "base@5", "sealed_sha256": sealed, **more}


@pytest.fixture
def root(tmp_path: Path) -> Root:
    return Root.open(tmp_path / "root")


def test_every_evaluation_has_a_folder_of_its_own(root):
    one, other = (evaluations.create(root, "base", NOW) for _ in range(2))
    assert (one.id, other.id) == ("base_20260102_030405", "base_20260102_030405_2")
    one.write({"value": float("nan"), "status": evaluations.BEGUN})
    assert json.loads((one.folder / layout.EVALUATION).read_text()) == {"value": None, "status": "begun"}


def test_a_bad_name_and_a_link_out_of_the_root_are_refused(root, tmp_path):
    with pytest.raises(RootError, match="The evaluation cannot be made"):
        evaluations.create(root, "a/b", NOW)
    root.path.mkdir()
    (tmp_path / "elsewhere").mkdir()
    (root.path / layout.EVALUATIONS).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RootError, match="leads out of the root"):
        evaluations.create(root, "base", NOW)
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_look_in_both_records_counts_once_and_other_images_do_not_count(root):
    experiment = make_experiment(root.path / "base_20250108_143022", [(1, None)], best=1)
    for time, sealed in (("2026-01-02T03", "abc"), ("2026-01-02T04", "other"), ("2026-01-02T05", "abc")):
        made = evaluations.create(root, "base", NOW)
        made.write({"id": made.id, **told(time, sealed)})
        assert evaluations.record_in(experiment, {"evaluation": made.id, **told(time, sealed)}) is None
    expected = [("2026-01-02T03", "base_20260102_030405"), ("2026-01-02T05", "base_20260102_030405_3")]
    assert evaluations.looks(root, "abc") == [Look(time, name, "base@5") for time, name in expected]


def test_damaged_and_strange_records_are_passed_over(root):
    for content in ("", "[1]", "{}", '{"id": 3, "sealed_sha256": "abc"}', json.dumps(told("x", id=None)), "[" * 5000):
        made = evaluations.create(root, "base", NOW)
        (made.folder / layout.EVALUATION).write_text(content)
    experiment = make_experiment(root.path / "base_20250108_143022", [(1, None)], best=1)
    lineage.record(experiment.folder, lineage.EVALUATION, sealed_sha256="abc", looked=["no"], evaluation="x")
    assert evaluations.looks(root, "abc") == []


def test_an_evaluation_does_not_change_how_far_an_experiment_is(root):
    experiment = make_experiment(root.path / "base_20250108_143022", [(1, None)], best=1)
    for kind, status in ((lineage.FINISHED, "finished"), (lineage.INTERRUPTED, "interrupted")):
        lineage.record(experiment.folder, kind)
        evaluations.record_in(experiment, {"evaluation": "x", **told("2026")})
        assert experiment.status() == status


def test_a_folder_of_the_old_system_stays_as_it_is(root):
    folder = root.path / "old_20230108_143022"
    folder.mkdir(parents=True)
    (folder / layout.CONFIG).write_text('{"experiment_name": "old"}')
    from raysweep.store.experiment import Experiment

    why = evaluations.record_in(Experiment(folder, root), {"evaluation": "x", **told("2026")})
    assert why == "the old system wrote this folder, and it stays as it is"
    assert [p.name for p in folder.iterdir()] == [layout.CONFIG]
