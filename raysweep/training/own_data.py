"""Let the room of images read those of the user's code: ``data.source=python:MODULE:NAME``; see :mod:`raysweep.data.own`."""

from __future__ import annotations

from typing import Any

from raysweep.config.settings import Settings
from raysweep.data import own as own_images
from raysweep.training import guest, own
from raysweep.training.own import Own

OPTION = "data.source"


def provide(settings: Settings, trusted: bool) -> None:
    """Find the code of ``data.source``, if it is the user's, and let it be read in this process.

    Raises:
        UntrustedError: without ``trusted``. ConfigError: as :func:`own.load`.
    """
    target = settings.own_code().get(OPTION)
    if target is None:
        return
    code = own.load(settings, trusted, [OPTION])[OPTION]
    source = guest.code_of(f"python:{target}", settings.code_path, OPTION)
    digest = "" if source is None else repr(sorted(source.hashes.items()))
    own_images.provide(target, own_images.Provided(lambda path: _opened(code, path), code.tried, digest))


def _opened(code: Own, path: str | None) -> Any:
    """What the name stands for; of a function or class, what it returns."""
    found = code.found
    if not callable(found) or hasattr(found, "__getitem__"):
        if path is not None:
            raise code.wrong("is no function that could take data.path. Remove data.path.")
        return found
    takes = own.takes(found, "path")
    if path is not None and not takes:
        raise code.wrong("does not take path, but data.path is set. Take it, or remove data.path.")
    return found(**({"path": path} if takes else {}))
