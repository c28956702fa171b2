"""Routes of alerts."""

from __future__ import annotations

from typing import Annotated

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
from crossfade.domain.alert import Alert
from crossfade.domain.errors import Invalid
from crossfade.domain.values import EnvKey
from crossfade.service import Service

Id = Annotated[int, Path(ge=1, le=2**31 - 1, description="The number of an alert.", examples=[4])]
Open = Annotated[bool, Query(alias="open", description="Only those that are not over.")]


class AcknowledgeBody(Body):
    """Say that one looks after it."""

    by: By = ""


def router(service: Service) -> APIRouter:
    """The routes."""
    routes = APIRouter(route_class=GuardedRoute, tags=["alerts"])

    @routes.get("/alerts", responses={200: {"model": Page[give.Alert]}})
    @needs(Role.VIEWER, Scope.SOMEWHERE)
    def alerts(
        who: Who,
        service_name: Annotated[str | None, Query(alias="service", description="With `environment`.")] = None,
        environment: Annotated[str | None, Query(description="With `service`.")] = None,
        open_only: Open = False,
        limit: Limit = cursors.USUAL,
        cursor: Cursor = None,
    ) -> Json:
        """The alerts that the asker may see, newest first."""
        if (service_name is None) != (environment is None):
            raise Invalid("environment", environment, "service and environment together, or neither")
        before = cursors.number("alerts", cursor)
        if service_name is not None and environment is not None:
            key = EnvKey(service_name, environment)
            who.require(Role.VIEWER, key)
            rows = list(service.alerts.list(key, open_only, limit + 1, before))
        else:
            rows = cursors.seen(
                lambda size, number: list(service.alerts.list(None, open_only, size, number)),
                lambda alert: int(alert.id),
                lambda alert: who.sees(alert.key),
                limit,
                before,
            )
        return _page(service, rows, limit)

    @routes.get("/environments/{service_name}/{environment}/alerts", responses={200: {"model": Page[give.Alert]}})
    @needs(Role.VIEWER, Scope.ENVIRONMENT)
    def of_environment(
        service_name: ServiceName,
        environment: EnvironmentName,
        open_only: Open = False,
        limit: Limit = cursors.USUAL,
        cursor: Cursor = None,
    ) -> Json:
        """The alerts of one environment, newest first."""
        key = EnvKey(service_name, environment)
        service.environment(key)
        rows = list(service.alerts.list(key, open_only, limit + 1, cursors.number("alerts", cursor)))
        return _page(service, rows, limit)

    @routes.post("/alerts/{id}/acknowledge", responses={200: {"model": give.Alert}})
    @needs(Role.OPERATOR, Scope.ALERT)
    def acknowledge(who: Who, id: Id, body: AcknowledgeBody) -> Json:
        """Say that one has seen it, and looks after it. It stays open until what it is about is over."""
        return Json(service.alerts.view(service.alerts.acknowledge(id, named(who, body.by))))

    return routes


def _page(service: Service, rows: list[Alert], limit: int) -> Json:
    page = cursors.page("alerts", rows, limit, lambda alert: alert.id)
    return Json({**page, "items": [service.alerts.view(alert) for alert in page["items"]]})
