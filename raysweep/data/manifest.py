"""Tables that name a file and a class for each image: a list written by the user, or a data set's metadata files."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path, PureWindowsPath
from typing import Any, NamedTuple

from raysweep._text import join_names, plain, truncate
from raysweep.config.settings import Columns, DataSection
from raysweep.data import multi_label
from raysweep.data.columns import Meaning, meaning_of, number
from raysweep.data.listing import (
    Found,
    Row,
    SeveralLabelsError,
    digest,
    label_name,
    marks,
    only_split_in,
    split_of,
    split_value,
    stamp,
    truth,
)
from raysweep.data.located import Locator, Named, Place, text_of
from raysweep.data.roles.groups import column_of, grouped
from raysweep.data.roles.words import AUTO, Roles, choose
from raysweep.data.tables import Table, column, meanings, plain_name
from raysweep.data.tree import Folder, Rest
from raysweep.errors import DataError

MAX_REPORTED = 5
UNNAMED = "rows that name no image"
TIED = "rows whose votes are tied"
_FEW = 0.01  # of the rows may have another number of votes
UNLABELLED = "rows of test images without a class"
NOT_THERE = "rows of test images whose files are not there"
UNLISTED = "images that the list does not name"
_WHOLE = re.compile(r"-?[0-9]+(\.0+)?")


class _Line(NamedTuple):
    """A row of a table as it was read; ``table`` is the table's position among the source's files."""

    table: int
    number: int
    image: Any
    label: Any
    split: str | None
    group: Any = None


class ManifestSource:
    """CSV, JSON lines or Parquet with a column for each image's path, one for its class, and optionally one for its split.

    :mod:`raysweep.data.columns` finds the columns. The words for splits are ``train``/``training``,
    ``val``/``valid``/``validation``/``dev`` and ``test``/``testing``/``eval``/``evaluation``. Without a column for the split
    and without a table for each split, the cache sets a part of each class aside. Test rows without a class or without a
    file are left out and counted.

    A relative path starts at the table's folder, or at ``data.images``, and must stay inside it: a table from a stranger must
    not read other files of this machine. Links inside the folder are followed wherever they point, just as links among class
    folders are, because Hugging Face's own cache consists of links. An absolute path is accepted only from a table that
    ``data.path`` itself names, because its owner wrote it for this machine; never from the metadata file or the shards of a
    folder. A path must lead to a regular file. :mod:`raysweep.data.located` finds files that are not where a table says.
    """

    def __init__(
        self,
        path: Path,
        files: Sequence[tuple[Table, str | None]],
        remedy: str = "",
        data: DataSection | None = None,
        walked: tuple[Folder, Rest] | None = None,
    ) -> None:
        """
        Args:
            path: what ``data.path`` names: one of the tables, or a folder.
            files: the tables, each with its split (``train``, ``val`` or ``test``) where its own name says it.
            remedy: added to the error about a table that has no column for the class.
            data: ``images`` and ``columns``, as the user says.
            walked: what lies in the folder.
        """
        self.path = path
        self.files = files
        self.remedy = remedy
        self.absolute = not path.is_dir()
        self.columns: Columns | None = data.columns if data else None
        self.multi = data if data is not None and data.multi_label else None
        self.images = Path(os.path.expanduser(data.images)) if data and data.images else None
        self.tree: Folder | None = walked[0] if walked else None
        self.rest = walked[1] if walked else Rest()
        self.notes: list[str] = []
        self._tied: list[tuple[Table, str]] = []  # the images of rows whose votes are tied
        self.asked = data.val if data else AUTO
        self.group = column_of(data.group) if data else None
        self._read: tuple[dict[int, Row], Roles, list[Any]] | None = None
        if self.images is not None and not self.images.is_dir():
            raise DataError(f"data.images: {self.images} is no folder. Give the folder with the images of {path}.")

    def labels(self) -> set[str]:
        return {row.label for row in self._rows()[0].values()}

    def _lines(self) -> tuple[list[_Line], list[list[str] | None]]:
        """Every row of every table that names an image, and each table's class names for numbers."""
        lines: list[_Line] = []
        labels = []
        given: dict[str, bool] = {}  # column of a label → whether an image has it
        for t, ((table, of_table), meaning) in enumerate(zip(self.files, self._meanings(), strict=True)):
            self.notes += [*table.notes(), *meaning.notes]
            rows = self._named_rows(table, meaning)
            label = self._label_column(table, meaning, [values for _, values in rows])
            labels.append(meaning.labels[label] if meaning.labels else "")
            for i, name in enumerate(meaning.votes if self.multi is not None else (), start=1):
                given[name] = given.get(name, False) or any(truth(values[i]) for _, values in rows)
            for number_, values in rows:
                place_of_split = len(meaning.labels) + len(meaning.votes) + 1
                word = values[place_of_split] if meaning.split else None
                of_row = split_value(word, table.place(number_), meaning.flag) if meaning.split else of_table
                value = values[1 + label] if meaning.labels else self._voted(meaning, values, table, number_)
                if value is not None or meaning.labels:
                    group = values[-1] if self._group_in(table) else None
                    lines.append(_Line(t, number_, values[0], value, of_row, group))
        if self.multi is not None and not self.multi.labels:
            self.notes += _of_nobody([name for name, some in given.items() if not some])
        return self._by_folder(lines), meanings([table for table, _ in self.files], labels)

    def _meanings(self) -> list[Meaning]:
        """What the columns of each table mean; those of labels are the same in all, as in that of the training images."""
        several = self.multi is not None
        flags = [] if self.multi is None else self.multi.labels
        alike: tuple[str, ...] = ()
        found: dict[int, Meaning] = {}
        for t, (table, _) in sorted(enumerate(self.files), key=lambda one: one[1][1] in ("val", "test")):
            group = self._group_in(table)
            found[t] = meaning_of(table, self.columns, self.remedy, flags, several, group, alike)
            alike = alike or (found[t].votes if several else ())
        return [found[t] for t in range(len(self.files))]

    def _label(self, line: _Line, names: list[str] | None) -> str:
        """The class of a row, or its set of labels. Raises DataError where there is none that can be read."""
        if isinstance(line.label, DataError):
            raise line.label
        if self.multi is None:
            return label_name(line.label, names, self._where(line))
        return multi_label.of_cell(line.label, names, self.multi, self._where(line))

    def _group_in(self, table: Table) -> str | None:
        """The column of a table that ``data.group`` names, as the table spells it."""
        return None if self.group is None else column(table.columns(), [plain_name(self.group)])

    def _named_rows(self, table: Table, meaning: Meaning) -> list[tuple[int, list[Any]]]:
        """(number, [path, labels or votes, split]) of every row that names an image; the others are counted."""
        wanted = [meaning.path, *meaning.labels, *meaning.votes, *([meaning.split] if meaning.split else [])]
        wanted += [group] if (group := self._group_in(table)) else []
        rows, unnamed = [], []
        for number_, values in table.rows(wanted):
            if values[0] is None or (isinstance(values[0], str) and not values[0].strip()):
                unnamed.append(table.place(number_))
            else:
                rows.append((number_, values))
        if unnamed and not rows:
            raise DataError(f"{unnamed[0]} names no image, and no other row does. Give every row the path of an image.")
        self.rest.add(UNNAMED, unnamed)
        if meaning.votes and self.multi is None:
            self._check_votes(table, meaning, rows)
        return rows

    def _label_column(self, table: Table, meaning: Meaning, rows: Sequence[Sequence[Any]]) -> int:
        """Which of the columns that may hold the class does: the first; but names rather than their numbers."""
        several = len(meaning.labels) > 1 and self.multi is None
        first = {str(row[1]) for row in rows} if several else set()
        if not first:
            return 0
        name = f"{table.file.name}"
        numbers = all(map(_WHOLE.fullmatch, first)) and table.class_names(meaning.labels[0]) is None
        for i, other in enumerate(meaning.labels[1:], start=2):
            pairs = {(str(row[1]), str(row[i])) for row in rows}
            names = {b for _, b in pairs}
            if numbers and len(pairs) == len(first) == len(names) and not any(map(_WHOLE.fullmatch, names)):
                self.notes.append(
                    f"Classes from the column {plain(other)} of {name}: the names for the numbers in {plain(meaning.labels[0])}."
                )
                return i - 1
        self.notes.append(
            f"Classes from the column {plain(meaning.labels[0])} of {name}, not from {join_names(meaning.labels[1:])}; "
            "data.columns says which one."
        )
        return 0

    def _check_votes(self, table: Table, meaning: Meaning, rows: Sequence[tuple[int, list[Any]]]) -> None:
        """Refuse columns that are not one for each class: every row must have the same sum.

        Raises:
            DataError: an image belongs to several classes or to none.
        """
        end = 1 + len(meaning.votes)
        numbers = [[number(v) for v in values[1:end]] for _, values in rows]
        sums = [None if None in row else round(sum(v or 0 for v in row), 3) for row in numbers]
        flags = all(v in (0, 1) for row in numbers for v in row)
        expected = 1 if flags else max(set(sums), key=sums.count)
        wrong = [i for i, s in enumerate(sums) if s != expected or not s]
        other = [i for i in wrong if sums[i]]
        if not flags and len(other) == len(wrong) <= _FEW * len(rows):  # a vote was not counted: FER+ has such a row
            wrong = []
        columns = f"{len(meaning.votes)} columns of numbers ({join_names(meaning.votes[:5])}{' …' * (len(meaning.votes) > 5)})"
        if wrong:
            raise SeveralLabelsError(
                f"{table.file} has no column for the class, but {columns}, as where there is one for each class. {len(wrong):,} "
                f"row{'s do' if len(wrong) > 1 else ' does'} not fit: the numbers in {table.place(rows[wrong[0]][0])} are "
                f"{join_names(rows[wrong[0]][1][1:end])}, and not "
                f"{'exactly one of them is 1' if flags else f'{expected:g} in total'}. Give every image one class, or name the "
                f"column: 'data.columns={{label: NAME}}'. Where an image has several labels, say data.multi_label=true."
            )
        kind = "the one that is 1" if flags else f"the one with the most of {expected:g} votes"
        self.notes.append(f"{table.file.name} has one column for each class: {kind} is an image's class.")
        if other:
            self.notes.append(
                f"{len(other):,} row{'s have' if len(other) > 1 else ' has'} another number of votes: line {rows[other[0]][0]} has "
                f"{sums[other[0]]:g}."
            )

    def _voted(self, meaning: Meaning, values: Sequence[Any], table: Table, line: int) -> str | DataError | None:
        """The class with the most votes, None where several have as many, which are counted; of several labels those with 1, or the
        error, which is one where the row is used."""
        if self.multi is not None:
            flags = values[1 : 1 + len(meaning.votes)]
            return multi_label.of_columns_or_error(meaning.votes, flags, self.multi, table.place(line))
        votes = [number(v) or 0.0 for v in values[1 : 1 + len(meaning.votes)]]
        best = max(votes)
        if votes.count(best) > 1:
            self.rest.add(TIED, [table.place(line)])
            self._tied.append((table, str(values[0])))
            return None
        return meaning.votes[votes.index(best)]

    def _by_folder(self, lines: list[_Line]) -> list[_Line]:
        """The rows of a metadata file beside ``train/`` and ``test/``, with the split of each image's own folder."""
        if self.absolute or any(line.split is not None for line in lines):
            return lines
        splits = [split_of(str(line.image).replace("\\", "/").split("/")[0]) for line in lines]
        if None in splits or "train" not in splits or len(set(splits)) == 1:
            return lines
        return [line._replace(split=split) for line, split in zip(lines, splits, strict=True)]

    def _rows(self) -> tuple[dict[int, Row], Roles, list[Any]]:
        """(position among the lines → row, roles of the positions, what changes with the files); sealed rows may be missing."""
        if self._read is None:
            lines, names = self._lines()
            roles = choose([line.split for line in lines], self.path, self.asked)
            self.notes += roles.notes
            for kind in roles.left_out(lambda i: self._where(lines[i])):
                self.rest.add(kind, map(self._where, (lines[i] for i in roles.unused)))
            used = [*roles.train, *(roles.val or [])]
            places = self._located([lines[i] for i in used])
            self._check_missing([lines[i] for i in used], places)
            sealed = self._sealed(lines, roles)
            rows: dict[int, Row] = {}
            stamps: list[Any] = []
            trained, closed = set(roles.train), set(roles.test)
            for i, place in [*zip(used, places, strict=True), *sealed]:
                line, found = lines[i], place.status
                assert found is not None  # none is missing
                try:
                    label = self._label(line, names[line.table])
                except DataError:
                    if i not in closed:
                        raise
                    self.rest.add(UNLABELLED, [self._where(line)])
                    continue
                rows[i] = grouped(Row(truncate(line.image, 200), label, place.file), line.group)
                stamps.append([i in trained, str(place.file), label, *marks(found)])
            gone = [lines[i] for i in range(len(lines)) if i not in rows] if len(rows) < len(lines) else []
            self._add_unlisted([p.file for p in places] + [p.file for _, p in sealed], gone)
            self._read = rows, roles, stamps
        return self._read

    def _sealed(self, lines: Sequence[_Line], roles: Roles) -> list[tuple[int, Place]]:
        """(position among the lines, file) of every test image that is there. Where there are validation images, no run needs
        them."""
        try:
            places = self._located([lines[i] for i in roles.test])
        except DataError:
            if roles.val is None:
                raise
            places = [Place(Path(), None)] * len(roles.test)
        found = list(zip(roles.test, places, strict=True))
        self.rest.add(NOT_THERE, (self._where(lines[i]) for i, place in found if place.status is None))
        return [(i, place) for i, place in found if place.status is not None]

    def _where(self, line: _Line) -> str:
        return self.files[line.table][0].place(line.number)

    def _locator(self, table: Table) -> Locator:
        around = None if self.absolute else self.path
        return Locator(table.file.parent, self.absolute, self.images, around, only_split_in(table.file.stem))

    def _located(self, lines: Sequence[_Line]) -> list[Place]:
        places: dict[int, Place] = {}
        for t, (table, _) in enumerate(self.files):
            of_table = [i for i, line in enumerate(lines) if line.table == t]
            named = [Named(text_of(lines[i].image, self._where(lines[i])), self._where(lines[i])) for i in of_table]
            locator = self._locator(table)
            places |= dict(zip(of_table, locator.located(named), strict=True))
            self.notes += [note for note in locator.notes if note not in self.notes]
        return [places[i] for i in range(len(lines))]

    def _check_missing(self, lines: Sequence[_Line], places: Sequence[Place]) -> None:
        missing = [
            f"{self._where(n)}: {truncate(n.image, 200)}"
            for n, p in zip(lines, places, strict=True)
            if p.status is None
        ]
        if missing:
            some = "; ".join(missing[:MAX_REPORTED]) + " …" * (len(missing) > MAX_REPORTED)
            start = str(self.images) if self.images else "the table's own folder"
            other = "" if self.images else ", or say where the images are with data.images=FOLDER"
            raise DataError(
                f"{len(missing):,} of {len(lines):,} images that {self.path} names are missing: "
                f"{some}. Relative paths start at {start}. Add the files or remove the rows{other}."
            )

    def _add_unlisted(self, used: Sequence[Path], unused: Sequence[_Line]) -> None:
        """Count the images of the folder that no row names. Those of rows that are not used may lie anywhere in it."""
        if self.tree is None:
            return
        files = {os.path.normpath(file) for file in used}
        rows = [(self.files[n.table][0], str(n.image)) for n in unused] + self._tied
        at = [(image, os.path.normpath(self._locator(table).at(image))) for table, image in rows]
        named = {file for _, file in at if os.path.isfile(file)}
        elsewhere = {PureWindowsPath(image).name for image, file in at if file not in named}
        others = (
            file
            for file in self.tree.every()
            if (path := os.path.normpath(file)) not in files
            and path not in named
            and not {file.name, file.stem} & elsewhere
        )
        self.rest.add(UNLISTED, (file.relative_to(self.path) for file in others))

    def fingerprint(self) -> str:
        asked = [] if self.multi is None else [list(self.multi.labels), self.multi.classes]
        files = [stamp(table.file) for table, _ in self.files]
        return digest([files, self._rows()[2], *([asked] if any(asked) else [])])

    def found(self) -> Found:
        rows, roles, _ = self._rows()
        return roles.found(rows, self.rest.left_out(), tuple(self.notes))


def _of_nobody(columns: Sequence[str]) -> list[str]:
    """What is to be said of columns that are 0 for every image."""
    if not columns:
        return []
    are = "is no label, because it is" if len(columns) == 1 else "are no labels, because they are"
    return [f"{join_names(columns)} {are} 0 for every image."]
