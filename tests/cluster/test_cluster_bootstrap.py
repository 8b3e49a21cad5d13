"""Everything that ``ray up`` does before it starts a machine, offline: keys, networks, roles and images of a fake cloud."""

from __future__ import annotations

import copy
import json
import os
import re
from typing import Any

import pytest

from tests.cluster.clusterfiles import RAY_FILES, read

pytestmark = pytest.mark.cloud


@pytest.fixture(autouse=True)
def empty_home(tmp_path, monkeypatch):
    """An empty home folder and no credentials: Ray writes key files into ~/.ssh, and reads credentials."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in [n for n in os.environ if n.startswith(("AWS_", "GOOGLE_", "CLOUDSDK_"))]:
        monkeypatch.delenv(name)


def bootstrap(config: dict[str, Any]) -> dict[str, Any]:
    from ray.autoscaler._private.commands import _bootstrap_config

    return _bootstrap_config(copy.deepcopy(config), no_config_cache=True)


def test_a_static_cluster():
    config = bootstrap(read(RAY_FILES["static"]))
    assert config["provider"]["worker_ips"] == ["worker1.CHANGE.invalid", "worker2.CHANGE.invalid"]


@pytest.fixture
def fake_aws(monkeypatch):
    pytest.importorskip("boto3", reason="Ray starts machines on AWS with boto3: pip install boto3")
    moto = pytest.importorskip("moto", reason="moto fakes AWS: pip install 'moto[ec2,iam]'")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    import ray.autoscaler._private.aws.utils as utils

    utils.resource_cache.cache_clear()
    utils.client_cache.cache_clear()
    with moto.mock_aws():
        yield
    utils.resource_cache.cache_clear()
    utils.client_cache.cache_clear()


@pytest.mark.slow
def test_a_cluster_on_aws(fake_aws, monkeypatch):
    import boto3
    from ray.autoscaler._private.aws import node_provider

    written = read(RAY_FILES["aws"])
    names = [t["node_config"]["InstanceType"] for t in written["available_node_types"].values()]
    ec2 = boto3.client("ec2", region_name="us-west-2")
    known = ec2.describe_instance_types(InstanceTypes=names)["InstanceTypes"]
    monkeypatch.setattr(node_provider, "list_ec2_instances", lambda *_: known)  # moto needs seconds to list all of them
    config = bootstrap(written)
    types = config["available_node_types"]
    assert types["head"]["resources"]["CPU"] == 0  # without our setting Ray would take the machine's number
    assert {k: types["gpu_worker"]["resources"][k] for k in ("CPU", "GPU")} == {"CPU": 8, "GPU": 1}
    for name, role in (("head", "raysweep-head"), ("gpu_worker", "raysweep-worker")):
        node = types[name]["node_config"]
        assert node["IamInstanceProfile"] == {"Name": role}
        assert node["ImageId"] == "ami-CHANGE"  # Ray would take an image of 2023
        assert node["SubnetIds"]
        assert node["SecurityGroupIds"]
        assert node["KeyName"] == "ray-autoscaler_us-west-2"


def test_the_file_as_it_is_starts_no_machine_on_aws(fake_aws):
    import boto3
    import botocore

    node = read(RAY_FILES["aws"])["available_node_types"]["head"]["node_config"]
    ec2 = boto3.client("ec2", region_name="us-west-2")
    with pytest.raises(botocore.exceptions.ClientError, match="profile raysweep-head not found"):
        ec2.run_instances(**node, MinCount=1, MaxCount=1)
    assert not re.fullmatch("ami-[0-9a-f]{8,17}", node["ImageId"])  # moto would accept any


PROJECT_ID = "project-of-this-test"


class FakeGoogle:
    """Fake answers of Google's services to Ray, by the end of the address. Any other request fails."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []
        self.policy: Any = None

    def request(self, uri: str, method: str = "GET", body: Any = None, **_: Any) -> tuple[Any, bytes]:
        import httplib2

        path = uri.partition("?")[0]
        self.asked.append((method, path))
        email = f"ray-autoscaler-sa-v1@{PROJECT_ID}.iam.gserviceaccount.com"
        answers: dict[str, Any] = {
            f"/projects/{PROJECT_ID}": {
                "projectId": PROJECT_ID,
                "name": PROJECT_ID,
                "lifecycleState": "ACTIVE",
                "commonInstanceMetadata": {},
            },
            f"/serviceAccounts/{email}": {"email": email, "projectId": PROJECT_ID},
            ":getIamPolicy": {"bindings": []},
            ":setIamPolicy": {},
            "/setCommonInstanceMetadata": {"name": "operation"},
            "/operations/operation": {"name": "operation", "status": "DONE"},
            "/regions/us-west1/subnetworks": {"items": [{"selfLink": "subnet"}]},
        }
        found = [value for end, value in answers.items() if path.endswith(end)]
        assert found, f"Ray asked for {uri}"
        if path.endswith(":setIamPolicy"):
            self.policy = json.loads(body)
        return httplib2.Response({"status": 200}), json.dumps(found[0]).encode()


def test_a_cluster_on_google_cloud(monkeypatch):
    pytest.importorskip("googleapiclient", reason="Ray starts machines there with google-api-python-client")
    pytest.importorskip("cryptography", reason="Ray makes a key pair with cryptography")
    from googleapiclient import discovery
    from ray.autoscaler._private.gcp import config as gcp

    google = FakeGoogle()

    def clients(provider: dict[str, Any]) -> tuple[Any, ...]:
        services = (("cloudresourcemanager", "v1"), ("iam", "v1"), ("compute", "v1"))
        return (*(discovery.build(n, v, http=google, static_discovery=True) for n, v in services), None)

    monkeypatch.setattr(gcp, "construct_clients_from_provider_config", clients)
    monkeypatch.setattr(gcp, "POLL_INTERVAL", 0)
    written = read(RAY_FILES["gcp"])
    assert not re.fullmatch(
        "[a-z][-a-z0-9]{4,28}[a-z0-9]", written["provider"]["project_id"]
    )  # no valid id, so nobody owns it
    written["provider"]["project_id"] = PROJECT_ID
    config = bootstrap(written)
    types = config["available_node_types"]
    assert types["head"]["resources"] == {"CPU": 0}
    for name in ("head", "gpu_worker"):
        assert types[name]["node_config"]["networkInterfaces"][0]["subnetwork"] == "subnet"
        disk = types[name]["node_config"]["disks"][0]["initializeParams"]
        assert f"/{config['provider']['availability_zone']}/" in disk["diskType"]
    assert os.path.exists(config["auth"]["ssh_private_key"])
    assert google.policy  # the head's service account may start machines
