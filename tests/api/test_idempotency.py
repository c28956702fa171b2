"""A change that is sent again under its key is answered again, and done once."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crossfade.store.sql import SqlStore
from tests.api.world import World, problem

PLACE = "/api/v1/accounts"
ADA = {"name": "ada", "grants": ["viewer"]}


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def key(name: str) -> dict[str, str]:
    return {"Idempotency-Key": name}


def test_the_same_request_is_answered_again_also_by_a_server_that_was_started_since(tmp_path: Path) -> None:
    world = World(tmp_path, SqlStore(f"sqlite:///{tmp_path / 'ledger.db'}"))
    first = world.client().post(PLACE, json=ADA, headers=key("a"))
    assert "idempotency-replayed" not in first.headers
    world.restart()
    world.parts.store.give_up_keys()
    second = world.client().post(PLACE, json=ADA, headers=key("a"))
    assert (second.status_code, second.json()) == (first.status_code, first.json()) == (201, first.json())
    assert second.headers["idempotency-replayed"] == "true"
    problem(world.client().post(PLACE, json=ADA, headers=key("b")), 409, "refused")


def test_another_request_under_the_key_is_refused_by_body_and_by_route(world: World) -> None:
    with world.client() as client:
        client.post(PLACE, json=ADA, headers=key("a"))
        problem(client.post(PLACE, json={**ADA, "name": "eve"}, headers=key("a")), 422, "invalid")
        problem(client.delete(f"{PLACE}/ada", headers=key("a")), 422, "invalid")
        assert [row["name"] for row in client.get(PLACE).json()["items"]] == ["ada"]


def test_each_asker_has_keys_of_their_own_and_a_day_later_they_are_new(world: World) -> None:
    world.client().post(PLACE, json=ADA, headers=key("a"))
    answer = world.client(world.token("admin")).post(PLACE, json={**ADA, "name": "eve"}, headers=key("a"))
    assert answer.status_code == 201
    world.now += 86_401
    assert world.client().post(PLACE, json={**ADA, "name": "joe"}, headers=key("a")).status_code == 201


def test_while_the_first_is_at_work_the_second_is_told_so(world: World) -> None:
    asked = world.client()
    keeper = world.app.state.guard.keeper
    done: list[int] = []
    original = keeper._service.accounts.add

    def slowly(*args: object) -> object:
        problem(world.client().post(PLACE, json=ADA, headers=key("a")), 409, "in-flight")
        done.append(1)
        return original(*args)

    keeper._service.accounts.add = slowly
    assert asked.post(PLACE, json=ADA, headers=key("a")).status_code == 201
    assert done == [1]


def test_a_failure_of_ours_is_not_kept_and_tells_only_an_id(world: World) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("the secret detail")

    accounts = world.service.accounts
    original, accounts.add = accounts.add, broken  # type: ignore[method-assign, assignment] # a failure that nobody foresaw
    said = problem(world.client().post(PLACE, json=ADA, headers=key("a")), 500, "internal")
    assert "detail" not in str(said)
    assert said["fields"]["id"]
    accounts.add = original  # type: ignore[method-assign] # as it was
    assert world.client().post(PLACE, json=ADA, headers=key("a")).status_code == 201


def test_what_is_shown_once_is_not_in_the_answer_that_is_given_again(world: World) -> None:
    body = {"name": "ci", "grants": ["viewer"]}
    first = world.client().post("/api/v1/tokens", json=body, headers=key("a")).json()
    again = world.client().post("/api/v1/tokens", json=body, headers=key("a")).json()
    assert first["token"].startswith("cf_")
    assert again == {**first, "token": None}
    assert len(world.service.accounts.tokens()) == 1


@pytest.mark.parametrize("bad", ["", " ", "a b", "x" * 201, "\x7f"])
def test_a_key_is_some_visible_characters(world: World, bad: str) -> None:
    problem(world.client().post(PLACE, json=ADA, headers=key(bad)), 422, "invalid")
    assert world.service.accounts.list() == ()


SERIAL = itertools.count()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> World:
    """For many examples: each has keys of its own."""
    return World(tmp_path_factory.mktemp("world"))


@settings(max_examples=10, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["x", "y"])), max_size=10))
def test_under_each_key_happens_what_was_asked_first_and_once(shared: World, asked: list[tuple[str, str]]) -> None:
    first: dict[str, str] = {}
    before, run = len(shared.service.accounts.tokens()), next(SERIAL)
    with shared.client() as client:
        for name, label in asked:
            body = {"name": label, "grants": ["viewer"]}
            said = client.post("/api/v1/tokens", json=body, headers=key(f"{run}-{name}"))
            assert said.status_code == (201 if first.setdefault(name, label) == label else 422)
    made = shared.service.accounts.tokens()
    assert len(made) == before + len(first)
