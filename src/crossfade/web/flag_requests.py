"""`/flag-requests`: changes of flags that wait for somebody else's word, and those that were decided."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import RedirectResponse, Response
from starlette.concurrency import run_in_threadpool

from crossfade.domain.access import Actor, Role
from crossfade.domain.errors import CrossfadeError, Forbidden, Invalid, Refused
from crossfade.domain.values import EnvKey
from crossfade.service import Service
from crossfade.service.accounts import Session
from crossfade.web import flag_view as view
from crossfade.web.flag_house import place_of, status_of, waiting_requests
from crossfade.web.house import House

DECIDED_SHOWN: Final = 50

Id = Annotated[int, Path(ge=1, le=2**31 - 1)]
Before = Annotated[int | None, Query(ge=1, le=2**31 - 1)]


def router(house: House) -> APIRouter:
    """The routes. All want a session whose actor sees the environment; to decide wants the role that the request names."""
    service = house.service
    routes = APIRouter(include_in_schema=False)

    @routes.get("/flag-requests")
    def requests(request: Request, environment: str = "", before: Before = None) -> Response:
        """Those that wait, and those that were decided."""
        session = house.session(request)
        only = EnvKey.parse(environment) if environment else None
        if only is not None:
            session.actor.require(Role.VIEWER, only)
        _, seq = service.hub.kept()
        past = service.flags.requests(only, limit=DECIDED_SHOWN, before=before)
        shown = [one for one in past if one["state"] != "waiting" and session.actor.sees(_key(one))]
        waiting = waiting_requests(service, session.actor, only) if before is None else []
        return house.page(
            request,
            session,
            "flag_requests.html",
            only=only,
            waiting=[_decidable(service, one, session.actor) for one in waiting],
            past=shown,
            more=past[-1]["request"] if len(past) == DECIDED_SHOWN else None,
            seq=seq,
        )

    def _request(request: Request, session: Session, id: int, error: CrossfadeError | None = None) -> Response:
        key = service.flags.request_key(id)
        session.actor.require(Role.VIEWER, key)
        found = _decidable(service, service.flags.request(id), session.actor)
        return house.page(
            request,
            session,
            "flag_request.html",
            status=status_of(error),
            one=found,
            key=key,
            flags=[(name, place_of(key, name)) for name in found["flags"]],
            changes=view.places(found["before"], found["after"]),
            error=error,
        )

    @routes.get("/flag-requests/{id}")
    def one(request: Request, id: Id) -> Response:
        """What is asked for, and the two answers."""
        return _request(request, house.session(request), id)

    @routes.post("/flag-requests/{id}/{answer}")
    async def decide(request: Request, id: Id, answer: Literal["approve", "reject"]) -> Response:
        """Approve or reject."""
        session, form = await house.posted(request)
        return await run_in_threadpool(_decide, request, session, form, id, answer)

    def _decide(request: Request, session: Session, form: Mapping[str, str], id: int, answer: str) -> Response:
        key = service.flags.request_key(id)
        session.actor.require(Role.VIEWER, key)
        try:
            if answer == "approve":
                done = service.flags.approve(id, session.actor)
                alone = done.flags[0] if len(done.flags) == 1 else None
                return RedirectResponse(place_of(key, alone) if alone else f"/environments/{key}/flags", 303)
            service.flags.reject(id, form.get("why", "").strip(), session.actor)
        except (Refused, Forbidden, Invalid) as error:
            return _request(request, session, id, error)
        return RedirectResponse(f"/flag-requests/{id}", 303)

    return routes


def _key(request: Mapping[str, Any]) -> EnvKey:
    return EnvKey(request["service"], request["environment"])


def _decidable(service: Service, request: Mapping[str, Any], actor: Actor) -> dict[str, Any]:
    """With why the actor cannot approve it, and whether they may say no; who asked may take it back."""
    own = request["by"] == actor.name
    may = actor.may(Role(request["role"]), _key(request))
    why_not = service.flags.may_approve(request["request"], actor)
    return {**request, "key": _key(request), "why_not": why_not, "may_reject": may or own, "own": own}
