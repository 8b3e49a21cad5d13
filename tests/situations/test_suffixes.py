"""Suffixes (flymyai 72, keras 17182, datumaro 72): what can be read is read, the rest is named."""

from __future__ import annotations

from tests.situations.reading import IMAGE, plant, read, refusal


def test_every_suffix_of_the_kinds_that_are_read(tmp_path):
    names = ("a.jfif", "b.jpe", "c", "d.0001", "e.PNG", "f.pbm")
    found = read(plant(tmp_path, {"dog/": 2, **{f"cat/{name}": IMAGE for name in names}}))
    assert found.train == {"cat": 6, "dog": 2}
    assert found.left_out == {}


def test_what_is_not_read_is_named_by_suffix(tmp_path):
    files = {"cat/a.heic": b"x", "cat/b.heic": b"x", "dog/notes.txt": b"x", "dog/LICENSE": b"a text", "dog/c.eps": b"x"}
    found = read(plant(tmp_path, {"cat/": 3, "dog/": 2, **files}))
    assert found.train == {"cat": 3, "dog": 2}
    assert found.left_out == {"files that are no images (2 .heic, 1 .eps, 1 .txt, 1 without a suffix)": 5}


def test_a_class_of_files_that_cannot_be_read_is_refused_with_their_suffix(tmp_path):
    text = refusal(plant(tmp_path, {"cat/": 3, "dog/": 2, "eel/a.heic": b"x", "eel/b.heic": b"x"}))
    assert "eel (with 2 .heic) holds no image" in text


def test_a_folder_of_notes_is_no_class(tmp_path):
    found = read(plant(tmp_path, {"cat/": 3, "dog/": 2, "annotations/a.xml": b"x", "annotations/b.txt": b"x"}))
    assert found.train == {"cat": 3, "dog": 2}
    assert sum(found.left_out.values()) == 2
