"""The program of docs/how-to/tell-the-edge-which-variant.md, around an application that fails now and then."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from openfeature import api
from openfeature.provider.in_memory_provider import InMemoryFlag, InMemoryProvider

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "tell-the-edge-which-variant.md"


@pytest.fixture
def app() -> Any:
    named: dict[str, Any] = {}
    try:
        exec(PAGE.read_text().partition("```python\n")[2].partition("```")[0], named)  # noqa: S102 - our own page
        flags = {
            "new-checkout": InMemoryFlag("on", {"on": True, "off": False}),
            "other": InMemoryFlag("b", {"a": 1, "b": 2}),
        }
        api.set_provider(InMemoryProvider(flags), "told")
        client = api.get_client("told")
        app = FastAPI()

        @app.get("/two")
        async def two() -> int:
            client.get_boolean_value("new-checkout", False)
            return client.get_integer_value("other", 0)

        @app.get("/thread")
        def thread() -> bool:
            return client.get_boolean_value("new-checkout", False)

        @app.get("/fails")
        async def fails() -> bool:
            client.get_boolean_value("new-checkout", False)
            raise RuntimeError("on purpose")

        @app.get("/none")
        async def none() -> int:
            return client.get_integer_value("unknown", 7)

        yield named["TellVariants"](app)
    finally:
        api.clear_hooks()


@pytest.mark.parametrize(
    ("path", "status", "told"),
    [
        ("/two", 200, "new-checkout=on, other=b"),
        ("/thread", 200, "new-checkout=on"),
        ("/fails", 500, "new-checkout=on"),
        ("/none", 200, None),
    ],
)
def test_an_answer_tells_what_it_was_made_with_also_when_it_failed(
    app: Any, path: str, status: int, told: str | None
) -> None:
    async def ask() -> list[httpx.Response]:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://shop") as client:
            return [await client.get(path) for _ in range(2)]

    for answer in asyncio.run(ask()):
        assert (answer.status_code, answer.headers.get("x-crossfade-variant")) == (status, told)
