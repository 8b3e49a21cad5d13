"""Versions of the checkpoint format: an older one is brought to the present one, a newer one is refused."""

from __future__ import annotations

import pytest

from raysweep.errors import CheckpointError, NewerFormatError
from raysweep.store import checkpoint, checkpoint_format
from raysweep.store.checkpoint_format import FORMAT_VERSION
from raysweep.store.records_manifest import ManifestEntry


@pytest.fixture
def state():
    from tests.store.test_checkpoint import a_state

    return {**a_state(), "format_version": FORMAT_VERSION}


def test_a_newer_version_is_refused_with_both_versions(tmp_path, state):
    newer = FORMAT_VERSION + 1
    # A newer version may hold anything: what else does not fit must not be blamed.
    checkpoint.write(tmp_path / "x.pt", {**state, "format_version": newer, "history": "elsewhere"})
    words = rf"x\.pt has version {newer} of the checkpoint format.*versions up to {FORMAT_VERSION}\b.*Update raysweep"
    with pytest.raises(NewerFormatError, match=words):
        checkpoint.read_checkpoint(tmp_path / "x.pt")


def test_a_newer_version_is_not_taken_for_damage(tmp_path, state):
    name = "checkpoint_epoch_3.pt"
    checkpoint.write(tmp_path / name, {**state, "format_version": FORMAT_VERSION + 1})
    with pytest.raises(NewerFormatError):  # or an older checkpoint would be taken, and the newer one overwritten
        checkpoint.misplaced(tmp_path, ManifestEntry(name, 1, "", 3, None, ""))


@pytest.mark.parametrize("version", [0, -1, "2", 1.0, True, None])
def test_what_is_no_version_is_refused(tmp_path, state, version):
    checkpoint.write(tmp_path / "x.pt", {**state, "format_version": version})
    with pytest.raises(CheckpointError, match="format_version must be a whole number above zero"):
        checkpoint.read_checkpoint(tmp_path / "x.pt")


def test_an_older_version_takes_every_step_to_the_present_one(tmp_path, state, monkeypatch):
    checkpoint.write(tmp_path / "x.pt", state)
    steps = (lambda s: {**s, "added": 1}, lambda s: {**s, "added": s["added"] + 1})
    monkeypatch.setattr(checkpoint_format, "STEPS", (*checkpoint_format.STEPS, *steps))
    monkeypatch.setattr(checkpoint_format, "FORMAT_VERSION", FORMAT_VERSION + 2)
    assert checkpoint.read_checkpoint(tmp_path / "x.pt")["added"] == 2
    assert checkpoint.from_bytes((tmp_path / "x.pt").read_bytes())["added"] == 2
    checkpoint.write(tmp_path / "y.pt", {**state, "format_version": FORMAT_VERSION + 1, "added": 10})
    assert checkpoint.read_checkpoint(tmp_path / "y.pt")["added"] == 11
