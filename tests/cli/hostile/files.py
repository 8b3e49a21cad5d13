"""What is no file or too large a one, links that lead out of the root, and experiments whose files somebody changed."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from tests.cli.hostile.cases import CONFIG, Room, Work, add
from tests.cli.hostile.pickles import DAMAGED

# --- what is no file --------------------------------------------------------------------------------------------------

Put = Callable[[Path], object]
KINDS: dict[str, Put] = {
    "a FIFO": os.mkfifo,
    "a folder": Path.mkdir,
    "a link to a device": lambda path: path.symlink_to("/dev/zero"),
    "a dangling link": lambda path: path.symlink_to(path.parent / "nowhere"),
    "a loop of links": lambda path: path.symlink_to(path),
}


def gigabyte(path: Path) -> None:
    """A file that claims to be large and takes no room."""
    with open(path, "wb") as file:
        file.truncate(1_000_000_000)


def given(make: Put, command: Callable[[Room, Path], Work], name: str = "f.yaml") -> Callable[[Room], Work]:
    """Something in the place of a file that is named on the command line."""

    def build(room: Room) -> Work:
        make(room.folder / name)
        return command(room, room.folder / name)

    return build


def in_place(make: Put, name: str, *command: object) -> Callable[[Room], Work]:
    """Something in the place of a file of an experiment that has an epoch to go; ``t`` finds the experiment."""

    def build(room: Room) -> Work:
        empty = {"bytes": 0, "sha256": hashlib.sha256().hexdigest()}  # as what is no file would have it
        last = name == "checkpoint_epoch_2.pt"
        folder = room.manifest(lambda m: m["checkpoints"][1].update(empty if last else {}), epochs=3)
        (folder / name).unlink(missing_ok=True)
        make(folder / name)
        if last and command[0] == "list":
            (folder / "manifest.json").unlink()
        return command

    return build


def resumed(room: Room, path: Path) -> Work:
    return ["resume", "--from", path]


def branched(room: Room, path: Path) -> Work:
    return ["branch", "--from", f"{room.experiment().name}@1", "--weights-grid", path]


def configured(room: Room, path: Path) -> Work:
    return ["run", path]


def weighed(room: Room, path: Path) -> Work:
    return room.weights(path)


def read_as_data(room: Room, path: Path) -> Work:
    return ["run", room.config(path)]


for label, put in KINDS.items():
    add(f"{label} as a checkpoint", r"There is no file .*sent\.pt", given(put, resumed, "sent.pt"))
    add(
        f"{label} as a committed checkpoint",
        r"checkpoint_epoch_2\.pt",
        in_place(put, "checkpoint_epoch_2.pt", "resume", "--from", "t@2"),
    )
for label in ("a FIFO", "a link to a device", "a folder"):
    add(f"{label} as a configuration", r"f\.yaml", given(KINDS[label], configured))
    add(f"{label} as a grid", r"f\.yaml", given(KINDS[label], branched))
    add(f"{label} as weights", r"f\.yaml", given(KINDS[label], weighed))
for name, verb in (
    ("checkpoint_epoch_2.pt", "list"),
    ("manifest.json", "list"),
    ("lineage.jsonl", "list"),
    (".writer.lock", "continue"),
    ("val_predictions.parquet", "continue"),
):
    for label in ("a FIFO", "a link to a device"):
        # Reading verbs go on without it; where it is needed, it is named.
        command, codes = ((verb,), (0,)) if verb == "list" else ((verb, "t"), (0, 1, 2))
        add(f"{label} as {name}, {verb}", "", in_place(KINDS[label], name, *command), *codes)
add("a FIFO as data", r"x\.csv", given(os.mkfifo, read_as_data, "x.csv"))
add("weights of a gigabyte", r"w\.json", given(gigabyte, weighed, "w.json"))
add("a checkpoint of a gigabyte of nothing", DAMAGED, given(gigabyte, resumed, "sent.pt"))
add("an experiment's config of a gigabyte", CONFIG, in_place(gigabyte, CONFIG, "list"), 0)

# --- links that lead out of the root ----------------------------------------------------------------------------------


def moved_out(command: Callable[[Path], Work], *names: str) -> Callable[[Room], Work]:
    """Files of an experiment lie outside, and links to them in their place; the experiment has an epoch to go."""

    def make(room: Room) -> Work:
        # the first epoch is neither the newest nor the best: it may be pruned
        best = {"epoch": 2, "file": "checkpoint_epoch_2.pt", "metric": "val_acc", "value": 0.5}
        folder = room.manifest(lambda m: m.update(best=best), epochs=3)
        for name in names:
            target = room.outside / name
            if (folder / name).exists():
                shutil.move(folder / name, target)
            else:
                target.write_text("{}")
            (folder / name).symlink_to(target)
        return command(folder)

    return make


def folder_out(room: Room) -> Work:
    folder = room.experiment(epochs=3)
    shutil.move(folder, room.outside / folder.name)
    folder.symlink_to(room.outside / folder.name)
    return ["continue", folder.name]


def sweep_out(whole: bool, room: Room) -> Work:
    sweep = a_sweep(room)
    folder = sweep.parent if whole else sweep
    shutil.move(folder, room.outside / folder.name)
    folder.symlink_to(room.outside / folder.name)
    return ["continue", sweep.name]


def a_sweep(room: Room) -> Path:
    """A sweep of one finished branch, the control, whose worst class is a formula."""
    folder = room.manifest(lambda m: m["checkpoints"][-1]["metrics"].update(worst_class="=cmd()"))
    stamp = folder.name.partition("_")[2]
    name, control = f"s_{stamp}", room.root / f"s-control_{stamp}"
    shutil.copytree(folder, control)
    path = control / CONFIG
    old = json.loads(path.read_text())
    parent = folder / "checkpoint_epoch_1.pt"
    told = {"experiment": folder.name, "epoch": 1, "batch": 0, "file": str(parent)}
    told["sha256"] = hashlib.sha256(parent.read_bytes()).hexdigest()
    branch = {"name": "control", "control": True, "seed": 0}
    path.write_text(json.dumps(old | {"sweep": name, "branch": branch, "parent": told}))
    plan = {"name": "s", "description": "", "parent": told, "settings": old["settings"], "epochs": 1, "threads": 1}
    plan |= {"workers": 0, "gpus_per_branch": 0, "max_concurrent": None, "grid": {"weights": {"cat": [2.0]}}}
    plan |= {"branches": [branch | {"weights": old["sampling_weights"]}]}
    sweep = room.root / "sweeps" / name
    sweep.mkdir(parents=True)
    (sweep / "sweep.json").write_text(json.dumps(plan))
    return sweep


def spoilt_sweep(text: str, *command: str) -> Callable[[Room], Work]:
    def make(room: Room) -> Work:
        (a_sweep(room) / "sweep.json").write_text(text)
        return command

    return make


OUT = "leads out of the root"
add(
    "a checkpoint that is a link out of the root",
    f"checkpoint_epoch_1.pt is a link that {OUT}",
    moved_out(lambda folder: ["resume", "--from", f"{folder.name}@1"], "checkpoint_epoch_1.pt"),
)
add(
    "a best checkpoint that is a link out of the root",
    f"best_checkpoint.pt.*{OUT}",
    moved_out(lambda folder: ["resume", "--from", folder / "best_checkpoint.pt"], "best_checkpoint.pt"),
)
WRITTEN = [
    *("manifest.json", "training_history.csv", "training_history.png", "val_predictions.parquet", ".writer.lock")
]
WRITTEN += ["classification_report.txt", "checkpoint_epoch_3.pt", "epoch_3_model.pt", "best_checkpoint.pt"]
KEPT = ("checkpoint_epoch_1.pt", "checkpoint_epoch_2.pt", "epoch_1_model.pt", "best_checkpoint.pt")
add("going on where checkpoints are links", OUT, moved_out(lambda folder: ["continue", folder.name], *KEPT), 0, 2)
add("going on where all is a link", "", moved_out(lambda folder: ["continue", folder.name], *WRITTEN), 0, 2)
for log in ("lineage.jsonl", "experiment_changes.log"):
    add(f"going on where {log} is a link", f"{log}.*link", moved_out(lambda f: ["continue", f.name], log), 1, 2)
add("pruning links", "freed.*@1", moved_out(lambda folder: ["prune", "--last", 1, "--yes"], *KEPT, "manifest.json"), 0)
add("an experiment that is a link", "No experiment or sweep", folder_out)
add("a sweep that is a link", f"No experiment|{OUT}", partial(sweep_out, False))
add("a folder of sweeps that is a link", f"No experiment|{OUT}", partial(sweep_out, True))
add("a cache that a checkpoint wants elsewhere", "", lambda r: r.settings("data", cache_dir=str(r.outside / "x")), 0, 2)

# --- manifests, configs and logs --------------------------------------------------------------------------------------

DEEP = "[" * 200_000
# What stands in the first entry of a manifest, and the answer to a request for that checkpoint.
ENTRIES: dict[str, tuple[dict[str, Any], str]] = {
    "a path out of the root": ({"file": "../../etc/passwd"}, "has no checkpoint '1'"),
    "an absolute path": ({"file": "/etc/passwd"}, "has no checkpoint '1'"),
    "negative bytes": ({"bytes": -1}, "instead of -1"),
    "an epoch that is no number": ({"epoch": float("nan")}, "has no checkpoint '1'"),
    "an infinite epoch": ({"epoch": float("inf")}, "has no checkpoint '1'"),
    "a nested hash": ({"sha256": [[]]}, "does not have the recorded SHA-256"),
    "metrics that are a text": ({"metrics": "good"}, "has no checkpoint '1'"),
}


def entry_asked(entry: dict[str, Any], room: Room) -> Work:
    return ["resume", "--from", f"{room.manifest(lambda m: m['checkpoints'][0].update(entry)).name}@1"]


def doubled(manifest: dict[str, Any]) -> None:
    manifest["checkpoints"].insert(0, manifest["checkpoints"][0] | {"sha256": "0" * 64})


def changed(change: Callable[[dict[str, Any]], object], *command: object) -> Callable[[Room], Work]:
    def make(room: Room) -> Work:
        room.manifest(change, epochs=3)
        return command

    return make


def entry(**values: Any) -> Callable[[dict[str, Any]], object]:
    return lambda manifest: manifest["checkpoints"][0].update(values)


def best(**values: Any) -> Callable[[dict[str, Any]], object]:
    return lambda manifest: manifest.update(best=values)


for label, (values, told) in ENTRIES.items():
    add(f"a manifest with {label}", told, partial(entry_asked, values))
add("a manifest with doubled entries", r"checkpoint_epoch_1\.pt", changed(doubled, "resume", "--from", "t@1"))
OUTSIDE = {"file": "../../etc/passwd", "epoch": 1, "value": 1.0}
add(
    "a manifest whose best is elsewhere", "no checkpoint 'best'", changed(best(**OUTSIDE), "resume", "--from", "t@best")
)
add("a manifest whose best is nonsense", "", changed(best(file=7, epoch="x", value="y"), "continue", "t"), 0, 2)
STEERS = {"val_acc": "\x1b[2J", "worst_class": 7}
add("a manifest without metrics", "", changed(entry(metrics=STEERS), "show", "t"), 0, 2)
add("a manifest with 1e400", "", changed(entry(metrics={"val_acc": float("inf")}), "list", "--json"), 0)

for name in ("manifest.json", CONFIG, "lineage.jsonl"):
    text = DEEP if name != "lineage.jsonl" else f'{{"seq": 1, "type": {DEEP}\n'
    write: Put = partial(Path.write_text, data=text)
    add(f"{name} nested deep, list", name, in_place(write, name, "list"), 0)
    add(f"{name} nested deep, continue", "", in_place(write, name, "continue", "t"), 0, 1, 2)
add("sweep.json nested deep", r"sweep\.json", spoilt_sweep(DEEP, "continue", "s"), 1, 2)
add("sweep.json nested deep, prune", "freed", spoilt_sweep(DEEP, "prune"), 0)
add("sweep.json with numbers for branches", r"sweep\.json", spoilt_sweep('{"branches": [5]}', "continue", "s"), 1, 2)

CONFIGS: dict[str, tuple[dict[str, Any], str, tuple[str, ...]]] = {
    "settings that are a text": ({"settings": "x"}, "", ("prune",)),
    "a text for the kept epochs": ({"settings": {"checkpoint": {"keep": {"last": "x"}}}}, "", ("prune",)),
    "settings of another kind": ({"settings": {"training": {"epochs": "x"}}}, r"training\.epochs", ("continue", "t")),
    "a setting there is not": ({"settings": {"training": {"evil": 1}}}, "evil", ("continue", "t")),
    "a parent that is a text": ({"parent": "x"}, "parent", ("continue", "t")),
    "a parent of 5000 digits": ({"parent": {"epoch": "1" * 5000}}, "parent", ("continue", "t")),
    "counts that are a number": ({"class_counts": 7}, "class_counts", ("show", "t")),
    "a description that steers": ({"experiment_description": "\x1b[2J\nforged"}, "", ("show", "t")),
}


def configured_so(values: dict[str, Any], command: Sequence[str], room: Room) -> Work:
    room.experiment(epochs=3, **values)
    return command


for label, (values, told, words) in CONFIGS.items():
    add(f"a config with {label}", told, partial(configured_so, values, words), 0, 1, 2)


def circle(room: Room) -> Work:
    folder = room.experiment(parent={"experiment": "b", "epoch": 1})
    shutil.copytree(folder, room.root / "b")
    text = (folder / CONFIG).read_text().replace('"experiment": "b"', f'"experiment": "{folder.name}"')
    (room.root / "b" / CONFIG).write_text(text)
    return ["lineage"]


def steering_folder(verb: str, room: Room) -> Work:
    folder = room.experiment()
    folder.rename(room.root / "t\x1b[2J\u202e\nforged_20250101_000000")
    return [verb, "t"] if verb == "show" else [verb]


add("experiments that are each other's parents", "", circle, 0)
FORGED = '{"seq": 1, "type": ["FINISHED"], "time": 1e400}\n'
add("a log with nonsense", "", in_place(partial(Path.write_text, data=FORGED), "lineage.jsonl", "list"), 0)
for verb in ("list", "show", "lineage", "verify"):
    add(f"a folder whose name steers the terminal, {verb}", "", partial(steering_folder, verb), 0)
