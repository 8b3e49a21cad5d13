"""Experiment folders for the tests of the store: real files, a real manifest, no training and no torch."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from raysweep.store import files, layout, lineage
from raysweep.store.experiment import Experiment
from raysweep.store.layout import Position
from raysweep.store.records_manifest import BestEpoch, Manifest, ManifestEntry


class Killed(BaseException):
    """Stands for SIGKILL in one process: no ``except OSError`` and no ``except Exception`` may see it."""


def failing(number: int):
    """A system call that always fails with this error number."""

    def call(*args: Any, **kwargs: Any) -> Any:
        raise OSError(number, os.strerror(number))

    return call


def temps(folder: Path) -> list[str]:
    """Temporary files that somebody left in a folder."""
    return [p.name for p in folder.iterdir() if p.name.startswith(layout.TEMP_PREFIX)]


def torch_like(path: Path, content: bytes) -> None:
    """A file in the container torch writes (a zip, uncompressed, with CRCs), whatever its content."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("archive/data.pkl", content)


def checkpoint_file(folder: Path, position: Position, metrics: dict[str, Any] | None = None) -> ManifestEntry:
    """Write a checkpoint's file and return the entry that a manifest would hold."""
    name = layout.checkpoint_name(position)
    torch_like(folder / name, f"state at {position}".encode() * 50)
    data = (folder / name).read_bytes()
    return ManifestEntry(
        name, len(data), hashlib.sha256(data).hexdigest(), *position, "2025-01-08T14:30:22", dict(metrics or {})
    )


def make_experiment(
    folder: Path, positions: Iterable[tuple[int, int | None]] = (), best: int | None = None, **config: Any
) -> Experiment:
    """A whole folder as training leaves it, with these committed checkpoints; accuracy is a tenth of the epoch."""
    folder.mkdir(parents=True)
    experiment = Experiment(folder)
    value = {"experiment_name": layout.split_id(folder.name)[0], "num_epochs": 9, **config}
    files.write_json(folder / layout.CONFIG, value)  # also what no program of ours writes
    lineage.record(folder, lineage.START)
    entries = [
        checkpoint_file(folder, Position(*p), {"val_acc": p[0] / 10, "val_macro_f1": p[0] / 20} if p[1] is None else {})
        for p in positions
    ]
    if entries:
        of_best = None if best is None else BestEpoch(best, layout.checkpoint_name(Position(best, None)))
        experiment.write_manifest(Manifest(entries, of_best))
    return experiment


def flip_bit(path: Path, at: int = -1) -> None:
    """Change one bit of a file (by default in its middle), leaving the size."""
    data = bytearray(path.read_bytes())
    data[at if at >= 0 else len(data) // 2] ^= 1
    path.write_bytes(data)


def start_python(code: str, *arguments: object) -> subprocess.Popen[str]:
    """A separate process, started but not awaited."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
