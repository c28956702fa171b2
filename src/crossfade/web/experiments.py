"""Experiments: which there are, what each tells by now, and what one may order of it."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote

from fastapi import APIRouter, Request
from fastapi.responses import RedirectResponse, Response
from starlette.concurrency import run_in_threadpool

from crossfade.domain.access import Actor, Role
from crossfade.domain.errors import CrossfadeError, Forbidden, Invalid, NotFound, Refused
from crossfade.domain.values import EnvKey
from crossfade.service import Service
from crossfade.service.accounts import Session
from crossfade.web import experiment_view as view
from crossfade.web import flag_view
from crossfade.web.flag_house import (
    BASE,
    Lately,
    Sent,
    forbidden,
    given,
    key_of,
    place_of,
    seen,
    status_of,
    waiting_requests,
)
from crossfade.web.house import House
from crossfade.web.rollouts import Once

DRAWN_LATELY: Final = 5.0
"""Seconds for which a plot that was drawn is shown to all."""
ONE: Final = BASE + "/experiments/{experiment}"

Data = Mapping[str, Any]


def place_at(key: EnvKey, name: str) -> str:
    """Where the page of an experiment is."""
    return f"/environments/{key}/experiments/{quote(name, safe='')}"


def router(house: House) -> APIRouter:
    """The routes. All want a session whose actor sees the environment; orders want the role operator there."""
    service = house.service
    routes = APIRouter(include_in_schema=False)
    once, drawn = Once(), Lately(DRAWN_LATELY, 100)

    @routes.get(BASE + "/experiments")
    def experiments(request: Request, name: str, environment: str) -> Response:
        """Those of an environment."""
        session, key = seen(house, request, name, environment)
        _, seq = service.hub.kept()
        return house.page(
            request,
            session,
            "experiments_part.html" if house.is_fetch(request) else "experiments.html",
            key=key,
            experiments=[{**one, "place": place_at(key, one["name"])} for one in service.experiments.list(key)],
            requests_waiting=len(waiting_requests(service, session.actor, key)),
            may=not forbidden(session.actor, key),
            forbidden=forbidden(session.actor, key),
            view=view,
            seq=seq,
        )

    @routes.get(BASE + "/new-experiment")
    def fresh(request: Request, name: str, environment: str, flag: str = "") -> Response:
        """A form for a new one; first it asks of which flag."""
        session, key = seen(house, request, name, environment)
        return _form(house, request, session, key, {"flag": flag})

    @routes.post(BASE + "/new-experiment")
    async def make(request: Request, name: str, environment: str) -> Response:
        """Makes it. What is wrong with it is said beside its field."""
        session, form = await house.posted(request)
        return await run_in_threadpool(_make, request, session, form, key_of(name, environment))

    def _make(request: Request, session: Session, form: Mapping[str, str], key: EnvKey) -> Response:
        by = session.actor
        by.require(Role.VIEWER, key)

        def do() -> str:
            flag = service.flags.flag(key, form.get("flag", ""))["flag"]
            plan = view.plan_of(form, flag["variants"])
            rollouts, hypothesis = "exclude-rollouts" in form, form.get("hypothesis", "").strip()
            service.experiments.create(key, plan, by, exclude_rollouts=rollouts, hypothesis=hypothesis)
            return place_at(key, plan.name)

        try:
            by.require(Role.OPERATOR, key)
            place = once.act(f"{by.identity} {key} experiment {given(form)}", do)
        except (Refused, Forbidden, Invalid, NotFound) as error:
            return _form(house, request, session, key, form, error)
        return RedirectResponse(place, 303)

    @routes.get(ONE)
    def page(request: Request, name: str, environment: str, experiment: str) -> Response:
        """What it tells by now."""
        session, key = seen(house, request, name, environment)
        return house.page(request, session, "experiment.html", **_shown(service, session.actor, key, experiment))

    @routes.get(ONE + "/part")
    def part(request: Request, name: str, environment: str, experiment: str) -> Response:
        """What changes in it."""
        session, key = seen(house, request, name, environment)
        return house.page(request, session, "experiment_part.html", **_shown(service, session.actor, key, experiment))

    @routes.get(ONE + "/plots/{plot}")
    def plot(request: Request, name: str, environment: str, experiment: str, plot: str) -> Response:
        """As SVG."""
        _, key = seen(house, request, name, environment)
        if plot not in view.PLOTS:
            raise NotFound(f"There is no plot {plot!r}.", hint=f"There are {', '.join(view.PLOTS)}.")
        # It stands in an <img>; opened by itself, it may have the styles that it carries and nothing else.
        alone = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"}
        picture = drawn.of((key, experiment, plot), lambda: service.experiments.plot(key, experiment, plot))
        return Response(picture, media_type="image/svg+xml", headers=alone)

    @routes.get(ONE + "/orders/{order}")
    def ask(request: Request, name: str, environment: str, experiment: str, order: str) -> Response:
        """Says what an order will do, and asks."""
        session, key = seen(house, request, name, environment)
        return _ask(house, request, session, key, experiment, order)

    @routes.post(ONE + "/orders/{order}")
    async def give(request: Request, name: str, environment: str, experiment: str, order: str) -> Response:
        """Gives the order. A refused one is told where it was asked for."""
        session, form = await house.posted(request)
        return await run_in_threadpool(_give, request, session, form, key_of(name, environment), experiment, order)

    def _give(
        request: Request, session: Session, form: Mapping[str, str], key: EnvKey, name: str, order: str
    ) -> Response:
        by = session.actor
        by.require(Role.VIEWER, key)
        _refuse_unknown(order)
        try:
            by.require(Role.OPERATOR, key)
            mark = f"{by.identity} {key} experiment {name} {order} {given(form)}"
            place = once.act(mark, lambda: _carry_out(service, key, name, order, form, by))
        except (Refused, Forbidden, Invalid) as error:
            return _ask(house, request, session, key, name, order, error)
        return RedirectResponse(place, 303)

    return routes


def _refuse_unknown(order: str) -> None:
    if order not in view.LABELS:
        raise NotFound(f"There is no order {order!r}.", hint=f"There are {', '.join(view.LABELS)}.")


def _carry_out(service: Service, key: EnvKey, name: str, order: str, form: Mapping[str, str], by: Actor) -> str:
    trials, place = service.experiments, place_at(key, name)
    why = form.get("why", "").strip()
    match order:
        case "start":
            trials.start(key, name, by)
        case "stop":
            trials.stop(key, name, by, why)
        case "exclude":
            trials.exclude(key, name, view.windows_of(form.get("excluded", "")), by)
        case "conclude":
            done = trials.conclude(key, name, form.get("ship") or None, by, why)
            asked = (done["change"] or {}).get("request")
            return f"/flag-requests/{asked['request']}" if asked else place
        case _:
            trials.remove(key, name, by)
            return f"/environments/{key}/experiments"
    return place


def _shown(service: Service, actor: Actor, key: EnvKey, name: str) -> dict[str, Any]:
    """What the templates of an experiment are given. ``seq`` is taken first: nothing that happens after it is missed."""
    _, seq = service.hub.kept()
    found = service.experiments.results(key, name)
    experiment, results = found["experiment"], found["results"]
    kinds = {metric["name"]: metric["kind"] for metric in experiment["plan"]["metrics"]}
    return {
        "key": key,
        "place": place_at(key, name),
        "flag_place": place_of(key, experiment["flag"]),
        "one": experiment,
        "plan": experiment["plan"],
        "results": results,
        "headline": view.headline(experiment, results),
        "drawn": [(metric, view.intervals(metric)) for metric in results["metrics"]] if results else [],
        "releases": view.table(results["releases"], kinds[results["primary"]]) if results else None,
        "kinds": kinds,
        "plots": [plot for plot in view.PLOTS if plot != "segments" or experiment["plan"]["segments"]],
        "windows": view.written(experiment["plan"]["excluded"]),
        "may": not forbidden(actor, key),
        "forbidden": forbidden(actor, key),
        "view": view,
        "seq": seq,
    }


def _ask(
    house: House,
    request: Request,
    session: Session,
    key: EnvKey,
    name: str,
    order: str,
    error: CrossfadeError | None = None,
) -> Response:
    _refuse_unknown(order)
    service = house.service
    found = service.experiments.results(key, name) if order == "conclude" else None
    experiment = found["experiment"] if found else service.experiments.get(key, name)
    results = found["results"] if found else None
    plan = experiment["plan"]
    approval = service.flags.settings(key)["approval"] if order == "conclude" else None
    why_not = forbidden(session.actor, key) or view.why_not(experiment, order)
    return house.page(
        request,
        session,
        "experiment_ask.html",
        status=status_of(error),
        key=key,
        place=place_at(key, name),
        one=experiment,
        order=order,
        label=view.LABELS[order],
        headline=view.headline(experiment, results) if results else "",
        variants=[plan["control"], *plan["treatments"]],
        winner=results["winner"] if results else None,
        windows=view.written(plan["excluded"]),
        what=view.what_happens(order, approval) if not why_not else [],
        why_not=why_not,
        error=error,
        once=secrets.token_urlsafe(24),
    )


def _form(
    house: House,
    request: Request,
    session: Session,
    key: EnvKey,
    form: Mapping[str, str],
    error: CrossfadeError | None = None,
) -> Response:
    service = house.service
    known = service.flags.serving(key).flags.flags
    flag = known.get(form.get("flag", ""))
    faults = dict(flag_view.faults_of(error)) if isinstance(error, Invalid) else {}
    return house.page(
        request,
        session,
        "experiment_new.html",
        status=status_of(error),
        key=key,
        form=Sent(form),
        flags=sorted(name for name, one in known.items() if len(one.variants) > 1),
        flag=form.get("flag", "") if flag is not None else "",
        variants=list(flag.variants) if flag is not None else [],
        control=form.get("control") or (flag.off_variant if flag is not None else "") or "",
        faults=faults,
        kinds=view.KINDS,
        metrics=range(view.MOST_METRICS),
        error=error,
        forbidden=forbidden(session.actor, key),
        once=secrets.token_urlsafe(24),
    )
