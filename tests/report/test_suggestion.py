"""The suggested grid goes further where a weight helped, back where it hurt, and does not react to noise."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from raysweep.config import grid as grids
from raysweep.config.points import expand
from raysweep.errors import InputError
from raysweep.report import effects, main_effects, suggestion
from raysweep.report.comparison import Compared, Comparison
from raysweep.report.effects import ALL, WORSE, Effect
from raysweep.report.findings import findings
from raysweep.report.findings.variance import Pooled
from raysweep.weights import SamplingWeights
from tests.cli.test_errors import run_cli
from tests.report import making
from tests.report.making import sweep_of

CLASSES = ("rare", "some", "many")
BASE = (0.4, 0.7, 0.8)


def effect(branch: str, target: str, metric: str, difference: float, label: str = effects.NOT_SHOWN) -> Effect:
    return making.effect(branch, target, metric, difference, label, width=0.01)


def comparison(
    truth: dict[str, dict[float, float]], points: list[dict[str, float]], error: float = 0.005
) -> Comparison:
    """Branches whose macro-F1 is the sum of the effects that ``truth`` gives for each of their weights. Branch and control have the
    same error."""
    branches, rows, gains = [], [], []
    for i, point in enumerate(points):
        name = f"b{i}"
        change = {c: (1.0, w) for c, w in point.items()}
        branches.append(Compared(name, [name], ["c"], change, 1.0, 1, 2))
        gains.append(sum(truth[c][w] for c, w in point.items()))
        rows.append(effect(name, ALL, "macro_f1", gains[-1]))
        rows += [effect(name, c, "f1", 0.0) for c in CLASSES]
    covariance = error**2 / 2 * (np.eye(len(points)) + 1)
    known = findings.Gains(np.array(gains), covariance, np.full(len(gains), error**2 / 4))
    found = findings.Findings((), (), (0, 0), Pooled(np.zeros(0), 20), None, {"macro_f1": known})
    return Comparison("s", "the control", CLASSES, dict.fromkeys(CLASSES, 100), branches, rows, [], findings=found)


def _responses(found: Comparison, metric: str):
    main = main_effects.estimate(found, metric)
    return main.classes, main.mixed


def product(**lists: list[float]) -> list[dict[str, float]]:
    return [
        {c: w for c, w in zip(lists, values, strict=True) if w != 1.0}
        for values in itertools.product(*lists.values())
        if any(w != 1.0 for w in values)
    ]


def test_the_effect_of_each_weight_is_estimated():
    truth = {"rare": {3.0: 0.03, 5.0: 0.05}, "some": {2.0: -0.02}}
    levels, mixed = _responses(comparison(truth, product(rare=[1.0, 3.0, 5.0], some=[1.0, 2.0])), "macro_f1")
    assert mixed == []
    assert {c: [level.weight for level in tried] for c, tried in levels.items()} == {"rare": [3.0, 5.0], "some": [2.0]}
    for c, tried in levels.items():
        for level in tried:
            assert level.effect == pytest.approx(truth[c][level.weight], abs=1e-9)
            assert level.real
            assert 0.002 < level.error < 0.006


def test_classes_that_were_always_varied_together_are_named():
    levels, mixed = _responses(
        comparison({"rare": {3.0: 0.03}, "some": {2.0: 0.03}}, [{"rare": 3.0, "some": 2.0}]), "macro_f1"
    )
    assert mixed == ["rare", "some"]
    assert levels["rare"][0].effect == pytest.approx(0.03)  # divided among the two


@pytest.mark.parametrize(
    ("levels", "expected", "words"),
    [
        ([(3.0, 0.03)], [3.0, 6.0], "nothing higher was tried"),
        ([(2.0, 0.02), (4.0, 0.05)], [4.0, 8.0], "nothing higher"),
        ([(2.0, 0.05), (4.0, 0.01)], [1.41, 2.0, 2.83], "close to it"),
        ([(0.5, 0.05)], [0.25, 0.5], "nothing lower"),
        ([(3.0, -0.05)], [0.667, 1.0], "fewer images"),
        ([(3.0, 0.001)], [], "keep 1"),
        ([(3.0, 0.007)], [1.0, 3.0], "not shown"),
        ([(0.5, -0.05)], [], "keep 1"),
        ([(0.0, 0.05)], [0.0], "nothing lower"),
    ],
)
def test_the_next_weights_follow_from_the_measured_effects(levels, expected, words):
    tried = [suggestion.Level(w, e, 0.005, abs(e) > 0.01) for w, e in levels]
    choice = suggestion._next("rare", 1.0, tried, "macro-F1")
    assert choice.weights == expected
    assert words in choice.why


def test_a_class_that_became_worse_is_shown_more_often():
    found = comparison({"rare": {3.0: 0.05}}, [{"rare": 3.0}])
    found.effects[-1] = effect("b0", "many", "f1", -0.1, WORSE)
    (choice,) = suggestion._given_back(found, "b0", {"many": 2.0}, {"rare"})
    assert (choice.target, choice.weights) == ("many", [2.0, 2.5, 3.0])
    assert "fell by 10.0 points" in choice.why


def test_the_suggestion_for_a_sweep_is_a_valid_grid(tmp_path, capsys):
    root = tmp_path / "experiments"
    sweep = sweep_of(
        root,
        CLASSES,
        BASE,
        {"r3": ({"rare": 3.0}, (0.8, 0.7, 0.8)), "r6": ({"rare": 6.0}, (0.95, 0.7, 0.8))},
        (0, 1, 2),
    )
    code, out, err = run_cli(capsys, "suggest", "s", "--root", root)
    assert code == 0, err
    values = yaml.safe_load(out)
    assert values["weights"] == {"rare": [6.0, 12.0]}
    assert values["seeds"] == [0, 1, 2]
    points, _ = expand(grids.check(values), SamplingWeights.complete({}, CLASSES), 0)
    assert len(points) == 3 * 3
    assert f"--from {sweep.record().parent.experiment}@2" in err
    data = json.loads(run_cli(capsys, "suggest", "s", "--json", "--root", root)[1])
    assert data["grid"]["weights"] == values["weights"]
    assert "rare" in data["reasons"]
    code, _, err = run_cli(capsys, "suggest", "s", "-o", tmp_path / "next.yaml", "--root", root)
    assert code == 0
    assert grids.read(tmp_path / "next.yaml").weights == values["weights"]
    code, _, err = run_cli(capsys, "suggest", "s", "-o", tmp_path / "next.yaml", "--root", root)
    assert code == 2
    assert "exists" in err
    assert run_cli(capsys, "suggest", "s", "--metric", "speed", "--root", root)[0] == 2
    assert run_cli(capsys, "suggest", "parent", "--root", root)[0] == 2


def test_for_noise_more_seeds_are_suggested_instead_of_other_ratios(tmp_path):
    sweep = sweep_of(tmp_path / "e", CLASSES, BASE, {"r": ({"rare": 3.0}, BASE), "m": ({"many": 2.0}, BASE)})
    found = suggestion.suggest(sweep)
    assert len(found.seeds) == 4
    assert set(found.weights) <= {"rare", "many"}
    assert all(len(v) == 1 for v in found.weights.values())
    assert any("is shown to change" in n for n in found.notes)
    grids.check(yaml.safe_load(suggestion.as_yaml(found)))


def test_after_one_seed_three_are_suggested(tmp_path):
    sweep = sweep_of(tmp_path / "e", CLASSES, BASE, {"r": ({"rare": 3.0}, (0.95, 0.7, 0.8))}, seeds=(5,))
    found = suggestion.suggest(sweep)
    assert found.seeds == [5, 6, 7]
    assert found.weights == {"rare": [3.0]}, "one seed gives no advice but more seeds"


def test_the_shared_control_does_not_count_twice():
    """Where the control was unlucky, all branches gain: their common part is no evidence of two effects."""
    covariance = 0.01**2 * (np.full((2, 2), 0.9) + 0.1 * np.eye(2))
    _, errors = main_effects.least_squares(np.eye(2), np.array([0.02, 0.02]), covariance)
    assert errors == pytest.approx([0.01, 0.01], rel=1e-3)
    one, error = main_effects.least_squares(np.ones((2, 1)), np.array([0.02, 0.02]), covariance)
    assert one == pytest.approx([0.02])
    assert error[0] == pytest.approx(0.01 * np.sqrt(0.95), rel=1e-3), "not 0.01 / √2"


def test_sweeps_without_effects_rarely_name_a_level():
    rng, wrong = np.random.default_rng(0), 0
    for _ in range(400):
        gains = 0.01 * (rng.standard_normal(6) + rng.standard_normal())
        estimates, errors = main_effects.least_squares(np.eye(6), gains, 0.01**2 * (np.eye(6) + 1))
        wrong += bool(main_effects._holm(estimates, errors, 10_000).any())
    assert wrong <= 32  # 5 % of 400 are 20; binomial, 99.7 %


def test_a_sweep_that_varied_nothing_is_refused(tmp_path):
    sweep = sweep_of(tmp_path / "e", CLASSES, BASE, {"r": ({}, BASE)})
    with pytest.raises(InputError, match="varied neither a class"):
        suggestion.suggest(sweep)


@pytest.mark.parametrize(
    "name", ["no", "a: b", '"', "#x", "<b>", "é", "1", "null", "a\u202eb", "x" * 200, "😀", "日本語"]
)
def test_any_class_name_makes_a_grid_that_reads_back(tmp_path, name):
    sweep = sweep_of(tmp_path / "e", (name, "some", "many"), BASE, {"r": ({name: 3.0}, (0.95, 0.7, 0.8))})
    file = tmp_path / "g.yaml"
    file.write_text(suggestion.as_yaml(suggestion.suggest(sweep)))
    assert name in grids.read(file).weights


def test_the_number_of_points_is_limited():
    choices = [suggestion.Choice(str(i), [1.0, 2.0, 3.0], "") for i in range(6)]
    notes: list[str] = []
    few = suggestion._few(choices, notes)
    assert np.prod([max(1, len(c.weights)) for c in few]) <= suggestion.MAX_BRANCHES
    assert len(notes) == 1


def test_a_sweep_without_a_control_is_refused(tmp_path):
    sweep = sweep_of(tmp_path / "e", CLASSES, BASE, {"r": ({"rare": 3.0}, (0.9, 0.9, 0.9))}, control=False)
    with pytest.raises(InputError, match="no finished control"):
        suggestion.suggest(sweep)


def test_for_a_class_of_weight_zero_weights_above_zero_are_suggested():
    found = comparison({"rare": {3.0: 0.05}}, [{"rare": 3.0}])
    found.effects[-1] = effect("b0", "many", "f1", -0.1, WORSE)
    (choice,) = suggestion._given_back(found, "b0", {"many": 0.0}, {"rare"})
    assert choice.weights == [0.0, 0.5, 1.0]


def lists():
    some = st.lists(st.sampled_from([0.5, 1.0, 1.2345, 2.0, 3.0, 6.0]), max_size=4, unique=True).map(sorted)
    return st.lists(some, min_size=1, max_size=7)


@given(lists(), st.sampled_from([1.0, 1.2345, 7.0]), st.data())
@settings(max_examples=60, deadline=None)
def test_every_grid_separates_what_it_varies(weights, now, data):
    choices = [suggestion.Choice(f"c{i}", w, "why", now=now) for i, w in enumerate(weights)]
    mixed = data.draw(st.lists(st.sampled_from([c.target for c in choices]), unique=True))
    notes: list[str] = []
    levels = {c.target: [suggestion.Level(4.5, 0.0, 0.01, False)] for c in choices}
    found, apart = suggestion._separating(choices, mixed, levels, notes)
    assert suggestion._together(found) == []
    assert np.prod([max(1, len(c.weights)) for c in found]) + len(apart) <= suggestion.MAX_BRANCHES
    varied = {c.target: c.weights for c in found if c.weights}
    assert set(mixed) <= {c for c, ws in varied.items() if set(ws) != {now}} | {a.target for a in apart}
    if varied:  # the control is trained, too
        names = [*(f"c{i}" for i in range(len(weights))), "rest"]
        parent = SamplingWeights.complete({c: now for c in names[:-1]}, names)
        points, _ = expand(grids.check({"weights": varied}), parent, 0)
        rows = np.array([[p.weights.as_dict()[c] != now for c in varied] for p in points], dtype=float)
        moved = [any(w != now for w in ws) for ws in varied.values()]
        assert np.linalg.matrix_rank(rows) == sum(moved)


def design(points, keys):
    return np.array([[float(p.get(c) == w) for c, w in keys] for p in points])


def determined(points, targets):
    """Whether the branches of these points, with a control, tell the effect of each of these classes from all others."""
    keys = sorted({(c, w) for p in points for c, w in p.items()})
    owners = np.array([c for c, _ in keys], dtype=object)
    rank = np.linalg.matrix_rank
    whole = design(points, keys)
    return all(
        (owners == c).any() and rank(whole) - rank(whole[:, owners != c]) == np.count_nonzero(owners == c)
        for c in targets
    )


@pytest.mark.parametrize("change", [0.05, -0.05, 0.004, -0.004])
@pytest.mark.parametrize(
    "points",
    [
        [{"rare": 3.0, "some": 2.0}],
        [{"rare": 3.0, "some": 2.0}, {"many": 2.0}],
        [{"rare": 3.0, "some": 2.0, "many": 0.5}],
        [{"rare": 3.0, "some": 2.0}, {"rare": 5.0, "some": 4.0}, {"rare": 3.0, "some": 2.0, "many": 2.0}],
    ],
)
def test_the_next_grid_separates_what_the_last_one_confounded(tmp_path, monkeypatch, points, change):
    """Whatever the confounded classes did together, and whatever another class did: better, worse or nothing that is shown."""
    made = sweep_of(tmp_path / "e", CLASSES, BASE, {"r": ({"rare": 3.0}, BASE)})
    truth = {c: {w: change * (4 if c == "many" else 1) for p in points for w in [p.get(c)] if w} for c in CLASSES}
    told = comparison(truth, points)
    monkeypatch.setattr(suggestion.comparing, "of_sweep", lambda sweep, metric: told)
    found = suggestion.suggest(made)
    mixed = _responses(told, "macro_f1")[1]
    assert {"rare", "some"} <= set(mixed)
    read = grids.check(yaml.safe_load(suggestion.as_yaml(found)))
    expanded, _ = expand(read, SamplingWeights.complete({}, CLASSES), 0)
    following = [
        {c: w for c, w in p.weights.as_dict().items() if w != 1.0} for p in expanded if p.seed == found.seeds[0]
    ]
    following = [p for p in following if p]
    assert len(following) <= suggestion.MAX_BRANCHES
    assert determined(following, mixed)
    assert any("This grid separates their effects" in n for n in found.notes)


def test_what_the_control_gets_without_training_is_said_first(tmp_path, capsys):
    root = tmp_path / "e"
    made = sweep_of(root, CLASSES, BASE, {"r3": ({"rare": 3.0}, (0.8, 0.7, 0.8))}, (0, 1, 2))
    for metric, name in (("macro_f1", "macro-F1"), ("accuracy", "accuracy")):
        found = suggestion.suggest(made, metric)
        assert found.free is not None
        assert found.free.metric == metric
        assert found.notes[0].startswith("Without training")
        assert f"{100 * found.free.difference:+.1f} points (95 % interval" in found.notes[0]
        assert name in found.notes[0]
        assert "450 validation images" in found.notes[0]
        text = suggestion.as_yaml(found)
        assert text.index("Without training") < text.index("weights:")
        told = json.loads(run_cli(capsys, "suggest", "s", "--metric", metric, "--json", "--root", root)[1])
        assert told["without_training"]["difference"] == found.free.difference
    # A control whose thresholds are off: what it gets is said, beside the best branch and with the command.
    free = making.effect("control + offsets", ALL, "macro_f1", 0.021, "", width=0.004)
    told = replace(comparison({"rare": {3.0: 0.012}}, [{"rare": 3.0}]), offsets=[free])
    effect_of, (note,) = suggestion._without_training(made.root, told, "macro_f1", "macro-F1")
    assert effect_of is free
    assert note.startswith(
        "Without training: offsets give the control +2.1 points (95 % interval +1.7 … +2.5) macro-F1"
    )
    assert "the best branch, b0, has +1.2" in note
    assert "raysweep export c@2 --to onnx --adjust macro_f1" in note


@pytest.mark.parametrize("effect", [0.05, 0.007, 0.0])
def test_classes_varied_together_are_separated_whatever_they_did(effect):
    found = comparison({"rare": {3.0: effect}, "some": {2.0: effect}}, [{"rare": 3.0, "some": 2.0}])
    levels, mixed = _responses(found, "macro_f1")
    choices = [suggestion._next(c, 1.0, tried, "macro-F1") for c, tried in levels.items()]
    if not any(c.weights and c.sure for c in choices):
        choices = suggestion._again(choices, levels, "macro-F1")
    notes: list[str] = []
    made, apart = suggestion._separating([replace(c, now=1.0) for c in choices], mixed, levels, notes)
    assert suggestion._together(made) == []
    assert {c.target for c in made if c.weights} | {a.target for a in apart} == {"rare", "some"}
    assert "This grid separates their effects" in notes[-1]


def test_a_comment_and_the_line_below_it_agree(tmp_path):
    sweep = sweep_of(
        tmp_path / "e", CLASSES, BASE, {"r": ({"rare": 3.0}, BASE), "m": ({"many": 2.0}, (0.4, 0.7, 0.79))}
    )
    for metric in ("macro_f1", "accuracy"):
        text = suggestion.as_yaml(suggestion.suggest(sweep, metric))
        lines = text[text.index("weights:") :].splitlines()[1:]
        for comment, line in itertools.pairwise([*lines, ""]):
            if comment.lstrip().startswith("#"):
                varied = not line.lstrip().startswith("#") and line != ""
                assert ("keep " in comment) != varied, text


def test_a_class_of_two_images_is_not_offered_more_of_the_same_without_a_word():
    choice = suggestion._with_images(suggestion.Choice("rare", [3.0], "weight 3 helped"), 2)
    assert choice.why == "weight 3 helped (with 2 validation images its own effect cannot be measured)"
    assert suggestion._with_images(choice, 200) is choice
