"""Who may ask: a token, the right host, the same origin, a body of bounded size. Around the whole application.

The token comes once in the URL, as Jupyter's does; it is exchanged for an HttpOnly cookie and taken out of the URL. A
program sends it as `Authorization: Bearer TOKEN`. A foreign page cannot read answers (no CORS), cannot change anything
(Origin is compared with Host), and cannot reach us under a name of its own (Host must be ours: DNS rebinding).
"""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Collection
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qsl, urlencode, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from headwater.web.errors import refusal

MOST_BYTES = 1 << 20  # of a request's body
_CHANGES = frozenset({"POST", "PUT", "PATCH", "DELETE"})
_OPEN = ("/static/", "/health")  # styles of the page that asks for the token, and whether we are alive
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class Guard:
    """ASGI middleware. `hosts` are the names, beside loopback and plain addresses, under which we may be reached."""

    def __init__(self, app: ASGIApp, token: str, hosts: Collection[str] = ()) -> None:
        self.app, self.token = app, token
        self.hosts = {"localhost", *(host.lower() for host in hosts)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request ourselves, by refusal or redirection, or hand it on."""
        if scope["type"] == "http":
            response = self._answer(scope)
            if response is None:
                await self.app(scope, _bounded(receive), _with_headers(send))
                return
            await response(scope, receive, _with_headers(send))
        elif scope["type"] == "lifespan":
            await self.app(scope, receive, send)

    def _answer(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if not self._is_ours(host):
            return refusal(scope, 400, f"This server does not answer to the name {host!r}.")
        if _length(headers) > MOST_BYTES:
            return refusal(scope, 413, f"The request is larger than {MOST_BYTES >> 20} MiB.")
        bearer = self._same(headers.get("authorization", "").removeprefix("Bearer ").strip())
        if scope["method"] in _CHANGES and not bearer and not _same_origin(headers, host):
            return refusal(scope, 403, "A request that changes something must come from the workbench's own pages.")
        if scope["path"].startswith(_OPEN) or bearer:
            return None
        name = _cookie_name(host)
        asked = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        given = [value for key, value in asked if key == "token"]
        if given and scope["method"] == "GET" and self._same(given[-1]):
            rest = urlencode([(key, value) for key, value in asked if key != "token"])
            path = "/" + scope["path"].lstrip("/\\")  # "//elsewhere" would be another host
            answer = RedirectResponse(path + ("?" + rest if rest else ""), status_code=303)
            answer.set_cookie(name, self.token, httponly=True, samesite="lax", path="/", max_age=30 * 86400)
            return answer
        if self._same(_cookie(headers, name)):
            return None
        return refusal(
            scope,
            401,
            "That token is not this server's." if given else "This page asks for the token that the terminal shows.",
        )

    def _same(self, given: str) -> bool:
        return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), self.token.encode())

    def _is_ours(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        return name.lower() in self.hosts or _is_address(name)


def _is_address(name: str) -> bool:
    """A plain address cannot be rebound: only names can."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _cookie_name(host: str) -> str:
    """Browsers share cookies among the ports of a host; servers of two runs must not log each other out."""
    port = host.rpartition(":")[2]
    return f"headwater-{port if port.isdigit() else 80}"


def _cookie(headers: Headers, name: str) -> str:
    try:
        found = SimpleCookie(headers.get("cookie", "")).get(name)
    except CookieError:
        return ""
    return found.value if found is not None else ""


def _length(headers: Headers) -> int:
    value = headers.get("content-length", "0")
    return int(value) if value.isascii() and value.isdigit() else 0


def _same_origin(headers: Headers, host: str) -> bool:
    origin = headers.get("origin")
    if origin is None:
        return headers.get("sec-fetch-site") == "same-origin"
    try:
        return urlsplit(origin).netloc == host
    except ValueError:
        return False


class TooLargeError(Exception):
    """A body without a stated length that grew over the limit."""


def _bounded(receive: Receive) -> Receive:
    taken = 0

    async def bounded() -> Message:
        nonlocal taken
        message = await receive()
        taken += len(message.get("body", b""))
        if taken > MOST_BYTES:
            raise TooLargeError
        return message

    return bounded


def _with_headers(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in _HEADERS.items():
                headers.setdefault(name, value)
            headers.setdefault("Cache-Control", "no-store")
        await send(message)

    return sending
