"""The folders of evaluations, and who has looked at sealed images.

Every evaluation has a folder of its own, ``evaluations/<name>_<timestamp>/``, which one process writes once: so an experiment
that is being trained can be evaluated without being touched, and so can a model that is no experiment. What it says of itself
is written before the images are scored, so a look counts also if it was killed. An experiment's own log has the look, too;
looks that either of the two records are counted, by the hash of the sealed images.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from raysweep._paths import read_regular
from raysweep._text import check_name, json_text
from raysweep.errors import LockedError, RaysweepError, RootError, StoreError
from raysweep.store import files, groups, layout, lineage
from raysweep.store.catalog import experiments
from raysweep.store.experiment import LEGACY, Experiment
from raysweep.store.records import Json
from raysweep.store.root import Root

BEGUN, FINISHED = "begun", "finished"
_ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")


@dataclass(frozen=True, order=True)
class Look:
    """A scoring of sealed images: when, in which evaluation, and of what."""

    time: str
    evaluation: str
    of: str


@dataclass(frozen=True)
class Evaluation:
    """The folder of one evaluation."""

    folder: Path
    root: Root

    @property
    def id(self) -> str:
        return self.folder.name

    @property
    def address(self) -> str:
        """What another machine finds its folder by."""
        return Root.address_of(self.folder)

    def write(self, record: Json) -> None:
        """Write ``evaluation.json``; NaN becomes null.

        Raises:
            StoreError: it cannot be written.
        """
        files.write_atomic(self.folder / layout.EVALUATION, json_text(record, indent=2).encode())


def create(root: Root, name: str, when: datetime) -> Evaluation:
    """Make the folder of a new evaluation; if the name was already used in this second, ``_2``, ``_3`` … is appended.

    Raises:
        RootError: the name or the root cannot be used.
    """
    try:
        check_name(name)
    except ValueError as error:
        raise RootError(f"The evaluation cannot be made: {error}.") from None
    return Evaluation(groups.new_folder(root, layout.EVALUATIONS, name, when), root)


def looks(root: Root, sealed: str) -> list[Look]:
    """Every look at sealed images with this hash that is recorded under a root, oldest first."""
    return sorted({*_of_evaluations(root, sealed), *_of_experiments(root, sealed)})


def record_in(experiment: Experiment, event: Json) -> str | None:
    """Record a look in the log of the experiment that was evaluated.

    Returns:
        Why it has not got it, as the end of a sentence; None where it has. The record of the evaluation counts in either case.
    """
    try:
        if experiment.status() == LEGACY:
            return "the old system wrote this folder, and it stays as it is"
        lineage.record(experiment.folder, lineage.EVALUATION, **event)
    except LockedError:
        return "another process writes to it now"
    except StoreError as error:
        return str(error).rstrip(".")
    return None


def ordinal(number: int) -> str:
    """The word for a place in a row.

    >>> [ordinal(n) for n in (1, 3, 11, 22, 113)]
    ['first', 'third', '11th', '22nd', '113th']
    """
    if number <= len(_ORDINALS):
        return _ORDINALS[number - 1]
    ending = "th" if number // 10 % 10 == 1 else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"


def _of_evaluations(root: Root, sealed: str) -> Iterator[Look]:
    for path in sorted((root.path / layout.EVALUATIONS).glob(f"*/{layout.EVALUATION}")):
        with contextlib.suppress(OSError, ValueError):  # it is being made, or somebody's own file
            value = files.read_json(path)
            if isinstance(value, dict):
                yield from _look(value, value.get("id"), sealed)


def _of_experiments(root: Root, sealed: str) -> Iterator[Look]:
    mark = json.dumps(lineage.EVALUATION).encode()
    for experiment in experiments(root):
        with contextlib.suppress(OSError, RaysweepError):
            path = experiment.folder / layout.LINEAGE
            if os.path.exists(path) and mark in read_regular(path, files.LIMIT):  # of ten thousand, few are parsed
                for event in lineage.read(experiment.folder):
                    if event.type == lineage.EVALUATION:
                        yield from _look(event.fields, event.fields.get("evaluation"), sealed)


def _look(value: Json, evaluation: object, sealed: str) -> Iterator[Look]:
    """The look that a record is of, if it is one at these images."""
    found = (value.get("looked"), evaluation, value.get("reference"))
    if value.get("sealed_sha256") == sealed and all(isinstance(text, str) for text in found):
        yield Look(*map(str, found))
