"""`/flags`: the flags that a viewer sees, one flag with all that is known of it, and what one may order of it."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Final
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Request
from fastapi.responses import RedirectResponse, Response
from starlette.concurrency import run_in_threadpool

from crossfade.domain.access import Actor, Role
from crossfade.domain.errors import CrossfadeError, Forbidden, Invalid, NotFound, Refused
from crossfade.domain.values import EnvKey
from crossfade.service import Service
from crossfade.service.accounts import Session
from crossfade.web import flag_view as view
from crossfade.web import flag_words as words
from crossfade.web import ramp_view
from crossfade.web.flag_house import (
    BASE,
    FLAG,
    Looks,
    Row,
    after_change,
    forbidden,
    given,
    key_of,
    place_of,
    seen,
    status_of,
    targets,
    waiting_requests,
)
from crossfade.web.house import House
from crossfade.web.rollouts import Once

FLAGS_SHOWN: Final = 100
USAGES_SHOWN: Final = 12
RAMPS_SHOWN: Final = 5
LONGEST_FILTER: Final = 100
LONGEST_CONTEXT: Final = 10_000
LABELS: Final = {
    "kill": "Kill",
    "revive": "Revive",
    "on": "Switch on",
    "off": "Switch off",
    "remove": "Remove",
    "pause-rule": "Pause",
    "resume-rule": "Resume",
}
"""The orders that there are, and what their buttons say."""

Before = Annotated[int | None, Query(ge=1, le=2**31 - 1)]
Page = Annotated[int, Query(ge=1, le=10_000)]


def router(house: House) -> APIRouter:
    """The routes. All want a session whose actor sees the environment; orders want the role operator there.

    Included behind all others below a flag: its own page takes whatever name is left.
    """
    service = house.service
    routes = APIRouter(include_in_schema=False)
    looks, once = Looks(service), Once()

    def listed(request: Request, session: Session, only: EnvKey | None, q: str, state: str, page: int) -> Response:
        _, seq = service.hub.kept()
        keys = [only] if only is not None else list(filter(session.actor.sees, service.keys()))
        wanted = q.strip().lower()[:LONGEST_FILTER].split()
        rows = [(key, _sifted(looks.all(key), wanted, state)) for key in keys]
        total, last = sum(len(found) for _, found in rows), page * FLAGS_SHOWN
        query = urlencode({name: text for name, text in (("q", q), ("state", state), ("page", page + 1)) if text})
        return house.page(
            request,
            session,
            "flags_part.html" if house.is_fetch(request) else "flags.html",
            groups=_page(rows, last - FLAGS_SHOWN, last, empty=page == 1 and not wanted and not state),
            only=only,
            q=q,
            state=state,
            states=(*view.STATES, "stale"),
            filtered=bool(wanted or state),
            shown=min(last, total),
            total=total,
            more=f"{request.url.path}?{query}" if last < total else "",
            requests_waiting=len(waiting_requests(service, session.actor, only)),
            now=service.now(),
            may=lambda key: not forbidden(session.actor, key),
            view=view,
            seq=seq,
        )

    @routes.get("/flags")
    def everywhere(request: Request, q: str = "", state: str = "", page: Page = 1) -> Response:
        """Of all environments that the viewer sees."""
        return listed(request, house.session(request), None, q, state, page)

    @routes.get(BASE + "/flags")
    def here(request: Request, name: str, environment: str, q: str = "", state: str = "", page: Page = 1) -> Response:
        """Of one environment."""
        session, key = seen(house, request, name, environment)
        service.environment(key)
        return listed(request, session, key, q, state, page)

    @routes.get(FLAG + "/part")
    def part(request: Request, name: str, environment: str, flag: str, before: Before = None) -> Response:
        """What changes in the page of a flag."""
        session, key = seen(house, request, name, environment)
        return house.page(request, session, "flag_part.html", **_shown(looks, session.actor, key, flag, before))

    @routes.get(FLAG + "/orders/{order}")
    def ask(request: Request, name: str, environment: str, flag: str, order: str, rule: str = "") -> Response:
        """Says what an order will do, and asks."""
        session, key = seen(house, request, name, environment)
        return _ask(house, request, session, key, flag, order, rule)

    @routes.post(FLAG + "/orders/{order}")
    async def give(request: Request, name: str, environment: str, flag: str, order: str) -> Response:
        """Gives the order. A refused one is told where it was asked for."""
        session, form = await house.posted(request)
        return await run_in_threadpool(_give, request, session, form, key_of(name, environment), flag, order)

    def _give(
        request: Request, session: Session, form: Mapping[str, str], key: EnvKey, flag: str, order: str
    ) -> Response:
        by, rule = session.actor, form.get("rule", "")
        by.require(Role.VIEWER, key)
        refuse_unknown(order)
        try:
            by.require(Role.OPERATOR, key)
            mark = f"{by.identity} {key} {flag} {order} {rule} {given(form)}"
            place = once.act(mark, lambda: _carry_out(service, key, flag, order, form, by))
        except (Refused, Forbidden, Invalid) as error:
            return _ask(house, request, session, key, flag, order, rule, error)
        return RedirectResponse(place, 303)

    @routes.get(FLAG)
    def page(
        request: Request,
        name: str,
        environment: str,
        flag: str,
        before: Before = None,
        context: Annotated[str, Query(max_length=LONGEST_CONTEXT)] = "",
    ) -> Response:
        """The whole page of a flag; with a context, what that gets and why."""
        session, key = seen(house, request, name, environment)
        found = _shown(looks, session.actor, key, flag, before)
        answer, wrong = None, ""
        if context.strip():
            try:
                answer = service.flags.why(key, flag, view.context_of(context))
            except Invalid as error:
                wrong = str(error)
        return house.page(request, session, "flag.html", **found, context=context, why=answer, why_wrong=wrong)

    return routes


def refuse_unknown(order: str) -> None:
    """Raises NotFound."""
    if order not in LABELS:
        raise NotFound(f"There is no order {order!r}.", hint=f"There are {', '.join(LABELS)}.")


def _sifted(rows: Iterable[Row], wanted: list[str], state: str) -> list[Row]:
    return [
        row
        for row in rows
        if all(word in row.words for word in wanted)
        and (not state or row.state == state or (state == "stale" and bool(row.stale)))
    ]


def _page(rows: list[tuple[EnvKey, list[Row]]], first: int, last: int, empty: bool) -> list[tuple[EnvKey, list[Row]]]:
    """A part of all rows, by environment; those that have none too, where their first one is made."""
    found, at = [], 0
    for key, members in rows:
        part = members[max(0, first - at) : max(0, last - at)]
        if part or (empty and not members):
            found.append((key, part))
        at += len(members)
    return found


def _shown(looks: Looks, actor: Actor, key: EnvKey, name: str, before: int | None) -> dict[str, Any]:
    """What the templates of a flag are given. ``seq`` is taken first: nothing that happens after it is missed."""
    service = looks.service
    _, seq = service.hub.kept()
    facts = service.flags.flag(key, name)
    data, ramp = facts["flag"], service.ramps.open(key, name)
    flag = view.flag_view(str(key), name, data, service.now(), ramp)
    versions, older = looks.versions(key, name, before)
    return {
        "key": key,
        "place": place_of(key, name),
        "flag": flag,
        "targeting": words.short(words.written(data.get("targeting")), 2000),
        "metadata": sorted(data.get("metadata", {}).items()),
        "rest_bar": view.rest_bar(data),
        "unmet": view.unmet(flag, facts["release"], key),
        "stale": (facts["stale"] or {}).get("why", ""),
        "waiting": [service.flags.request(id) for id in facts["requests"]],
        "required_by": facts["required_by"],
        "usage": sorted(facts["usage"], key=lambda one: -float(one["last"]))[:USAGES_SHOWN],
        "experiments": facts["experiments"],
        "ramp": ramp,
        "ramps": [one for one in service.ramps.list(key, name, RAMPS_SHOWN) if one["ended"]],
        "versions": versions,
        "older": older,
        "before": before,
        "targets": targets(service, actor, key),
        "may": not forbidden(actor, key),
        "forbidden": forbidden(actor, key),
        "once": secrets.token_urlsafe(24),
        "view": view,
        "ramp_view": ramp_view,
        "seq": seq,
    }


def _carry_out(service: Service, key: EnvKey, flag: str, order: str, form: Mapping[str, str], by: Actor) -> str:
    flags, place, rule = service.flags, place_of(key, flag), form.get("rule", "")
    match order:
        case "kill":
            flags.kill(key, flag, form.get("why", "").strip(), by)
            return place
        case "revive":
            flags.revive(key, flag, by)
            return place
        case "on" | "off":
            return after_change(flags.switch(key, flag, order == "on", by), place)
        case "pause-rule" | "resume-rule":
            return after_change(flags.pause_rule(key, flag, rule, order == "pause-rule", by), place)
        case _:
            return after_change(flags.remove(key, flag, by), f"/environments/{key}/flags")


def _ask(
    house: House,
    request: Request,
    session: Session,
    key: EnvKey,
    flag: str,
    order: str,
    rule: str,
    error: CrossfadeError | None = None,
) -> Response:
    refuse_unknown(order)
    service = house.service
    facts = service.flags.flag(key, flag)
    shown = view.flag_view(str(key), flag, facts["flag"], service.now(), service.ramps.open(key, flag))
    if order.endswith("-rule") and rule not in [one.name for one in shown.rules]:
        raise NotFound(f"{flag} has no rule {rule!r}.", hint="Its page shows those it has.")
    why_not = forbidden(session.actor, key) or view.why_not(shown, order, rule, facts["required_by"])
    approval = service.flags.settings(key)["approval"] if order not in ("kill", "revive") else None
    return house.page(
        request,
        session,
        "flag_ask.html",
        status=status_of(error),
        key=key,
        flag=shown,
        place=place_of(key, flag),
        order=order,
        rule=rule,
        label=LABELS[order],
        what=view.what_happens(shown, order, rule, approval) if not why_not else [],
        why_not=why_not,
        error=error,
        once=secrets.token_urlsafe(24),
    )
