"""What the pages of flags share: who asks about which environment, what was found lately, and where changes lead."""

from __future__ import annotations

import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

from fastapi import Request

from crossfade.domain.access import Actor, Role
from crossfade.domain.errors import CrossfadeError, Forbidden, Invalid, NotFound
from crossfade.domain.values import EnvKey
from crossfade.ports.flags import ChangeRequest
from crossfade.service import Service
from crossfade.service.accounts import Session
from crossfade.web import flag_view as view
from crossfade.web import flag_words as words
from crossfade.web.house import House

BASE: Final = "/environments/{name}/{environment}"
FLAG: Final = BASE + "/flags/{flag:path}"
LISTED_LATELY: Final = 0.5
"""Seconds for which all who look are shown the list that was made for one of them."""
VERSIONS_SHOWN: Final = 12
REQUESTS_COUNTED: Final = 500


@dataclass(frozen=True, slots=True)
class Row:
    """One flag of a list. ``stale`` says why nobody needs it any more; empty while somebody does.

    ``words`` are what a filter looks through.
    """

    key: EnvKey
    name: str
    state: str
    words: str
    data: Mapping[str, Any]
    ramp: Mapping[str, Any] | None
    changed: float | None
    by: str
    stale: str

    def flag(self, now: float) -> view.FlagView:
        """All that is shown of it; made for those that are shown only."""
        return view.flag_view(str(self.key), self.name, self.data, now, self.ramp)


class Sent(dict[str, str]):
    """A form's fields; one that was not sent is empty."""

    def __missing__(self, name: str) -> str:
        return ""


def key_of(name: str, environment: str) -> EnvKey:
    """Of a URL. Raises NotFound: what cannot be a name is none."""
    try:
        return EnvKey(name, environment)
    except Invalid:
        raise NotFound("There is no such environment.", hint="The start page lists those there are.") from None


def seen(house: House, request: Request, name: str, environment: str) -> tuple[Session, EnvKey]:
    """Who asks, and about which environment. Raises Unauthenticated, Forbidden, NotFound."""
    session = house.session(request)
    key = key_of(name, environment)
    session.actor.require(Role.VIEWER, key)
    return session, key


def place_of(key: EnvKey, flag: str) -> str:
    """Where the page of a flag is."""
    return f"/environments/{key}/flags/{quote(flag)}"


def forbidden(actor: Actor, key: EnvKey) -> str:
    """Why somebody may not change anything; empty when they may."""
    return "" if actor.may(Role.OPERATOR, key) else f"This wants the role operator for {key}."


def given(form: Mapping[str, str]) -> str:
    """What makes a form one that acts once. Raises Invalid."""
    found = form.get("once", "")
    if not 16 <= len(found) <= 64:
        raise Invalid("once", found, "the value that the form came with")
    return found


def status_of(error: CrossfadeError | None) -> int:
    """The status of a page that says what was wrong where it was asked for."""
    if error is None:
        return 200
    return 403 if isinstance(error, Forbidden) else 422 if isinstance(error, Invalid) else 409


def after_change(changed: Any, place: str) -> str:
    """Where a change leads: to the flag, or to the request that waits for somebody else's word."""
    return f"/flag-requests/{changed.id}" if isinstance(changed, ChangeRequest) else place


def waiting_requests(service: Service, actor: Actor, only: EnvKey | None = None) -> list[dict[str, Any]]:
    """Requests that wait, of those environments that somebody sees."""
    found = service.flags.requests(only, waiting=True, limit=REQUESTS_COUNTED)
    return [one for one in found if actor.sees(EnvKey(one["service"], one["environment"]))]


def targets(service: Service, actor: Actor, key: EnvKey) -> list[EnvKey]:
    """Environments of the same service to which somebody may promote."""
    known = service.keys()
    return [one for one in known if one.service == key.service and one != key and actor.may(Role.OPERATOR, one)]


class Lately:
    """Keeps what was found for a moment: all who look are shown the same."""

    def __init__(self, seconds: float, kept: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds, self._most, self._clock = seconds, kept, clock
        self._lock = threading.Lock()
        self._found: OrderedDict[Any, tuple[float, Any]] = OrderedDict()

    def of(self, what: Any, look: Callable[[], Any]) -> Any:
        """Found at most so many seconds ago."""
        with self._lock:
            known = self._found.get(what)
        if known is not None and self._clock() - known[0] < self._seconds:
            return known[1]
        fresh = look()
        with self._lock:
            self._found[what] = (self._clock(), fresh)
            self._found.move_to_end(what)
            while len(self._found) > self._most:
                self._found.popitem(last=False)
        return fresh


class Looks:
    """Looks at the flags of environments, and at what they were."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self._lists = Lately(LISTED_LATELY, 200)
        self._past = Lately(math.inf, 2_000)

    def all(self, key: EnvKey) -> list[Row]:
        """All flags of an environment, by name; none of one that has none."""
        found: list[Row] = self._lists.of(key, lambda: self._all(key))
        return found

    def _all(self, key: EnvKey) -> list[Row]:
        flags = self.service.flags
        document = flags.serving(key).document.get("flags", {})
        ramps = {one["flag"]: one for one in self.service.ramps.list(key, open_only=True, limit=1000)}
        rows = []
        for one in flags.view(key)["flags"]:
            if (data := document.get(one["key"])) is None:
                continue
            changed, stale = one["changed"] or {}, one["stale"] or {}
            name, ramp = one["key"], ramps.get(one["key"])
            state = view.state_of(data, ramp)
            said = f"{key} {name} {view.SAID[state]} {one['owner']} {' '.join(one['tags'])}".lower()
            at, by, why = changed.get("at"), changed.get("by", ""), stale.get("why", "")
            rows.append(Row(key, name, state, said, data, ramp, at, by, why))
        return rows

    def versions(self, key: EnvKey, name: str, before: int | None) -> tuple[list[dict[str, Any]], int | None]:
        """The versions that changed a flag, newest first, each with what it changed; and what older ones come before."""
        found: list[dict[str, Any]] = []
        at = before
        while len(found) <= VERSIONS_SHOWN:
            page = self.service.flags.versions(key, limit=200, before=at)
            found += [one for one in page if name in one["flags"]]
            if len(page) < 200:
                break
            at = page[-1]["version"]
        older = found[VERSIONS_SHOWN - 1]["version"] if len(found) > VERSIONS_SHOWN else None
        shown = []
        for i, one in enumerate(found[:VERSIONS_SHOWN]):
            earlier = found[i + 1]["version"] if i + 1 < len(found) else None
            shown.append({**one, "changes": self._changes(key, name, earlier, one["version"])})
        return shown, older

    def _changes(self, key: EnvKey, name: str, one: int | None, other: int) -> list[str]:
        """What came of a flag from one version to another, in sentences."""
        was = self.flag_at(key, name, one) if one is not None else None
        if one is None or was is None:
            return ["made"]
        return [words.sentence(change) for change in words.differences(was, self.flag_at(key, name, other))]

    def flag_at(self, key: EnvKey, name: str, number: int) -> Mapping[str, Any] | None:
        """A flag's data as a version had it; None when it had none, or is not kept any more."""
        found: Mapping[str, Any] | None = self._past.of((key, name, number), lambda: self._read(key, name, number))
        return found

    def _read(self, key: EnvKey, name: str, number: int) -> Mapping[str, Any] | None:
        try:
            found: Mapping[str, Any] | None = self.service.flags.version(key, number)["document"]["flags"].get(name)
        except NotFound:
            return None
        return found
