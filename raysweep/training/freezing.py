"""What of a network is trained: ``model.freeze`` and ``model.unfreeze``.

A frozen parameter gets no gradient. A layer of which everything is frozen works as in evaluation, so that its batch normalisation
keeps its statistics and its dropout is off. Where only the last layer is trained, all others work so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from raysweep._text import counted, join_names, short_repr, truncate
from raysweep.config.finetuning import BACKBONE
from raysweep.errors import ConfigError, did_you_mean
from raysweep.training import head as heads

FINALLY = 10**9  # an epoch after all others


@dataclass(frozen=True)
class Freezing:
    """Which parameters are frozen in which epoch."""

    head: str  # the name of the last layer
    able: tuple[
        str, ...
    ]  # the parameters that can be trained, in their order; those that the user's code froze are none
    held: frozenset[str]  # those that are frozen at first
    unfreeze: int | None  # the first epoch that trains them, counted from 1

    @classmethod
    def of(cls, model: nn.Module, section: Any, num_classes: int, able: Sequence[str] | None = None) -> Freezing:
        """That of a new network, of which nothing was frozen yet; an outline is enough of one.

        Args:
            section: has ``name``, ``freeze`` and ``unfreeze`` of the section ``model``.
            able: the parameters that can be trained, where something is frozen now.

        Raises:
            ConfigError: a pattern names nothing, nothing is left to be trained, or it is not known which layer is the last one.
        """
        able = tuple(able or (name for name, p in model.named_parameters() if p.requires_grad))
        head = heads.name_of(model, num_classes)
        held: frozenset[str] = frozenset()
        if section.freeze:
            if section.freeze == [BACKBONE] and head is None:
                raise ConfigError(
                    f"model.freeze=backbone: the last layer of {section.name} does not have {counted(num_classes, 'output')}, so it is not "
                    "known what is to be trained. Name what is frozen by patterns of names, such as model.freeze=[features]."
                )
            held = frozenset(_matched(able, section.freeze, head or ""))
            if not held:
                raise ConfigError(f"model.freeze=backbone: {section.name} has no layer besides the last one. Omit it.")
        elif section.unfreeze is not None:
            raise ConfigError(
                "model.unfreeze says when what is frozen is trained, and model.freeze freezes nothing. Omit it (model.unfreeze= with "
                "nothing after it), or set model.freeze=backbone."
            )
        if held and len(held) == len(able) and section.unfreeze is None:
            raise ConfigError(f"model.freeze={short_repr(section.freeze)} leaves nothing to be trained. Freeze less.")
        return cls(head or "", able, held, section.unfreeze)

    @classmethod
    def nothing(cls, model: nn.Module) -> Freezing:
        """All that can be trained is trained."""
        return cls("", tuple(name for name, p in model.named_parameters() if p.requires_grad), frozenset(), None)

    def frozen(self, epoch: int) -> frozenset[str]:
        """The parameters that are frozen in an epoch."""
        return frozenset() if self.unfreeze is not None and epoch >= self.unfreeze else self.held

    def begins(self, epoch: int) -> bool:
        """Whether something that was frozen before is trained from this epoch on."""
        return bool(self.held) and epoch == self.unfreeze

    def trained(self) -> tuple[str, ...]:
        """The parameters that are trained in some epoch, in their order."""
        return tuple(name for name in self.able if name not in self.frozen(FINALLY))

    def head_only(self, epoch: int) -> bool:
        """Whether the last layer is all that is trained in an epoch."""
        frozen = self.frozen(epoch)
        return bool(frozen and self.head) and all(
            heads.is_of(name, self.head) for name in self.able if name not in frozen
        )

    def apply(self, model: nn.Module, epoch: int) -> None:
        """Let the parameters that are frozen in an epoch have no gradient, and the others have one."""
        frozen, able = self.frozen(epoch), {*self.able}
        for name, p in model.named_parameters():
            if name in able:
                p.requires_grad_(name not in frozen)
                if name in frozen:
                    p.grad = None

    def train(self, model: nn.Module, epoch: int) -> None:
        """Let the network work as in training, but what is frozen as in evaluation."""
        if self.head_only(epoch):
            head = model.get_submodule(self.head)
            inside = {*head.modules()}
            if any(module.training for module in model.modules() if module not in inside):
                model.eval()  # slow in a network of many layers, and of no use where features are trained on
            head.train()
            return
        model.train()
        if not self.frozen(epoch):
            return
        for module in model.modules():
            parameters = list(module.parameters())
            if parameters and not any(p.requires_grad for p in parameters):
                module.eval()

    def moving(self, model: nn.Module, epoch: int) -> list[str]:
        """The tensors of the network's state that training may change in an epoch."""
        state = model.state_dict(keep_vars=True)
        if not self.frozen(epoch):
            return [*state]
        if self.head_only(epoch):
            return [name for name in state if heads.is_of(name, self.head)]
        still = {
            f"{name}." if name else ""
            for name, module in model.named_modules()
            if (found := list(module.parameters())) and not any(p.requires_grad for p in found)
        }
        frozen = self.frozen(epoch)
        return [name for name in state if name not in frozen and not name.startswith(tuple(still))]

    def describe(self, model: nn.Module) -> str | None:
        """What is frozen, with numbers of parameters, as a sentence; None where nothing is."""
        if not self.held:
            return None
        sizes = {name: p.numel() for name, p in model.named_parameters()}
        total, held = sum(sizes.values()), sum(sizes[name] for name in self.held)
        left = [name for name in self.able if name not in self.held]
        layers = list(dict.fromkeys(name.rpartition(".")[0] or name for name in left))
        shown = join_names(layers[:5]) + (f" and {len(layers) - 5} more" if len(layers) > 5 else "")
        until = "" if self.unfreeze is None else f" until epoch {self.unfreeze}, from which on all are trained"
        trained = f"{total - held:,} are trained ({shown})" if left else "none is trained"
        return f"{held:,} of {total:,} parameters are frozen{until}; {trained}"


def _matched(names: Sequence[str], patterns: Sequence[str], head: str) -> list[str]:
    if list(patterns) == [BACKBONE]:
        return [name for name in names if not heads.is_of(name, head)]
    found: list[str] = []
    for pattern in patterns:
        some = [name for name in names if any(fnmatchcase(place, pattern) for place in _places(name))]
        if not some:
            places = list(dict.fromkeys(place for name in names for place in _places(name)))
            outer = list(dict.fromkeys(name.partition(".")[0] for name in names))
            raise ConfigError(
                f"model.freeze: nothing in the network is called {truncate(pattern)!r}.{did_you_mean(pattern, places)} Its outermost parts "
                f"are {join_names(outer[:20])}{' …' if len(outer) > 20 else ''}. Name layers or parameters, such as {places[0]}, or "
                "patterns with * and ?."
            )
        found += some
    return found


def _places(name: str) -> list[str]:
    """A parameter's name, and those of the layers that it is in."""
    parts = name.split(".")
    return [".".join(parts[:n]) for n in range(1, len(parts) + 1)]
