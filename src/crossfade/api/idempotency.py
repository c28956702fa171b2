"""Changes happen once: a request that is sent again under its `Idempotency-Key` is answered as it was."""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from fastapi import Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from crossfade.api.problems import PROBLEM_TYPE, answer_to, problem
from crossfade.domain.access import Actor
from crossfade.domain.errors import Invalid
from crossfade.ports import Kept
from crossfade.service import Service

CHANGING: Final = frozenset({"POST", "PUT", "PATCH", "DELETE"})
HEADER: Final = "Idempotency-Key"
REPLAYED: Final = "Idempotency-Replayed"

_KEY = re.compile(r"[!-~]{1,200}")


class Keeper:
    """Keeps answers in the ledger, so that a restart of the server forgets none. ``secret`` keys the fingerprints:

    a body may hold a password, and a plain hash of it could be guessed.
    """

    def __init__(self, service: Service, secret: str) -> None:
        self._service, self._secret = service, secret.encode()

    async def once(
        self,
        request: Request,
        actor: Actor,
        hidden: Sequence[str],
        handle: Callable[[Request], Awaitable[Response]],
    ) -> Response:
        """The answer of ``handle``, or the one that the first request with this key got."""
        name = request.headers.get(HEADER)
        if name is None:
            return await handle(request)
        if not _KEY.fullmatch(name):
            raise Invalid(HEADER, name, "1 to 200 visible ASCII characters")
        store, now = self._service.answers, self._service.now()
        who = "local" if actor.via == "local" else f"{actor.via}:{actor.credential or actor.name}"
        fingerprint = self._fingerprint(request, await request.body())
        kept = await run_in_threadpool(store.claim_key, who, name, fingerprint, now)
        if kept is not None:
            return _again(kept, fingerprint, name)
        answered = False
        try:
            try:
                answer = await handle(request)
            except Exception as error:  # noqa: BLE001 - a refusal is an answer too, and is kept
                answer = answer_to(error)
            if answer.status_code < 500 and answer.status_code != 429:
                await run_in_threadpool(store.keep_answer, who, name, answer.status_code, _text(answer, hidden))
                answered = True
            return answer
        finally:
            if not answered:
                await run_in_threadpool(store.give_up_key, who, name)

    def _fingerprint(self, request: Request, body: bytes) -> str:
        asked = f"{request.method} {request.url.path}?{request.url.query}\n".encode()
        return hmac.new(self._secret, asked + body, hashlib.sha256).hexdigest()


def _text(answer: Response, hidden: Sequence[str]) -> str:
    text = bytes(answer.body).decode()
    if not hidden or answer.status_code >= 400:
        return text
    return json.dumps({k: None if k in hidden else v for k, v in json.loads(text).items()})


def _again(kept: Kept, fingerprint: str, name: str) -> Response:
    if not hmac.compare_digest(kept.fingerprint, fingerprint):
        raise Invalid(HEADER, name, "a key that was not used for another request within 24 hours")
    if kept.status is None:
        return problem(
            409,
            "in-flight",
            f"The first request with the {HEADER} {name!r} is still at work.",
            "Send it again in a moment.",
            {"Retry-After": "1"},
        )
    kind = PROBLEM_TYPE if kept.status >= 400 else "application/json"
    content = None if kept.status == 204 else kept.body
    return Response(content, kept.status, {REPLAYED: "true"}, media_type=kind if content is not None else None)
