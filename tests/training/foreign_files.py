"""Files of weights as other people's programs write them, of a tiny network. ``SHAPES`` has those that torch itself can write."""

from __future__ import annotations

import argparse
import pathlib
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch
    from torch import nn

CLASSES = 4
Write = Callable[[Path], Path]  # gets a folder, gives what model.init_from names
SHAPES: dict[str, Write] = {}
REFUSED: dict[str, tuple[Write, str]] = {}  # with what the message says


def loads(name: str) -> Callable[[Write], Write]:
    def keep(write: Write) -> Write:
        SHAPES[name] = write
        return write

    return keep


def refused(name: str, told: str) -> Callable[[Write], Write]:
    def keep(write: Write) -> Write:
        REFUSED[name] = write, told
        return write

    return keep


def small(num_classes: int, channels: int) -> nn.Module:
    """What the files are of: convolution, batch normalisation, Linear, with names of their own."""
    from collections import OrderedDict

    from torch import nn

    body = [
        ("conv1", nn.Conv2d(channels, 4, 3)),
        ("bn1", nn.BatchNorm2d(4)),
        ("act", nn.ReLU()),
        ("pool", nn.AdaptiveAvgPool2d(2)),
    ]
    return nn.Sequential(OrderedDict([*body, ("flat", nn.Flatten()), ("fc", nn.Linear(16, num_classes))]))


def trained(seed: int = 0, channels: int = 3) -> nn.Module:
    """Such a network with weights and statistics of its own."""
    import torch

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = small(CLASSES, channels)
        model.train()(torch.randn(8, channels, 12, 12) * 3 + 1)
    return model.eval()


def under(prefix: str, model: nn.Module) -> dict[str, torch.Tensor]:
    return {f"{prefix}{k}": v for k, v in model.state_dict().items()}


def stepped(model: nn.Module) -> torch.optim.Optimizer:
    import torch

    optimizer = torch.optim.SGD(model.parameters(), lr=0.0, momentum=0.9)
    model(torch.randn(2, 3, 12, 12)).sum().backward()
    optimizer.step()
    return optimizer


def saved(path: Path, content: Any, **how: Any) -> Path:
    import torch

    torch.save(content, path, **how)
    return path


@loads("pytorch-cifar100: a state_dict")
def bare(folder: Path) -> Path:
    return saved(folder / "resnet18-200-best.pth", trained().state_dict())


@loads("pytorch-cifar: net, acc and epoch of DataParallel")
def pytorch_cifar(folder: Path) -> Path:
    return saved(folder / "ckpt.pth", {"net": under("module.", trained()), "acc": 95.47, "epoch": 199})


@loads("LDAM-DRW: arch, state_dict, optimizer")
def ldam(folder: Path) -> Path:
    import torch

    model = trained()
    content = {"epoch": 200, "arch": "resnet32", "state_dict": under("module.", model), "best_acc1": torch.tensor(77.0)}
    return saved(folder / "ckpt.best.pth.tar", {**content, "optimizer": stepped(model).state_dict()})


@loads("BagofTricks-LT: a network within a network, with its scheduler")
def bag_of_tricks(folder: Path) -> Path:
    model = trained()
    state = {
        k.replace("module.", "module.backbone.") if "fc" not in k else k: v for k, v in under("module.", model).items()
    }
    optimizer = stepped(model)
    content = {"state_dict": state, "epoch": 9, "best_result": np.float64(0.81), "best_epoch": np.int64(7)}
    return saved(
        folder / "best_model.pth", {**content, "scheduler": {"last_epoch": 9}, "optimizer": optimizer.state_dict()}
    )


@loads("a FER repository: the format before torch 1.6, batch normalisation before 0.4.1")
def fer(folder: Path) -> Path:
    import torch

    state = {k: v for k, v in trained().state_dict().items() if "num_batches" not in k}
    content = {"net": state, "best_PublicTest_acc": torch.tensor(71), "best_PrivateTest_acc_epoch": 210}
    return saved(folder / "PrivateTest_model.t7", content, _use_new_zipfile_serialization=False)


@loads("a FER repository with lists of NumPy numbers")
def fer_lists(folder: Path) -> Path:
    model = trained()
    losses = [np.float32(0.5), np.float64(0.25)]
    content = {
        "net": model.state_dict(),
        "best_val_acc": np.float64(73.1),
        "train_loss_list": losses,
        "array": np.zeros(3),
    }
    return saved(folder / "rmn", {**content, "optimizer": stepped(model).state_dict()})


@loads("airbench: compiled, in half precision")
def airbench(folder: Path) -> Path:
    return saved(
        folder / "state.pt",
        {k: v.half() if v.is_floating_point() else v for k, v in under("_orig_mod.", trained()).items()},
    )


@loads("args and a path beside the weights, pickle protocol 4")
def namespace(folder: Path) -> Path:
    words = argparse.Namespace(lr=0.1, out=pathlib.PurePosixPath("out"), device="cuda")
    return saved(folder / "model.pth", {"model_state_dict": trained().state_dict(), "args": words}, pickle_protocol=4)


@loads("Ignite: model, optimizer, trainer")
def ignite(folder: Path) -> Path:
    model = trained()
    content = {"model": model.state_dict(), "optimizer": stepped(model).state_dict(), "trainer": {"iteration": 5}}
    return saved(folder / "checkpoint_5.pt", content)


@loads("DeepSpeed: module, with shapes beside it")
def deepspeed(folder: Path) -> Path:
    import torch

    content = {
        "module": trained().state_dict(),
        "param_shapes": [{"fc.weight": torch.Size([4, 16])}],
        "ds_version": "0.15",
    }
    return saved(folder / "mp_rank_00_model_states.pt", content)


@loads("torch's AveragedModel of DataParallel")
def averaged(folder: Path) -> Path:
    import torch

    return saved(folder / "swa.pt", {"n_averaged": torch.tensor(5), **under("module.module.", trained())})


@loads("the whole network as a Python object")
def whole(folder: Path) -> Path:
    from torch import nn

    return saved(folder / "whole.pt", nn.DataParallel(trained()))


@loads("the whole network beside its optimizer, as objects")
def whole_in_dict(folder: Path) -> Path:
    model = trained()
    return saved(folder / "whole.pt", {"model": model, "optimizer": stepped(model), "fn": np.mean})


@loads("two names for the same numbers")
def twice(folder: Path) -> Path:
    state = trained().state_dict()
    return saved(folder / "twice.pt", {"model": state, "ema": {k: v.clone() for k, v in state.items()}})


@loads("another network of another shape beside it")
def other_beside(folder: Path) -> Path:
    from torch import nn

    return saved(folder / "two.pt", {"net": trained().state_dict(), "critic": nn.Linear(3, 1).state_dict()})


@loads("safetensors, under a prefix")
def safetensors(folder: Path) -> Path:
    from safetensors.torch import save_file

    save_file(under("model.", trained()), folder / "model.safetensors")
    return folder / "model.safetensors"


@loads("a folder of two safetensors and an index")
def shards(folder: Path) -> Path:
    import json

    from safetensors.torch import save_file

    state = trained().state_dict()
    names = {k: f"model-0000{1 + ('fc' in k)}-of-00002.safetensors" for k in state}
    for file in {*names.values()}:
        save_file({k: v for k, v in state.items() if names[k] == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": names}))
    return folder


@loads("accelerate's folder: weights, optimizer, random states")
def accelerate(folder: Path) -> Path:
    from safetensors.torch import save_file

    save_file(trained().state_dict(), folder / "model.safetensors")
    saved(folder / "optimizer.bin", {"state": {}})
    (folder / "random_states_0.pkl").write_bytes(pickle.dumps({"step": 1}))
    return folder


# --- refused ----------------------------------------------------------------------------------------------------------


@refused(
    "classifier-balancing: two halves of a network",
    r"fit in part.*feat_model \(7 of 9.*classifier \(2 of 9.*init_key=state_dict_best",
)
def classifier_balancing(folder: Path) -> Path:
    state = under("module.", trained())
    halves = {
        "feat_model": {k: v for k, v in state.items() if "fc" not in k},
        "classifier": {k: v for k, v in state.items() if "fc" in k},
    }
    content = {"epoch": 90, "best_epoch": 80, "state_dict_best": halves, "best_acc": 0.4, "centroids": None}
    return saved(folder / "final_model_checkpoint.pth", content)


@refused(
    "torchvision's references: a network and its average",
    r"several networks that fit.*init_key=model or model\.init_key=model_ema",
)
def references(folder: Path) -> Path:
    import torch

    model = trained()
    ema = {"n_averaged": torch.tensor(3), **under("module.", trained(1))}
    content = {"model": model.state_dict(), "optimizer": stepped(model).state_dict(), "epoch": 3, "model_ema": ema}
    return saved(folder / "model_3.pth", {**content, "args": argparse.Namespace(model="resnet18")})


@refused("DINO: student and teacher", r"several networks that fit.*init_key=student or model\.init_key=teacher")
def dino(folder: Path) -> Path:
    return saved(
        folder / "c.pth", {"student": under("module.backbone.", trained()), "teacher": under("backbone.", trained(1))}
    )


@refused("two networks in one state_dict", r"by the beginnings.*model\.init_key=model or model\.init_key=net")
def interleaved(folder: Path) -> Path:
    return saved(folder / "c.pth", {**under("net.", trained()), **under("model.", trained(1))})


@refused(
    "MoCo: names that begin otherwise",
    r"All fit under .*init_key=state_dict\.module\.encoder_k or .*init_key=state_dict\.module\.encoder_q",
)
def moco(folder: Path) -> Path:
    import torch

    state = {
        **under("module.encoder_q.", trained()),
        **under("module.encoder_k.", trained(1)),
        "module.queue": torch.zeros(2, 2),
    }
    return saved(folder / "checkpoint_0199.pth.tar", {"epoch": 200, "arch": "resnet50", "state_dict": state})


@refused("another network", r"8 missing.*unexpected.*was written for resnet32.*init_strict=false")
def another(folder: Path) -> Path:
    from torch import nn

    return saved(folder / "c.pth", {"arch": "resnet32", "state_dict": nn.LSTM(2, 2).state_dict()})


@refused("airbench's log: code and accuracies", "8 missing.*1 unexpected: accs")
def log(folder: Path) -> Path:
    import torch

    return saved(folder / "log.pt", {"code": "import torch", "accs": torch.tensor([0.94, 0.95])})


@refused("TorchScript", "TorchScript.*state_dict")
def script(folder: Path) -> Path:
    import torch

    torch.jit.save(torch.jit.trace(trained(), torch.zeros(1, 3, 12, 12)), folder / "script.pt")
    return folder / "script.pt"


@refused("a pickle that torch did not write", "not written by torch")
def plain_pickle(folder: Path) -> Path:
    (folder / "c.pkl").write_bytes(pickle.dumps({"conv1.weight": [1.0]}))
    return folder / "c.pkl"


@refused("only objects", r"no tensors of a network.*not run.*args \(argparse\.Namespace\)")
def objects(folder: Path) -> Path:
    return saved(folder / "training_args.bin", {"args": argparse.Namespace(a=1)})


@refused("a pointer of Git LFS", "git lfs pull")
def pointer(folder: Path) -> Path:
    (folder / "c.pth").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    return folder / "c.pth"


@refused("a web page", "web page")
def page(folder: Path) -> Path:
    (folder / "c.pth").write_text("<!DOCTYPE html><html>too large to scan for viruses</html>")
    return folder / "c.pth"


@refused("a folder of several", "Name the one that you mean")
def several(folder: Path) -> Path:
    bare(folder)
    saved(folder / "last.pth", {})
    return folder


@refused("a folder without weights", "no weights in the folder")
def empty(folder: Path) -> Path:
    return folder
