"""A real S3 server on the loopback address for a test, and several machines that use it."""

from __future__ import annotations

import contextlib
import functools
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from raysweep import _paths
from raysweep.store import gate
from raysweep.store.remote import copies
from tests.conftest import S3_KEYS

BUCKET = "bucket"


@dataclass
class Server:
    """Moto's server. ``root()`` is a root in its bucket, through ``port``."""

    port: int
    folder: Path

    def root(self, prefix: str = "team/experiments", port: int | None = None, bucket: str = BUCKET) -> str:
        return f"s3://{bucket}/{prefix}?endpoint_override=127.0.0.1:{port or self.port}&scheme=http&region=us-east-1"

    @functools.cached_property
    def client(self) -> Any:
        import boto3

        return boto3.client("s3", endpoint_url=f"http://127.0.0.1:{self.port}", region_name="us-east-1")

    def all_keys(self) -> list[str]:
        """Keys of all objects that are no folder's marker."""
        rows = self.client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET)
        return [o["Key"] for page in rows for o in page.get("Contents", []) if not o["Key"].endswith("/")]

    def content(self, key: str) -> bytes:
        return self.client.get_object(Bucket=BUCKET, Key=f"team/experiments/{key}")["Body"].read()

    @contextlib.contextmanager
    def machine(self, name: str) -> Iterator[None]:
        """What runs inside is another machine: it has copies of its own."""
        before, kept = os.environ.get("RAYSWEEP_CACHE"), dict(copies._open)
        os.environ["RAYSWEEP_CACHE"] = str(self.folder / name)
        copies._open.clear()
        try:
            yield
        finally:
            copies._open.clear()
            copies._open.update(kept)
            os.environ.pop("RAYSWEEP_CACHE")
            if before is not None:
                os.environ["RAYSWEEP_CACHE"] = before

    @contextlib.contextmanager
    def elsewhere(self, name: str) -> Iterator[None]:
        """The same, and the other machine's processes cannot be seen from here, nor this one's from there."""
        before, made_up = gate.boot, f"{name:x<36}"
        gate.boot = lambda: made_up  # type: ignore[assignment]
        try:
            with self.machine(name):
                yield
        finally:
            gate.boot = before


@contextlib.contextmanager
def moto_server() -> Iterator[int]:
    """Run Moto's S3 server in a process of its own; yields its port. Starting it takes seconds: once per session."""
    for needed in ("boto3", "moto", "flask"):
        pytest.importorskip(needed, reason=f"{needed} is not installed: pip install -e '.[test]'")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(600):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5):
                break
            assert process.poll() is None, "moto.server ended before it listened"
            time.sleep(0.1)
        else:
            raise AssertionError("moto.server does not listen after a minute")
        yield port
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def emptied(port: int, folder: Path) -> Iterator[Server]:
    """The server without anything but an empty bucket, for one test."""
    before = {k: os.environ.get(k) for k in S3_KEYS}
    os.environ.update(S3_KEYS)
    try:
        reset = urllib.request.Request(f"http://127.0.0.1:{port}/moto-api/reset", method="POST")
        urllib.request.urlopen(reset).close()
        server = Server(port, folder)
        server.client.create_bucket(Bucket=BUCKET)
        yield server
    finally:
        copies._open.clear()
        _paths.before_reading = _paths.stands_in = None
        for key, value in before.items():
            os.environ.pop(key)
            if value is not None:
                os.environ[key] = value
