"""The command: a port that is taken, an address that is none, the token, the browser, and its end."""

from __future__ import annotations

import asyncio
import sys

import pytest

from tests.cli.test_errors import refused, run_cli


@pytest.fixture
def stopped(monkeypatch):
    """The server is stopped as soon as it serves; returns what it was to serve."""
    from raysweep.ui import serve

    seen = []

    async def at_once(root, guard, bound):
        seen.append((guard, bound.getsockname()[1]))
        bound.close()
        raise KeyboardInterrupt

    monkeypatch.setattr(serve, "_serve", at_once)
    monkeypatch.setattr(serve, "_open", lambda address: seen.append(address))
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    return seen


def test_it_says_where_it_is_and_ends_with_one_line(capsys, tmp_path, stopped):
    code, out, err = run_cli(capsys, "ui", "--root", tmp_path, "--port", 0)
    ((guard, port),) = stopped
    assert (code, out) == (0, f"http://127.0.0.1:{port}/\n")
    assert err.splitlines()[-1] == "Stopped. The page only read; everything is as it was."
    assert len(err.splitlines()) == 2
    assert guard.token is None


def test_a_port_that_is_taken_is_passed_over_and_that_is_said(capsys, tmp_path, stopped):
    from raysweep.ui import serve

    taken = serve.bind("127.0.0.1", 0)
    port = taken.getsockname()[1]
    _, out, err = run_cli(capsys, "ui", "--root", tmp_path, "--port", port)
    taken.close()
    got = stopped[0][1]
    assert got > port
    assert f"Port {port} is taken, so this page has port {got}." in err
    assert out == f"http://127.0.0.1:{got}/\n"


def test_from_elsewhere_it_prints_a_token_that_no_process_list_shows(capsys, tmp_path, stopped, monkeypatch):
    monkeypatch.setenv("DISPLAY", ":0")
    code, out, err = run_cli(capsys, "ui", "--root", tmp_path, "--port", 0, "--host", "0.0.0.0")
    guard = stopped[0][0]
    assert code == 0
    assert len(guard.token) >= 32
    assert out.endswith(f"/?token={guard.token}\n")
    assert "not encrypted" in err
    assert guard.token not in err
    run_cli(capsys, "ui", "--root", tmp_path, "--port", 0, "--token")
    assert stopped[1][0].token not in (None, guard.token)
    assert not [address for address in stopped if isinstance(address, str)]  # no browser was opened


def test_a_browser_is_opened_where_there_is_one(capsys, tmp_path, stopped, monkeypatch):
    monkeypatch.setenv("DISPLAY", ":0")
    run_cli(capsys, "ui", "--root", tmp_path, "--port", 0, "--no-browser")
    assert len(stopped) == 1
    run_cli(capsys, "ui", "--root", tmp_path, "--port", 0)
    assert any(isinstance(a, str) and a.startswith("http://127.0.0.1:") for a in stopped[1:])


@pytest.mark.parametrize("host", ["猫..猫", "192.0.2.1", "a b"])
def test_a_host_that_is_none_of_this_machine_is_refused(capsys, tmp_path, host):
    message = refused(capsys, tmp_path, "ui", "--host", host)
    assert host in message
    assert "127.0.0.1" in message or "--host" in message


def test_an_object_store_is_refused_with_what_works(capsys):
    from raysweep.errors import InputError
    from raysweep.store.root import RemoteRoot
    from raysweep.ui import serve

    with pytest.raises(InputError, match=r"s3://bucket/runs is on an object store.*raysweep list"):
        serve.run(RemoteRoot("s3://bucket/runs"), "127.0.0.1", 0, False, False, print, print)


def test_all_ports_taken(monkeypatch):
    from raysweep.errors import InputError
    from raysweep.ui import serve

    held = serve.bind("127.0.0.1", 0)
    monkeypatch.setattr(serve, "TRIES", 1)
    with pytest.raises(InputError, match="are taken"):
        serve.bind("127.0.0.1", held.getsockname()[1])
    held.close()


def test_without_the_library_it_says_what_to_install(capsys, tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.startswith("raysweep.ui")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr("raysweep.ui", None, raising=False)
    monkeypatch.setitem(sys.modules, "aiohttp", None)
    assert "pip install aiohttp" in refused(capsys, tmp_path, "ui", "--port", "0")


def test_the_wheel_has_every_file_of_the_page():
    import fnmatch
    import tomllib
    from pathlib import Path

    package = Path(__file__).parents[2]
    globs = tomllib.loads((package / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["raysweep"]
    for folder in ("ui", "report"):
        for path in (package / "raysweep" / folder).rglob("*"):
            name = str(path.relative_to(package / "raysweep"))
            if path.is_file() and path.suffix in (".html", ".css", ".js"):
                assert [g for g in globs if fnmatch.fnmatch(name, g)], name


@pytest.mark.slow
def test_a_real_process_ends_with_one_line_on_ctrl_c(tmp_path):
    import signal
    import subprocess
    import urllib.request

    words = [sys.executable, "-m", "raysweep", "ui", "--root", str(tmp_path), "--port", "0", "--no-browser"]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    address = process.stdout.readline().strip()
    assert b"raysweep run base" in urllib.request.urlopen(address).read()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert (out, err.splitlines()[1:]) == ("", ["Stopped. The page only read; everything is as it was."])
    assert process.returncode == 130


def test_two_who_ask_for_the_same_wait_for_one_computation():
    from concurrent.futures import ThreadPoolExecutor

    from raysweep.ui.computed import Computed

    made, kept = [], Computed(most=2)

    def slowly():
        made.append(1)
        return asyncio.run(asyncio.sleep(0.01, "x"))

    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(lambda _: kept.get("a", 1, slowly), range(4))) == {"x"}
    assert len(made) == 1
    kept.get("a", 2, slowly)
    assert len(made) == 2
    for key in ("b", "c"):
        kept.get(key, 1, slowly)
    kept.get("a", 2, slowly)
    assert len(made) == 5  # only the last two are kept
