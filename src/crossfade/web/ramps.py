"""Ramps from the dashboard: begun, steered, and what they were."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from typing import Annotated, Any, Final

from fastapi import APIRouter, Path, Request
from fastapi.responses import RedirectResponse, Response
from starlette.concurrency import run_in_threadpool

from crossfade.domain.access import Role
from crossfade.domain.errors import CrossfadeError, Forbidden, Invalid, NotFound, Refused
from crossfade.domain.flags.ramp import MOST_STEPS, STEPS, Command
from crossfade.domain.release import Step
from crossfade.domain.values import EnvKey, Weight
from crossfade.service.accounts import Session
from crossfade.web import flag_view as view
from crossfade.web import ramp_view
from crossfade.web.flag_house import FLAG, Sent, forbidden, given, key_of, place_of, seen, status_of
from crossfade.web.house import House
from crossfade.web.rollouts import Once

Id = Annotated[int, Path(ge=1, le=2**31 - 1)]
_STEP: Final = re.compile(r"(\d{1,3}(?:\.\d{1,2})?)\s*%?\s*(?:for\s+)?(\d{1,6}(?:\.\d+)?)\s*(s|m|min|h|d)")
_UNITS: Final = {"s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}


def steps_of(text: str) -> tuple[Step, ...]:
    """From `1% 5m, 5% 5m, 100% 1h`, by commas or lines. Raises Invalid."""
    found = []
    parts = [part for part in re.split(r"[,\n]", text) if part.strip()]
    if not 1 <= len(parts) <= MOST_STEPS:
        raise Invalid("steps", text, f"1 to {MOST_STEPS} steps, such as `1 % 5m, 10 % 5m, 100 % 1h`")
    for part in parts:
        match = _STEP.fullmatch(part.strip())
        if match is None or float(match[1]) > 100:
            raise Invalid("steps", part.strip(), "a share and how long, such as `10 % 5m`")
        found.append(Step(Weight(round(float(match[1]) * 100)), float(match[2]) * _UNITS[match[3]]))
    return tuple(found)


def said_of(steps: tuple[Step, ...]) -> str:
    """The text that `steps_of` understands as these steps."""
    return ", ".join(f"{step.weight.bp / 100:g} % {_length(step.duration)}" for step in steps)


def _length(seconds: float) -> str:
    unit = next((unit for unit in ("h", "min") if seconds >= _UNITS[unit] and not seconds % _UNITS[unit]), "s")
    return f"{seconds / _UNITS[unit]:g}{unit}"


def router(house: House) -> APIRouter:
    """The routes. All want a session whose actor sees the environment; orders want the role operator there."""
    service = house.service
    routes = APIRouter(include_in_schema=False)
    once = Once()

    @routes.get(FLAG + "/ramp")
    def ask(request: Request, name: str, environment: str, flag: str, variant: str = "") -> Response:
        """A form for a ramp that is to begin."""
        session, key = seen(house, request, name, environment)
        return _ask(house, request, session, key, flag, {"variant": variant})

    @routes.post(FLAG + "/ramp")
    async def begin(request: Request, name: str, environment: str, flag: str) -> Response:
        """Begins it. What is wrong with it is told where it was asked for."""
        session, form = await house.posted(request)
        return await run_in_threadpool(_begin, request, session, form, key_of(name, environment), flag)

    def _begin(request: Request, session: Session, form: Mapping[str, str], key: EnvKey, flag: str) -> Response:
        by = session.actor
        by.require(Role.VIEWER, key)

        def do() -> str:
            variant, rest, rule = (form.get(name, "").strip() for name in ("variant", "rest", "rule"))
            steps = steps_of(form.get("steps", ""))
            service.ramps.begin(key, flag, variant, by, rest=rest or None, rule=rule or None, steps=steps)
            return place_of(key, flag)

        try:
            by.require(Role.OPERATOR, key)
            place = once.act(f"{by.identity} {key} {flag} ramp {given(form)}", do)
        except (Refused, Forbidden, Invalid, NotFound) as error:
            return _ask(house, request, session, key, flag, form, error)
        return RedirectResponse(place, 303)

    @routes.get("/ramps/{id}")
    def ramp(request: Request, id: Id) -> Response:
        """What a ramp did."""
        session = house.session(request)
        key = service.ramps.environment_of(id)
        session.actor.require(Role.VIEWER, key)
        _, seq = service.hub.kept()
        found = service.ramps.view(id)
        context = _shown(session, key, found)
        return house.page(request, session, "flag_ramp_page.html", seq=seq, **context)

    @routes.get("/ramps/{id}/part")
    def part(request: Request, id: Id) -> Response:
        """What changes in it."""
        session = house.session(request)
        key = service.ramps.environment_of(id)
        session.actor.require(Role.VIEWER, key)
        return house.page(request, session, "flag_ramp.html", **_shown(session, key, service.ramps.view(id)))

    @routes.get("/ramps/{id}/orders/{order}")
    def ask_order(request: Request, id: Id, order: str) -> Response:
        """Says what an order will do, and asks."""
        session = house.session(request)
        session.actor.require(Role.VIEWER, service.ramps.environment_of(id))
        return _ask_order(house, request, session, id, order)

    @routes.post("/ramps/{id}/orders/{order}")
    async def give(request: Request, id: Id, order: str) -> Response:
        """Gives the order. A refused one is told where it was asked for."""
        session, form = await house.posted(request)
        return await run_in_threadpool(_give, request, session, form, id, order)

    def _give(request: Request, session: Session, form: Mapping[str, str], id: int, order: str) -> Response:
        by, key = session.actor, service.ramps.environment_of(id)
        by.require(Role.VIEWER, key)
        command = _command(order)

        def do() -> str:
            return place_of(key, service.ramps.order(id, command, by)["flag"])

        try:
            by.require(Role.OPERATOR, key)
            place = once.act(f"{by.identity} ramp {id} {order} {given(form)}", do)
        except (Refused, Forbidden, Invalid) as error:
            return _ask_order(house, request, session, id, order, error)
        return RedirectResponse(place, 303)

    return routes


def _command(order: str) -> Command:
    try:
        return Command(order)
    except ValueError:
        raise NotFound(f"There is no order {order!r}.", hint=f"There are {', '.join(Command)}.") from None


def _shown(session: Session, key: EnvKey, ramp: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "key": key,
        "place": place_of(key, ramp["flag"]),
        "ramp": ramp,
        "ramps": [],
        "may": not forbidden(session.actor, key),
        "forbidden": forbidden(session.actor, key),
        "ramp_view": ramp_view,
    }


def _ask(
    house: House,
    request: Request,
    session: Session,
    key: EnvKey,
    flag: str,
    form: Mapping[str, str],
    error: CrossfadeError | None = None,
) -> Response:
    service = house.service
    facts = service.flags.flag(key, flag)
    shown = view.flag_view(str(key), flag, facts["flag"], service.now(), service.ramps.open(key, flag))
    why_not = forbidden(session.actor, key)
    if not why_not and shown.state in ("ramping", "killed", "off"):
        why_not = f"It is {view.SAID[shown.state]}."
    return house.page(
        request,
        session,
        "flag_ramp_begin.html",
        status=status_of(error),
        key=key,
        flag=shown,
        place=place_of(key, flag),
        form=Sent(form),
        steps=form.get("steps", said_of(STEPS)),
        splits=[rule["name"] for rule in shown.ours.get("rules", ()) if isinstance(rule["serve"], Mapping)],
        approval=service.flags.settings(key)["approval"],
        why_not=why_not,
        error=error,
        once=secrets.token_urlsafe(24),
    )


def _ask_order(
    house: House, request: Request, session: Session, id: int, order: str, error: CrossfadeError | None = None
) -> Response:
    command = _command(order)
    ramp = house.service.ramps.view(id)
    key = EnvKey(ramp["service"], ramp["environment"])
    why_not = forbidden(session.actor, key) or ramp_view.why_not(ramp, command.value)
    return house.page(
        request,
        session,
        "flag_ramp_ask.html",
        status=status_of(error),
        key=key,
        ramp=ramp,
        place=place_of(key, ramp["flag"]),
        order=order,
        label=order.capitalize(),
        what=ramp_view.what_happens(ramp, command.value) if not why_not else [],
        why_not=why_not,
        error=error,
        once=secrets.token_urlsafe(24),
    )
