"""How the program ends."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests import forks

END = """
import sys, torch, torchvision
sys.argv = ["raysweep", "--version"]
from raysweep.cli.entry import entry
entry()
"""


def end(torch: bool) -> None:
    """Run in a process that has loaded torch; says where garbage is frozen."""
    import gc
    import os

    from raysweep.cli import entry

    if not torch:
        del sys.modules["torch"]
    gc.freeze = lambda: os.write(1, b"frozen\n")  # type: ignore[assignment,return-value]
    sys.argv = ["raysweep", "--version"]
    entry.entry()


@pytest.mark.parametrize("torch", [pytest.param(True, marks=pytest.mark.slow), False])
def test_garbage_is_left_alone_only_without_torch(torch):
    assert ("frozen" in forks.lines_of(end, torch)) is not torch


@pytest.mark.slow
def test_no_library_complains_when_the_program_ends():
    """Triton, which torchvision brings, tells of hundreds of leaks where its objects are frozen."""
    done = subprocess.run([sys.executable, "-c", END], capture_output=True, text=True, check=True)
    assert done.stderr == ""
