"""Routes of an environment's migrations."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Path
from pydantic import Field
from typing_extensions import TypedDict  # pydantic wants this one before Python 3.12

from crossfade.api.environments import EnvironmentName, ServiceName
from crossfade.api.guard import GuardedRoute, Scope, Who, named, needs
from crossfade.api.models import Body, By, Line
from crossfade.api.problems import Json
from crossfade.domain.access import Role
from crossfade.domain.values import EnvKey
from crossfade.service import Service

Version = Annotated[
    str,
    Path(description="A migration, by its version.", examples=["01_isbn"], max_length=40, pattern=r"^[\w.-]+$"),
]


class MigrationProgress(TypedDict):
    """How far the backfill of a table is. ``rate`` in rows a second, ``eta`` in seconds."""

    phase: str
    subject: str
    done: int
    total: int
    rate: float
    eta: float | None
    waits: str


class Migration(TypedDict):
    """One migration. ``waits`` is all that its contract waits for, ``trouble`` what stopped it last. Times are epoch seconds."""

    version: str
    position: int
    checksum: str
    source: str
    phase: str
    expanded: float
    verified: float
    contracted: float
    progress: list[MigrationProgress]
    paused: bool
    trouble: str
    samples: list[str]
    contracts: bool
    waits: list[str]


class Migrations(TypedDict):
    """``database`` is None where the live release has none; ``answers``: whether it does just now. Oldest first."""

    database: dict[str, str] | None
    answers: bool
    items: list[Migration]


class MigrationBody(Body):
    """A command for a migration."""

    command: Literal["pause", "resume", "contract", "abort"] = Field(description="What to do.", examples=["contract"])
    override: Line = Field(
        default="",
        description="With contract, and as an admin: why the old shape goes although something needs it.",
        examples=["r3 is never coming back"],
    )
    by: By = ""


def router(service: Service) -> APIRouter:
    """The routes."""
    routes = APIRouter(route_class=GuardedRoute, tags=["migrations"])
    place = "/environments/{service_name}/{environment}/migrations"

    @routes.get(place, responses={200: {"model": Migrations}})
    @needs(Role.VIEWER, Scope.ENVIRONMENT)
    def migrations(service_name: ServiceName, environment: EnvironmentName) -> Json:
        """Its migrations, each with its phase, its progress, and what its contract waits for."""
        return Json(service.migrations.view(EnvKey(service_name, environment)))

    @routes.post(place + "/{version}/commands", responses={200: {"model": Migrations}})
    @needs(Role.OPERATOR, Scope.ENVIRONMENT)
    def command(
        who: Who, service_name: ServiceName, environment: EnvironmentName, version: Version, body: MigrationBody
    ) -> Json:
        """Pause, resume, contract or abort. A contract runs in the background."""
        key, by = EnvKey(service_name, environment), named(who, body.by)
        match body.command:
            case "pause" | "resume":
                service.migrations.pause(key, version, body.command == "pause", by)
            case "contract":
                service.migrations.contract(key, version, body.override, by)
            case "abort":
                service.migrations.abort(key, version, by)
        return Json(service.migrations.view(key))

    return routes
