"""Lightning and transformers with images in memory and whole batches gathered at once: the fastest setup for each.

Each validates and writes a checkpoint per epoch, like raysweep; logging and progress bars are off.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from benchmarks.bare import BATCH, Bare
from benchmarks.measuring import Laps


class _Batches(Dataset):
    """Returns whole batches: a DataLoader calls ``__getitems__`` once with all indices of a batch."""

    def __init__(self, loop: Bare, train: bool) -> None:
        self.loop, self.train = loop, train
        self.x, self.y = (loop.x, loop.y) if train else (loop.vx, loop.vy)

    def __len__(self) -> int:
        return len(self.y)

    def __getitems__(self, indices: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        where = torch.tensor(indices)
        x = self.loop.prepared(self.x[where])
        return (self.loop.varied(x) if self.train else x), self.y[where]


def _as_it_is(batch: Any) -> Any:
    return batch


def lightning(loop: Bare, net: nn.Module, epochs: int, out: Path, laps: Laps) -> None:
    """Lightning's Trainer; an epoch ends when the next one begins."""
    import logging
    import warnings

    import lightning as pl
    from lightning.pytorch.callbacks import Callback, ModelCheckpoint

    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def training_step(self, batch: Any, index: int) -> torch.Tensor:
            x, y = batch
            return functional.cross_entropy(self.net(x), y, label_smoothing=0.1)

        def validation_step(self, batch: Any, index: int) -> None:
            self.net(batch[0]).argmax(1)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.AdamW(self.parameters(), lr=0.001, weight_decay=0.02)

    begun: list[bool] = []

    class Clock(Callback):
        def on_train_epoch_start(self, trainer: Any, module: Any) -> None:
            if begun:
                laps.end()
            begun.append(True)

    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        callbacks=[Clock(), ModelCheckpoint(out, save_top_k=-1, every_n_epochs=1)],
    )
    train = DataLoader(_Batches(loop, True), BATCH, shuffle=True, collate_fn=_as_it_is)
    val = DataLoader(_Batches(loop, False), 256, collate_fn=_as_it_is)
    trainer.fit(Module(), train, val)
    laps.end()
    assert len(list(out.glob("*.ckpt"))) == epochs


def transformers(loop: Bare, net: nn.Module, epochs: int, out: Path, laps: Laps) -> None:
    """Hugging Face's Trainer. It saves safetensors, which cannot store channels_last weights."""
    from transformers import Trainer, TrainerCallback, TrainingArguments
    from transformers.utils import logging

    logging.set_verbosity_error()
    net = net.to(memory_format=torch.contiguous_format)

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
            logits = self.net(x)
            return {"loss": functional.cross_entropy(logits, labels, label_smoothing=0.1), "logits": logits}

    def collate(batch: Any) -> dict[str, torch.Tensor]:
        return {"x": batch[0], "labels": batch[1]}

    begun: list[bool] = []

    class Clock(TrainerCallback):
        def on_epoch_begin(self, *args: Any, **kwargs: Any) -> None:
            if begun:
                laps.end()
            begun.append(True)

    arguments = TrainingArguments(
        output_dir=str(out),
        num_train_epochs=epochs,
        per_device_train_batch_size=BATCH,
        per_device_eval_batch_size=256,
        learning_rate=0.001,
        weight_decay=0.02,
        lr_scheduler_type="constant",
        eval_strategy="epoch",
        save_strategy="epoch",
        logging_strategy="no",
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        max_grad_norm=0.0,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
    )
    trainer = Trainer(
        Model(),
        arguments,
        data_collator=collate,
        train_dataset=_Batches(loop, True),
        eval_dataset=_Batches(loop, False),
        callbacks=[Clock()],
    )
    trainer.train()
    laps.end()
    assert len(list(out.glob("checkpoint-*"))) == epochs
