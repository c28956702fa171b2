"""Who may ask for what: each route declares its role and its scope once, and is guarded and documented by that."""

from __future__ import annotations

import hmac
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Annotated, Any, Final

from fastapi import Depends, Request
from fastapi.routing import APIRoute
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from crossfade.api.idempotency import CHANGING, Keeper
from crossfade.api.problems import answer_to, documented
from crossfade.domain.access import Actor, Role, local_actor
from crossfade.domain.errors import Forbidden, Invalid, Unauthenticated
from crossfade.domain.values import EnvKey
from crossfade.service import Service

SCHEME: Final = "bearer"
LONGEST_BY: Final = 200

_ID = re.compile(r"[0-9]{1,10}")
_LARGEST_ID = 2**31 - 1
_UNPRINTED = re.compile(r"[\x00-\x1f\x7f]")


class Scope(StrEnum):
    """Where the role is wanted."""

    INSTALLATION = "installation"
    ENVIRONMENT = "environment"
    """The one that the path names."""
    ROLLOUT = "rollout"
    """The environment of the rollout that the path names."""
    RUN = "run"
    """The environment whose rights count for the run that the path names."""
    APPROVAL = "approval"
    """The environment of the approval that the path names."""
    SOMEWHERE = "somewhere"
    """In any environment: lists show what the actor may see, and use cases ask again for what they change."""
    EVENTS = "events"
    """As `SOMEWHERE`; the token of a replica will do too."""
    FLAGS = "flags"
    """In the environment that the request names, or that the token of a replica is of."""
    FLAG_SET = "flag-set"
    """The environment that the path names; the token of a replica of it will do too."""
    FLAG_REQUEST = "flag-request"
    """The environment of the change request that the path names."""
    RAMP = "ramp"
    """The environment of the ramp that the path names."""
    ALERT = "alert"
    """The environment of the alert that the path names."""
    DRILL = "drill"
    """The environment of the drill that the path names."""
    WATCH = "watch"
    """The environment of the watch that the path names."""
    NOBODY = "nobody"
    """No token is asked for."""


@dataclass(frozen=True, slots=True)
class Needs:
    """What a route wants. ``secret``: names of what its answer shows once, and a repeated answer does not.

    ``streams``: its answer has no end, and of such there may only be so many.
    """

    role: Role | None
    scope: Scope
    secret: tuple[str, ...] = ()
    streams: bool = False


Endpoint = Callable[..., Any]


def needs(role: Role, scope: Scope, *, secret: tuple[str, ...] = (), streams: bool = False) -> Callable[..., Any]:
    """Declare what a route wants. A route without a declaration cannot be made."""
    return _declare(Needs(role, scope, secret, streams))


def anybody() -> Callable[..., Any]:
    """Declare that a route asks for no token."""
    return _declare(Needs(None, Scope.NOBODY))


def _declare(what: Needs) -> Callable[[Endpoint], Endpoint]:
    def declared(endpoint: Endpoint) -> Endpoint:
        endpoint.__dict__["needs"] = what
        return endpoint

    return declared


def asked(request: Request) -> Actor:
    """Who asks, as the guard found."""
    actor: Actor = request.state.actor
    return actor


Who = Annotated[Actor, Depends(asked)]


def named(actor: Actor, by: str) -> Actor:
    """The actor under the name of a body's ``by``, which counts for the local token only."""
    return replace(actor, name=_clean(by)) if by and actor.via == "local" else actor


def _clean(name: str) -> str:
    return _UNPRINTED.sub("", name)[:LONGEST_BY] or "somebody"


class Guard:
    """Knows who asks, and whether they may. ``token`` is the state folder's own."""

    def __init__(self, service: Service, token: str) -> None:
        self.service, self._token = service, token
        self.keeper = Keeper(service, token)

    def actor(self, request: Request, scope: Scope) -> Actor:
        """Raises Unauthenticated."""
        kind, _, shown = request.headers.get("authorization", "").partition(" ")
        shown = shown.strip()
        if kind.lower() != "bearer" or not shown:
            raise Unauthenticated(
                "A token is wanted: `Authorization: Bearer …`.",
                hint="The state folder's file `token` has one; `crossfade tokens add` makes others.",
            )
        address = request.client.host if request.client is not None else ""
        return self.known(shown, scope, address, request.headers.get("x-crossfade-by", ""))

    def known(self, shown: str, scope: Scope, address: str, by: str = "") -> Actor:
        """Who shows this token. Raises Unauthenticated."""
        if hmac.compare_digest(shown.encode(), self._token.encode()):
            return local_actor(_clean(by), address)
        if scope in (Scope.EVENTS, Scope.FLAGS, Scope.FLAG_SET):
            key = self.service.events_environment(shown)
            if key is not None:
                return Actor(f"replica of {key}", (), "events", address, str(key))
        return self.service.accounts.by_token(shown, address)

    def admit(self, request: Request, what: Needs) -> Actor:
        """Who asks, when they may. Raises as `actor` and `require`."""
        actor = self.actor(request, what.scope)
        self.require(actor, what, request.path_params)
        return actor

    def require(self, actor: Actor, what: Needs, path: Mapping[str, Any]) -> None:
        """Raises Forbidden, and Invalid or NotFound for what the path names."""
        role = what.role
        if role is None:
            return
        match what.scope:
            case Scope.INSTALLATION:
                actor.require(role, None)
            case Scope.ENVIRONMENT:
                actor.require(role, EnvKey(path["service_name"], path["environment"]))
            case Scope.ROLLOUT:
                actor.require(role, self.service.environment_of(_id(path["id"])))
            case Scope.RUN:
                actor.require(role, self.service.runs.key(_id(path["id"])))
            case Scope.FLAG_SET:
                key = EnvKey(path["service_name"], path["environment"])
                if actor.via != "events":
                    actor.require(role, key)
                elif actor.credential != str(key):
                    raise Forbidden(f"This token is for flags of {actor.credential} only.")
            case Scope.FLAG_REQUEST:
                actor.require(role, self.service.flags.request_key(_id(path["id"])))
            case Scope.RAMP:
                actor.require(role, self.service.ramps.environment_of(_id(path["id"])))
            case Scope.ALERT:
                actor.require(role, self.service.alerts.get(_id(path["id"])).key)
            case Scope.DRILL:
                actor.require(role, self.service.drills.environment_of(_id(path["id"])))
            case Scope.WATCH:
                actor.require(role, self.service.watches.environment_of(_id(path["id"])))
            case Scope.APPROVAL:
                actor.require(role, self.service.approvals.key(_id(path["id"])))
            case _:
                if actor.via == "events" and what.scope is Scope.EVENTS:
                    return
                if not any(grant.role.covers(role) for grant in actor.grants):
                    raise Forbidden(
                        f"This wants the role {role} somewhere; {actor.name} has "
                        f"{', '.join(map(str, actor.grants)) or 'nothing'}.",
                        hint="An admin can give it: `crossfade accounts change`.",
                        wanted=role.value,
                        where="somewhere",
                    )


def _id(text: str) -> int:
    if not _ID.fullmatch(text) or not 1 <= int(text) <= _LARGEST_ID:
        raise Invalid("id", text, f"a whole number from 1 to {_LARGEST_ID}")
    return int(text)


class GuardedRoute(APIRoute):
    """A route that is entered by who may, and whose changes happen once under an idempotency key."""

    def __init__(self, path: str, endpoint: Endpoint, **options: Any) -> None:
        what = getattr(endpoint, "needs", None)
        if not isinstance(what, Needs):
            raise TypeError(f"{path} declares no role: put @needs(...) or @anybody() on it")
        self.needs = what
        self.changing = bool(set(options.get("methods") or ()) & CHANGING)
        self.uploads = path.endswith("/artifacts")
        options["openapi_extra"] = _extra(what, self.changing and not self.uploads and what.role is not None) | (
            options.get("openapi_extra") or {}
        )
        options["responses"] = _answers(what, self.changing) | (options.get("responses") or {})
        super().__init__(path, endpoint, **options)

    def get_route_handler(self) -> Callable[[Request], Awaitable[Response]]:  # type: ignore[override] # an async function is one
        handle = super().get_route_handler()

        async def guarded(request: Request) -> Response:
            guard: Guard = request.app.state.guard
            try:
                if self.needs.scope is Scope.NOBODY:
                    return await handle(request)
                # Before the body is read: nobody makes us read one who may not.
                actor = await run_in_threadpool(guard.admit, request, self.needs)
                request.state.actor = actor
                if self.changing and not self.uploads:
                    return await guard.keeper.once(request, actor, self.needs.secret, handle)
                return await handle(request)
            except Exception as error:  # noqa: BLE001 - every error is an answer, and is in the log when it is ours
                return answer_to(error)

        return guarded


def _extra(what: Needs, keyed: bool) -> dict[str, Any]:
    role = what.role.value if what.role is not None else "nobody"
    extra: dict[str, Any] = {"x-crossfade-role": role, "x-crossfade-scope": what.scope.value}
    extra["security"] = [{SCHEME: []}] if what.role is not None else []
    if keyed:
        extra["parameters"] = [
            {
                "name": "Idempotency-Key",
                "in": "header",
                "required": False,
                "description": "Names the request: sent again within 24 hours, it is answered again, and not done again.",
                "schema": {"type": "string", "minLength": 1, "maxLength": 200, "pattern": "^[!-~]+$"},
                "example": "5f0b7c1e-deploy-r12",
            }
        ]
    return extra


def _answers(what: Needs, changing: bool) -> dict[int | str, dict[str, Any]]:
    if what.role is None and not changing:
        return documented(500)
    statuses = [401, 403, 404, 409, 422, 500, 503, 507]
    if changing:
        statuses += [411, 413]
    if changing or what.streams:
        statuses.append(429)
    return documented(*sorted(statuses))
