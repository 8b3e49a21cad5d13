"""Training on encoded images: the bits of decoded ones, on one worker and two, after a stop and after a kill; in bounded memory."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conftest import SMALL_NET, weights_hash

TRAINING = {"epochs": 2, "batch_size": 12, "augment": {"crop_padding": 1, "flip": True}}


@pytest.fixture(scope="module")
def jpegs(tmp_path_factory) -> Path:
    """``train/`` and ``val/`` of two classes, JPEGs a little larger than the network sees."""
    from tests.data.test_encoded import photographs

    return photographs(tmp_path_factory.mktemp("jpegs") / "d", {"cat": (40, 36), "dog": (36, 40)}, each=20)


def settings_of(root: Path, path: Path, kind: str, **sections):
    from raysweep.config import load as load_config

    base = {
        "data": {"path": str(path), "image_size": 32, "cache": kind, "cache_dir": str(root / f"cache-{kind}")},
        "model": SMALL_NET,
        "training": TRAINING,
        "sampling": {"weights": {"dog": 3.0}},
        "scaling": {"num_workers": 0, "threads": 1},
        "experiment": {"name": kind},
        "root": str(root),
    }
    return load_config.validate(load_config.merge(base, sections))


def run(root: Path, path: Path, kind: str, **sections):
    from raysweep.launch import run as launching
    from raysweep.plan import experiment as experiment_plan

    return launching.run(experiment_plan.plan_experiment(settings_of(root, path, kind, **sections))).experiment


def orders(experiment) -> list[str]:
    return [row.metrics["order_sha256"] for row in experiment.manifest().entries if row.batch is None]


def test_the_bits_of_a_training_are_those_of_decoded_images(tmp_path, jpegs, without_ray):
    decoded, kept = (run(tmp_path, jpegs, kind) for kind in ("pixels", "encoded"))
    assert weights_hash(kept) == weights_hash(decoded)
    assert orders(kept) == orders(decoded)
    assert kept.config().settings["data"]["cache"] == "encoded"
    assert kept.config().data_sha256 == decoded.config().data_sha256


def test_shrunk_images_are_shown_in_the_same_order_and_as_often(tmp_path, without_ray):
    from tests.data.test_encoded import photographs

    path = photographs(tmp_path / "d", {"cat": (40, 36), "dog": (300, 200)}, each=8)
    decoded, kept = (run(tmp_path, path, kind) for kind in ("pixels", "encoded"))
    assert orders(kept) == orders(decoded)
    told = [json.loads(line) for line in (kept.folder / "lineage.jsonl").read_text().splitlines()]
    assert any("8 large ones shrunk once" in str(event) or "16 large ones shrunk once" in str(event) for event in told)


def test_a_child_may_keep_the_images_otherwise_and_has_the_same_bits(tmp_path, jpegs, without_ray):
    from raysweep.launch import run as launching
    from raysweep.plan import child as child_plan
    from raysweep.plan import parent as parent_plan

    made = run(tmp_path, jpegs, "pixels", training={"epochs": 1})
    children = []
    for kind in ("pixels", "encoded"):
        parent = parent_plan.read_parent(made.root, f"{made.id}@1")
        plan = child_plan.plan_child(
            parent,
            made.root,
            epochs=1,
            overrides={"data": {"cache": kind, "cache_dir": str(tmp_path / f"cache-{kind}")}},
        )
        assert not any("images have changed" in note.text for note in plan.notes)
        children.append(launching.run(plan).experiment)
    assert weights_hash(children[0]) == weights_hash(children[1])


def test_a_flipped_bit_ends_the_training_and_going_on_gives_the_same_bits(tmp_path, jpegs, without_ray):
    from raysweep.data import places
    from raysweep.errors import DataError
    from raysweep.launch import resume
    from raysweep.launch import run as launching
    from raysweep.plan import experiment as experiment_plan

    plan = experiment_plan.plan_experiment(settings_of(tmp_path, jpegs, "encoded"))
    file = plan.data.folder / places.ENCODED
    content = bytearray(file.read_bytes())
    content[len(content) // 3] ^= 4
    file.write_bytes(content)
    with pytest.raises(DataError, match=r"encoded\.bin has changed between bytes .*raysweep continue"):
        launching.run(plan)
    (folder,) = tmp_path.glob("encoded_*")
    assert not list(folder.glob("*.pt"))
    gone_on = resume.continue_experiment(plan.root, folder.name).experiment
    assert weights_hash(gone_on) == weights_hash(run(tmp_path, jpegs, "pixels"))
