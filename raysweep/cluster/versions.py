"""Whether a cluster runs the same Ray and Python as this process. Asked first: Ray's own complaint comes after minutes or
names neither the remedy nor, in its first line, the versions."""

from __future__ import annotations

import os
import platform
import re

from raysweep.cluster import _ray_internals
from raysweep.errors import ResourceError


def check(address: str) -> None:
    """Raises ResourceError where the cluster at ``host:port`` or ``auto`` runs another Ray or another Python, or does not
    take this process's token.

    An address of Ray Client is not asked: there Ray compares them itself at once, see :func:`in_error`.
    """
    if address.startswith("ray://"):
        return
    theirs = _of_cluster(address)
    level = 2 if os.environ.get("RAY_DEFAULT_PYTHON_VERSION_MATCH_LEVEL") == "minor" else 3  # as Ray compares
    here = ours()
    if theirs and (theirs[0] != here[0] or theirs[1].split(".")[:level] != here[1].split(".")[:level]):
        raise mismatch(address, theirs)


def ours() -> tuple[str, str]:
    """Ray and Python of this process."""
    import ray

    return ray.__version__, platform.python_version()


def _of_cluster(address: str) -> tuple[str, str] | None:
    """Ray and Python of a cluster; None where it does not tell, which Ray will explain."""
    import ray

    try:
        return _ray_internals.cluster_versions(address)
    except ray.exceptions.AuthenticationError:
        raise no_token(address) from None


def in_error(address: str, error: Exception) -> ResourceError | None:
    """What Ray's own complaint about versions means; None where an error is about something else."""
    found = re.findall(r"(?:Ray|Python): *([\w.+]+)", str(error))
    if "mismatch" not in str(error) or len(found) < 2:
        return None
    return mismatch(address, (found[0], found[1]))


def mismatch(address: str, theirs: tuple[str, str]) -> ResourceError:
    here = ours()
    return ResourceError(
        f"The cluster at {address} runs Ray {theirs[0]} on Python {theirs[1]}, this process Ray {here[0]} on Python {here[1]}. "
        "All processes of a cluster must have the same of both, to the last number. Start raysweep in an environment "
        f"like the cluster's (Python {theirs[1]}, pip install 'ray[default,train,tune]=={theirs[0]}'), or on the cluster itself: "
        "ray job submit --address http://HEAD:8265 -- raysweep …"
    )


def no_token(address: str) -> ResourceError:
    return ResourceError(
        f"The cluster at {address} asks for its authentication token, and has not got it from here. Copy the one that `ray "
        "get-auth-token` prints on its head to ~/.ray/auth_token, or name its file in RAY_AUTH_TOKEN_PATH."
    )
