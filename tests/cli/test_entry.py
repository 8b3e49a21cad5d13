"""How the program ends."""

from __future__ import annotations

import subprocess
import sys

import pytest

END = """
import sys, torch, torchvision
sys.argv = ["raysweep", "--version"]
from raysweep.cli.entry import entry
entry()
"""


CRASH = """
import atexit, ctypes, sys
sys.argv = ["raysweep", *sys.argv[1:]]
libc = ctypes.CDLL(None)
libc.__cxa_atexit(libc.abort, None, None)
from raysweep.cli import entry, main
command = main.main
def registers():
    atexit.register(print, "the last words")
    command()
main.main = registers
entry.entry()
"""


@pytest.mark.parametrize(("word", "code"), [("--version", 0), ("--unknown", 2)])
def test_what_libraries_do_when_their_statics_are_taken_down_changes_nothing(word, code):
    """Ray's threads were seen to end a process with SIGSEGV there, after its work was done."""
    done = subprocess.run([sys.executable, "-c", CRASH, word], capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    assert done.stdout.endswith("the last words\n")


@pytest.mark.slow
def test_no_library_complains_when_the_program_ends():
    """Triton, which torchvision brings, tells of hundreds of leaks where its objects are frozen."""
    done = subprocess.run([sys.executable, "-c", END], capture_output=True, text=True, check=True)
    assert done.stderr == ""
