"""OpenFeature Remote Evaluation Protocol (OFREP 0.3): evaluate one flag, or all of them, and hear when to ask again."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import math
import secrets
import time
from collections.abc import Mapping
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from crossfade.api.ofrep_limits import USUAL, Buckets, Malformed, Rate, context_of
from crossfade.api.ofrep_source import ENVIRONMENT, Caller, Served, Source
from crossfade.api.ofrep_stream import INACTIVITY, MOST_STREAMS, Channels, Stream, Tickets
from crossfade.domain.errors import CrossfadeError, Forbidden, NotFound, TooMany, Unauthenticated
from crossfade.domain.flags.model import ErrorCode, Evaluation

PREFIX: Final = "/ofrep/v1"
RELEASE: Final = "X-Crossfade-Release"
AGE: Final = "X-Crossfade-Flags-Age"
"""Seconds for which nobody has known whether what was answered is still the newest."""
LONGEST_RELEASE: Final = 12
AT_ONCE: Final = 1_000
"""Flags that are evaluated before others are let have their turn: some milliseconds."""
ALLOWED_HEADERS: Final = ("Authorization", "X-API-Key", "Content-Type", "If-None-Match", ENVIRONMENT, RELEASE)
EXPOSED_HEADERS: Final = ("ETag", "Retry-After", AGE)
"""What pages of other origins may send, and see of an answer."""

_log = logging.getLogger(__name__)
_JSON: Final = "application/json"


class Ofrep:
    """Answers requests of one server. ``origin`` is where clients reach it, when it knows better than they do."""

    def __init__(self, source: Source, secret: bytes, rate: Rate = USUAL.rate, origin: str = "") -> None:
        self.source, self._origin = source, origin
        self._buckets = Buckets(rate)
        self._tickets = Tickets(secret)
        self.channels = Channels(source)

    async def single(self, request: Request) -> Response:
        """`POST /evaluate/flags/{key}`."""
        key = request.path_params["key"]
        try:
            caller, served, context, release = await self._asked(request)
        except Exception as error:  # noqa: BLE001 - every error is an answer, and is in the log when it is ours
            return refusal(error, key)
        try:
            found = served.evaluator.evaluate(key, context, self.source.now())
        except Exception as error:  # noqa: BLE001 - as above
            return refusal(error, key)
        if found.error is None:
            self.source.evaluated(caller.key, key, found.variant or "", release)
        status = 200 if found.error is None else 404 if found.error == ErrorCode.FLAG_NOT_FOUND else 400
        return self._aged(Response(written(served, found), status, media_type=_JSON), served)

    async def bulk(self, request: Request) -> Response:
        """`POST /evaluate/flags`."""
        try:
            caller, served, context, _ = await self._asked(request)
            body = await self._all(request, caller, served, context)
        except Exception as error:  # noqa: BLE001 - as above
            return refusal(error)
        tag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
        if _matches(request.headers.get("if-none-match", ""), tag):
            answer = self._aged(Response(status_code=304), served)
        else:
            answer = self._aged(Response(body, media_type=_JSON), served)
        answer.headers["ETag"] = tag
        return answer

    async def _all(self, request: Request, caller: Caller, served: Served, context: Mapping[str, Any]) -> bytes:
        evaluator, now = served.evaluator, self.source.now()
        flags: list[bytes] = []
        for begin in range(0, len(evaluator.keys), AT_ONCE):
            if begin:
                await asyncio.sleep(0)
            flags += [written(served, found) for found in evaluator.all(context, now, begin, begin + AT_ONCE)]
        url = f"{self._origin_of(request)}{PREFIX}/changes?ticket={self._tickets.issue(caller.key, now)}"
        streams = [{"type": "sse", "url": url, "inactivityDelaySec": INACTIVITY}]
        rest = _dumped({"metadata": dict(served.flags.metadata), "eventStreams": streams})
        return b'{"flags":[' + b",".join(flags) + b"]," + rest[1:]

    async def changes(self, request: Request) -> Response:
        """`GET /changes`: with a ticket, or as one who may evaluate."""
        try:
            if self.channels.open >= MOST_STREAMS:
                raise TooMany("Too many streams are open.", 5.0)
            until = None
            if "ticket" in request.query_params:
                read = self._tickets.read(request.query_params["ticket"], self.source.now())
                if read is None:
                    raise Unauthenticated(
                        "This ticket is not valid, or not any more.", hint="Evaluate all flags again."
                    )
                key, until = read
            else:
                key = (await self._caller(request)).key
            await self.source.served(key)
        except Exception as error:  # noqa: BLE001 - as above
            return refusal(error)

        async def may_listen() -> bool:
            if until is not None:
                return True
            try:
                await self._caller(request)
            except (Unauthenticated, Forbidden):
                return False
            except CrossfadeError:
                return True  # the ledger is out of reach for a moment: nobody is sent away for that
            return True

        last = request.headers.get("last-event-id", "")
        return Stream(self.channels, self.source, key, last, may_listen, until)

    async def _asked(self, request: Request) -> tuple[Caller, Served, dict[str, Any], str]:
        """Who asks, what is served to them, the context, and the release that asks ("" when it is not known)."""
        caller = await self._caller(request)
        wait = self._buckets.take(caller.name, time.monotonic())
        if wait:
            raise TooMany("This token asks too often.", wait)
        context = await context_of(request)
        release = request.headers.get(RELEASE, "")
        if release:
            context.setdefault("release", release)
        said = context.get("release")
        release = said if isinstance(said, str) and len(said) <= LONGEST_RELEASE else ""
        served = await self.source.served(caller.key)
        self.source.asked_in(caller.key, context)
        return caller, served, context, release

    async def _caller(self, request: Request) -> Caller:
        kind, _, token = request.headers.get("authorization", "").partition(" ")
        if kind.lower() != "bearer":
            token = request.headers.get("x-api-key", "")
        environment = request.headers.get(ENVIRONMENT) or request.query_params.get("environment", "")
        address = request.client.host if request.client is not None else ""
        return await self.source.caller(token.strip(), environment, address)

    def _origin_of(self, request: Request) -> str:
        """Where this client reaches us: as it has done just now, for it knows no other place."""
        host = request.headers.get("host", "")
        if not host or self._origin.partition("://")[2] == host:
            return self._origin
        return f"{request.scope['scheme']}://{host}"

    def _aged(self, answer: Response, served: Served) -> Response:
        if served.stale_since is not None:
            answer.headers[AGE] = str(max(0, int(self.source.now() - served.stale_since)))
        return answer


def written(served: Served, found: Evaluation) -> bytes:
    """An evaluation as OFREP says it. What was made once is kept for as long as the flags are these."""
    if found.error is not None:
        said = {"key": found.key, "errorCode": str(found.error), "errorDetails": found.details or str(found.error)}
        return _dumped(said | ({"metadata": dict(found.metadata)} if found.metadata else {}))
    made = served.written.get(id(found))
    if made is None or made[0] is not found:
        made = served.written[id(found)] = (found, _written(served, found))
    return made[1]


def _written(served: Served, found: Evaluation) -> bytes:
    # Always with a variant, be it an empty one: the provider of Python fails without.
    said: dict[str, Any] = {"key": found.key, "reason": str(found.reason), "variant": found.variant or ""}
    if found.value is not None:
        said["value"] = float(found.value) if found.key in served.floats else found.value
    if found.metadata:
        said["metadata"] = dict(found.metadata)
    return _dumped(said)


def _dumped(said: Mapping[str, Any]) -> bytes:
    return json.dumps(said, allow_nan=False, separators=(",", ":")).encode()


def _matches(header: str, tag: str) -> bool:
    if not header:
        return False
    return header.strip() == "*" or tag in (one.strip().removeprefix("W/") for one in header.split(","))


def refusal(error: Exception, key: str | None = None) -> Response:
    """What is said of an error, in OFREP's form. One that nobody expected is in the log under an id."""
    headers: dict[str, str] = {}
    code = "GENERAL"
    match error:
        case Malformed():
            status, code, details = error.status, error.code, error.details
        case Unauthenticated():
            status, details = 401, str(error)
            headers["WWW-Authenticate"] = "Bearer"
        case Forbidden():
            status, details = 403, str(error)
        case TooMany():
            status, details = 429, str(error)
            headers["Retry-After"] = str(max(1, math.ceil(error.retry_after)))
        case NotFound():
            status, details = 400, str(error)  # 404 says that there is no such flag
        case CrossfadeError():
            status = 400 if error.code.startswith("invalid") else 503
            details = str(error)
        case _:
            id = secrets.token_hex(6)
            _log.error("answered 500 (%s)", id, exc_info=error)
            status, details = 500, f"The server stumbled. Its log has the cause under {id}."
    said = {"errorCode": code, "errorDetails": details}
    return Response(_dumped(({"key": key} if key is not None else {}) | said), status, headers, media_type=_JSON)
