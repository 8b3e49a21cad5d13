"""Commands as a user would type them, with --root where it is needed."""

from __future__ import annotations

import os
import shlex

from raysweep.store.root import Root


def continue_command(root: Root, name: str) -> str:
    """What to type to go on with an experiment or a sweep; names the root where it is not the one that is looked into."""
    usual = Root.open(os.environ.get("RAYSWEEP_ROOT") or "experiments", look=False)
    where = "" if root.path.resolve() == usual.path.resolve() else f" --root {shlex.quote(root.address)}"
    return f"raysweep continue {name}{where}"
