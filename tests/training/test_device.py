"""Devices by ``torch.accelerator``, with a fake one: this machine has none. Its numbers are the CPU's, its kind is another's."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest


class Accelerator:
    """An accelerator of a kind whose tensors lie on the CPU: ``cpu`` with an index. It counts what it is asked for."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.states: list[Any] = []

    def get_rng_state(self) -> Any:
        import torch

        return torch.arange(4, dtype=torch.uint8) + len(self.states)

    def set_rng_state(self, state: Any) -> None:
        self.states.append(state)


@pytest.fixture
def fake(monkeypatch):
    import torch

    from raysweep.training import device

    def be(kind: str, named: str | None = None, count: int = 1) -> Accelerator:
        found = Accelerator(kind)
        if named is not None:
            found.get_device_name = lambda _: named  # type: ignore[attr-defined]
        mine = torch.device("cpu", 0)
        there = SimpleNamespace(
            is_available=lambda: True,
            current_accelerator=lambda: mine,
            current_device_index=lambda: 0,
            device_count=lambda: count,
        )
        monkeypatch.setattr(device, "_accelerator", there)
        monkeypatch.setattr(device, "kind", lambda d: kind if d.index is not None else d.type)
        monkeypatch.setattr(device, "_module", lambda d: found)
        return found

    return be


def test_this_machine_has_none_or_is_asked_as_torch_says():
    import torch

    from raysweep.plan import resources
    from raysweep.training import device

    assert (device.found() is None) == (not torch.accelerator.is_available())
    assert resources.gpus_here() == device.count()
    assert device.name(device.CPU) == "CPU"
    assert device.caveat(device.CPU) is None
    assert device.sums(device.CPU) == torch.float64


@pytest.mark.parametrize(
    ("kind", "named", "title", "for_ray", "single"),
    [
        ("cuda", "NVIDIA H100", "GPU", True, False),
        ("mps", None, "Apple GPU (MPS)", False, True),
        ("xpu", "Intel Arc", "Intel GPU (XPU)", False, False),
        ("npu", None, "NPU", False, False),
    ],
)
def test_what_is_known_of_each_kind(fake, kind, named, title, for_ray, single):
    import torch

    from raysweep.plan import resources
    from raysweep.training import device

    fake(kind, named, count=2)
    here = device.current()
    assert device.title(here) == title
    assert device.name(here) == (named or device.name(here))
    assert (resources.gpus_here(), resources.gpus_for_ray()) == (2, 2 if for_ray else 0)
    assert (device.sums(here) == torch.float32) == single
    told = device.caveat(here)
    assert (told is None) == (kind == "cuda")
    if told is not None:
        assert f"trains on this machine's {title}" in told
        assert "not bit-exact" in told
        assert "scaling.use_gpu=false" in told
        assert ("single precision" in told) == single


@pytest.mark.parametrize("kind", [pytest.param("mps", marks=pytest.mark.slow), "xpu"])
def test_a_training_and_its_child_on_a_fake_accelerator(fake, quick_run, quick_child, monkeypatch, kind):
    """The plan and the log say what is not exact; the conditions have the device, and the generator's state travels."""
    import torch

    from raysweep.store import checkpoint, lineage
    from raysweep.training import loop

    plain = quick_run(experiment={"name": "plain"})
    module = fake(kind, f"a fake {kind}")
    sums: list[torch.dtype] = []
    add = loop._Counted.add

    def watched(self, *arguments):
        add(self, *arguments)
        sums.append(self.loss.dtype)

    monkeypatch.setattr(loop._Counted, "add", watched)
    run = quick_run(experiment={"name": "other"})
    assert {*sums} == {torch.float32 if kind == "mps" else torch.float64}
    notes = [e.fields.get("text", "") for e in lineage.read(run.folder)]
    assert any("results are not bit-exact" in text for text in notes)
    saved = checkpoint.read_checkpoint(run.folder / run.entry("latest").file)
    assert saved["conditions"]["device"] == f"a fake {kind}"
    assert saved["rng_state"][0]["accelerator"].keys() == {kind}
    assert saved["rng_state"][0]["cuda"] == []
    same = checkpoint.read_checkpoint(plain.folder / plain.entry("latest").file)
    weights = saved["model_state_dict"]
    assert all(torch.equal(weights[k], v) for k, v in same["model_state_dict"].items())  # the fake computes on the CPU
    module.states.clear()
    child = quick_child(f"{run.id}@1", epochs=1)
    assert any(torch.equal(s, saved["rng_state"][0]["accelerator"][kind]) for s in module.states)
    assert "some GPU kernels sum in no fixed order" in " ".join(
        e.fields.get("text", "") for e in lineage.read(child.folder)
    )


def test_the_generator_of_another_kind_is_left_alone(fake):
    import torch

    from raysweep.training import device, state

    module = fake("xpu")
    before = state.rng_state()
    assert before["accelerator"].keys() == {"xpu"}
    state.set_rng_state({**before, "accelerator": {"mps": torch.zeros(2, dtype=torch.uint8)}})
    assert module.states == []
    state.set_rng_state(before)
    assert len(module.states) == 1
    old = {k: v for k, v in before.items() if k != "accelerator"}  # of an earlier version
    state.set_rng_state(old)
    assert len(module.states) == 1
    assert device.generator_state().keys() == {"xpu"}


@pytest.mark.parametrize("content", [[1], 5, {"xpu": 3}])
def test_a_strangers_generator_state_is_refused_in_one_paragraph(fake, content):
    from raysweep.errors import CheckpointError
    from raysweep.training import state

    fake("xpu")
    with pytest.raises(CheckpointError, match="cannot be restored"):
        state.set_rng_state({**state.rng_state(), "accelerator": content})


def test_branches_share_a_gpu_that_ray_does_not_know(monkeypatch):
    from raysweep.errors import ResourceError
    from raysweep.plan import resources, sweep

    monkeypatch.setattr(resources, "gpus_for_ray", lambda: 0)
    base: Any = SimpleNamespace(resources=SimpleNamespace(use_gpu=True))
    request: Any = SimpleNamespace(gpus_per_branch=None, address=None)
    assert sweep._shares_gpu(request, base)
    assert sweep._gpus(request, base) == 0.0
    request.gpus_per_branch = 0.5
    with pytest.raises(ResourceError, match="Ray cannot give out this machine's GPU"):
        sweep._gpus(request, base)
    monkeypatch.setattr(resources, "gpus_for_ray", lambda: 1)
    assert not sweep._shares_gpu(request, base)
    assert sweep._gpus(request, base) == 0.5
