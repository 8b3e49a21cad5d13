"""A sweep's folder: what was planned, which branch became which experiment, and the results. No torch, no ray.

The branches' own folders are the truth: each names its sweep and its branch. ``sweep.json`` holds the plan; its status
of the branches and ``results.csv`` are derived and can be written again at any time.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from raysweep.errors import NotFoundError, RaysweepError, RootError, StoreError, did_you_mean
from raysweep.names import check_name, shown
from raysweep.store import catalog, files, keys, layout
from raysweep.store.experiment import FINISHED, Experiment, check_root

MISSING = "missing"  # a branch that has not started
MAX_NAME = 50  # the experiments are called SWEEP-BRANCH
_NUMBERS = ("val_acc", "val_macro_f1", "balanced_accuracy", "val_loss", "worst_recall")


def create(root: Path, name: str, when: datetime) -> Sweep:
    """Make the folder of a new sweep; a name used in the same second gets ``_2``, ``_3`` … appended.

    Raises:
        RootError: the name or the root cannot be used.
    """
    check_sweep_name(name)
    check_root(root)
    parent = root / layout.SWEEPS
    if not files.inside(root, parent):
        raise RootError(f"{parent} is a link that leads out of the root. Put a folder in its place.")
    try:
        parent.mkdir(exist_ok=True)
        for attempt in range(1, 10_000):
            folder = parent / layout.make_id(name, when, attempt)
            try:
                folder.mkdir()
                return Sweep(folder)
            except FileExistsError:
                continue
    except OSError as error:
        raise RootError(f"{parent} cannot be written: {error.strerror}. Choose another --root.") from None
    raise RootError(f"{parent} already has 10,000 sweeps called {name} of this second.")


def check_sweep_name(name: str) -> None:
    """Raises RootError if a sweep cannot be called so."""
    try:
        check_name(name)
    except ValueError as error:
        raise RootError(f"The sweep cannot be made: {error}.") from None
    if len(name) > MAX_NAME:
        raise RootError(f"The sweep's name has {len(name)} characters; at most {MAX_NAME} are allowed.")


class Sweep:
    """A view of one sweep's folder; reads anew at every call."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    @property
    def id(self) -> str:
        return self.folder.name

    @property
    def root(self) -> Path:
        return self.folder.parent.parent

    def plan(self) -> dict[str, Any]:
        """``sweep.json``.

        Raises:
            StoreError: it is missing or damaged.
        """
        path = self.folder / layout.SWEEP
        try:
            with files.reading(path):
                value = files.read_json(path)
        except ValueError as error:
            raise StoreError(f"{path} is not valid JSON ({error}). Restore it from a copy.") from None
        problem = keys.of_sweep(value)
        if problem is not None:
            raise StoreError(f"{path} does not hold a sweep: {problem}. Restore it from a copy.")
        return value

    def write_plan(self, value: Mapping[str, Any]) -> None:
        files.write_json(self.folder / layout.SWEEP, dict(value))

    def experiments(self) -> dict[str, Experiment]:
        """Branch → its experiment, found by what the experiments' folders say of themselves.

        Where several say that they are the same branch (one was copied), the one that ``sweep.json`` knows is it, else the
        first by name.
        """
        found: dict[str, Experiment] = {}
        made_as, recorded = self._known()
        prefix = f"{layout.split_id(made_as)[0]}-"
        with os.scandir(self.root) as rows:
            names = sorted(r.name for r in rows if r.name.startswith(prefix) and not r.is_symlink() and r.is_dir())
        for name in names:
            experiment = Experiment(self.root / name)
            try:
                config = experiment.config()
            except RaysweepError:
                continue  # made a moment ago, or damaged: not a branch that can be gone on with
            if config.get("sweep") == made_as and isinstance(config.get("branch"), dict):
                branch = str(config["branch"].get("name"))
                if branch not in found or recorded.get(branch) == experiment.id:
                    found[branch] = experiment
        return found

    @property
    def made_as(self) -> str:
        """The id that the sweep was made under, and that its branches know it by, whatever its folder is called now."""
        return self._known()[0]

    def _known(self) -> tuple[str, dict[str, Any]]:
        """The id that the sweep was made under, and branch → experiment, as ``sweep.json`` says."""
        try:
            plan = self.plan()
        except StoreError:
            return self.id, {}
        return str(plan.get("id") or self.id), {b["name"]: b.get("experiment") for b in plan["branches"]}

    def refresh(self, reasons: Mapping[str, str] | None = None) -> dict[str, Any]:
        """Write the branches' status into ``sweep.json``, and ``results.csv``; returns the plan.

        Args:
            reasons: branch → why it failed, where its own folder cannot say it.
        """
        plan = self.plan()
        experiments = self.experiments()
        planned = {b["name"] for b in plan["branches"]}
        for name, experiment in experiments.items():  # branches that a search has chosen
            if name not in planned:
                config = experiment.config()
                plan["branches"].append({**config["branch"], "weights": config["sampling_weights"], "searched": True})
        for branch in plan["branches"]:
            found = experiments.get(branch["name"])
            branch["experiment"] = found.id if found else None
            branch["status"] = found.status() if found else MISSING
            reason = (reasons or {}).get(branch["name"])
            if reason:
                branch["reason"] = reason
            elif branch["status"] == FINISHED:
                branch.pop("reason", None)
        self.write_plan(plan)
        files.write_atomic(self.folder / layout.RESULTS, results_csv(plan, experiments).encode())
        return plan


def results_csv(plan: Mapping[str, Any], experiments: Mapping[str, Experiment]) -> str:
    """One row per branch: what it is, what its last epoch reached, and the difference to the control of its seed."""
    rows = []
    for branch in plan["branches"]:
        experiment = experiments.get(branch["name"])
        row: dict[str, Any] = {
            "branch": branch["name"],
            "experiment": experiment.id if experiment else None,
            "control": int(bool(branch.get("control"))),
            "seed": branch.get("seed"),
            "status": branch.get("status"),
        }
        ends = [e for e in experiment.entries() if e.batch is None] if experiment else []
        if experiment and ends:
            summary = catalog.summary(experiment)
            row |= {"epoch": ends[-1].epoch, "best_acc": summary["best_acc"], "best_epoch": summary["best_epoch"]}
            row |= {k: ends[-1].metrics.get(k) for k in _NUMBERS}
            row["worst_class"] = ends[-1].metrics.get("worst_class")
        row |= {f"weight_{c}": w for c, w in branch["weights"].items()}
        rows.append(row)
    controls = {r["seed"]: r for r in rows if r["control"]}
    for row in rows:
        control = controls.get(row["seed"], {})
        for k in ("val_acc", "val_macro_f1"):
            if row.get(k) is not None and control.get(k) is not None and row["epoch"] == control["epoch"]:
                row[f"{k}_minus_control"] = row[k] - control[k]
    columns = ["branch", "experiment", "control", "seed", "status", "epoch", "best_acc", "best_epoch", *_NUMBERS]
    columns += ["worst_class", "val_acc_minus_control", "val_macro_f1_minus_control"]
    columns += [c for row in rows for c in row if c.startswith("weight_")]
    names = list(dict.fromkeys(columns))
    return files.csv_text([names, *([row.get(c) for c in names] for row in rows)])


def all_sweeps(root: Path) -> list[Sweep]:
    """The sweeps under a root, oldest first. Links that lead out of the root are left out."""
    parent = root / layout.SWEEPS
    if not files.inside(root, parent):
        return []
    try:
        with os.scandir(parent) as rows:
            folders = [
                r.path
                for r in rows
                if r.is_dir()
                and os.path.isfile(os.path.join(r.path, layout.SWEEP))
                and (not r.is_symlink() or files.inside(root, Path(r.path)))
            ]
    except (OSError, ValueError):
        return []
    return sorted((Sweep(f) for f in folders), key=lambda s: (layout.split_id(s.id)[1] or "", s.id))


def find(root: Path, reference: str) -> Sweep:
    """The sweep that a path, an id, a name or an unambiguous start of one means.

    Raises:
        NotFoundError: none or several match, or it is a link that leads out of its root.
    """
    if os.path.isfile(os.path.join(reference, layout.SWEEP)):
        path = Path(os.path.abspath(reference))
        if not files.inside(path.parent.parent, path):
            raise NotFoundError(f"{path} is a link that leads out of the root. Put the sweep's folder in its place.")
        return Sweep(path.resolve())
    everything = all_sweeps(root)
    for fits in (
        lambda s: s.id == reference,
        lambda s: layout.split_id(s.id)[0] == reference,
        lambda s: s.id.startswith(reference),
    ):
        matches = [s for s in everything if fits(s)]
        if len(matches) == 1:
            return matches[0]
        if matches:
            some = ", ".join(s.id for s in matches[-5:])
            raise NotFoundError(f"{shown(reference)} fits {len(matches)} sweeps: {some}. Give more of the id.")
    hint = did_you_mean(reference, [s.id for s in everything])
    raise NotFoundError(f"No sweep under {root} is called {shown(reference)}.{hint}")
