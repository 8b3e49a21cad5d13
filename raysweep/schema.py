"""``python -m raysweep.schema`` prints the JSON Schema that ``configs/schema.json`` holds."""

from raysweep.config import json_schema

if __name__ == "__main__":
    print(json_schema(), end="")
