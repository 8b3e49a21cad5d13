"""The time to list many experiments: raysweep's index over plain folders against MLflow's SQLite store with the same runs.

Every figure is the wall time of a whole process, from the command to its last byte of output: the median of ``--repeats``.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from benchmarks.measuring import Row

CLASSES = ("angry", "disgust", "fear", "happy", "neutral", "sad", "surprise")
RAYSWEEP = [str(Path(sys.executable).with_name("raysweep"))]  # what users type


def make(root: Path, experiments: int, checkpoints: int) -> None:
    """Write :func:`contents` into a folder."""
    for name, written in contents(experiments, checkpoints):
        folder = root / name
        folder.mkdir(parents=True)
        for file, content in written.items():
            (folder / file).write_bytes(content)


def contents(experiments: int, checkpoints: int) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Experiment folders as training writes them. Nine of ten are children of an earlier one; checkpoints are a few bytes.

    Yields each folder's name and its files in the order in which to write them; the manifest comes last.
    """
    from raysweep.store import layout

    chance = random.Random(0)
    start = datetime(2026, 1, 1)
    ids: list[str] = []
    for i in range(experiments):
        name = layout.make_id(f"run{i % 97}", start + timedelta(seconds=37 * i))
        files: dict[str, bytes] = {}
        weights = dict.fromkeys(CLASSES, 1.0)
        events: list[dict[str, Any]] = [{"type": "EXPERIMENT_START", "new_weights": weights}]
        parent = None
        if ids and i % 10:
            weights = {**weights, "disgust": round(1 + chance.random() * 4, 2)}
            parent = {"experiment": ids[-(i % 10)], "epoch": 3, "batch": 0, "sha256": "0" * 64, "file": "x"}
            old = dict.fromkeys(CLASSES, 1.0)
            events += [
                {"type": "RESUME_FROM_CHECKPOINT", "experiment": parent["experiment"], "epoch": 3},
                {"type": "TRAINING_DATA_RATIO_CHANGE", "old_weights": old, "new_weights": weights},
            ]
        events.append({"type": "FINISHED", "epochs": checkpoints})
        rows = []
        accuracy = [round(0.4 + 0.3 * chance.random(), 4) for _ in range(checkpoints)]
        for epoch in range(1, checkpoints + 1):
            file = layout.checkpoint_name(layout.Position(epoch, None))
            content = f"{name} {epoch}".encode()
            files[file] = content
            metrics = {"val_acc": accuracy[epoch - 1], "val_macro_f1": accuracy[epoch - 1] - 0.05, "val_loss": 1.0}
            metrics |= {f"recall_{c}": chance.random() for c in CLASSES}
            metrics |= {"worst_class": "disgust", "worst_recall": 0.1}
            digest = hashlib.sha256(content).hexdigest()
            rows.append(
                {
                    "file": file,
                    "bytes": len(content),
                    "sha256": digest,
                    "epoch": epoch,
                    "batch": None,
                    "metrics": metrics,
                }
            )
        best = max(range(checkpoints), key=accuracy.__getitem__)
        config = {
            "experiment_name": f"run{i % 97}", "timestamp": (start + timedelta(seconds=37 * i)).strftime(layout.TIME_FORMAT),
            "sampling_weights": weights, "num_epochs": checkpoints, "classes": list(CLASSES), "parent": parent,
            "settings": {"seed": 0},
        }  # fmt: skip
        manifest = {"checkpoints": rows, "best": {"file": rows[best]["file"], "epoch": best + 1, "metric": "val_acc"}}
        files[layout.CONFIG] = json.dumps(config, indent=2).encode()
        lines = [json.dumps({"seq": n, "time": "2026-01-01T00:00:00", **e}) for n, e in enumerate(events, 1)]
        files[layout.LINEAGE] = ("\n".join(lines) + "\n").encode()
        history = "\n".join(f"1.0,0.5,1.0,{a},{n}" for n, a in enumerate(accuracy, 1))
        files[layout.HISTORY_CSV] = f"train_loss,train_acc,val_loss,val_acc,epoch\n{history}\n".encode()
        files[layout.MANIFEST] = json.dumps(manifest, indent=2).encode()
        ids.append(name)
        yield name, files


def fill_mlflow(uri: str, root: Path) -> float:
    """Write the same runs into MLflow: configuration as parameters, the best epoch as metrics. Returns the seconds it took."""
    from mlflow.entities import Metric, Param, RunTag
    from mlflow.tracking import MlflowClient

    from raysweep.store import index
    from raysweep.store.root import Root

    began = time.perf_counter()
    client = MlflowClient(uri)
    experiment = client.create_experiment("all")
    for row in index.rows(Root.open(root)):
        run = client.create_run(experiment, run_name=row.id)
        metrics = [Metric(k, float(getattr(row, k)), 0, 0) for k in ("best_acc", "best_epoch", "best_macro_f1")]
        params = [Param(f"weight_{c}", str(w)) for c, w in row.sampling_weights.items()]
        tags = [RunTag("parent", row.parent.experiment if row.parent else "-"), RunTag("status", row.status)]
        client.log_batch(run.info.run_id, metrics, params, tags)
        client.set_terminated(run.info.run_id)
    return time.perf_counter() - began


MLFLOW = """
import sys
from mlflow.tracking import MlflowClient
client, token, n = MlflowClient(sys.argv[1]), None, 0
while True:
    page = client.search_runs(["1"], max_results=50000, page_token=token)
    n, token = n + len(page), page.token
    if not token:
        break
print(n)
"""


def timed(command: list[str], **more: Any) -> tuple[float, str]:
    began = time.perf_counter()
    done = subprocess.run(command, capture_output=True, check=True, **more)
    return time.perf_counter() - began, done.stdout.decode()


IMPORTS = "python -c 'import typer, sqlite3'"
HELP, WARM = "raysweep --help", "list --json, warm"


def measured(base: Path, experiments: int, checkpoints: int, repeats: int, mlflow: bool) -> dict[str, list[float]]:
    """What is measured → its seconds.

    Args:
        base: where to make the folders; those that are there are taken.
        mlflow: also fill MLflow's database with the same runs, which takes minutes, and list it.
    """
    root = base / "experiments"
    if not root.exists():
        make(root, experiments, checkpoints)
        time.sleep(2.5)  # until the index trusts the modification times
    index, listing = root / ".raysweep" / "index.sqlite", [*RAYSWEEP, "list", "--json", "--root", str(root)]
    ways: dict[str, list[float]] = {}

    def measure(name: str, command: list[str]) -> str:
        seconds, out = timed(command)
        ways.setdefault(name, []).append(seconds)
        return out

    if mlflow:
        uri = f"sqlite:///{base / 'mlflow.db'}"
        if not (base / "mlflow.db").exists():
            print(f"filling MLflow took {fill_mlflow(uri, root):.1f} s", file=sys.stderr)
    some = [p for p in sorted(root.glob("run*")) if "FAILED" not in (p / "lineage.jsonl").read_text()]
    failed = experiments - len(some)
    for i in range(repeats):  # in turn, so that a slow minute of the machine affects all of them
        measure(IMPORTS, [sys.executable, "-c", "import typer, sqlite3"])
        measure(HELP, [*RAYSWEEP, "--help"])
        if i < 3:
            index.unlink(missing_ok=True)
            measure("list --json, no index", listing)
        rows = json.loads(measure(WARM, listing))
        assert len(rows) == experiments
        assert all(r["epochs_done"] == checkpoints for r in rows)
        log = some[i] / "lineage.jsonl"
        log.write_text(log.read_text().replace("FINISHED", "FAILED"))
        changed = json.loads(measure("list --json, one folder changed", listing))
        assert sum(r["status"] == "failed" for r in changed) == failed + 1 + i
        time.sleep(2.5)
        if mlflow:
            assert int(measure("MLflow search_runs, SQLite", [sys.executable, "-c", MLFLOW, uri])) == experiments
    return ways


def compare(repeats: int) -> list[Row]:
    """Against limits in seconds, which hold on an idle machine."""
    with tempfile.TemporaryDirectory() as folder:
        ways = measured(Path(folder), 10_000, 20, repeats, mlflow=False)
    limits = {HELP: 0.15, WARM: 0.3}
    what = {HELP: HELP, WARM: f"{WARM}, 10,000 experiments"}
    return [Row(what[n], f"{s:g} s", ways[n], [s] * len(ways[n]), "s", 1.0) for n, s in limits.items()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--experiments", type=int, default=10_000)
    parser.add_argument("--checkpoints", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--root", type=Path, help="where to make the folders; they are kept")
    parser.add_argument(
        "--without-mlflow", action="store_true", help="skip MLflow, whose database takes minutes to fill"
    )
    arguments = parser.parse_args()
    base = arguments.root or Path(tempfile.mkdtemp())
    ways = measured(base, arguments.experiments, arguments.checkpoints, arguments.repeats, not arguments.without_mlflow)
    result = {name: {"median": statistics.median(s), "all": s} for name, s in ways.items()}
    base_time = result[IMPORTS]["median"]
    print(
        f"| {arguments.experiments:,} experiments × {arguments.checkpoints} checkpoints | seconds (least, most) | ratio to the imports |\n|---|---|---|"
    )
    for name, r in result.items():
        print(
            f"| {name} | {r['median']:.2f} ({min(r['all']):.2f}, {max(r['all']):.2f}) | {r['median'] / base_time:.1f} |"
        )
    print(json.dumps(result))
    if arguments.root is None:
        shutil.rmtree(base)


if __name__ == "__main__":
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    main()
