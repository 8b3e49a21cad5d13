"""Files that begin as an earlier one: what is the same is copied from there, and the content is right whatever happened to that file."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import os
import tempfile
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raysweep.errors import StoreError
from raysweep.store import files, sink
from raysweep.store.sink import Beginning
from tests.store.making import temps

CONTENT = st.binary(max_size=40) | st.binary(max_size=3).map(lambda some: b"the same beginning, " + some)


def written(path, content, beginning, cuts=()):
    edges = sorted({0, len(content), *(c for c in cuts if c < len(content))})

    def produce(to):
        for a, b in itertools.pairwise(edges):
            to.write(memoryview(content)[a:b])

    found = files.write_stream(path, produce, beginning=beginning)
    assert found == (len(content), hashlib.sha256(content).hexdigest())
    assert path.read_bytes() == content


@given(
    contents=st.lists(CONTENT, min_size=2, max_size=4),
    cuts=st.lists(st.integers(0, 40), max_size=4),
    plain=st.booleans(),
    harm=st.sampled_from([None, "gone", "shorter", "changed", "a folder"]),
)
def test_each_file_has_its_content_whatever_the_one_before_it_is(contents, cuts, plain, harm):
    no_call = OSError(errno.EOPNOTSUPP, "no")
    copying = mock.patch.object(os, "copy_file_range", side_effect=no_call) if plain else contextlib.nullcontext()
    with tempfile.TemporaryDirectory() as name, mock.patch.object(sink, "CHUNK", 4), copying:
        beginning, last = Beginning(), None
        for i, content in enumerate(contents):
            if last is not None:
                hurt(last, harm)
            last = Path(name) / f"{i}"
            written(last, content, beginning, cuts)
        if last is not None:
            written(last, contents[-1], beginning, cuts)  # also in the place of that file


def hurt(path, harm):
    content = path.read_bytes()
    if harm in ("gone", "a folder"):
        path.unlink()
    if harm == "a folder":
        path.mkdir()
    if harm == "shorter":
        path.write_bytes(content[: len(content) // 2])
    if harm == "changed" and content:
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


def test_the_hash_is_right_where_the_earlier_file_was_changed_to_what_is_written_now(tmp_path, monkeypatch):
    monkeypatch.setattr(sink, "CHUNK", 4)
    beginning = Beginning()
    written(tmp_path / "1", b"what it was", beginning)
    (tmp_path / "1").write_bytes(b"what it is!")
    written(tmp_path / "2", b"what it is!", beginning)


def test_what_is_the_same_is_neither_written_nor_hashed_again(tmp_path, monkeypatch):
    monkeypatch.setattr(sink, "CHUNK", 100)
    beginning, same = Beginning(), bytes(range(200)) * 5
    written(tmp_path / "1", same + b"one", beginning)
    real, sizes = os.write, []
    monkeypatch.setattr(os, "write", lambda fd, data: sizes.append(len(data)) or real(fd, data))
    written(tmp_path / "2", same + b"two!", beginning)
    assert sizes == [4]
    assert (tmp_path / "2").stat().st_nlink == 1
    (tmp_path / "1").write_bytes(b"")
    assert (tmp_path / "2").read_bytes() == same + b"two!"


def test_a_full_disk_while_the_beginning_is_copied_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(sink, "CHUNK", 4)
    beginning = Beginning()
    written(tmp_path / "1", b"the same", beginning)

    def full(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "copy_file_range", full)
    monkeypatch.setattr(os, "write", full)
    with pytest.raises(StoreError, match="Free space"):
        written(tmp_path / "2", b"the same, and more", beginning)
    assert temps(tmp_path) == []
    assert not (tmp_path / "2").exists()
