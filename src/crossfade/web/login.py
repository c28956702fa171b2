"""Coming in and going out: password, one-time link, logout; and the choice of light or dark, which wants no session."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import RedirectResponse, Response
from starlette.concurrency import run_in_threadpool

from crossfade.domain.errors import TooMany, Unauthenticated
from crossfade.web.sessions import Sessions, local


def router(house: Sessions) -> APIRouter:
    """The routes. Of all pages, these alone want no session."""
    accounts = house.service.accounts
    routes = APIRouter(include_in_schema=False)

    def shown(request: Request, then: str, status: int = 200, said: str = "", name: str = "") -> Response:
        first = not house.oidc and not accounts.list()
        facts: dict[str, Any] = {"then": then, "said": said, "name": name, "first": first, "oidc": house.oidc}
        return house.page(request, None, "login.html", status, **facts)

    @routes.get("/login")
    def page(request: Request, next: str = "") -> Response:
        """The form; for who is logged in already, where it leads."""
        then = local(next)
        return RedirectResponse(then, 303) if house.known(request) is not None else shown(request, then)

    @routes.post("/login")
    async def log_in(request: Request) -> Response:
        """A session, or one sentence."""
        form = await house.posted_by_anyone(request)
        return await run_in_threadpool(_log_in, request, form.get("name", "").strip(), form)

    def _log_in(request: Request, name: str, form: Mapping[str, str]) -> Response:
        then = local(form.get("next"))
        try:
            secret = accounts.log_in(name, form.get("password", ""), house.address(request))
        except TooMany as error:
            minutes = math.ceil(error.retry_after / 60)
            said = f"{error.what} Come again in {minutes} minute{'s' if minutes > 1 else ''}."
            answer = shown(request, then, 429, said, name)
            answer.headers["Retry-After"] = str(math.ceil(error.retry_after))
            return answer
        except Unauthenticated as error:
            return shown(request, then, 401, error.what, name)
        answer = RedirectResponse(then, 303)
        house.begin(request, answer, secret)
        return answer

    @routes.get("/login/link")
    def link(request: Request, secret: str = "") -> Response:
        """Logs in once, with what `crossfade dashboard` printed."""
        try:
            session = accounts.by_link(secret[:200], house.address(request))
        except Unauthenticated as error:
            # Who comes back to the link that let them in is in already.
            if house.known(request) is not None:
                return RedirectResponse("/", 303)
            return shown(request, "/", 401, str(error))
        answer = RedirectResponse("/", 303)
        house.begin(request, answer, session)
        return answer

    @routes.post("/logout")
    async def log_out(request: Request) -> Response:
        """Ends the session."""
        await house.posted(request)
        answer = RedirectResponse("/login", 303)
        await run_in_threadpool(house.end, request, answer)
        return answer

    @routes.post("/theme")
    async def theme(request: Request) -> Response:
        """Light, dark, or as the system does."""
        form = await house.posted_by_anyone(request)
        place = form.get("next", "/")
        answer = RedirectResponse("/login" if place == "/login" else local(place), 303)
        house.keep_theme(answer, form.get("theme", ""))
        return answer

    return routes
