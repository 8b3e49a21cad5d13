"""The page in Chromium: light, dark, on a telephone, with a training going on behind it."""

from __future__ import annotations

import asyncio
import contextlib
import re
import threading

import pytest

from raysweep.store import layout
from raysweep.store.experiment import Experiment
from raysweep.store.root import Root
from tests.ui.asking import add_epoch, go_on
from tests.ui.conftest import EVIL


@contextlib.contextmanager
def served(root):
    """The address of the page of a root, served by a thread."""
    from aiohttp import web

    from raysweep.ui import serve
    from raysweep.ui.app import make
    from raysweep.ui.guard import Guard

    bound, loop, up = serve.bind("127.0.0.1", 0), asyncio.new_event_loop(), threading.Event()
    runner = web.AppRunner(make(Root.open(root), Guard("127.0.0.1")), shutdown_timeout=0.1)

    async def begin():
        await runner.setup()
        await web.SockSite(runner, bound).start()
        up.set()

    def run():
        loop.run_until_complete(begin())
        loop.run_forever()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    assert up.wait(60)
    try:
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(60)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(60)


@pytest.fixture
def serving():
    """Serves the page of a root until the test has ended; returns its address."""
    with contextlib.ExitStack() as stack:
        yield lambda root: stack.enter_context(served(root))


@pytest.fixture
def opened(browser, serving):  # the browser closes its pages before the server ends
    """Opens pages and notes whatever the browser complains about: errors, and what the page's own policy forbids."""
    contexts, messages = [], []

    def go(address, width=1200, scheme="light"):
        contexts.append(browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme))
        tab = contexts[-1].new_page()
        tab.set_default_timeout(120_000)
        tab.on("console", lambda m: messages.append(m.text) if m.type in ("error", "warning") else None)
        tab.on("pageerror", lambda e: messages.append(str(e)))
        tab.on("dialog", lambda d: (messages.append("dialog"), d.dismiss()))
        here = re.match("http://[^/]+/?", address)[0]
        tab.on("request", lambda r: None if r.url.startswith((here, "data:")) else messages.append(r.url))
        tab.goto(address)
        return tab

    yield go
    for context in contexts:
        context.close()
    assert messages == []


def settled(tab):
    """Scroll through the page until every part is there."""
    while tab.locator(".busy, [aria-busy]").count():
        tab.evaluate("document.querySelector('.busy, [aria-busy]')?.scrollIntoView()")
        tab.wait_for_timeout(50)


def tip_of(tab):
    """What the pointer is told over the first chart. More news may draw the chart anew under it, which takes the tip away."""
    from playwright.sync_api import TimeoutError as NoAnswer

    for _ in range(20):
        tab.mouse.move(0, 0)
        tab.locator(".charts svg").first.hover()
        with contextlib.suppress(NoAnswer):
            return tab.locator(".tip:visible").inner_text(timeout=1000)
    raise AssertionError("no tip")


def test_a_new_epoch_is_on_the_open_page(opened, serving, own_root):
    child = next(own_root.glob("s-rare5*"))
    lock = go_on(Experiment(child))
    address = serving(own_root)
    tab = opened(f"{address}/experiments/{child.name}")
    tab.locator("#live.on").wait_for()
    tab.locator("text=/^4 of [0-9]+ epochs/").wait_for()
    circles = tab.locator(".charts figure:nth-child(2) circle")
    circles.first.wait_for()
    before = circles.count()
    add_epoch(Experiment(child), 0.987)
    tab.locator("text=/^5 of [0-9]+ epochs/").wait_for()
    tab.locator(f".charts figure:nth-child(2) circle:nth-of-type({before + 1})").wait_for(state="attached")
    assert circles.count() == before + 1
    assert "epoch" in tip_of(tab)
    lock.release()
    tab.locator(".status.is-crashed").wait_for()  # it was released without an end


def test_the_list_is_filtered_and_sorted_in_place(opened, serving, made_root):
    address = serving(made_root)
    tab = opened(address)
    rows = tab.locator("#rows tbody tr")
    assert rows.count() == 3
    tab.locator("input[name=q]").fill("RARE5")
    tab.locator("text=1–1 of 1 that fit").wait_for()
    assert rows.count() == 1
    assert tab.url.endswith("?q=RARE5&sort=created&order=down")
    tab.locator("text=Show all").click()
    tab.locator("text=1–3 of 3").wait_for()
    assert tab.locator("input[name=q]").input_value() == ""
    tab.locator("th a:has-text('accuracy')").click()
    tab.locator("th[aria-sort=descending]:has-text('accuracy')").wait_for()
    shown = [float(text.rstrip("%")) for text in tab.locator("#rows td:nth-child(4)").all_inner_texts()]
    assert shown == sorted(shown, reverse=True)
    tab.go_back()
    tab.locator("th[aria-sort]:has-text('age')").wait_for()
    tab.locator("#rows a:has-text('s-rare5')").click()
    tab.locator("h1:has-text('s-rare5')").wait_for()


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1200, 390])
def test_every_page_fits_and_has_its_colours(opened, serving, made_root, scheme, width):
    sweep = next((made_root / layout.SWEEPS).iterdir()).name
    child = next(made_root.glob("s-rare5*")).name
    address = serving(made_root)
    for path in ("/", "/sweeps", f"/sweeps/{sweep}", f"/experiments/{child}", "/lineage"):
        tab = opened(address + path, width, scheme)
        settled(tab)
        assert tab.evaluate("document.documentElement.scrollWidth") <= width, path
        back = tab.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, re.findall(r"\d+", back)[:3])) < 200) == (scheme == "dark")
        assert tab.locator(".problem").count() == 0
    tab = opened(f"{address}/sweeps/{sweep}", width, scheme)
    settled(tab)
    assert EVIL in tab.locator(".heat:visible").inner_text()
    cell = tab.locator(".heat:visible td.better, .heat:visible td.worse").first
    assert cell.evaluate("e => getComputedStyle(e).backgroundColor").startswith("rgba")
    tab.locator("#flips select[name=class]").select_option("rare")
    of_class = "() => [...new Set([...document.querySelectorAll('#flips figcaption b')].map(e => e.innerText))].join() === 'rare'"
    tab.wait_for_function(of_class)
    tab.locator("#tree a:has-text('s-rare5')").click()
    tab.locator("h1:has-text('s-rare5')").wait_for()


@pytest.mark.slow
@pytest.mark.ray
def test_a_real_training_is_followed(opened, serving, tmp_path, image_folder):
    import subprocess
    import sys

    root = tmp_path / "experiments"
    words = [
        sys.executable,
        "-m",
        "raysweep",
        "run",
        f"data.path={image_folder}",
        "model=cnn",
        "--root",
        root,
        "--epochs",
        6,
        "--workers",
        0,
    ]
    address = serving(root)
    tab = opened(address)
    tab.locator("text=There is no experiment here yet").wait_for()
    training = subprocess.Popen([*map(str, words)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    tab.locator("#rows tbody tr").wait_for()
    tab.locator("#rows tbody a").first.click()
    tab.locator("text=6 of 6 epochs").wait_for()
    tab.locator(".status.is-finished").first.wait_for()
    assert training.wait(120) == 0, training.stderr.read()
    assert tab.locator(".charts figure:nth-child(2) circle").count() == 6
    settled(tab)
    assert tab.locator("table.cm").count() == 1
