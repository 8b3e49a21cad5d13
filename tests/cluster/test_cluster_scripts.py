"""nodes.py requests nodes and always gives them back. notice.py sees a preemption notice and reports it to Ray once."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
import types
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from tests.cluster.clusterfiles import load


class FakeRay(types.ModuleType):
    """A fake cluster with an autoscaler, in which every call of ``nodes`` finds one node more."""

    def __init__(self, comes: bool = True) -> None:
        super().__init__("ray")
        self.comes, self.looks = comes, 0
        self.asked: list[list[dict[str, int]]] = []

    def init(self, **options: Any) -> None:
        assert options["address"] == "auto"

    def nodes(self) -> list[dict[str, Any]]:
        self.looks += 1
        new = [{"Alive": True, "Resources": {"CPU": 8.0, "GPU": 1.0}}] * ((self.looks - 1) * self.comes)
        return [
            {"Alive": True, "Resources": {"CPU": 0.0}},
            {"Alive": False, "Resources": {"CPU": 8.0, "GPU": 1.0}},
            *new,
        ]


@pytest.fixture
def nodes(monkeypatch) -> Iterator[Any]:
    module = load("nodes")
    module.POLL_S = 0.01

    def use(ray: FakeRay) -> FakeRay:
        sdk = types.ModuleType("ray.autoscaler.sdk")
        sdk.request_resources = lambda bundles: ray.asked.append(bundles)  # type: ignore[attr-defined]
        for name, value in {"ray": ray, "ray.autoscaler": types.ModuleType("a"), "ray.autoscaler.sdk": sdk}.items():
            monkeypatch.setitem(sys.modules, name, value)
        return ray

    module.use = use
    before = signal.getsignal(signal.SIGTERM)
    yield module
    signal.signal(signal.SIGTERM, before)


def test_nodes_are_requested_and_given_back(nodes, tmp_path):
    ray = nodes.use(FakeRay())
    code = "import sys; open(sys.argv[1], 'w').write('ran'); sys.exit(7)"
    assert nodes.main(["2", "--cpus", "4", "--", sys.executable, "-c", code, str(tmp_path / "said")]) == 7
    assert (tmp_path / "said").read_text() == "ran"
    assert ray.asked == [[{"CPU": 4, "GPU": 1}] * 2, []]
    assert ray.looks == 3  # the third call found two


def test_a_request_that_is_not_met_in_time_is_withdrawn(nodes, tmp_path):
    ray = nodes.use(FakeRay(comes=False))
    assert nodes.main(["1", "--wait", "0.05", "--", "touch", str(tmp_path / "said")]) == 1
    assert not (tmp_path / "said").exists()
    assert ray.asked[-1] == []


def test_zero_gives_all_nodes_back(nodes):
    ray = nodes.use(FakeRay())
    assert nodes.main(["0"]) == 0
    assert ray.asked[-1] == []
    for wrong in (["1"], ["0", "--", "true"], ["1", "--cpus", "0", "--", "true"]):
        with pytest.raises(SystemExit, match="2"):
            nodes.main(wrong)


def test_a_stopped_job_saves_and_then_gives_its_nodes_back(nodes, tmp_path):
    ray = nodes.use(FakeRay())
    code = "import pathlib, signal, sys, time; said = pathlib.Path(sys.argv[1])\n"
    code += "def stop(*_): said.write_text('saved'); sys.exit(130)\n"
    code += "signal.signal(signal.SIGTERM, stop); said.write_text('runs'); time.sleep(30)"
    said = tmp_path / "said"

    def stop() -> None:
        while not said.exists():
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=stop, daemon=True).start()
    assert nodes.main(["1", "--", sys.executable, "-c", code, str(said)]) == 130
    assert said.read_text() == "saved"
    assert ray.asked[-1] == []


@pytest.mark.parametrize(("cpus", "gpus", "found"), [(1, 1, 3), (4, 1, 3), (8, 1, 2), (1, 2, 1), (1, 0, 20), (9, 0, 0)])
def test_each_worker_has_its_cpus_and_gpus_on_one_node(nodes, cpus, gpus, found):
    have = [(8, 2), (8, 1), (4, 0)]
    alive = [{"Alive": True, "Resources": {"CPU": float(c), "GPU": float(g)}} for c, g in have]
    assert nodes.places(alive, cpus, gpus) == found


class Metadata(BaseHTTPRequestHandler):
    """Fakes of the metadata services of AWS and Google. ``server.notice`` is their preemption notice, None without one."""

    server: Any

    def answer(self, code: int, text: str) -> None:
        self.send_response(code)
        self.end_headers()
        self.wfile.write(text.encode())

    def do_PUT(self) -> None:
        assert self.path == "/latest/api/token"
        assert self.headers["X-aws-ec2-metadata-token-ttl-seconds"]
        self.answer(200, "a-token")

    def do_GET(self) -> None:
        if self.path == "/latest/meta-data/spot/instance-action":
            notice = self.server.notice if self.headers["X-aws-ec2-metadata-token"] == "a-token" else None
            self.answer(200 if notice else 404, notice or "")
        elif self.path == "/computeMetadata/v1/instance/preempted" and self.headers["Metadata-Flavor"] == "Google":
            self.answer(200, self.server.notice or "FALSE")
        else:
            self.answer(500, "")

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def metadata(monkeypatch) -> Iterator[tuple[Any, Any]]:
    """notice.py, and a fake of the service that it reads, on this machine."""
    notice = load("notice")
    server: Any = HTTPServer(("127.0.0.1", 0), Metadata)
    server.notice = None
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    notice.AWS = notice.GCP = f"http://127.0.0.1:{server.server_port}"
    notice.POLL_S = 0.01
    yield notice, server
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(("cloud", "least", "most"), [("aws", 90, 120), ("gcp", 30, 30)])
def test_a_notice_is_reported_to_ray_once(metadata, monkeypatch, cloud, least, most):
    notice, server = metadata
    ends = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 120))
    asked: list[int] = []
    drained: list[float] = []
    monkeypatch.setattr(notice, "drain", drained.append)

    def ask() -> float | None:
        asked.append(1)
        if len(asked) == 3:
            server.notice = {"aws": json.dumps({"action": "terminate", "time": ends}), "gcp": "TRUE"}[cloud]
        return notice.CLOUDS[cloud]()

    notice.watch(ask)
    (left,) = drained
    assert least <= left <= most
    assert len(asked) == 3


def test_a_service_that_does_not_answer_is_asked_again(metadata, monkeypatch, capsys):
    notice, _ = metadata
    drained: list[float] = []
    monkeypatch.setattr(notice, "drain", drained.append)
    answers: list[Any] = [ConnectionRefusedError("nobody there"), ValueError("no JSON"), 5.0]

    def ask() -> float | None:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    notice.watch(ask)
    assert drained == [5.0]
    assert "nobody there" in capsys.readouterr().out
