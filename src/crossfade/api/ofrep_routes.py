"""Routes of OFREP. They are asked a thousand times a second: little stands between the server and what evaluates."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

from fastapi import APIRouter, Request
from fastapi.responses import Response, StreamingResponse
from fastapi.routing import APIRoute
from starlette.types import ASGIApp, Receive, Send
from starlette.types import Scope as Asked

from crossfade.api import ofrep_answers as give
from crossfade.api.guard import SCHEME, Endpoint, GuardedRoute, Needs, Scope
from crossfade.api.ofrep import AGE, PREFIX, RELEASE, Ofrep
from crossfade.api.ofrep_source import ENVIRONMENT
from crossfade.domain.access import Role

KEY_SCHEME: Final = "key"
EVALUATE: Final = f"{PREFIX}/evaluate/flags"

_ENVIRONMENT: Final = {
    "name": ENVIRONMENT,
    "in": "header",
    "required": False,
    "description": "Whose flags. The token of a replica knows; with any other one, name it here or as `?environment=`.",
    "schema": {"type": "string", "maxLength": 110},
    "example": "bookshop/production",
}
_NAMED: Final = {**_ENVIRONMENT, "name": "environment", "in": "query", "description": f"As `{ENVIRONMENT}`."}
_RELEASE: Final = {
    "name": RELEASE,
    "in": "header",
    "required": False,
    "description": "The release that asks: `release` of the context, where that has none.",
    "schema": {"type": "string", "maxLength": 12},
    "example": "r12",
}
_KEY: Final = {
    "name": "key",
    "in": "path",
    "required": True,
    "description": "The flag.",
    "schema": {"type": "string", "minLength": 1},
    "example": "new-checkout",
}
_BODY: Final = {
    "required": False,
    "content": {
        "application/json": {
            "schema": {
                "type": "object",
                "properties": {"context": {"type": "object", "description": "What is known of who asks."}},
            },
            "example": {"context": {"targetingKey": "user-17", "country": "de"}},
        }
    },
}
_REFUSALS: Final = {
    400: "The request cannot be evaluated: `errorCode` says how.",
    401: "No token, or one that is not valid (any more).",
    403: "The token is known, but may not see these flags.",
    413: "The body is larger than may be.",
    429: "Asked too often: `Retry-After` says in how many seconds to come again.",
    500: "Our fault: the server's log has the cause.",
    503: "The flags cannot be read, and have not been before.",
}


class FlagRoute(GuardedRoute):
    """A route that answers by itself: it asks for tokens in its own way, and speaks of errors as OFREP does."""

    def __init__(self, path: str, endpoint: Endpoint, **options: Any) -> None:
        self.needs = Needs(Role.VIEWER, Scope.FLAGS)
        self.changing = self.uploads = False
        extra: dict[str, Any] = {"x-crossfade-role": Role.VIEWER.value, "x-crossfade-scope": Scope.FLAGS.value}
        extra["security"] = [{SCHEME: []}, {KEY_SCHEME: []}]
        options["openapi_extra"] = extra | (options.get("openapi_extra") or {})
        refusals = {status: {"model": give.FlagRefusal, "description": what} for status, what in _REFUSALS.items()}
        options["responses"] = refusals | (options.get("responses") or {})
        APIRoute.__init__(self, path, endpoint, **options)

    def get_route_handler(self) -> Callable[[Request], Awaitable[Response]]:  # type: ignore[override] # an async function is one
        handle: Callable[[Request], Awaitable[Response]] = self.endpoint
        return handle


def router(ofrep: Ofrep) -> APIRouter:
    """The routes."""
    routes = APIRouter(prefix=PREFIX, route_class=FlagRoute, tags=["ofrep"])
    age = {"description": "Seconds for which the ledger has been away, if it is.", "schema": {"type": "integer"}}
    found: dict[int | str, dict[str, Any]] = {
        200: {"model": give.Evaluated, "description": "Its value.", "headers": {AGE: age}},
        404: {"model": give.FlagRefusal, "description": "There is no such flag."},
    }

    @routes.post(
        "/evaluate/flags/{key:path}",
        responses=found,
        openapi_extra={"parameters": [_KEY, _ENVIRONMENT, _NAMED, _RELEASE], "requestBody": _BODY},
    )
    async def evaluate(request: Request) -> Response:
        """The value of one flag. Without a `value`, the code's own default is meant."""
        return await ofrep.single(request)

    match = {
        "name": "If-None-Match",
        "in": "header",
        "required": False,
        "description": "The `ETag` of the last answer.",
        "schema": {"type": "string"},
    }
    tag = {"description": "Of the whole body.", "schema": {"type": "string"}}
    all_found: dict[int | str, dict[str, Any]] = {
        200: {"model": give.EvaluatedAll, "description": "All flags.", "headers": {"ETag": tag, AGE: age}},
        304: {"description": "As it was.", "headers": {"ETag": tag}},
    }

    @routes.post(
        "/evaluate/flags",
        responses=all_found,
        openapi_extra={"parameters": [match, _ENVIRONMENT, _NAMED, _RELEASE], "requestBody": _BODY},
    )
    async def evaluate_all(request: Request) -> Response:
        """The values of all flags, and where to hear when to ask again."""
        return await ofrep.bulk(request)

    ticket = {
        "name": "ticket",
        "in": "query",
        "required": False,
        "description": "As the URL in `eventStreams` has it: lets one listen to the changes of one environment for a while.",
        "schema": {"type": "string", "maxLength": 200},
    }
    last = {
        "name": "Last-Event-ID",
        "in": "header",
        "required": False,
        "description": "The last event that was heard.",
        "schema": {"type": "string", "maxLength": 200},
    }
    events: dict[int | str, dict[str, Any]] = {
        200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}, "description": "Events."}
    }

    @routes.get(
        "/changes",
        response_class=StreamingResponse,
        responses=events,
        openapi_extra={"parameters": [ticket, last, _ENVIRONMENT, _NAMED]},
    )
    async def changes(request: Request) -> Response:
        """Says when to evaluate again, as server-sent events: `{"type": "refetchEvaluation", "etag", "lastModified"}`."""
        return await ofrep.changes(request)

    return routes


class Straight:
    """Takes what is to be evaluated to its route. The framework's way there costs more than an evaluation does."""

    def __init__(self, app: ASGIApp, routes: APIRouter, ofrep: Ofrep) -> None:
        self._app, self._ofrep = app, ofrep
        found = {getattr(route, "path", ""): route for route in routes.routes}
        self._one, self._all = found[f"{EVALUATE}/{{key:path}}"], found[EVALUATE]

    async def __call__(self, scope: Asked, receive: Receive, send: Send) -> None:
        path = scope.get("path", "")
        if not path.startswith(EVALUATE) or scope.get("method") != "POST":
            await self._app(scope, receive, send)
            return
        rest = path[len(EVALUATE) :]
        if rest == "":
            scope["route"] = self._all
            answer = await self._ofrep.bulk(Request(scope, receive, send))
        elif rest[0] == "/":
            scope["route"], scope["path_params"] = self._one, {"key": rest[1:]}
            answer = await self._ofrep.single(Request(scope, receive, send))
        else:
            await self._app(scope, receive, send)
            return
        await answer(scope, receive, send)
