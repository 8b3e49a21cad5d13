"""The frozen part of a network on an object store: other machines find it, and a child's is copied there."""

from __future__ import annotations

import json

import pytest

from raysweep.store import layout
from tests.launch.test_object_store import on, server  # noqa: F401
from tests.training.test_features import ONCE


@pytest.mark.slow  # quick twin: tests/training/test_frozen_part.py
def test_a_child_on_another_machine_has_the_frozen_part(server, on, tmp_path):  # noqa: F811
    from tests.conftest import small_settings

    values = small_settings("x", **ONCE).model_dump(mode="json", exclude_unset=True)
    file = tmp_path / "base.json"
    file.write_text(json.dumps({**values, "experiment": {"name": "base"}, "root": server.root()}))
    on("first", "run", file)
    on("second", "resume", "--from", "base@2", "--epochs", "1", "--name", "child")
    assert on("third", "verify").count(": intact") == 3
    parts = {
        row["id"]: server.content(f"{row['id']}/{layout.FROZEN}") for row in json.loads(on("third", "list", "--json"))
    }
    assert len(parts) == 2
    assert len(set(parts.values())) == 1
