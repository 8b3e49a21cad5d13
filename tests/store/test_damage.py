"""Checkpoints and manifests damaged as disks damage them: all of it is seen, the run falls back and says so, whole files
raise no alarm."""

from __future__ import annotations

import io
import json
import os
import random
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from raysweep.errors import CheckpointError, Interrupted, RaysweepError
from raysweep.events import Event, Note
from raysweep.store import catalog, checkpoint, layout, lineage, retention
from raysweep.store.experiment import Experiment
from raysweep.store.records_manifest import ManifestEntry
from raysweep.store.untrusted import zip_check
from tests.conftest import Recorder, small_settings, weights_hash
from tests.store.making import make_experiment
from tests.store.test_checkpoint import same
from tests.store.test_experiment import ID, write_history

DAMAGES = int(os.environ.get("RAYSWEEP_DAMAGES", "600"))
DROPOUT = {"model": {"options": {"widths": [4, 4, 8, 8], "dropout": 0.3}}}  # so that the generators' states count
SHOWN = 6  # failures that a message tells in full

# Damage of one file. Each gets its bytes, those of another checkpoint and a generator, and returns what the disk holds.


def bit_flipped(whole: bytes, other: bytes, rng: random.Random) -> bytes:
    damaged = bytearray(whole)
    damaged[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
    return bytes(damaged)


def cut_short(whole: bytes, other: bytes, rng: random.Random) -> bytes:
    return whole[: rng.randrange(len(whole))]


def cut_at_a_boundary(whole: bytes, other: bytes, rng: random.Random) -> bytes:
    """At a sector, a page, the first or last byte, or where a part of the container begins."""
    parts = [found.start() for found in re.finditer(rb"PK[\1\3\5\6]", whole)]
    near = [0, 1, len(whole) - 1, len(whole) - 22, *parts, *range(0, len(whole), 512), *range(0, len(whole), 4096)]
    return whole[: rng.choice(near)]


def sector_zeroed(whole: bytes, other: bytes, rng: random.Random) -> bytes:
    size = rng.choice((512, 4096))
    at = rng.randrange(0, len(whole), size)
    return whole[:at] + bytes(len(whole[at : at + size])) + whole[at + size :]


def end_never_written(whole: bytes, other: bytes, rng: random.Random) -> bytes:
    """The length is right, but from some sector on there are zeros: a pulled plug without fsync."""
    at = rng.randrange(0, len(whole), 512)
    return whole[:at] + bytes(len(whole) - at)


def bytes_appended(whole: bytes, other: bytes, rng: random.Random) -> bytes:
    count = rng.choice((1, 2, 22, 512, rng.randrange(1, 70_000)))
    return whole + rng.choice((bytes(count), rng.randbytes(count), other[:count]))


def sectors_swapped(whole: bytes, other: bytes, rng: random.Random) -> bytes:
    size = rng.choice((512, 4096))
    a, b = sorted(rng.sample(range(0, len(whole) - size + 1, size), 2))
    return whole[:a] + whole[b : b + size] + whole[a + size : b] + whole[a : a + size] + whole[b + size :]


def another_checkpoint(whole: bytes, other: bytes, rng: random.Random) -> bytes:
    """A whole checkpoint, but not this one, with this one's size."""
    return other[: len(whole)].ljust(len(whole), b"\0")


Damage = Callable[[bytes, bytes, random.Random], bytes]


# Their shares of all damages.
def slow(value: Any) -> Any:
    """A case of which another one runs by default."""
    return pytest.param(value, marks=pytest.mark.slow)


def name_of(kind: Damage) -> str:
    return kind.__name__


KINDS: dict[Damage, float] = {
    bit_flipped: 0.4,
    cut_short: 0.2,
    cut_at_a_boundary: 0.1,
    sector_zeroed: 0.1,
    end_never_written: 0.05,
    bytes_appended: 0.05,
    sectors_swapped: 0.05,
    another_checkpoint: 0.05,
}


@dataclass(frozen=True)
class Made:
    """What a real run left."""

    ended: Experiment  # three epochs, undisturbed; the newest checkpoint is an epoch's end
    stopped: Experiment  # the same run, stopped in epoch 3 after 2 of its 3 batches; the newest is within the epoch
    final: str  # hash of the undisturbed run's last state


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    from raysweep.launch import run as launching
    from raysweep.launch.workers import start as workers
    from raysweep.plan import experiment as experiment_plan
    from raysweep.training.loop import train

    def run(name: str, stop_after: int | None, **sections: Any) -> Experiment:
        root = tmp_path_factory.mktemp(name)
        recorder = Recorder(stop_after)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(workers, "in_this_process", lambda job, fitted, progress: train(job, recorder))
            try:
                launching.run(
                    experiment_plan.plan_experiment(small_settings(root, training={"epochs": 3}, **DROPOUT, **sections))
                )
            except Interrupted:
                assert stop_after is not None
        return Experiment(next(root.glob("small_*")))

    ended, stopped = run("ended", None), run("stopped", 8, checkpoint={"every_n_batches": 1})
    names = ["checkpoint_epoch_1.pt", "checkpoint_epoch_2.pt"]
    assert [e.file for e in ended.entries()] == [*names, "checkpoint_epoch_3.pt"]
    assert [e.file for e in stopped.entries()] == [*names, *(f"checkpoint_epoch_3_batch_{b}.pt" for b in (1, 2))]
    return Made(ended, stopped, weights_hash(ended))


def copy_of(experiment: Experiment, root: Path) -> Experiment:
    """The folder under another root; files that are hard links of each other do not share the damage."""
    return Experiment(shutil.copytree(experiment.folder, root / experiment.id))


class Patient:
    """One experiment twice, once without its manifest; both newest checkpoints get the same damage."""

    def __init__(self, experiment: Experiment, root: Path) -> None:
        self.told, self.lost = copy_of(experiment, root / "told"), copy_of(experiment, root / "lost")
        (self.lost.folder / layout.MANIFEST).unlink()
        *self.older, self.before, self.newest = experiment.entries()
        for entry in self.older:  # never looked at, or only to be read for nothing
            (self.lost.folder / entry.file).unlink()
        self.paths = [e.folder / self.newest.file for e in (self.told, self.lost)]
        self.whole = self.paths[0].read_bytes()
        self.others = [(experiment.folder / e.file).read_bytes() for e in (*self.older, self.before)]
        self.state = checkpoint.read_checkpoint(self.paths[0])

    def write(self, data: bytes) -> None:
        for path in self.paths:
            path.write_bytes(data)

    def wrong_when_damaged(self, by_name_only: bool) -> Iterator[str]:
        """What the program does wrong with the damage that was written.

        Args:
            by_name_only: the file is whole in itself and only lies about its place, which its checksums cannot know.
        """
        good, problems = self.told.newest_good()
        if good != self.before or [p.split()[0] for p in problems] != [self.newest.file]:
            yield f"with the manifest: {good and good.file} is used, told is {problems}"
        if by_name_only:
            return
        good, problems = self.lost.newest_good()
        if good is None or good.file not in (self.before.file, self.newest.file):
            yield f"without the manifest: {good and good.file} is used, told is {problems}"
        elif good.file == self.before.file:
            if place(good) != place(self.before) or not any(p.startswith(self.newest.file) for p in problems[1:]):
                yield f"without the manifest: {place(good)} is used, told is {problems}"
        else:  # taken for whole: allowed where it is so for whoever reads it
            try:
                state = checkpoint.read_checkpoint(self.paths[1])
            except CheckpointError as error:
                yield f"without the manifest it is taken for whole, but {short(error, self.paths[1])}"
            else:
                if not same(state, self.state):
                    yield "without the manifest it is taken for whole, but another state is loaded"

    def wrong_when_whole(self) -> Iterator[str]:
        """False alarms."""
        self.write(self.whole)
        found = self.told.newest_good()
        if found != (self.newest, []):
            yield f"with the manifest: {found}"
        good, problems = self.lost.newest_good()
        if good is None or place(good) != place(self.newest) or len(problems) != 1:  # one: the manifest is missing
            yield f"without the manifest: {good and place(good)} is used, told is {problems}"


def difference(whole: bytes, data: bytes) -> str:
    first = next((i for i, (a, b) in enumerate(zip(whole, data, strict=False)) if a != b), min(len(whole), len(data)))
    return f"{len(data):,} of {len(whole):,} bytes, other from byte {first:,} on"


def place(entry: ManifestEntry) -> tuple[object, ...]:
    """What identifies a checkpoint; without the manifest its time is the file's, and its metrics are the history's."""
    return entry.file, entry.bytes, entry.sha256, entry.epoch, entry.batch


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_damage_is_seen_and_the_checkpoint_before_is_used(tmp_path: Path, made: Made, kind: Damage) -> None:
    rng = random.Random(kind.__name__)
    patients = [Patient(made.ended, tmp_path / "ended"), Patient(made.stopped, tmp_path / "stopped")]
    wrong: list[str] = []
    count = max(2, round(DAMAGES * KINDS[kind]))
    for number in range(count):
        patient = patients[number % 2]
        if number // 2 % 5 == 0:  # 200 times in 2000 the files are whole
            wrong += [f"#{number} {patient.newest.file} is whole; {w}" for w in patient.wrong_when_whole()]
        data = patient.whole
        while data == patient.whole:  # a sector may have been of zeros
            data = kind(patient.whole, rng.choice(patient.others), rng)
        patient.write(data)
        found = list(patient.wrong_when_damaged(kind is another_checkpoint))
        wrong += [f"#{number} {patient.newest.file}, {difference(patient.whole, data)}; {w}" for w in found]
    assert wrong == [], f"{len(wrong)} of {count} damages: " + "\n".join(wrong[:SHOWN])


@pytest.mark.parametrize("manifest", ["told", "lost"])
@pytest.mark.parametrize("kind", [bit_flipped, cut_short, sector_zeroed], ids=lambda kind: kind.__name__)
def test_where_all_are_damaged_none_is_used_and_each_is_named(
    tmp_path: Path, made: Made, kind: Damage, manifest: str
) -> None:
    rng = random.Random(1)
    experiment = copy_of(made.stopped, tmp_path)
    entries = experiment.entries()
    for entry in entries:
        path = experiment.folder / entry.file
        data = bytearray(path.read_bytes())
        data[len(data) // 3] ^= 1  # also where the random damage would not matter to a reader
        path.write_bytes(kind(bytes(data), b"", rng))
    if manifest == "lost":
        (experiment.folder / layout.MANIFEST).unlink()
    good, problems = experiment.newest_good()
    assert good is None
    assert [p.split()[0] for p in problems if p.startswith("checkpoint")] == [e.file for e in reversed(entries)]


# What the container's own checks see: a small file has every part that a large one has.


def small_file() -> tuple[bytes, dict[str, Any]]:
    import torch

    state = {"weights": torch.arange(40.0), "text": "x" * 30, "rng": torch.get_rng_state()[:16].clone()}
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue(), state


def short(error: Exception, path: Path) -> str:
    return f"{type(error).__name__}: {error}".replace(str(path), path.name)[:130]


def judged(path: Path, data: bytes, state: dict[str, Any]) -> str | None:
    """What is wrong with how the file is judged: an exception, or another answer than the loader's."""
    path.write_bytes(data)
    try:
        problem = zip_check.zip_problem(path)
    except Exception as error:
        return f"the check raises {short(error, path)}"
    if problem is not None:
        return None
    try:
        return None if same(checkpoint.read(path), state) else "taken for whole, but another state is loaded"
    except Exception as error:
        return f"taken for whole, but {short(error, path)}"


# Widths of the fields of a zip file's records: APPNOTE.TXT 4.3.
WIDTHS = {
    b"PK\3\4": ("local header", [4, 2, 2, 2, 2, 2, 4, 4, 4, 2, 2]),
    b"PK\1\2": ("directory entry", [4, 2, 2, 2, 2, 2, 2, 4, 4, 4, 2, 2, 2, 2, 2, 4, 4]),
    b"PK\6\6": ("zip64 end", [4, 8, 2, 2, 4, 4, 8, 8, 8, 8]),
    b"PK\6\7": ("zip64 locator", [4, 4, 8, 4]),
    b"PK\5\6": ("end", [4, 2, 2, 2, 2, 4, 4, 2]),
}


def records(data: bytes) -> list[tuple[str, int, list[int]]]:
    """(name, where, widths) of every record of a zip file."""
    found = [(WIDTHS[data[i : i + 4]], i) for i in range(len(data) - 3) if data[i : i + 4] in WIDTHS]
    return [(name, at, widths) for (name, widths), at in found]


def of_each_kind(data: bytes) -> list[tuple[str, int, list[int]]]:
    """The records of the pickle, of a tensor and of the last part, and the ends."""
    rows = records(data)
    local = [r for r in rows if r[0] == "local header"]
    directory = [r for r in rows if r[0] == "directory entry"]
    names = [data[at + 46 : at + 46 + data[at + 28]] for _, at, _ in directory]
    chosen = [names.index(b"archive/data.pkl"), names.index(b"archive/data/0"), len(names) - 1]
    return [part[i] for part in (local, directory) for i in chosen] + rows[2 * len(names) :]


@pytest.mark.slow
def test_every_field_of_the_container_may_hold_anything(tmp_path: Path) -> None:
    whole, state = small_file()
    rng = random.Random(2)
    wrong, tried = [], 0
    for name, start, widths in of_each_kind(whole):
        at = start
        for number, width in enumerate(widths):
            values = {bytes(width), b"\xff" * width, b"\xff" * (width - 1) + b"\x7f", bytes(width - 1) + b"\x80"}
            values |= {rng.randbytes(width) for _ in range(3)} | {v.to_bytes(width, "little") for v in range(1, 21)}
            for value in sorted(values - {whole[at : at + width]}):
                tried += 1
                result = judged(tmp_path / "small.pt", whole[:at] + value + whole[at + width :], state)
                if result is not None:
                    wrong.append(f"{name} at {start}, field {number} (byte {at}) = {value.hex()}: {result}")
            at += width
    assert tried > 1500
    assert wrong == [], f"{len(wrong)} of {tried}: " + "\n".join(wrong[:SHOWN])


@pytest.mark.slow
def test_every_bit_of_the_container(tmp_path: Path) -> None:
    whole, state = small_file()
    wrong, tried = [], 0
    for name, start, widths in of_each_kind(whole):
        for at in range(start, min(len(whole), start + sum(widths) + 16)):  # the name, too
            for bit in range(8):
                data = bytearray(whole)
                data[at] ^= 1 << bit
                tried += 1
                result = judged(tmp_path / "small.pt", bytes(data), state)
                if result is not None:
                    wrong.append(f"{name} at {start}, byte {at}, bit {bit}: {result}")
    assert tried > 2000
    assert wrong == [], f"{len(wrong)} of {tried}: " + "\n".join(wrong[:SHOWN])


# Going on


def go_on(experiment: Experiment) -> tuple[list[str], dict[str, Any]]:
    """Continue; returns the warnings and the event in the log (empty where there was nothing to do)."""
    from raysweep.launch import resume as resuming

    told: list[Event] = []
    resuming.continue_experiment(experiment.root, experiment.id, progress=told.append)
    events = [e for e in lineage.read(experiment.folder) if e.type == lineage.CONTINUED]
    return [e.text for e in told if isinstance(e, Note) and not e.inexact], events[-1].fields if events else {}


@pytest.mark.usefixtures("without_ray")
@pytest.mark.parametrize("manifest", ["told", "lost"])
@pytest.mark.parametrize("kind", [bit_flipped, slow(cut_at_a_boundary), slow(sector_zeroed)], ids=name_of)
def test_the_run_goes_on_from_the_one_before_with_a_warning_to_the_same_bits(
    tmp_path: Path, made: Made, kind: Damage, manifest: str
) -> None:
    experiment = copy_of(made.stopped, tmp_path)
    before, newest = experiment.entries()[-2:]
    path = experiment.folder / newest.file
    path.write_bytes(kind(path.read_bytes(), b"", random.Random(3)))
    if manifest == "lost":
        (experiment.folder / layout.MANIFEST).unlink()
    warnings, event = go_on(experiment)
    assert any(w.startswith(newest.file) for w in warnings)
    assert any(w == f"Continuing {experiment.id} from {before.file}." for w in warnings)
    assert event["checkpoint"] == before.file
    assert any(d.startswith(newest.file) for d in event["damaged"])
    assert experiment.status() == "finished"
    assert weights_hash(experiment) == made.final
    assert all(e.verify(experiment.folder) is None for e in experiment.entries())
    assert experiment.newest_good()[1] == []


@pytest.mark.usefixtures("without_ray")
@pytest.mark.parametrize("manifest", ["told", slow("lost")])
def test_where_all_are_damaged_the_run_begins_again_says_so_and_ends_with_the_same_bits(
    tmp_path: Path, made: Made, manifest: str
) -> None:
    experiment = copy_of(made.stopped, tmp_path)
    names = [e.file for e in experiment.entries()]
    for name in names:
        path = experiment.folder / name
        path.write_bytes(path.read_bytes()[:-1000])
    if manifest == "lost":
        (experiment.folder / layout.MANIFEST).unlink()
    warnings, event = go_on(experiment)
    assert all(any(w.startswith(name) for w in warnings) for name in names)
    assert any(w == f"Continuing {experiment.id} from the start." for w in warnings)
    assert event["checkpoint"] == "the start"
    assert weights_hash(experiment) == made.final
    assert [(e.epoch, e.verify(experiment.folder)) for e in experiment.entries()] == [(1, None), (2, None), (3, None)]
    rows = [(e.folder / layout.HISTORY_CSV).read_text().splitlines() for e in (experiment, made.ended)]
    assert [line.split(",")[:5] for line in rows[0]] == [line.split(",")[:5] for line in rows[1]]


@pytest.mark.usefixtures("without_ray")
def test_a_whole_run_goes_on_without_any_word_of_damage(tmp_path: Path, made: Made) -> None:
    experiment = copy_of(made.stopped, tmp_path)
    newest = experiment.entries()[-1].file
    warnings, event = go_on(experiment)
    assert warnings == [f"Continuing {experiment.id} from {newest}."]
    assert event["damaged"] is None
    assert weights_hash(experiment) == made.final


@pytest.mark.usefixtures("without_ray")
@pytest.mark.parametrize("which", [slow(0), 1, slow(2)], ids=["epoch 1", "epoch 2", "batch 1"])
def test_without_the_manifest_another_checkpoint_in_the_newest_ones_place_does_not_change_the_result(
    tmp_path: Path, made: Made, which: int
) -> None:
    # As a wrong copy or a file system repair leaves it: whole by its own checksums, but not what its name says.
    experiment = copy_of(made.stopped, tmp_path)
    entries = experiment.entries()
    shutil.copyfile(experiment.folder / entries[which].file, experiment.folder / entries[-1].file)
    (experiment.folder / layout.MANIFEST).unlink()
    go_on(experiment)
    assert weights_hash(experiment) == made.final


@pytest.mark.usefixtures("without_ray")
@pytest.mark.parametrize(
    ("field", "bit"),
    [
        pytest.param(20, 3, id="compressed size: only torch refuses it"),
        pytest.param(38, 4, id="attributes: torch takes a tensor for a folder and leaves its memory as it was"),
    ],
)
def test_without_the_manifest_a_bit_that_only_the_loader_minds_changes_nothing(
    tmp_path: Path, made: Made, field: int, bit: int
) -> None:
    experiment = copy_of(made.stopped, tmp_path)
    newest = experiment.entries()[-1].file
    data = bytearray((experiment.folder / newest).read_bytes())
    name = data.rindex(b"/data/0")  # in the directory, which comes last
    data[data.rindex(b"PK\1\2", 0, name) + field] ^= 1 << bit
    (experiment.folder / newest).write_bytes(data)
    (experiment.folder / layout.MANIFEST).unlink()
    warnings, _ = go_on(experiment)
    assert weights_hash(experiment) == made.final
    assert any(w.startswith(newest) for w in warnings)


# A manifest that is damaged itself


def small_experiment(root: Path) -> Experiment:
    experiment = make_experiment(root / ID, [(1, None), (2, None), (3, 8)], best=2)
    write_history(experiment, 2)
    return experiment


def is_json(path: Path) -> bool:
    try:
        json.loads(path.read_bytes())
    except ValueError:
        return False
    return True


def wrong_with_manifest(experiment: Experiment, before: list[ManifestEntry]) -> Iterator[tuple[str, str]]:
    """(class, text) of what the program does wrong with the manifest that is there."""
    readers: list[Callable[[], object]] = [
        experiment.manifest,
        lambda: catalog.summary(experiment),
        lambda: retention.removable(experiment, 1, None, set()),
        *(lambda which=which: experiment.entry(which) for which in ("best", "latest", "1")),
    ]
    for reader in readers if is_json(experiment.folder / layout.MANIFEST) else ():  # else all see the same: none
        try:
            reader()
        except RaysweepError:
            continue
        except Exception as error:
            yield "raised", f"{type(error).__name__}: {error}"
    try:
        good, problems = experiment.newest_good()
        entries = experiment.entries()
        lost = experiment.manifest().problems
    except RaysweepError:
        return
    except Exception as error:
        yield "raised", f"{type(error).__name__}: {error}"
        return
    known = [place(e) for e in before]
    if good is None:
        yield "lost", f"no checkpoint is left, told is {problems}"
    elif good.verify(experiment.folder) is not None:
        yield "used", f"{good} is used"
    elif place(good) not in known:
        yield "used", f"{good.file} is used as epoch {good.epoch}, batch {good.batch}"
    elif place(good) != known[-1] and not problems:
        yield "silent", f"{good.file} is used instead of {known[-1][0]}, nothing is told"
    if len(entries) < len(before) and not (problems or lost):
        yield "silent", f"{len(before) - len(entries)} checkpoints are gone, nothing is told"
    for entry in entries:
        if place(entry) not in known and entry.verify(experiment.folder) is None:
            yield "used", f"{entry.file} verifies as epoch {entry.epoch}, batch {entry.batch}"


@pytest.fixture(scope="module")
def flips(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, str]]:
    """(class, text) of what goes wrong after a bit of a manifest flips: 300 anywhere, and each in the newest row."""
    experiment = small_experiment(tmp_path_factory.mktemp("flips"))
    path = experiment.folder / layout.MANIFEST
    whole, before = path.read_bytes(), experiment.entries()
    assert list(wrong_with_manifest(experiment, before)) == []
    rng = random.Random(4)
    newest = whole.index(before[-1].file.encode())
    digest = whole.index(before[-1].sha256.encode())  # of its digits some are enough
    row = {*range(newest - 9, digest + 2), *range(digest + 62, whole.index(b'"created"', newest))}
    bits = {(rng.randrange(len(whole)), rng.randrange(8)) for _ in range(300)}
    bits |= {(at, bit) for at in row for bit in range(7)}  # the eighth makes it no UTF-8: torn
    found = []
    for at, bit in sorted(bits):
        data = bytearray(whole)
        data[at] ^= 1 << bit
        path.write_bytes(data)
        line = whole.count(b"\n", 0, at)
        shown = f"bit {bit} of byte {at}: {bytes(data).splitlines()[line].strip()!r}"
        found += [(kind, f"{shown}: {text}") for kind, text in wrong_with_manifest(experiment, before)]
    return found


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param("raised", id="it raises nothing but errors of ours"),
        pytest.param("lost", id="some checkpoint is left"),
        pytest.param("used", id="nothing is used that is not what it is called"),
        pytest.param("silent", id="whatever is lost is told"),
    ],
)
def test_a_flipped_bit_of_the_manifest(flips: list[tuple[str, str]], kind: str) -> None:
    wrong = [text for k, text in flips if k == kind]
    assert wrong == [], f"{len(wrong)} flips: " + "\n".join(wrong[:SHOWN])


def test_a_manifest_cut_at_any_length_loses_no_checkpoint_and_it_is_told(tmp_path: Path) -> None:
    experiment = small_experiment(tmp_path)
    path = experiment.folder / layout.MANIFEST
    whole, before = path.read_bytes(), experiment.entries()
    for length in range(len(whole) - 1):  # the last byte is the end of the line
        path.write_bytes(whole[:length])
        good, problems = experiment.newest_good()
        assert (good and place(good)) == place(before[-1]), length
        assert [place(e) for e in experiment.entries()] == [place(e) for e in before]
        assert len(problems) == 1
        assert "manifest.json is torn" in problems[0]
        if length % 50 == 0:
            assert list(wrong_with_manifest(experiment, before)) == []


@pytest.mark.parametrize("field", ["bytes", "sha256"])
def test_a_flipped_bit_in_what_identifies_a_file_costs_that_checkpoint_only(tmp_path: Path, field: str) -> None:
    experiment = small_experiment(tmp_path)
    path = experiment.folder / layout.MANIFEST
    whole, before = path.read_bytes(), experiment.entries()
    start = whole.index(f'"{field}": '.encode(), whole.index(before[-1].file.encode())) + len(field) + 4
    tried = 0
    for at in range(start, whole.index(b"\n", start) - 1):
        for bit in range(7):
            data = bytearray(whole)
            data[at] ^= 1 << bit
            path.write_bytes(data)
            good, problems = experiment.newest_good()
            assert good is not None
            # The row no longer fits its file; or the manifest is no JSON any more and the files speak for themselves.
            assert place(good) in [place(e) for e in before[-2:]]
            assert problems
            tried += 1
    assert tried > 10


@pytest.mark.usefixtures("without_ray")
@pytest.mark.parametrize(
    ("old", "new"),
    [
        pytest.param('"epoch": 3,', '"epoch": 7,', id="epoch of the newest: as if the run had ended"),
        pytest.param('"epoch": 3,', '"epoch": 1,', marks=pytest.mark.slow, id="epoch of the newest: as if it were old"),
        pytest.param('"epoch": 2,', '"epoch": 3,', marks=pytest.mark.slow, id="epoch of the one before"),
        pytest.param('"batch": 2,', '"bauch": 2,', id="batch of the newest is gone: as if the epoch had ended"),
        pytest.param('"batch": 2,', '"batch": 0,', marks=pytest.mark.slow, id="batch of the newest"),
        pytest.param('"sha256": ', '"sha356": ', id="hash of the newest is gone"),
        pytest.param(
            '"best": {\n    "epoch"', '"best": {\n    "apoch"', marks=pytest.mark.slow, id="epoch of the best is gone"
        ),
        pytest.param('"metric": ', '"mmtric": ', marks=pytest.mark.slow, id="metric of the best is gone"),
        pytest.param('"value": ', '"valud": ', marks=pytest.mark.slow, id="value of the best is gone"),
        pytest.param('"best": ', '"bast": ', marks=pytest.mark.slow, id="the best is gone"),
        pytest.param('"checkpoints": ', '"checkqoints": ', id="all are gone"),
    ],
)
def test_a_run_goes_on_to_the_same_bits_whatever_bit_of_its_manifest_has_flipped(
    tmp_path: Path, made: Made, old: str, new: str
) -> None:
    assert sum((a ^ b).bit_count() for a, b in zip(old.encode(), new.encode(), strict=True)) == 1
    experiment = copy_of(made.stopped, tmp_path)
    newest = experiment.entries()[-1].file
    path = experiment.folder / layout.MANIFEST
    text = path.read_text()
    at = text.rfind(old, 0, text.index('"best"'))  # in the newest row, or else where it tells the best
    at = text.index(old) if at < 0 else at
    path.write_text(text[:at] + new + text[at + len(old) :])
    _, event = go_on(experiment)
    assert experiment.status() == "finished"
    assert weights_hash(experiment) == made.final
    assert [e.epoch for e in experiment.entries()] == [1, 2, 3]
    assert event["checkpoint"] == newest or event["damaged"]
