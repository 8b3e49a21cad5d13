"""Errors of a user's code, shown as theirs: file, line, message, and the last places of their code that they passed."""

from __future__ import annotations

import traceback

from raysweep._text import truncate
from raysweep.errors import ConfigError
from raysweep.training import sources

MAX_FRAMES = 3  # that a message shows


def where(error: BaseException) -> str:
    """The last places of the user's code that an error passed, innermost first; empty where it passed none."""
    if isinstance(error, SyntaxError) and sources.is_users(error.filename):
        line = (error.text or "").strip()
        return f"{error.filename}, line {error.lineno}{f': {truncate(line, 120)}' if line else ''}"
    frames = [f for f in traceback.extract_tb(error.__traceback__) if sources.is_users(f.filename)]
    shown = [
        f"{f.filename}, line {f.lineno}{'' if f.name == '<module>' else f', in {f.name}'}"
        + (f": {truncate(f.line, 120)}" if f.line and i == 0 else "")
        for i, f in enumerate(frames[: -MAX_FRAMES - 1 : -1])
    ]
    return "; called from ".join(shown)


def said(error: BaseException) -> str:
    """Kind and message of a user's error."""
    if isinstance(error, SystemExit):
        return f"it ended the program, with sys.exit({'' if error.code is None else repr(error.code)})"
    text = error.msg if isinstance(error, SyntaxError) else str(error)
    return truncate(f"{type(error).__name__}: {text}" if text else type(error).__name__, 600)


def explained(error: BaseException, target: str, doing: str, option: str = "model.name") -> ConfigError:
    """A user's error as one of ours, in one paragraph."""
    model = option == "model.name"
    place = where(error)
    if not place and not isinstance(
        error, (SystemExit, ImportError)
    ):  # it comes from a library that the name stands for
        if not model:
            return ConfigError(f"{option}: python:{target} cannot be {doing} as raysweep does it ({said(error)}).")
        return ConfigError(f"model.options do not fit python:{target} ({said(error)}). Change or remove them.")
    if isinstance(error, ModuleNotFoundError):
        remedy = f"Install {error.name}, or remove the import."
    elif isinstance(error, SystemExit):
        remedy = 'Put what shall not run on import under: if __name__ == "__main__".'
        remedy = remedy if doing == "imported" else f"It must return {'a network' if model else 'a value'} instead."
    else:
        remedy = "Correct it there; --debug shows the whole traceback."
    at = f" in your code: {place}" if place else ""
    return ConfigError(
        f"{option}: python:{target} failed when it was {doing}: {said(error)}. It happened{at or ' there'}. {remedy}"
    )
