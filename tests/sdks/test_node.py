"""The Node SDK of OpenFeature, its web SDK, and the OFREP providers of both, as they come from their registry."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.sdks.serving import DOCUMENT, PATIENCE, QUESTIONS, Node, Question, Serving, node, serving


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    with serving(tmp_path_factory.mktemp("flags")) as running:
        yield running


@pytest.fixture(scope="module")
def server_sdk(served: Serving) -> Iterator[Node]:
    with node("server.mjs", served.url) as running:
        yield running


@pytest.fixture(scope="module")
def web_sdk(served: Serving) -> Iterator[Node]:
    with node("web.mjs", served.url) as running:
        yield running


def asked(question: Question) -> dict[str, Any]:
    type = "number" if question.type in ("integer", "float") else question.type
    return {"type": type, "flag": question.flag, "default": question.default, "context": question.context}


def check(found: dict[str, Any], question: Question) -> None:
    assert found["value"] == question.value
    assert found["reason"] == question.reason
    assert found.get("errorCode") == question.error
    assert found.get("variant") == question.variant
    assert found["flagMetadata"].items() >= question.metadata.items()


@pytest.mark.parametrize("question", QUESTIONS, ids=str)
def test_every_type_and_every_error_arrives_in_the_server_sdk(server_sdk: Node, question: Question) -> None:
    check(server_sdk.ask(asked(question)), question)


@pytest.mark.parametrize("question", QUESTIONS, ids=str)
def test_every_type_and_every_error_arrives_in_the_web_sdk(web_sdk: Node, question: Question) -> None:
    check(web_sdk.ask(asked(question)), question)


@pytest.mark.parametrize("flag", ["off", "yours"])
@pytest.mark.parametrize("default", [True, False])
def test_a_flag_without_a_value_leaves_the_codes_own_default(
    server_sdk: Node, web_sdk: Node, flag: str, default: bool
) -> None:
    for sdk in (server_sdk, web_sdk):
        assert sdk.ask({"type": "boolean", "flag": flag, "default": default})["value"] is default


def test_the_same_user_gets_the_same_in_both_sdks(server_sdk: Node, web_sdk: Node) -> None:
    found = set()
    for user in map(str, range(10)):
        question = {"type": "string", "flag": "page", "default": "?", "context": {"targetingKey": user}}
        one, other = server_sdk.ask(question), web_sdk.ask(question)
        assert one["value"] == other["value"]
        found.add(one["value"])
    assert found == {"a", "b"}


def test_a_wrong_token_leaves_the_codes_own_default_and_says_so(served: Serving) -> None:
    with node("server.mjs", served.url, token="wrong") as stranger:
        found = stranger.ask({"type": "boolean", "flag": "always", "default": False})
    assert (found["value"], found["reason"], found["errorCode"]) == (False, "ERROR", "GENERAL")


def test_the_web_sdk_is_told_of_a_change_by_the_stream_and_asks_by_tag(tmp_path: Path) -> None:
    with serving(tmp_path) as served, node("web.mjs", served.url) as web:
        assert web.ask({"type": "boolean", "flag": "always", "default": False})["value"] is True
        served.say(turned_off("always"))
        told = web.events.get(timeout=PATIENCE)
        while "always" not in told.get("flags", ()):
            told = web.events.get(timeout=PATIENCE)
        assert web.ask({"type": "boolean", "flag": "always", "default": True})["value"] is False
        requests = web.ask({"type": "requests"})
    assert requests[0] == [200, None]
    assert any(tag for _, tag in requests[1:])


def test_the_web_sdk_polls_by_tag_and_is_answered_that_nothing_has_changed(tmp_path: Path) -> None:
    with serving(tmp_path) as served, node("web.mjs", served.url, POLL="100") as web:
        requests: list[Any] = []
        while not any(status == 304 for status, _ in requests):
            requests = web.ask({"type": "requests"})
        assert all(tag for status, tag in requests if status == 304)
        served.say(turned_off("always"))
        while web.ask({"type": "boolean", "flag": "always", "default": True})["value"]:
            pass


def turned_off(flag: str) -> dict[str, Any]:
    return {**DOCUMENT, "flags": {**DOCUMENT["flags"], flag: {**DOCUMENT["flags"][flag], "defaultVariant": "off"}}}
