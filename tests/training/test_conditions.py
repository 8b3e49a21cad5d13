"""What decides the bits of a training besides its state is recorded, and what differs is named."""

from __future__ import annotations

import sys

import pytest


def here(model: str = "cnn", **more):
    import torch

    from raysweep.training import conditions

    return conditions.here(torch.device("cpu"), False, 1, 1, model) | more


def test_the_processor_the_versions_and_the_environment_are_recorded(monkeypatch):
    from importlib import metadata

    from raysweep import _machine

    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    monkeypatch.setenv("DNNL_VERBOSE", "1")  # it only prints
    monkeypatch.setenv("MKL_CBWR", "COMPATIBLE")
    found = here("timm:resnet18")
    assert found["cpu"] == _machine.cpu_model() != ""
    assert found["environment"] == "MKL_CBWR=COMPATIBLE\nONEDNN_MAX_CPU_ISA=AVX2"
    assert found["timm"] == metadata.version("timm")
    assert here("hf:x/y")["transformers"] == metadata.version("transformers")
    assert here("torchvision:resnet18")["torchvision"] == metadata.version("torchvision")
    assert not {"timm", "transformers", "torchvision", "function"} & here("cnn").keys()  # they change none of its bits


@pytest.mark.parametrize(
    ("variable", "before", "now", "told"),
    [
        ("ONEDNN_MAX_CPU_ISA", None, "AVX2", "ONEDNN_MAX_CPU_ISA AVX2 instead of unset"),
        ("DNNL_DEFAULT_FPMATH_MODE", "BF16", None, "DNNL_DEFAULT_FPMATH_MODE unset instead of BF16"),
        ("MKL_CBWR", "AVX2", "AUTO", "MKL_CBWR AUTO instead of AVX2"),
        ("CUBLAS_WORKSPACE_CONFIG", None, ":4096:8", "CUBLAS_WORKSPACE_CONFIG :4096:8 instead of unset"),
    ],
)
def test_a_variable_that_differs_is_named(monkeypatch, variable, before, now, told):
    from raysweep.training import conditions

    found = []
    for value in (before, now):
        monkeypatch.delenv(variable, raising=False)
        if value is not None:
            monkeypatch.setenv(variable, value)
        found.append(here())
    assert conditions.differences(*found) == [told]
    assert conditions.differences(found[1], found[1]) == []


def test_what_an_earlier_version_did_not_record_is_not_said_to_differ():
    from raysweep.training import conditions

    now = here("timm:x")
    old = {key: now[key] for key in ("device", "instructions", "precision", "threads", "world_size", "torch", "numpy")}
    assert conditions.differences(old, now) == []
    assert conditions.unrecorded(old, now) == ["processor", "environment", "timm"]
    assert conditions.unrecorded(now, now) == []


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"cpu": "Z80"}, "processor NAME instead of Z80"),
        ({"timm": "0.1"}, "timm VERSION instead of 0.1"),
    ],
)
def test_another_processor_or_version_is_named(change, told):
    from importlib import metadata

    from raysweep import _machine
    from raysweep.training import conditions

    told = told.replace("NAME", _machine.cpu_model()).replace("VERSION", metadata.version("timm"))
    assert conditions.differences(here("timm:x") | change, here("timm:x")) == [told]


def test_the_file_of_the_users_function_is_recorded(tmp_path, monkeypatch):
    import hashlib

    from raysweep.training import conditions

    file = tmp_path / "keepnets.py"
    monkeypatch.syspath_prepend(str(tmp_path))

    def recorded(content: str):
        file.write_text(content)
        return here("python:keepnets:build")

    first = recorded("def build(num_classes, channels): return 1\n")
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert first["function"] == f"keepnets:build in keepnets.py (SHA-256 {digest[:12]}…)"
    assert conditions.differences(first, recorded(file.read_text())) == []
    (told,) = conditions.differences(first, recorded("def build(num_classes, channels): return 2\n"))
    assert told.startswith("model function keepnets:build in keepnets.py (SHA-256 ")
    assert told.endswith(f"instead of {first['function']}")
    sys.modules.pop("keepnets")


def test_a_function_without_a_file_is_recorded_by_its_name():
    assert here("python:sys:intern")["function"] == "sys:intern"


def test_ranks_on_different_machines_are_recorded_each():
    from raysweep.training import conditions

    ranks = [{"cpu": "A", "threads": 2}, {"cpu": "B", "threads": 2}, {"cpu": "A", "threads": 2, "function": "f"}]
    assert conditions.of_ranks(ranks) == {"cpu": "A / B / A", "threads": 2, "function": " /  / f"}
    assert conditions.of_ranks(ranks[:1]) == ranks[0]
