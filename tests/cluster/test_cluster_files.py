"""The cluster files, offline: valid files are accepted, broken ones are refused, and the files agree with each other.

Ray's own validator checks Ray's files; with the clouds' SDKs installed, everything that `ray up` does before it starts a
machine is run. Machines and Kubernetes objects are checked against the schemas of the clouds and of Kubernetes.
"""

from __future__ import annotations

import copy
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from tests.cluster.clusterfiles import (
    CLUSTERS,
    DOCKERFILE,
    EVERY,
    KUBERNETES,
    PROJECT,
    RAY_FILES,
    SLURM,
    documents,
    faults,
    kind,
    pods,
    ray_cluster,
    read,
    validator,
)


def checked(config: dict[str, Any]) -> dict[str, Any]:
    """The file as Ray completes it, after Ray's own checks."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared = prepare_config(copy.deepcopy(config))
    validate_config(prepared)
    return prepared


@pytest.mark.parametrize("cloud", RAY_FILES)
def test_ray_accepts_the_file(cloud):
    config = checked(read(RAY_FILES[cloud]))
    workers = config["available_node_types"].get("gpu_worker") or config["available_node_types"]["local.cluster.node"]
    assert workers["min_workers"] == (len(config["provider"]["worker_ips"]) if cloud == "static" else 0)
    assert workers["max_workers"] > 0
    # Ray fills in what a file omits. Its defaults bind the dashboard to every address, or install Ray's own wheel.
    assert not re.search(r"0\.0\.0\.0|ray-wheels", str(config))


def misspelt(config: dict[str, Any]) -> None:
    config["idle_timeout_minute"] = config.pop("idle_timeout_minutes")


def wrong_type(config: dict[str, Any]) -> None:
    config["upscaling_speed"] = "fast"


def no_list(config: dict[str, Any]) -> None:
    config["setup_commands"] = "pip install ray"


@pytest.mark.parametrize("cloud", RAY_FILES)
@pytest.mark.parametrize("broken", [misspelt, wrong_type, no_list])
def test_ray_refuses_a_broken_file(cloud, broken):
    import jsonschema

    config = read(RAY_FILES[cloud])
    broken(config)
    with pytest.raises((jsonschema.ValidationError, TypeError)):
        checked(config)


@pytest.mark.parametrize("cloud", ["aws", "gcp"])
def test_ray_refuses_a_broken_node_type(cloud):
    import jsonschema

    for key, value in (("min_worker", 0), ("min_workers", "none"), ("resources", {"GPU": "1"})):
        config = read(RAY_FILES[cloud])
        config["available_node_types"]["gpu_worker"][key] = value
        with pytest.raises(jsonschema.ValidationError):
            checked(config)


def machine_faults(cloud: str, node_config: dict[str, Any]) -> list[str]:
    """What a cloud would refuse in a machine of a file. Ray passes ``node_config`` on unchanged."""
    if cloud == "aws":
        # MinCount and MaxCount are added by Ray.
        return [
            e.message
            for e in validator("aws.json", "RunInstances").iter_errors(node_config | {"MinCount": 1, "MaxCount": 1})
        ]
    return [e.message for e in validator("gcp.json", "Instance").iter_errors(node_config)]


@pytest.mark.parametrize("cloud", ["aws", "gcp"])
@pytest.mark.parametrize("node_type", ["head", "gpu_worker"])
def test_the_cloud_knows_every_key_of_a_machine(cloud, node_type):
    node_config = read(RAY_FILES[cloud])["available_node_types"][node_type]["node_config"]
    assert machine_faults(cloud, node_config) == []


@pytest.mark.parametrize(
    ("cloud", "path", "value"),
    [
        ("aws", ("InstanceMarketOption",), {"MarketType": "spot"}),
        ("aws", ("InstanceMarketOptions", "MarketType"), "sport"),
        ("aws", ("InstanceType",), "g6.2xlarg"),
        ("aws", ("BlockDeviceMappings", 0, "Ebs", "VolumeSize"), "200 GB"),
        ("aws", ("IamInstanceProfile",), "raysweep-worker"),
        ("gcp", ("machine_type",), "g2-standard-8"),
        ("gcp", ("scheduling", "provisioningModel"), "spot"),
        ("gcp", ("scheduling",), [{"preemptible": True}]),
        ("gcp", ("disks", 0, "initializeParams", "diskSizeGB"), 200),
    ],
)
def test_the_cloud_refuses_a_broken_machine(cloud, path, value):
    node_config = read(RAY_FILES[cloud])["available_node_types"]["gpu_worker"]["node_config"]
    place: Any = node_config
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    assert machine_faults(cloud, node_config)


@pytest.mark.parametrize("path", KUBERNETES, ids=lambda p: p.stem)
def test_kubernetes_accepts_the_file(path):
    found = {d["kind"]: faults(d) for d in documents(path)}
    assert found
    assert not any(found.values()), found


def head(of: dict[str, Any]) -> dict[str, Any]:
    return ray_cluster(of)["headGroupSpec"]


def worker(of: dict[str, Any]) -> dict[str, Any]:
    return ray_cluster(of)["workerGroupSpecs"][0]


@pytest.mark.parametrize(
    ("name", "broken"),
    [
        ("RayCluster", lambda d: worker(d).update(minReplica=0)),
        ("RayCluster", lambda d: worker(d).update(maxReplicas="8")),
        ("RayCluster", lambda d: worker(d).pop("template")),
        ("RayCluster", lambda d: d.update(apiVersion="ray.io/v1beta1")),
        ("RayCluster", lambda d: d["spec"]["authOptions"].update(mode="tokens")),
        ("RayCluster", lambda d: d["spec"]["autoscalerOptions"].update(upscalingMode="default")),
        ("RayCluster", lambda d: head(d)["rayStartParams"].update({"num-cpus": 0})),  # numbers must be quoted
        ("RayCluster", lambda d: head(d)["template"]["spec"]["containers"][0]["env"].append({"name": "A", "value": 1})),
        ("RayCluster", lambda d: head(d)["template"]["spec"]["containers"][0].update(volumeMount=[])),
        ("RayJob", lambda d: d["spec"].update(shutdownAfterJobFinish=True)),
        ("RayJob", lambda d: d["spec"].update(activeDeadlineSeconds="1 day")),
        ("RayJob", lambda d: worker(d)["template"]["spec"].update(terminationGracePeriod=90)),
        ("RayJob", lambda d: worker(d)["template"]["spec"]["tolerations"].append({"keys": "a"})),
        ("NetworkPolicy", lambda d: d["spec"]["ingress"][1]["ports"][0].update(port=[8265])),
        ("PersistentVolumeClaim", lambda d: d["spec"].update(accessMode=["ReadWriteMany"])),
    ],
)
def test_kubernetes_refuses_a_broken_object(name, broken):
    document = copy.deepcopy(kind(name))
    assert not faults(document)
    broken(document)
    assert faults(document)


def start_commands(config: dict[str, Any], who: str) -> str:
    return "\n".join(config[f"{who}_start_ray_commands"])


@pytest.mark.parametrize("cloud", RAY_FILES)
def test_the_dashboard_listens_on_the_head_alone(cloud):
    config = checked(read(RAY_FILES[cloud]))
    assert re.findall(r"--dashboard-host=(\S+)", start_commands(config, "head")) == ["127.0.0.1"]


def test_the_dashboard_of_a_kubernetes_cluster_listens_on_its_pod_alone():
    assert head(kind("RayCluster"))["rayStartParams"]["dashboard-host"] == "127.0.0.1"


def test_the_dashboard_of_a_rayjob_is_open_to_its_operator_only():
    """KubeRay's operator and submitter connect to the pod's address, so this dashboard cannot listen on 127.0.0.1."""
    job = kind("RayJob")
    assert head(job)["rayStartParams"]["dashboard-host"] == "0.0.0.0"
    assert head(job)["serviceType"] == "ClusterIP"
    policy = kind("NetworkPolicy")["spec"]
    labels = policy["podSelector"]["matchLabels"]
    for pod in pods(ray_cluster(job)):
        assert labels.items() <= pod["metadata"]["labels"].items()
    own, others = policy["ingress"]
    assert [f["podSelector"]["matchLabels"] for f in own["from"]] == [labels]
    assert [p["port"] for p in others["ports"]] == [8265]


def test_every_cluster_requires_a_token():
    for path in RAY_FILES.values():
        config = read(path)
        assert any("RAY_AUTH_MODE=token" in c for c in config["initialization_commands"])
        assert [
            k for k, v in config["file_mounts"].items() if v == "~/.ray/auth_token" and k.endswith("/.ray/auth_token")
        ]
    for name in ("RayCluster", "RayJob"):
        assert ray_cluster(kind(name))["authOptions"] == {"mode": "token", "secretName": "raysweep-token"}
    assert "export RAY_AUTH_MODE=token" in SLURM.read_text()


def requirements() -> dict[str, SpecifierSet]:
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    found = {r.name: r.specifier for r in map(Requirement, project["dependencies"])}
    return found | {"python": SpecifierSet(project["requires-python"])}


def test_all_files_pin_the_same_versions_within_the_projects_bounds():
    bounds = requirements()
    pins: dict[str, set[str]] = {}
    for path in EVERY:
        for name, pinned in re.findall(r"\b(ray|torch|torchvision)(?:\[[a-z,]*\])?==([\d.]+\d)", path.read_text()):
            pins.setdefault(name, set()).add(pinned)
    assert {name: len(found) for name, found in pins.items()} == {"ray": 1, "torch": 1, "torchvision": 1}, pins
    for name, (version,) in pins.items():
        assert version in bounds[name]
    (ray,) = pins["ray"]
    tag = re.search(r"^FROM rayproject/ray:([\d.]+)-py(\d)(\d+)-gpu$", DOCKERFILE.read_text(), flags=re.M)
    assert tag
    assert tag[1] == ray
    assert f"{tag[2]}.{tag[3]}" in bounds["python"]
    assert {ray_cluster(kind(n))["rayVersion"] for n in ("RayCluster", "RayJob")} == {ray}
    for path in RAY_FILES.values():
        least = re.search(r"version_info >= \((\d+), (\d+)\)", path.read_text())
        assert least
        assert f"{least[1]}.{least[2]}" in bounds["python"]
        assert f"{least[1]}.{int(least[2]) - 1}" not in bounds["python"]


@pytest.mark.parametrize("path", EVERY, ids=lambda p: p.name)
def test_what_must_be_changed_is_marked_and_does_not_work_unchanged(path):
    for line in path.read_text().splitlines():
        code, _, comment = line.partition(" #")
        if path.suffix not in (".yaml", ".sh") or line.lstrip().startswith("#"):
            continue
        if "CHANGE" in code:
            assert "CHANGE" in comment, line
        # A host name that exists would belong to somebody else.
        for host in re.findall(r"\b[\w.]*CHANGE[\w.]*\.\w+\b", code):
            assert host.endswith(".invalid"), line


@pytest.mark.parametrize("cloud", ["aws", "gcp"])
def test_a_spot_machine_is_watched_and_idle_machines_are_deleted(cloud):
    config = read(RAY_FILES[cloud])
    spot = config["available_node_types"]["gpu_worker"]["node_config"]
    assert "spot" in str(spot).lower()
    assert "spot" not in str(config["available_node_types"]["head"]).lower()
    (watch,) = [c for c in config["worker_start_ray_commands"] if "notice.py" in c]
    script = re.search(r"~/raysweep/(\S+notice\.py) (\w+)", watch)
    assert script
    assert (PROJECT / script[1]).is_file()
    assert script[2] == cloud
    assert config["provider"]["cache_stopped_nodes"] is False
    assert config["idle_timeout_minutes"] > 0
    assert config["available_node_types"]["head"]["resources"] == {"CPU": 0}


@pytest.mark.parametrize("cloud", RAY_FILES)
def test_raysweep_is_installed_on_every_node(cloud):
    config = read(RAY_FILES[cloud])
    (place,) = [remote for remote, local in config["file_mounts"].items() if local == "."]
    assert any(place in c and "pip install" in c for c in config["setup_commands"])
    # For rsync a pattern without a slash matches a folder at any depth, such as raysweep/data.
    packages = {p.parent.name for p in (PROJECT / "raysweep").rglob("__init__.py")}
    assert not packages & set(config["rsync_exclude"])
    extras = re.search(r"\[([\w,]+)\]'? *$", next(c for c in config["setup_commands"] if "pip install" in c))
    assert extras
    known = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(extras[1].split(",")) <= set(known)


def test_the_image_is_built_from_files_that_exist():
    for line in re.findall(r"^COPY --chown=1000:100 (.*)$", DOCKERFILE.read_text(), flags=re.M):
        *sources, _ = line.split()
        assert all((PROJECT / s).exists() for s in sources), line


def test_the_kubernetes_files_fit_together():
    clusters = [kind("RayCluster"), kind("RayJob")]
    claim = kind("PersistentVolumeClaim")
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    images = set()
    for pod in (p for c in clusters for p in pods(ray_cluster(c))):
        (container,) = pod["spec"]["containers"]
        images.add(container["image"])
        assert container["resources"]["requests"] == container["resources"]["limits"]
        (volume,) = pod["spec"]["volumes"]
        assert volume["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
        assert [m["name"] for m in container["volumeMounts"]] == [volume["name"]]
    assert len(images) == 1
    # The volume must not be deleted together with a cluster.
    assert not [d for p in KUBERNETES[:2] for d in documents(p) if d["kind"] == "PersistentVolumeClaim"]


def test_a_pod_has_time_to_save_before_it_is_killed():
    for name in ("RayCluster", "RayJob"):
        pod = worker(kind(name))["template"]["spec"]
        env = {e["name"]: e["value"] for e in pod["containers"][0]["env"]}
        assert 30 < float(env["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"]) < pod["terminationGracePeriodSeconds"]


def test_a_rayjob_has_as_many_workers_as_its_command_and_ends():
    spec = kind("RayJob")["spec"]
    (group,) = spec["rayClusterSpec"]["workerGroupSpecs"]
    asked = re.search(r"--workers (\d+)", spec["entrypoint"])
    assert asked
    assert {group["replicas"], group["minReplicas"], group["maxReplicas"]} == {int(asked[1])}
    assert spec["shutdownAfterJobFinishes"]
    assert spec["backoffLimit"] == 0


def test_no_file_contains_a_path_of_this_machine():
    for path in [*EVERY, *CLUSTERS.glob("*.py"), *Path(__file__).parent.glob("schemas/*")]:
        assert str(PROJECT) not in path.read_text()
