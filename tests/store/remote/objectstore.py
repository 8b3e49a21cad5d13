"""A real S3 server on the loopback address for a test, and several machines that use it."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from raysweep import _paths
from raysweep.store.remote import copies

BUCKET = "bucket"


@dataclass
class Server:
    """Moto's server. ``root()`` is a root in its bucket, through ``port``."""

    port: int
    folder: Path

    def root(self, prefix: str = "team/experiments", port: int | None = None, bucket: str = BUCKET) -> str:
        return f"s3://{bucket}/{prefix}?endpoint_override=127.0.0.1:{port or self.port}&scheme=http&region=us-east-1"

    @property
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
def serving(folder: Path) -> Iterator[Server]:
    """Start the server, make the bucket, and stop the server at the end."""
    pytest.importorskip("moto")
    pytest.importorskip("flask")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    keys = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_EC2_METADATA_DISABLED": "true"}
    before = {k: os.environ.get(k) for k in keys}
    os.environ.update(keys)
    try:
        for _ in range(300):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            assert process.poll() is None
            time.sleep(0.1)
        server = Server(port, folder)
        server.client.create_bucket(Bucket=BUCKET)
        yield server
    finally:
        process.kill()
        process.wait()
        copies._open.clear()
        _paths.before_reading = _paths.stands_in = None
        for key, value in before.items():
            os.environ.pop(key)
            if value is not None:
                os.environ[key] = value
