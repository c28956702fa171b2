"""What happens and what happened: events of all environments, the audit log, and approvals that wait."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import RedirectResponse, Response
from starlette.concurrency import run_in_threadpool

from crossfade.domain.access import Actor, Role
from crossfade.domain.errors import CrossfadeError, Refused
from crossfade.domain.values import EnvKey, ReleaseNumber
from crossfade.ports import Change
from crossfade.service import Service
from crossfade.service.accounts import Session
from crossfade.service.views import flat
from crossfade.web.sessions import Sessions

EVENTS_SHOWN: Final = 100
LOOKED_BACK: Final = 2_000
"""Changes of the feed that are looked through for events: most of them only say that a rollout was saved."""
ENTRIES_SHOWN: Final = 50
FLAGS_NAMED: Final = 5

Id = Annotated[int, Path(ge=1, le=2**31 - 1)]
Before = Annotated[int | None, Query(ge=1, le=2**62)]


@dataclass(frozen=True, slots=True)
class Event:
    """A change in words. ``tone`` is plain, good or bad."""

    seq: int
    at: float
    key: EnvKey
    rollout: int | None
    text: str
    tone: str


def told(change: Change) -> Event | None:
    """None for what is no news to a person."""
    try:
        key = EnvKey.parse(change.key)
    except CrossfadeError:
        return None
    data, tone = change.data, "plain"
    match change.kind:
        case "journal":
            text = str(data["text"])
        case "live":
            text, tone = f"{data['release']} is live in {data['slot']}", "good"
        case "approval":
            text = f"{data['release']}: approval {data['approval']} is {data['state']}"
        case "flags" if data.get("flags"):
            names = list(map(str, data["flags"]))
            more = f" and {len(names) - FLAGS_NAMED} more" if len(names) > FLAGS_NAMED else ""
            text = f"flags have changed: {', '.join(names[:FLAGS_NAMED])}{more}"
        case "flag-request":
            text = f"flags: request {data['request']} is {data['state']}"
        case "rollout" if data.get("phase") == "rolled-back":
            text, tone = f"{data['candidate']} went back", "bad"
        case _:
            return None
    return Event(change.seq, change.at, key, change.rollout, text, tone)


def events(service: Service, actor: Actor, after: int, only: EnvKey | None) -> tuple[list[Event], int]:
    """What the actor may see of it, newest first, and the number of the newest change that was looked at."""
    oldest, newest = service.hub.kept()
    since = max(after, oldest - 1, newest - LOOKED_BACK)
    found: list[Event] = []
    while since < newest and (page := service.hub.after(since)):
        said = [told(change) for change in page]
        found += [e for e in said if e is not None and actor.sees(e.key) and only in (None, e.key)]
        since = page[-1].seq
    return found[: -EVENTS_SHOWN - 1 : -1], max(since, newest)


def router(house: Sessions) -> APIRouter:
    """The routes. The audit log is for admins; to decide wants the role that the approval names."""
    service = house.service
    routes = APIRouter(include_in_schema=False)

    def chosen(actor: Actor, environment: str) -> EnvKey | None:
        only = EnvKey.parse(environment) if environment else None
        if only is not None:
            actor.require(Role.VIEWER, only)
        return only

    @routes.get("/events")
    def feed(request: Request, environment: str = "") -> Response:
        """What happened lately, and as it happens."""
        session = house.session(request)
        only = chosen(session.actor, environment)
        rows, seq = events(service, session.actor, 0, only)
        keys = list(filter(session.actor.sees, service.keys()))
        return house.page(request, session, "events.html", events=rows, keys=keys, only=only, seq=seq)

    @routes.get("/events/part")
    def fresh(request: Request, after: Annotated[int, Query(ge=0, le=2**62)] = 0, environment: str = "") -> Response:
        """What came since."""
        session = house.session(request)
        rows, seq = events(service, session.actor, after, chosen(session.actor, environment))
        return house.page(request, session, "events_part.html", events=rows, seq=seq)

    def admin(request: Request) -> Session:
        session = house.session(request)
        session.actor.require(Role.ADMIN, None)
        return session

    @routes.get("/audit")
    def audit(request: Request, before: Before = None, key: str = "") -> Response:
        """Who did what."""
        session = admin(request)
        rows = service.audit.page(ENTRIES_SHOWN, before=before, key=key[:200] or None)
        rows = [{**row, "changes": _changes(row["before"], row["after"])} for row in rows]
        more = rows[-1]["seq"] if len(rows) == ENTRIES_SHOWN else None
        return house.page(request, session, "audit.html", entries=rows, key=key[:200], before=before, more=more)

    @routes.post("/audit/verify")
    async def verify(request: Request) -> Response:
        """Looks at the whole chain, and says what it found."""
        session, _ = await house.posted(request)
        return await run_in_threadpool(_verify, request, session)

    def _verify(request: Request, session: Session) -> Response:
        session.actor.require(Role.ADMIN, None)
        template = "audit_verified_part.html" if house.is_fetch(request) else "audit_verified.html"
        return house.page(request, session, template, verified=service.audit.verify())

    @routes.get("/approvals")
    def approvals(request: Request, before: Before = None) -> Response:
        """Those that wait, and those that were decided."""
        session = house.session(request)
        waiting = [_decidable(service, one, session.actor) for one in service.approvals.waiting()]
        past = service.approvals.page(ENTRIES_SHOWN, before=before)
        more = past[-1]["approval"] if len(past) == ENTRIES_SHOWN else None
        return house.page(
            request,
            session,
            "approvals.html",
            waiting=[one for one in waiting if session.actor.sees(_key(one))] if before is None else [],
            past=[one for one in past if one["state"] != "waiting" and session.actor.sees(_key(one))],
            more=more,
        )

    def _approval(request: Request, session: Session, id: int, error: CrossfadeError | None = None) -> Response:
        key = service.approvals.key(id)
        session.actor.require(Role.VIEWER, key)
        approval = _decidable(service, service.approvals.get(id), session.actor)
        status, number = service.status(key), ReleaseNumber.parse(approval["release"])
        live = ReleaseNumber.parse(status["live"]) if status["live"] else None
        return house.page(
            request,
            session,
            "approval.html",
            status=200 if error is None else 409,
            approval=approval,
            key=key,
            release=service.release(key, number),
            live=live,
            changes=service.compare(key, live, number) if live is not None else [],
            error=error,
        )

    @routes.get("/approvals/{id}")
    def approval(request: Request, id: Id) -> Response:
        """What is asked for, what approving will do, and the two answers."""
        return _approval(request, house.session(request), id)

    @routes.post("/approvals/{id}/{answer}")
    async def decide(request: Request, id: Id, answer: Literal["approve", "reject"]) -> Response:
        """Approve or reject."""
        session, form = await house.posted(request)
        return await run_in_threadpool(_decide, request, session, form, id, answer)

    def _decide(request: Request, session: Session, form: Mapping[str, str], id: int, answer: str) -> Response:
        session.actor.require(Role.VIEWER, service.approvals.key(id))
        try:
            if answer == "approve":
                return RedirectResponse(f"/rollouts/{service.approvals.approve(id, session.actor).id}", 303)
            service.approvals.reject(id, session.actor, form.get("why", "").strip())
        except Refused as error:
            return _approval(request, session, id, error)
        return RedirectResponse(f"/approvals/{id}", 303)

    return routes


def _key(approval: Mapping[str, Any]) -> EnvKey:
    return EnvKey(approval["service"], approval["environment"])


def _decidable(service: Service, approval: Mapping[str, Any], actor: Actor) -> dict[str, Any]:
    """With why the actor cannot approve it, and whether they may say no; who asked may take it back."""
    mine = approval["by"] == actor.name
    may = actor.may(Role(approval["role"]), _key(approval))
    why_not = service.approvals.may_decide(approval["approval"], actor)
    return {**approval, "why_not": why_not, "may_reject": may or mine, "own": mine}


def _changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    old, new = flat(dict(before)), flat(dict(after))
    places = [place for place in {**old, **new} if place and (old.get(place) or "") != (new.get(place) or "")]
    return [(place, old.get(place), new.get(place)) for place in places]
