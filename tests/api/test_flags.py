"""Flags over HTTP: what is told of a change, what a provider fetches, who may post what, and hostile requests."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from fastapi.testclient import TestClient

from tests.api.world import KEY, World, problem

PLACE = "/api/v1/environments/shop/production"
FLAG: dict[str, Any] = {"state": "ENABLED", "variants": {"on": True, "off": False}, "defaultVariant": "off"}
SPLIT: dict[str, Any] = {
    **FLAG,
    "crossfade": {"rules": [{"name": "ramp", "serve": {"split": {"shares": {"on": 1000}, "rest": "off"}}}]},
}


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = World(tmp_path)
    made.settle()
    return made


@pytest.fixture
def client(world: World) -> Iterator[TestClient]:
    with world.client() as client:
        yield client


def save(client: TestClient, name: str = "a", flag: dict[str, Any] = FLAG, **more: Any) -> Any:
    return client.put(f"{PLACE}/flags/{name}", json={"flag": flag, **more})


@pytest.mark.parametrize("name", ["team/flag", "a/commands", "/", "a?b#c", "50 %", "<b>"])
def test_whatever_key_a_flag_has_it_can_be_read_killed_ramped_and_removed(client: TestClient, name: str) -> None:
    client.post(f"{PLACE}/flag-imports", json={"document": {"flags": {name: FLAG}}}).raise_for_status()
    place = f"{PLACE}/flags/{quote(name, safe='')}"
    assert client.get(place).json()["key"] == name
    assert client.post(f"{place}/ramps", json={"variant": "on"}).json()["flag"] == name
    client.post("/api/v1/ramps/1/commands", json={"command": "abort"}).raise_for_status()
    client.post(f"{place}/commands", json={"command": "kill"}).raise_for_status()
    assert client.post(f"{place}/why", json={"context": {}}).json()["flag"] == name
    assert client.get(place).json()["flag"]["crossfade"]["killed"]


def test_a_flag_is_made_read_changed_and_removed(client: TestClient) -> None:
    assert save(client, by="ada").json() == {"version": 1, "flags": ["a"], "request": None}
    flag = client.get(f"{PLACE}/flags/a").json()
    assert (flag["flag"], flag["version"], flag["changed"]["by"]) == (FLAG, 1, "ada")
    assert save(client, "b", SPLIT, expects=0).json()["version"] == 2
    problem(save(client, "b", FLAG, expects=0), 409, "moved")
    assert client.delete(f"{PLACE}/flags/a?expects=1").json()["version"] == 3
    problem(client.get(f"{PLACE}/flags/a"), 404, "not-found")


def test_flags_come_in_pages_and_by_tag_and_owner(client: TestClient) -> None:
    for n in range(5):
        save(client, f"f{n}", {**FLAG, "crossfade": {"tags": ["odd" if n % 2 else "even"], "owner": "ada"}})
    first = client.get(f"{PLACE}/flags?limit=3").json()
    assert ([row["key"] for row in first["items"]], first["version"]) == (["f0", "f1", "f2"], 5)
    rest = client.get(f"{PLACE}/flags?limit=3&cursor={first['next']}").json()
    assert ([row["key"] for row in rest["items"]], rest["next"]) == (["f3", "f4"], None)
    odd = client.get(f"{PLACE}/flags?tag=odd&owner=ada").json()["items"]
    assert [row["key"] for row in odd] == ["f1", "f3"]
    assert client.get(f"{PLACE}/flags?owner=bob").json()["items"] == []


def test_every_command_is_carried_out(client: TestClient) -> None:
    save(client, flag=SPLIT)
    commands: list[dict[str, Any]] = [
        {"command": "shares", "rule": "ramp", "shares": {"on": 2000}},
        {"command": "pause", "rule": "ramp"},
        {"command": "resume", "rule": "ramp"},
        {"command": "disable"},
        {"command": "enable"},
        {"command": "kill", "why": "it burns"},
        {"command": "revive"},
    ]
    for n, command in enumerate(commands, 2):
        assert client.post(f"{PLACE}/flags/a/commands", json=command).json()["version"] == n
    listed = client.get(f"{PLACE}/flag-versions?limit=2").json()
    assert [row["version"] for row in listed["items"]] == [8, 7]
    changes = client.get(f"{PLACE}/flag-changes?from=1&to=2").json()["items"]
    assert [change["after"] for change in changes] == ["20 %"]
    assert client.post(f"{PLACE}/flag-versions/1/restore", json={}).json()["version"] == 9
    assert (
        client.get(f"{PLACE}/flag-versions/9").json()["document"]
        == client.get(f"{PLACE}/flag-versions/1").json()["document"]
    )


def test_a_change_that_wants_a_word_is_answered_with_its_request(world: World, client: TestClient) -> None:
    save(client)
    assert client.put(f"{PLACE}/flag-settings", json={"approval": "operator"}).json() == {"approval": "operator"}
    asked = save(client, flag=SPLIT).json()
    assert (asked["version"], asked["request"]["state"]) == (None, "waiting")
    id = asked["request"]["request"]
    listed = client.get("/api/v1/flag-requests?waiting=true").json()["items"]
    assert [row["request"] for row in listed] == [id]
    problem(client.post(f"/api/v1/flag-requests/{id}/approve", json={}), 403, "forbidden")
    with world.client(world.token("viewer@shop/staging")) as elsewhere:
        assert elsewhere.get("/api/v1/flag-requests").json()["items"] == []
        problem(elsewhere.get(f"/api/v1/flag-requests/{id}"), 403, "forbidden")
    with world.client(world.token("operator@shop/production")) as other:
        assert other.post(f"/api/v1/flag-requests/{id}/approve", json={}).json()["version"] == 2
        problem(other.post(f"/api/v1/flag-requests/{id}/reject", json={"why": "late"}), 409, "refused")


def test_a_kill_that_is_sent_again_is_done_once(client: TestClient) -> None:
    save(client)
    headers = {"Idempotency-Key": "kill-1"}
    first = client.post(f"{PLACE}/flags/a/commands", json={"command": "kill"}, headers=headers)
    again = client.post(f"{PLACE}/flags/a/commands", json={"command": "kill"}, headers=headers)
    assert (again.json(), again.headers["idempotency-replayed"]) == (first.json(), "true")


# --- what a provider fetches


def test_a_provider_fetches_the_set_and_is_told_when_it_is_the_same(client: TestClient) -> None:
    save(client)
    first = client.get(f"{PLACE}/flag-set")
    assert first.json() == {"version": 1, "release": "r1", "document": {"flags": {"a": FLAG}}}
    tag = first.headers["etag"]
    for known in (tag, f"W/{tag}", f'"x", {tag}', "*"):
        same = client.get(f"{PLACE}/flag-set", headers={"If-None-Match": known})
        assert (same.status_code, same.content, same.headers["etag"]) == (304, b"", tag)
    save(client, flag=SPLIT)
    fresh = client.get(f"{PLACE}/flag-set", headers={"If-None-Match": tag})
    assert (fresh.status_code, fresh.json()["version"]) == (200, 2)


def test_a_replica_fetches_the_set_of_its_own_environment_only(world: World) -> None:
    with world.client(world.parts.events_token(KEY)) as replica:
        assert replica.get(f"{PLACE}/flag-set").status_code == 200
        problem(replica.get("/api/v1/environments/shop/staging/flag-set"), 403, "forbidden")
        problem(replica.get(f"{PLACE}/flags"), 401, "unauthenticated")


# --- what applications post


def test_a_replica_posts_what_was_seen_of_its_own_environment_only(world: World, client: TestClient) -> None:
    save(client)
    batch = {
        "id": "b1",
        "service": "shop",
        "environment": "production",
        "exposures": [{"flag": "a", "variant": "on", "unit": "u", "attributes": {"x": [1]}}],
        "usage": [{"flag": "a", "variant": "on", "n": 3, "release": "r1"}],
    }
    with world.client(world.parts.events_token(KEY)) as replica:
        counted = replica.post("/api/v1/flag-events", json=batch)
        assert counted.json() == {"exposures": 0, "tracks": 0, "usage": 1, "left_out": 1}
        problem(replica.post("/api/v1/flag-events", json={**batch, "environment": "staging"}), 403, "forbidden")
    with world.client(world.token("viewer")) as viewer:
        problem(viewer.post("/api/v1/flag-events", json=batch), 403, "forbidden")
    assert client.get(f"{PLACE}/flags/a").json()["usage"][0]["n"] == 3


def test_an_experiment_is_made_started_told_and_concluded(world: World, client: TestClient) -> None:
    save(client, flag=SPLIT)
    body = {
        "name": "page",
        "flag": "a",
        "control": "off",
        "treatments": ["on"],
        "metrics": [{"name": "orders", "kind": "conversion", "event": "paid"}],
    }
    place = f"{PLACE}/experiments"
    made = client.post(place, json=body)
    assert (made.status_code, made.json()["plan"]["weights"]) == (201, {"off": 9000, "on": 1000})
    problem(client.post(place, json={**body, "name": "x", "treatments": ["no"]}), 422, "invalid")
    assert client.post(f"{place}/page/commands", json={"command": "start"}).json()["state"] == "running"
    world.now += 1
    exposures = [{"flag": "a", "variant": "on" if n % 10 == 0 else "off", "unit": f"u{n}"} for n in range(50)]
    batch = {"service": "shop", "environment": "production", "exposures": exposures}
    assert client.post("/api/v1/flag-events", json=batch).json()["exposures"] == 50
    results = client.get(f"{place}/page/results").json()
    assert results["results"]["counted"]["units"] == 50
    windows = {"windows": [{"begins": 10.0, "ends": 20.0, "why": "x"}]}
    assert client.put(f"{place}/page/excluded", json=windows).json()["plan"]["excluded"][0]["why"] == "x"
    done = client.post(f"{place}/page/commands", json={"command": "conclude", "ship": "on"}).json()
    assert (done["shipped"], done["change"]["version"]) == ("on", 2)
    assert [row["name"] for row in client.get(place).json()["items"]] == ["page"]
    assert client.delete(f"{place}/page").status_code == 204


def test_a_ramp_is_begun_and_ordered(world: World, client: TestClient) -> None:
    save(client, flag=SPLIT)
    body = {"variant": "on", "steps": [{"weight": 5000, "duration": 60.0}, {"weight": 10_000, "duration": 60.0}]}
    begun = client.post(f"{PLACE}/flags/a/ramps", json=body)
    assert begun.status_code == 201, begun.text
    id = begun.json()["id"]
    problem(client.delete(f"{PLACE}/flags/a"), 409, "refused")
    assert client.post(f"/api/v1/ramps/{id}/commands", json={"command": "pause"}).json()["paused"]
    assert client.get(f"/api/v1/ramps/{id}").json()["flag"] == "a"
    assert [row["id"] for row in client.get(f"{PLACE}/ramps?open=true&flag=a").json()["items"]] == [id]
    with world.client(world.token("operator@shop/staging")) as elsewhere:
        problem(elsewhere.post(f"/api/v1/ramps/{id}/commands", json={"command": "abort"}), 403, "forbidden")


def test_what_somebody_gets_is_explained_and_previewed(client: TestClient) -> None:
    save(client)
    why = client.post(f"{PLACE}/flags/a/why", json={"context": {"targetingKey": "u"}}).json()
    assert why["evaluation"]["variant"] == "off"
    body = {"flag": {**FLAG, "defaultVariant": "on"}, "contexts": [{"targetingKey": "u"}]}
    found = client.post(f"{PLACE}/flags/a/preview", json=body).json()
    assert found["contexts"][0]["after"]["variant"] == "on"
    assert found["made_up"]["moved"] == 2000


def test_a_file_is_brought_and_exported(client: TestClient) -> None:
    body = {"document": {"flags": {"a": FLAG, "b": SPLIT}}, "dry_run": True}
    tried = client.post(f"{PLACE}/flag-imports", json=body).json()
    assert (tried["dry_run"], len(tried["changes"])) == (True, 2)
    assert client.post(f"{PLACE}/flag-imports", json={**body, "dry_run": False}).json()["version"] == 1
    assert set(client.get(f"{PLACE}/flag-export").json()["flags"]) == {"a", "b"}
    assert "crossfade" not in client.get(f"{PLACE}/flag-export?plain=true").json()["flags"]["b"]


def test_a_large_file_is_brought_and_a_larger_one_is_refused(client: TestClient) -> None:
    many = {f"flag-{n:05}": {**SPLIT, "metadata": {"x": "y" * 300}} for n in range(9000)}
    text = json.dumps({"document": {"flags": many}}).encode()
    assert len(text) > 4 * 1024**2
    brought = client.post(f"{PLACE}/flag-imports", content=text, headers={"Content-Type": "application/json"})
    assert (brought.status_code, brought.json()["version"]) == (200, 1)
    problem(client.post(f"{PLACE}/flag-imports", content=b" " * (17 * 1024**2)), 413, "too-large")


@pytest.mark.parametrize(
    "flag",
    [
        b"[]",
        b"null",
        b'{"state":"ENABLED"}',
        b'{"state":"ENABLED","variants":{"on":NaN},"defaultVariant":"on"}',
        b'{"state":"ENABLED","variants":{"\\ud800":1},"defaultVariant":"\\ud800"}',
        b'{"state":"ENABLED","variants":{"on":"\\ud800"},"defaultVariant":"on"}',
        b'{"state":"ENABLED","variants":{"on":1e999},"defaultVariant":"on"}',
        b'{"state":"ENABLED","variants":{"on":1},"defaultVariant":"on","targeting":' + b'{"!":' * 900 + b"1" + b"}" * 901,
        b'{"state":"ENABLED","variants":{"on":1},"defaultVariant":"on","targeting":' + b'{"!":' * 50_000,
        b'{"state":"ENABLED","variants":{"on":1},"defaultVariant":"on","targeting":{"fractional":[["on",-5]]}}',
        b'{"state":"ENABLED","variants":{"on":1},"defaultVariant":"on","targeting":{"or":[' + b"1," * 500_000 + b"1]}}",
    ],
)  # fmt: skip
def test_hostile_flags_are_refused_with_a_reason(client: TestClient, flag: bytes) -> None:
    for content in (b'{"flag":' + flag + b"}", b'{"flag":' + flag, b"\xff" + flag):
        answer = client.put(f"{PLACE}/flags/a", content=content, headers={"Content-Type": "application/json"})
        problem(answer, 422, "invalid")
    assert client.get(f"{PLACE}/flags").json()["version"] == 0


def test_of_very_many_faults_the_first_are_told_and_all_are_counted(client: TestClient) -> None:
    flags = {f"f{n}": {"state": "?", "variants": {f"v{v}": v for v in range(50)}} for n in range(2000)}
    answer = client.post(f"{PLACE}/flag-imports", json={"document": {"flags": flags}})
    problem(answer, 422, "invalid")
    assert "And 1995 more." in answer.json()["title"]
    assert len(answer.content) < 100_000
