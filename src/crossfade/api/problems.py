"""What went wrong, as problem details (RFC 9457): ``type`` is `urn:crossfade:CODE` and stable."""

from __future__ import annotations

import json
import logging
import secrets
from collections.abc import Mapping
from typing import Any, Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from crossfade.domain import errors

_log = logging.getLogger(__name__)

PROBLEM_TYPE: Final = "application/problem+json"
MOST_PROBLEMS: Final = 50
"""Faults of one request that are named."""

_STATUS: Final[Mapping[type[errors.CrossfadeError], int]] = {
    errors.Unauthenticated: 401,
    errors.Forbidden: 403,
    errors.NotFound: 404,
    errors.Refused: 409,
    errors.Invalid: 422,
    errors.TooMany: 429,
    errors.Unavailable: 503,
    errors.StorageFailed: 507,
}

CODES: Final[Mapping[str, tuple[int, str]]] = {
    "invalid": (422, "a value is not allowed: `fields` has its place, what was found and what is allowed"),
    "invalid-config": (422, "faults of `crossfade.yaml`: `fields.problems` has all of them"),
    "unauthenticated": (401, "no token, or one that is not valid (any more)"),
    "forbidden": (403, "the token is known, but its role is too small there"),
    "not-found": (404, "there is no such thing"),
    "no-route": (404, "there is no such route"),
    "method-not-allowed": (405, "the route knows other methods: `Allow` names them"),
    "refused": (409, "well formed, but must not be done now"),
    "busy": (409, "somebody else holds the environment"),
    "frozen": (409, "a freeze holds in the environment"),
    "moved": (409, "what this was decided upon has changed since: another rollout, another version of the flags"),
    "not-restorable": (409, "a release cannot be brought back"),
    "stale-fence": (409, "a newer rollout has taken over"),
    "in-flight": (409, "the first request with this `Idempotency-Key` is still at work"),
    "length-required": (411, "a body needs a `Content-Length`"),
    "too-large": (413, "the body is larger than may be"),
    "too-many": (429, "asked too often: `Retry-After` says when to come again"),
    "internal": (500, "our fault: `fields.id` is in the server's log"),
    "unavailable": (503, "a part that Crossfade drives does not answer"),
    "storage-failed": (507, "the state folder cannot be written"),
}
"""Every code, its status and what it means: the table of docs/reference/api.md."""


class Json(JSONResponse):
    """Escapes all that is not ASCII: what was sent to us may hold halves of characters, and we quote it."""

    def render(self, content: Any) -> bytes:
        return json.dumps(content, allow_nan=False, separators=(",", ":")).encode()


class Problem(Json):
    """An answer that says no."""

    media_type = PROBLEM_TYPE


def problem(
    status: int, code: str, what: str, hint: str = "", headers: Mapping[str, str] | None = None, **fields: Any
) -> Problem:
    """The answer."""
    body = {"type": f"urn:crossfade:{code}", "title": what, "status": status, "hint": hint, "fields": fields}
    return Problem(json.loads(json.dumps(body, default=str)), status, headers=dict(headers or {}))


def answer_to(error: Exception) -> Response:
    """What is said of an error. One that nobody expected is in the log under an id, and the answer has only that."""
    match error:
        case errors.CrossfadeError():
            return _known(error)
        case RequestValidationError():
            return _malformed(error)
        case HTTPException():
            return _http(error)
        case RecursionError():
            return problem(422, "invalid", "The request is nested too deeply.")
        case _:
            id = secrets.token_hex(6)
            _log.error("answered 500 (%s)", id, exc_info=error)
            return problem(500, "internal", "The server stumbled.", f"Its log has the cause under {id}.", id=id)


def _known(error: errors.CrossfadeError) -> Response:
    status = next((s for kind, s in _STATUS.items() if isinstance(error, kind)), 500)
    headers: dict[str, str] = {}
    if isinstance(error, errors.Unauthenticated):
        headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, errors.TooMany):
        headers["Retry-After"] = str(max(1, round(error.retry_after)))
    return problem(status, error.code, error.what, error.hint, headers, **error.fields)


def _http(error: HTTPException) -> Response:
    codes = {400: "invalid", 404: "no-route", 405: "method-not-allowed", 411: "length-required", 413: "too-large"}
    # The framework answers 400 for a body that it cannot read: a value that is not allowed, as any other.
    status = 422 if error.status_code == 400 else error.status_code
    return problem(status, codes.get(error.status_code, "invalid"), str(error.detail), "", error.headers)


def _malformed(error: RequestValidationError) -> Response:
    # The values are left out on purpose: a body may hold secrets.
    found = error.errors()[:MOST_PROBLEMS]
    places = [{"place": ".".join(str(part) for part in e["loc"])[:200], "allowed": e["msg"]} for e in found]
    shown = "; ".join(f"{p['place']}: {p['allowed']}" for p in places)
    return problem(422, "invalid", f"The request is malformed: {shown}.", problems=places)


def handle_errors(app: FastAPI) -> None:
    """Whatever is raised outside of a route (no such route, no such method) is told in the same way."""

    async def told(_: Request, error: Exception) -> Response:
        return answer_to(error)

    for kind in (errors.CrossfadeError, HTTPException, RequestValidationError, RecursionError, Exception):
        app.add_exception_handler(kind, told)


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The answers of these statuses for the OpenAPI document."""
    said: dict[int | str, dict[str, Any]] = {}
    for status in statuses:
        codes = {code: what for code, (of, what) in CODES.items() if of == status}
        example = {
            "type": f"urn:crossfade:{next(iter(codes))}",
            "title": "What is wrong, in a sentence.",
            "status": status,
            "hint": "What to do next.",
            "fields": {},
        }
        schema = {"$ref": "#/components/schemas/Problem"}
        said[status] = {
            "description": "; ".join(f"`{code}`: {what}" for code, what in codes.items()) + ".",
            "content": {PROBLEM_TYPE: {"schema": schema, "example": example}},
        }
    return said


SCHEMA: Final[Mapping[str, Any]] = {
    "type": "object",
    "description": "Problem details, RFC 9457.",
    "required": ["type", "title", "status", "hint", "fields"],
    "properties": {
        "type": {"type": "string", "pattern": "^urn:crossfade:[a-z-]+$"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "hint": {"type": "string"},
        "fields": {"type": "object"},
    },
}
