"""The SDKs and our own provider against a whole installation: its API, its tokens, its replicas, its server killed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from openfeature import api
from openfeature.contrib.provider.ofrep import OFREPProvider
from openfeature.evaluation_context import EvaluationContext
from openfeature.exception import ErrorCode
from openfeature.provider import ProviderStatus

from crossfade.flags import CrossfadeProvider
from tests.e2e.installation import Installation, until
from tests.sdks.serving import DOCUMENT, QUESTIONS, Question, node
from tests.sdks.test_node import asked, check
from tests.sdks.test_python import context_of

CLIENTS = 20
KILL_WITHIN = 10.0
"""Seconds; a bound on a machine that does much else. What it takes is printed."""

KEY = "shop/production"
APP, FOLLOWER = (Path(__file__).with_name(name) for name in ("app.py", "follower.py"))


@pytest.fixture(scope="module")
def shop() -> Iterator[Installation]:
    with Installation() as running:
        running.up()
        shutil.copy(APP, running.project / "app.py")
        run = {"command": [sys.executable, "app.py"], "replicas": 1, "start_timeout": "30s", "stop_timeout": "2s"}
        running.configure("1", continuity=[], run=run)
        running.deploy()
        bring(running, DOCUMENT)
        yield running


def bring(shop: Installation, document: dict[str, Any]) -> None:
    """Serve these flags, and no others."""
    shop.client().flags.bring(KEY, document, True, False, "")


@pytest.fixture(scope="module")
def replica(shop: Installation) -> dict[str, str]:
    """What a replica has in its environment."""
    told: dict[str, str] = json.loads(shop.get("/environment")[2])
    return told


@pytest.fixture
def provider(replica: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[CrossfadeProvider]:
    for name, value in replica.items():
        monkeypatch.setenv(name, value)
    made = CrossfadeProvider(stale_after=0.1)
    api.set_provider_and_wait(made, domain="replica")
    yield made
    api.clear_providers()


def test_a_replica_finds_all_it_needs_in_its_environment(provider: CrossfadeProvider) -> None:
    client = api.get_client("replica")
    assert client.get_boolean_value("always", False) is True
    assert provider.version > 0


@pytest.mark.parametrize("question", QUESTIONS, ids=str)
def test_our_provider_and_the_official_ones_come_to_the_same(
    provider: CrossfadeProvider, replica: dict[str, str], question: Question
) -> None:
    token = {"Authorization": f"Bearer {replica['CROSSFADE_FLAGS_TOKEN']}"}
    api.set_provider_and_wait(OFREPProvider(replica["CROSSFADE_FLAGS_URL"], headers_factory=lambda: token), "ofrep")
    for domain in ("replica", "ofrep"):
        ask: Any = getattr(api.get_client(domain), f"get_{question.type}_details")
        found = ask(question.flag, question.default, context_of(question))
        assert (found.value, found.reason, found.variant) == (question.value, question.reason, question.variant)
        assert found.error_code == (ErrorCode(question.error) if question.error else None)


def test_the_sdks_of_node_come_to_the_same_with_the_token_of_a_replica_or_of_a_person(
    shop: Installation, replica: dict[str, str]
) -> None:
    url, token = replica["CROSSFADE_FLAGS_URL"], replica["CROSSFADE_FLAGS_TOKEN"]
    for script in ("server.mjs", "web.mjs"):
        with node(script, url, token) as sdk:
            for question in QUESTIONS:
                check(sdk.ask(asked(question)), question)


def test_the_token_of_a_replica_opens_its_own_environment_and_no_other(
    shop: Installation, replica: dict[str, str]
) -> None:
    url, token = replica["CROSSFADE_FLAGS_URL"], replica["CROSSFADE_FLAGS_TOKEN"]
    with node("server.mjs", url, token, ENVIRONMENT="shop/elsewhere") as stranger:
        found = stranger.ask({"type": "boolean", "flag": "always", "default": False})
    assert (found["value"], found["errorCode"]) == (False, "GENERAL")


def test_an_application_in_a_replica_serves_its_flags_and_tells_the_edge(shop: Installation) -> None:
    until(lambda: json.loads(shop.get("/de")[2]) == {"checkout": "new"}, what="the replica to have the flags")
    assert json.loads(shop.get("/fr")[2]) == {"checkout": "old"}
    status, headers, _ = shop.get("/de?fail")
    assert status == 500
    assert "x-crossfade-variant" not in headers, "the edge takes it out"


def test_a_server_that_is_killed_costs_no_evaluation_and_its_age_is_told_until_it_is_back(
    shop: Installation, provider: CrossfadeProvider
) -> None:
    client = api.get_client("replica")
    version = provider.version
    pid = shop.kill("server")
    until(lambda: client.get_provider_status() is ProviderStatus.STALE, what="the provider to say that it is stale")
    found = client.get_boolean_details("always", False)
    assert (found.value, found.reason, found.error_code) == (True, "STATIC", None)
    assert provider.age is not None
    # supervisord starts it again.
    until(lambda: shop.pid_of("server") not in (0, pid), what="the server to come back")
    until(lambda: client.get_provider_status() is ProviderStatus.READY, what="the provider to follow again")
    assert provider.version == version
    assert "stale" not in client.get_boolean_details("always", False).flag_metadata


def test_a_kill_reaches_twenty_processes(shop: Installation, replica: dict[str, str], capsys: Any) -> None:
    burning = {**DOCUMENT["flags"]["always"], "crossfade": {"off": "off"}}
    bring(shop, {**DOCUMENT, "flags": {**DOCUMENT["flags"], "burning": burning}})
    environment = {**os.environ, **replica}
    command = [sys.executable, str(FOLLOWER), "burning"]
    clients = [
        subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(CLIENTS)
    ]
    try:
        for client in clients:
            assert line(client) == "on"
        began = time.time()
        shop.client().flags.order(KEY, "burning", "kill", why="it is on fire")
        told = time.time()
        seen = []
        for client in clients:
            word, _, at = line(client).partition(" ")
            assert word == "off"
            seen.append(float(at))
        with capsys.disabled():
            print(f"\n{CLIENTS} processes off {max(seen) - began:.3f} s after the request was sent, "
                  f"which was answered after {told - began:.3f} s")  # fmt: skip
        assert max(seen) - began < KILL_WITHIN
    finally:
        for client in clients:
            client.kill()
            client.communicate()
        bring(shop, DOCUMENT)


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_what_a_replica_tells_is_counted_once_and_usage_names_its_release(
    shop: Installation, provider: CrossfadeProvider
) -> None:
    client = api.get_client("replica")
    for user in range(20):
        client.get_string_value("page", "?", EvaluationContext(f"user-{user}"))
    client.track("bought", EvaluationContext("user-1"))
    provider.shutdown()
    assert provider.dropped == 0
    seen = json.dumps(shop.client().flags.flag(KEY, "page"))
    assert "r1" in seen
