"""The differences between two experiments are complete, and nothing equal is among them."""

from __future__ import annotations

import json

import pytest

from raysweep.errors import NotFoundError
from raysweep.report import difference
from raysweep.store.root import Root
from tests.cli.test_errors import run_cli
from tests.report.making import made

CLASSES = ("a", "b", "c")
RECALLS = (0.5, 0.6, 0.7)


@pytest.fixture
def pair(tmp_path):
    root = tmp_path / "experiments"
    one = made(root, "one", CLASSES, RECALLS, versions={"torch": "2.14", "python": "3.11"}, threads=2)
    two = made(
        root,
        "two",
        CLASSES,
        RECALLS,
        parent=one,
        weights={"a": 5.0},
        seed=3,
        versions={"torch": "2.15", "python": "3.11"},
        threads=2,
    )
    return root, one, two


def of(root, a: str, b: str) -> dict[tuple[str, str], tuple]:
    found = difference.differences(difference.find(Root.open(root), a), difference.find(Root.open(root), b))
    return {(d.section, d.key): (d.a, d.b) for d in found}


def test_everything_that_differs_and_nothing_else(pair):
    root, one, _ = pair
    found = of(root, "one", "two")
    assert found == {
        ("parent", "checkpoint"): (None, f"{one.id}@2"),
        ("parent", "SHA-256"): (None, "0" * 64),
        ("configuration", "seed"): (0, 3),
        ("weights", "a"): (1.0, 5.0),
        ("shares", "a"): (0.1, pytest.approx(500 / 1400, abs=1e-6)),
        ("shares", "b"): (0.4, pytest.approx(400 / 1400, abs=1e-6)),
        ("shares", "c"): (0.5, pytest.approx(500 / 1400, abs=1e-6)),
        ("versions", "torch"): ("2.14", "2.15"),
    }
    assert {k: v[::-1] for k, v in of(root, "two", "one").items()} == found
    assert of(root, "one", "one") == {}


def test_checkpoints_of_one_experiment_differ_in_their_epoch(pair):
    root, _, _ = pair
    assert of(root, "one@1", "one@2") == {("checkpoint", "epoch"): (1, 2)}
    assert of(root, "one@best", "one@latest") == {}


def test_a_folder_of_the_old_system_is_compared_by_its_flat_names(pair):
    root, _, _ = pair
    old = root / "old_20250108_143022"
    old.mkdir()
    config = {"experiment_name": "old", "model_name": "vit", "batch_size": 16, "sampling_weights": {"a": 2.0}}
    (old / "experiment_config.json").write_text(json.dumps(config))
    found = of(root, "old", "one")
    assert found["configuration", "model.name"] == ("vit", None)
    assert found["configuration", "training.batch_size"] == (16, None)
    assert found["weights", "a"] == (2.0, 1.0)


def test_the_command(pair, capsys):
    root, one, two = pair
    code, out, _ = run_cli(capsys, "diff", "one", "two", "--root", root)
    assert code == 0
    assert out.splitlines()[0].split("\t")[2:] == [one.id, two.id]
    assert "weights\ta\t1\t5" in out.splitlines()
    assert "shares\ta\t10.0%\t35.7%" in out.splitlines()
    code, out, err = run_cli(capsys, "diff", "one", "one", "--root", root)
    assert (code, out) == (0, "")
    assert "Nothing differs" in err
    data = json.loads(run_cli(capsys, "diff", "one", "two", "--json", "--root", root)[1])
    assert {"section": "weights", "key": "a", "a": 1.0, "b": 5.0} in data["differences"]
    with pytest.raises(NotFoundError):
        difference.find(Root.open(root), "three")
    assert run_cli(capsys, "diff", "one", "three@2", "--root", root)[0] == 2


def test_checkpoints_of_an_old_folder_are_told_apart(pair):
    root, _, _ = pair
    old = root / "old_20250108_143022"
    old.mkdir()
    (old / "experiment_config.json").write_text(json.dumps({"experiment_name": "old"}))
    for epoch in (1, 3):
        (old / f"checkpoint_epoch_{epoch}.pt").touch()
    assert of(root, "old@1", "old@3") == {("checkpoint", "file"): ("checkpoint_epoch_1.pt", "checkpoint_epoch_3.pt")}
    assert difference.find(Root.open(root), "old@3").name == "old_20250108_143022/checkpoint_epoch_3.pt"
