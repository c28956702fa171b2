"""The dashboard as an application, and its place beside the API."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import RedirectResponse, Response
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from crossfade.domain import errors
from crossfade.service import Service
from crossfade.web import (
    access,
    alerts,
    drills,
    environments,
    experiments,
    flag_editor,
    flag_history,
    flag_requests,
    flags,
    glance,
    history,
    login,
    notices,
    oidc,
    ramps,
    report,
    rollouts,
    runs,
    slo,
    stream,
    watches,
)
from crossfade.web.assets import Assets
from crossfade.web.headers import Headers, fill
from crossfade.web.provider import Provider
from crossfade.web.sessions import Sessions, local

STATUS: Final[Mapping[type[errors.CrossfadeError], int]] = {
    errors.Invalid: 422,
    errors.NotFound: 404,
    errors.Unauthenticated: 401,
    errors.Forbidden: 403,
    errors.TooMany: 429,
    errors.Refused: 409,
    errors.Unavailable: 503,
    errors.StorageFailed: 507,
}
TITLES: Final = {
    401: "Not logged in",
    403: "Not allowed",
    404: "Not found",
    409: "Refused",
    422: "Not a valid request",
    429: "Too often",
    503: "Out of reach",
    507: "Cannot be written",
}
API: Final = ("/api/", "/ofrep/", "/metrics", "/healthz", "/readyz")

_log = logging.getLogger(__name__)


def create_web(service: Service, *, origin: str, key: bytes, provider: Provider | None = None) -> FastAPI:
    """All pages. ``origin`` is where browsers reach them; ``key`` signs; ``provider`` vouches for people, if there is one."""
    assets = Assets()
    house = Sessions(service, origin, key, assets, oidc=provider is not None)
    web = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    web.state.house = house
    for routes in (
        assets.router(),
        login.router(house),
        glance.router(house),
        environments.router(house),
        history.router(house),
        access.router(house),
        rollouts.router(house),
        runs.router(house),
        flag_requests.router(house),
        flag_editor.router(house),
        flag_history.router(house),
        ramps.router(house),
        report.router(house),
        experiments.router(house),
        slo.router(house),
        watches.router(house),
        alerts.router(house),
        drills.router(house),
        notices.router(house),
        flags.router(house),  # behind the others: the page of a flag takes whatever name is left
        stream.router(house),
    ):
        web.include_router(routes)
    if provider is not None:
        web.include_router(oidc.router(service, provider, key, house.begin, house.address, local))
    _tell_errors(web, house)
    web.add_middleware(Headers, secure=house.secure)
    return web


def mount(app: FastAPI, service: Service, *, origin: str, key: bytes, provider: Provider | None = None) -> FastAPI:
    """Put the dashboard beside the API: it answers what the API has no route for. Returns it."""
    web = create_web(service, origin=origin, key=key, provider=provider)
    # Not `app.mount("/")`: that would also take the requests whose path is the API's but whose method is not.
    app.router.default = _Beside(web, app.router.default)
    return web


class _Beside:
    """Leaves the API its own 404."""

    def __init__(self, web: ASGIApp, api: ASGIApp) -> None:
        self._web, self._api = web, api

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        ours = scope["type"] == "http" and not scope["path"].startswith(API)
        await (self._web if ours else self._api)(scope, receive, send)


def _tell_errors(web: FastAPI, house: Sessions) -> None:
    def told(request: Request, status: int, what: str, hint: str = "") -> Response:
        if house.is_fetch(request):
            return house.page(request, None, "error_part.html", status, what=what, hint=hint)
        session = house.known(request)
        title = TITLES.get(status, "Something went wrong")
        return house.page(request, session, "error.html", status, title=title, what=what, hint=hint)

    @web.exception_handler(errors.CrossfadeError)
    async def known(request: Request, error: errors.CrossfadeError) -> Response:
        status = next((s for kind, s in STATUS.items() if isinstance(error, kind)), 500)
        if isinstance(error, errors.Unauthenticated) and _a_page(request, house):
            return RedirectResponse(house.login_place(request), 303)
        answer = await run_in_threadpool(told, request, status, error.what, error.hint)
        if isinstance(error, errors.TooMany):
            answer.headers["Retry-After"] = str(math.ceil(error.retry_after))
        return answer

    @web.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        what = "There is no such page." if error.status_code == 404 else f"{error.detail}."
        answer = await run_in_threadpool(told, request, error.status_code, what)
        answer.headers.update(error.headers or {})
        return answer

    @web.exception_handler(RequestValidationError)
    async def malformed(request: Request, error: RequestValidationError) -> Response:
        places = [str(fault["loc"][-1]) for fault in error.errors()]
        if any(fault["loc"][0] == "path" for fault in error.errors()):
            return await run_in_threadpool(told, request, 404, "There is no such page.")
        return await run_in_threadpool(told, request, 422, f"Not allowed: the value of {', '.join(places)}.")

    @web.exception_handler(Exception)
    async def unforeseen(request: Request, error: Exception) -> Response:
        _log.error("the dashboard stumbled over %s %s", request.method, request.url.path, exc_info=error)
        answer = await run_in_threadpool(told, request, 500, "The server stumbled.", "Its log says over what.")
        fill(answer.headers, house.secure)  # this answer is made outside of what wraps the others
        return answer


def _a_page(request: Request, house: Sessions) -> bool:
    """Whether a person looks at the answer, who can be sent to the login."""
    if request.method not in ("GET", "HEAD") or house.is_fetch(request):
        return False
    # A provider's way back ends in a page that says why; sending it on would begin anew.
    if request.url.path.startswith("/login"):
        return False
    return "text/event-stream" not in request.headers.get("accept", "")
