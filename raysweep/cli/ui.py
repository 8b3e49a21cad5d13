"""``raysweep ui``: a page on this machine that shows the experiments while they train."""

from __future__ import annotations

import typer

from raysweep._text import plain
from raysweep.cli.options import RootOption
from raysweep.display.terminal import say
from raysweep.store.root import Root

PORT = 7654


def register(app: typer.Typer) -> None:
    app.command("ui")(ui)


def ui(
    host: str = typer.Option(
        "127.0.0.1",
        "--host",
        help="Where it can be reached. 0.0.0.0: from other machines, which need the token that is printed.",
    ),
    port: int = typer.Option(PORT, "--port", min=0, max=65535, help="If it is taken, the next free one. 0: any."),
    token: bool = typer.Option(False, "--token", help="Ask for a token on this machine, too: others use it as well."),
    no_browser: bool = typer.Option(False, "--no-browser", help="Do not open a browser."),
    root: RootOption = "experiments",
) -> None:
    """Show the experiments on a page in the browser. It follows what trains, changes nothing, and can be closed at any time."""
    from raysweep.errors import ResourceError

    found = Root.open(root, look=False)
    try:
        from raysweep.ui import serve
    except ModuleNotFoundError as error:
        if str(error.name).startswith("raysweep"):
            raise
        raise ResourceError(
            f"raysweep ui needs {error.name}, which is not installed. Install it with: pip install {error.name}"
        ) from None
    try:
        serve.run(found, host, port, token, not no_browser, _address, lambda text: say(plain(text)))
    except KeyboardInterrupt:
        say("Stopped. The page only read; everything is as it was.")


def _address(text: str) -> None:
    """Print the address with its token, which other lines would hide."""
    print(plain(text), flush=True)
