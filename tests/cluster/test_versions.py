"""A cluster with another Ray, another Python or another token is refused at once, with both versions and the remedy."""

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
def test_different_versions_are_named_with_the_remedy(reported, key, value):
    reported[key] = value
    with pytest.raises(ResourceError) as error:
        versions.check(ADDRESS)
    text = str(error.value)
    assert f"The cluster at {ADDRESS} runs Ray {reported['ray_version']} on Python {reported['python_version']}" in text
    assert "this process Ray 2.60.0 on Python 3.11.7" in text
    assert f"ray[default,train,tune]=={reported['ray_version']}" in text
    assert "ray job submit" in text
    assert "\n" not in text


def test_what_ray_accepts_is_accepted(reported, monkeypatch):
    reported["python_version"] = "3.11.9"
    monkeypatch.setenv("RAY_DEFAULT_PYTHON_VERSION_MATCH_LEVEL", "minor")
    versions.check(ADDRESS)
    reported["python_version"] = "3.12.7"
    with pytest.raises(ResourceError):
        versions.check(ADDRESS)


def test_a_refused_token_is_named(reported):
    from ray.exceptions import AuthenticationError

    reported["raise"] = AuthenticationError("InvalidAuthToken")
    with pytest.raises(ResourceError, match="ray get-auth-token"):
        versions.check(ADDRESS)


def test_a_cluster_that_does_not_answer_is_left_to_ray(reported):
    reported["raise"] = RuntimeError("no such key")
    versions.check(ADDRESS)


def test_an_error_of_ray_client_is_translated(monkeypatch):
    from ray._private import utils

    monkeypatch.setattr(utils, "compute_version_info", lambda: ("2.60.0", "3.11.7"))
    with pytest.raises(RuntimeError) as raised:
        utils.check_version_info({"ray_version": "2.61.0", "python_version": "3.12.1"}, "Ray Client")
    error = versions.in_error("ray://10.0.0.5:10001", raised.value)
    assert "runs Ray 2.61.0 on Python 3.12.1" in str(error)
    assert versions.in_error("ray://10.0.0.5:10001", RuntimeError("something else")) is None


@pytest.mark.ray
def test_a_real_cluster_reports_its_versions(ray_cluster, monkeypatch):
    import ray

    address = ray.get_runtime_context().gcs_address
    versions.check(address)
    monkeypatch.setattr(versions, "ours", lambda: ("2.59.1", "3.11.7"))
    with pytest.raises(ResourceError, match=rf"runs Ray {ray.__version__} on Python .* this process Ray 2\.59\.1"):
        versions.check(address)


def test_versions_are_compared_before_connecting(monkeypatch):
    monkeypatch.setattr(connect, "_reachable", lambda address: None)
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setattr("ray.init", lambda *a, **k: pytest.fail("connected"))
    monkeypatch.setattr(versions, "_of_cluster", lambda address: ("2.9.0", "3.8.1"))
    with pytest.raises(ResourceError, match=r"Ray 2\.9\.0 on Python 3\.8\.1"):
        connect.connect(ADDRESS)


def test_a_new_token_is_readable_by_its_user_only_and_the_umask_stays(tmp_path, monkeypatch):
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


def test_a_token_that_cannot_be_written_is_an_error_with_the_remedy(tmp_path, monkeypatch):
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "home").write_text("a file")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    with pytest.raises(ResourceError, match=r"cannot be written to .*auth_token .*RAY_AUTH_TOKEN_PATH"):
        connect._make_token()


def test_without_a_connection_the_logs_are_in_rays_default_folder(monkeypatch):
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    assert str(connect.session_logs()) == "/tmp/ray/session_latest/logs"


def test_a_local_cluster_that_does_not_start_is_explained_without_an_address(monkeypatch):
    def fail(**options):
        raise RuntimeError("no memory left\nand more")

    monkeypatch.setattr("ray.init", fail)
    with pytest.raises(ResourceError, match=r"cannot be started on this machine: no memory left\. .*logs"):
        connect._start(None, None)
