"""News reach the open page: an epoch that was written is told to whoever looks at its experiment, and to nobody else."""

from __future__ import annotations

import asyncio
import json

from raysweep.store.experiment import Experiment
from tests.ui.asking import add_epoch, go_on, with_client


async def told(stream, seconds=60.0):
    """The next event of a stream."""
    while True:
        line = await asyncio.wait_for(stream.content.readline(), seconds)
        assert line, "the stream has ended"
        if line.startswith(b"data: "):
            return json.loads(line[6:])


def test_a_new_epoch_is_told_to_who_looks_at_it(own_root):
    child, other = (next(own_root.glob(f"{name}*")) for name in ("s-rare5", "s-control"))
    sweep = next((own_root / "sweeps").iterdir()).name
    lock = go_on(Experiment(child))

    async def use(client):
        pages = [
            await client.get(f"/events?{query}")
            for query in (f"experiment={child.name}", f"sweep={sweep}", "", f"experiment={other.name}")
        ]
        mine, whole, every, others = pages
        assert mine.content_type == "text/event-stream"
        for page in (mine, whole, every, others):  # the first look
            await told(page)
        epoch = add_epoch(Experiment(child), 0.66)
        for page in (mine, whole, every):
            assert await told(page) == {"ended": False}
        state = await (await client.get(f"/experiments/{child.name}/state")).text()
        assert f"{epoch} of" in state
        assert "66.0%" in state
        curves = await (await client.get(f"/experiments/{child.name}/curves")).json()
        assert curves["lines"][0]["epochs"][-1] == epoch
        lock.release()
        while not (await told(mine))["ended"]:
            pass
        assert others.content.total_bytes < 200  # it was told nothing more than its first look
        for page in pages:
            page.close()

    with_client(own_root, use)


def test_without_a_page_nobody_looks(own_root, monkeypatch):
    from raysweep.ui import listing, watch

    looks = []
    monkeypatch.setattr(watch, "TICK", 0.01)
    monkeypatch.setattr(listing.Listing, "look", lambda self: looks.append(1) or set())

    async def use(client):
        await asyncio.sleep(0.05)
        before = len(looks)
        page = await client.get("/events")
        while not looks:
            await asyncio.sleep(0.01)
        page.close()
        return before

    assert with_client(own_root, use) == 0
