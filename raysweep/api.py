"""The Python interface.

>>> from raysweep import create_experiment_config, run_experiment
>>> config = create_experiment_config("my_experiment", sampling_weights={"disgust": 3.0}, num_epochs=2)
>>> output_dir, best_acc = run_experiment(config)  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raysweep._text import Nested
from raysweep.config import load as load_config
from raysweep.errors import ConfigError, did_you_mean
from raysweep.events import Progress, ignore
from raysweep.store.root import Root

if TYPE_CHECKING:
    from raysweep.launch.sweep.driver import SweepResult
    from raysweep.plan.types import SweepRequest
    from raysweep.report.evaluation import Evaluation

# Flat keyword → its dotted key in the settings.
_FLAT = {
    "experiment_name": "experiment.name",
    "experiment_description": "experiment.description",
    "model_name": "model.name",
    "batch_size": "training.batch_size",
    "learning_rate": "training.learning_rate",
    "num_epochs": "training.epochs",
    "sample_per_class": "sampling.sample_per_class",
    "batch_checkpoint_frequency": "checkpoint.every_n_batches",
    "seed": "seed",
    "root": "root",
}
_OTHERS = (
    "sampling_weights",
    "use_full_dataset",
    "resume_from_checkpoint",
    "data",
    "settings",
    "timestamp",
    "auto_checkpoint_on_interrupt",
    "max_batch_checkpoints",
)


def create_experiment_config(
    experiment_name: str, sampling_weights: str | Mapping[str, float | str] | None = None, **kwargs: Any
) -> dict[str, Any]:
    """A configuration for :func:`run_experiment`, as a flat dictionary.

    Args:
        experiment_name: start of the folder's name.
        sampling_weights: class → number ≥ 0, or a share such as "35%"; classes not named get 1.0, in a child the parent's
            weight. Or a rule: "balanced", "sqrt", {"power": 0.5}, {"effective": 0.9999}.
        **kwargs: ``num_epochs`` (in a child: additional), ``batch_size``, ``learning_rate``, ``model_name``,
            ``sample_per_class``, ``use_full_dataset`` (True ignores sample_per_class), ``resume_from_checkpoint``,
            ``experiment_description``, ``seed``, ``root``; ``data``: a path or a mapping of data options (default: the
            built-in faces); ``settings``: a nested mapping of any other options.

    Raises:
        ConfigError: an unknown keyword.
    """
    unknown = [k for k in kwargs if k not in _FLAT and k not in _OTHERS]
    if unknown:
        raise ConfigError(
            f"create_experiment_config has no keyword {unknown[0]!r}.{did_you_mean(unknown[0], [*_FLAT, *_OTHERS])} Options without a "
            "keyword go into settings={'training': {...}}."
        )
    return {"experiment_name": experiment_name, "sampling_weights": _copied(sampling_weights), **kwargs}


def _copied(weights: str | Mapping[str, Any] | None) -> str | Nested:
    return weights if isinstance(weights, str) else dict(weights or {})


def _nested(config: Mapping[str, Any]) -> Nested:
    result: Nested = dict(config.get("settings") or {})
    for flat, dotted in _FLAT.items():
        if config.get(flat) is not None:
            value: Any = config[flat]
            for part in reversed(dotted.split(".")):
                value = {part: value}
            result = load_config.merge(result, value)
    if config.get("use_full_dataset"):
        result = load_config.merge(result, {"sampling": {"sample_per_class": None}})
    data = config.get("data")
    if data is not None:
        result = load_config.merge(result, {"data": dict(data) if isinstance(data, Mapping) else {"path": str(data)}})
    return result


def run_experiment(
    config: Mapping[str, Any], progress: Progress | None = None, *, trust: bool = False
) -> tuple[str, float]:
    """Train an experiment, or with ``resume_from_checkpoint`` a child of that checkpoint.

    Args:
        config: of :func:`create_experiment_config`.
        progress: called with the events of :mod:`raysweep.events`; None prints a line per epoch on stderr.
        trust: run the code that the checkpoint names, although this user did not make it on this machine.

    Returns:
        (the experiment's folder, the best validation accuracy in [0, 1] over the whole history).

    Raises:
        InputError: something given is wrong; no folder was made. TrainingError: the training failed. Interrupted: a signal
            asked to stop.
    """
    from raysweep.launch import run as launching
    from raysweep.plan import child
    from raysweep.plan import experiment as experiment_plan
    from raysweep.plan import parent as parents
    from raysweep.store.trust import Trust

    if progress is None:
        from raysweep.display.run import RunDisplay  # the terminal is not imported for those who do without it

        progress = RunDisplay()
    nested = _nested(config)
    start = config.get("resume_from_checkpoint")
    if start:
        root = Root.open(str(nested.pop("root", None) or _root_of(str(start))))
        experiment = nested.pop("experiment", {})
        epochs = nested.get("training", {}).get("epochs")
        parent = parents.read_parent(root, str(start), nested, trust=Trust(trust))
        plan = child.plan_child(
            parent,
            root,
            name=experiment.get("name"),
            description=experiment.get("description"),
            epochs=epochs,
            weights=config.get("sampling_weights") or None,
            overrides=nested,
            progress=progress,
        )
    else:
        if "data" not in nested:
            nested["data"] = {"source": "faces"}
        nested = load_config.merge(nested, {"sampling": {"weights": _copied(config.get("sampling_weights"))}})
        plan = experiment_plan.plan_experiment(load_config.validate(nested, "the configuration"), progress)
    result = launching.run(plan, progress)
    return result.experiment.address, result.best_acc


def branch(
    checkpoint: str | Path,
    grid: str | Path | Mapping[str, Any],
    *,
    name: str | None = None,
    description: str = "",
    epochs: int | None = None,
    threads: int | None = None,
    workers: int | None = None,
    max_concurrent: int | None = None,
    gpus_per_branch: float | None = None,
    weights_only: bool = False,
    reset: str | None = None,
    address: str | None = None,
    settings: Mapping[str, Any] | None = None,
    root: str | Path | None = None,
    progress: Progress | None = None,
    trust: bool = False,
) -> SweepResult:
    """Train many children of one checkpoint, each with different class sampling weights, and the control (``raysweep branch``).

    Args:
        checkpoint: a path, or ``EXPERIMENT@5``, ``@best``, ``@latest``.
        grid: the path of a grid file, or its content, such as ``{"weights": {"disgust": [3.0, 5.0]}}``.
        epochs: additional epochs; overrides the grid's.
        threads, workers, gpus_per_branch: for each branch. Fewer threads than the parent's: not bit-exact.
        weights_only, reset: without the optimizer's state; "head": with a new last layer.
        settings: a nested mapping of settings in which all branches differ from the parent.
        root: the folder of all experiments; default: the parent's.
        progress: called with the events of :mod:`raysweep.events`; None prints a line per branch and epoch on stderr.
        trust: run the code that the checkpoint names, although this user did not make it on this machine.

    Returns:
        The folder (``.sweep``), the experiments by branch (``.experiments``), the branches that failed, and why (``.failed``).

    Raises:
        InputError: something given is wrong; no folder was made. Interrupted: by a signal; ``raysweep continue`` goes on.
    """
    from raysweep.config import grid as grids
    from raysweep.plan.types import SweepRequest
    from raysweep.store.trust import Trust

    request = SweepRequest(
        Root.open(root if root is not None else _root_of(str(checkpoint))),
        str(checkpoint),
        grids.check(grid) if isinstance(grid, Mapping) else grids.read(grid),
        name=name,
        description=description,
        epochs=epochs,
        threads=threads,
        workers=workers,
        address=address,
        max_concurrent=max_concurrent,
        gpus_per_branch=gpus_per_branch,
        fresh_optimizer=weights_only,
        reset_head=_resets_head(reset),
        overrides=settings,
        trust=Trust(trust),
    )
    return _train(request, _lines_of_a_sweep() if progress is None else progress)


def _train(request: SweepRequest, progress: Progress) -> SweepResult:
    from raysweep.launch.sweep import driver as sweeping
    from raysweep.plan import sweep as sweep_plan

    return sweeping.run(sweep_plan.plan_sweep(request, progress), progress)


def _resets_head(reset: str | None) -> bool:
    if reset not in (None, "head"):
        raise ConfigError(f"reset={reset!r}: the part that can begin anew is 'head'.")
    return reset is not None


def evaluate(
    reference: str | Path,
    split: str = "test",
    *,
    settings: Mapping[str, Any] | None = None,
    classes: Sequence[str] | None = None,
    root: str | Path = "experiments",
    progress: Progress = ignore,
    trust: bool = False,
) -> Evaluation:
    """Every number of trained networks with its interval (``raysweep evaluate``). A look at sealed test images is recorded.

    Args:
        reference: a checkpoint, an experiment, a sweep, or ``hf:NAME``, ``timm:NAME``, ``torchvision:NAME``.
        split: ``test`` or ``val``.
        settings: a nested mapping, such as ``{"data": {"path": "other/images"}}``.
        classes: in the order of the network's outputs, where it is not known.
        progress: called with the events of :mod:`raysweep.events`.
        trust: run the code that the checkpoint names, although this user did not make it on this machine.

    Raises:
        InputError: something given is wrong, or there are no such images; then nobody has looked at any.
    """
    from raysweep.store.trust import Trust
    from raysweep.tools import evaluate as evaluating

    return evaluating.evaluate(
        Root.open(root), str(reference), split, settings, classes, trust=Trust(trust), progress=progress
    )


def _lines_of_a_sweep() -> Progress:
    from raysweep.display.sweep import SweepDisplay  # the terminal is not imported for those who do without it

    return SweepDisplay()


def _root_of(reference: str) -> str:
    """The default root of a child: its parent's."""
    path = Root.locate(reference)
    return Root.at(path.parent.parent).address if path.is_file() else "experiments"


def list_experiments(root: str | Path = "experiments") -> list[dict[str, Any]]:
    """The documented fields of every experiment under a root, oldest first, as ``raysweep list --json`` prints them."""
    from raysweep.store import index

    return [row.to_json() for row in index.rows(Root.open(root))]


def load_checkpoint(reference: str | Path, root: str | Path = "experiments") -> dict[str, Any]:
    """The content of a checkpoint: a path, or ``EXPERIMENT@5``, ``@best``, ``@latest``. Never runs code from the file.

    Raises:
        NotFoundError: no such checkpoint. CheckpointError: it is damaged, or holds more than tensors and plain values.
    """
    from raysweep.store import checkpoint, resolve

    _, _, path = resolve.find_checkpoint(Root.open(root), str(reference))
    return checkpoint.read_checkpoint(path)
