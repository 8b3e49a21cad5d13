"""Grids: what is refused, and which branches a grid means."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from raysweep.config import branch_names
from raysweep.config import grid as grids
from raysweep.config.points import expand
from raysweep.errors import ConfigError, WeightsError
from raysweep.weights import SamplingWeights
from tests.ground.test_text import laughs

CLASSES = ("angry", "disgust", "fear")
PARENT = dict.fromkeys(CLASSES, 1.0)


def points_of(values, parent=PARENT, seed=0):
    return expand(grids.check(values), SamplingWeights.complete(parent, CLASSES), seed)


def test_the_product_of_the_lists_with_control_and_seeds():
    points, notes = points_of({"weights": {"disgust": [3, 5], "fear": [2, 3, 4]}, "seeds": [0, 1]})
    assert len(points) == 14
    assert not notes
    assert [p.name for p in points[:3]] == ["control-seed0", "control-seed1", "disgust=3_fear=2-seed0"]
    assert [p.control for p in points] == [True] * 2 + [False] * 12
    assert points[2].weights.as_dict() == {"angry": 1.0, "disgust": 3.0, "fear": 2.0}
    assert {p.seed for p in points} == {0, 1}


def test_classes_not_named_keep_the_parents_weight_and_the_parents_seed_is_kept():
    points, _ = points_of({"weights": {"disgust": [3]}}, parent={"angry": 2.0, "disgust": 1.0, "fear": 0.5}, seed=7)
    assert points[1].weights.as_dict() == {"angry": 2.0, "disgust": 3.0, "fear": 0.5}
    assert [p.seed for p in points] == [7, 7]


def test_a_point_that_changes_nothing_is_the_control_and_runs_once():
    points, notes = points_of({"weights": {"disgust": [1.0, 3.0]}})
    assert [p.name for p in points] == ["control", "disgust=3"]
    assert notes == ["disgust=1 shows the classes as control does; it runs once."]
    points, notes = points_of({"weights": {"disgust": [1.0, 3.0]}, "control": False})
    assert [(p.name, p.control) for p in points] == [("control", True), ("disgust=3", False)]
    assert notes == ["disgust=1 changes nothing: it is the control."]


def test_points_that_show_the_classes_alike_run_once():
    doubled = {"angry": 2, "disgust": 6, "fear": 2}
    points, notes = points_of({"weights": {"disgust": [3]}, "branches": [{"name": "twice", "weights": doubled}]})
    assert [p.name for p in points] == ["control", "twice"]
    assert notes == ["disgust=3 shows the classes as twice does; it runs once."]


def test_without_a_control():
    points, _ = points_of({"weights": {"disgust": [3]}, "control": False})
    assert [p.name for p in points] == ["disgust=3"]


def test_a_random_search_is_a_function_of_its_seed():
    search = {
        "algorithm": "random",
        "num_samples": 5,
        "ranges": {"disgust": {"log_uniform": [1, 8]}, "fear": {"choice": [1, 2]}},
    }
    one, two = (points_of({"search": search})[0] for _ in range(2))
    assert one == two
    other = points_of({"search": {**search, "seed": 1}})[0]
    assert other != one
    drawn = [p.weights.as_dict() for p in one]
    assert all(1 <= w["disgust"] <= 8 and w["fear"] in (1, 2) for w in drawn)
    assert len(one) == 6


@pytest.mark.parametrize("algorithm", ["random", "optuna"])
def test_ranges_of_a_class_that_is_not_there_are_refused_with_a_suggestion(algorithm):
    search = {"algorithm": algorithm, "num_samples": 5, "ranges": {"disgsut": {"uniform": [1, 8]}}}
    with pytest.raises(WeightsError, match=r"search\.ranges names class 'disgsut'.* Did you mean 'disgust'"):
        points_of({"search": search})


def test_an_optuna_search_adds_no_points_in_advance():
    search = {"algorithm": "optuna", "num_samples": 5, "ranges": {"disgust": {"uniform": [1, 8]}}}
    assert [p.name for p in points_of({"search": search})[0]] == ["control"]


RANGES = {"disgust": {"uniform": [1, 2]}}
TWO = [{"name": n, "weights": {"disgust": 2}} for n in ("one", "two")]


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({}, "the grid is empty"),
        ({"weights": {}}, "the grid is empty"),
        ({"weights": {"disgust": []}}, "empty list"),
        ({"wieghts": {"disgust": [2]}}, "Did you mean 'weights'"),
        ({"weights": {"disgust": [2]}, "epochs": 0}, "epochs"),
        ({"weights": {"disgust": [2]}, "seeds": [1, 1]}, "twice"),
        ({"weights": {"disgust": [2]}, "scheduler": "ahsa"}, "scheduler"),
        ({"branches": [{"name": "../x", "weights": {"disgust": 2}}]}, "not a path"),
        ({"branches": [{"name": "=cmd()", "weights": {"disgust": 2}}]}, "starts"),
        ({"search": {"algorithm": "random", "num_samples": 3}}, "ranges"),
        (
            {"search": {"algorithm": "grid", "ranges": {"a": {"choice": [1]}}}},
            "ranges and num_samples need algorithm: random",
        ),
        ({"search": {"algorithm": "random", "num_samples": 3, "ranges": {"a": {}}}}, "exactly one"),
        (
            {"search": {"algorithm": "random", "num_samples": 3, "ranges": {"a": {"log_uniform": [0, 1]}}}},
            "two numbers > 0",
        ),
        (
            {"search": {"algorithm": "random", "num_samples": 3, "ranges": {"a": {"uniform": [3, 1]}}}},
            "smaller one first, not 3 to 1",
        ),
        (
            {"search": {"algorithm": "random", "num_samples": 3, "ranges": {"a": {"uniform": [-1, 1]}}}},
            "two numbers ≥ 0",
        ),
        ({"search": {"algorithm": "random", "num_samples": 3, "ranges": {"a": {"choice": []}}}}, "at least one number"),
        ({"search": {"algorithm": "random", "num_samples": 3, "ranges": {"a": {"choice": [1, -1]}}}}, "none below 0"),
        (
            {"search": {"algorithm": "random", "num_samples": 3, "ranges": {"a": {"choice": [1], "uniform": [0, 1]}}}},
            "exactly one",
        ),
        ({"weights": {c: list(range(1, 101)) for c in "abc"}}, "1,000,000 points"),
        ({"weights": {str(c): [1, 2] for c in range(20_000)}}, "more than a trillion points"),
        ({"search": {"algorithm": "random", "num_samples": 10**9, "ranges": RANGES}}, "at most 10,000 is allowed"),
        ({"branches": TWO, "seeds": list(range(5001))}, "10,002 points"),
        (
            {"search": {"algorithm": "optuna", "num_samples": 5, "ranges": RANGES}, "branches": TWO, "seeds": [7, 8]},
            "allows one seed at most, not 2",
        ),
    ],
)
def test_wrong_grids_are_refused_in_words(values, told):
    with pytest.raises(ConfigError, match=told):
        grids.check(values)


@pytest.mark.parametrize(
    ("weights", "told"),
    [
        ({"disgsut": [2]}, "Did you mean 'disgust'"),
        ({"disgust": ["much"]}, "Branch 'disgust=much'.*not a number"),
        ({"disgust": [-1]}, "negative"),
        (
            {"disgust": [10**400]},
            "Branch 'disgust=anumberof400': The weight of class 'disgust' is a number of 400 digits",
        ),
        ({"disgust": [laughs()]}, "Branch 'disgust.*not a number"),
        ({"disgust": [float("nan")]}, "nan"),
        ({c: [0] for c in CLASSES}, "All sampling weights are zero"),
    ],
)
def test_wrong_weights_name_the_branch(weights, told):
    with pytest.raises(WeightsError, match=told):
        points_of({"weights": weights})


def test_a_grid_file_tells_the_line(tmp_path):
    path = tmp_path / "grid.yaml"
    path.write_text("weights:\n  disgust: [3]\nepohcs: 2\n")
    with pytest.raises(ConfigError, match=re.escape("epohcs (line 3)")):
        grids.read(path)


lists = st.lists(st.floats(0.001, 1000), min_size=1, max_size=4)


@example({"angry": [0.5], "disgust": [1000.0, 999.9999999999999]}, [])  # the shares are equal to the last bit
@given(
    st.dictionaries(st.sampled_from(CLASSES), lists, min_size=1), st.lists(st.integers(0, 99), max_size=3, unique=True)
)
def test_branches_of_any_grid_differ_in_what_they_show_and_in_name(weights, seeds):
    points, _ = points_of({"weights": weights, "seeds": seeds})
    assert len({p.name.casefold() for p in points}) == len(points)
    shown = {(p.seed, tuple(p.weights.shares(dict.fromkeys(CLASSES, 1)).values())) for p in points}
    assert len(shown) == len(points)
    assert sum(p.control for p in points) == max(1, len(seeds))
    assert all(p.weights.classes == CLASSES for p in points)


@given(st.text(min_size=1, max_size=40), st.floats(0, 1e9))
def test_names_of_branches_can_be_folders_whatever_the_class_is_called(name, weight):
    found = branch_names.describe({name: weight, "x": 1.0})
    assert re.fullmatch(r"[\w.=-]*", found)
    assert len(found) <= 60


def test_names_of_branches_say_which_of_many_similar_classes_they_change():
    classes = [f"{a} of the Alphabet/character{i:02}" for a in ("Magi", "Sages") for i in range(482)]
    parent = SamplingWeights.complete({}, classes)
    one, other, third = "Magi of the Alphabet/character03", "Sages of the Alphabet/character03", classes[7]
    grid = {"branches": [], "weights": {one: [1, 5], other: [1, 5]}}
    points, _ = expand(grids.check(grid), parent, 0)
    names = [p.name for p in points]
    assert len({n.casefold() for n in names}) == 4
    assert all(len(n) <= 60 for n in names)
    short = branch_names.short_names(tuple(classes))
    assert len({s.casefold() for s in short.values()}) == len(classes)
    assert all(len(s) <= 16 and re.fullmatch(r"[\w.]+", s) for s in short.values())
    assert short[third] == "8_character07"  # 'Sages' has the same last words
    assert branch_names.short_names(
        ("Alphabet_of_the_Magi/character03", "Alphabet_of_the_Magi/character04", "Greek/character03")
    ) == {
        "Alphabet_of_the_Magi/character03": "Magi_character03",
        "Alphabet_of_the_Magi/character04": "Magi_character04",
        "Greek/character03": "Greekcharacter03",
    }


def test_a_name_says_where_the_class_ends_and_its_weight_begins():
    assert branch_names.describe({"disgust": 5.0, "fear": 2.0}, CLASSES) == "disgust=5_fear=2"
    assert branch_names.describe({"3": 4.0}, [str(i) for i in range(10)]) == "3=4"
    assert branch_names.describe({"class_00": 2.0}, ["class_00", "class_002"]) == "class_00=2"


def test_control_seeds_are_those_of_the_branches_and_then_the_smallest_unused_numbers():
    from raysweep.config import grid as grids
    from raysweep.weights import SamplingWeights

    parent = SamplingWeights.complete({}, ("a", "b"))

    def seeds(**values):
        points, _ = expand(grids.check({"weights": {"a": [2.0]}, **values}), parent, 7)
        return [p.seed for p in points if p.control], [p.seed for p in points if not p.control]

    assert seeds(seeds=[5, 1], control_seeds=4) == ([5, 1, 0, 2], [5, 1])
    assert seeds(seeds=[0, 1, 2], control_seeds=8) == (list(range(8)), [0, 1, 2])
    assert seeds(control_seeds=3) == ([7, 0, 1], [7])
    assert seeds(seeds=[3, 4, 5], control_seeds=2) == ([3, 4], [3, 4, 5])
    assert seeds(seeds=[3, 4]) == ([3, 4], [3, 4])


def test_control_seeds_need_a_control():
    from raysweep.config import grid as grids
    from raysweep.errors import ConfigError

    with pytest.raises(ConfigError, match="control is false"):
        grids.check({"weights": {"a": [2.0]}, "control": False, "control_seeds": 3})


def test_a_random_search_may_have_several_seeds():
    from raysweep.config import grid as grids
    from raysweep.weights import SamplingWeights

    search = {"algorithm": "random", "num_samples": 3, "ranges": {"a": {"uniform": [1.0, 4.0]}}}
    grid = grids.check({"search": search, "seeds": [0, 1]})
    points, _ = expand(grid, SamplingWeights.complete({}, ("a", "b")), 0)
    assert [p.seed for p in points] == [0, 1] * 4


COUNTS = {"angry": 100, "disgust": 4, "fear": 25}


def by_rule(values, parent=PARENT):
    return expand(grids.check(values), SamplingWeights.complete(parent, CLASSES), 0, COUNTS)


def test_a_list_of_rules_makes_a_branch_each():
    points, notes = by_rule({"weights": ["natural", "balanced", "sqrt", {"power": 0.25}, {"effective": 0.99}]})
    assert [p.name for p in points] == ["control", "balanced", "sqrt", "power=0.25", "effective=0.99"]
    assert notes == ["natural shows the classes as control does; it runs once."]
    assert points[1].weights.values == (1.0, 25.0, 4.0)


def test_shares_are_combined_with_each_other_and_with_weights():
    points, _ = by_rule({"weights": {"disgust": [3, 5]}, "shares": {"fear": [0.2, 0.35]}})
    assert [p.name for p in points] == [
        "control", "disgust=3_fear=20pct", "disgust=3_fear=35pct", "disgust=5_fear=20pct", "disgust=5_fear=35pct",
    ]  # fmt: skip
    assert points[2].weights.shares(COUNTS)["fear"] == pytest.approx(0.35)
    assert points[2].weights.as_dict()["disgust"] == 3.0
    points, _ = by_rule({"weights": ["balanced"], "shares": {"fear": [0.5]}})
    assert [p.name for p in points] == ["control", "balanced_fear=50pct"]


def test_named_branches_take_rules_and_shares():
    named = [
        {"name": "even", "weights": "balanced"},
        {"name": "more-fear", "shares": {"fear": 0.35}},
        {"name": "both", "weights": {"disgust": 5, "fear": "35%"}},
    ]
    points, _ = by_rule({"branches": named})
    assert [p.name for p in points] == ["control", "even", "more-fear", "both"]
    assert points[3].weights.shares(COUNTS)["fear"] == pytest.approx(0.35)


def test_what_needs_the_number_of_images_is_checked_before_they_are_read():
    grid = grids.check({"weights": ["balanced"], "branches": [{"name": "x", "shares": {"fear": 0.3}}]})
    points, _ = expand(grid, SamplingWeights.complete(PARENT, CLASSES), 0)
    assert [p.name for p in points] == ["control"]
    grid = grids.check({"branches": [{"name": "x", "shares": {"feer": 0.3}}]})
    with pytest.raises(WeightsError, match=r"Branch 'x'.* Did you mean 'fear'"):
        expand(grid, SamplingWeights.complete(PARENT, CLASSES), 0)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"branches": [{"name": "x"}]}, "give weights, shares or settings"),
        ({"weights": [3, 5]}, "3 is no rule; a list of numbers belongs to a class"),
        ({"shares": {"fear": []}}, "empty list"),
    ],
)
def test_grids_of_rules_that_say_nothing_are_refused(values, told):
    with pytest.raises(ConfigError, match=told):
        grids.check(values)
