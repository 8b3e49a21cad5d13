"""Train: ``run``, ``resume``, ``branch``, ``continue_``, and ``run_experiment`` of the specification. The commands of these names call
these functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from raysweep._text import Nested
from raysweep.api import reading
from raysweep.api.config import copied, named, nested, settings_of
from raysweep.api.experiment import Experiment
from raysweep.api.given import Reference, checkpoint, resets_head, showing, text, trusting
from raysweep.api.hunted import Hunt
from raysweep.api.sweep import Folds, Sweep
from raysweep.config import load as load_config
from raysweep.errors import InputError
from raysweep.events import Loading, Progress

if TYPE_CHECKING:
    from raysweep.config.settings import Settings
    from raysweep.launch.runner import Result
    from raysweep.launch.sweep.driver import SweepResult
    from raysweep.launch.sweep.folds import FoldsResult
    from raysweep.plan.types import Plan, SweepPlan, SweepRequest
    from raysweep.store.hunts import Hunt as StoredHunt
    from raysweep.store.trust import Trust

Weights = str | Mapping[str, float | str]


def run(
    config: Reference | Mapping[str, Any] | None = None,
    *,
    data: Reference | Mapping[str, Any] | None = None,
    name: str | None = None,
    description: str | None = None,
    epochs: int | None = None,
    weights: Weights | None = None,
    settings: Mapping[str, Any] | None = None,
    root: Reference | None = None,
    progress: Progress | None = None,
) -> Experiment:
    """Train an experiment (``raysweep run``).

    Args:
        config: a YAML file, the name of an example (``base``), or settings as a nested mapping. Default: the built-in faces, and a small
            network.
        data: a folder or a list of images, or a mapping of the options of ``data``.
        name, description: of the experiment.
        epochs: ``training.epochs``.
        weights: class → number ≥ 0, or a share such as "35%"; classes not named get 1.0. Or a rule: "balanced", "sqrt".
        settings: a nested mapping of any options, which override the configuration. A class or function of your own may stand in place of
            its ``python:MODULE:NAME``: ``{"model": Net}``.
        root: the folder of all experiments; default: the configuration's, else ``RAYSWEEP_ROOT`` or ``experiments``.
        progress: called with the events of :mod:`raysweep.events`. Default: a bar in a notebook, elsewhere a line per epoch on stderr.

    Raises:
        InputError: something given is wrong; no folder was made. TrainingError: the training failed. Interrupted: a signal asked to stop.
    """
    told = {
        "experiment": {"name": name, "description": description},
        "training": {"epochs": epochs},
        "root": root and str(root),
    }
    more = load_config.merge(named(settings or {}), _given(told))
    if weights is not None:
        more = load_config.merge(more, {"sampling": {"weights": copied(weights)}})
    checked = settings_of(config, data, more)
    with showing(progress) as shown:
        return Experiment(train(plan_run(checked, shown), shown).experiment)


def _given(values: Mapping[str, Any]) -> Nested:
    """Without what is None."""
    plain = {k: _given(v) if isinstance(v, Mapping) else v for k, v in values.items()}
    return {k: v for k, v in plain.items() if v not in (None, {})}


def plan_run(settings: Settings, progress: Progress, writable: bool = True) -> Plan:
    """Check a run. Nothing is written but the image cache, and with ``writable`` the root.

    Raises:
        InputError: what is wrong and what to do.
    """
    from raysweep.plan import early

    early.check(settings)
    progress(Loading())
    from raysweep.plan import experiment

    return experiment.plan_experiment(settings, progress, writable)


def train(plan: Plan, progress: Progress) -> Result:
    """Tell what a plan has to say, and train it to its end."""
    from raysweep.launch import run as launching

    for note in plan.notes:
        if not (note.inexact and plan.parent is not None):  # the training itself reports those
            progress(note)
    return launching.run(plan, progress)


def resume(
    start: Reference,
    *,
    name: str | None = None,
    description: str | None = None,
    epochs: int | None = None,
    weights: Weights | None = None,
    classes: Sequence[str] | None = None,
    weights_only: bool = False,
    reset: str | None = None,
    settings: Mapping[str, Any] | None = None,
    root: Reference | None = None,
    progress: Progress | None = None,
    trust: bool | Trust = False,
) -> Experiment:
    """Train a child of a checkpoint (``raysweep resume``). It starts from the same state.

    Args:
        start: a checkpoint: an object, a path, or ``EXPERIMENT@5``, ``@best``, ``@latest``.
        name: of the child; default: the parent's.
        epochs: additional epochs; default: those that the parent had left, or if it was finished as many as it had.
        weights: the classes to change, to a weight or to a share such as "35%", or a rule. Other classes keep the parent's weights.
        classes: of an old checkpoint, in the order of the outputs.
        weights_only, reset: without the optimizer's state; "head": with a new last layer.
        settings: a nested mapping of settings that differ from the parent's.
        root: the folder of all experiments; default: the parent's.
        progress: called with the events of :mod:`raysweep.events`. Default: as in :func:`run`.
        trust: run the code that the checkpoint names, although this user did not make it on this machine.

    Raises:
        InputError: something given is wrong; no folder was made. TrainingError: the training failed. Interrupted: a signal asked to stop.
    """
    head, over = resets_head(reset), named(settings or {})
    with showing(progress) as shown:
        plan = plan_resume(
            start, name=name, description=description, epochs=epochs, weights=weights, classes=classes, fresh_optimizer=weights_only,
            reset_head=head, settings=over, root=root, progress=shown, trust=trust,
        )  # fmt: skip
        return Experiment(train(plan, shown).experiment)


def plan_resume(
    start: Reference,
    *,
    settings: Mapping[str, Any],
    progress: Progress,
    root: Reference | None = None,
    classes: Sequence[str] | None = None,
    trust: bool | Trust = False,
    **options: Any,
) -> Plan:
    """Check a child of a checkpoint. Nothing is written but the image cache.

    Args:
        **options: of :func:`raysweep.plan.child.plan_child`.

    Raises:
        InputError: what is wrong and what to do.
    """
    opened, reference = checkpoint(start, root)
    progress(Loading())
    from raysweep.plan import child
    from raysweep.plan import parent as parents

    parent = parents.read_parent(opened, reference, settings, classes, trusting(trust))
    return child.plan_child(parent, opened, overrides=settings, progress=progress, **options)


def run_experiment(
    config: Mapping[str, Any], progress: Progress | None = None, *, trust: bool | Trust = False
) -> tuple[str, float]:
    """Train an experiment, or with ``resume_from_checkpoint`` a child of that checkpoint.

    Args:
        config: of :func:`create_experiment_config`.
        progress: called with the events of :mod:`raysweep.events`. Default: as in :func:`run`.
        trust: run the code that the checkpoint names, although this user did not make it on this machine.

    Returns:
        (the experiment's folder, the best validation accuracy in [0, 1] over the whole history).

    Raises:
        InputError: something given is wrong; no folder was made. TrainingError: the training failed. Interrupted: a signal
            asked to stop.
    """
    over, start, weights = nested(config), config.get("resume_from_checkpoint"), config.get("sampling_weights")
    with showing(progress) as shown:
        if start:
            root, experiment = over.pop("root", None), over.pop("experiment", {})
            plan = plan_resume(
                str(start), settings=over, progress=shown, root=root, trust=trust, name=experiment.get("name"),
                description=experiment.get("description"), epochs=over.get("training", {}).get("epochs"), weights=weights or None,
            )  # fmt: skip
        else:
            over = load_config.merge(over, {"sampling": {"weights": copied(weights)}})
            plan = plan_run(settings_of({}, None, over), shown)
        result = train(plan, shown)
    return result.experiment.address, result.best_acc


def branch(
    start: Reference,
    grid: Reference | Mapping[str, Any],
    *,
    name: str | None = None,
    description: str = "",
    epochs: int | None = None,
    threads: int | None = None,
    workers: int | None = None,
    max_concurrent: int | None = None,
    in_process: bool = False,
    gpus_per_branch: float | None = None,
    weights_only: bool = False,
    reset: str | None = None,
    address: str | None = None,
    settings: Mapping[str, Any] | None = None,
    root: Reference | None = None,
    progress: Progress | None = None,
    trust: bool | Trust = False,
) -> Sweep:
    """Train many children of one checkpoint, each with different class sampling weights, and the control (``raysweep branch``).

    Args:
        start: a checkpoint: an object, a path, or ``EXPERIMENT@5``, ``@best``, ``@latest``.
        grid: the path of a grid file, or its content, such as ``{"weights": {"disgust": [3.0, 5.0]}}``.
        epochs: additional epochs; overrides the grid's.
        threads, workers, gpus_per_branch: for each branch. Fewer threads than the parent's: not bit-exact.
        in_process: train in processes of this machine, without Ray, whose start takes longer than small branches.
        weights_only, reset: without the optimizer's state; "head": with a new last layer.
        settings: a nested mapping of settings in which all branches differ from the parent.
        root: the folder of all experiments; default: the parent's.
        progress: called with the events of :mod:`raysweep.events`. Default: a bar in a notebook, elsewhere a line per branch and epoch on
            stderr.
        trust: run the code that the checkpoint names, although this user did not make it on this machine.

    Returns:
        The sweep; ``.failed`` has the branches that failed, and why.

    Raises:
        InputError: something given is wrong; no folder was made. Interrupted: by a signal; ``continue_`` goes on.
    """
    from raysweep.config import grid as grids
    from raysweep.plan.types import SweepRequest

    checked = grids.check(grid) if isinstance(grid, Mapping) else grids.read(text(grid))
    head, over = resets_head(reset), named(settings or {})
    opened, reference = checkpoint(start, root)
    request = SweepRequest(
        opened, reference, checked, name=name, description=description, epochs=epochs, threads=threads, workers=workers, address=address,
        max_concurrent=max_concurrent, in_process=in_process, gpus_per_branch=gpus_per_branch, fresh_optimizer=weights_only, reset_head=head,
        overrides=over or None, trust=trusting(trust),
    )  # fmt: skip
    with showing(progress, sweep=True) as shown:
        return Sweep(train_sweep(plan_branch(request, shown), shown).sweep)


def plan_branch(request: SweepRequest, progress: Progress, writable: bool = True) -> SweepPlan:
    """Check a sweep. Nothing is written but the image cache.

    Raises:
        InputError: what is wrong and what to do.
    """
    progress(Loading())
    from raysweep.plan import side_by_side, sweep

    plan = sweep.plan_sweep(request, progress, writable=writable)
    return replace(plan, notes=[*plan.notes, *side_by_side.of_sweep(plan, request)])


def train_sweep(plan: SweepPlan, progress: Progress) -> SweepResult:
    """Train the branches that were planned."""
    from raysweep.launch.sweep import driver

    return driver.run(plan, progress)


def continue_(
    reference: Reference,
    *,
    steal: bool = False,
    threads: int | None = None,
    workers: int | list[int] | None = None,
    address: str | None = None,
    more_seeds: int | None = None,
    more_controls: int | None = None,
    root: Reference | None = None,
    progress: Progress | None = None,
    trust: bool | Trust = False,
) -> Experiment | Sweep | Folds | Hunt:
    """Finish an interrupted experiment or sweep in place, from its newest intact checkpoints (``raysweep continue``). What is finished stays.

    Args:
        reference: id, name, path or object.
        steal: take over the lock of a process on another host that is certainly gone.
        threads, workers, address: other resources than before; the bits may differ, and the log says so.
        more_seeds: of a sweep: train every branch, and the control, with so many more seeds.
        more_controls: so many more seeds of the control instead.
        root: the folder of all experiments; default: that of the object, else ``RAYSWEEP_ROOT`` or ``experiments``.
        progress: called with the events of :mod:`raysweep.events`. Default: as in :func:`run` and :func:`branch`.
        trust: run the code that its configuration names, although this user did not make it on this machine.

    Raises:
        NotFoundError: no such thing. LockedError: it is running. InputError: it cannot be continued so. TrainingError: the training failed.
        Interrupted: a signal asked to stop.
    """
    found = reading.find(reference, root)
    with showing(progress, sweep=not isinstance(found, Experiment)) as shown:
        go_on(found, steal, (threads, workers, address), (more_seeds, more_controls), shown, trusting(trust))
    if isinstance(found, Experiment):
        return found
    if isinstance(found, Hunt):
        return found
    return Sweep(found.stored) if isinstance(found, Sweep) else Folds(found.stored)  # which compare what is there now


Asked = tuple[int | None, int | list[int] | None, str | None]  # threads, workers, address
More = tuple[int | None, int | None]  # seeds of every branch, of the control


def go_on(
    found: Experiment | Sweep | Folds | Hunt, steal: bool, asked: Asked, more: More, progress: Progress, trust: Trust
) -> Result | SweepResult | FoldsResult | StoredHunt:
    """Finish what was found; what :func:`continue_` and the command do.

    Raises:
        InputError: more seeds are asked for of something that is no sweep.
    """
    check_more(found, more)
    progress(Loading())
    from raysweep.plan.resources import ResourceOverrides

    how: Nested = {"steal": steal, "asked": ResourceOverrides(*asked), "progress": progress, "trust": trust}
    if isinstance(found, Sweep):
        from raysweep.launch.sweep.more_seeds import MoreSeeds
        from raysweep.launch.sweep.resume import continue_sweep

        seeds, controls = more
        counts = (seeds or 0, (seeds or 0) if controls is None else controls)
        return continue_sweep(found.stored.root, found.stored, more=MoreSeeds(*counts) if any(counts) else None, **how)
    if isinstance(found, Folds):
        from raysweep.launch.sweep.folds import continue_folds

        return continue_folds(found.stored, **how)
    if isinstance(found, Hunt):
        from raysweep.api import hunting

        return hunting.go_on(found.stored, steal, how["asked"], progress, trust)
    from raysweep.launch.resume import continue_experiment

    return continue_experiment(found.stored.root, found.stored, **how)


def check_more(found: Experiment | Sweep | Folds | Hunt, more: More) -> None:
    """
    Raises:
        InputError: more seeds are asked for of something that cannot get them.
    """
    if not any(more) or isinstance(found, Sweep):
        return
    if isinstance(found, Folds):
        raise InputError(
            f"{found.id} is a k-fold sweep: continue finishes it. Name the sweep of a fold for more seeds."
        )
    if isinstance(found, Hunt):
        raise InputError(f"{found.id} is a hunt: continue finishes it. Name the sweep of a round for more seeds.")
    raise InputError(f"{found.id} is an experiment. Only a sweep can get more seeds.")
