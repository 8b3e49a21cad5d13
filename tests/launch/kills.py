"""Random SIGKILLs of drivers, controllers and workers; every training must end, after ``continue``, with the same bits.

``python -m tests.launch.kills FOLDER --count N [--seed S] [--plan driver,driver,worker,…] [--treatments schedule,worst,…]
[--most 4]`` prints a JSON line per training.
A ``driver`` trains in its own process; a ``worker``, a ``controller`` or a ``remote`` driver is killed on two Ray workers.
Every other training's kills wait until a save is under way. Drivers are forked from this process, which has everything imported.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from raysweep.store import files, lineage
from raysweep.store.experiment import Experiment
from tests.conftest import SMALL_NET, weights_hash
from tests.forks import Forked

ON_RAY = ("worker", "controller", "remote")
SETTINGS: dict[str, Any] = {
    "data": {"source": "digits"},
    "model": SMALL_NET,
    "training": {"epochs": 3, "batch_size": 50, "augment": {"crop_padding": 1, "flip": False}},
    "sampling": {"samples_per_epoch": 300, "weights": {"3": 4.0}},
    "checkpoint": {"every_n_batches": 2},
}
# What decides the ratio of an epoch, or the last epoch; each training gets one of those that are asked for.
TREATMENTS: dict[str, dict[str, Any]] = {
    "weights": {},
    "schedule": {"sampling": {"schedule": [{"from": 1}, {"from": 3, "weights": "balanced", "linear": True}]}},
    "worst": {"sampling": {"holdout": 0.2, "policy": {"kind": "worst", "classes": 2, "share": 0.7}}},
    "proportional": {"sampling": {"holdout": 0.2, "policy": {"kind": "proportional", "momentum": 0.5}}},
    "encoded": {"data": {"cache": "encoded"}},
    "patience": {"training": {"epochs": 12, "learning_rate": 1e-9, "patience": 1}},
}
LIMIT_S = 600  # far above what a busy machine takes: only what never ends meets it


def plan_of(count: int) -> list[str]:
    """So many trainings, one in twenty of each kind on Ray, which take minutes, and at least one."""
    of_each = max(1, count // 20)
    return list(ON_RAY) * of_each + ["driver"] * (count - len(ON_RAY) * of_each)


def start(arguments: list[str], log: Path) -> int:
    """A forked process that runs the command line; returns its pid."""

    def work() -> None:
        from raysweep.cli.main import main as command

        command(arguments)

    with open(log, "ab") as out:
        return Forked(work, out.fileno(), out.fileno()).pid


def ended(pid: int) -> int | None:
    """How a process ended: its exit code, minus the signal that killed it, or None while it runs."""
    found, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if found else None


def saving(root: Path) -> set[str]:
    """Temporary files in experiments' folders: a save is under way."""
    return {name for name, _ in versions(root) if name.startswith(files.TEMP_PREFIX)}


def versions(root: Path) -> set[tuple[str, int]]:
    """(name, time of its last change in ns) of every file in experiments' folders."""
    found: set[tuple[str, int]] = set()
    for folder in [*root.glob("kill_*"), *root.glob("whole_*")]:
        with contextlib.suppress(FileNotFoundError):
            for entry in os.scandir(folder):
                with contextlib.suppress(FileNotFoundError):
                    found.add((entry.name, entry.stat().st_mtime_ns))
    return found


class Watch:
    """How far a training is, by the versions of its files, not by a clock: a busy machine changes nothing."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.seen: set[tuple[str, int]] = set()
        self.saving = False

    def look(self) -> int:
        """How many versions of files were seen so far."""
        now = versions(self.root)
        self.saving = any(name.startswith(files.TEMP_PREFIX) for name, _ in now)
        self.seen |= now
        return len(self.seen)


def moment(root: Path, rng: random.Random, steps: int, within_save: bool) -> Iterator[bool]:
    """Yields whether now is the time to kill: after a random part of what an undisturbed training writes, a random while
    later, or in the middle of a save.

    Args:
        steps: how many versions of files were seen of an undisturbed training.
    """
    watch = Watch(root)
    least = watch.look() + rng.randrange(max(1, steps * 2 // 3))
    while watch.look() < least:
        time.sleep(0.001)
        yield False
    if not within_save:
        time.sleep(rng.uniform(0, 0.2))
    while True:
        watch.look()
        yield watch.saving or not within_save


def victim(kind: str, driver: int, cluster: int | None) -> int | None:
    """The process to kill now, or None while it does not exist."""
    if kind in ("driver", "remote"):
        return driver
    title = {"worker": "ray::RayTrainWorker", "controller": "ray::TrainController"}[kind]
    assert cluster is not None
    with contextlib.suppress(psutil.Error):
        # Of our own cluster: others may run on this machine.
        found = [p for p in psutil.Process(cluster).children(recursive=True) if _title(p).startswith(title)]
        if found:
            return random.choice(found).pid
    return None


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def one(
    kind: str,
    root: Path,
    config: Path,
    rng: random.Random,
    steps: int,
    cluster: int | None,
    within: bool,
    most: int = 4,
) -> dict[str, Any]:
    """One training that is killed at least once and then continued until it has ended.

    Args:
        within: kill while it saves.
        most: how many times it may be killed.
    """
    log = root / "output.txt"
    kills, begun = 0, time.monotonic()
    while time.monotonic() - begun < LIMIT_S * 2:
        folders = [f for f in root.glob("kill_*") if (f / "lineage.jsonl").exists()]
        arguments = ["continue", folders[0].name] if folders else ["run", str(config), "--name", "kill"]
        pid = start([*arguments, "--root", str(root)], log)
        strike = kills == 0 or (kills < most and rng.random() < 0.4)
        when = moment(root, rng, steps, within)
        deadline = time.monotonic() + LIMIT_S
        while (code := ended(pid)) is None:
            if time.monotonic() > deadline:
                os.kill(pid, signal.SIGKILL)
                raise AssertionError(f"{kind}: {arguments} does not end; see {log}")
            if strike and next(when):
                target = victim(kind, pid, cluster)
                if target is not None:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(target, signal.SIGKILL)
                        kills, strike = kills + 1, False
            elif not strike:
                time.sleep(0.02)
        if code == 0:
            break
        if code != -signal.SIGKILL:
            return {"kind": kind, "code": code, "kills": kills, "log": log.read_text()[-2000:]}
        for folder in root.glob("kill_*"):  # one that a kill left before its first event: there is nothing to continue
            if not (folder / "lineage.jsonl").exists():
                folder.rename(root / f"stillborn-{folder.name}-{kills}")
    (folder,) = root.glob("kill_*")
    experiment = Experiment(folder)
    problems = [p for e in experiment.entries() if (p := e.verify(folder))]
    return {
        "kind": kind,
        "within_save": within,
        "code": code,
        "kills": kills,
        "status": experiment.status(),
        "entries": len(experiment.entries()),
        "problems": problems,
        "temps": len(saving(root)),
        "hash": fingerprint(experiment),
        "seconds": round(time.monotonic() - begun, 1),
    }


def fingerprint(experiment: Experiment) -> str:
    """What must not depend on kills: the bits of the last checkpoint, its epoch, and every change of the ratio in the log."""
    ratios = [e.fields for e in lineage.read(experiment.folder) if e.type == lineage.RATIO]
    last = experiment.entries()[-1].epoch
    return json.dumps([weights_hash(experiment), last, ratios], sort_keys=True, default=dict)


def clean_environment() -> dict[str, str]:
    """Without what Ray and earlier tests have left in this process's own: tokens, addresses, options of another cluster."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    # With Ray's 15 its workers stand still while other tests compute.
    return kept | {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}


@contextlib.contextmanager
def ray_head(*more: str) -> Iterator[tuple[str, int]]:
    """A Ray head of its own process group, with more options where given; yields (address, pid of its group)."""
    ray = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--num-cpus=2", "--port=0", "--block"]
    environment = clean_environment()
    command = [*ray, "--include-dashboard=false", "--disable-usage-stats", *more]
    head = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, start_new_session=True
    )
    assert head.stdout is not None
    address = None
    for line in head.stdout:
        if found := re.search(r"--address='([^']+)'", line):
            address = found[1]
            break
    try:
        assert address is not None, "ray start did not tell its address"
        yield address, head.pid
    finally:
        tree = psutil.Process(head.pid).children(recursive=True)
        for process in [psutil.Process(head.pid), *tree]:
            with contextlib.suppress(psutil.Error):
                process.kill()


def write_config(path: Path, scaling: dict[str, Any], treatment: str = "weights") -> Path:
    import yaml

    from raysweep.config.load import merge

    path.write_text(yaml.safe_dump(merge({**SETTINGS, "scaling": {"threads": 1, **scaling}}, TREATMENTS[treatment])))
    return path


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--plan", default="")
    parser.add_argument("--treatments", default="weights", help=", ".join(TREATMENTS))
    parser.add_argument("--most", type=int, default=4, help="how many times a training may be killed")
    chosen = parser.parse_args(arguments)
    treatments = chosen.treatments.split(",")
    plan = chosen.plan.split(",") if chosen.plan else plan_of(chosen.count)
    plan.sort()  # those on Ray share a cluster
    import tests.loaded  # noqa: F401

    rng = random.Random(chosen.seed)
    wrong = 0
    with contextlib.ExitStack() as stack:
        cluster: tuple[str, int] | None = None
        if set(plan) - {"driver"}:
            cluster = stack.enter_context(ray_head())
        references: dict[str, tuple[str, int]] = {}

        def config_of(kind: str, treatment: str) -> Path:
            name = "driver" if kind == "driver" else "workers"
            scaling = {"num_workers": 0} if name == "driver" else {"num_workers": 2, "address": (cluster or ("", 0))[0]}
            return write_config(chosen.folder / f"{name}-{treatment}.yaml", scaling, treatment)

        def reference(kind: str, treatment: str) -> tuple[str, int]:
            name = f"{'driver' if kind == 'driver' else 'workers'}-{treatment}"
            if name not in references:
                root = chosen.folder / f"undisturbed-{name}"
                root.mkdir(parents=True)
                pid = start(
                    ["run", str(config_of(kind, treatment)), "--name", "whole", "--root", str(root)],
                    root / "output.txt",
                )
                watch = Watch(root)
                while (code := ended(pid)) is None:
                    watch.look()
                    time.sleep(0.001)
                assert code == 0, (root / "output.txt").read_text()[-3000:]
                (folder,) = root.glob("whole_*")
                references[name] = (fingerprint(Experiment(folder)), len(watch.seen))
            return references[name]

        for number, kind in enumerate(plan):
            treatment = treatments[number % len(treatments)]
            expected, steps = reference(kind, treatment)
            root = chosen.folder / f"{number:03}-{kind}"
            root.mkdir(parents=True)
            rounds = number // len(treatments) if len(treatments) % 2 == 0 else 0
            within = (number + rounds) % 2 == 1  # so that each treatment is killed in both ways
            how = (config_of(kind, treatment), rng, steps, cluster[1] if cluster else None, within, chosen.most)
            row = one(kind, root, *how)
            while row.get("kills") == 0:  # it was over before the moment came: that is no trial
                root = root.with_name(f"{root.name}-again")
                root.mkdir()
                row = one(kind, root, *how)
            row["same"] = row.get("hash") == expected
            wrong += not row["same"]
            print(json.dumps({"number": number, "treatment": treatment, **row}), flush=True)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
