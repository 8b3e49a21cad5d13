"""Read what the trackers' own files contain, without the trackers where that is possible, and stand-ins for their processes."""

from __future__ import annotations

import csv
import json
import sqlite3
import struct
from pathlib import Path
from typing import Any

import numpy as np

from raysweep.events import Event, Progress
from raysweep.trackers import snapshot
from raysweep.trackers.worker import Answer
from tests.conftest import Recorder

Curves = dict[str, list[tuple[int, float]]]  # name → (epoch, value) in the order they were written


class Forwarding(Recorder):
    """A reporter that passes every event on to a run's progress, as the launcher's own do."""

    def __init__(self, progress: Progress, stop_after: int | None = None) -> None:
        super().__init__(stop_after)
        self.progress = progress

    def __call__(self, event: Event) -> None:
        self.progress(event)


def history(folder: Path, single: bool = False) -> Curves:
    """The curves that trackers must show, from ``training_history.csv`` alone; ``single``: rounded to float32."""
    classes = json.loads((folder / "experiment_config.json").read_text())["classes"]
    found: Curves = {}
    with open(folder / "training_history.csv", newline="") as file:
        for row in csv.DictReader(file):
            for column, cell in row.items():
                what, _, c = column.partition("_")
                name = f"{what}/{c}" if c in classes else column
                if column != "epoch" and cell:
                    value = float(np.float32(cell)) if single else float(cell)
                    found.setdefault(name, []).append((int(row["epoch"]), value))
    return found


def event_files(folder: Path) -> list[Path]:
    """In the order in which TensorBoard reads them."""
    return sorted((folder / "tensorboard").glob("events.out.tfevents.*"))


def events(folder: Path) -> list[Any]:
    """The events that TensorBoard shows of an experiment; every checksum is checked. A restart removes the earlier events from
    its step on. The last record may be torn only in a file that another file follows."""
    from tensorboardX.proto.event_pb2 import Event, SessionLog
    from tensorboardX.record_writer import masked_crc32c

    paths, found = event_files(folder), []
    for path in paths:
        data = path.read_bytes()
        while data:
            (size,) = struct.unpack("<Q", data[:8].ljust(8, b"\0"))
            if len(data) < 16 + size and path != paths[-1]:
                break
            assert struct.unpack("<I", data[8:12])[0] == masked_crc32c(data[:8])
            body = data[12 : 12 + size]
            assert struct.unpack("<I", data[12 + size : 16 + size])[0] == masked_crc32c(body)
            event = Event.FromString(body)
            if event.session_log.status == SessionLog.START:
                found = [e for e in found if e.step < event.step]
            found.append(event)
            data = data[16 + size :]
    return found


def board(folder: Path) -> Curves:
    found: Curves = {}
    for event in events(folder):
        for value in event.summary.value:
            if value.WhichOneof("value") == "simple_value":
                found.setdefault(value.tag, []).append((event.step, value.simple_value))
    return found


def mlflow_run(folder: Path) -> Any:
    from mlflow import MlflowClient

    ids = json.loads((folder / "tracker_mlflow.json").read_text())["ids"]
    return MlflowClient(ids["uri"]).get_run(ids["run_id"])


def mlflow_curves(folder: Path) -> Curves:
    """Every row of this run in MLflow's table. MLflow's own API would hide a row that is there twice."""
    ids = json.loads((folder / "tracker_mlflow.json").read_text())["ids"]
    with sqlite3.connect(ids["uri"].removeprefix("sqlite:///")) as database:
        rows = database.execute(
            "SELECT key, step, value FROM metrics WHERE run_uuid = ? ORDER BY step, timestamp", (ids["run_id"],)
        ).fetchall()
    return _curves(rows)


def trackio_curves(folder: Path, base: Path) -> Curves:
    ids = json.loads((folder / "tracker_trackio.json").read_text())["ids"]
    with sqlite3.connect(base / f"{ids['project']}.db") as database:
        rows = database.execute("SELECT step, metrics FROM metrics WHERE run_name = ? ORDER BY id", (ids["run"],))
        return _curves([(k, step, v) for step, values in rows for k, v in json.loads(values).items()])


def wandb_curves(folder: Path) -> Curves:
    """The history in an experiment's only offline run, which is a LevelDB log (records in blocks of 32 KiB)."""
    from wandb.proto.wandb_internal_pb2 import Record

    (path,) = (folder / "wandb").glob("offline-run-*/run-*.wandb")
    data, at, body, rows = path.read_bytes(), 7, b"", []
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        _, size, kind = struct.unpack("<IHB", data[at : at + 7])
        body += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # whole, or the last part
            record = Record.FromString(body)
            body = b""
            for item in record.history.item:
                key = item.key or ".".join(item.nested_key)
                if not key.startswith("_"):
                    rows.append((key, record.history.step.num, json.loads(item.value_json)))
    return _curves(rows)


def _curves(rows: list[tuple[str, int, float]]) -> Curves:
    found: Curves = {}
    for name, step, value in rows:
        found.setdefault(name, []).append((step, value))
    return found


class Here:
    """Stands in for a tracker's process: it does each request at once, in this process."""

    def __init__(self, name: str) -> None:
        from raysweep.trackers import base as trackers

        self.tracker = trackers.make(name)
        self.asked: dict[str, int] = {}
        self.answers: list[Answer] = []
        self.running = False

    def ask(self, folder: str) -> None:
        self.tracker.sync(snapshot.read(Path(folder)))

    def send(self) -> bool:
        return True

    def kill(self) -> None:
        self.tracker.close()

    @property
    def process(self) -> Any:
        class Done:
            returncode = 0

        return Done
