"""``val_images.parquet``: which images an experiment was validated on, and which of them are also in training.

Written once per experiment, beside the predictions of every epoch, which have the same order.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from raysweep.errors import NotFoundError, RaysweepError, StoreError
from raysweep.store import columns, files, layout
from raysweep.store.experiment import Experiment

if TYPE_CHECKING:  # `compare` only reads what is written, and loads a third of a second faster without
    from raysweep.data.cache import Dataset

VAL = "val"


@dataclass(frozen=True)
class ValidationImages:
    """The validation images in the order of the predictions.

    ``pixels`` S32 (n,): a hash of each image's decoded pixels. ``in_training`` int32 (n,): how many training images have equal
    pixels; ``of_its_class`` (n,): how many of these have the same class.
    """

    names: Sequence[str]
    pixels: np.ndarray
    in_training: np.ndarray
    of_its_class: np.ndarray

    @property
    def leaked(self) -> np.ndarray:
        """bool (n,): which images are also in training."""
        found: np.ndarray = self.in_training > 0
        return found

    @property
    def other_class(self) -> np.ndarray:
        """bool (n,): which are in training under other classes only."""
        found: np.ndarray = self.leaked & (self.of_its_class == 0)
        return found

    @property
    def sha256(self) -> str:
        """The hash that the manifest records."""
        digest = hashlib.sha256(json.dumps(list(self.names)).encode())
        digest.update(b"".join(self.pixels.tolist()))
        for counts in (self.in_training, self.of_its_class):
            digest.update(np.ascontiguousarray(counts, dtype="<i4").tobytes())
        return digest.hexdigest()


def of_data(data: Dataset) -> ValidationImages:
    """The validation images of a data set.

    Raises:
        OSError, ValueError: the cache was deleted or damaged meanwhile.
    """
    from raysweep.data import cache

    names, pixels = cache.names(data, VAL), cache.digests(data, VAL)
    copies, same = (np.zeros(len(pixels), dtype=np.int32) for _ in range(2))
    if data.reading.copies is None or data.reading.copies.leaked:
        places: dict[bytes, tuple[int | bytes, ...]] = dict.fromkeys(pixels.tolist(), ())
        for key, label in zip(cache.digests(data, "train").tolist(), _hashable(data.train.labels), strict=True):
            if key in places:
                places[key] = (*places[key], label)
        for i, (key, label) in enumerate(zip(pixels.tolist(), _hashable(data.val.labels), strict=True)):
            copies[i], same[i] = len(places[key]), places[key].count(label)
    return ValidationImages(names, pixels, copies, same)


def _hashable(labels: np.ndarray) -> list[int | bytes]:
    """The class of each image, or its set of labels, as something that can be compared."""
    return [row.tobytes() for row in labels] if labels.ndim == 2 else labels.tolist()


def write(experiment: Experiment, images: ValidationImages) -> None:
    """Write the file.

    Raises:
        StoreError: it cannot be written. LockedError: another process writes to the folder.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table(
        {
            "index": np.arange(len(images.names), dtype=np.int32),
            # a name from a file system may hold surrogates, which UTF-8 cannot encode
            "name": [name.encode(errors="backslashreplace").decode() for name in images.names],
            "pixels": [key.decode() for key in images.pixels.tolist()],
            "in_training": images.in_training.astype(np.int32),
            "of_its_class": images.of_its_class.astype(np.int32),
        }
    )
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd", use_dictionary=["in_training", "of_its_class"])
    files.write_atomic(experiment.folder / layout.VAL_IMAGES, sink.getbuffer())


def read(experiment: Experiment) -> ValidationImages:
    """The validation images of an experiment.

    Raises:
        NotFoundError: it has no such file, because an earlier version made it. StoreError: the file is damaged.
    """
    path = experiment.folder / layout.VAL_IMAGES
    if not path.is_file():
        raise NotFoundError(f"{path} is missing. It is written at the end of the first epoch.")
    try:
        table = columns.read(path)
        names = [str(name) for name in table["name"].to_pylist()]
        pixels = np.array([key.encode() for key in table["pixels"].to_pylist()], dtype="S32")
        copies, same = (columns.numbers(table, column).astype(np.int32) for column in ("in_training", "of_its_class"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:  # pyarrow's own errors are ValueErrors
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise StoreError(f"{path} is damaged ({why}). The next epoch writes it again.") from None
    return ValidationImages(names, pixels, copies, same)


def of(experiments: Iterable[Experiment], count: int) -> ValidationImages | None:
    """The validation images that all these experiments share: from the first that says it, or from the decoded cache where an earlier
    version made them all. None where neither is there.

    Args:
        count: of images; what says another number is not about them.
    """
    every = list(experiments)
    for experiment in every:
        try:
            found = read(experiment)
        except RaysweepError:
            continue
        if len(found.names) == count:
            return found
    return _cached(every[0], count) if every else None


def _cached(experiment: Experiment, count: int) -> ValidationImages | None:
    from raysweep.data import decoded

    data = decoded.data_of(experiment)
    if data is None or len(data.val.labels) != count:
        return None
    try:
        return of_data(data)
    except (OSError, ValueError):
        return None
