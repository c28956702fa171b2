"""The FastAPI application: API v1 under `/api/v1`, and what watches a server: `/healthz`, `/readyz`, `/metrics`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.responses import Response
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Send
from starlette.types import Scope as Asked

from crossfade import __version__
from crossfade.api import (
    access,
    alerts,
    cursors,
    drills,
    environments,
    experiments,
    flag_events,
    migrations,
    notices,
    ramps,
    report,
    rollouts,
    runs,
    slo,
    stream,
)
from crossfade.api import answers as give
from crossfade.api import flags as flag_routes
from crossfade.api.guard import SCHEME, Guard, GuardedRoute, Scope, anybody, needs
from crossfade.api.meter import VERSION, Meter, Metered
from crossfade.api.metrics import registry
from crossfade.api.ofrep import ALLOWED_HEADERS, EXPOSED_HEADERS, PREFIX, Ofrep
from crossfade.api.ofrep_limits import USUAL, Offer
from crossfade.api.ofrep_routes import KEY_SCHEME, Straight
from crossfade.api.ofrep_routes import router as ofrep_router
from crossfade.api.ofrep_source import Installation
from crossfade.api.problems import SCHEMA, Json, handle_errors
from crossfade.domain.access import Role
from crossfade.domain.errors import CrossfadeError
from crossfade.service import Service

DESCRIPTION = """Zero-downtime deployments: rollouts, releases and receipts of every environment.

`x-crossfade-role` and `x-crossfade-scope` of an operation say which role its token wants, and where. Every list is given
in pages: `next` is the `cursor` of the page that follows. Errors are problem details with a stable `type`."""


def create_app(
    service: Service,
    token: str,
    doctor: Callable[[], list[dict[str, Any]]],
    *,
    origin: str = "",
    ready: Callable[[], Sequence[str]] = tuple,
    flags: Offer = USUAL,
) -> FastAPI:
    """The API over ``service``.

    ``token`` is the state folder's own; ``doctor`` runs the checks; ``origin`` is where browsers reach the dashboard;
    ``ready`` says what else is not ready (the engine), in sentences; ``flags`` is what OFREP allows to whom.
    """
    app = FastAPI(
        title="Crossfade",
        version=__version__,
        description=DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        openapi_url=f"{VERSION}/openapi.json",
        separate_input_output_schemas=False,
        redirect_slashes=False,
    )
    streams = stream.Streams()
    metrics = registry(service, streams)
    app.state.guard = guard = Guard(service, token)
    app.state.ofrep = ofrep = Ofrep(Installation(service, guard), token.encode(), flags.rate, origin)
    asked_most = ofrep_router(ofrep)
    app.include_router(asked_most)
    app.include_router(_server(service, metrics, ready))
    api = APIRouter(prefix=VERSION, route_class=GuardedRoute)

    @api.get("/doctor", tags=["server"], responses={200: {"model": give.Page[give.Finding]}})
    @needs(Role.VIEWER, Scope.INSTALLATION)
    def examine() -> Json:
        """What the server finds of its own installation."""
        return Json(cursors.whole(doctor()))

    for routes in (
        environments.router(service),
        migrations.router(service),
        rollouts.router(service),
        access.router(service, origin),
        runs.router(service, streams),
        flag_routes.router(service),
        flag_events.router(service),
        ramps.router(service),
        report.router(service),
        experiments.router(service),
        slo.router(service),
        alerts.router(service),
        drills.router(service),
        notices.router(service),
        stream.router(service, streams),
    ):
        api.include_router(routes)
    app.include_router(api)
    handle_errors(app)
    app.add_middleware(Straight, routes=asked_most, ofrep=ofrep)
    if flags.origins:
        app.add_middleware(_CrossOrigin, origins=flags.origins)
    app.add_middleware(Metered, meter=Meter(metrics))
    _publish(app)
    return app


class _CrossOrigin:
    """Lets pages of some origins evaluate flags, and nothing else."""

    def __init__(self, app: ASGIApp, origins: Sequence[str]) -> None:
        self._app = app
        self._open = CORSMiddleware(
            app,
            allow_origins=origins,
            allow_methods=("GET", "POST"),
            allow_headers=ALLOWED_HEADERS,
            expose_headers=EXPOSED_HEADERS,
        )

    async def __call__(self, scope: Asked, receive: Receive, send: Send) -> None:
        flags = scope["type"] == "http" and scope["path"].startswith(f"{PREFIX}/")
        await (self._open if flags else self._app)(scope, receive, send)


def _server(service: Service, metrics: Any, ready: Callable[[], Sequence[str]]) -> APIRouter:
    routes = APIRouter(route_class=GuardedRoute, tags=["server"])

    @routes.get("/healthz", responses={200: {"model": give.Health}})
    @anybody()
    def healthz() -> Json:
        """The server is up. Says nothing else, since it asks for no token."""
        return Json({"status": "ok", "version": __version__})

    @routes.get(
        "/readyz", responses={200: {"model": give.Ready}, 503: {"model": give.Ready, "description": "Not ready yet."}}
    )
    @anybody()
    def readyz() -> Json:
        """Ledger, edge and engine answer. 503 with the reasons when not."""
        reasons = [*_unready("ledger", service.keys), *_unready("edge", service.edge_answers), *ready()]
        return Json({"ready": not reasons, "reasons": reasons}, 503 if reasons else 200)

    @routes.get(
        "/metrics",
        response_class=Response,
        responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}, "description": "For Prometheus."}},
    )
    @needs(Role.VIEWER, Scope.INSTALLATION)
    def scrape() -> Response:
        """The state of all environments in Prometheus' text format."""
        return Response(generate_latest(metrics), media_type=CONTENT_TYPE_PLAIN_0_0_4)

    return routes


def _unready(what: str, ask: Callable[[], object]) -> list[str]:
    try:
        ask()
    except CrossfadeError as error:
        # No details: nobody has shown a token.
        return [f"The {what} does not answer ({error.code})."]
    return []


def _publish(app: FastAPI) -> None:
    """Complete the OpenAPI document with what the framework does not know."""
    made = app.openapi

    def openapi() -> dict[str, Any]:
        fresh = app.openapi_schema is None
        document = made()
        if fresh:
            parts = document.setdefault("components", {})
            parts.setdefault("schemas", {})["Problem"] = dict(SCHEMA)
            parts["securitySchemes"] = {
                SCHEME: {"type": "http", "scheme": "bearer"},
                KEY_SCHEME: {"type": "apiKey", "in": "header", "name": "X-API-Key"},
            }
            for name in ("HTTPValidationError", "ValidationError"):
                parts["schemas"].pop(name, None)
        return document

    app.openapi = openapi  # type: ignore[method-assign] # the way that the framework's documentation has
