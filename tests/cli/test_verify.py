"""``raysweep verify``: damage is found, whole files raise no alarm, and a replay gives the recorded bits."""

from __future__ import annotations

import json
import re

import pytest

from raysweep.store import files
from raysweep.store.records_manifest import Manifest, ManifestEntry
from tests.cli.test_errors import run_cli

DROPOUT = {"model": {"options": {"widths": [4, 4, 8, 8], "dropout": 0.3}}}


def test_whole_experiments_raise_no_alarm_and_their_replay_gives_the_same_bits(capsys, tmp_path, quick_run):
    run = quick_run(training={"epochs": 3}, **DROPOUT)
    code, out, err = run_cli(capsys, "verify", "--root", tmp_path / "experiments")
    assert code == 0, out
    assert out.count("ok ") == 3
    assert "3 checkpoints checked, 0 faults" in err
    code, out, _ = run_cli(capsys, "verify", f"{run.id}@1", "--replay", "--root", tmp_path / "experiments")
    assert code == 0, out
    assert "epoch 2 trained again: the same bits" in out
    assert [p.name for p in (tmp_path / "experiments").iterdir() if not p.name.startswith(".")] == [run.id]


def rewrite(run, epoch: int, change) -> None:
    """Change a committed checkpoint and its manifest entry alike, so that only the content shows it."""
    import torch

    path = run.folder / f"checkpoint_epoch_{epoch}.pt"
    saved = torch.load(path, weights_only=True)
    change(saved)
    path.unlink()
    torch.save(saved, path)
    entries = [
        ManifestEntry(e.file, path.stat().st_size, files.sha256_file(path), e.epoch, e.batch, e.created, e.metrics)
        if e.file == path.name
        else e
        for e in run.entries()
    ]
    run.write_manifest(Manifest(entries, run.manifest().best))


def test_damage_is_found(capsys, tmp_path, quick_run):
    run = quick_run(training={"epochs": 3})
    root = tmp_path / "experiments"
    path = run.folder / "checkpoint_epoch_2.pt"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    code, out, _ = run_cli(capsys, "verify", "--root", root)
    assert code == 1
    assert "FAULT" in out
    assert "checkpoint_epoch_2.pt does not have the recorded SHA-256" in out
    assert out.count("ok ") == 2


def test_the_content_is_checked_too(capsys, tmp_path, quick_run):
    run = quick_run(training={"epochs": 3})
    root = tmp_path / "experiments"

    def report(epoch: int, *options: str) -> str:
        code, out, _ = run_cli(capsys, "verify", f"{run.id}@{epoch}", *options, "--root", root)
        assert code == 1
        return out

    rewrite(run, 1, lambda s: s.pop("rng_state"))
    assert "lacks rng_state" in report(1)
    rewrite(run, 2, lambda s: s.update(epoch=1))
    assert "stands at epoch 1" in report(2)
    rewrite(run, 2, lambda s: (s.update(epoch=2), s["model_state_dict"]["0.0.weight"].add_(1e-3)))
    out = report(2, "--replay")
    assert out.count("FAULT") == 1  # not one for each of the tensors
    count = len(torch_tensors(run, 3))
    assert re.search(
        rf"epoch 3 trained again: [0-9]+ of {count} tensors differ, the most .*, by up to [0-9.e-]+$", out.strip()
    )


def test_a_lost_manifest_is_reported(capsys, tmp_path, quick_run):
    run = quick_run()
    (run.folder / "manifest.json").unlink()
    code, out, _ = run_cli(capsys, "verify", run.id, "--root", tmp_path / "experiments")
    assert code == 1
    assert "manifest.json is missing" in out


@pytest.mark.slow  # quick twin: the content is checked, too
def test_one_damaged_log_does_not_hide_the_others(capsys, tmp_path, quick_run):
    good, bad = quick_run(training={"epochs": 1}), quick_run(training={"epochs": 1})
    log = bad.folder / "lineage.jsonl"
    log.write_bytes(log.read_bytes().replace(b"FINISHED", b'FIN\xff"HED'))
    code, out, _ = run_cli(capsys, "verify", "--json", "--root", tmp_path / "experiments")
    assert code == 1
    rows = json.loads(out)
    assert [(r["experiment"], r["file"], bool(r["faults"])) for r in rows] == [
        (good.id, "checkpoint_epoch_1.pt", False),
        (bad.id, None, True),
        (bad.id, "checkpoint_epoch_1.pt", False),
    ]
    assert "lineage.jsonl is damaged" in rows[1]["faults"][0]


def torch_tensors(run, epoch: int) -> list:
    """The tensors of weights and optimizer."""
    import torch

    saved = torch.load(run.folder / f"checkpoint_epoch_{epoch}.pt", weights_only=True)
    slots = [v for row in saved["optimizer_state_dict"]["state"].values() for v in row.values()]
    return [v for v in (*saved["model_state_dict"].values(), *slots) if isinstance(v, torch.Tensor)]


@pytest.mark.parametrize(
    ("condition", "value", "told"),
    [
        ("cpu", "Z80", "instead of Z80"),
        ("environment", "MKL_CBWR=AVX2", "MKL_CBWR unset instead of AVX2"),
    ],
)
def test_different_bits_under_different_conditions_are_no_fault(capsys, tmp_path, quick_run, condition, value, told):
    run = quick_run(training={"epochs": 2}, **DROPOUT)

    def elsewhere(saved) -> None:
        saved["conditions"][condition] = value
        saved["model_state_dict"]["0.0.weight"].add_(1e-7)

    rewrite(run, 2, elsewhere)
    code, out, _ = run_cli(capsys, "verify", f"{run.id}@1", "--replay", "--root", tmp_path / "experiments")
    assert code == 0, out
    assert "not comparable, because it ran with" in out
    assert told in out


@pytest.mark.slow  # quick twin: different bits under different conditions
def test_a_checkpoint_that_records_fewer_conditions_says_which_may_be_the_reason(capsys, tmp_path, quick_run):
    run = quick_run(training={"epochs": 2}, **DROPOUT)

    def earlier(saved) -> None:
        del saved["conditions"]["cpu"], saved["conditions"]["environment"]
        saved["model_state_dict"]["0.0.weight"].add_(1e-7)

    rewrite(run, 2, earlier)
    code, out, _ = run_cli(capsys, "verify", f"{run.id}@1", "--replay", "--root", tmp_path / "experiments")
    assert code == 1
    assert "It does not record its processor, environment: one of these may be the reason" in out


@pytest.mark.slow
def test_other_images_are_the_reason_for_other_bits(capsys, tmp_path, quick_run, image_folder):
    data = {"source": "folder", "path": str(image_folder)}
    run = quick_run(data=data, training={"epochs": 2, "batch_size": 16}, sampling={"samples_per_epoch": 60})
    (image_folder / "train" / "cat" / "0000.png").unlink()
    code, out, _ = run_cli(capsys, "verify", f"{run.id}@1", "--replay", "--root", tmp_path / "experiments")
    assert code == 0, out
    assert "not comparable, because it ran with other images" in out


def test_a_replay_says_what_was_not_trained_again(capsys, tmp_path, quick_run):
    root = tmp_path / "experiments"
    run = quick_run(training={"epochs": 1})
    code, out, err = run_cli(capsys, "verify", "--replay", "--root", root)
    assert code == 0, out
    assert "checkpoint_epoch_1.pt: intact; not trained again from here: the checkpoint of epoch 2 is not there" in out
    assert f"{run.id}: epoch 1 was not trained again: it started from new weights" in out
    assert "1 checkpoint checked, 0 faults. No epoch was trained again, so nothing was found out" in err
    code, out, _ = run_cli(capsys, "verify", "--replay", "--json", "--root", root)
    assert [(r["file"], r["replayed"]) for r in json.loads(out)] == [("checkpoint_epoch_1.pt", False), (None, False)]


@pytest.mark.slow
def test_a_replay_that_fails_is_a_fault_and_the_others_are_checked(capsys, tmp_path, quick_run, monkeypatch):
    folder = tmp_path / "code"
    folder.mkdir()
    monkeypatch.chdir(folder)
    (folder / "gonenets.py").write_text(
        "from torch import nn\n"
        "def net(num_classes, channels, widths):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes))\n"
    )
    broken = quick_run(training={"epochs": 2}, model={"name": "python:gonenets:net"})
    whole = quick_run(training={"epochs": 2})
    (folder / "gonenets.py").unlink()
    code, out, err = run_cli(capsys, "verify", "--replay", "--root", tmp_path / "experiments")
    assert code == 1
    assert re.search(rf"FAULT  {broken.id} checkpoint_epoch_1.pt: intact, but not trained again: .*gonenets", out)
    assert f"{whole.id} checkpoint_epoch_1.pt: intact; epoch 2 trained again: the same bits" in out
    assert "1 fault. 1 epoch trained again." in err
