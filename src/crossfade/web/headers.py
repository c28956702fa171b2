"""What every answer of the dashboard tells a browser not to do."""

from __future__ import annotations

from typing import Final

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "font-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
ALWAYS: Final = {
    "X-Content-Type-Options": "nosniff",
    # Not no-referrer: with it a browser sends its forms with the origin `null`, which could be anybody's.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Frame-Options": "DENY",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}
YEAR: Final = 365 * 86400


def fill(headers: MutableHeaders, secure: bool) -> None:
    """Add what an answer has to have; what it says itself of its policy or of being kept stays as it is."""
    headers.setdefault("Content-Security-Policy", POLICY)
    headers.setdefault("Cache-Control", "no-store")
    for name, text in ALWAYS.items():
        headers[name] = text
    if secure:
        headers["Strict-Transport-Security"] = f"max-age={YEAR}"


class Headers:
    """Wraps an application, streams included, and fills the headers of all its answers."""

    def __init__(self, app: ASGIApp, secure: bool) -> None:
        self._app, self._secure = app, secure

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def told(message: Message) -> None:
            if message["type"] == "http.response.start":
                fill(MutableHeaders(scope=message), self._secure)
            await send(message)

        await self._app(scope, receive, told)
