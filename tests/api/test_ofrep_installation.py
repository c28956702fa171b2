"""OFREP of an installation: whose flags a token opens, what counts as used, and what clients see when the ledger is away."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from crossfade.api import ofrep_source
from crossfade.api.app import create_app
from crossfade.api.ofrep_limits import Offer, Rate
from crossfade.domain.errors import StorageFailed
from crossfade.domain.values import EnvKey
from crossfade.fakes.flags import MemoryFlags
from tests.api.world import ADA, KEY, STAGING, TOKEN, World

WELCOME = {"state": "ENABLED", "variants": {"on": True, "off": False}, "defaultVariant": "on"}
ONE, ALL = "/ofrep/v1/evaluate/flags/welcome", "/ofrep/v1/evaluate/flags"


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = World(tmp_path)
    made.settle()
    made.service.flags.save(KEY, "welcome", WELCOME, ADA)
    made.service.flags.save(STAGING, "welcome", {**WELCOME, "defaultVariant": "off"}, ADA)
    return made


def wait_for(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def asking(url: str, token: str, environment: EnvKey | None = None) -> httpx.Client:
    headers = {"Authorization": f"Bearer {token}"} | (
        {"X-Crossfade-Environment": str(environment)} if environment else {}
    )
    return httpx.Client(base_url=url, headers=headers, trust_env=False, timeout=20)


def lines_of(client: httpx.Client, url: str = "/ofrep/v1/changes") -> Iterator[str]:
    with client.stream("GET", url) as answer:
        assert answer.status_code == 200
        yield from answer.iter_lines()


# --- whose flags


def test_the_token_of_a_replica_opens_the_flags_of_its_own_environment_only(world: World) -> None:
    for key, value in ((KEY, True), (STAGING, False)):
        with world.client(world.parts.events_token(key)) as client:
            assert client.post(ONE).json()["value"] is value
            assert client.post(ONE, headers={"X-Crossfade-Environment": str(key)}).json()["value"] is value
            elsewhere = STAGING if key == KEY else KEY
            refused = client.post(ALL, headers={"X-Crossfade-Environment": str(elsewhere)})
            assert (refused.status_code, refused.json()["errorCode"]) == (403, "GENERAL")
            assert client.get(f"/ofrep/v1/changes?environment={elsewhere}").status_code == 403


def test_what_was_asked_is_counted_by_its_route_and_addresses_beside_it_are_nobodys(world: World) -> None:
    with world.client(world.parts.events_token(KEY)) as client:
        assert [client.post(one).status_code for one in (ONE, ALL, f"{ALL}/none")] == [200, 200, 404]
        assert [client.post(one).status_code for one in (f"{ALL}-of-others", "/ofrep/v1/evaluate")] == [404, 404]
        assert [client.get(one).status_code for one in (ONE, ALL)] == [405, 405]
    with world.client(TOKEN) as client:
        told = client.get("/metrics").text
    for route, status in ((f"{ALL}/{{key}}", 200), (f"{ALL}/{{key}}", 404), (ALL, 200)):
        assert f'crossfade_api_requests_total{{method="POST",route="{route}",status="{status}"}} 1.0' in told


def test_an_account_names_the_environment_and_must_be_a_viewer_there(world: World) -> None:
    with world.client(world.token("viewer@shop/staging")) as client:
        assert client.post(ONE, headers={"X-Crossfade-Environment": str(STAGING)}).json()["value"] is False
        assert client.post(ONE, params={"environment": str(STAGING)}).json()["value"] is False
        assert client.post(ONE, params={"environment": str(KEY)}).status_code == 403
        nothing = client.post(ONE)
        assert (nothing.status_code, nothing.json()["key"]) == (400, "welcome")
        assert "X-Crossfade-Environment" in nothing.json()["errorDetails"]
        assert client.post(ONE, params={"environment": "nonsense"}).status_code == 400
        # Who may not see an environment is not told whether there is one.
        assert client.post(ONE, params={"environment": "shop/nowhere"}).status_code == 403
    with world.client() as client:
        assert client.post(ONE, params={"environment": str(KEY)}).json()["value"] is True
        missing = client.post(ONE, params={"environment": "shop/nowhere"})
        assert (missing.status_code, missing.json()["errorCode"]) == (400, "GENERAL")


def test_the_token_may_come_as_a_key(world: World) -> None:
    with world.client(None) as client:
        assert client.post(ONE, headers={"X-API-Key": world.parts.events_token(KEY)}).json()["value"] is True
        assert client.post(ONE, headers={"X-API-Key": TOKEN}).status_code == 400  # known, but names no environment
        for headers in ({}, {"X-API-Key": "x"}, {"Authorization": "Basic eDp5"}, {"Authorization": "Bearer"}):
            refused = client.post(ONE, headers=headers)
            assert refused.status_code == 401
            assert refused.headers["www-authenticate"] == "Bearer"
            assert refused.json()["errorDetails"]


def test_an_environment_without_flags_has_none(world: World) -> None:
    world.service.flags.remove(STAGING, "welcome", ADA)
    with world.client(world.parts.events_token(STAGING)) as client:
        assert client.post(ALL).json()["flags"] == []
        assert client.post(ONE).status_code == 404


def test_a_token_that_is_revoked_opens_nothing_within_two_seconds(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ofrep_source, "KNOWN_FOR", 0.2)
    info, text = world.service.accounts.issue("t", [ADA.grants[0]], None, ADA)
    with world.serving() as url, asking(url, text, KEY) as client:
        assert client.post(ONE).status_code == 200
        world.service.accounts.revoke(info.id, ADA)
        wait_for(lambda: client.post(ONE).status_code == 401)


def test_a_ledger_that_is_away_sends_nobody_away_and_the_age_is_told(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ofrep_source, "KNOWN_FOR", 0.05)
    with world.serving() as url, asking(url, world.token("viewer"), KEY) as client:
        assert "x-crossfade-flags-age" not in client.post(ONE).headers

        def away(*_: Any, **__: Any) -> Any:
            raise StorageFailed("The ledger is away.")

        monkeypatch.setattr(MemoryFlags, "newest", away)
        monkeypatch.setattr(world.parts.access, "token", away)
        wait_for(lambda: "x-crossfade-flags-age" in client.post(ONE).headers)
        world.now += 30
        assert client.post(ONE).json()["value"] is True
        assert int(client.post(ONE).headers["x-crossfade-flags-age"]) >= 30
        assert len(client.post(ALL).json()["flags"]) == 1
        monkeypatch.undo()
        wait_for(lambda: "x-crossfade-flags-age" not in client.post(ONE).headers)


def test_who_was_never_known_is_told_that_the_ledger_is_away(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: Any, **__: Any) -> Any:
        raise StorageFailed("The ledger is away.")

    monkeypatch.setattr(world.parts.access, "token", away)
    with world.client(world.token("viewer")) as client:
        refused = client.post(ONE, params={"environment": str(KEY)})
        assert (refused.status_code, refused.json()["errorCode"]) == (503, "GENERAL")


# --- who asks how often


def test_who_asks_too_often_is_told_when_to_come_again_and_nobody_else_waits(world: World) -> None:
    world.app = create_app(world.service, TOKEN, list, flags=Offer(Rate(0.1, 3)))
    one, other = world.parts.events_token(KEY), world.parts.events_token(STAGING)
    with world.client(None) as client:
        for path in (ONE, ALL, ONE):
            assert client.post(path, headers={"X-API-Key": one}).status_code == 200
        for path, key in ((ONE, "welcome"), (ALL, None)):
            refused = client.post(path, headers={"X-API-Key": one})
            assert refused.status_code == 429
            assert refused.json().get("key") == key
            assert refused.json()["errorCode"] == "GENERAL"
            assert 1 <= int(refused.headers["retry-after"]) <= 10
        assert client.post(ONE, headers={"X-API-Key": other}).status_code == 200


def test_pages_of_the_origins_that_are_named_may_ask_for_flags_and_for_nothing_else(world: World) -> None:
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "x-api-key"}
    ours, theirs = "https://shop.example", "https://evil.example"
    with world.client() as client:
        assert "access-control-allow-origin" not in client.options(ALL, headers={"Origin": ours, **asked}).headers
    world.app = create_app(world.service, TOKEN, list, flags=Offer(origins=(ours,)))
    with world.client() as client:
        for path, origin, allowed in ((ALL, ours, True), (ALL, theirs, False), ("/api/v1/me", ours, False)):
            answer = client.options(path, headers={"Origin": origin, **asked})
            assert (answer.headers.get("access-control-allow-origin") == origin) == allowed, (path, origin)


# --- what is told of it


def test_a_release_that_asks_for_a_flag_by_its_name_is_seen_to_use_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ofrep_source, "USAGE_EVERY", 0.1)
    token = world.parts.events_token(KEY)
    with world.serving() as url, asking(url, token) as client:
        for _ in range(3):
            client.post(ONE, headers={"X-Crossfade-Release": "r1"})
        client.post(ONE, json={"context": {"release": "r2"}})
        client.post(ALL, headers={"X-Crossfade-Release": "r2"})  # says nothing of which of them is used
        for release in ("r99", "nonsense", "r" + "9" * 50, ""):
            client.post(ONE, headers={"X-Crossfade-Release": release})

        def used() -> dict[str, int]:
            found = world.parts.flags.usage(KEY, "welcome")
            return {str(one.release): one.n for one in found}

        wait_for(lambda: used() == {"r1": 3, "r2": 1})


def test_contexts_that_were_asked_in_are_kept_to_try_changes_on(world: World) -> None:
    with world.client(world.parts.events_token(KEY)) as client:
        client.post(ONE, json={"context": {"targetingKey": "ada"}})
    assert {"targetingKey": "ada"} in [dict(one) for one in world.service.flags.serving(KEY).contexts.all()]


def test_the_header_says_the_release_where_the_context_does_not(world: World) -> None:
    logic = {"if": [{"==": [{"var": "release"}, "r7"]}, "on", "off"]}
    world.service.flags.save(KEY, "welcome", {**WELCOME, "targeting": logic}, ADA)
    with world.client(world.parts.events_token(KEY)) as client:
        for header, context, value in (
            ("r7", {}, True),
            ("r7", {"release": "r6"}, False),
            ("", {"release": "r7"}, True),
        ):
            answer = client.post(ONE, json={"context": context}, headers={"X-Crossfade-Release": header})
            assert answer.json()["value"] is value


# --- what is heard of it


def data(lines: Iterator[str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(next(line for line in lines if line.startswith("data: "))[6:])
    return found


def test_a_change_is_told_to_who_listens_in_its_environment_once_it_is_served(world: World) -> None:
    with world.serving() as url, asking(url, world.parts.events_token(KEY)) as client:
        world.now += 1000  # long after it was changed last
        told = lines_of(client)
        assert next(told) == ": welcome"
        for variant in ("off", "on", "off"):
            world.now += 1
            world.service.flags.save(STAGING, "welcome", {**WELCOME, "metadata": {"n": variant}}, ADA)
            world.service.flags.save(KEY, "welcome", {**WELCOME, "defaultVariant": variant}, ADA)
            event = data(told)
            assert event["type"] == "refetchEvaluation"
            assert event["lastModified"] == int(world.now)
            assert client.post(ONE).json()["variant"] == variant


def test_a_kill_is_told(world: World) -> None:
    with world.serving() as url, asking(url, world.parts.events_token(KEY)) as client:
        world.now += 1000
        (stream,) = client.post(ALL).json()["eventStreams"]
        told = lines_of(httpx.Client(trust_env=False, timeout=20), stream["url"])
        assert next(told) == ": welcome"
        world.service.flags.kill(KEY, "welcome", "it broke", ADA)
        data(told)
        assert client.post(ONE).json()["variant"] == "on"  # its default: no other was given to be served then


def test_a_ticket_ends_and_another_one_is_offered_before(world: World) -> None:
    with world.client(world.parts.events_token(KEY)) as client:
        answers = []
        for _ in range(3):
            answers.append(client.post(ALL))
            world.now += 1800
        urls = [answer.json()["eventStreams"][0]["url"] for answer in answers]
        assert len(set(urls)) == 3
        assert len({answer.headers["etag"] for answer in answers}) == 3
        for url, good in zip(urls, (False, False, True), strict=True):
            if not good:
                assert client.get(url, headers={"Authorization": ""}).status_code == 401


def test_a_ticket_of_one_environment_is_none_of_another(world: World) -> None:
    with world.client(world.parts.events_token(KEY)) as client:
        url = client.post(ALL).json()["eventStreams"][0]["url"]
        moved = url.replace(str(KEY), str(STAGING))
        assert moved != url
        assert client.get(moved).status_code == 401


def test_streams_end_with_their_server(world: World) -> None:
    with world.serving() as url, asking(url, world.parts.events_token(KEY)) as client:
        told = lines_of(client)
        assert next(told) == ": welcome"
        threading.Timer(0.1, world.service.hub.stop).start()
        assert list(told)[-1] == ""
