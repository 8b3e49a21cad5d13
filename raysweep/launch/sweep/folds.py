"""Run a k-fold sweep: fold by fold its parent, then the sweep from it. Each is an ordinary experiment or sweep."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from functools import partial

from raysweep.config import load as load_config
from raysweep.errors import TrainingError
from raysweep.events import Note, Progress, ignore
from raysweep.launch.sweep import steps
from raysweep.launch.sweep.steps import How
from raysweep.plan.folds import FoldsPlan, plan_parent, sweep_name
from raysweep.plan.resources import AS_BEFORE, ResourceOverrides
from raysweep.plan.types import Plan, SweepRequest
from raysweep.report import effects_csv
from raysweep.report import folds as reporting
from raysweep.report.comparison import Comparison
from raysweep.store import folds as store
from raysweep.store import layout
from raysweep.store import trust as trusting
from raysweep.store.commands import continue_command
from raysweep.store.experiment import Experiment
from raysweep.store.folds import FoldPart, Folds, FoldsRecord
from raysweep.store.trust import NOBODY, Origin, Trust


@dataclass(frozen=True)
class FoldsResult:
    """A k-fold sweep that ended. ``comparison`` is None where nothing can be compared; a note has said why."""

    folds: Folds
    comparison: Comparison | None


def run(plan: FoldsPlan, progress: Progress = ignore) -> FoldsResult:
    """Make the folder of a k-fold sweep and train all of it.

    Raises:
        Interrupted: a signal asked to stop. RaysweepError: a parent or a branch failed; the others are complete.
    """
    with steps.making(
        store.create, plan.request.root, plan.name, plan.sweep.base, partial(_record, plan), progress
    ) as folds:
        return _train(folds, How(trust=plan.request.trust), progress)


def continue_folds(
    folds: Folds,
    *,
    steal: bool = False,
    asked: ResourceOverrides = AS_BEFORE,
    progress: Progress = ignore,
    trust: Trust = NOBODY,
) -> FoldsResult:
    """Finish a k-fold sweep: what is finished stays, what has begun goes on, what is missing starts.

    Raises:
        UntrustedError: it names code or places that nobody has approved. LockedError: it is running.
        Interrupted, or what :func:`run` raises.
    """
    how = How(steal, asked, trust)
    steps.settle(folds, how)
    _settle_texts(folds, asked, trust)
    with steps.at_work(folds, steal):
        return _train(folds, how, progress)


def _settle_texts(folds: Folds, asked: ResourceOverrides, trust: Trust) -> None:
    """Code of a notebook, of which a parent that has begun keeps the text, is asked for, and used for all folds."""
    known = [folds.root.path / part.parent for part in folds.record().parts if part.parent is not None]
    for folder in [folder for folder in known if folder.is_dir()][:1]:
        experiment = Experiment(folder, folds.root)
        config = experiment.config()
        origin = Origin(folder, folder, folds.root, (experiment.id,), tuple(config.all_code))
        trusting.settle(trust, origin, config.settings or {}, asked.named())


def _record(plan: FoldsPlan, identifier: str, now: datetime) -> FoldsRecord:
    """What ``folds.json`` says before anything has run: enough to continue after any kill."""
    request = plan.request
    return FoldsRecord(
        id=identifier,
        name=plan.name,
        description=request.description,
        timestamp=now.strftime(layout.TIME_FORMAT),
        checkpoint=plan.checkpoint,
        parent_epochs=plan.epochs,
        settings=plan.parents[0].settings.model_dump(mode="json"),
        grid=request.grid.model_dump(mode="json"),
        request=steps.stored_request(request, plan.sweep.base, "epochs", "fresh_optimizer", "reset_head"),
        parts=tuple(FoldPart(fold) for fold in range(1, len(plan.parents) + 1)),
    )


def _train(folds: Folds, how: How, progress: Progress) -> FoldsResult:
    failed: list[str] = []
    for part in folds.record().parts:
        parent = _parent(folds, part, how, progress)
        failed += _sweep(folds, part, parent, how, progress)
    if failed:
        again = continue_command(folds.root, folds.id)
        raise TrainingError(
            f"Branches failed: {', '.join(failed)}; the others are complete. Run the failed ones again with: {again}"
        )
    comparison, problem = reporting.try_compare(folds)
    if comparison is not None:
        effects_csv.write(comparison, folds.folder / layout.EFFECTS_CSV)
    if problem is not None:
        progress(Note(problem))
    return FoldsResult(folds, comparison)


def _parent(folds: Folds, part: FoldPart, how: How, progress: Progress) -> Experiment:
    """The trained parent of a fold."""

    def plan(tell: Progress) -> Plan:
        record = folds.record()
        settings = load_config.merge(store.settings_of(record, part.fold), how.asked.named())
        return plan_parent(settings, record.name, folds.root.address, None, tell)

    begun, note = folds.begun(part.parent), lambda e: folds.note(part.fold, parent=e)
    return steps.trained(folds.root, f"parent{part.fold}", begun, plan, note, how, progress)


def _sweep(folds: Folds, part: FoldPart, parent: Experiment, how: How, progress: Progress) -> list[str]:
    """Train the sweep of a fold; returns the branches that failed, with the fold."""
    begun, asked = folds.begun_sweep(part.sweep), partial(_request, folds, part.fold, parent, how)
    _, failed = steps.swept(folds.root, begun, asked, lambda s: folds.note(part.fold, sweep=s), how, progress)
    return [f"{name} of fold {part.fold}" for name in failed]


def _request(folds: Folds, fold: int, parent: Experiment, how: How) -> SweepRequest:
    """What is asked of a fold's sweep; see :func:`raysweep.launch.sweep.steps.request`."""
    record = folds.record()
    given = {**record.request, "name": sweep_name(record.name, fold), "description": record.description}
    return steps.request(folds, f"{parent.id}@{record.parent_epochs}", record.grid, how, given)
