"""Columns under the names of the field, names beside numbers, one column for each class, and votes
(AlexOlsen/DeepWeeds, ISIC 2018, microsoft/FERPlus, Kaggle)."""

from __future__ import annotations

import pytest

from tests.situations.reading import plant, read, refusal


def table(tmp_path, header: str, *rows: str):
    return plant(tmp_path, {"img/": len(rows), "list.csv": "\n".join([header, *rows]) + "\n"}) / "list.csv"


@pytest.mark.parametrize(
    "image", ["image_id", "filepaths", "filename", "Image name", "File Path", "id_code", "Image Index", "img"]
)
@pytest.mark.parametrize(
    "label", ["Label", "Species", "dx", "diagnosis", "finding", "Finding Labels", "category", "breed"]
)
def test_names_of_the_field(tmp_path, image, label):
    assert read(table(tmp_path, f"{image},{label}", "img/00.png,a", "img/01.png,b")).train == {"a": 1, "b": 1}


def test_names_beside_their_numbers_are_the_classes(tmp_path):
    """DeepWeeds."""
    rows = ("img/00.png,0,Chinee apple", "img/01.png,8,Negatives", "img/02.png,0,Chinee apple")
    found = read(table(tmp_path, "Filename,Label,Species", *rows))
    assert found.train == {"Chinee apple": 2, "Negatives": 1}
    assert "Classes from the column Species of list.csv: the names for the numbers in Label." in found.notes


def test_of_several_columns_the_one_that_is_not_taken_is_named(tmp_path):
    path = table(tmp_path, "path,label,diagnosis", "img/00.png,0,a", "img/01.png,1,a")
    found = read(path)
    assert found.train == {"0": 1, "1": 1}
    assert "Classes from the column label of list.csv, not from diagnosis" in found.notes
    assert read(path, columns={"label": "diagnosis"}).train == {"a": 2}


def test_columns_are_named_by_the_user(tmp_path):
    path = table(tmp_path, "Bild,Art,Menge", "img/00.png,a,training", "img/01.png,b,training", "img/02.png,b,dev")
    told = refusal(path)
    assert "its columns are Bild, Art, Menge" in told
    assert "Its first row is img/00.png, a, training." in told
    assert "'data.columns={path: Bild, label: Menge}'" in told
    found = read(path, columns={"label": "Art", "split": 3})
    assert (found.train, found.val) == ({"a": 1, "b": 1}, {"b": 1})
    assert "Images from the column Bild" in found.notes
    assert "has no column 'Kunst'. Its columns are Bild, Art, Menge" in refusal(path, columns={"label": "Kunst"})


def test_columns_without_names_have_numbers(tmp_path):
    path = table(tmp_path, "img/00.png,1,a", "img/01.png,1,b")
    plant(tmp_path, {"img/": 2})
    assert "its columns are 1, 2, 3 (numbers" in refusal(path)
    assert read(path, columns={"path": 1, "label": 3}).train == {"a": 1, "b": 1}


def test_one_column_for_each_class(tmp_path):
    """ISIC 2018."""
    rows = [f"ISIC_{i:07},{i % 3 == 0:.1f},{i % 3 == 1:.1f},{i % 3 == 2:.1f}" for i in range(6)]
    files = {f"img/ISIC_{i:07}.jpg": b"" for i in range(6)}
    found = read(plant(tmp_path, {**files, "list.csv": "\n".join(["image,MEL,NV,BCC", *rows])}) / "list.csv")
    assert found.train == {"BCC": 2, "MEL": 2, "NV": 2}
    assert "list.csv has one column for each class: the one that is 1 is an image's class." in found.notes


def test_an_image_of_several_classes_is_refused_with_its_line(tmp_path):
    told = refusal(table(tmp_path, "image,MEL,NV,BCC", "img/00.png,1,0,0", "img/01.png,0,1,1", "img/02.png,0,0,0"))
    assert "3 columns of numbers (MEL, NV, BCC)" in told
    assert "2 rows do not fit: the numbers in" in told
    assert "line 3 are 0, 1, 1, and not exactly one of them is 1" in told


def test_votes(tmp_path):
    """FERPlus: ten votes each, and rows without a name."""
    rows = (
        "Training,00.png,4,6,0", "Training,01.png,0,1,9", "Training,02.png,7,2,1", "PublicTest,03.png,8,2,0",
        "Training,,3,7,0", "Training,05.png,5,5,0",
    )  # fmt: skip
    path = table(tmp_path, "Usage,Image name,neutral,happiness,NF", *rows)
    found = read(path, images=str(tmp_path / "img"), drop=["NF"])
    assert (found.train, found.val) == ({"happiness": 1, "neutral": 1}, {"neutral": 1})
    assert found.left_out == {
        "rows that name no image": 1,
        "rows whose votes are tied": 1,
        "images of classes that are not used (1 NF)": 1,
    }
    assert "the one with the most of 10 votes" in found.notes


def test_numbers_that_are_no_votes_are_not_taken_for_classes(tmp_path):
    told = refusal(table(tmp_path, "image,x,y,w", "img/00.png,3,5,10", "img/01.png,4,5,11"))
    assert "no column for the class" in told


def test_no_first_row_is_taken_for_a_header_where_columns_have_numbers(tmp_path):
    path = table(tmp_path, "00,cat", "01,dog")
    plant(tmp_path, {"img/": 2})
    assert "no column for the image" in refusal(path)
    assert read(path, columns={"path": 1, "label": 2}).train == {"cat": 1, "dog": 1}
    header = plant(tmp_path / "h", {"img/": 2, "list.csv": "image_id,dx\n00,cat\n01,dog\n"}) / "list.csv"
    assert read(header, columns={"path": 1, "label": 2}).train == {"cat": 1, "dog": 1}


def test_pixels_in_a_csv_under_other_capitals_and_from_excel(tmp_path):
    rows = ["0;1 2 3 4;Training", "3;5 6 7 8;Training", "3;5 6 7 9;PublicTest", "3;5 6 7 9;dev"]
    path = plant(tmp_path, {"fer.csv": "\n".join(["Emotion;Pixels;usage", *rows]).encode("utf-16")}) / "fer.csv"
    found = read(path)
    assert (found.train, found.val, found.test) == ({"angry": 1, "happy": 1}, {"happy": 1}, {"happy": 1})
    assert found.left_out == {}
    assert "separated by semicolons, text in UTF-16" in found.notes


def test_test_files_of_the_hub_are_sealed_and_those_without_classes_named(tmp_path):
    import pyarrow.parquet as pq

    from tests.data.drawing import as_hub, pictures

    some = pictures({"a": 2, "b": 2}, {"a": 1, "b": 1})
    some += [p._replace(split="test") for p in some[:2]]
    names = {"train": "train", "val": "validation", "test": "test"}
    found = read(as_hub(tmp_path / "hub", some, split_names=names))
    assert (found.train, found.val, found.test) == ({"a": 2, "b": 2}, {"a": 1, "b": 1}, {"a": 2})
    assert found.left_out == {}
    for file in (tmp_path / "hub").rglob("test-*.parquet"):
        pq.write_table(pq.read_table(file).drop_columns("label"), file)
    again = read(tmp_path / "hub")
    assert (again.train, again.val, again.test) == (found.train, found.val, {})
    assert again.left_out == {"rows and files of test images without a class": 2}


def test_metadata_in_two_folders_for_one_split_are_refused(tmp_path):
    content = "file_name,label\n00.png,a\n"
    plant(
        tmp_path,
        {f"{s}/": 1 for s in ("train", "val", "valid")}
        | {f"{s}/metadata.csv": content for s in ("train", "val", "valid")},
    )
    assert "several folders for the same split: val/, valid/" in refusal(tmp_path)
