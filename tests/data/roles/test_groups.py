"""``data.group``: a column or a pattern of the name; a group is on one side only, and counts once."""

from __future__ import annotations

import numpy as np
import pytest

from raysweep.data import cache
from raysweep.data.sources import open_source
from raysweep.errors import DataError
from tests.data.drawing import encoded, pictures, section, write_table

SOME = pictures({"a": 24, "b": 24})


def films(folder, place="{c}/film{f}_{i}.png"):
    """24 images of each class, four of each film."""
    for i, p in enumerate(SOME):
        file = folder / place.format(c=p.label, f=i // 2 % 12, i=i)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(encoded(p.pixels))
    return folder


def groups_of(path, **options):
    return [item.group for item in open_source(section(path, **options)).listing().train]


@pytest.mark.parametrize(
    ("pattern", "name", "wanted"),
    [
        ("{group}_*", "a/film3_7.png", "film3"),
        ("*_{group}.png", "a/film3_p9.png", "p9"),
        ("{group}/*", "a/film3/7.png", "film3"),
        ("{group}", "a/film3", "film3"),
        ("f.{group}_*", "a/film3_7.png", None),
    ],
)
def test_a_pattern_of_the_name(pattern, name, wanted):
    from raysweep.data.roles import groups

    assert groups._in_name(groups._compiled(pattern), name) == wanted


def test_a_group_is_on_one_side_of_a_split_made_here(tmp_path):
    data = cache.load(section(films(tmp_path / "d"), group="{group}_*", min_val=10), tmp_path / "cache")
    sides = [{name.split("/")[1].split("_")[0] for name in cache.names(data, part)} for part in ("train", "val")]
    assert not sides[0] & sides[1]
    assert len(sides[0] | sides[1]) == 12
    mine = cache.groups(data, "val")
    assert len(np.unique(mine)) == len(sides[1])
    assert cache.groups(cache.load(section(tmp_path / "d"), tmp_path / "cache"), "val") is None


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize("split", [True, False])
def test_a_column_of_a_list(tmp_path, suffix, split):
    films(tmp_path / "i", "{i}.png")
    rows = [
        {"path": f"i/{i}.png", "label": p.label, "Patient Id": f"p{i % 6}" if i else ""}
        | ({"split": "val" if i % 6 == 5 else "train"} if split else {})
        for i, p in enumerate(SOME)
    ]
    path = write_table(tmp_path / f"x.{suffix}", rows)
    found = open_source(section(path, group="patient id")).listing()
    assert [i.group for i in found.train][:3] == [None, "p1", "p2"]
    assert "1 image without a group, such as i/0.png: each is a group of its own" in " ".join(found.notes)
    assert (found.val is not None) == split


def test_a_group_on_both_sides_of_the_datas_own_split_is_refused(tmp_path):
    for part in ("train", "val"):
        films(tmp_path / "d" / part)
    with pytest.raises(
        DataError, match=r"12 groups with images for training and for validation: film0.*data\.val=split"
    ):
        groups_of(tmp_path / "d", group="{group}_*")
    (tmp_path / "d" / "val").rename(tmp_path / "d" / "test")
    with pytest.raises(DataError, match="12 groups with images for training and for test"):
        groups_of(tmp_path / "d", group="{group}_*", val="auto")


@pytest.mark.parametrize(
    ("asked", "told"), [("person_{group}", "no image whose name fits"), ("patient", "no column of that name")]
)
def test_what_finds_no_group_is_refused(tmp_path, asked, told):
    with pytest.raises(DataError, match=told):
        groups_of(films(tmp_path / "d"), group=asked)


def test_all_images_of_one_group_cannot_be_split(tmp_path):
    for i, p in enumerate(SOME):
        (tmp_path / "d" / p.label).mkdir(parents=True, exist_ok=True)
        (tmp_path / "d" / p.label / f"one_{i}.png").write_bytes(encoded(p.pixels))
    with pytest.raises(DataError, match="no image can be set aside for validation"):
        cache.load(section(tmp_path / "d", group="{group}_*"), tmp_path / "cache")


def test_findings_count_a_group_once(tmp_path, quick_run):
    from raysweep.report import predictions

    data = {"source": "auto", "path": str(films(tmp_path / "d")), "group": "{group}_*"}
    run = quick_run(data=data, training={"epochs": 1, "batch_size": 16}, sampling={"samples_per_epoch": 32})
    found = predictions.read(run)
    assert found.cases.number == len(np.unique(found.groups)) < len(found.labels)


def test_a_column_of_parquet_files_with_images(tmp_path):
    rows = [{"image": {"bytes": encoded(p.pixels)}, "label": p.label, "patient": i % 3} for i, p in enumerate(SOME)]
    write_table(tmp_path / "x.parquet", rows)
    assert groups_of(tmp_path / "x.parquet", group="patient")[:4] == ["0", "1", "2", "0"]
