"""Commands as a user would type them, with --root where it is needed."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from raysweep.store.remote import root as remote


def continue_command(root: Path, name: str) -> str:
    """What to type to go on with an experiment or a sweep; names the root where it is not the one that is looked into."""
    usual = remote.open_root(os.environ.get("RAYSWEEP_ROOT") or "experiments", pull=False)
    where = "" if root.resolve() == usual.resolve() else f" --root {shlex.quote(remote.root_address(root))}"
    return f"raysweep continue {name}{where}"
