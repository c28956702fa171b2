"""Routes of artifacts, rollouts and business events."""

from __future__ import annotations

import tempfile
from typing import Annotated

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import Response
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from crossfade.api import answers as give
from crossfade.api import cursors
from crossfade.api.cursors import Cursor, Limit
from crossfade.api.guard import GuardedRoute, Scope, Who, named, needs
from crossfade.api.models import CommandBody, DeployBody, EventsBody
from crossfade.api.problems import Json
from crossfade.domain.access import Role
from crossfade.domain.errors import Forbidden, Invalid
from crossfade.domain.events import parse
from crossfade.domain.values import Digest, EnvKey
from crossfade.service import Request as Deployment
from crossfade.service import Service

LARGEST_UPLOAD = 2 * 1024**3

Id = Annotated[int, Path(ge=1, le=2**31 - 1, description="The number of a rollout.", examples=[7])]


def router(service: Service) -> APIRouter:
    """The routes."""
    routes = APIRouter(route_class=GuardedRoute)

    @routes.post(
        "/artifacts",
        status_code=201,
        tags=["artifacts"],
        responses={201: {"model": give.Artifact}},
        openapi_extra={
            "requestBody": {
                "required": True,
                "description": "A tar stream, optionally gzipped.",
                "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
            }
        },
    )
    @needs(Role.OPERATOR, Scope.SOMEWHERE)
    async def upload(
        request: Request, digest: Annotated[str | None, Query(description="What it must have.")] = None
    ) -> Json:
        """Upload a tar stream; it is named by its content, so that doing it again changes nothing."""
        expected = Digest(digest) if digest else None
        with tempfile.TemporaryFile() as spool:
            size = 0
            async for chunk in request.stream():
                size += len(chunk)
                if size > LARGEST_UPLOAD:
                    raise HTTPException(413, f"An artifact may have {LARGEST_UPLOAD} bytes.")
                await run_in_threadpool(spool.write, chunk)
            spool.seek(0)
            artifact = await run_in_threadpool(service.take_artifact, spool, expected)
        return Json({"digest": artifact.digest.text, "size": artifact.size, "files": artifact.files}, 201)

    @routes.post(
        "/rollouts",
        status_code=201,
        tags=["rollouts"],
        responses={201: {"model": give.Rollout | give.Approval, "description": "A rollout, or an approval that waits"}},
    )
    @needs(Role.OPERATOR, Scope.SOMEWHERE)
    def deploy(who: Who, body: DeployBody) -> Json:
        """Number a release and begin its rollout; where the environment wants an approval, ask for it."""
        begun = service.deploy(
            Deployment(
                EnvKey(body.service, body.environment),
                Digest(body.digest),
                body.config,
                {name: value.get_secret_value() for name, value in body.secrets.items()},
                body.label,
                named(who, body.by),
                body.fix,
            )
        )
        return Json(service.begun(begun), 201)

    @routes.get("/rollouts", tags=["rollouts"], responses={200: {"model": give.Page[give.Rollout]}})
    @needs(Role.VIEWER, Scope.SOMEWHERE)
    def rollouts(
        who: Who,
        service_name: Annotated[str | None, Query(alias="service", description="With `environment`.")] = None,
        environment: Annotated[str | None, Query(description="With `service`.")] = None,
        limit: Limit = 20,
        cursor: Cursor = None,
    ) -> Json:
        """The rollouts that the asker may see, newest first."""
        if (service_name is None) != (environment is None):
            raise Invalid("environment", environment, "service and environment together, or neither")
        before = cursors.number("rollouts", cursor)
        if service_name is not None and environment is not None:
            key = EnvKey(service_name, environment)
            who.require(Role.VIEWER, key)
            rows = service.rollouts(key, limit + 1, before)
        else:
            rows = cursors.seen(
                lambda size, number: service.rollouts(None, size, number),
                lambda row: int(row["id"]),
                lambda row: who.sees(EnvKey(row["service"], row["environment"])),
                limit,
                before,
            )
        return Json(cursors.page("rollouts", rows, limit, lambda row: row["id"]))

    @routes.get("/rollouts/{id}", tags=["rollouts"], responses={200: {"model": give.Rollout}})
    @needs(Role.VIEWER, Scope.ROLLOUT)
    def rollout(id: Id) -> Json:
        """One rollout."""
        return Json(service.rollout(id))

    @routes.post("/rollouts/{id}/commands", tags=["rollouts"], responses={200: {"model": give.Rollout}})
    @needs(Role.OPERATOR, Scope.ROLLOUT)
    def order(who: Who, id: Id, body: CommandBody) -> Json:
        """Promote, pause, resume or abort."""
        service.order(id, body.command, named(who, body.by))
        return Json(service.rollout(id))

    @routes.get("/rollouts/{id}/journal", tags=["rollouts"], responses={200: {"model": give.Page[give.Entry]}})
    @needs(Role.VIEWER, Scope.ROLLOUT)
    def journal(id: Id, limit: Limit = cursors.MOST, cursor: Cursor = None) -> Json:
        """What happened, in order."""
        # A journal only grows: the place of a line never changes.
        done = cursors.number("journal", cursor) or 0
        rows = list(enumerate(service.journal(id), 1))[done : done + limit + 1]
        shown = cursors.page("journal", rows, limit, lambda row: row[0])
        return Json({**shown, "items": [entry for _, entry in shown["items"]]})

    @routes.get("/rollouts/{id}/samples", tags=["rollouts"], responses={200: {"model": give.Page[give.Sample]}})
    @needs(Role.VIEWER, Scope.ROLLOUT)
    def samples(id: Id, limit: Limit = cursors.MOST, cursor: Cursor = None) -> Json:
        """What was sampled of it lately, oldest first: rates and latencies of both arms, once a second."""
        after = cursors.moment("samples", cursor)
        rows = [row for row in service.hub.samples(id) if after is None or row["t"] > after][: limit + 1]
        return Json(cursors.page("samples", rows, limit, lambda row: repr(row["t"])))

    @routes.get("/rollouts/{id}/preview", tags=["rollouts"], responses={200: {"model": give.Preview}})
    @needs(Role.OPERATOR, Scope.ROLLOUT)
    def preview(id: Id) -> Json:
        """The request header that reaches the candidate."""
        return Json(service.preview(id))

    @routes.get(
        "/rollouts/{id}/plots/{name}",
        tags=["rollouts"],
        response_class=Response,
        responses={200: {"content": {"image/svg+xml": {"schema": {"type": "string"}}}, "description": "The plot."}},
    )
    @needs(Role.VIEWER, Scope.ROLLOUT)
    def plot(id: Id, name: Annotated[str, Path(description="Which.", examples=["evidence"])]) -> Response:
        """What the judge saw: `interval`, `evidence` or `latency`, as SVG."""
        return Response(service.plot(id, name), media_type="image/svg+xml")

    @routes.get("/rollouts/{id}/receipt", tags=["rollouts"], responses={200: {"model": dict[str, object]}})
    @needs(Role.VIEWER, Scope.ROLLOUT)
    def receipt(id: Id) -> Json:
        """What clients saw."""
        return Json(dict(service.receipt(id)))

    @routes.post("/events", tags=["events"], responses={200: {"model": give.Accepted}})
    @needs(Role.OPERATOR, Scope.EVENTS)
    def post_events(who: Who, body: EventsBody) -> Json:
        """Counts business events, all of the batch or none. A replica may use its `CROSSFADE_EVENTS_TOKEN`."""
        posted = parse([event.model_dump() for event in body.events])
        for key in {one.key for one in posted}:
            if who.via == "events":
                if str(key) != who.credential:
                    raise Forbidden(f"This token is for events of {who.credential} only.")
            else:
                who.require(Role.OPERATOR, key)
        return Json({"accepted": service.post_events(posted, body.id)})

    return routes
