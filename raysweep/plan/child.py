"""Plan a child: start again from a checkpoint with other weights or settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from pydantic import ValidationError

from raysweep import _machine
from raysweep._text import Nested, counted, dotted, short_repr
from raysweep.config import foreign
from raysweep.config import load as load_config
from raysweep.config.settings import ExperimentSection, Settings
from raysweep.data import sampling
from raysweep.errors import CheckpointError, ConfigError
from raysweep.events import Note, Progress, ignore
from raysweep.label_sets import images_in
from raysweep.plan import experiment as experiment_plan
from raysweep.plan import networks, rates, roles, states
from raysweep.plan.types import Parent, Plan
from raysweep.store.root import Root
from raysweep.weights import SamplingWeights
from raysweep.weights_by_rule import Wanted

# Settings that say where and how a run is launched, not what is trained. Their changes are not recorded as changes.
_NOT_RECORDED = (
    "experiment.",
    "root",
    "scaling.address",
    "scaling.num_workers",
    "scaling.wait_for_nodes_s",
    "data.cache",  # the images that it changes are noted by their hash
    "data.cache_dir",
    "training.epochs",
    "training.schedule_epochs",
    "sampling.weights",
    "checkpoint.",
    "trackers.",
)


def plan_child(
    parent: Parent,
    root: Root,
    *,
    name: str | None = None,
    description: str | None = None,
    epochs: int | None = None,
    weights: str | Mapping[str, Any] | None = None,
    overrides: Mapping[str, Any] | None = None,
    fresh_optimizer: bool = False,
    reset_head: bool = False,
    progress: Progress = ignore,
    writable: bool = True,
    here: bool = True,
) -> Plan:
    """Check a child of ``parent``. Nothing is written but the image cache.

    Args:
        epochs: additional epochs; default: those that the parent had left, or if it was finished as many as it had.
        weights: the classes to change, to a weight or to a share such as "35%", or a rule; see
            :mod:`raysweep.weights_by_rule`. The other classes keep the parent's weights.
        overrides: nested settings that differ from the parent's.
        fresh_optimizer: without the optimizer's state.
        reset_head: with a new last layer, whose weights are drawn by the seed.
        here: whether the child trains in this process, where its resources say so.

    Raises:
        InputError: what is wrong and what to do.
    """
    over = dict(overrides or {})
    _no_other_weights(over)
    ratio = _ratio(parent, over.get("sampling") or {}, weights)
    settings = _childs_settings(parent, root.address, name, description, epochs, ratio, over)
    if settings.data != parent.settings.data:
        _same_kind_of_data(parent, settings)
    _same_pixels(parent, over)
    # first: building a model that does not fit could take all memory
    told = states.check(parent, settings, fresh_optimizer, reset_head)
    networks.provide_images(parent.settings, parent.trusted)
    known_roles = roles.of_parent(parent, settings, experiment_plan.cache_dir(settings, root), progress)
    plan = experiment_plan.plan_experiment(
        settings,
        progress,
        writable,
        parent.classes,
        inherited=ratio.inherited,
        asked=ratio.wanted,
        first_epoch=parent.epoch + 1,
        root=root,
        new_weights=False,
        trusted=parent.trusted,
        before=known_roles,
        here=here,
    )
    training = rates.with_rate(plan.settings.training, parent.settings.training)
    plan = replace(plan, settings=plan.settings.model_copy(update={"training": training}))
    plan = replace(plan, notes=(*plan.notes, *roles.unknown(known_roles, parent, plan.data.sha256)))
    _check_images(parent, plan)
    parent = replace(parent, notes=(*parent.notes, *map(Note, told)))
    return of_parent(plan, parent, fresh_optimizer, reset_head)


@dataclass(frozen=True)
class _Ratio:
    """What a child is asked to show, and what it inherits."""

    wanted: Wanted
    inherited: SamplingWeights  # of the classes that are not named
    of_settings: Mapping[str, float]  # class → weight, for ``sampling.weights``
    constant: bool  # weights were given: they hold for all epochs, and a schedule or policy is the parent's past


def _ratio(parent: Parent, sampled: Mapping[str, Any], weights: str | Mapping[str, Any] | None) -> _Ratio:
    """Raises WeightsError if what is asked for has not the form of weights."""
    wanted = _wanted(sampled, weights)
    given = bool(weights or sampled.get("weights") or sampled.get("shares"))
    before = parent.settings.sampling
    goes_on = before.policy is not None and not given and not {"policy", "schedule", "follow"} & {*sampled}
    inherited = parent.decided if goes_on and parent.decided is not None else parent.weights
    known = wanted.resolve(inherited, {}) if wanted.is_plain(inherited) else inherited
    # a policy starts from the same weights every time
    return _Ratio(wanted, inherited, before.numbers() if goes_on else known.as_dict(), given)


def _check_images(parent: Parent, plan: Plan) -> None:
    """Raises CheckpointError if images have other channels, or one that is to be held out may be one that the parent trained on."""
    if plan.data.shape[2] != parent.channels:
        raise CheckpointError(
            f"{parent.path} was trained on images of {parent.channels} channels, but the data have {plan.data.shape[2]}. Set "
            f"data.channels={parent.channels}."
        )
    was, now = parent.settings.sampling.holdout, plan.settings.sampling.holdout
    split = parent.settings.data.split_seed == plan.settings.data.split_seed
    same = was == now and split and parent.data_sha256 == plan.data.sha256
    if now and not same:
        raise CheckpointError(
            f"sampling.holdout is {now:g}, and {parent.experiment} was trained with {was:g}"
            f"{'' if was != now else ' on other images'}: some of the {plan.held:,} images to hold out may be among those that it has "
            "learned. Set sampling.holdout where the lineage begins (`raysweep run`), or decide by sampling.policy.on=val."
        )


def _wanted(sampling: Mapping[str, Any], weights: str | Mapping[str, Any] | None) -> Wanted:
    """What is asked for by the overrides of the section ``sampling`` and by ``weights``, which wins.

    Raises:
        WeightsError: it has not the form of weights, a rule or shares.
    """
    first = sampling.get("weights") or {}
    second: str | Mapping[str, Any] = weights or {}
    if not (isinstance(first, Mapping) and isinstance(second, Mapping)):
        return Wanted(second or first, sampling.get("shares") or {})
    return Wanted({**first, **second}, {c: s for c, s in (sampling.get("shares") or {}).items() if c not in second})


def of_parent(plan: Plan, parent: Parent, fresh_optimizer: bool, reset_head: bool) -> Plan:
    """``plan`` as a child of ``parent``, with what the log says of that."""
    plan = replace(plan, parent=parent, fresh_optimizer=fresh_optimizer, reset_head=reset_head)
    plan = replace(plan, rates=_rates(parent, plan))
    return replace(plan, notes=(*plan.notes, *_notes(parent, plan)))


def trained_until(plan: Plan, epoch: int) -> Plan:
    """A child's plan that trains to ``epoch``, whatever its patience; its learning rate in each epoch stays as planned."""
    parent, before = plan.parent, plan.settings.training
    assert parent is not None
    fixed: Nested = {"epochs": epoch - parent.epoch, "schedule_epochs": before.schedule_epochs or before.epochs}
    training = before.model_copy(update={**fixed, "patience": None})
    until = replace(plan, settings=plan.settings.model_copy(update={"training": training}))
    of_fork = _notes(parent, plan)
    until = replace(until, rates=_rates(parent, until), notes=tuple(n for n in plan.notes if n not in of_fork))
    return replace(until, notes=(*until.notes, *_notes(parent, until)))


def _rates(parent: Parent, plan: Plan) -> rates.Rates:
    training = plan.settings.training
    done = parent.batch / sampling.batches(plan.draws, training.batch_size) if keeps_position(parent, plan) else 0.0
    return rates.rates(training, parent.epoch + done, parent.epoch + training.epochs)


def _no_other_weights(overrides: Mapping[str, Any]) -> None:
    """Raises ConfigError if the user names a file of weights: a child has those of its checkpoint, and would not read it."""
    section = overrides.get("model")
    named = section.get("init_from") if isinstance(section, Mapping) else None
    if named:
        raise ConfigError(
            f"model.init_from is {short_repr(named)}, but a child starts with the weights of its checkpoint. Omit it; to "
            "start from that file, use `raysweep run`."
        )


def _childs_settings(
    parent: Parent,
    root: str,
    name: str | None,
    description: str | None,
    epochs: int | None,
    ratio: _Ratio,
    overrides: Mapping[str, Any],
) -> Settings:
    """The parent's settings with the child's own, checked.

    Raises:
        ConfigError: an override is wrong.
    """
    before = parent.settings
    _same_labels(parent, overrides)
    base = load_config.merge(before.model_dump(mode="json"), {"sampling": {"weights": {}}})
    if not parent.own:  # folders are made only where this user asks for it
        base["data"] = {**base["data"], "cache_dir": None}
        base["trackers"] = {}  # and results are not sent where a stranger asks for it
    total = before.training.schedule_epochs or parent.last_epoch
    # The parent's cluster may be gone, so where a child runs is not inherited.
    fixed: Nested = {"root": root, "training": {"schedule_epochs": total}, "scaling": {"address": None}}
    left = parent.last_epoch - parent.epoch
    default_epochs = left if left > 0 else before.training.epochs
    fixed["training"]["epochs"] = epochs if epochs is not None else default_epochs
    if parent.threads is not None and before.scaling.threads == "auto" and parent.threads <= _machine.cpus_here():
        fixed["scaling"]["threads"] = parent.threads
    merged = load_config.merge(load_config.merge(base, fixed), overrides)
    named = "fork" in (overrides.get("training") or {})
    merged["training"]["fork"] = rates.forked(before.training, merged["training"], parent.epoch, named)
    merged = load_config.merge(
        merged, {"experiment": {"name": name or before.experiment.name, "description": description or ""}}
    )
    sampling = {**merged["sampling"], "weights": dict(ratio.of_settings), "shares": {}}
    asked = overrides.get("sampling") or {}
    ways = {"policy", "schedule", "follow"}
    if ratio.constant or ways & {*asked}:  # what the user does not ask for is the parent's past
        sampling |= {way: asked.get(way) for way in ways} | {"schedule": asked.get("schedule") or []}
    merged["sampling"] = sampling
    return load_config.validate(merged, "the child's configuration")


def vary(plan: Plan, *, name: str, description: str, weights: SamplingWeights, seed: int) -> Plan:
    """Another child of the same parent: ``plan`` with other weights and another seed, which was checked. This is cheap.

    Raises:
        ConfigError: the name cannot be that of a folder.
    """
    before = plan.settings
    try:
        experiment = ExperimentSection(name=name, description=description)
    except ValidationError as error:
        raise ConfigError(load_config.explain(error, ExperimentSection, f"branch {name}")) from None
    varying = before.sampling.schedule or before.sampling.policy
    if varying and plan.parent is not None and weights == plan.parent.weights:
        # the control goes on as its parent did; a branch has its weights
        weights, sampled = plan.weights, before.sampling
    else:
        own: Nested = {"weights": weights.as_dict(), "schedule": [], "policy": None}
        sampled = before.sampling.model_copy(update=own)
    settings = before.model_copy(update={"experiment": experiment, "seed": seed, "sampling": sampled})
    varied = replace(plan, settings=settings, weights=weights)
    if plan.parent is None:
        return varied
    # what is said of the fork and of the weights in the loss depends on the branch's own ratio
    old, new = (
        (*experiment_plan.loss_notes(p.settings, p.weights, p.counts), *_notes(plan.parent, p)) for p in (plan, varied)
    )
    return replace(varied, notes=(*(n for n in plan.notes if n not in old), *new))


def _same_labels(parent: Parent, overrides: Mapping[str, Any]) -> None:
    """Raises ConfigError where the user wants several labels for an image instead of one, or one instead of several."""
    given, before = overrides.get("data"), parent.settings.data.multi_label
    if isinstance(given, Mapping) and (bool(given.get("labels")) or given.get("multi_label", before)) != before:
        raise ConfigError(
            f"data.multi_label belongs to a lineage: the outputs of {parent.experiment} are for {'several labels' if before else 'one class'} "
            "for each image. Omit it, and data.labels; to change it, start from the weights alone: `raysweep run` with model.init_from."
        )


def _same_kind_of_data(parent: Parent, settings: Settings) -> None:
    before, now = ((d.folds, d.fold) for d in (parent.settings.data, settings.data))
    if before != now:
        was = "without folds" if before == (None, None) else f"for fold {before[1]} of {before[0]}"
        raise ConfigError(
            f"data.folds and data.fold belong to a lineage: {parent.experiment} was trained {was}, so what is for validation in another "
            "fold is what it has learned. Omit them; `data: {folds: 5}` in a grid file trains a parent for each fold."
        )
    for key in ("fit", "background"):
        old, new = getattr(parent.settings.data, key), getattr(settings.data, key)
        if old != new:
            raise ConfigError(
                f"data.{key} is {new}, but {parent.experiment} was trained with {old}: its images would be others, and so would be "
                "those for validation. Omit it; to change it, start from the weights alone: `raysweep run` with model.init_from."
            )
    for key in ("image_size", "channels"):
        old, new = getattr(parent.settings.data, key), getattr(settings.data, key)
        if old is not None and new not in (None, old):
            raise ConfigError(
                f"data.{key} is {new}, but the checkpoint was trained with {old}. Omit it, or set the same value."
            )


def _same_pixels(parent: Parent, overrides: Mapping[str, Any]) -> None:
    """Raises ConfigError if the user wants pixels standardised otherwise: the checkpoint's network needs them as before."""
    section, before = overrides.get("data"), parent.settings.data
    for key in ("mean", "std"):
        given = section.get(key) if isinstance(section, Mapping) else None
        if given is not None and given != getattr(before, key):
            raise ConfigError(
                f"data.{key} is {short_repr(given)}, but a child standardises pixels as its checkpoint's network was trained. Omit "
                "it; to change it, start from the weights alone: `raysweep run` with model.init_from."
            )


def _notes(parent: Parent, plan: Plan) -> tuple[Note, ...]:
    """What is not exactly as in the parent, for the log."""
    notes = []
    if parent.data_sha256 and parent.data_sha256 != plan.data.sha256:
        before, now = images_in(parent.counts), images_in(plan.counts)
        notes.append(Note(f"the images have changed since the checkpoint ({before:,} then, {now:,} now)"))
    if parent.batch and not keeps_position(parent, plan):
        text = f"epoch {parent.epoch + 1} was at batch {parent.batch}; its order is drawn anew from its start"
        notes.append(Note(text))
    notes += parent.notes
    if plan.rates is not None:
        training = plan.settings.training
        given = training.learning_rate != parent.settings.training.learning_rate
        notes.append(Note(plan.rates.describe()))
        low = rates.warning(training, plan.rates, parent.epoch, training.epochs, given)
        notes += [Note(low)] if low else []
        notes += [Note(text)] if (text := rates.told(training, parent.settings.training)) else []
    left_out = [] if parent.own else foreign.places(parent.settings.model_dump(mode="json"))
    if left_out:
        names = ", ".join(ask.key for ask in left_out if ask.key != "scaling.address")  # which no child inherits
        notes += (
            [Note(f"not inherited, because there is no record that you made {parent.experiment}: {names}")]
            if names
            else []
        )
    exact = []
    if parent.threads not in (None, plan.resources.threads):
        exact.append(f"{counted(plan.resources.threads, 'thread')} instead of {parent.threads}")
    if plan.resources.worker_range is None and parent.world_size != max(1, plan.resources.workers):
        exact.append(f"{counted(max(1, plan.resources.workers), 'worker')} instead of {parent.world_size}")
    if exact:
        notes.append(Note(f"not bit-exact: {', '.join(exact)}", inexact=True))
    return tuple(notes)


def keeps_position(parent: Parent, plan: Plan) -> bool:
    """Whether the running epoch of a mid-epoch checkpoint can continue at its batch."""
    old, new = parent.settings, plan.settings
    return (
        parent.weights == plan.weights
        and parent.batch <= sampling.batches(plan.draws, new.training.batch_size)
        and old.seed == new.seed
        and old.training.batch_size == new.training.batch_size
        and old.training.augment.repeats == new.training.augment.repeats
        and old.sampling.model_dump(exclude={"weights"}) == new.sampling.model_dump(exclude={"weights"})
        and parent.data_sha256 == plan.data.sha256
    )


def changed_settings(parent: Parent, settings: Settings) -> dict[str, list[Any]]:
    """Dotted key → [old, new] of every setting that a child trains differently."""
    old = dict(dotted(parent.settings.model_dump(mode="json")))
    new = dict(dotted(settings.model_dump(mode="json")))
    found = {
        k: [old.get(k), new.get(k)]
        for k in sorted({*old, *new})
        if old.get(k) != new.get(k) and not k.startswith(_NOT_RECORDED)
    }
    if found.get("scaling.threads", [None, None])[1] == parent.threads:  # auto, resolved to what the parent had
        found.pop("scaling.threads", None)
    return found
