"""Try a network before anything is made, as it will be used: in evaluation and in training, with the sizes of the batches that
there will be, in the memory format, on the device.

A network that does not take PyTorch's channels_last format is used in the ordinary one, and that is said.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.nn.parameter import is_lazy

from raysweep._text import counted, join_names, truncate
from raysweep.errors import ConfigError
from raysweep.training import device as devices
from raysweep.training import guest_errors, outputs, skipped
from raysweep.training.freezing import FINALLY, Freezing

_ONE_IMAGE = "Expected more than 1 value per channel when training"  # torch's batch normalisation


@dataclass(frozen=True)
class Use:
    """How a network will be used."""

    shape: tuple[int, int, int]  # of an image: (height, width, channels)
    num_classes: int
    batches: tuple[int, ...]  # images of a training batch, and of the last one, where it is another number
    channels_last: bool
    device: torch.device
    bf16: bool = False
    ranks: int = 1  # processes that train it together, where it is code of the user
    sync_batchnorm: bool = False
    remedy: str = ""  # what helps where the last batch has a single image, as a sentence


@dataclass(frozen=True)
class Found:
    """What trying has shown."""

    channels_last: bool  # the format to use
    auxiliaries: int  # heads that are trained besides the one that predicts
    notes: tuple[str, ...]  # what is to be said


def as_used(model: nn.Module, use: Use, freezing: Freezing | None = None) -> Found:
    """Pass images forward and backward. Weights and buffers of the network are afterwards as they were.

    Args:
        freezing: what is trained, where that is not all that can be.

    Raises:
        ConfigError: it fails, its output does not have the shape (n, num_classes), or nothing in it can be trained.
    """
    frozen = [p.numel() for p in model.parameters() if not p.requires_grad]
    if len(frozen) == len(list(model.parameters())):
        raise ConfigError(
            "Nothing in the model can be trained: "
            + ("all its parameters are frozen (requires_grad is False)" if frozen else "it has no parameters")
            + ". Let model.name name a network of which at least the last layer is trained."
        )
    notes = [f"{sum(frozen):,} of its parameters are frozen and stay as they are"] if frozen else []
    try:
        found = _passed(model, use, freezing)
    except ConfigError as error:
        if not use.channels_last or error.__cause__ is None:
            raise
        found = _passed(
            model, replace(use, channels_last=False), freezing
        )  # where that fails, too, its error is the one to tell
        why = truncate(str(error.__cause__).strip().partition("\n")[0], 160)
        notes.append(
            f"it does not take the memory format channels_last ({why}), so training.channels_last is false: images and weights have "
            "PyTorch's ordinary format"
        )
    return replace(found, notes=(*notes, *found.notes))


def _passed(model: nn.Module, use: Use, freezing: Freezing | None) -> Found:
    height, width, channels = use.shape
    generator = torch.Generator().manual_seed(1)
    biggest = max(use.batches)
    x = torch.randn(biggest, channels, height, width, generator=generator).to(use.device)
    x = arranged(x, use.channels_last)
    model.to(use.device)
    model.to(memory_format=torch.channels_last if use.channels_last else torch.contiguous_format)
    with _as_it_was(model), devices.autocast(use.device, use.bf16):
        model.eval()
        with torch.no_grad():
            shown = [_called(model, x[:n], use) for n in sorted({1, min(2, biggest), biggest})]
        model.train()
        if freezing is not None and freezing.frozen(FINALLY):  # else all of it is trained at some time
            freezing.apply(model, FINALLY)
            freezing.train(model, FINALLY)
        trained = [_trained(model, x[:n], use) for n in use.batches]
        if use.ranks > 1:
            skipped.check(_passes(model, x[:2], use), use.sync_batchnorm)
    auxiliaries = outputs.parts(trained[0])[1]
    notes = [_of_softmax(outputs.parts(trained[0])[0], shown[-1])]
    if others := outputs.left_out(model):
        notes.append(
            f"its auxiliary heads {join_names(others)} do not have {use.num_classes} outputs, so their loss is left out; let the network "
            "take the number of classes to train them"
        )
    return Found(use.channels_last, len(auxiliaries), tuple(text for text in notes if text))


def arranged(x: torch.Tensor, channels_last: bool) -> torch.Tensor:
    """Images (n, C, H, W) in a memory format. Of gray images torch takes any strides for both formats, so they are set here: the
    layers choose the format of what they return by the strides of what they get."""
    if channels_last:
        return x.contiguous(memory_format=torch.channels_last)
    return x.contiguous().reshape(-1).view(x.shape)


@contextlib.contextmanager
def _as_it_was(model: nn.Module) -> Iterator[None]:
    """In this context running statistics and gradients may change; afterwards they are as before."""
    was_training = model.training
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    try:
        yield
    finally:
        model.train(was_training)
        model.zero_grad(set_to_none=True)
        with torch.no_grad():
            for name, buffer in model.named_buffers():
                if name in before and before[name].shape == buffer.shape:
                    buffer.copy_(before[name])


def _called(model: nn.Module, x: torch.Tensor, use: Use) -> torch.Tensor:
    """What the network returns for images, in evaluation."""
    out = _guarded(lambda: model(x), lambda said: _cannot_take(x, said))
    _check(out, len(x), use.num_classes)
    return torch.as_tensor(out).float()


def _trained(model: nn.Module, x: torch.Tensor, use: Use) -> Any:
    """What the network returns for a training batch, after a pass back."""
    images = counted(len(x), "image")

    def passes() -> Any:
        out = model(x)
        logits, auxiliaries = outputs.parts(out)
        _check(logits, len(x), use.num_classes)
        labels = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        loss = sum(functional.cross_entropy(part.float(), labels) for part in (logits, *auxiliaries))
        torch.autograd.backward([torch.as_tensor(loss)])
        return out

    def told(said: str) -> str:
        if _ONE_IMAGE in said and len(x) == 1:
            return (
                "The last batch of an epoch has 1 image, and the model's batch normalisation cannot train on a single one. "
                f"{use.remedy}"
            )
        return (
            f"The model fails in training mode, with a batch of {images} ({truncate(said)}). Correct it, or choose another "
            "model.name, data.image_size or training.batch_size."
        )

    return _guarded(passes, told)


def _passes(model: nn.Module, x: torch.Tensor, use: Use) -> list[skipped.Passed]:
    def backward() -> Any:
        model.zero_grad(set_to_none=True)
        return _trained(model, x, use)

    return [skipped.passed(model, backward) for _ in range(skipped.count(model, use.sync_batchnorm))]


def _guarded(work: Callable[[], Any], told: Callable[[str], str]) -> Any:
    """What ``work`` returns; an error of it as one of ours, with the place in the user's code."""
    try:
        return work()
    except ConfigError:
        raise
    except (Exception, SystemExit) as error:
        place = guest_errors.where(error)
        said = truncate(guest_errors.said(error).partition("\n")[0])
        raise ConfigError(told(said) + (f" It failed in your code: {place}." if place else "")) from error


def _cannot_take(x: torch.Tensor, said: str) -> str:
    _, channels, height, width = x.shape
    many = f" in a batch of {len(x)}" if len(x) > 1 else ""
    return (
        f"The model cannot take images of {height}×{width} with {counted(channels, 'channel')}{many} ({said}). Choose another "
        "model.name or data.image_size."
    )


def _check(out: Any, images: int, num_classes: int) -> None:
    """Raises ConfigError if an output does not have the shape (images, num_classes)."""
    if isinstance(out, torch.Tensor) and tuple(out.shape) == (images, num_classes):
        return
    found = tuple(out.shape) if isinstance(out, torch.Tensor) else type(out).__name__
    raise ConfigError(
        f"The model returns {found} for {'one image' if images == 1 else f'{images} images'}; logits of shape ({images}, "
        f"{num_classes}) are needed. Let model.name and model.options build a classifier of that many classes."
    )


def try_out(model: nn.Module, shape: tuple[int, int, int], num_classes: int) -> None:
    """Pass one image through the network in evaluation, so that one that does not fit the data is found.

    Args:
        shape: of an image, (height, width, channels).

    Raises:
        ConfigError: the network fails, or its output does not have the shape (1, num_classes).
    """
    height, width, channels = shape
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            use = Use(shape, num_classes, (1,), False, torch.device("cpu"))
            _called(model, torch.zeros(1, channels, height, width), use)
    finally:
        model.train(was_training)


def _of_softmax(trained: torch.Tensor, shown: torch.Tensor) -> str | None:
    """What is to be said of a network that returns probabilities where logits are needed; None where it returns logits."""
    remedy = "let it return what goes into the softmax; predict and export compute the probabilities"
    if _probabilities(trained):
        return (
            "its outputs are probabilities, as of a last layer Softmax. The loss takes the softmax of them again, so it trains "
            f"slowly and badly: {remedy}"
        )
    if _probabilities(trained.exp()):
        return (
            "its outputs are logarithms of probabilities, as of a last layer LogSoftmax. That changes nothing, because the loss "
            "takes them for logits that sum to 1, and it can be removed"
        )
    if _probabilities(shown):
        return (
            "in evaluation its outputs are probabilities, as of a Softmax, and the softmax of them is taken again: what it predicts "
            f"stays, but probabilities and val_loss are wrong. Instead {remedy}"
        )
    return None


def _probabilities(values: torch.Tensor) -> bool:
    v = values.detach().float()
    sums_to_one = torch.allclose(
        v.sum(1), torch.ones(len(v), device=v.device), atol=1e-2 if v.dtype != values.dtype else 1e-4
    )
    return v.shape[1] > 1 and bool((v >= 0).all()) and sums_to_one


def materialise(model: nn.Module, shape: Sequence[int]) -> None:
    """Give lazy layers their shapes by a batch, before anything reads the parameters; a network without any stays as it is.

    Args:
        shape: of an image, (channels, height, width).

    Raises:
        ConfigError: the network fails, or does not use some of them.
    """
    if not _lazy(model):
        return
    was_training = model.training
    x = torch.zeros(2, *shape)
    for training in (False, True):  # auxiliary heads are called in training only
        if _lazy(model):
            model.train(training)
            with torch.no_grad():
                _guarded(lambda: model(x), lambda said: _cannot_take(x, said))
    model.train(was_training)
    if left := _lazy(model):
        raise ConfigError(
            f"Lazy layers of the model were not used when it was tried, so they have no shape: {join_names(left)}. Remove them, or "
            "give them their sizes."
        )


def _lazy(model: nn.Module) -> list[str]:
    return [name for name, p in (*model.named_parameters(), *model.named_buffers()) if is_lazy(p)]
