"""Routes of guarded ramps of flags."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Path, Query
from pydantic import Field

from crossfade.api import cursors
from crossfade.api import flag_answers as give
from crossfade.api.answers import Page
from crossfade.api.cursors import Cursor, Limit
from crossfade.api.environments import EnvironmentName, ServiceName
from crossfade.api.flags import FlagKey
from crossfade.api.guard import GuardedRoute, Scope, Who, named, needs
from crossfade.api.models import Body, By
from crossfade.api.problems import Json
from crossfade.domain.access import Role
from crossfade.domain.flags.ramp import MOST_STEPS, STEPS, Command
from crossfade.domain.release import Step
from crossfade.domain.values import EnvKey, Weight
from crossfade.service import Service

Id = Annotated[int, Path(ge=1, le=2**31 - 1, description="The number of a ramp.", examples=[4])]
Word = Annotated[str, Field(min_length=1, max_length=200)]


class StepBody(Body):
    """One step of a ramp."""

    weight: int = Field(ge=1, le=10_000, strict=True, description="Basis points.", examples=[1000])
    duration: float = Field(gt=0, allow_inf_nan=False, strict=True, description="Seconds that it is judged for, at least.",
                            examples=[300.0])  # fmt: skip


class RampBody(Body):
    """Give a variant to more and more, while it does no harm."""

    variant: Word = Field(description="Which.", examples=["on"])
    rest: Word | None = Field(default=None, description="What the others get until then.", examples=["off"])
    rule: Word | None = Field(
        default=None, description="The rule whose split is set; one is made when there is none.", examples=["ramp"]
    )
    steps: list[StepBody] | None = Field(
        default=None,
        min_length=1,
        max_length=MOST_STEPS,
        description="1, 5, 25, 50 and 100 %, five minutes each, when absent.",
        examples=[[{"weight": 1000, "duration": 300.0}, {"weight": 10_000, "duration": 300.0}]],
    )
    by: By = ""


class RampCommand(Body):
    """A command for a ramp."""

    command: Literal["pause", "resume", "finish", "abort"] = Field(
        description="`finish`: 100 % now; `abort`: back to 0.", examples=["pause"]
    )
    by: By = ""


def router(service: Service) -> APIRouter:
    """The routes."""
    routes = APIRouter(route_class=GuardedRoute, tags=["ramps"])
    place = "/environments/{service_name}/{environment}"

    @routes.get(f"{place}/ramps", responses={200: {"model": Page[give.Ramp]}})
    @needs(Role.VIEWER, Scope.ENVIRONMENT)
    def ramps(
        service_name: ServiceName,
        environment: EnvironmentName,
        flag: Annotated[str | None, Query(max_length=200, description="Only of this flag.")] = None,
        open_only: Annotated[bool, Query(alias="open", description="Only those under way.")] = False,
        limit: Limit = cursors.USUAL,
        cursor: Cursor = None,
    ) -> Json:
        """Its ramps, newest first."""
        key, before = EnvKey(service_name, environment), cursors.number("ramps", cursor)
        rows = service.ramps.list(key, flag, limit + 1, before, open_only)
        return Json(cursors.page("ramps", rows, limit, lambda row: row["id"]))

    @routes.post(f"{place}/flags/{{flag:path}}/ramps", status_code=201, responses={201: {"model": give.RampDetail}})
    @needs(Role.OPERATOR, Scope.ENVIRONMENT)
    def begin(who: Who, service_name: ServiceName, environment: EnvironmentName, flag: FlagKey, body: RampBody) -> Json:
        """Begin a ramp."""
        steps = [Step(Weight(step.weight), step.duration) for step in body.steps] if body.steps is not None else STEPS
        begun = service.ramps.begin(
            EnvKey(service_name, environment),
            flag,
            body.variant,
            named(who, body.by),
            rest=body.rest,
            rule=body.rule,
            steps=steps,
        )
        return Json(begun, 201)

    @routes.get("/ramps/{id}", responses={200: {"model": give.RampDetail}})
    @needs(Role.VIEWER, Scope.RAMP)
    def ramp(id: Id) -> Json:
        """One ramp, with its journal and what clients of each variant have seen."""
        return Json(service.ramps.view(id))

    @routes.post("/ramps/{id}/commands", responses={200: {"model": give.RampDetail}})
    @needs(Role.OPERATOR, Scope.RAMP)
    def order(who: Who, id: Id, body: RampCommand) -> Json:
        """Pause, resume, finish or abort it."""
        return Json(service.ramps.order(id, Command(body.command), named(who, body.by)))

    return routes
