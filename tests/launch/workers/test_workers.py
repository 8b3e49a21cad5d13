"""Training on Ray workers: the same folder as in this process, and failures that say what failed. Real Ray, one cluster."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import numpy as np
import pytest

from raysweep.cluster import connect
from raysweep.cluster.channel import ChannelReporter, open_channel
from raysweep.errors import ResourceError, TrainingError
from raysweep.events import BatchDone, EpochDone, RankTraceback
from raysweep.launch import run as launching
from raysweep.plan import experiment as experiment_plan
from raysweep.plan import resources
from raysweep.report import predictions
from tests.conftest import small_settings

if TYPE_CHECKING:
    from torch import nn


WEIGHTED = {"training": {"epochs": 2, "batch_size": 101}, "sampling": {"samples_per_epoch": 500, "weights": {"3": 5}}}


def breaks_on_rank_1(num_classes: int, channels: int, widths: object) -> nn.Module:
    from torch import nn

    class Breaks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(64 * channels, num_classes)

        def forward(self, x):
            import torch.distributed as dist

            if dist.is_initialized() and dist.get_rank() == 1:
                raise ArithmeticError("the second rank is unwell")
            return self.linear(x.flatten(1))

    return Breaks()


@pytest.mark.slow  # test_attempts and test_ranks have two processes without Ray, test_sweep has trainings in Ray's actors
def test_two_workers_give_the_folder_and_the_sample_sequence_of_this_process(ray_cluster, tmp_path, quick_run):
    here = quick_run(**WEIGHTED)
    events: list[dict] = []
    plan = experiment_plan.plan_experiment(
        small_settings(tmp_path / "workers", **{**WEIGHTED, "scaling": {"num_workers": 2, "threads": 1}})
    )
    there = launching.run(plan, events.append).experiment
    assert [e.metrics["order_sha256"] for e in here.entries()] == [e.metrics["order_sha256"] for e in there.entries()]
    assert {p.name for p in there.folder.iterdir()} == {p.name for p in here.folder.iterdir()}
    assert np.array_equal(predictions.read(here, 2).labels, predictions.read(there, 2).labels)
    rows = [(e.folder / "training_history.csv").read_text().splitlines() for e in (here, there)]
    assert rows[0][0] == rows[1][0]
    columns = rows[0][0].split(",")
    for a, b in zip(rows[0][1:], rows[1][1:], strict=True):
        one, two = (dict(zip(columns, r.split(","), strict=True)) for r in (a, b))
        for c in "0123456789":
            assert one[f"requested_{c}"] == two[f"requested_{c}"] == two[f"realised_{c}"]
    assert there.config().world_size == 2
    assert there.config().threads == 1
    assert [e.epoch for e in events if isinstance(e, EpochDone)] == [1, 2]


@pytest.mark.long
@pytest.mark.slow  # test_attempts has the same of attempts without Ray
def test_an_error_on_one_rank_is_told_with_its_words_and_does_not_hang(ray_cluster, tmp_path):
    sections = {"model": {"name": f"python:{__name__}:breaks_on_rank_1", "options": {}}, "scaling": {"num_workers": 2}}
    plan = experiment_plan.plan_experiment(small_settings(tmp_path, **sections))
    told: list[dict] = []
    with pytest.raises(TrainingError, match="the second rank is unwell"):
        launching.run(plan, told.append)
    (trace,) = [e for e in told if isinstance(e, RankTraceback)]
    assert trace.rank == 1
    assert "breaks_on_rank_1" in trace.text or "forward" in trace.text
    (folder,) = tmp_path.glob("small_*")
    assert "the second rank is unwell" in (folder / "experiment_changes.log").read_text()


def test_more_than_the_cluster_has_is_refused_at_once(ray_cluster, monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail("it waits"))
    nodes = connect.connect(None).nodes
    have = int(sum(n.get("CPU", 0) for n in nodes))
    with pytest.raises(ResourceError, match=f"{have + 1} workers .*asked for.*the cluster has 1 node"):
        resources.fit_cluster(resources.Resources(have + 1, 0, 0, False), nodes, False)


def test_workers_of_a_cluster_of_our_own_yield_to_nobody(ray_cluster):
    import ray

    assert ray.get(ray.remote(num_cpus=0)(lambda: os.nice(0)).remote(), timeout=200) == os.nice(0)


def test_the_reporter_of_a_worker_never_waits(ray_cluster):
    import ray

    channel = open_channel()
    reporter = ChannelReporter(channel, 0)
    for i in range(50):
        reporter(BatchDone(1, i, 50, 1.0, 1.0))
    seen: list[dict] = []
    deadline = time.monotonic() + 200
    while len(seen) < 50 and time.monotonic() < deadline:
        seen += ray.get(channel.take.remote())
    assert [e.batch for e in seen] == list(range(50))
    ray.get(channel.stop.remote("TEST"))
    while reporter.should_stop() is None and time.monotonic() < deadline:
        reporter(BatchDone(2, 1, 50, 1.0, 1.0))
        time.sleep(0.02)
    assert reporter.should_stop() == "TEST"
