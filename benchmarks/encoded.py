"""Images kept encoded: their speed against a DataLoader of two workers that decodes the same, their disk, and the memory of a training.

It makes ``--gb`` GB of 224-pixel JPEGs, and 1024 × 768-pixel ones for a network of 224 pixels. Both variants give standardised float
batches; the DataLoader's workers decode with the same call of Pillow. Passes take turns, and the first of each is not counted.
"""

from __future__ import annotations

import argparse
import io
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks import measuring
from benchmarks.measuring import CPUS, Laps, Row, in_a_process, interleave

SIDE, BATCH, WORKERS, CLASSES = 224, 64, 2, 10
LARGE = (1024, 768)
QUALITY = 90
MEMORY_MB = 1024


def jpeg(number: int, size: tuple[int, int]) -> bytes:
    """An image of its own for each number: smooth shapes with the grain of a photograph."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(number)
    shapes = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC)
    grain = rng.integers(-6, 7, (size[1], size[0], 1), dtype=np.int16)
    pixels = np.clip(np.asarray(shapes).astype(np.int16) + grain, 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()


def _write(task: tuple[str, int, tuple[int, int]]) -> int:
    path, number, size = task
    content = jpeg(number, size)
    Path(path).write_bytes(content)
    return len(content)


def make(folder: Path, size: tuple[int, int], most: float) -> None:
    """Class folders ``train`` and ``val`` (one image in twenty) until they have so many bytes; what is there is taken."""
    if (folder / "done").exists():
        return
    for split in ("train", "val"):
        for c in range(CLASSES):
            (folder / split / f"class{c}").mkdir(parents=True, exist_ok=True)

    def tasks() -> Iterator[tuple[str, int, tuple[int, int]]]:
        number = 0
        while True:
            split = "val" if number % 20 == 0 else "train"
            yield str(folder / split / f"class{number // 20 % CLASSES}" / f"{number:07}.jpg"), number, size
            number += 1

    total, source = 0, tasks()
    with ProcessPoolExecutor(CPUS) as pool:
        while total < most:
            total += sum(pool.map(_write, [next(source) for _ in range(400)], chunksize=20))
    (folder / "done").write_text(str(total))


def network(num_classes: int, channels: int) -> Any:
    """For ``model.name``: patches of 16 pixels, as a vision transformer has them, and a linear layer of their mean. Its memory is that
    of its input, so what is measured is the data's."""
    from torch import nn

    patches = nn.Conv2d(channels, 64, 16, 16)
    return nn.Sequential(patches, nn.GELU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, num_classes))


def settings_of(root: Path, folder: Path, epochs: int = 1) -> Any:
    """A training on encoded images with a network that costs little."""
    from raysweep.config import load as load_config

    return load_config.validate(
        {
            "experiment": {"name": "bench"},
            "data": {
                "path": str(folder),
                "image_size": SIDE,
                "channels": 3,
                "cache": "encoded",
                "cache_dir": str(root / "cache"),
            },
            "model": {"name": "python:benchmarks.encoded:network"},
            "training": {"epochs": epochs, "batch_size": BATCH, "augment": {"crop_padding": 0, "flip": False}},
            "scaling": {"num_workers": 0, "threads": CPUS},
            "root": str(root / "experiments"),
        }
    )


def _step(trains: int) -> Callable[[Any, Any], int]:
    """What is done with a batch: a small network is trained on it, or nothing. Returns how many images it has."""
    import torch

    from raysweep.training import models

    torch.set_num_threads(CPUS)
    if not trains:
        return lambda x, y: len(y)
    model = models.build("cnn", {"widths": [8, 16, 32, 32]}, CLASSES, 3).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters())

    def step(x: Any, y: Any) -> int:
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(x.contiguous(memory_format=torch.channels_last)), y).backward()
        optimizer.step()
        return len(y)

    return step


def _passes(laps: int, once: Callable[[], int]) -> dict[str, Any]:
    rounds, images = Laps(), 0
    for _ in range(laps):
        images = once()
        rounds.end()
    return {"images": images}


def _chosen(count: int, most: int) -> Any:
    """The same images in the same order for both variants."""
    import numpy as np

    return np.random.default_rng(0).permutation(count)[:most]


def ours(root: Path, o: argparse.Namespace) -> dict[str, Any]:
    """Batches of the feed, decoded ahead."""
    import torch

    from raysweep.data import cache, encoded
    from raysweep.training.feed import Feed

    encoded.use_threads(CPUS)
    data = cache.load(settings_of(root, root / o.set).data, root / "cache")
    feed = Feed(data, list(data.mean), list(data.std), torch.device("cpu"), True)
    order = _chosen(len(data.train.labels), o.images)
    batches = [order[a : a + BATCH] for a in range(0, len(order), BATCH)]
    step = _step(o.trains)

    def once() -> int:
        feed.ahead(data.train, map(encoded.Asked, batches))
        return sum(step(*feed.batch(data.train, batch, None)) for batch in batches)

    return _passes(o.laps, once)


def loader(root: Path, o: argparse.Namespace) -> dict[str, Any]:
    """The files through a DataLoader, decoded by its workers."""
    import torch
    from torch.utils.data import DataLoader, Dataset, Subset

    from raysweep.data import pillow

    files = sorted((root / o.set / "train").rglob("*.jpg"))

    class Files(Dataset[tuple[torch.Tensor, int]]):
        def __len__(self) -> int:
            return len(files)

        def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
            label = int(files[i].parent.name.removeprefix("class"))
            return torch.from_numpy(pillow.decode_here(files[i], SIDE, 3).pixels.copy()), label

    mean, scale = torch.full((1, 3, 1, 1), 127.0), torch.full((1, 3, 1, 1), 1 / 60)
    made: Any = DataLoader(
        Subset(Files(), _chosen(len(files), o.images).tolist()), BATCH, num_workers=WORKERS, persistent_workers=True
    )

    step = _step(o.trains)

    def once() -> int:
        return sum(step(x.permute(0, 3, 1, 2).to(torch.float32).sub_(mean).mul_(scale), y) for x, y in made)

    return _passes(o.laps, once)


def build(root: Path, o: argparse.Namespace) -> dict[str, Any]:
    """Make the cache; how much disk and memory that takes."""
    from raysweep.data import cache

    folder, began = root / o.set, time.perf_counter()
    data = cache.load(settings_of(root, folder).data, root / "cache")
    files = sum(f.stat().st_size for f in data.folder.iterdir())
    assert data.reading.stored is not None
    print(data.reading.stored.line(), flush=True)
    return {
        "seconds": time.perf_counter() - began,
        "cache_mb": files / 1e6,
        "source_mb": int((folder / "done").read_text()) / 1e6,
        "pixels_mb": (data.train.nbytes + data.val.nbytes) / 1e6,
    }


def train(root: Path, o: argparse.Namespace) -> dict[str, Any]:
    """An epoch of a training, for its memory."""
    from raysweep.launch import run as launching
    from raysweep.plan import experiment as experiment_plan

    began = time.perf_counter()
    launching.run(experiment_plan.plan_experiment(settings_of(root, root / o.set)))
    return {"seconds": time.perf_counter() - began}


WAYS = {"ours": ours, "loader": loader, "build": build, "train": train}


def compare(
    repeats: int, gb: float = 0.2, images: int = 4000, large: int = 1000, folder: Path | None = None
) -> list[Row]:
    """Every row of the table.

    Args:
        gb: of 224-pixel JPEGs. images: in a pass. large: how many large ones. folder: where they are made, and kept.
    """
    with tempfile.TemporaryDirectory() as temporary:
        root = folder or Path(temporary)
        make(root / "small", (SIDE, SIDE), gb * 1e9)
        make(root / "large", LARGE, large * len(jpeg(0, LARGE)))
        rows = []
        for name, limit, what in (
            ("small", 0.95, "224-pixel JPEGs, kept whole"),
            ("large", 2.0, "1024 × 768-pixel JPEGs, shrunk once"),
        ):
            built = in_a_process("benchmarks.encoded", "build", root, set=name)
            for trains, more in ((0, "loading alone"), (1, "training a small network")):
                options = {"set": name, "images": images, "trains": trains}
                runs = interleave("benchmarks.encoded", ["ours", "loader"], root, repeats, **options)
                rates = [[run["images"] / s for s in run["seconds"]] for run in (runs["ours"], runs["loader"])]
                wanted = None if trains and name == "large" else limit  # the network's time is in it, too
                rows.append(Row(f"{what}: {more}", "DataLoader, 2 workers", *rates, "images/s", wanted, above=True))
            rows.append(Row(f"{what}: disk", "their files", [built["cache_mb"]], [built["source_mb"]], "MB", 1.1))
            rows.append(Row(f"{what}: memory of building", "1 GB", [built["peak_mb"]], [MEMORY_MB], "MB", 1.0))
        trained = in_a_process("benchmarks.encoded", "train", root, set="small")
        rows.append(Row(f"an epoch on {gb:g} GB: memory", "1 GB", [trained["peak_mb"]], [MEMORY_MB], "MB", 1.0))
        return rows


def main() -> None:
    parser = measuring.parser(__doc__, WAYS)
    parser.add_argument("--gb", type=float, default=6.0, help="GB of 224-pixel JPEGs (default: 6)")
    parser.add_argument("--images", type=int, default=10_000, help="images in a pass (default: 10,000)")
    parser.add_argument("--large", type=int, default=4000, help="large images (default: 4,000)")
    parser.add_argument("--folder", type=Path, help="where to make the images; they are kept")
    parser.add_argument("--set", help=argparse.SUPPRESS)
    parser.add_argument("--trains", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        measuring.answer(WAYS, options)
        return
    rows = compare(options.repeats, options.gb, options.images, options.large, options.folder)
    measuring.show(rows, options.json)


if __name__ == "__main__":
    main()
