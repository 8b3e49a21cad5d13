"""Hashes of images as they lie on disk, before anything is decoded: all that is looked at of sealed images."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from raysweep.data import ahead
from raysweep.data.listing import Item, unpacked
from raysweep.data.reading import Seal


def file_digest(item: Item) -> bytes:
    """A hash of an image's bytes (of its pixels, where a source has nothing else), 32 characters; empty if they cannot be read."""
    try:
        payload = item.content
        if isinstance(payload, Path):
            with open(payload, "rb") as file:
                return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest().encode()
    except OSError:
        return b""
    content = payload if isinstance(payload, bytes) else np.ascontiguousarray(payload).data
    return hashlib.blake2b(content, digest_size=16).hexdigest().encode()


def sha256(digests: Sequence[bytes], labels: Iterable[int], classes: Sequence[str]) -> str:
    """What identifies sealed images: their bytes and classes, in any order."""
    rows = sorted([classes[c], d.decode()] for d, c in zip(digests, labels, strict=True))
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def digests(items: Sequence[Item]) -> np.ndarray:
    """:func:`file_digest` of every image, S32 (n,)."""
    with ThreadPoolExecutor(max_workers=min(16, (os.cpu_count() or 2) + 2)) as pool:
        return np.array(list(ahead.mapped(pool, file_digest, unpacked(items))), dtype="S32")


def of_items(
    items: Sequence[Item],
    digests: np.ndarray,
    classes: Sequence[str],
    others: dict[str, np.ndarray],
    train_labels: np.ndarray,
) -> Seal:
    """The record of sealed images.

    Args:
        digests: of their bytes, S32 (n,).
        others: ``train`` and ``val``: digests of those images, for the copies.
        train_labels: the classes of the training images, int (n,).
    """
    theirs = dict(zip(others["train"][::-1].tolist(), train_labels[::-1].tolist(), strict=True))  # the first copy's
    copied = Counter(classes[theirs[d]] for d in digests.tolist() if d and d in theirs)
    found = {split: int(np.isin(digests[digests != b""], some).sum()) for split, some in others.items()}
    digest = sha256(digests.tolist(), (item.label for item in items), classes)
    return Seal(len(items), digest, int((digests == b"").sum()), found["train"], found["val"], dict(copied))
