"""The guard before the page: token, host, origin and size, for requests and websockets alike."""

from __future__ import annotations

import asyncio
import hmac
from typing import Any

import pytest

from matchgraph.ui.guard import Guard, is_loopback

TOKEN = "a-token-of-some-length"
COOKIE = f"matchgraph-ui-8090={TOKEN}"
# The page, its websocket and that one's fallback, an upload, and a file of the toolkit.
PATHS = [
    "/",
    "/_nicegui_ws/socket.io/",
    "/_nicegui/client/1/upload/2",
    "/_nicegui/3.18.0/static/nicegui.js",
]


def asked(
    path: str = "/",
    *,
    kind: str = "http",
    query: str = "",
    body: tuple[bytes, ...] = (b"",),
    token: str | None = TOKEN,
    **headers: str,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """What the client gets, and what the application behind the guard received, if it was reached."""
    received: list[dict[str, Any]] = []
    sent: list[dict[str, Any]] = []

    async def app(_: Any, receive: Any, send: Any) -> None:
        while True:
            received.append(await receive())
            if not received[-1].get("more_body"):
                break
        await send({"type": "http.response.start", "status": 200, "headers": []})

    parts = [
        {"type": "http.request", "body": part, "more_body": number < len(body)}
        for number, part in enumerate(body, 1)
    ]
    queue = iter(parts if kind == "http" else [{"type": "websocket.connect"}])

    async def receive() -> dict[str, Any]:
        return next(queue)

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    given = {"host": "127.0.0.1:8090", **{name.replace("_", "-"): value for name, value in headers.items()}}
    scope = {
        "type": kind,
        "path": path,
        "query_string": query.encode(),
        "headers": [(name.encode(), value.encode()) for name, value in given.items()],
    }
    guard = Guard(app, token, host="127.0.0.1", port=8090, max_body_bytes=8)
    asyncio.run(guard(scope, receive, send))
    return sent, received


def header(message: dict[str, Any], name: bytes) -> str:
    return dict(message["headers"])[name].decode()


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kind", ["http", "websocket"])
@pytest.mark.parametrize(
    "given", [{}, {"cookie": "matchgraph-ui-8090=wrong"}, {"cookie": f"matchgraph-ui-9999={TOKEN}"}]
)
def test_without_the_token_nothing_is_reached(path: str, kind: str, given: dict[str, str]):
    sent, received = asked(path, kind=kind, query="token=wrong", **given)
    assert received == []
    assert sent[0].get("status", sent[0].get("code")) == (403 if kind == "http" else 1008)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kind", ["http", "websocket"])
def test_with_its_cookie_everything_is_reached_under_a_strict_policy(path: str, kind: str):
    sent, received = asked(path, kind=kind, cookie=f"other=1; {COOKIE}", origin="http://127.0.0.1:8090")
    assert received
    assert "default-src 'self'" in header(sent[0], b"content-security-policy")


@pytest.mark.parametrize("known", [{}, {"cookie": COOKIE}])
def test_the_address_gives_the_cookie_and_loses_the_token(known: dict[str, str]):
    sent, received = asked("//evil.org", query=f"a=1&token={TOKEN}", **known)
    assert (sent[0]["status"], received) == (303, [])
    assert header(sent[0], b"location") == "/evil.org?a=1"
    assert header(sent[0], b"set-cookie") == f"{COOKIE}; Path=/; HttpOnly; SameSite=Lax"


def test_tokens_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch):
    compared: list[tuple[bytes, bytes]] = []
    monkeypatch.setattr(hmac, "compare_digest", lambda *both: bool(compared.append(both)))
    assert asked(cookie=COOKIE)[1] == []
    assert compared == [(b"", TOKEN.encode()), (TOKEN.encode(), TOKEN.encode())]


@pytest.mark.parametrize("kind", ["http", "websocket"])
@pytest.mark.parametrize("token", [TOKEN, None])
@pytest.mark.parametrize(
    ("host", "reached"),
    [
        ("127.0.0.1:8090", True),
        ("localhost:8090", True),
        ("[::1]:8090", True),
        ("192.168.3.4", True),
        ("evil.org:8090", False),
        ("127.0.0.1.evil.org", False),
        ("[", False),
        ("", False),
    ],
)
def test_a_name_that_another_site_gave_this_machine_is_refused(
    kind: str, token: str | None, host: str, reached: bool
):
    assert bool(asked(kind=kind, token=token, host=host, cookie=COOKIE)[1]) == reached


@pytest.mark.parametrize("kind", ["http", "websocket"])
@pytest.mark.parametrize("origin", ["https://evil.org", "null", "http://127.0.0.1:9999", ""])
def test_a_page_of_another_site_is_refused_though_the_browser_has_the_cookie(kind: str, origin: str):
    assert asked(kind=kind, cookie=COOKIE, origin=origin)[1] == []


def test_a_body_is_refused_by_its_stated_size_and_cut_off_at_its_real_one():
    assert asked(cookie=COOKIE, content_length="9")[0][0]["status"] == 413
    _, received = asked(cookie=COOKIE, body=(b"12345", b"678", b"9"))
    assert [message["type"] for message in received] == ["http.request", "http.request", "http.disconnect"]


@pytest.mark.parametrize(
    ("host", "local"),
    [("localhost", True), ("127.0.0.1", True), ("::1", True), ("0.0.0.0", False), ("example.org", False)],
)
def test_what_only_this_machine_reaches(host: str, local: bool):
    assert is_loopback(host) == local
