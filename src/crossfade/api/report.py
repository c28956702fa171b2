"""Routes of the report, and of what a person says of a deployment."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query
from fastapi.responses import Response
from pydantic import Field

from crossfade.api.guard import GuardedRoute, Scope, Who, named, needs
from crossfade.api.models import Body, By, Line
from crossfade.api.problems import Json
from crossfade.domain.access import Role
from crossfade.domain.errors import Invalid
from crossfade.domain.report.span import Span
from crossfade.service import Service

MOST_KEYS = 200
MEDIA = {"markdown": "text/markdown; charset=utf-8", "csv": "text/csv; charset=utf-8"}

Id = Annotated[int, Path(ge=1, le=2**31 - 1, description="The number of a rollout.", examples=[7])]
Month = Annotated[str | None, Query(max_length=20, description="A month of UTC.", examples=["2026-11"])]
First = Annotated[
    str | None, Query(alias="from", max_length=20, description="The first day, with `to`.", examples=["2026-11-01"])
]
Last = Annotated[
    str | None, Query(alias="to", max_length=20, description="The last day, with `from`.", examples=["2026-11-30"])
]
Named = Annotated[
    str | None, Query(alias="service", max_length=50, description="Only of this service.", examples=["bookshop"])
]
Environment = Annotated[
    str | None,
    Query(max_length=50, description="Only of this environment; `*` is all. When absent: production, if there is one."),
]
Keys = Annotated[
    list[Annotated[str, Field(max_length=101)]] | None,
    Query(alias="key", max_length=MOST_KEYS, description="A service, or `service/environment`; may be given often."),
]
Form = Annotated[Literal["json", "markdown", "csv"], Query(description="In which form.")]


class FailedBody(Body):
    """What a person says of a deployment that was promoted."""

    failed: bool = Field(default=True, strict=True, description="Whether it has failed after all.", examples=[True])
    why: Line = Field(default="", description="For those who look later.", examples=["it lost orders"])
    by: By = ""


def span_of(month: str | None, first: str | None, last: str | None, now: float) -> Span:
    """What is asked for: a month, or some days, or this month. Raises Invalid."""
    if first is None and last is None:
        return Span.of_month(month) if month is not None else Span.around(now)
    if month is not None:
        raise Invalid("month", month, "a month, or from and to, and not both")
    if first is None or last is None:
        raise Invalid("from, to", first or last, "both of them, or a month")
    return Span.of_days(first, last)


def wanted_of(service: str | None, environment: str | None, keys: list[str] | None) -> list[str]:
    """As `Reports.keys` wants it. Raises Invalid."""
    if keys:
        if service is not None or environment is not None:
            raise Invalid("key", keys[0], "without service and environment")
        return keys
    if service is None and environment is None:
        return []
    return [service or "*"] if environment is None and service else [f"{service or '*'}/{environment}"]


def router(service: Service) -> APIRouter:
    """The routes."""
    routes = APIRouter(route_class=GuardedRoute, tags=["report"])

    @routes.get(
        "/report",
        responses={
            200: {
                "model": dict[str, Any],
                "description": "The report; as Markdown or CSV where that is asked for.",
                "content": {
                    "text/markdown": {"schema": {"type": "string"}},
                    "text/csv": {"schema": {"type": "string"}},
                },
            }
        },
    )
    @needs(Role.VIEWER, Scope.SOMEWHERE)
    def report(
        who: Who,
        month: Month = None,
        first: First = None,
        last: Last = None,
        service_name: Named = None,
        environment: Environment = None,
        key: Keys = None,
        format: Form = "json",
    ) -> Response:
        """Availability, incidents, DORA's measures, recoveries, drills and receipts of those environments that one may see."""
        span = span_of(month, first, last, service.now())
        keys = service.reports.keys(wanted_of(service_name, environment, key), who, span)
        found = service.reports.report(keys, span)
        if format == "json":
            return Json(found)
        text = service.reports.markdown(found) if format == "markdown" else service.reports.csv(found)
        return Response(text, media_type=MEDIA[format])

    @routes.post("/rollouts/{id}/failed", responses={200: {"model": dict[str, Any]}})
    @needs(Role.OPERATOR, Scope.ROLLOUT)
    def failed(who: Who, id: Id, body: FailedBody) -> Json:
        """Say of a deployment that was promoted that it has failed, though nobody rolled it back; or that it has not."""
        return Json(service.reports.mark(id, body.failed, body.why, named(who, body.by)))

    return routes
