"""The folder that a run leaves: every documented file, key and column."""

from __future__ import annotations

import json
import os

import pyarrow.parquet as pq
import pytest
from PIL import Image

from raysweep.events import CheckpointSaved
from raysweep.store.experiment import Experiment
from tests.conftest import Recorder

DOCUMENTED_KEYS = {
    *("epoch", "model_state_dict", "optimizer_state_dict", "best_acc", "history", "config", "timestamp"),
    *("format_version", "classes", "sampling_weights", "scheduler_state_dict", "scaler_state_dict", "rng_state"),
    *("sampler_state", "current_batch", "total_batches", "world_size", "experiment", "parent", "versions"),
}


@pytest.fixture
def run(quick_run):
    return quick_run(training={"epochs": 3}, sampling={"weights": {"3": 5, "8": 0.5}})


def test_a_run_leaves_exactly_the_documented_files(real_pictures, quick_run):
    run = quick_run(training={"epochs": 3}, sampling={"weights": {"3": 5, "8": 0.5}})
    expected = {
        "experiment_config.json",
        "experiment_changes.log",
        "lineage.jsonl",
        "manifest.json",
        "best_checkpoint.pt",
    }
    expected |= {"classification_report.txt", "confusion_matrix_benchmark.png", "training_history.csv"}
    expected |= {
        ".writer.fence",
        "training_history.png",
        "val_predictions.parquet",
        "val_images.parquet",
        "image_roles.parquet",
        "tensorboard",
    }
    expected |= {f"checkpoint_epoch_{e}.pt" for e in (1, 2, 3)} | {f"epoch_{e}_model.pt" for e in (1, 2, 3)}
    assert {p.name for p in run.folder.iterdir()} == expected  # the lock and all temporary files are gone
    for name in ("confusion_matrix_benchmark.png", "training_history.png"):
        assert min(Image.open(run.folder / name).size) > 400


def test_checkpoints_hold_the_documented_keys_and_load_without_pickles(run):
    import torch

    for name in ("checkpoint_epoch_1.pt", "checkpoint_epoch_3.pt", "best_checkpoint.pt"):
        saved = torch.load(run.folder / name, weights_only=True)
        assert set(saved) >= DOCUMENTED_KEYS
    assert saved["classes"] == list("0123456789")
    assert torch.load(run.folder / "checkpoint_epoch_2.pt", weights_only=True)["epoch"] == 2
    bare = torch.load(run.folder / "epoch_3_model.pt", weights_only=True)
    full = torch.load(run.folder / "checkpoint_epoch_3.pt", weights_only=True)["model_state_dict"]
    assert all(torch.equal(bare[k], full[k]) for k in full)


def test_best_is_a_copy_of_the_best_epoch_and_the_manifest_says_which(run):
    best = run.manifest().best
    top = max(run.entries(), key=lambda e: (e.metrics["val_acc"], -e.epoch))
    assert best.epoch == top.epoch
    assert (run.folder / "best_checkpoint.pt").read_bytes() == (run.folder / top.file).read_bytes()
    assert all(
        p.stat().st_nlink == 1 for p in run.folder.iterdir() if p.is_file()
    )  # writing to one never changes another
    assert all(e.verify(run.folder) is None for e in run.entries())


def test_the_history_starts_with_the_old_columns_and_counts_the_images_shown(run):
    header, *lines = (run.folder / "training_history.csv").read_text().splitlines()
    columns = header.split(",")
    assert columns[:9] == [
        *("train_loss", "train_acc", "val_loss", "val_acc"),
        *("epoch", "lr", "seconds", "images_per_second", "val_macro_f1"),
    ]
    groups = [[f"{what}_{c}" for c in "0123456789"] for what in ("recall", "f1", "requested", "realised")]
    assert columns[9:49] == [c for group in groups for c in group]
    assert len(lines) == 3
    counts = run.config().class_counts
    mass = {c: n * {"3": 5, "8": 0.5}.get(c, 1) for c, n in counts.items()}
    for line in lines:
        row = dict(zip(columns, line.split(","), strict=True))
        assert sum(int(row[f"realised_{c}"]) for c in counts) == 500
        for c in counts:
            assert row[f"requested_{c}"] == row[f"realised_{c}"]
            assert abs(int(row[f"realised_{c}"]) - 500 * mass[c] / sum(mass.values())) < 1
            assert int(row[f"distinct_{c}"]) == min(counts[c], int(row[f"realised_{c}"]))


def test_the_configuration_starts_with_the_old_flat_names(run):
    config = json.loads((run.folder / "experiment_config.json").read_text())
    assert next(iter(config)) == "experiment_name"
    for name in (
        "sampling_weights",
        "model_name",
        "batch_size",
        "learning_rate",
        "num_epochs",
        "resume_from_checkpoint",
    ):
        assert name in config
    assert config["settings"]["training"]["epochs"] == config["num_epochs"] == 3


def test_predictions_hold_the_best_and_the_last_epoch(run):
    table = pq.read_table(run.folder / "val_predictions.parquet").to_pandas()
    # The best epoch before the last is there, too: had the last save been cut off, it would still be the best.
    assert {run.manifest().best.epoch, 3} <= set(table["epoch"]) <= {1, 2, 3}
    for epoch, part in table.groupby("epoch"):
        assert list(part["index"]) == list(range(len(part)))
        accuracy = (part["label"] == part["prediction"]).mean()
        assert accuracy == pytest.approx(run.entry(str(epoch)).metrics["val_acc"])
        assert (part["probabilities"].map(sum) - 1).abs().max() < 1e-5


def test_the_log_records_the_weights_and_the_shares_they_cause(run):
    text = (run.folder / "experiment_changes.log").read_text()
    assert text.startswith("EXPERIMENT LOG - small\nStarted: ")
    events = [json.loads(line) for line in (run.folder / "lineage.jsonl").read_text().splitlines()]
    assert [e["type"] for e in events] == ["EXPERIMENT_START", "FINISHED"]
    assert [e["seq"] for e in events] == [1, 2]
    assert sum(events[0]["new_shares"].values()) == pytest.approx(1)
    assert "Change Type: EXPERIMENT_START" in text


def test_the_newest_three_within_an_epoch_are_kept_until_its_end(quick_run, without_ray, tmp_path):
    kept: list[list[str]] = []

    class Watcher(Recorder):
        def __call__(self, event):
            if isinstance(event, CheckpointSaved):
                kept.append(sorted(p.name for p in (tmp_path / "experiments").glob("small_*/*_batch_*.pt")))

    without_ray(Watcher())
    run = quick_run(training={"epochs": 1, "batch_size": 100}, checkpoint={"every_n_batches": 1})
    assert kept[0] == ["checkpoint_epoch_1_batch_1.pt"]
    assert kept[-1] == [f"checkpoint_epoch_1_batch_{b}.pt" for b in (2, 3, 4)]
    assert [e.file for e in run.entries()] == ["checkpoint_epoch_1.pt"]
    assert not list(run.folder.glob("*_batch_*.pt"))


@pytest.mark.parametrize(
    ("metric", "column"),
    [("val_acc", "val_acc"), ("macro_f1", "val_macro_f1"), ("balanced_accuracy", "balanced_accuracy")],
)
def test_the_best_epoch_is_chosen_by_the_metric_asked_for(quick_run, metric, column):
    run = quick_run(training={"epochs": 3, "best_metric": metric})
    best = run.manifest().best
    assert best.metric == column
    assert best.value == max(e.metrics[column] for e in run.entries())
    header, *lines = (run.folder / "training_history.csv").read_text().splitlines()
    values = [float(line.split(",")[header.split(",").index(column)]) for line in lines]
    assert values == pytest.approx([e.metrics[column] for e in run.entries()])


@pytest.mark.parametrize("damage", ["missing", "exchanged", pytest.param("hard link", marks=pytest.mark.slow)])
def test_the_best_checkpoint_is_restored(run, damage):
    from raysweep.training.checkpointing import rebuild_best

    best, source = run.folder / "best_checkpoint.pt", run.folder / run.manifest().best.file
    whole = source.read_bytes()
    best.unlink()
    if damage == "exchanged":
        best.write_bytes(bytes(len(whole)))
    elif damage == "hard link":  # as earlier versions made it
        os.link(source, best)
    rebuild_best(Experiment(run.folder))
    assert best.read_bytes() == source.read_bytes() == whole
    assert not best.samefile(source)


def test_the_best_checkpoint_is_copied_only_when_another_epoch_is_the_best(quick_run, monkeypatch):
    from raysweep.store import files

    copied, copy = [], files.clone_or_copy

    def counted(source, target):
        copied.append(source.name)
        return copy(source, target)

    monkeypatch.setattr(files, "clone_or_copy", counted)
    run = quick_run(training={"epochs": 5, "learning_rate": 1e-12, "warmup_epochs": 0})
    reached = [e.metrics["val_acc"] for e in run.entries()]
    best = [i for i, value in enumerate(reached, start=1) if value > max(reached[: i - 1], default=-1)]
    assert len(best) < 5
    assert copied == [f"checkpoint_epoch_{i}.pt" for i in best]
