"""What is told of flags: exposures, tracking events and counts, in batches that arrive once or are counted as dropped."""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openfeature import api
from openfeature.client import OpenFeatureClient
from openfeature.evaluation_context import EvaluationContext
from openfeature.track import TrackingEventDetails

from crossfade.domain.values import EnvKey
from crossfade.flags import CrossfadeProvider, outbox
from crossfade.flags.outbox import Outbox
from crossfade.flags.server import Server, Unreachable
from tests.flags.flag_server import FlagServer, eventually, flag_server

SPLIT = {"if": [True, {"fractional": [["a", 50], ["b", 50]]}]}
PAGE = {"state": "ENABLED", "variants": {"a": "a", "b": "b"}, "defaultVariant": "a", "targeting": SPLIT}
BY_ACCOUNT = {
    "state": "ENABLED",
    "variants": {"a": "a", "b": "b"},
    "defaultVariant": "a",
    "crossfade": {
        "rules": [{"name": "half", "serve": {"split": {"by": "account", "shares": {"b": [[0, 5000]]}, "rest": "a"}}}]
    },
}
STATIC = {"state": "ENABLED", "variants": {"on": True, "off": False}, "defaultVariant": "on"}
DOCUMENT = {"flags": {"page": PAGE, "by-account": BY_ACCOUNT, "always": STATIC}}


@pytest.fixture
def server() -> Iterator[FlagServer]:
    with flag_server() as running:
        running.say(DOCUMENT)
        yield running


@pytest.fixture
def provider(server: FlagServer) -> Iterator[CrossfadeProvider]:
    made = CrossfadeProvider(
        server.url,
        "t",
        service="shop",
        environment="production",
        release="r12",
        slot="green",
        attributes=("plan", "country"),
    )
    api.set_provider_and_wait(made, domain="outbox")
    yield made
    api.clear_providers()


@pytest.fixture
def client(provider: CrossfadeProvider) -> OpenFeatureClient:
    return api.get_client("outbox")


def told(server: FlagServer, kind: str) -> list[dict[str, Any]]:
    return [one for batch in server.batches for one in batch[kind]]


def ada(**attributes: Any) -> EvaluationContext:
    return EvaluationContext("ada", attributes)


def test_an_exposure_is_told_once_with_what_it_needs(client: OpenFeatureClient, server: FlagServer) -> None:
    variant = client.get_string_details("page", "?", ada(plan="pro", age=30)).variant
    for _ in range(4):
        client.get_string_details("page", "?", ada(plan="pro", age=30))
    client.track("bought", ada(), TrackingEventDetails(12.5))
    eventually(lambda: told(server, "tracks"))
    (exposure,) = told(server, "exposures")
    assert exposure.pop("at") > 1_700_000_000
    assert exposure == {
        "flag": "page",
        "variant": variant,
        "unit": "ada",
        "release": "r12",
        "slot": "green",
        "attributes": {"plan": "pro"},
    }
    batch = server.batches[0]
    assert (batch["service"], batch["environment"]) == ("shop", "production")


def test_what_everybody_gets_is_no_exposure_and_nobody_is_no_unit(
    client: OpenFeatureClient, server: FlagServer
) -> None:
    client.get_boolean_value("always", False, ada())
    client.get_string_value("page", "?")
    client.track("bought")
    client.track("seen", ada())
    eventually(lambda: told(server, "tracks"))
    assert [one["name"] for one in told(server, "tracks")] == ["seen"]
    assert "value" not in told(server, "tracks")[0]
    assert told(server, "exposures") == []


def test_a_split_by_another_attribute_exposes_that_unit(client: OpenFeatureClient, server: FlagServer) -> None:
    client.get_string_value("by-account", "?", ada(account=17))
    client.track("seen", ada())
    eventually(lambda: told(server, "tracks"))
    assert [one["unit"] for one in told(server, "exposures")] == ["17"]


def test_the_end_tells_what_is_left_and_every_evaluation_is_counted(
    provider: CrossfadeProvider, client: OpenFeatureClient, server: FlagServer
) -> None:
    def ask() -> None:
        for _ in range(500):
            client.get_boolean_value("always", False)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    provider.shutdown()
    counted: Counter[tuple[str, str, str]] = Counter()
    for one in told(server, "usage"):
        counted[one["flag"], one["variant"], one["release"]] += one["n"]
    assert counted == {("always", "on", "r12"): 2_000}


def test_a_batch_is_sent_again_as_it_was_until_the_server_has_it(
    client: OpenFeatureClient, server: FlagServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "PAUSE", 0.05)
    monkeypatch.setattr(outbox, "LONGEST_PAUSE", 0.1)
    server.events_status = 503
    client.track("bought", ada())
    eventually(lambda: len(server.raw_batches) >= 3)
    client.track("later", ada())
    server.events_status = 202
    eventually(lambda: len(told(server, "tracks")) == 2)
    assert [one["name"] for one in told(server, "tracks")] == ["bought", "later"]
    assert len(set(server.raw_batches)) == len(server.batches)
    assert len({batch["id"] for batch in server.batches}) == len(server.batches)


def test_what_the_server_will_never_have_is_dropped_and_counted_and_holds_up_nothing(
    provider: CrossfadeProvider, client: OpenFeatureClient, server: FlagServer
) -> None:
    server.events_status = 400
    client.track("bought", ada())
    eventually(lambda: provider.dropped == 1)
    server.events_status = 202
    client.track("later", ada())
    eventually(lambda: [one["name"] for one in told(server, "tracks")] == ["later"])


def test_a_server_that_is_away_costs_memory_up_to_a_bound_and_then_is_counted(
    server: FlagServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "MOST_KEPT", 10)
    monkeypatch.setattr(outbox, "MOST_SENT", 4)
    server.stop()
    box = Outbox(Server(server.url, "t", EnvKey("shop", "production")), release="", slot="")
    for turn in range(15):
        box.track("bought", str(turn), None)
    with pytest.raises(Unreachable):
        box.send()
    assert (box.waiting, box.dropped) == (6, 5)
    server.start()
    while box.send():
        pass
    assert [one["unit"] for one in told(server, "tracks")] == [str(turn) for turn in range(10)]


@settings(max_examples=20)
@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from("xy"), st.text(min_size=1, max_size=3)), max_size=40))
def test_each_unit_is_told_once_for_each_flag_and_variant_in_the_order_they_came(
    shown: list[tuple[str, str, str]],
) -> None:
    box = Outbox(Server("http://127.0.0.1:1", "", EnvKey("shop", "production")), release="", slot="")
    for flag, variant, unit in shown:
        box.expose(flag, variant, unit, None)
    kept = [(one["flag"], one["variant"], one["unit"]) for _, one in box._waiting]
    assert kept == list(dict.fromkeys(shown))


def test_exposures_are_remembered_up_to_a_bound_and_told_again_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "MOST_SEEN", 3)
    box = Outbox(Server("http://127.0.0.1:1", "", EnvKey("shop", "production")), release="", slot="")
    for unit in ["a", "b", "c", "a", "d", "e", "f", "b", "g", "a"]:
        box.expose("page", "a", unit, None)
    assert [one["unit"] for _, one in box._waiting] == ["a", "b", "c", "d", "e", "f", "g", "a"]


def test_what_the_parent_has_to_tell_is_told_once_though_it_forks(
    provider: CrossfadeProvider, client: OpenFeatureClient, server: FlagServer
) -> None:
    client.get_string_value("page", "?", ada())
    client.track("parent", ada())
    child = os.fork()
    if child == 0:  # pragma: no cover - another process
        try:
            client.track("child", ada())
            provider.shutdown()
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    eventually(lambda: len(told(server, "tracks")) == 2)
    provider.shutdown()
    assert sorted(one["name"] for one in told(server, "tracks")) == ["child", "parent"]
    assert len(told(server, "exposures")) == 1


def test_a_batch_is_no_larger_than_the_server_takes(server: FlagServer) -> None:
    box = Outbox(Server(server.url, "t", EnvKey("shop", "production")), release="", slot="")
    for turn in range(600):
        box.track("bought", f"{turn:04000}", None)
    while box.send():
        pass
    assert len(told(server, "tracks")) == 600
    assert max(map(len, server.raw_batches)) < 2**20 / 2


def test_of_a_context_only_plain_values_are_told(server: FlagServer) -> None:
    box = Outbox(Server(server.url, "t", EnvKey("shop", "production")), release="", slot="")
    given = {"plan": "pro", "seats": 3, "paid": True, "cart": [1], "bio": "x" * 5_000, "score": float("nan")}
    box.expose("page", "a", "ada", given)
    box.send()
    assert told(server, "exposures")[0]["attributes"] == {"plan": "pro", "seats": 3, "paid": True}


@pytest.mark.parametrize(
    ("name", "unit", "value"),
    [("bought", "ada", float("nan")), ("bought", "ada", float("inf")), ("", "ada", 1.0), ("x" * 101, "ada", 1.0),
     ("new\nline", "ada", 1.0), ("bought", "\ud800", 1.0), ("bought", "x" * 4_001, 1.0)],
)  # fmt: skip
def test_what_the_server_would_refuse_a_whole_batch_for_is_dropped_at_once(name: str, unit: str, value: float) -> None:
    box = Outbox(Server("http://127.0.0.1:1", "", EnvKey("shop", "production")), release="", slot="")
    box.track(name, unit, value)
    assert (box.waiting, box.dropped) == (0, 1)


def test_who_tells_nothing_sends_nothing(server: FlagServer) -> None:
    silent = CrossfadeProvider(server.url, "t", service="shop", environment="production", tell=False)
    api.set_provider_and_wait(silent, domain="silent")
    client = api.get_client("silent")
    client.get_string_value("page", "?", ada())
    client.track("bought", ada())
    api.clear_providers()
    assert server.raw_batches == []
    assert silent.dropped == 0
