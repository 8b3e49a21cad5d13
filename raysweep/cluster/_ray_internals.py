"""Every private part of Ray that raysweep uses, in one file. Each function says why no public part does the same.

Ray may change these in any version. ``pyproject.toml`` therefore bounds Ray to the minor versions that
``tests/cluster/test_ray_internals.py`` was run with. A function whose answer is not essential returns ``None`` or an empty
set where the private part is missing or fails. All others raise.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import os
from collections.abc import Callable, Iterator
from typing import Any

_TIMEOUT_S = 5


def dashboard_address() -> str | None:
    """``HOST:PORT`` of the connected cluster's dashboard; None by Ray Client, and where the cluster has no dashboard.

    Publicly only the result of ``ray.init`` has it. A process that was connected already does not have that result, and a
    second ``ray.init`` would replace the handler of SIGTERM.
    """
    import ray

    try:
        url = ray._private.worker.global_worker.node.webui_url
        return str(url) if url else None
    except AttributeError:
        return None


def draining_nodes() -> set[str]:
    """Ids of the nodes that will go away soon: a spot machine is called back, or a node is drained. Empty by Ray Client.

    The public ``ray.train.get_preemption_info`` makes all ranks wait for each other at every call.
    """
    import ray

    try:
        return set(ray._private.state.state.get_draining_nodes())
    except Exception:  # by Ray Client, or while the cluster does not answer
        return set()


@contextlib.contextmanager
def listening_on_this_machine_only() -> Iterator[None]:
    """A cluster that is started within this block listens on 127.0.0.1 only.

    Ray has no public option for this: of its ports only the dashboard's has a host. Ray replaces a node address of
    127.0.0.1 by the machine's own, except where it believes that the machine cannot be part of a cluster, as on macOS and
    Windows.
    """
    from ray._private import ray_constants

    variable = ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR
    if variable in os.environ:  # the user's own choice
        yield
        return
    before = ray_constants.ENABLE_RAY_CLUSTER
    os.environ[variable] = "0"  # for Ray's processes
    ray_constants.ENABLE_RAY_CLUSTER = False  # for this process, which has read the variable already
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before
        del os.environ[variable]


@contextlib.contextmanager
def on_its_own() -> Iterator[None]:
    """A cluster that is started within this block gets no signal that is meant for us, and takes no handler of ours away.

    Ray has no public option for either. Its processes join our process group, so that Ctrl-C or a closed terminal would end
    them before anything is saved; and ``ray.init`` puts its own handler of SIGTERM in the place of ours.
    """
    from ray._private import services, utils

    popen, handler = getattr(services, "ConsolePopen", None), getattr(utils, "set_sigterm_handler", None)
    if popen is not None:
        # A group and no session: the kernel would give a session half of the CPUs, whatever its priority.
        services.ConsolePopen = functools.partial(popen, process_group=0)
    if handler is not None:
        utils.set_sigterm_handler = lambda handler: None
    try:
        yield
    finally:
        if popen is not None:
            services.ConsolePopen = popen
        if handler is not None:
            utils.set_sigterm_handler = handler


def shutdown(put_back: Callable[[], None]) -> None:
    """``ray.shutdown()``, which calls ``put_back`` as soon as Ray's library has taken away the handler of SIGTERM.

    What Ray does after that takes a second, in which the signal would end the program without a word. Nothing public is
    called in between; this replaces the first function that Ray calls then.
    """
    import ray
    from ray._private import worker

    made = getattr(worker, "FunctionActorManager", None)

    def after(*arguments: Any) -> Any:
        put_back()
        return made(*arguments)  # type: ignore[misc]

    if made is not None:
        worker.FunctionActorManager = after
    try:
        ray.shutdown()
    finally:
        if made is not None:
            worker.FunctionActorManager = made


def use_token_if_present() -> None:
    """Authenticate with the user's token, if there is one and ``RAY_AUTH_MODE`` is not set.

    Clusters of Ray 2.60 ask for a token by default, but ``ray.init`` with an address does not send it by default. Setting
    ``RAY_AUTH_MODE`` here would be too late: Ray has read it at its import.
    """
    from ray._private.authentication import authentication_token_setup as setup

    logging.getLogger(setup.__name__).setLevel(logging.ERROR)  # it would warn that it uses the token
    setup.maybe_enable_token_auth_if_token_available(warn_if_disabled=False)


def cluster_versions(address: str) -> tuple[str, str] | None:
    """Versions of (Ray, Python) of the cluster at ``address``, before this process connects; None if it does not answer.

    Publicly they are known only after connecting.

    Raises:
        ray.exceptions.AuthenticationError: the cluster does not accept this process's token.
    """
    import ray

    try:
        from ray._private.services import canonicalize_bootstrap_address
        from ray._raylet import GcsClient  # type: ignore[attr-defined]

        found = canonicalize_bootstrap_address(address)
        if found is None:
            return None
        metadata = GcsClient(address=found).internal_kv_get(
            b"CLUSTER_METADATA", namespace=b"cluster", timeout=_TIMEOUT_S
        )
        facts = json.loads(metadata)
        return str(facts["ray_version"]), str(facts["python_version"])
    except ray.exceptions.AuthenticationError:
        raise
    except Exception:
        return None


def node_types_of_autoscaler_v1() -> set[str] | None:
    """The node types in the report of Ray's first autoscaler; None if it does not run. ``ray status`` reads the same."""
    try:
        from ray.experimental.internal_kv import _internal_kv_get

        report = json.loads(_internal_kv_get("__autoscaling_status") or b"{}").get("autoscaler_report")
        return None if report is None else {str(kind) for kind in report["active_nodes"]}
    except Exception:  # the cluster does not answer
        return None


def node_types_of_autoscaler_v2() -> set[str]:
    """The types of the living nodes, from Ray's second autoscaler; empty if it does not run.

    A node without a type has the type ``node_ID``. Ray documents this interface nowhere, though its name has no underscore.
    """
    try:
        import ray
        from ray.autoscaler.v2.sdk import get_cluster_status

        status = get_cluster_status(ray.get_runtime_context().gcs_address, timeout=_TIMEOUT_S)
        if status.stats.autoscaler_version in (None, "", "0"):  # no autoscaler has reported
            return set()
        return {str(n.ray_node_type_name) for n in (*status.active_nodes, *status.idle_nodes)}
    except Exception:  # by Ray Client, or while the cluster does not answer
        return set()


def is_ray_client() -> bool:
    """Whether this process is connected by Ray Client (``ray://``), from outside the cluster. Ray documents no such test."""
    from ray.util.client import ray as client

    return bool(client.is_connected())


def forget_running_means(trial: Any) -> None:
    """Drop the running means of every metric that Tune keeps of an ended trial: two thirds of its memory for the trial.

    Tune has no option for this.
    """
    with contextlib.suppress(AttributeError):  # it costs memory only
        trial.run_metadata.metric_n_steps.clear()
        trial.run_metadata.metric_analysis.clear()
