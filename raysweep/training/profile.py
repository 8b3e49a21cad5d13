"""What the time of a training is spent on, and how far it is from what this machine can compute.

The loop says when a part ends (:meth:`Clock.lap`). Without ``scaling.profile`` that does nothing. With it, a lap waits for the device, so
a training on a GPU is a little slower while it is measured; the bits do not change.
"""

from __future__ import annotations

import contextlib
import copy
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

import torch
from torch import nn

from raysweep._text import Nested

# What an epoch's time is spent on, in the order in which it is shown.
PARTS = {
    "gather": "images taken from the cache",
    "augment": "changed at random and standardised",
    "forward": "forward pass and loss",
    "backward": "backward pass, with what the ranks exchange",
    "step": "optimizer, average of weights",
    "waiting": "agreeing with other ranks, checks of the loss",
    "validation": "validation",
    "checkpoint": "checkpoints and history, beyond what is written in the background",
    "rest": "order of images, events, all else",
}
SECONDS = 0.15  # for which each rate of the machine is measured


@dataclass(frozen=True)
class Profile:
    """What was measured of one process's training."""

    seconds: dict[str, float]  # part → seconds
    images: int  # that were trained on
    flops: int | None  # of one image, forward and backward; None where the network cannot be counted
    rate: float  # FLOP/s that this machine reaches in large products of matrices and convolutions
    device: str
    threads: int
    since: int | None = None  # the epoch from which on it was measured; None: from the first one

    @property
    def computing(self) -> float:
        """Seconds in forward and backward passes."""
        return self.seconds.get("forward", 0.0) + self.seconds.get("backward", 0.0)

    @property
    def reached(self) -> float | None:
        """The part of the machine's rate that forward and backward passes reach."""
        if self.flops is None or not self.computing:
            return None
        return self.flops * self.images / self.computing / self.rate

    @property
    def least(self) -> float | None:
        """Seconds that the passes would take at the machine's rate."""
        return None if self.flops is None else self.flops * self.images / self.rate

    def to_json(self) -> Nested:
        return asdict(self) | {"reached": self.reached, "least_seconds": self.least}

    def lines(self) -> list[str]:
        """For people: the parts by size, and the distance to the limit."""
        total = sum(self.seconds.values())
        parts = [f"{name} {s / total:.0%}" for name, s in sorted(self.seconds.items(), key=lambda p: -p[1])]
        since = "" if self.since is None else f" from epoch {self.since} on, which trains what was frozen before"
        found = [f"Time of {self.images:,} images{since}, {total:.1f} s in all: {', '.join(parts)}."]
        if self.reached is None or self.least is None:
            return [*found, "How much the network computes is not known: its operations cannot be counted."]
        found.append(
            f"Forward and backward passes reach {self.reached:.0%} of what this machine computes in large products "
            f"({self.rate / 1e9:,.0f} GFLOP/s on {self.device}, {self.threads} thread{'s' * (self.threads > 1)}); "
            f"at that rate they would take {self.least:.1f} s instead of {self.computing:.1f} s."
        )
        return found


class Clock:
    """Adds up the seconds of each part, from one lap to the next."""

    def __init__(self, on: bool, device: torch.device, now: Callable[[], float] = time.perf_counter) -> None:
        self.on, self.device, self.now = on, device, now
        self.only: str | None = None
        self.restart()

    def restart(self, since: int | None = None) -> None:
        """Forget what was measured: from this epoch on the network computes something else."""
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.images, self.since, self.began = 0, since, self.now()

    def lap(self, part: str, images: int = 0) -> None:
        """What has passed since the last lap was spent on ``part``, which has trained on so many images."""
        if not self.on:
            return
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        now = self.now()
        self.seconds[self.only or part] += now - self.began
        self.began = now
        self.images += images

    @contextlib.contextmanager
    def all(self, part: str) -> Iterator[None]:
        """Everything in this block is ``part``."""
        self.lap("rest")
        self.only = part
        try:
            yield
        finally:
            self.lap(part)
            self.only = None


def flops(model: nn.Module, x: torch.Tensor) -> int | None:
    """Floating-point operations of a forward and a backward pass of one image, by torch's counter; None where it cannot count them.

    A copy of the network is called, so that nothing of it changes.

    Args:
        x: a batch as the network gets it.
    """
    from torch.utils.flop_counter import FlopCounterMode

    kept = torch.random.get_rng_state()
    try:
        twin = copy.deepcopy(model).eval()  # in training, batch normalization would wait for the other ranks
        for p in twin.parameters():
            p.grad = None
        with FlopCounterMode(display=False) as counter, torch.enable_grad():
            out = twin(x)
            parts = [out] if torch.is_tensor(out) else [t for t in out if torch.is_tensor(t)]
            torch.autograd.backward(torch.stack([t.float().sum() for t in parts]).sum())
        return counter.get_total_flops() // len(x) or None
    except Exception:  # whatever a user's network does: the training is over, and its results do not depend on this
        return None
    finally:
        torch.random.set_rng_state(kept)


def rate(
    device: torch.device, bf16: bool, seconds: float = SECONDS, now: Callable[[], float] = time.perf_counter
) -> float:
    """FLOP/s that this machine reaches now: the better of a large product of matrices and a convolution of many channels."""
    kind = torch.bfloat16 if bf16 else torch.float32
    with torch.no_grad():
        a = torch.ones(1024, 1024, device=device, dtype=kind)
        image = torch.ones(32, 64, 32, 32, device=device, dtype=kind).to(memory_format=torch.channels_last)
        kernel = torch.ones(64, 64, 3, 3, device=device, dtype=kind).to(memory_format=torch.channels_last)
        works = (
            (lambda: a @ a, 2 * 1024**3),
            (lambda: nn.functional.conv2d(image, kernel, padding=1), 2 * 32 * 64 * 64 * 9 * 32 * 32),
        )
        return max(_rate(work, count, device, seconds, now) for work, count in works)


def _rate(
    work: Callable[[], torch.Tensor], count: int, device: torch.device, seconds: float, now: Callable[[], float]
) -> float:
    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    work()
    wait()
    began, done = now(), 0
    while done == 0 or now() - began < seconds:
        work()
        wait()
        done += 1
    return count * done / max(1e-9, now() - began)


def of(clock: Clock, model: nn.Module, x: torch.Tensor, bf16: bool, threads: int) -> Profile:
    """What the clock has measured, with the work of the network and the rate of the machine."""
    clock.lap("rest")
    found = flops(model, x)
    named = {part: clock.seconds[part] for part in PARTS if clock.seconds[part] > 0}
    return Profile(named, clock.images, found, rate(clock.device, bf16), clock.device.type, threads, clock.since)
