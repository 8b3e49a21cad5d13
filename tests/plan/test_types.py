"""What planning hands to launching arrives whole and is not checked again."""

from __future__ import annotations

import pickle
from dataclasses import replace

import pytest

from raysweep.errors import ConfigError
from raysweep.store.root import Root


@pytest.fixture
def plan(tmp_path, quick_run):
    from raysweep.plan import child
    from raysweep.plan import parent as parents

    run = quick_run(training={"epochs": 1})
    parent = parents.read_parent(run.root, f"{run.id}@1")
    return child.plan_child(parent, Root.open(run.folder.parent), name="c", weights={"3": 4.0})


def test_a_job_travels_whole_and_its_settings_are_not_validated_again(plan, monkeypatch):
    from raysweep.config.settings import Settings
    from raysweep.store.experiment import Experiment
    from raysweep.training.job import Job

    config = Experiment(plan.parent.path.parent).config()
    parent = plan.parent.record()
    job = Job("f", "t", plan.settings, plan.weights, "c", "d", 1, False, 1, 2, parent=parent, config=config)
    sent = pickle.dumps((job, plan))
    monkeypatch.setattr(Settings, "model_validate", None)
    monkeypatch.setattr(Settings, "__init__", None)
    assert pickle.loads(sent) == (job, plan)
    assert pickle.loads(sent)[0].config.to_json() == config.to_json()  # unknown keys and the order of all, too


def test_a_branch_differs_from_the_common_plan_in_name_weights_and_seed_only(plan):
    from raysweep.plan import child

    weights = plan.parent.weights.inherit({"8": 0.5})
    varied = child.vary(plan, name="b", description="why", weights=weights, seed=7)
    assert varied.ratio_change.changed == {"8": (1.0, 0.5)}
    expected = plan.settings.model_dump(mode="json")
    expected |= {"seed": 7, "experiment": {"name": "b", "description": "why"}}
    expected["sampling"]["weights"] = weights.as_dict()
    assert varied.settings.model_dump(mode="json") == expected
    assert replace(varied, settings=plan.settings, weights=plan.weights) == plan
    assert type(varied.settings).model_validate(expected) == varied.settings


def test_a_branch_whose_name_cannot_be_a_folder_is_refused(plan):
    from raysweep.plan import child

    with pytest.raises(ConfigError, match=r"in branch a/b: .*not a path"):
        child.vary(plan, name="a/b", description="", weights=plan.weights, seed=0)
