"""The published document is true: whatever is sent, the answer is one that it names."""

from __future__ import annotations

from typing import Any

import hypothesis
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase
from schemathesis.checks import load_all_checks
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from crossfade.api import models, problems
from crossfade.domain.release import ReleaseConfig
from tests.api.world import TOKEN, World, problem, tarball

load_all_checks()
CHECKS = [
    schemathesis.checks.not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
HEADERS = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    made = World(tmp_path_factory.mktemp("world"))
    made.settle()
    made.with_pipelines()
    return made


@pytest.fixture(scope="module")
def published(world: World) -> Any:
    schema = schemathesis.openapi.from_asgi("/api/v1/openapi.json", world.app)
    endless = ["/api/v1/changes", "/ofrep/v1/changes", "/api/v1/runs/{id}/stages/{stage}/nodes/{node}/log/stream"]
    return schema.exclude(path=endless)


def test_whatever_is_sent_is_answered_as_published(published: Any) -> None:
    tried = 0
    for found in published.get_all_operations():
        operation = found.ok()

        @hypothesis.settings(
            max_examples=8,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
            database=None,
        )
        @hypothesis.given(case=operation.as_strategy())
        def answered(case: Any) -> None:
            case.call_and_validate(headers=HEADERS, checks=CHECKS)

        answered()
        tried += 1
    assert tried > 30


BODIES = [kind for kind in vars(models).values() if isinstance(kind, type) and issubclass(kind, models.Body)]


@pytest.mark.parametrize("kind", [kind for kind in BODIES if kind not in (models.Body, models.EventsBody)])
def test_every_field_of_a_body_is_described_and_its_example_is_taken(kind: type[models.Body]) -> None:
    fields = kind.model_fields.items()
    assert all(field.description for _, field in fields)
    kind.model_validate({name: field.examples[0] for name, field in fields if field.examples})


def test_every_operation_says_what_it_does_and_what_it_answers(world: World) -> None:
    for path, methods in world.app.openapi()["paths"].items():
        for method, operation in methods.items():
            assert operation["description"], (method, path)
            good = [status for status in operation["responses"] if status.startswith("2")]
            assert len(good) == 1, (method, path)
            content = operation["responses"][good[0]].get("content", {})
            assert good == ["204"] or all(one.get("schema") for one in content.values()), (method, path)
            unkeyed = "/hooks/" in path or path.startswith("/ofrep/")  # to evaluate changes nothing
            keyed = any(one["name"] == "Idempotency-Key" for one in operation.get("parameters", ()))
            assert keyed == (method != "get" and not path.endswith("/artifacts") and not unkeyed), (
                method,
                path,
            )


def test_what_the_server_does_not_know_is_a_problem_too(world: World) -> None:
    with world.client() as client:
        problem(client.get("/api/v1/nowhere"), 404, "no-route")
        refused = client.post("/healthz")
        problem(refused, 405, "method-not-allowed")
        assert refused.headers["allow"] == "GET"
        problem(client.post("/api/v1/rollouts", content=b"x" * (5 * 1024 * 1024)), 413, "too-large")
        problem(client.post("/api/v1/rollouts", content=iter([b"{}"])), 411, "length-required")


DEPLOY = {"service": "shop", "environment": "staging", "digest": "sha256:" + "a" * 64, "config": {}}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"config":' * 50_000,
        b'{"\\ud800": 1}',
        b'{"service":"\\ud800","environment":"p","digest":"x","config":{}}',
        b'{"service":"shop","environment":"staging","digest":"sha256:' + b"a" * 64 + b'","config":{"x":"\\ud800"}}',
        b'{"service":"shop","environment":"staging","digest":"sha256:' + b"a" * 64 + b'","config":{"x":NaN}}',
        b'{"service":"shop","environment":"staging","digest":"sha256:' + b"a" * 64 + b'","config":{},"label":"\\u0000"}',
        b'{"service":"shop\\u0000","environment":"staging","digest":"x","config":{}}',
        b'{"service":"shop","environment":"staging","digest":"x","config":{"x":1' + b"0" * 5000 + b"}}",
        b'{"service":"shop","environment":"staging","digest":"x","config":{},"surprise":1}',
    ],
)  # fmt: skip
def test_hostile_bodies_are_refused_with_a_reason(world: World, body: bytes) -> None:
    with world.client() as client:
        for kind in ("application/json", "text/plain", "application/x-www-form-urlencoded"):
            answer = client.post("/api/v1/rollouts", content=body, headers={"Content-Type": kind})
            problem(answer, 422, "invalid")


def test_an_upload_is_named_by_its_content_and_a_release_of_it_is_rolled_out(world: World) -> None:
    world.config = ReleaseConfig(("x",), port=8099)
    with world.client() as client:
        sent = client.post("/api/v1/artifacts", content=tarball()).json()
        assert client.post("/api/v1/artifacts", content=tarball()).json() == sent
        body = {**DEPLOY, "environment": "third", "digest": sent["digest"]}
        begun = client.post("/api/v1/rollouts", json=body, headers={"X-Crossfade-By": "ada"})
        assert begun.status_code == 201, begun.text
        rollout = begun.json()
        assert rollout["by"] == "ada"
        release = rollout["candidate"]
        place = "/api/v1/environments/shop/third"
        assert client.get(f"{place}/releases/{release}").json()["config"]["command"] == ["x"]
        assert client.get(f"{place}/compare?from={release}&to={release}").json() == {"items": [], "next": None}


def test_every_code_is_of_a_known_status() -> None:
    assert all(400 <= status < 600 and what for status, what in problems.CODES.values())
