"""Orders as they happen, whichever process takes them: each process looks for new ones while somebody listens."""

from __future__ import annotations

import asyncio
import enum
import json
import time
from collections.abc import AsyncIterator, Callable

from bookshop.store import Order, Store

PAUSE = 0.25
HEARTBEAT = 2.0
MOST_BEHIND = 200
"""Messages that may wait for a slow listener before it is let go."""


class Beat(enum.Enum):
    """What listeners hear besides orders."""

    HEARTBEAT = enum.auto()
    GOODBYE = enum.auto()


News = Order | Beat
Listener = Callable[[News], None]


class Feed:
    """Calls its listeners with each order, a heartbeat now and then, and a goodbye in the end."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._listeners: set[Listener] = set()
        self._task: asyncio.Task[None] | None = None
        self._closed = False

    def listen(self, listener: Listener) -> None:
        if self._closed:
            listener(Beat.GOODBYE)
            return
        self._listeners.add(listener)
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._watch(self._store.last_order()))

    def leave(self, listener: Listener) -> None:
        self._listeners.discard(listener)

    def close(self) -> None:
        """Every stream ends, in good order."""
        self._closed = True
        if self._task is not None:
            self._task.cancel()
        self._tell(Beat.GOODBYE)

    def _tell(self, news: News) -> None:
        for listener in list(self._listeners):
            listener(news)

    async def _watch(self, last: int) -> None:
        beat = time.monotonic()
        while self._listeners:
            await asyncio.sleep(PAUSE)
            for order in self._store.orders_after(last):
                last = order.id
                self._tell(order)
            if time.monotonic() - beat >= HEARTBEAT:
                beat = time.monotonic()
                self._tell(Beat.HEARTBEAT)

    async def events(self, after: int | None) -> AsyncIterator[bytes]:
        """Server-sent events. ``after`` is the last order the client has seen: it misses none by being reconnected."""
        waiting: asyncio.Queue[News] = asyncio.Queue()
        last = self._store.last_order() if after is None else after
        self.listen(waiting.put_nowait)
        try:
            yield b"retry: 250\n\n"
            for order in self._store.orders_after(last):
                last = order.id
                yield event(order)
            while waiting.qsize() < MOST_BEHIND:
                news = await waiting.get()
                if news is Beat.GOODBYE:
                    yield b"event: goodbye\ndata: {}\n\n"
                    return
                if news is Beat.HEARTBEAT:
                    yield b"event: heartbeat\ndata: {}\n\n"
                elif isinstance(news, Order) and news.id > last:
                    last = news.id
                    yield event(news)
        finally:
            self.leave(waiting.put_nowait)


def event(order: Order) -> bytes:
    return f"id: {order.id}\nevent: order\ndata: {text(order)}\n\n".encode()


def text(order: Order) -> str:
    """An order as everybody may see it: what, not who."""
    books = [{"title": title, "quantity": quantity} for title, quantity in order.lines]
    return json.dumps({"order": order.id, "at": round(order.at, 3), "cents": order.cents, "books": books})
