"""Logging in by an OpenID provider: `/login/oidc` and `/login/oidc/return`.

What binds the two requests to one browser (state, nonce, PKCE verifier, where to go then) is in a signed cookie that lasts
a few minutes and is good for one return.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import json
import logging
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Final, Self

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse

from crossfade.domain.errors import CrossfadeError, Forbidden, Refused
from crossfade.service import Service
from crossfade.web.provider import Conversation, Provider

LASTS: Final = 600.0
"""Seconds to log in at the provider."""

MOST_USED: Final = 10_000
"""Returns that are remembered so that none is used twice."""

LONGEST: Final = 4000
"""Characters of a code, and of a cookie."""

LONGEST_PLACE: Final = 1000
"""Characters of where to go then; the cookie has to hold it."""

_log = logging.getLogger(__name__)

_AGAIN = "Begin again at the login page."


@dataclass(frozen=True, slots=True)
class Attempt:
    """One login under way. ``ends`` is epoch seconds."""

    state: str
    nonce: str
    verifier: str
    then: str
    ends: float

    @classmethod
    def fresh(cls, then: str, now: float) -> Self:
        return cls(secrets.token_urlsafe(24), secrets.token_urlsafe(24), secrets.token_urlsafe(48), then, now + LASTS)

    def signed(self, key: bytes) -> str:
        """As the value of a cookie."""
        body = base64.urlsafe_b64encode(json.dumps(asdict(self)).encode()).decode()
        return f"{body}.{_signature(key, body)}"

    @classmethod
    def read(cls, cookie: str, key: bytes, now: float) -> Self | None:
        """None for a cookie that is not ours, or too old."""
        body, _, signature = cookie.rpartition(".")
        if len(cookie) > LONGEST or not hmac.compare_digest(_signature(key, body).encode(), signature.encode()):
            return None
        try:
            attempt = cls(**json.loads(base64.urlsafe_b64decode(body)))
        except (ValueError, TypeError, binascii.Error):
            return None
        return attempt if now < attempt.ends else None


def _signature(key: bytes, body: str) -> str:
    return hmac.digest(key, f"oidc {body}".encode(), "sha256").hex()


class _Used:
    """States that have come back once."""

    def __init__(self) -> None:
        self._ends: dict[str, float] = {}
        self._lock = threading.Lock()

    def take(self, attempt: Attempt, now: float) -> bool:
        """False when it was taken before."""
        with self._lock:
            if attempt.state in self._ends:
                return False
            if len(self._ends) >= MOST_USED:
                self._ends = {state: ends for state, ends in self._ends.items() if ends > now}
            self._ends[attempt.state] = attempt.ends
            return True


def router(
    service: Service,
    provider: Provider,
    key: bytes,
    begin: Callable[[Request, Response, str], None],
    address: Callable[[Request], str],
    local: Callable[[str | None], str],
    now: Callable[[], float] = time.time,
) -> APIRouter:
    """The two routes. ``key`` signs cookies; ``begin`` puts a session's secret into an answer's cookie, ``address`` says
    where a request comes from, and ``local`` turns a given place into one of ours.
    """
    routes = APIRouter(include_in_schema=False)
    conversation = Conversation(provider, now)
    used = _Used()
    secure = provider.origin.startswith("https:")
    cookie = "__Host-crossfade-oidc" if secure else "crossfade-oidc"

    @routes.get("/login/oidc")
    def go(request: Request) -> Response:
        """To the provider."""
        then = local(request.query_params.get("next"))
        attempt = Attempt.fresh(then if len(then) <= LONGEST_PLACE else "/", now())
        answer = RedirectResponse(conversation.way_there(attempt.state, attempt.nonce, attempt.verifier), 303)
        # Lax, since the way back begins at the provider.
        answer.set_cookie(
            cookie, attempt.signed(key), max_age=int(LASTS), path="/", secure=secure, httponly=True, samesite="lax"
        )
        answer.headers["Cache-Control"] = "no-store"
        return answer

    @routes.get("/login/oidc/return")
    def come_back(request: Request) -> Response:
        """From the provider, with a code."""
        attempt = Attempt.read(request.cookies.get(cookie, ""), key, now())
        code = _code(request.query_params, attempt)
        assert attempt is not None
        if not used.take(attempt, now()):
            raise Forbidden("This login was used already.", hint=_AGAIN)
        person = conversation.vouched(code, attempt.nonce, attempt.verifier)
        try:
            secret = service.accounts.log_in_as(person.name, person.grants, person.issuer, address(request))
        except Refused as error:
            _log.warning("OIDC: %s is not let in: %s", person.name, error.what)
            raise Forbidden(
                f"There is another account of the name {person.name} here.",
                hint="An admin can remove it, or choose another claim for names.",
            ) from error
        answer = RedirectResponse(attempt.then, 303)
        begin(request, answer, secret)
        answer.delete_cookie(cookie, path="/", secure=secure, httponly=True, samesite="lax")
        answer.headers["Cache-Control"] = "no-store"
        return answer

    return routes


def _code(said: Mapping[str, str], attempt: Attempt | None) -> str:
    """The code of a return that belongs to this browser. Raises Forbidden."""
    if attempt is None:
        raise _unasked()
    if not hmac.compare_digest(said.get("state", "").encode(), attempt.state.encode()):
        raise _unasked()
    if "error" in said:
        _log.info("OIDC: the provider says %.100r", said["error"])
        cancelled = said["error"] in ("access_denied", "login_required", "interaction_required")
        what = "The login was cancelled." if cancelled else "The login provider refused."
        raise Forbidden(what, hint=_AGAIN)
    code = said.get("code", "")
    if not 1 <= len(code) <= LONGEST or not code.isprintable():
        raise _unasked()
    return code


def _unasked() -> CrossfadeError:
    return Forbidden("This browser did not begin this login, or too long ago.", hint=_AGAIN)
