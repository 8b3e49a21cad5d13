"""Training on encoded images: the bits of decoded ones, on one worker and two, after a stop and after a kill; in bounded memory."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.conftest import SMALL_NET, Recorder, weights_hash

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


def test_an_option_of_encoded_images_that_changes_nothing_is_said(tmp_path, jpegs):
    from raysweep.plan import experiment as experiment_plan

    plan = experiment_plan.plan_experiment(settings_of(tmp_path, jpegs, "pixels", data={"large": "draft"}))
    assert any(note.text.startswith("data.large=draft changes nothing") for note in plan.notes)


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


@pytest.mark.parametrize("stop_after", [2, pytest.param(4, marks=pytest.mark.slow)])  # of four batches an epoch
def test_interrupted_and_continued_it_has_the_bits_of_decoded_images(tmp_path, jpegs, without_ray, stop_after):
    from raysweep.errors import Interrupted
    from raysweep.launch import resume
    from raysweep.store.root import Root

    without_ray(Recorder(stop_after))
    with pytest.raises(Interrupted):
        run(tmp_path, jpegs, "encoded")
    without_ray(Recorder())
    (folder,) = tmp_path.glob("encoded_*")
    gone_on = resume.continue_experiment(Root.open(tmp_path), folder.name).experiment
    assert weights_hash(gone_on) == weights_hash(run(tmp_path, jpegs, "pixels"))


def test_two_workers_have_the_order_and_the_bits_of_decoded_images(tmp_path, jpegs, monkeypatch, two_ranks):
    from raysweep.launch.workers import start as workers

    monkeypatch.setattr(workers, "in_this_process", lambda job, fitted, progress: two_ranks.train(job))
    decoded, kept = (run(tmp_path, jpegs, kind, training={"epochs": 1}) for kind in ("pixels", "encoded"))
    assert weights_hash(kept) == weights_hash(decoded)
    assert orders(kept) == orders(decoded)


# Memory


def test_no_more_is_decoded_ahead_than_fits(tmp_path, monkeypatch):
    """The quick twin of the next test: what is allocated, in a set that is 20 times as large."""
    import tracemalloc

    import numpy as np

    from raysweep.data import cache, encoded
    from tests.data.drawing import as_parquet, pictures, section

    path = as_parquet(tmp_path / "d", pictures({"a": 400, "b": 400}, {"a": 2, "b": 2}, size=64))
    images = cache.load(section(path, cache="encoded"), tmp_path / "cache").train
    monkeypatch.setattr(encoded, "AHEAD", 1 << 16)
    batches = np.random.default_rng(0).permutation(800).reshape(-1, 8)
    images.take(batches[0])
    tracemalloc.start()
    try:
        images.ahead(map(encoded.Asked, batches))
        for batch in batches:
            images.take(batch)
        assert tracemalloc.get_traced_memory()[1] < images.nbytes / 10
    finally:
        tracemalloc.stop()


MEASURED = """
import json, sys
from pathlib import Path
from raysweep.launch import run as launching
from raysweep.plan import experiment as experiment_plan
from tests.training.test_encoded import peak_mb, settings_of
root, path = Path(sys.argv[1]), Path(sys.argv[2])
def go(name, path):
    found = settings_of(root, path, "encoded", experiment={"name": name}, data={"image_size": 224}, training={"epochs": 1})
    launching.run(experiment_plan.plan_experiment(found))
    return peak_mb()
small = go("small", path / "small")  # what libraries and the network take
print(json.dumps([small, go("large", path / "large")]))
"""


def peak_mb() -> float:
    """The most memory that this process has had."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def copied(folder: Path, train: int, val: int) -> Path:
    """Class folders with so many photographs of 224 pixels a class, of which ten are different."""
    from tests.data.test_encoded import smooth

    for split, count in (("train", train), ("val", val)):
        for c, name in enumerate(("cat", "dog")):
            (folder / split / name).mkdir(parents=True)
            few = []
            for i in range(10):
                buffer = io.BytesIO()
                Image.fromarray(smooth(100 * c + i, 224, 224)).save(buffer, "JPEG", quality=90)
                few.append(buffer.getvalue())
            for i in range(count):
                (folder / split / name / f"{i}.jpg").write_bytes(few[i % 10])
    return folder


@pytest.mark.slow
def test_images_larger_than_the_memory_are_built_and_trained_on_within_it(tmp_path):
    copied(tmp_path / "small", 150, 150)
    copied(tmp_path / "large", 1200, 150)
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, str(tmp_path / "root"), str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    small, large = json.loads(done.stdout.splitlines()[-1])
    as_pixels = 2700 * 224 * 224 * 3 / 2**20
    assert as_pixels > 380
    assert large < small + 150, (small, large)  # 32 MB ahead, and what the allocator keeps


# Random crops of images as they are stored


@pytest.fixture
def large(tmp_path) -> Path:
    from tests.data.test_encoded import photographs

    return photographs(tmp_path / "d", {"cat": (40, 36), "dog": (300, 200)}, each=10)


CROPS = {
    "data": {"large": "crop"},
    "training": {"augment": {"random_resized_crop": {"scale": [0.3, 1.0], "p": 0.8}, "mixup": 0.2}},
}


def test_crops_depend_on_nothing_but_the_place_in_the_training(tmp_path, large):
    import numpy as np
    import torch

    from raysweep.data import cache
    from raysweep.training.augmentation.batches import Batches
    from raysweep.training.feed import Feed

    settings = settings_of(tmp_path, large, "encoded", **CROPS)
    data = cache.load(settings.data, tmp_path / "cache")
    augment = settings.training.augment.model_copy(update={"flip": False, "mixup": None})
    feed = Feed(data, [0.0] * 3, [1.0] * 3, torch.device("cpu"), False)
    made = Batches(augment, feed, data.train, data.classes, 0)
    order, every = np.arange(20)[::-1].copy(), np.arange(20)
    whole = made.batch(1, order, None, every, (0, 20)).x
    halves = [made.batch(1, order, None, part, (0, 20)).x for part in (every[:7], every[7:])]
    assert torch.equal(torch.cat(halves), whole)
    assert not torch.equal(made.batch(2, order, None, every, (0, 20)).x, whole)
    asked = made._asked(order[every], made._place(1, order, every))
    cropped = asked.boxes[:, 2] > 0
    assert 4 <= cropped.sum() <= 10  # of ten large images
    plain = torch.from_numpy(data.train.take(order, asked.boxes)).permute(0, 3, 1, 2).float()
    assert torch.equal(whole[cropped], plain[cropped])  # no crop of a crop


def test_parts_of_mixed_batches_are_decoded_ahead_as_they_are_taken(tmp_path, jpegs, without_ray, monkeypatch):
    from raysweep.data import encoded

    started, taken = [], []
    start, take = encoded.EncodedFile._start, encoded.EncodedFile.take

    def noted(self, index, boxes=None):
        taken.append((id(self), index.tolist()))
        return take(self, index, boxes)

    monkeypatch.setattr(
        encoded.EncodedFile, "_start", lambda self, a: started.append((id(self), a.index.tolist())) or start(self, a)
    )
    monkeypatch.setattr(encoded.EncodedFile, "take", noted)
    run(tmp_path, jpegs, "encoded", training={"epochs": 1, "accumulate": 2, "augment": {"mixup": 0.2}})
    assert sorted(started) == sorted(taken)
    assert sum(6 <= len(index) <= 12 for _, index in taken) >= 6  # parts of three whole batches, and what is mixed in


def test_with_crops_and_mixtures_nothing_is_decoded_twice_and_a_stop_changes_no_bit(
    tmp_path, large, without_ray, monkeypatch
):
    from raysweep.data import encoded
    from raysweep.errors import Interrupted
    from raysweep.launch import resume
    from raysweep.store.root import Root

    started, start = [], encoded.EncodedFile._start
    monkeypatch.setattr(encoded.EncodedFile, "_start", lambda self, a: started.append(a) or start(self, a))
    straight = run(tmp_path, large, "encoded", **CROPS, experiment={"name": "straight"})
    # two batches of training in each epoch and one of validation, besides a few images for planning
    assert [len(a.index) for a in started if len(a.index) >= 8] == [12, 8, 20] * 2
    without_ray(Recorder(1))
    with pytest.raises(Interrupted):
        run(tmp_path, large, "encoded", **CROPS, experiment={"name": "broken"})
    without_ray(Recorder())
    (folder,) = tmp_path.glob("broken_*")
    gone_on = resume.continue_experiment(Root.open(tmp_path), folder.name).experiment
    assert weights_hash(gone_on) == weights_hash(straight)
