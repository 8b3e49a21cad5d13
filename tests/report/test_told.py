"""What a comparison tells: classes without images or with few, one branch as its sweep has it, many classes."""

from __future__ import annotations

import math
import time
from dataclasses import replace

import numpy as np
import pytest

from raysweep.report import comparison, effects
from raysweep.report.effects import ALL, FEWEST, LEARNED, NO_IMAGES
from raysweep.report.findings.arms import Cases
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
    return effects.of_arms(control, [branch], Cases(labels, len(CLASSES)), CLASSES)[0]


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
    found, _ = effects.of_arms(control, [branch], Cases(labels, k), [f"c{i}" for i in range(k)])
    assert time.process_time() - began < 20  # 1 s on a machine that is not busy
    assert len(found) == 6 * k + 7
    assert one(found, ALL, "macro_f1").difference > 0.05


def test_a_label_that_is_its_own_reason_is_said_once():
    from types import SimpleNamespace

    from raysweep.report import verdict
    from raysweep.report.effects import LEARNED

    recall = effect("b", "fear", "recall", 0.2, "not separable", images=100, times=1.5, free=0.2)
    learned = effect("b", "fear", LEARNED, -0.01, "not separable", images=100)
    compared = SimpleNamespace(of=lambda *_: learned, reference_of=lambda _: "the control")
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


def test_beside_not_shown_stands_what_would_have_been_and_what_two_points_take(sweep):
    from raysweep.report import needed, verdict
    from raysweep.report.findings.findings import LEARNING_NOT_SHOWN

    found = comparison.of_sweep(sweep)
    e = found.of("b2", "b", LEARNED)
    text = needed.words(found, e)
    assert text.startswith(f"from {100 * e.smallest:.1f} points on it would be")
    takes = needed.of_effect(found, e)
    assert (f"two points take {takes.seeds} seeds" if takes.seeds else "two points take") in text
    # One branch alone says the same as its sweep.
    alone = comparison.compare(sweep.root, [sweep.experiments()["b2-seed0"].id])
    assert needed.words(alone, alone.of(alone.title, "b", LEARNED)) == text
    for line in verdict.lines(found):
        if line.text.endswith(".") and LEARNING_NOT_SHOWN in line.text:
            assert f"{LEARNING_NOT_SHOWN} (from " in line.text
    over_all = [line.text for line in verdict.lines(found) if line.text.startswith("No branch is shown to be better")]
    assert all("(macro-F1: from " in text for text in over_all)
    assert needed.words(found, found.of("b2", "b", "ap")) == "", "of what is only described nothing is tested"


def test_a_difference_that_two_points_would_show_needs_no_more_seeds(sweep):
    from dataclasses import replace

    from raysweep.report import needed

    found = comparison.of_sweep(sweep)
    e = found.of("b2", "b", LEARNED)
    small = replace(e, finding=replace(e.finding, smallest=0.011))
    assert needed.words(found, small) == "from 1.1 points on it would be"


def test_one_rule_everywhere_for_a_class_without_images():
    """Macro-F1 leaves out classes without validation images, and no others: not a class that is never predicted, nor one without hits."""
    from raysweep.report.classification import classification_report
    from raysweep.report.findings import estimates, fitted
    from raysweep.report.findings.arms import Arm
    from raysweep.training import metrics

    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], [30, 40, 60])  # none of class 3
    guess = np.where(rng.random(130) < 0.6, labels, rng.choice([0, 2, 3], 130))
    guess[labels == 1] = 3  # class 1 is never predicted, class 3 often
    scores = np.log(np.eye(4)[guess] * 0.9 + 0.025)
    f1 = [2 * np.sum((labels == c) & (guess == c)) / (np.sum(labels == c) + np.sum(guess == c)) for c in range(3)]
    expected = pytest.approx(np.mean(f1), abs=1e-12)
    assert f1[1] == 0
    summary = metrics.summarise(metrics.confusion(labels, guess, 4), CLASSES)
    assert summary["val_macro_f1"] == expected
    assert summary["f1"]["none"] is None
    control, branch = Arm("c", [lambda: scores] * 2), Arm("b", [lambda: scores] * 2)
    found, _ = effects.of_arms(control, [branch], Cases(labels, 4), CLASSES)
    assert one(found, ALL, "macro_f1").value == one(found, ALL, "macro_f1").reference == expected
    (estimate,) = estimates.estimate([control], Cases(labels, 4))
    assert estimate.overall["macro_f1"].value == expected
    gains = fitted.of_arm(control, Cases(labels, 4), "macro_f1").gains
    assert next(g for g in gains if (g.target, g.metric) == (None, "macro_f1")).before == expected
    table = classification_report(metrics.confusion(labels, guess, 4), CLASSES)
    assert next(line for line in table.splitlines() if "macro avg" in line).split()[-2] == f"{np.mean(f1):.4f}"
    assert "no images" in table


def test_the_four_columns_of_a_class_in_the_terminal(sweep, capsys):
    found = comparison.of_sweep(sweep)
    code, out, err = run_cli(capsys, "compare", sweep.id, "--class", "a", "--root", sweep.root)
    assert code == 0, err
    head, *rows = [line.split("\t") for line in out.splitlines()]
    assert head[:6] == ["branch", "total: recall", "total: F1", "predicted", "free: recall", "learned"]
    assert [row[0] for row in rows] == ["a5", "b2"]
    for row in rows:
        recall, learned = found.of(row[0], "a", "recall"), found.of(row[0], "a", LEARNED)
        assert row[1].startswith(f"{100 * recall.difference:+.1f}")
        assert row[3:5] == [f"{recall.times:.2f} ×", f"{100 * recall.free:+.1f}"]
        assert row[5].startswith(f"{100 * learned.difference:+.1f}")
        assert row[7] == ("" if math.isnan(learned.smallest) else f"{100 * learned.smallest:.1f}")
        assert row[8] == learned.label
    code, _, err = run_cli(capsys, "compare", sweep.id, "--class", "aa", "--root", sweep.root)
    assert (code, "Did you mean 'a'?" in err) == (2, True)


def test_calibration_is_told_beside_the_rest_and_agrees_with_an_estimate():
    from raysweep.report.findings import estimates

    labels = np.repeat([0, 1, 2], [30, 40, 60])
    control, branch = (effects.arm(n, networks(labels, 2, r, i)) for i, (n, r) in enumerate([("c", 0.7), ("b", 0.8)]))
    cases = Cases(labels, 4)
    found, _ = effects.of_arms(control, [branch], cases, CLASSES)
    known = {e.name: e for e in estimates.estimate([control, branch], cases)}
    for metric in ("ece", "brier"):
        effect = one(found, ALL, metric)
        assert effect.label == ""
        assert math.isnan(effect.p)
        assert effect.low <= effect.difference <= effect.high
        assert (effect.reference, effect.value) == pytest.approx(
            [known[a].overall[metric].value for a in "cb"], abs=1e-6
        )


def test_offsets_are_fitted_for_what_the_grid_selects_by(tmp_path):
    from dataclasses import replace

    from raysweep.report import moved, verdict

    made = sweep_of(tmp_path / "e", ("a", "b", "c"), (0.4, 0.7, 0.8), {"a5": ({"a": 5.0}, (0.7, 0.7, 0.8))})
    assert comparison.of_sweep(made).offsets_for == "macro_f1"
    assert moved.chosen({"select": "speed"}) == "macro_f1"
    record = made.record()
    made.write_record(replace(record, grid={**record.grid, "select": "accuracy"}))
    found = comparison.of_sweep(made)
    assert found.offsets_for == "accuracy"
    gain = found.of("control + offsets", ALL, "accuracy")
    assert gain.difference > comparison.of_sweep(made, "macro_f1").of("control + offsets", ALL, "accuracy").difference
    told = [line.text for line in verdict.lines(found) if line.text.startswith("Without training")]
    assert bool(told) == (gain.difference > 0)
    assert all("control + offsets: accuracy" in text for text in told)


def test_a_cell_that_is_not_tested_has_no_colour():
    """A few images make the largest differences: these had the strongest colour, beside a legend that says pale."""
    from raysweep.report.sections.records import HeatCell
    from raysweep.report.templates import _tint
    from tests.report.making import effect

    assert _tint(HeatCell(effect("b", "rare", "recall", 0.4, effects.NOT_TESTED), 1.0)) == "untested"
    assert _tint(HeatCell(effect("b", "often", "recall", 0.1, effects.NOT_SHOWN, width=0.2), 0.25)) == "better s5"


def test_the_head_of_a_sweep_counts_the_seeds_of_its_branches(tmp_path):
    from raysweep.report.content import _about_sweep
    from tests.report.making import sweep_of

    record = sweep_of(tmp_path / "e", ("a", "b", "c"), (0.4, 0.7, 0.8), {"x": ({"a": 2.0}, (0.4, 0.7, 0.8))}).record()
    assert _about_sweep(record)[1].endswith("each, 2 seeds")
    more = [replace(b, seed=9) for b in record.branches if b.control][:1]
    assert _about_sweep(replace(record, branches=[*record.branches, *more]))[1].endswith("each, 2 seeds, the control 3")
