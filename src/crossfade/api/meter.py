"""Around every request: bodies are bounded before they are read, and what was answered is counted."""

from __future__ import annotations

import time
from typing import Any, Final

from prometheus_client import CollectorRegistry, Counter, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from crossfade.api.guard import GuardedRoute
from crossfade.api.problems import problem

LARGEST_BODY: Final = 4 * 1024**2
VERSION: Final = "/api/v1"
UPLOAD: Final = f"{VERSION}/artifacts"
FLAGS: Final = "/ofrep/"
"""Routes that bound their bodies themselves, and refuse in their own form."""
IMPORTS: Final = "/flag-imports"
LARGEST_IMPORT: Final = 16 * 1024**2
LONGEST_LENGTH: Final = 15
"""Digits."""


class Meter:
    """Counts by route (its template, so that there are few), method and status."""

    def __init__(self, registry: CollectorRegistry) -> None:
        labels = ("method", "route", "status")
        self._requests = Counter("crossfade_api_requests", "Requests answered by the API.", labels, registry=registry)
        self._seconds = Histogram(
            "crossfade_api_request_seconds",
            "Until the answer began.",
            ("route",),
            buckets=(0.001, 0.0025, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 1.0, 5.0),
            registry=registry,
        )

    def count(self, scope: Scope, status: int, seconds: float) -> None:
        found = scope.get("route")
        # No such route, or a page: an address of somebody's making is no label.
        route = "none"
        if isinstance(found, GuardedRoute):
            prefix = VERSION if scope["path"].startswith(f"{VERSION}/") else ""
            route = f"{prefix}{found.path_format.removeprefix(prefix)}"
        method = scope["method"] if scope["method"] in _METHODS else "other"
        self._requests.labels(method, route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)


_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class Metered:
    """The application with its bodies bounded and its answers counted. Not a middleware of the framework: those

    stand between a stream and its reader's going away.
    """

    def __init__(self, app: ASGIApp, meter: Meter) -> None:
        self._app, self._meter = app, meter

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()

        async def told(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._meter.count(scope, message["status"], time.perf_counter() - began)
            await send(message)

        refused = _refused(scope)
        await (refused or self._app)(scope, receive, told)


def _refused(scope: Scope) -> Any:
    if scope["path"] == UPLOAD or scope["path"].startswith(FLAGS):
        return None
    headers = dict(scope["headers"])
    if b"chunked" in headers.get(b"transfer-encoding", b"").lower():
        return problem(411, "length-required", "A request body needs a Content-Length.")
    length = headers.get(b"content-length", b"0")
    most = LARGEST_IMPORT if scope["path"].endswith(IMPORTS) else LARGEST_BODY
    if not length.isdigit() or len(length) > LONGEST_LENGTH or int(length) > most:
        return problem(413, "too-large", f"A request body may have {most} bytes.")
    return None
