"""Routes of what was told to whom, and of what monitoring elsewhere can be given."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.responses import Response
from pydantic import Field
from typing_extensions import TypedDict

from crossfade.api import cursors
from crossfade.api.answers import Page
from crossfade.api.cursors import Cursor, Limit
from crossfade.api.guard import GuardedRoute, Scope, Who, named, needs
from crossfade.api.models import Body, By
from crossfade.api.problems import Json
from crossfade.domain.access import Role
from crossfade.domain.exports import grafana_dashboard, prometheus_rules
from crossfade.domain.values import EnvKey
from crossfade.service import Service

Target = Annotated[str | None, Query(max_length=40, description="Only to this target.", examples=["pager"])]


class Notice(TypedDict):
    """What was sent to a target, or waits. ``state`` is waiting, sent, failed, held (until there is a summary) or summed.

    ``message`` is what the target knows it by, ``digest`` is of what was sent; ``state_of`` is what became of the thing
    that it is about: happened, opened, reminder or resolved. Times are epoch seconds.
    """

    id: int
    message: str
    target: str
    state: str
    tries: int
    answer: str
    digest: str
    next: float | None
    began: float
    ended: float | None
    state_of: str
    about: str
    at: float
    severity: str
    kind: str
    service: str
    environment: str
    title: str
    sentence: str
    url: str
    nth: int


class TestBody(Body):
    """A test of a target."""

    target: str = Field(min_length=1, max_length=40, description="Which.", examples=["pager"])
    by: By = ""


def router(service: Service) -> APIRouter:
    """The routes."""
    routes = APIRouter(route_class=GuardedRoute, tags=["notices"])

    @routes.get("/notices", responses={200: {"model": Page[Notice]}})
    @needs(Role.VIEWER, Scope.SOMEWHERE)
    def notices(who: Who, target: Target = None, limit: Limit = cursors.USUAL, cursor: Cursor = None) -> Json:
        """What was sent to whom, or waits, newest first; of the environments that the actor sees."""
        rows = cursors.seen(
            lambda count, before: service.notices.list(count, before, target=target),
            lambda row: int(row["id"]),
            lambda row: who.sees(EnvKey(row["service"], row["environment"])),
            limit,
            cursors.number("notices", cursor),
        )
        return Json(cursors.page("notices", rows, limit, lambda row: row["id"]))

    @routes.post("/notices/test", responses={200: {"model": Notice}})
    @needs(Role.ADMIN, Scope.INSTALLATION)
    def test(who: Who, body: TestBody) -> Json:
        """Send a notice to one target, whatever the routes say, once; what came of it."""
        return Json(service.notices.test(body.target, named(who, body.by)))

    text: dict[int | str, Any] = {
        200: {"content": {"application/yaml": {"schema": {"type": "object"}}}, "description": "For Prometheus."}
    }

    @routes.get("/export/prometheus-rules", response_class=Response, responses=text)
    @needs(Role.VIEWER, Scope.INSTALLATION)
    def rules() -> Response:
        """Recording and alerting rules over `/metrics`, for every objective that there is now."""
        views = [service.objectives.view(key) for key in sorted(service.keys())]
        return Response(prometheus_rules(views), media_type="application/yaml")

    @routes.get("/export/grafana-dashboard", responses={200: {"model": dict[str, Any], "description": "For Grafana."}})
    @needs(Role.VIEWER, Scope.INSTALLATION)
    def dashboard() -> Json:
        """A dashboard over `/metrics`."""
        return Json(grafana_dashboard())

    return routes
