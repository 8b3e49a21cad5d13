"""Training where an image has several labels: losses, metrics, the folder, and continuing bit for bit."""

from __future__ import annotations

import csv

import numpy as np
import pytest

import raysweep
from raysweep.config.treatment import LossSection
from raysweep.errors import WeightsError
from raysweep.launch import resume as resuming
from raysweep.report import predictions
from raysweep.store import checkpoint, lineage
from raysweep.store.root import Root
from tests.cli.test_errors import run_cli
from tests.conftest import weights_hash
from tests.labelled import LABELS, draw, sections
from tests.training.test_exactness import interrupted

DROPOUT = {"model": {"options": {"widths": [4, 4, 8, 8], "dropout": 0.3}}}


def _is_told_by_its_map(made, best, capsys):
    """Lists and tables say by what the best epoch was chosen, not only its accuracy."""
    text = f"best mAP {best:.3f} (epoch {made.manifest().best.epoch})"
    for words in (("lineage", made.id), ("list",), ("show", made.id)):
        code, out, err = run_cli(capsys, *words, "--root", made.root.path)
        assert code == 0, err
        assert text in out if words[0] == "lineage" else "mAP" in out
        assert f"{best:.3f}" in out
    assert text in repr(raysweep.get_experiment(made.id, root=made.root.path))


def test_the_folder_of_a_run(tmp_path, quick_run, capsys):
    made = quick_run(**sections(draw(tmp_path / "data"), sampling={"weights": {"star": 4.0}}))
    with open(made.folder / "training_history.csv") as file:
        rows = list(csv.DictReader(file))
    found = predictions.read(made, 2)
    assert found.labels.dtype == bool
    for row in rows:
        assert all(int(row[f"realised_{c}"]) == int(row[f"requested_{c}"]) for c in LABELS)
    best = max(rows, key=lambda row: float(row["mAP"]))
    entry = made.manifest().best
    assert (entry.metric, entry.value) == ("mAP", float(best["mAP"]))
    saved = checkpoint.read_checkpoint(made.folder / made.entry("latest").file)
    assert saved["format_version"] == 3
    assert found.sha256 == made.manifest().predictions[2]
    from sklearn import metrics

    last = rows[-1]
    for c, name in enumerate(LABELS):
        expected = metrics.average_precision_score(found.labels[:, c], found.probabilities[:, c])
        assert float(last[f"ap_{name}"]) == pytest.approx(expected)
    guess = found.probabilities > 0.5
    assert float(last["val_acc"]) == pytest.approx(metrics.accuracy_score(found.labels, guess))
    assert float(last["val_macro_f1"]) == pytest.approx(
        metrics.f1_score(found.labels, guess, average="macro", zero_division=0)
    )
    assert float(last["val_loss"]) == pytest.approx(
        metrics.log_loss(found.labels.ravel(), np.clip(found.probabilities.astype(float).ravel(), 1e-9, 1 - 1e-9)),
        rel=1e-5,
    )
    _is_told_by_its_map(made, entry.value, capsys)
    report = (made.folder / "classification_report.txt").read_text()
    of_best = predictions.read(made)
    table = metrics.classification_report(
        of_best.labels, of_best.probabilities > 0.5, target_names=found.classes, digits=4, zero_division=0
    )
    assert report.startswith(table.rstrip("\n"))


@pytest.mark.parametrize("stop_after", [2, pytest.param(5, marks=pytest.mark.slow)])
def test_interrupted_and_continued_equals_undisturbed(tmp_path, quick_run, without_ray, stop_after):
    options = sections(draw(tmp_path / "data"), loss={"kind": "focal"}, **DROPOUT)
    options["training"] |= {"epochs": 2, "augment": {"crop_padding": 1, "flip": False}}
    options["data"] = {**options["data"], "views": 2}  # which are drawn for each image, whatever its labels
    broken = interrupted(tmp_path, without_ray, stop_after, **options)
    straight = quick_run(**options)
    result = resuming.continue_experiment(Root.open(tmp_path / "experiments"), broken.id)
    assert weights_hash(result.experiment) == weights_hash(straight)
    assert predictions.read(result.experiment, 2).sha256 == predictions.read(straight, 2).sha256


@pytest.mark.slow  # quick twin: launch/sweep/test_multi_label.py, whose control continues its parent to the bit
def test_a_child_continues_exactly_and_other_weights_show_other_images(tmp_path, quick_run, quick_child):
    options = sections(draw(tmp_path / "data"), **DROPOUT)
    straight = quick_run(**options)
    child = quick_child(f"{straight.id}@1", epochs=1)
    assert weights_hash(child) == weights_hash(straight)
    other = quick_child(f"{straight.id}@1", epochs=1, weights={"star": 5.0})
    change = next(e for e in lineage.read(other.folder) if e.type == lineage.RATIO)
    assert weights_hash(other) != weights_hash(straight)
    assert change.fields["new_shares"]["star"] > change.fields["old_shares"]["star"]


@pytest.mark.slow  # quick twin: test_sampling, whose orders do not know of ranks
def test_two_ranks_train_as_one(tmp_path, two_ranks, monkeypatch):
    from raysweep.launch.workers import start as workers
    from tests.training.test_ranks import Trainer, go

    draw(tmp_path / "data")
    found = []
    for ranks in (None, two_ranks):
        monkeypatch.setattr(workers, "in_this_process", Trainer(ranks))
        options = sections(tmp_path / "data" / "list.csv", sampling={"weights": {"star": 3.0}})
        made = go(Trainer(ranks), tmp_path / f"root{ranks is None}", **options)
        found.append((made.manifest().ends[-1].metrics, predictions.read(made, 2)))
    (one, a), (two, b) = found
    assert one["order_sha256"] == two["order_sha256"]
    assert np.array_equal(a.labels, b.labels)
    assert np.abs(a.probabilities - b.probabilities).max() < 0.02  # batch statistics are those of a rank


# --- losses -----------------------------------------------------------------------------------------------------------


def tensors(n=40, seed=0):
    import torch

    torch.manual_seed(seed)
    return torch.randn(n, 3, requires_grad=True), torch.rand(n, 3) < 0.3


def test_the_binary_loss_is_torchs_and_weighs_images_alike():
    import torch
    from torch.nn import functional

    from raysweep.training import losses

    logits, y = tensors()
    found = losses.binary_of_epoch(LossSection(), 0.0, {}, 1)(logits, y)
    assert found.item() == pytest.approx(functional.binary_cross_entropy_with_logits(logits, y.float()).item() * len(y))
    counts = dict(zip("abc", (10, 20, 5), strict=True))
    section = LossSection(kind="class_weights", weights={"a": 3.0, "c": 2.0})
    weighted = losses.binary_of_epoch(section, 0.0, counts, 1)(logits, y)
    expected = functional.binary_cross_entropy_with_logits(logits, y.float(), pos_weight=torch.tensor([3.0, 1.0, 2.0]))
    assert weighted.item() == pytest.approx(expected.item() * len(y))
    later = LossSection(kind="class_weights", weights={"a": 3.0}, from_epoch=2)
    assert losses.binary_of_epoch(later, 0.0, counts, 1)(logits, y).item() == pytest.approx(found.item())


def test_balanced_weights_are_the_ratio_of_images_without_and_with_a_label():
    from raysweep.label_sets import LabelCounts
    from raysweep.training import losses

    counts = LabelCounts.of("ab", {("a",): 10, ("a", "b"): 10, (): 20})
    assert losses.label_weights(LossSection(kind="class_weights"), counts) == [1.0, 3.0]
    every = LabelCounts.of("abc", {("a",): 10, ("a", "b"): 10})  # all images have a, and a gradient
    assert losses.label_weights(LossSection(kind="class_weights"), every) == [1.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"power": 0.5}, r"^loss\.weights has the rule power 0\.5\. .*give balanced, or a number"),
        ({"nine": 2.0}, r"^The loss weights \(loss\.weights\) name class 'nine'"),
        ({"a": 0, "b": 0.0}, r"^loss\.weights are 0 for every label"),
    ],
)
def test_weights_of_a_loss_that_cannot_be_are_called_the_losss(weights, message):
    from raysweep.label_sets import LabelCounts
    from raysweep.training import losses

    counts = LabelCounts.of("ab", {("a",): 10, ("a", "b"): 10})
    with pytest.raises(WeightsError, match=message):
        losses.label_weights(LossSection(kind="class_weights", weights=weights), counts)
    if "power" not in weights:
        with pytest.raises(WeightsError, match=message.replace("label", "class")):
            losses.class_weights(LossSection(kind="class_weights", weights=weights), {"a": 0.5, "b": 0.5}, counts)
    if "nine" in weights:  # a label may be called power
        named = LabelCounts.of(("power", "b"), {("power",): 10, ("b",): 10})
        section = LossSection(kind="class_weights", weights={"power": 0.5})
        assert losses.label_weights(section, named) == [0.5, 1.0]


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_weighs_by_the_probability_of_what_is_true(gamma):
    import torch

    from raysweep.training import losses

    logits, y = tensors()
    found = losses.binary_of_epoch(LossSection(kind="focal", gamma=gamma), 0.0, {}, 1)(logits, y)
    p = torch.sigmoid(logits)
    true = torch.where(y, p, 1 - p)
    expected = (-((1 - true) ** gamma) * torch.log(true)).mean(1).sum()
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    found.backward()
    assert torch.isfinite(logits.grad).all()


def test_the_loss_of_a_mixture_is_the_mixture_of_the_losses():
    import torch

    from raysweep.training import losses

    (logits, y), (_, other) = tensors(), tensors(seed=1)
    share = torch.linspace(0.5, 1, len(y))
    loss = losses.binary_of_epoch(LossSection(), 0.1, {}, 1)
    found = loss(logits, y, losses.Mixed(other, share))
    each = [
        sum(s * loss(logits[i : i + 1], t[i : i + 1]) for t, s in ((y, share[i]), (other, 1 - share[i])))
        for i in range(len(y))
    ]
    assert found.item() == pytest.approx(sum(each).item(), rel=1e-5)


def test_an_infinite_output_is_found(tmp_path, without_ray):
    import torch

    from raysweep.data.cache import Images
    from raysweep.errors import NonFiniteLossError
    from raysweep.training import evaluate
    from raysweep.training.world import World

    class Fixed(torch.nn.Module):
        def forward(self, x):
            return torch.full((len(x), 2), float("inf"))

    class Given:
        def ahead(self, images, batches): ...

        def batch(self, images, index, draws):
            return torch.zeros(len(index), 1), None

    images = Images(np.zeros((3, 2, 2, 1), dtype=np.uint8), np.ones((3, 2), dtype=bool))
    with pytest.raises(NonFiniteLossError):
        evaluate.validate(Fixed(), Given(), images, 2, World(torch.device("cpu")), torch.no_grad())
