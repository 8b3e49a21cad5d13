"""Head-only branches on features that were computed once: bare loops on the same features, and full passes through the network.

The network is a small vision transformer of timm with 192 features an image. ``--data`` names a folder with one subfolder per class;
without it, as many faces as FER-2013 has images are drawn. Every variant is a command of its own, run ``--repeats`` times, from the prompt
to its end, the import of torch included. ``ours`` and ``ray`` are ``raysweep branch`` with and without ``--in-process``. ``bare`` trains the same heads one after
another in one process, with the same batches, optimizer and number of validations; it saves and compares nothing. ``bare-all`` does so in
as many processes as there are CPUs. ``full`` trains one epoch of one branch with every image passed through the network; the table multiplies it.
"""

from __future__ import annotations

import json
import multiprocessing
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import measuring
from benchmarks.measuring import CPUS, ENVIRONMENT, Row, in_a_process

IMAGES = {"train": 28_709, "test": 3_589}  # of FER-2013: for training, and for validation
MODEL = [
    "model.name=timm:vit_tiny_patch16_224",
    "model.options={img_size: 48, patch_size: 8}",
    "model.freeze=backbone",
    "training.augment.crop_padding=0",
    "training.augment.flip=false",
    "scaling.num_workers=0",
]
WAYS = ("bare", "bare-all", "ours", "ray", "full")


def drawn(folder: Path) -> Path:
    """A folder with as many faces as FER-2013 has images."""
    from PIL import Image

    from raysweep.data import faces

    for stream, (split, count) in enumerate(IMAGES.items()):
        images, labels = faces.generate(count, stream)
        for name in faces.CLASSES:
            (folder / split / name).mkdir(parents=True, exist_ok=True)
        for i, (image, label) in enumerate(zip(images, labels, strict=True)):
            Image.fromarray(image[:, :, 0]).save(folder / split / faces.CLASSES[label] / f"{i}.png", compress_level=1)
    return folder


def weights_of(branches: int) -> list[float]:
    """The weight of the first class in every branch."""
    return [round(1.05 + 0.05 * i, 2) for i in range(branches)]


def command(root: Path, *words: str) -> dict[str, float]:
    """Run raysweep; returns its seconds, and those of all CPUs."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "raysweep", *words, "--root", str(root)],
        env={**ENVIRONMENT, "RAYSWEEP_STATE": str(root / "state")},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)} failed:\n{done.stderr[-3000:]}")
    return {"seconds": time.perf_counter() - started, "cpu": _cpu(resource.RUSAGE_CHILDREN, before)}


def _cpu(whose: int, before: Any = None) -> float:
    now = resource.getrusage(whose)
    return now.ru_utime + now.ru_stime - (before.ru_utime + before.ru_stime if before is not None else 0.0)


def prepare(root: Path, data: str) -> None:
    """An experiment of one epoch on features, to branch from, and the features."""
    command(
        root, "run", f"data.path={data}", *MODEL, "scaling.threads=1", "training.schedule_epochs=6", "--name", "parent", "--epochs", "1"
    )  # fmt: skip


def ours(root: Path, way: str, branches: int, epochs: int) -> dict[str, float]:
    """The command, from the prompt to the verdict."""
    grid = root / f"grid-{branches}.yaml"
    folder = next(root.glob("parent_*"))
    first = json.loads((folder / "experiment_config.json").read_text())["classes"][0]
    grid.write_text(json.dumps({"epochs": epochs, "control": False, "weights": {first: weights_of(branches)}}))
    more = ["--in-process"] if way == "ours" else []
    before = {p for p in root.iterdir() if p.is_dir()}
    found = command(root, "branch", "--from", "parent@1", "--weights-grid", str(grid), "--threads", "1", *more)
    made = [p for p in root.iterdir() if p.is_dir() and p not in before and (p / "best_checkpoint.pt").exists()]
    assert len(made) == branches
    size = sum(file.stat().st_blocks * 512 for p in made for file in p.rglob("*"))
    return found | {"mb_per_branch": size / branches / 1e6}


def train(folder: Path, cache: str, weights: Sequence[float], epochs: int) -> None:
    """The bare loops."""
    import torch
    from torch.nn import functional

    from raysweep.data import cache as images
    from raysweep.data import features as stored

    torch.set_num_threads(1)
    found, data = stored.reopen(folder), images.reopen(cache)
    assert found is not None
    assert data is not None
    x, vx = (torch.from_numpy(np.asarray(found.parts[s].rows)) for s in ("train", "val"))
    y, vy = torch.from_numpy(data.train.labels), torch.from_numpy(data.val.labels)
    for weight in weights:
        head = torch.nn.Linear(x.shape[1], len(data.classes))
        optimizer = torch.optim.AdamW(head.parameters(), lr=0.001, weight_decay=0.02, fused=True)
        chances = torch.ones(len(y), dtype=torch.float64)
        chances[y == 0] = weight
        for _ in range(epochs):
            order = torch.multinomial(chances, len(y), replacement=True)
            for start in range(0, len(y), 64):
                some = order[start : start + 64]
                optimizer.zero_grad()
                functional.cross_entropy(head(x[some]), y[some], label_smoothing=0.1).backward()
                optimizer.step()
            with torch.no_grad():
                float((head(vx).argmax(1) == vy).float().mean())


def bare(root: Path, way: str, branches: int, epochs: int) -> None:
    from raysweep.data import features as stored

    cache = root / ".raysweep" / "cache"
    folder = next(p for p in (cache / stored.FOLDER).iterdir() if (p / stored.META).exists())
    images = next(str(p) for p in cache.iterdir() if (p / "meta.json").exists())
    weights = weights_of(branches)
    if way == "bare":
        train(folder, images, weights, epochs)
        return
    with multiprocessing.get_context("spawn").Pool(CPUS) as pool:
        pool.starmap(train, [(folder, images, weights[i::CPUS], epochs) for i in range(CPUS)], chunksize=1)
        pool.close()
        pool.join()


def full(root: Path, data: str) -> dict[str, float]:
    """One epoch of which every image passes the network, by all CPUs."""
    command(root, "run", f"data.path={data}", *MODEL, "model.features=off", "--name", "full", "--epochs", "1")
    newest = max(root.glob("full_*"), key=lambda p: p.stat().st_mtime)
    header, row = (line.split(",") for line in (newest / "training_history.csv").read_text().splitlines()[:2])
    return {"seconds": float(dict(zip(header, row, strict=True))["seconds"])}


def measured(way: str, root: Path, o: Any) -> dict[str, Any]:
    if way in ("ours", "ray"):
        return ours(root, way, o.branches, o.epochs)
    if way == "full":
        return full(root, o.data)
    bare(root, way, o.branches, o.epochs)
    return {"cpu": _cpu(resource.RUSAGE_SELF) + _cpu(resource.RUSAGE_CHILDREN)}


def compare(
    repeats: int, branches: int = 100, epochs: int = 5, data: str = "", ways: Sequence[str] = WAYS
) -> list[Row]:
    """Measure the variants; full passes once."""
    found: dict[str, list[dict[str, Any]]] = {way: [] for way in ways}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "root"
        data = data or str(drawn(Path(folder) / "faces"))
        prepare(root, data)
        for i in range(repeats):
            for way in ways:
                if way != "full" or i == 0:
                    started = time.perf_counter()
                    options = {"branches": branches, "epochs": epochs, "data": data}
                    one = in_a_process("benchmarks.features", way, root, **options)
                    found[way].append({"seconds": time.perf_counter() - started, **one})
    what = f"{branches} head-only branches × {epochs} epochs on features"
    rows = []
    for mine, name in (("ours", "--in-process"), ("ray", "Ray Tune")):
        for key, unit in (("seconds", "s"), ("cpu", "s of CPU")):
            for peer, told in (("bare", "bare loops, one process"), ("bare-all", f"bare loops, {CPUS} processes")):
                if mine in found and peer in found and (mine, key) != ("ray", "cpu"):
                    a, b = ([one[key] for one in found[way]] for way in (mine, peer))
                    limit = 1.2 if (key, peer) == ("seconds", "bare") else None
                    rows.append(Row(f"{what}: {name}", f"{told}, nothing saved", a, b, unit, limit))
        if mine in found and "full" in found:
            passes = [found["full"][0]["seconds"] * branches * epochs] * repeats
            peer = "full passes through the network: one epoch, multiplied"
            rows.append(Row(f"{what}: {name}", peer, [one["seconds"] for one in found[mine]], passes, "s"))
    return rows


def main() -> None:
    parser = measuring.parser(__doc__, dict.fromkeys(WAYS, measured))
    parser.add_argument("--branches", type=int, default=100)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--data", default="", help="a folder of images (default: faces that the program draws)")
    parser.add_argument("--ways", default=",".join(WAYS), help=f"which variants (default: {','.join(WAYS)})")
    o = parser.parse_args()
    if o.way:
        measuring.answer({o.way: lambda root, o: measured(o.way, root, o)}, o)
        return
    measuring.show(compare(o.repeats, o.branches, o.epochs, o.data, o.ways.split(",")), o.json)


if __name__ == "__main__":
    main()
