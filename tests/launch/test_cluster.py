"""The shipped cluster file passes Ray's own offline check, and no fault of an address waits for long."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

PROJECT = Path(__file__).parents[2]


def test_cluster_yaml_passes_rays_validation():
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = prepare_config(yaml.safe_load((PROJECT / "cluster.yaml").read_text()))
    validate_config(config)
    assert set(config["available_node_types"]) == {"head", "gpu_worker"}


def test_an_invalid_cluster_file_does_not_pass(tmp_path):
    from ray.autoscaler._private.util import prepare_config, validate_config

    broken = yaml.safe_load((PROJECT / "cluster.yaml").read_text())
    broken["head_node_tpye"] = broken.pop("head_node_type")
    with pytest.raises(Exception, match="head_node_t"):
        validate_config(prepare_config(broken))
