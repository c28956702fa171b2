"""Server-sent events that say: ask again. One small event for each change, the same for all who listen."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import logging
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from crossfade.api.ofrep_source import Served, Source
from crossfade.domain.errors import CrossfadeError

HEARTBEAT: Final = 15.0
"""Seconds between signs of life; so often it is asked again whether the listener may listen."""
TICK: Final = 0.05
"""Seconds between two looks at what is served, and at the clock."""
INACTIVITY: Final = 120
"""Seconds after which a page in the background closes its stream."""
RECENT: Final = 60.0
"""Who begins to listen so soon after a change may have asked just before it, and is told at once."""
TICKET_LASTS: Final = 1800.0
"""Seconds. A ticket is good for this long at least, and for twice as long at most."""
MOST_STREAMS: Final = 5_000

_log = logging.getLogger(__name__)


class Tickets:
    """What lets one listen to the changes of one environment, and do nothing else.

    A browser's EventSource sends no headers, so the ticket is in the URL. It is the same for everybody for half an hour: an
    answer that holds it is the same too.
    """

    def __init__(self, secret: bytes) -> None:
        self._secret = hmac.digest(secret, b"listen to flags", "sha256")

    def issue(self, key: str, now: float) -> str:
        """A ticket for an environment."""
        until = int((now // TICKET_LASTS + 2) * TICKET_LASTS)
        return f"{until}.{self._proof(key, until)}.{key}"

    def read(self, ticket: str, now: float) -> tuple[str, float] | None:
        """The environment, and until when; None for a ticket that is not ours, or not any more."""
        until, _, rest = ticket.partition(".")
        proof, _, key = rest.partition(".")
        if not (until.isascii() and until.isdigit() and len(until) <= 12) or not proof.isascii() or now >= int(until):
            return None
        return (key, float(until)) if hmac.compare_digest(self._proof(key, int(until)), proof) else None

    def _proof(self, key: str, until: int) -> str:
        said = f"{until} {key}".encode(errors="replace")
        return hmac.new(self._secret, said, hashlib.sha256).hexdigest()[:40]


@dataclass(eq=False, slots=True)
class Listener:
    """One stream. Only the newest event waits for a slow reader: it says all that those before it said."""

    woken: asyncio.Event = field(default_factory=asyncio.Event)
    pending: bytes | None = None
    closed: bool = False

    def tell(self, event: bytes) -> None:
        self.pending = event
        self.woken.set()

    def close(self) -> None:
        self.closed = True
        self.woken.set()


class Channel:
    """All who listen to one environment."""

    def __init__(self, served: Served, now: float) -> None:
        self.listeners: set[Listener] = set()
        self.served = served
        self.changed = served.modified
        self.next = served.moments.after(now)

    @property
    def id(self) -> str:
        return f"{self.served.tag}-{int(self.changed)}"

    def event(self) -> bytes:
        """What is told now."""
        said = {"type": "refetchEvaluation", "etag": f'"{self.id}"', "lastModified": int(self.changed)}
        return f"id: {self.id}\ndata: {json.dumps(said, separators=(',', ':'))}\n\n".encode()

    def look(self, served: Served, now: float) -> None:
        """Tell everybody when something is other than it was: the flags, or what the time makes of them."""
        due = self.next is not None and now >= self.next
        if served.tag == self.served.tag and not due:
            self.served = served
            return
        self.served, self.changed = served, max(served.modified, self.next or 0.0) if due else served.modified
        self.next = served.moments.after(now)
        event = self.event()
        for listener in self.listeners:
            listener.tell(event)


class Channels:
    """Who listens to what. One per server; looks only while somebody listens."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._channels: dict[str, Channel] = {}
        self._task: asyncio.Task[None] | None = None
        self.open = 0

    async def enter(self, key: str, listener: Listener) -> Channel:
        """From here on it is told. Raises NotFound, StorageFailed."""
        served = await self._source.served(key)
        channel = self._channels.get(key)
        if channel is None:
            channel = self._channels[key] = Channel(served, self._source.now())
        channel.listeners.add(listener)
        self.open += 1
        if self._task is None or self._task.done() or self._task.get_loop() is not asyncio.get_running_loop():
            self._task = asyncio.create_task(self._run())
        return channel

    def leave(self, key: str, listener: Listener) -> None:
        channel = self._channels.get(key)
        if channel is None or listener not in channel.listeners:
            return
        channel.listeners.discard(listener)
        self.open -= 1
        if not channel.listeners:
            del self._channels[key]

    def close(self) -> None:
        """All streams end."""
        for channel in list(self._channels.values()):
            for listener in channel.listeners:
                listener.close()

    async def _run(self) -> None:
        changes = aiter(self._source.changes())
        coming: asyncio.Future[object] | None = None
        try:
            while self._channels:
                coming = coming or asyncio.ensure_future(anext(changes))
                await asyncio.wait({coming}, timeout=TICK)
                if coming.done():
                    coming.result()
                    coming = None
                await self._look()
        except StopAsyncIteration:
            coming = None
            self.close()
        except Exception:  # noqa: BLE001 - said in the log; who listens comes again, and somebody looks again for them
            _log.exception("changes of flags are not heard of any more")
            coming = None
            self.close()
        finally:
            if coming is not None:
                coming.cancel()

    async def _look(self) -> None:
        now = self._source.now()
        for key, channel in list(self._channels.items()):
            try:
                channel.look(await self._source.served(key), now)
            except CrossfadeError as error:
                _log.warning("the flags of %s cannot be looked at: %s", key, error)
            except Exception:  # noqa: BLE001 - said in the log; who listens to other flags must not be left without news
                _log.exception("the flags of %s were not looked at", key)


class Stream(Response):
    """The stream of one listener. ``may_listen`` is asked at every heartbeat; ``until`` is when a ticket ends."""

    def __init__(
        self,
        channels: Channels,
        source: Source,
        key: str,
        last: str,
        may_listen: Callable[[], Awaitable[bool]],
        until: float | None = None,
    ) -> None:
        super().__init__(
            media_type="text/event-stream", headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        )
        del self.headers["content-length"]
        self._channels, self._source, self._key, self._last = channels, source, key, last
        self._may_listen, self._until = may_listen, until
        # Everybody has the same ticket; that not everybody asks for the next one at once, each waits for a while of its own.
        self._renew = until - TICKET_LASTS * random.uniform(0.3, 0.9) if until is not None else None  # noqa: S311 - no secret

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        listener = Listener()
        channel = await self._channels.enter(self._key, listener)
        gone = asyncio.ensure_future(_gone(receive, listener))
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            await self._say(send, b": welcome\nretry: 1000\n\n")
            if self._missed(channel):
                await self._say(send, channel.event())
            await self._tell(channel, listener, send)
            if not gone.done():
                await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            self._channels.leave(self._key, listener)
            gone.cancel()

    def _missed(self, channel: Channel) -> bool:
        """Whether something may have changed since the listener asked for its flags."""
        if self._last:
            return self._last != channel.id
        return self._source.now() - channel.changed < RECENT

    async def _tell(self, channel: Channel, listener: Listener, send: Send) -> None:
        while not listener.closed:
            try:
                await asyncio.wait_for(listener.woken.wait(), HEARTBEAT)
            except TimeoutError:
                if not await self._stays():
                    return
                await self._say(send, channel.event() if self._wants_renewal() else b": still here\n\n")
                continue
            listener.woken.clear()
            event, listener.pending = listener.pending, None
            if event is not None and not listener.closed:
                await self._say(send, event)

    async def _stays(self) -> bool:
        if self._until is not None and self._source.now() >= self._until:
            return False
        return await self._may_listen()

    def _wants_renewal(self) -> bool:
        """Whether to make the listener ask again, once: the answer has a URL with the next ticket."""
        if self._renew is None or self._source.now() < self._renew:
            return False
        self._renew = None
        return True

    @staticmethod
    async def _say(send: Send, text: bytes) -> None:
        await send({"type": "http.response.body", "body": text, "more_body": True})


async def _gone(receive: Receive, listener: Listener) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    listener.close()
