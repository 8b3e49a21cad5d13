"""Small data sets on disk for the tests of the data room: the same images as folders, CSV and Parquet."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from raysweep.config import DataSection

FER = {"angry": 0, "happy": 3, "sad": 4}  # the numbers of the CSV


class Picture(NamedTuple):
    """One image of a made-up data set."""

    split: str
    label: str
    pixels: np.ndarray


def pictures(train: dict[str, int], val: dict[str, int] | None = None, size: int = 8, seed: int = 0) -> list[Picture]:
    """So many different gray images of each class."""
    rng = np.random.default_rng(seed)
    return [
        Picture(split, label, rng.integers(0, 256, (size, size), dtype=np.uint8))
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


def section(path: Path | str, **options: Any) -> DataSection:
    return DataSection.model_validate({"path": str(path), **options})
