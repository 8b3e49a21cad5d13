"""Commands that raysweep prints for its user can be pasted: they are quoted and name the right root."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from raysweep.store import commands
from raysweep.store.remote import copies
from raysweep.store.root import Root


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAYSWEEP_ROOT", raising=False)


@pytest.mark.parametrize("root", ["experiments", "./experiments", "other/../experiments"])
def test_the_usual_root_is_not_named(root):
    assert commands.command(Root.open(root), "show", "base") == "raysweep show base"
    assert commands.command(Root.open(Path(root).absolute()), "show", "base") == "raysweep show base"


def test_every_word_is_quoted_and_another_root_is_named():
    words = ["resume", "--from", "it's@2", "--weights", '{"disgust": 5.0}']
    text = commands.command(Root.open("my runs"), *words)
    assert shlex.split(text) == ["raysweep", *words, "--root", "my runs"]


def test_the_environment_changes_which_root_is_usual(monkeypatch):
    monkeypatch.setenv("RAYSWEEP_ROOT", "elsewhere")
    assert commands.command(Root.open("elsewhere"), "list") == "raysweep list"
    assert commands.command(Root.open("experiments"), "list") == "raysweep list --root experiments"
    monkeypatch.setenv("RAYSWEEP_ROOT", "gs://cannot/be/used")
    assert commands.command(Root.open("experiments"), "list") == "raysweep list --root experiments"
    monkeypatch.setenv("RAYSWEEP_ROOT", "s3://bucket/runs")
    assert commands.command(Root.open("experiments"), "list") == "raysweep list --root experiments"
    assert not copies.opened(), "a command's text opens no root"


@pytest.fixture
def copy_of_a_bucket(tmp_path, monkeypatch):
    """The local copy of s3://bucket/runs; nothing is read from the object store."""
    monkeypatch.setenv("RAYSWEEP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(copies, "_open", {})
    for variable in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(variable, raising=False)
    return Root.open("s3://bucket/runs?endpoint_override=localhost:9000", look=False)


def test_a_root_on_an_object_store_is_named_by_its_address(copy_of_a_bucket, monkeypatch):
    text = commands.command(copy_of_a_bucket, "continue", "base")
    address = shlex.split(text)[-1]
    assert re.fullmatch(r"s3://bucket/runs\?.*endpoint_override=localhost:9000.*", address)
    monkeypatch.setenv("RAYSWEEP_ROOT", address)
    assert commands.command(copy_of_a_bucket, "continue", "base") == "raysweep continue base"
    monkeypatch.setenv("RAYSWEEP_ROOT", "s3://bucket/others")
    assert "--root" in commands.command(copy_of_a_bucket, "continue", "base")
