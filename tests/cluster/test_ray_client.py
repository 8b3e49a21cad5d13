"""A run by Ray Client, from a process outside the cluster, gives the same results as one from inside."""

from __future__ import annotations

import subprocess
import sys

import pytest
import yaml

from raysweep.store.experiment import Experiment
from tests.conftest import SMALL_NET
from tests.launch.kills import clean_environment, ray_head


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.ray
def test_a_run_through_ray_client_is_complete(tmp_path):
    from ray._common.network_utils import find_free_port

    port = find_free_port()
    settings = {
        "experiment": {"name": "far"},
        "data": {"source": "digits"},
        "model": SMALL_NET,
        "training": {"epochs": 2, "batch_size": 200, "augment": {"crop_padding": 1, "flip": False}},
        "sampling": {"samples_per_epoch": 500},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings))
    with ray_head(f"--ray-client-server-port={port}"):
        where = ["--root", str(tmp_path / "experiments"), "--address", f"ray://127.0.0.1:{port}"]
        config = str(tmp_path / "config.yaml")
        for _ in range(3):
            done = subprocess.run(
                [sys.executable, "-m", "raysweep", "run", config, "--workers", "2", *where],
                capture_output=True,
                text=True,
                timeout=900,
                env=clean_environment(),
            )
            # Ray's proxy gives the server that it starts for a client 30 s, which a busy machine may exceed.
            if "Initialization failure from server" not in done.stderr:
                break
    assert done.returncode == 0, done.stderr
    assert "Token authentication" not in done.stderr
    (folder,) = (tmp_path / "experiments").glob("far_*")
    experiment = Experiment(folder)
    assert experiment.status() == "finished"
    assert [e.epoch for e in experiment.entries()] == [1, 2]
    assert "epoch  2/2" in done.stderr
