"""Business events over the API: who may post them, what is refused, and what is counted."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from crossfade.api.app import create_app
from crossfade.domain.analysis.sample import Moments
from crossfade.domain.environment import Occupant
from crossfade.domain.release import BlueGreen, ReleaseConfig
from crossfade.domain.rollout import Kind, Plan
from crossfade.domain.traffic import Slot
from crossfade.domain.values import Digest, EnvKey, ReleaseNumber
from crossfade.fakes.access import FakeAccess
from crossfade.fakes.artifacts import FakeArtifacts
from crossfade.fakes.flags import MemoryFlags
from crossfade.fakes.history import MemoryHistories
from crossfade.fakes.prober import FakeProber
from crossfade.fakes.records import MemoryRecords
from crossfade.fakes.router import FakeRouter
from crossfade.fakes.runtime import FakeRuntime
from crossfade.fakes.secrets import FakeSecrets
from crossfade.fakes.signals import FakeSignals
from crossfade.ports import Parts
from crossfade.service import Service
from crossfade.store.sql import SqlStore

KEY, STAGING = EnvKey("shop", "production"), EnvKey("shop", "staging")
R1, R2 = ReleaseNumber(1), ReleaseNumber(2)
DIGEST = Digest("sha256:" + "a" * 64)
BEGAN, NOW = 500.0, 1000.0
TOKEN = "operator"


class Idle:
    """A driver that drives nothing: no rollout is asked for here."""

    def drive(self, rollout: int) -> None: ...

    def ring(self) -> None: ...


@pytest.fixture
def parts(tmp_path: Path) -> Iterator[Parts]:
    """r1 is live in blue, r2 is being rolled out in green; staging has nothing."""
    store = SqlStore(f"sqlite:///{tmp_path / 'ledger.db'}")
    for key in (KEY, STAGING):
        for _ in range(2 if key == KEY else 1):
            store.add_release(key, DIGEST, ReleaseConfig(("x",)), "", 1.0)
        slot = Slot.BLUE
        for number in (R1, R2) if key == KEY else ():
            state = store.begin(Plan(key, Kind.DEPLOY, number, None, slot, BlueGreen()), "ada", BEGAN)
            store.occupy(key, slot, Occupant(number, state.id, 1))
            if number == R1:
                store.commit(state.id, slot, number, 0.0, BEGAN)
                store.close(state.id, {}, BEGAN)
            slot = slot.other
    store.begin(Plan(STAGING, Kind.DEPLOY, ReleaseNumber(3), None, Slot.BLUE, BlueGreen()), "ada", BEGAN)
    yield Parts(
        store,
        FakeRouter(),
        FakeRuntime(),
        FakeSignals(),
        FakeProber(),
        FakeArtifacts(tmp_path / "artifacts"),
        FakeSecrets(),
        FakeAccess(),
        MemoryFlags(store),
        MemoryRecords(store),
        MemoryHistories(),
        b"key",
        lambda: NOW,
    )
    store.dispose()


@pytest.fixture
def http(parts: Parts) -> Iterator[httpx.Client]:
    service = Service(parts, Idle(), lambda *_: ReleaseConfig(("x",)))
    server = uvicorn.Server(uvicorn.Config(create_app(service, TOKEN, list), log_config=None, lifespan="off"))
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        with httpx.Client(base_url=f"http://127.0.0.1:{listener.getsockname()[1]}", trust_env=False) as client:
            yield client
        server.should_exit = True
        thread.join()


def event(**changes: Any) -> dict[str, Any]:
    return {"service": "shop", "environment": "production", "name": "checkout", "slot": "blue", **changes}


def post(http: httpx.Client, *events: dict[str, Any], token: str = TOKEN, **body: Any) -> Any:
    return http.post(
        "/api/v1/events", json={"events": list(events), **body}, headers={"Authorization": f"Bearer {token}"}
    )


def test_a_batch_is_counted_for_the_releases_that_its_events_name_or_whose_slot_they_name(
    http: httpx.Client, parts: Parts
) -> None:
    answer = post(
        http,
        event(value=23.5),
        event(value=2),
        event(slot="green"),
        event(slot="control"),
        event(slot="green", release="r1", name="sign_up"),
    )
    assert (answer.status_code, answer.json()) == (200, {"accepted": 5})
    assert parts.store.event_tallies(KEY) == {
        (R1, "blue", "checkout"): Moments(2.0, 25.5, 556.25),
        (R2, "green", "checkout"): Moments(1.0, 1.0, 1.0),
        (R1, "control", "checkout"): Moments(1.0, 1.0, 1.0),
        (R1, "green", "sign_up"): Moments(1.0, 1.0, 1.0),
    }


def test_a_batch_that_is_sent_again_is_counted_once_in_each_environment(http: httpx.Client, parts: Parts) -> None:
    for _ in range(2):
        assert post(http, event(), event(), id="7").json() == {"accepted": 2}
    assert post(http, event(environment="staging", release="r3", slot=""), id="7").json() == {"accepted": 1}
    assert parts.store.event_tallies(KEY)[R1, "blue", "checkout"].n == 2
    assert parts.store.event_tallies(STAGING)[ReleaseNumber(3), "", "checkout"].n == 1


def test_all_problems_of_a_batch_are_named_by_index_and_nothing_of_it_is_counted(
    http: httpx.Client, parts: Parts
) -> None:
    answer = post(http, event(), event(name="no spaces", value=1e13), event(slot=""), event(release="3"), id="x")
    assert answer.status_code == 422
    assert [p["place"] for p in answer.json()["fields"]["problems"]] == [
        "events.1.name",
        "events.1.value",
        "events.2",
        "events.3.release",
    ]
    late = post(http, event(), event(release="r9"), event(slot="green", at=BEGAN - 1), event(at=NOW + 999), id="x")
    assert [p["place"] for p in late.json()["fields"]["problems"]] == [
        "events.1.release",
        "events.2.at",
        "events.3.at",
    ]
    assert parts.store.event_tallies(KEY) == {}
    assert post(http, event(), id="x").json() == {"accepted": 1}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b'{"events": []}',
        b'{"events": [1]}',
        b'{"events": "x"}',
        b'{"events": [{}]}',
        b'{"events": [{"service":"shop","environment":"production","name":"a","slot":"blue","value":NaN}]}',
        b'{"events": [{"service":"shop","environment":"production","name":"a","slot":"blue","value":1e999}]}',
        b'{"events": [{"service":"shop","environment":"production","name":"a","slot":"blue","value":"5"}]}',
        b'{"events": [{"service":"shop","environment":"production","name":"a","slot":"blue","value":true}]}',
        b'{"events": [{"service":"shop","environment":"production","name":"a","slot":"blue","value":1' + b"0" * 400 + b"}]}",
        b'{"events": [{"service":"shop","environment":"production","name":"a","slot":"blue","at":NaN}]}',
        b'{"events": [{"service":"shop","environment":"production","name":"a\\ud800","slot":"blue"}]}',
        b'{"events": [{"service":"../../x","environment":"production","name":"a","slot":"blue"}]}',
        b'{"events": [{"service":"shop","environment":"production","name":"a","slot":"blue","color":1}]}',
        b'{"events": [' + b"[" * 100_000,
        b"\xff",
    ],
)  # fmt: skip
def test_hostile_bodies_are_refused_and_never_a_server_error(http: httpx.Client, body: bytes) -> None:
    headers = {"Authorization": "Bearer operator", "Content-Type": "application/json"}
    answer = http.post("/api/v1/events", content=body, headers=headers)
    assert 400 <= answer.status_code < 500, answer.text
    assert answer.headers["content-type"] == "application/problem+json"


def test_a_thousand_events_are_a_batch_and_one_more_is_too_many(http: httpx.Client) -> None:
    assert post(http, *[event()] * 1000).json() == {"accepted": 1000}
    assert post(http, *[event()] * 1001).status_code == 422


def test_an_unknown_environment_is_not_found(http: httpx.Client) -> None:
    answer = post(http, event(), event(environment="nowhere"))
    assert answer.status_code == 404
    assert "shop/production" in answer.json()["hint"]


def test_the_token_of_a_replica_posts_events_of_its_own_environment_and_does_nothing_else(
    http: httpx.Client, parts: Parts
) -> None:
    token = parts.events_token(KEY)
    assert post(http, event(), token=token).json() == {"accepted": 1}
    other = post(http, event(), event(environment="staging", release="r3"), token=token)
    assert other.status_code == 403
    assert "shop/production only" in other.json()["title"]
    assert parts.store.event_tallies(KEY)[R1, "blue", "checkout"].n == 1
    for path in ("environments", "rollouts", "doctor"):
        answer = http.get(f"/api/v1/{path}", headers={"Authorization": f"Bearer {token}"})
        assert answer.status_code == 401


def test_no_other_token_posts_events(http: httpx.Client, parts: Parts) -> None:
    token = parts.events_token(KEY)
    forged = [
        token.replace("production", "staging"),
        token[:-1],
        token + "0",
        token.rpartition(".")[0],
        "shop.production.",
        "..",
        "é.production." + "0" * 40,
    ]
    for wrong in forged:
        answer = http.post(
            "/api/v1/events", json={"events": []}, headers=[(b"Authorization", f"Bearer {wrong}".encode())]
        )
        assert answer.status_code == 401, wrong
    assert http.post("/api/v1/events").status_code == 401


def test_the_token_is_of_one_installation_and_one_environment(parts: Parts) -> None:
    assert parts.events_key(parts.events_token(STAGING)) == STAGING
    assert parts.events_token(KEY) != parts.events_token(STAGING)
    assert "key" not in parts.events_token(KEY)
