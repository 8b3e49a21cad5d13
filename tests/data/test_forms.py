"""One data set is one data set, whatever layout it came in: the same classes, order, pixels, labels and hash."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raysweep.data import cache
from tests.data.drawing import (
    Picture,
    as_cifar,
    as_folder,
    as_hub,
    as_idx,
    as_imagefolder,
    as_manifest,
    as_parquet,
    csv_row,
    pictures,
    publish,
    section,
)

SOME = pictures({"angry": 7, "happy": 11, "sad": 4}, {"angry": 3, "happy": 5, "sad": 2})
SOME += SOME[:2]  # FER-2013 holds images twice


def of(path: Path, **options) -> cache.Dataset:
    return cache.load(section(path, **options), path.parent / "cache")


def facts(data: cache.Dataset) -> tuple:
    """All that must not depend on the layout."""
    parts = [(p.pixels.tobytes(), p.pixels.shape, p.labels.tobytes()) for p in (data.train, data.val)]
    return data.sha256, data.classes, data.mean, data.std, *parts


def kaggle(path: Path, some: list[Picture]) -> Path:
    """Kaggle's CSV: the test images are half PublicTest, half PrivateTest."""
    rows = [csv_row(p) for p in some]
    rows = [r.replace("PublicTest", "PrivateTest") if i % 2 else r for i, r in enumerate(rows)]
    path.write_text("\n".join(["emotion,pixels,Usage", *rows]) + "\n", encoding="utf-8")
    return path


FORMS = {
    "class folders": lambda folder, some: as_folder(folder / "folder", some),
    "Kaggle's CSV": lambda folder, some: kaggle(folder / "fer2013.csv", some),
    "Parquet": lambda folder, some: as_parquet(folder / "shards", some),
    "the Hub's shards": lambda folder, some: as_hub(folder / "hub", some),
    "imagefolder, CSV": lambda folder, some: as_imagefolder(folder / "a", some),
    "imagefolder, JSON": lambda folder, some: as_imagefolder(folder / "b", some, "jsonl"),
    "a list in CSV": lambda folder, some: as_manifest(folder / "list.csv", some),
    "a list in JSON": lambda folder, some: as_manifest(folder / "other.jsonl", some, ("file_name", "target", "subset")),
    "a list in Parquet": lambda folder, some: as_manifest(folder / "third.parquet", some, ("image", "class", "Usage")),
    "idx": lambda folder, some: as_idx(folder / "fashion-emotions" / "raw", some, sorted({p.label for p in some})),
}


@pytest.mark.slow
@given(st.randoms(use_true_random=False))
@settings(max_examples=8, deadline=None)
def test_fer_2013_is_the_same_in_every_form_and_in_any_order_of_its_rows(monkeypatch_names, random):
    with tempfile.TemporaryDirectory() as folder:
        found = {}
        for name, make in FORMS.items():
            rows = list(SOME)
            random.shuffle(rows)
            found[name] = facts(of(make(Path(folder), rows)))
        assert {name for name, f in found.items() if f != found["class folders"]} == set()
        assert found["class folders"][1] == ("angry", "happy", "sad")


@pytest.fixture(scope="module")
def monkeypatch_names():
    """idx files have no names, so they borrow Fashion-MNIST's place for them."""
    from raysweep.data import torchvision_files

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torchvision_files, "FASHION", ("angry", "happy", "sad"))
        yield


def test_without_a_split_every_form_has_the_same_validation_images(tmp_path):
    some = [p for p in SOME if p.split == "train"]
    csv_rows = [csv_row(p).rpartition(",")[0] for p in some]
    (tmp_path / "fer.csv").write_text("\n".join(["emotion,pixels", *csv_rows]) + "\n")
    made = [
        as_folder(tmp_path / "folder", some, {}),
        tmp_path / "fer.csv",
        as_parquet(tmp_path / "shards", some) / "train-00000-of-00001.parquet",
        as_manifest(tmp_path / "list.csv", some[::-1], ("path", "label")),
        as_manifest(tmp_path / "same.parquet", some, ("path", "label")),
    ]
    found = {facts(of(path, val_fraction=0.3, split_seed=5)) for path in made}
    assert len(found) == 1
    assert len({facts(of(path, val_fraction=0.3, split_seed=6)) for path in made} | found) == 2


def test_numbers_are_classes_in_the_order_of_their_values_in_every_form(tmp_path):
    numbers = [str(n) for n in range(12)]  # as text, 10 and 11 would stand before 2
    some = pictures(dict.fromkeys(numbers, 3), dict.fromkeys(numbers, 1))
    made = [
        as_folder(tmp_path / "folder", some),
        as_hub(tmp_path / "hub", some),
        as_manifest(tmp_path / "list.csv", some),
        as_idx(tmp_path / "MNIST" / "raw", some, numbers, packed=True),
    ]
    found = [facts(of(path)) for path in made]
    assert found[0][1] == tuple(numbers)
    assert all(f == found[0] for f in found)


@pytest.mark.parametrize("name", ["cifar-10-batches-py", "cifar-100-python"])
def test_cifar_is_the_same_as_its_images_in_folders(tmp_path, monkeypatch, name):
    classes = ["truck", "cat", "airplane"]
    some = pictures(dict.fromkeys(classes, 6), dict.fromkeys(classes, 2), size=32, channels=3)
    found = of(publish(monkeypatch, as_cifar(tmp_path / "root" / name, some, classes)).parent)
    assert facts(found) == facts(of(as_folder(tmp_path / "folder", some)))
    assert found.shape == (32, 32, 3)
    assert found.classes == ("airplane", "cat", "truck")


def test_test_images_are_not_used_if_there_are_validation_images(tmp_path):
    some = pictures({"angry": 4, "sad": 4}, {"angry": 2, "sad": 2})
    test = [p._replace(split="test") for p in pictures({"angry": 3, "sad": 3}, seed=9)]
    names = {"train": "train", "val": "validation", "test": "test"}
    made = [
        as_folder(tmp_path / "folder", some + test, names),
        as_hub(tmp_path / "hub", some + test, split_names=names),
        as_manifest(tmp_path / "list.csv", some + test),
    ]
    wanted = facts(of(as_folder(tmp_path / "without", some)))
    assert all(facts(of(path)) == wanted for path in made)


def test_another_pixel_is_another_data_set_in_every_form(tmp_path):
    """The control of the tests above: the hash they compare does see the images."""
    seen = set()
    for i in range(2):
        some = [p._replace(pixels=p.pixels.copy()) for p in SOME[:-2]]
        some[0].pixels[0, 0] ^= i
        for name in ("class folders", "Kaggle's CSV", "the Hub's shards", "a list in CSV"):
            (tmp_path / str(i)).mkdir(exist_ok=True)
            seen.add((i, facts(of(FORMS[name](tmp_path / str(i), some)))[0]))
    assert len(seen) == 2
    assert len({sha for _, sha in seen}) == 2
    assert np.any(SOME[0].pixels)


@pytest.mark.slow
def test_the_same_images_train_to_the_same_bits(tmp_path, without_ray):
    from raysweep.launch import run as launching
    from raysweep.plan import experiment as experiment_plan
    from tests.conftest import small_settings, weights_hash

    found = {}
    for name in ("class folders", "Kaggle's CSV", "Parquet"):
        path = FORMS[name](tmp_path, SOME)
        data = section(path).model_dump()
        settings = small_settings(
            tmp_path / "e", data=data, training={"epochs": 2, "batch_size": 8}, sampling={"weights": {"sad": 3.0}}
        )
        made = launching.run(experiment_plan.plan_experiment(settings)).experiment
        found[name] = weights_hash(made), [e.metrics["order_sha256"] for e in made.entries()]
    assert len({str(v) for v in found.values()}) == 1, found
