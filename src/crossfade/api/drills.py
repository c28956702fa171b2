"""Routes of drills, and of proofs that the releases of the window can be restored."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query
from pydantic import Field

from crossfade.api import cursors
from crossfade.api import slo_answers as give
from crossfade.api.answers import Page
from crossfade.api.cursors import Cursor, Limit
from crossfade.api.environments import EnvironmentName, ServiceName
from crossfade.api.guard import GuardedRoute, Scope, Who, named, needs
from crossfade.api.models import Body, By, Line
from crossfade.api.problems import Json
from crossfade.domain.access import Role
from crossfade.domain.drill import FURTHEST, LONGEST_HOLD, Fault
from crossfade.domain.values import EnvKey, ReleaseNumber
from crossfade.service import Service

Id = Annotated[int, Path(ge=1, le=2**31 - 1, description="The number of a drill.", examples=[4])]


class DrillBody(Body):
    """Rehearse a rollback under live traffic."""

    name: Line = Field(default="", description="A drill of the configuration, or what to call this one.",
                       examples=["weekly"])  # fmt: skip
    back: int = Field(default=1, ge=1, le=FURTHEST, strict=True, description="How many releases to go back.",
                      examples=[1])  # fmt: skip
    hold: float = Field(default=30.0, ge=0, le=LONGEST_HOLD, allow_inf_nan=False, strict=True,
                        description="Seconds that the older release serves.", examples=[30.0])  # fmt: skip
    fault: Fault | None = Field(default=None, description="What is done to it first; nothing when null.",
                                examples=["kill-replica"])  # fmt: skip
    by: By = ""


class AbortBody(Body):
    """End a drill."""

    by: By = ""


class ProofBody(Body):
    """Start releases on a standby, and ask their health checks."""

    release: str | None = Field(default=None, max_length=20, description="All of the window when null.",
                                examples=["r3"])  # fmt: skip
    by: By = ""


def router(service: Service) -> APIRouter:
    """The routes."""
    routes = APIRouter(route_class=GuardedRoute)
    place = "/environments/{service_name}/{environment}"

    @routes.get(f"{place}/drills", tags=["drills"], responses={200: {"model": Page[give.Drill]}})
    @needs(Role.VIEWER, Scope.ENVIRONMENT)
    def drills(
        service_name: ServiceName, environment: EnvironmentName, limit: Limit = cursors.USUAL, cursor: Cursor = None
    ) -> Json:
        """Its drills, newest first."""
        key = EnvKey(service_name, environment)
        service.environment(key)
        rows = service.drills.list(key, limit + 1, cursors.number("drills", cursor))
        return Json(cursors.page("drills", rows, limit, lambda row: row["id"]))

    @routes.post(f"{place}/drills", status_code=201, tags=["drills"], responses={201: {"model": give.DrillDetail}})
    @needs(Role.OPERATOR, Scope.ENVIRONMENT)
    def begin(who: Who, service_name: ServiceName, environment: EnvironmentName, body: DrillBody) -> Json:
        """Begin a drill; refused while a rollout, or another drill, is under way."""
        begun = service.drills.begin(
            EnvKey(service_name, environment),
            named(who, body.by),
            name=body.name,
            back=body.back,
            hold=body.hold,
            fault=body.fault,
        )
        return Json(begun, 201)

    @routes.get(f"{place}/drills/plan", tags=["drills"], responses={200: {"model": give.Rehearsal}})
    @needs(Role.VIEWER, Scope.ENVIRONMENT)
    def plan(
        service_name: ServiceName,
        environment: EnvironmentName,
        back: Annotated[int, Query(ge=1, le=FURTHEST, description="How many releases to go back.")] = 1,
        hold: Annotated[
            float, Query(ge=0, le=LONGEST_HOLD, allow_inf_nan=False, description="Seconds that the older one serves.")
        ] = 30.0,
        fault: Annotated[Fault | None, Query(description="What is done first.")] = None,
    ) -> Json:
        """What a drill would do now; refused as the drill itself would be. Changes nothing."""
        found, _ = service.drills.plan(EnvKey(service_name, environment), "", back, hold, fault)
        return Json(
            {
                "service": found.key.service,
                "environment": found.key.environment,
                "home": str(found.home),
                "target": str(found.target) if found.target is not None else None,
                "back": found.back,
                "hold": found.hold,
                "fault": found.fault,
                "patience": found.patience,
            }
        )

    @routes.get(f"{place}/drills/schedule", tags=["drills"], responses={200: {"model": Page[give.Scheduled]}})
    @needs(Role.VIEWER, Scope.ENVIRONMENT)
    def schedule(service_name: ServiceName, environment: EnvironmentName) -> Json:
        """The drills of its configuration: when each was last, when it comes next, and whether it is overdue."""
        return Json(cursors.whole(service.drills.schedule(EnvKey(service_name, environment))))

    @routes.get("/drills/{id}", tags=["drills"], responses={200: {"model": give.DrillDetail}})
    @needs(Role.VIEWER, Scope.DRILL)
    def drill(id: Id) -> Json:
        """One drill, with its journal, and its receipt once it has ended."""
        return Json(service.drills.view(id))

    @routes.post("/drills/{id}/abort", tags=["drills"], responses={200: {"model": give.DrillDetail}})
    @needs(Role.OPERATOR, Scope.DRILL)
    def abort(who: Who, id: Id, body: AbortBody) -> Json:
        """End it: what it has injected is lifted, and the release that was live before serves again."""
        return Json(service.drills.abort(id, named(who, body.by)))

    @routes.get(f"{place}/proofs", tags=["proofs"], responses={200: {"model": Page[give.Proof]}})
    @needs(Role.VIEWER, Scope.ENVIRONMENT)
    def proofs(service_name: ServiceName, environment: EnvironmentName) -> Json:
        """Of each release of its rollback window: when it was last proven that it can be restored, and how long it took."""
        return Json(cursors.whole(service.proofs.list(EnvKey(service_name, environment))))

    @routes.post(f"{place}/proofs", status_code=201, tags=["proofs"], responses={201: {"model": give.Asked}})
    @needs(Role.OPERATOR, Scope.ENVIRONMENT)
    def prove(who: Who, service_name: ServiceName, environment: EnvironmentName, body: ProofBody) -> Json:
        """Ask for it to be proven now, one release after the other: `GET` says what came of it."""
        number = ReleaseNumber.parse(body.release) if body.release else None
        return Json(service.proofs.prove(EnvKey(service_name, environment), number, named(who, body.by)), 201)

    return routes
