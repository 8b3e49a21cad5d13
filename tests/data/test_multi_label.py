"""Images with several labels, or none: how a table is read, how images are set aside, and how often each is shown."""

from __future__ import annotations

import json
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from raysweep.config import load
from raysweep.config.settings import DataSection
from raysweep.data import cache, multi_label, sampling, sealed
from raysweep.data.listing import RESERVED
from raysweep.errors import ConfigError, DataError, WeightsError
from raysweep.label_sets import LabelCounts, images_in
from raysweep.weights import RatioChange, SamplingWeights

SECTION = DataSection(path="list.csv", multi_label=True)


def write(folder, rows, head=("path", "labels"), draw=True):
    """A list beside its images, each of its own pixels."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, row in enumerate(rows if draw else ()):
        pixels = np.random.default_rng(i).integers(0, 255, (8, 8), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / row[0])
    lines = [",".join(f'"{cell}"'.replace('""', '""') for cell in row) for row in (head, *rows)]
    (folder / "list.csv").write_text("\n".join(lines) + "\n")
    return folder / "list.csv"


def section(path, **options):
    return DataSection(path=str(path), **{"multi_label": True, **options})


@pytest.mark.parametrize(
    ("cell", "labels"),
    [
        ("a|b", ["a", "b"]),
        ("b; a", ["a", "b"]),
        ("a", ["a"]),
        ("", []),
        (None, []),
        (float("nan"), []),
        ("[]", []),
        ('["b", "a"]', ["a", "b"]),
        ("['a', 'b']", ["a", "b"]),
        (["b", "a", "a"], ["a", "b"]),
        ('["it\'s", "b"]', ["b", "it's"]),
        (3, ["3"]),
        (3.0, ["3"]),  # as pandas writes whole numbers beside an empty cell
        ([1, 1.0, 2.5], ["1", "2.5"]),
    ],
)
def test_a_cell_is_read(cell, labels):
    assert json.loads(multi_label.of_cell(cell, None, SECTION, "here")) == labels


@pytest.mark.parametrize(
    "cell",
    [
        "a||b",
        "a|",
        "a|b;c",
        "[a, b]",
        '["a", ["b"]]',
        {"a": 1},
        [True],
        True,
        "[1",
        ["a", ""],
        ["a", None],
        ["a", float("nan")],
        "nan",
        "None",
        "a|NaN",
        ["a", "null"],
        "<NA>",
    ],
)
def test_a_cell_that_cannot_be_read_is_an_error_that_names_its_place(cell):
    with pytest.raises(DataError, match=r"list\.csv, line 7") as error:
        multi_label.of_cell(cell, None, SECTION, "list.csv, line 7")
    assert "multi_label" not in str(error.value)  # which is set already


def test_a_word_for_nothing_is_a_label_where_the_user_names_it():
    named = section("list.csv", classes=["None", "a"])
    assert json.loads(multi_label.of_cell("a|None", None, named, "here")) == ["None", "a"]


def test_numbers_have_the_names_that_the_table_says():
    assert json.loads(multi_label.of_cell([1, 0], ["cat", "dog"], SECTION, "here")) == ["cat", "dog"]
    assert json.loads(multi_label.of_cell([1.0], ["cat", "dog"], SECTION, "here")) == ["dog"]
    with pytest.raises(DataError, match="label 2 is not one of 0 to 1"):
        multi_label.of_cell([2], ["cat", "dog"], SECTION, "here")


@given(st.lists(st.sets(st.sampled_from("abcd"))))
def test_a_set_that_was_written_is_read_as_it_was(sets):
    for labels in sets:
        text = multi_label.written(sorted(labels), SECTION, "")
        assert multi_label.of_cell(text, None, SECTION, "") == text


ROWS = [(f"{i}.png", "|".join(c for c, every in (("a", 2), ("b", 3), ("c", 5)) if i % every == 0)) for i in range(60)]


def test_a_list_and_columns_of_flags_give_the_same_data(tmp_path):
    listed = cache.load(section(write(tmp_path / "one", ROWS)), tmp_path / "cache")
    flags = [(name, *(int(c in labels) for c in "abc")) for name, labels in ROWS]
    table = write(tmp_path / "two", flags, ("path", "a", "b", "c"))
    for options in ({}, {"labels": ["a", "b", "c"]}):
        found = cache.load(section(table, **options), tmp_path / "cache")
        assert found.sha256 == listed.sha256
        assert np.array_equal(found.train.labels, listed.train.labels)
    assert listed.classes == ("a", "b", "c")
    assert listed.train.labels.dtype == bool
    assert (~listed.train.labels.any(1)).sum() + (~listed.val.labels.any(1)).sum() == sum(not t for _, t in ROWS)
    assert "16 of them have no label" in " ".join(listed.reading.lines())


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_columns_of_flags_of_other_tables_are_named_by_the_user(tmp_path, kind):
    import pyarrow as pa
    import pyarrow.parquet as pq

    listed = cache.load(section(write(tmp_path, ROWS)), tmp_path / "cache")
    rows = [{"path": n, "age": i, **{c: int(c in t) for c in "abc"}} for i, (n, t) in enumerate(ROWS)]
    if kind == "jsonl":
        (tmp_path / "list.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "list.parquet")
    with pytest.raises(DataError, match=r"which are the columns of 0 and 1 for each label, data.labels="):
        cache.load(section(tmp_path / f"list.{kind}"), tmp_path / "cache")
    named = section(tmp_path / f"list.{kind}", labels=["a", "b", "c"])
    assert cache.load(named, tmp_path / "cache").sha256 == listed.sha256


FLAGS = [(name, 40 + i, *(int(c in labels) for c in "abc")) for i, (name, labels) in enumerate(ROWS)]


@pytest.mark.parametrize("value", [2, "NA", "0.5", -1, ""])
@pytest.mark.parametrize("line", [3, 19, 50])
def test_one_wrong_cell_takes_no_label_away(tmp_path, value, line):
    flags = [list(row) for row in FLAGS]
    flags[line - 2][4] = value
    table = write(tmp_path, flags, ("path", "age", "a", "b", "c"), draw=line == 50)
    with pytest.raises(DataError, match=f"list.csv, line {line}: the column c has '{value}'"):
        cache.load(section(table), tmp_path / "cache")


def test_a_table_is_read_anew_where_other_labels_of_it_are_named(tmp_path):
    """The file is the same, and so are its images."""
    import io

    import pyarrow as pa
    import pyarrow.parquet as pq

    images = []
    for i in range(30):
        out = io.BytesIO()
        Image.fromarray(np.random.default_rng(i).integers(0, 255, (8, 8), dtype=np.uint8)).save(out, "png")
        images.append(out.getvalue())
    columns = {c: [int(i % k == 0) for i in range(30)] for c, k in (("a", 2), ("A b", 3), ("a-b", 5))}
    lists = {name: [[c] for c in cells] for name, cells in (("labels", "xy" * 15), ("other", "xz" * 15))}
    pq.write_table(pa.table({"image": images, **columns, **lists}), tmp_path / "x.parquet")

    def classes(**options):
        return cache.load(section(tmp_path / "x.parquet", **options), tmp_path / "cache").classes

    assert classes(labels=["a", "A b"]) == ("A b", "a")
    assert classes(labels=["a", "A b", "a-b"]) == ("A b", "a", "a-b")  # names that are alike are told apart
    assert classes() == ("x", "y")
    assert classes(columns={"label": "other"}) == ("x", "z")


def test_a_column_of_zeros_and_ones_is_a_label_whatever_it_is_called(tmp_path):
    flags = [(name, i % 7, *(int(c in labels) for c in "abc")) for i, (name, labels) in enumerate(ROWS)]
    table = write(tmp_path, flags, ("path", "patient", "disease", "finding", "normal"))
    found = cache.load(section(table, group="patient"), tmp_path / "cache")
    assert found.classes == ("disease", "finding", "normal")  # and the groups are none


@pytest.mark.parametrize("options", [{}, {"labels": ["a", "b"]}])
def test_a_table_without_any_label_is_refused(tmp_path, options):
    rows = [(name, 0, 0) for name, _ in ROWS]
    table = write(tmp_path, rows, ("path", "a", "b"))
    with pytest.raises(DataError, match=r"no image has a label|no training images with the label"):
        cache.load(section(table, **options), tmp_path / "cache")


def test_a_named_label_that_no_image_has_is_told(tmp_path):
    rows = [(name, *(int(c in labels) for c in "ab"), 0) for name, labels in ROWS]
    table = write(tmp_path, rows, ("path", "a", "b", "rare"))
    with pytest.raises(DataError, match="no training images with the label rare"):
        cache.load(section(table, labels=["a", "b", "rare"]), tmp_path / "cache")


def tables(folder, **heads):
    """A folder with one list for each split; a head is the names of its columns of labels, each with its cells or with ones and zeros."""
    folder.mkdir()
    for split, columns in heads.items():
        cells = {
            c: list(v) if isinstance(v, str) else [str((i >> n) & 1) for i in range(20)]
            for n, (c, v) in enumerate(columns.items())
        }
        for i in range(20):
            pixels = np.random.default_rng([i, len(split)]).integers(0, 255, (8, 8), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{split}{i}.png")
        rows = [",".join([f"{split}{i}.png", *(values[i] for values in cells.values())]) for i in range(20)]
        (folder / f"{split}.csv").write_text("\n".join([",".join(["path", *columns]), *rows]) + "\n")
    return folder


def test_an_unreadable_cell_of_a_list_of_test_images_is_left_out(tmp_path):
    odd = "0?" + "10" * 9
    folder = tables(tmp_path / "one", train={"a": 1, "b": 1}, val={"a": 1, "b": 1}, test={"a": odd, "b": 1})
    found = cache.load(section(folder), tmp_path / "cache")
    assert found.classes == ("a", "b")
    assert "rows of test images without a class" in found.reading.left_out
    assert found.reading.seal.images == 19
    folder = tables(tmp_path / "two", train={"a": 1, "b": 1}, val={"a": odd, "b": 1})
    with pytest.raises(DataError, match=r"val.csv, line 3: the column a has '\?'"):
        cache.load(section(folder), tmp_path / "cache")


@pytest.mark.parametrize("options", [{}, {"labels": ["a", "b"]}])
def test_lists_in_a_folder_are_found_beside_columns_of_other_numbers(tmp_path, options):
    columns = {"age": "34567" * 4, "a": 1, "b": 1}
    found = cache.load(section(tables(tmp_path / "one", train=columns, val=columns), **options), tmp_path / "cache")
    assert found.classes == ("a", "b")
    assert len(found.train.labels) == len(found.val.labels) == 20


@pytest.mark.parametrize("other", ["val", "test"])
@pytest.mark.parametrize("columns", [{"b": 1, "x": 1}, {"A": 1, "b": 1}])
def test_all_lists_must_have_the_columns_of_the_training_images(tmp_path, other, columns):
    full = {"a": 1, "b": 1}
    folder = tables(tmp_path / "one", **{"train": full, "val": full, "test": full, other: columns})
    with pytest.raises(DataError, match=rf"{other}.csv has no column a, which is a label.*with 0 for images without"):
        cache.load(section(folder), tmp_path / "cache")


@pytest.mark.parametrize("labels", [["mass", "edema"], ["Mass", "Edema b"]])
def test_a_list_whose_named_labels_cannot_be_read_is_not_ignored(tmp_path, labels):
    words = dict.fromkeys(labels, "yn" * 10)
    folder = tables(tmp_path / "one", train=dict.fromkeys(labels, 1), val=words)
    with pytest.raises(DataError, match=r"val.csv, line 2: the column .* has 'y'"):
        cache.load(section(folder, labels=labels), tmp_path / "cache")


def test_notes_with_a_count_are_no_list_of_labels(tmp_path):
    folder = tables(tmp_path / "one", labels={"a": 1, "b": 1})
    rows = [f"labels{i}.png,m,{(0, 0, 1, 2)[i % 4]}" for i in range(20)]
    (folder / "patients.csv").write_text("\n".join(["id,sex,siblings", *rows]) + "\n")
    assert cache.load(section(folder), tmp_path / "cache").classes == ("a", "b")


def test_a_column_of_zeros_that_is_named_is_an_error_also_where_the_images_are_cached(tmp_path):
    zeros = {"a": 1, "b": 1, "z": "0" * 20}
    folder = tables(tmp_path / "one", train=zeros, val=zeros)
    cache.load(section(folder), tmp_path / "cache")
    with pytest.raises(DataError, match=r"no training images with the label z.*data\.labels"):
        cache.load(section(folder, labels=["a", "b", "z"]), tmp_path / "cache")


def test_a_column_of_zeros_is_no_label_and_that_is_told(tmp_path):
    folder = tables(tmp_path / "one", train={"a": 1, "b": 1, "z": "0" * 20}, val={"a": 1, "b": 1, "z": "0" * 20})
    found = cache.load(section(folder), tmp_path / "cache")
    assert found.classes == ("a", "b")
    assert [line for line in found.reading.lines() if "z is no label, because it is 0 for every image" in line]


@pytest.mark.parametrize("yes", [True, 1, "true", "Yes"])
def test_every_word_for_yes_means_several_labels(yes):
    assert DataSection.model_validate({"path": "list.csv", "multi_label": yes}).min_val == 0


def test_which_columns_are_labels_is_said(tmp_path):
    found = cache.load(section(write(tmp_path, FLAGS, ("path", "age", "a", "b", "c"))), tmp_path / "cache")
    assert found.classes == ("a", "b", "c")
    (told,) = [line for line in found.reading.lines() if "Labels are" in line]
    assert "hold 0 and 1: a, b, c; not read: age. data.labels=[…] names others." in told
    named = cache.load(section(tmp_path / "list.csv", labels=["a", "b"]), tmp_path / "cache")
    assert not [line for line in named.reading.lines() if "Labels are" in line]


def test_parquet_with_lists_and_with_images_inside(tmp_path):
    import io

    import pyarrow as pa
    import pyarrow.parquet as pq

    listed = cache.load(section(write(tmp_path / "one", ROWS)), tmp_path / "cache")
    labels = [text.split("|") if text else [] for _, text in ROWS]
    pq.write_table(pa.table({"path": [n for n, _ in ROWS], "labels": labels}), tmp_path / "one" / "list.parquet")
    assert cache.load(section(tmp_path / "one" / "list.parquet"), tmp_path / "cache").sha256 == listed.sha256

    def encoded(name):
        out = io.BytesIO()
        Image.open(tmp_path / "one" / name).save(out, "png")
        return out.getvalue()

    images = [encoded(name) for name, _ in ROWS]
    pq.write_table(pa.table({"image": images, "labels": labels}), tmp_path / "in.parquet")
    assert cache.load(section(tmp_path / "in.parquet"), tmp_path / "cache").sha256 == listed.sha256
    flags = {c: [int(c in some) for some in labels] for c in "abc"}
    pq.write_table(pa.table({"image": images, **flags}), tmp_path / "flags.parquet")
    found = cache.load(section(tmp_path / "flags.parquet", labels=["a", "b", "c"]), tmp_path / "cache")
    assert found.sha256 == listed.sha256


def test_test_images_stay_sealed_and_are_opened_with_their_labels(tmp_path):
    rows = [(name, text, "test" if i % 4 == 3 else "train") for i, (name, text) in enumerate(ROWS)]
    table = section(write(tmp_path / "one", rows, ("path", "labels", "split")))
    data = cache.load(table, tmp_path / "cache")
    found = sealed.open_sealed(table, tmp_path / "cache", form=(8, 1), classes=("c", "a", "b"))
    assert found.sha256 == data.reading.seal.sha256
    expected = {name: {c for c in text.split("|") if c} for name, text, role in rows if role == "test"}
    order = ("c", "a", "b")
    got = {
        n.split("/")[-1]: {order[c] for c in np.flatnonzero(row)}
        for n, row in zip(found.names, found.labels, strict=True)
    }
    assert got == expected


@pytest.mark.parametrize(
    ("rows", "head", "options", "message"),
    [
        ([("0.png", "1", "0"), ("1.png", "0", "2")], ("path", "a", "b"), {"labels": ["a", "b"]}, r"line 3: the column b has '2'"),
        ([("0.png", "1", "0"), ("1.png", "", "1")], ("path", "a", "b"), {"labels": ["a", "b"]}, r"line 3: the column a"),
        ([("0.png", "a|b"), ("1.png", "a|x")], ("path", "labels"), {"classes": ["a", "b"]}, r"line 3: the label x is not one of"),
        ([("0.png", "a|b"), ("1.png", "a, b")], ("path", "labels"), {}, r"label a, b seems to be several at once"),
        ([("0.png", "a|b"), ("1.png", "A")], ("path", "labels"), {}, r"upper and lower case alone"),
        ([("0.png", "a"), ("1.png", "a")], ("path", "labels"), {}, r"single label"),
        ([("0.png", "a|b"), ("1.png", "(all)")], ("path", "labels"), {}, r"has a label called \(all\)"),
        ([("0.png", "a|b"), ("1.png", "(no label)")], ("path", "labels"), {}, r"has a label called \(no label\)"),
        ([("0.png", "1|2"), ("1.png", "1.0")], ("path", "labels"), {}, r"one number in two ways: 1, 1\.0"),
        ([("0.png", "a|b"), ("1.png", "a")], ("path", "labels"), {"labels": ["a", "c"]}, r"no column 'a'"),
        ([("0.png", "a", "train"), ("1.png", "b", "val")], ("path", "labels", "split"), {}, r"no training images with the label b"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_with_its_place(tmp_path, rows, head, options, message):
    with pytest.raises(DataError, match=message):
        cache.load(section(write(tmp_path / "one", rows, head), **options), tmp_path / "cache")


def test_a_class_is_not_called_as_all_of_them_are_in_results(tmp_path):
    from raysweep.report import effects

    assert effects.ALL in RESERVED
    rows = [(f"{i}.png", ("a", "(all)")[i % 2]) for i in range(8)]
    table = write(tmp_path, rows)
    with pytest.raises(
        DataError, match=r"has a class called \(all\), .*Rename it: 'data.rename=\{\"\(all\)\": NAME\}'"
    ):
        cache.load(section(table, multi_label=False), tmp_path / "cache")
    renamed = section(table, multi_label=False, rename={"(all)": "b"})
    assert cache.load(renamed, tmp_path / "cache").classes == ("a", "b")


def test_class_folders_have_one_class_for_each_image(image_folder, tmp_path):
    with pytest.raises(DataError, match="several labels are read from a table"):
        cache.load(section(image_folder), tmp_path / "cache")


@pytest.mark.parametrize(
    "overrides",
    [
        ["data.folds=3", "data.fold=1"],
        ["data.rename={a: b}"],
        ["data.drop=[a]"],
        ["data.min_val=5"],
        ["data.source=python:mine:Data"],
        ["sampling.holdout=0.1"],
        ["sampling.policy={kind: worst, on: val}"],
        ["sampling.follow={experiment: x}"],
        ["sampling.sample_per_class=5"],
        ["sampling.shares={a: 0.5}"],
        ["sampling.weights={a: 50%}"],
        ["sampling.schedule=[{from: 1, weights: natural}, {from: 3, weights: balanced, linear: true}]"],
        ["training.augment.classes={a: {flip: false}}"],
        ["training.augment=mixup", "loss=focal"],
        ["training.best_metric=balanced_accuracy"],
        ["loss=ldam"],
        ["loss=balanced_softmax"],
        ["loss=python:mine:loss"],
        ["metrics={mine: 'python:mine:metric'}"],
        ["data.labels=[a]"],
        ["data.labels=[a, b]", "data.columns={label: x}"],
        ["data.labels=[a, b]", "data.multi_label=false"],
    ],
)
def test_options_of_one_class_for_each_image_are_refused(overrides):
    with pytest.raises(ConfigError):
        load.load(None, ["data.path=list.csv", "data.multi_label=true", *overrides])


def test_ordinary_settings_are_written_as_before():
    assert not {"labels", "multi_label"} & set(load.load(None, ["data.path=x"]).model_dump()["data"])
    assert load.load(None, ["data.path=x", "data.labels=[a, b]"]).training.best_metric == "mAP"


# --- how often each image is shown ------------------------------------------------------------------------------------


def weight(labels, of):
    """The weight of an image with these labels, ``of``: class → weight."""
    return sum((Fraction(of[c]) for c in labels), Fraction(0)) / len(labels)


LABELS = st.lists(st.tuples(*[st.booleans()] * 3), min_size=1, max_size=40).map(lambda rows: np.array(rows, dtype=bool))
WEIGHTS = st.tuples(*[st.sampled_from([0.0, 0.5, 1.0, 2.0, 7.3])] * 3).filter(any)


@given(LABELS, WEIGHTS, st.integers(1, 200))
def test_an_epoch_shows_every_set_of_labels_its_exact_number(labels, numbers, draws):
    classes, weights = ("a", "b", "c"), SamplingWeights(("a", "b", "c"), numbers)
    counts = sampling.class_counts(labels, classes)
    assert isinstance(counts, LabelCounts)
    assert images_in(counts) == len(labels)
    assert dict(counts) == dict(zip(classes, labels.sum(0).tolist(), strict=True))
    if labels.any() and not any(w for w, has in zip(weights.values, labels.any(0).tolist(), strict=True) if has):
        return  # no image could be drawn
    order = sampling.epoch_order(labels, np.arange(len(labels)), classes, weights, draws, seed=3, epoch=1)
    assert len(order) == draws
    again = sampling.epoch_order(labels, np.arange(len(labels)), classes, weights, draws, seed=3, epoch=1)
    assert np.array_equal(order, again)
    shown = dict(zip(classes, labels[order].sum(0).tolist(), strict=True))
    assert shown == sampling.requested(weights, counts, draws, 1)
    shares = weights.shares(counts)
    for c in classes:  # each of the sets is rounded by less than one image
        assert abs(shown[c] - draws * shares[c]) < 2 ** (len(classes) - 1) + 1
    times = np.bincount(order, minlength=len(labels))
    for i in range(len(labels)):  # equal images are shown equally often, but for one
        same = (labels == labels[i]).all(1)
        assert times[same].max() - times[same].min() <= 1


def test_the_weight_of_an_image_is_the_mean_of_those_of_its_labels():
    of = {"a": 3.0, "b": 1.0, "c": 2.0}
    assert weight(("a", "b"), of) == 2
    counts = LabelCounts.of("abc", {("a", "b"): 10, ("c",): 10, ("a",): 4})
    masses = counts.masses(of)  # times one number
    unit = Fraction(masses[("c",)], 10 * 2)
    assert masses == {labels: n * weight(labels, of) * unit for labels, n in counts.sets.items()}
    shares = SamplingWeights.complete(of, "abc").exact_shares(LabelCounts.of("abc", {("a", "b"): 10, ("c",): 10}))
    assert shares == {"a": Fraction(1, 2), "b": Fraction(1, 2), "c": Fraction(1, 2)}
    change = RatioChange.between(SamplingWeights.complete({}, "abc"), SamplingWeights.complete({"c": 3}, "abc"), counts)
    assert change.new_shares[2] > change.old_shares[2]


@given(LABELS.filter(lambda labels: labels.any() and not labels.any(1).all()), WEIGHTS, st.integers(1, 200))
def test_images_without_labels_keep_their_share(labels, weights, draws):
    """A user who shows a label more often did not ask for more images without any."""
    counts = sampling.class_counts(labels, "abc")
    try:
        quotas = SamplingWeights(("a", "b", "c"), weights).set_quotas(counts, draws)
    except WeightsError:  # the labels with a weight have no images
        return
    natural = Fraction(counts.sets[()], len(labels))
    assert abs(quotas[()] - draws * natural) < 1
    masses = counts.masses(dict(zip("abc", weights, strict=True)))
    assert Fraction(masses[()], sum(masses.values())) == natural


def test_single_labels_are_drawn_as_classes_are():
    rng = np.random.default_rng(0)
    one = rng.integers(0, 3, 50)
    weights = SamplingWeights(("a", "b", "c"), (3.0, 1.0, 0.5))
    several = np.eye(3, dtype=bool)[one]
    for strategy in ("quota", "multinomial"):
        orders = [
            sampling.epoch_order(labels, np.arange(50), "abc", weights, 60, seed=1, epoch=2, strategy=strategy)
            for labels in (one, several)
        ]
        shown = [np.bincount(one[order], minlength=3) for order in orders]
        if strategy == "quota":
            assert np.array_equal(*shown)
    assert weights.shares(sampling.class_counts(one, "abc")) == weights.shares(sampling.class_counts(several, "abc"))


@given(LABELS, st.integers(0, 5))
def test_a_split_keeps_images_of_every_label_for_training(labels, seed):
    from raysweep.data.listing import Item, Listing
    from raysweep.data.roles.sides import Hashed, sided

    sets = sorted({tuple(np.flatnonzero(row).tolist()) for row in labels})
    items = [Item(str(i), sets.index(tuple(np.flatnonzero(row).tolist())), b"") for i, row in enumerate(labels)]
    listing = Listing(("a", "b", "c"), items, None, sets=tuple(sets))
    numbers = np.array([item.label for item in items])
    if len(labels) < 2 or not labels.any(0).all():
        return
    strata, names = multi_label.strata(listing, numbers)
    digests = np.array([f"{i:032x}".encode() for i in range(len(items))])
    data = SECTION.model_copy(update={"split_seed": seed})
    parts = sided(
        Hashed(strata, digests, digests, frozenset(), None), listing._replace(classes=names), data, None
    ).parts
    assert sorted(np.concatenate([parts["train"], parts["val"]]).tolist()) == list(range(len(labels)))
    assert len(parts["val"])


def refusal(path, **options):
    with pytest.raises((DataError, ConfigError)) as refused:
        cache.load(section(path, **options), path.parent / "cache")
    return str(refused.value)


def test_a_label_that_nobody_trains_on_is_said_to_be_where_it_is(tmp_path):
    rows = [[f"{i}.png", "a|b" if i % 2 else "b", ("train", "val", "test")[i % 3]] for i in range(12)]
    rows += [["v.png", "star", "val"], ["t.png", "star", "test"]]
    path = write(tmp_path, rows, ("path", "labels", "split"))
    text = refusal(path)
    assert "no training images with the label star. There are some for validation and testing: move them" in text
    path = write(tmp_path / "none", [row for row in rows if row[1] != "star"], ("path", "labels", "split"))
    text = refusal(path, classes=["a", "b", "moon"])
    assert "label moon. It is named in data.classes or data.labels alone: remove it there" in text
    assert "table" not in text


def test_a_slash_that_separates_labels_is_recognised(tmp_path):
    path = write(tmp_path, [[f"{i}.png", ("a", "b", "a/b", "c/d")[i % 4]] for i in range(8)])
    assert "the label a/b seems to be several at once: a, b" in refusal(path)


def test_a_label_that_means_none_is_told(tmp_path):
    path = write(tmp_path, [[f"{i}.png", ("Mass", "Effusion", "No Finding")[i % 3]] for i in range(12)])
    data = cache.load(section(path), tmp_path / "cache")
    assert (
        "The label No Finding is trained as a label of its own. If it means that an image has none, write an empty cell"
        in ("\n".join(data.reading.lines()))
    )
    for option, value in (("drop", ["No Finding"]), ("rename", {"No Finding": "none"})):
        with pytest.raises(ValueError, match=f"{option} is for one class .* such as No Finding, write an empty cell"):
            section(path, **{option: value})


def test_equal_images_with_different_labels_are_named(tmp_path):
    rows = [[f"{i}.png", ("a", "b")[i % 2], "train" if i < 6 else "val"] for i in range(9)]
    path = write(tmp_path, rows, ("path", "labels", "split"))
    for copy, of in (("1", "0"), ("4", "2"), ("8", "3")):
        (tmp_path / f"{copy}.png").write_bytes((tmp_path / f"{of}.png").read_bytes())
    data = cache.load(section(path), tmp_path / "cache")
    text = "\n".join(data.reading.lines())
    assert "equal training images has different labels. 0.png has a, 1.png has b." in text
    assert "2 training images repeat another one. 1.png is 0.png; 4.png is 2.png." in text
    assert "1 of them with other labels. Results" in text
    assert "takes the training copies out. 8.png is 3.png." in text
    again = cache.load(section(path), tmp_path / "cache")
    assert again.reading.lines() == data.reading.lines()


def test_a_file_with_two_sets_of_labels_is_told_in_words(tmp_path):
    path = write(tmp_path, [[f"{i}.png", ("a", "b")[i % 2]] for i in range(8)])
    path.write_text(path.read_text() + '"5.png",""\n')
    text = "\n".join(cache.load(section(path), tmp_path / "cache").reading.lines())
    assert "1 file is there with different labels: 5.png as b and (no label)." in text


def test_what_the_user_typed_is_named(tmp_path):
    path = write(tmp_path, [[f"{i}.png", i % 2, (i + 1) % 2] for i in range(8)], ("path", "cross", "bar"))
    text = refusal(path, labels=["crosss", "bar"])
    assert text.startswith("data.labels: ")
    assert "Did you mean 'cross'?" in text
    path = write(tmp_path / "words", [[f"{i}.png", "yes", "-1.0"] for i in range(8)], ("path", "cross", "bar"))
    assert "yes, no, or -1 for uncertain must become one of them" in refusal(path, labels=["cross", "bar"])
    path = write(tmp_path / "one", [[f"{i}.png", ("a", "")[i % 2]] for i in range(8)])
    assert "a single label ('a')" in (text := refusal(path))
    assert "A single yes or no is two classes" in text


def test_a_folder_without_a_table_is_told_what_is_read(tmp_path):
    path = write(tmp_path, [[f"{i}.png", "a|b"] for i in range(4)])
    path.unlink()
    with pytest.raises(DataError, match=r"no table of labels\. Images with several labels are read from a table"):
        cache.load(section(tmp_path), tmp_path / "cache")


SEALED = [("x.png", -1, 0, 1, "test"), ("y.png", 1, "", 0, "test"), ("z.png", 1, 1, 0, "test")]


def test_sealed_rows_that_cannot_be_read_are_left_out_whatever_says_the_labels(tmp_path):
    """In columns of 0 and 1 as in lists, in a table of paths as in Parquet with the images inside."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [
        (name, *(int(c in text) for c in "abc"), "train" if i % 7 else "val") for i, (name, text) in enumerate(ROWS)
    ]
    table = write(tmp_path / "one", [*rows, *SEALED], ("path", "a", "b", "c", "split"))
    every = [*rows, *(tuple(None if v in (-1, "") else v for v in row) for row in SEALED)]
    columns = {c: [row[i] for row in every] for i, c in enumerate(("path", "a", "b", "c", "split"))}
    pq.write_table(pa.table(columns), tmp_path / "one" / "list.parquet")
    images = [(tmp_path / "one" / name).read_bytes() for name in columns.pop("path")]
    pq.write_table(pa.table({"image": images, **columns}), tmp_path / "in.parquet")
    listed = [(row[0], "|".join(c for c, yes in zip("abc", row[1:4], strict=True) if yes), row[4]) for row in rows]
    listed += [("x.png", "a||c", "test"), ("y.png", "a|", "test"), ("z.png", "a|b", "test")]
    write(tmp_path / "one" / "lists", listed, ("path", "labels", "split"))
    lists = section(tmp_path / "one" / "lists" / "list.csv")
    named = [
        section(p, labels=["a", "b", "c"]) for p in (table, tmp_path / "one" / "list.parquet", tmp_path / "in.parquet")
    ]
    seals = set()
    for asked in (lists, *named):
        found = cache.load(asked, tmp_path / "cache")
        assert sum(w.count for kind, w in found.reading.left_out.items() if "without" in kind) == 2
        seals.add((found.reading.seal.images, found.reading.seal.sha256))
        assert sealed.open_sealed(asked, tmp_path / "cache", form=(8, 1)).labels.tolist() == [[True, True, False]]
    assert len(seals) == 1
    first = section(write(tmp_path / "one" / "first", [*SEALED, *rows], ("path", "a", "b", "c", "split")))
    assert cache.load(first, tmp_path / "cache").classes == (
        "a",
        "b",
        "c",
    )  # which columns are labels is not asked of them
    wrong = write(tmp_path / "two", [*rows, ("w.png", -1, 0, 1, "train")], ("path", "a", "b", "c", "split"))
    with pytest.raises(DataError, match=r"line 62: the column a has '-1'"):
        cache.load(section(wrong, labels=["a", "b", "c"]), tmp_path / "cache")
    wrong = write(tmp_path / "two", [*SEALED, ("w.png", -1, 0, 1, "train"), *rows], ("path", "a", "b", "c", "split"))
    with pytest.raises(DataError, match=r"line 5: the column a has '-1' among zeros"):
        cache.load(section(wrong), tmp_path / "cache")


def test_test_images_with_a_label_that_nothing_is_trained_on_are_left_out_and_counted(tmp_path):
    """As test images of classes without training images are elsewhere. The hash is of those that are scored."""
    rows = [(name, text, "test" if i % 4 == 3 else "train") for i, (name, text) in enumerate(ROWS)]
    strange = [
        (f"{i}.png", f"{text}|z".strip("|"), role) if i in (3, 7) else (f"{i}.png", text, role)
        for i, (_, text, role) in enumerate(rows)
    ]
    head = ("path", "labels", "split")
    found = cache.load(one := section(write(tmp_path / "one", strange, head)), tmp_path / "cache")
    assert found.classes == ("a", "b", "c")
    (line,) = [line for line in found.reading.lines() if "Left out" in line]
    assert line.startswith("Left out: 2 test images with labels that no training image has (z) (")
    opened = sealed.open_sealed(one, tmp_path / "cache", form=(8, 1), recorded=found.reading.seal.sha256)
    assert opened.count == found.reading.seal.images == 13
    flags = [(name, *(int(c in text.split("|")) for c in "abcz"), role) for name, text, role in strange]
    table = section(write(tmp_path / "three", flags, ("path", *"abcz", "split")), labels=list("abcz"))
    with pytest.raises(DataError, match="no training images with the label z"):  # whoever names it wants it trained
        cache.load(table, tmp_path / "cache")


def test_what_is_told_of_labels_is_not_read_from_sealed_images(tmp_path):
    rows = [(name, text, "test" if i % 4 == 3 else "train") for i, (name, text) in enumerate(ROWS)]
    used = [text.split("|") if text else [] for _, text, role in rows if role == "train"]
    found = cache.load(section(write(tmp_path, rows, ("path", "labels", "split"))), tmp_path / "cache")
    (line,) = [line for line in found.reading.lines() if "in the mean" in line]
    assert f"{len(used)} images for training and validation with 3 labels" in line
    assert f"{sum(map(len, used)) / len(used):.2f} each" in line
    assert f"{used.count([])} of them have no label" in line
