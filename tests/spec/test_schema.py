"""The JSON Schema for editors says the same as the loader, as far as it can."""

from __future__ import annotations

import copy
from typing import Any

import jsonschema
import pytest

from crossfade.domain.errors import InvalidConfig
from crossfade.spec.document import reference
from crossfade.spec.models import Spec, json_schema
from crossfade.spec.shape import shape_of
from crossfade.spec.tree import read

GOOD: dict[str, Any] = {
    "service": "bookshop",
    "run": {"command": ["./shop"]},
    "health": [{"name": "it answers", "path": "/health"}],
    "environments": {"production": {}},
}


def with_(**changes: Any) -> dict[str, Any]:
    return {**copy.deepcopy(GOOD), **changes}


def without(key: str) -> dict[str, Any]:
    return {name: value for name, value in GOOD.items() if name != key}


def check(**keys: Any) -> dict[str, Any]:
    return with_(health=[{**GOOD["health"][0], **keys}])


def environment(**keys: Any) -> dict[str, Any]:
    return with_(environments={"production": keys})


def validator() -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(json_schema())


def test_the_schema_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(json_schema())


def test_the_schema_accepts_the_reference_and_the_least_file() -> None:
    validator().validate(read(reference()).data)
    validator().validate(GOOD)
    Spec.from_data(GOOD)


@pytest.mark.parametrize(
    "data",
    [
        *(without(key) for key in GOOD),
        [], None, "text",
        with_(service="Bookshop"), with_(service="a" * 41), with_(service=3), with_(unknown=1),
        with_(health=[]), with_(health={}), with_(health=[{"name": "x"}]), with_(health=[{"path": "/"}]),
        with_(run={}), with_(run={"command": []}), with_(run={"command": ""}), with_(run={"command": [3]}),
        with_(run={"command": ["x"], "replicas": 0}), with_(run={"command": ["x"], "replicas": "2"}),
        with_(run={"command": ["x"], "replicas": 2.5}), with_(run={"command": ["x"], "replicas": True}),
        with_(run={"command": ["x"], "env": {"1A": "x"}}), with_(run={"command": ["x"], "env": {"PORT": "1"}}),
        with_(run={"command": ["x"], "env": {"A": None}}), with_(run={"command": ["x"], "env": {"A": ["x"]}}),
        with_(run={"command": ["x"], "env": ["A=x"]}), with_(run={"command": ["x"], "stop_timeout": 10}),
        with_(build={"output": "/etc"}), with_(build={"output": "a/../../b"}), with_(build={"ignore": "*.log"}),
        check(path="health"), check(path="/a b"), check(path="/a#b"), check(method="get"), check(status=99),
        check(status="200"), check(status=[]), check(status=[200, 200]), check(timeout="5"), check(json={"books": 1}),
        check(json={"$.a": None}), check(json={"$.a": [1]}), check(json={"$.a": {"least": 1}}), check(json={"$.a": {"min": "1"}}),
        check(headers={"a b": "x"}), check(send_headers={"A": "x\ny"}), check(capture={"a": "$.a"}), check(body=""),
        with_(strategy="canary"), with_(strategy={"kind": "rolling"}), with_(strategy={"kind": "canary"}),
        with_(strategy={"kind": "canary", "steps": []}), with_(strategy={"kind": "canary", "steps": [{"weight": "5%"}]}),
        with_(strategy={"kind": "canary", "steps": [{"weight": 5, "duration": "3s"}]}),
        with_(strategy={"watch": "10s", "steps": []}), with_(strategy={"watch": None}), with_(strategy={"manual": "yes"}),
        with_(strategy={"limits": {"error_rate": "1"}}), with_(analysis={"when_unsure": "wait"}),
        with_(analysis=[]), with_(analysis={"deadline": 900}), with_(analysis={"false_alarm": 0.01}),
        with_(analysis={"error_rate": None}), with_(analysis={"error_rate": "off"}), with_(analysis={"latency": {"p98": {}}}),
        with_(analysis={"x": {"margin": "1%"}}), with_(analysis={"metrics": {"X": {"signal": "a", "margin": "1%"}}}),
        with_(analysis={"slo": {"target": "99.9"}}), with_(analysis={"sources": {"a": {"kind": "statsd"}}}),
        with_(analysis={"sources": {"a": {"kind": "http", "url": "ftp://h", "value": "$.a"}}}),
        with_(strategy={"limits": {"min_requests": 0}}), with_(sticky={"by": "address"}), with_(sticky={"name": "a b"}),
        with_(rollback={"window": 2}), with_(rollback={"window": 3.5}), with_(lease="15"), with_(lease=15), with_(warm_for=None),
        with_(drain=30), with_(drain={"timeout": "30 s"}), with_(request_timeout="-1s"),
        with_(environments={}), with_(environments=[]), with_(environments={"Prod": {}}), with_(environments={"p": None}),
        environment(port=0), environment(port=65_536), environment(port="8080"), environment(bind="localhost"),
        environment(runtime="vm"), environment(health=[]), environment(strategy=None), environment(env_file=""),
    ],
)  # fmt: skip
def test_what_the_schema_refuses_the_loader_refuses_too(data: Any) -> None:
    assert not validator().is_valid(data), "the schema accepts it"
    with pytest.raises(InvalidConfig):
        Spec.from_data(data)


def test_every_key_of_the_schema_has_a_description() -> None:
    schema = json_schema()
    classes = {shape.model.__name__ for _, shape in shape_of(Spec).walk() if shape.model is not None}
    parts = {"Spec": schema, **schema["$defs"]}
    assert classes <= set(parts)
    for name, part in parts.items():
        for key, found in part["properties"].items():
            assert found.get("description"), f"{name}.{key}"


def test_a_caller_may_change_the_schema_that_it_was_given() -> None:
    json_schema()["properties"].clear()
    assert "service" in json_schema()["properties"]
