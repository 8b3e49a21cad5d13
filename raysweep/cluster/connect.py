"""Connecting to Ray: a quiet local cluster for this run, or an existing one. Sets the defaults Ray leaves dangerous."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raysweep import _machine
from raysweep.cluster import _ray_internals, dashboard, versions
from raysweep.cluster.nodes import node_resources
from raysweep.errors import ResourceError

# Why each: see the facts about Ray in docs and in the functions that need them.
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_V2_ENABLED": "1",
    # How late the end of a training may be noticed (Ray: 2 s); each look costs the ranks some milliseconds.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "1",
    "RAY_worker_niceness": "0",  # Ray's 15 lets every process of the machine go first, its own idle ones too
    "RAY_TRAIN_ENABLE_STATE_TRACKING": "1",  # the dashboard then knows the runs, see docs/monitoring.md
    # The ranks ask for notices themselves; the watcher is one more actor, whose death its controller may not survive.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",  # under `uv run` Ray would ship and reinstall the working folder
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
}


def quiet_environment() -> None:
    """Set Ray's environment before it is imported; what the user set himself stays."""
    for key, value in _ENVIRONMENT.items():
        os.environ.setdefault(key, value)


@dataclass(frozen=True)
class Connection:
    """The Ray cluster that this process is connected to."""

    dashboard: str | None  # its URL
    logs: Path  # the folder of Ray's log files
    nodes: list[dict[str, float]]  # the resources of every living node
    local: bool  # whether this call started it


def connect(address: str | None, name: str | None = None) -> Connection:
    """Connect to Ray, starting a local cluster where no address is given; use what is connected already.

    Args:
        name: of the job, on the dashboard.

    Raises:
        ResourceError: nothing answers at the address, or its Ray version, Python version or token differs.
    """
    quiet_environment()
    import ray

    started = not ray.is_initialized()
    if started:
        if address:
            _reachable(address)
            _ray_internals.send_token_if_there_is_one()
            versions.check(address)
        else:
            _make_token()
        _start(address, name)
    for logger in ("ray.train", "ray.tune", "ray.data"):
        logging.getLogger(logger).setLevel(logging.ERROR)
    url = _ray_internals.dashboard_address()
    return Connection(f"http://{url}" if url else None, session_logs(), node_resources(), started)


def _start(address: str | None, name: str | None) -> None:
    """``ray.init`` with our defaults; its errors as ours."""
    import ray

    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if not str(address).startswith("ray://"):  # Ray Client would send it as JSON, and cannot
        options["job_config"] = dashboard.job_config(name)
    if address is None:
        options |= {"num_cpus": _machine.cpus_here(), "include_dashboard": True, "dashboard_host": "127.0.0.1"}
    try:
        with contextlib.nullcontext() if address else _ray_internals.listening_on_this_machine_only():
            ray.init(address=address or "local", **options)
    except ray.exceptions.AuthenticationError as error:
        if address:
            raise versions.no_token(address) from None
        raise ResourceError(f"Ray cannot be started here: {_first_line(error)}") from None
    except (ConnectionError, ValueError, RuntimeError) as error:
        if address and (other := versions.in_error(address, error)) is not None:
            raise other from None
        raise ResourceError(
            f"No Ray cluster answers at {address or 'local'}: {_first_line(error)}. Check the address (host:6379, "
            "ray://host:10001 or auto) and the cluster's authentication token (~/.ray/auth_token), or leave --address out."
        ) from None


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:300]


def session_logs() -> Path:
    """The folder of Ray's log files on this machine."""
    import ray

    told = getattr(ray.get_runtime_context(), "session_dir", "")
    return (Path(told) if told else _ray_internals.session_folder()) / "logs"


def _reachable(address: str) -> None:
    """Raises ResourceError within five seconds where nothing listens: Ray itself would go on trying for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        return  # auto, or something Ray may know
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
    except (OSError, OverflowError) as error:
        raise ResourceError(
            f"No Ray cluster answers at {address} ({error}). Check the address (host:6379, ray://host:10001 or auto), or "
            "leave --address away to run on this machine."
        ) from None


def _make_token() -> None:
    """Make the token of this user's clusters, where there is none yet and the user has not named another."""
    named = os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH")
    if not named and os.environ.get("RAY_AUTH_MODE", "token").lower() == "token":
        _ray_internals.make_token(Path.home() / ".ray" / "auth_token")


def disconnect() -> None:
    """Stop what :func:`connect` started."""
    import ray

    if ray.is_initialized():
        ray.shutdown()


def dashboard_hint(url: str | None) -> str | None:
    """One line that says where the dashboard is and how to enter it; None where there is none."""
    if not url:
        return None
    token = Path(os.environ.get("RAY_AUTH_TOKEN_PATH", "~/.ray/auth_token")).expanduser()
    ask = "; its token: ray get-auth-token" if token.exists() or os.environ.get("RAY_AUTH_TOKEN") else ""
    return f"Ray dashboard: {url}{ask}"
