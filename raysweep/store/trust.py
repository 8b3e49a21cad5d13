"""Whose experiment is it? A record, outside the root, of what this user made on this machine.

Settings in a checkpoint or a folder can name code (:mod:`raysweep.config.foreign`). It runs if this user made the experiment on
this machine, has said yes to it before, or says yes now. The record is a folder of tiny files, one for each thing of an
experiment: its name is a hash of the experiment's id and of that part of the configuration, so that a changed configuration is
not known. ``RAYSWEEP_STATE`` says where it lies, else ``XDG_STATE_HOME`` or ``~/.local/state``. ``RAYSWEEP_TRUST`` lists roots
that are the user's own, whoever wrote there, separated like ``PATH``.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from raysweep import _paths
from raysweep.config import foreign
from raysweep.config.foreign import Ask
from raysweep.errors import StoreError, UntrustedError
from raysweep.store import files, recorded
from raysweep.store.records import CodeRef
from raysweep.store.root import Root

STATE = "RAYSWEEP_STATE"
TRUST = "RAYSWEEP_TRUST"
_MADE = "made"  # the folder of the record


Kind = Callable[[Mapping[str, Any]], list[Ask]]  # :func:`foreign.code` or :func:`foreign.places`


@dataclass(frozen=True)
class Trust:
    """What the user says of code that somebody else may have named. It goes with the work to other machines."""

    given: bool = False  # --trust
    ask: Callable[[str], bool] | None = field(
        default=None, compare=False
    )  # puts a question; None where nobody can answer
    approved: frozenset[str] = frozenset()  # digests of what was approved before

    def handed_on(self, *approved: Mapping[str, Any], code: Sequence[CodeRef] = ()) -> Trust:
        """The decision as another process gets it, which has neither this one's record nor its environment.

        Args:
            approved: nested settings, of which everything was approved.
            code: which this process has, or was approved.
        """
        asks = [ask for settings in approved for kind in (foreign.code, foreign.places) for ask in kind(settings)]
        return Trust(approved=self.approved.union(a.digest for a in [*asks, *recorded.asks(code)]))


NOBODY = Trust()  # nobody was asked


@dataclass(frozen=True)
class Origin:
    """A checkpoint or folder that names things."""

    path: Path  # for messages
    folder: Path  # of its experiment
    root: Root
    ids: tuple[str, ...]  # of its experiment, and of the sweep that it is a branch of
    code: tuple[CodeRef, ...] = ()  # whose text its folder keeps


def settle(
    trust: Trust,
    origin: Origin,
    stored: Mapping[str, Any],
    overrides: Mapping[str, Any] | None = None,
    kinds: Sequence[Kind] = (foreign.code,),
) -> None:
    """Make sure that everything which ``stored``, nested settings, asks for may happen. The text of code that stood in a notebook, which
    is not here, is kept for whoever builds it.

    Args:
        overrides: what the user says anew, nested; it goes before what is stored.
        kinds: which things will be done.

    Raises:
        UntrustedError: nobody has said yes; the message says what is wanted and how to say yes.
    """
    over = overrides or {}
    merged = _merged(stored, over)
    texts = recorded.wanted(origin.code, merged) if foreign.code in kinds else []
    now = [*(ask for kind in kinds for ask in kind(merged)), *recorded.asks(texts)]
    before = {ask.key: ask for kind in kinds for ask in kind(stored)}
    open_ = [a for a in now if not foreign.named(a, over)]
    open_ = [a for a in open_ if not known(trust, origin, [before.get(a.key, a)])]
    if open_:
        text = _question(origin, open_)
        if not trust.given and not (trust.ask is not None and trust.ask(text)):
            raise UntrustedError(f"{text} {_how(open_)}")
        for identifier in origin.ids[:1]:
            remember(identifier, [before.get(a.key, a) for a in open_])
    recorded.keep(origin.folder, texts, merged)


def known(trust: Trust, origin: Origin, asks: Sequence[Ask]) -> bool:
    """Whether each of these was approved before, or made by this user on this machine. Asks nobody."""
    if not asks or all(a.digest in trust.approved for a in asks):
        return True
    if _is_own_root(origin.folder, origin.root):
        return True
    with contextlib.suppress(OSError, RuntimeError):
        made = state_folder() / _MADE
        if files.inside(origin.root.path, made):  # who writes into the root could write there
            return False
        return all(any((made / _name(i, a)).is_file() for i in origin.ids) for a in asks)
    return False


def is_approved(trust: Trust, origin: Origin, code: CodeRef) -> bool:
    """Whether the recorded text of code may run, where it stood in a notebook."""
    return trust.given or known(trust, origin, recorded.asks([code]))


def remember(identifier: str, asks: Sequence[Ask]) -> str | None:
    """Record that this user approves of these things in an experiment or sweep. Where there are none, nothing is written.

    Returns:
        What is wrong if the record cannot be written, as one sentence; else None.
    """
    try:
        for ask in asks:
            path = state_folder() / _MADE / _name(identifier, ask)
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            if not path.exists():
                when = datetime.now().isoformat(timespec="seconds")
                files.write_json(path, {"experiment": identifier, "key": ask.key, "value": ask.value, "time": when})
    except (OSError, RuntimeError, StoreError) as error:
        return (
            f"{identifier} could not be recorded as yours ({getattr(error, 'strerror', None) or error}), so later commands will ask "
            f"for --trust. Let {STATE} name a folder that can be written to."
        )
    return None


def remember_made(identifier: str, settings: Mapping[str, Any], code: Sequence[CodeRef] = ()) -> str | None:
    """Record that this user made an experiment or sweep with these nested settings and this code; see :func:`remember`."""
    return remember(identifier, [*foreign.code(settings), *foreign.places(settings), *recorded.asks(code)])


def state_folder() -> Path:
    """Where what this user did on this machine is recorded.

    Raises:
        RuntimeError: there is no home folder.
    """
    if named := os.environ.get(STATE):
        return Path(named).expanduser().absolute()
    base = os.environ.get("XDG_STATE_HOME")
    folder = Path(base) if base and os.path.isabs(base) else Path.home() / ".local" / "state"
    return folder / "raysweep"


def _is_own_root(folder: Path, root: Root) -> bool:
    """Whether RAYSWEEP_TRUST lists the root, or a folder that holds it."""
    for entry in re.split(rf"{re.escape(os.pathsep)}(?!//)", os.environ.get(TRUST, "")):
        if not entry.strip():
            continue
        if _paths.is_address(entry):
            mine, here = entry.partition("?")[0].rstrip("/"), root.address.partition("?")[0].rstrip("/")
            if root.is_remote and (here == mine or here.startswith(f"{mine}/")) and files.inside(root.path, folder):
                return True
        elif not root.is_remote and files.inside(Path(entry).expanduser(), folder):
            return True
    return False


def _name(identifier: str, ask: Ask) -> str:
    return hashlib.sha256(json.dumps([identifier, ask.digest]).encode()).hexdigest()


def _merged(stored: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(stored)
    for key, value in over.items():
        old = result.get(key)
        result[key] = _merged(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return result


def _question(origin: Origin, asks: Sequence[Ask]) -> str:
    return (
        f"{origin.path} wants to {' and to '.join(a.text for a in asks)}, but there is no record that you made "
        f"{origin.ids[0] if origin.ids else 'it'} on this machine with this configuration."
    )


def _how(asks: Sequence[Ask]) -> str:
    """How to say yes."""
    anew = [a.anew for a in asks if a.anew]
    typed = (
        f", or say the same yourself where the command takes key=value: {' '.join(anew)}"
        if len(anew) == len(asks)
        else ""
    )
    return f"If you trust it, repeat the command with --trust (in Python: trust=True){typed}."
