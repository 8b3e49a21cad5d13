"""The example files that come with raysweep, so that they can be named where there is no checkout."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parents[1] / "examples"
NAMES = ("base", "fer2013", "grid", "rules")


def find(name: str | Path) -> Path:
    """The file of this name, or, if there is none, the example that it means: ``base``, ``base.yaml`` or ``configs/base.yaml``."""
    path = Path(name)
    if path.exists() or path.stem not in NAMES or path.suffix not in ("", ".yaml"):
        return path
    return FOLDER / f"{path.stem}.yaml" if str(path.parent) in (".", "configs") else path
