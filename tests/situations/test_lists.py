"""Lists as people have them: from Windows and Excel, without a header, of several splits, with the images elsewhere
(supervision 2581, CNTK 1321; garythung/trashnet, AlexOlsen/DeepWeeds, muxspace/facial_expressions, Kaggle)."""

from __future__ import annotations

import json

import pytest

from tests.situations.reading import plant, read, refusal

IMAGES = {"img/": 4}
ROWS = [("img/00.png", "cat"), ("img/01.png", "dog"), ("img/02.png", "cat"), ("img/03.png", "dog")]
WANTED = {"cat": 2, "dog": 2}


def text(rows=ROWS, delimiter=",", header="path,label", end="\n") -> str:
    lines = [header.replace(",", delimiter)] if header else []
    return end.join([*lines, *(delimiter.join(row) for row in rows)]) + end


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_delimiters_encodings_and_line_ends(tmp_path, delimiter, encoding, end):
    content = text(delimiter=delimiter, end=end).encode(encoding)
    found = read(plant(tmp_path, {**IMAGES, "list.csv": content}) / "list.csv")
    assert found.train == WANTED
    assert ("separated by" in found.notes) == (delimiter != ",")
    assert ("UTF-16" in found.notes) == encoding.startswith("utf-16")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("list.txt", text(delimiter=" ", header="")),
        ("list.tsv", text(delimiter="\t")),
        ("list.csv", text(header="")),
        ("list.csv", text(delimiter="\t", header="")),
        ("list.csv", "sep=;\n" + text(delimiter=";")),
        ("list.csv", text([(f'"{p}"', c) for p, c in ROWS], delimiter=";", header='"Image Name","Class"')),
        ("list.csv", text([(p.replace("/", "\\"), c) for p, c in ROWS])),
        ("list.csv", text([(f"C:\\Users\\me\\{p}".replace("/", "\\"), c) for p, c in ROWS])),
        ("list.csv", text([(f"/home/somebody/data/{p}", c) for p, c in ROWS])),
        ("list.csv", text([(f"data/{p}", c) for p, c in ROWS])),
        ("list.csv", text([(p[4:6], c) for p, c in ROWS], header="image_id,dx")),
        ("list.csv", text([(p[4:].upper(), c) for p, c in ROWS], header="ID,Breed")),
        ("list.csv", text([(c, p) for p, c in ROWS], header="Bildart,Datei").replace("Bildart", "class")),
    ],
)
def test_lists_are_read_however_they_are_written(tmp_path, name, content):
    found = read(plant(tmp_path / "in", {**IMAGES, name: content}) / name)
    assert found.train == WANTED


@pytest.mark.parametrize("path", ["img/0.png x", "my img/0 1.png 3"])
def test_a_name_with_spaces_and_a_class_after_the_last_one(tmp_path, path):
    name, label = path.rsplit(" ", 1)
    plant(tmp_path, {name: b"", "a b/1.png": b"", "list.txt": f"{path}\na b/1.png 7\n"})
    assert read(tmp_path / "list.txt").names == {label: [name], "7": ["a b/1.png"]}


def test_what_is_not_utf_8_is_named_with_what_to_do(tmp_path):
    plant(tmp_path, {**IMAGES, "list.csv": text([("img/00.png", "Ärger")]).encode("latin-1")})
    told = refusal(tmp_path / "list.csv")
    assert "utf-8" in told
    assert "Save it as UTF-8; Excel calls this format CSV UTF-8." in told


def test_images_in_another_folder(tmp_path):
    plant(
        tmp_path,
        {
            "data/legend.csv": text(
                [(p[4:], c) for p, c in ROWS], header="user.id,image,emotion".replace("user.id,", "")
            ),
            "images/": 4,
        },
    )
    found = read(tmp_path / "data" / "legend.csv")
    assert found.train == WANTED
    assert "Images found by their names in" in found.notes
    assert read(tmp_path / "data" / "legend.csv", images=str(tmp_path / "images")).notes == ""
    assert read(tmp_path).train == WANTED  # the folder above both


def test_images_that_may_be_in_several_folders_are_asked_about(tmp_path):
    tree = {"list.csv": text([(p[4:], c) for p, c in ROWS]), "images/": 4, "images_small/": 4}
    told = refusal(plant(tmp_path, tree) / "list.csv")
    assert "may be in" in told
    assert "data.images=FOLDER" in told
    assert read(tmp_path / "list.csv", images=str(tmp_path / "images")).train == WANTED
    assert "is no folder" in refusal(tmp_path / "list.csv", images=str(tmp_path / "gone"))


def test_images_of_one_list_in_two_folders(tmp_path):
    """HAM10000."""
    tree = {f"part_{i}/{i}{n}.png": b"" for i in (1, 2) for n in (0, 1)}
    rows = [("10", "nv"), ("11", "mel"), ("20", "nv"), ("21", "nv")]
    plant(tmp_path, {**tree, "HAM10000_metadata.csv": text(rows, header="image_id,dx")})
    assert "data.path=" in refusal(tmp_path)  # folders with two names may also be two classes
    found = read(tmp_path / "HAM10000_metadata.csv")
    assert found.train == {"mel": 1, "nv": 3}
    assert found.names["mel"] == ["11"]


def test_other_images_of_the_same_names_are_not_taken_for_missing_ones(tmp_path):
    plant(tmp_path, {"a/list.csv": text([(f"{i:02}.png", "x") for i in range(9)], header="path,label"), "b/": 4})
    assert "9 of 9 images" in refusal(tmp_path / "a" / "list.csv")


def test_lists_of_all_splits_are_read_from_their_folder_and_named_where_one_is_given(tmp_path):
    lists = {"train.csv": text(ROWS[:2]), "val.csv": text(ROWS[2:3]), "test.csv": text(ROWS[3:])}
    plant(tmp_path, {**IMAGES, **lists})
    found = read(tmp_path)
    assert (found.train, found.val, found.test) == ({"cat": 1, "dog": 1}, {"cat": 1}, {"dog": 1})
    assert "Read from the list test.csv, train.csv, val.csv." in found.notes
    assert found.left_out == {"files that are no images (3 .csv)": 3}
    alone = read(tmp_path / "train.csv")
    assert (alone.train, alone.val) == ({"cat": 1, "dog": 1}, None)
    assert f"Not read: test.csv, val.csv beside train.csv. data.path={tmp_path}" in alone.notes


def lines(rows):
    return "".join(json.dumps({"path": path, "label": label}) + "\n" for path, label in rows)


def test_lists_of_all_splits_may_be_json_lines(tmp_path):
    lists = {"train.jsonl": lines(ROWS[:2]), "val.jsonl": lines(ROWS[2:3]), "test.jsonl": lines(ROWS[3:])}
    found = read(plant(tmp_path, {**IMAGES, **lists}))
    assert (found.train, found.val, found.test) == ({"cat": 1, "dog": 1}, {"cat": 1}, {"dog": 1})


@pytest.mark.parametrize("name", ["labels.jsonl", "log.jsonl", "train.jsonl"])
def test_json_lines_beside_another_list_are_not_read(tmp_path, name):
    lists = {"labels.csv": text(ROWS), name: lines([(p, "sharp") for p, _ in ROWS])}
    assert read(plant(tmp_path, {**IMAGES, **lists})).train == {"cat": 2, "dog": 2}


def test_json_lines_beside_class_folders_are_notes(tmp_path):
    notes = {"annotations.jsonl": lines([("cat/0.png", "sharp"), ("dog/0.png", "blurred")])}
    assert read(plant(tmp_path, {"cat/": 3, "dog/": 3, **notes})).train == {"cat": 3, "dog": 3}


def test_numbers_in_metadata_are_no_classes(tmp_path):
    sizes = [
        {"file_name": p, "width": 640 - 160 * (i % 2), "height": 480 + 160 * (i % 2)} for i, (p, _) in enumerate(ROWS)
    ]
    metadata = "".join(json.dumps(row) + "\n" for row in sizes)
    assert "no column for the class" in refusal(plant(tmp_path, {**IMAGES, "metadata.jsonl": metadata}))


def test_a_list_of_a_split_that_cannot_be_read_is_not_ignored(tmp_path):
    lists = {"train.csv": text(ROWS[:2]), "val.csv": text(ROWS[2:]) + "a,b,c,d\n"}
    assert "val.csv, line 4 has 4 fields" in refusal(plant(tmp_path, {**IMAGES, **lists}))


def test_several_folds_are_asked_about(tmp_path):
    """DeepWeeds."""
    lists = {f"{s}_subset{i}.csv": text(ROWS) for s in ("train", "val", "test") for i in range(2)}
    told = refusal(plant(tmp_path, {**IMAGES, **lists}))
    assert "several lists: test_subset0.csv" in told
    assert "data.path=" in told


def test_kaggles_usual_shape(tmp_path):
    tree = {"train.csv": text([(p[4:6], c) for p, c in ROWS], header="id,breed"), "train_images/": 4, "test_images/": 3}
    found = read(
        plant(
            tmp_path, {**tree, "test.csv": "id\n00\n", "sample_submission.csv": "id,cat,dog\n00,0.5,0.5\n01,0.5,0.5\n"}
        )
    )
    assert found.train == WANTED
    assert found.names["cat"] == ["00", "02"]
    assert "Not read: sample_submission.csv, test.csv" in found.notes
    assert "train_images, not where the list says: 00 is 00.png there" in found.notes


def test_class_folders_with_a_list_that_says_the_same(tmp_path):
    tree = {"cat/": 2, "dog/": 2, "list.csv": text([("cat/00.png", "cat"), ("dog/00.png", "dog")])}
    found = read(plant(tmp_path, tree))
    assert found.train == WANTED
    assert "Not read: list.csv beside the class folders." in found.notes


def test_class_folders_with_a_list_that_says_something_else_are_asked_about(tmp_path):
    tree = {"images/": 2, "thumbs/": 2, "list.csv": text([("images/00.png", "cat"), ("images/01.png", "dog")])}
    told = refusal(plant(tmp_path, tree))
    assert "folders (images, thumbs) and a list of images with other classes, list.csv" in told
    assert read(tmp_path / "list.csv").train == {"cat": 1, "dog": 1}
    assert read(tmp_path, source="folder").train == {"images": 2, "thumbs": 2}


def test_rows_without_a_name_are_counted(tmp_path):
    found = read(plant(tmp_path, {**IMAGES, "list.csv": text([*ROWS, ("", "cat"), (" ", "dog")])}) / "list.csv")
    assert found.train == WANTED
    assert found.left_out == {"rows that name no image": 2}


def test_images_that_a_list_in_their_folder_does_not_name_are_counted(tmp_path):
    found = read(plant(tmp_path, {"img/": 7, "x.png": b"", "y.png": b"", "list.csv": text()}))
    assert found.train == WANTED
    assert found.left_out == {"images that the list does not name": 5, "files that are no images (1 .csv)": 1}
