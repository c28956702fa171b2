"""The stream of changes: nothing is lost and nothing comes twice, across reconnects and a new server."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from crossfade.cli.client import Client
from crossfade.ports import CHANGES_KEPT
from crossfade.store.sql import SqlStore
from tests.api.world import KEY, STAGING, TOKEN, World, problem


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    store = SqlStore(f"sqlite:///{tmp_path / 'ledger.db'}")
    made = World(tmp_path, store)
    made.settle()
    yield made
    store.dispose()


def tell(world: World, *marks: int, key: str = str(KEY)) -> None:
    for mark in marks:
        world.parts.store.tell("live", key, {"mark": mark}, world.now)


def marks(client: Client, since: int | None, count: int) -> tuple[list[int], int]:
    """The marks of the next ``count`` changes that were told after ``since``, and where they end."""
    told = list(itertools.islice(client.changes(since), count))
    return [change["data"]["mark"] for _, change in told], told[-1][0]


def newest(world: World) -> int:
    return world.parts.store.changes_kept()[1]


def test_a_reader_that_comes_back_goes_on_where_it_was_also_at_another_server(world: World) -> None:
    at = newest(world)
    tell(world, 1, 2, 3)
    with world.serving() as url:
        client = Client(url, TOKEN)
        assert (seen := marks(client, at, 2))[0] == [1, 2]
        tell(world, 4)
        assert (seen := marks(client, seen[1], 2))[0] == [3, 4]
    tell(world, 5)
    world.restart()
    with world.serving() as url:
        assert marks(Client(url, TOKEN), seen[1], 1)[0] == [5]


def test_what_happens_while_one_listens_is_told(world: World) -> None:
    at = newest(world)
    with world.serving() as url:
        changes = Client(url, TOKEN).changes(at)
        for mark in range(5):
            tell(world, mark)
            assert next(changes)[1]["data"] == {"mark": mark}


def lines(url: str, token: str = TOKEN, **params: Any) -> Iterator[str]:
    headers = {"Authorization": f"Bearer {token}"}
    with httpx.stream(
        "GET", f"{url}/api/v1/changes", params=params, headers=headers, trust_env=False, timeout=10
    ) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["cache-control"] == "no-store"
        yield from answer.iter_lines()


def test_an_event_has_its_kind_and_number_and_only_what_the_asker_may_see(world: World) -> None:
    at = newest(world)
    tell(world, 1)
    tell(world, 2, key=str(STAGING))
    with world.serving() as url:
        for asked in ({}, {"environment": str(STAGING)}):
            told = lines(url, world.token("viewer@shop/staging"), since=str(at), **asked)
            event, number, data = itertools.islice((line for line in told if line[:2] in ("ev", "id", "da")), 3)
            assert (event, number) == ("event: live", f"id: {at + 2}")
            assert '"mark":2' in data


def test_what_is_no_longer_kept_is_told_by_a_reset(world: World) -> None:
    with world.serving() as url:
        told = lines(url, since=str(newest(world) + CHANGES_KEPT))
        assert "event: reset" in itertools.islice(told, 6)


def test_the_stream_ends_with_its_server(world: World) -> None:
    with world.serving() as url:
        told = lines(url)
        assert next(told) == ": welcome"
        world.service.hub.stop()
        assert list(told)[-1] == ""


@pytest.mark.parametrize(
    ("params", "headers"),
    [({"since": "x"}, {}), ({"since": "-1"}, {}), ({"environment": "x"}, {}), ({}, {"Last-Event-ID": "é"})],
)
def test_what_cannot_be_resumed_from_is_refused_before_the_stream_begins(
    world: World, params: dict[str, str], headers: dict[str, str]
) -> None:
    raw = {name: value.encode("latin-1") for name, value in headers.items()}
    problem(world.client().get("/api/v1/changes", params=params, headers=raw), 422, "invalid")


def test_an_environment_that_one_may_not_see_is_not_watched(world: World) -> None:
    client = world.client(world.token("viewer@shop/staging"))
    problem(client.get("/api/v1/changes", params={"environment": str(KEY)}), 403, "forbidden")
