"""Checkpoints as twelve public repositories save them: each is loaded, or refused with the reason and loaded once that is settled.

Containers, keys, prefixes and what lies beside the weights are theirs, in imitations of a tiny network (``foreign_files``).
"""

from __future__ import annotations

import argparse
import collections
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raysweep.errors import InputError
from tests.training import foreign_files
from tests.training.foreign_files import CLASSES, saved, small, stepped, trained, under

Words = dict[str, Any]  # of the section model


@dataclass(frozen=True)
class File:
    """A checkpoint, and what becomes of it."""

    write: Callable[[Path], Path]
    refused: str | None = None  # what the reason says, as a pattern; None where it loads
    settled: Words = field(default_factory=dict)  # with these words it loads


def halves(folder: Path, *, latest: bool) -> Path:
    """classifier-balancing: the body and the classifier as two networks, at the end of an epoch and at the end of training."""
    state = under("module.", trained())
    parts = {
        "feat_model": {k: v for k, v in state.items() if "fc" not in k},
        "classifier": {k: v for k, v in state.items() if "fc" in k},
    }
    if latest:
        return saved(folder / "latest_model_checkpoint.pth", {"epoch": 3, "state_dict": parts})
    return foreign_files.classifier_balancing(folder)


def fer_public(folder: Path, *, on_cpu: bool) -> Path:
    """Facial-Expression-Recognition.Pytorch: with CUDA the tensors, without it the whole network as an object."""
    import torch

    net = trained() if on_cpu else trained().state_dict()
    content = {"net": net, "acc": torch.tensor(71.5), "epoch": 211}
    return saved(folder / "PublicTest_model.t7", content, _use_new_zipfile_serialization=False)


def fer_logs(folder: Path) -> Path:
    """usef-kh/fer: ``params`` beside the curves."""
    logs = collections.defaultdict(list, loss_train=[np.float64(1.5)], acc_val=[71.2, 73.3])
    return saved(folder / "epoch_300", {"logs": logs, "params": trained().state_dict()})


def airbench_state(folder: Path) -> Path:
    """airbench trains in half precision, partly compiled."""
    return foreign_files.airbench(folder)


def timm_saver(folder: Path, *, ema: bool) -> Path:
    model = trained()
    words = argparse.Namespace(model="resnet18", opt="sgd", lr=0.1)
    content = {
        "epoch": 3,
        "arch": "resnet18",
        "state_dict": model.state_dict(),
        "optimizer": stepped(model).state_dict(),
    }
    content |= {"version": 2, "args": words, "amp_scaler": {"scale": 65536.0}, "metric": 71.3}
    content |= {"state_dict_ema": trained(1).state_dict()} if ema else {}
    return saved(folder / "model_best.pth.tar", content)


def deit(folder: Path) -> Path:
    model = trained()
    content = {
        "model": model.state_dict(),
        "optimizer": stepped(model).state_dict(),
        "lr_scheduler": {"t_initial": 300},
        "epoch": 9,
    }
    more = {"model_ema": trained(1).state_dict(), "scaler": {"scale": 65536.0}, "args": argparse.Namespace(lr=5e-4)}
    return saved(folder / "checkpoint.pth", {**content, **more})


def vision(folder: Path, *, ema: bool) -> Path:
    if ema:
        return foreign_files.references(folder)
    model = trained()
    content = {
        "model": model.state_dict(),
        "optimizer": stepped(model).state_dict(),
        "lr_scheduler": {"last_epoch": 3},
        "epoch": 3,
    }
    return saved(folder / "checkpoint.pth", {**content, "args": argparse.Namespace(model="resnet18", lr=0.1)})


def notebook(folder: Path) -> Path:
    """imbalanced-dataset-sampler saves nothing: its notebooks keep the network in memory, so what torch's manual says is taken."""
    return foreign_files.bare(folder)


ALL = 1e-5
HALF = 1e-2  # of what was written in half precision
TWO = r"several networks that fit.*init_key="
PARTS = r"fit in part.*feat_model \(7 of 9.*classifier \(2 of 9"
REPOSITORIES: dict[str, tuple[File, ...]] = {
    "kuangliu/pytorch-cifar": (File(foreign_files.pytorch_cifar),),
    "weiaicunzai/pytorch-cifar100": (File(foreign_files.bare),),
    "WuJie1010/Facial-Expression-Recognition.Pytorch": (
        File(foreign_files.fer),
        File(lambda folder: fer_public(folder, on_cpu=False)),
        File(lambda folder: fer_public(folder, on_cpu=True)),
    ),
    "usef-kh/fer": (File(fer_logs),),
    "kaidic/LDAM-DRW": (File(foreign_files.ldam),),
    "zhangyongshun/BagofTricks-LT": (File(foreign_files.bag_of_tricks),),
    "facebookresearch/classifier-balancing": (
        File(lambda folder: halves(folder, latest=False), PARTS, {"init_key": "state_dict_best.feat_model", "init_strict": False}),
        File(lambda folder: halves(folder, latest=True), PARTS, {"init_key": "state_dict.feat_model", "init_strict": False}),
    ),
    "KellerJordan/cifar10-airbench": (
        File(airbench_state),
        File(foreign_files.log, "8 missing.*1 unexpected: accs"),
    ),
    "ufoym/imbalanced-dataset-sampler": (File(notebook),),
    "huggingface/pytorch-image-models": (
        File(lambda folder: timm_saver(folder, ema=False)),
        File(lambda folder: timm_saver(folder, ema=True), TWO, {"init_key": "state_dict"}),
    ),
    "facebookresearch/deit": (File(deit, TWO, {"init_key": "model"}),),
    "pytorch/vision": (
        File(lambda folder: vision(folder, ema=False)),
        File(lambda folder: vision(folder, ema=True), TWO, {"init_key": "model"}),
    ),
}  # fmt: skip


def loaded(path: Path, words: Words) -> tuple[Any, str]:
    """(the network, what is printed)."""
    from raysweep.config.settings import ModelSection
    from raysweep.training import initial

    model = small(CLASSES, 3)
    found = initial.initialise(model, ModelSection(name="cnn", init_from=str(path), **words))
    assert isinstance(found, initial.Loaded)
    return model.eval(), found.text


def test_there_are_twelve():
    assert len(REPOSITORIES) == 12


@pytest.mark.parametrize("name", REPOSITORIES)
def test_its_checkpoints_are_loaded_or_refused_with_the_reason(name, tmp_path):
    import torch

    x = torch.randn(5, 3, 12, 12, generator=torch.Generator().manual_seed(1))
    for number, file in enumerate(REPOSITORIES[name]):
        folder = tmp_path / str(number)
        folder.mkdir()
        path = file.write(folder)
        if file.refused is not None:
            with pytest.raises(InputError) as caught:
                loaded(path, {})
            assert re.search(file.refused, str(caught.value)), caught.value
            assert "\n" not in str(caught.value)
            if not file.settled:
                continue
        model, told = loaded(path, file.settled)
        original = trained()
        if "feat_model" in str(file.settled):  # only the body was asked for
            original.fc.load_state_dict(model.fc.state_dict())
        with torch.no_grad():
            difference = float((original(x) - model(x)).abs().max())
        assert difference <= (HALF if "converted from float16" in told else ALL), told


def test_the_page_has_a_row_for_each():
    page = (Path(__file__).parents[2] / "docs" / "others_weights.md").read_text()
    rows = [line for line in page.splitlines() if line.startswith("|")]
    assert all(any(f"`{name}`" in row for row in rows) for name in REPOSITORIES)
