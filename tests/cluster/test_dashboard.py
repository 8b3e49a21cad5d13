"""Ray's dashboard in a browser: it names what trains, requires the token, and is reachable on 127.0.0.1 only."""

from __future__ import annotations

import ipaddress
import json
import os
import re
import secrets
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import yaml

from raysweep.cluster import connect
from raysweep.cluster.channel import open_channel
from raysweep.cluster.dashboard import Shown
from raysweep.events import BranchEnded, BranchEvent, Drawing, ExperimentStarted
from tests.conftest import SMALL_NET


def get(url, token=None):
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(urllib.request.Request(url, headers=headers), timeout=60) as answer:
        return json.load(answer)


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    """A run on two workers, started as a user does, in its third epoch or later."""
    folder = tmp_path_factory.mktemp("dashboard")
    settings = {
        "experiment": {"name": "seen"},
        "data": {"source": "digits"},
        "model": SMALL_NET,
        "training": {"epochs": 5000, "batch_size": 200, "augment": {"crop_padding": 1, "flip": False}},
        "sampling": {"samples_per_epoch": 500},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    token = secrets.token_hex(32)  # not the user's own
    (folder / "token").write_text(token)
    arguments = ["run", str(folder / "config.yaml"), "--workers", "2", "--root", str(folder / "experiments")]
    process = subprocess.Popen(
        [sys.executable, "-m", "raysweep", *arguments],
        stderr=subprocess.PIPE,
        text=True,
        env={k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
        | {"RAY_AUTH_TOKEN_PATH": str(folder / "token")},
    )
    lines = []
    try:
        for line in process.stderr:
            lines.append(line)
            if re.match(r"epoch +3/", line):
                break
        text = "".join(lines)
        url, id = re.search(r"dashboard: (http://\S+);", text), re.search(r"^Experiment (\S+)", text, re.M)
        assert url, text
        assert id, text
        threading.Thread(target=process.stderr.read, daemon=True).start()
        yield SimpleNamespace(url=url[1], id=id[1], token=token, pid=process.pid)
    finally:
        tree = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
        for left in psutil.wait_procs(tree, timeout=10)[1]:
            left.kill()


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.ray
def test_with_the_token_the_pages_name_what_trains(browser, running):
    tab = browser.new_page(viewport={"width": 1400, "height": 900})
    tab.goto(f"{running.url}/#/jobs")
    dialog = tab.locator("[role=dialog]")
    dialog.wait_for()
    assert "Authentication Token Required" in dialog.inner_text()
    assert "seen" not in tab.locator("body").inner_text()  # nothing is shown without the token

    dialog.locator("input").fill(running.token)
    dialog.locator("button", has_text="Submit").click()
    row = tab.locator("tr", has_text=re.compile(r"raysweep\S* run"))
    row.wait_for()
    assert re.search(r"\bseen\b", row.inner_text().split("config.yaml")[0])  # the column Name
    assert "RUNNING" in row.inner_text()

    row.locator("a").first.click()
    tab.get_by_text("Task Table").first.click()
    tab.get_by_label("Name", exact=True).first.fill(running.id)  # filters the table of tasks, which has many pages
    task = tab.locator("tr", has_text=running.id).first
    task.wait_for()
    assert "RUNNING" in task.inner_text()
    tab.goto(f"{running.url}/#/actors")
    tab.locator("tr", has_text=running.id).first.wait_for()
    tab.close()


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.ray
def test_ray_train_knows_the_run_by_its_name(running):
    (run,) = get(f"{running.url}/api/train/v2/runs/v1", running.token)["train_runs"]
    assert (run["name"], run["status"]) == (running.id, "RUNNING")


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.parametrize("token", [None, "0" * 64])
def test_without_the_token_it_refuses(running, token):
    refuses(running.url, token)


def refuses(url, token):
    for path in ("/api/jobs/", "/api/train/v2/runs/v1", "/logical/actors", "/api/v0/tasks"):
        with pytest.raises(urllib.error.HTTPError) as error:
            get(url + path, token)
        assert error.value.code in (401, 403)


@pytest.mark.slow
def test_a_cluster_of_our_own_answers_to_the_users_token_only(ray_cluster):
    """Of the session's cluster: the quick twin of the run that is started as a user does."""
    url = connect.connect(None).dashboard
    kept = os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token"
    token = os.environ.get("RAY_AUTH_TOKEN") or Path(kept).read_text().strip()
    assert get(f"{url}/api/v0/actors", token)["result"]
    for other in (None, "0" * 64):
        refuses(url, other)


def listening(pid):
    """(command, address) of every socket on which a process or one of its descendants listens."""
    found = []
    for process in [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]:
        try:
            name = " ".join(process.cmdline())
            found += [(name, c.laddr.ip) for c in process.net_connections("inet") if c.status == psutil.CONN_LISTEN]
        except psutil.Error:
            continue
    return found


def loopback(address):
    parsed = ipaddress.ip_address(address)
    return (getattr(parsed, "ipv4_mapped", None) or parsed).is_loopback


@pytest.mark.slow
def test_nothing_of_a_cluster_of_our_own_listens_beyond_this_machine(ray_cluster):
    mine = ("moto.server", "multiprocessing")  # other processes of the tests
    found = [(name, ip) for name, ip in listening(os.getpid()) if not any(m in name for m in mine)]
    for part in ("gcs_server", "raylet", "dashboard", "RuntimeEnvAgent"):
        assert any(part in name for name, _ in found), found
    assert [name for name, ip in found if not loopback(ip) and "RayTrainWorker" not in name] == []


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.ray
def test_nothing_listens_beyond_this_machine(running):
    found = listening(running.pid)
    for part in ("gcs_server", "raylet", "dashboard", "RuntimeEnvAgent", "RayTrainWorker"):
        assert any(part in name for name, _ in found), found
    beyond = [(name, ip) for name, ip in found if not loopback(ip)]
    # Not Ray's: PyTorch's store, by which the ranks find each other. PyTorch has no option for its address.
    assert [name for name, _ in beyond if "RayTrainWorker" not in name] == []
    assert len(beyond) <= 1


@pytest.mark.slow
def test_branches_are_tasks_of_the_job(ray_cluster):
    import ray
    from ray.util.state import list_tasks

    address = ray.get_runtime_context().gcs_address  # there may be other clusters on this machine
    channel = open_channel("hunt_20260101_000000", 2)
    shown = Shown(channel)
    for branch in ("rare5", "odd2", "rare9"):  # the third has to wait
        shown(BranchEvent(branch, ExperimentStarted(f"hunt-{branch}_20260101_000001", "", 0)))
    shown(BranchEvent("odd2", ExperimentStarted("hunt-odd2_20260101_000001", "", 0)))  # again, after a lost process

    def states(wanted):
        deadline = time.monotonic() + 120
        while True:
            found = [(t.name, t.state) for t in list_tasks(address, limit=10_000) if t.name.startswith("hunt-")]
            short = {name.split("_")[0].removeprefix("hunt-"): state for name, state in found}
            if short == wanted or time.monotonic() > deadline:
                assert len(found) == len(short)
                return short
            time.sleep(0.5)

    waiting = "PENDING_ACTOR_TASK_ORDERING_OR_CONCURRENCY"
    wanted = {"rare5": "RUNNING", "odd2": "RUNNING", "rare9": waiting}
    assert states(wanted) == wanted
    shown(BranchEvent("rare5", BranchEnded("finished")))
    shown(BranchEvent("odd2", BranchEnded("failed", "no more room on the disk")))
    wanted = {"rare5": "FINISHED", "odd2": "FAILED", "rare9": "RUNNING"}
    assert states(wanted) == wanted
    shown.close({})
    ray.kill(channel)
    assert states(wanted | {"rare9": "FINISHED"}) == wanted | {"rare9": "FINISHED"}


def test_errors_of_the_names_are_ignored():
    shown = Shown(channel=None)
    shown(BranchEvent("b", ExperimentStarted("x", "", 0)))
    shown(BranchEvent("b", BranchEnded("failed", "y")))
    shown(Drawing())
    shown.close({})
