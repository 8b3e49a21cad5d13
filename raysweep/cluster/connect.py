"""Connecting to Ray: to an existing cluster, or to a local one that is started for this command.

Replaces defaults of Ray that are unsafe (who can reach the cluster), slow, or noisy.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raysweep import _machine, _openmp, _scratch
from raysweep.cluster import _ray_internals, dashboard, machine, processes, signals, versions
from raysweep.cluster.nodes import node_resources
from raysweep.errors import ResourceError

_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",  # send nothing to Ray's authors
    "RAY_TRAIN_V2_ENABLED": "1",
    # How often Ray Train looks whether a training has ended (its default: 2 s). Each look costs the ranks milliseconds.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "1",
    "RAY_worker_niceness": "0",  # with Ray's 15 every other process of the machine runs first, even Ray's idle ones
    "RAY_TRAIN_ENABLE_STATE_TRACKING": "1",  # the dashboard then knows the runs, see docs/monitoring.md
    # The ranks look for preemption notices themselves. Ray's watcher is an actor, and its death may end the controller.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",  # under `uv run` Ray would send the working folder to its workers and reinstall it
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # a process without GPUs keeps its CUDA_VISIBLE_DEVICES
    "RAY_AIR_NEW_OUTPUT": "0",  # Tune would write its own display over ours
}
_started: list[str] = []  # the marks of the clusters that this process has started
_LOGS_BY_DEFAULT = Path("/tmp/ray/session_latest/logs")  # documented by Ray


def quiet_environment() -> None:
    """Set Ray's environment variables. Call it before Ray is imported. Variables that the user has set stay."""
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
    """Connect to the cluster at ``address``, or start a local one without an address. An existing connection is used as it is.

    Args:
        name: the job's name on the dashboard.

    Raises:
        ResourceError: nothing answers at the address, or its Ray version, Python version or token differs.
    """
    quiet_environment()
    import ray

    started = not ray.is_initialized()
    if started:
        if address:
            _reachable(address)
            _ray_internals.use_token_if_present()
            versions.check(address)
        else:
            for obstacle in machine.obstacles():
                raise ResourceError(f"Ray cannot be started on this machine: {obstacle}")
            _make_token()
            _openmp.settle()  # its processes inherit it
        _start(address, name)
    for logger in ("ray.train", "ray.tune", "ray.data"):
        logging.getLogger(logger).setLevel(logging.ERROR)
    url = _ray_internals.dashboard_address()
    return Connection(f"http://{url}" if url else None, session_logs(), node_resources(), started)


def _start(address: str | None, name: str | None) -> None:
    """Call ``ray.init`` with our defaults.

    Raises:
        ResourceError: Ray's errors, in our words.
    """
    import ray

    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if not str(address).startswith("ray://"):  # Ray Client would have to send it as JSON, which fails
        options["job_config"] = dashboard.job_config(name)
    if address is None:
        options |= {"num_cpus": _machine.cpus_here(), "include_dashboard": True, "dashboard_host": "127.0.0.1"}
        size, _ = machine.object_store()
        options |= {} if size is None else {"object_store_memory": size}
    try:
        with contextlib.ExitStack() as stack:
            stack.enter_context(signals.kept())
            stack.enter_context(_ray_internals.on_its_own())
            if address is None:
                stack.enter_context(_ray_internals.listening_on_this_machine_only())
                _started.append(stack.enter_context(processes.marked()))
                signals.at_end(_end_processes)
            ray.init(address=address or "local", **options)
    except (ray.exceptions.AuthenticationError, ConnectionError, ValueError, RuntimeError) as error:
        raise _explained(address, error) from None


def _explained(address: str | None, error: Exception) -> ResourceError:
    """What an error of ``ray.init`` means, and what to do."""
    import ray

    first_line = (str(error).splitlines() or [type(error).__name__])[0][:300]
    if address is None:
        return ResourceError(
            f"Ray cannot be started on this machine: {first_line}. Ray's log files in {_LOGS_BY_DEFAULT} say more."
        )
    if isinstance(error, ray.exceptions.AuthenticationError):
        return versions.no_token(address)
    return versions.in_error(address, error) or ResourceError(
        f"No Ray cluster answers at {address}: {first_line}. Check the address (host:6379, ray://host:10001 or auto) and "
        "the cluster's authentication token (~/.ray/auth_token), or omit --address to run on this machine."
    )


def session_logs() -> Path:
    """The folder of Ray's log files on this machine; by Ray Client, and without a connection, Ray's default."""
    import ray

    if not ray.is_initialized() or _ray_internals.is_ray_client():
        return _LOGS_BY_DEFAULT
    context = ray.get_runtime_context()
    return Path(str(context.get_temp_dir())) / str(context.get_session_name()) / "logs"


def _reachable(address: str) -> None:
    """Check that something listens at the address. Ray itself would go on trying for minutes.

    Raises:
        ResourceError: within five seconds, if nothing listens.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        return  # auto, or a form that only Ray knows
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
    except (OSError, OverflowError) as error:
        raise ResourceError(
            f"No Ray cluster answers at {address} ({error}). Check the address (host:6379, ray://host:10001 or auto), or "
            "omit --address to run on this machine."
        ) from None


def _make_token() -> None:
    """Write a new token for this user's clusters, unless there is one or the user's environment decides otherwise.

    Ray would write it with the permissions of the process's umask. Here nobody else can read it.

    Raises:
        ResourceError: the file cannot be written.
    """
    named = os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH")
    if named or os.environ.get("RAY_AUTH_MODE", "token").lower() != "token":
        return
    path = Path.home() / ".ray" / "auth_token"  # where Ray looks for it
    try:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_hex(32))
    except FileExistsError:
        return
    except OSError as error:
        raise ResourceError(
            f"Ray's authentication token cannot be written to {path} ({error.strerror}). Make that folder writable, or write "
            "a token to another file (openssl rand -hex 32 > FILE) and name the file in RAY_AUTH_TOKEN_PATH."
        ) from None


def disconnect() -> None:
    """End the connection. A cluster that :func:`connect` has started ends with it."""
    import ray

    if signals.asked():  # the program ends in a moment, and its cluster with it; Ray's own end would take longer
        return
    if ray.is_initialized():
        with signals.kept():
            _ray_internals.shutdown(signals.put_back)
    _end_processes()


def _end_processes() -> None:
    """End what is left of the clusters that this process has started."""
    while _started:
        mark = _started.pop()
        if processes.is_mine(mark):
            processes.end(mark)
        _scratch.sweep()  # what was sent to the workers, which were killed


def dashboard_hint(url: str | None) -> str | None:
    """One line that says where the dashboard is and how to get its token; None if there is no dashboard."""
    if not url:
        return None
    token = Path(os.path.expanduser(os.environ.get("RAY_AUTH_TOKEN_PATH", "~/.ray/auth_token")))
    ask = "; its token: ray get-auth-token" if token.exists() or os.environ.get("RAY_AUTH_TOKEN") else ""
    return f"Ray dashboard: {url}{ask}"
