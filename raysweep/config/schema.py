"""``python -m raysweep.config.schema`` writes the JSON Schemas of configuration and grid files beside the examples."""

from __future__ import annotations

import json

from pydantic import BaseModel

from raysweep.config import examples
from raysweep.config import grid as grids
from raysweep.config import settings as configuration

FILES: dict[str, tuple[type[BaseModel], str]] = {
    "schema.json": (configuration.Settings, "raysweep configuration"),
    "grid.schema.json": (grids.Grid, "raysweep grid"),
}


def text(name: str) -> str:
    """The content of the file ``name``."""
    model, title = FILES[name]
    return json.dumps(model.model_json_schema() | {"title": title}, indent=2) + "\n"


if __name__ == "__main__":
    for file in FILES:
        (examples.FOLDER / file).write_text(text(file), encoding="utf-8")
