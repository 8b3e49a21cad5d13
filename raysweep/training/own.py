"""The user's code of options other than the model: losses, metrics, optimizers and the like, each ``python:MODULE:NAME``.

Each is found and imported as a model is (:mod:`raysweep.training.guest`), tried in planning before anything is made, and once
in every process that trains, so that what it imports when it is called is found. Its source is kept in the experiment.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from raysweep._text import join_names
from raysweep.config.settings import Settings
from raysweep.errors import ConfigError, UntrustedError
from raysweep.training import conditions, guest, guest_errors
from raysweep.training.sources import Sources


@dataclass(frozen=True)
class Own:
    """Something of the user's, as it was found."""

    option: str  # in which its name stands
    target: str  # MODULE:NAME
    path: str | None  # ``code_path``
    found: Any

    @contextlib.contextmanager
    def tried(self) -> Iterator[None]:
        """The surroundings in which it is tried: the random generators are afterwards as they were, and an error is theirs.

        Raises:
            ConfigError: their code failed; the message shows where.
        """
        try:
            with guest.generators_kept(), guest.calling(self.target, self.path):
                yield
        except (KeyboardInterrupt, ConfigError):
            raise
        except BaseException as error:
            raise guest_errors.explained(error, self.target, "called", self.option) from error

    def wrong(self, text: str) -> ConfigError:
        """An error of this option."""
        return ConfigError(f"{self.option}: python:{self.target} {text}")


def load(settings: Settings, trusted: bool) -> dict[str, Own]:
    """Option → what its name stands for, of all options that name code of the user, apart from the model.

    Raises:
        UntrustedError: without ``trusted``. ConfigError: as :func:`guest.load`.
    """
    named, path = settings.own_code(), settings.code_path
    if named and not trusted:
        option, target = next(iter(named.items()))
        raise UntrustedError(
            f"The configuration wants to run the Python function python:{target} ({option}), which nobody has approved."
        )
    return {option: Own(option, target, path, guest.load(target, path, option)) for option, target in named.items()}


def planned(settings: Settings, trusted: bool) -> tuple[Settings, tuple[Sources, ...], list[str]]:
    """(the settings with the folder in which the user's code was found, its files, what is to be said of them).

    Raises:
        UntrustedError, ConfigError: as :func:`load`.
    """
    load(settings, trusted)
    codes = [guest.code_of(f"python:{t}", settings.code_path, option) for option, t in settings.own_code().items()]
    found = tuple(code for code in codes if code is not None)
    told = [text for code in found if (text := code.note()) is not None]
    if found and settings.code_path != found[0].folder:
        settings = settings.model_copy(update={"code_path": found[0].folder})
    away = [code for code in found if code.folder != settings.code_path]
    if away:
        names = join_names(f"python:{code.target} in {code.folder}" for code in away)
        told.append(
            f"your code lies in several folders: {settings.code_path} is recorded, so keep on PYTHONPATH what goes on using {names}"
        )
    return settings, found, told


@contextlib.contextmanager
def sent(codes: Sequence[Sources | None]) -> Iterator[None]:
    """In this context each of these is used as another process had it; see :func:`guest.sent`."""
    with contextlib.ExitStack() as stack:
        for code in codes:
            stack.enter_context(guest.sent(code))
        yield


def quiet(settings: Settings) -> contextlib.AbstractContextManager[Any]:
    """In this context, what the user's code prints goes to stderr."""
    first = next(iter(settings.own_code().values()), None)
    return guest.quiet(settings.model.name if first is None else f"python:{first}")


def takes(function: Callable[..., Any], *names: str) -> frozenset[str]:
    """Which of these names a function has for arguments; all of them where it takes any."""
    try:
        function = function.forward if isinstance(function, nn.Module) else function
        parameters = inspect.signature(function).parameters
    except (ValueError, TypeError):  # a function that is not written in Python
        return frozenset()
    kinds = inspect.Parameter
    if any(p.kind is kinds.VAR_KEYWORD for p in parameters.values()):
        return frozenset(names)
    named = {n for n, p in parameters.items() if p.kind in (kinds.POSITIONAL_OR_KEYWORD, kinds.KEYWORD_ONLY)}
    return frozenset(named.intersection(names))


# --- its source -------------------------------------------------------------------------------------------------------


def conditions_of(settings: Settings) -> conditions.Conditions:
    """The files of the user's code, for the conditions of a training."""
    found: conditions.Conditions = {}
    for option, target in settings.own_code().items():
        of_code = conditions.of_model(f"python:{target}", settings.code_path)
        found[option] = of_code.get("function", target)
        if "imports" in of_code:
            found[f"{option} imports"] = of_code["imports"]
    return found


def changed(saved: Mapping[str, Any], before: Settings, settings: Settings) -> list[str]:
    """In what the user's code now differs from that which a checkpoint was trained with, where the same names are used."""
    old, now = conditions.of_checkpoint(saved), conditions_of(settings)
    told = []
    for option, target in settings.own_code().items():
        if before.own_code().get(option) == target and option in old:
            keys = [key for key in (option, f"{option} imports") if key in old and key in now]
            if found := conditions.differences({k: old[k] for k in keys}, {k: now[k] for k in keys}):
                told.append(
                    f"the code of python:{target} is not that which the checkpoint was trained with: {'; '.join(found)}"
                )
    return told
