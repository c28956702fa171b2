"""Routes of objectives, and of the watches after promotions."""

from __future__ import annotations

from typing import Annotated, Final

from fastapi import APIRouter, Path, Query

from crossfade.api import cursors
from crossfade.api import slo_answers as give
from crossfade.api.answers import Page
from crossfade.api.cursors import Cursor, Limit
from crossfade.api.environments import EnvironmentName, ServiceName
from crossfade.api.guard import GuardedRoute, Scope, Who, named, needs
from crossfade.api.models import Body, By
from crossfade.api.problems import Json
from crossfade.domain.access import Role
from crossfade.domain.errors import Invalid
from crossfade.domain.values import EnvKey
from crossfade.service import Service

MOST_BINS: Final = 10_000
"""Of one history."""
USUAL_SPAN: Final = 3600.0
USUAL_BINS: Final = 360
STEPS: Final = (1.0, 10.0, 60.0, 600.0, 3600.0, 6 * 3600.0, 86_400.0)
"""Seconds of a bin, when nobody says how long one should be."""

Name = Annotated[
    str,
    Path(max_length=100, description="An objective; `@edge` and `@probe` are all requests, and what the prober saw.",
         examples=["answers"]),
]  # fmt: skip
Id = Annotated[int, Path(ge=1, le=2**31 - 1, description="The number of a watch.", examples=[4])]
Moment = Annotated[float | None, Query(ge=0, le=1e11, allow_inf_nan=False, description="Epoch seconds.")]


class EndBody(Body):
    """End a watch."""

    by: By = ""


def router(service: Service) -> APIRouter:
    """The routes."""
    routes = APIRouter(route_class=GuardedRoute, tags=["objectives"])
    place = "/environments/{service_name}/{environment}"

    @routes.get(f"{place}/slo", responses={200: {"model": give.Slo}})
    @needs(Role.VIEWER, Scope.ENVIRONMENT)
    def slo(service_name: ServiceName, environment: EnvironmentName) -> Json:
        """Its objectives: what was promised and kept, what is left of each budget, how fast it burns, and what follows."""
        return Json(service.objectives.view(EnvKey(service_name, environment)))

    @routes.get(f"{place}/slo/{{objective:path}}/history", responses={200: {"model": Page[give.Stretch]}})
    @needs(Role.VIEWER, Scope.ENVIRONMENT)
    def history(
        service_name: ServiceName,
        environment: EnvironmentName,
        objective: Name,
        begins: Annotated[Moment, Query(alias="from")] = None,
        ends: Annotated[Moment, Query(alias="to")] = None,
        step: Annotated[
            float | None,
            Query(ge=1, le=1e7, allow_inf_nan=False, description="Seconds; by the time asked for when absent."),
        ] = None,
        limit: Limit = cursors.MOST,
        cursor: Cursor = None,
    ) -> Json:
        """What was counted, oldest first, by default in the last hour; times of which nothing is known are left out."""
        after = cursors.moment("history", cursor)
        until = ends if ends is not None else service.now()
        since = begins if begins is not None else max(0.0, until - USUAL_SPAN)
        if since >= until:
            raise Invalid("from", since, f"a time before `to` ({until:g})")
        size = step if step is not None else usual_step(until - since)
        if (until - since) / size > MOST_BINS:
            raise Invalid("step", size, f"{(until - since) / MOST_BINS:.0f} s or more, for so long a time")
        rows = service.objectives.history(EnvKey(service_name, environment), objective, since, until, size)
        rest = [row for row in rows if after is None or row["at"] > after][: limit + 1]
        return Json(cursors.page("history", rest, limit, lambda row: repr(row["at"])))

    @routes.get(f"{place}/watches", responses={200: {"model": Page[give.Watch]}})
    @needs(Role.VIEWER, Scope.ENVIRONMENT)
    def watches(
        service_name: ServiceName, environment: EnvironmentName, limit: Limit = cursors.USUAL, cursor: Cursor = None
    ) -> Json:
        """The watches after its promotions, newest first: what each saw, and did."""
        key = EnvKey(service_name, environment)
        service.environment(key)
        rows = service.watches.list(key, limit + 1, cursors.number("watches", cursor))
        return Json(cursors.page("watches", rows, limit, lambda row: row["id"]))

    @routes.get("/watches/{id}", responses={200: {"model": give.WatchDetail}})
    @needs(Role.VIEWER, Scope.WATCH)
    def watch(id: Id) -> Json:
        """One watch, with its journal, the profile that it holds the release to, and the plans that were made."""
        return Json(service.watches.view(id))

    @routes.post("/watches/{id}/end", responses={200: {"model": give.WatchDetail}})
    @needs(Role.OPERATOR, Scope.WATCH)
    def end(who: Who, id: Id, body: EndBody) -> Json:
        """End it: from now on nothing is taken back by itself. Objectives go on, and so do their alerts."""
        return Json(service.watches.end(id, named(who, body.by)))

    return routes


def usual_step(span: float) -> float:
    """Seconds of a bin that show so many seconds well."""
    return next((step for step in STEPS if span / step <= USUAL_BINS), STEPS[-1])
