"""Networks taken out of their checkpoints: the same probabilities in ONNX Runtime, TorchScript and safetensors, and here."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from raysweep.errors import CheckpointError, StoreError
from raysweep.launch import run as launching
from raysweep.plan import experiment as experiment_plan
from raysweep.report import predictions
from raysweep.store import checkpoint
from raysweep.store.root import Root
from tests.cli.test_errors import run_cli
from tests.conftest import SMALL_NET, small_settings
from tests.data.drawing import EPS


@pytest.fixture
def trained(image_folder, tmp_path, without_ray):
    """An experiment on gray PNGs, and its root."""
    root = tmp_path / "experiments"
    data = {"source": "folder", "path": str(image_folder)}
    settings = small_settings(
        root, data=data, training={"epochs": 2, "batch_size": 16, "augment": {"crop_padding": 0, "flip": False}}
    )
    return launching.run(experiment_plan.plan_experiment(settings)).experiment, root


def softmax(x: np.ndarray) -> np.ndarray:
    import torch

    return torch.softmax(torch.as_tensor(x), 1).numpy()


def test_it_predicts_what_the_training_said(trained, image_folder):
    from raysweep.tools import predict

    experiment, root = trained
    found = predict.load(Root.open(root), f"{experiment.id}@2")
    paths = sorted((image_folder / "val").rglob("*.png"))
    mine = np.array([probabilities for _, probabilities in predict.predictions(found, paths)])
    theirs = predictions.read(experiment, 2)
    truth = np.array([found.classes.index(p.parent.name) for p in paths])
    for c in range(3):  # the cache has an order of its own within a class
        a, b = (rows[np.lexsort(rows.T)] for rows in (mine[truth == c], theirs.probabilities[theirs.labels == c]))
        assert a == pytest.approx(b, abs=1e-5)


def test_predict_on_the_command_line(trained, image_folder, capsys):
    experiment, root = trained
    paths = sorted((image_folder / "val" / "cat").glob("*.png"))[:3]
    code, out, err = run_cli(capsys, "predict", f"{experiment.id}@best", *paths, "--json", "--root", root)
    assert code == 0, err
    rows = json.loads(out)
    assert [r["image"] for r in rows] == [str(p) for p in paths]
    assert all(sum(r["probabilities"].values()) == pytest.approx(1) for r in rows)
    assert all(r["probabilities"][r["class"]] == max(r["probabilities"].values()) for r in rows)
    code, out, _ = run_cli(capsys, "predict", f"{experiment.id}@2", paths[0], "--root", root)
    assert code == 0
    assert out.splitlines()[1].split("\t")[:2] == [str(paths[0]), rows[0]["class"]]


@pytest.fixture
def bad_files(tmp_path):
    """What is no image, and why."""
    broken, pipe, program = tmp_path / "broken.png", tmp_path / "pipe.png", tmp_path / "program.png"
    broken.write_bytes(b"no image")
    os.mkfifo(pipe)
    program.write_bytes(EPS)
    unread = "not an image of a kind that is read"
    (tmp_path / "no images").mkdir()
    (tmp_path / "no images" / "read me.txt").touch()
    return {
        tmp_path / "no images": "it holds no images, but 1 .txt",
        broken: unread,
        tmp_path / "missing.png": "No such file or directory",
        pipe: "it is not a regular file",
        Path("/dev/zero"): "it is not a regular file",
        program: unread,
    }


def test_files_that_are_no_images_are_named_and_the_others_are_answered(trained, image_folder, bad_files, capsys):
    experiment, root = trained
    good = sorted((image_folder / "val" / "cat").glob("*.png"))[:2]
    paths = [good[0], *bad_files, good[1]]
    code, out, err = run_cli(capsys, "predict", f"{experiment.id}@2", *paths, "--root", root)
    assert code == 1
    assert [line.split("\t")[0] for line in out.splitlines()[1:]] == [str(path) for path in good]
    assert f"{len(bad_files)} of {len(paths)} files cannot be used" in err
    assert all(f"{path} ({why}" in err for path, why in bad_files.items())
    code, out, err = run_cli(capsys, "predict", f"{experiment.id}@2", *paths, "--json", "--root", root)
    assert code == 1
    rows = json.loads(out)
    assert [row["image"] for row in rows] == [str(path) for path in paths]
    assert [path for path, row in zip(paths, rows, strict=True) if "probabilities" in row] == good
    assert all(row["error"].startswith(bad_files[Path(row["image"])]) for row in rows if "error" in row)


def test_where_no_file_is_an_image_nothing_is_printed(trained, bad_files, capsys):
    experiment, root = trained
    code, out, err = run_cli(capsys, "predict", f"{experiment.id}@2", *bad_files, "--root", root)
    assert (code, out) == (1, "")
    assert f"{len(bad_files)} of {len(bad_files)} files cannot be used" in err


def test_images_of_another_size_and_colour_are_brought_to_the_networks(trained, tmp_path):
    from raysweep.tools import predict

    experiment, root = trained
    found = predict.load(Root.open(root), f"{experiment.id}@2")
    Image.new("RGB", (50, 80), (200, 10, 10)).save(tmp_path / "red.jpg")
    assert predict.read_image(found, tmp_path / "red.jpg").shape == (12, 12, 1)
    assert predict.read_image(found, tmp_path / "missing.jpg") == "No such file or directory"


@pytest.mark.parametrize(
    "form", ["safetensors", "pytorch", "torchscript", pytest.param("onnx", marks=pytest.mark.slow)]
)
def test_what_is_exported_gives_the_same_probabilities(trained, tmp_path, capsys, form):
    import torch

    from raysweep.tools import predict

    if form == "onnx":
        pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install -e '.[onnx]'")
        pytest.importorskip("onnxscript", reason="onnxscript is not installed: pip install -e '.[onnx]'")
    experiment, root = trained
    target = tmp_path / "out.model"
    code, out, err = run_cli(capsys, "export", f"{experiment.id}@2", "--to", form, "-o", target, "--root", root)
    assert code == 0, err
    assert out.strip() == str(target)
    told = json.loads((tmp_path / "out.model.json").read_text())
    assert told["classes"] == ["cat", "dog", "eel"]
    assert told["checkpoint_sha256"] == experiment.entry("2").sha256
    # With nothing but the file and the JSON beside it:
    rng = np.random.default_rng(3)
    _, channels, height, width = told["input"]["shape"]
    pixels = rng.integers(0, 256, (5, channels, height, width)).astype(np.float32)
    mean, std = (np.float32(told["input"][k]).reshape(1, -1, 1, 1) for k in ("mean", "std"))
    x = (pixels - mean) / std
    expected = predict.load(Root.open(root), f"{experiment.id}@2").probabilities(
        pixels.transpose(0, 2, 3, 1).astype(np.uint8)
    )
    if form == "onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(str(target), providers=["CPUExecutionProvider"])
        logits = session.run(None, {"pixels": x})[0]
        assert json.loads(session.get_modelmeta().custom_metadata_map["classes"]) == told["classes"]
    elif form == "torchscript":
        logits = torch.jit.load(str(target))(torch.from_numpy(x)).detach()
    else:
        from safetensors.torch import load_file

        from raysweep.training import models

        model = models.build(SMALL_NET["name"], SMALL_NET["options"], 3, 1)
        model.load_state_dict(load_file(target) if form == "safetensors" else torch.load(target, weights_only=True))
        logits = model.eval()(torch.from_numpy(x)).detach()
    assert softmax(logits) == pytest.approx(expected, abs=1e-5)
    code, _, err = run_cli(capsys, "export", f"{experiment.id}@2", "--to", form, "-o", target, "--root", root)
    assert code == 2
    assert "exists" in err
    target.unlink()  # the facts beside it are still there
    code, _, err = run_cli(capsys, "export", f"{experiment.id}@2", "--to", form, "-o", target, "--root", root)
    assert code == 2
    assert "out.model.json exists" in err


def test_an_export_that_differs_is_not_left_behind(trained, tmp_path, monkeypatch):
    from raysweep.tools import export, predict

    experiment, root = trained
    found = predict.load(Root.open(root), f"{experiment.id}@2")
    monkeypatch.setattr(export, "_safetensors", lambda net, x, target: (target.touch(), np.zeros((8, 3)))[1])
    with pytest.raises(StoreError, match="differs from the checkpoint's"):
        export.export(found, "safetensors", tmp_path / "x.safetensors")
    assert not list(tmp_path.glob("*safetensors*"))


def test_an_export_leaves_the_network_as_it_was(trained, tmp_path):
    import torch

    from raysweep.tools import export, predict

    experiment, root = trained
    found = predict.load(Root.open(root), f"{experiment.id}@2")
    before = {k: v.clone() for k, v in found.model.state_dict().items()}
    assert export.export(found, "safetensors", tmp_path / "x.safetensors") == 0
    assert all(torch.equal(v, before[k]) for k, v in found.model.state_dict().items())


def test_bad_requests(trained, tmp_path, capsys, monkeypatch):
    from raysweep.tools import predict

    experiment, root = trained
    monkeypatch.chdir(tmp_path)
    for words, told in (
        (("--to", "onix"), "Did you mean 'onnx'"),
        (("--to", "onnx", "-o", tmp_path), "name of a file"),
        (("--to", "onnx", "-o", tmp_path / "no" / "x"), "name of a file"),
    ):
        code, _, err = run_cli(capsys, "export", f"{experiment.id}@2", *words, "--root", root)
        assert code == 2
        assert told in err
    assert run_cli(capsys, "export", "nothing@2", "--to", "onnx", "--root", root)[0] == 2
    bare = experiment.folder / "epoch_2_model.pt"
    with pytest.raises(CheckpointError, match="not a complete checkpoint"):
        predict.load(Root.open(root), str(bare))


def test_a_strangers_checkpoint_runs_no_function(trained, tmp_path):
    from raysweep.tools import predict

    experiment, root = trained
    saved = checkpoint.read_checkpoint(experiment.folder / "checkpoint_epoch_2.pt")
    saved["config"]["settings"]["model"] = {"name": "python:os:mkdir", "options": {}}
    checkpoint.write(tmp_path / "x.pt", saved)
    with pytest.raises(CheckpointError, match="wants to run the Python function"):
        predict.load(Root.open(root), str(tmp_path / "x.pt"))


@pytest.mark.slow
def test_a_network_of_transformers_is_exported(tmp_path, image_folder, without_ray):
    from raysweep.tools import export, predict

    pytest.importorskip("transformers", reason="transformers is not installed: pip install -e '.[hf]'")
    pytest.importorskip("onnxscript", reason="onnxscript is not installed: pip install -e '.[onnx]'")
    from tests.plan import old

    vit = old.tiny_vit(tmp_path / "vit")
    data = {"source": "folder", "path": str(image_folder)}
    settings = small_settings(
        tmp_path / "e", data=data, model={"name": f"hf:{vit}", "options": {}}, training={"epochs": 1, "batch_size": 16}
    )
    made = launching.run(experiment_plan.plan_experiment(settings)).experiment
    found = predict.load(Root.open(tmp_path / "e"), f"{made.id}@1")
    assert found.classes == old.CLASSES
    assert export.export(found, "onnx", tmp_path / "vit.onnx") <= export.TOLERANCE
    paths = sorted((image_folder / "val").rglob("*.png"))
    theirs = predictions.read(made, 1)
    mine = np.array([probabilities for _, probabilities in predict.predictions(found, paths)])
    assert sorted(mine.max(1).tolist()) == pytest.approx(sorted(theirs.probabilities.max(1).tolist()), abs=1e-5)


def logits_of_file(form, target, x):
    """What an exported file gives for standardised images, with nothing of raysweep but the network's architecture."""
    import torch

    if form == "onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(str(target), providers=["CPUExecutionProvider"])
        return session.run(None, {"pixels": x})[0]
    if form == "torchscript":
        return torch.jit.load(str(target))(torch.from_numpy(x)).detach().numpy()
    from safetensors.torch import load_file

    from raysweep.training import models

    model = models.build(SMALL_NET["name"], SMALL_NET["options"], 3, 1)
    model.load_state_dict(load_file(target))
    return model.eval()(torch.from_numpy(x)).detach().numpy()


@pytest.mark.slow
def test_an_adjusted_export_adds_its_offsets_and_says_where_they_come_from(trained, image_folder, tmp_path, capsys):
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install -e '.[onnx]'")
    pytest.importorskip("onnxscript", reason="onnxscript is not installed: pip install -e '.[onnx]'")
    from raysweep.report.findings import fitted
    from raysweep.tools import predict

    experiment, root = trained
    reference, kept = f"{experiment.id}@2", predictions.read(experiment, 2)
    raw = predict.load(Root.open(root), reference)
    adjusted = predict.load(Root.open(root), reference, adjust="macro_f1")
    known = fitted.fit(np.log(kept.probabilities), kept.cases, "macro_f1")
    assert np.abs(known).max() > 0.01, "otherwise nothing is tested"
    paths = sorted((image_folder / "val").rglob("*.png"))
    pixels = np.stack([predict.read_image(raw, p) for p in paths])
    x = raw.standardised(pixels).numpy()
    expected = softmax(np.log(raw.probabilities(pixels)) + known)
    assert adjusted.probabilities(pixels) == pytest.approx(expected, abs=1e-6)
    for form in ("safetensors", "onnx", "torchscript"):
        target = tmp_path / f"out.{form}"
        words = ("--to", form, "-o", target, "--adjust", "macro_f1", "--root", root)
        code, _, err = run_cli(capsys, "export", reference, *words)
        assert code == 0, err
        assert f"Adjusted for macro-F1: cat {known[0]:+.2f}" in err
        assert softmax(logits_of_file(form, target, x)) == pytest.approx(expected, abs=1e-5)
        facts = json.loads((tmp_path / f"out.{form}.json").read_text())["adjusted"]
        assert facts["metric"] == "macro_f1"
        assert list(facts["offsets"].values()) == pytest.approx(known, abs=1e-6)
        assert list(facts["offsets"]) == ["cat", "dog", "eel"]
        assert facts["fitted_on"] == {
            "experiment": experiment.id,
            "epoch": 2,
            "checkpoint_sha256": experiment.entry("2").sha256,
            "validation_images": len(kept.labels),
            "data_sha256": experiment.config().data_sha256,
            "predictions_sha256": kept.sha256,
        }
    from safetensors import safe_open

    with safe_open(tmp_path / "out.safetensors", "pt") as file:
        assert json.loads(file.metadata()["adjusted"]) == facts
    assert softmax(raw.logits(raw.standardised(pixels)).detach()) == pytest.approx(raw.probabilities(pixels), abs=1e-6)


def test_predict_says_that_a_network_is_adjusted(trained, image_folder, capsys):
    experiment, root = trained
    path = min((image_folder / "val" / "cat").glob("*.png"))
    words = ("predict", f"{experiment.id}@best", path, "--root", root)
    _, out, err = run_cli(capsys, *words, "--json")
    assert "adjusted" not in json.loads(out)[0]
    assert "Adjusted" not in err
    for metric, name in (("accuracy", "accuracy"), ("balanced_accuracy", "balanced accuracy")):
        code, out, err = run_cli(capsys, *words, "--adjust", metric, "--json")
        assert code == 0, err
        assert json.loads(out)[0]["adjusted"] == metric
        assert f"Adjusted for {name}" in err
        assert f"of {experiment.id}@" in err


def test_what_cannot_be_adjusted_is_refused_before_anything_is_written(trained, tmp_path, capsys):
    import torch
    from torch import nn

    from raysweep.errors import ConfigError, InputError
    from raysweep.tools import export, predict

    experiment, root = trained
    target = tmp_path / "x.onnx"
    words = ("export", f"{experiment.id}@2", "--to", "onnx", "-o", target, "--root", root)
    code, _, err = run_cli(capsys, *words, "--adjust", "macro-f1")
    assert code == 2
    assert "Did you mean 'macro_f1'?" in err
    stray = tmp_path / "stray.pt"
    stray.write_bytes((experiment.folder / experiment.entry("2").file).read_bytes())
    with pytest.raises(InputError, match=r"keeps of its best and its last epoch, but not of .*stray\.pt"):
        predict.load(Root.open(root), str(stray), adjust="macro_f1")
    table = experiment.folder / "val_predictions.parquet"
    before = table.read_bytes()
    from tests.report.making import write_predictions

    kept = predictions.read(experiment, 2)
    write_predictions(experiment, kept.classes, kept.labels, kept.labels, 2)
    with pytest.raises(StoreError, match="not those that the manifest records"):
        predict.load(Root.open(root), f"{experiment.id}@2", adjust="macro_f1")
    table.write_bytes(before)
    found = predict.load(Root.open(root), f"{experiment.id}@2", adjust="macro_f1")

    class NoBias(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Linear(int(np.prod(found.shape)), 3, bias=False)

        def forward(self, x):
            return self.body(x.flatten(1))

    import dataclasses

    bare = dataclasses.replace(found, model=NoBias().eval())
    with pytest.raises(ConfigError, match="no bias into which the offsets could go"):
        export.export(bare, "safetensors", tmp_path / "x.safetensors")
    export.export(bare, "torchscript", tmp_path / "x.torchscript.pt")
    x = torch.rand(4, found.shape[2], *found.shape[:2])
    logits = torch.jit.load(str(tmp_path / "x.torchscript.pt"))(x)
    assert torch.allclose(logits, bare.model(x) + bare.offsets, atol=1e-6)
    assert not (tmp_path / "x.safetensors").exists()
    assert not target.exists()
