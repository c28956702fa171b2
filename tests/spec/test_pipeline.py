"""The pipeline section: what it means, and what people read when it cannot be meant."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crossfade.domain.errors import InvalidConfig
from crossfade.domain.pipeline.freeze import Freeze
from crossfade.domain.pipeline.plan import (
    Cache,
    Container,
    DependentKind,
    Gate,
    GateKind,
    NodeKind,
    Pipeline,
    QueuePolicy,
    Requests,
    StageName,
    Step,
    in_order,
)
from crossfade.spec.document import reference
from crossfade.spec.loader import parse
from crossfade.spec.models import Spec
from crossfade.spec.pipeline_rules import OPTIONS
from crossfade.spec.pipeline_scalars import show_bytes, size

LEAST = """\
service: shop
run: {command: [./shop]}
health: [{name: it answers, path: /health}]
environments: {production: {}, staging: {port: 8081}}
"""


def pipeline(text: str) -> Pipeline:
    found = parse(LEAST + text).for_pipeline()
    assert found is not None
    return found


def stages(text: str) -> Pipeline:
    indented = "".join(f"    {line}\n" for line in text.splitlines())
    return pipeline(f"pipeline:\n  stages:\n{indented}")


def problems(text: str) -> list[tuple[int, str, str, str]]:
    """Line (counted from the first under `stages:`), key below it, found, allowed."""
    with pytest.raises(InvalidConfig) as caught:
        stages(text)
    before = LEAST.count("\n") + 2
    return [
        (problem.line - before, problem.key.removeprefix("pipeline.stages."), problem.found, problem.allowed)
        for problem in caught.value.problems
    ]


# --- meaning


def test_a_file_without_the_section_has_no_pipeline_and_is_as_valid_as_ever() -> None:
    spec = parse(LEAST)
    assert spec.for_pipeline() is None
    config = spec.for_environment("production")
    assert (config.freezes, config.provenance_required) == ((), False)
    assert "pipeline" not in spec.to_data()


def test_the_least_pipeline_makes_an_artifact_and_deploys_it() -> None:
    found = stages("production: {}")
    assert [(stage.name.value, stage.environment) for stage in found.stages] == [
        ("commit", ""),
        ("production", "production"),
    ]
    assert [node.kind for node in found.stages[0].nodes] == [NodeKind.ARTIFACT]
    assert (found.branches, found.queue, found.supersede, found.parallel) == (
        ("main", "master"), QueuePolicy.LATEST, True, 4
    )  # fmt: skip


def test_stages_run_in_their_own_order_however_they_are_written() -> None:
    found = stages("production: {}\nstaging: {}\ncommit: {}")
    assert [stage.name.value for stage in found.stages] == ["commit", "staging", "production"]


def test_a_command_alone_is_a_step_as_text_and_as_a_list() -> None:
    found = stages("commit:\n  steps:\n    a: ruff check 'a b'\n    b: [ruff, check]\n    c: {run: ruff}")
    whats = {node.name: node.what for node in found.stages[0].nodes}
    assert whats["a"] == Step(("ruff", "check", "a b"))
    assert whats["b"] == Step(("ruff", "check"))
    assert whats["c"] == Step(("ruff",))


def test_every_key_of_a_step_arrives() -> None:
    (node, *_) = (
        stages(
            "commit:\n  steps:\n    a:\n      run: [x]\n      folder: web\n      env: {A: 1.10, B: true}\n      exits: [0, 3]\n"
            "      timeout: 90s\n      memory: 1.5GiB\n      output: 4KiB\n      retry: true\n"
            "      container: {image: localhost/python:3.11, network: host}\n"
            "      cache: {inputs: [a.txt, 'b/*'], outputs: [out], env: [A]}"
        )
        .stages[0]
        .nodes
    )
    assert node.what == Step(
        ("x",), "web", (("A", "1.10"), ("B", "true")), (), (0, 3), 90.0, 3 * 2**29, 4096, True,
        Container("localhost/python:3.11", "host"), Cache(("a.txt", "b/*"), ("out",), ("A",)),
    )  # fmt: skip


def test_the_reference_compiles_to_four_stages_with_every_kind_of_node() -> None:
    found = parse(reference(), "reference.yaml").for_pipeline()
    assert found is not None
    assert [stage.name for stage in found.stages] == list(StageName)
    assert {node.kind for stage in found.stages for node in stage.nodes} == set(NodeKind)
    integration = found.stage("integration")
    assert [(one.name, one.kind) for one in integration.services] == [
        ("database", DependentKind.POSTGRESQL), ("shop", DependentKind.COMMAND)
    ]  # fmt: skip
    assert integration.services[1].check is not None and integration.services[1].artifact
    compare = integration.node("compare").what
    assert compare is not None and compare.requests[1] == Requests("GET /books?id={1-100}", 3)  # type: ignore[union-attr] # a Compare
    assert found.stage("commit").node("coverage").what == Gate(
        GateKind.COVERAGE, "reports/coverage.xml", minimum=0.8, changed=0.9
    )
    assert found.environment == "production"


def test_a_freeze_and_required_provenance_reach_the_environments_configuration() -> None:
    text = LEAST.replace(
        "production: {}",
        "production: {provenance: required, freeze: [{name: weekend, days: [fri, sat], from: '17:00', zone: Europe/Berlin},"
        " {name: end, dates: 2026-12-20..2027-01-02}, {name: eve, dates: 2026-12-24, to: '12:00'}]}",
    )
    config = parse(text).for_environment("production")
    assert config.provenance_required
    assert config.freezes == (
        Freeze("weekend", ("fri", "sat"), "17:00", "24:00", None, "Europe/Berlin"),
        Freeze("end", dates=("2026-12-20", "2027-01-02")),
        Freeze("eve", ends="12:00", dates=("2026-12-24", "2026-12-24")),
    )
    written = parse(text).to_data()
    assert Spec.from_data(json.loads(json.dumps(written))) == parse(text)


def test_what_is_written_back_reads_as_the_same_pipeline() -> None:
    spec = parse(reference(), "reference.yaml")
    assert Spec.from_data(json.loads(json.dumps(spec.to_data()))).for_pipeline() == spec.for_pipeline()


@given(st.integers(1, 2**50))
def test_a_size_is_written_so_that_it_reads_as_the_same(bytes_: int) -> None:
    assert size("1B", "1024TiB").read(show_bytes(bytes_)) == bytes_


NAMES = st.sampled_from("abcdef")


@settings(deadline=None, max_examples=60)
@given(st.dictionaries(NAMES, st.lists(NAMES, max_size=3, unique=True), min_size=1))
def test_a_graph_is_read_exactly_when_it_has_an_order(needs: dict[str, list[str]]) -> None:
    data: dict[str, Any] = {
        **parse(LEAST).to_data(),
        "pipeline": {
            "stages": {"commit": {"steps": {name: {"run": "x", "needs": those} for name, those in needs.items()}}}
        },
    }
    try:
        in_order("", needs)
        ordered = True
    except Exception:  # noqa: BLE001 - whatever the domain refuses
        ordered = False
    told: list[str] = []
    try:
        Spec.from_data(data).for_pipeline()
    except InvalidConfig as error:
        told = [problem.key for problem in error.problems]
    assert ordered == (not told)
    assert all(key.startswith("pipeline.stages.commit.steps.") for key in told)


# --- messages

GOOD = "commit:\n  steps: {a: x, b: y}\n"


@pytest.mark.parametrize(
    ("text", "line", "key", "found", "allowed"),
    [
        ("commit:\n  steps:\n    a: {run: x, needs: [b]}", 3, "commit.steps.a.needs[0]", "'b'", "the stage has no other step"),
        ("commit:\n  steps:\n    a: {run: x, needs: [a]}\n    c: x", 3, "commit.steps.a.needs[0]", "'a'", "one of c"),
        (
            "commit:\n  steps:\n    a: {run: x, needs: [b]}\n    b: {run: x, needs: [a]}",
            3, "commit.steps.a.needs", "a -> b -> a", "in no circle",
        ),
        ("commit:\n  steps:\n    artifact: x", 3, "commit.steps.artifact", "the name 'artifact'", "other than artifact, compare"),
        (GOOD + "  gates:\n    a: {kind: junit, report: x}", 4, "commit.gates.a", "the name 'a'", "no step of the stage"),
        (GOOD + "  gates:\n    g: {kind: junit, report: x, after: [z]}", 4, "commit.gates.g.after[0]", "'z'", "one of a, b"),
        (GOOD + "  gates:\n    g: {kind: junit, report: x, minimum: 80%}", 4, "commit.gates.g.minimum", "'80%'", "kind: coverage"),
        (GOOD + "  gates:\n    g: {kind: pact, report: x}", 4, "commit.gates.g.provider", "nothing", "required with kind: pact"),
        (GOOD + "  gates:\n    g: {kind: pact, report: x, provider: p}", 4, "commit.gates.g.provider", "'p'", "it has none"),
        (GOOD + "  gates:\n    g: {kind: lint, report: x}", 4, "commit.gates.g.kind", "'lint'", "junit, tap, coverage"),
        (GOOD + "  gates:\n    g: {kind: junit, report: ../x}", 4, "commit.gates.g.report", "'../x'", "inside the project"),
        (GOOD + "  gates:\n    g: {kind: junit, report: /x}", 4, "commit.gates.g.report", "'/x'", "inside the project"),
        ("commit:\n  steps:\n    a: {run: x, folder: ../..}", 3, "commit.steps.a.folder", "'../..'", "inside the project"),
        ("commit:\n  steps:\n    a: {run: x, cache: {inputs: [/etc]}}", 3, "commit.steps.a.cache.inputs", "a list of 1", "inside"),
        (
            "commit:\n  steps:\n    b: x\n    a:\n      run: x\n      needs: [b]\n      cache: {inputs: [c]}",
            7, "commit.steps.a.cache", "a mapping", "without needs",
        ),
        (
            "commit:\n  steps:\n    a:\n      run: x\n      secrets: [T]\n      cache: {inputs: [c]}",
            6, "commit.steps.a.cache", "a mapping", "without secrets",
        ),
        ("staging:\n  steps:\n    a: {run: x, cache: {inputs: [c]}}", 3, "staging.steps.a.cache", "a mapping", "does not deploy"),
        ("commit:\n  compare: {requests: [GET /]}", 2, "commit.compare", "a mapping", "only in stage integration"),
        ("integration:\n  smoke: []", 2, "integration.smoke", "an empty list", "only in stage staging or production"),
        ("commit:\n  load: {}", 2, "commit.load", "an empty mapping", "only in stage staging or production"),
        ("commit:\n  environment: staging", 2, "commit.environment", "'staging'", "only in stage staging or production"),
        ("staging:\n  environment: test", 2, "staging.environment", "'test'", "one of production, staging"),
        (
            "staging:\n  environment: production\nproduction: {}",
            3, "production.environment", "'production'", "stage staging deploys there",
        ),
        ("staging:\n  load: {like: live}", 2, "staging.load.like", "'live'", "one of production, staging, or rate and"),
        (
            "integration:\n  compare:\n    requests: [GET /]\n    blocks: {least: 30, most: 20}",
            4, "integration.compare.blocks.least", "30", "at most most (20)",
        ),
        ("integration:\n  compare:\n    requests: []", 3, "integration.compare.requests", "an empty list", "at least one request"),
        (
            "integration:\n  compare:\n    requests: ['TRACE /x']",
            3, "integration.compare.requests[0]", "'TRACE /x'", "begins with '/'",
        ),
        (
            "integration:\n  compare:\n    requests: ['/{1-99999}']",
            3, "integration.compare.requests[0]", "'/{1-99999}'", "at most 10000 numbers",
        ),
        ("commit:\n  services:\n    a: {kind: command}", 3, "commit.services.a.run", "nothing", "required with kind: command"),
        ("commit:\n  services:\n    a: {kind: redis, run: x}", 3, "commit.services.a.run", "'x'", "only with kind: command"),
        (
            "commit:\n  services:\n    a: {kind: command, run: x, health: {name: u, path: /}, artifact: true}",
            3, "commit.services.a.artifact", "true", "false in stage commit",
        ),
        ("commit:\n  services:\n    crossfade: {kind: redis}", 3, "commit.services.crossfade", "the name", "not Crossfade's own"),
        ("commit:\n  steps:\n    a: {run: x, memory: 1MiB}", 3, "commit.steps.a.memory", "'1MiB'", "from 16MiB to 1TiB"),
        ("commit:\n  steps:\n    a: {run: x, exits: [0, 0]}", 3, "commit.steps.a.exits", "a list of 2", "different whole numbers"),
        ("commit:\n  steps:\n    a: {run: x, env: {CROSSFADE_RUN: 1}}", 3, "commit.steps.a.env.CROSSFADE_RUN", "the name", "itself sets"),
        ("commit:\n  steps:\n    a: 'x | y'", 3, "commit.steps.a", "'x | y'", "no shell reads it"),
        ("commit:\n  steps:\n    a: {run: x, container: {image: --rm}}", 3, "commit.steps.a.container.image", "'--rm'", "an image"),
        ("commit: null", 1, "commit", "nothing", "a mapping of timeout"),
        ("deploy: {}", 1, "deploy", "an unknown key", "commit, integration, staging, production"),
        ("commit:\n  step: {a: x}", 2, "commit.step", "an unknown key", "did you mean steps"),
        (
            "staging:\n  smoke:\n    - {name: a, checks: [{name: b, path: /, max_latency: 9s}]}",
            3, "staging.smoke[0].checks[0].max_latency", "'9s'", "at most the check's timeout",
        ),
        (
            "staging:\n  smoke:\n    - {name: a, checks: [{name: b, path: /}]}\n    - {name: a, checks: [{name: b, path: /}]}",
            4, "staging.smoke[1].name", "'a'", "no other here has",
        ),
    ],
)  # fmt: skip
def test_a_problem_names_the_line_the_key_what_was_found_and_what_is_allowed(
    text: str, line: int, key: str, found: str, allowed: str
) -> None:
    (told,) = [problem for problem in problems(text) if problem[1] == key]
    assert told[0] == line
    assert found in told[2]
    assert allowed in told[3]


def test_one_slip_is_one_problem() -> None:
    for text in (
        "commit:\n  steps: {A: x, b: {run: y, needs: [a]}}",
        "commit:\n  stepz: {a: x}\n  gates: {g: {kind: junit, report: r, after: [a]}}",
        "integration:\n  servicez: {p: {kind: redis}}\n  gates: {g: {kind: pact, report: r, provider: p}}",
    ):
        assert len(problems(text)) == 1, problems(text)


def test_a_pipeline_without_a_stage_is_refused() -> None:
    with pytest.raises(InvalidConfig, match="at least one of commit"):
        pipeline("pipeline: {stages: {}}\n")


def test_there_are_limits_to_everything() -> None:
    def many(count: int, each: str) -> str:
        return "{" + ", ".join(f"a{number}: {each}" for number in range(count)) + "}"

    for text, key in (
        (f"commit:\n  steps: {many(51, 'x')}", "commit.steps"),
        (f"commit:\n  gates: {many(51, '{kind: tap, report: r}')}", "commit.gates"),
        (f"commit:\n  services: {many(21, '{kind: redis}')}", "commit.services"),
        (f"commit:\n  steps: {{{'a' * 41}: x}}", f"commit.steps.{'a' * 41}"),
    ):
        assert [problem[1] for problem in problems(text)] == [key]
    assert len(stages(f"commit:\n  steps: {many(50, 'x')}").stages[0].nodes) == 51


FREEZES = [
    ("{name: a, days: [friday]}", "days", "mon, tue"),
    ("{name: a, days: []}", "days", "a list of different days"),
    ("{name: a, days: [fri, fri]}", "days", "different"),
    ("{name: a, from: '7:00'}", "from", "00:00 to 24:00"),
    ("{name: a, to: '24:01'}", "to", "00:00 to 24:00"),
    ("{name: a, to: 1020}", "to", "in quotes"),
    ("{name: a, dates: 2026-13-01}", "dates", "2026-12-20..2027-01-02"),
    ("{name: a, dates: 2026-02-02..2026-02-01}", "dates", "not after the last"),
    ("{name: a, zone: Mars/Base}", "zone", "Europe/Berlin"),
    ("{name: a, zone: ../../etc/passwd}", "zone", "Europe/Berlin"),
    ("{days: [fri]}", "name", "required"),
]


@pytest.mark.parametrize(("freeze", "key", "allowed"), FREEZES)
def test_a_freeze_that_cannot_be_meant_is_told_with_its_key(freeze: str, key: str, allowed: str) -> None:
    with pytest.raises(InvalidConfig) as caught:
        parse(LEAST.replace("production: {}", f"production: {{freeze: [{freeze}]}}"))
    (problem,) = caught.value.problems
    assert problem.key == f"environments.production.freeze[0].{key}"
    assert problem.line == 4
    assert allowed in problem.allowed


def test_every_option_of_a_gate_belongs_to_some_kind() -> None:
    from crossfade.spec.pipeline import GatePart

    said = {option for options in OPTIONS.values() for option in options}
    assert said == set(GatePart.model_fields) - {"kind", "report", "after"}
    assert set(OPTIONS) == set(GateKind)


def test_values_of_variables_are_never_shown() -> None:
    with pytest.raises(InvalidConfig) as caught:
        stages("commit:\n  env: {A: [hunter2]}\n  steps:\n    a: {run: x, env: {B: [hunter2]}}")
    assert len(caught.value.problems) == 2
    assert "hunter2" not in str(caught.value)
