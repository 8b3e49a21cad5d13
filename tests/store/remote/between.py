"""A proxy between raysweep and Moto's server, which sees every request: counts it, fails it, or holds it back.

It adds what S3 does and Moto (5.2) does not: ``If-Match`` and ``If-None-Match`` of a copy, and ``If-Match`` of the request
that completes a multipart upload. It can also play a store that knows no conditions, or only some.
"""

from __future__ import annotations

import contextlib
import http.client
import http.server
import os
import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Self
from urllib.parse import unquote, urlsplit

_REFUSED = (
    b"<Error><Code>PreconditionFailed</Code><Message>At least one of the pre-conditions did not hold</Message></Error>"
)
_MISSING = b"<Error><Code>NoSuchKey</Code><Message>The specified key does not exist.</Message></Error>"
_OF_THE_CONNECTION = ("connection", "expect", "transfer-encoding", "content-length")


def every(usual: int) -> int:
    """How many requests lie between two that a slow test stops or fails; all of them with ``RAYSWEEP_FAULT_STEP=1``."""
    return int(os.environ.get("RAYSWEEP_FAULT_STEP", usual))


@dataclass(frozen=True)
class Request:
    """One request, as the proxy sees it; ``number`` counts from 1."""

    number: int
    method: str
    path: str  # of the object, without the query
    query: str
    headers: dict[str, str]  # names in lower case

    @property
    def name(self) -> str:
        """The method and the last part of the object's key."""
        return f"{self.method} {self.path.rpartition('/')[2]}"


@dataclass
class Between:
    """The proxy, while it is entered.

    Attributes:
        decide: called before a request is passed on. It returns None to pass it on, a status to answer instead, or
            ``"reset"`` to cut the connection. It may wait.
        after: the same once the store has answered, and before the answer is passed on.
        conditions: ``"honoured"``, ``"ignored"``, or the status with which a store answers that does not know them. Some
            know a part of them: ``"new"`` only that an object is new, ``"there"`` not that there is one to be replaced,
            ``"small"`` not those of uploads in parts, and ``"uploads"`` only those of uploads (it answers 501 to the others).
    """

    target: int
    decide: Callable[[Request], int | str | None] = lambda request: None
    after: Callable[[Request], int | str | None] = lambda request: None
    conditions: str | int = "honoured"
    seen: list[Request] = field(default_factory=list)

    def __enter__(self) -> Self:
        outer, lock, writing = self, threading.Lock(), threading.Lock()

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def answer(self) -> None:
                body = self.body()
                address = urlsplit(self.path)
                headers = {k.lower(): v for k, v in self.headers.items()}
                with lock:
                    request = Request(len(outer.seen) + 1, self.command, unquote(address.path), address.query, headers)
                    outer.seen.append(request)
                if self.stopped(outer.decide(request)):
                    return
                with writing if self.command in ("PUT", "POST", "DELETE") else contextlib.nullcontext():
                    status, reply, found = outer._passed(request, self.path, dict(self.headers.items()), body)
                if not self.stopped(outer.after(request)):
                    self.reply(status, reply, found)

            def body(self) -> bytes:
                if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
                    return self.rfile.read(int(self.headers.get("Content-Length") or 0))
                found = b""
                while size := int(self.rfile.readline().partition(b";")[0], 16):
                    found += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
                return found

            def stopped(self, what: int | str | None) -> bool:
                if what == "reset":
                    self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    self.close_connection = True
                elif isinstance(what, int):
                    code = {403: "AccessDenied", 501: "NotImplemented"}.get(what, "InternalError")
                    self.reply(what, f"<Error><Code>{code}</Code><Message>by the test</Message></Error>".encode(), {})
                return what is not None

            def reply(self, status: int, body: bytes, headers: dict[str, str]) -> None:
                with contextlib.suppress(OSError):
                    self.send_response_only(status)
                    kept = {k.lower(): v for k, v in headers.items()} | {"connection": "keep-alive"}
                    kept.pop("transfer-encoding", None)
                    for key, value in ({"content-length": str(len(body))} | kept).items():
                        self.send_header(key, value)
                    self.end_headers()
                    if self.command != "HEAD":
                        self.wfile.write(body)

            do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = answer

            def log_message(self, *_: Any) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _passed(
        self, request: Request, path: str, headers: dict[str, str], body: bytes
    ) -> tuple[int, bytes, dict[str, str]]:
        """Status, body and headers of the store's answer."""
        given = {k: request.headers[k] for k in ("if-match", "if-none-match") if k in request.headers}
        if given and request.method in ("PUT", "POST", "DELETE"):
            upload = request.method != "DELETE" and "x-amz-copy-source" not in request.headers
            if isinstance(self.conditions, int) or (self.conditions == "uploads" and not upload):
                status = self.conditions if isinstance(self.conditions, int) else 501
                return status, b"<Error><Code>NotImplemented</Code><Message>no</Message></Error>", {}
            plain = {k: v for k, v in headers.items() if k.lower() not in given}
            ignored = {"ignored": True, "new": "if-match" in given, "small": request.method == "POST"}
            if ignored.get(str(self.conditions)):
                headers = plain
            elif self.conditions == "there" or not upload or request.method == "POST":
                status, _, there = self._ask(
                    "HEAD", path.partition("?")[0], {"Authorization": headers["Authorization"]}, b""
                )
                etag = {k.lower(): v for k, v in there.items()}.get("etag") if status == 200 else None
                if "if-match" in given and etag is None and self.conditions != "there":
                    return 404, _MISSING, {}
                if (given.get("if-match", etag) != etag and etag is not None) or ("if-none-match" in given and etag):
                    return 412, _REFUSED, {}
                headers = plain
        return self._ask(request.method, path, headers, body)

    def _ask(self, method: str, path: str, headers: dict[str, str], body: bytes) -> tuple[int, bytes, dict[str, str]]:
        server = http.client.HTTPConnection("127.0.0.1", self.target, timeout=60)
        try:
            kept = {k: v for k, v in headers.items() if k.lower() not in _OF_THE_CONNECTION}
            server.request(method, path, body or None, kept)
            answer = server.getresponse()
            return answer.status, answer.read(), dict(answer.getheaders())
        finally:
            server.close()
