"""`/alerts`: what wants a person, of all environments or of one: since when, why, what is proposed, and who looks after it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Final

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import RedirectResponse, Response
from starlette.concurrency import run_in_threadpool

from crossfade.domain.access import Actor, Role
from crossfade.domain.alert import Alert
from crossfade.domain.values import EnvKey
from crossfade.service import Service
from crossfade.service.accounts import Session
from crossfade.web import slo_view as view
from crossfade.web.house import House

SHOWN: Final = 30
MOST_OPEN: Final = 500
"""Open ones that are looked through for those that a viewer sees."""
MOST_PAGES: Final = 20
TITLES: Final = {
    "burn": "{} burns its error budget",
    "budget": "The error budget of {} is used up",
    "drill": "Drill {}",
    "drill-overdue": "Drill {} is overdue",
    "proof": "Proof of {}",
}
ALONE: Final = {"prober": "The edge, asked from outside", "watch": "What was promoted last does harm"}

Id = Annotated[int, Path(ge=1, le=2**31 - 1)]
Before = Annotated[int | None, Query(ge=1, le=2**31 - 1)]
Only = Annotated[str, Query(max_length=200)]
Data = Mapping[str, Any]
_TO: Final = re.compile(r"--to (r\d+)")


def title_of(name: str) -> str:
    """What an alert is about, from its name: ``burn:answers``."""
    what, _, of = name.partition(":")
    if of and what in TITLES:
        return TITLES[what].format(of)
    return ALONE.get(name) or f"{what.replace('-', ' ').capitalize()} {of}".strip()


def proposal_of(key: EnvKey, facts: Data) -> dict[str, str] | None:
    """What is proposed, and the page where a person does it, from what an alert's facts say; None where nothing is."""
    proposal = facts.get("proposal")
    if not isinstance(proposal, Mapping) or not proposal.get("sentence"):
        return None
    to = _TO.search(str(proposal.get("command", "")))
    place = f"/environments/{key}/rollback?to={to[1]}" if to is not None else ""
    return {
        "said": view.told(str(proposal["sentence"])),
        "place": place,
        "label": f"Roll back to {to[1]}" if to else "",
    }


def shown_of(alert: Alert, actor: Actor) -> dict[str, Any]:
    """An alert as pages show it to somebody."""
    place = f"/environments/{alert.key}"
    what = alert.name.partition(":")[0]
    page = {"burn": "/slo", "budget": "/slo", "prober": "/slo", "watch": "/slo"}.get(what, "")
    if what in ("drill", "drill-overdue", "proof"):
        page = "/drills"
    return {
        "id": alert.id,
        "key": alert.key,
        "service": alert.key.service,
        "environment": alert.key.environment,
        "name": alert.name,
        "title": title_of(alert.name),
        "place": place + page,
        "severity": alert.severity.value,
        "wants": view.SEVERITIES[alert.severity.value],
        "sentence": view.told(alert.sentence),
        "began": alert.began,
        "ended": alert.ended,
        "acknowledged": alert.acknowledged,
        "resolution": view.told(alert.resolution),
        "watch": alert.facts.get("watch") if alert.ended is None else None,
        "drill": alert.facts.get("drill") if isinstance(alert.facts.get("drill"), int) else None,
        "proposal": proposal_of(alert.key, alert.facts) if alert.ended is None else None,
        "may": actor.may(Role.OPERATOR, alert.key),
    }


def open_alerts(service: Service, actor: Actor, key: EnvKey | None = None) -> list[Alert]:
    """Those that somebody sees, the most severe first, then the newest."""
    found = [one for one in service.alerts.list(key, open_only=True, limit=MOST_OPEN) if actor.sees(one.key)]
    order = tuple(view.SEVERITIES)
    return sorted(found, key=lambda one: (bool(one.acknowledged), order.index(one.severity.value), -one.id))


def router(house: House) -> APIRouter:
    """The routes. To look wants a session; each sees the alerts of what they see. To acknowledge wants operator there."""
    service = house.service
    routes = APIRouter(include_in_schema=False)

    @routes.get("/alerts")
    def alerts(request: Request, environment: Only = "", before: Before = None) -> Response:
        """Those that are open, and those that are over."""
        session = house.session(request)
        key = EnvKey.parse(environment) if environment else None
        if key is not None:
            session.actor.require(Role.VIEWER, key)
        _, seq = service.hub.kept()
        past, more = _past(service, session.actor, key, before)
        return house.page(
            request,
            session,
            "alerts_part.html" if house.is_fetch(request) else "alerts.html",
            alerts=[shown_of(one, session.actor) for one in open_alerts(service, session.actor, key)],
            past=[shown_of(one, session.actor) for one in past],
            more=more,
            before=before,
            keys=sorted(filter(session.actor.sees, service.keys()), key=str),
            only=key,
            seq=seq,
        )

    @routes.get("/alerts/{id}")
    def alert(request: Request, id: Id) -> Response:
        """One of them."""
        session = house.session(request)
        found = service.alerts.get(id)
        session.actor.require(Role.VIEWER, found.key)
        return house.page(
            request,
            session,
            "alert.html",
            alert=shown_of(found, session.actor),
            facts=sorted((name, fact) for name, fact in found.facts.items() if not isinstance(fact, Mapping | list)),
        )

    @routes.post("/alerts/{id}/acknowledge")
    async def acknowledge(request: Request, id: Id) -> Response:
        """Says that somebody looks after it. To say so again changes nothing."""
        session, _ = await house.posted(request)
        return await run_in_threadpool(_acknowledge, session, id)

    def _acknowledge(session: Session, id: int) -> Response:
        session.actor.require(Role.VIEWER, service.alerts.get(id).key)
        service.alerts.acknowledge(id, session.actor)
        return RedirectResponse("/alerts", 303)

    return routes


def _past(service: Service, actor: Actor, key: EnvKey | None, before: int | None) -> tuple[list[Alert], int | None]:
    """Those that are over, newest first, and the id to go on from; None when there are no more."""
    found: list[Alert] = []
    for _ in range(MOST_PAGES):
        rows = service.alerts.list(key, limit=SHOWN, before=before)
        for row in rows:
            if row.ended is not None and actor.sees(row.key):
                found.append(row)
            if len(found) == SHOWN:
                return found, row.id
        if len(rows) < SHOWN:
            return found, None
        before = rows[-1].id
    return found, before
