"""Checkpoints that other libraries wrote themselves: their predictions are those of the original network, or they are refused.

Those that torch alone can write are in ``foreign_files``; with these they are more than forty kinds.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from raysweep.config.settings import ModelSection
from raysweep.errors import CheckpointError
from tests.training.foreign_files import CLASSES, trained

if TYPE_CHECKING:
    from torch import nn

pytestmark = pytest.mark.slow

SMALL = "python:tests.training.foreign_files:small"


class Case(NamedTuple):
    path: Path
    name: str  # model.name here
    original: Callable[..., Any]  # images → logits
    more: Mapping[str, Any] = MappingProxyType({})  # of the section model
    side: int = 12


# --- timm -------------------------------------------------------------------------------------------------------------


def timm_network() -> nn.Module:
    import timm
    import torch

    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = timm.create_model("test_resnet", num_classes=CLASSES)
        model.train()(torch.randn(4, 3, 32, 32))
    return model.eval()


def timm_saver(folder: Path, ema: bool, key: str | None) -> Case:
    """As timm's train.py saves."""
    import torch
    from timm.utils import CheckpointSaver, ModelEmaV3

    model = timm_network()
    args = argparse.Namespace(model="test_resnet", opt="sgd")
    average = ModelEmaV3(model) if ema else None
    saver = CheckpointSaver(
        model,
        torch.optim.SGD(model.parameters(), 0.1),
        args=args,
        model_ema=average,
        checkpoint_dir=str(folder),
        decreasing=True,
    )
    saver.save_checkpoint(0, metric=0.5)
    return Case(
        folder / "model_best.pth.tar", "timm:test_resnet", model, more={"init_key": key} if key else {}, side=32
    )


def timm_hub_folder(folder: Path) -> Case:
    from timm.models import save_for_hf

    model = timm_network()
    save_for_hf(model, folder, model_config={"num_classes": CLASSES}, safe_serialization=True)
    return Case(folder, "timm:test_resnet", model, side=32)


# --- torchvision ------------------------------------------------------------------------------------------------------


def torchvision_network(name: str = "mobilenet_v3_small", classes: int = CLASSES) -> nn.Module:
    import torch
    from torchvision import models

    with torch.random.fork_rng():
        torch.manual_seed(4)
        model = models.get_model(name, num_classes=classes)
        model.train()(torch.randn(4, 3, 64, 64))
    return model.eval()


def references(folder: Path) -> Case:
    """As torchvision's references/classification/train.py saves, with --model-ema."""
    import torch

    model = torchvision_network()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    ema = torch.optim.swa_utils.AveragedModel(model, use_buffers=True)
    next(ema.parameters()).data += 1
    content = {
        "model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 3,
        "lr_scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 3).state_dict(),
        "args": argparse.Namespace(model="mobilenet_v3_small"), "model_ema": ema.state_dict(),
    }  # fmt: skip
    torch.save(content, folder / "checkpoint.pth")
    return Case(folder / "checkpoint.pth", "torchvision:mobilenet_v3_small", model, side=32)


def published(folder: Path) -> Case:
    """As torch.hub keeps it."""
    import torch

    model = torchvision_network("squeezenet1_1", 1000)
    torch.save(model.state_dict(), folder / "squeezenet1_1-b8a52dc0.pth")
    return Case(
        folder / "squeezenet1_1-b8a52dc0.pth", "torchvision:squeezenet1_1", model, more={"pretrained": True}, side=64
    )


def googlenet(folder: Path) -> Case:
    """Published with second classifiers, which are not built."""
    import torch
    from torchvision import models

    whole = models.googlenet(num_classes=1000, aux_logits=True, transform_input=True, init_weights=False).eval()
    torch.save(whole.state_dict(), folder / "googlenet-1378be20.pth")
    return Case(folder / "googlenet-1378be20.pth", "torchvision:googlenet", whole, more={"pretrained": True}, side=64)


# --- transformers -----------------------------------------------------------------------------------------------------


def vit() -> Any:
    import torch
    import transformers

    torch.manual_seed(5)
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=12, patch_size=4,
        num_labels=CLASSES,
    )  # fmt: skip
    return transformers.ViTForImageClassification(config).eval()


def vit_case(path: Path, model: Any, folder: Path) -> Case:
    import torch

    torch.manual_seed(6)
    other = type(model)(model.config)  # whose weights must not be those that are used
    other.save_pretrained(folder / "base")
    return Case(path, f"hf:{folder / 'base'}", lambda x: model(pixel_values=x).logits)


def trainer(folder: Path) -> Case:
    """A folder that transformers' Trainer wrote, with optimizer and training_args.bin."""
    import torch
    import transformers

    model = vit()
    data = [{"pixel_values": torch.randn(3, 12, 12), "labels": i % CLASSES} for i in range(8)]
    how = transformers.TrainingArguments(
        str(folder / "out"),
        max_steps=2,
        save_steps=2,
        per_device_train_batch_size=4,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
    )
    transformers.Trainer(model, how, train_dataset=data).train()
    assert (folder / "out" / "checkpoint-2" / "training_args.bin").exists()
    return vit_case(folder / "out" / "checkpoint-2", model.eval(), folder)


def sharded(folder: Path) -> Case:
    model = vit()
    model.save_pretrained(folder / "shards", max_shard_size="5KB")
    assert (folder / "shards" / "model.safetensors.index.json").exists()
    return vit_case(folder / "shards", model, folder)


def pytorch_bin(folder: Path) -> Case:
    import torch

    model = vit()
    (folder / "old").mkdir()
    torch.save(model.state_dict(), folder / "old" / "pytorch_model.bin")
    return vit_case(folder / "old", model, folder)


# --- Lightning, accelerate, torch -------------------------------------------------------------------------------------


def lightning(folder: Path) -> Case:
    """A .ckpt of Trainer.fit, with hyper-parameters, a callback and a loss that has a weight."""
    import lightning as pl
    import torch
    from torch.utils.data import DataLoader, TensorDataset

    class Module(pl.LightningModule):
        def __init__(self, words: argparse.Namespace, lr: float) -> None:
            super().__init__()
            self.save_hyperparameters()
            self.model = trained()

        def training_step(self, batch: Any, _: int) -> Any:
            loss = torch.nn.functional.cross_entropy(self.model(batch[0]), batch[1])
            self.log("loss", loss)
            return loss

        def configure_optimizers(self) -> Any:
            return torch.optim.Adam(self.parameters(), 1e-3)

    module = Module(argparse.Namespace(arch="small", path=Path("x")), 1e-3)
    fit = pl.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        callbacks=[pl.pytorch.callbacks.ModelCheckpoint(dirpath=folder / "ck", monitor="loss")],
    )  # fmt: skip
    fit.fit(module, DataLoader(TensorDataset(torch.randn(8, 3, 12, 12), torch.arange(8) % CLASSES), batch_size=4))
    (path,) = (folder / "ck").iterdir()
    return (
        Case(folder / "ck", SMALL, module.model.eval()) if path.suffix == ".ckpt" else Case(path, SMALL, module.model)
    )


def accelerate(folder: Path) -> Case:
    import torch
    from accelerate import Accelerator

    acc = Accelerator(cpu=True)
    model = trained()
    ready, _ = acc.prepare(model, torch.optim.Adam(model.parameters()))
    acc.save_state(str(folder / "state"))
    return Case(folder / "state", SMALL, ready)


def safetensors_model(folder: Path) -> Case:
    from safetensors.torch import save_model

    save_model(trained(), str(folder / "m.safetensors"))
    return Case(folder / "m.safetensors", SMALL, trained())


def compiled(folder: Path) -> Case:
    import torch

    torch.save({"model": torch.compile(torch.nn.DataParallel(trained())).state_dict()}, folder / "c.pt")
    return Case(folder / "c.pt", SMALL, trained())


def averaged(folder: Path) -> Case:
    import torch

    torch.save(torch.optim.swa_utils.AveragedModel(trained(), use_buffers=True).state_dict(), folder / "swa.pt")
    return Case(folder / "swa.pt", SMALL, trained())


def distributed(folder: Path) -> Case:
    import torch.distributed.checkpoint as dcp

    dcp.save({"model": trained().state_dict()}, checkpoint_id=str(folder / "dcp"), no_dist=True)
    return Case(folder / "dcp", SMALL, trained())


def own(folder: Path) -> Case:
    """raysweep's own networks, as an earlier version saved those for gray images."""
    import torch

    model = torchvision_network("squeezenet1_1")
    torch.save({f"body.{k}": v for k, v in model.state_dict().items()}, folder / "x.pt")
    return Case(folder / "x.pt", "torchvision:squeezenet1_1", model, side=32)


LOADED: dict[str, Callable[[Path], Case]] = {
    "timm's CheckpointSaver": lambda folder: timm_saver(folder, False, None),
    "timm's CheckpointSaver with an average": lambda folder: timm_saver(folder, True, "state_dict_ema"),
    "timm's folder for the hub": timm_hub_folder,
    "a file that torchvision publishes": published,
    "GoogLeNet as torchvision publishes it": googlenet,
    "a folder of transformers' Trainer": trainer,
    "shards of transformers": sharded,
    "pytorch_model.bin": pytorch_bin,
    "a .ckpt of Lightning": lightning,
    "a folder of accelerate": accelerate,
    "safetensors' save_model": safetensors_model,
    "torch.compile of DataParallel": compiled,
    "AveragedModel": averaged,
    "raysweep for gray images": own,
}
REFUSED: dict[str, tuple[Callable[[Path], Case], str]] = {
    "torchvision's references with an average": (references, "init_key=model or model.init_key=model_ema"),
    "torch.distributed.checkpoint": (distributed, "dcp_to_torch"),
}


def predicted(case: Case, images: Any) -> Any:
    import torch

    from raysweep.training import initial, models, published

    section = published.completed(ModelSection(name=case.name, init_from=str(case.path), **case.more))
    classes = 1000 if case.more.get("pretrained") else CLASSES
    model = models.build(
        section.name,
        section.options,
        classes,
        3,
        pretrained=published.are_fetched(section),
        trusted=True,
        path=section.path,
    )
    loaded = initial.initialise(model, section)
    assert isinstance(loaded, initial.Loaded)
    assert loaded.head
    with torch.no_grad():
        return model.eval()(images), loaded.text


@pytest.mark.parametrize("name", LOADED)
def test_predictions_are_those_of_the_original_network(name, tmp_path, monkeypatch):
    import torch

    case = LOADED[name](tmp_path)
    x = torch.randn(3, 3, case.side, case.side, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        theirs = case.original(x)
    ours, told = predicted(case, x)
    assert theirs.shape == ours.shape
    assert torch.allclose(theirs, ours, rtol=0, atol=1e-5), told
    assert float(theirs.std()) > 1e-4  # not the same for all


@pytest.mark.parametrize("name", REFUSED)
def test_the_reason_is_said(name, tmp_path):
    make, told = REFUSED[name]
    case = make(tmp_path)
    with pytest.raises(CheckpointError, match=told):
        predicted(case, None)


def test_lightnings_hyper_parameters_are_named_and_not_read(tmp_path):
    import torch

    told = predicted(lightning(tmp_path), torch.zeros(1, 3, 12, 12))[1]
    assert "hyper_parameters (argparse.Namespace)" in told
    assert "(its state_dict, without model. before the names)" in told
    assert "callbacks" in told
