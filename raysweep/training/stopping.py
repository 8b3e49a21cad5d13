"""When a training ends before its last epoch: on a loss that is not finite, or because a stop was requested."""

from __future__ import annotations

import math
from typing import NoReturn

import torch
from torch import nn

from raysweep.errors import Interrupted, NonFiniteLossError
from raysweep.events import Reporter
from raysweep.store import layout
from raysweep.training.world import World


class Stopping:
    """Lets all ranks agree on whether to end. Every rank must make the same calls in the same order."""

    def __init__(self, world: World, reporter: Reporter, total_batches: int) -> None:
        self.world, self.reporter, self.total_batches = world, reporter, total_batches
        self.reason: str | None = None  # why to stop, once a stop was requested

    def check(self, epoch: int, first_bad: torch.Tensor | float) -> None:
        """Agree on whether a stop was requested (sets ``reason``), and whether every loss was finite.

        Args:
            first_bad: the first batch of this rank, from 1, whose loss was not finite; infinity where all were.

        Raises:
            NonFiniteLossError: the loss of a rank was not finite. Every rank raises it.
        """
        reason = self.reporter.should_stop() if self.world.rank == 0 else None
        batch = float(first_bad)
        worst, stop = self.world.highest([0.0 if math.isinf(batch) else batch, float(reason is not None)])
        if worst:
            self._raise_not_finite(f"The loss became NaN or infinite in epoch {epoch}, batch {int(worst)}")
        self.reason = (reason or "request") if stop else None

    def check_weights(self, model: nn.Module, epoch: int, batch: int) -> None:
        """Check the weights before they are saved: a finite loss can have an infinite gradient.

        All ranks hold the same weights, so they need not agree.

        Raises:
            NonFiniteLossError: a weight is not finite.
        """
        if not all(bool(torch.isfinite(p).all()) for p in model.parameters()):
            self._raise_not_finite(f"The weights became NaN or infinite in epoch {epoch}, batch {batch}")

    def _raise_not_finite(self, what: str) -> NoReturn:
        raise NonFiniteLossError(
            f"{what} of {self.total_batches}. The checkpoints before it are intact. Try a smaller training.learning_rate or "
            "training.grad_clip=1.0, or check the data."
        )

    def interruption(self, position: layout.Position) -> Interrupted:
        """The error to raise after the checkpoint of ``position`` was committed."""
        epoch, batch = position
        where = "at its end" if batch is None else f"after batch {batch} of {self.total_batches}"
        name = layout.checkpoint_name(position)
        return Interrupted(
            f"Stopped by {self.reason} in epoch {epoch} {where}; the checkpoint {name} was saved.", self.reason
        )
