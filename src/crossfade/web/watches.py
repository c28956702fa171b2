"""`/watches/{id}`: the watch over a release after its promotion: what it looks at, what it found and did; and its end."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Path, Request
from fastapi.responses import RedirectResponse, Response
from starlette.concurrency import run_in_threadpool

from crossfade.domain.access import Role
from crossfade.domain.errors import CrossfadeError, Forbidden, Invalid, Refused
from crossfade.service.accounts import Session
from crossfade.web import slo_view as view
from crossfade.web.house import House
from crossfade.web.rollouts import Once

Id = Annotated[int, Path(ge=1, le=2**31 - 1)]


def router(house: House) -> APIRouter:
    """The routes. All want a session whose actor sees the environment; to end a watch wants the role operator there."""
    service = house.service
    routes = APIRouter(include_in_schema=False)
    once = Once()

    def shown(session: Session, id: int) -> dict[str, Any]:
        _, seq = service.hub.kept()
        key = service.watches.environment_of(id)
        session.actor.require(Role.VIEWER, key)
        forbidden = "" if session.actor.may(Role.OPERATOR, key) else f"This wants the role operator for {key}."
        return {"one": service.watches.view(id), "key": key, "forbidden": forbidden, "view": view, "seq": seq}

    @routes.get("/watches/{id}")
    def watch(request: Request, id: Id) -> Response:
        """One of them."""
        session = house.session(request)
        return house.page(request, session, "watch.html", **shown(session, id))

    @routes.get("/watches/{id}/part")
    def part(request: Request, id: Id) -> Response:
        """What changes in it."""
        session = house.session(request)
        return house.page(request, session, "watch_part.html", **shown(session, id))

    @routes.get("/watches/{id}/end")
    def ask(request: Request, id: Id) -> Response:
        """Says what it means to end it, and asks."""
        session = house.session(request)
        return _ask(request, session, id)

    @routes.post("/watches/{id}/end")
    async def end(request: Request, id: Id) -> Response:
        """Ends it: from then on nothing is done by itself."""
        session, form = await house.posted(request)
        return await run_in_threadpool(_end, request, session, id, form)

    def _end(request: Request, session: Session, id: int, form: Mapping[str, str]) -> Response:
        by, key = session.actor, service.watches.environment_of(id)
        by.require(Role.VIEWER, key)
        given = form.get("once", "")

        def do() -> str:
            service.watches.end(id, by)
            return f"/watches/{id}"

        try:
            by.require(Role.OPERATOR, key)
            if not 16 <= len(given) <= 64:
                raise Invalid("once", given, "the value that the form came with")
            place = once.act(f"{by.identity} end watch {id} {given}", do)
        except (Refused, Forbidden) as error:
            return _ask(request, session, id, error)
        return RedirectResponse(place, 303)

    def _ask(request: Request, session: Session, id: int, error: CrossfadeError | None = None) -> Response:
        found = shown(session, id)
        why_not = found["forbidden"] or ("It has ended." if found["one"]["ended"] else "")
        status = 200 if error is None else 403 if isinstance(error, Forbidden) else 409
        once_more = secrets.token_urlsafe(24)
        return house.page(
            request, session, "watch_end.html", status, **found, why_not=why_not, error=error, once=once_more
        )

    return routes
