"""Where images come from. A source can say cheaply what it would read (`fingerprint`) and list its images (`listing`).

Class folders, FER-2013's CSV, Parquet with encoded images, and two built-in sources. A new kind of source is a class
with these two methods and a line in :func:`open_source`.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from raysweep.config import DataSection
from raysweep.errors import DataError
from raysweep.names import check_class, cut, listed

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".pgm", ".ppm", ".pnm"}
TRAIN_NAMES = ("train", "training")
VAL_NAMES = ("val", "valid", "validation", "test", "testing")
# The numbers of Kaggle's FER-2013 CSV ("Challenges in Representation Learning", 2013).
FER_LABELS = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
MAX_CSV_BYTES = 2_000_000_000  # FER-2013's has 300 MB; pandas holds the whole text


class Item(NamedTuple):
    """One image before it is decoded: a file's path, encoded bytes, or pixels as uint8 of shape (H, W) or (H, W, 3)."""

    name: str
    label: int
    payload: Path | bytes | np.ndarray


class Listing(NamedTuple):
    """All images of a source. ``val`` is None where the source has no split of its own."""

    classes: tuple[str, ...]
    train: list[Item]
    val: list[Item] | None


class Source(Protocol):
    def fingerprint(self) -> str:
        """Changes whenever what would be read changes; cheap."""
        ...

    def listing(self) -> Listing: ...


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, default=str).encode()).hexdigest()


def _class(name: str, where: object) -> str:
    """Raises DataError if a class cannot be called so."""
    try:
        return check_class(name)
    except ValueError as error:
        raise DataError(f"{where}: {error}.") from None


def _reason(error: Exception) -> str:
    return cut((str(error) or type(error).__name__).splitlines()[0], 200)


def _stamp(path: Path) -> list[Any]:
    stat = path.stat()
    return [str(path.resolve()), stat.st_size, stat.st_mtime_ns]


class FolderSource:
    """``train/`` with ``val/`` or ``test/``, each of one folder per class; or one folder per class and no split."""

    def __init__(self, path: Path) -> None:
        self.path = path
        folders = {p.name.lower(): p for p in self._subfolders(path)}
        self.train = next((folders[n] for n in TRAIN_NAMES if n in folders), None)
        self.val = next((folders[n] for n in VAL_NAMES if n in folders), None)
        if self.train is None and self.val is not None:
            raise DataError(
                f"{path} has {self.val.name}/ but no train/. Put the training images under {path / 'train'}."
            )
        self._files: dict[str, list[tuple[str, Path]]] | None = None

    @staticmethod
    def _subfolders(path: Path) -> list[Path]:
        return sorted(p for p in path.iterdir() if p.is_dir() and not p.name.startswith("."))

    def _scan(self) -> dict[str, list[tuple[str, Path]]]:
        """Split name → (class, file) in sorted order."""
        if self._files is None:
            splits = {"train": self.train or self.path} | ({"val": self.val} if self.train and self.val else {})
            self._files = {}
            for split, folder in splits.items():
                found: list[tuple[str, Path]] = []
                empty = []
                for class_folder in self._subfolders(folder):
                    files = sorted(
                        p for p in class_folder.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file()
                    )
                    if not files:
                        empty.append(class_folder)
                    found += [(_class(class_folder.name, folder), p) for p in files]
                if empty and found:
                    some = ", ".join(str(p) for p in empty[:10]) + " …" * (len(empty) > 10)
                    raise DataError(
                        f"The class folder{'s' * (len(empty) > 1)} {some} hold{'s' * (len(empty) == 1)} "
                        "no image. Add images or remove the folder."
                    )
                if not found:
                    raise DataError(
                        f"{folder} holds no images in class folders (looked for {', '.join(sorted(IMAGE_SUFFIXES))} in "
                        f"one folder per class). The expected layout is {folder}/CLASS/IMAGE.jpg."
                    )
                self._files[split] = found
        return self._files

    def fingerprint(self) -> str:
        rows: list[Any] = []
        for split, files in self._scan().items():
            for name, path in files:
                stat = path.stat()
                rows.append([split, name, str(path.relative_to(self.path)), stat.st_size, stat.st_mtime_ns])
        return _digest([str(self.path.resolve()), rows])

    def listing(self) -> Listing:
        files = self._scan()
        classes = tuple(sorted({name for name, _ in files["train"]}))
        if "val" in files:
            of_val = sorted({name for name, _ in files["val"]})
            if list(classes) != of_val:
                raise DataError(
                    f"{self.train} and {self.val} do not have the same class folders: {listed(classes)} against "
                    f"{listed(of_val)}. Give both the same classes."
                )
        index = {c: i for i, c in enumerate(classes)}
        items = {
            split: [Item(str(p.relative_to(self.path)), index[name], p) for name, p in rows]
            for split, rows in files.items()
        }
        return Listing(classes, items["train"], items.get("val"))


class CsvSource:
    """FER-2013's CSV: columns ``emotion`` (0 to 6, or a name), ``pixels`` (numbers of a square gray image), ``Usage``."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def fingerprint(self) -> str:
        return _digest(_stamp(self.path))

    def listing(self) -> Listing:
        import pandas as pd

        if self.path.stat().st_size > MAX_CSV_BYTES:
            raise DataError(
                f"{self.path} is larger than {MAX_CSV_BYTES:,} bytes. Keep so many images in Parquet files."
            )
        try:
            table = pd.read_csv(self.path, dtype=str, keep_default_na=False)
        except Exception as error:
            raise DataError(f"{self.path} cannot be read as CSV: {_reason(error)}.") from None
        if not isinstance(table.index, pd.RangeIndex):  # pandas takes surplus fields for an index and shifts the rest
            raise DataError(
                f"{self.path} cannot be read as CSV: its rows have more fields than its first line has names."
            )
        table.columns = [str(c).strip() for c in table.columns]
        missing = [c for c in ("emotion", "pixels") if c not in table.columns]
        if missing:
            raise DataError(
                f"{self.path} lacks the column{'s' * (len(missing) > 1)} {', '.join(missing)}: it has "
                f"{listed(table.columns)}. FER-2013's columns are emotion,pixels,Usage."
            )
        names = [self._label(v.strip(), row) for row, v in enumerate(table["emotion"], start=2)]
        classes = tuple(sorted(set(names)))
        index = {c: i for i, c in enumerate(classes)}
        items = [
            Item(f"line {row}", index[name], self._pixels(text))
            for row, (name, text) in enumerate(zip(names, table["pixels"], strict=True), start=2)
        ]
        if "Usage" not in table.columns:
            return Listing(classes, items, None)
        usage = [u.strip().lower() for u in table["Usage"]]
        train = [item for item, u in zip(items, usage, strict=True) if u == "training"]
        return Listing(classes, train, [item for item, u in zip(items, usage, strict=True) if u != "training"])

    def _label(self, value: str, row: int) -> str:
        if not value.isdecimal():
            if not value:
                raise DataError(
                    f"{self.path}, line {row}: the column emotion is empty. Give a number from 0 to 6 or a name."
                )
            return _class(value, f"{self.path}, line {row}")
        if len(value) > 9 or int(value) >= len(FER_LABELS):
            raise DataError(
                f"{self.path}, line {row}: emotion {cut(value, 40)} is not one of 0 to 6 ({', '.join(FER_LABELS)})."
            )
        return FER_LABELS[int(value)]

    @staticmethod
    def _pixels(text: str) -> np.ndarray | bytes:
        """Pixels of shape (side, side); the text itself where it is none, which decoding will report."""
        try:
            values = np.array(text.split(), dtype=np.uint8)
        except (ValueError, OverflowError):
            return text.encode()
        side = round(len(values) ** 0.5)
        return values.reshape(side, side) if side and side * side == len(values) else text.encode()


class ParquetSource:
    """Encoded image bytes and labels: one file, or a folder of shards named ``train…`` and ``test…`` or ``val…``."""

    IMAGE_COLUMNS = ("image", "img", "image_bytes", "bytes", "jpg", "png")
    LABEL_COLUMNS = ("label", "labels", "emotion", "class", "target", "fine_label")
    SPLIT_COLUMNS = ("split", "usage", "Usage")

    def __init__(self, path: Path) -> None:
        self.path = path
        self.files = sorted(p for p in path.rglob("*.parquet") if p.is_file()) if path.is_dir() else [path]

    def fingerprint(self) -> str:
        return _digest([_stamp(p) for p in self.files])

    def listing(self) -> Listing:
        import pyarrow.parquet as pq

        rows: list[tuple[str, str, Any, bytes]] = []  # split, name, label, bytes
        names: list[str] | None = None
        split_known = False
        for file in self.files:
            try:
                table = pq.read_table(file)
            except Exception as error:
                raise DataError(f"{file} cannot be read as Parquet: {_reason(error)}.") from None
            image, label = (self._column(table.column_names, c, file) for c in (self.IMAGE_COLUMNS, self.LABEL_COLUMNS))
            split = next((c for c in self.SPLIT_COLUMNS if c in table.column_names), None)
            names = self._hf_names(table.schema.metadata, label) or names
            stem = file.stem.lower()
            of_file = "val" if stem.startswith(VAL_NAMES) else "train"
            split_known = split_known or split is not None or of_file == "val"
            splits = table[split].to_pylist() if split else [of_file] * len(table)
            for i, (s, value, payload) in enumerate(
                zip(splits, table[label].to_pylist(), table[image].to_pylist(), strict=True)
            ):
                data = payload.get("bytes") if isinstance(payload, dict) else payload
                kind = "train" if str(s).lower() in TRAIN_NAMES else "val"
                rows.append((kind, f"{file.name} row {i}", value, data if isinstance(data, bytes) else b""))
        labels = [self._name(value, names, name) for _, name, value, _ in rows]
        classes = tuple(sorted(set(labels)))
        index = {c: i for i, c in enumerate(classes)}
        parts: dict[str, list[Item]] = {"train": [], "val": []}
        for (kind, name, _, data), label_name in zip(rows, labels, strict=True):
            parts[kind].append(Item(name, index[label_name], data))
        return Listing(classes, parts["train"], parts["val"] if split_known else None)

    @staticmethod
    def _column(have: list[str], wanted: tuple[str, ...], file: Path) -> str:
        for name in wanted:
            if name in have:
                return name
        raise DataError(f"{file} has no column {' or '.join(wanted[:3])}: its columns are {listed(have)}. Rename one.")

    @staticmethod
    def _hf_names(metadata: dict[bytes, bytes] | None, label: str) -> list[str] | None:
        """Class names that the datasets library writes into the schema's metadata."""
        try:
            info = json.loads((metadata or {})[b"huggingface"])
            return list(info["info"]["features"][label]["names"])
        except (KeyError, ValueError, TypeError, RecursionError):
            return None

    @staticmethod
    def _name(value: Any, names: list[str] | None, where: str) -> str:
        if value is None:
            raise DataError(f"{where} has no label. Give every row one.")
        if names is not None and isinstance(value, int):
            if not 0 <= value < len(names):
                raise DataError(f"{where}: label {value} is not one of 0 to {len(names) - 1} ({listed(names)}).")
            return _class(str(names[value]), where)
        return _class(str(value), where)


class FacesSource:
    """The built-in faces; see :mod:`raysweep.data.faces`."""

    def fingerprint(self) -> str:
        from raysweep.data import faces

        return f"faces {faces.VERSION} {faces.SEED} {faces.TRAIN_IMAGES} {faces.VAL_IMAGES}"

    def listing(self) -> Listing:
        from raysweep.data import faces

        parts = []
        for stream, (name, total) in enumerate((("train", faces.TRAIN_IMAGES), ("val", faces.VAL_IMAGES))):
            images, labels = faces.generate(total, stream)
            parts.append([Item(f"faces {name} {i}", int(labels[i]), images[i, :, :, 0]) for i in range(total)])
        return Listing(faces.CLASSES, parts[0], parts[1])


class DigitsSource:
    """scikit-learn's real handwritten digits, 1,797 gray images of 8×8."""

    def fingerprint(self) -> str:
        return "digits 1"

    def listing(self) -> Listing:
        from sklearn.datasets import load_digits

        digits = load_digits()
        pixels = np.clip(np.rint(digits.images * (255 / 16)), 0, 255).astype(np.uint8)
        items = [Item(f"digits {i}", int(label), pixels[i]) for i, label in enumerate(digits.target)]
        return Listing(tuple(str(d) for d in range(10)), items, None)


def open_source(data: DataSection) -> Source:
    """The source a configuration names.

    Raises:
        DataError: the path is missing or is of another kind.
    """
    if data.source == "faces":
        return FacesSource()
    if data.source == "digits":
        return DigitsSource()
    path = Path(os.path.expanduser(str(data.path)))
    if not os.path.exists(path):  # unlike Path.exists, also False for what no path can be
        raise DataError(f"data.path: there is no {path} (looked in {Path.cwd()}). Give an existing folder or file.")
    kind: str = data.source
    if kind == "auto":
        if path.is_dir():
            has_classes = any(p.is_dir() and not p.name.startswith(".") for p in path.iterdir())
            kind = "parquet" if any(path.rglob("*.parquet")) else "folder"
            if kind == "parquet" and has_classes and any(p.suffix.lower() in IMAGE_SUFFIXES for p in path.glob("*/*")):
                kind = "folder"
        else:
            kind = {".csv": "csv", ".parquet": "parquet"}.get(path.suffix.lower(), "auto")
    if kind == "auto":
        raise DataError(f"data.path: {path} is neither a folder nor a .csv or .parquet file. Set data.source.")
    if kind == "folder" and not path.is_dir():
        raise DataError(
            f"data.path: {path} is a file, but data.source is folder. Give the folder that holds the classes."
        )
    if kind == "csv" and path.is_dir():
        raise DataError(f"data.path: {path} is a folder, but data.source is csv. Give the .csv file.")
    if not path.is_dir() and not path.is_file():  # reading a pipe would wait for ever
        raise DataError(f"data.path: {path} is no regular file. Give a folder or a file.")
    kinds: dict[str, Callable[[Path], Source]] = {"folder": FolderSource, "csv": CsvSource, "parquet": ParquetSource}
    return kinds[kind](path)
