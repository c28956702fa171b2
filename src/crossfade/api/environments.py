"""Routes of environments and their releases."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query

from crossfade.api import answers as give
from crossfade.api import cursors
from crossfade.api.cursors import Cursor, Limit
from crossfade.api.guard import GuardedRoute, Scope, Who, named, needs
from crossfade.api.models import AgainBody, CommandBody, RollbackBody
from crossfade.api.problems import Json
from crossfade.domain.access import Role
from crossfade.domain.values import EnvKey, ReleaseNumber
from crossfade.service import Service

ServiceName = Annotated[str, Path(description="Name of the service.", examples=["bookshop"])]
EnvironmentName = Annotated[str, Path(description="Name of the environment.", examples=["production"])]
ReleaseName = Annotated[str, Path(description="A release.", examples=["r12"])]


def router(service: Service) -> APIRouter:
    """The routes."""
    routes = APIRouter(route_class=GuardedRoute)
    place = "/environments/{service_name}/{environment}"

    @routes.get("/environments", tags=["environments"], responses={200: {"model": give.Page[give.Environment]}})
    @needs(Role.VIEWER, Scope.SOMEWHERE)
    def environments(who: Who, limit: Limit = cursors.USUAL, cursor: Cursor = None) -> Json:
        """The environments that the asker may see, by name, with their slots, weights and rollout."""
        after = cursors.read("environments", cursor)
        rows = service.all_status(limit + 1, EnvKey.parse(after) if after else None, who.sees)
        return Json(cursors.page("environments", rows, limit, lambda row: f"{row['service']}/{row['environment']}"))

    @routes.get(place, tags=["environments"], responses={200: {"model": give.Environment}})
    @needs(Role.VIEWER, Scope.ENVIRONMENT)
    def environment(service_name: ServiceName, environment: EnvironmentName) -> Json:
        """One environment."""
        return Json(service.status(EnvKey(service_name, environment)))

    @routes.get(f"{place}/releases", tags=["releases"], responses={200: {"model": give.Page[give.Release]}})
    @needs(Role.VIEWER, Scope.ENVIRONMENT)
    def releases(
        service_name: ServiceName,
        environment: EnvironmentName,
        limit: Limit = cursors.USUAL,
        cursor: Cursor = None,
    ) -> Json:
        """Its releases, newest first; whether each can be restored has been checked."""
        rows = service.releases(EnvKey(service_name, environment), limit + 1, cursors.number("releases", cursor))
        return Json(cursors.page("releases", rows, limit, lambda row: row["release"][1:]))

    @routes.get(f"{place}/releases/{{release}}", tags=["releases"], responses={200: {"model": give.ReleaseDetail}})
    @needs(Role.VIEWER, Scope.ENVIRONMENT)
    def release(service_name: ServiceName, environment: EnvironmentName, release: ReleaseName) -> Json:
        """One release with its configuration. Of secrets, only which set of values it is."""
        return Json(service.release(EnvKey(service_name, environment), ReleaseNumber.parse(release)))

    @routes.get(f"{place}/compare", tags=["releases"], responses={200: {"model": give.Page[give.Difference]}})
    @needs(Role.VIEWER, Scope.ENVIRONMENT)
    def compare(
        service_name: ServiceName,
        environment: EnvironmentName,
        one: Annotated[str, Query(alias="from", description="A release.", examples=["r1"])],
        other: Annotated[str, Query(alias="to", description="Another.", examples=["r2"])],
    ) -> Json:
        """The settings that differ between two releases."""
        key = EnvKey(service_name, environment)
        return Json(cursors.whole(service.compare(key, ReleaseNumber.parse(one), ReleaseNumber.parse(other))))

    @routes.get(f"{place}/traffic", tags=["environments"], responses={200: {"model": dict[str, Any]}})
    @needs(Role.VIEWER, Scope.ENVIRONMENT)
    def traffic(service_name: ServiceName, environment: EnvironmentName) -> Json:
        """What the live release's clients saw in the last hour: what `plan` counts with."""
        return Json(service.traffic(EnvKey(service_name, environment)))

    @routes.get(f"{place}/going-back", tags=["rollouts"], responses={200: {"model": give.RollbackPlan}})
    @needs(Role.VIEWER, Scope.ENVIRONMENT)
    def going_back(service_name: ServiceName, environment: EnvironmentName) -> Json:
        """What it would take to end a harm now: all remedies, the cheapest that applies first. Changes nothing."""
        return Json(service.going_back(EnvKey(service_name, environment)).to_data())

    @routes.get(f"{place}/logs", tags=["environments"], responses={200: {"model": dict[str, list[str]]}})
    @needs(Role.VIEWER, Scope.ENVIRONMENT)
    def logs(
        service_name: ServiceName,
        environment: EnvironmentName,
        release: Annotated[str | None, Query(description="Only of this release.", examples=["r3"])] = None,
        lines: Annotated[int, Query(ge=1, le=10_000, description="Of each replica.")] = 100,
    ) -> Json:
        """The last lines of each replica, by its name."""
        number = ReleaseNumber.parse(release) if release else None
        return Json(service.logs(EnvKey(service_name, environment), number, lines))

    @routes.post(f"{place}/commands", tags=["rollouts"], responses={200: {"model": give.Rollout}})
    @needs(Role.OPERATOR, Scope.ENVIRONMENT)
    def order_current(who: Who, service_name: ServiceName, environment: EnvironmentName, body: CommandBody) -> Json:
        """A command for whatever rollout holds the environment."""
        state = service.order_current(EnvKey(service_name, environment), body.command, named(who, body.by))
        return Json(service.rollout(state.id))

    @routes.post(f"{place}/rollbacks", status_code=201, tags=["rollouts"], responses={201: {"model": give.Rollout}})
    @needs(Role.OPERATOR, Scope.ENVIRONMENT)
    def rollback(who: Who, service_name: ServiceName, environment: EnvironmentName, body: RollbackBody) -> Json:
        """Return to an earlier release; aborts a rollout under way when none is named."""
        to = ReleaseNumber.parse(body.to) if body.to else None
        state = service.rollback(EnvKey(service_name, environment), to, named(who, body.by))
        return Json(service.rollout(state.id), 201)

    @routes.post(
        f"{place}/releases/{{release}}/rollouts",
        status_code=201,
        tags=["rollouts"],
        responses={201: {"model": give.Rollout | give.Approval, "description": "A rollout, or an approval that waits"}},
    )
    @needs(Role.OPERATOR, Scope.ENVIRONMENT)
    def deploy_again(
        who: Who, service_name: ServiceName, environment: EnvironmentName, release: ReleaseName, body: AgainBody
    ) -> Json:
        """Roll out a release that the environment has had before, by its own strategy, as if it were new."""
        key = EnvKey(service_name, environment)
        begun = service.deploy_again(key, ReleaseNumber.parse(release), named(who, body.by), body.fix)
        return Json(service.begun(begun), 201)

    return routes
