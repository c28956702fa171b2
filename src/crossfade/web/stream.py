"""`/live`: what happens, as server-sent events, to the pages that a browser has open.

Each event is a change as JSON under its number; ``Last-Event-ID``, or ``after`` for a page that was just rendered, goes
on from there. A stream ends with the session: an event ``bye`` says so, and the page goes to the login.
"""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import dataclass
from typing import Final

from fastapi import APIRouter, Request
from fastapi.responses import StreamingResponse
from starlette.concurrency import run_in_threadpool

from crossfade.domain.access import Actor, Role
from crossfade.domain.errors import CrossfadeError, Invalid, TooMany, Unauthenticated
from crossfade.domain.values import EnvKey
from crossfade.ports import Change
from crossfade.service.hub import Hub
from crossfade.web.house import House

HEARTBEAT: Final = 10.0
"""Seconds between signs of life; so often, at least, the session is looked at again."""
RETRY: Final = 1000
"""Milliseconds after which a browser that lost its stream tries again."""
MOST_AT_ONCE: Final = 65_536
"""Characters from which on a piece is sent, though more is there."""
MOST_STREAMS: Final = 1000
MOST_STREAMS_EACH: Final = 250
"""Of one name: pages in tabs, and those not closed yet; all who came by a link of the same name are one."""
MOST_KEYS: Final = 200

_NUMBER = re.compile(r"[0-9]{1,18}")


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a page is about: one rollout, some environments, or all that its viewer sees."""

    rollout: int | None
    keys: frozenset[EnvKey]

    def concerns(self, change: Change) -> bool:
        if change.kind == "reset":
            return True
        if self.rollout is not None:
            return change.rollout == self.rollout or (change.rollout is None and change.kind != "sample")
        # Samples come each second of every rollout: only the page of one draws them.
        return change.kind != "sample"

    def watches(self, key: EnvKey) -> bool:
        return not self.keys or key in self.keys


class Turnstile:
    """Counts the open streams, of everybody and of each."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: dict[str, int] = {}

    def refuse_if_full(self, name: str) -> None:
        """Raises TooMany."""
        with self._lock:
            if self._open.get(name, 0) >= MOST_STREAMS_EACH or sum(self._open.values()) >= MOST_STREAMS:
                raise TooMany("Too many pages are open.", 5.0, hint="Close some of them.")

    def enter(self, name: str) -> None:
        with self._lock:
            self._open[name] = self._open.get(name, 0) + 1

    def leave(self, name: str) -> None:
        with self._lock:
            left = self._open.get(name, 0) - 1
            if left > 0:
                self._open[name] = left
            else:
                self._open.pop(name, None)


class Viewer:
    """Who watches, looked up anew with each heartbeat: what was taken from them is not shown any longer."""

    def __init__(self, look: Callable[[], Actor]) -> None:
        self._look = look
        self.actor = look()

    def sees(self, key: EnvKey) -> bool:
        return self.actor.sees(key)

    def look_again(self) -> bool:
        """False when the session has ended."""
        try:
            self.actor = self._look()
        except Unauthenticated:
            return False
        except CrossfadeError:
            return True  # the ledger is out of reach for a moment: nobody is sent away for that
        return True


def router(house: House) -> APIRouter:
    """The route. Raises Unauthenticated, Forbidden, NotFound, Invalid, TooMany before the stream begins."""
    routes = APIRouter(include_in_schema=False)
    turnstile = Turnstile()

    @routes.get("/live")
    async def live(request: Request, rollout: str = "", keys: str = "", after: str = "") -> StreamingResponse:
        """What happens from now on, or since ``Last-Event-ID``."""
        viewer = await run_in_threadpool(Viewer, lambda: house.session(request).actor)
        wanted = await run_in_threadpool(_wanted, house, viewer.actor, rollout, keys)
        since = _since(request.headers.get("last-event-id", "") or after)
        name = viewer.actor.identity
        turnstile.refuse_if_full(name)
        events = _events(house.service.hub, viewer, wanted, since)

        async def counted() -> AsyncIterator[str]:
            turnstile.enter(name)  # in here: a stream that is never begun is never left
            try:
                async for event in events:
                    yield event
            finally:
                await events.aclose()
                turnstile.leave(name)

        return StreamingResponse(
            counted(), media_type="text/event-stream", headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        )

    return routes


def _wanted(house: House, actor: Actor, rollout: str, keys: str) -> Wanted:
    if rollout:
        if not _NUMBER.fullmatch(rollout):
            raise Invalid("rollout", rollout, "the number of a rollout")
        key = house.service.environment_of(int(rollout))
        actor.require(Role.VIEWER, key)
        return Wanted(int(rollout), frozenset([key]))
    named = [EnvKey.parse(text) for text in keys.split(",") if text]
    if len(named) > MOST_KEYS:
        raise Invalid("keys", f"{len(named)} environments", f"at most {MOST_KEYS}")
    for key in named:
        actor.require(Role.VIEWER, key)
    return Wanted(None, frozenset(named))


def _since(text: str) -> int | None:
    if not text:
        return None
    if not _NUMBER.fullmatch(text):
        raise Invalid("Last-Event-ID", text, "the number of an event")
    return int(text)


async def _events(hub: Hub, viewer: Viewer, wanted: Wanted, since: int | None) -> AsyncGenerator[str]:
    subscription = hub.subscribe(since, lambda key: wanted.watches(key) and viewer.sees(key))
    changes = subscription.__aiter__()
    clock = asyncio.get_running_loop().time
    looked = clock()
    coming: asyncio.Future[Change] | None = None
    try:
        # The comment fills what a proxy may want to see before it passes anything on.
        yield f": {' ' * 64}\nretry: {RETRY}\n\n"
        while True:
            coming = coming or asyncio.ensure_future(anext(changes))
            await asyncio.wait({coming}, timeout=HEARTBEAT)
            if clock() - looked >= HEARTBEAT:
                if not await run_in_threadpool(viewer.look_again):
                    yield "event: bye\ndata: {}\n\n"
                    return
                looked = clock()
                yield ": still here\n\n"
            chunk = ""
            while coming.done() and len(chunk) < MOST_AT_ONCE:
                try:
                    change = coming.result()
                except StopAsyncIteration:
                    if chunk:
                        yield chunk
                    return
                if wanted.concerns(change):
                    chunk += f"id: {change.seq}\ndata: {change.text}\n\n" if change.seq else f"data: {change.text}\n\n"
                # What came in the same look of the hub goes out in one piece: for many who watch, that halves the work.
                coming = asyncio.ensure_future(anext(changes))
                await asyncio.sleep(0)
            if chunk:
                yield chunk
    finally:
        subscription.close()
        if coming is not None:
            coming.cancel()
