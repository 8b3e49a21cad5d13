"""Ask the page's application as a browser does, in this process; and write epochs as a training does."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from raysweep.store import files, layout, lineage
from raysweep.store.experiment import Experiment
from raysweep.store.records_manifest import Manifest
from raysweep.store.root import Root


@dataclass(frozen=True)
class Answer:
    status: int
    text: str
    headers: Any


def with_client(
    root: Path | str, use: Callable[[Any], Awaitable[Any]], host: str = "127.0.0.1", token: str | None = None
) -> Any:
    """What ``use`` returns; it gets a client of the application."""
    from aiohttp.test_utils import TestClient, TestServer

    from raysweep.ui.app import make
    from raysweep.ui.guard import Guard

    async def go() -> Any:
        async with TestClient(TestServer(make(Root.open(root), Guard(host, token)))) as client:
            return await use(client)

    return asyncio.run(go())


def ask(
    root: Path | str,
    *paths: str,
    host: str = "127.0.0.1",
    token: str | None = None,
    method: str = "GET",
    **headers: str,
) -> list[Answer]:
    """The answers to some addresses, without following where they lead. In the names of headers, ``_`` stands for ``-``."""
    from yarl import URL

    sent = {name.replace("_", "-"): value for name, value in headers.items()}

    async def use(client: Any) -> list[Answer]:
        found = []
        for path in paths:
            address = URL(str(client.make_url("/")).rstrip("/") + path, encoded=True)
            async with client.session.request(method, address, headers=sent, allow_redirects=False) as answer:
                found.append(Answer(answer.status, await answer.text(), answer.headers))
        return found

    return with_client(root, use, host, token)


def add_epoch(experiment: Experiment, accuracy: float = 0.5) -> int:
    """One more epoch in the history and in the manifest, as a training writes them; returns its number."""
    path = experiment.folder / layout.HISTORY_CSV
    lines = path.read_text().splitlines()
    head, last = lines[0].split(","), lines[-1].split(",")
    epoch = int(last[head.index("epoch")]) + 1
    last[head.index("epoch")], last[head.index("val_acc")] = str(epoch), str(accuracy)
    manifest = experiment.manifest()
    before = manifest.entries[-1]
    entry = replace(
        before,
        epoch=epoch,
        file=layout.checkpoint_name(layout.Position(epoch, None)),
        metrics={**before.metrics, "val_acc": accuracy},
    )
    files.write_atomic(path, ("\n".join([*lines, ",".join(last)]) + "\n").encode())
    experiment.write_manifest(Manifest([*manifest.entries, entry], manifest.best))
    return epoch


def go_on(experiment: Experiment) -> Any:
    """As a training that was continued and runs in this process; returns its lock."""
    from raysweep.store.lock import WriterLock

    held = WriterLock.acquire(experiment.folder)
    lineage.record(experiment.folder, lineage.CONTINUED)
    return held
