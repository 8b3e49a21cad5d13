"""Connecting to Ray: a quiet local cluster for this run, or an existing one. Sets the defaults Ray leaves dangerous."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from raysweep import _machine
from raysweep.cluster import dashboard, versions
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


def connect(address: str | None, name: str | None = None) -> dict[str, Any]:
    """Connect to Ray, starting a local cluster where no address is given; use what is connected already.

    Args:
        name: of the job, on the dashboard.

    Returns:
        ``dashboard``: its URL or None; ``logs``: the folder of Ray's log files; ``nodes``: resources of every living node;
        ``local``: whether this call started it.

    Raises:
        ResourceError: nothing answers at the address, or its versions or its token are others.
    """
    quiet_environment()
    import ray

    started = False
    if not ray.is_initialized():
        if address:
            _reachable(address)
            _take_token_along()
            versions.check(address)
        else:
            _make_token()
        try:
            with contextlib.nullcontext() if address else _on_this_machine_only():
                ray.init(
                    address=address or "local",
                    num_cpus=None if address else _machine.cpus_here(),
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    include_dashboard=None if address else True,
                    # Ray Client would send it as JSON, and cannot.
                    job_config=None if str(address).startswith("ray://") else dashboard.job_config(name),
                    **({} if address else {"dashboard_host": "127.0.0.1"}),
                )
            started = True
        except ray.exceptions.AuthenticationError as error:
            if address:
                raise versions.no_token(address) from None
            raise ResourceError(f"Ray cannot be started here: {str(error).splitlines()[0][:300]}") from None
        except (ConnectionError, ValueError, RuntimeError) as error:
            if address and (other := versions.in_error(address, error)) is not None:
                raise other from None
            raise ResourceError(
                f"No Ray cluster answers at {address or 'local'}: {str(error).splitlines()[0][:300]}. Check the address (host:6379, "
                "ray://host:10001 or auto) and the cluster's authentication token (~/.ray/auth_token), or leave --address away."
            ) from None
    for name in ("ray.train", "ray.tune", "ray.data"):
        logging.getLogger(name).setLevel(logging.ERROR)
    context = ray.get_runtime_context()
    url = getattr(ray._private.worker.global_worker.node, "webui_url", None) if hasattr(ray, "_private") else None
    session = Path(getattr(context, "session_dir", "") or _session_dir())
    return {"dashboard": f"http://{url}" if url else None, "logs": session / "logs", "nodes": nodes(), "local": started}


def nodes() -> list[dict[str, float]]:
    """The resources of every node that is alive and will not be taken away soon."""
    return [_resources(n) for n in living()]


def answering() -> tuple[list[dict[str, float]], int]:
    """The same of the nodes that answer, and how many do not: for some seconds to a minute Ray does not know of a node
    that is gone, and gives it work."""
    alive = living()
    with ThreadPoolExecutor(min(32, len(alive) or 1)) as pool:
        found = [n for n, answers in zip(alive, pool.map(_answers, alive), strict=True) if answers]
    return [_resources(n) for n in found], len(alive) - len(found)


def _resources(node: Mapping[str, Any]) -> dict[str, float]:
    return {k: float(v) for k, v in node["Resources"].items()}


def living() -> list[dict[str, Any]]:
    """What Ray tells of every node that is alive and will not be taken away soon."""
    import ray

    leaving = _draining()
    return [n for n in ray.nodes() if n.get("Alive") and n["NodeID"] not in leaving]


def _answers(node: Mapping[str, Any]) -> bool:
    """Whether something listens where a node's raylet does."""
    from ray.util.client import ray as client

    if client.is_connected():  # a machine outside the cluster need not reach its nodes
        return True
    try:
        socket.create_connection((node["NodeManagerAddress"], node["NodeManagerPort"]), timeout=3).close()
    except OSError:
        return False
    return True


def _draining() -> set[str]:
    """The nodes that Ray was told will be taken away (a spot machine called back, a node drained)."""
    import ray

    try:
        return set(ray._private.state.state.get_draining_nodes())
    except Exception:  # an older cluster does not know
        return set()


def remove_leftovers() -> None:
    """Give back what a killed train controller had reserved: Ray's own cleaner learns of it only after the workers have
    started. Nothing is done inside an actor, whose neighbours' reservations belong to the same job."""
    import ray
    from ray.util.placement_group import PlacementGroup, placement_group_table, remove_placement_group

    context = ray.get_runtime_context()
    if context.get_actor_id() is not None:
        return
    for name, row in placement_group_table().items():
        if name.endswith(context.get_job_id()) and row["state"] != "REMOVED":
            remove_placement_group(PlacementGroup(ray.PlacementGroupID.from_hex(name)))


class Notices:
    """Preemption notices for some nodes. Ray's own ``get_preemption_info`` is a barrier of all ranks at every call."""

    EVERY_S = 2.0

    def __init__(self, nodes: Sequence[str]) -> None:
        self.nodes = set(nodes)
        self.asked = 0.0
        self.known = False

    def arrived(self, now: bool = False) -> bool:
        """Whether one of the nodes will be taken away; asks Ray at most every two seconds, or ``now``."""
        if not self.known and (now or time.monotonic() - self.asked > self.EVERY_S):
            self.asked = time.monotonic()
            self.known = bool(self.nodes & _draining())
        return self.known


@contextlib.contextmanager
def _on_this_machine_only() -> Iterator[None]:
    """A cluster that is started meanwhile listens on 127.0.0.1 only. Ray has no such option: of its ports only the
    dashboard's has a host, and it replaces a node address of 127.0.0.1 by the machine's own, unless it takes the machine
    for one that cannot be part of a cluster, as it does on macOS and Windows."""
    from ray._private import ray_constants

    name = getattr(ray_constants, "ENABLE_RAY_CLUSTERS_ENV_VAR", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER")
    if name in os.environ:  # the user knows better
        yield
        return
    before = ray_constants.ENABLE_RAY_CLUSTER
    os.environ[name] = "0"  # for the processes that are started
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before
        del os.environ[name]


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
    """Make the token of this user's clusters, where there is none yet, for nobody else to read: Ray itself would write it
    with the process's umask, and a stricter one around its start would become that of every worker."""
    try:
        from ray._private.authentication import authentication_token_setup as setup
    except ImportError:
        return
    path = Path.home() / ".ray" / "auth_token"
    named = os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH")
    if named or path.exists() or os.environ.get("RAY_AUTH_MODE", "token").lower() != "token":
        return
    old = os.umask(0o077)
    try:
        setup.generate_and_save_token()
    finally:
        os.umask(old)


def _take_token_along() -> None:
    """Send the authentication token where the user has one: clusters ask for it by default, but a client that is given
    an address does not send it by itself."""
    try:
        from ray._private.authentication import authentication_token_setup as setup
    except ImportError:
        return
    logging.getLogger(setup.__name__).setLevel(logging.ERROR)  # it warns that it does what is wanted
    setup.maybe_enable_token_auth_if_token_available(warn_if_disabled=False)


def _session_dir() -> str:
    import ray

    node = ray._private.worker.global_worker.node
    return node.get_session_dir_path() if node is not None else "/tmp/ray/session_latest"


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
