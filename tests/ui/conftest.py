"""A root with a parent and a sweep whose classes try to be markup."""

from __future__ import annotations

from pathlib import Path

import pytest

EVIL = "<script>alert(1)</script>"
CLASSES = ("rare", EVIL, '"><img src=x onerror=alert(1)>')


@pytest.fixture(scope="session")
def made_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.report.making import sweep_of

    root = tmp_path_factory.mktemp("ui") / "experiments"
    sweep_of(root, CLASSES, (0.4, 0.7, 0.8), {"rare5": ({"rare": 5.0}, (0.9, 0.7, 0.8))}, seeds=(0,))
    return root


@pytest.fixture
def own_root(made_root: Path, tmp_path: Path) -> Path:
    """A copy that the test may change."""
    import shutil

    return shutil.copytree(made_root, tmp_path / "experiments")
