"""Changes of flags that wait for a second person's word, and who has to give it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

from crossfade.domain.access import Actor, Role
from crossfade.domain.errors import CrossfadeError, Forbidden, Moved, NotFound, Refused
from crossfade.domain.values import EnvKey
from crossfade.ports.flags import ChangeRequest, FlagSettings, FlagVersion
from crossfade.service.flag_changes import TRIES, FlagChanges
from crossfade.service.flag_edits import alive, apart, flags_of, same

LONGEST_WHY: Final = 500


class FlagRequests(FlagChanges):
    """Requests, and the setting that makes changes wait."""

    def settings(self, key: EnvKey) -> dict[str, Any]:
        """``approval``: the role of the second person that changes wait for, None: they don't. Raises NotFound."""
        self._servings.get(key)
        role = self._parts.flags.settings(key).approval
        return {"approval": role.value if role is not None else None}

    def set_settings(self, key: EnvKey, approval: Role | None, by: Actor) -> dict[str, Any]:
        """Say whose word changes wait for. Raises Forbidden, NotFound."""
        by.require(Role.ADMIN, key)
        before = self.settings(key)
        self._parts.flags.set_settings(key, FlagSettings(approval))
        after = self.settings(key)
        if after != before:
            self._audit.note(by, "flag.settings", str(key), before, after)
        return after

    def requests(
        self,
        key: EnvKey | None = None,
        *,
        waiting: bool = False,
        limit: int = 50,
        before: int | None = None,
    ) -> list[dict[str, Any]]:
        """Requests as data, newest first."""
        found = self._parts.flags.requests(key, waiting=waiting, limit=limit, before=before)
        return [asked(one) for one in found]

    def request(self, id: int) -> dict[str, Any]:
        """One, with what it changes. Raises NotFound."""
        return asked(self._request(id))

    def request_key(self, id: int) -> EnvKey:
        """The environment of a request. Raises NotFound."""
        return self._request(id).key

    def _request(self, id: int) -> ChangeRequest:
        request = self._parts.flags.request(id)
        if request is None:
            raise NotFound(f"There is no change request {id}.", hint="`crossfade flags requests` lists them.")
        return request

    def may_approve(self, id: int, by: Actor) -> str:
        """Empty when the actor may approve it, else why not. Raises NotFound."""
        try:
            _refuse_own(self._request(id), by)
        except Forbidden as error:
            return error.what
        return ""

    def approve(self, id: int, by: Actor) -> FlagVersion:
        """Make the change. What others have changed since it was asked for stays, unless it is the same.

        Raises NotFound, Forbidden, Refused when it does not wait any more, Moved when the same flag has changed since,
        InvalidBatch when it does not fit to what is there now.
        """
        request = self._request(id)
        _refuse_own(request, by)
        if request.state != "waiting":
            raise _decided(request)
        key, parts = request.key, self._parts
        for _ in range(TRIES):
            base = self._servings.look(key)
            here = apart(base.document)
            others = [place for place, was in request.before.items() if not same(alive(here.get(place)), alive(was))]
            if others:
                raise Moved(
                    f"Request {id} cannot be put in place: {', '.join(sorted(others)[:5])} has changed since.",
                    hint="Reject it, and let the change be made anew.",
                    places=sorted(others),
                )
            after = {place: self._still(place, data, here) for place, data in request.after.items()}
            document, flags, after = self._checked(base, here, after)
            now = parts.now()
            decided = replace(request, state="approved", decided_by=by.name, decided=now)
            ready = self._servings.following(base, document, flags)
            try:
                version = parts.flags.write(
                    key,
                    document,
                    flags_of(after),
                    f"{request.by}, approved by {by.name}"[:200],
                    now,
                    expects=base.version,
                    note=request.note,
                    decided=decided,
                )
            except Moved:
                continue
            self._servings.serve(ready)
            said = {"request": id, "change": request.what, "version": version.number, "asked_by": request.by}
            self._note(key, "flag.approve", _about(request), by, here, after, said)
            return version
        raise Refused(f"The flags of {key} change too often just now.", hint="Try again in a moment.")

    def reject(self, id: int, why: str, by: Actor) -> dict[str, Any]:
        """Say no; also who asked may, to take it back. Raises NotFound, Forbidden, Refused."""
        request = self._request(id)
        if by.identity != request.identity:
            by.require(request.role, request.key)
        decided = replace(
            request, state="rejected", decided_by=by.name, decided=self._parts.now(), why=why[:LONGEST_WHY]
        )
        if not self._parts.flags.decide(decided):
            raise _decided(self._request(id))
        name = _about(request)
        place = f"{request.key}/{name}" if name else str(request.key)
        self._audit.note(by, "flag.reject", place, {"request": id}, {"request": id, "why": decided.why})
        return asked(self._request(id))


def asked(request: ChangeRequest) -> dict[str, Any]:
    """A request as the API gives it; ``before`` and ``after`` by place."""
    return {
        "request": request.id,
        "service": request.key.service,
        "environment": request.key.environment,
        "what": request.what,
        "flags": list(flags_of(request.after)),
        "before": dict(request.before),
        "after": dict(request.after),
        "version": request.version,
        "role": request.role.value,
        "by": request.by,
        "asked": request.asked,
        "note": request.note,
        "state": request.state,
        "decided_by": request.decided_by,
        "decided": request.decided,
        "why": request.why,
        "applied": request.applied,
    }


def _about(request: ChangeRequest) -> str:
    """The flag that a request is about, when it is one."""
    flags = flags_of(request.after)
    return flags[0] if len(flags) == 1 else ""


def _refuse_own(request: ChangeRequest, by: Actor) -> None:
    """Raises Forbidden for who asked, and for who has not the role."""
    by.require(request.role, request.key)
    if by.identity == request.identity or by.name == request.by:
        raise Forbidden(
            f"Request {request.id} was made by {request.by}: somebody else has to approve it.",
            hint="Anybody else with the role can: `crossfade accounts` lists who has which.",
        )


def _decided(request: ChangeRequest) -> CrossfadeError:
    who = f" by {request.decided_by}" if request.decided_by else ""
    return Refused(f"Request {request.id} does not wait any more: it was {request.state}{who}.")
