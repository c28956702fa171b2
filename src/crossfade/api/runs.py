"""Routes of pipelines: runs, their logs, where commits come from, webhooks, statements, the value stream."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Annotated, Any, Final

from fastapi import APIRouter, Header, Path, Query, Request
from fastapi.responses import Response, StreamingResponse
from pydantic import Field, SecretStr
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from crossfade.api import cursors
from crossfade.api import run_answers as give
from crossfade.api.answers import Page
from crossfade.api.cursors import Cursor, Limit
from crossfade.api.environments import EnvironmentName, ReleaseName, ServiceName
from crossfade.api.guard import GuardedRoute, Scope, Who, anybody, named, needs
from crossfade.api.models import Body, By, Fix, Line
from crossfade.api.problems import Json
from crossfade.api.stream import HEARTBEAT, MOST_STREAMS, Streams
from crossfade.domain.access import Role
from crossfade.domain.errors import Invalid, TooMany
from crossfade.domain.pipeline.webhooks import LARGEST
from crossfade.domain.values import EnvKey, ReleaseNumber
from crossfade.service import Service
from crossfade.service.runs import RunRequest

LOOK_EVERY: Final = 0.3
PART: Final = 65_536
_NUMBER: Final = re.compile(r"[0-9]{1,15}")

Id = Annotated[int, Path(ge=1, le=2**31 - 1, description="The number of a run.", examples=[12])]
StageNamed = Annotated[str, Path(max_length=20, description="A stage.", examples=["commit"])]
NodeNamed = Annotated[str, Path(max_length=100, description="A node of the stage.", examples=["tests"])]
Offset = Annotated[int, Query(ge=0, le=2**50, description="Where in the log to begin, in bytes.")]
Ref = Annotated[str, Field(min_length=1, max_length=250, description="A branch, tag or commit.", examples=["main"])]
Variables = dict[Annotated[str, Field(max_length=100)], SecretStr]


class RunBody(Body):
    """Run the pipeline on a commit."""

    service: str = Field(description="Name of the service.", examples=["bookshop"])
    ref: Ref
    branch: Line = Field(default="", description="The branch whose rules count; `ref` when absent.", examples=["main"])
    stage: Line = Field(
        default="", description="Begin here; the commit must have passed what comes before.", examples=["staging"]
    )
    trigger: str = Field(default="command", pattern="^(command|hook)$", description="What asks.", examples=["command"])
    fix: Fix = ""
    by: By = ""


class OrderBody(Body):
    """An order for a run."""

    by: By = ""


class SourceBody(Body):
    """Where a service's commits come from. Secrets that are not given stay as they were."""

    repository: str = Field(max_length=1000, description="A path or URL.", examples=["/srv/git/bookshop.git"])
    config: str = Field(
        default="crossfade.yaml", max_length=200, description="The file there.", examples=["crossfade.yaml"]
    )
    secrets: Variables = Field(
        default_factory=dict,
        max_length=200,
        description="Variables for steps; `webhook` is what signs webhooks, `token` fetches and posts statuses.",
        examples=[{"webhook": "…"}],
    )
    files: dict[Annotated[str, Field(max_length=50)], Variables] = Field(
        default_factory=dict,
        max_length=50,
        description="The variables of env_files, by environment.",
        examples=[{"production": {"API_KEY": "…"}}],
    )
    forge: str = Field(default="", pattern="^(github|gitlab|gitea)?$", description="Which forge.", examples=["github"])
    api: str = Field(default="", max_length=1000, description="Its API.", examples=["https://api.github.com"])
    project: str = Field(default="", max_length=300, description="The project there.", examples=["ada/bookshop"])
    sinks: list[Annotated[str, Field(max_length=1000)]] = Field(
        default_factory=list,
        max_length=10,
        description="URLs that get CDEvents.",
        examples=[["https://events.example.org/"]],
    )
    chat: list[Annotated[str, Field(max_length=1000)]] = Field(
        default_factory=list,
        max_length=10,
        description="URLs that get messages.",
        examples=[["https://chat.example.org/x"]],
    )


def router(service: Service, streams: Streams) -> APIRouter:
    """The routes."""
    routes = APIRouter(route_class=GuardedRoute)

    @routes.get("/runs", tags=["runs"], responses={200: {"model": Page[give.Run]}})
    @needs(Role.VIEWER, Scope.SOMEWHERE)
    def list_runs(
        who: Who,
        of: Annotated[str | None, Query(alias="service", max_length=50, description="Of this service only.")] = None,
        limit: Limit = cursors.USUAL,
        cursor: Cursor = None,
    ) -> Json:
        """The last runs, newest first; their nodes are left out."""
        rows = service.runs.runs(of, limit + 1, cursors.number("runs", cursor), who.sees)
        return Json(cursors.page("runs", rows, limit, lambda row: row["id"]))

    @routes.post("/runs", status_code=202, tags=["runs"], responses={202: {"model": give.Run}})
    @needs(Role.OPERATOR, Scope.SOMEWHERE)
    def start_run(who: Who, body: RunBody) -> Json:
        """Queue a run of a commit."""
        request = RunRequest(body.service, body.ref, body.branch, body.stage, body.trigger, body.fix)
        return Json(service.runs.start(request, named(who, body.by)), 202)

    @routes.get("/runs/{id}", tags=["runs"], responses={200: {"model": give.Run}})
    @needs(Role.VIEWER, Scope.RUN)
    def run(id: Id) -> Json:
        """One run with all its nodes."""
        return Json(service.runs.run(id))

    @routes.post("/runs/{id}/cancel", tags=["runs"], responses={200: {"model": give.Run}})
    @needs(Role.OPERATOR, Scope.RUN)
    def cancel_run(who: Who, id: Id, body: OrderBody) -> Json:
        """End a run. A deployment in flight is not cancelled."""
        return Json(service.runs.cancel(id, named(who, body.by)))

    @routes.post("/runs/{id}/restart", tags=["runs"], responses={200: {"model": give.Run}})
    @needs(Role.OPERATOR, Scope.RUN)
    def restart_run(who: Who, id: Id, body: OrderBody) -> Json:
        """Go on from the stage that failed."""
        return Json(service.runs.restart(id, named(who, body.by)))

    @routes.get("/runs/{id}/stages/{stage}/nodes/{node}/log", tags=["runs"], responses={200: {"model": give.Log}})
    @needs(Role.VIEWER, Scope.RUN)
    def log(
        id: Id,
        stage: StageNamed,
        node: NodeNamed,
        offset: Offset = 0,
        limit: Annotated[int, Query(ge=4, le=2**20, description="Bytes, at most.")] = PART,
    ) -> Json:
        """A part of a node's log. `next` is the `offset` of the part that follows."""
        return Json(service.runs.log(id, stage, node, offset, limit))

    @routes.get(
        "/runs/{id}/stages/{stage}/nodes/{node}/log/stream",
        tags=["runs"],
        response_class=Response,
        responses={200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}, "description": "Events."}},
    )
    @needs(Role.VIEWER, Scope.RUN, streams=True)
    async def log_stream(
        id: Id,
        stage: StageNamed,
        node: NodeNamed,
        offset: Offset = 0,
        last_event_id: Annotated[str | None, Header(description="The last id that was read.")] = None,
    ) -> StreamingResponse:
        """A node's log as it grows: events `log` with `text`, whose ids are offsets; `end` when there is no more."""
        if last_event_id is not None:
            if not _NUMBER.fullmatch(last_event_id):
                raise Invalid("Last-Event-ID", last_event_id, "the id of an event")
            offset = int(last_event_id)
        await run_in_threadpool(service.runs.log, id, stage, node, offset, 4)  # what is not there is told as a status
        if streams.open >= MOST_STREAMS:
            raise TooMany("Too many streams are open.", 5.0)
        read = partial(service.runs.log, id, stage, node)
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return StreamingResponse(_told(read, offset, streams), media_type="text/event-stream", headers=headers)

    @routes.get("/sources", tags=["sources"], responses={200: {"model": Page[give.Source]}})
    @needs(Role.ADMIN, Scope.INSTALLATION)
    def list_sources() -> Json:
        """Where commits come from, by service; names of secrets only."""
        return Json(cursors.whole(service.runs.sources()))

    @routes.get("/sources/{service_name}", tags=["sources"], responses={200: {"model": give.Source}})
    @needs(Role.ADMIN, Scope.INSTALLATION)
    def source(service_name: ServiceName) -> Json:
        """Where a service's commits come from."""
        return Json(service.runs.source(service_name))

    @routes.put("/sources/{service_name}", tags=["sources"], responses={200: {"model": give.Source}})
    @needs(Role.ADMIN, Scope.INSTALLATION)
    def put_source(who: Who, service_name: ServiceName, body: SourceBody) -> Json:
        """Say where a service's commits come from. Who may push there can run commands on the server's machine."""
        return Json(
            service.runs.add_source(
                service_name,
                body.repository,
                secrets=_shown(body.secrets),
                files={name: _shown(values) for name, values in body.files.items()},
                forge=body.forge,
                api=body.api,
                project=body.project,
                sinks=body.sinks,
                chat=body.chat,
                config=body.config,
                by=who,
            )
        )

    @routes.delete(
        "/sources/{service_name}", status_code=204, tags=["sources"], responses={204: {"description": "Done."}}
    )
    @needs(Role.ADMIN, Scope.INSTALLATION)
    def remove_source(who: Who, service_name: ServiceName) -> Response:
        """Forget where they come from. Runs and releases stay."""
        service.runs.remove_source(service_name, who)
        return Response(status_code=204)

    @routes.get("/services/{service_name}/stream", tags=["runs"], responses={200: {"model": give.ValueStream}})
    @needs(Role.VIEWER, Scope.SOMEWHERE)
    def value_stream(
        who: Who, service_name: ServiceName, limit: Annotated[int, Query(ge=1, le=500)] = cursors.USUAL
    ) -> Json:
        """How long the last commits took on their way to production, and what they waited for."""
        for row in service.runs.runs(service_name, 1):
            who.require(Role.VIEWER, EnvKey.parse(row["key"]))
        return Json(service.runs.value_stream(service_name, limit))

    @routes.get(
        "/environments/{service_name}/{environment}/releases/{release}/statement",
        tags=["releases"],
        responses={200: {"model": give.Statement}},
    )
    @needs(Role.VIEWER, Scope.ENVIRONMENT)
    def statement(service_name: ServiceName, environment: EnvironmentName, release: ReleaseName) -> Json:
        """What is signed about the artifact of a release, and whether it holds."""
        number = ReleaseNumber.parse(release)
        service.release_of(EnvKey(service_name, environment), number)
        return Json(service.runs.statement(service_name, number))

    @routes.post(
        "/hooks/{service_name}",
        status_code=202,
        tags=["sources"],
        responses={202: {"model": give.Heard}},
        openapi_extra={
            "requestBody": {
                "required": True,
                "description": "What a forge sends of a push, at most 1 MiB, signed with the source's secret.",
                "content": {"application/json": {"schema": {"type": "object"}}},
            }
        },
    )
    @anybody()
    async def hook(request: Request, service_name: ServiceName) -> Json:
        """Hear a webhook of GitHub, GitLab, Gitea or Forgejo. It is believed by its signature."""
        address = request.client.host if request.client is not None else ""
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > LARGEST:
                raise HTTPException(413, f"A webhook may have {LARGEST} bytes.")
        headers = dict(request.headers)
        return Json(await run_in_threadpool(service.runs.deliver, service_name, headers, bytes(body), address), 202)

    return routes


async def _told(read: Callable[[int, int], dict[str, Any]], offset: int, streams: Streams) -> AsyncIterator[str]:
    """A log as events. No more is read than is taken: a slow reader gets all of it, and nothing is kept for them."""
    streams.open += 1
    quiet = 0.0
    try:
        yield "retry: 1000\n\n"
        while True:
            part = await run_in_threadpool(read, offset, PART)
            offset = part["next"]
            if part["text"]:
                yield f"event: log\nid: {offset}\ndata: {json.dumps({'text': part['text']})}\n\n"
            if part["ended"]:
                yield f"event: end\nid: {offset}\ndata: {{}}\n\n"
                return
            if part["text"]:
                quiet = 0.0
                continue
            await asyncio.sleep(LOOK_EVERY)
            quiet += LOOK_EVERY
            if quiet >= HEARTBEAT:
                quiet = 0.0
                yield ": still here\n\n"
    finally:
        streams.open -= 1


def _shown(values: Variables) -> dict[str, str]:
    return {name: value.get_secret_value() for name, value in values.items()}
