"""``raysweep power`` says how many seeds or images a difference takes."""

from __future__ import annotations

import json

import pytest

from tests.cli.test_errors import run_cli

CLASSES, BASE = ("a", "b", "c"), (0.4, 0.7, 0.8)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    from tests.report.making import sweep_of

    root = tmp_path_factory.mktemp("power") / "e"
    sweep_of(root, CLASSES, BASE, {"x": ({"a": 2.0}, BASE)})
    return root


def test_a_small_difference_takes_more_than_a_large_one(root, capsys):
    def rows(difference):
        code, out, err = run_cli(capsys, "power", "s", "--difference", difference, "--json", "--root", root)
        assert code == 0, err
        return {(r["target"], r["metric"]): r for r in json.loads(out)["rows"]}

    small, large = rows(5), rows(40)
    assert set(small) == {(c, "learned") for c in (*CLASSES, "(all)")} | {
        ("(all)", m) for m in ("macro-F1", "accuracy", "balanced accuracy")
    }
    for key, row in large.items():
        assert row["seeds"] is not None
        assert small[key]["seeds"] is None or small[key]["seeds"] >= row["seeds"]
    assert any(row["seeds"] is None and (row["images"] is None or row["images"] > 1) for row in small.values())
    code, out, err = run_cli(capsys, "power", "s", "--root", root)
    assert code == 0, err
    assert "macro-F1" in out


def test_what_cannot_be_said_is_refused(root, tmp_path, capsys):
    from tests.report.making import sweep_of

    assert run_cli(capsys, "power", "s", "--difference", 0, "--root", root)[0] == 2
    assert run_cli(capsys, "power", "none", "--root", root)[0] == 2
    code, _, err = run_cli(capsys, "power", "parent", "--root", root)
    assert code == 2
    assert "is an experiment" in err
    sweep_of(tmp_path / "e", CLASSES, BASE, {"x": ({"a": 2.0}, BASE)}, seeds=(0,))
    code, _, err = run_cli(capsys, "power", "s", "--root", tmp_path / "e")
    assert code == 2
    assert "control_seeds" in err


def test_every_word_of_the_table_is_explained(capsys):
    from raysweep.cli.power import Row, _explained

    assert _explained([Row("a", "learned", 0.02, 3, 1.0)]) == []
    every = [
        Row("a", "learned", 0.02, None, 3.5),
        Row("b", "learned", 0.02, None, None),
        Row("c", "learned", None, 4, 1.0, "not tested"),
        Row("d", "learned", None, 4, 1.0, "not separable"),
    ]
    told = "\n".join(_explained(every))
    assert "> 100 seeds: the images alone leave more doubt" in told
    assert "No number of images: seeds vary so much" in told
    assert "Not tested: fewer than 10 images" in told
    assert "Not separable:" in told


def test_the_table_has_no_dash(root, capsys):
    _, out, _ = run_cli(capsys, "power", "s", "--difference", 0.1, "--root", root)
    cells = [cell for line in out.splitlines() for cell in line.split("\t")]
    assert "> 100" in cells
    assert "-" not in cells


def test_the_verdict_says_the_same_as_power(root, tmp_path, capsys):
    """Of the branch that takes most in both; the verdict once took the steadiest branch's number of images."""
    from raysweep.report import comparison, verdict
    from raysweep.store import resolve
    from raysweep.store.root import Root
    from tests.report.making import sweep_of

    steady, other = BASE, (0.2, 0.3, 0.5)
    sweep_of(tmp_path / "e", CLASSES, BASE, {"x": ({"a": 2.0}, steady), "y": ({"a": 3.0}, other)})
    found = comparison.of_sweep(resolve.find_any(Root.open(tmp_path / "e"), "s"))
    (row,) = [
        r
        for r in json.loads(run_cli(capsys, "power", "s", "--json", "--root", tmp_path / "e")[1])["rows"]
        if r["metric"] == "macro-F1"
    ]
    told = verdict._could(found)
    assert f"from {100 * row['smallest_now']:.1f} points on" in told
    assert row["seeds"] is None
    assert f"two points take {row['images']:.1f} × as many images" in told
    smallest = [e.smallest for e in found.effects if (e.target, e.metric) == ("(all)", "macro_f1")]
    assert row["smallest_now"] == max(smallest) > min(smallest)
