"""Where the system has no locks that Python knows (``fcntl`` is missing): what reads works, what writes refuses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from raysweep import _locks
from raysweep.cli.main import WRITES
from raysweep.errors import ResourceError
from tests.report.making import sweep_of

HIDING = """
import contextlib, io, json, sys

class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name in ("fcntl", "resource"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Hidden())
assert not {"fcntl", "resource"} & {*sys.modules}
import raysweep
from raysweep import ConfigError
from raysweep.cli.main import main

def call(words):
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2))
    code = 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(words)
        except SystemExit as leave:
            code = leave.code or 0
    return [code, *(stream.buffer.getvalue().decode() for stream in (out, err))]

found = [call(words) for words in json.loads(sys.argv[1])]
print(json.dumps(found))
"""
LIGHT = [["list"], ["list", "--json"], ["list", "--checkpoints"], ["show", "parent"], ["show", "s"], ["lineage"]]
HEAVY = [
    ["diff", "parent", "s-a5-seed0"], ["compare", "s"], ["compare", "s-a5-seed0"], ["flips", "s", "a5", "--class", "a"],
    ["suggest", "s"], ["power", "s"], ["audit", "images"], ["report", "s", "-o", "page.html"],
]  # fmt: skip


@pytest.fixture
def root(tmp_path) -> Path:
    sweep_of(tmp_path / "e", ("a", "b", "c"), (0.4, 0.7, 0.8), {"a5": ({"a": 5.0}, (0.9, 0.7, 0.8))})
    return tmp_path


def hidden(folder: Path, commands: list[list[str]]) -> list[tuple[int, str, str]]:
    environment = {**os.environ, "RAYSWEEP_ROOT": str(folder / "e"), "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", HIDING, json.dumps(commands)],
        cwd=folder, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [tuple(found) for found in json.loads(done.stdout.splitlines()[-1])]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in folder.rglob("*") if p.is_file() and "index" not in p.name}


def test_reading_works_without_and_writing_refuses(root):
    before = contents(root / "e")
    found = hidden(root, [*LIGHT, *([verb, "x"] for verb in sorted(WRITES)), ["run", "--help"]])
    for words, (code, out, err) in zip(LIGHT, found, strict=False):
        assert (code, err.count("error")) == (0, 0), (words, err)
        assert "parent_20260102_030405" in out or words == ["show", "s"]
    for code, _, err in found[len(LIGHT) : -1]:
        assert code == 2
        assert "error: This system has no locks on files" in err
        assert "list, show, lineage, diff, compare" in err
        assert len(err.splitlines()) == 1
    assert found[-1][0] == 0
    assert contents(root / "e") == before


@pytest.mark.slow
def test_comparing_and_reporting_work_without(root):
    from tests.conftest import draw_classes

    draw_classes(root / "images", {"a": 4, "b": 4})
    for words, (code, _, err) in zip(HEAVY, hidden(root, HEAVY), strict=True):
        assert code == 0, (words, err)


def test_nobody_writes_an_experiment_without_locks(root, monkeypatch):
    from raysweep.store.lock import WriterLock

    (folder,) = (root / "e").glob("parent_*")
    monkeypatch.setattr(_locks, "_fcntl", None)
    with pytest.raises(ResourceError, match="nothing is written here"):
        WriterLock.acquire(folder)
    assert not (folder / "lock.json").exists()
