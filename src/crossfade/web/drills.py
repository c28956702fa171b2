"""Drills from the dashboard: when they come, how they went, one as it goes on; and proofs that the window can be restored."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import RedirectResponse, Response
from starlette.concurrency import run_in_threadpool

from crossfade.domain.access import Role
from crossfade.domain.drill import FURTHEST, LONGEST_HOLD, Fault
from crossfade.domain.errors import CrossfadeError, Forbidden, Invalid, NotFound, Refused
from crossfade.domain.values import EnvKey, ReleaseNumber
from crossfade.service import Service
from crossfade.service.accounts import Session
from crossfade.service.views import CHECKED_LATELY
from crossfade.web import drill_view as view
from crossfade.web.house import House
from crossfade.web.rollouts import Once
from crossfade.web.slo import key_of

DRILLS_SHOWN: Final = 20
DRILLS: Final = "/environments/{name}/{environment}/drills"
PROOFS: Final = "/environments/{name}/{environment}/proofs"
USUAL_HOLD: Final = "30s"

Id = Annotated[int, Path(ge=1, le=2**31 - 1)]
Before = Annotated[int | None, Query(ge=1, le=2**31 - 1)]
Text = Annotated[str, Query(max_length=100)]
Form = Mapping[str, str]
_LENGTH: Final = re.compile(r"(\d{1,5}(?:\.\d{1,3})?)\s*(s|m|min|h)?")
_UNITS: Final = {"s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}


@dataclass(frozen=True, slots=True)
class Asked:
    """What a form asks for."""

    name: str
    back: int
    hold: float
    fault: Fault | None


def asked_of(form: Form) -> Asked:
    """From the fields of a form. Raises Invalid."""
    back = form.get("back", "1").strip() or "1"
    if not back.isdecimal() or not 1 <= int(back[:5]) <= FURTHEST:
        raise Invalid("back", back, f"a number of releases, 1 to {FURTHEST}")
    hold = form.get("hold", USUAL_HOLD).strip() or USUAL_HOLD
    match = _LENGTH.fullmatch(hold)
    seconds = float(match[1]) * _UNITS[match[2] or "s"] if match is not None else -1.0
    if not 0 <= seconds <= LONGEST_HOLD:
        raise Invalid("hold", hold, "how long, up to an hour: 30s, 2min")
    fault = form.get("fault", "")
    if fault and fault not in {one.value for one in Fault}:
        raise Invalid("fault", fault, ", ".join(Fault))
    return Asked(form.get("name", "").strip()[:100], int(back), seconds, Fault(fault) if fault else None)


def router(house: House) -> APIRouter:
    """The routes. All want a session whose actor sees the environment; to begin, abort and prove wants operator there."""
    service = house.service
    routes = APIRouter(include_in_schema=False)
    once = Once()

    def seen(request: Request, name: str, environment: str) -> tuple[Session, EnvKey]:
        session = house.session(request)
        key = key_of(name, environment)
        session.actor.require(Role.VIEWER, key)
        return session, key

    @routes.get(DRILLS)
    def page(request: Request, name: str, environment: str, before: Before = None) -> Response:
        """When drills come, how they went, and the proofs."""
        session, key = seen(request, name, environment)
        return house.page(request, session, "drills.html", **_facts(service, session, key, before))

    @routes.get(DRILLS + "/part")
    def part(request: Request, name: str, environment: str) -> Response:
        """What changes in it."""
        session, key = seen(request, name, environment)
        return house.page(request, session, "drills_part.html", **_facts(service, session, key, None))

    @routes.get("/environments/{name}/{environment}/new-drill")
    def ask(
        request: Request,
        name: str,
        environment: str,
        drill: Text = "",
        back: Text = "1",
        hold: Text = USUAL_HOLD,
        fault: Text = "",
    ) -> Response:
        """A form for a drill, and what it will do; a script that asks gets only that."""
        session, key = seen(request, name, environment)
        return _ask(house, request, session, key, {"name": drill, "back": back, "hold": hold, "fault": fault})

    @routes.post("/environments/{name}/{environment}/new-drill")
    async def begin(request: Request, name: str, environment: str) -> Response:
        """Begins it. What is in its way is told where it was asked for."""
        session, form = await house.posted(request)
        return await run_in_threadpool(_begin, request, session, key_of(name, environment), form)

    def _begin(request: Request, session: Session, key: EnvKey, form: Form) -> Response:
        by = session.actor
        by.require(Role.VIEWER, key)

        def do() -> str:
            wanted = asked_of(form)
            begun = service.drills.begin(
                key, by, name=wanted.name, back=wanted.back, hold=wanted.hold, fault=wanted.fault
            )
            return f"/drills/{begun['id']}"

        try:
            by.require(Role.OPERATOR, key)
            place = once.act(f"{by.identity} {key} drill {_given(form)}", do)
        except (Refused, Forbidden, Invalid, NotFound) as error:
            return _ask(house, request, session, key, form, error)
        return RedirectResponse(place, 303)

    @routes.get("/drills/{id}")
    def drill(request: Request, id: Id) -> Response:
        """One drill as it goes on, and its receipt."""
        session = house.session(request)
        return house.page(request, session, "drill.html", **_drill(service, session, id))

    @routes.get("/drills/{id}/part")
    def drill_part(request: Request, id: Id) -> Response:
        """What changes in it."""
        session = house.session(request)
        return house.page(request, session, "drill_part.html", **_drill(service, session, id))

    @routes.get("/drills/{id}/abort")
    def ask_abort(request: Request, id: Id) -> Response:
        """Says what an abort will do, and asks."""
        session = house.session(request)
        return _ask_abort(request, session, id)

    @routes.post("/drills/{id}/abort")
    async def abort(request: Request, id: Id) -> Response:
        """Aborts it. A refused one is told where it was asked for."""
        session, form = await house.posted(request)
        return await run_in_threadpool(_abort, request, session, id, form)

    def _abort(request: Request, session: Session, id: int, form: Form) -> Response:
        by, key = session.actor, service.drills.environment_of(id)
        by.require(Role.VIEWER, key)

        def do() -> str:
            service.drills.abort(id, by)
            return f"/drills/{id}"

        try:
            by.require(Role.OPERATOR, key)
            place = once.act(f"{by.identity} abort drill {id} {_given(form)}", do)
        except (Refused, Forbidden) as error:
            return _ask_abort(request, session, id, error)
        return RedirectResponse(place, 303)

    def _ask_abort(request: Request, session: Session, id: int, error: CrossfadeError | None = None) -> Response:
        found = _drill(service, session, id)
        why_not = found["forbidden"] or view.why_not_abort(found["drill"])
        return house.page(
            request,
            session,
            "drill_abort.html",
            _status(error),
            **{**found, "why_not": why_not, "error": error, "once": secrets.token_urlsafe(24)},
        )

    @routes.post(PROOFS)
    async def prove(request: Request, name: str, environment: str) -> Response:
        """Proves one release of the window, or all of it, when the environment is free. What is refused is said."""
        session, form = await house.posted(request)
        return await run_in_threadpool(_prove, request, session, key_of(name, environment), form)

    def _prove(request: Request, session: Session, key: EnvKey, form: Form) -> Response:
        by, release = session.actor, form.get("release", "")
        by.require(Role.OPERATOR, key)

        def do() -> str:
            service.proofs.prove(key, ReleaseNumber.parse(release) if release else None, by)
            return f"/environments/{key}/drills"

        try:
            place = once.act(f"{by.identity} {key} prove {release} {_given(form)}", do)
        except Refused as error:
            facts = _facts(service, session, key, None)
            return house.page(request, session, "drills.html", 409, **{**facts, "error": error})
        return RedirectResponse(place, 303)

    return routes


def _facts(service: Service, session: Session, key: EnvKey, before: int | None) -> dict[str, Any]:
    """What the templates are given. ``seq`` is taken first: nothing that happens after it is missed."""
    _, seq = service.hub.kept()
    status = service.status(key)
    drills = service.drills.list(key, DRILLS_SHOWN, before)
    live = status["live"]
    return {
        "key": key,
        "schedule": service.drills.schedule(key),
        "drills": drills,
        "now_on": next((one for one in drills if not one["ended"]), None),
        "before": before,
        "more": drills[-1]["id"] if len(drills) == DRILLS_SHOWN else None,
        "proofs": service.proofs.list(key) if live else [],
        "live": live,
        "rollout": status["rollout"],
        "forbidden": _forbidden(session, key),
        "view": view,
        "error": None,
        "once": secrets.token_urlsafe(24),
        "seq": seq,
    }


def _drill(service: Service, session: Session, id: int) -> dict[str, Any]:
    _, seq = service.hub.kept()
    key = service.drills.environment_of(id)
    session.actor.require(Role.VIEWER, key)
    found = service.drills.view(id)
    return {"drill": found, "key": key, "forbidden": _forbidden(session, key), "view": view, "seq": seq}


def _ask(
    house: House,
    request: Request,
    session: Session,
    key: EnvKey,
    form: Form,
    error: CrossfadeError | None = None,
) -> Response:
    service = house.service
    live = service.environment(key).live
    why_not, what = _forbidden(session, key), list[str]()
    rows = service.restorable(key, CHECKED_LATELY) if live is not None else ()
    window = [str(row.number) for row in rows]
    try:
        wanted = asked_of(form)
        what = view.what_happens(str(live or ""), window, wanted.back, wanted.hold, wanted.fault)
        if not why_not:
            service.drills.plan(key, wanted.name, wanted.back, wanted.hold, wanted.fault)
    except (Refused, Forbidden) as refused:
        why_not = str(refused)
    except Invalid as fault:
        error = error or fault
    return house.page(
        request,
        session,
        "drill_what.html" if house.is_fetch(request) else "drill_new.html",
        200 if house.is_fetch(request) else _status(error),
        key=key,
        form={"name": "", "back": "1", "hold": USUAL_HOLD, "fault": "", **form},
        window=window,
        planned=[one["name"] for one in service.drills.schedule(key)],
        what=what,
        why_not=why_not,
        error=error,
        view=view,
        once=secrets.token_urlsafe(24),
    )


def _forbidden(session: Session, key: EnvKey) -> str:
    return "" if session.actor.may(Role.OPERATOR, key) else f"This wants the role operator for {key}."


def _given(form: Form) -> str:
    given = form.get("once", "")
    if not 16 <= len(given) <= 64:
        raise Invalid("once", given, "the value that the form came with")
    return given


def _status(error: CrossfadeError | None) -> int:
    if error is None:
        return 200
    return 403 if isinstance(error, Forbidden) else 422 if isinstance(error, Invalid) else 409
