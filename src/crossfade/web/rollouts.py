"""`/rollouts/{id}`: the page that people have open while they deploy, its parts as they change, and its orders."""

from __future__ import annotations

import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Final

from fastapi import APIRouter, Path, Request
from fastapi.responses import RedirectResponse, Response
from starlette.concurrency import run_in_threadpool

from crossfade.domain.access import Actor, Role
from crossfade.domain.errors import CrossfadeError, Forbidden, Invalid, NotFound, Refused
from crossfade.domain.rollout import Command
from crossfade.domain.values import EnvKey, ReleaseNumber
from crossfade.service import Service
from crossfade.service.accounts import Session
from crossfade.web import rollout_view as view
from crossfade.web.house import House

LOOKED_LATELY: Final = 0.5
"""Seconds for which all who watch a rollout are shown what was found for one of them."""
DRAWN_LATELY: Final = 5.0
"""The same of a plot, which takes longer to draw and changes less."""
LOOKS_KEPT: Final = 200
LOG_LINES: Final = 40
SUBMITTED_KEPT: Final = 1000
ACTS: Final = (*(command.value for command in Command), "rollback")

Id = Annotated[int, Path(ge=1, le=2**31 - 1)]
Data = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Facts:
    """What one look at a rollout found. ``seq``: the newest change of the feed just before."""

    key: EnvKey
    rollout: Data
    status: Data
    journal: list[dict[str, Any]]
    labels: Mapping[str, str]
    refused: Mapping[str, str]
    cannot_return: str
    back_to: str
    config: Data
    seq: int


class Glance:
    """Looks at rollouts: once for all who watch."""

    def __init__(self, service: Service, clock: Callable[[], float] = time.monotonic) -> None:
        self._service, self._clock = service, clock
        self._lock = threading.Lock()
        self._found: OrderedDict[tuple[int, str], tuple[float, Any]] = OrderedDict()

    def facts(self, id: int, lately: float = LOOKED_LATELY) -> Facts:
        """Found at most ``lately`` seconds ago. Raises NotFound."""
        found: Facts = self._kept((id, ""), lately, lambda: self._look(id))
        return found

    def plot(self, id: int, name: str) -> str:
        """An SVG, drawn at most `DRAWN_LATELY` seconds ago. Raises NotFound."""
        drawn: str = self._kept((id, name), DRAWN_LATELY, lambda: self._service.plot(id, name))
        return drawn

    def part(self, id: int, for_whom: str, render: Callable[[], bytes]) -> bytes:
        """What was rendered of a rollout at most `LOOKED_LATELY` seconds ago."""
        rendered: bytes = self._kept((id, for_whom), LOOKED_LATELY, render)
        return rendered

    def _kept(self, what: tuple[int, str], lately: float, look: Callable[[], Any]) -> Any:
        with self._lock:
            found = self._found.get(what)
        if found is not None and self._clock() - found[0] <= lately:
            return found[1]
        fresh = look()
        with self._lock:
            self._found[what] = (self._clock(), fresh)
            self._found.move_to_end(what)
            while len(self._found) > LOOKS_KEPT:
                self._found.popitem(last=False)
        return fresh

    def _look(self, id: int) -> Facts:
        service = self._service
        _, seq = service.hub.kept()
        key = service.environment_of(id)
        rollout, status = service.rollout(id), service.status(key)
        candidate = service.release(key, ReleaseNumber.parse(rollout["candidate"]))
        labels = {rollout["candidate"]: str(candidate["label"])}
        if rollout["baseline"]:
            labels[rollout["baseline"]] = str(self._label(key, rollout["baseline"]))
        back: list[str] = []
        if rollout["ended"] and status["live"] == rollout["candidate"]:
            back = [str(r.number) for r in service.restorable(key, 60.0) if r.ok]
        return Facts(
            key,
            rollout,
            status,
            service.journal(id),
            labels,
            service.commands(id),
            view.cannot_return(rollout, status, back),
            back[0] if back else "",
            candidate["config"],
            seq,
        )

    def _label(self, key: EnvKey, release: str) -> str:
        try:
            return str(self._service.release(key, ReleaseNumber.parse(release))["label"])
        except NotFound:
            return ""


@dataclass(slots=True)
class _Submitted:
    lock: threading.Lock = field(default_factory=threading.Lock)
    place: str | None = None


class Once:
    """Each form acts once, however often it is sent: the second time it only leads to where the first one led."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: OrderedDict[str, _Submitted] = OrderedDict()

    def act(self, form: str, do: Callable[[], str]) -> str:
        """Where to go then. What is refused has done nothing, and may be tried again."""
        with self._lock:
            submitted = self._known.setdefault(form, _Submitted())
            while len(self._known) > SUBMITTED_KEPT:
                self._known.popitem(last=False)
        with submitted.lock:
            if submitted.place is None:
                submitted.place = do()
            return submitted.place


def router(house: House) -> APIRouter:
    """The routes. All want a session whose actor sees the environment; orders want the role operator there."""
    service = house.service
    routes = APIRouter(include_in_schema=False)
    glance, once = Glance(service), Once()

    def seen(request: Request, id: int) -> tuple[Session, EnvKey]:
        session = house.session(request)
        key = service.environment_of(id)
        session.actor.require(Role.VIEWER, key)
        return session, key

    @routes.get("/rollouts/{id}")
    def page(request: Request, id: Id) -> Response:
        """The whole page."""
        session, _ = seen(request, id)
        facts = glance.facts(id)
        return house.page(request, session, "rollout.html", **_shown(facts, session.actor), logs=_logs(service, facts))

    @routes.get("/rollouts/{id}/part")
    def part(request: Request, id: Id) -> Response:
        """What changes in it."""
        session, key = seen(request, id)

        def fresh() -> bytes:
            shown = _shown(glance.facts(id), session.actor)
            return bytes(house.page(request, session, "rollout_part.html", **shown).body)

        # All who may do the same see the same: it is rendered once for them.
        body = glance.part(id, f"part {_forbidden(session.actor, key)}", fresh)
        return Response(body, media_type="text/html")

    @routes.get("/rollouts/{id}/logs")
    def logs(request: Request, id: Id) -> Response:
        """The last lines of the candidate's replicas."""
        session, _ = seen(request, id)
        return house.page(request, session, "rollout_logs.html", logs=_logs(service, glance.facts(id)))

    @routes.get("/rollouts/{id}/samples")
    def samples(request: Request, id: Id) -> list[dict[str, Any]]:
        """What the charts begin with: see `service.hub.sampled`."""
        seen(request, id)
        return service.hub.samples(id)

    @routes.get("/rollouts/{id}/plots/{name}")
    def plot(request: Request, id: Id, name: str) -> Response:
        """What the judge saw, as SVG."""
        seen(request, id)
        # It stands in an <img>; opened by itself, it may have the styles that it carries and nothing else.
        alone = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"}
        return Response(glance.plot(id, name), media_type="image/svg+xml", headers=alone)

    @routes.get("/rollouts/{id}/orders/{name}")
    def ask(request: Request, id: Id, name: str) -> Response:
        """Says what an order will do, and asks: as a page, or as the content of its dialog."""
        session, _ = seen(request, id)
        return _ask(house, request, session, glance.facts(id), name)

    @routes.post("/rollouts/{id}/orders/{name}")
    async def order(request: Request, id: Id, name: str) -> Response:
        """Gives the order. A refused one is told where it was asked for."""
        session, form = await house.posted(request)
        return await run_in_threadpool(_order, request, session, form, id, name)

    def _order(request: Request, session: Session, form: Mapping[str, str], id: int, name: str) -> Response:
        key, by = service.environment_of(id), session.actor
        by.require(Role.VIEWER, key)
        try:
            by.require(Role.OPERATOR, key)
            given = form.get("once", "")
            if not 16 <= len(given) <= 64:
                raise Invalid("once", given, "the value that the form came with")
            mark = f"{by.identity} {id} {name} {given}"
            place = once.act(mark, lambda: _carry_out(service, id, name, form, by))
        except (Refused, Forbidden) as error:
            return _ask(house, request, session, glance.facts(id, lately=0.0), name, error)
        if house.is_fetch(request):
            return Response(status_code=204, headers={"X-Go-To": place})
        return RedirectResponse(place, 303)

    return routes


def _carry_out(service: Service, id: int, name: str, form: Mapping[str, str], by: Actor) -> str:
    if name != "rollback":
        service.order(id, _command(name), by)
        return f"/rollouts/{id}"
    to = ReleaseNumber.parse(form["to"]) if form.get("to") else None
    key = service.environment_of(id)
    live, was = service.status(key)["live"], service.rollout(id)["candidate"]
    if live != was:
        raise Refused(f"{was} is not live in {key}: {live or 'nothing'} is.", hint="See the environment's page.")
    return f"/rollouts/{service.rollback(key, to, by).id}"


def _command(name: str) -> Command:
    try:
        return Command(name)
    except ValueError:
        raise NotFound(f"There is no order {name!r}.", hint=f"There are {', '.join(ACTS)}.") from None


def _shown(facts: Facts, actor: Actor) -> dict[str, Any]:
    """What the templates are given."""
    rollout, journal = facts.rollout, facts.journal
    forbidden = _forbidden(actor, facts.key)
    return {
        "rollout": rollout,
        "key": facts.key,
        "labels": facts.labels,
        "headline": view.headline(rollout),
        "shares": view.shares(rollout, facts.status["edge"]),
        "edge": facts.status["edge"],
        "timeline": view.timeline(rollout, journal),
        "journal": journal,
        "acts": view.acts(rollout, facts.refused, forbidden, facts.cannot_return),
        "forbidden": forbidden,
        "findings": view.FINDINGS,
        "judged": bool(rollout["metrics"]),
        "seq": facts.seq,
        "view": view,
    }


def _forbidden(actor: Actor, key: EnvKey) -> str:
    return "" if actor.may(Role.OPERATOR, key) else f"This wants the role operator for {key}."


def _logs(service: Service, facts: Facts) -> Mapping[str, list[str]]:
    """Empty when there are none any more."""
    try:
        return service.logs(facts.key, ReleaseNumber.parse(facts.rollout["candidate"]), LOG_LINES)
    except CrossfadeError:
        return {}


def _ask(
    house: House, request: Request, session: Session, facts: Facts, name: str, error: CrossfadeError | None = None
) -> Response:
    if name not in ACTS:
        _command(name)
    rollout = facts.rollout
    why_not = _forbidden(session.actor, facts.key) or (
        facts.cannot_return if name == "rollback" else facts.refused[name]
    )
    moved = view.traffic_moved(rollout, facts.journal)
    return house.page(
        request,
        session,
        "rollout_ask_part.html" if house.is_fetch(request) else "rollout_ask.html",
        status=200 if error is None else 403 if isinstance(error, Forbidden) else 409,
        rollout=rollout,
        key=facts.key,
        name=name,
        label="Roll back" if name == "rollback" else name.capitalize(),
        what=view.what_happens(name, rollout, moved, facts.config, facts.back_to) if not why_not else [],
        why_not=why_not,
        error=error,
        back_to=facts.back_to,
        once=secrets.token_urlsafe(24),
    )
