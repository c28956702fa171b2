"""`/notices`: what was told to whom, what came of it, and whether a target can be told at all."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Annotated, Any, Final

from fastapi import APIRouter, Query, Request
from fastapi.responses import RedirectResponse, Response
from starlette.concurrency import run_in_threadpool

from crossfade.domain.access import Actor, Role
from crossfade.domain.errors import CrossfadeError, Invalid, Refused
from crossfade.domain.values import EnvKey
from crossfade.service.accounts import Session
from crossfade.web import slo_view as view
from crossfade.web.alerts import title_of
from crossfade.web.house import House
from crossfade.web.rollouts import Once

SHOWN: Final = 40
MOST_PAGES: Final = 20
STATES: Final = {
    "waiting": "on its way",
    "held": "held back for a summary",
    "sent": "told",
    "summed": "told in a summary",
    "failed": "not told",
}
"""What became of a notice to a target, in words."""

Before = Annotated[int | None, Query(ge=1, le=2**31 - 1)]
Text = Annotated[str, Query(max_length=200)]


def router(house: House) -> APIRouter:
    """The routes. To look wants a session; each sees what was told of what they see. To try a target wants admin."""
    service = house.service
    routes = APIRouter(include_in_schema=False)
    once = Once()

    def rows(actor: Actor, target: str, before: int | None) -> tuple[list[dict[str, Any]], int | None]:
        found: list[dict[str, Any]] = []
        for _ in range(MOST_PAGES):
            page = service.notices.list(SHOWN, before, None, target or None)
            for row in page:
                if actor.sees(EnvKey(row["service"], row["environment"])):
                    found.append(row)
                if len(found) == SHOWN:
                    return found, row["id"]
            if len(page) < SHOWN:
                return found, None
            before = page[-1]["id"]
        return found, before

    def shown(
        request: Request,
        session: Session,
        target: str,
        before: int | None,
        error: CrossfadeError | None = None,
    ) -> Response:
        _, seq = service.hub.kept()
        found, more = rows(session.actor, target, before)
        status = 200 if error is None else 422 if isinstance(error, Invalid) else 409
        return house.page(
            request,
            session,
            "notices_part.html" if house.is_fetch(request) else "notices.html",
            status,
            notices=[
                {**one, "title": title_of(one["title"]) if one["kind"] == "alert" else one["title"]} for one in found
            ],
            more=more,
            before=before,
            target=target,
            targets=service.notices.targets(),
            may_try=session.actor.may(Role.ADMIN, None),
            states=STATES,
            error=error,
            view=view,
            once=secrets.token_urlsafe(24),
            seq=seq,
        )

    @routes.get("/notices")
    def notices(request: Request, target: Text = "", before: Before = None) -> Response:
        """The newest, to everybody or to one target."""
        return shown(request, house.session(request), target, before)

    @routes.post("/notices/test")
    async def test(request: Request) -> Response:
        """Tells one target that it is only a test. What comes of it is the first row."""
        session, form = await house.posted(request)
        return await run_in_threadpool(_test, request, session, form)

    def _test(request: Request, session: Session, form: Mapping[str, str]) -> Response:
        session.actor.require(Role.ADMIN, None)
        target, given = form.get("target", ""), form.get("once", "")
        if not 16 <= len(given) <= 64:
            raise Invalid("once", given, "the value that the form came with")

        def send() -> str:
            service.notices.test(target, session.actor)
            return "/notices"

        try:
            place = once.act(f"{session.actor.identity} notices {target} {given}", send)
        except (Refused, Invalid) as error:
            return shown(request, session, "", None, error)
        return RedirectResponse(place, 303)

    return routes
