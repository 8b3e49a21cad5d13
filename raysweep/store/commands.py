"""Commands as a user would type them: quoted for a shell, with --root where it is needed."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from raysweep._paths import is_address, user_path
from raysweep.errors import RootError
from raysweep.store.root import Root


def command(root: Root, *words: str) -> str:
    """``raysweep WORD…``, ready to be pasted into a shell. It names the root unless the command uses that root anyway.

    >>> command(Root.open("experiments"), "show", "base")
    'raysweep show base'
    >>> command(Root.open("my runs"), "resume", "--from", "base@2", "--weights", '{"disgust": 5.0}')
    'raysweep resume --from base@2 --weights \\'{"disgust": 5.0}\\' --root \\'my runs\\''
    """
    option = [] if _is_usual(root) else ["--root", root.address]
    return shlex.join(["raysweep", *words, *option])


def continue_command(root: Root, name: str) -> str:
    """What to type to go on with an experiment or a sweep."""
    return command(root, "continue", name)


def _is_usual(root: Root) -> bool:
    """Whether commands without --root use this root. Opens no other root: the text of a command needs no network."""
    usual, mine = os.environ.get("RAYSWEEP_ROOT") or "experiments", root.address
    try:
        if is_address(usual) and is_address(mine):
            from raysweep.store.remote.bucket import Bucket

            one, other = Bucket.parse(usual), Bucket.parse(mine)
            return (one.address, one.place) == (other.address, other.place)
        return not is_address(mine) and user_path(usual).resolve() == Path(mine).resolve()
    except RootError:  # RAYSWEEP_ROOT cannot be used
        return False
