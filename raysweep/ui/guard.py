"""Who may ask the page's server: programs of this machine by its own names, and from elsewhere only who has the token.

A web page of a stranger that is open in the same browser can send requests here. It cannot read the answers, because none allows
it; a name of its own that leads to this machine (DNS rebinding) is refused; nothing can be changed, because only GET is answered.
"""

from __future__ import annotations

import hmac
import ipaddress
import secrets
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from aiohttp import web
from aiohttp.typedefs import Middleware

from raysweep._text import truncate

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; base-uri 'none'; "
        "form-action 'self'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",  # an address may have the token
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}


@dataclass(frozen=True)
class Guard:
    """``host``: what the server listens on. ``token``: what others must know; None if nothing is asked for."""

    host: str
    token: str | None = None
    cookie: str = field(default_factory=lambda: f"raysweep_{secrets.token_hex(4)}")  # cookies do not know ports

    def knows(self, host: str) -> bool:
        """Whether this is a name of this machine. The port does not count: an SSH tunnel has another."""
        name = host_name(host)
        if is_loopback(self.host):
            return is_loopback(name)
        mine = {"localhost", self.host.lower(), socket.gethostname().lower(), f"{socket.gethostname().lower()}.local"}
        return name in mine or name.split(".")[0] in mine or _address(name) is not None

    def admits(self, given: str) -> bool:
        """Whether a text is the token; takes the same time for every text."""
        return self.token is not None and hmac.compare_digest(given.encode(errors="replace"), self.token.encode())


def host_name(host: str) -> str:
    """The name in a Host header, without port and brackets.

    >>> host_name("LocalHost:7654"), host_name("[::1]:7654"), host_name("::1")
    ('localhost', '::1', '::1')
    """
    name = host.strip().lower()
    if name.startswith("["):
        return name[1:].partition("]")[0]
    return name if name.count(":") > 1 else name.partition(":")[0].rstrip(".")


def is_loopback(name: str) -> bool:
    """Whether only this machine can mean this machine by a name."""
    found = _address(name)
    return name.lower() == "localhost" if found is None else found.is_loopback


def _address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(name)
    except ValueError:
        return None


def middleware(guard: Guard) -> Middleware:
    """Answers only those who may ask."""

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.method not in ("GET", "HEAD"):
            raise web.HTTPMethodNotAllowed(request.method, ["GET", "HEAD"], text="This page only reads.")
        if not guard.knows(request.host):
            raise web.HTTPForbidden(
                text=f"{truncate(request.host, 80)} is no name of this machine, so this may be a page of a stranger. Open the "
                "address that `raysweep ui` has printed."
            )
        if not _of_this_page(request):
            raise web.HTTPForbidden(
                text="Another web page asked for this. Open the address that `raysweep ui` has printed."
            )
        if guard.token is None:
            return await handler(request)
        if "token" in request.query:
            raise _let_in(request, guard)
        if guard.admits(request.cookies.get(guard.cookie, "")):
            return await handler(request)
        raise web.HTTPUnauthorized(
            text="This page needs a token. Open the whole address that `raysweep ui` has printed, with ?token= at its end."
        )

    return check


def _of_this_page(request: web.Request) -> bool:
    """False for what the page of another site asks for; True for what a user opens, and for programs that are no browser."""
    site = request.headers.get("Sec-Fetch-Site", "none")
    opened = request.headers.get("Sec-Fetch-Mode") == "navigate" and request.headers.get("Sec-Fetch-Dest") == "document"
    return site in ("none", "same-origin") or opened


def _let_in(request: web.Request, guard: Guard) -> web.HTTPException:
    """Keep the token in a cookie and lead to the same address without it, so that it is in no history and on no screen."""
    if not guard.admits(request.query["token"]):
        return web.HTTPUnauthorized(
            text="This is not the token of this page. Every `raysweep ui` has another; open the address that it has printed."
        )
    answer = web.HTTPSeeOther(request.rel_url.without_query_params("token"))
    answer.set_cookie(guard.cookie, str(guard.token), httponly=True, samesite="Lax", path="/")
    return answer
