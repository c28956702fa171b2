"""The Python SDK of OpenFeature and its OFREP provider, as they come from their registry, ask our server."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from openfeature import api
from openfeature.client import OpenFeatureClient
from openfeature.contrib.provider.ofrep import OFREPProvider
from openfeature.evaluation_context import EvaluationContext
from openfeature.exception import ErrorCode
from openfeature.flag_evaluation import Reason

from tests.sdks.serving import PATIENCE, QUESTIONS, TOKEN, Question, Serving, serving


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    with serving(tmp_path_factory.mktemp("flags")) as running:
        yield running


@pytest.fixture
def client(served: Serving) -> Iterator[OpenFeatureClient]:
    yield from connected(served, TOKEN)


def connected(served: Serving, token: str) -> Iterator[OpenFeatureClient]:
    provider = OFREPProvider(served.url, headers_factory=lambda: {"Authorization": f"Bearer {token}"})
    api.set_provider_and_wait(provider, domain="sdk")
    yield api.get_client("sdk")
    api.clear_providers()


def context_of(question: Question) -> EvaluationContext:
    attributes = dict(question.context)
    return EvaluationContext(attributes.pop("targetingKey", None), attributes)


@pytest.mark.parametrize("question", QUESTIONS, ids=str)
def test_every_type_and_every_error_arrives_as_it_is(client: OpenFeatureClient, question: Question) -> None:
    ask: Any = getattr(client, f"get_{question.type}_details")
    found = ask(question.flag, question.default, context_of(question))
    assert found.value == question.value
    assert type(found.value) is type(question.value)
    assert found.reason == question.reason
    assert found.variant == question.variant
    assert found.error_code == (ErrorCode(question.error) if question.error else None)
    assert dict(found.flag_metadata).items() >= question.metadata.items()


@pytest.mark.parametrize(("flag", "reason"), [("off", Reason.DISABLED), ("yours", Reason.DEFAULT)])
def test_a_flag_without_a_value_leaves_the_codes_own_default(
    client: OpenFeatureClient, flag: str, reason: Reason
) -> None:
    for default in (True, False):
        found = client.get_boolean_details(flag, default)
        assert (found.value, found.reason, found.error_code) == (default, reason, None)


def test_the_same_user_always_gets_the_same_and_users_differ(client: OpenFeatureClient) -> None:
    served = {user: client.get_string_value("page", "?", EvaluationContext(user)) for user in map(str, range(40))}
    again = {user: client.get_string_value("page", "?", EvaluationContext(user)) for user in served}
    assert again == served
    assert set(served.values()) == {"a", "b"}


def test_a_wrong_token_leaves_the_codes_own_default_and_says_so(served: Serving) -> None:
    for stranger in connected(served, "wrong"):
        found = stranger.get_boolean_details("always", False)
        assert (found.value, found.reason, found.error_code) == (False, Reason.ERROR, ErrorCode.GENERAL)
        assert found.error_message


def test_a_changed_file_is_served_without_a_restart(tmp_path: Path) -> None:
    with serving(tmp_path) as served:
        for client in connected(served, TOKEN):
            assert client.get_boolean_value("always", False) is True
            flag = {"state": "ENABLED", "variants": {"on": True, "off": False}, "defaultVariant": "off"}
            served.say({"flags": {"always": flag}})
            deadline = time.monotonic() + PATIENCE
            while client.get_boolean_value("always", True):
                assert time.monotonic() < deadline
                time.sleep(0.05)
