"""The write protocol under injected faults: what was committed stays, nothing is left over, the error says what and where."""

from __future__ import annotations

import csv
import errno
import hashlib
import io
import json
import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raysweep import _locks
from raysweep.errors import StoreError
from raysweep.store import files
from raysweep.store.untrusted import zip_check
from tests.store.making import Killed, failing, flip_bit, temps, torch_like

OLD, NEW = b"old content", b"new content " * 100
CALLS = ("write", "fsync", "close", "replace")


def spy(monkeypatch, log, names=CALLS):
    """Record the order of system calls, leaving what they do."""
    for name in names:

        def call(*args, real=getattr(os, name), name=name, **kwargs):
            log.append(name)
            return real(*args, **kwargs)

        monkeypatch.setattr(os, name, call)


def on_call(monkeypatch, name, nth, error):
    """Let the ``nth`` call of an ``os`` function raise ``error``; returns the list of calls made."""
    calls = []

    def call(*args, real=getattr(os, name), **kwargs):
        calls.append(args)
        if len(calls) == nth:
            if name == "close":
                real(*args, **kwargs)  # the kernel frees the descriptor even where close reports an error
            raise error
        return real(*args, **kwargs)

    monkeypatch.setattr(os, name, call)
    return calls


def test_the_steps_come_in_the_documented_order(tmp_path, monkeypatch):
    log = []
    with monkeypatch.context() as m:
        spy(m, log)
        files.write_atomic(tmp_path / "x", NEW)
    assert log == ["write", "fsync", "close", "replace", "fsync", "close"]  # file, then its folder
    assert (tmp_path / "x").read_bytes() == NEW


@pytest.mark.parametrize("size", [0, 1, 1000])
def test_any_size_is_written_whole(tmp_path, size):
    data = os.urandom(size)
    files.write_atomic(tmp_path / "x", memoryview(data))
    assert (tmp_path / "x").read_bytes() == data


@given(st.binary(max_size=300), st.lists(st.integers(1, 40), min_size=1, max_size=8))
@settings(max_examples=25, deadline=None)
def test_short_writes_go_on_with_what_is_left(data, pieces):
    real, calls = os.write, []

    def short(fd, part):
        calls.append(len(part))
        return real(fd, part[: pieces[len(calls) % len(pieces)]])

    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as m:
        m.setattr(os, "write", short)
        files.write_atomic(Path(folder) / "x", data)
        m.undo()
        assert (Path(folder) / "x").read_bytes() == data


@pytest.mark.parametrize(
    ("name", "nth", "number", "told"),
    [
        ("write", 1, errno.ENOSPC, "No space left on device. Free space"),
        ("write", 3, errno.ENOSPC, "No space left on device. Free space"),  # after some pieces have gone through
        ("write", 2, errno.EDQUOT, "Free space"),
        ("write", 1, errno.EIO, "Check the disk"),
        ("fsync", 1, errno.EIO, "Check the disk"),
        ("fsync", 1, errno.EDQUOT, "Free space"),
        ("close", 1, errno.EIO, "Check the disk"),
        ("replace", 1, errno.EACCES, "Make the folder writable"),
        ("replace", 1, errno.EROFS, "Make the folder writable"),
        ("open", 1, errno.EROFS, "Make the folder writable"),
    ],
)
def test_a_failed_step_leaves_the_old_content_and_no_temp(tmp_path, monkeypatch, name, nth, number, told):
    path = tmp_path / "x"
    path.write_bytes(OLD)
    with monkeypatch.context() as m:
        m.setattr(files, "_CHUNK", 500)
        on_call(m, name, nth, OSError(number, os.strerror(number)))
        with pytest.raises(StoreError) as caught:
            files.write_atomic(path, NEW)
    assert path.read_bytes() == OLD
    assert temps(tmp_path) == []
    assert f"1,200 bytes could not be written to {path}" in str(caught.value)
    assert told in str(caught.value)


def test_a_failed_fsync_is_never_retried(tmp_path, monkeypatch):
    # The kernel may have dropped the dirty pages: a second fsync of the same file would succeed and mean nothing.
    with monkeypatch.context() as m:
        calls = on_call(m, "fsync", 1, OSError(errno.EIO, "I/O"))
        with pytest.raises(StoreError):
            files.write_atomic(tmp_path / "x", NEW)
    assert len(calls) == 1
    assert not (tmp_path / "x").exists()


def test_a_folder_that_cannot_be_made_durable_is_an_error_unless_it_has_no_fsync(tmp_path, monkeypatch):
    with monkeypatch.context() as m:
        on_call(m, "fsync", 2, OSError(errno.EIO, "I/O"))
        with pytest.raises(StoreError, match="could not be written"):
            files.write_atomic(tmp_path / "x", NEW)
    with monkeypatch.context() as m:
        on_call(m, "fsync", 2, OSError(errno.EINVAL, "no fsync of folders here"))
        files.write_atomic(tmp_path / "y", NEW)
    assert (tmp_path / "y").read_bytes() == NEW


@pytest.mark.parametrize("moment", range(1, 9))
def test_a_kill_at_any_step_leaves_the_old_or_the_new_content(tmp_path, monkeypatch, moment):
    path = tmp_path / "x"
    path.write_bytes(OLD)
    steps = []
    with monkeypatch.context() as m:
        for name in ("open", *CALLS):

            def call(*args, real=getattr(os, name), **kwargs):
                steps.append(args)
                if len(steps) == moment:
                    raise Killed
                return real(*args, **kwargs)

            m.setattr(os, name, call)
        with pytest.raises(Killed):
            files.write_atomic(path, NEW)
    # open, write, fsync, close, replace, open, fsync, close: only the fifth changes what the name holds
    assert path.read_bytes() == (OLD if moment <= 5 else NEW)
    files.clean_temps(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(StoreError, match=r"5 bytes could not be written to .*nowhere.x"):
        files.write_atomic(tmp_path / "nowhere" / "x", b"12345")


def test_a_link_is_replaced_and_its_target_stays(tmp_path):
    outside = tmp_path / "outside"
    outside.write_bytes(OLD)
    (tmp_path / "x").symlink_to(outside)
    files.write_atomic(tmp_path / "x", NEW)
    assert outside.read_bytes() == OLD
    assert not (tmp_path / "x").is_symlink()


def test_json_is_for_people_and_refuses_nan(tmp_path):
    path = tmp_path / "x.json"
    files.write_json(path, {"name": "Gefühl 😀", "n": [1]})
    assert path.read_text(encoding="utf-8") == '{\n  "name": "Gefühl 😀",\n  "n": [\n    1\n  ]\n}\n'
    with pytest.raises(ValueError, match="not JSON compliant"):
        files.write_json(path, {"loss": float("nan")})
    assert "Gefühl" in path.read_text(encoding="utf-8")
    assert temps(tmp_path) == []


def test_text_that_is_no_utf8_survives_as_json(tmp_path):
    # What the shell passes for an argument with a stray byte; it must not end a run with a UnicodeEncodeError.
    text = b"caf\xe9".decode("utf-8", "surrogateescape")
    files.write_json(tmp_path / "x.json", {"experiment_description": text})
    assert json.loads((tmp_path / "x.json").read_bytes()) == {"experiment_description": text}


# Logs


def test_a_line_is_one_write_and_one_fsync(tmp_path, monkeypatch):
    log = []
    with monkeypatch.context() as m:
        spy(m, log)
        files.append_line(tmp_path / "log", "ä line\n")
    assert log == ["write", "fsync", "close"]
    files.append_line(tmp_path / "log", "next\n")
    assert (tmp_path / "log").read_text(encoding="utf-8") == "ä line\nnext\n"


@given(
    st.lists(st.binary(max_size=30).map(lambda b: b.replace(b"\n", b"")), max_size=4),
    st.one_of(st.binary(min_size=1, max_size=50), st.integers(4000, 9000).map(lambda n: b"x" * n)).map(
        lambda b: b.replace(b"\n", b"") or b"x"
    ),
)
@settings(max_examples=25, deadline=None)
def test_a_torn_last_line_is_cut_off_before_the_next(lines, torn):
    whole = b"".join(line + b"\n" for line in lines)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "log"
        path.write_bytes(whole + torn)
        files.append_line(path, "next\n")
        assert path.read_bytes() == whole + b"next\n"


def test_a_short_write_is_an_error_and_healed_by_the_next_line(tmp_path, monkeypatch):
    path = tmp_path / "log"
    files.append_line(path, "first\n")
    with monkeypatch.context() as m:
        real = os.write
        m.setattr(os, "write", lambda fd, data: real(fd, data[:3]))
        with pytest.raises(StoreError, match=r"7 bytes could not be written to .*log.*Free space"):
            files.append_line(path, "second\n")
    assert path.read_text() == "first\nsec"
    files.append_line(path, "third\n")
    assert path.read_text() == "first\nthird\n"


@pytest.mark.parametrize("name", ["open", "write", "fsync"])
def test_a_line_that_cannot_be_written_is_an_error(tmp_path, monkeypatch, name):
    with monkeypatch.context() as m:
        m.setattr(os, name, failing(errno.EIO))
        with pytest.raises(StoreError, match=r"5 bytes could not be written to .*log"):
            files.append_line(tmp_path / "log", "line\n")


def test_a_log_with_two_names_is_copied_apart_before_it_grows(tmp_path):
    # `cp -al run copy`: what happens to the one must not appear in the log of the other
    mine, theirs = tmp_path / "mine", tmp_path / "theirs"
    mine.write_text("first\n")
    os.link(mine, theirs)
    files.append_line(mine, "second\n")
    files.append_line(mine, "third\n")
    assert (mine.read_text(), theirs.read_text()) == ("first\nsecond\nthird\n", "first\n")
    files.append_line(theirs, "other\n")
    assert mine.read_text() == "first\nsecond\nthird\n"
    assert theirs.read_text() == "first\nother\n"
    assert temps(tmp_path) == []


@pytest.mark.parametrize("name", ["fsync", "replace"])
def test_a_log_that_cannot_be_copied_apart_stays_as_it_is(tmp_path, monkeypatch, name):
    mine, theirs = tmp_path / "mine", tmp_path / "theirs"
    mine.write_text("first\n")
    os.link(mine, theirs)
    with monkeypatch.context() as m:
        m.setattr(os, name, failing(errno.ENOSPC))
        with pytest.raises(StoreError, match=r"could not be written to .*mine: No space left"):
            files.append_line(mine, "second\n")
    assert mine.read_text() == theirs.read_text() == "first\n"
    assert temps(tmp_path) == []


def test_a_log_that_is_a_link_is_refused_and_its_target_stays(tmp_path):
    # A copied folder may hold a link that points out of the root; appending would write to a stranger's file.
    outside = tmp_path / "outside"
    outside.write_text("theirs\nno newline at the end")
    (tmp_path / "log").symlink_to(outside)
    with pytest.raises(StoreError, match=r"could not be written to .*log.*It is a link"):
        files.append_line(tmp_path / "log", "ours\n")
    assert outside.read_text() == "theirs\nno newline at the end"


# Copies


def test_the_best_file_shares_no_bytes_with_its_source(tmp_path):
    # `cp other.pt best_checkpoint.pt` would overwrite the epoch, if the two were names of one file
    source, target = tmp_path / "source", tmp_path / "best"
    source.write_bytes(NEW)
    target.write_bytes(OLD)
    for _ in range(2):
        assert files.clone_or_copy(source, target) in ("clone", "copy")
        assert target.read_bytes() == NEW
        assert not target.samefile(source)
    target.write_bytes(OLD)
    assert source.read_bytes() == NEW
    assert temps(tmp_path) == []


def test_blocks_are_shared_where_the_file_system_can(tmp_path, monkeypatch):
    source, target = tmp_path / "source", tmp_path / "best"
    source.write_bytes(NEW)
    asked = []

    def clone(into: int, request: int, origin: int) -> int:
        asked.append((request, os.readlink(f"/proc/self/fd/{origin}")))
        os.write(into, NEW)
        return 0

    with monkeypatch.context() as m:
        m.setattr(_locks._fcntl, "ioctl", clone)
        m.setattr(files.shutil, "copyfileobj", failing(errno.EIO))
        assert files.clone_or_copy(source, target) == "clone"
    assert asked == [(0x40049409, str(source))]
    assert target.read_bytes() == NEW


@pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP, errno.ENOTTY, errno.EXDEV, errno.EINVAL])
def test_where_blocks_cannot_be_shared_it_is_a_durable_copy(tmp_path, monkeypatch, number):
    source, target = tmp_path / "source", tmp_path / "best"
    source.write_bytes(NEW)
    target.write_bytes(OLD)
    log = []
    with monkeypatch.context() as m:
        m.setattr(_locks._fcntl, "ioctl", failing(number))
        spy(m, log, ("fsync", "replace"))
        assert files.clone_or_copy(source, target) == "copy"
    assert log == ["fsync", "replace", "fsync"]
    assert target.read_bytes() == NEW
    assert temps(tmp_path) == []


@pytest.mark.parametrize("name", ["fsync", "replace"])
def test_a_failed_copy_leaves_the_old_best(tmp_path, monkeypatch, name):
    source, target = tmp_path / "source", tmp_path / "best"
    source.write_bytes(NEW)
    target.write_bytes(OLD)
    with monkeypatch.context() as m:
        m.setattr(os, name, failing(errno.ENOSPC))
        with pytest.raises(StoreError, match="best could not be written: No space left"):
            files.clone_or_copy(source, target)
    assert target.read_bytes() == OLD
    assert temps(tmp_path) == []


def test_a_missing_source_leaves_the_old_best(tmp_path):
    (tmp_path / "best").write_bytes(OLD)
    with pytest.raises(StoreError, match="best"):
        files.clone_or_copy(tmp_path / "gone", tmp_path / "best")
    assert (tmp_path / "best").read_bytes() == OLD
    assert temps(tmp_path) == []


# The rest


def test_temps_are_beside_their_file_recognised_and_all_that_is_cleaned(tmp_path):
    path = tmp_path / "checkpoint_epoch_1.pt"
    first, second = files.temp_path(path), files.temp_path(path)
    assert first != second
    assert first.parent == tmp_path
    for p in (path, first, second, tmp_path / "notes.tmp-"):
        p.write_bytes(OLD)
    assert sorted(files.clean_temps(tmp_path)) == sorted([first.name, second.name])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint_epoch_1.pt", "notes.tmp-"]


def test_sha256_of_a_file(tmp_path):
    data = os.urandom(3_000_000)
    (tmp_path / "x").write_bytes(data)
    assert files.sha256_file(tmp_path / "x") == hashlib.sha256(data).hexdigest()


def test_a_zip_is_judged_by_the_checksums_inside_it(tmp_path):
    path = tmp_path / "x.pt"
    torch_like(path, b"content " * 100)
    assert zip_check.zip_problem(path) is None
    flip_bit(path, 300)  # within the content
    assert "checksum of archive/data.pkl" in zip_check.zip_problem(path)
    for harm in (b"", b"no zip", path.read_bytes()[:-10], path.read_bytes()[:200]):
        path.write_bytes(harm)
        assert zip_check.zip_problem(path)
    assert zip_check.zip_problem(tmp_path / "gone")


def test_inside_follows_links(tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    (root / "plain").touch()
    (root / "out").symlink_to(tmp_path)
    assert files.inside(root, root / "plain")
    assert not files.inside(root, root / "out" / "x")
    assert not files.inside(root, root / ".." / "x")
    (root / "circle").symlink_to(root / "circle")
    assert not files.inside(root, root / "circle")


def test_reading_names_the_file(tmp_path):
    with pytest.raises(StoreError, match="gone could not be read: No such file"), files.reading(tmp_path / "gone"):
        (tmp_path / "gone").read_bytes()


def test_what_is_no_regular_file_is_refused_and_never_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "device").symlink_to("/dev/zero")
    for path in (tmp_path / "pipe", tmp_path / "device", tmp_path):
        for read in (files.open_regular, files.read_json, files.sha256_file):
            with pytest.raises(OSError, match=r"not a regular file|folder"):
                read(path)
        assert zip_check.zip_problem(path)


def test_json_that_is_deep_or_huge_is_damaged(tmp_path):
    path = tmp_path / "x.json"
    for text in ("[" * 200_000, "[" * 110 + "]" * 110, '{"a":' * 150 + "1" + "}" * 150):
        path.write_text(text)
        with pytest.raises(ValueError, match="nested too deep"):
            files.read_json(path)
    path.write_text("[" * 100 + "]" * 100)
    assert files.read_json(path)
    with open(path, "wb") as file:
        file.truncate(files.LIMIT + 1)  # a file that claims to be large and takes no room
    with pytest.raises(OSError, match="bytes; at most"):
        files.read_json(path)


def test_no_text_in_a_table_is_a_formula_or_two_cells():
    cells = ["=cmd()", "+1", "-1", "@x", "\t=x", "\r=x", "\n=x", "a\r=cmd()", 'a,"b"', "plain", "", None, -0.5, True]
    (row,) = csv.reader(io.StringIO(files.csv_text([cells]), newline=""))
    assert row[:7] == [f"'{c}" for c in cells[:7]]
    assert row[7:] == ["a\r=cmd()", 'a,"b"', "plain", "", "", "-0.5", "True"]
    old = io.StringIO()
    csv.writer(old, lineterminator="\n").writerows([["a", 1, 0.1, "x y"], ['"', ",", 1e-9, "é"]])
    assert files.csv_text([["a", 1, 0.1, "x y"], ['"', ",", 1e-9, "é"]]) == old.getvalue()


def test_a_stream_is_written_piece_by_piece_and_hashed(tmp_path):
    path, pieces = tmp_path / "x", [b"a", b"", b"b" * (5 << 20), b"c" * 17, b"d" * (3 << 20), b"e" * (3 << 20)]

    def produce(sink):
        assert [sink.write(memoryview(p)) for p in pieces] == [len(p) for p in pieces]

    size, digest = files.write_stream(path, produce)
    assert path.read_bytes() == b"".join(pieces)
    assert (size, digest) == (path.stat().st_size, files.sha256_file(path))


def test_a_producer_that_fails_leaves_the_old_content_and_no_temp(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(OLD)

    def produce(sink):
        sink.write(b"half")
        raise ValueError("no such thing can be pickled")

    with pytest.raises(ValueError, match="pickled"):
        files.write_stream(path, produce)
    assert path.read_bytes() == OLD
    assert temps(tmp_path) == []


def test_a_full_disk_in_the_middle_of_torchs_writer_is_told_with_path_and_bytes(tmp_path, monkeypatch):
    import torch

    from raysweep.store import checkpoint

    real, written = os.write, [0]

    def full(fd, data):
        written[0] += len(data)
        if written[0] > 6_000_000:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(fd, data)

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(
        StoreError, match=r"40,\d{3},\d{3} bytes could not be written to .*x\.pt: No space left on device"
    ):
        checkpoint.write(tmp_path / "x.pt", {f"w{i}": torch.zeros(1_000_000) for i in range(10)})
    assert list(tmp_path.iterdir()) == []
