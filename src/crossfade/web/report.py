"""`/report`: what a month was like, to look at, to print, and to take along as Markdown, CSV or JSON."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from crossfade.domain.access import Actor
from crossfade.domain.errors import NotFound
from crossfade.domain.report import words
from crossfade.domain.report.plots import PLOTS
from crossfade.domain.report.span import Span
from crossfade.service import Service
from crossfade.web.flag_house import Lately
from crossfade.web.house import House

FOUND_LATELY: Final = 10.0
"""Seconds for which a report that was made is shown again: to all who ask for the same."""
LEADING: Final = ("edge", "outside", "incidents", "frequency", "fail_rate", "recovery")
"""The figures that stand above all others."""
MARKS: Final = {
    "availability": "Availability by day, at the edge and asked from outside; the table of days below has the numbers.",
    "deployments": "Deployments and failed ones over time; the table of days below has the numbers.",
    "recovery": "Recovery times of failed deployments and of drills; the tables below have the numbers.",
    "budget": "What was left of each error budget by day; the table of objectives has the last.",
}
FORMS: Final = {
    "md": ("text/markdown; charset=utf-8", "Markdown"),
    "csv": ("text/csv; charset=utf-8", "CSV"),
    "json": ("application/json", "JSON"),
}
MOST_ROWS: Final = 100

Text = Annotated[str, Query(max_length=50)]


@dataclass(frozen=True, slots=True)
class Asked:
    """What the filters of the page say; empty: nothing is said."""

    month: str = ""
    service: str = ""
    environment: str = ""

    def span(self, now: float) -> Span:
        """Raises Invalid."""
        return Span.of_month(self.month) if self.month else Span.around(now)

    @property
    def wanted(self) -> list[str]:
        if not self.service and not self.environment:
            return []
        if not self.environment:
            return [self.service]
        return [f"{self.service or '*'}/{self.environment}"]

    def at(self, month: str | None = None) -> str:
        """The same of a month, as the query of a link."""
        said = {"month": self.month if month is None else month, "service": self.service}
        said["environment"] = self.environment
        return urlencode({name: value for name, value in said.items() if value})


def router(house: House) -> APIRouter:
    """The routes. A report is of those environments that the actor sees."""
    service = house.service
    routes = APIRouter(include_in_schema=False)
    made = Lately(FOUND_LATELY, 20)

    def found(actor: Actor, asked: Asked) -> tuple[dict[str, Any], Span]:
        span = asked.span(service.now())
        keys = tuple(service.reports.keys(asked.wanted, actor, span))
        return made.of((keys, span), lambda: service.reports.report(keys, span)), span

    @routes.get("/report")
    def report(request: Request, month: Text = "", name: Annotated[str, Query(alias="service", max_length=50)] = "",
               environment: Text = "") -> Response:  # fmt: skip
        """The page."""
        session = house.session(request)
        asked = Asked(month, name, environment)
        one, span = found(session.actor, asked)
        return house.page(request, session, "report.html", **_shown(service, session.actor, asked, one, span))

    @routes.get("/report.{form}")
    def export(request: Request, form: str, month: Text = "",
               name: Annotated[str, Query(alias="service", max_length=50)] = "", environment: Text = "") -> Response:  # fmt: skip
        """The same in another form, to keep."""
        session = house.session(request)
        one, span = found(session.actor, Asked(month, name, environment))
        media, text = _as(service, one, form)
        file = f"report-{span.month or 'days'}.{form}"
        return Response(text, media_type=media, headers={"Content-Disposition": f'attachment; filename="{file}"'})

    return routes


def _as(service: Service, report: Mapping[str, Any], form: str) -> tuple[str, str]:
    """Its media type and its text. Raises NotFound."""
    if form not in FORMS:
        raise NotFound(f"There is no report as {form!r}.", hint=f"There are {', '.join(FORMS)}.")
    media, _ = FORMS[form]
    match form:
        case "md":
            return media, service.reports.markdown(report)
        case "csv":
            return media, service.reports.csv(report)
        case _:
            return media, json.dumps(report, indent=2)


def _shown(service: Service, actor: Actor, asked: Asked, report: Mapping[str, Any], span: Span) -> dict[str, Any]:
    """What the template is given."""
    seen = list(filter(actor.sees, service.keys()))
    now = service.now()
    following = Span.around(span.ends)
    by_name = {figure["figure"]: figure for figure in report["figures"]}
    return {
        "report": report,
        "asked": asked,
        "month": span.month,
        "earlier": span.previous.month,
        "later": following.month if following.begins <= now else None,
        "services": sorted({key.service for key in seen} | ({asked.service} if asked.service else set())),
        "environments": sorted({key.environment for key in seen}),
        "leading": [by_name[name] for name in LEADING],
        "plots": [(name, MARKS[name], _embedded(draw(report))) for name, draw in PLOTS.items()],
        "forms": {form: name for form, (_, name) in FORMS.items()},
        "places": {f"{one['service']}/{one['environment']}" for one in report["environments"] if not one["gone"]},
        "most": MOST_ROWS,
        "words": words,
    }


def _embedded(svg: str) -> str:
    """A plot within the page, so that a page that is kept or printed has it."""
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()
