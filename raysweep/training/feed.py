"""Makes batches on the device, from the memory-mapped cache on the CPU or from a copy of the data set on the GPU."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import torch

from raysweep.data import augment
from raysweep.data.cache import Dataset, Images
from raysweep.data.encoded import Asked
from raysweep.training.profile import Clock
from raysweep.training.trial import arranged

Change = Callable[[torch.Tensor], torch.Tensor]
GPU_SHARE = 0.5  # of the free GPU memory that the data set may take


class Feed:
    """Standardised float batches of shape (b, C, H, W) and labels (b,).

    Args:
        mean, std: per channel, for pixels in [0, 255].
        channels_last: the memory format of the batches.
    """

    def __init__(
        self, data: Dataset, mean: list[float], std: list[float], device: torch.device, channels_last: bool
    ) -> None:
        self.device = device
        self.channels_last = channels_last
        self.mean = torch.tensor(mean, dtype=torch.float32, device=device).view(1, -1, 1, 1)
        self.scale = 1.0 / torch.tensor(std, dtype=torch.float32, device=device).view(1, -1, 1, 1)
        self.fill = np.rint(np.array(mean)).astype(np.uint8)
        self.train, self.val = data.train, data.val
        self.clock = Clock(False, device)
        self.resident: dict[int, torch.Tensor] = {}
        if device.type == "cuda":
            need = data.train.nbytes + data.val.nbytes
            if need < GPU_SHARE * torch.cuda.mem_get_info(device)[0]:
                for images in (data.train, data.val):
                    if images is data.train and images.sizes(np.arange(0)) is not None:
                        continue  # parts of its images are taken as they are stored
                    self.resident[id(images)] = _on_device(images, device)

    def _normal(self, batch: torch.Tensor, own: Change | None = None, change: Change | None = None) -> torch.Tensor:
        # the permuted view is channels_last already, because the memory holds (b, H, W, C)
        pixels = batch.permute(0, 3, 1, 2)
        if change is not None:
            with torch.no_grad():
                pixels = change(pixels)
        x = pixels.to(torch.float32)
        if own is not None:
            with torch.no_grad():
                x = own(x / 255) * 255
        x = x.sub_(self.mean).mul_(self.scale)
        return arranged(x, self.channels_last)

    def ahead(self, images: Images, batches: Iterable[Asked]) -> None:
        """Say which images :meth:`batch` will be asked for next, so that they are decoded meanwhile, where they have to be."""
        if id(images) not in self.resident:
            images.ahead(batches)

    def batch(
        self,
        images: Images,
        index: np.ndarray,
        draws: np.ndarray | None,
        own: Change | None = None,
        change: Change | None = None,
        boxes: np.ndarray | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The images and labels at ``index``.

        Args:
            draws: how to shift and mirror each image (rows of :func:`augment.epoch_draws`); None to leave them as they are.
            own: what the user's code makes of the images at last, float32 (b, C, H, W) in [0, 1].
            change: what is done to them before, uint8 (b, C, H, W).
            boxes: the parts of the images, as :meth:`Images.take` takes them.
        """
        labels = torch.from_numpy(images.labels[index])
        resident = self.resident.get(id(images))
        if resident is None:
            some = images.take(index, boxes)
            if draws is not None:
                some = augment.gather(some, np.arange(len(index)), draws, self.fill)
            pixels = torch.from_numpy(some)
            if self.device.type == "cuda":
                pixels = pixels.pin_memory().to(self.device, non_blocking=True)
            else:
                pixels = pixels.to(self.device)  # on the CPU the same tensor
        else:
            pixels = self._gather_on_device(resident, index, draws)
        self.clock.lap("gather")
        x = self._normal(pixels, own, change)
        self.clock.lap("augment")
        return x, labels.to(self.device)

    def _gather_on_device(self, resident: torch.Tensor, index: np.ndarray, draws: np.ndarray | None) -> torch.Tensor:
        where = torch.from_numpy(index).to(self.device)
        if draws is None:
            return resident[where]
        _, height, width, _ = resident.shape
        d = torch.from_numpy(draws).to(self.device)
        rows = torch.arange(height, device=self.device)[None, :] - d[:, :1]
        cols = torch.arange(width, device=self.device)[None, :] - d[:, 1:2]
        outside = ((rows < 0) | (rows >= height))[:, :, None] | ((cols < 0) | (cols >= width))[:, None, :]
        cols = torch.where(d[:, 2:] > 0, width - 1 - cols, cols)
        out = resident[
            where[:, None, None], rows.clamp(0, height - 1)[:, :, None], cols.clamp(0, width - 1)[:, None, :]
        ]
        fill = torch.from_numpy(self.fill).to(self.device)
        return torch.where(outside[..., None], fill, out)


def _on_device(images: Images, device: torch.device) -> torch.Tensor:
    """All images, uint8 (n, H, W, C), brought there a part at a time."""
    out = torch.empty(images.shape, dtype=torch.uint8, device=device)
    start = 0
    for block in images.blocks():
        out[start : start + len(block)] = torch.from_numpy(block).to(device)
        start += len(block)
    return out
