"""`/settings`: one's own password and tokens; and for admins, the accounts and tokens of everybody."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from fastapi import APIRouter, Request
from fastapi.responses import RedirectResponse, Response
from starlette.concurrency import run_in_threadpool

from crossfade.domain.access import Grant, Role
from crossfade.domain.errors import Invalid, NotFound, TooMany, Unauthenticated
from crossfade.service.accounts import Session
from crossfade.web.sessions import Sessions

DAYS: Final = {"1": "a day", "7": "a week", "30": "30 days", "90": "90 days", "365": "a year", "": "for good"}
DAY: Final = 86400.0
MOST_GRANTS: Final = 50


def grants_of(text: str) -> list[Grant]:
    """From `operator@bookshop/production viewer`, by spaces, commas or lines. Raises Invalid."""
    words = re.split(r"[\s,]+", text.strip()) if text.strip() else []
    if len(words) > MOST_GRANTS:
        raise Invalid("grants", f"{len(words)} grants", f"at most {MOST_GRANTS}")
    return [Grant.parse(word) for word in words]


def router(house: Sessions) -> APIRouter:
    """The routes. Those below `/settings/accounts` are for admins."""
    accounts = house.service.accounts
    routes = APIRouter(include_in_schema=False)

    def own(request: Request, session: Session, status: int = 200, said: str = "", **more: Any) -> Response:
        actor = session.actor
        account = None
        if actor.via == "session":
            try:
                account = accounts.get(actor.name)
            except NotFound:
                account = None
        tokens = accounts.tokens("" if actor.via == "local" else actor.name)
        context: dict[str, Any] = {"secret": "", "made": None, **more}
        return house.page(
            request,
            session,
            "settings.html",
            status,
            account=account,
            tokens=[token for token in tokens if token.revoked is None],
            days=DAYS,
            said=said,
            expires=session.expires,
            **context,
        )

    def everybody(request: Request, session: Session, status: int = 200, said: str = "") -> Response:
        session.actor.require(Role.ADMIN, None)
        tokens = [token for token in accounts.tokens() if token.revoked is None]
        return house.page(request, session, "accounts.html", status, accounts=accounts.list(), tokens=tokens, said=said)

    @routes.get("/settings")
    def page(request: Request) -> Response:
        """One's own."""
        return own(request, house.session(request))

    @routes.get("/settings/accounts")
    def admins(request: Request) -> Response:
        """Everybody's."""
        return everybody(request, house.session(request))

    async def do(
        request: Request,
        shown: Callable[..., Response],
        change: Callable[[Session, Mapping[str, str]], Response | None],
    ) -> Response:
        """A change from one of the forms, back on its page; what was wrong is said there."""
        session, form = await house.posted(request)

        def change_it() -> Response:
            try:
                answer = change(session, form)
            except (Invalid, Unauthenticated, TooMany) as error:
                status = 401 if isinstance(error, Unauthenticated) else 429 if isinstance(error, TooMany) else 422
                return shown(request, session, status, str(error))
            return answer or RedirectResponse("/settings" if shown is own else "/settings/accounts", 303)

        return await run_in_threadpool(change_it)

    @routes.post("/settings/password")
    async def password(request: Request) -> Response:
        """A new one of one's own; the session begins anew."""

        def change(session: Session, form: Mapping[str, str]) -> Response:
            name, fresh = session.actor.name, form.get("password", "")
            if fresh != form.get("again", ""):
                raise Invalid("password", "two that differ", "twice the same")
            accounts.set_password(name, fresh, session.actor, form.get("old", ""))
            answer = RedirectResponse("/settings", 303)
            house.begin(request, answer, accounts.log_in(name, fresh, house.address(request)))
            return answer

        return await do(request, own, change)

    @routes.post("/settings/tokens")
    async def make(request: Request) -> Response:
        """A token, whose text is shown in the answer and never again."""

        def change(session: Session, form: Mapping[str, str]) -> Response:
            days = form.get("days", "30")
            if days not in DAYS:
                raise Invalid("days", days, ", ".join(day or "nothing" for day in DAYS))
            expires = time.time() + float(days) * DAY if days else None
            grants = grants_of(form.get("grants", ""))
            made, text = accounts.issue(form.get("name", "").strip(), grants, expires, session.actor)
            return own(request, session, secret=text, made=made)

        return await do(request, own, change)

    @routes.post("/settings/tokens/{id}/revoke")
    async def revoke(request: Request, id: str) -> Response:
        """It is good for nothing any more."""

        def change(session: Session, form: Mapping[str, str]) -> Response:
            accounts.revoke(id[:100], session.actor)
            return RedirectResponse("/settings/accounts" if form.get("from") == "accounts" else "/settings", 303)

        return await do(request, own, change)

    @routes.post("/settings/accounts")
    async def add(request: Request) -> Response:
        """Somebody new."""

        def change(session: Session, form: Mapping[str, str]) -> None:
            session.actor.require(Role.ADMIN, None)
            grants = grants_of(form.get("grants", ""))
            accounts.add(form.get("name", "").strip(), grants, form.get("password") or None, session.actor)

        return await do(request, everybody, change)

    @routes.post("/settings/accounts/{name}/grants")
    async def grants(request: Request, name: str) -> Response:
        """What they may do from now on."""

        def change(session: Session, form: Mapping[str, str]) -> None:
            session.actor.require(Role.ADMIN, None)
            accounts.change(name, grants=grants_of(form.get("grants", "")), by=session.actor)

        return await do(request, everybody, change)

    @routes.post("/settings/accounts/{name}/password")
    async def password_of(request: Request, name: str) -> Response:
        """A new one for somebody."""

        def change(session: Session, form: Mapping[str, str]) -> None:
            session.actor.require(Role.ADMIN, None)
            accounts.set_password(name, form.get("password", ""), session.actor)

        return await do(request, everybody, change)

    @routes.post("/settings/accounts/{name}/disabled")
    async def disable(request: Request, name: str) -> Response:
        """Lets somebody in no more, or again."""

        def change(session: Session, form: Mapping[str, str]) -> None:
            session.actor.require(Role.ADMIN, None)
            accounts.change(name, disabled=form.get("disabled") == "yes", by=session.actor)

        return await do(request, everybody, change)

    @routes.post("/settings/accounts/{name}/remove")
    async def remove(request: Request, name: str) -> Response:
        """With their tokens and sessions."""

        def change(session: Session, _: Mapping[str, str]) -> None:
            session.actor.require(Role.ADMIN, None)
            accounts.remove(name, session.actor)

        return await do(request, everybody, change)

    return routes
