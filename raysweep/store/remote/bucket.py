"""Access to an object store with botocore: list, read, write, copy and delete the objects under one prefix.

Every write has a condition: the object is new, or is still the one that the writer has seen. So a request that arrives late
replaces nothing that its sender does not know. Retries are bounded, and errors say what to do. Nothing here knows about
experiments. (obstore has no conditions for copies, for deletions and for the end of a multipart upload; pyarrow.fs has none.)
"""

from __future__ import annotations

import contextlib
import functools
import io
import os
import re
import secrets
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, urlencode

from raysweep.errors import RootError, StoreError
from raysweep.store.remote.client import code_of, endpoint, make, of_environment, status_of, why

SCHEME = "s3://"
_OPTIONS = ("region", "endpoint_override", "scheme")
_ATTEMPTS = 5  # per request, made by botocore with growing pauses
_REPEATS = 2  # more, made here, if an object did not arrive as it was sent
_CHUNK = 1 << 23
_FIRST = 1 << 16
_WHOLE = 1 << 28  # a larger object is sent in parts, of which only the broken ones are sent again
_PART, _PARTS, _PARTS_AT_ONCE = 1 << 24, 9_000, 4
_WRITES = ("put_object", "complete_multipart_upload")  # "not found" means an object that was to be replaced
_UNKNOWN = (400, 501)  # how a store answers to a condition that it does not know
_NO_ETAG = '"00000000000000000000000000000000"'
_MARK = "raysweep"  # metadata of an object: which upload has written it


class Found(NamedTuple):
    """One object: its size in bytes, the time of its last write in whole seconds since 1970, and its ETag."""

    size: int
    time: int
    etag: str
    mark: str = ""  # of the upload that wrote it, if :meth:`Bucket.info` has asked for it


class Changed(StoreError):
    """The object is not what a condition says: another writer has made, replaced or deleted it."""


@dataclass
class Bucket:
    """The objects under ``s3://bucket/prefix``. All keys are relative to the prefix."""

    name: str
    prefix: str
    options: dict[str, str] = field(default_factory=dict)
    _conditional: bool | None = field(default=None, compare=False, repr=False)

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
            options = endpoint(options["endpoint_override"]) | {k: v for k, v in pairs if k != "endpoint_override"}
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
        endpoint = {k: v for k, v in of_environment().items() if k != "region"}
        return self.options if "endpoint_override" in self.options else endpoint | self.options

    @property
    def client(self) -> Any:
        """botocore's client. It finds the bucket's region itself if none is given."""
        environment = tuple(sorted((k, v) for k, v in os.environ.items() if k.startswith("AWS_")))
        return make(tuple(sorted((of_environment() | self.options).items())), environment, _ATTEMPTS)

    def check(self) -> None:
        """Make sure that the bucket exists and can be listed.

        Raises:
            RootError: it does not, or cannot.
        """
        try:
            self._call("looked at", "", "list_objects_v2", Prefix=self._below(""), MaxKeys=1)
        except StoreError as error:
            raise RootError(str(error)) from None

    def check_writable(self, key: str) -> None:
        """Make sure that objects can be written and deleted, by writing and deleting one.

        Raises:
            RootError: they cannot.
        """
        try:
            if self._conditional is None:
                self._conditional = self._honours(key)
            else:
                self.put_empty(key)
            self.delete(key)
        except StoreError as error:
            raise RootError(str(error)) from None

    @property
    def conditional(self) -> bool:
        """Whether the store honours the conditions of uploads: some answer that they know none, some ignore all or some of
        them. Tried once, with an object of no content."""
        if self._conditional is None:
            self.check_writable(f".tmp-{secrets.token_hex(8)}")
        return bool(self._conditional)

    def _honours(self, key: str) -> bool:
        """Whether the store refuses to make an object twice (at once and in parts), to replace another one than is there, and
        to replace one that is gone."""
        new, once, other = {"Key": self._path(key), "Body": b""}, {"IfNoneMatch": "*"}, {"IfMatch": _NO_ETAG}

        def refused(action: Callable[..., Any], *arguments: Any, **more: Any) -> bool:
            try:
                action(*arguments, **more)
            except Changed:
                return True
            return False

        put = functools.partial(refused, self._call, "written", key, "put_object", **new)
        try:
            put(**once)  # it may be refused: the answer to a first try was lost
            parts = "written", key, "", 1, lambda number: b"-", once
            if not put(**once) or not put(**other) or not refused(self._send_parts, *parts):
                return False
            self.delete(key)
            return put(**other)
        except StoreError as error:
            if status_of(error.__cause__) not in _UNKNOWN:
                raise
            self._call("written", key, "put_object", **new)
        return False

    def _condition(self, before: str | None) -> dict[str, str]:
        if not self.conditional:
            return {}
        return {"IfNoneMatch": "*"} if before is None else {"IfMatch": before}

    def list(self, below: str = "") -> dict[str, Found]:
        """Every object under a key's folder, by its key.

        Raises:
            StoreError: the objects cannot be listed.
        """
        found: dict[str, Found] = {}
        more: dict[str, str] = {}
        start = len(self._below(""))
        while True:
            page = self._call("listed", below, "list_objects_v2", Prefix=self._below(below), **more)
            for row in page.get("Contents", ()):
                if not row["Key"].endswith("/"):  # the marker of a folder
                    found[row["Key"][start:]] = _found(row, row["Size"])
            if not page.get("IsTruncated"):
                return found
            more = {"ContinuationToken": page["NextContinuationToken"]}

    def info(self, key: str) -> Found | None:
        """What the store says about an object, or None if there is none."""
        try:
            row = self._call("looked at", key, "head_object", Key=self._path(key))
        except FileNotFoundError:
            return None
        return _found(row, row["ContentLength"])._replace(mark=row["Metadata"].get(_MARK, ""))

    def read(self, key: str) -> tuple[bytes, str] | None:
        """The first 64 KiB of an object, and its ETag; None if there is no object."""
        target = io.BytesIO()
        try:
            found = self._receive(key, target, _FIRST)
        except FileNotFoundError:
            return None
        return target.getvalue(), found.etag

    def get(self, key: str, target: Path) -> Found:
        """Download an object into a new local file.

        Raises:
            FileNotFoundError: there is no such object.
            StoreError: it cannot be read, or the local disk cannot be written.
        """
        try:
            with open(target, "wb") as file:
                return self._receive(key, file)
        except OSError as error:
            if error.filename is None and isinstance(error, FileNotFoundError):
                raise
            raise StoreError(
                f"{self.url(key)} could not be read into {target}: {error.strerror}. Free space on that disk, or set "
                "RAYSWEEP_CACHE to another folder."
            ) from error

    def put_empty(self, key: str) -> None:
        """Write an empty object under a name that nobody else uses."""
        with contextlib.suppress(Changed):  # the answer to a first try was lost
            self._send(key, io.BytesIO())

    def put(self, key: str, source: Path, before: str | None) -> Found:
        """Upload a file, and make sure that the object has arrived with its full size.

        Args:
            before: the ETag of the object that is replaced; None for a new one.

        Raises:
            Changed: the object is another one than ``before``; nothing was written.
            StoreError: it has not arrived, after a bounded number of attempts.
        """
        size = source.stat().st_size
        for repeat in range(_REPEATS + 1):
            mark, etag, refused = secrets.token_hex(8), "", None
            try:
                with open(source, "rb") as file:
                    etag = self._send(key, file, before, mark)
            except Changed as error:
                refused = error
            there = self.info(key)
            mine = there is not None and there.mark == mark
            if (
                there is not None and mine and there.size == size
            ):  # also if a first answer was lost and a second try refused
                return there
            if refused is not None and not mine:
                raise refused
            if there is not None and not mine:  # replaced since then; the time makes the local copy differ from it
                return Found(size, there.time - 1, etag)
            before = there.etag if there else None
            time.sleep(0.5 * 2**repeat)
        have = "is not there" if there is None else f"has {there.size:,} bytes"
        raise StoreError(
            f"{self.url(key)} {have} after {size:,} bytes were sent. What was committed before is intact; check the object store."
        )

    def copy(self, source: str, target: str, before: str | None) -> Found | None:
        """Copy an object inside the store, without downloading it; None if the store does not do that.

        Args:
            before: the ETag of the object that is replaced; None for a new one.

        Raises:
            Changed: the object is another one than ``before``.
        """
        where = {"Bucket": self.name, "Key": self._path(source)}
        about = {"Key": self._path(target), "CopySource": where, **self._condition(before)}
        try:
            etag = self._call("copied", target, "copy_object", **about)["CopyObjectResult"]["ETag"]
        except Changed:
            raise
        except (StoreError, FileNotFoundError):  # larger than 5 GiB, or not allowed
            return None
        there = self.info(target)
        return there and there._replace(etag=etag)

    def delete(self, key: str, etag: str | None = None) -> None:
        """Delete an object, if there is one.

        Raises:
            Changed: its ETag is not ``etag``.
        """
        about, condition = {"Key": self._path(key)}, self._condition(etag) if etag else {}
        with contextlib.suppress(FileNotFoundError):
            try:
                self._call("deleted", key, "delete_object", **about, **condition)
            except StoreError as error:
                if not condition or status_of(error.__cause__) not in _UNKNOWN:
                    raise
                self._call("deleted", key, "delete_object", **about)

    def url(self, key: str) -> str:
        """The full address of an object."""
        return f"{self.address}/{key}" if key else self.address

    def _path(self, key: str) -> str:
        return "/".join(p for p in (self.prefix, key) if p)

    def _below(self, key: str) -> str:
        path = self._path(key)
        return f"{path}/" if path else ""

    def _send(self, key: str, source: Any, before: str | None = None, mark: str = "") -> str:
        """Write an object as a whole: the store drops what does not arrive completely. Returns its ETag."""
        size = source.seek(0, os.SEEK_END)
        source.seek(0)
        what = f"written ({size:,} bytes)" if size else "written"
        about = {"Key": self._path(key), "Metadata": {_MARK: mark}}
        condition = self._condition(before)
        if size <= _WHOLE:
            return str(self._call(what, key, "put_object", Body=source, **about, **condition)["ETag"])
        length = max(_PART, -(-size // _PARTS))

        def part(number: int) -> bytes:
            return os.pread(source.fileno(), length, (number - 1) * length)

        return self._send_parts(what, key, mark, -(-size // length), part, condition)

    def _send_parts(
        self, what: str, key: str, mark: str, count: int, part: Callable[[int], bytes], condition: dict[str, str]
    ) -> str:
        """Write an object in parts, which are numbered from 1. Only the last request, which makes one of them, has a condition."""
        about = {"Key": self._path(key)}
        begun = self._call(what, key, "create_multipart_upload", **about, Metadata={_MARK: mark})
        upload = about | {"UploadId": begun["UploadId"]}

        def send(number: int) -> dict[str, Any]:
            sent = self._call(what, key, "upload_part", PartNumber=number, Body=part(number), **upload)
            return {"PartNumber": number, "ETag": sent["ETag"]}

        try:
            with ThreadPoolExecutor(_PARTS_AT_ONCE) as pool:
                parts = {"Parts": list(pool.map(send, range(1, count + 1)))}
            done = self._call(what, key, "complete_multipart_upload", **upload, MultipartUpload=parts, **condition)
            return str(done["ETag"])
        except BaseException:
            with contextlib.suppress(StoreError, FileNotFoundError):  # what is left of it would cost money
                self._call(what, key, "abort_multipart_upload", **upload)
            raise

    def _receive(self, key: str, target: Any, limit: int | None = None) -> Found:
        """Read an object, or its first ``limit`` bytes. A broken download goes on where it broke, if the object is the same."""
        from botocore.exceptions import BotoCoreError

        found: Found | None = None
        for attempt in range(_ATTEMPTS + _REPEATS):
            done = target.tell()
            rest = {} if found is None else {"IfMatch": found.etag, "Range": f"bytes={done}-"}
            try:
                answer = self._call("read", key, "get_object", Key=self._path(key), **rest)
            except Changed:
                found = None
                target.seek(0)
                target.truncate()
                continue
            found = found or _found(answer, answer["ContentLength"])
            try:
                if limit is not None:
                    target.write(answer["Body"].read(limit))
                    answer["Body"].close()
                    return found
                for chunk in answer["Body"].iter_chunks(_CHUNK):
                    target.write(chunk)
                return found
            except BotoCoreError as error:
                if attempt == _ATTEMPTS + _REPEATS - 1:
                    raise self._failed("read", key, error) from error
                if target.tell() == found.size:
                    return found
        raise StoreError(f"{self.url(key)} changed each time while it was read. Try again when nothing writes to it.")

    def _call(self, what: str, key: str, operation: str, **parameters: Any) -> dict[str, Any]:
        """The store's answer to a request.

        Raises:
            FileNotFoundError: there is no such object.
            Changed: the object is not what the request's condition says.
            StoreError: any other error; the message says what to do.
        """
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            answer: dict[str, Any] = getattr(self.client, operation)(Bucket=self.name, **parameters)
        except (BotoCoreError, ClientError) as error:
            failure = self._failed(what, key, error)
            if isinstance(failure, FileNotFoundError) and operation in _WRITES:
                failure = self._changed(key)
            raise failure from error
        return answer

    def _changed(self, key: str) -> Changed:
        return Changed(f"{self.url(key)} was made, replaced or deleted by another writer.")

    def _failed(self, what: str, key: str, error: Any) -> Exception:
        """What to raise for an error of botocore."""
        code, status = code_of(error), status_of(error)
        if status in (409, 412) or code == "NoSuchUpload":  # the last: completed, and the answer to it was lost
            return self._changed(key)
        if status == 404 and code != "NoSuchBucket":
            return FileNotFoundError(self.url(key))
        return StoreError(f"{self.url(key)} could not be {what}: {why(error, self.name)}")


def _without_secret(address: str) -> str:
    return re.sub(r"//.*@", "//…@", address)


def _found(row: dict[str, Any], size: int) -> Found:
    return Found(size, int(row["LastModified"].timestamp()), row["ETag"])
