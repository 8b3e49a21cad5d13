"""The command that is advised after a training: from the best epoch, at a rate that changes something, and not done before."""

from __future__ import annotations

from dataclasses import replace

import pytest

from raysweep.config import weights_file
from raysweep.plan import advice
from tests.report.making import made
from tests.store.making import make_experiment

NAME = "it_20260102_030405"
CLASSES = ["cat", "dog"]


def trained(root, best: int, epochs: int = 4, weights=None, **training):
    """A finished experiment of a cosine over its epochs, without a warm-up."""
    settings = {"training": {"epochs": epochs, "warmup_epochs": 0, "learning_rate": 0.01, **training}}
    found = make_experiment(
        root / NAME,
        [(e, None) for e in range(1, epochs + 1)],
        best,
        classes=CLASSES,
        settings=settings,
        num_epochs=epochs,
        sampling_weights=weights or {"cat": 1.0, "dog": 1.0},
    )
    manifest = found.manifest()
    for entry in manifest.entries:
        entry.metrics["worst_class"] = "dog" if entry.epoch == best else "cat"
    found.write_manifest(manifest)
    return found


def test_it_starts_from_the_best_epoch_with_the_worst_class_of_that_epoch(tmp_path):
    words = advice.following(trained(tmp_path / "e", best=2), "no such grid.yaml")
    assert words == ["resume", "--from", f"{NAME}@2", "--weights", "dog=5"]


def test_from_the_end_of_the_cosine_it_comes_with_the_remedy(tmp_path):
    words = advice.following(trained(tmp_path / "e", best=4), "no such grid.yaml")
    assert words[:5] == ["resume", "--from", f"{NAME}@4", "--epochs", "4"]
    assert "training.schedule_epochs=8" in words


@pytest.mark.parametrize("now", [2.0, 5.0, 7.0])
def test_the_weight_is_another_one_than_now(tmp_path, now):
    words = advice.following(trained(tmp_path / "e", best=2, weights={"cat": 1.0, "dog": now}), "none.yaml")
    assert weights_file.parse(words[-1])["dog"] >= max(5.0, 2 * now)


def test_a_grid_is_advised_only_where_it_is_and_fits(tmp_path):
    found, grid = trained(tmp_path / "e", best=4), tmp_path / "grid.yaml"
    assert advice.following(found, str(grid))[0] == "resume"
    grid.write_text("epochs: 2\nweights: {dog: [3, 5]}\n")
    words = advice.following(found, str(grid))
    assert words == ["branch", "--from", f"{NAME}@4", "training.schedule_epochs=6", "--weights-grid", str(grid)]
    for text in ("weights: {disgust: [3]}\n", "branches: [{name: b, weights: {eel: 2}}]\n", "weights: {}\n", "- no\n"):
        grid.write_text(text)
        assert advice.following(found, str(grid))[0] == "resume"


def test_where_classes_differ_in_size_the_grid_of_rules_is_ready(tmp_path):
    from raysweep.config import grid as grids
    from raysweep.config import points as points_of
    from raysweep.weights import SamplingWeights

    parent = made(tmp_path / "e", "parent", ("a", "b", "c"), (0.5, 0.5, 0.5))
    words = advice.following(parent, "none.yaml")
    assert words[:3] == ["branch", "--from", f"{parent.id}@2"]
    assert words[-2:] == ["--weights-grid", "rules"]
    counts = parent.config().class_counts
    points, _ = points_of.expand(grids.read("rules"), SamplingWeights.complete({}, ["a", "b", "c"]), 0, counts)
    assert sorted({p.name.split("-seed")[0] for p in points}) == ["balanced", "control", "sqrt"]
    balanced = next(p for p in points if p.name == "balanced-seed0").weights.as_dict()
    assert len({counts[c] * w for c, w in balanced.items()}) == 1


def test_a_child_is_compared_and_not_trained_again_with_the_weights_that_it_has(tmp_path):
    parent = made(tmp_path / "e", "parent", ("a", "b", "c"), (0.5, 0.5, 0.5))
    child = made(tmp_path / "e", "child", ("a", "b", "c"), (0.6, 0.5, 0.5), weights={"a": 5.0}, parent=parent)
    assert advice.following(child, "none.yaml") == ["compare", child.id]
    parent.folder.rename(tmp_path / "elsewhere")
    assert advice.following(child, "none.yaml")[-1] == "rules"
    config = child.config()
    child.write_config(replace(config, class_counts=dict.fromkeys(config.class_counts, 100)))
    words = advice.following(child, "none.yaml")
    assert words[0] == "resume"
    assert weights_file.parse(words[words.index("--weights") + 1]) != {"a": 5.0}
