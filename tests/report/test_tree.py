"""The lineage tree is complete for any folders: in the terminal, as JSON and as a picture."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import pytest

from raysweep.errors import NotFoundError
from raysweep.report import tree
from raysweep.store import experiment as experiments
from raysweep.store import lineage
from raysweep.store.records import ExperimentConfig
from raysweep.store.root import Root
from tests.report.test_figures import edges_are_blank

NOW = datetime(2026, 1, 2, 3, 4, 5)


def made(root: Path, name: str, parent: str | None = None, epoch: int = 0, weights=None, branch=None, log=True) -> str:
    experiment = experiments.create(Root.open(root), name, NOW)
    weights = weights or {"a": 1.0, "b": 1.0}
    config = {"sampling_weights": weights, "num_epochs": 2, "timestamp": "20260102_030405"}
    if parent:
        config |= {"parent": {"experiment": parent, "epoch": epoch, "sha256": "0"}, "branch": branch}
    experiment.write_config(ExperimentConfig.from_json(config))
    lineage.record(experiment.folder, lineage.START)
    if parent and log:
        there = (root / parent).is_dir()
        before = experiments.Experiment(root / parent).config().sampling_weights if there else {"a": 1.0, "b": 1.0}
        lineage.record(experiment.folder, lineage.RATIO, old_weights=before, new_weights=weights)
    lineage.record(experiment.folder, lineage.FINISHED)
    return experiment.id


@pytest.fixture
def family(tmp_path):
    top = made(tmp_path, "top")
    control = made(tmp_path, "c", top, 3, branch={"name": "control", "control": True, "seed": 0})
    heavy = made(tmp_path, "heavy", top, 3, {"a": 5.0, "b": 1.0})
    grand = made(tmp_path, "grand", heavy, 5, {"a": 5.0, "b": 0.5})
    return tmp_path, top, control, heavy, grand


def test_the_change_comes_from_the_configurations_if_the_log_does_not_have_it(tmp_path):
    top = made(tmp_path, "top", weights={"a": 2.0, "b": 1.0})
    child = made(tmp_path, "child", top, 3, {"a": 2.0, "b": 0.5}, log=False)
    assert tree.build(Root.open(tmp_path))[child].change == {"b": (1.0, 0.5)}


def test_lines_show_the_change_on_every_edge(family):
    root, top, control, heavy, grand = family
    found = list(tree.lines(tree.build(Root.open(root))))
    assert [(guides, i) for guides, i, _ in found] == [
        ("", top),
        ("├─ @3 control  ", control),
        ("└─ @3 a 1→5  ", heavy),
        ("   └─ @5 b 1→0.5  ", grand),
    ]


def test_the_tree_of_one_experiment_has_its_ancestors_and_descendants(family):
    root, top, _, heavy, grand = family
    assert set(tree.build(Root.open(root), "heavy")) == {top, heavy, grand}
    assert set(tree.build(Root.open(root), grand)) == {top, heavy, grand}
    with pytest.raises(NotFoundError):
        tree.build(Root.open(root), "nothing")


def test_rows_list_parents_before_children(family):
    root, top, *_ = family
    rows = tree.rows(tree.build(Root.open(root)))
    seen: set[str] = set()
    for row in rows:
        assert row["parent"] is None or row["parent"]["experiment"] in seen
        seen.add(row["id"])
    assert rows[0]["id"] == top
    assert len(rows[0]["children"]) == 2


def test_a_parent_that_is_not_under_the_root_is_shown_with_a_note(tmp_path):
    child = made(tmp_path, "orphan", "gone_20250101_000000", 4, {"a": 2.0, "b": 1.0})
    found = list(tree.lines(tree.build(Root.open(tmp_path))))
    assert found[0][1:] == ("gone_20250101_000000", "not under this root")
    assert found[1][:2] == ("└─ @4 a 1→2  ", child)  # from the child's own log


def test_circles_and_long_chains_end(tmp_path):
    made(tmp_path, "one", "two_20260102_030405", 1)
    made(tmp_path, "two", "one_20260102_030405", 1)
    assert len(list(tree.lines(tree.build(Root.open(tmp_path))))) == 2
    nodes = {"0": tree.Node("0")}
    for k in range(1, 3000):
        nodes[str(k)] = tree.Node(str(k), parent=str(k - 1))
        nodes[str(k - 1)].children.append(str(k))
    assert len(list(tree.lines(nodes))) == 3000


def test_nothing_of_the_picture_is_cut_off(family):
    assert edges_are_blank(tree.picture(tree.build(Root.open(family[0]))))


def test_the_verb(family, capsys):
    from tests.cli.test_errors import run_cli

    root = family[0]
    code, out, _ = run_cli(capsys, "lineage", "--root", root)
    assert code == 0
    assert len(out.splitlines()) == 4
    code, _, _ = run_cli(capsys, "lineage", "--plot", root / "tree.png", "--root", root)
    assert code == 0
    assert (root / "tree.png").read_bytes().startswith(b"\x89PNG")
    assert run_cli(capsys, "lineage", "--plot", root / "tree.svg", "--root", root)[0] == 2
