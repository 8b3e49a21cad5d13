"""`raysweep evaluate`: the numbers, the files, the looks at sealed images; and what it leaves alone."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import raysweep
from raysweep.errors import ConfigError, DataError, InputError, NotFoundError, RaysweepError, UntrustedError
from raysweep.store import layout, lineage
from raysweep.store.root import Root
from tests.cli.test_errors import run_cli
from tests.conftest import draw_classes
from tests.store.test_gate import content, taken
from tests.tools.evaluating import draw_nothing, look_at, train


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[Path, Path]:
    """(folder with images of three classes and with others, a root with one experiment on them)"""
    folder = tmp_path_factory.mktemp("evaluate")
    draw_classes(folder / "images" / "train", {"cat": 30, "dog": 10, "eel": 20})
    draw_classes(folder / "images" / "val", {"cat": 9, "dog": 6, "eel": 6}, seed=1)
    draw_classes(folder / "others", {"cat": 12, "dog": 5, "eel": 8}, seed=2)
    train(folder / "root", folder / "images")
    return folder, folder / "root"


@pytest.fixture
def root(made, tmp_path) -> Root:
    """A copy of that root."""
    shutil.copytree(made[1], tmp_path / "root")
    return Root.open(tmp_path / "root")


@pytest.fixture
def others(made) -> dict[str, Any]:
    """Images that the network has not seen, in a folder without splits."""
    return {"data": {"path": str(made[0] / "others")}}


@pytest.fixture(autouse=True)
def no_pictures(request, monkeypatch):
    """One test looks at the pictures."""
    if request.node.name != "test_the_files_say_what_the_result_says":
        draw_nothing(monkeypatch)


def the_one(root: Root) -> Any:
    from raysweep.store.catalog import experiments

    (found,) = experiments(root)
    return found


def another(root: Root) -> Any:
    """A second experiment of the root."""
    from raysweep.store.experiment import Experiment

    first = the_one(root).folder
    shutil.copytree(first, first.with_name("zother_20260101_000000"))
    return Experiment(first.with_name("zother_20260101_000000"), root)


def events(root: Root) -> list[Any]:
    return [e for e in lineage.read(the_one(root).folder) if e.type == lineage.EVALUATION]


def made_here(root: Root) -> list[str]:
    return sorted(p.name for p in (root.path / layout.EVALUATIONS).glob("*"))


def test_on_validation_images_it_says_what_the_training_said(root):
    from sklearn import metrics as theirs

    from raysweep.report import predictions

    experiment = the_one(root)
    before = content(experiment.folder)
    found = look_at(root, f"{experiment.id}@2", "val")
    known = predictions.read(experiment, 2)
    (arm,) = found.arms
    assert found.classes == known.classes
    assert arm.overall["accuracy"].value == experiment.entry("2").metrics["val_acc"]
    assert arm.overall["macro_f1"].value == pytest.approx(experiment.entry("2").metrics["val_macro_f1"], abs=1e-12)
    np.testing.assert_array_equal(arm.matrix, known.matrix)
    p = known.probabilities.astype(np.float64)
    loss = theirs.log_loss(known.labels, p / p.sum(1, keepdims=True), labels=range(3))
    assert arm.overall["log_loss"].value == pytest.approx(loss, abs=1e-5)
    assert all(e.low <= e.value <= e.high for e in arm.overall.values())
    assert (found.look, found.images, found.leaked.images) == (None, 21, 0)
    assert content(experiment.folder) == before  # validation images are no secret, so the log says nothing
    assert events(root) == []


def test_the_files_say_what_the_result_says(root, others, capsys):
    experiment = the_one(root)
    words = ["evaluate", experiment.id, f"data.path={others['data']['path']}", "--root", root.path]
    code, out, err = run_cli(capsys, *words, "--json")
    assert code == 0, err
    (folder,) = (root.path / layout.EVALUATIONS).iterdir()
    told = json.loads(out)
    assert json.loads((folder / layout.EVALUATION).read_text()) == told
    assert (told["kind"], told["split"], told["images"]) == ("experiment", "all", 25)
    assert told["arms"][0]["networks"][0]["sha256"] == experiment.entry("best").sha256
    assert np.sum(told["arms"][0]["confusion"]) == 25
    rows = (folder / layout.EVALUATION_CSV).read_text().splitlines()
    assert rows[0] == "arm,class,images,metric,value,low,high"
    assert len(rows) == 1 + 6 + 3 * 5
    for name in (layout.EVALUATION_CONFUSION, layout.RELIABILITY):
        assert (folder / name).read_bytes()[1:4] == b"PNG"
    code, out, err = run_cli(capsys, *words)
    assert code == 0, err
    assert "accuracy\t" in out
    assert "This is the second look at these images. The last one was of" in err


def test_every_look_is_counted_by_the_images_over_all_experiments_of_a_root(root, made, others):
    first = the_one(root)
    second = another(root)
    assert raysweep.evaluate(first.id, settings=others, root=root.path).look == 1
    found = look_at(root, f"{second.id}@1", over=others)
    assert found.look == 2
    assert [look.of for look in found.before] == [f"{first.id}@best"]
    assert look_at(root, f"{first.id}@1", over=others).look == 3
    told = [e.fields for e in lineage.read(first.folder) if e.type == lineage.EVALUATION]
    assert [t["text"] for t in told] == ["first look at these 25 test images", "third look at these 25 test images"]
    assert len({t["sealed_sha256"] for t in told}) == 1
    assert "Change Type: EVALUATION" in (first.folder / layout.CHANGES).read_text()
    assert first.status() == "finished"
    draw_classes(made[0] / "third", {"cat": 4, "dog": 4, "eel": 4}, seed=9)
    assert look_at(root, first.id, over={"data": {"path": str(made[0] / "third")}}).look == 1


def test_an_experiment_in_another_root_is_found_by_its_path_and_has_the_look_in_its_log(root, others, tmp_path):
    here = Root.open(tmp_path / "here")
    found = look_at(here, str(the_one(root).folder), over=others)
    assert (found.look, len(events(root)), made_here(root)) == (1, 1, [])
    assert len(made_here(here)) == 1


def test_a_deleted_evaluation_and_a_deleted_experiment_do_not_undo_a_look(root, others):
    first = the_one(root)
    second = another(root)
    look_at(root, first.id, over=others)
    shutil.rmtree(root.path / layout.EVALUATIONS)
    assert look_at(root, first.id, over=others).look == 2
    shutil.rmtree(first.folder)
    found = look_at(root, second.id, over=others)
    assert found.look == 2  # the first one was in the log of the deleted experiment only
    assert len(found.before) == 1


def test_a_look_that_was_killed_counts(root, others, monkeypatch):
    from raysweep.tools import evaluate as evaluating

    def killed(*_: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(evaluating.Scores, "of", killed)
        with pytest.raises(KeyboardInterrupt):
            look_at(root, the_one(root).id, over=others)
    (folder,) = (root.path / layout.EVALUATIONS).iterdir()
    assert json.loads((folder / layout.EVALUATION).read_text())["status"] == "begun"
    assert look_at(root, the_one(root).id, over=others).look == 2


def test_a_network_that_fails_leaves_nothing_where_nobody_looked_and_its_look_where_somebody_did(
    root, others, monkeypatch
):
    from raysweep.tools.predict import Network

    before = Network.standardised
    monkeypatch.setattr(Network, "standardised", lambda self, pixels: np.nan * before(self, pixels))
    with pytest.raises(RaysweepError, match=r"NaN or infinite\. Take another checkpoint"):
        look_at(root, the_one(root).id, "val")
    assert made_here(root) == []
    with pytest.raises(RaysweepError, match="NaN or infinite"):
        look_at(root, the_one(root).id, over=others)
    assert len(made_here(root)) == len(events(root)) == 1


def test_an_experiment_that_another_process_writes_is_evaluated_and_not_touched(root, others):
    experiment = the_one(root)
    taken(experiment.folder)
    before = content(experiment.folder)
    found = look_at(root, f"{experiment.id}@1", over=others)
    assert content(experiment.folder) == before
    assert found.look == 1
    assert any("does not have this look, because another process writes to it" in note for note in found.notes)
    assert look_at(root, f"{experiment.id}@1", over=others).look == 2


def test_a_class_without_images_is_empty_and_not_zero(root, tmp_path):
    draw_classes(tmp_path / "two", {"cat": 12, "eel": 12}, seed=3)
    found = look_at(root, the_one(root).id, over={"data": {"path": str(tmp_path / "two")}})
    assert found.counts == {"cat": 12, "dog": 0, "eel": 12}
    assert all(math.isnan(v) for e in found.arms[0].of_class[1].values() for v in vars(e).values())
    assert not math.isnan(found.arms[0].overall["macro_f1"].value)
    rows = found.csv().splitlines()
    assert next(r for r in rows if ",dog," in r).endswith(",0,recall,,,")


def test_images_that_the_network_was_trained_on_are_counted_and_left_out(root, made, tmp_path):
    shutil.copytree(made[0] / "others", tmp_path / "leaky")
    for i in range(3):
        shutil.copy(made[0] / "images" / "train" / "dog" / f"{i:04}.png", tmp_path / "leaky" / "dog" / f"x{i}.png")
    found = look_at(root, the_one(root).id, over={"data": {"path": str(tmp_path / "leaky")}})
    assert (found.images, found.leaked.images) == (28, 3)
    (without,) = found.leaked.arms
    clean = look_at(root, the_one(root).id, over={"data": {"path": str(made[0] / "others")}})
    assert vars(without.overall["macro_f1"]) == pytest.approx(vars(clean.arms[0].overall["macro_f1"]), abs=1e-12)


def test_images_that_cannot_be_decoded_are_named_and_the_others_are_scored(root, made, tmp_path, capsys):
    shutil.copytree(made[0] / "others", tmp_path / "broken")
    (tmp_path / "broken" / "dog" / "0001.png").write_bytes(b"no image")
    words = ["evaluate", the_one(root).id, f"data.path={tmp_path / 'broken'}", "--root", root.path]
    code, out, err = run_cli(capsys, *words)
    assert code == 2
    assert out == ""
    assert "0001.png" in err
    assert made_here(root) == []
    code, out, err = run_cli(capsys, *words, "data.on_bad_image=skip", "--json")
    assert code == 0, err
    told = json.loads(out)
    assert told["images"] == 24
    assert "0001.png" in told["left_out"][0]["image"]


def test_what_cannot_be_evaluated_is_refused_before_anything_is_made(root, tmp_path):
    experiment = the_one(root)
    draw_classes(tmp_path / "strange", {"cat": 4, "fox": 4})
    wrong = [
        (InputError, "neither test nor val", {"split": "train"}),
        (DataError, "does not know fox", {"over": {"data": {"path": str(tmp_path / "strange")}}}),
        (DataError, "no sealed test images. Use --split val", {}),
    ]
    for kind, text, how in wrong:
        with pytest.raises(kind, match=text):
            look_at(root, experiment.id, **how)
    with pytest.raises(NotFoundError, match="No experiment or sweep"):
        look_at(root, "nothing", "val")
    with pytest.raises(InputError, match="comes without images"):
        look_at(root, "torchvision:resnet18")
    assert made_here(root) == []
    assert events(root) == []


def test_a_model_that_others_trained_is_evaluated_without_an_experiment(root, others, monkeypatch):
    """Its look counts together with those of the experiments."""
    from dataclasses import replace

    from raysweep.tools import predict, pretrained

    first = the_one(root)
    network = replace(predict.load(root, f"{first.id}@2"), settings={}, source="hf:somebody/net", sha256="")
    monkeypatch.setattr(pretrained, "load", lambda name, over, classes: network)
    found = look_at(root, "hf:somebody/net", over=others)
    assert (found.kind, found.look, found.images, found.leaked) == ("model", 1, 25, None)
    assert made_here(root)[0].startswith("hf-somebody-net_")
    assert any("is not known: it was not trained here" in note for note in found.notes)
    assert look_at(root, first.id, over=others).look == 2
    assert len(events(root)) == 1


@pytest.mark.slow
def test_a_real_model_of_transformers(others, tmp_path):
    from tests.plan import old

    root = Root.open(tmp_path / "new")
    vit = old.tiny_vit(tmp_path / "vit")
    found = look_at(root, f"hf:{vit}", over=others)
    assert (found.kind, found.look, found.images) == ("model", 1, 25)
    assert sorted(found.classes) == ["cat", "dog", "eel"]
    with pytest.raises(ConfigError, match="3 outputs, but 2 classes"):
        look_at(root, f"hf:{vit}", over=others, classes=["cat", "dog"])


@pytest.mark.slow
def test_a_model_without_names_of_its_outputs_needs_them(others, tmp_path):
    """The libraries take seconds to import. With random weights, because the trained ones would have to be fetched."""
    root = Root.open(tmp_path / "new")
    for name, options in (
        ("torchvision:mobilenet_v3_small", {"weights": None}),
        ("timm:resnet10t", {"pretrained": False}),
    ):
        over = {**others, "model": {"options": options}}
        with pytest.raises(ConfigError, match="does not say what its outputs are"):
            look_at(root, name, over=over)
        over["data"] = {**others["data"], "image_size": 32}
        found = look_at(root, name, over=over, classes=["eel", "cat", "dog", "fox"])
        assert found.counts == {"eel": 8, "cat": 12, "dog": 5, "fox": 0}


def test_a_strangers_code_does_not_run(root, others, monkeypatch, tmp_path):
    import torch

    monkeypatch.setenv("RAYSWEEP_STATE", str(tmp_path / "state"))
    experiment = the_one(root)
    path = experiment.folder / "checkpoint_epoch_2.pt"
    saved = torch.load(path, weights_only=True)
    saved["config"]["settings"]["model"] = {"name": "python:os:getcwd", "options": {}}
    torch.save(saved, tmp_path / "stranger.pt")
    with pytest.raises(UntrustedError, match="--trust"):
        look_at(root, str(tmp_path / "stranger.pt"), over=others)
    assert made_here(root) == []


# --- sweeps -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def sweep(made, tmp_path, monkeypatch):
    """A finished sweep of two seeds, whose checkpoints are replaced by networks that look at the brightness only; and the references
    that were loaded."""
    import torch
    from torch import nn

    from raysweep.tools import evaluate as evaluating
    from raysweep.tools.predict import Network
    from tests.report.making import sweep_of

    class Brightness(nn.Module):
        def __init__(self, seed: int, sharp: float) -> None:
            super().__init__()
            noise = torch.randn(3, generator=torch.Generator().manual_seed(seed))
            self.centres = nn.Parameter(torch.tensor([40.0, 100.0, 160.0]) + 5 * noise)
            self.sharp = sharp

        def forward(self, x):
            return -self.sharp * (x.mean((1, 2, 3))[:, None] - self.centres) ** 2

    branches = {"dog5": ({"dog": 5.0}, (0.5, 0.9, 0.8)), "eel2": ({"eel": 2.0}, (0.4, 0.7, 0.9))}
    found = sweep_of(tmp_path / "root", ("cat", "dog", "eel"), (0.4, 0.7, 0.8), branches)
    loaded: list[str] = []

    def loader(root: Root, reference: str, *_: Any) -> Any:
        def load() -> Network:
            loaded.append(reference)
            settings = {"data": {"source": "folder", "path": str(made[0] / "images")}}
            model = Brightness(len(loaded) % 4, 0.001)
            return Network(
                model, "cnn", ("cat", "dog", "eel"), (0.0,), (1.0,), (12, 12, 1), reference, "0" * 64, settings=settings
            )

        return load

    monkeypatch.setattr(evaluating, "_loader", loader)
    return found, loaded


def test_of_a_sweep_only_the_winner_and_the_control_see_the_images(sweep, others):
    from raysweep.report import comparison

    made_of, loaded = sweep
    found = look_at(made_of.root, made_of.id, over=others)
    experiments = made_of.experiments()
    expected = {f"{e.id}@4" for name, e in experiments.items() if name.startswith(("dog5", "control"))}
    assert set(loaded) == expected
    assert len(expected) == 4
    assert [arm.name for arm in found.arms] == ["dog5", "control"]
    assert [arm.networks for arm in found.arms] == [2, 2]
    winner = comparison.of_sweep(made_of).winner
    gain = found.gain
    assert (gain.branch, gain.among, gain.metric) == ("dog5", 2, "macro_f1")
    assert (gain.validation, gain.corrected) == (winner.gain, winner.corrected)
    difference = found.arms[0].overall["macro_f1"].value - found.arms[1].overall["macro_f1"].value
    assert gain.value == pytest.approx(difference, abs=1e-12)
    assert gain.low <= gain.value <= gain.high
    assert gain.luck >= 0
    moved = found.moved  # fitted on the predictions that the control's experiments keep
    control = found.arms[1].overall
    assert (moved.metric, moved.overall["macro_f1"]) == (
        "macro_f1",
        pytest.approx(control["macro_f1"].value + moved.gain),
    )
    assert moved.beyond == pytest.approx(gain.value - moved.gain)
    assert found.to_json()["moved"]["beyond"] == moved.beyond
    with_look = [n for n, e in experiments.items() if lineage.EVALUATION in {x.type for x in lineage.read(e.folder)}]
    assert sorted(with_look) == ["control-seed0", "control-seed1", "dog5-seed0", "dog5-seed1"]
    assert look_at(made_of.root, made_of.id, over=others).look == 2  # four networks in one evaluation are one look


def test_the_grid_says_what_the_winner_is_chosen_by(sweep, others):
    from dataclasses import replace

    made_of, _ = sweep
    record = made_of.record()
    assert "select" not in record.grid  # of an earlier version: macro-F1
    made_of.write_record(replace(record, grid={**record.grid, "select": "accuracy"}))
    assert look_at(made_of.root, made_of.id, "val").gain.metric == "accuracy"
    made_of.write_record(replace(record, grid={**record.grid, "select": "luck"}))
    with pytest.raises(InputError, match="selects by 'luck'; known are macro_f1, accuracy, balanced_accuracy"):
        look_at(made_of.root, made_of.id, over=others)


def test_a_sweep_is_told_in_sentences(sweep, others, capsys):
    made_of, _ = sweep
    words = ["evaluate", made_of.id, f"data.path={others['data']['path']}", "--root", made_of.root.path]
    code, out, err = run_cli(capsys, *words)
    assert code == 0, err
    assert (
        "Chosen by macro-F1 among 2 branches: dog5. Gain over the control in macro-F1, in points: on validation +"
        in err
    )
    assert "; corrected for having been chosen +" in err
    assert "dog5, class\t" in out
    assert "control, class\t" in out
    assert "; on these images " in err
    assert " The best of equal branches would gain +" in err
    assert "Moved thresholds alone, fitted on the validation images, give the control " in err
    assert " points of macro-F1 on these images, without any training. The branch has " in err
    assert "This is the first look at these images." in err
    (folder,) = (made_of.root.path / layout.EVALUATIONS).iterdir()
    assert (folder / layout.CONTROL_CONFUSION).exists()
    code, _, err = run_cli(capsys, "evaluate", made_of.id, "--split", "val", "--root", made_of.root.path)
    assert code == 0, err
    assert "The branch was chosen on these images, so its numbers are better than they will be on others." in err
    assert "Moved thresholds" not in err  # they were fitted on these images


def test_branches_that_are_not_finished_are_named(sweep, others):
    made_of, _ = sweep
    lineage.record(made_of.experiments()["eel2-seed0"].folder, lineage.INTERRUPTED)
    found = look_at(made_of.root, made_of.id, over=others)
    assert "eel2-seed0 is not finished, so it is omitted." in found.notes


def test_without_a_control_there_is_no_gain_to_tell(tmp_path, others):
    from tests.report.making import sweep_of

    branches = {"dog5": ({"dog": 5.0}, (0.5, 0.9, 0.8))}
    found = sweep_of(tmp_path / "root", ("cat", "dog", "eel"), (0.4, 0.7, 0.8), branches, control=False)
    with pytest.raises(InputError, match="has no finished control"):
        look_at(found.root, found.id, over=others)
    assert made_here(found.root) == []


def test_a_list_with_several_labels_is_no_way_out_for_a_network_of_one_class(root, tmp_path, capsys):
    """The error said to say data.multi_label=true, and the next one to omit it. `init` did the same."""
    from tests.labelled import draw

    table = draw(tmp_path / "new", 20)
    code, _, err = run_cli(capsys, "evaluate", the_one(root).id, f"data.path={table}", "--root", root.address)
    assert code != 0
    assert "data.multi_label=true" in err
    assert "was trained for one class for each image, and can only be evaluated on images that have one" in err
    code, _, err = run_cli(capsys, "init", table, "-o", tmp_path, "--root", root.address)
    assert code != 0
    assert "data.multi_label=true" in err
    assert "`raysweep init` knows one class for each image" in err


def test_the_label_that_makes_the_interval_of_the_mean_wide_is_named():
    from types import SimpleNamespace

    from raysweep.cli.evaluate import _widest
    from raysweep.report.findings.estimates import Estimate

    wide, narrow, nothing = Estimate(0.8, 0.2, 1.0), Estimate(0.9, 0.88, 0.92), Estimate(*[math.nan] * 3)

    def told(*of, mean):
        classes = "abc"[: len(of)]
        counts = {c: 0 if math.isnan(e.value) else 7 for c, e in zip(classes, of, strict=True)}
        arm = SimpleNamespace(of_class=[{"ap": e} for e in of], overall={"mAP": mean})
        return _widest(SimpleNamespace(classes=classes, counts=counts), arm)

    mean = Estimate(0.85, 0.54, 1.0)
    assert told(narrow, wide, nothing, mean=mean) == "b (7 images) alone makes ±30.0 of the ±31.0 points of mAP."
    assert told(wide, wide, mean=Estimate(0.8, 0.4, 1.0)) == ""
    assert told(nothing, mean=nothing) == ""
