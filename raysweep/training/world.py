"""The ranks that train together. With one rank there is no process group, no DDP, and no waiting for others."""

from __future__ import annotations

import contextlib
import copy
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from raysweep._text import join_names
from raysweep.errors import ConfigError
from raysweep.training import outputs, skipped


class World:
    """Rank, number of ranks, and the few collectives that training needs.

    Every rank must make the same calls in the same order.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.rank = dist.get_rank() if dist.is_initialized() else 0
        self.size = dist.get_world_size() if dist.is_initialized() else 1

    def gather(self, value: Any) -> list[Any]:
        """The values of all ranks, in the order of the ranks. Every rank gets them."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def highest(self, values: list[float]) -> list[float]:
        """The maximum over the ranks, element by element."""
        if self.size == 1:
            return values
        highest: list[float] = (
            _of_all_ranks(torch.tensor(values, dtype=torch.float64, device=self.device)).amax(0).tolist()
        )
        return highest

    def share_buffers(self, model: nn.Module) -> None:
        """Give every rank the buffers of rank 0 (running statistics), so that all ranks validate the same network."""
        self.share(list(model.buffers()))

    def share(self, tensors: Sequence[torch.Tensor]) -> None:
        """Give every rank these tensors of rank 0."""
        for tensor in tensors if self.size > 1 else ():
            dist.broadcast(tensor, src=0)

    def wrap(
        self, model: nn.Module, sync_batchnorm: bool, name: str, shape: Sequence[int]
    ) -> tuple[nn.Module, nn.Module]:
        """(the network whose state is saved, the module to call in training).

        Args:
            sync_batchnorm: whether batch normalisation uses the statistics of the global batch.
            name: ``model.name``.
            shape: of an image, (channels, height, width).

        Raises:
            ConfigError: several processes cannot train it, see :func:`skipped.check`.
        """
        if self.size == 1:
            return model, model
        looks, cannot = map(bool, self.highest([*map(float, self._tried(model, sync_batchnorm, name, shape))]))
        gpu = self.device.type == "cuda"
        if sync_batchnorm:
            convert: Callable[[nn.Module], nn.Module] = nn.SyncBatchNorm.convert_sync_batchnorm if gpu else _synchronise
            model = convert(model)
        ids = [self.device.index] if gpu else None
        with warnings.catch_warnings():
            # newer torch wants another name for broadcast_buffers, which older torch does not know
            warnings.simplefilter("ignore", FutureWarning)
            ddp = nn.parallel.DistributedDataParallel(
                model,
                device_ids=ids,
                broadcast_buffers=False,
                gradient_as_bucket_view=True,
                find_unused_parameters=looks and not cannot,
            )
        return model, ddp

    def _tried(self, model: nn.Module, sync_batchnorm: bool, name: str, shape: Sequence[int]) -> tuple[bool, bool]:
        """What :func:`skipped.must_look` says on this rank."""
        if name == "cnn":  # ours uses all that it has
            return False, False
        of_user = name.startswith("python:")
        return skipped.must_look(model, of_user, tuple(shape), self.device, sync_batchnorm)

    def waiting(self, ddp: nn.Module, more: bool) -> contextlib.AbstractContextManager[Any]:
        """The context of a pass after which ``more`` follow before the step: the ranks then sum their gradients later."""
        if self.size == 1 or not more:
            return contextlib.nullcontext()
        found: contextlib.AbstractContextManager[Any] = ddp.no_sync()  # type: ignore[operator]
        return found

    def check_gradients(self, model: nn.Module, ddp: nn.Module) -> None:
        """Raises ConfigError where DDP was not told to look for unused parameters and there are some: it then has not summed all
        gradients."""
        if self.size == 1 or getattr(ddp, "find_unused_parameters", True):
            return
        unused = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
        if unused:
            raise ConfigError(
                f"The network did not use {join_names(unused[:3])} in a training pass, which it did before training. Several workers cannot "
                "train it. Train it in one process: scaling.num_workers=1 or 0."
            )

    def settle(self, model: nn.Module, ddp: nn.Module, shape: Sequence[int]) -> None:
        """Let DDP compute one backward pass without a step, so that every real one uses the same buckets.

        DDP sums the gradients in buckets. In the first backward pass these follow the order of the parameters; in all later
        ones, the order in which the gradients became ready. With three or more ranks, other buckets mean another order of
        summation, so an interrupted training would differ in its last bits from an uninterrupted one.

        Args:
            model: the network inside ``ddp``.
            shape: of an image, (channels, height, width).
        """
        if self.size < 3 or getattr(ddp, "find_unused_parameters", False):  # which keeps the buckets as they are
            return
        before = copy.deepcopy(dict(model.named_buffers()))
        ddp.train()
        logits, auxiliaries = outputs.parts(ddp(torch.zeros(2, *shape, device=self.device)))
        torch.autograd.backward([torch.stack([logits, *auxiliaries]).sum()])
        model.zero_grad(set_to_none=True)
        with torch.no_grad():
            for name, buffer in model.named_buffers():
                buffer.copy_(before[name])


def _of_all_ranks(mine: torch.Tensor) -> torch.Tensor:
    """A small tensor of every rank, stacked in the order of the ranks. It takes a third of the time of gloo's ``all_reduce``."""
    rows = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
    dist.all_gather(rows, mine)
    return torch.stack(rows)


def _synchronise(module: nn.Module) -> nn.Module:
    """Let every batch normalisation in ``module`` use the statistics of the global batch. torch can do this on GPUs only."""
    for place, part in enumerate(module.modules()):
        if isinstance(part, _BatchNorm) and not isinstance(part, SyncBatchNormCPU):
            part.__class__ = type("SyncBatchNormCPU", (SyncBatchNormCPU, type(part)), {"place": float(place)})
    return module


class SyncBatchNormCPU(_BatchNorm):
    """Batch normalisation over all ranks, for the gloo backend, with the parameters and buffers of the module it replaces."""

    place: float = 0.0  # which one of the network it is

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return super().forward(x)
        if self.track_running_stats and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        momentum = self.momentum
        if momentum is None:  # cumulative average, as in torch.nn.BatchNorm2d
            assert self.num_batches_tracked is not None
            momentum = 1.0 / float(self.num_batches_tracked)
        args = (x, self.weight, self.bias, self.running_mean, self.running_var, momentum, self.eps, self.place)
        out: torch.Tensor = _SyncedNorm.apply(*args)
        return out


class _SyncedNorm(torch.autograd.Function):
    """y = (x - m) / sqrt(v + eps) * w + b with m, v over all ranks (Ioffe & Szegedy 2015, https://arxiv.org/abs/1502.03167).

    The means and variances of the ranks are combined as in Chan et al., "Updating formulae and a pairwise algorithm for
    computing sample variances" (1979), which avoids cancellation.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: Any,
        bias: Any,
        running_mean: Any,
        running_var: Any,
        momentum: float,
        eps: float,
        place: float,
    ) -> torch.Tensor:
        count = x.numel() // x.shape[1]
        mean, var = torch.batch_norm_update_stats(x, None, None, 0.0)  # torch.var_mean takes twenty times as long
        mine = torch.cat([mean.double(), var.double(), torch.tensor([float(count), place], dtype=torch.float64)])
        table = _of_all_ranks(mine)
        if (table[:, -1] != place).any():
            raise ConfigError(
                "scaling.sync_batchnorm=true: the workers called different batch normalisations at the same time, because the network skips "
                "layers at random. Set scaling.sync_batchnorm=false."
            )
        n = table[:, -2:-1]
        total = n.sum()
        channels = x.shape[1]
        means, variances = table[:, :channels], table[:, channels:-2]
        all_mean = (means * n).sum(0) / total
        all_var = ((variances + (means - all_mean) ** 2) * n).sum(0) / total
        if running_mean is not None:
            with torch.no_grad():
                running_mean.lerp_(all_mean.to(running_mean.dtype), momentum)
                running_var.lerp_((all_var * total / (total - 1).clamp(min=1)).to(running_var.dtype), momentum)
        m, v = all_mean.to(x.dtype), all_var.to(x.dtype)
        ctx.save_for_backward(x, weight, m, v)
        ctx.total, ctx.eps = float(total), eps
        return nn.functional.batch_norm(x, m, v, weight, bias, training=False, eps=eps)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        x, weight, mean, var = ctx.saved_tensors
        dy = grads[0]
        # The gradient as if mean and variance were constants. This fused pass also returns the two sums needed below.
        dx, dweight, dbias = torch.ops.aten.native_batch_norm_backward(
            dy, x, weight, mean, var, None, None, False, ctx.eps, [True, True, True]
        )
        both = _of_all_ranks(torch.stack([dbias, dweight]).double()).sum(0)
        inv = torch.rsqrt(var + ctx.eps)
        sum_dy, sum_dy_normal = (both / ctx.total).to(x.dtype)
        scale = inv if weight is None else inv * weight
        # Now the part that comes from mean and variance depending on x. DDP averages gradients over the ranks, and each
        # rank's loss is multiplied by their number, so dy already is the gradient of the global loss times that number, and
        # the sums need no further factor. The correction has the form of a normalisation with other weights, so the fused
        # kernel for normalisation computes it.
        slope, shift = sum_dy_normal * scale, sum_dy * scale
        dx = dx.sub_(nn.functional.batch_norm(x, mean, var, slope, shift, training=False, eps=ctx.eps))
        has = weight is not None
        return dx, dweight if has else None, dbias if has else None, None, None, None, None, None
