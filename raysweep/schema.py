"""``python -m raysweep.schema`` writes the JSON Schemas of configuration and grid files into ``configs/``."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel

from raysweep import config, grid

FILES: dict[str, tuple[type[BaseModel], str]] = {
    "schema.json": (config.Settings, "raysweep configuration"),
    "grid.schema.json": (grid.Grid, "raysweep grid"),
}


def text(name: str) -> str:
    """The content of ``configs/<name>``."""
    model, title = FILES[name]
    return config.json_schema(model, title)


if __name__ == "__main__":
    for file in FILES:
        (Path("configs") / file).write_text(text(file), encoding="utf-8")
