"""A loss of the user: ``loss.kind=python:MODULE:NAME``.

NAME is a function, a class, or an ``nn.Module``. It is called with logits, float32 (n, classes), targets, int64 (n,), and under
these names, if it takes them:

- ``class_counts``: int64 (classes,), the images of each class that may be drawn
- ``epoch``: counted from 1, with the parent's epochs
- ``sample_weights``: float32 (n,), the weight of each image by ``loss.weights``; 1 where there are none
- ``soft_targets``: float32 (n, classes), the part of each class in each image. Where images are mixed (mixup, cutmix), a loss has to
  take them; ``targets`` are then the classes of the larger parts

It returns the loss of each image, (n,), or their mean, a single number. A class is called once per training, with
``class_counts`` and ``num_classes`` if it takes them, and what it returns is the loss. Buffers of an ``nn.Module`` are part of
the checkpoint; parameters are refused, because no optimizer would train them.
"""

from __future__ import annotations

import copy
import hashlib
import inspect
import pickle
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from raysweep.config.treatment import LossSection
from raysweep.errors import CheckpointError
from raysweep.store.checkpoint_format import State
from raysweep.training import losses, own
from raysweep.training.own import Own
from raysweep.training.world import World

OPTION = "loss.kind"
_AT_CALL = ("class_counts", "epoch", "sample_weights", "soft_targets")
_AT_BUILD = ("class_counts", "num_classes")


class OwnLoss:
    """The loss of a whole training; :meth:`of_epoch` gives that of an epoch."""

    def __init__(self, code: Own, section: LossSection, counts: Mapping[str, int], device: torch.device) -> None:
        self.code, self.section, self.device = code, section, device
        self.counts = torch.tensor([*counts.values()], dtype=torch.int64, device=device)
        self.function = self._built()
        self.wanted = own.takes(self.function, *_AT_CALL)
        if section.weighted and "sample_weights" not in self.wanted:
            raise code.wrong(
                "does not take sample_weights, so loss.weights would have no effect. Take them, or remove loss.weights."
            )
        self._fixed = self._outside()

    def _built(self) -> Callable[..., Any]:
        found: Any = self.code.found
        if inspect.isclass(found):
            known = {"class_counts": self.counts, "num_classes": len(self.counts)}
            found = found(**{name: known[name] for name in own.takes(found, *_AT_BUILD)})
        elif isinstance(found, nn.Module):
            found = copy.deepcopy(found)  # the module's own would keep what one training leaves in it
        if not callable(found):
            raise self.code.wrong("cannot be called. Name a function, a class or an nn.Module that gives the loss.")
        if isinstance(found, nn.Module):
            if any(p.requires_grad for p in found.parameters()):
                raise self.code.wrong(
                    "has parameters, which no optimizer would train. Register them as buffers, or put them into the network."
                )
            found = found.to(self.device).train()
        built: Callable[..., Any] = found
        return built

    def of_epoch(self, shares: Mapping[str, float], counts: Mapping[str, int], epoch: int) -> losses.Function:
        """The loss of an epoch, summed over the images of a batch."""
        weights: torch.Tensor | None = None
        deferred = self.section.from_epoch is not None and epoch < self.section.from_epoch
        if self.section.weighted and not deferred:
            numbers = losses.class_weights(self.section, shares, counts)
            weights = torch.tensor(numbers, dtype=torch.float64).float().to(self.device)

        def loss(logits: torch.Tensor, y: torch.Tensor, mixed: losses.Mixed | None = None) -> torch.Tensor:
            given: State = {"class_counts": self.counts, "epoch": epoch}
            if "soft_targets" in self.wanted:
                given["soft_targets"] = losses.soft_targets(y, mixed, logits.shape[1])
            if "sample_weights" in self.wanted:
                given["sample_weights"] = _of_each(weights, y, mixed)
            return self._summed(self.function(logits, y, **{n: given[n] for n in self.wanted}), len(y))

        return loss

    def _summed(self, value: Any, n: int) -> torch.Tensor:
        if isinstance(value, torch.Tensor) and tuple(value.shape) in ((), (1,), (n,)) and value.is_floating_point():
            return value.float().sum() if tuple(value.shape) == (n,) else value.float().reshape(()) * n
        what = (
            f"a tensor of {value.dtype} and shape {tuple(value.shape)}"
            if isinstance(value, torch.Tensor)
            else type(value).__name__
        )
        raise self.code.wrong(
            f"returned {what} for {n} images. Return the loss of each image, ({n},), or their mean, one number."
        )

    # --- what it keeps ------------------------------------------------------------------------------------------------

    def state(self) -> State:
        """Its ``state_dict`` now, copied to the CPU; empty where it has none."""
        found = self.function.state_dict() if hasattr(self.function, "state_dict") else {}
        return {
            k: v.detach().cpu().clone() if isinstance(v, torch.Tensor) else copy.deepcopy(v) for k, v in found.items()
        }

    def restore(self, saved: Sequence[Mapping[str, Any]], rank: int) -> None:
        """Load what :meth:`state` returned on this rank, or on the first one where this one did not exist.

        Raises:
            CheckpointError: it does not fit.
        """
        mine = saved[rank] if rank < len(saved) else saved[0] if saved else {}
        if not mine:
            return
        try:
            self.function.load_state_dict(dict(mine))  # type: ignore[attr-defined]
        except Exception as error:
            raise CheckpointError(
                f"What python:{self.code.target} had kept does not fit it any more ({error}). Restore its code (the experiment's "
                "folder code/ has it), or begin from another checkpoint."
            ) from None

    def keeps_more(self) -> bool:
        """Whether it has changed attributes that are not in its ``state_dict``, so that no checkpoint holds them."""
        return self._outside() != self._fixed

    def _outside(self) -> str | None:
        """A hash of the attributes that :meth:`state` does not hold; None where there are none, or they cannot be pickled."""
        f = self.function
        if isinstance(f, nn.Module):
            parts = [{k: v for k, v in vars(m).items() if k[:1] != "_" and k != "training"} for m in f.modules()]
        elif inspect.isroutine(f) or hasattr(f, "state_dict"):
            return None
        else:
            parts = [getattr(f, "__dict__", {})]
        try:
            return hashlib.sha256(pickle.dumps(parts)).hexdigest()
        except Exception:  # whatever they keep there
            return None


def _of_each(weights: torch.Tensor | None, y: torch.Tensor, mixed: losses.Mixed | None) -> torch.Tensor:
    """The weight of each image, float32 (n,); of a mixed one in proportion."""
    if weights is None:
        return torch.ones_like(y, dtype=torch.float32)
    return weights[y] if mixed is None else weights[y] * mixed.share + weights[mixed.other] * (1 - mixed.share)


def ready(
    code: Own | None, section: LossSection, counts: Mapping[str, int], world: World, saved: Mapping[str, Any] | None
) -> tuple[OwnLoss | None, list[str]]:
    """(the user's loss, if there is one, with what it had kept in a checkpoint; why the bits may differ)."""
    if code is None:
        return None, []
    loss = OwnLoss(code, section, counts, world.device)
    found = ((saved or {}).get("own_state") or {}).get(OPTION)
    if found is None or found["target"] != code.target:
        return loss, []
    loss.restore(found["ranks"], world.rank)
    return loss, [f"python:{code.target} had changed attributes that the checkpoint does not hold"] * bool(
        found.get("more")
    )


def tried(code: Own, section: LossSection, counts: Mapping[str, int], mixes: bool = False) -> list[str]:
    """Build the loss and call it with a few made-up logits; returns what is to be said of it.

    Args:
        mixes: whether images are mixed, so that targets are soft.

    Raises:
        ConfigError: it fails, or returns no loss that can be made smaller.
    """
    with code.tried():
        loss = OwnLoss(code, section, counts, torch.device("cpu"))
        if mixes and "soft_targets" not in loss.wanted:
            raise code.wrong(
                "does not take soft_targets, float32 (n, classes), which training.augment.mixup and cutmix make: it would learn from one of "
                "the two classes of a mixed image. Take them, or remove mixup and cutmix."
            )
        logits = torch.randn(2 * len(counts), len(counts), requires_grad=True)
        y = torch.arange(2 * len(counts)) % len(counts)
        shares = dict.fromkeys(counts, 1 / len(counts))
        mixed = losses.Mixed(y.flip(0), torch.full((len(y),), 0.75)) if mixes else None
        value = loss.of_epoch(shares, counts, 1)(logits, y, mixed)
        if not value.requires_grad:
            raise code.wrong(
                "returned a number that does not depend on the logits. Compute it from them, without .item() or .detach()."
            )
        torch.autograd.backward(value)
    more = loss.keeps_more()
    return [_outside(code)] if more else []


def _outside(code: Own) -> str:
    return (
        f"not bit-exact once it is interrupted: python:{code.target} ({code.option}) changes attributes that no checkpoint holds. Let "
        "it be an nn.Module and register them as buffers"
    )


def kept(loss: OwnLoss, gather: Callable[[Any], list[Any]]) -> State:
    """What a checkpoint holds of the loss; empty where it keeps nothing. Collective."""
    ranks = gather((loss.state(), loss.keeps_more()))
    if not any(state or more for state, more in ranks):
        return {}
    return {OPTION: {"target": loss.code.target, "ranks": [s for s, _ in ranks], "more": any(m for _, m in ranks)}}
