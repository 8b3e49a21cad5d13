"""Who may ask the page: this machine by its own names, from elsewhere who has the token; and nothing but questions."""

from __future__ import annotations

import re

import pytest

from tests.ui.asking import ask

EVERY = ("/", "/sweeps", "/lineage", "/nothing", "/ui.css", "/ui.js", "/experiments/nothing", "/parts/experiments")


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:7654", "127.0.0.1.evil.example", "localhost.evil.example", "10.0.0.1"]
)
def test_a_name_that_leads_here_is_not_enough(tmp_path, host):
    for answer in ask(tmp_path, "/", "/parts/experiments", "/events", "/ui.js", Host=host):
        assert answer.status == 403
        assert "no name of this machine" in answer.text


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:9", "127.0.0.1:80", "[::1]:7654", "127.1.2.3"])
def test_this_machine_may_ask_by_any_of_its_names_and_through_a_tunnel(tmp_path, host):
    (answer,) = ask(tmp_path, "/", Host=host)
    assert answer.status == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_nothing_but_questions_is_answered(tmp_path, method):
    for answer in ask(tmp_path, "/", "/sweeps", "/nothing", method=method, Origin="http://evil.example"):
        assert answer.status == 405
        assert not [name for name in answer.headers if name.lower().startswith("access-control")]


def test_other_web_pages_get_nothing(tmp_path):
    for site in ("cross-site", "same-site"):
        for mode, kind in (("cors", "empty"), ("no-cors", "image"), ("no-cors", "script"), ("navigate", "iframe")):
            (answer,) = ask(tmp_path, "/", Sec_Fetch_Site=site, Sec_Fetch_Mode=mode, Sec_Fetch_Dest=kind)
            assert answer.status == 403
    (answer,) = ask(tmp_path, "/", Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="navigate", Sec_Fetch_Dest="document")
    assert answer.status == 200  # a link that somebody clicks


def test_every_answer_forbids_scripts_of_others_and_frames(tmp_path):
    for answer in (*ask(tmp_path, *EVERY), *ask(tmp_path, "/", Host="evil.example")):
        policy = answer.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert (answer.headers["X-Content-Type-Options"], answer.headers["Referrer-Policy"]) == (
            "nosniff",
            "no-referrer",
        )
        assert answer.headers["Cross-Origin-Resource-Policy"] == "same-origin"
        assert "Access-Control-Allow-Origin" not in answer.headers


def test_from_elsewhere_a_token_is_needed(tmp_path):
    wide = {"host": "0.0.0.0", "token": "the-token"}
    for answer in ask(tmp_path, *EVERY, "/events", "/?token=", "/?token=the-toke", "/?token=the-token2", **wide):
        assert answer.status == 401
        assert "the-token" not in answer.text
    (first,) = ask(tmp_path, "/sweeps?q=a&token=the-token", **wide)
    assert (first.status, first.headers["Location"]) == (303, "/sweeps?q=a")
    cookie = first.headers["Set-Cookie"]
    assert re.search("HttpOnly", cookie)
    assert re.search("SameSite=Lax", cookie)


def test_with_the_cookie_no_token_is_needed_any_more(tmp_path):
    from tests.ui.asking import with_client

    async def use(client):
        before = (await client.get("/")).status
        after = (await client.get("/?token=abc")).status
        return before, after, (await client.get("/sweeps")).status, (await client.get("/ui.css")).status

    assert with_client(tmp_path, use, token="abc") == (401, 200, 200, 200)


def test_on_all_addresses_names_of_strangers_are_refused_before_the_token_counts(tmp_path):
    (answer,) = ask(tmp_path, "/?token=abc", host="0.0.0.0", token="abc", Host="evil.example")
    assert answer.status == 403
    (answer,) = ask(tmp_path, "/?token=abc", host="0.0.0.0", token="abc", Host="192.168.1.2:7654")
    assert answer.status == 303


@pytest.mark.parametrize(
    "name",
    [
        "..",
        "%2e%2e",
        "%2e%2e%2fsecret",
        "..%2Fsecret",
        "%2Fetc%2Fpasswd",
        "..%5csecret",
        ".",
        "%00",
        "a%00b",
        "link",
        ".raysweep",
        "~",
    ],
)
def test_no_name_leads_out_of_the_root(tmp_path, name):
    root = tmp_path / "experiments"
    for folder in (tmp_path, tmp_path / "secret", root, root / "sweeps"):
        folder.mkdir(exist_ok=True)
        (folder / "experiment_config.json").write_text('{"experiment_name": "hidden", "model_name": "hidden"}')
        (folder / "sweep.json").write_text('{"name": "hidden", "branches": []}')
    (root / "experiment_config.json").unlink()
    (root / "link").symlink_to(tmp_path / "secret")
    (root / "sweeps" / "link").symlink_to(tmp_path / "secret")
    paths = [
        f"/{kind}/{name}{part}"
        for kind, part in (
            ("experiments", ""),
            ("experiments", "/state"),
            ("experiments", "/curves"),
            ("sweeps", ""),
            ("sweeps", "/effects"),
        )
    ]
    for answer in ask(root, *paths):
        assert answer.status == 404
        assert "hidden" not in answer.text
