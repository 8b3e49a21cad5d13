"""Try to load the state of a checkpoint into the network and optimizer of a child, before anything is made."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from raysweep._text import join_names, short_repr
from raysweep.config.settings import ModelSection, Settings
from raysweep.errors import CheckpointError, ConfigError
from raysweep.plan.types import Parent
from raysweep.store import checkpoint


def check(parent: Parent, settings: Settings, fresh_optimizer: bool, reset_head: bool) -> list[str]:
    """Load weights, optimizer and generators as the training will.

    Returns:
        What is to be said: of a new last layer, and in what the user's code differs from that of the checkpoint.

    Raises:
        CheckpointError: something does not fit. ConfigError: there is no such model, or settings of it are the reason.
    """
    from raysweep.training import conditions, head, models, optim, own, state
    from raysweep.training.freezing import Freezing

    saved = checkpoint.read_checkpoint(parent.path)
    section = settings.model
    height, width, _ = (saved.get("preprocessing") or {}).get("shape") or (0, 0, 0)
    model = models.outline(
        section.name,
        section.options,
        len(parent.classes),
        parent.channels,
        trusted=parent.trusted,
        path=section.path,
        head=section.head,
        size=(height, width) if height and width else None,
    )
    told, weights = [], models.as_named(model, saved["model_state_dict"])
    if reset_head:
        weights = head.anew(model, weights, len(parent.classes), section.name)
        name = head.restarted(model, len(parent.classes), section.name)
        told.append(
            f"the last layer{f' {name}' if name else ''} begins anew: its weights are drawn by the seed, its part of the optimizer's "
            "state is new, and all else is the checkpoint's"
        )
    try:
        models.fitting_weights(model, weights, parent.path)
    except CheckpointError as error:
        raise _because_of_settings(parent, section, error) or error from None
    if not fresh_optimizer:
        slots = {"optimizer_state_dict": state.without_data(saved["optimizer_state_dict"]), "config": saved["config"]}
        model.to("meta")
        code = own.load(settings, parent.trusted).get("training.optimizer") if settings.own_code() else None
        freezing = Freezing.of(model, section, len(parent.classes))
        optimizer = optim.optimizer(model, settings.training, code, freezing)
        frozen = freezing, len(parent.classes), parent.epoch + 1
        state.restore_optimizer(model, optimizer, slots, str(parent.path), settings.training, code, *frozen)
    state.try_rng_states(saved.get("rng_state") or [], parent.path)
    same = parent.trusted and section.name == parent.settings.model.name
    changed = conditions.changed_code(saved, section.name, section.path) if same else None
    told += own.changed(saved, parent.settings, settings) if parent.trusted and settings.own_code() else []
    return [*told, *([changed] if changed is not None else [])]


def _because_of_settings(parent: Parent, section: ModelSection, error: CheckpointError) -> ConfigError | None:
    """The error of weights that do not fit, where the network was to be another one than the checkpoint's; else None."""
    before, changed = parent.settings.model, []
    if section.name != before.name:
        changed.append(f"model.name is {section.name} instead of {before.name}")
    changed += _options(before.options, section.options)
    if not changed:
        return None
    misfits = str(error).partition("do not fit the model (")[2].rpartition(").")[0]
    return ConfigError(
        f"{join_names(changed)}, and the weights of the checkpoint do not fit the model ({misfits}). A child goes on with the "
        "checkpoint's network: omit what differs. Where only the last layer differs, --reset head lets it begin anew. To take what "
        f"fits into another network, start a training with `raysweep run` and model.init_from={parent.path} "
        "model.init_strict=false."
    )


def _options(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """In which options two networks differ."""
    none = object()
    keys = [k for k in sorted({*before, *now}) if before.get(k, none) != now.get(k, none)]
    shown = [
        f"{k} is {short_repr(now[k]) if k in now else 'not given'} instead of {short_repr(before[k]) if k in before else 'not given'}"
        for k in keys
    ]
    return [f"of model.options, {join_names(shown)}"] if shown else []
