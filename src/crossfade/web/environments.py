"""One environment: its slots, its releases and the way back to each, its rollouts, its logs; and what a release is."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Annotated, Any, Final

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import RedirectResponse, Response
from starlette.concurrency import run_in_threadpool

from crossfade.domain.access import Role
from crossfade.domain.errors import CrossfadeError, Forbidden, Invalid, NotFound, Refused
from crossfade.domain.release import SMALLEST_WINDOW
from crossfade.domain.values import EnvKey, ReleaseNumber, show_duration
from crossfade.ports import Approval
from crossfade.service.accounts import Session
from crossfade.service.views import CHECKED_LATELY, flat
from crossfade.web import slo_view
from crossfade.web.alerts import open_alerts, shown_of
from crossfade.web.glance import Overview, row_of
from crossfade.web.rollout_view import home
from crossfade.web.rollouts import Once
from crossfade.web.sessions import Sessions
from crossfade.web.slo_view import summary

RELEASES_SHOWN: Final = 20
ROLLOUTS_SHOWN: Final = 15
LOG_LINES: Final = 60
PLOTS: Final = (
    ("interval", "The difference of the error rates over time with its interval, and the limit"),
    ("evidence", "The evidence over time against the lines at which it decides"),
    ("latency", "The latencies of both arms"),
)

Id = Annotated[int, Path(ge=1, le=2**31 - 1)]
Before = Annotated[int | None, Query(ge=1, le=2**31 - 1)]


def router(house: Sessions) -> APIRouter:
    """The routes. All want a session whose actor sees the environment; to roll back wants the role operator there."""
    service = house.service
    routes = APIRouter(include_in_schema=False)
    overview, once = Overview(service), Once()
    base = "/environments/{name}/{environment}"

    def seen(request: Request, name: str, environment: str) -> tuple[Session, EnvKey]:
        session = house.session(request)
        key = _key(name, environment)
        session.actor.require(Role.VIEWER, key)
        return session, key

    def facts(session: Session, key: EnvKey) -> dict[str, Any]:
        _, seq = service.hub.kept()
        status = service.status(key)
        live = status["live"]
        config = service.release(key, ReleaseNumber.parse(live))["config"] if live else {}
        slo, schedule = service.objectives.view(key), service.drills.schedule(key)
        alerts = tuple(open_alerts(service, session.actor, key))
        return {
            "key": key,
            "row": row_of(key, status, overview.counts(key), summary(slo, schedule), alerts),
            "slo": slo,
            "alerts": [shown_of(one, session.actor) for one in alerts],
            "schedule": schedule,
            "drill": service.drills.under_way(key),
            "view": slo_view,
            "releases": service.releases(key, limit=RELEASES_SHOWN),
            "window": max(int(config.get("window", 0)), SMALLEST_WINDOW),
            "rollouts": service.rollouts(key, ROLLOUTS_SHOWN),
            "rollouts_shown": ROLLOUTS_SHOWN,
            "waiting": service.approvals.waiting(key),
            "migrations": service.migrations.view(key),
            "may": session.actor.may(Role.OPERATOR, key),
            "seq": seq,
        }

    @routes.get(base)
    def page(request: Request, name: str, environment: str) -> Response:
        """The whole page."""
        session, key = seen(request, name, environment)
        return house.page(request, session, "environment.html", **facts(session, key), logs=_logs(house, key))

    @routes.get(base + "/part")
    def part(request: Request, name: str, environment: str) -> Response:
        """What changes in it."""
        session, key = seen(request, name, environment)
        return house.page(request, session, "environment_part.html", **facts(session, key))

    @routes.get(base + "/logs")
    def logs(request: Request, name: str, environment: str) -> Response:
        """The last lines of its replicas."""
        session, key = seen(request, name, environment)
        return house.page(request, session, "rollout_logs.html", logs=_logs(house, key))

    @routes.get(base + "/rollouts")
    def rollouts(request: Request, name: str, environment: str, before: Before = None) -> Response:
        """Older rollouts."""
        session, key = seen(request, name, environment)
        service.environment(key)
        rows = service.rollouts(key, ROLLOUTS_SHOWN, before=before)
        template = "rollout_rows.html" if house.is_fetch(request) else "rollout_list.html"
        return house.page(request, session, template, key=key, rollouts=rows, rollouts_shown=ROLLOUTS_SHOWN)

    @routes.get(base + "/rollback")
    def ask(request: Request, name: str, environment: str, to: str = "") -> Response:
        """Says what a rollback will do, and asks."""
        session, key = seen(request, name, environment)
        return _ask_rollback(house, request, session, key, to)

    @routes.post(base + "/rollback")
    async def rollback(request: Request, name: str, environment: str) -> Response:
        """Begins it. A refused one is told where it was asked for."""
        session, form = await house.posted(request)
        return await run_in_threadpool(_rollback, request, session, _key(name, environment), form)

    def _rollback(request: Request, session: Session, key: EnvKey, form: Mapping[str, str]) -> Response:
        session.actor.require(Role.OPERATOR, key)
        given, to = _given(form), form.get("to", "")
        try:
            place = once.act(
                f"{session.actor.identity} {key} {to} {given}",
                lambda: f"/rollouts/{service.rollback(key, ReleaseNumber.parse(to), session.actor).id}",
            )
        except Refused as error:
            return _ask_rollback(house, request, session, key, to, error)
        return RedirectResponse(place, 303)

    @routes.get(base + "/releases/{release}")
    def release(request: Request, name: str, environment: str, release: str) -> Response:
        """One release and its configuration."""
        session, key = seen(request, name, environment)
        number = ReleaseNumber.parse(release)
        row = service.release(key, number)
        around = [str(other["release"]) for other in service.releases(key, limit=50) if other["release"] != release]
        live = service.status(key)["live"]
        return house.page(
            request,
            session,
            "release.html",
            key=key,
            release=row,
            settings=sorted(flat(row["config"]).items()),
            others=around,
            may=session.actor.may(Role.OPERATOR, key),
            live=live,
        )

    @routes.get(base + "/releases/{release}/rollout")
    def ask_again(request: Request, name: str, environment: str, release: str) -> Response:
        """Says what rolling it out will do, and asks."""
        session, key = seen(request, name, environment)
        return _ask_again(house, request, session, key, release)

    @routes.post(base + "/releases/{release}/rollout")
    async def again(request: Request, name: str, environment: str, release: str) -> Response:
        """Begins it, or asks for the approval that it wants. A refused one is told where it was asked for."""
        session, form = await house.posted(request)
        return await run_in_threadpool(_again, request, session, _key(name, environment), release, form)

    def _again(request: Request, session: Session, key: EnvKey, release: str, form: Mapping[str, str]) -> Response:
        session.actor.require(Role.OPERATOR, key)
        given, fix = _given(form), form.get("fix", "").strip()

        def begin() -> str:
            begun = service.deploy_again(key, ReleaseNumber.parse(release), session.actor, fix)
            return f"/approvals/{begun.id}" if isinstance(begun, Approval) else f"/rollouts/{begun.id}"

        try:
            place = once.act(f"{session.actor.identity} {key} again {release} {given}", begin)
        except Refused as error:
            return _ask_again(house, request, session, key, release, error)
        return RedirectResponse(place, 303)

    @routes.get(base + "/compare")
    def compare(
        request: Request,
        name: str,
        environment: str,
        one: Annotated[str, Query(alias="from")] = "",
        other: Annotated[str, Query(alias="to")] = "",
    ) -> Response:
        """The settings that differ between two releases."""
        session, key = seen(request, name, environment)
        rows = service.releases(key, limit=100)
        numbers = [row["release"] for row in rows]
        one, other = one or (numbers[1] if len(numbers) > 1 else ""), other or (numbers[0] if numbers else "")
        if not one or not other:
            raise NotFound(f"{key} has fewer than two releases.", hint="There is nothing to compare yet.")
        changes = service.compare(key, ReleaseNumber.parse(one), ReleaseNumber.parse(other))
        labels = {number: service.release(key, ReleaseNumber.parse(number)) for number in (one, other)}
        return house.page(
            request,
            session,
            "compare.html",
            key=key,
            one=labels[one],
            other=labels[other],
            changes=changes,
            numbers=numbers,
        )

    @routes.get("/rollouts/{id}/receipt")
    def receipt(request: Request, id: Id) -> Response:
        """What clients saw of a rollout."""
        session = house.session(request)
        key = service.environment_of(id)
        session.actor.require(Role.VIEWER, key)
        found = service.receipt(id)
        judged = bool(found.get("metrics"))
        return house.page(
            request,
            session,
            "receipt.html",
            key=key,
            receipt=found,
            by=service.rollout(id)["by"],
            plots=PLOTS if judged else (),
        )

    return routes


def _key(name: str, environment: str) -> EnvKey:
    """Of a URL. Raises NotFound: what cannot be a name is none."""
    try:
        return EnvKey(name, environment)
    except Invalid:
        raise NotFound("There is no such environment.", hint="The start page lists those there are.") from None


def _given(form: Mapping[str, str]) -> str:
    """What makes a form one that acts once. Raises Invalid."""
    given = form.get("once", "")
    if not 16 <= len(given) <= 64:
        raise Invalid("once", given, "the value that the form came with")
    return given


def _logs(house: Sessions, key: EnvKey) -> Mapping[str, list[str]]:
    try:
        return house.service.logs(key, None, LOG_LINES)
    except CrossfadeError:
        return {}


def _ask_rollback(
    house: Sessions, request: Request, session: Session, key: EnvKey, to: str, error: CrossfadeError | None = None
) -> Response:
    service = house.service
    status = service.status(key)
    number = ReleaseNumber.parse(to)
    row = service.release(key, number)
    why_not = ""
    try:
        session.actor.require(Role.OPERATOR, key)
    except Forbidden as forbidden:
        why_not = str(forbidden)
    if not why_not and status["rollout"]:
        why_not = f"Rollout #{status['rollout']['id']} is under way: abort it, or wait for its end."
    if not why_not and not row["restorable"]:
        why_not = f"{row['release']} cannot be restored: {'; '.join(row['why_not'])}."
    return house.page(
        request,
        session,
        "rollback.html",
        status=200 if error is None else 409,
        key=key,
        release=row,
        live=status["live"],
        what=_what_happens(status, row) if not why_not else [],
        changes=service.compare(key, ReleaseNumber.parse(status["live"]), number) if status["live"] else [],
        why_not=why_not,
        error=error,
        once=secrets.token_urlsafe(24),
    )


def _ask_again(
    house: Sessions, request: Request, session: Session, key: EnvKey, release: str, error: CrossfadeError | None = None
) -> Response:
    service = house.service
    status, number = service.status(key), ReleaseNumber.parse(release)
    row = service.release(key, number)
    why_not = ""
    if not session.actor.may(Role.OPERATOR, key):
        why_not = f"This wants the role operator for {key}."
    elif status["rollout"]:
        why_not = f"Rollout #{status['rollout']['id']} is under way: abort it, or wait for its end."
    elif status["live"] == release:
        why_not = f"{release} is live already."
    elif gone := service.check(key, number, CHECKED_LATELY).reasons:
        why_not = f"{release} cannot be deployed again: {'; '.join(gone)}."
    steps = row["config"]["strategy"].get("steps")
    how = (
        "as a canary: " + ", then ".join(f"{step['weight']['bp'] / 100:g} %" for step in steps)
        if steps
        else "blue-green: all traffic at once, then watched"
    )
    live = status["live"] or "nothing"
    what = [
        f"{release} is started beside {live}, asked whether it is healthy, and rolled out {how}.",
        f"It is judged against {live}, and goes back by itself when it does worse.",
    ]
    if row["config"].get("approval"):
        what.append(f"Somebody else with the role {row['config']['approval']} has to approve it first.")
    changes = service.compare(key, ReleaseNumber.parse(status["live"]), number) if status["live"] else []
    exhausted = service.objectives.exhausted(key) if not service.fixes.marked(key, number) else None
    return house.page(
        request,
        session,
        "again.html",
        exhausted=exhausted,
        status=200 if error is None else 409,
        key=key,
        release=row,
        live=status["live"],
        what=what,
        changes=changes,
        why_not=why_not,
        error=error,
        once=secrets.token_urlsafe(24),
    )


def _what_happens(status: Mapping[str, Any], row: Mapping[str, Any]) -> list[str]:
    live, back = status["live"], row["release"]
    slot = status["active_slot"]
    standby = home({"slot": slot}) if slot else "blue"
    drain = show_duration(row["config"].get("drain_timeout", 30.0))
    begins = "is still warm: its replicas are up" if row["standing"] == "warm" else f"is started in {standby}"
    return [
        f"{back} {begins}, and is asked whether it is healthy.",
        f"Then all traffic moves from {live} to {back} in one step; it is not judged, since it has been live before.",
        f"Requests in flight on {live} have up to {drain} to finish. Data and schema stay as they are.",
    ]
