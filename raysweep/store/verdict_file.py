"""``verdict.json`` in a sweep's folder: what the comparison says in sentences, so that reading commands need not compute it again."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from raysweep._text import json_text
from raysweep.errors import RaysweepError
from raysweep.store import files, layout
from raysweep.store.sweep import Sweep


@dataclass(frozen=True)
class StoredVerdict:
    """The sentences, and the names of the branches that had finished when they were written."""

    sentences: tuple[str, ...]
    branches: tuple[str, ...]


def write(sweep: Sweep, sentences: Sequence[str]) -> None:
    """Write the sentences.

    Raises:
        StoreError: the file cannot be written.
    """
    done = [b.name for b in sweep.record().branches if b.status == "finished"]
    text = json_text({"sentences": list(sentences), "branches": done}, indent=2)
    files.write_atomic(sweep.folder / layout.VERDICT, text.encode(errors="backslashreplace"))


def read(sweep: Sweep) -> StoredVerdict | None:
    """The verdict as it was written; None if there is none, it says nothing, or it cannot be read."""
    try:
        found = json.loads(files.read_all(sweep.folder / layout.VERDICT))
        sentences = tuple(map(str, found["sentences"]))
        return StoredVerdict(sentences, tuple(map(str, found["branches"]))) if sentences else None
    except (RaysweepError, OSError, ValueError, KeyError, TypeError):
        return None
