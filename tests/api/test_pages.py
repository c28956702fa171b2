"""Lists in pages: everything once, in order, whatever the size of a page, also while rows are added."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crossfade.api import cursors
from crossfade.domain.errors import Invalid
from tests.api.world import DIGEST, KEY, World, problem

LISTS = [
    "environments",
    "rollouts",
    "environments/shop/production/releases",
    "rollouts/1/journal",
    "rollouts/1/samples",
    "accounts",
    "tokens",
    "approvals",
    "audit",
    "alerts",
    "environments/shop/production/alerts",
    "environments/shop/production/drills",
    "environments/shop/production/watches",
    "environments/shop/production/slo/@edge/history",
]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> World:
    made = World(tmp_path_factory.mktemp("world"))
    made.settle()
    return made


@settings(max_examples=12, deadline=None)
@given(st.integers(1, 9), st.lists(st.integers(0, 3), max_size=6), st.integers(0, 3))
def test_what_was_there_at_the_first_page_comes_once_and_in_order(
    shared: World, size: int, added: list[int], first: int
) -> None:
    # One ledger for all examples: it only grows, and each begins with what is there.
    world, store = shared, shared.parts.store
    for _ in range(first):
        store.add_release(KEY, DIGEST, world.config, "", 1.0)
    there = [f"r{release.number.n}" for release in store.releases(KEY)]
    found: list[str] = []
    cursor: str | None = None
    more = iter(added)
    with world.client() as client:
        while True:
            params: dict[str, Any] = {"limit": size} | ({"cursor": cursor} if cursor else {})
            page = client.get("/api/v1/environments/shop/production/releases", params=params).json()
            assert len(page["items"]) <= size
            found += [row["release"] for row in page["items"]]
            cursor = page["next"]
            if cursor is None:
                break
            for _ in range(next(more, 0)):
                store.add_release(KEY, DIGEST, world.config, "", 1.0)
    assert found == there


@given(st.lists(st.booleans(), max_size=40), st.integers(1, 7))
def test_what_one_may_not_see_makes_no_gap(visible: list[bool], limit: int) -> None:
    rows = list(range(len(visible), 0, -1))

    def fetch(size: int, before: int | None) -> list[int]:
        return [row for row in rows if before is None or row < before][:size]

    found: list[int] = []
    before = None
    while True:
        got = cursors.seen(fetch, lambda row: row, lambda row: visible[row - 1], limit, before)
        found += got[:limit]
        if len(got) <= limit:
            break
        before = got[limit - 1]
    assert found == [row for row in rows if visible[row - 1]]


@given(st.text(max_size=60))
def test_a_cursor_is_what_a_page_gave_and_nothing_else(text: str) -> None:
    with pytest.raises(Invalid, match="what the page before gave"):
        cursors.number("rollouts", text)
    assert cursors.read("accounts", cursors.write("accounts", text or "x")) == (text or "x")


@pytest.mark.parametrize("path", LISTS)
def test_every_list_says_what_a_cursor_is_and_bounds_its_pages(shared: World, path: str) -> None:
    with shared.client() as client:
        page = client.get(f"/api/v1/{path}").json()
        assert set(page) == {"items", "next"}
        for bad in ("x", "é", "", "%00", cursors.write("another", 1), "A" * 300):
            assert "cursor" in problem(client.get(f"/api/v1/{path}", params={"cursor": bad}), 422, "invalid")["title"]
        for limit in ("0", "501", "-1", "x", "9" * 400):
            problem(client.get(f"/api/v1/{path}", params={"limit": limit}), 422, "invalid")
