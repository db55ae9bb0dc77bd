"""What every request has to pass, and every answer carries: hosts, origins, the token, headers.

A page that the user has open elsewhere must neither read nor start anything here: it cannot know another `Host` (DNS
rebinding), its `Origin` is not ours, and no CORS header lets it read an answer.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Collection
from http.cookies import CookieError, SimpleCookie
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
COOKIE = "sfumato-token"
OPEN = ("/", "/login", "/api/health")
"""Paths that need no token, with those below /static/."""
SAFE = ("GET", "HEAD")
SECURITY = {
    "content-security-policy": "default-src 'none'; img-src 'self' blob: data:; style-src 'self'; script-src 'self';"
    " connect-src 'self'; media-src 'self' blob:; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
}


class Guard:
    """An ASGI application around the server's own."""

    def __init__(self, app: ASGIApp, hosts: Collection[str], token: str | None) -> None:
        """Lets requests through for these hosts, and with this token where there is one."""
        self._app, self._token = app, token
        self._hosts = {host.lower() for host in (*LOOPBACK, *hosts)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers what is refused, and hands on the rest."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in SECURITY.items():
                    headers[name] = value
                if "cache-control" not in headers:
                    headers["cache-control"] = "no-store"
            await send(message)

        refusal = self._refusal(scope, Headers(scope=scope))
        if refusal is None:
            await self._app(scope, receive, guarded)
            return
        status, text = refusal
        body = json.dumps({"error": text}).encode()
        start: Any = {"type": "http.response.start", "status": status}
        await guarded({**start, "headers": [(b"content-type", b"application/json")]})
        await send({"type": "http.response.body", "body": body})

    def _refusal(self, scope: Scope, headers: Headers) -> tuple[int, str] | None:
        """Status and words for what is not let through."""
        host = headers.get("host", "")
        if len(headers.getlist("host")) != 1 or _name(host) not in self._hosts:
            return 403, "this server does not go by that name: open it by the address that it printed"
        if scope["method"] not in SAFE:
            origin, site = headers.get("origin"), headers.get("sec-fetch-site", "same-origin")
            if (origin is not None and origin.partition("://")[2].lower() != host.lower()) or site != "same-origin":
                return 403, "this was sent by another page: use the page of this server"
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        if self._token is not None and path not in OPEN and not path.startswith("/static/"):
            given = _token(headers)
            if not hmac.compare_digest(given.encode("utf-8", "replace"), self._token.encode()):
                return 401, "the token is missing or wrong"
        return None


def _name(host: str) -> str:
    """A `Host` without its port."""
    name, colon, port = host.rpartition(":")
    return (name if colon and port.isdigit() else host).lower()


def _token(headers: Headers) -> str:
    """The token in the cookie, or in the header that programs send."""
    scheme, _, given = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return given.strip()
    try:
        found = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
    except CookieError:
        return ""
    return "" if found is None else found.value
