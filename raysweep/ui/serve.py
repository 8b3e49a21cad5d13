"""Start the page's server: a free port, the address that is printed, the browser, and its end."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import secrets
import socket
import sys
import threading
from collections.abc import Callable

from aiohttp import web

from raysweep.errors import InputError
from raysweep.store.root import Root
from raysweep.ui.app import make
from raysweep.ui.guard import Guard, is_loopback

TRIES = 50  # ports
Say = Callable[[str], None]


def run(root: Root, host: str, port: int, with_token: bool, browser: bool, put: Say, say: Say) -> None:
    """Serve until the process is stopped, which raises KeyboardInterrupt.

    Args:
        with_token: ask for a token on this machine, too.
        put, say: print the address; print a sentence.

    Raises:
        InputError: the host or the ports cannot be used, or the root is on an object store.
    """
    if root.is_remote:
        raise InputError(
            f"{root.address} is on an object store, and the page follows folders of this machine only. Copy what you want to see "
            "(`aws s3 sync`, or what your store has), and show the copy: raysweep ui --root FOLDER. `raysweep list`, `show`, `compare` "
            "and `report` read the object store itself."
        )
    here = is_loopback(host)
    token = secrets.token_urlsafe(24) if with_token or not here else None
    bound = bind(host, port)
    got = bound.getsockname()[1]
    if port not in (0, got):
        say(f"Port {port} is taken, so this page has port {got}.")
    address = f"http://{shown_host(host)}:{got}/" + (f"?token={token}" if token else "")
    say(f"The experiments under {root.address}, on a page that follows what trains. Ctrl-C ends it.")
    if not here:
        say(
            f"Whoever has this address can read them; what is sent is not encrypted. An SSH tunnel is safer: `ssh -L {got}:127.0.0.1:{got} THIS_MACHINE`, and no --host here."
        )
    put(address)
    if browser and token is None and can_open():  # the token would be among the arguments of the browser's process
        threading.Thread(target=_open, args=(address,), daemon=True).start()
    asyncio.run(_serve(root, Guard(host, token), bound))


def shown_host(host: str) -> str:
    """The host in an address. One that stands for all addresses of this machine is shown by the machine's name."""
    if host in ("0.0.0.0", "::", ""):
        return socket.gethostname()
    return f"[{host}]" if ":" in host else host


def bind(host: str, port: int) -> socket.socket:
    """A socket at the first free port from ``port`` on.

    Raises:
        InputError: there is none, or the host is no address of this machine.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it cannot be the name of a machine"
        raise InputError(f"--host {host}: {reason}. Give an address of this machine, such as 127.0.0.1.") from None
    for wanted in range(port, port + TRIES if port else 1):
        if wanted > 65535:
            break
        made = socket.socket(family, socket.SOCK_STREAM)
        try:
            if os.name == "posix":
                made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.bind((address[0], wanted, *address[2:]))
            made.listen(128)
            return made
        except OSError as error:
            made.close()
            if error.errno != errno.EADDRINUSE:
                raise InputError(
                    f"{host}, port {wanted} cannot be used: {error.strerror}. Choose another --port or --host."
                ) from None
    raise InputError(f"All ports from {port} to {min(65535, port + TRIES - 1)} are taken. Choose another with --port.")


def can_open() -> bool:
    """Whether there is a browser with a window here: not in a session on another machine, not in a text terminal."""
    if sys.platform in ("darwin", "win32"):
        return "SSH_CONNECTION" not in os.environ
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def _open(address: str) -> None:
    import webbrowser

    with contextlib.suppress(Exception):  # a browser that does not start: the address is printed
        webbrowser.open(address)


async def _serve(root: Root, guard: Guard, bound: socket.socket) -> None:
    runner = web.AppRunner(make(root, guard), access_log=None, shutdown_timeout=0.2, handle_signals=False)
    await runner.setup()
    try:
        await web.SockSite(runner, bound).start()
        await asyncio.Event().wait()
    finally:
        await runner.cleanup()
