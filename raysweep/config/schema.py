"""``python -m raysweep.config.schema`` writes the JSON Schemas of configuration and grid files into ``configs/``."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import BaseModel

from raysweep.config import grid as grids
from raysweep.config import settings as configuration

FILES: dict[str, tuple[type[BaseModel], str]] = {
    "schema.json": (configuration.Settings, "raysweep configuration"),
    "grid.schema.json": (grids.Grid, "raysweep grid"),
}


def text(name: str) -> str:
    """The content of ``configs/<name>``."""
    model, title = FILES[name]
    return json.dumps(model.model_json_schema() | {"title": title}, indent=2) + "\n"


if __name__ == "__main__":
    for file in FILES:
        (Path("configs") / file).write_text(text(file), encoding="utf-8")
