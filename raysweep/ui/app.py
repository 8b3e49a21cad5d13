"""The web application: which address shows what, the errors as pages, and the stream of news."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from aiohttp import web

from raysweep._text import hide_credentials, truncate
from raysweep.errors import NotFoundError, RaysweepError
from raysweep.report import templates
from raysweep.store.root import Root
from raysweep.ui import guard as guarding
from raysweep.ui.guard import Guard, Handler
from raysweep.ui.listing import Listing
from raysweep.ui.pages import Pages, Query
from raysweep.ui.watch import Reader, Watch

HERE = Path(__file__).parent
STILL = 15.0  # seconds after which a silent stream says that it is there
PAGES: web.AppKey[Pages] = web.AppKey("pages", Pages)
WATCH: web.AppKey[Watch] = web.AppKey("watch", Watch)


def make(root: Root, guard: Guard) -> web.Application:
    """The application; nothing is read before the first request."""
    app = web.Application(middlewares=[guarding.middleware(guard), _errors])
    pages = Pages(root, Listing(root))
    quick, heavy = ThreadPoolExecutor(2, "ui"), ThreadPoolExecutor(1, "ui-computes")
    app[PAGES] = pages

    async def always(_: web.Request, response: web.StreamResponse) -> None:
        for name, value in guarding.HEADERS.items():
            response.headers.setdefault(name, value)

    async def watching(app: web.Application) -> AsyncIterator[None]:
        app[WATCH] = Watch(pages.listing, quick)
        looking = asyncio.create_task(app[WATCH].run())
        yield
        looking.cancel()
        for pool in (quick, heavy):
            pool.shutdown(wait=False, cancel_futures=True)

    app.on_response_prepare.append(always)
    app.cleanup_ctx.append(watching)
    for path, call in pages.quick.items():
        app.router.add_get(path, _shown(call, quick))
    for path, call in pages.heavy.items():
        app.router.add_get(path, _shown(call, heavy))
    app.router.add_get("/events", _events)
    app.router.add_get("/ui.css", _static(_css(), "text/css"))
    app.router.add_get("/ui.js", _static((HERE / "ui.js").read_text(), "text/javascript"))
    return app


def _css() -> str:
    report = Path(templates.__file__).parent
    return "\n".join(p.read_text() for p in (report / "base.css", report / "page.css", HERE / "ui.css"))


def _static(text: str, kind: str) -> Handler:
    async def handler(_: web.Request) -> web.StreamResponse:
        return web.Response(text=text, content_type=kind)

    return handler


def _shown(call: Callable[[str, Query], str | Mapping[str, Any]], pool: ThreadPoolExecutor) -> Handler:
    """Answers with what a function returns: HTML, or values as JSON."""

    async def handler(request: web.Request) -> web.StreamResponse:
        loop = asyncio.get_running_loop()
        made = await loop.run_in_executor(pool, call, request.match_info.get("id", ""), request.query)
        if isinstance(made, str):
            return web.Response(body=made.encode(errors="backslashreplace"), content_type="text/html", charset="utf-8")
        return web.Response(body=json.dumps(made).encode(), content_type="application/json")

    return handler


@web.middleware
async def _errors(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """What went wrong as a page, or, within a page, as a paragraph."""
    try:
        return await handler(request)
    except web.HTTPNotFound:
        status, text = 404, f"There is no page {truncate(request.path, 200)}."
    except web.HTTPException:
        raise
    except NotFoundError as error:
        status, text = 404, str(error)
    except RaysweepError as error:
        status, text = 409, str(error)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, ArithmeticError, IndexError) as error:
        status, text = (
            500,
            f"This cannot be shown ({type(error).__name__}: {error}). A file of it has unexpected content.",
        )
    part = request.headers.get("X-Part") is not None
    made = request.app[PAGES].problem(hide_credentials(text), part)
    return web.Response(
        body=made.encode(errors="backslashreplace"), status=status, content_type="text/html", charset="utf-8"
    )


async def _events(request: web.Request) -> web.StreamResponse:
    """Server-sent events: one whenever something that the page shows has changed."""
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "X-Accel-Buffering": "no"})
    await response.prepare(request)
    reader = Reader(request.query.get("experiment", ""), request.query.get("sweep", ""))
    with request.app[WATCH].reading(reader), contextlib.suppress(ConnectionError):
        await response.write(b"retry: 1000\n\n")
        while True:
            try:
                await asyncio.wait_for(reader.news.wait(), STILL)
            except TimeoutError:
                await response.write(b": still here\n\n")
                continue
            await response.write(f"data: {reader.told()}\n\n".encode())
    return response
