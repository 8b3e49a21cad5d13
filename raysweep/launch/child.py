"""Children: start again from a checkpoint with other weights or settings; and going on with an experiment in place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from raysweep import config as configuration
from raysweep import weights as weights_module
from raysweep.config import Settings
from raysweep.data import sampling
from raysweep.errors import CheckpointError, ConfigError
from raysweep.launch import legacy
from raysweep.launch import run as launching
from raysweep.launch.resources import cpus_here
from raysweep.launch.run import Plan, Progress, ignore
from raysweep.names import dotted, shown
from raysweep.store import catalog, checkpoint, files, lineage, mirror
from raysweep.store.experiment import Experiment

# Settings that say where and how a run is launched, not what is trained: changes of these are not recorded as changes.
_NOT_RECORDED = (
    "experiment.",
    "root",
    "scaling.address",
    "scaling.num_workers",
    "scaling.wait_for_nodes_s",
    "data.cache_dir",
    "training.epochs",
    "training.schedule_epochs",
    "sampling.weights",
    "checkpoint.",
    "trackers.",
)


@dataclass(frozen=True)
class Parent:
    """A checkpoint to start from, read and verified once."""

    path: Path
    experiment: str
    epoch: int  # completed epochs
    batch: int  # batches done of the running epoch; 0 at an epoch's end
    sha256: str
    classes: tuple[str, ...]
    weights: dict[str, float]
    settings: dict[str, Any]
    counts: dict[str, int]
    threads: int | None
    world_size: int
    data_sha256: str | None
    last_epoch: int  # the epoch at which the parent's own run ends
    rows: int  # epochs in its history
    channels: int  # of its images
    old: bool  # written by the old system
    given: dict[str, Any]  # dotted key → what the user had to say, because an old or imported checkpoint does not
    own: bool  # a committed checkpoint of an experiment under the root; any other may come from anybody

    def record(self) -> dict[str, Any]:
        """What a child's configuration says of its parent."""
        return {
            "experiment": self.experiment,
            "epoch": self.epoch,
            "batch": self.batch,
            "sha256": self.sha256,
            "file": mirror.address(self.path),
        }


def read_parent(
    root: Path, reference: str, overrides: Mapping[str, Any] | None = None, classes: Sequence[str] | None = None
) -> Parent:
    """The checkpoint that a reference means.

    Args:
        overrides: the user's nested settings, of which one of the old system needs the model's and the images' place.
        classes: in the order of the network's outputs, where the checkpoint and its model do not say it.

    Raises:
        NotFoundError: there is none. CheckpointError: it is damaged, incomplete, or not one of ours.
    """
    experiment, entry, path = catalog.find_checkpoint(root, reference)
    if entry is not None:
        problem = entry.verify(experiment.folder)
        if problem is not None:
            good, _ = experiment.newest_good()
            advice = (
                f"The newest whole checkpoint is {experiment.id}@{good.epoch}." if good else "Take another checkpoint."
            )
            raise CheckpointError(f"{experiment.folder}: {problem}. {advice}")
        path = experiment.folder / entry.file
    saved = checkpoint.read_checkpoint(path)
    config = dict(saved["config"])
    old = legacy.is_old(saved)
    if old:
        saved, config["settings"] = legacy.completed(saved, experiment, path, overrides or {}, classes)
    elif classes is not None and tuple(classes) != tuple(saved.get("classes") or ()):
        raise CheckpointError(
            f"{path} has the classes {', '.join(saved.get('classes') or ['-'])}. Leave --classes out."
        )
    lacking = [k for k in ("classes", "sampling_weights", "preprocessing") if not saved.get(k)]
    lacking += [f"config.{k}" for k in ("settings", "num_epochs") if not config.get(k)]
    if lacking:
        raise CheckpointError(
            f"{path} was not written by raysweep (it lacks {', '.join(lacking)}), so it cannot be resumed yet."
        )
    written, given = config["settings"], {}
    if old or config.get("imported_from"):
        written = legacy.with_data(written, path, overrides or {})
        given = legacy.given(overrides or {}, classes)
    settings = configuration.validate(written, f"the settings in {path}")
    return Parent(
        path=path.resolve(),
        experiment=str(saved.get("experiment") or experiment.id),
        epoch=saved["epoch"],
        batch=saved.get("current_batch") or 0,
        sha256=entry.sha256 if entry else files.sha256_file(path),
        classes=tuple(saved["classes"]),
        weights=dict(saved["sampling_weights"]),
        settings=settings.model_dump(mode="json"),
        counts=dict(config.get("class_counts") or {}),
        threads=saved.get("threads") or None,
        world_size=saved.get("world_size") or 1,
        data_sha256=saved.get("data_sha256"),
        last_epoch=max(saved["epoch"], ((config.get("parent") or {}).get("epoch") or 0) + config["num_epochs"]),
        rows=len(saved["history"].get("val_acc", [])),
        channels=len(saved["preprocessing"]["mean"]),
        old=old,
        given=given,
        own=entry is not None and files.inside(root, experiment.folder),
    )


def plan_child(
    parent: Parent,
    root: str,
    *,
    name: str | None = None,
    description: str | None = None,
    epochs: int | None = None,
    weights: Mapping[str, Any] | None = None,
    overrides: Mapping[str, Any] | None = None,
    fresh_optimizer: bool = False,
    progress: Progress = ignore,
    writable: bool = True,
) -> Plan:
    """Check a child of ``parent`` without making anything.

    Args:
        epochs: additional epochs; default: those the parent still had to go, or as many as it had.
        weights: the classes to change; the others keep the parent's weights.
        overrides: nested settings that differ from the parent's.

    Raises:
        InputError: what is wrong and what to do.
    """
    over = dict(overrides or {})
    given = dict((over.get("sampling") or {}).get("weights") or {}) | dict(weights or {})
    complete = weights_module.inherit(parent.weights, given, parent.classes)
    same_function(parent.path, parent.own, parent.settings["model"], over)
    base = configuration.merge(parent.settings, {"sampling": {"weights": {}}})
    if not parent.own:  # folders are made only where this user says
        base["data"] = {**base["data"], "cache_dir": None}
        base["trackers"] = {}  # nor are results sent where a stranger says
    total = parent.settings["training"]["schedule_epochs"] or parent.last_epoch
    # The parent's cluster may be gone: where a child runs is said anew.
    fixed: dict[str, Any] = {"root": root, "training": {"schedule_epochs": total}, "scaling": {"address": None}}
    default_epochs = (
        parent.last_epoch - parent.epoch if parent.last_epoch > parent.epoch else parent.settings["training"]["epochs"]
    )
    fixed["training"]["epochs"] = epochs if epochs is not None else default_epochs
    if parent.threads is not None and parent.settings["scaling"]["threads"] == "auto" and parent.threads <= cpus_here():
        fixed["scaling"]["threads"] = parent.threads
    merged = configuration.merge(configuration.merge(base, fixed), over)
    merged = configuration.merge(
        merged,
        {"experiment": {"name": name or parent.settings["experiment"]["name"], "description": description or ""}},
    )
    merged["sampling"] = {**merged["sampling"], "weights": complete}
    settings = configuration.validate(merged, "the child's configuration")
    if settings.data != Settings.model_validate(parent.settings).data:
        _same_kind_of_data(parent, settings)
    _check_state(parent, settings, fresh_optimizer)  # first: to build what does not fit could take all memory
    plan = launching.plan(settings, progress, writable, parent.classes)
    if plan.data.shape[2] != parent.channels:
        raise CheckpointError(
            f"{parent.path} was trained on images of {parent.channels} channels, the data have {plan.data.shape[2]}. Set "
            f"data.channels={parent.channels}."
        )
    return replace(plan, parent=parent, fresh_optimizer=fresh_optimizer, notes=_notes(parent, plan))


def vary(plan: Plan, *, name: str, description: str, weights: Mapping[str, float], seed: int) -> Plan:
    """Another child of the same parent: ``plan`` with other (complete, checked) weights and another seed. Cheap."""
    values = configuration.merge(
        plan.settings.model_dump(mode="json"),
        {"experiment": {"name": name, "description": description}, "seed": seed},
    )
    values["sampling"]["weights"] = dict(weights)
    varied = replace(plan, settings=configuration.validate(values, f"branch {name}"), weights=dict(weights))
    return replace(varied, notes=_notes(plan.parent, varied))


def _same_kind_of_data(parent: Parent, settings: Settings) -> None:
    old = parent.settings["data"]
    for key in ("image_size", "channels"):
        if old[key] is not None and getattr(settings.data, key) not in (None, old[key]):
            raise ConfigError(
                f"data.{key} is {getattr(settings.data, key)}, but the checkpoint was trained with {old[key]}. Leave it as it was."
            )


def same_function(path: Path, own: bool, model: Mapping[str, Any], overrides: Mapping[str, Any]) -> None:
    """A Python function that a checkpoint of unknown origin names is run only if the user names it, too.

    Args:
        own: the checkpoint is a committed one of an experiment under the root.
        model: the section of its settings.

    Raises:
        CheckpointError: the user does not name it.
    """
    section = overrides.get("model")
    named = isinstance(section, Mapping) and section.get("name")
    if own or not str(model["name"]).startswith("python:") or named:
        return
    raise CheckpointError(
        f"{path} wants to run the Python function {model['name']} with the options {shown(model['options'])}, and is "
        f"no checkpoint of an experiment under this root. If you trust it, repeat the name: model.name={model['name']}"
    )


def _check_state(parent: Parent, settings: Settings, fresh_optimizer: bool) -> None:
    """Try what the training will load: weights, optimizer, generators.

    Raises:
        CheckpointError: something does not fit. ConfigError: there is no such model.
    """
    from raysweep.training import models, optim, state

    saved = checkpoint.read_checkpoint(parent.path)
    model = models.outline(settings.model.name, settings.model.options, len(parent.classes), parent.channels)
    models.fitting_weights(model, saved, parent.path)
    if not fresh_optimizer:
        slots = {"optimizer_state_dict": state.without_data(saved["optimizer_state_dict"])}
        model.to("meta")
        state.restore_optimizer(model, optim.optimizer(model, settings.training), slots, str(parent.path))
    state.try_rng_states(saved.get("rng_state") or [], parent.path)


def _notes(parent: Parent, plan: Plan) -> tuple[str, ...]:
    """What is not exactly as it was, for the log."""
    notes = []
    if parent.data_sha256 and parent.data_sha256 != plan.data.sha256:
        before, now = sum(parent.counts.values()), sum(plan.counts.values())
        notes.append(f"the images have changed since the checkpoint ({before:,} then, {now:,} now)")
    if parent.batch and not _keeps_position(parent, plan):
        notes.append(f"epoch {parent.epoch + 1} was at batch {parent.batch}; its order is drawn anew from its start")
    if parent.old:
        notes.append("a checkpoint of the old system: weight decay no longer applies to biases and normalisation")
    exact = []
    if parent.threads not in (None, plan.resources.threads):
        exact.append(f"{plan.resources.threads} threads instead of {parent.threads}")
    if plan.resources.span is None and parent.world_size != max(1, plan.resources.workers):
        exact.append(f"{max(1, plan.resources.workers)} workers instead of {parent.world_size}")
    if exact:
        notes.append(f"not bit-exact: {', '.join(exact)}")
    return tuple(notes)


def _keeps_position(parent: Parent, plan: Plan) -> bool:
    """Whether the running epoch of a mid-epoch checkpoint can go on at its batch."""
    old, new = Settings.model_validate(parent.settings), plan.settings
    return (
        parent.weights == plan.weights
        and parent.batch <= sampling.batches(plan.draws, new.training.batch_size)
        and old.seed == new.seed
        and old.training.batch_size == new.training.batch_size
        and old.sampling.model_dump(exclude={"weights"}) == new.sampling.model_dump(exclude={"weights"})
        and parent.data_sha256 == plan.data.sha256
    )


def start_fields(plan: Plan) -> dict[str, Any]:
    """The parts of a child's :class:`~raysweep.training.loop.Job` that say how it starts."""
    parent: Parent = plan.parent
    return {
        "start": str(parent.path),
        "first_epoch": parent.epoch + 1,
        "last_epoch": parent.epoch + plan.settings.training.epochs,
        "fresh_optimizer": plan.fresh_optimizer,
        "keep_rng": plan.settings.seed == parent.settings["seed"],
        "keep_position": parent.batch > 0 and _keeps_position(parent, plan),
        "parent": parent.record(),
    }


def changed_settings(parent: Parent, settings: Settings) -> dict[str, list[Any]]:
    """Dotted key → [old, new] of every setting that a child trains differently."""
    old = dict(dotted(Settings.model_validate(parent.settings).model_dump(mode="json")))
    new = dict(dotted(settings.model_dump(mode="json")))
    found = {
        k: [old.get(k), new.get(k)]
        for k in sorted({*old, *new})
        if old.get(k) != new.get(k) and not k.startswith(_NOT_RECORDED)
    }
    if found.get("scaling.threads", [None, None])[1] == parent.threads:  # auto, resolved to what the parent had
        found.pop("scaling.threads", None)
    return found


def record_start(plan: Plan, experiment: Experiment) -> None:
    """The events that tie a child to its parent."""
    parent: Parent = plan.parent
    lineage.record(
        experiment.folder,
        lineage.RESUME,
        checkpoint=mirror.address(parent.path),
        experiment=parent.experiment,
        epoch=parent.epoch,
        batch=parent.batch or None,
        sha256=parent.sha256,
        optimizer="fresh" if plan.fresh_optimizer else None,
        given=parent.given or None,
    )
    if parent.weights != plan.weights:
        lineage.record(
            experiment.folder,
            lineage.RATIO,
            old_weights=parent.weights,
            new_weights=plan.weights,
            old_shares=weights_module.shares(plan.counts, parent.weights),
            new_shares=plan.shares,
        )
    changed = changed_settings(parent, plan.settings)
    if changed:
        lineage.record(experiment.folder, lineage.CONFIGURATION, changes=changed)
    for note in plan.notes:
        if not note.startswith("not bit-exact"):  # the training itself says that, and all of it
            lineage.record(experiment.folder, lineage.NOTE, text=note)
