"""Who may use the page: hosts, the token, the origin of changes, and the headers of every response.

Host header   loopback names only, if it listens on loopback and has no token: another site's name that resolves to
              127.0.0.1 (DNS rebinding) is refused
token         `?token=` once, then a cookie; or `Authorization: Bearer TOKEN`
POST          only from the page itself: Origin equals Host, and a header that other sites cannot send
headers       a Content-Security-Policy that permits nothing but this server's own files
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import secrets
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qsl, urlencode, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

#: Fewest characters of a token that the user gives.
LEAST_TOKEN = 16

#: The header that the page's own requests carry; a page of another origin cannot send it without permission.
OWN_HEADER = "x-noisemill"

_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
    ),
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}

_LOGIN = "This page needs its token: open the address that 'noisemill ui' printed, with ?token=... at its end.\n"


def is_loopback(host: str) -> bool:
    """Whether a host name or address is this machine's own, so that no other machine can connect."""
    name = host.strip("[]").lower()
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def new_token() -> str:
    """A random token of 43 characters."""
    return secrets.token_urlsafe(32)


class Guard:
    """ASGI middleware that lets only permitted requests through, and adds the headers to all responses."""

    def __init__(self, app: ASGIApp, *, token: str | None, local_only: bool) -> None:
        """`token` is None if none is needed; `local_only` if it listens on loopback."""
        self._app, self._token, self._local_only = app, token, local_only

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one request."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return  # No WebSockets.

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers[name] = value
                headers.setdefault("cache-control", "no-store")
            await send(message)

        response = self._refusal(scope)
        await (response or self._app)(scope, receive, send_with_headers)

    def _refusal(self, scope: Scope) -> Response | None:
        """The response to a request that goes no further; None if it is permitted."""
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if self._token is None and self._local_only and not is_loopback(_host_name(host)):
            return _error(
                421, f"this server is for this machine only, and {host[:100]!r} is not its name: use 127.0.0.1"
            )
        if scope["method"] not in ("GET", "HEAD", "POST"):
            return _error(405, "only GET and POST are known")
        if self._token is not None:
            response = self._check_token(scope, headers)
            if response is not None:
                return response
        if scope["method"] == "POST":
            return _check_origin(headers, host)
        return None

    def _check_token(self, scope: Scope, headers: Headers) -> Response | None:
        assert self._token is not None
        cookie = self._cookie_name(scope)
        given = headers.get("authorization", "").removeprefix("Bearer ")
        if _same(given, self._token) or _same(_cookie(headers, cookie), _session(self._token)):
            return None
        query = parse_qsl(scope["query_string"].decode("latin-1"), max_num_fields=20)
        if scope["method"] == "GET" and _same(dict(query).get("token", ""), self._token):
            # The token leaves the address bar, the history and what is shared of it.
            rest = urlencode([(name, value) for name, value in query if name != "token"])
            response = RedirectResponse(scope["path"] + (f"?{rest}" if rest else ""), status_code=303)
            response.set_cookie(cookie, _session(self._token), httponly=True, samesite="lax", max_age=30 * 86400)
            return response
        if scope["path"].startswith("/api/"):
            return _error(401, "the token is missing or wrong")
        return PlainTextResponse(_LOGIN, status_code=401)

    @staticmethod
    def _cookie_name(scope: Scope) -> str:
        # Cookies are shared by all ports of a host.
        return f"noisemill-ui-{scope['server'][1]}"


def _check_origin(headers: Headers, host: str) -> Response | None:
    origin = headers.get("origin")
    if origin is not None and (urlsplit(origin).netloc.lower() != host.lower() or not host):
        return _error(403, "the request comes from another site")
    if headers.get("sec-fetch-site", "same-origin") != "same-origin" or OWN_HEADER not in headers:
        return _error(403, "the request does not come from this page")
    return None


def _host_name(host: str) -> str:
    """The name in a Host header, without the port."""
    return host[: host.index("]") + 1] if host.startswith("[") and "]" in host else host.rpartition(":")[0] or host


def _cookie(headers: Headers, name: str) -> str:
    try:
        found = SimpleCookie(headers.get("cookie", "")).get(name)
    except CookieError:
        return ""
    return found.value if found else ""


def _session(token: str) -> str:
    """The cookie's value: of no use for guessing the token."""
    return hashlib.sha256(f"noisemill ui session {token}".encode()).hexdigest()


def _same(given: str, wanted: str) -> bool:
    return hmac.compare_digest(given.encode(), wanted.encode())


def _error(status: int, message: str) -> JSONResponse:
    return JSONResponse({"error": message}, status_code=status)
