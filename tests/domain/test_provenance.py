"""What is signed about an artifact: a statement of the published shape, about one artifact of one service."""

from __future__ import annotations

import base64
import copy
import json
from dataclasses import replace
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossfade.domain.pipeline.plan import Commit, Gate, GateKind, Outcome, Pipeline, Stage, StageName, Step, nodes_of
from crossfade.domain.pipeline.provenance import check, statement
from crossfade.domain.pipeline.run import Build, Run, RunPlan, Status, begin
from crossfade.domain.values import Digest

COMMIT = "4f2c81a" + "0" * 33
DIGEST = Digest("sha256:" + "a" * 64)
TIME = {"type": "string", "pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$"}
DIGESTS = {"type": "object", "additionalProperties": {"type": "string", "pattern": "^[0-9a-f]+$"}, "minProperties": 1}
DESCRIPTOR = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "uri": {"type": "string"},
        "digest": DIGESTS,
        "content": {"type": "string", "pattern": "^[A-Za-z0-9+/]*={0,2}$"},
        "downloadLocation": {"type": "string"},
        "mediaType": {"type": "string"},
        "annotations": {"type": "object"},
    },
    "additionalProperties": False,
    "anyOf": [{"required": [key]} for key in ("uri", "digest", "content")],
}
# Transcribed from github.com/in-toto/attestation (spec/v1/statement.md, resource_descriptor.md) and
# slsa.dev/spec/v1.1/provenance; closed, so that no field of ours is one that nobody knows.
PUBLISHED: dict[str, Any] = {
    "type": "object",
    "required": ["_type", "subject", "predicateType", "predicate"],
    "additionalProperties": False,
    "properties": {
        "_type": {"const": "https://in-toto.io/Statement/v1"},
        "predicateType": {"const": "https://slsa.dev/provenance/v1"},
        "subject": {
            "type": "array",
            "minItems": 1,
            "items": {"allOf": [DESCRIPTOR, {"required": ["digest"]}]},
        },
        "predicate": {
            "type": "object",
            "required": ["buildDefinition", "runDetails"],
            "additionalProperties": False,
            "properties": {
                "buildDefinition": {
                    "type": "object",
                    "required": ["buildType", "externalParameters"],
                    "additionalProperties": False,
                    "properties": {
                        "buildType": {"type": "string", "pattern": "^[a-z][a-z0-9+.-]*:"},
                        "externalParameters": {"type": "object"},
                        "internalParameters": {"type": "object"},
                        "resolvedDependencies": {"type": "array", "items": DESCRIPTOR},
                    },
                },
                "runDetails": {
                    "type": "object",
                    "required": ["builder"],
                    "additionalProperties": False,
                    "properties": {
                        "builder": {
                            "type": "object",
                            "required": ["id"],
                            "additionalProperties": False,
                            "properties": {
                                "id": {"type": "string", "pattern": "^[a-z][a-z0-9+.-]*:"},
                                "version": {"type": "object", "additionalProperties": {"type": "string"}},
                                "builderDependencies": {"type": "array", "items": DESCRIPTOR},
                            },
                        },
                        "metadata": {
                            "type": "object",
                            "additionalProperties": False,
                            "properties": {"invocationId": {"type": "string"}, "startedOn": TIME, "finishedOn": TIME},
                        },
                        "byproducts": {"type": "array", "items": DESCRIPTOR},
                    },
                },
            },
        },
    },
}


def run(repository: str = "https://forge.example/shop.git") -> Run:
    steps = {"lint": (Step(("ruff",)), ()), "slow": (Step(("sleep",)), ())}
    gates = {"tests": (Gate(GateKind.JUNIT, "junit.xml"), ("lint",))}
    pipeline = Pipeline("shop", (Stage(StageName.COMMIT, nodes_of(StageName.COMMIT, steps, gates)),))
    plan = RunPlan(
        pipeline, repository, Commit(COMMIT, 7, 1000.0), "main", "hook", "ada", "ada", (), 1000.0, "{}",
        Build(("make", "dist"), "dist"),
    )  # fmt: skip
    begun = begin(12, plan)
    ended = {
        "lint": (Status.PASSED, Outcome(True, "exited with 0 after 1.2 s")),
        "tests": (Status.PASSED, Outcome(True, "41 tests passed \udc80")),
        "slow": (Status.FAILED, Outcome(False, "exited with 1")),
    }
    nodes = tuple(
        replace(node, status=ended[node.name][0], outcome=ended[node.name][1]) if node.name in ended else node
        for node in begun.stages[0].nodes
    )
    return replace(begun, stages=(replace(begun.stages[0], nodes=nodes),), began=1001.5)


def made(repository: str = "https://forge.example/shop.git") -> dict[str, Any]:
    return copy.deepcopy(dict(statement(run(repository), DIGEST, 1060.9, "https://ship.example")))


def test_a_statement_has_the_published_shape_of_in_toto_and_slsa_and_survives_json() -> None:
    jsonschema.Draft202012Validator(PUBLISHED).validate(made())
    assert json.loads(json.dumps(made())) == made()
    nameless = dict(statement(run("/srv/git/shop"), DIGEST, 1060.0, ""))
    jsonschema.Draft202012Validator(PUBLISHED).validate(nameless)
    assert nameless["predicate"]["runDetails"]["builder"]["id"] == "urn:crossfade:installation"


def test_it_says_what_was_built_from_which_commit_by_whom_and_when() -> None:
    said = made()
    build, details = said["predicate"]["buildDefinition"], said["predicate"]["runDetails"]
    assert said["subject"] == [{"name": "shop", "digest": {"sha256": DIGEST.hex}}]
    assert build["externalParameters"] == {
        "service": "shop",
        "repository": "https://forge.example/shop.git",
        "ref": "main",
        "commit": COMMIT,
        "config": "crossfade.yaml",
    }
    assert build["resolvedDependencies"] == [
        {"uri": f"git+https://forge.example/shop.git@{COMMIT}", "digest": {"gitCommit": COMMIT}}
    ]
    assert details["builder"]["id"] == "https://ship.example"
    assert details["metadata"] == {
        "invocationId": "12",
        "startedOn": "1970-01-01T00:16:41Z",
        "finishedOn": "1970-01-01T00:17:40Z",
    }


def test_it_tells_what_has_passed_with_the_gates_own_sentences_and_nothing_that_has_not() -> None:
    by = {one["name"]: one for one in made()["predicate"]["runDetails"]["byproducts"]}
    assert list(by) == ["commit/lint", "commit/tests"]
    assert by["commit/lint"]["annotations"] == {
        "kind": "command", "finding": "pass", "sentence": "exited with 0 after 1.2 s"
    }  # fmt: skip
    assert base64.b64decode(by["commit/tests"]["content"]) == b"41 tests passed ?"


def test_a_path_is_told_as_a_url_and_a_password_is_not_told_at_all() -> None:
    def uri(repository: str) -> str:
        said = made(repository)
        assert "hunter2" not in json.dumps(said)
        return str(said["predicate"]["buildDefinition"]["resolvedDependencies"][0]["uri"])

    assert uri("/srv/git/shop") == f"git+file:///srv/git/shop@{COMMIT}"
    assert uri("https://ada:hunter2@forge.example/shop") == f"git+https://forge.example/shop@{COMMIT}"
    assert uri("ssh://hunter2@forge.example/shop") == f"git+ssh://forge.example/shop@{COMMIT}"


def test_a_statement_about_the_artifact_has_no_problem() -> None:
    assert check(made(), DIGEST, "shop") == ()


@given(st.from_regex("[0-9a-f]{64}", fullmatch=True).filter(lambda other: other != DIGEST.hex))
def test_a_statement_about_another_digest_is_refused(other: str) -> None:
    (problem,) = check(made(), Digest(f"sha256:{other}"), "shop")
    assert other[:12] in problem and DIGEST.short in problem


CHANGES: list[tuple[str, list[Any], Any]] = [
    ("type", ["_type"], "https://in-toto.io/Statement/v0.1"),
    ("predicate", ["predicateType"], "https://cosign.sigstore.dev/attestation/v1"),
    ("subject", ["subject"], []),
    ("names the artifact", ["subject", 0, "name"], "other"),
    ("built by", ["predicate", "buildDefinition", "buildType"], "https://example.com/make"),
    ("service 'other'".replace("'", ""), ["predicate", "buildDefinition", "externalParameters", "service"], "other"),
    ("no commit", ["predicate", "buildDefinition", "externalParameters", "commit"], "main"),
    ("is not among", ["predicate", "buildDefinition", "resolvedDependencies"], []),
    ("is not among", ["predicate", "buildDefinition", "externalParameters", "commit"], "b" * 40),
]


@pytest.mark.parametrize(("words", "path", "value"), CHANGES)
def test_each_part_that_does_not_fit_is_named(words: str, path: list[Any], value: Any) -> None:
    said = made()
    here: Any = said
    for step in path[:-1]:
        here = here[step]
    here[path[-1]] = value
    (problem,) = check(said, DIGEST, "shop")
    assert words in problem


def test_the_statement_of_one_service_is_none_of_another() -> None:
    assert len(check(made(), DIGEST, "other")) == 2


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(
        ["_type", "subject", "digest", "sha256", "predicate", "buildDefinition", "externalParameters", "commit",
         "resolvedDependencies", "gitCommit", "predicateType", "name"]), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@given(st.dictionaries(st.sampled_from(["_type", "subject", "predicate", "predicateType"]), JSON, max_size=4))
def test_no_json_crashes_the_check_and_none_passes_it_by_chance(said: dict[str, Any]) -> None:
    problems = check(said, DIGEST, "shop")
    assert problems and all(problems)
