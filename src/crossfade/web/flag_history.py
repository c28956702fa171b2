"""What a flag was: its versions, how to put one back, and how to take a flag to another environment."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Annotated, Final

from fastapi import APIRouter, Path, Request
from fastapi.responses import RedirectResponse, Response
from starlette.concurrency import run_in_threadpool

from crossfade.domain.access import Role
from crossfade.domain.errors import CrossfadeError, Forbidden, Invalid, NotFound, Refused
from crossfade.domain.values import EnvKey
from crossfade.service import Service
from crossfade.service.accounts import Session
from crossfade.web import flag_view as view
from crossfade.web import flag_words as words
from crossfade.web.flag_house import FLAG, after_change, forbidden, given, key_of, place_of, seen, status_of, targets
from crossfade.web.house import House
from crossfade.web.rollouts import Once

CHANGES_SHOWN: Final = 100

Number = Annotated[int, Path(ge=1, le=2**31 - 1)]


def router(house: House) -> APIRouter:
    """The routes. All want a session whose actor sees the environment; to change something wants the role operator."""
    service = house.service
    routes = APIRouter(include_in_schema=False)
    once = Once()

    @routes.get(FLAG + "/versions/{number}")
    def version(request: Request, name: str, environment: str, flag: str, number: Number) -> Response:
        """What a version changed, and what putting it back would."""
        session, key = seen(house, request, name, environment)
        return _version(house, request, session, key, flag, number)

    @routes.post(FLAG + "/versions/{number}")
    async def restore(request: Request, name: str, environment: str, flag: str, number: Number) -> Response:
        """Puts a flag, or all of them, back as they were."""
        session, form = await house.posted(request)
        return await run_in_threadpool(_restore, request, session, form, key_of(name, environment), flag, number)

    def _restore(
        request: Request, session: Session, form: Mapping[str, str], key: EnvKey, flag: str, number: int
    ) -> Response:
        by, what = session.actor, form.get("what", "")
        by.require(Role.VIEWER, key)

        def put_back() -> str:
            if what == "all":
                return after_change(service.flags.restore(key, number, by), f"/environments/{key}/flags")
            then = service.flags.version(key, number)["document"]["flags"].get(flag)
            if then is None:
                raise Refused(f"Version {number} had no flag {flag}.", hint="To be without it, remove it.")
            changed = service.flags.save(key, flag, then, by, note=f"as in version {number}")
            return after_change(changed, place_of(key, flag))

        try:
            by.require(Role.OPERATOR, key)
            place = once.act(f"{by.identity} {key} {flag} {number} {what} {given(form)}", put_back)
        except (Refused, Forbidden, Invalid) as error:
            return _version(house, request, session, key, flag, number, error)
        return RedirectResponse(place, 303)

    @routes.get(FLAG + "/promote")
    def ask(request: Request, name: str, environment: str, flag: str, to: str = "") -> Response:
        """Says what would change where, and asks."""
        session, key = seen(house, request, name, environment)
        return _ask_promote(house, request, session, key, flag, to)

    @routes.post(FLAG + "/promote")
    async def promote(request: Request, name: str, environment: str, flag: str) -> Response:
        """Makes it there what it is here."""
        session, form = await house.posted(request)
        return await run_in_threadpool(_promote, request, session, form, key_of(name, environment), flag)

    def _promote(request: Request, session: Session, form: Mapping[str, str], key: EnvKey, flag: str) -> Response:
        by, to = session.actor, form.get("to", "")
        by.require(Role.VIEWER, key)

        def do() -> str:
            target = EnvKey(key.service, to)
            asked = service.flags.promote(key, flag, target, by, note=form.get("note", "").strip())["request"]
            return f"/flag-requests/{asked['request']}" if asked else place_of(target, flag)

        try:
            by.require(Role.OPERATOR, EnvKey(key.service, to) if to else key)
            place = once.act(f"{by.identity} {key} {flag} to {to} {given(form)}", do)
        except (Refused, Forbidden, Invalid) as error:
            return _ask_promote(house, request, session, key, flag, to, error)
        return RedirectResponse(place, 303)

    return routes


def _version(
    house: House,
    request: Request,
    session: Session,
    key: EnvKey,
    flag: str,
    number: int,
    error: CrossfadeError | None = None,
) -> Response:
    service = house.service
    found = service.flags.version(key, number)
    serving, then = service.flags.serving(key), found["document"]
    try:
        before = service.flags.version(key, number - 1)["document"] if number > 1 else {}
    except NotFound:
        before = then  # it is not kept any more
    changed = view.documents(before, then)
    undone = view.documents(serving.document, then)
    mine = [one for one in undone if one["flag"] == flag]
    return house.page(
        request,
        session,
        "flag_version.html",
        status=status_of(error),
        key=key,
        place=place_of(key, flag),
        name=flag,
        version=found,
        newest=serving.version,
        changed=[one for one in changed if one["flag"] == flag][:CHANGES_SHOWN],
        changed_too=[one for one in changed if one["flag"] != flag][:CHANGES_SHOWN],
        undone=mine[:CHANGES_SHOWN],
        there=flag in then["flags"],
        others=sorted({one["flag"] for one in undone} - {flag, ""}),
        all_undone=undone[:CHANGES_SHOWN],
        approval=service.flags.settings(key)["approval"],
        why_not=forbidden(session.actor, key),
        error=error,
        once=secrets.token_urlsafe(24),
    )


def _changes_there(
    service: Service, session: Session, key: EnvKey, flag: str, to: EnvKey
) -> tuple[list[dict[str, str]], str]:
    """What promoting would change, or why it cannot be."""
    try:
        found = service.flags.promote(key, flag, to, session.actor, dry_run=True)["changes"]
    except (Refused, Forbidden, Invalid, NotFound) as error:
        return [], str(error)
    there, here = (service.flags.serving(one).document.get("flags", {}).get(flag) for one in (to, key))
    rows = [{**one, "flag": ""} for one in words.differences(there, view.as_killed(here, there)) if found]
    shared = [one for one in found if one["flag"] != flag]
    rows += [{"flag": "", **{part: view.shown(one[part]) for part in ("what", "before", "after")}} for one in shared]
    return rows[:CHANGES_SHOWN], ""


def _ask_promote(
    house: House,
    request: Request,
    session: Session,
    key: EnvKey,
    flag: str,
    to: str,
    error: CrossfadeError | None = None,
) -> Response:
    service = house.service
    facts = service.flags.flag(key, flag)
    known = targets(service, session.actor, key)
    why_not = "" if known else f"There is no other environment of {key.service} whose flags you may change."
    to = to or (known[0].environment if known else "")
    changes: list[dict[str, str]] = []
    if to and not why_not:
        changes, why_not = _changes_there(service, session, key, flag, key_of(key.service, to))
    approval = service.flags.settings(EnvKey(key.service, to))["approval"] if to and not why_not else None
    return house.page(
        request,
        session,
        "flag_promote.html",
        status=status_of(error),
        key=key,
        place=place_of(key, flag),
        flag=view.flag_view(str(key), flag, facts["flag"], service.now()),
        targets=known,
        to=to,
        changes=changes,
        approval=approval,
        why_not=why_not,
        error=error,
        once=secrets.token_urlsafe(24),
    )
