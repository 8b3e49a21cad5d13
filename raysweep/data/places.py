"""The names of the files in the folder of an image cache, each once. Where all caches lie is said in :mod:`raysweep.data.decoded`."""

from __future__ import annotations

META = "meta.json"  # the record, written last
SEALED = "sealed_files.npy"  # hashes of the bytes of the sealed images
RAW = "raw.npy"  # all images in the source's order, while a cache is made; it becomes the first split's
ENCODED = "encoded.bin"  # the bytes of encoded images, of all splits


def images(part: str) -> str:
    """Of one split: uint8 (n, H, W, C)."""
    return f"{part}_images.npy"


def index(part: str) -> str:
    """Where in :data:`ENCODED` the images of one split lie: see :data:`raysweep.data.encoded.ROW`."""
    return f"{part}_index.npy"


def labels(part: str) -> str:
    """int64 (n,)."""
    return f"{part}_labels.npy"


def digests(part: str) -> str:
    """S32 (n,): a hash of each image's pixels, decoded whole."""
    return f"{part}_digests.npy"


def files(part: str) -> str:
    """S32 (n,): a hash of each image's bytes in the source."""
    return f"{part}_files.npy"


def groups(part: str) -> str:
    """int64 (n,), where ``data.group`` is set."""
    return f"{part}_groups.npy"


def names(part: str) -> str:
    """A list of texts."""
    return f"{part}_names.json"
