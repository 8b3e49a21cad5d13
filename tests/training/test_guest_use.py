"""Networks of a user's code from the plan to the export: the memory format, lazy layers, auxiliary heads, a softmax."""

from __future__ import annotations

import json

import pytest

from tests.cli.test_errors import run_cli

LENET = """
import torch
from torch import nn
from torch.nn import functional as F

class LeNet(nn.Module):
    def __init__(self, num_classes=10, widths=()):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 6, 3, padding=1)
        self.fc1 = nn.Linear(6 * 16, 12)
        self.fc3 = nn.Linear(12, num_classes)

    def forward(self, x):
        out = F.max_pool2d(F.relu(self.conv1(x)), 2)
        out = out.view(out.size(0), -1)  # which no channels_last map of more than one pixel allows
        return self.fc3(F.relu(self.fc1(out)))
"""

LAZY = """
from torch import nn

def make(widths=()):
    return nn.Sequential(nn.LazyConv2d(4, 3), nn.LazyBatchNorm2d(), nn.ReLU(), nn.Flatten(), nn.LazyLinear(7))
"""

HEADS = """
from torch import nn

class Net(nn.Module):
    def __init__(self, num_classes, widths=()):
        super().__init__()
        self.maps = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten())
        self.aux = nn.Linear(16, num_classes)
        self.fc = nn.Linear(16, num_classes)

    def forward(self, x):
        x = self.maps(x)
        return {"logits": self.fc(x), "aux": self.aux(x)} if self.training else {"logits": self.fc(x), "features": x}
"""

SHORT = {"training": {"epochs": 1}, "sampling": {"samples_per_epoch": 201}}


def notes_of(experiment) -> list[str]:
    from raysweep.store import lineage

    return [e.fields["text"] for e in lineage.read(experiment.folder) if e.type == lineage.NOTE]


def exported(experiment, form: str, folder, capsys):
    target = folder / f"out.{form}"
    words = ("export", f"{experiment.id}@1", "--to", form, "-o", target, "--root", experiment.folder.parent)
    code, _, err = run_cli(capsys, *words)
    assert code == 0, err
    return target


def predicted(experiment, images, capsys):
    import numpy as np

    code, out, err = run_cli(
        capsys, "predict", f"{experiment.id}@1", *images, "--root", experiment.folder.parent, "--json"
    )
    assert code == 0, err
    classes = experiment.config().classes
    return np.array([[row["probabilities"][c] for c in classes] for row in json.loads(out)])


def standardised(target, images):
    """The images as the file beside an export says that they are needed."""
    import numpy as np
    import torch
    from PIL import Image

    facts = json.loads(target.with_name(f"{target.name}.json").read_text())["input"]
    x = np.stack(
        [np.asarray(Image.open(path).resize((8, 8), Image.Resampling.BILINEAR), np.float32) for path in images]
    )
    return (torch.from_numpy(x)[:, None] - facts["mean"][0]) / facts["std"][0]


def test_a_network_that_views_its_maps_trains_and_is_exported_to_its_own_code(
    project,
    quick_run,
    quick_child,
    tmp_path,
    capsys,
):
    import numpy as np
    import torch
    from PIL import Image
    from safetensors.torch import load_file

    project(nets=LENET)
    run = quick_run(model={"name": "python:nets:LeNet"}, **SHORT)
    assert run.config().settings["training"]["channels_last"] is False
    assert any("it does not take the memory format channels_last" in note for note in notes_of(run))
    child = quick_child(f"{run.id}@1", epochs=1)
    assert child.config().settings["training"]["channels_last"] is False
    assert not any("channels_last" in note for note in notes_of(child))
    rng = np.random.default_rng(0)
    images = [tmp_path / f"{i}.png" for i in range(3)]
    for path in images:
        Image.fromarray(rng.integers(0, 256, (8, 8), dtype=np.uint8)).save(path)
    said = predicted(run, images, capsys)
    import sys

    for form, read in {"safetensors": load_file, "pytorch": lambda f: torch.load(f, weights_only=True)}.items():
        target = exported(run, form, tmp_path, capsys)
        own = sys.modules["nets"].LeNet()
        own.load_state_dict(read(target), strict=True)
        with torch.no_grad():
            found = own.eval()(standardised(target, images)).softmax(1).numpy()
        assert np.abs(found - said).max() <= 1e-5
    target = exported(run, "torchscript", tmp_path, capsys)
    found = torch.jit.load(target)(standardised(target, images)).softmax(1).detach().numpy()
    assert np.abs(found - said).max() <= 1e-5


def test_lazy_layers_have_their_shapes_before_the_optimizer_is_made(
    project,
    quick_run,
    quick_child,
    tmp_path,
):
    from raysweep.store import checkpoint
    from raysweep.store.root import Root
    from raysweep.tools import predict

    project(nets=LAZY)
    run = quick_run(model={"name": "python:nets:make"}, **SHORT)
    state = checkpoint.read_checkpoint(run.folder / run.entry("latest").file)
    assert tuple(state["model_state_dict"]["4.weight"].shape) == (10, 144)  # a new last layer, as it had 7 outputs
    assert len(state["optimizer_state_dict"]["state"]) == 6
    assert quick_child(f"{run.id}@1", epochs=1, reset_head=True).status() == "finished"
    assert predict.load(Root.open(tmp_path / "experiments"), f"{run.id}@1").name == "python:nets:make"


def test_the_share_of_auxiliary_heads_is_recorded(project, quick_run):
    project(nets=HEADS)
    run = quick_run(model={"name": "python:nets:Net"}, **SHORT)
    assert run.config().settings["model"]["auxiliary_share"] == 0.4
    assert any("it has 1 auxiliary head; the loss of each is added 0.4 times" in note for note in notes_of(run))


@pytest.mark.slow  # tests/training/test_outputs.py and test_trial.py have imitations of each
def test_networks_of_other_libraries_from_the_plan_to_the_export(project, quick_run, quick_child, tmp_path, capsys):
    vit = """
        def make(num_classes, widths=()):
            from transformers import ViTConfig, ViTForImageClassification
            sizes = dict(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
            return ViTForImageClassification(
                ViTConfig(image_size=8, patch_size=4, num_channels=1, num_labels=num_classes, **sizes))
        def googlenet(num_classes, widths=()):
            from torch import nn
            from torchvision.models import GoogLeNet
            class Larger(GoogLeNet):
                def forward(self, x):
                    return super().forward(nn.functional.interpolate(x.expand(-1, 3, -1, -1), 64))
            return Larger(num_classes, init_weights=False)
        """
    project(nets=vit, lenet=LENET)
    for name, share in (("nets:make", None), ("nets:googlenet", 0.3), ("lenet:LeNet", None)):
        sections = {**SHORT, "training": {"epochs": 1, "batch_size": 60}, "sampling": {"samples_per_epoch": 60}}
        run = quick_run(model={"name": f"python:{name}"}, **sections)
        assert run.config().settings["model"]["auxiliary_share"] == share
        forms = ("torchscript", "onnx") if name != "nets:googlenet" else ("torchscript",)
        for form in forms:
            assert exported(run, form, tmp_path, capsys).stat().st_size
            for file in tmp_path.glob("out.*"):
                file.unlink()
        assert quick_child(f"{run.id}@1", epochs=1).status() == "finished"
