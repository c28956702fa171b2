"""How the parts are put together, but one request in ten takes half a second more. Health is as quick as ever."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from pathlib import Path

from bookshop.server import Answer, Request
from bookshop.shop import Shop
from bookshop.store import Store


class SlowShop(Shop):
    _asked = 0

    def answer(self, request: Request) -> Answer | Awaitable[Answer]:
        answer = super().answer(request)
        self._asked += request.path != "/health"
        if request.path == "/health" or self._asked % 10 or isinstance(answer, Awaitable):
            return answer
        return self._later(answer)

    async def _later(self, answer: Answer) -> Answer:
        await asyncio.sleep(0.5)
        return answer


def make_store(database: Path) -> Store:
    return Store(database)


def make_shop(store: Store) -> Shop:
    return SlowShop(store)


def listening_port(port: int) -> int:
    return port
