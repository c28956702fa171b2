"""flagd's own provider for Python, in its in-process mode, fed by our sync service."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from openfeature import api
from openfeature.client import OpenFeatureClient
from openfeature.contrib.provider.flagd import FlagdProvider
from openfeature.contrib.provider.flagd.config import ResolverType
from openfeature.evaluation_context import EvaluationContext
from openfeature.exception import ErrorCode

from tests.sdks.serving import DOCUMENT, PATIENCE, QUESTIONS, TOKEN, Question, Serving, serving


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    with serving(tmp_path_factory.mktemp("flags")) as running:
        yield running


@pytest.fixture(scope="module")
def client(served: Serving) -> Iterator[OpenFeatureClient]:
    with connected(served) as one:
        yield one


@contextmanager
def connected(served: Serving) -> Iterator[OpenFeatureClient]:
    """A client with a provider of its own. A provider that can send no token sends it as its selector."""
    provider = FlagdProvider(
        host="127.0.0.1",
        port=served.grpc_port,
        tls=False,
        resolver_type=ResolverType.IN_PROCESS,
        selector=TOKEN,
        deadline_ms=10_000,
        retry_backoff_ms=100,
        retry_backoff_max_ms=200,
    )
    domain = f"flagd-{served.grpc_port}"
    api.set_provider_and_wait(provider, domain=domain)
    try:
        yield api.get_client(domain)
    finally:
        provider.shutdown()


def eventually(what: Any) -> None:
    deadline = time.monotonic() + PATIENCE
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("question", QUESTIONS, ids=str)
def test_an_in_process_evaluator_of_flagd_comes_to_the_same(client: OpenFeatureClient, question: Question) -> None:
    attributes = dict(question.context)
    context = EvaluationContext(attributes.pop("targetingKey", None), attributes)
    ask: Any = getattr(client, f"get_{question.type}_details")
    found = ask(question.flag, question.default, context)
    assert found.value == question.value
    assert found.reason == question.reason
    assert found.error_code == (ErrorCode(question.error) if question.error else None)
    if question.error is None:
        assert found.variant == question.variant
        assert dict(found.flag_metadata).items() >= question.metadata.items()


def test_a_change_reaches_it_and_a_server_that_was_killed_is_found_again(tmp_path: Path) -> None:
    with serving(tmp_path) as served, connected(served) as client:
        assert client.get_boolean_value("always", False) is True
        served.say(turned_off())
        eventually(lambda: client.get_boolean_value("always", True) is False)

        served.kill()
        assert client.get_boolean_value("always", True) is False
        served.say(DOCUMENT)
        served.start()
        eventually(lambda: client.get_boolean_value("always", False) is True)


def turned_off() -> dict[str, Any]:
    always = {**DOCUMENT["flags"]["always"], "defaultVariant": "off"}
    return {**DOCUMENT, "flags": {**DOCUMENT["flags"], "always": always}}
