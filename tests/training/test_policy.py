"""Ratios that adapt: what is decided, by which images, and the same bits after a stop."""

from __future__ import annotations

import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raysweep.config.treatment import PolicySection
from raysweep.errors import CheckpointError, ConfigError
from raysweep.store import lineage
from raysweep.weights import SamplingWeights
from tests.conftest import Recorder, small_settings, weights_hash

CLASSES = ("a", "b", "c", "d")
COUNTS = {"a": 400, "b": 100, "c": 50, "d": 50}
NATURAL = SamplingWeights.complete({}, CLASSES)
WORST = {"holdout": 0.2, "policy": {"kind": "worst", "classes": 2, "share": 0.7, "metric": "f1"}}
PROPORTIONAL = {"holdout": 0.2, "policy": {"kind": "proportional", "momentum": 0.5}}


def decided(section, labels, predicted, now=NATURAL, base=NATURAL, counts=COUNTS):
    import numpy as np

    from raysweep.training import policy

    checked = PolicySection.model_validate(section)
    return policy.decide(checked, 3, np.array(labels), np.array(predicted), now, base, counts)


#         recall: a 3/4, b 1/2, c 0/2, d 2/2
LABELS = [0, 0, 0, 0, 1, 1, 2, 2, 3, 3]
FOUND = [0, 0, 0, 1, 1, 0, 0, 1, 3, 3]


def test_the_worst_classes_share_their_part_and_the_others_keep_their_proportions():
    found = decided({"kind": "worst", "classes": 2, "share": 0.7}, LABELS, FOUND)
    assert found.epoch == 4
    assert found.reason["values"] == {"a": 0.75, "b": 0.5, "c": 0.0, "d": 1.0}
    shares = found.weights.shares(COUNTS)
    assert shares == pytest.approx({"a": 0.3 * 400 / 450, "b": 0.35, "c": 0.35, "d": 0.3 * 50 / 450})
    # Whatever the weights are now: the others keep the proportions of sampling.weights.
    now = SamplingWeights.complete({"a": 9.0}, CLASSES)
    assert decided({"kind": "worst"}, LABELS, FOUND, now=now).weights == found.weights
    base = SamplingWeights.complete({"d": 8.0}, CLASSES)
    shares = decided({"kind": "worst"}, LABELS, FOUND, base=base).weights.shares(COUNTS)
    assert shares == pytest.approx({"a": 0.15, "b": 0.35, "c": 0.35, "d": 0.15})


def test_of_equally_bad_classes_the_first_is_taken():
    found = decided({"kind": "worst", "classes": 1, "share": 0.5}, [0, 1, 2, 3], [3, 3, 3, 3])
    assert found.weights.shares(COUNTS)["a"] == pytest.approx(0.5)


def test_images_in_proportion_to_the_error_with_momentum():
    found = decided({"kind": "proportional", "momentum": 0.0}, LABELS, FOUND)
    errors = {"a": (1 - 0.75 + 0.25) / 1.5, "b": (0.5 + 0.5) / 2, "c": (1 + 0.5) / 2, "d": 0.5 / 2}
    target = {c: e / sum(errors.values()) for c, e in errors.items()}
    assert found.weights.shares(COUNTS) == pytest.approx(target)
    half = decided({"kind": "proportional", "momentum": 0.5}, LABELS, FOUND).weights.shares(COUNTS)
    natural = NATURAL.shares(COUNTS)
    assert half == pytest.approx({c: 0.5 * natural[c] + 0.5 * target[c] for c in CLASSES})


def test_a_class_without_images_is_left_as_it_is():
    labels, found = [0, 0, 1, 1, 3], [0, 1, 1, 0, 3]  # none of c decides
    shares = decided({"kind": "proportional", "momentum": 0.0}, labels, found).weights.shares(COUNTS)
    assert shares["c"] == pytest.approx(50 / 600)
    assert "c" not in decided({"kind": "worst", "classes": 3}, labels, found).reason["values"]
    counts = COUNTS | {"b": 0}
    assert decided({"kind": "worst", "classes": 1}, labels, found, counts=counts).weights.shares(counts)["b"] == 0


@given(
    st.lists(st.integers(1, 3000), min_size=3, max_size=7),
    st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=80),
    st.one_of(
        st.builds(lambda k, s: {"kind": "worst", "classes": k, "share": s}, st.integers(1, 2), st.floats(0.05, 0.95)),
        st.builds(lambda m: {"kind": "proportional", "momentum": m}, st.floats(0, 0.99)),
    ),
    st.sampled_from(["recall", "f1"]),
    st.integers(1, 30_000),
)
def test_whatever_is_decided_each_class_is_shown_within_one_image_of_its_share(numbers, seen, section, metric, draws):
    import numpy as np

    from raysweep.training import metrics

    k = len(numbers)
    classes = tuple(f"c{i}" for i in range(k))
    counts = dict(zip(classes, numbers, strict=True))
    labels, found = np.array([(a % k, b % k) for a, b in seen]).T
    base = SamplingWeights.complete({"c1": 3.0}, classes)
    now = SamplingWeights.complete({"c0": 2.0}, classes)
    result = decided({**section, "metric": metric}, labels, found, now, base, counts)
    of_class = metrics.summarise(metrics.confusion(labels, found, k), classes)[metric]
    images = np.bincount(labels, minlength=k)
    there = [c for c in classes if of_class[c] is not None]
    assert dict(result.reason["values"]) == {c: of_class[c] for c in there}
    if section["kind"] == "worst":
        worst = sorted(there, key=lambda c: of_class[c])[: section["classes"]]
        rest = sum(n * base.as_dict()[c] for c, n in counts.items() if c not in worst)
        wanted = {
            c: section["share"] / len(worst) if c in worst else (1 - section["share"]) * n * base.as_dict()[c] / rest
            for c, n in counts.items()
        }
    else:
        before = now.shares(counts)
        errors = {c: (1 - of_class[c] + 1 / images[int(c[1:])]) / (1 + 2 / images[int(c[1:])]) for c in there}
        free, keep = sum(before[c] for c in there), section["momentum"]
        wanted = {
            c: keep * s + (1 - keep) * (free * errors[c] / sum(errors.values()) if c in errors else s)
            for c, s in before.items()
        }
    quotas = result.weights.quotas(counts, draws)
    assert sum(quotas.values()) == draws
    assert all(abs(quotas[c] - draws * wanted[c]) < 1 + 1e-6 for c in classes)


def history(experiment):
    import pandas as pd

    return pd.read_csv(experiment.folder / "training_history.csv")


def ratios(experiment):
    return [e.fields for e in lineage.read(experiment.folder) if e.type == lineage.RATIO]


@pytest.mark.parametrize(
    "sampling", [WORST, pytest.param(PROPORTIONAL, marks=pytest.mark.slow)], ids=["worst", "proportional"]
)
def test_every_epoch_shows_what_was_decided_and_the_log_says_why(quick_run, sampling):
    made = quick_run(training={"epochs": 3}, sampling=sampling)
    events, rows = ratios(made), history(made)
    assert events[0]["epoch"] == 2
    changed = [a["new_weights"] != b["old_weights"] for a, b in itertools.pairwise(events)]
    assert not any(changed)  # each change begins where the one before has led
    for event in events:
        row = rows[rows["epoch"] == event["epoch"]].iloc[0]
        for c, share in event["new_shares"].items():
            assert abs(row[f"realised_{c}"] - 500 * share) < 1 + 1e-6
        assert event["decided"]["kind"] == sampling["policy"]["kind"]
        assert event["decided"]["on"] == "holdout"
        assert set(event["decided"]["values"]) == set("0123456789")
    if sampling is WORST:
        values = events[0]["decided"]["values"]
        two = sorted(values, key=values.__getitem__)[:2]
        assert sum(events[0]["new_shares"][c] for c in two) == pytest.approx(0.7)


@pytest.mark.slow
def test_held_out_images_are_never_shown_and_counted(quick_run):
    made = quick_run(training={"epochs": 1}, sampling={"holdout": 0.2, "samples_per_epoch": 5000})
    counts, row = made.config().class_counts, history(made).iloc[0]
    assert sum(counts.values()) < 1300  # of 1,438 training images or so
    assert all(row[f"distinct_{c}"] <= n for c, n in counts.items())
    assert "training images held out, which no epoch shows" in (made.folder / "experiment_changes.log").read_text()


@pytest.mark.slow  # quick twin: test_schedule.py, with weights that change by the epoch
@pytest.mark.parametrize(
    "stop_after", [3, pytest.param(7, marks=pytest.mark.slow)]
)  # at an epoch's end, and within one
def test_stopped_and_continued_equals_undisturbed(quick_run, tmp_path, without_ray, stop_after):
    from raysweep.launch import resume as resuming
    from raysweep.store.root import Root
    from tests.training.test_exactness import interrupted

    sections = {"training": {"epochs": 3}, "sampling": WORST}
    whole = quick_run(**sections)
    broken = interrupted(tmp_path, without_ray, stop_after, **sections)
    without_ray(Recorder())
    result = resuming.continue_experiment(Root.open(tmp_path / "experiments"), broken.id)
    assert weights_hash(result.experiment) == weights_hash(whole)
    assert ratios(result.experiment) == ratios(whole)


@pytest.mark.slow
@pytest.mark.parametrize(
    "sampling", [pytest.param(WORST, marks=pytest.mark.slow), PROPORTIONAL], ids=["worst", "proportional"]
)
def test_a_child_with_nothing_changed_goes_on_deciding(quick_run, quick_child, tmp_path, sampling):
    from raysweep.store.root import Root
    from raysweep.tools import replay

    whole = quick_run(training={"epochs": 3, "schedule_epochs": 3}, sampling=sampling)
    first = quick_run(training={"epochs": 1, "schedule_epochs": 3}, sampling=sampling)
    child = quick_child(f"{first.id}@1", epochs=2)
    assert weights_hash(child) == weights_hash(whole)
    constant = quick_child(f"{first.id}@1", epochs=1, weights={"3": 2.0})
    assert constant.config().settings["sampling"]["policy"] is None
    assert constant.config().settings["sampling"]["holdout"] == 0.2
    found = replay.replay(Root.open(tmp_path / "experiments"), whole, whole.entry("1"), whole.entry("2"))
    assert found.difference is None


def test_a_child_cannot_hold_out_what_its_parent_has_learned(quick_run, quick_child):
    parent = quick_run(training={"epochs": 1})
    with pytest.raises(
        CheckpointError, match=r"some of the [0-9]+ images to hold out may be among those that it has learned"
    ):
        quick_child(f"{parent.id}@1", epochs=1, overrides={"sampling": WORST})
    on_val = {"policy": {"kind": "worst", "on": "val"}}
    child = quick_child(f"{parent.id}@1", epochs=2, overrides={"sampling": on_val})
    assert ratios(child)[0]["decided"]["on"] == "val"
    assert "judged on the same images" in (child.folder / "experiment_changes.log").read_text()


@pytest.mark.parametrize(
    ("sampling", "told"),
    [
        ({"policy": {"kind": "worst"}}, "Set sampling.holdout: 0.1, or policy.on: val"),
        ({"policy": {"kind": "best"}}, "worst"),
        ({"policy": {"kind": "worst", "on": "val"}, "schedule": [{"from": 2}]}, "keep one of them"),
        ({"holdout": 0.7}, "0.5"),
    ],
)
def test_policies_that_cannot_decide_are_refused(tmp_path, sampling, told):
    with pytest.raises(ConfigError, match=re.escape(told)):
        small_settings(tmp_path, sampling=sampling)


def test_a_policy_leaves_classes_for_the_rest(quick_run):
    with pytest.raises(ConfigError, match="classes is 10, and 10 classes have images"):
        quick_run(sampling={"policy": {"kind": "worst", "classes": 10, "on": "val"}})


@pytest.mark.parametrize("permute", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_control_follows_the_shares_of_a_policy_also_with_the_classes_exchanged(quick_run, quick_child, permute):
    parent = quick_run(training={"epochs": 1, "schedule_epochs": 4}, sampling=WORST)
    adaptive = quick_child(f"{parent.id}@1", epochs=3)
    over = {"sampling": {"follow": {"experiment": adaptive.id, "permute": permute}}, "seed": 5}
    control = quick_child(f"{parent.id}@1", epochs=3, overrides=over)
    assert control.config().settings["sampling"]["policy"] is None
    theirs, mine = history(adaptive), history(control)
    for epoch in (2, 3, 4):
        of = [rows[rows["epoch"] == epoch].iloc[0] for rows in (theirs, mine)]
        shown = [[int(row[f"realised_{c}"]) for c in "0123456789"] for row in of]
        if permute:
            shown = [sorted(numbers) for numbers in shown]
        assert all(abs(a - b) <= 1 for a, b in zip(*shown, strict=True))
    if permute:
        assert "gets the share of" in (control.folder / "experiment_changes.log").read_text()
        classes = [[row[f"realised_{c}"] for c in "0123456789"] for row in of]
        assert classes[0] != classes[1]
