"""Plan a sweep: checkpoint, grid, every branch and the resources, checked before anything is made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from raysweep._text import Nested, counted
from raysweep.config import cells
from raysweep.config import load as load_config
from raysweep.config import points as expansion
from raysweep.config.grid import Grid, Point
from raysweep.errors import ConfigError, InputError, ResourceError
from raysweep.events import Progress, ignore
from raysweep.plan import child, networks, resources
from raysweep.plan import parent as parents
from raysweep.plan.experiment import reading_once
from raysweep.plan.resources import ResourceOverrides, Resources
from raysweep.plan.types import Parent, Plan, SweepPlan, SweepRequest, base_of
from raysweep.store import layout, space
from raysweep.store import sweep as sweeps
from raysweep.store.root import Root
from raysweep.store.sweep import experiment_name
from raysweep.store.trust import Trust

_ONE_GPU = (
    "Ray cannot give out this machine's GPU: the branches share it, one at a time unless --max-concurrent says more."
)


def plan_branch(base: Plan, sweep_id: str, point: Point) -> Plan:
    """The plan of one branch, from the plan that all have in common."""
    description = f"Control of sweep {sweep_id}" if point.control else f"Branch {point.name} of sweep {sweep_id}"
    return child.vary(
        base,
        name=experiment_name(sweep_id, point.name),
        description=description,
        weights=point.weights,
        seed=point.seed,
    )


@reading_once()
def plan_sweep(request: SweepRequest, progress: Progress = ignore, writable: bool = True) -> SweepPlan:
    """Check a whole sweep: checkpoint, grid, every branch and resources. Nothing is started or made.

    Raises:
        InputError: what is wrong and what to do.
    """
    _is_single(request.grid)
    root = request.root.resolved()
    parent = parents.read_parent(root, request.checkpoint, request.overrides, trust=request.trust)
    request = _checked(request, parent)  # what is wrong is said before the images are read
    name = request.name or title(parent, "sweep")
    sweeps.check_sweep_name(name)
    count = _workers(request, parent)
    over = _overrides(request, count)
    base = child.plan_child(
        parent,
        root,
        name=name,
        epochs=request.epochs or request.grid.epochs,
        overrides=over,
        fresh_optimizer=request.fresh_optimizer,
        reset_head=request.reset_head,
        progress=progress,
        writable=writable,
        here=False,
    )
    points, notes = expansion.expand(
        request.grid,
        parent.weights,
        parent.settings.seed,
        base.counts,
        cells.flat(base.settings.model_dump(mode="json")),
    )
    bases = _bases(points, base, over, {}, writable)
    notes += [*_of_patience(base, bases, points), *_of_views([base, *bases.values()]), *_own_notes(points, base, bases)]
    networks.check_travels([code for plan in (base, *bases.values()) for code in plan.all_code])
    gpus = _gpus(request, base)
    notes += [_ONE_GPU] if _shares_gpu(request, base) else []
    if request.address is not None:
        base = replace(base, resources=_on_a_cluster(base, parent, count, gpus))
    for point in points:  # every branch's settings are valid, and no name is too long
        plan_branch(base_of(point, base, bases), f"{name}_{datetime.now().strftime(layout.TIME_FORMAT)}", point)
    branch_bytes, short = _space(base, parent, root, len(points))
    notes += short
    return SweepPlan(
        name=name,
        description=request.description,
        root=root,
        grid=request.grid,
        points=points,
        notes=notes,
        base=base,
        gpus_per_branch=gpus,
        max_concurrent=request.max_concurrent or (1 if _shares_gpu(request, base) else None),
        branch_bytes=branch_bytes,
        in_process=request.in_process,
        trust=_handed_on(request.trust, [base, *bases.values()]),
        bases=bases,
    )


def _checked(request: SweepRequest, parent: Parent) -> SweepRequest:
    """The request with the grid as the parent's data take it. Raises InputError where its weights or metrics do not fit."""
    request = replace(request, grid=request.grid.of_data(parent.settings.data.multi_label))
    expansion.expand(request.grid, parent.weights, parent.settings.seed)
    return request


def _space(base: Plan, parent: Parent, root: Root, branches: int) -> tuple[int, list[str]]:
    """(bytes that a branch keeps, what is to be said where the disk has too little for all of them)."""
    epochs, keep = base.settings.training.epochs, space.rule(base.settings.checkpoint.keep)
    each_epoch = parent.path.stat().st_size + base.parameters * 4 * base.settings.checkpoint.epoch_models
    if (part := parent.path.with_name(layout.FROZEN)).exists():  # once in each branch
        each_epoch += part.stat().st_size // space.epochs_kept(epochs, *keep)
    text = None if root.is_remote else space.too_little(root.path, epochs, each_epoch, keep, branches)
    return space.epochs_kept(epochs, *keep) * each_epoch, [] if text is None else [text]


def _of_views(plans: Sequence[Plan]) -> list[str]:
    """What is to be said where branches see other views of the images, of which features are computed."""
    frozen = [plan.settings for plan in plans if plan.settings.model.freeze and plan.settings.model.features != "off"]
    ways = len({str(settings.training.augment.recipes) for settings in frozen if settings.data.views is not None})
    return [f"Features are computed {ways} times: branches differ in training.augment, which makes the views."] * (
        ways > 1
    )


def _handed_on(trust: Trust, plans: Sequence[Plan]) -> Trust:
    """The decision as the processes of the branches get it: what was planned may run there."""
    code = [one.record() for plan in plans for one in plan.all_code]
    return trust.handed_on(*(plan.settings.model_dump(mode="json") for plan in plans), code=code)


def _is_single(grid: Grid) -> None:
    """Raises ConfigError for a grid that makes a sweep for each fold: :mod:`raysweep.plan.folds` plans those."""
    if grid.data.folds is not None:
        raise ConfigError(
            "data.folds in a grid makes several sweeps, one for each fold; this plans a single one. Use `raysweep branch`."
        )


def _of_patience(base: Plan, bases: Mapping[str, Plan], points: Sequence[Point]) -> list[str]:
    """What is to be said of early stopping.

    Raises:
        ConfigError: there is no control by which it could be decided, or branches have another patience.
    """
    training = base.settings.training
    if any(plan.settings.training.patience != training.patience for plan in bases.values()):
        raise ConfigError(
            "training.patience cannot be varied in a grid: all branches train as long as the longest control. Set it for all of them."
        )
    if training.patience is None:
        return []
    if not any(p.control for p in points):
        raise ConfigError(
            f"training.patience is {training.patience}, but the grid has no control, by which a sweep decides how long its branches "
            "train: branches that stop at different epochs cannot be compared. Remove `control: false`, or set training.patience=null."
        )
    return [
        f"The controls train first, until {training.best_metric} was not better for {counted(training.patience, 'epoch')}; then all "
        "branches train as long as the longest control."
    ]


def _own_notes(points: Sequence[Point], base: Plan, bases: Mapping[str, Plan]) -> list[str]:
    """What is to be said of the settings of single branches, such as their learning rate: once for each."""
    found: dict[str, None] = {}
    common = {n.text for n in base.notes}
    told: set[str] = set()
    for point in points:
        key = cells.key(point.settings, point.seed)
        if point.settings and key not in told:
            told.add(key)
            found |= {f"{point.arm}: {n.text}": None for n in bases[key].notes if n.text not in common}
    return list(found)


def with_bases(plan: SweepPlan, request: SweepRequest, points: Sequence[Point]) -> SweepPlan:
    """The plan of a sweep that is continued, with what these points need; they may have other seeds than the grid's."""
    return replace(plan, bases=_bases(points, plan.base, common(request, plan.parent), plan.bases, True))


@reading_once()
def _bases(
    points: Sequence[Point], base: Plan, overrides: Nested, known: Mapping[str, Plan], writable: bool
) -> dict[str, Plan]:
    """``base`` with the settings of each cell, schedule and policy, all checked: the key of the settings → the plan.

    Args:
        overrides: those of all branches.

    Raises:
        InputError: the message names the branch.
    """
    assert base.parent is not None  # the base of a sweep is a child
    found = dict(known)
    for point in points:
        key = cells.key(point.settings, point.seed)
        if not point.settings or key in found:
            continue
        own = cells.overrides(point.settings) | ({"seed": point.seed} if "sampling.follow" in point.settings else {})
        try:
            plan = child.plan_child(
                base.parent,
                base.root,
                name=base.settings.experiment.name,
                epochs=base.settings.training.epochs,
                overrides=load_config.merge(overrides, own),
                fresh_optimizer=base.fresh_optimizer,
                reset_head=base.reset_head,
                writable=writable,
                here=False,
            )
        except InputError as error:
            raise type(error)(f"Branch {point.arm or point.name}: {error}") from None
        # the same images: one copy of what is known of them goes to the processes that train
        found[key] = replace(plan, data=base.data, roles=base.roles)
    return found


def with_resources(request: SweepRequest, asked: ResourceOverrides) -> SweepRequest:
    """The request of before, with the resources that are asked for now.

    Raises:
        ConfigError: a range of workers is asked for.
    """
    refuse_range(asked)
    assert not isinstance(asked.workers, list)
    return replace(
        request,
        threads=asked.threads or request.threads,
        workers=request.workers if asked.workers is None else asked.workers,
        address=asked.applied({"address": request.address})["address"],
        in_process=request.in_process and asked.address in (None, "local"),
    )


def refuse_range(asked: ResourceOverrides) -> None:
    """Raises ConfigError where a range of workers is asked for."""
    if isinstance(asked.workers, list):
        raise ConfigError(
            "--workers: all branches of a sweep train with the same number of workers, so that they can be compared. Give one."
        )


def title(parent: Parent, what: str, ending: str = "") -> str:
    """The default name of a sweep, or of ``what`` makes sweeps; with room for the ``ending`` of their names."""
    name = parent.experiment.rpartition("_")[0].rpartition("_")[0] or parent.experiment
    return f"{name}-{what}"[: sweeps.MAX_NAME - len(ending)]


def _workers(request: SweepRequest, parent: Parent) -> int:
    """The workers of each branch.

    Raises:
        ConfigError: it shall be trained without Ray, and needs it.
    """
    count = parent.world_size if parent.world_size > 1 else 0
    count = count if request.workers is None else request.workers
    _fits_in_processes(request, count)
    return count


def _fits_in_processes(request: SweepRequest, workers: int) -> None:
    """Raises ConfigError where ``--in-process`` is asked for, and Ray is needed."""
    if not request.in_process:
        return
    needs = {
        f"--address {request.address}": request.address is not None,
        f"--workers {workers}": workers > 0,
        "scheduler: asha": request.grid.scheduler == "asha",
        "search.algorithm: optuna": request.grid.search.algorithm == "optuna",
    }
    asked = [what for what, there in needs.items() if there]
    if asked:
        raise ConfigError(
            f"--in-process trains the branches in processes of this machine, without Ray, but {' and '.join(asked)} "
            f"{'needs' if len(asked) == 1 else 'need'} Ray. Omit one of the two."
        )


def common(request: SweepRequest, parent: Parent) -> Nested:
    """The settings in which all branches differ from the parent.

    Raises:
        ConfigError: as :func:`plan_sweep`.
    """
    return _overrides(request, _workers(request, parent))


def _overrides(request: SweepRequest, workers: int) -> Nested:
    """Raises ConfigError for an override of something that a sweep decides itself."""
    given = dict(request.overrides or {})
    _allowed(given)
    if request.grid.fork.schedule != "inherit":
        given = load_config.merge(given, {"training": {"fork": {"schedule": request.grid.fork.schedule}}})
    scaling: dict[str, int | str | None] = {"num_workers": workers, "address": request.address}
    if request.threads is not None:
        scaling["threads"] = request.threads
    return load_config.merge(given, {"scaling": scaling})


def _gpus(request: SweepRequest, base: Plan) -> float:
    """GPUs of each branch.

    Raises:
        ResourceError: there is none here, or Ray cannot reserve this number.
    """
    asked, here = request.gpus_per_branch, base.resources.use_gpu and not _shares_gpu(request, base)
    gpus = asked if asked is not None else (1.0 if here else 0.0)
    if gpus and not here and request.address is None:
        if base.resources.use_gpu:
            raise ResourceError("--gpus-per-branch was given, but Ray cannot give out this machine's GPU. Omit it.")
        raise ResourceError("--gpus-per-branch was given, but the branches train on the CPU: torch sees no GPU here.")
    if gpus > 1 and gpus != int(gpus):
        raise ResourceError(f"--gpus-per-branch {gpus:g}: a number above 1 must be whole.")
    return gpus


def _shares_gpu(request: SweepRequest, base: Plan) -> bool:
    """Whether the branches share a GPU of this machine that Ray knows nothing of, such as Apple's."""
    return base.resources.use_gpu and request.address is None and not resources.gpus_for_ray()


def _on_a_cluster(base: Plan, parent: Parent, workers: int, gpus: float) -> Resources:
    """What a branch needs of a cluster: the parent's threads, and a GPU if one was asked for."""
    scaling = base.settings.scaling
    threads = scaling.threads if scaling.threads != "auto" else (parent.threads or 1)
    return Resources(workers, threads, threads, bool(gpus) or scaling.use_gpu is True)


_ELSEWHERE = {
    "seed": "seeds in the grid",
    "root": "--root",
    "sampling.weights": "weights or branches in the grid",
    "scaling.address": "--address",
    "scaling.num_workers": "--workers",
    "scaling.threads": "--threads",
    "training.epochs": "--epochs or epochs in the grid",
    "experiment.name": "--name",
}


def _allowed(overrides: Mapping[str, Any]) -> None:
    """Raises ConfigError for a setting that a sweep decides itself; the message names the option to use."""
    for dotted, option in _ELSEWHERE.items():
        section, _, key = dotted.partition(".")
        value = overrides.get(section)
        if section in overrides and (not key or (isinstance(value, Mapping) and key in value)):
            raise ConfigError(f"{dotted} cannot be an override of a sweep, whose branches differ in it. Use {option}.")
