"""Access to an object store with pyarrow.fs: list, read, write, copy and delete the objects under one prefix.

Retries are bounded, and errors say what to do. Nothing here knows about experiments.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from urllib.parse import parse_qsl, urlencode

from raysweep.errors import RootError, StoreError

SCHEME = "s3://"
_OPTIONS = ("region", "endpoint_override", "scheme")
_ATTEMPTS = 5  # per request, made by the AWS SDK with growing pauses
_REPEATS = 2  # more, made here, if an object did not arrive as it was sent
_CONNECT_S, _REQUEST_S = 5.0, 30.0
_CHUNK = 1 << 23
_FIRST = 1 << 16
_T = TypeVar("_T")


class Found(NamedTuple):
    """One object: its size in bytes, and the time of its last write in whole seconds since 1970."""

    size: int
    time: int


@dataclass
class Bucket:
    """The objects under ``s3://bucket/prefix``. All keys are relative to the prefix."""

    name: str
    prefix: str
    options: dict[str, str] = field(default_factory=dict)
    _fs: Any = None

    @classmethod
    def parse(cls, text: str) -> Bucket:
        """The bucket of an address ``s3://bucket/prefix?region=…&endpoint_override=host:port&scheme=http``.

        Raises:
            RootError: the text is not such an address.
        """
        address, _, query = str(text).partition("?")
        where = re.fullmatch(r"s3://?([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:/+(.*))?", address)
        if where is None:
            raise RootError(
                f"{_without_secret(str(text)[:200])} is not an address in an object store. Write s3://bucket/prefix, without a "
                "user or password; the name of the bucket has 3 to 63 lower-case letters, digits, dots and hyphens."
            )
        parts = [p for p in (where[2] or "").split("/") if p]
        if any(p in (".", "..") for p in parts):
            raise RootError(
                f"{str(text)[:200]}: the prefix contains . or .., which have no meaning in an object store. Write the full prefix."
            )
        pairs = parse_qsl(query, keep_blank_values=True)
        unknown = sorted({k for k, _ in pairs} - {*_OPTIONS})
        if unknown:
            raise RootError(
                f"{address} has the unknown option{'s' * (len(unknown) > 1)} {', '.join(unknown)}; the options behind the question "
                f"mark are {', '.join(_OPTIONS)}. Credentials come from the environment only: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or the machine's role."
            )
        options = dict(pairs)
        if "endpoint_override" in options:
            options = _endpoint(options["endpoint_override"]) | {k: v for k, v in pairs if k != "endpoint_override"}
        if options.get("scheme", "https") not in ("http", "https"):
            raise RootError(f"{address}: scheme must be http or https, not {options['scheme'][:20]}.")
        return cls(where[1], "/".join(parts), options)

    @property
    def address(self) -> str:
        """The address in its normal form, without the options."""
        return SCHEME + "/".join(p for p in (self.name, self.prefix) if p)

    @property
    def query(self) -> str:
        """The options as they follow the address, with the question mark; empty if there are none."""
        return "?" + urlencode(self.options, safe=":/") if self.options else ""

    @property
    def place(self) -> dict[str, str]:
        """The options, with the endpoint from the environment. Two stores may have buckets of the same name."""
        endpoint = {k: v for k, v in _of_environment().items() if k != "region"}
        return self.options if "endpoint_override" in self.options else endpoint | self.options

    @property
    def fs(self) -> Any:
        """The ``pyarrow.fs.S3FileSystem``, connected at the first use."""
        if self._fs is None:
            from pyarrow import fs

            options = _of_environment() | self.options
            region = options.get("region")
            if region is None and "endpoint_override" not in options:
                region = self._try("looked at", "", lambda: fs.resolve_s3_region(self.name))
            self._fs = fs.S3FileSystem(
                region=region or "us-east-1",
                endpoint_override=options.get("endpoint_override"),
                scheme=options.get("scheme", "https"),
                connect_timeout=_CONNECT_S,
                request_timeout=_REQUEST_S,
                allow_delayed_open=True,  # a small object is one request, not three
                retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=_ATTEMPTS),
            )
        return self._fs

    def check(self) -> None:
        """Make sure that the bucket exists and can be listed.

        Raises:
            RootError: it does not, or cannot.
        """
        from pyarrow import fs

        try:
            self._try("looked at", "", lambda: self.fs.get_file_info(fs.FileSelector(self._path(""))))
        except FileNotFoundError:
            pass  # nothing is under the prefix yet
        except StoreError as error:
            raise RootError(str(error)) from None

    def check_writable(self, key: str) -> None:
        """Make sure that objects can be written and deleted, by writing and deleting one.

        Raises:
            RootError: they cannot.
        """
        try:
            self.put_empty(key)
            self.delete(key)
        except StoreError as error:
            raise RootError(str(error)) from None

    def list(self, below: str = "") -> dict[str, Found]:
        """Every object under a key's folder, by its key.

        Raises:
            StoreError: the objects cannot be listed.
        """
        from pyarrow import fs

        try:
            rows = self._try(
                "listed", below, lambda: self.fs.get_file_info(fs.FileSelector(self._path(below), recursive=True))
            )
        except FileNotFoundError:
            return {}
        start = len(self._path("")) + 1
        return {r.path[start:]: _found(r) for r in rows if r.type == fs.FileType.File}

    def info(self, key: str) -> Found | None:
        """Size and time of an object, or None if there is none."""
        from pyarrow import fs

        row = self._try("looked at", key, lambda: self.fs.get_file_info(self._path(key)))
        return _found(row) if row.type == fs.FileType.File else None

    def read(self, key: str) -> bytes | None:
        """The first 64 KiB of an object, or None if there is none."""

        def action() -> bytes:
            with self.fs.open_input_stream(self._path(key)) as source:
                first: bytes = source.read(_FIRST)
            return first

        try:
            return self._try("read", key, action)
        except FileNotFoundError:
            return None

    def get(self, key: str, target: Path) -> Found:
        """Download an object into a new local file.

        Raises:
            FileNotFoundError: there is no such object.
            StoreError: it cannot be read, or the local disk cannot be written.
        """
        for _ in range(_REPEATS + 1):
            found, size = self._try("read", key, lambda: self._receive(key, target))
            if found.size == size:
                return found
        raise StoreError(f"{self.url(key)} changed each time while it was read. Try again when nothing writes to it.")

    def put_empty(self, key: str) -> None:
        """Write an empty object."""
        self._try("written", key, lambda: self._send(key, io.BytesIO()))

    def put(self, key: str, source: Path) -> Found:
        """Upload a file, and make sure that the object has arrived with its full size.

        Raises:
            StoreError: it has not, after a bounded number of attempts.
        """
        size = source.stat().st_size
        there = None
        for repeat in range(_REPEATS + 1):
            with open(source, "rb") as file:
                self._try(f"written ({size:,} bytes)", key, lambda file=file: self._send(key, file))  # type: ignore[misc]
            there = self.info(key)
            if there is not None and there.size == size:
                return there
            time.sleep(0.5 * 2**repeat)
        have = "is not there" if there is None else f"has {there.size:,} bytes"
        raise StoreError(
            f"{self.url(key)} {have} after {size:,} bytes were sent. What was committed before is intact; check the object store."
        )

    def copy(self, source: str, target: str) -> Found | None:
        """Copy an object inside the store, without downloading it; None if the store does not do that."""
        try:
            self.fs.copy_file(self._path(source), self._path(target))
        except OSError:  # larger than 5 GiB, or not allowed
            return None
        return self.info(target)

    def delete(self, key: str) -> None:
        """Delete an object, if there is one."""
        with contextlib.suppress(FileNotFoundError):
            self._try("deleted", key, lambda: self.fs.delete_file(self._path(key)))

    def url(self, key: str) -> str:
        """The full address of an object."""
        return f"{self.address}/{key}" if key else self.address

    def _path(self, key: str) -> str:
        return "/".join(p for p in (self.name, self.prefix, key) if p)

    def _send(self, key: str, source: Any) -> None:
        """Write an object in a separate thread, which no signal interrupts.

        If an exception dropped arrow's stream halfway, the stream would commit the incomplete object.
        """
        failed: list[BaseException] = []

        def run() -> None:
            try:
                self._write(key, source)
            except BaseException as error:
                failed.append(error)

        thread = threading.Thread(target=run, name="raysweep-upload")
        try:
            thread.start()
            thread.join()
        except BaseException:
            for _ in range(100):  # the signal may have come while the thread was starting
                if thread.ident is not None:
                    thread.join()
                    break
                time.sleep(0.01)
            raise
        if failed:
            raise failed[0]

    def _write(self, key: str, source: Any) -> None:
        source.seek(0)
        chunk = source.read(_CHUNK)  # before the stream exists
        out = self.fs.open_output_stream(self._path(key))
        while chunk:
            out.write(chunk)
            try:
                chunk = source.read(_CHUNK)
            except BaseException:
                out.close()
                self.delete(key)  # it is incomplete
                raise
        out.close()

    def _receive(self, key: str, target: Path) -> tuple[Found, int]:
        """(what the store said about the object before the download, bytes received); -1 bytes if the object was replaced."""
        size = 0
        with self.fs.open_input_stream(self._path(key)) as source, open(target, "wb") as file:
            before = {k: v.decode() for k, v in source.metadata().items()}
            while chunk := source.read(_CHUNK):
                size += file.write(chunk)
        if size > _CHUNK:  # it came in several pieces, perhaps of two different objects
            with self.fs.open_input_stream(self._path(key)) as source:
                if {k: v.decode() for k, v in source.metadata().items()} != before:
                    size = -1
        when = datetime.fromisoformat(before["Last-Modified"]).timestamp()
        return Found(int(before["Content-Length"]), int(when)), size

    def _try(self, what: str, key: str, action: Callable[[], _T]) -> _T:
        """The result of an action on an object.

        Raises:
            FileNotFoundError: the action raised it.
            StoreError: the action raised any other OSError; the message says what to do.
        """
        try:
            return action()
        except FileNotFoundError:
            raise
        except OSError as error:
            raise StoreError(f"{self.url(key)} could not be {what}: {_why(str(error), self.name)}") from error


def _endpoint(text: str) -> dict[str, str]:
    """The options of an endpoint: ``host:9000``, or ``http://host:9000`` as in AWS's own tools."""
    scheme, _, host = text.rpartition("://")
    return {"endpoint_override": host.rstrip("/")} | ({"scheme": scheme} if scheme else {})


def _without_secret(address: str) -> str:
    return re.sub(r"//.*@", "//…@", address)


def _of_environment() -> dict[str, str]:
    """Options from the variables that AWS's own tools read, because pyarrow's constructor ignores them."""
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    return ({"region": region} if region else {}) | (_endpoint(endpoint) if endpoint else {})


def _found(row: Any) -> Found:
    return Found(int(row.size or 0), int(row.mtime_ns or 0) // 1_000_000_000)


def _why(text: str, bucket: str) -> str:
    """The reason in an error of the AWS SDK, and what to do about it."""
    if "NO_SUCH_BUCKET" in text or "NoSuchBucket" in text or ("ucket" in text and "not found" in text):
        return f"there is no bucket {bucket}. Create it, or correct the address (or its region or endpoint_override)."
    keys = (
        "ACCESS_DENIED",
        "INVALID_ACCESS_KEY_ID",
        "INVALID_CLIENT_TOKEN_ID",
        "SIGNATURE_DOES_NOT_MATCH",
        "UNRECOGNIZED_CLIENT",
    )
    if any(k in text for k in keys) or "HTTP status 403" in text or "HTTP status 401" in text:
        return (
            "access is denied (403). Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE or the machine's role to ones "
            f"that may list, read, write and delete in {bucket}."
        )
    if "EXPIRED_TOKEN" in text or "ExpiredToken" in text:
        return "the credentials have expired. Get new ones; what was committed before is intact."
    said = re.sub(r"\s*\(Request ID:[^)]*\)", "", text.partition(": AWS Error ")[2] or text)[:300]
    if "NETWORK_CONNECTION" in text or "curlCode" in text:
        return (
            f"nothing answers ({said}). Check the network and endpoint_override; what was committed before is intact."
        )
    return f"{said}. What was committed before is intact; check the object store."
