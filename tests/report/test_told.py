"""What a comparison tells: classes without images or with few, one branch as its sweep has it, many classes."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest

from raysweep.report import comparison, effects
from raysweep.report.effects import ALL, FEWEST, NO_IMAGES
from raysweep.store.root import Root
from tests.cli.test_errors import run_cli
from tests.report.making import effect, sweep_of

CLASSES = ("rare", "some", "many", "none")


def one(found, target, metric):
    (effect,) = [e for e in found if (e.target, e.metric) == (target, metric)]
    return effect


def networks(labels, count, right, seed):
    """The probabilities that ``count`` networks give; a share ``right`` of the images is right."""
    rng, k = np.random.default_rng(seed), len(CLASSES)
    made = []
    for _ in range(count):
        scores = rng.random((len(labels), k))
        guess = np.where(rng.random(len(labels)) < right, labels, rng.integers(0, k, len(labels)))
        scores[np.arange(len(labels)), guess] += 1
        made.append(scores / scores.sum(1, keepdims=True))
    return made


@pytest.fixture
def found():
    """Two images of ``rare``, none of ``none``; the networks call some images of others ``none``."""
    labels = np.repeat([0, 1, 2], [2, 40, 60])
    control, branch = (effects.arm(n, networks(labels, 2, r, i)) for i, (n, r) in enumerate([("c", 0.7), ("b", 0.8)]))
    return effects.of_arms(control, [branch], labels, CLASSES)[0]


def test_nothing_is_known_of_a_class_without_images_and_macro_f1_leaves_it_out(found):
    for metric in effects.METRICS:
        effect = one(found, "none", metric)
        assert (effect.label, effect.images) == (NO_IMAGES, 0)
        assert math.isnan(effect.value)
        assert math.isnan(effect.difference)
    for kind in ("value", "reference"):
        known = [getattr(one(found, c, "f1"), kind) for c in CLASSES[:3]]
        assert getattr(one(found, ALL, "macro_f1"), kind) == pytest.approx(np.mean(known))


def test_two_images_give_no_interval(found):
    effect = one(found, "rare", "recall")
    assert effect.images == 2 < FEWEST
    assert effect.label == effects.NOT_TESTED
    assert math.isnan(effect.low)
    assert math.isnan(effect.high)
    assert math.isnan(effect.p)
    assert not math.isnan(one(found, "some", "recall").low)


def test_both_are_said(found):
    text = " ".join(effects.few_images({"rare": 2, "some": 40, "none": 0}))
    assert "1 class has fewer than 10 validation images, too few for an interval: rare (2)" in text
    assert "Without validation images nothing is known of a class, and macro-F1 leaves it out: none." in text
    many = effects.few_images({f"c{i}": 3 for i in range(964)})
    assert "964 classes have" in many[0]
    assert many[0].endswith("and 944 more.")


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    branches = {"a5": ({"a": 5.0}, (0.7, 0.7, 0.8)), "b2": ({"b": 2.0}, (0.4, 0.66, 0.8))}
    return sweep_of(tmp_path_factory.mktemp("told") / "e", ("a", "b", "c"), (0.4, 0.7, 0.8), branches)


def test_one_branch_is_compared_as_in_its_sweep(sweep, capsys):
    whole = comparison.of_sweep(sweep)
    experiments = sweep.experiments()
    for name in ("a5", "b2"):
        alone = comparison.compare(sweep.root, [experiments[f"{name}-seed1"].id])
        for target, metric in (("a", "f1"), ("b", "recall"), (ALL, "accuracy")):
            mine, there = alone.of(alone.title, target, metric), whole.of(name, target, metric)
            assert repr(mine.of_branch(name)) == repr(there)
        assert "the control" in alone.against
        assert sweep.id in alone.against
        assert not any("no control" in n for n in alone.notes)
        assert any("one of 2 seeds" in n for n in alone.notes)
    control = comparison.compare(sweep.root, [experiments["control-seed0"].id])
    assert comparison.OF_A_CONTROL in control.notes
    code, out, err = run_cli(capsys, "compare", experiments["a5-seed0"].id, "--root", sweep.root)
    assert (code, "no control" in err) == (0, False)
    assert out.splitlines()[1].startswith(experiments["a5-seed0"].id)


def test_a_branch_whose_control_is_not_finished_says_so(tmp_path):
    made = sweep_of(tmp_path / "e", ("a", "b", "c"), (0.4, 0.7, 0.8), {"a5": ({"a": 5.0}, (0.7, 0.7, 0.8))}, (0,))
    control = made.experiments()["control"]
    log = control.folder / "lineage.jsonl"
    log.write_text("".join(log.read_text().splitlines(keepends=True)[:-1]))
    found = comparison.compare(Root.open(made.root.path), [made.experiments()["a5"].id])
    assert any("has no finished control" in n for n in found.notes)
    assert not any(n.startswith("There is no control") for n in found.notes)


def test_hundreds_of_classes_are_compared_at_once():
    k, rng = 400, np.random.default_rng(0)
    labels = np.repeat(np.arange(k), 4)

    def network(right):
        scores = rng.random((len(labels), k), dtype=np.float32)
        guess = np.where(rng.random(len(labels)) < right, labels, rng.integers(0, k, len(labels)))
        scores[np.arange(len(labels)), guess] += 1
        return scores / scores.sum(1, keepdims=True)

    control, branch = effects.arm("c", [network(0.6)]), effects.arm("b", [network(0.75)])
    began = time.process_time()
    found, _ = effects.of_arms(control, [branch], labels, [f"c{i}" for i in range(k)])
    assert time.process_time() - began < 20  # 1 s on a machine that is not busy
    assert len(found) == 6 * k + 5
    assert one(found, ALL, "macro_f1").difference > 0.05


def test_a_label_that_is_its_own_reason_is_said_once():
    from types import SimpleNamespace

    from raysweep.report import verdict
    from raysweep.report.effects import LEARNED

    recall = effect("b", "fear", "recall", 0.2, "not separable", images=100, times=1.5, free=0.2)
    learned = effect("b", "fear", LEARNED, -0.01, "not separable", images=100)
    compared = SimpleNamespace(of=lambda *_: learned, reference="the control")
    assert verdict._of_class(compared, recall, {}).text == (
        "b: fear: recall +20.0 and predicted 1.50 × as often; the control gets +20.0 by moving its threshold; "
        "at equal alarms -1.0: not separable."
    )


def test_what_the_control_gets_without_training_is_one_more_row(sweep, capsys, tmp_path):
    import csv
    import json

    from raysweep.report import page

    found = comparison.of_sweep(sweep)
    name = "control + offsets"
    assert name not in {b.name for b in found.branches}
    gain = found.of(name, ALL, "macro_f1")
    assert (gain.label, gain.shown) == ("", "")
    assert math.isnan(gain.p)
    assert gain.low <= gain.difference <= gain.high
    assert gain.reference == pytest.approx(found.of("a5", ALL, "macro_f1").reference)
    f1 = [found.of(name, c, "f1").value for c in found.classes]
    assert gain.value == pytest.approx(np.mean(f1))
    data = json.loads(run_cli(capsys, "compare", sweep.id, "--json", "--root", sweep.root)[1])
    assert {e["metric"] for e in data["effects"] if e["branch"] == name} == {
        "recall", "precision", "f1", "accuracy", "macro_f1", "balanced_accuracy"
    }  # fmt: skip
    _, out, _ = run_cli(capsys, "compare", sweep.id, "--metric", "f1", "--root", sweep.root)
    (row,) = [line for line in out.splitlines() if line.startswith(name)]
    assert f"{100 * gain.difference:+.1f}" in row
    assert page.write_all(sweep)[1] is None
    with open(sweep.folder / "effects.csv", newline="") as file:
        (line,) = [r for r in csv.DictReader(file) if (r["branch"], r["metric"]) == (name, "macro_f1")]
    assert float(line["difference"]) == gain.difference
    assert line["label"] == line["p"] == ""
    text = (sweep.folder / "report.html").read_text()
    assert f'<td class="name">{name}</td>' in text
    assert text.index("<h2>Verdict") < text.index("<h2>Effect on every class") < text.index("<h2>Lineage")
    assert f"<code>raysweep suggest {sweep.id}" in text


def test_with_too_many_classes_and_images_offsets_are_not_searched_and_that_is_said(sweep, monkeypatch):
    from raysweep.report.findings import fitted

    monkeypatch.setattr(fitted, "MOST", 100)
    found = comparison.of_sweep(sweep)
    assert found.offsets == []
    assert any("Offsets for the control are not searched" in n for n in found.notes)
