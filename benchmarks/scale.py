"""The overhead of ten thousand branches beyond their training: time per branch, and memory of the driver.

``ours`` is the whole of ``raysweep branch`` without the training: the plan, Ray Tune with reused actors, the event channel,
the display (not on a terminal), gauges, TensorBoard, ``sweep.json``, ``results.csv`` and the final report. Each branch creates
its folder as usual (lock, configuration, both logs). Instead of training, it writes a manifest with one checkpoint that does
not exist and a history of two rows, and sends the events of one batch and one epoch. Pictures, checkpoint and predictions
belong to the training, so they are missing, and the report has nothing to compare.

``bare`` is Ray Tune alone: the same number of functions, each reporting one result, in reused actors, with the settings that
raysweep gives to Tune and without any files.

``--listing N`` creates N small experiments under ``--root`` instead, and times ``raysweep list`` there.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import measuring
from benchmarks.sweep import parent_of
from raysweep.events import (
    BatchDone,
    BranchEnded,
    BranchEvent,
    Connected,
    EpochDone,
    Event,
    SweepEnded,
    TrainingStarted,
)
from raysweep.store.records_manifest import Manifest, ManifestEntry
from raysweep.store.root import Root

MARKS = (1_000, 5_000, 10_000)  # the driver's memory is recorded after these numbers of branches
LIMIT_MS = 50.0


def memory_mb() -> float:
    """Current memory of this process in MB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


_KINDS = {  # part of the command line → kind of process
    "gcs_server": "GCS", "raylet/raylet": "raylet", "dashboard/agent": "agent", "runtime_env/agent": "agent",
    "dashboard/dashboard": "dashboard", "ray::": "actors", "ray-dashboard": "dashboard",
}  # fmt: skip


def processor_s() -> dict[tuple[int, str], float]:
    """(process id, kind) → CPU seconds of this process and of all its descendants, including Ray's processes."""
    import psutil

    me = psutil.Process()
    found = {(me.pid, "driver"): sum(me.cpu_times()[:2])}
    for process in me.children(recursive=True):
        with contextlib.suppress(psutil.Error):
            command = " ".join(process.cmdline())
            kind = next((kind for words, kind in _KINDS.items() if words in command), "other")
            found[process.pid, kind] = sum(process.cpu_times()[:2])
    return found


class Marks:
    """Time and memory of the driver after each number of finished branches."""

    def __init__(self) -> None:
        self.count = 0
        self.began = time.perf_counter()
        self.seen: dict[int, tuple[float, float]] = {}
        self.before: dict[tuple[int, str], float] = {}
        self.used: dict[tuple[int, str], float] = {}

    def start(self) -> None:
        self.before = self.used = processor_s()
        self.began = time.perf_counter()
        self.seen[0] = 0.0, memory_mb()

    def ended(self) -> None:
        self.count += 1
        if self.count % 20 == 0:  # sampled, because actors are gone when the last branch has ended
            self.used = self.used | processor_s()
        if self.count % 500 == 0 or self.count == 100:
            self.seen[self.count] = time.perf_counter() - self.began, memory_mb()

    def record(self) -> dict[str, Any]:
        kinds: dict[str, float] = {}
        for (pid, kind), seconds in self.used.items():
            kinds[kind] = kinds.get(kind, 0.0) + seconds - self.before.get((pid, kind), 0.0)
        return {
            "cpu_s": {k: round(v, 1) for k, v in kinds.items()},
            "marks": {str(n): [round(v, 2) for v in pair] for n, pair in self.seen.items()},
        }


# --- ours -------------------------------------------------------------------------------------------------------------


def nothing(job: Any, reporter: Any, start: Any = None) -> Any:
    """Replaces the training function: writes the files and sends the events of an epoch without training."""
    from raysweep.store.experiment import Experiment
    from raysweep.training.checkpointing import write_history
    from raysweep.training.job import Outcome

    classes = list(job.weights.classes)
    reporter(TrainingStarted(job.last_epoch))
    reporter(BatchDone(job.last_epoch, 1, 1, 1.0, 1.0))
    row: dict[str, Any] = {"epoch": job.last_epoch, "train_loss": 1.0, "train_acc": 0.5, "val_loss": 1.0}
    row |= {"val_acc": 0.5, "val_macro_f1": 0.5, "balanced_accuracy": 0.5, "images_per_second": 1.0, "seconds": 1.0}
    row |= {"worst_class": classes[0], "worst_recall": 0.5} | {f"recall_{c}": 0.5 for c in classes}
    history = {k: [v, v] for k, v in row.items() if not k.startswith("worst")}
    history["epoch"] = [job.last_epoch - 1, job.last_epoch]
    experiment = Experiment(job.folder)
    name = f"checkpoint_epoch_{job.last_epoch}.pt"
    experiment.write_manifest(Manifest([ManifestEntry(name, 1, "0" * 64, job.last_epoch, None, "", row)]))
    write_history(experiment.folder, history, classes)
    reporter(EpochDone(job.last_epoch, row, best=True, save_seconds=0.0, blocked_seconds=0.0))
    reporter.should_stop()
    return Outcome(job.last_epoch, 0.5)


def trainable(config: dict[str, Any], kept: Any) -> None:
    """raysweep's own trainable, in an actor in which training and drawing figures do nothing."""
    from raysweep.launch import runner
    from raysweep.launch.sweep import branch as branches
    from raysweep.training import loop

    loop.train = nothing
    runner.derive = lambda *_: None
    branches.train_kept(config, kept)


def ours(root: Path, branches: int) -> dict[str, Any]:
    """Run a sweep from the grid to the end of the command; measure each part."""
    from raysweep.config import grid as grids
    from raysweep.display.sweep import SweepDisplay
    from raysweep.launch.sweep import driver as sweeping
    from raysweep.launch.sweep import tune as tuning
    from raysweep.plan import sweep as sweep_plan
    from raysweep.plan.types import SweepRequest

    parent = parent_of(root, 1)
    tuning.train_kept = trainable  # type: ignore[assignment]
    marks, at = Marks(), {"begin": time.perf_counter()}
    drawn = {c: {"log_uniform": [0.5, 8.0]} for c in ("disgust", "fear", "sad")}
    # The control is one of the branches.
    search = {"algorithm": "random", "num_samples": branches - 1, "ranges": drawn}
    values = {"epochs": 1, "control": True, "search": search}
    plan = sweep_plan.plan_sweep(SweepRequest(Root.open(root), f"{parent.id}@1", grids.check(values), threads=1))
    at["planned"] = time.perf_counter()
    with SweepDisplay() as display:

        def progress(event: Event) -> None:
            match event:
                case Connected():
                    at["connected"] = time.perf_counter()
                    marks.start()
                case SweepEnded():
                    at["sweep_end"] = time.perf_counter()
                case BranchEvent(_, BranchEnded()):
                    marks.ended()
            display(event)

        result = sweeping.run(plan, progress)
    at["end"] = time.perf_counter()
    assert not result.failed, list(result.failed.items())[:3]
    assert len(result.experiments) == branches
    folder = result.sweep.folder
    return marks.record() | {
        "seconds": at["sweep_end"] - at["connected"],
        "plan_s": at["planned"] - at["begin"],
        "ray_s": at["connected"] - at["planned"],
        "report_s": at["end"] - at["sweep_end"],
        **{f"{name}_mb": (folder / name).stat().st_size / 1e6 for name in ("sweep.json", "results.csv")},
    }


# --- Ray Tune alone ---------------------------------------------------------------------------------------------------


def bare(root: Path, branches: int) -> dict[str, Any]:
    """The same number of trials that do nothing, with the environment that raysweep gives to Tune."""
    from raysweep.cluster import connect
    from raysweep.launch.sweep import tune as tuning

    for key, value in tuning._ENVIRONMENT.items():
        os.environ.setdefault(key, value)
    connect.quiet_environment()
    from ray import tune

    connection = connect.connect(None)
    marks = Marks()

    class Counter(tune.Callback):
        def on_trial_complete(self, *args: Any, **more: Any) -> None:
            marks.ended()

    def function(config: dict[str, Any]) -> None:
        tune.report({"epochs_done": 1, "val_acc": 0.5, "val_macro_f1": 0.5, "balanced_accuracy": 0.5})

    marks.start()
    tuner = tune.Tuner(
        tune.with_resources(function, {"CPU": 1}),
        param_space={"branch": tune.grid_search([f"branch-{i}" for i in range(branches)])},
        tune_config=tune.TuneConfig(max_concurrent_trials=os.cpu_count(), reuse_actors=True),
        run_config=tune.RunConfig(storage_path=str(root / "tune"), verbose=0, callbacks=[Counter()]),
    )
    results = tuner.fit()
    seconds = time.perf_counter() - marks.began
    assert len(results) == branches
    assert not results.errors
    if connection["local"]:
        connect.disconnect()
    return marks.record() | {"seconds": seconds}


# --- a root of many experiments ------------------------------------------------------------------------------------


def make_root(address: str, experiments: int, checkpoints: int = 1, at_once: int = 32) -> float:
    """Fill an empty root (a folder or the address of an object store) with small experiments; return the seconds.

    They are written without raysweep, many in parallel, because only reading them is measured.
    """
    from concurrent.futures import ThreadPoolExecutor

    from benchmarks.catalog import contents, make
    from raysweep._paths import is_address

    began = time.perf_counter()
    if not is_address(address):
        make(Path(address), experiments, checkpoints)
        time.sleep(2.5)  # until the index trusts the modification times
        return time.perf_counter() - began - 2.5
    from raysweep.store.remote.bucket import Bucket

    bucket = Bucket.parse(address)

    def write(folder: tuple[str, dict[str, bytes]]) -> None:
        for name, content in folder[1].items():
            bucket.client.put_object(Bucket=bucket.name, Key=bucket._path(f"{folder[0]}/{name}"), Body=content)

    with ThreadPoolExecutor(at_once) as pool:
        for _ in pool.map(write, contents(experiments, checkpoints)):
            pass
    return time.perf_counter() - began


def listing(address: str, experiments: int, repeats: int) -> None:
    """Fill the root if it is empty, and time ``raysweep list`` there as whole processes."""
    import json

    from benchmarks.catalog import RAYSWEEP, timed

    command = [*RAYSWEEP, "list", "--json", "--root", address]
    if not json.loads(timed(command)[1]):
        print(f"creating {experiments:,} experiments took {make_root(address, experiments):.1f} s")
    for i in range(repeats + 1):
        seconds, out = timed(command)
        assert len(json.loads(out)) == experiments, "the root contains other experiments"
        print(f"list --json, {'first' if i == 0 else 'again'}: {seconds:.2f} s, {len(out) / 1e6:.1f} MB")


# --- the table --------------------------------------------------------------------------------------------------------

WAYS: dict[str, Callable[[Path, int], dict[str, Any]]] = {"bare": bare, "ours": ours}


def compare(branches: int, root: Path) -> None:
    """Run each variant once in its own process, and print the table."""
    found = {way: measuring.in_a_process("benchmarks.scale", way, root / way, branches=branches) for way in WAYS}
    print(measuring.machine() + "\n")
    print(
        f"| {branches:,} branches that do nothing | ms each | driver's peak, MB | at the start | KB growth per branch |"
    )
    print("|---|---|---|---|---|")
    for way, name in (("ours", "raysweep branch"), ("bare", "Ray Tune alone")):
        r = found[way]
        marks = {int(n): mb for n, (_, mb) in r["marks"].items()}
        first, last = (500 if len(marks) > 3 else 0), max(marks)
        more = (marks[last] - marks[first]) * 1024 / max(1, last - first)
        each = 1000 * r["seconds"] / branches
        goal = f" (≤ {LIMIT_MS:g} {'✓' if each <= LIMIT_MS else '✗'})" if way == "ours" else ""
        print(f"| {name} | {each:.1f}{goal} | {r['peak_mb']:,.0f} | {r['marks']['0'][1]:,.0f} | {more:.0f} |")
    print("\n| branches done | " + " | ".join(f"{way}: s, MB" for way in WAYS) + " |\n|---|" + "---|" * len(WAYS))
    for n in found["ours"]["marks"]:
        if int(n) in MARKS or int(n) == branches:
            print(
                f"| {int(n):,} | "
                + " | ".join(f"{s:.1f}, {mb:,.0f}" for s, mb in (found[w]["marks"][n] for w in WAYS))
                + " |"
            )
    print("\nCPU seconds while the branches ran:")
    for way in WAYS:
        print(f"  {way}: " + ", ".join(f"{k} {v:g}" for k, v in found[way]["cpu_s"].items()))
    r = found["ours"]
    print(
        f"\nours: plan {r['plan_s']:.1f} s, Ray's startup {r['ray_s']:.1f} s, report {r['report_s']:.1f} s; sweep.json "
        f"{r['sweep.json_mb']:.1f} MB, results.csv {r['results.csv_mb']:.1f} MB"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--branches", type=int, default=1_000)
    parser.add_argument(
        "--root",
        help="where to make the folders; they are kept. With --listing it may be the address of an object store",
    )
    parser.add_argument("--listing", type=int, metavar="N", help="measure `raysweep list` on N experiments instead")
    parser.add_argument("--repeats", type=int, default=3, help="repeats of the listing")
    parser.add_argument("--way", choices=list(WAYS), help=argparse.SUPPRESS)
    o = parser.parse_args()
    if o.way:
        o.root = Path(o.root)
        o.root.mkdir(parents=True, exist_ok=True)
        measuring.answer({w: lambda root, o, run=run: run(root, o.branches) for w, run in WAYS.items()}, o)
    elif o.listing:
        listing(o.root or "experiments", o.listing, o.repeats)
    else:
        with tempfile.TemporaryDirectory() as folder:
            compare(o.branches, Path(o.root or folder))


if __name__ == "__main__":
    main()
