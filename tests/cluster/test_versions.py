"""A cluster with another Ray, another Python or another token: said at once, with what is where and what to do."""

from __future__ import annotations

import json
import os

import pytest

from raysweep.cluster import connect, versions
from raysweep.errors import ResourceError

ADDRESS = "10.0.0.5:6379"


@pytest.fixture
def reported(monkeypatch):
    """What the cluster's control store answers; an exception is raised."""
    answer = {"ray_version": "2.60.0", "python_version": "3.11.7"}

    class Client:
        def __init__(self, address):
            assert address == ADDRESS

        def internal_kv_get(self, key, namespace, timeout):
            if isinstance(answer.get("raise"), Exception):
                raise answer["raise"]
            return json.dumps(answer).encode()

    monkeypatch.setattr("ray._raylet.GcsClient", Client)
    monkeypatch.setattr(versions, "ours", lambda: ("2.60.0", "3.11.7"))
    return answer


def test_the_same_versions_pass(reported):
    versions.check(ADDRESS)


@pytest.mark.parametrize(("key", "value"), [("ray_version", "2.61.0"), ("python_version", "3.11.9")])
def test_others_are_named_with_the_remedy(reported, key, value):
    reported[key] = value
    with pytest.raises(ResourceError) as error:
        versions.check(ADDRESS)
    text = str(error.value)
    assert f"The cluster at {ADDRESS} runs Ray {reported['ray_version']} on Python {reported['python_version']}" in text
    assert "this process Ray 2.60.0 on Python 3.11.7" in text
    assert f"ray[default,train,tune]=={reported['ray_version']}" in text
    assert "ray job submit" in text
    assert "\n" not in text


def test_what_ray_would_let_pass_passes(reported, monkeypatch):
    reported["python_version"] = "3.11.9"
    monkeypatch.setenv("RAY_DEFAULT_PYTHON_VERSION_MATCH_LEVEL", "minor")
    versions.check(ADDRESS)
    reported["python_version"] = "3.12.7"
    with pytest.raises(ResourceError):
        versions.check(ADDRESS)


def test_a_token_that_is_not_taken_is_named(reported):
    from ray.exceptions import AuthenticationError

    reported["raise"] = AuthenticationError("InvalidAuthToken")
    with pytest.raises(ResourceError, match="ray get-auth-token"):
        versions.check(ADDRESS)


def test_what_does_not_answer_is_left_to_ray(reported):
    reported["raise"] = RuntimeError("no such key")
    versions.check(ADDRESS)


def test_ray_clients_own_complaint_is_read(monkeypatch):
    from ray._private import utils

    monkeypatch.setattr(utils, "compute_version_info", lambda: ("2.60.0", "3.11.7"))
    with pytest.raises(RuntimeError) as raised:
        utils.check_version_info({"ray_version": "2.61.0", "python_version": "3.12.1"}, "Ray Client")
    error = versions.in_error("ray://10.0.0.5:10001", raised.value)
    assert "runs Ray 2.61.0 on Python 3.12.1" in str(error)
    assert versions.in_error("ray://10.0.0.5:10001", RuntimeError("something else")) is None


@pytest.mark.ray
def test_a_real_cluster_is_asked_in_a_moment(ray_cluster, monkeypatch):
    import ray

    address = ray.get_runtime_context().gcs_address
    versions.check(address)
    monkeypatch.setattr(versions, "ours", lambda: ("2.59.1", "3.11.7"))
    with pytest.raises(ResourceError, match=rf"runs Ray {ray.__version__} on Python .* this process Ray 2\.59\.1"):
        versions.check(address)


def test_connect_asks_before_it_connects(monkeypatch):
    monkeypatch.setattr(connect, "_reachable", lambda address: None)
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setattr("ray.init", lambda *a, **k: pytest.fail("connected"))
    monkeypatch.setattr(versions, "_of_cluster", lambda address: ("2.9.0", "3.8.1"))
    with pytest.raises(ResourceError, match=r"Ray 2\.9\.0 on Python 3\.8\.1"):
        connect.connect(ADDRESS)


def test_the_token_that_is_made_is_for_nobody_else_and_the_umask_stays(tmp_path, monkeypatch):
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    before = os.umask(0o022)
    try:
        connect._make_token()
        path = tmp_path / ".ray" / "auth_token"
        token = path.read_text()
        assert len(token) >= 32
        assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)
        connect._make_token()
        assert path.read_text() == token
        assert os.umask(0o022) == 0o022
    finally:
        os.umask(before)
