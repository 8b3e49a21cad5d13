"""Whether a cluster runs the same versions of Ray and Python as this process.

Checked before connecting: Ray's own error comes after minutes, or names neither the remedy nor, in its first line, the
versions.
"""

from __future__ import annotations

import os
import platform
import re

from raysweep.cluster import _ray_internals
from raysweep.errors import ResourceError


def check(address: str) -> None:
    """Compare the versions of the cluster at ``host:port`` or ``auto`` with those of this process.

    At an address of Ray Client (``ray://``) Ray itself compares them at once; see :func:`in_error`.

    Raises:
        ResourceError: the cluster runs another Ray or another Python, or does not accept this process's token.
    """
    if address.startswith("ray://"):
        return
    theirs = _of_cluster(address)
    level = 2 if os.environ.get("RAY_DEFAULT_PYTHON_VERSION_MATCH_LEVEL") == "minor" else 3  # as Ray compares
    here = ours()
    if theirs and (theirs[0] != here[0] or theirs[1].split(".")[:level] != here[1].split(".")[:level]):
        raise mismatch(address, theirs)


def ours() -> tuple[str, str]:
    """The versions of (Ray, Python) of this process."""
    import ray

    return ray.__version__, platform.python_version()


def _of_cluster(address: str) -> tuple[str, str] | None:
    """The versions of (Ray, Python) of a cluster; None if it does not answer, which ``ray.init`` will explain.

    Raises:
        ResourceError: the cluster does not accept this process's token.
    """
    import ray

    try:
        return _ray_internals.cluster_versions(address)
    except ray.exceptions.AuthenticationError:
        raise no_token(address) from None


def in_error(address: str, error: Exception) -> ResourceError | None:
    """Our error for Ray's own error about versions; None if ``error`` is about something else."""
    found = re.findall(r"(?:Ray|Python): *([\w.+]+)", str(error))
    if "mismatch" not in str(error) or len(found) < 2:
        return None
    return mismatch(address, (found[0], found[1]))


def mismatch(address: str, theirs: tuple[str, str]) -> ResourceError:
    """The error about a cluster with other versions of (Ray, Python)."""
    here = ours()
    return ResourceError(
        f"The cluster at {address} runs Ray {theirs[0]} on Python {theirs[1]}, this process Ray {here[0]} on Python {here[1]}. "
        "All processes of a cluster must have exactly the same versions of both. Start raysweep in an environment "
        f"like the cluster's (Python {theirs[1]}, pip install 'ray[default,train,tune]=={theirs[0]}'), or on the cluster itself: "
        "ray job submit --address http://HEAD:8265 -- raysweep …"
    )


def no_token(address: str) -> ResourceError:
    """The error about a cluster that does not accept this process's token."""
    return ResourceError(
        f"The cluster at {address} requires its authentication token, and this process has none or another one. Copy the "
        "token that `ray get-auth-token` prints on the cluster's head to ~/.ray/auth_token, or name its file in "
        "RAY_AUTH_TOKEN_PATH."
    )
