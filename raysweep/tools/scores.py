"""What networks say of the same images. Of networks that differ only in their last layer, as branches of a frozen one do, the rest is
computed once."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import torch
from torch import nn

from raysweep.errors import RaysweepError
from raysweep.tools.predict import Network
from raysweep.tools.shown import Shown
from raysweep.training import conditions, features, head
from raysweep.training import device as devices

BATCH = 256
_MOST_KEPT = 1 << 30  # bytes of what last layers get


class Scores:
    """Logarithms of probabilities, of one network after the other."""

    def __init__(self, images: Shown, device: torch.device) -> None:
        self.images, self.device = images, device
        # What the last layers of networks with this key get, a tensor for each batch.
        self._key, self._rows = "", list[torch.Tensor]()

    @torch.no_grad()
    def of(self, network: Network) -> np.ndarray:
        """float64 (n, K), for all images.

        Raises:
            RaysweepError: its outputs are NaN or infinite.
        """
        model = network.model.to(self.device)
        result: np.ndarray = torch.cat(
            [_logs(logits, network.multi_label) for logits in self._logits(model, network)]
        ).numpy()
        if not np.isfinite(result).all():
            raise RaysweepError(
                f"The outputs of {network.source} on these images are NaN or infinite. Take another checkpoint."
            )
        return result

    def _logits(self, model: nn.Module, network: Network) -> list[torch.Tensor]:
        frozen = (network.settings.get("model") or {}).get("freeze")
        name = head.name_of(model, len(network.classes)) if frozen else None
        if name is None:
            return [model(network.standardised(pixels).to(self.device)) for pixels in self.images.batches(BATCH)]
        key, last = _key_of(model, network, name), model.get_submodule(name)
        if key == self._key:
            model.eval()
            return [last(rows) for rows in self._rows]
        found, kept, size = [], [], 0
        for pixels in self.images.batches(BATCH):
            logits, rows = features.computed(model, name, network.standardised(pixels).to(self.device))
            found.append(logits)
            if rows is not None and size <= _MOST_KEPT and torch.equal(last(rows.contiguous()), logits):
                kept.append(rows.contiguous())
                size += rows.nbytes
        whole = len(kept) == len(found) and size <= _MOST_KEPT
        self._key, self._rows = (key, kept) if whole else ("", [])
        return found


def _key_of(model: nn.Module, network: Network, name: str) -> str:
    """A hash of everything that decides what the last layer gets of an image."""
    section = network.settings["model"]
    told = [network.name, section.get("options"), network.mean, network.std, network.shape, network.channels_last, name]
    told += [network.geometry.fit, network.geometry.background, conditions.of_model(network.name, section.get("path"))]
    digest = hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode())
    features.add_weights(digest, model, name)
    return digest.hexdigest()


def _logs(logits: torch.Tensor, several: bool) -> torch.Tensor:
    """Log probabilities, float64 (n, K), computed where the device has such numbers; of ``several`` labels each by itself."""
    wide = logits.double() if devices.sums(logits.device) == torch.float64 else logits.cpu().double()
    if several:  # 0 times an infinite logit is NaN, which a sigmoid would hide
        return (torch.nn.functional.logsigmoid(wide) + 0 * wide).cpu()
    return torch.log_softmax(wide, dim=1).cpu()
