"""Every loss equals a reference in NumPy, and its gradient the numerical one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raysweep.config.treatment import LossSection
from raysweep.errors import ConfigError, WeightsError
from tests.conftest import small_settings

COUNTS = {"a": 500, "b": 60, "c": 7, "d": 1}
SHARES = {"a": 0.7, "b": 0.15, "c": 0.1, "d": 0.05}
SECTIONS = [
    {"kind": "cross_entropy"},
    {"kind": "class_weights"},
    {"kind": "class_weights", "weights": "sqrt"},
    {"kind": "class_weights", "weights": {"c": 3.0}},
    {"kind": "class_weights", "weights": {"effective": 0.99}},
    {"kind": "focal"},
    {"kind": "focal", "gamma": 0.5, "weights": "balanced"},
    {"kind": "balanced_softmax"},
    {"kind": "logit_adjusted", "tau": 1.5},
    {"kind": "ldam"},
    {"kind": "ldam", "margin": 2.0, "weights": {"effective": 0.9999}},
]
KINDS = [str(s) for s in SECTIONS]


def reference(section: dict, z: np.ndarray, y: np.ndarray, smoothing: float) -> float:
    """The sum over the images, written from the papers and not from the code."""
    kind, n, k = section["kind"], np.array(list(COUNTS.values()), float), z.shape[1]
    pi = np.array(list(SHARES.values()))
    z = z.astype(float).copy()
    if kind in ("balanced_softmax", "logit_adjusted"):
        z += section.get("tau", 1.0) * np.log(pi)
    if kind == "ldam":
        margin = n**-0.25 * section.get("margin", 0.5) / max(n**-0.25)
        z[np.arange(len(y)), y] -= margin[y]
    log_p = z - np.log(np.exp(z - z.max(1, keepdims=True)).sum(1, keepdims=True)) - z.max(1, keepdims=True)
    spread = np.ones(k) / k
    if kind in ("balanced_softmax", "logit_adjusted"):  # even in the network's own logits
        spread = pi ** section.get("tau", 1.0) / (pi ** section.get("tau", 1.0)).sum()
    target = np.tile(smoothing * spread, (len(y), 1))
    target[np.arange(len(y)), y] += 1 - smoothing
    each = -(target * log_p).sum(1)
    if kind == "focal":
        each *= (1 - np.exp(log_p[np.arange(len(y)), y])) ** section.get("gamma", 2.0)
    rule = section.get("weights", "balanced" if kind == "class_weights" else None)
    if rule is not None:
        if rule == "balanced":
            w = 1 / n
        elif rule == "sqrt":
            w = n**-0.5
        elif "effective" in rule:
            w = (1 - rule["effective"]) / (1 - rule["effective"] ** n)
        else:
            w = np.array([rule.get(c, 1.0) for c in COUNTS])
        each *= (w / (pi * w).sum())[y]
    return float(each.sum())


def loss_of(section: dict, smoothing: float = 0.0, epoch: int = 1):
    from raysweep.training import losses

    return losses.of_epoch(LossSection.model_validate(section), smoothing, SHARES, COUNTS, epoch)


def batch(seed: int, n: int = 20, scale: float = 3.0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    return generator.normal(size=(n, 4)) * scale, generator.integers(0, 4, n)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("section", SECTIONS, ids=KINDS)
def test_the_loss_equals_the_reference_and_its_gradient_the_numerical_one(section, smoothing):
    import torch

    loss = loss_of(section, smoothing)
    for seed in range(5):
        z, y = batch(seed)
        logits, target = torch.tensor(z, dtype=torch.float32, requires_grad=True), torch.tensor(y)
        found = loss(logits, target)
        assert found.item() == pytest.approx(reference(section, z, y, smoothing), rel=1e-6)
        (gradient,) = torch.autograd.grad(found, logits)
        for i, j in ((0, 0), (3, int(y[3])), (7, 2)):
            up, down = z.copy(), z.copy()
            up[i, j] += 1e-5
            down[i, j] -= 1e-5
            slope = (reference(section, up, y, smoothing) - reference(section, down, y, smoothing)) / 2e-5
            assert gradient[i, j].item() == pytest.approx(slope, rel=1e-4, abs=2e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_where_images_say_nothing_no_class_is_preferred_whatever_the_smoothing(smoothing):
    """Classes as often as the prior says, and the same logits for all: the best ones are equal, so that no class wins."""
    import torch

    prior = torch.tensor([float(s) for s in SHARES.values()], dtype=torch.float64)
    loss = loss_of({"kind": "balanced_softmax"}, smoothing)
    logits = torch.zeros(1, 4, dtype=torch.float64, requires_grad=True)
    expected = sum(share * loss(logits, torch.tensor([c])) for c, share in enumerate(prior))
    (gradient,) = torch.autograd.grad(expected, logits)
    assert gradient.abs().max() < 1e-7


@given(st.sampled_from(SECTIONS), st.integers(0, 1000), st.floats(0, 200))
@settings(max_examples=60)
def test_no_logit_makes_a_loss_or_a_gradient_that_is_no_number(section, seed, scale):
    import torch

    z, y = batch(seed, scale=scale)
    logits = torch.tensor(z, dtype=torch.float32, requires_grad=True)
    found = loss_of(section)(logits, torch.tensor(y))
    found.backward()
    assert torch.isfinite(found)
    assert torch.isfinite(logits.grad).all()


def test_the_mean_weight_over_the_images_shown_is_1():
    from raysweep.training import losses

    for section in ({"kind": "class_weights"}, {"kind": "focal", "weights": {"power": 0.3}}):
        weights = losses.class_weights(LossSection.model_validate(section), SHARES, COUNTS)
        assert sum(w * s for w, s in zip(weights, SHARES.values(), strict=True)) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("kind", ["class_weights", "balanced_softmax", "logit_adjusted"])
def test_deferred_it_is_the_cross_entropy_before(kind):
    import torch

    z, y = batch(0)
    logits, target = torch.tensor(z), torch.tensor(y)
    plain = loss_of({"kind": "cross_entropy"})(logits, target)
    assert loss_of({"kind": kind, "from_epoch": 3}, epoch=2)(logits, target) == plain
    assert loss_of({"kind": kind, "from_epoch": 3}, epoch=3)(logits, target) == loss_of({"kind": kind})(logits, target)
    assert loss_of({"kind": kind, "from_epoch": 3}, epoch=3)(logits, target) != plain


def test_deferred_weights_leave_the_margins_of_ldam():
    import torch

    z, y = batch(0)
    logits, target = torch.tensor(z), torch.tensor(y)
    deferred = {"kind": "ldam", "weights": {"effective": 0.9999}, "from_epoch": 3}
    assert loss_of(deferred, epoch=1)(logits, target) == loss_of({"kind": "ldam"})(logits, target)


def test_a_class_that_is_not_shown_keeps_finite_logits():
    import torch

    from raysweep.training import losses

    shares = {"a": 0.5, "b": 0.5, "c": 0.0, "d": 0.0}
    counts = COUNTS | {"d": 0}
    for section in SECTIONS:
        loss = losses.of_epoch(LossSection.model_validate(section), 0.1, shares, counts, 1)
        assert torch.isfinite(loss(torch.zeros(2, 4), torch.tensor([0, 1])))


@pytest.mark.parametrize(
    ("section", "told"),
    [
        ({"kind": "focl"}, "loss.kind"),
        ({"gamma": 1.0}, "gamma is set, but loss.kind: cross_entropy does not read it; focal would"),
        ({"weights": "balanced"}, "does not read it; class_weights, focal, ldam would"),
        ({"kind": "focal", "from_epoch": 3}, "set weights, too"),
        ({"kind": "class_weights", "weights": "balance"}, "Did you mean 'balanced'"),
        ({"kind": "class_weights", "weights": {"a": "30%"}}, "no shares"),
        ({"kind": "class_weights", "weights": {"a": -1}}, "negative"),
    ],
)
def test_options_that_no_loss_reads_are_refused(tmp_path, section, told):
    with pytest.raises(ConfigError, match=told):
        small_settings(tmp_path, loss=section)


def test_weights_of_unknown_classes_are_refused_before_anything_is_made(quick_run, tmp_path):
    with pytest.raises(WeightsError, match="'nine'"):
        quick_run(loss={"kind": "class_weights", "weights": {"nine": 2}})
    with pytest.raises(WeightsError, match="nothing could be learned"):
        quick_run(loss={"kind": "class_weights", "weights": dict.fromkeys("0123456789", 0)})
    assert not list((tmp_path / "experiments").glob("small*"))


@pytest.mark.slow  # quick twin: test_batches.py: stopped with everything on
@pytest.mark.parametrize(
    "section",
    [
        {"kind": "ldam", "weights": "balanced", "from_epoch": 2},
        pytest.param({"kind": "balanced_softmax"}, marks=pytest.mark.slow),
    ],
)
def test_a_training_that_was_stopped_goes_on_with_the_same_loss(quick_run, tmp_path, without_ray, section):
    from raysweep.launch import resume as resuming
    from raysweep.store.root import Root
    from tests.conftest import Recorder, weights_hash
    from tests.training.test_exactness import interrupted

    sections = {"loss": section, "sampling": {"weights": {"3": 0.2}}}
    whole = quick_run(**sections)
    assert whole.config().settings["loss"]["kind"] == section["kind"]
    assert weights_hash(whole) != weights_hash(quick_run(sampling={"weights": {"3": 0.2}}))
    for stop_after in (2, 4):
        broken = interrupted(tmp_path, without_ray, stop_after, **sections)
        without_ray(Recorder())
        result = resuming.continue_experiment(Root.open(tmp_path / "experiments"), broken.id)
        assert weights_hash(result.experiment) == weights_hash(whole)


def test_a_child_with_another_loss_says_so(quick_run, quick_child):
    parent = quick_run(training={"epochs": 1})
    child = quick_child(f"{parent.id}@1", epochs=1, overrides={"loss": {"kind": "class_weights"}})
    log = (child.folder / "experiment_changes.log").read_text()
    assert "loss.kind" in log
    assert "Weights of the classes in the loss: 0 1." in log
