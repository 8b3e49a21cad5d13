"""Networks of a user's code: call what ``python:MODULE:NAME`` names, as its signature asks for."""

from __future__ import annotations

import copy
import inspect
import sys
import weakref
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from raysweep._text import join_names, truncate
from raysweep.errors import ConfigError, did_you_mean
from raysweep.training import guest, guest_errors, trial
from raysweep.training import head as heads

CLASSES = ("num_classes", "n_classes", "classes", "class_num", "nclass")  # names for the number of outputs
CHANNELS = ("channels", "in_channels", "in_chans", "n_channels")  # names for the number of colours

_returned: weakref.WeakSet[nn.Module] = weakref.WeakSet()  # what functions of users have returned
_notes: weakref.WeakKeyDictionary[nn.Module, list[str]] = weakref.WeakKeyDictionary()
_wider: weakref.WeakSet[nn.Module] = weakref.WeakSet()  # networks with a new last layer
_built: dict[str, Any] = {}  # target → the object from which a network was last built


def build(
    target: str,
    path: str | None,
    options: Mapping[str, Any],
    num_classes: int,
    channels: int,
    head: str | None = None,
    size: tuple[int, int] | None = None,
) -> nn.Module:
    """The network that ``MODULE:NAME`` is or returns: a function, a class, a ``functools.partial`` or a ready ``nn.Module``.

    Classes and channels are given under the names that it has for them, or not at all. A network that was not told the number
    of classes gets a last layer of that many outputs.

    Args:
        head: ``keep``: the last layer stays as it is.
        size: (height, width) of the images, by which lazy layers get their shapes; without it they stay lazy.

    Raises:
        ConfigError: as :func:`guest.load`; or it fails, takes other options, or returns something else.
    """
    found = guest.load(target, path)
    model, given = _ready(found, target, options) or _made(found, target, path, options, num_classes, channels)
    _built[target] = found
    told = {*given, *options}
    model = model if told & {*CHANNELS} else _gray(model, channels)
    if size is not None:
        trial.materialise(model, (channels, *size))
    if head != "keep" and not told & {*CLASSES}:
        model = _widened(model, num_classes)
    return model


def _ready(found: Any, target: str, options: Mapping[str, Any]) -> tuple[nn.Module, dict[str, int]] | None:
    """A copy of a network that is there already; None for anything else."""
    if not isinstance(found, nn.Module):
        return None
    if options:
        raise ConfigError(
            f"model.options names {join_names(options)}, but {target} is a ready network and takes no options. Remove them."
        )
    return _copied(found, target), {}


def _made(
    found: Any, target: str, path: str | None, options: Mapping[str, Any], num_classes: int, channels: int
) -> tuple[nn.Module, dict[str, int]]:
    """What a function or class returns, and what it was told of classes and channels."""
    if not callable(found):
        raise ConfigError(
            f"model.name: {target} is not a function. Name a function or class that gives a torch.nn.Module, or such a module."
        )
    given = _arguments(found, target, options, num_classes, channels)
    with guest.calling(target, path):
        model, given = _called(found, target, given, options)
    if not isinstance(model, nn.Module):
        raise ConfigError(
            f"model.name: python:{target} returned {type(model).__name__}. Name a function that returns a torch.nn.Module."
        )
    if model in _returned:
        raise ConfigError(
            f"model.name: python:{target} returned the same network as before. It must build a new one each time it is called, "
            "else a second training would begin with trained weights."
        )
    if any(model is value for value in vars(sys.modules[target.partition(":")[0]]).values()):
        return _copied(model, target), given
    _returned.add(model)
    return model, given


def _widened(model: nn.Module, num_classes: int) -> nn.Module:
    """``model``, with a new last layer where it has another number of outputs."""
    found = heads.find(model)
    if found is None or heads.width(found[1]) == num_classes:
        return model
    name, layer = found
    wider = heads.replace(model, name, layer, num_classes)
    _notes[wider] = notes(model)
    _wider.add(wider)
    note(
        wider,
        f"its last layer {name or type(layer).__name__} has {heads.width(layer)} outputs, so it is replaced by a new one of "
        f"{num_classes}; model.head=keep leaves it",
    )
    return wider


def _copied(model: nn.Module, target: str) -> nn.Module:
    """A copy, because a module's own network would stay trained."""
    try:
        copied = copy.deepcopy(model)
        note(copied, "it is a ready network, so its first weights do not depend on the seed")
        return copied
    except Exception as error:
        raise ConfigError(
            f"model.name: {target} is a ready network that cannot be copied ({truncate(error, 200)}). Name a function that "
            "builds it."
        ) from error


def warm_up(name: str, path: str | None, options: Mapping[str, Any], num_classes: int, channels: int) -> None:
    """Import the code of a ``python:`` name, and build one network, which is thrown away, unless this process has built one.

    What the function imports when it is called is then imported, too, and draws nothing from generators that are seeded later.
    """
    target = guest.target_of(name)
    if target is not None and _built.get(target, _built) is not guest.load(target, path):
        build(target, path, options, num_classes, channels)


def has_new_head(model: nn.Module) -> bool:
    """Whether a network got another last layer, because it was not told the number of classes."""
    return model in _wider


def notes(model: nn.Module) -> list[str]:
    """What people should know of how a network was made from their code."""
    return list(_notes.get(model, ()))


def note(model: nn.Module, text: str) -> None:
    """Add to :func:`notes`."""
    _notes.setdefault(model, []).append(text)


def _arguments(
    found: Callable[..., Any], target: str, options: Mapping[str, Any], num_classes: int, channels: int
) -> dict[str, int]:
    """Classes and channels under the names that a function has for them.

    Raises:
        ConfigError: it cannot be called with these options; the message says what it takes.
    """
    try:
        parameters = inspect.signature(found).parameters
    except (ValueError, TypeError):  # a function that is not written in Python
        return {"num_classes": num_classes, "channels": channels}
    kinds = inspect.Parameter
    rest = any(p.kind is kinds.VAR_KEYWORD for p in parameters.values())
    named = {n for n, p in parameters.items() if p.kind in (kinds.POSITIONAL_OR_KEYWORD, kinds.KEYWORD_ONLY)}
    given: dict[str, int] = {}
    for names, value in ((CLASSES, num_classes), (CHANNELS, channels)):
        if not options.keys() & {*names}:  # the user's own word goes before
            own = [name for name in names if name in named]
            given |= {own[0]: value} if own else {names[0]: value} if rest else {}
    only = [n for n, p in parameters.items() if p.kind is kinds.POSITIONAL_ONLY and p.default is kinds.empty]
    if only:
        raise ConfigError(
            f"model.name: python:{target} takes {join_names(only)} by position only, and raysweep calls it with names. Write a "
            "function around it that takes num_classes and channels."
        )
    unknown = [n for n in options if n not in named and not rest]
    lacking = [n for n in named if parameters[n].default is kinds.empty and n not in options and n not in given]
    if unknown or lacking:
        own = [n for n in parameters if n in named and n not in given]
        hint = did_you_mean(unknown[0], own) if unknown else ""
        wrong = [*(f"it has no {n}" for n in unknown), *(f"it needs {n}" for n in lacking)]
        raise ConfigError(
            f"model.options do not fit python:{target} ({join_names(wrong)}).{hint} It takes: {join_names(own) or 'no options'}."
        )
    return given


def _called(
    found: Callable[..., Any], target: str, given: dict[str, int], options: Mapping[str, Any]
) -> tuple[Any, dict[str, int]]:
    """(what a function returns, classes and channels that it took). A function that hands on all keywords may have no name for
    them further below."""
    while True:
        try:
            return found(**given, **options), given
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            refused = [
                n for n in given if isinstance(error, TypeError) and f"unexpected keyword argument '{n}'" in str(error)
            ]
            if not refused:
                raise guest_errors.explained(error, target, "called") from error
            given = {n: v for n, v in given.items() if n != refused[0]}


def _gray(model: nn.Module, channels: int) -> nn.Module:
    """``model``, which gets gray images three times where its first layer takes three channels. Its weights keep their names."""
    first = next((m for m in model.modules() if isinstance(m, nn.Conv2d)), None)
    if channels == 1 and first is not None and first.in_channels == 3:
        repeat_gray(model)
        note(model, "its first layer takes 3 channels, so the one of gray images is repeated")
    return model


def repeat_gray(model: nn.Module) -> nn.Module:
    """``model``, which from now on repeats the one channel of gray images three times."""
    model.register_forward_pre_hook(_repeat_gray)
    return model


def _repeat_gray(model: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
    return (given[0].expand(-1, 3, -1, -1), *given[1:])
