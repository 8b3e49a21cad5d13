"""Every verb on a terminal and in a pipe that is not UTF-8 (fastprogress 37, ray 36767): no traceback, and nothing is lost.

A character that the encoding lacks is written as an escape, so that two names stay two; JSON keeps its values.
"""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys

import pytest

from raysweep.cli.main import VERBS, main
from tests.conftest import SMALL_NET, draw_classes
from tests.report.making import sweep_of

CLASSES = ("猫", "café", "🙂")
PLACES = [
    ("latin-1", "strict"),
    ("ascii", "strict"),
    ("ascii", "surrogateescape"),
]  # the last is LC_ALL=C of old Pythons


class Stream(io.TextIOWrapper):
    def __init__(self, encoding: str, errors: str, terminal: bool) -> None:
        super().__init__(io.BytesIO(), encoding=encoding, errors=errors, write_through=True)
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal

    @property
    def text(self) -> str:
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.buffer.getvalue().decode(self.encoding))


def call(words, encoding: str, errors: str = "strict", terminal: bool = False) -> tuple[int, str, str]:
    """(exit code, stdout, stderr) of a command whose streams have this encoding."""
    code = 0
    with pytest.MonkeyPatch.context() as patch:
        out, err = Stream(encoding, errors, terminal), Stream(encoding, "backslashreplace", terminal)
        patch.setattr(sys, "stdout", out)
        patch.setattr(sys, "stderr", err)
        try:
            main([str(word) for word in words])
        except SystemExit as leave:
            code = leave.code if isinstance(leave.code, int) else int(bool(leave.code))
    return code, out.text, err.text


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A finished sweep whose classes have names that neither encoding has, and images of such classes."""
    folder = tmp_path_factory.mktemp("encodings")
    branches = {"猫5": ({"猫": 5.0}, (0.9, 0.7, 0.8)), "café2": ({"café": 2.0}, (0.4, 0.9, 0.8))}
    sweep_of(folder / "e", CLASSES, (0.4, 0.7, 0.8), branches)
    draw_classes(folder / "images", dict.fromkeys(CLASSES, 8))
    return folder


@pytest.fixture
def here(root, monkeypatch):
    monkeypatch.chdir(root)
    monkeypatch.setenv("RAYSWEEP_ROOT", str(root / "e"))
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    from raysweep.report import page

    monkeypatch.setattr(page, "write", lambda found, reference, target: target.with_name("猫.html"))
    return root


READING = {  # verb → its arguments; a branch of the sweep is s-猫5-seed0, another s-café2-seed0
    "ui": ["ui", "--host", "猫..猫"],
    "list": ["list"],
    "list checkpoints": ["list", "--checkpoints"],
    "list nothing": ["list", "--sweep", "猫"],
    "show": ["show", "s-猫5-seed0"],
    "show checkpoint": ["show", "s-猫5-seed0@4"],
    "show sweep": ["show", "s"],
    "lineage": ["lineage"],
    "diff": ["diff", "s-猫5-seed0", "s-café2-seed0"],
    "compare": ["compare", "s"],
    "compare branch": ["compare", "s-猫5-seed0"],
    "flips": ["flips", "s", "猫5", "--class", "猫"],
    "report": ["report", "s", "-o", "page.html"],
    "suggest": ["suggest", "s"],
    "power": ["power", "s"],
    "audit": ["audit", "images"],
    "prune": ["prune", "猫"],
    "export": ["export", "猫", "--to", "onnx"],
    "predict": ["predict", "猫@1", "猫.png"],
    "evaluate": ["evaluate", "猫"],
    "import": ["import", "猫"],
    "run": ["run", "猫.yaml"],
    "init": ["init", "猫"],
    "resume": ["resume", "--from", "猫@1"],
    "branch": ["branch", "--from", "猫@1", "--weights-grid", "猫.yaml"],
    "hunt": ["hunt", "--from", "猫@1", "--branches", "60", "--space", "猫.yaml"],
    "continue": ["continue", "猫"],
    "verify": ["verify", "猫"],
    "resume-experiment": ["resume-experiment", "猫"],
    "usage": ["list", "--猫"],
    "help": ["--help"],
}  # fmt: skip
NEEDS_MORE = {"demo", "doctor"}  # these train, or ask Ray; their words come from the functions that all others use


def test_every_verb_is_here():
    assert {words[0] for words in READING.values()} >= set(VERBS) - NEEDS_MORE


@pytest.fixture(scope="module")
def in_utf8(root):
    """What each command writes where everything can be written, once."""
    found = {}

    def of(name: str) -> tuple[int, str, str]:
        if name not in found:
            found[name] = call(READING[name], "utf-8")
        return found[name]

    return of


@pytest.mark.parametrize("name", READING)
def test_a_pipe_gets_escapes_and_loses_nothing(here, in_utf8, name):
    code, *expected = in_utf8(name)
    for encoding, errors in PLACES:
        got, *texts = call(READING[name], encoding, errors)
        assert got == code
        for text, wanted in zip(texts, expected, strict=True):
            assert text == wanted.encode(encoding, "backslashreplace").decode(encoding)


@pytest.mark.parametrize("name", READING)
def test_a_terminal_of_any_encoding_ends_the_same_way(here, in_utf8, name):
    code = in_utf8(name)[0]
    for encoding, errors in PLACES:
        got, out, err = call(READING[name], encoding, errors, terminal=True)
        assert got == code
        assert "Traceback" not in out + err
        if "猫" in in_utf8(name)[1]:
            assert r"\u732b" in re.sub(r"\s", "", out)


@pytest.mark.parametrize(
    "words", [["list"], ["show", "s-猫5-seed0"], ["show", "s"], ["compare", "s"], ["lineage"], ["suggest", "s"]]
)
def test_json_is_valid_and_has_the_same_values(here, words):
    expected = json.loads(call([*words, "--json"], "utf-8")[1])
    for encoding, errors in PLACES:
        code, out, _ = call([*words, "--json"], encoding, errors)
        assert (code, out.isascii()) == (0, True)
        assert json.loads(out) == expected


@pytest.mark.parametrize("encoding", ["latin-1", "ascii"])
def test_a_dry_run_with_such_classes(here, encoding):
    (here / "c.yaml").write_text(
        json.dumps(
            {"data": {"path": "images"}, "model": SMALL_NET, "scaling": {"num_workers": 0}, "training": {"epochs": 1}}
        )
    )
    code, out, err = call(["run", "c.yaml", "--dry-run", "training.augment.crop_padding=1"], encoding)
    assert code == 0, err
    assert r"\u732b" in out
    assert r"\U0001f642" in out


@pytest.mark.parametrize(
    "settings", [{"PYTHONIOENCODING": "latin-1"}, {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}]
)
def test_the_program_itself(here, settings):
    environment = {**os.environ, **settings}
    done = subprocess.run([sys.executable, "-m", "raysweep", "list"], env=environment, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"s-\\u732b5-seed0" in done.stdout
