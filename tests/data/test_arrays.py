"""A full disk while a cache is made, and the modes of its files."""

from __future__ import annotations

import errno
import os
import re
import resource
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest

from raysweep.data import arrays, cache
from raysweep.errors import DataError
from tests.data.drawing import as_folder, pictures, section

SOME = pictures({"angry": 5, "happy": 9}, {"angry": 2, "happy": 4})
NEEDED = 2 * len(SOME) * 64  # all images, and those that are in two files for a moment: here as many
WRITTEN = 64 * (len(SOME) + 6)  # all images once, and the validation images as their part of the file is moved
MESSAGE = (
    r"The image cache in \S+cache cannot be written: it takes {needed:,} bytes while it is made, and [\d,]+ are free "
    r"there{why}\. Nothing of it was kept\. Free space, or name another folder with data\.cache_dir\."
)


def refused(tmp_path: Path, why: str) -> None:
    """Decoding ends with the message, and nothing is left but the lock."""
    path = as_folder(tmp_path / "d", SOME)
    with pytest.raises(DataError, match=MESSAGE.format(needed=NEEDED, why=re.escape(why))):
        cache.load(section(path), tmp_path / "cache")
    assert [p.name for p in (tmp_path / "cache").iterdir() if p.suffix != ".lock"] == []


def test_too_little_space_is_said_before_anything_is_decoded(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(arrays.shutil, "disk_usage", lambda folder: usage(10**6, 10**6, NEEDED - 1))
    monkeypatch.setattr(arrays, "create", None)
    refused(tmp_path, "")


class Full:
    """A file on a disk that is full after so many bytes."""

    def __init__(self, file, left: list[int], code: int) -> None:
        self.file, self.left, self.code = file, left, code

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.file.close()

    def write(self, data) -> None:
        self.left[0] -= memoryview(data).nbytes
        if self.left[0] < 0:
            raise OSError(self.code, os.strerror(self.code))
        self.file.write(data)


@pytest.mark.parametrize("room", [0, 64 * 10, 64 * len(SOME) - 1, 64 * len(SOME), WRITTEN - 1])
def test_a_disk_that_fills_up_meanwhile_is_an_error_wherever_that_happens(tmp_path, monkeypatch, room):
    original, left = arrays.create, [room]
    code = errno.EDQUOT if room == 0 else errno.ENOSPC
    monkeypatch.setattr(arrays, "create", lambda *args: Full(original(*args), left, code))
    refused(tmp_path, f" ({os.strerror(code)})")


def test_a_file_that_the_kernel_does_not_let_grow_is_an_error_and_no_signal(tmp_path):
    child = os.fork()  # the limit holds for good
    if child == 0:
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
            refused(tmp_path, " (File too large)")
            os._exit(0)
        except BaseException:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.parametrize("at_once", [1, 3, 64, 1000])
def test_one_file_becomes_several_without_a_second_copy(tmp_path, monkeypatch, at_once):
    images = np.random.default_rng(0).integers(0, 256, (20, 4, 4, 1), dtype=np.uint8)
    order = np.random.default_rng(1).permutation(20)
    parts = {"a": order[:11], "b": order[11:12], "none": order[:0], "c": order[12:18]}  # two images are dropped
    monkeypatch.setattr(arrays, "MOVED_AT_ONCE", 16 * at_once)
    largest = [0]
    original = arrays.create

    def measured(path, shape):
        file = original(path, shape)
        here = sum(f.stat().st_size for f in tmp_path.iterdir())
        largest[0] = max(largest[0], here)
        return file

    with arrays.create(tmp_path / "raw", images.shape) as file:
        file.write(images.data)
    monkeypatch.setattr(arrays, "create", measured)
    arrays.divide(tmp_path / "raw", [(tmp_path / f"{name}.npy", index) for name, index in parts.items()])
    assert sorted(f.name for f in tmp_path.iterdir()) == sorted(f"{name}.npy" for name in parts)
    for name, index in parts.items():
        np.save(tmp_path / "wanted.npy", images[index])
        assert (tmp_path / f"{name}.npy").read_bytes() == (tmp_path / "wanted.npy").read_bytes()
    assert largest[0] <= 20 * 16 + 4 * 128  # the images, and the headers


@pytest.mark.slow
def test_on_a_file_system_that_is_really_full(tmp_path):
    """A memory disk of 1 MB in a mount namespace of its own; the quick twins pretend."""
    script = """
import sys, os
from raysweep.data import arrays, cache
from raysweep.config.settings import DataSection
arrays.shutil.disk_usage = lambda folder, real=arrays.shutil.disk_usage: real(folder)._replace(free=10**9)  # another fills it
try:
    cache.load(DataSection(source="digits", image_size=64), sys.argv[1])
except Exception as error:
    print(type(error).__name__, error, [p for p in os.listdir(sys.argv[1]) if not p.endswith(".lock")])
"""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = f"mount -t tmpfs -o size=1m none {disk} && exec {sys.executable} -c '{script}' {disk}/"
    done = subprocess.run(
        ["unshare", "-Urm", "sh", "-c", mount], capture_output=True, text=True, cwd=Path(__file__).parents[2]
    )
    if "unshare" in done.stderr or "mount" in done.stderr:
        pytest.skip("this user may not mount anything")
    assert done.stdout.startswith(f"DataError The image cache in {disk} cannot be written: it takes 14,721,024 bytes")
    assert "(No space left on device)" in done.stdout
    assert done.stdout.endswith(" []\n")
    assert done.stderr == ""


@pytest.mark.parametrize(("umask", "folder_mode", "file_mode"), [(0o002, 0o775, 0o664), (0o027, 0o750, 0o640)])
def test_the_umask_says_who_may_use_a_cache(tmp_path, umask, folder_mode, file_mode):
    path = as_folder(tmp_path / "d", SOME)
    before = os.umask(umask)
    try:
        found = cache.load(section(path), tmp_path / "cache")
    finally:
        os.umask(before)
    assert found.folder.stat().st_mode & 0o777 == found.folder.parent.stat().st_mode & 0o777 == folder_mode
    files = [*found.folder.iterdir(), *found.folder.parent.glob("*.lock")]
    assert {file.name: oct(file.stat().st_mode & 0o777) for file in files} == {f.name: oct(file_mode) for f in files}
    assert len(files) >= 7
