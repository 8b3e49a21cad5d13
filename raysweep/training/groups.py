"""The groups of parameters that an optimizer trains alike: by weight decay, and where asked for by layer.

The state of an optimizer lists parameters by number. So a checkpoint whose training had other groups, or trained another part of
the network, is rearranged by the parameters' names.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from raysweep.config.settings import ModelSection, TrainingSection
from raysweep.errors import ConfigError
from raysweep.store.checkpoint_format import State
from raysweep.training import head as heads
from raysweep.training.freezing import Freezing

SCALE = "lr_scale"  # in a group: by what the learning rate is multiplied


@dataclass(frozen=True)
class Group:
    """Parameters that are trained alike."""

    names: tuple[str, ...]
    decays: bool  # weight decay applies to them: they are no vectors
    scale: float  # of the learning rate


def of(model: nn.Module, freezing: Freezing, training: TrainingSection) -> list[Group]:
    """The groups of what is trained in some epoch, the first layers first; those of one layer: matrices, then vectors."""
    parameters = dict(model.named_parameters())
    names = freezing.trained()
    depth = _depths([name for name in freezing.able], freezing.head) if training.layer_decay is not None else {}
    deepest = max(depth.values(), default=0)

    def place(name: str) -> tuple[int, bool, bool]:
        own = training.head_lr is not None and _of_head(name, freezing.head)
        return depth.get(name, 0), own, parameters[name].ndim <= 1

    found = []
    ordered = sorted(names, key=place)  # stable: within a group in the network's order
    for (layer, own, vectors), some in itertools.groupby(ordered, key=place):
        scale = 1.0 if training.layer_decay is None else training.layer_decay ** (deepest - layer)
        if own and training.head_lr is not None:
            scale = training.head_lr / training.learning_rate
        found.append(Group(tuple(some), not vectors, scale))
    return found


def check(freezing: Freezing, training: TrainingSection, name: str) -> None:
    """Raises ConfigError where it is not known which layer is the last one, and ``training.head_lr`` is for it."""
    if training.head_lr is not None and not freezing.head:
        raise ConfigError(
            f"training.head_lr is for the last layer, and it is not known which one that is in {name}: the one that it creates last does "
            "not have as many outputs as there are classes. Omit it, or let the network create that layer last."
        )


def _of_head(name: str, head: str) -> bool:
    return bool(head) and heads.is_of(name, head)


def _depths(names: Sequence[str], head: str) -> dict[str, int]:
    """Parameter → the number of its layer, from the input on. What comes before the first block is layer 0; what follows a block
    belongs to it; the last layer has a number of its own."""
    inner = [name for name in names if not _of_head(name, head)]
    blocks = {name: _block(name, _NUMBER) for name in inner}
    if not any(blocks.values()):  # such as denseblock1
        blocks = {name: _block(name, _NUMBERED) for name in inner}
    if not any(blocks.values()):
        blocks = {name: name.rpartition(".")[0] for name in inner}
    found: dict[str, int] = {}
    known: dict[str, int] = {}
    latest = 0
    for name in inner:
        block = blocks[name]
        if block:
            latest = known.setdefault(block, len(known) + 1)
        found[name] = latest
    return {**{name: len(known) + 1 for name in names}, **found}


_NUMBER = re.compile(r"(?:^|\.)\d+(?=\.)")
_NUMBERED = re.compile(r"\d+(?=\.)")


def _block(name: str, number: re.Pattern[str]) -> str:
    """The layer among numbered ones that a parameter is in, such as ``blocks.3``; empty where there is none."""
    match = number.search(name)
    return name[: match.end()] if match else ""


def layers(groups: Sequence[Group]) -> str:
    """The factors of the learning rate from the input on, for people."""
    scales = list(dict.fromkeys(round(g.scale, 6) for g in groups))
    shown = [f"{s:.3g}" for s in (scales if len(scales) <= 4 else [scales[0], scales[1]])]
    return ", ".join(shown) + (f", …, {scales[-1]:.3g}" if len(scales) > 4 else "")


def rearranged(
    model: nn.Module, freezing: Freezing, training: TrainingSection, saved: State, settings: Any, num_classes: int
) -> State:
    """A saved ``state_dict`` of an optimizer in the groups of :func:`of`; parameters that it does not know have no state.

    Args:
        settings: the section of all settings, nested, that it was trained with.

    Returns:
        ``saved`` itself where the groups are the same, or where nobody knows what its numbers stand for.
    """
    mine = [g.names for g in of(model, freezing, training)]
    theirs = _groups_then(model, freezing, settings, num_classes)
    lengths = [len(g.get("params") or ()) for g in saved.get("param_groups") or []]
    if theirs is None or lengths != [len(names) for names in theirs]:
        if len(lengths) != 1 or lengths[0] != len(freezing.able):
            return saved
        theirs = [freezing.able]  # most programs keep all parameters in one group, in the network's order
    if theirs == mine:
        return saved
    numbers = [key for g in saved["param_groups"] for key in g["params"]]
    key_of = dict(zip(itertools.chain(*theirs), numbers, strict=True))
    rows = ((i, key_of.get(name)) for i, name in enumerate(itertools.chain(*mine)))
    state = {i: saved["state"][key] for i, key in rows if key is not None and key in saved["state"]}
    start = itertools.accumulate([0, *(len(names) for names in mine)])
    groups = [{"params": list(range(at, at + len(names)))} for at, names in zip(start, mine, strict=False)]
    return {"state": state, "param_groups": groups}


def _groups_then(model: nn.Module, freezing: Freezing, settings: Any, num_classes: int) -> list[tuple[str, ...]] | None:
    """The groups of a training with these settings; None where they do not fit the network."""
    section = settings if isinstance(settings, Mapping) else {}
    asked, speeds = (section.get(key) or {} for key in ("model", "training"))
    try:
        model_then = ModelSection.model_validate({k: asked.get(k) for k in ("freeze", "unfreeze")})
        then = TrainingSection.model_validate({k: speeds.get(k) for k in ("head_lr", "layer_decay")})
        return [g.names for g in of(model, Freezing.of(model, model_then, num_classes, freezing.able), then)]
    except (ConfigError, ValueError):
        return None
