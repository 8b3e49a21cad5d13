"""A folder as the old system wrote it: a tiny Hugging Face ViT, torch's legacy pickle format, numpy scalars inside."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

CLASSES = ("eel", "cat", "dog")  # not in alphabetical order
REPORT = """              precision    recall  f1-score   support

         eel     0.5000    0.2500    0.3333         8
         cat     0.6000    0.7500    0.6667        12
         dog     1.0000    0.0000    0.0000         2

    accuracy                         0.6000        22
   macro avg     0.7000    0.3333    0.3333        22
weighted avg     0.6000    0.6000    0.5000        22
"""
NAME = "old_base_20250108_143022"


def tiny_vit(folder: Path, classes: tuple[str, ...] = CLASSES, labelled: bool = True) -> Path:
    """A Hugging Face folder of a ViT for 12-pixel images."""
    import torch
    import transformers

    torch.manual_seed(0)
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, image_size=12, patch_size=4,
        id2label=dict(enumerate(classes)) if labelled else {i: f"LABEL_{i}" for i in range(len(classes))},
    )  # fmt: skip
    transformers.ViTForImageClassification(config).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(
        json.dumps(
            {"image_processor_type": "ViTImageProcessor", "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "do_normalize": True,
             "do_rescale": True, "rescale_factor": 1 / 255, "size": {"height": 12, "width": 12}}
        )
    )  # fmt: skip
    return folder


def write(root: Path, **more: Any) -> Path:
    """Three epochs and one checkpoint within the third, in ``root``; the model lies beside it, named relative to where the
    old program ran. ``more`` replaces keys of the last checkpoint."""
    import torch
    import transformers

    model = transformers.ViTForImageClassification.from_pretrained(tiny_vit(root / "tiny_vit"))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.002, weight_decay=0.01)
    folder = root / NAME
    folder.mkdir()
    config = {
        "experiment_name": "old_base", "timestamp": "20250108_143022",
        "sampling_weights": {"cat": 1.0, "dog": 3.0, "eel": 2.0}, "model_name": "./tiny_vit", "batch_size": 8,
        "learning_rate": 0.002, "num_epochs": 3, "sample_per_class": 10, "use_full_dataset": False,
        "resume_from_checkpoint": None, "experiment_description": "as it was",
    }  # fmt: skip
    (folder / "experiment_config.json").write_text(json.dumps(config))
    (folder / "experiment_changes.log").write_text("EXPERIMENT LOG - old_base\nStarted: 2025-01-08T14:30:22\n")
    history: dict[str, list[Any]] = {"train_loss": [], "train_acc": [], "val_loss": [], "val_acc": []}

    def save(name: str, epoch: int, batch: int | None = None, **keys: Any) -> None:
        state = {
            "epoch": epoch, "model_state_dict": model.state_dict(), "optimizer_state_dict": optimizer.state_dict(),
            "best_acc": max(history["val_acc"], default=np.float64(0.0)), "history": history, "config": config,
            "timestamp": "2025-01-08T14:31:00", "current_batch": batch, "total_batches": 4 if batch is not None else None,
        } | keys  # fmt: skip
        torch.save(state, folder / name, _use_new_zipfile_serialization=False)

    for epoch in range(1, 4):
        for batch in range(4):
            optimizer.zero_grad()
            x = torch.randn(8, 3, 12, 12)
            model(pixel_values=x, labels=torch.randint(0, 3, (8,))).loss.backward()
            optimizer.step()
            if epoch == 3 and batch == 1:
                save("checkpoint_epoch_2_batch_1.pt", 2, 1)
        for key, value in (
            ("train_loss", 1.0 / epoch),
            ("train_acc", 0.3),
            ("val_loss", 1.0),
            ("val_acc", np.float64(0.2 * epoch)),
        ):
            history[key].append(value)
        save(f"checkpoint_epoch_{epoch}.pt", epoch, **(more if epoch == 3 else {}))
        torch.save(model.state_dict(), folder / f"epoch_{epoch}_model.pt", _use_new_zipfile_serialization=False)
    save("best_checkpoint.pt", 3, **more)
    (folder / "classification_report.txt").write_text(REPORT)
    rows = zip(*history.values(), strict=True)
    (folder / "training_history.csv").write_text(
        ",".join(history) + "\n" + "".join(",".join(map(str, map(float, r))) + "\n" for r in rows)
    )
    return folder
