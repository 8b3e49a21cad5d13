"""The installed Ray is a version that raysweep claims to support, and it has the private parts that raysweep uses."""

from __future__ import annotations

import contextlib
import re
import time
import tomllib
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest


def test_the_installed_ray_is_a_supported_version():
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    wanted = next(r for r in project["dependencies"] if r.startswith("ray["))
    low, high = re.search(r">=(\d+)\.(\d+)", wanted), re.search(r"<(\d+)\.(\d+)", wanted)
    assert low, wanted
    assert high, "an upper bound: private parts of Ray may change with any minor version"
    here = tuple(int(n) for n in metadata.version("ray").split(".")[:2])
    assert (int(low[1]), int(low[2])) <= here < (int(high[1]), int(high[2]))


@pytest.mark.ray
def test_a_connected_cluster_answers(ray_cluster):
    from raysweep.cluster import _ray_internals as internals
    from raysweep.cluster import autoscaler, connect

    assert re.fullmatch(r"127\.0\.0\.1:\d+", internals.dashboard_address() or "")
    assert (connect.session_logs() / "raylet.out").is_file()
    assert internals.draining_nodes() == set()
    assert internals.is_ray_client() is False
    assert autoscaler.grows() is False  # its autoscaler starts no nodes


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="where there is no /proc, Ray's own end has to do")
@pytest.mark.ray
def test_every_process_of_a_cluster_of_our_own_carries_its_mark(ray_cluster):
    import psutil

    from raysweep.cluster import connect, processes

    def found() -> dict[str, bool]:
        """Title → whether all such processes carry the mark."""
        marked, all_of_it = set(processes.with_mark(connect._started[-1])), dict[str, bool]()
        for ours in psutil.Process().children():
            for process in [ours, *ours.children(recursive=True)] if ours.pid in marked else ():
                with contextlib.suppress(psutil.Error):
                    title = " ".join(process.cmdline()).strip()
                    all_of_it[title] = all_of_it.get(title, True) and process.pid in marked
        return all_of_it

    deadline = time.monotonic() + 60
    while not all(seen := found().values()) and time.monotonic() < deadline:
        time.sleep(0.1)  # at the moment in which a process begins, nobody can read its environment
    assert [title for title, marked in found().items() if not marked] == [], seen
    assert "ray::DashboardAgent" in found()


@pytest.mark.ray
def test_the_control_store_knows_the_versions(ray_cluster):
    import platform

    import ray

    from raysweep.cluster import _ray_internals as internals

    address = ray.get_runtime_context().gcs_address
    assert internals.cluster_versions(address) == (ray.__version__, platform.python_version())


def test_every_private_import_exists():
    from ray._private import ray_constants
    from ray._private.authentication import authentication_token_setup as setup
    from ray._private.services import canonicalize_bootstrap_address
    from ray._raylet import GcsClient
    from ray.experimental.internal_kv import _internal_kv_get

    assert ray_constants.ENABLE_RAY_CLUSTER in (True, False)
    # docs/monitoring.md names it.
    assert ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR == "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
    assert callable(setup.maybe_enable_token_auth_if_token_available)
    assert all(map(callable, (canonicalize_bootstrap_address, GcsClient, _internal_kv_get)))


@pytest.mark.parametrize(("version", "expected"), [(0, set()), (7, {"head", "gpu", "node_" + "03" * 28})])
def test_the_second_autoscaler_reports_the_types_of_living_nodes(monkeypatch, version, expected):
    import ray
    from ray.autoscaler.v2 import sdk
    from ray.core.generated.autoscaler_pb2 import GetClusterStatusReply, NodeStatus

    from raysweep.cluster import _ray_internals as internals

    reply = GetClusterStatusReply()
    reply.autoscaling_state.autoscaler_state_version = version
    nodes = [("head", NodeStatus.IDLE), ("gpu", NodeStatus.RUNNING), ("", NodeStatus.RUNNING), ("old", NodeStatus.DEAD)]
    for i, (kind, status) in enumerate(nodes, start=1):
        reply.cluster_resource_state.node_states.add(node_id=bytes([i]) * 28, ray_node_type_name=kind, status=status)

    class Client:
        def __init__(self, address):
            assert address == "10.0.0.5:6379"

        def get_cluster_status(self, timeout_s):
            return reply.SerializeToString()

    monkeypatch.setattr(sdk, "GcsClient", Client)
    monkeypatch.setattr(ray, "get_runtime_context", lambda: SimpleNamespace(gcs_address="10.0.0.5:6379"))
    assert internals.node_types_of_autoscaler_v2() == expected


def test_a_cluster_that_does_not_answer_has_no_autoscaler(monkeypatch):
    import ray
    from ray.autoscaler.v2 import sdk

    from raysweep.cluster import _ray_internals as internals

    def fail(*_, **__):
        raise TimeoutError("no answer")

    monkeypatch.setattr(sdk, "GcsClient", fail)
    monkeypatch.setattr(ray, "get_runtime_context", lambda: SimpleNamespace(gcs_address="10.0.0.5:6379"))
    assert internals.node_types_of_autoscaler_v2() == set()


def test_a_trials_running_means_are_forgotten():
    from ray.tune.experiment import Trial

    from raysweep.cluster import _ray_internals as internals

    trial = Trial("nothing", stub=True)
    trial.run_metadata.metric_analysis["x"] = {"avg": 1.0}
    internals.forget_running_means(trial)
    assert trial.run_metadata.metric_analysis == {}


@pytest.mark.parametrize("url", [None, ""])
def test_a_cluster_without_a_dashboard_has_no_address_of_one(monkeypatch, url):
    import ray

    from raysweep.cluster import _ray_internals as internals

    worker = SimpleNamespace(node=SimpleNamespace(webui_url=url))
    monkeypatch.setattr(ray._private.worker, "global_worker", worker)
    assert internals.dashboard_address() is None
