"""Three newcomers type what is in the scripts beside this file, each from an empty folder to a report and on from there."""

from __future__ import annotations

import hashlib
import os
import re
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import draw_classes

HERE = Path(__file__).parent
REPORT = re.compile(r"^ls experiments/sweeps/\S+/report\.html$", re.MULTILINE)  # it is there
NETWORK = """
from torch import nn


class Small(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2))
        self.classifier = nn.Linear(16, num_classes)

    def forward(self, x):
        return self.classifier(self.features(x).flatten(1))
"""
LOSSES = """
from torch.nn import functional


def halfway(logits, targets, class_counts):
    prior = class_counts.clamp_min(1) / class_counts.sum()
    return functional.cross_entropy(logits + 0.5 * prior.log(), targets, reduction="none")


def gap(labels, probabilities):
    right = probabilities.argmax(1) == labels
    recalls = [right[labels == c].mean() for c in set(labels.tolist())]
    return float(max(recalls) - min(recalls))
"""


def typed(script: str) -> list[str]:
    """The commands of a script."""
    return re.findall(r"^raysweep .+$", script, re.MULTILINE)


def play(script: str, folder: Path, tools: Path) -> str:
    """What a script prints that is typed in ``folder``, line by line, where each must succeed."""
    tools.mkdir(exist_ok=True)
    program = tools / "raysweep"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m raysweep "$@"\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    package = str(HERE.parents[1])
    path = os.pathsep.join([str(tools), str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder,
        env=os.environ | {"PATH": path, "PYTHONPATH": package, "COLUMNS": "100"},
        capture_output=True,
        text=True,
        timeout=1500,
    )
    assert done.returncode == 0, (done.stdout[-3000:], done.stderr[-3000:])
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


def photos(folder: Path) -> Path:
    draw_classes(folder / "photos", {"cat": 40, "dog": 30, "eel": 20})
    return folder


def project(folder: Path) -> Path:
    """A folder in which a project lies."""
    made = folder / "project"
    draw_classes(made / "data" / "train", {"cat": 30, "dog": 20, "eel": 10})
    draw_classes(made / "data" / "val", {"cat": 8, "dog": 8, "eel": 8}, seed=1)
    (made / "models.py").write_text(NETWORK)
    (made / "losses.py").write_text(LOSSES)
    return made


def old_experiments(folder: Path) -> Path:
    from tests.plan import old

    (folder / "old").mkdir()
    old.write(folder / "old")
    draw_classes(folder / "images" / "train", {"cat": 20, "dog": 15, "eel": 10})
    draw_classes(folder / "images" / "val", {"cat": 8, "dog": 8, "eel": 8}, seed=1)
    return folder


JOURNEYS: dict[str, tuple[Callable[[Path], Path], list[str]]] = {
    "folder.sh": (photos, ["Next: raysweep run config.yaml", "photos-sweep", "eel", "for_my_boss.html"]),
    "own_code.sh": (project, ["gap", "loaded 91 numbers"]),
    "old_system.sh": (old_experiments, ["legacy", "old_base_20250108_143022", "again_"]),
}


def hashes(folder: Path) -> dict[str, str]:
    return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("name", JOURNEYS)
def test_three_commands_lead_to_a_report(name):
    """Quick twin of the journey itself: its commands exist, and no more than three stand before the report."""
    import shlex

    import typer

    from raysweep.cli import main

    script = (HERE / name).read_text(encoding="utf-8")
    before, found, after = script.partition(REPORT.search(script)[0])  # type: ignore[index]
    assert found
    assert 1 <= len(typed(before)) <= 3
    assert typed(after)
    main._register([])
    commands = typer.main.get_command(main.app).commands  # type: ignore[attr-defined]
    for line in typed(script):
        _, verb, *words = shlex.split(line)
        commands[verb].make_context(verb, words)


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.long] * (n != "folder.sh")) for n in JOURNEYS])
def test_a_newcomer_gets_there(name, tmp_path, monkeypatch):
    monkeypatch.delenv("RAYSWEEP_ROOT", raising=False)
    (tmp_path / "home").mkdir()
    make, said = JOURNEYS[name]
    folder = make(tmp_path / "home")
    brought = hashes(folder)
    told = play((HERE / name).read_text(encoding="utf-8"), folder, tmp_path / "tools")
    for words in said:
        assert words in told
    after = hashes(folder)
    assert {k: after.get(k) for k in brought} == brought  # images, code and old experiments are as they were
