"""The reading verbs: what they print for people and for programs."""

from __future__ import annotations

import json

import pytest

from raysweep.store.fields import FIELDS
from tests.cli.test_errors import run_cli


@pytest.fixture
def family(quick_run, quick_child, tmp_path):
    """A parent and its child."""
    parent = quick_run(sampling={"weights": {"3": 2}})
    child = quick_child(f"{parent.id}@1", epochs=1, weights={"3": 5.0}, name="young", description="why not")
    return parent, child, tmp_path / "experiments"


def test_list_json_has_the_documented_fields(capsys, family):
    parent, child, root = family
    code, out, err = run_cli(capsys, "list", "--json", "--root", root)
    assert code == 0
    assert err == ""
    rows = json.loads(out)
    assert [r["id"] for r in rows] == [parent.id, child.id]
    assert all(list(r) == list(FIELDS) for r in rows)
    assert rows[1]["parent"]["experiment"] == parent.id
    assert rows[1]["parent"]["epoch"] == 1
    assert rows[1]["sampling_weights"]["3"] == 5.0
    assert [(r["epochs_done"], r["epochs_target"]) for r in rows] == [(2, 2), (2, 2)]
    assert all(r["status"] == "finished" for r in rows)


def test_list_for_people(capsys, family):
    parent, child, root = family
    _, out, _ = run_cli(capsys, "list", "--root", root)
    header, *lines = out.splitlines()
    assert header.split("\t")[0] == "id"
    assert len(lines) == 2
    assert "3 2→5" in lines[1]
    assert f"{parent.id}@1" in lines[1]
    assert len(run_cli(capsys, "list", "--limit", 1, "--root", root)[1].splitlines()) == 2
    assert run_cli(capsys, "list", "--status", "failed", "--root", root)[1].splitlines()[1:] == []
    _, out, _ = run_cli(capsys, "list", "--checkpoints", "--json", "--root", root)
    found = json.loads(out)
    assert [f["reference"] for f in found] == [f"{parent.id}@1", f"{parent.id}@2", f"{child.id}@2"]
    assert sum(f["best"] for f in found) == 2


def test_an_empty_root_says_what_to_do(capsys, tmp_path):
    code, out, err = run_cli(capsys, "list", "--root", tmp_path / "nothing")
    assert code == 0
    assert out == ""
    assert "raysweep run" in err
    assert json.loads(run_cli(capsys, "list", "--json", "--root", tmp_path / "nothing")[1]) == []


def test_show_an_experiment_and_a_checkpoint(capsys, family):
    parent, child, root = family
    _, out, _ = run_cli(capsys, "show", "young", "--root", root)
    assert f"child of {parent.id}@1" in out
    assert "why not" in out
    _, out, _ = run_cli(capsys, "show", child.id, "--json", "--root", root)
    assert json.loads(out)["checkpoints"][0]["epoch"] == 2
    _, out, _ = run_cli(capsys, "show", f"{parent.id}@best", "--json", "--root", root)
    row = json.loads(out)
    assert row["committed"]
    assert row["problem"] is None
    file = parent.folder / parent.entry("best").file
    file.write_bytes(file.read_bytes()[:-1])
    assert (
        "instead of" in json.loads(run_cli(capsys, "show", f"{parent.id}@best", "--json", "--root", root)[1])["problem"]
    )
    code, _, err = run_cli(capsys, "show", f"{parent.id}@9", "--root", root)
    assert code == 2
    assert "It has the epochs 1, 2" in err


def test_a_lost_manifest_does_not_stop_show(capsys, family):
    parent, _, root = family
    (parent.folder / "manifest.json").unlink()
    code, out, err = run_cli(capsys, "show", parent.id, "--root", root)
    assert code == 0, err
    assert "@2" in out


def test_class_names_are_never_markup_of_the_terminal(capsys):
    import numpy as np

    from raysweep.display.confusion import print_confusion
    from raysweep.report.predictions import Predictions

    labels = np.array([0, 1, 1])
    print_confusion(Predictions(1, ("[/x]", "[red]cat"), labels, labels, np.eye(2, dtype=np.float32)[labels]))
    assert "[red]cat" in capsys.readouterr().err


def test_doctor_checks_this_machine(capsys, tmp_path):
    code, out, _ = run_cli(capsys, "doctor", "--root", tmp_path)
    assert code == 0, out
    for name in ("Python", "torch", "ray", "CPUs", "free for"):
        assert name in out
    assert "FAULT" not in out
