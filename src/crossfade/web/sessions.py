"""Who a browser is, and whether a form that it sends is one of ours: cookies, CSRF tokens, origins."""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import parse_qsl, quote, urlsplit

from fastapi import Request, Response
from fastapi.responses import HTMLResponse
from starlette.concurrency import run_in_threadpool

from crossfade.domain.access import Role
from crossfade.domain.errors import CrossfadeError, Forbidden, Invalid, Unauthenticated
from crossfade.domain.values import EnvKey
from crossfade.service import Service
from crossfade.service.accounts import Session
from crossfade.web.assets import Assets
from crossfade.web.pages import templates

THEMES: Final = ("light", "dark")
LARGEST_FORM: Final = 256 * 1024
"""Bytes: a flag with all of its rules."""
MOST_FIELDS: Final = 2_000
LONGEST_SECRET: Final = 200
LONGEST_PLACE: Final = 1000
MOST_COUNTED: Final = 200
"""Open alerts that the number beside their name counts at most."""

_STALE = "Go back, load the page anew and try again."


def local(place: str | None) -> str:
    """A path of ours, from what a browser says; `/` for anything else, such as `//elsewhere`."""
    if not place or len(place) > LONGEST_PLACE or not place.startswith("/") or not place.isprintable():
        return "/"
    # A browser reads a backslash as a slash, and what begins with two of them as the name of another server.
    if place.startswith(("//", "/\\")) or "\\" in place or urlsplit(place).netloc:
        return "/"
    return "/" if place.split("?")[0] in ("/login", "/logout") else place


class Sessions:
    """`House` for the pages. ``origin`` is where browsers reach us, ``key`` signs; ``oidc``: whether one can log in so."""

    def __init__(self, service: Service, origin: str, key: bytes, assets: Assets, oidc: bool = False) -> None:
        self._service, self._key = service, key
        self.origin, self.secure, self.oidc = origin.rstrip("/"), origin.startswith("https:"), oidc
        prefix = "__Host-" if self.secure else ""
        self.cookie, self._visitor = f"{prefix}crossfade", f"{prefix}crossfade-visitor"
        self._templates = templates(assets)

    @property
    def service(self) -> Service:
        return self._service

    # --- who asks

    def address(self, request: Request) -> str:
        """Where a request comes from; of a trusted proxy, what it says of its client."""
        return request.client.host if request.client else ""

    def session(self, request: Request) -> Session:
        """Raises Unauthenticated."""
        secret = request.cookies.get(self.cookie, "")
        if not 1 <= len(secret) <= LONGEST_SECRET:
            raise Unauthenticated("You are not logged in.", hint="Log in to go on.")
        return self._service.accounts.by_session(secret, self.address(request))

    def known(self, request: Request) -> Session | None:
        """The session, if there is one."""
        try:
            return self.session(request)
        except CrossfadeError:
            return None

    def begin(self, request: Request, answer: Response, secret: str) -> None:
        """Put a new session's secret into an answer's cookie, and end the one that the browser had."""
        self._service.accounts.log_out(request.cookies.get(self.cookie, "")[:LONGEST_SECRET])
        lasts = int(self._service.accounts.limits.session)
        answer.set_cookie(
            self.cookie, secret, max_age=lasts, path="/", secure=self.secure, httponly=True, samesite="lax"
        )

    def end(self, request: Request, answer: Response) -> None:
        """Forget the session, here and in the browser."""
        self._service.accounts.log_out(request.cookies.get(self.cookie, "")[:LONGEST_SECRET])
        answer.delete_cookie(self.cookie, path="/", secure=self.secure, httponly=True, samesite="lax")

    # --- forms

    async def posted(self, request: Request) -> tuple[Session, Mapping[str, str]]:
        """The session and the form of one of our pages. Raises Unauthenticated, Forbidden, Invalid."""
        form = await self._form(request)
        session = await run_in_threadpool(self.session, request)
        self._check(request, form, session.csrf)
        return session, form

    async def posted_by_anyone(self, request: Request) -> Mapping[str, str]:
        """The form of a page that is shown before a login. Raises Forbidden, Invalid."""
        form = await self._form(request)
        session = await run_in_threadpool(self.known, request)
        visitor = request.cookies.get(self._visitor, "")
        if session is None and not visitor:
            raise Forbidden("The form did not come from this browser.", hint="Cookies must be allowed. " + _STALE)
        self._check(request, form, session.csrf if session is not None else self._visitor_csrf(visitor))
        return form

    async def _form(self, request: Request) -> Mapping[str, str]:
        self._refuse_foreign(request)
        kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
        if kind and kind != "application/x-www-form-urlencoded":
            raise Invalid("Content-Type", kind, "application/x-www-form-urlencoded")
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > LARGEST_FORM:
                raise Invalid("form", f"more than {LARGEST_FORM} bytes", f"at most {LARGEST_FORM} bytes")
        try:
            return dict(parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=MOST_FIELDS, errors="strict"))
        except ValueError:
            raise Invalid("form", "what cannot be read", f"UTF-8, at most {MOST_FIELDS} fields") from None

    def _refuse_foreign(self, request: Request) -> None:
        """Raises Forbidden for what another site's page has sent."""
        site = request.headers.get("sec-fetch-site", "same-origin")
        origin = request.headers.get("origin")
        ours = {self.origin, f"{'https' if self.secure else request.url.scheme}://{request.headers.get('host', '')}"}
        if site not in ("same-origin", "none") or (origin is not None and origin not in ours):
            raise Forbidden("This was sent by a page of another site.", hint="Do it in the dashboard itself.")

    def _check(self, request: Request, form: Mapping[str, str], csrf: str) -> None:
        given = request.headers.get("x-csrf-token") or form.get("csrf", "")
        if not hmac.compare_digest(given.encode(), csrf.encode()):
            raise Forbidden("The form is too old, or not of this session.", hint=_STALE)

    def _visitor_csrf(self, visitor: str) -> str:
        return hmac.digest(self._key, f"visitor {visitor}".encode(), "sha256").hex()

    # --- pages

    def is_fetch(self, request: Request) -> bool:
        """Whether a script asks, which wants a part of a page."""
        return "hx-request" in request.headers or request.headers.get("x-requested-with", "").lower() == "fetch"

    def theme(self, request: Request) -> str:
        """What the viewer chose: light or dark; empty: as the system does."""
        theme = request.cookies.get("crossfade-theme", "")
        return theme if theme in THEMES else ""

    def keep_theme(self, answer: Response, theme: str) -> None:
        """Raises Invalid."""
        if theme == "system":
            answer.delete_cookie("crossfade-theme", path="/")
            return
        if theme not in THEMES:
            raise Invalid("theme", theme, "light, dark or system")
        answer.set_cookie(
            "crossfade-theme", theme, max_age=365 * 86400, secure=self.secure, httponly=True, samesite="lax"
        )

    def page(
        self, request: Request, session: Session | None, template: str, status: int = 200, **context: Any
    ) -> Response:
        """A template in its frame. Without a session, forms belong to the browser instead."""
        visitor = request.cookies.get(self._visitor, "")
        fresh = session is None and not visitor
        if fresh:
            visitor = secrets.token_urlsafe(24)
        actor = session.actor if session is not None else None
        part = self.is_fetch(request)
        waiting = unseen = 0
        if actor is not None and not part:
            seen = [
                one
                for one in self._service.approvals.waiting()
                if actor.sees(EnvKey(one["service"], one["environment"]))
            ]
            waiting = len(seen)
            alerts = [
                one for one in self._service.alerts.list(open_only=True, limit=MOST_COUNTED) if actor.sees(one.key)
            ]
            unseen = sum(not one.acknowledged for one in alerts)
        query = f"?{request.url.query}" if request.url.query else ""
        text = self._templates.get_template(template).render(
            actor=actor,
            admin=actor is not None and actor.may(Role.ADMIN, None),
            csrf=session.csrf if session is not None else self._visitor_csrf(visitor),
            theme=self.theme(request),
            path=request.url.path,
            here=local(request.url.path + query) if request.method == "GET" else "/",
            waiting_approvals=waiting,
            unseen_alerts=unseen,
            **context,
        )
        answer = HTMLResponse(text, status)
        if fresh:
            answer.set_cookie(self._visitor, visitor, path="/", secure=self.secure, httponly=True, samesite="lax")
        return answer

    def login_place(self, request: Request) -> str:
        """Where to log in and come back from."""
        place = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        place = local(place)
        return "/login" if place == "/" else f"/login?next={quote(place, safe='/')}"
