"""Who may talk to the page: those who have its token, from a page of its own, with a body of a bearable size.

It stands before the whole application, so that no route, websocket or file of the toolkit is beside it.
"""

from __future__ import annotations

import hmac
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

TOKEN_PARAMETER = "token"
MAX_BODY_BYTES = 64 * 2**20
# Nothing is loaded from, sent to or shown within a page of another host.
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; base-uri 'self'; form-action 'self'; "
    "frame-ancestors 'none'"
)
HEADERS = (
    (b"content-security-policy", POLICY.encode()),
    # The address holds the token once.
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
)


class Guard:
    """An ASGI application that lets through to another only what may reach it.

    Args:
        app: the application.
        token: what a visitor must have, in the address once and then in a cookie; None for no token.
        host: name or address that the server listens at.
        port: its port, which keeps the cookies of two servers of one machine apart.
        max_body_bytes: largest body of a request.
    """

    def __init__(
        self,
        app: Callable[[Scope, Receive, Send], Awaitable[None]],
        token: str | None,
        *,
        host: str,
        port: int,
        max_body_bytes: int = MAX_BODY_BYTES,
    ) -> None:
        # The toolkit looks for its application under this name.
        self.app = app
        self.cookie = f"matchgraph-ui-{port}"
        self._token = token
        self._names = {host.lower(), "localhost", socket.gethostname().lower(), socket.getfqdn().lower()}
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        headers = {
            name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]
        }
        fault = self._fault_of_origin(headers)
        if fault is not None:
            await _refuse(scope, send, *fault)
        elif (place := self._place_without_token(scope)) is not None:
            # Where the token was right: it is taken out of the address and kept in a cookie.
            await self._welcome(send, place)
        elif self._token is not None and not self._has_cookie(headers):
            words = "This page needs its token: open the whole address that `matchgraph ui` printed."
            await _refuse(scope, send, 403, words)
        elif _length(headers) > self._max_body_bytes:
            await _refuse(scope, send, 413, f"More than {self._max_body_bytes:,} bytes.")
        else:
            await self.app(scope, self._limited(receive), _with_headers(send))

    def _fault_of_origin(self, headers: Mapping[str, str]) -> tuple[int, str] | None:
        """What is wrong with where a request comes from or believes to go.

        A page of another site can make a browser send requests here, and can point its own name at this
        machine. Neither can change what the browser writes into these two headers.
        """
        host = headers.get("host", "")
        name = _host_name(host)
        if name not in self._names and not _is_address(name):
            return 421, "Another host's name. Open the address that `matchgraph ui` printed."
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc.lower() != host.lower():
            return 403, "The request comes from another site's page."
        return None

    def _has_cookie(self, headers: Mapping[str, str]) -> bool:
        try:
            found = SimpleCookie(headers.get("cookie", "")).get(self.cookie)
        except CookieError:
            return False
        return found is not None and self._is_token(found.value)

    def _is_token(self, given: str) -> bool:
        # How long it takes says nothing of how much of it is right.
        return self._token is not None and hmac.compare_digest(given.encode(), self._token.encode())

    def _place_without_token(self, scope: Scope) -> str | None:
        """The address of a request without the token in it; None where it has none, or a wrong one."""
        query = parse_qs(scope.get("query_string", b"").decode("latin-1"))
        if scope["type"] != "http" or not self._is_token(query.pop(TOKEN_PARAMETER, [""])[0]):
            return None
        # One slash: two would be another host's address.
        rest = urlencode(query, doseq=True)
        return "/" + scope["path"].lstrip("/") + (f"?{rest}" if rest else "")

    async def _welcome(self, send: Send, place: str) -> None:
        """Keep the token in a cookie that no script can read, and lead to an address without it."""
        cookie = f"{self.cookie}={self._token}; Path=/; HttpOnly; SameSite=Lax"
        headers = [(b"location", place.encode("latin-1", "replace")), (b"set-cookie", cookie.encode())]
        await send({"type": "http.response.start", "status": 303, "headers": [*headers, *HEADERS]})
        await send({"type": "http.response.body", "body": b""})

    def _limited(self, receive: Receive) -> Receive:
        """What is received, cut off where a body is larger than it said."""
        taken = 0

        async def limited() -> MutableMapping[str, Any]:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body") or b"") if message["type"] == "http.request" else 0
            return message if taken <= self._max_body_bytes else {"type": "http.disconnect"}

        return limited


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a name or address to listen at."""
    if host.lower() == "localhost":
        return True
    return _is_address(host) and ipaddress.ip_address(host).is_loopback


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _host_name(host: str) -> str:
    """The name in a Host header, without its port."""
    try:
        return (urlsplit(f"//{host}").hostname or "").lower()
    except ValueError:
        return ""


def _length(headers: Mapping[str, str]) -> int:
    length = headers.get("content-length", "0")
    return int(length) if length.isascii() and length.isdecimal() else 0


def _with_headers(send: Send) -> Send:
    async def sent(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", ()), *HEADERS]}
        await send(message)

    return sent


async def _refuse(scope: Scope, send: Send, status: int, words: str) -> None:
    if scope["type"] == "websocket":
        # Before it was accepted: the client gets 403.
        await send({"type": "websocket.close", "code": 1008, "reason": words})
        return
    headers = [(b"content-type", b"text/plain; charset=utf-8"), *HEADERS]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": f"{words}\n".encode()})
