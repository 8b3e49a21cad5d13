"""``image_roles.parquet``: which images an experiment and its ancestors were trained on, which it is validated on, and which are
sealed. Roles belong to the lineage: what an ancestor was trained on is never for validation or testing in a child."""

from __future__ import annotations

import functools
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from raysweep.data.roles.sides import Known, short
from raysweep.errors import DataError, StoreError
from raysweep.store import columns, files, layout

if TYPE_CHECKING:
    from raysweep.data.cache import Dataset

_ROLES = ("trained", "val", "sealed")


@dataclass(frozen=True)
class ImageRoles:
    """Images as rows of two hashes, uint64 (n, 2): of the decoded pixels, and of the bytes on disk. Of sealed images only the bytes
    are known.

    ``trained``: of the experiment and all its ancestors. ``val``: in the order of the predictions. ``groups`` int64 (n,) of the
    validation images, None without ``data.group``. ``prior``: class → share in the data, where validation has other shares.
    ``on_test``: the validation images are test images.
    """

    trained: np.ndarray
    val: np.ndarray
    sealed: np.ndarray
    groups: np.ndarray | None = None
    prior: Mapping[str, float] | None = None
    on_test: bool = False

    @classmethod
    def of(cls, data: Dataset) -> ImageRoles:
        """The roles of a data set, without any ancestor."""
        from raysweep.data import cache  # slow to load, and reading verbs do not need it

        trained, val = (
            np.stack([short(cache.digests(data, part)), short(cache.files(data, part))], axis=1)
            for part in ("train", "val")
        )
        seals = short(cache.files(data, "sealed"))
        sealed = np.stack([np.zeros_like(seals), seals], axis=1)
        reading = data.reading
        return cls(np.unique(trained, axis=0), val, sealed, cache.groups(data, "val"), reading.prior, reading.on_test)

    @property
    def known(self) -> Known:
        """What a split of a child must keep."""
        return Known(self.trained[:, 0], self.val[:, 0])

    def after(self, parent: ImageRoles) -> ImageRoles:
        """The same for a child of ``parent``."""
        return replace(self, trained=np.unique(np.concatenate([self.trained, parent.trained]), axis=0))

    def broken(self, parent: ImageRoles) -> tuple[int, int]:
        """(validation images, sealed images) that ``parent`` or an ancestor was trained on. Copies that were on both sides of the
        parent's own split, as its data had them, do not count."""
        found = []
        for mine, before, column in ((self.val, parent.val, 0), (self.sealed, parent.sealed, 1)):
            new = mine[~np.isin(mine[:, column], before[:, column]), column]
            found.append(int(np.isin(new[new != 0], parent.trained[:, column]).sum()))
        return found[0], found[1]

    @functools.cached_property
    def content(self) -> bytes:
        """The file. It is kept, because all branches of a sweep that a process trains have the same one."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        parts = [self.trained, self.val, self.sealed]
        rows = np.concatenate(parts)
        group = np.full(len(rows), -1, dtype=np.int64)
        if self.groups is not None:
            group[len(self.trained) : len(self.trained) + len(self.val)] = self.groups
        role = np.repeat(np.arange(3, dtype=np.int8), [len(part) for part in parts])
        told = {"prior": self.prior, "on_test": self.on_test, "groups": self.groups is not None}
        table = pa.table({"role": role, "pixels": rows[:, 0], "file": rows[:, 1], "group": group})
        sink = io.BytesIO()
        pq.write_table(
            table.replace_schema_metadata({"roles": json.dumps(told)}),
            sink,
            compression="zstd",
            use_dictionary=["role"],
        )
        return sink.getvalue()


@dataclass(frozen=True)
class Before:
    """What was before: the hash of the data, None if it is not known, the roles of the images, and whose they are, for messages."""

    sha256: str | None
    roles: ImageRoles
    name: str

    def inherited(self, roles: ImageRoles) -> ImageRoles:
        """``roles`` of the present data, with the ancestors' training images.

        Raises:
            DataError: an image that an ancestor was trained on would be for validation or test.
        """
        val, sealed = roles.broken(self.roles)
        told = [f"{n:,} {what} image{'s' * (n != 1)}" for n, what in ((val, "validation"), (sealed, "test")) if n]
        if told:
            raise DataError(
                f"{self.name} or an ancestor of it was trained on {' and '.join(told)} of these data. A network knows the right answer "
                "of what it was trained on, so these images would say nothing. Put them back among the training images, or give "
                "others; and leave data.val as it was."
            )
        return roles.after(self.roles)


def write(folder: Path, roles: ImageRoles) -> None:
    """Write the file of an experiment."""
    files.write_atomic(folder / layout.ROLES, roles.content)


def read(folder: Path) -> ImageRoles | None:
    """The roles that an experiment recorded; None if an earlier version made it.

    Raises:
        StoreError: the file is damaged.
    """
    path = folder / layout.ROLES
    if not path.is_file():
        return None
    try:
        table = columns.read(path)
        told: Mapping[str, Any] = json.loads(table.schema.metadata[b"roles"])
        role, group = columns.numbers(table, "role"), columns.numbers(table, "group")
        rows = np.stack([columns.numbers(table, name).astype(np.uint64) for name in ("pixels", "file")], axis=1)
        trained, val, sealed = (rows[role == i] for i in range(len(_ROLES)))
        groups = group[role == 1].astype(np.int64) if told["groups"] else None
        prior = None if told["prior"] is None else {str(c): float(p) for c, p in told["prior"].items()}
        return ImageRoles(trained, val, sealed, groups, prior, bool(told["on_test"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:  # pyarrow's own errors are ValueErrors
        raise StoreError(
            f"{path} is damaged ({str(error).splitlines()[0] if str(error) else type(error).__name__}). Restore it from a copy; or "
            "delete it: what the experiment was trained on is then taken from its data, if they are still the same."
        ) from None
