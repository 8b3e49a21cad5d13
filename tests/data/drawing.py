"""Small data sets on disk for the tests of the data room: the same images in every layout that can be read."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image

from raysweep.config.settings import DataSection

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n{} loop\n%%EOF\n"  # a program that never ends
FER = {"angry": 0, "happy": 3, "sad": 4}  # the numbers of the CSV


class Picture(NamedTuple):
    """One image of a made-up data set."""

    split: str
    label: str
    pixels: np.ndarray


def pictures(
    train: dict[str, int], val: dict[str, int] | None = None, size: int = 8, seed: int = 0, channels: int = 1
) -> list[Picture]:
    """So many different images of each class, gray or in colour."""
    rng = np.random.default_rng(seed)
    return [
        Picture(
            split,
            label,
            rng.integers(0, 256, (size, size) if channels == 1 else (size, size, channels), dtype=np.uint8),
        )
        for split, counts in (("train", train), ("val", val or {}))
        for label, n in counts.items()
        for _ in range(n)
    ]


def encoded(pixels: np.ndarray, form: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form)
    return buffer.getvalue()


def as_folder(path: Path, some: list[Picture], split_names: dict[str, str] | None = None) -> Path:
    names = {"train": "train", "val": "test"} if split_names is None else split_names
    for i, picture in enumerate(some):
        folder = path / names.get(picture.split, "") / picture.label
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{i:04}.png").write_bytes(encoded(picture.pixels))
    return path


def csv_row(picture: Picture, label: str | None = None) -> str:
    usage = "Training" if picture.split == "train" else "PublicTest"
    pixels = " ".join(map(str, picture.pixels.ravel()))
    return f"{FER.get(picture.label, picture.label) if label is None else label},{pixels},{usage}"


def as_csv(path: Path, some: list[Picture]) -> Path:
    path.write_text("\n".join(["emotion,pixels,Usage", *map(csv_row, some)]) + "\n", encoding="utf-8")
    return path


def as_parquet(path: Path, some: list[Picture]) -> Path:
    """Shards as the datasets library writes them: numbers for labels, their names in the metadata."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path.mkdir()
    names = sorted({p.label for p in some}, reverse=True)  # their numbers are not ours
    metadata = {"huggingface": json.dumps({"info": {"features": {"label": {"names": names}}}})}
    for split in ("train", "val"):
        rows = [p for p in some if p.split == split]
        if rows:
            table = pa.table(
                {
                    "image": [{"bytes": encoded(p.pixels), "path": None} for p in rows],
                    "label": [names.index(p.label) for p in rows],
                }
            )
            name = {"train": "train-00000-of-00001", "val": "test-00000-of-00001"}[split]
            pq.write_table(table.replace_schema_metadata(metadata), path / f"{name}.parquet")
    return path


def as_hub(path: Path, some: list[Picture], shards: int = 2, split_names: dict[str, str] | None = None) -> Path:
    """A data set's repository on the Hugging Face Hub: shards under ``data/``, and other files beside them."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    (path / "data").mkdir(parents=True)
    (path / "README.md").write_text("---\nlicense: mit\n---\n")
    names = sorted({p.label for p in some}, reverse=True)
    features = {"image": {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}
    for split, called in (split_names or {"train": "train", "val": "test"}).items():
        rows = [p for p in some if p.split == split]
        for shard in range(shards):
            table = pa.table(
                {
                    "image": [
                        {"bytes": encoded(p.pixels), "path": f"{i}.png"} for i, p in enumerate(rows[shard::shards])
                    ],
                    "label": [names.index(p.label) for p in rows[shard::shards]],
                }
            )
            table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
            pq.write_table(table, path / "data" / f"{called}-{shard:05}-of-{shards:05}.parquet")
    return path


def write_table(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    """Rows with the same keys, as the suffix says: CSV, JSON lines or Parquet."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist(list(rows)), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    else:
        with open(path, "w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    return path


def as_manifest(path: Path, some: list[Picture], columns: tuple[str, ...] = ("path", "label", "split")) -> Path:
    """A table that names a file under ``NAME_files/`` for each image; ``path`` is the table. Two columns: no split."""
    rows = []
    for i, picture in enumerate(some):
        name = f"{path.stem}_files/{i:04}.png"
        (path.parent / name).parent.mkdir(parents=True, exist_ok=True)
        (path.parent / name).write_bytes(encoded(picture.pixels))
        rows.append(dict(zip(columns, (name, picture.label, picture.split), strict=False)))
    return write_table(path, rows)


def as_imagefolder(path: Path, some: list[Picture], kind: str = "csv") -> Path:
    """A metadata file in each split's folder, as the datasets library documents it; images of all classes side by side."""
    for split, folder in (("train", "train"), ("val", "test")):
        rows = []
        for i, picture in enumerate(p for p in some if p.split == split):
            (path / folder).mkdir(parents=True, exist_ok=True)
            (path / folder / f"{i:04}.png").write_bytes(encoded(picture.pixels))
            rows.append({"file_name": f"{i:04}.png", "label": picture.label})
        if rows:
            write_table(path / folder / f"metadata.{kind}", rows)
    return path


def idx(values: np.ndarray) -> bytes:
    """An array of bytes as MNIST's files hold it."""
    sizes = b"".join(n.to_bytes(4, "big") for n in values.shape)
    return bytes((0, 0, 8, values.ndim)) + sizes + values.tobytes()


def as_idx(path: Path, some: list[Picture], numbers: Sequence[str], packed: bool = False) -> Path:
    """MNIST's four files; the number of a class is its place in ``numbers``."""
    path.mkdir(parents=True)
    for split, part in (("train", "train"), ("val", "t10k")):
        rows = [p for p in some if p.split == split]
        files = {
            f"{part}-images-idx3-ubyte": np.stack([p.pixels for p in rows]),
            f"{part}-labels-idx1-ubyte": np.array([numbers.index(p.label) for p in rows], dtype=np.uint8),
        }
        for name, values in files.items():
            data = idx(values)
            (path / (f"{name}.gz" if packed else name)).write_bytes(gzip.compress(data) if packed else data)
    return path


def cifar_batch(rows: Sequence[Picture], numbers: Sequence[str], labels: str = "labels") -> dict[str, Any]:
    """What one of CIFAR's files holds: pixels of shape (n, 3072), all red ones of an image first."""
    return {
        "batch_label": "a batch",
        labels: [numbers.index(p.label) for p in rows],
        "data": np.array([p.pixels.transpose(2, 0, 1).ravel() for p in rows], dtype=np.uint8).reshape(-1, 3072),
        "filenames": [f"{i}.png" for i in range(len(rows))],
    }


def as_cifar(path: Path, some: list[Picture], numbers: Sequence[str]) -> Path:
    """CIFAR-10's seven files, or CIFAR-100's three where the folder is called so; the images are (32, 32, 3)."""
    path.mkdir(parents=True)
    train, val = ([p for p in some if p.split == split] for split in ("train", "val"))
    if path.name == "cifar-100-python":
        files = {
            "meta": {"fine_label_names": list(numbers), "coarse_label_names": ["all"]},
            "train": cifar_batch(train, numbers, "fine_labels") | {"coarse_labels": [0] * len(train)},
            "test": cifar_batch(val, numbers, "fine_labels") | {"coarse_labels": [0] * len(val)},
        }
    else:
        files = {f"data_batch_{i + 1}": cifar_batch(train[i::5], numbers) for i in range(5)}
        files["test_batch"] = cifar_batch(val, numbers)
        files["batches.meta"] = {"label_names": list(numbers), "num_cases_per_batch": 10_000, "num_vis": 3072}
    for name, value in files.items():
        (path / name).write_bytes(pickle.dumps(value, 2))
    return path


def publish(patch: pytest.MonkeyPatch, path: Path) -> Path:
    """Have torchvision take the files that :func:`as_cifar` made for the published ones."""
    from torchvision.datasets import CIFAR10, CIFAR100

    kind = CIFAR100 if (path / "meta").exists() else CIFAR10

    def known(name: str) -> str:
        return hashlib.md5((path / name).read_bytes()).hexdigest()

    for batches in ("train_list", "test_list"):
        patch.setattr(kind, batches, [[name, known(name)] for name, _ in getattr(kind, batches)])
    patch.setattr(kind, "meta", {**kind.meta, "md5": known(kind.meta["filename"])})
    return path


def section(path: Path | str, **options: Any) -> DataSection:
    """Options of a data set that is read as before there were sealed images, unless they say otherwise."""
    return DataSection.model_validate({"path": str(path), "val": "test", "min_val": 0, **options})
