"""The targeting editor: a flag as a form, and who would get what before it is saved."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from fastapi import APIRouter, Request
from fastapi.responses import RedirectResponse, Response
from starlette.concurrency import run_in_threadpool

from crossfade.domain.access import Role
from crossfade.domain.errors import CrossfadeError, Forbidden, Invalid, Moved, NotFound, Refused
from crossfade.domain.values import EnvKey
from crossfade.service import Service
from crossfade.service.accounts import Session
from crossfade.web import flag_view as view
from crossfade.web import flag_words as words
from crossfade.web.flag_conditions import OPERATORS
from crossfade.web.flag_form import FlagForm, Problem, act, data_of, field_of, form_of, placed, read_form
from crossfade.web.flag_house import BASE, FLAG, after_change, forbidden, given, key_of, place_of, seen, status_of
from crossfade.web.house import House
from crossfade.web.rollouts import Once

MOST_CONTEXTS: Final = 50
MOST_NAMES: Final = 300
ATTRIBUTES: Final = ("targetingKey", "email", "country", "plan", "version")

Data = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Tried:
    """What came of looking at a form: all problems, and who would get what when there are none."""

    data: dict[str, Any]
    problems: list[Problem] = field(default_factory=list)
    preview: view.Preview | None = None
    edits: Sequence[Mapping[str, str]] = ()


def router(house: House) -> APIRouter:
    """The routes. All want a session whose actor sees the environment; to save wants the role operator there."""
    service = house.service
    routes = APIRouter(include_in_schema=False)
    once = Once()

    @routes.get(BASE + "/new-flag")
    def fresh(request: Request, name: str, environment: str) -> Response:
        """A form for a flag that is not there yet."""
        session, key = seen(house, request, name, environment)
        return _form(house, request, session, key, FlagForm(expects=str(service.flags.serving(key).version)), None)

    @routes.get(FLAG + "/edit")
    def edit(request: Request, name: str, environment: str, flag: str) -> Response:
        """The form of a flag."""
        session, key = seen(house, request, name, environment)
        facts = service.flags.flag(key, flag)
        return _form(house, request, session, key, form_of(flag, facts["flag"], facts["version"]), facts["flag"])

    @routes.post(BASE + "/new-flag")
    async def make(request: Request, name: str, environment: str) -> Response:
        """Saves it, or does what another button of the form says."""
        session, form = await house.posted(request)
        return await run_in_threadpool(_sent, request, session, form, key_of(name, environment), None)

    @routes.post(FLAG + "/edit")
    async def save(request: Request, name: str, environment: str, flag: str) -> Response:
        """As for one that is not there yet."""
        session, form = await house.posted(request)
        return await run_in_threadpool(_sent, request, session, form, key_of(name, environment), flag)

    @routes.post(BASE + "/flag-preview")
    async def preview(request: Request, name: str, environment: str) -> Response:
        """Who would get what, of a form that is being filled in."""
        session, form = await house.posted(request)
        return await run_in_threadpool(_previewed, request, session, form, key_of(name, environment))

    def _previewed(request: Request, session: Session, fields: Mapping[str, str], key: EnvKey) -> Response:
        session.actor.require(Role.VIEWER, key)
        form = read_form(fields)
        now = _now(service, key, form.name)
        tried = _try(service, key, form, now, fields.get("contexts", ""))
        tried = replace(tried, problems=placed(tried.problems, form))
        return house.page(request, session, "flag_preview.html", **_told(tried))

    def _sent(request: Request, session: Session, fields: Mapping[str, str], key: EnvKey, flag: str | None) -> Response:
        by = session.actor
        by.require(Role.VIEWER, key)
        form, do = read_form(fields), fields.get("do", "save")
        form = replace(form, name=flag) if flag is not None else form
        now = _now(service, key, form.name)
        contexts = fields.get("contexts", "")
        if flag is not None and now is None:
            service.flags.flag(key, flag)  # says that it is not there
        if do != "save":
            return _form(house, request, session, key, act(form, do), now, contexts, fresh=flag is None)
        problems = data_of(form, now)[1]
        if flag is None and now is not None:
            problems = [*problems, Problem("name", f"{key} has a flag {form.name} already.")]
        if problems:
            return _form(house, request, session, key, form, now, contexts, problems, fresh=flag is None)
        try:
            by.require(Role.OPERATOR, key)
            mark = f"{by.identity} {key} {form.name} save {given(fields)}"
            place = once.act(mark, lambda: _save(service, key, form, now, session))
        except (Refused, Forbidden, Invalid) as error:
            return _refused(house, request, session, key, form, now, contexts, error, fresh=flag is None)
        return RedirectResponse(place, 303)

    return routes


def _save(service: Service, key: EnvKey, form: FlagForm, now: Data | None, session: Session) -> str:
    expects = int(form.expects) if form.expects.isdigit() and len(form.expects) < 12 else None
    data, _ = data_of(form, now)
    changed = service.flags.save(key, form.name, data, session.actor, expects=expects, note=form.note)
    return after_change(changed, place_of(key, form.name))


def _refused(
    house: House,
    request: Request,
    session: Session,
    key: EnvKey,
    form: FlagForm,
    now: Data | None,
    contexts: str,
    error: CrossfadeError,
    fresh: bool,
) -> Response:
    """The form as it was sent, with what was wrong; in a conflict, with what others have changed meanwhile."""
    if isinstance(error, Invalid):
        problems = [Problem(field_of(place, form), text) for place, text in view.faults_of(error)]
        return _form(house, request, session, key, form, now, contexts, problems, fresh=fresh)
    theirs: list[dict[str, str]] = []
    if isinstance(error, Moved):
        theirs = _theirs(house.service, key, form, now)
        # Saving it again is saving it upon what is there now: the one who does has seen the difference.
        form = replace(form, expects=str(house.service.flags.serving(key).version))
    return _form(house, request, session, key, form, now, contexts, error=error, theirs=theirs, fresh=fresh)


def _theirs(service: Service, key: EnvKey, form: FlagForm, now: Data | None) -> list[dict[str, str]]:
    try:
        then = service.flags.version(key, int(form.expects))["document"] if int(form.expects) else {}
    except (NotFound, ValueError):
        return []
    return words.differences(then.get("flags", {}).get(form.name), now)


def _now(service: Service, key: EnvKey, name: str) -> Data | None:
    """A flag as it is; None when there is none of this name."""
    try:
        found: Data = service.flags.flag(key, name)["flag"]
    except NotFound:
        service.flags.serving(key)  # when it is the environment that there is not, says so
        return None
    return found


def _try(service: Service, key: EnvKey, form: FlagForm, now: Data | None, contexts: str) -> Tried:
    """Look at a form: what is wrong with it, and else who would get what."""
    data, problems = data_of(form, now)
    typed, wrong = _contexts(contexts)
    problems += wrong
    if not form.name:
        problems.append(Problem("name", "A flag has a name."))
    if problems:
        return Tried(data, problems)
    try:
        # Some who asked lately are examples too, behind those that were typed in.
        lately = service.flags.serving(key).contexts.all()[: max(0, view.EXAMPLES_SHOWN - len(typed))]
        found = service.flags.preview(key, form.name, data, [*typed, *lately])
    except Invalid as error:
        return Tried(data, [Problem(field_of(place, form), text) for place, text in view.faults_of(error)])
    shade = view.tones({**data, "variants": {**(now or {}).get("variants", {}), **data["variants"]}})
    return Tried(data, [], view.preview_of(found, shade), words.differences(now, data) if now is not None else ())


def _contexts(text: str) -> tuple[list[dict[str, Any]], list[Problem]]:
    """What was typed in to try it on: one context a line."""
    found: list[dict[str, Any]] = []
    for number, line in enumerate(text.splitlines()[:MOST_CONTEXTS], 1):
        if not line.strip():
            continue
        try:
            found.append(view.context_of(line))
        except Invalid as error:
            return found, [Problem("contexts", f"Line {number}: {error.fields['allowed']}.")]
    return found, []


def _told(tried: Tried) -> dict[str, Any]:
    return {
        "problems": tried.problems,
        "preview": tried.preview,
        "edits": tried.edits,
    }


def _form(
    house: House,
    request: Request,
    session: Session,
    key: EnvKey,
    form: FlagForm,
    now: Data | None,
    contexts: str = "",
    problems: Sequence[Problem] = (),
    *,
    error: CrossfadeError | None = None,
    theirs: Sequence[Mapping[str, str]] = (),
    fresh: bool = False,
) -> Response:
    service = house.service
    fresh = fresh or now is None
    tried = _try(service, key, form, now, contexts) if form.name else Tried({})
    serving = service.flags.serving(key)
    approval = service.flags.settings(key)["approval"]
    segments = {f"segment:{name}": f"segment {name}" for name in sorted(serving.flags.segments)}
    segments |= {f"ref:{name}": f"shared condition {name}" for name in sorted(serving.flags.evaluators)}
    place = place_of(key, form.name)
    wrong = [*problems, *(one for one in tried.problems if one not in problems)]
    told = _told(replace(tried, problems=placed(wrong, form)))
    return house.page(
        request,
        session,
        "flag_edit.html",
        status=status_of(error) if error is not None else 422 if problems else 200,
        key=key,
        place=place,
        action=f"/environments/{key}/new-flag" if fresh else f"{place}/edit",
        preview_place=f"/environments/{key}/flag-preview",
        form=form,
        fresh=fresh,
        contexts=contexts,
        error=str(error) if error is not None else "",
        theirs=theirs,
        segments=segments,
        operators=OPERATORS,
        attributes=_attributes(serving),
        flags_known=[name for name in sorted(serving.flags.flags) if name != form.name][:MOST_NAMES],
        approval=approval,
        killed=bool((now or {}).get("crossfade", {}).get("killed")),
        ramped=not fresh and service.ramps.open(key, form.name) is not None,
        save_label=_label(isinstance(error, Moved), approval),
        forbidden=forbidden(session.actor, key),
        once=secrets.token_urlsafe(24),
        **told,
    )


def _label(moved: bool, approval: str | None) -> str:
    if moved:
        return "Save mine nevertheless"
    return "Ask for it" if approval else "Save"


def _attributes(serving: Any) -> list[str]:
    """Attributes that contexts had lately, for the form to offer."""
    seen = {name: None for context in serving.contexts.all()[:100] for name in context}
    return [*dict.fromkeys((*ATTRIBUTES, *seen))][:MOST_NAMES]
