"""Every private part of Ray that raysweep uses, in one file, each with what it replaces and what happens without it.

Ray promises nothing about these between versions. Where a version of Ray lacks one, the function says so by its result
(``None``, an empty set) instead of failing, except where a guarantee hangs on it. ``pyproject.toml`` bounds Ray to the
minor versions that ``tests/cluster/test_ray_internals.py`` was run with.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_ASK_S = 5.0


def dashboard_address() -> str | None:
    """``HOST:PORT`` of the connected cluster's dashboard; None where Ray does not tell. Public API gives it to no driver."""
    import ray

    try:
        return str(ray._private.worker.global_worker.node.webui_url) or None
    except AttributeError:
        return None


def session_folder() -> Path:
    """The folder of the connected cluster's session on this machine, with Ray's log files."""
    import ray

    try:
        return Path(ray._private.worker.global_worker.node.get_session_dir_path())
    except AttributeError:
        return Path("/tmp/ray/session_latest")


def draining_nodes() -> set[str]:
    """Ids of the nodes that will be taken away (a spot machine called back, a node drained); nothing where Ray cannot tell.
    The public ``get_preemption_info`` is a barrier of all ranks at every call."""
    import ray

    try:
        return set(ray._private.state.state.get_draining_nodes())
    except Exception:  # an older cluster does not know
        return set()


@contextlib.contextmanager
def listening_on_this_machine_only() -> Iterator[None]:
    """A cluster that is started within this block listens on 127.0.0.1 only.

    Ray has no such option. Of its ports only the dashboard's has a host, and Ray replaces a node address of 127.0.0.1 by
    the machine's own unless it takes the machine for one that cannot be part of a cluster, as it does on macOS and Windows.
    """
    from ray._private import ray_constants

    name = getattr(ray_constants, "ENABLE_RAY_CLUSTERS_ENV_VAR", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER")
    if name in os.environ:  # the user's own choice
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


def make_token(path: Path) -> None:
    """Write a new authentication token to ``path`` (Ray's default place), readable by this user only.

    Ray itself would write it with the process's umask, and a stricter umask around Ray's start would be inherited by
    every worker.
    """
    try:
        from ray._private.authentication import authentication_token_setup as setup
    except ImportError:
        return
    if path.exists():
        return
    old = os.umask(0o077)
    try:
        setup.generate_and_save_token()
    finally:
        os.umask(old)


def send_token_if_there_is_one() -> None:
    """Authenticate with the user's token. Clusters ask for it by default; a client that is given an address does not send it
    by itself."""
    try:
        from ray._private.authentication import authentication_token_setup as setup
    except ImportError:
        return
    logging.getLogger(setup.__name__).setLevel(logging.ERROR)  # it warns that it does what is wanted
    setup.maybe_enable_token_auth_if_token_available(warn_if_disabled=False)


def cluster_versions(address: str) -> tuple[str, str] | None:
    """(Ray, Python) of the cluster at ``address``, from its control store, before anything connects; None where it does not
    answer.

    Raises:
        ray.exceptions.AuthenticationError: the cluster does not take this process's token.
    """
    import ray

    try:
        from ray._private.services import canonicalize_bootstrap_address
        from ray._raylet import GcsClient  # type: ignore[attr-defined]

        found = canonicalize_bootstrap_address(address)
        if found is None:
            return None
        told = GcsClient(address=found).internal_kv_get(b"CLUSTER_METADATA", namespace=b"cluster", timeout=_ASK_S)
        facts = json.loads(told)
        return str(facts["ray_version"]), str(facts["python_version"])
    except ray.exceptions.AuthenticationError:
        raise
    except Exception:
        return None


def node_types_of_autoscaler_v1() -> set[str] | None:
    """The types of the nodes that Ray's first autoscaler reports; None where none reports."""
    try:
        from ray.experimental.internal_kv import _internal_kv_get

        report = json.loads(_internal_kv_get("__autoscaling_status") or b"{}").get("autoscaler_report")
        return None if report is None else {str(kind) for kind in report["active_nodes"]}
    except Exception:  # another version of Ray may have no such thing
        return None


def node_types_of_autoscaler_v2() -> set[str]:
    """The types that Ray's second autoscaler has given the nodes; nothing where none of that kind reports."""
    try:
        import ray
        from ray._raylet import GcsClient  # type: ignore[attr-defined]
        from ray.core.generated.autoscaler_pb2 import GetClusterStatusReply

        reply = GetClusterStatusReply()
        told = GcsClient(address=ray.get_runtime_context().gcs_address).get_cluster_status(timeout_s=_ASK_S)
        reply.ParseFromString(told)
        if not reply.autoscaling_state.autoscaler_state_version:
            return set()
        return {str(n.ray_node_type_name) for n in reply.cluster_resource_state.node_states}
    except Exception:
        return set()


def is_ray_client() -> bool:
    """Whether this process is connected by Ray Client (``ray://``), from outside the cluster."""
    from ray.util.client import ray as client

    return bool(client.is_connected())


def forget_running_means(trial: Any) -> None:
    """Drop the running means of every metric that Tune keeps of an ended trial: two thirds of what it keeps of one."""
    with contextlib.suppress(AttributeError):  # another version of Ray may have no such thing
        trial.run_metadata.metric_n_steps.clear()
        trial.run_metadata.metric_analysis.clear()
