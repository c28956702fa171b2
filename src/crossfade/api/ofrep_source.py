"""Where evaluated flags come from: the environments of an installation, or (in `bootstrap.flag_file`) a plain file."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import time
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Final, Protocol

from starlette.concurrency import run_in_threadpool

from crossfade.api.guard import Guard, Scope
from crossfade.domain.access import Actor, Role
from crossfade.domain.errors import CrossfadeError, Forbidden, Invalid, Unauthenticated
from crossfade.domain.flags.evaluate import Evaluator
from crossfade.domain.flags.model import Evaluation, FlagSet
from crossfade.domain.flags.moments import Moments, moments
from crossfade.domain.values import EnvKey
from crossfade.service import Service
from crossfade.service.flag_serving import Serving

ENVIRONMENT: Final = "X-Crossfade-Environment"
KNOWN_FOR: Final = 1.0
"""Seconds for which a token is not looked at again. For as long after that it is good while it is being looked at."""
MOST_KNOWN: Final = 10_000
REMEMBERED_EVERY: Final = 0.05
"""Seconds between two contexts that are kept to preview changes on."""
AWAKE_FOR: Final = 2.0
"""Seconds after which what an environment serves may have to be looked up again, and is so beside the event loop."""
MOST_USED: Final = 5_000
"""Flags, variants and releases of an environment whose evaluations are counted between two writes."""
USAGE_EVERY: Final = 5.0
"""Seconds between two writes of what was evaluated."""

_RELEASE = re.compile(r"r[1-9][0-9]{0,8}")

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Served:
    """The flags of one environment as they are served now. ``tag`` is another one whenever they, or what they are

    evaluated in, are; ``modified`` is when that began. ``stale_since`` (both epoch seconds) is set while nobody knows
    whether these are still the newest. ``written`` is the place for what was made of the evaluator's answers, by identity:
    it makes each once, and hands out the same again and again.
    """

    key: str
    tag: str
    modified: float
    evaluator: Evaluator
    stale_since: float | None = None
    written: dict[int, tuple[Evaluation, bytes]] = field(default_factory=dict, compare=False, repr=False)

    @property
    def flags(self) -> FlagSet:
        return self.evaluator.flag_set

    @cached_property
    def moments(self) -> Moments:
        return moments(self.flags)

    @cached_property
    def lowered(self) -> str:
        """The same in flagd's own language, as JSON."""
        return json.dumps(self.evaluator.lowered, separators=(",", ":"))

    @cached_property
    def floats(self) -> frozenset[str]:
        """Flags of which some variants are whole numbers and some are not: all of theirs are written with a point."""
        found = set()
        for key, flag in self.flags.flags.items():
            kinds = {type(value) for value in flag.variants.values()}
            if kinds == {int, float}:
                found.add(key)
        return frozenset(found)


@dataclass(frozen=True, slots=True)
class Caller:
    """Who evaluates: ``name`` is what its rate is counted by, ``key`` the environment that it asks about."""

    name: str
    key: str


class Source(Protocol):
    """Gives flags to those who may have them."""

    async def caller(self, token: str, environment: str, address: str) -> Caller:
        """Who shows this token, and the environment that they mean: what they named (or nothing) decides with the token.

        Raises Unauthenticated, Forbidden, and Invalid when the environment cannot be told.
        """

    async def served(self, key: str) -> Served:
        """What an environment serves now. Waits for a store the first time only. Raises NotFound, StorageFailed."""

    def changes(self) -> AsyncIterator[object]:
        """An item whenever flags may have changed. Ends with the server."""

    def now(self) -> float:
        """Epoch seconds."""

    def evaluated(self, key: str, flag: str, variant: str, release: str) -> None:
        """Somebody has asked for one flag by its name; ``release`` is empty when it is not known."""

    def asked_in(self, key: str, context: Mapping[str, Any]) -> None:
        """Somebody has asked with this context."""


class Installation:
    """`Source` of all environments of an installation: each token gives those that it may see."""

    def __init__(self, service: Service, guard: Guard) -> None:
        self._service, self._guard = service, guard
        self._known: OrderedDict[str, tuple[Actor, float]] = OrderedDict()
        self._asking: dict[str, asyncio.Task[Actor]] = {}
        self._served: dict[str, Served] = {}
        self._asked: dict[str, float] = {}
        self._remembered: dict[str, float] = {}
        self._used: dict[str, Counter[tuple[str, str, str]]] = {}

    def now(self) -> float:
        """See `Source`."""
        return self._service.now()

    # --- who asks

    async def caller(self, token: str, environment: str, address: str) -> Caller:
        """See `Source`."""
        if not token:
            raise Unauthenticated("A token is wanted: `Authorization: Bearer …`, or `X-API-Key: …`.")
        actor = await self._actor(token, address)
        if actor.via == "events":
            if environment not in ("", actor.credential):
                raise Forbidden(f"This token is of {actor.credential}, and opens the flags of nothing else.")
            return Caller(f"events:{actor.credential}", actor.credential)
        if not environment:
            raise Invalid(
                ENVIRONMENT,
                "",
                "service/environment",
                hint=f"Name it in the header {ENVIRONMENT}, or as ?environment=.",
            )
        key = EnvKey.parse(environment)
        actor.require(Role.VIEWER, key)
        return Caller(f"{actor.via}:{actor.credential}", str(key))

    async def _actor(self, token: str, address: str) -> Actor:
        """Who shows a token. Looked up once a second at most, whoever waits for it; a ledger that is away sends nobody away."""
        known = self._known.get(token)
        if known is not None:
            age = time.monotonic() - known[1]
            if age < KNOWN_FOR:
                return known[0]
            task = self._look_up(token, address)
            if age < 2 * KNOWN_FOR:
                return known[0]
        else:
            task = self._look_up(token, address)
        try:
            return await asyncio.shield(task)
        except Unauthenticated:
            raise
        except CrossfadeError:
            if known is None:
                raise
            return known[0]

    def _look_up(self, token: str, address: str) -> asyncio.Task[Actor]:
        loop = asyncio.get_running_loop()
        task = self._asking.get(token)
        if task is None or task.get_loop() is not loop:
            task = self._asking[token] = loop.create_task(self._looked_up(token, address))
            task.add_done_callback(_heard)
        return task

    async def _looked_up(self, token: str, address: str) -> Actor:
        try:
            actor = await run_in_threadpool(self._guard.known, token, Scope.FLAGS, address)
        except Unauthenticated:
            self._known.pop(token, None)
            raise
        finally:
            self._asking.pop(token, None)
        self._known[token] = (actor, time.monotonic())
        self._known.move_to_end(token)
        while len(self._known) > MOST_KNOWN:
            self._known.popitem(last=False)
        return actor

    # --- what is served

    async def served(self, key: str) -> Served:
        """See `Source`."""
        now = time.monotonic()
        asked, self._asked[key] = self._asked.get(key), now
        if asked is not None and now - asked < AWAKE_FOR and key in self._served:
            return self._current(EnvKey.parse(key))
        return await run_in_threadpool(self._current, EnvKey.parse(key))

    def _current(self, key: EnvKey) -> Served:
        serving, name = self._service.flags.serving(key), str(key)
        known = self._served.get(name)
        if known is None:
            began = float(self._service.flags.version(key, serving.version)["at"]) if serving.version else 0.0
            made = Served(name, _tag(serving), began, serving.evaluator, serving.stale_since)
        elif known.evaluator is serving.evaluator:
            if known.stale_since == serving.stale_since:
                return known
            made = replace(known, stale_since=serving.stale_since)
        else:
            made = Served(name, _tag(serving), self.now(), serving.evaluator, serving.stale_since)
        self._served[name] = made
        return made

    async def changes(self) -> AsyncIterator[object]:
        """See `Source`."""
        while True:
            subscription = self._service.hub.subscribe(None, lambda _: True)
            try:
                async for change in subscription:
                    if change.kind != "sample":
                        yield change.key
            finally:
                subscription.close()
            if not subscription.dropped:
                return

    # --- what is told of it

    def evaluated(self, key: str, flag: str, variant: str, release: str) -> None:
        """See `Source`. Written down every few seconds: what a server that is killed has not written yet is not counted."""
        if not _RELEASE.fullmatch(release):
            return
        if not self._used:
            asyncio.get_running_loop().call_later(USAGE_EVERY, self._flush)
        used = self._used.setdefault(key, Counter())
        if len(used) < MOST_USED or (flag, variant, release) in used:
            used[flag, variant, release] += 1

    def _flush(self) -> None:
        used, self._used = self._used, {}
        task = asyncio.get_running_loop().run_in_executor(None, self._write, used)
        task.add_done_callback(_heard)

    def _write(self, used: Mapping[str, Counter[tuple[str, str, str]]]) -> None:
        for key, counts in used.items():
            # Each release by itself: one that there is not spoils nothing for those that there are.
            for release in {release for _, _, release in counts}:
                told = [
                    {"flag": flag, "variant": variant, "release": release, "n": n}
                    for (flag, variant, of), n in counts.items()
                    if of == release
                ]
                try:
                    self._service.flag_events.post(EnvKey.parse(key), usage=told)
                except Invalid as error:
                    _log.debug("evaluations in %s are not counted: %s", key, error)
                except CrossfadeError as error:
                    _log.warning("evaluations in %s are not counted: %s", key, error)

    def asked_in(self, key: str, context: Mapping[str, Any]) -> None:
        """See `Source`."""
        now = time.monotonic()
        if context and now - self._remembered.get(key, 0.0) >= REMEMBERED_EVERY:
            self._remembered[key] = now
            self._service.flags.serving(EnvKey.parse(key)).remember(context)


def _tag(serving: Serving) -> str:
    return f"{serving.version}-{serving.release or 'none'}"


def _heard(task: asyncio.Future[Any]) -> None:
    """Whoever asked may have gone: that a look-up failed is no news then."""
    if not task.cancelled():
        task.exception()
