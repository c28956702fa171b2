"""`/environments/…/slo`: what an environment's clients are promised, what is left of its error budgets, and who watches."""

from __future__ import annotations

from typing import Annotated, Any, Final

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from crossfade.domain.access import Role
from crossfade.domain.errors import Invalid, NotFound
from crossfade.domain.slo import EDGE, PROBE
from crossfade.domain.values import DAY, EnvKey
from crossfade.service import Service
from crossfade.service.accounts import Session
from crossfade.web import slo_view as view
from crossfade.web.alerts import open_alerts, shown_of
from crossfade.web.house import House

WATCHES_SHOWN: Final = 5
SLO: Final = "/environments/{name}/{environment}/slo"


def router(house: House) -> APIRouter:
    """The routes. All want a session whose actor sees the environment."""
    service = house.service
    routes = APIRouter(include_in_schema=False)

    def seen(request: Request, name: str, environment: str) -> tuple[Session, EnvKey]:
        session = house.session(request)
        key = key_of(name, environment)
        session.actor.require(Role.VIEWER, key)
        return session, key

    @routes.get(SLO)
    def page(request: Request, name: str, environment: str) -> Response:
        """The whole page."""
        session, key = seen(request, name, environment)
        return house.page(request, session, "slo.html", **_shown(service, session, key))

    @routes.get(SLO + "/part")
    def part(request: Request, name: str, environment: str) -> Response:
        """What changes in it."""
        session, key = seen(request, name, environment)
        return house.page(request, session, "slo_part.html", **_shown(service, session, key))

    @routes.get(SLO + "/history")
    def history(
        request: Request,
        name: str,
        environment: str,
        objective: Annotated[str, Query(max_length=100)],
        span: Annotated[str, Query(max_length=10)] = "hour",
    ) -> dict[str, Any]:
        """One objective's curves over a time that ends now: see `slo_view.curve`. Raises NotFound, Invalid."""
        _, key = seen(request, name, environment)
        now = service.now()
        found = _objective(service, key, objective)
        spans = {one.name: one for one in view.ranges(found["window"])}
        if span not in spans:
            raise Invalid("span", span, " or ".join(spans))
        wanted = spans[span]
        begins = now - wanted.span
        rows = service.objectives.history(key, objective, begins, now, wanted.step)
        return view.curve(found, rows, begins, now, wanted.step)

    return routes


def key_of(name: str, environment: str) -> EnvKey:
    """Of a URL. Raises NotFound: what cannot be a name is none."""
    try:
        return EnvKey(name, environment)
    except Invalid:
        raise NotFound("There is no such environment.", hint="The start page lists those there are.") from None


def _objective(service: Service, key: EnvKey, name: str) -> dict[str, Any]:
    """Its promise; what everybody has, the edge's and the prober's counts, as if no bad one were allowed."""
    if name in (EDGE, PROBE):
        return {"name": name, "target": 1.0, "window": 30 * DAY}
    found: list[dict[str, Any]] = service.objectives.view(key)["objectives"]
    one = next((each for each in found if each["name"] == name), None)
    if one is None:
        raise NotFound(f"{key} has no objective {name}.", hint="Its page shows those it has.")
    return one


def _shown(service: Service, session: Session, key: EnvKey) -> dict[str, Any]:
    """What the templates are given. ``seq`` is taken first: nothing that happens after it is missed."""
    _, seq = service.hub.kept()
    found = service.objectives.view(key)
    worst_first = sorted(found["objectives"], key=lambda one: view.ORDER.index(one["state"]))
    return {
        "key": key,
        "objectives": worst_first,
        "headline": view.headline(found["objectives"]),
        "state": view.CLASSES[worst_first[0]["state"]] if worst_first else "empty",
        "probe": found["probe"],
        "frozen": found["frozen"],
        "watch": found["watch"],
        "watches": service.watches.list(key, WATCHES_SHOWN, None),
        "alerts": [shown_of(alert, session.actor) for alert in open_alerts(service, session.actor, key)],
        "view": view,
        "seq": seq,
    }
