"""The page of an audit: every copy and contradiction with a picture, in one file of at most 3 MB that fetches nothing."""

from __future__ import annotations

import re

import pytest

from tests.cli.test_errors import run_cli
from tests.data.test_copies import folder, loaded  # noqa: F401 - a fixture


@pytest.fixture
def data(folder):  # noqa: F811
    return loaded(folder)


def test_every_copy_has_a_picture_and_its_names(data):
    from raysweep.data import audit
    from raysweep.report import audit_page

    page = audit_page.content(data, audit.near(data), "my images")
    cards = {s.title: s.cards for s in page.sections}
    assert list(cards) == ["Contradicting labels (1)", "Copies across the split (2)", "Near copies (1)"]
    assert all(s.more == 0 for s in page.sections)
    (contradiction,) = cards["Contradicting labels (1)"]
    assert {line.split("/")[-1] for line in contradiction.pictures[0].lines} == {"3.png", "contradiction.png"}
    other, leak = cards["Copies across the split (2)"]
    assert (other.about, leak.about) == ("under another class in training", "")
    assert other.pictures[0].lines == ["validation: dog, val/dog/other.png", "training: cat, train/cat/1.png"]
    (near,) = cards["Near copies (1)"]
    assert len(near.pictures) == 2
    assert near.pictures[0].source.startswith("data:image/webp;base64,")
    assert page.sizes == [("16×16", 41)]
    assert [(c.name, c.leaked) for c in page.classes] == [("cat", 1), ("dog", 1)]


def test_the_page_is_one_file_without_network_and_escapes_what_users_wrote(data, tmp_path):
    from raysweep.report import audit_page

    text = audit_page.html(data, None, "<b>images</b>")
    assert "<b>images" not in text
    assert "&lt;b&gt;images" in text
    assert not re.search(r'(?:src|href)="(?!data:)|url\(', text)
    assert "<script" not in text
    assert "prefers-color-scheme: dark" in text
    assert "Near copies" not in text


def test_a_page_that_is_full_says_what_it_leaves_out(data, monkeypatch):
    from raysweep.data import audit
    from raysweep.report import audit_page

    whole = audit_page.content(data, audit.near(data), "x")
    room = whole.sections[0].cards[0].size + whole.sections[1].cards[0].size
    monkeypatch.setattr(audit_page, "MOST_BYTES", room + 10)
    page = audit_page.content(data, audit.near(data), "x")
    assert [(len(s.cards), s.more) for s in page.sections] == [(1, 0), (1, 1), (0, 1)]
    monkeypatch.setattr(audit_page, "content", lambda *_: page)
    assert "1 more do not fit on this page" in audit_page.html(data, None, "x")


def test_the_bytes_of_a_card_are_not_underestimated(data):
    from raysweep.data import audit
    from raysweep.report import audit_page

    page = audit_page.content(data, audit.near(data), "x")
    empty = audit_page.html(data, None, "x")
    text = audit_page.html(data, audit.near(data), "x")
    added = len(text.encode()) - len(empty.encode())
    assert added <= page.sections[2].cards[0].size + 800  # the section's own words


def test_on_the_command_line(folder, tmp_path, capsys):  # noqa: F811
    target = tmp_path / "audit.html"
    code, _, err = run_cli(capsys, "audit", folder, "--html", target, "--root", tmp_path / "e")
    assert code == 0, err
    assert "Written to" in err
    assert "Copies across the split (2)" in target.read_text()
    code, _, err = run_cli(capsys, "audit", folder, "--html", target, "--root", tmp_path / "e")
    assert code == 2
    assert "exists" in err
    code, _, err = run_cli(capsys, "audit", folder, "--html", tmp_path / "no" / "x.html", "--root", tmp_path / "e")
    assert code == 2
    assert "folder that exists" in err
