"""The pact gate: the real verifier against real servers, and files that are no pacts."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from crossfade.domain.errors import Invalid, Unavailable
from crossfade.domain.pipeline.plan import Gate, GateKind, Outcome
from crossfade.gates import ReportGates
from crossfade.gates.apart import apart
from crossfade.gates.pact import answer, loopback
from crossfade.ports.pipeline import GateContext, Place
from tests.free_port import free_port

PACT: dict[str, Any] = {
    "consumer": {"name": "web"},
    "provider": {"name": "bookshop"},
    "interactions": [
        {
            "description": "a list of books",
            "providerStates": [{"name": "there are books"}],
            "request": {"method": "GET", "path": "/books"},
            "response": {
                "status": 200,
                "headers": {"Content-Type": "application/json"},
                "body": [{"title": "Emma", "price": 9.5}],
                "matchingRules": {"body": {"$": {"matchers": [{"match": "type"}]}}},
            },
        },
        {
            "description": "a book that nobody has",
            "request": {"method": "GET", "path": "/books/0"},
            "response": {"status": 404},
        },
    ],
    "metadata": {"pactSpecification": {"version": "3.0.0"}},
}


class Shop(BaseHTTPRequestHandler):
    price: Any = 12.5

    def do_GET(self) -> None:
        body = json.dumps([{"title": "Persuasion", "price": self.price}]).encode()
        self.send_response(200 if self.path == "/books" else 404)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


class Changed(Shop):
    price = "12.50"


@pytest.fixture(scope="module")
def shop() -> Iterator[str]:
    yield from served(Shop)


@pytest.fixture(scope="module")
def changed() -> Iterator[str]:
    yield from served(Changed)


def served(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", free_port()), handler)
    thread = Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def verified(url: str, pact: object = PACT, **more: Any) -> Outcome:
    text = pact if isinstance(pact, str) else json.dumps(pact)
    asked = {"path": "pacts/web.json", "pact": text, "provider": "shop", "url": url, "allow": [], "least": 1}
    return apart("pact", asked | more, seconds=30)


def test_a_provider_that_keeps_its_promises_passes_and_the_states_it_was_not_put_into_are_named(shop: str) -> None:
    outcome = verified(shop)
    assert outcome.passed
    assert outcome.sentence == "pacts/web.json: shop keeps all 2 interactions with web"
    assert outcome.details == ("states that shop was not put into: there are books",)


@pytest.mark.parametrize("version", ["2.0.0", "4.0"])
def test_other_versions_of_the_format_are_verified_too(shop: str, changed: str, version: str) -> None:
    body: Any = [{"title": "Emma", "price": 9.5}]
    answer: dict[str, Any] = {"status": 200, "body": body, "matchingRules": {"$.body": {"match": "type"}}}
    if version == "4.0":
        answer["body"] = {"content": body, "contentType": "application/json", "encoded": False}
        answer["matchingRules"] = {"body": {"$": {"combine": "AND", "matchers": [{"match": "type"}]}}}
    one = {"description": "books", "request": {"method": "GET", "path": "/books"}, "response": answer}
    kind = {"type": "Synchronous/HTTP", "pending": False, "key": "1"} if version == "4.0" else {}
    pact = {**PACT, "interactions": [{**kind, **one}], "metadata": {"pactSpecification": {"version": version}}}
    assert verified(shop, pact).passed
    assert "$[0].price: Expected '12.50' (String)" in verified(changed, pact).sentence


def test_a_broken_promise_is_told_with_its_interaction_and_the_difference(changed: str) -> None:
    outcome = verified(changed)
    assert not outcome.passed
    assert outcome.sentence == (
        "pacts/web.json: shop does not keep 1 of 2 interactions: web: a list of books: "
        "$[0].price: Expected '12.50' (String) to be the same type as 9.5 (Decimal)"
    )


def test_an_interaction_can_be_allowed_by_its_description(changed: str) -> None:
    assert verified(changed, allow=["a list of books"]).passed
    assert not verified(changed, allow=["a book that nobody has"]).passed


def test_a_provider_that_does_not_answer_fails_every_interaction() -> None:
    outcome = verified(f"http://127.0.0.1:{free_port()}")
    assert not outcome.passed
    assert "shop does not keep 2 of 2 interactions: web: a list of books: " in outcome.sentence


def test_a_pact_without_interactions_is_no_data(shop: str) -> None:
    outcome = verified(shop, {**PACT, "interactions": []})
    assert (outcome.passed, outcome.finding) == (False, "no-data")


def test_fewer_interactions_than_wanted_are_no_data(shop: str) -> None:
    assert verified(shop, least=3).finding == "no-data"


HOSTILE = {
    "nothing": "",
    "a list": "[]",
    "a million brackets": '{"consumer": ' + "[" * 1_000_000,
    "no consumer": json.dumps({**PACT, "consumer": {}}),
    "a provider that is text": json.dumps({**PACT, "provider": "shop"}),
    "messages": json.dumps({**PACT, "messages": [{"description": "x"}]}),
    "an interaction of another kind": json.dumps(
        {**PACT, "interactions": [{"description": "x", "type": "Asynchronous/Messages"}]}
    ),
    "a plugin that would be started": json.dumps({**PACT, "metadata": {"plugins": [{"name": "csv"}]}}),
    "a path that is another host": json.dumps(
        {**PACT, "interactions": [{"description": "x", "request": {"method": "GET", "path": "@elsewhere/"}}]}
    ),
    "interactions that are text": json.dumps({**PACT, "interactions": "many"}),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_no_pact_is_refused_with_its_reason(name: str) -> None:
    asked = {"path": "pacts/web.json", "pact": HOSTILE[name], "provider": "shop", "url": "", "allow": [], "least": 1}
    with pytest.raises(Invalid, match=r"pacts/web\.json"):
        answer(asked)


@pytest.mark.parametrize(
    "url", ["https://127.0.0.1:1", "http://broker.example:80", "http://127.0.0.1", "file:///etc", ""]
)
def test_only_providers_of_this_machine_are_asked(url: str) -> None:
    with pytest.raises(Invalid, match=r"http://127\.0\.0\.1:PORT"):
        loopback(url)
    assert loopback("http://localhost:81/api/") == "http://127.0.0.1:81/api"


def test_the_gate_asks_the_service_of_the_stage_that_it_names(changed: str, tmp_path: Path) -> None:
    (tmp_path / "web.json").write_text(json.dumps(PACT))
    gate = Gate(GateKind.PACT, "*.json", provider="shop")
    place = Place("shop", "127.0.0.1", 0, changed, {})
    outcome = ReportGates().read("contracts", gate, GateContext(tmp_path, places={"shop": place}))
    assert "web.json: shop does not keep 1 of 2 interactions" in outcome.sentence
    stranger = ReportGates().read("contracts", gate, GateContext(tmp_path, places={"database": place}))
    assert stranger.sentence == "contracts: provider: 'shop' is not allowed; allowed: database."


def test_without_pact_python_the_gate_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pact", None)
    asked = {"path": "web.json", "pact": json.dumps(PACT), "provider": "shop", "url": "", "allow": [], "least": 1}
    with pytest.raises(Unavailable, match=r'pip install "crossfade\[pact\]"'):
        answer(asked)
