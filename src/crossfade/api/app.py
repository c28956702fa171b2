"""The FastAPI application. Every route but `/healthz` and the OpenAPI document wants the token of the state folder;

`/events` takes the token of a replica too.
"""

from __future__ import annotations

import hmac
import tempfile
from collections.abc import Callable, Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Path, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from crossfade import __version__
from crossfade.api.models import CommandBody, DeployBody, EventsBody, RollbackBody
from crossfade.domain import errors
from crossfade.domain.events import parse
from crossfade.domain.values import Digest, EnvKey, ReleaseNumber
from crossfade.service import Request as Deployment
from crossfade.service import Service

LARGEST_UPLOAD = 2 * 1024**3
LARGEST_BODY = 4 * 1024**2

_STATUS: Mapping[type[errors.CrossfadeError], int] = {
    errors.Invalid: 422,
    errors.NotFound: 404,
    errors.Refused: 409,
    errors.Unavailable: 503,
    errors.StorageFailed: 507,
}

_bearer = HTTPBearer(auto_error=False)

Id = Annotated[int, Path(ge=1, le=2**31 - 1, description="The number of a rollout.")]


def create_app(service: Service, token: str, doctor: Callable[[], list[dict[str, Any]]]) -> FastAPI:
    """The API over ``service``. ``token`` is what `Authorization: Bearer` must carry; ``doctor`` runs the checks."""
    app = FastAPI(
        title="Crossfade",
        version=__version__,
        description="Zero-downtime deployments: rollouts, releases and receipts of every environment.",
        docs_url=None,
        redoc_url=None,
        openapi_url="/api/v1/openapi.json",
    )

    def authorised(given: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]) -> None:
        if given is None or not hmac.compare_digest(given.credentials.encode(), token.encode()):
            raise HTTPException(
                401, "A token is wanted: `Authorization: Bearer …`, from the state folder's file `token`."
            )

    def may_post(given: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]) -> EnvKey | None:
        """The environment that a replica's own token is for; None for the token of the state folder, good for all."""
        key = service.events_environment(given.credentials) if given is not None else None
        if key is None:
            authorised(given)
        return key

    whose = Depends(may_post)
    api = APIRouter(prefix="/api/v1", dependencies=[Depends(authorised)], responses=_PROBLEMS)
    replicas = APIRouter(prefix="/api/v1", responses={**_PROBLEMS, 403: {"description": "The token is another's."}})

    @app.get("/healthz", tags=["server"])
    def healthz() -> dict[str, str]:
        """The server is up. Says nothing else, since it asks for no token."""
        return {"status": "ok", "version": __version__}

    @api.get("/doctor", tags=["server"])
    def examine() -> list[dict[str, Any]]:
        """What the server finds of its own installation."""
        return doctor()

    @api.post("/artifacts", status_code=201, tags=["artifacts"])
    async def upload(request: Request, digest: str | None = None) -> dict[str, Any]:
        """Upload a tar stream (optionally gzipped); it is named by its content."""
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
        return {"digest": artifact.digest.text, "size": artifact.size, "files": artifact.files}

    @api.get("/environments", tags=["environments"])
    def environments() -> list[dict[str, Any]]:
        """All environments with their slots, weights and rollout."""
        return service.all_status()

    @api.get("/environments/{service_name}/{environment}", tags=["environments"])
    def environment(service_name: str, environment: str) -> dict[str, Any]:
        """One environment."""
        return service.status(EnvKey(service_name, environment))

    @api.get("/environments/{service_name}/{environment}/releases", tags=["releases"])
    def releases(service_name: str, environment: str) -> list[dict[str, Any]]:
        """Its releases, newest first; whether each can be restored has been checked."""
        return service.releases(EnvKey(service_name, environment))

    @api.get("/environments/{service_name}/{environment}/traffic", tags=["environments"])
    def traffic(service_name: str, environment: str) -> dict[str, Any]:
        """What the live release's clients saw in the last hour: what `plan` counts with."""
        return service.traffic(EnvKey(service_name, environment))

    @api.get("/environments/{service_name}/{environment}/logs", tags=["environments"])
    def logs(
        service_name: str,
        environment: str,
        release: str | None = None,
        lines: Annotated[int, Query(ge=1, le=10_000)] = 100,
    ) -> dict[str, list[str]]:
        """The last lines of each replica."""
        number = ReleaseNumber.parse(release) if release else None
        return service.logs(EnvKey(service_name, environment), number, lines)

    @api.post("/environments/{service_name}/{environment}/commands", tags=["rollouts"])
    def order_current(service_name: str, environment: str, body: CommandBody) -> dict[str, Any]:
        """A command for whatever rollout holds the environment."""
        state = service.order_current(EnvKey(service_name, environment), body.command, body.by or "somebody")
        return service.rollout(state.id)

    @api.post("/environments/{service_name}/{environment}/rollbacks", status_code=201, tags=["rollouts"])
    def rollback(service_name: str, environment: str, body: RollbackBody) -> dict[str, Any]:
        """Return to an earlier release; aborts a rollout under way when none is named."""
        to = ReleaseNumber.parse(body.to) if body.to else None
        state = service.rollback(EnvKey(service_name, environment), to, body.by or "somebody")
        return service.rollout(state.id)

    @api.post("/rollouts", status_code=201, tags=["rollouts"])
    def deploy(body: DeployBody) -> dict[str, Any]:
        """Number a release and begin its rollout."""
        state = service.deploy(
            Deployment(
                EnvKey(body.service, body.environment),
                Digest(body.digest),
                body.config,
                {name: value.get_secret_value() for name, value in body.secrets.items()},
                body.label,
                body.by or "somebody",
            )
        )
        return service.rollout(state.id)

    @api.get("/rollouts", tags=["rollouts"])
    def rollouts(
        service_name: Annotated[str | None, Query(alias="service")] = None,
        environment: str | None = None,
        limit: Annotated[int, Query(ge=1, le=500)] = 20,
    ) -> list[dict[str, Any]]:
        """The last rollouts, newest first."""
        if (service_name is None) != (environment is None):
            raise errors.Invalid("environment", environment, "service and environment together, or neither")
        key = EnvKey(service_name, environment) if service_name and environment else None
        return service.rollouts(key, limit)

    @api.get("/rollouts/{id}", tags=["rollouts"])
    def rollout(id: Id) -> dict[str, Any]:
        """One rollout."""
        return service.rollout(id)

    @api.post("/rollouts/{id}/commands", tags=["rollouts"])
    def order(id: Id, body: CommandBody) -> dict[str, Any]:
        """Promote, pause, resume or abort."""
        service.order(id, body.command, body.by or "somebody")
        return service.rollout(id)

    @api.get("/rollouts/{id}/journal", tags=["rollouts"])
    def journal(id: Id) -> list[dict[str, Any]]:
        """What happened, in order."""
        return service.journal(id)

    @api.get("/rollouts/{id}/preview", tags=["rollouts"])
    def preview(id: Id) -> dict[str, str]:
        """The request header that reaches the candidate."""
        return service.preview(id)

    @api.get(
        "/rollouts/{id}/plots/{name}",
        tags=["rollouts"],
        response_class=Response,
        responses={200: {"content": {"image/svg+xml": {}}, "description": "The plot."}},
    )
    def plot(id: Id, name: str) -> Response:
        """What the judge saw: `interval`, `evidence` or `latency`, as SVG."""
        return Response(service.plot(id, name), media_type="image/svg+xml")

    @api.get("/rollouts/{id}/receipt", tags=["rollouts"])
    def receipt(id: Id) -> dict[str, Any]:
        """What clients saw."""
        return dict(service.receipt(id))

    @replicas.post("/events", tags=["events"])
    def post_events(body: EventsBody, own: EnvKey | None = whose) -> dict[str, int]:
        """Counts business events, all of the batch or none. A replica may use its `CROSSFADE_EVENTS_TOKEN`."""
        posted = parse([event.model_dump() for event in body.events])
        if own is not None and any(one.key != own for one in posted):
            raise HTTPException(403, f"This token is for events of {own} only.")
        return {"accepted": service.post_events(posted, body.id)}

    app.include_router(api)
    app.include_router(replicas)
    _handle_errors(app)
    _limit_bodies(app)
    return app


_PROBLEMS: dict[int | str, dict[str, Any]] = {
    401: {"description": "No token, or a wrong one."},
    404: {"description": "Not found."},
    409: {"description": "Refused: well formed, but must not be done now."},
    422: {"description": "Not allowed: names the place, what was found and what is allowed."},
    503: {"description": "A part that Crossfade drives does not answer."},
    507: {"description": "The state folder cannot be written."},
}


def _problem(status: int, code: str, what: str, hint: str = "", **fields: Any) -> JSONResponse:
    """RFC 9457 problem details."""
    body = {"type": f"urn:crossfade:{code}", "title": what, "status": status, "hint": hint, **fields}
    return JSONResponse(body, status, media_type="application/problem+json")


def _handle_errors(app: FastAPI) -> None:
    @app.exception_handler(errors.CrossfadeError)
    async def crossfade_error(_: Request, error: errors.CrossfadeError) -> JSONResponse:
        status = next((s for kind, s in _STATUS.items() if isinstance(error, kind)), 500)
        return _problem(status, error.code, error.what, error.hint, fields=dict(error.fields))

    @app.exception_handler(HTTPException)
    async def http_error(_: Request, error: HTTPException) -> JSONResponse:
        return _problem(error.status_code, "http", str(error.detail))

    @app.exception_handler(RecursionError)
    async def too_deep(_: Request, error: RecursionError) -> JSONResponse:  # noqa: ARG001 - the framework's signature
        return _problem(422, "invalid", "The request is nested too deeply.")

    @app.exception_handler(RequestValidationError)
    async def malformed(_: Request, error: RequestValidationError) -> JSONResponse:
        # The values are left out on purpose: a body may hold secrets.
        places = [{"place": ".".join(str(part) for part in e["loc"]), "allowed": e["msg"]} for e in error.errors()]
        shown = "; ".join(f"{p['place']}: {p['allowed']}" for p in places)
        return _problem(422, "invalid", f"The request is malformed: {shown}.", fields={"problems": places})


def _limit_bodies(app: FastAPI) -> None:
    @app.middleware("http")
    async def limit(request: Request, call_next: Any) -> Any:
        length = request.headers.get("content-length", "0")
        upload = request.url.path == "/api/v1/artifacts"
        if not upload and (not length.isdigit() or int(length) > LARGEST_BODY):
            return _problem(413, "http", f"A request body may have {LARGEST_BODY} bytes.")
        if not upload and "chunked" in request.headers.get("transfer-encoding", ""):
            return _problem(411, "http", "A request body needs a Content-Length.")
        return await call_next(request)
