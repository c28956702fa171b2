"""`GET /changes`: what happens, as server-sent events that can be resumed."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Annotated, Final

from fastapi import APIRouter, Header, Query, Request
from fastapi.responses import StreamingResponse
from starlette.concurrency import run_in_threadpool

from crossfade.api.guard import Guard, GuardedRoute, Scope, Who, needs
from crossfade.domain.access import Role
from crossfade.domain.errors import CrossfadeError, Invalid, TooMany, Unauthenticated
from crossfade.domain.values import EnvKey
from crossfade.ports import Change
from crossfade.service import Service

HEARTBEAT: Final = 15.0
"""Seconds between signs of life; so often the token is looked at again."""
MOST_STREAMS: Final = 1000

_NUMBER = re.compile(r"[0-9]{1,18}")


class Streams:
    """How many are open."""

    def __init__(self) -> None:
        self.open = 0


def router(service: Service, streams: Streams) -> APIRouter:
    """The route."""
    routes = APIRouter(route_class=GuardedRoute)

    @routes.get(
        "/changes",
        tags=["changes"],
        response_class=StreamingResponse,
        responses={200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}, "description": "Events."}},
    )
    @needs(Role.VIEWER, Scope.SOMEWHERE, streams=True)
    async def changes(
        request: Request,
        who: Who,
        since: Annotated[str | None, Query(max_length=20, description="Begin after this event.")] = None,
        environment: Annotated[
            str | None, Query(max_length=110, description="Only of this one.", examples=["bookshop/production"])
        ] = None,
        samples: Annotated[bool, Query(description="Also what is sampled of rollouts, each second.")] = False,
        last_event_id: Annotated[str | None, Header(max_length=20, description="As `since`; wins over it.")] = None,
    ) -> StreamingResponse:
        """What happens from now on, or after an event. Each has its kind as `event`, its number as `id`.

        A `reset` says that not all of what was asked for is kept: look at everything anew.
        """
        key = EnvKey.parse(environment) if environment else None
        if key is not None:
            who.require(Role.VIEWER, key)
        after = _since(last_event_id or since)
        if streams.open >= MOST_STREAMS:
            raise TooMany("Too many streams are open.", 5.0)
        guard: Guard = request.app.state.guard
        viewer = [who]

        def sees(found: EnvKey) -> bool:
            return key in (None, found) and viewer[0].sees(found)

        async def look_again() -> bool:
            try:
                viewer[0] = await run_in_threadpool(guard.actor, request, Scope.SOMEWHERE)
            except Unauthenticated:
                return False
            except CrossfadeError:
                return True  # the ledger is out of reach for a moment: nobody is sent away for that
            return True

        told = _told(service, after, sees, samples, look_again)

        async def counted() -> AsyncIterator[str]:
            streams.open += 1  # in here: a stream that is never begun is never left
            try:
                async for event in told:
                    yield event
            finally:
                streams.open -= 1
                await told.aclose()

        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return StreamingResponse(counted(), media_type="text/event-stream", headers=headers)

    return routes


def _since(text: str | None) -> int | None:
    if not text:
        return None
    if not _NUMBER.fullmatch(text):
        raise Invalid("since", text, "the number of an event")
    return int(text)


async def _told(
    service: Service,
    since: int | None,
    sees: Callable[[EnvKey], bool],
    samples: bool,
    look_again: Callable[[], Awaitable[bool]],
) -> AsyncGenerator[str]:
    subscription = service.hub.subscribe(since, sees)
    changes = subscription.__aiter__()
    clock = asyncio.get_running_loop().time
    looked = clock()
    coming: asyncio.Future[Change] | None = None
    try:
        yield ": welcome\nretry: 1000\n\n"
        while True:
            coming = coming or asyncio.ensure_future(anext(changes))
            await asyncio.wait({coming}, timeout=HEARTBEAT)
            if clock() - looked >= HEARTBEAT:
                if not await look_again():
                    return
                looked = clock()
                yield ": still here\n\n"
            if not coming.done():
                continue
            try:
                change = coming.result()
            except StopAsyncIteration:
                return
            coming = None
            if change.kind != "sample" or samples:
                yield event(change)
    finally:
        subscription.close()
        if coming is not None:
            coming.cancel()


def event(change: Change) -> str:
    """One event. What has no number cannot be resumed from, so it has no id."""
    number = f"id: {change.seq}\n" if change.seq or change.kind == "reset" else ""
    return f"event: {change.kind}\n{number}data: {change.text}\n\n"
