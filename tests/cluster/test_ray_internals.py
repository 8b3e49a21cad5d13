"""The private parts of Ray that raysweep uses are there in the installed version, and its version is one that is claimed."""

from __future__ import annotations

import re
from importlib import metadata

import pytest


def test_the_installed_ray_is_one_that_is_claimed():
    wanted = next(r for r in metadata.requires("raysweep") or [] if r.startswith("ray["))
    low, high = re.search(r">=(\d+)\.(\d+)", wanted), re.search(r"<(\d+)\.(\d+)", wanted)
    assert low, wanted
    assert high, "an upper bound: private parts of Ray may change with any minor version"
    here = tuple(int(n) for n in metadata.version("ray").split(".")[:2])
    assert (int(low[1]), int(low[2])) <= here < (int(high[1]), int(high[2]))


@pytest.mark.ray
def test_what_a_connected_cluster_tells(ray_cluster):
    from raysweep.cluster import _ray_internals as internals

    assert re.fullmatch(r"127\.0\.0\.1:\d+", internals.dashboard_address() or "")
    assert (internals.session_folder() / "logs").is_dir()
    assert internals.draining_nodes() == set()
    assert internals.is_ray_client() is False
    assert "" not in internals.node_types_of_autoscaler_v2()


@pytest.mark.ray
def test_versions_are_asked_of_the_control_store(ray_cluster):
    import platform

    import ray

    from raysweep.cluster import _ray_internals as internals

    address = ray.get_runtime_context().gcs_address
    assert internals.cluster_versions(address) == (ray.__version__, platform.python_version())


def test_what_is_imported_from_ray_privately_exists():
    from ray._private import ray_constants
    from ray._private.authentication import authentication_token_setup as setup
    from ray._private.services import canonicalize_bootstrap_address
    from ray._raylet import GcsClient
    from ray.core.generated.autoscaler_pb2 import GetClusterStatusReply
    from ray.experimental.internal_kv import _internal_kv_get

    assert ray_constants.ENABLE_RAY_CLUSTER in (True, False)
    assert callable(setup.generate_and_save_token)
    assert callable(setup.maybe_enable_token_auth_if_token_available)
    assert all(map(callable, (canonicalize_bootstrap_address, GcsClient, GetClusterStatusReply, _internal_kv_get)))


def test_a_trials_running_means_are_forgotten():
    from ray.tune.experiment import Trial

    from raysweep.cluster import _ray_internals as internals

    trial = Trial("nothing", stub=True)
    trial.run_metadata.metric_analysis["x"] = {"avg": 1.0}
    internals.forget_running_means(trial)
    assert trial.run_metadata.metric_analysis == {}
