"""The analysis block: what it means, where it may stand, and what people read when it cannot be meant."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from crossfade.domain.analysis.policy import (
    ERROR_RATE,
    Advance,
    Against,
    Analysis,
    Direction,
    Metric,
    Objective,
    Per,
    Shape,
    Source,
    SourceKind,
    WhenUnsure,
)
from crossfade.domain.errors import InvalidConfig, NotFound, Problem
from crossfade.domain.release import Limits, ReleaseConfig
from crossfade.domain.rollout import Kind, Plan
from crossfade.domain.traffic import Slot
from crossfade.domain.values import Digest, EnvKey
from crossfade.spec.analysis import AnalysisPart, load, read
from crossfade.spec.document import reference
from crossfade.spec.loader import parse
from crossfade.spec.models import Spec
from crossfade.store.sql import SqlStore
from tests.spec import specs

SLOW = settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
LEAST = """\
service: bookshop
run: {command: [./shop]}
health: [{name: it answers, path: /health}]
environments: {production: {}, staging: {port: 8081}}
"""


def of(text: str, environment: str = "production") -> Analysis:
    return parse(LEAST + text).for_environment(environment).analysis


def problems(block: str) -> tuple[Problem, ...]:
    with pytest.raises(InvalidConfig) as caught:
        read(block, "analysis.yaml")
    return caught.value.problems


# --- laws


@SLOW
@given(specs.analyses())
def test_a_block_that_is_written_and_read_again_means_the_same(data: dict[str, Any]) -> None:
    part = AnalysisPart.model_validate(data)
    written = part.model_dump(mode="json", exclude_unset=True)
    assert AnalysisPart.model_validate(written).analysis() == part.analysis()
    assert read(specs.as_yaml(data)[0] if data else "{}", "analysis.yaml") == part.analysis()


@SLOW
@given(specs.analyses())
def test_a_block_means_the_same_alone_under_its_name_and_in_a_whole_file(data: dict[str, Any]) -> None:
    alone = read(json.dumps(data), "analysis.yaml")
    assert read(json.dumps({"analysis": data}), "analysis.yaml") == alone
    assert of(f"analysis: {json.dumps(data)}\n") == alone
    assert read(LEAST + f"analysis: {json.dumps(data)}\n", "crossfade.yaml") == alone


@SLOW
@given(specs.analyses())
def test_what_is_read_can_be_judged_and_is_kept_as_json_without_loss(data: dict[str, Any]) -> None:
    analysis = read(json.dumps(data), "analysis.yaml")
    analysis.check()
    kinds: TypeAdapter[ReleaseConfig] = TypeAdapter(ReleaseConfig)
    config = ReleaseConfig(("./shop",), analysis=analysis)
    assert kinds.validate_json(kinds.dump_json(config)) == config


KEYS = st.sampled_from(
    [
        "analysis",
        "error_rate",
        "latency",
        "metrics",
        "sources",
        "slo",
        "deadline",
        "signal",
        "p99",
        "kind",
        "url",
        "x y",
    ]
)
GARBAGE = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=5) | st.sampled_from(["none", "-1%", "http://{", "{x}"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)


@settings(deadline=None, max_examples=300)
@given(GARBAGE)
@example({"sources": {"metrics": {}, "kind": None}})
def test_garbage_is_refused_with_its_place_and_never_crashes(value: Any) -> None:
    found: list[tuple[Problem, ...]] = []
    for reading in (
        lambda: read(specs.as_yaml(value)[0] if isinstance(value, dict | list) else f"{value}", "analysis.yaml"),
        lambda: Spec.from_data({**parse(LEAST).to_data(), "analysis": value}),
    ):
        try:
            reading()
        except InvalidConfig as error:
            found.append(error.problems)
    assert all(told and all(p.found and p.allowed and len(p.found) < 300 for p in told) for told in found)


# --- meaning


def test_without_a_block_errors_are_judged_and_need_not_pass() -> None:
    assert of("") == Analysis()
    assert [(m.name, m.required) for m in Analysis().metrics] == [("error_rate", False)]


def test_an_empty_block_is_all_defaults_with_errors_that_must_pass() -> None:
    assert of("analysis: {}\n") == Analysis(deadline=900.0, metrics=(ERROR_RATE,))
    assert read("{}", "analysis.yaml") == of("analysis: {}\n")


def test_an_environment_overrides_the_block_as_a_whole() -> None:
    text = LEAST.replace("port: 8081", "port: 8081, analysis: {strict: true}") + "analysis: {deadline: 5m}\n"
    spec = parse(text)
    assert spec.for_environment("production").analysis == Analysis(deadline=300.0, metrics=(ERROR_RATE,))
    assert spec.for_environment("staging").analysis == Analysis(deadline=900.0, strict=True, metrics=(ERROR_RATE,))


EVERYTHING = """\
false_alarm: 0.1%
false_pass: 0.05%
warmup: 1m
deadline: 20m
min_duration: 15s
when_unsure: rollback
advance: early
strict: true
baseline: fresh
error_rate: {margin: 0.05%, or_ratio: none, weight: 2}
latency:
  p99.9: {margin: 10000%, required: false}
  p50: {}
slo: {target: 99.95%, period: 7d, share: 2%, burn: 6}
conversion: {signal: checkout, margin: 2%, direction: drop, required: false}
metrics:
  basket: {signal: basket, margin: 5%, dry_run: true}
  api_errors: {signal: api, margin: 0.5%, or_ratio: 1.5, weight: 0.5}
  rendering: {signal: render, margin: 30%, quantile: p95}
  unheard: {signal: unheard, margin: 1%}
sources:
  checkout: {kind: events}
  basket: {kind: http, url: "http://127.0.0.1/{slot}", count: $.n, sum: $.s, sum_squares: $.q}
  api:
    kind: prometheus
    url: https://metrics.example:9090
    requests: sum(rate(x{release="{release}",a!~"b{2}"}[1m]))
    errors: y
    timeout: 500ms
    stale_after: 5m
  render: {kind: prometheus, url: "http://h", histogram: 'z_bucket{slot="{slot}"}'}
"""


def test_every_key_reaches_the_judge() -> None:
    found = read(EVERYTHING, "analysis.yaml")
    plain = replace(found, metrics=(), sources=())
    assert plain == Analysis(
        0.001, 0.0005, 60.0, 1200.0, 15.0, WhenUnsure.ROLLBACK, Advance.EARLY, True, Against.FRESH, (),
        Objective(0.9995, 7 * 86_400.0, 0.02, 6.0),
    )  # fmt: skip
    assert found.metrics == (
        Metric("error_rate", Shape.RATE, 0.0005, ratio=None, weight=2.0),
        Metric("latency.p50", Shape.HISTOGRAM, 0.2, quantile="p50"),
        Metric("latency.p99.9", Shape.HISTOGRAM, 100.0, quantile="p99.9", required=False),
        Metric("api_errors", Shape.RATE, 0.005, "api", ratio=1.5, weight=0.5),
        Metric("basket", Shape.MEAN, 0.05, "basket", direction=Direction.EITHER, dry_run=True),
        Metric("conversion", Shape.MEAN, 0.02, "checkout", direction=Direction.DROP, required=False),
        Metric("rendering", Shape.HISTOGRAM, 0.3, "render", quantile="p95"),
        Metric("unheard", Shape.MEAN, 0.01, "unheard", direction=Direction.EITHER),
    )
    assert found.source("api") == Source(
        "api", SourceKind.PROMETHEUS, "https://metrics.example:9090",
        requests='sum(rate(x{release="{release}",a!~"b{2}"}[1m]))', errors="y", timeout=0.5, stale_after=300.0,
    )  # fmt: skip
    assert found.source("basket").sum_squares == "$.q"
    assert found.source("unheard") == Source("unheard", SourceKind.EVENTS, per=Per.REQUEST)


def test_errors_may_be_counted_by_a_source_or_not_be_compared_at_all() -> None:
    source = "sources: {api: {kind: prometheus, url: 'http://h', requests: a, errors: b}}\n"
    (metric,) = read("error_rate: {signal: api}\n" + source, "a.yaml").metrics
    assert metric == replace(ERROR_RATE, signal="api")
    assert [m.name for m in read("{error_rate: none, latency: {p99: {}}}", "a.yaml").metrics] == ["latency.p99"]
    part = AnalysisPart.model_validate({"error_rate": "none", "latency": {"p99": {}}})
    assert part.model_dump(mode="json", exclude_unset=True)["error_rate"] == "none"


def test_the_reference_s_block_reads_back_from_the_ledger_exactly_as_it_was_written(tmp_path: Path) -> None:
    config = parse(reference()).for_environment("production")
    assert len(config.analysis.metrics) > 3
    store = SqlStore(f"sqlite:///{tmp_path / 'ledger.db'}")
    key = EnvKey("bookshop", "production")
    try:
        written = store.add_release(key, Digest("sha256:" + "a" * 64), config, "", 1.0)
        assert store.release("bookshop", written.number).config == config
        plan = Plan(key, Kind.DEPLOY, written.number, None, Slot.GREEN, config.strategy, analysis=config.analysis)
        assert store.rollout(store.begin(plan, "ada", 1.0).id).plan == plan
    finally:
        store.dispose()


def test_a_configuration_that_was_kept_before_there_was_a_judge_can_still_be_read() -> None:
    kinds: TypeAdapter[ReleaseConfig] = TypeAdapter(ReleaseConfig)
    old = kinds.dump_python(ReleaseConfig(("./shop",)), mode="json")
    del old["analysis"]
    old["strategy"]["limits"]["when_unsure"] = "promote"
    kept = kinds.validate_python(old)
    assert (kept.analysis, kept.strategy.limits) == (Analysis(), Limits())


# --- what is refused

PROMETHEUS = "kind: prometheus, url: 'http://h'"
RATE = f"sources: {{api: {{{PROMETHEUS}, requests: a, errors: b}}}}"
HISTOGRAM = f"sources: {{api: {{{PROMETHEUS}, histogram: a}}}}"


@pytest.mark.parametrize(
    ("block", "key", "found", "allowed"),
    [
        ("{deadlin: 5m}", "deadlin", "an unknown key", "(did you mean deadline?)"),
        ("{latancy: {p99: {}}}", "latancy", "an unknown key", "(did you mean latency?)"),
        ("{error_rat: {margin: 1%}}", "error_rat", "an unknown key", "(did you mean error_rate?)"),
        ("{checkouts: {margin: 1%}}", "checkouts", "an unknown key", "metrics of your own, each with signal and margin"),
        ("{x: {signal: a, margin: 1%, directon: drop}}", "x.directon", "an unknown key", "(did you mean direction?)"),
        ("{x: {signal: a}}", "x.margin", "nothing", "required: a percentage from 0% to 10000%"),
        ("{X: {signal: a, margin: 1%}}", "X", "the name 'X'", "1 to 40 of a-z, 0-9, '_', '.' and '-'"),
        ("{metrics: {a: {signal: a, margin: 1%}}, X: {signal: a, margin: 1%}}", "X", "the name 'X'", "1 to 40 of"),
        ("{x: {signal: A B, margin: 1%}}", "x.signal", "'A B'", "1 to 40 of a-z, 0-9, '_', '.' and '-'"),
        ("{x: {signal: a, margin: -1%}}", "x.margin", "'-1%'", "a percentage from 0% to 10000%"),
        ("{x: {signal: a, margin: 0.000%}}", "x.margin", "'0.000%'", "above 0% for a mean"),
        ("{x: {signal: a, margin: 1%}, metrics: {x: {signal: a, margin: 1%}}}", "x", "the same metric again", "each metric once"),
        ("{metrics: {error_rate: {signal: a, margin: 1%}}}", "metrics.error_rate", "the name 'error_rate'", "no built-in metric"),
        ("{latency.p99: {signal: a, margin: 1%}}", '["latency.p99"]', "the name 'latency.p99'", "no built-in metric"),
        ("{x: {signal: a, margin: 1%, quantile: p99}}", "x.quantile", "'p99'", "only where the signal is a histogram"),
        ("{x: {signal: a, margin: 1%, or_ratio: 2}}", "x.or_ratio", "2", "only where the signal has requests"),
        (f"{{x: {{signal: api, margin: 1%}}, {HISTOGRAM}}}", "x.quantile", "nothing", "required where the signal is a histogram"),
        (f"{{x: {{signal: api, margin: 1%, quantile: p99, direction: drop}}, {HISTOGRAM}}}", "x.direction", "'drop'", "rise where"),
        (f"{{x: {{signal: api, margin: 99.01%}}, {RATE}}}", "x.margin", "'99.01%'", "at most 99% where the signal has requests"),
        ("{error_rate: {margin: -0.1%}}", "error_rate.margin", "'-0.1%'", "a percentage from 0% to 99%"),
        ("{error_rate: {margin: 100%}}", "error_rate.margin", "'100%'", "a percentage from 0% to 99%"),
        ("{error_rate: {margin: 0.1}}", "error_rate.margin", "0.1", "a percentage from 0% to 99%"),
        ("{error_rate: {margin: .nan}}", "error_rate.margin", "nan", "a percentage from 0% to 99%"),
        ("{error_rate: {or_ratio: .inf}}", "error_rate.or_ratio", "inf", "a number from 1 to 1000, or none"),
        ("{error_rate: {or_ratio: 0.9}}", "error_rate.or_ratio", "0.9", "a number from 1 to 1000, or none"),
        ("{error_rate: {signal: api}}", "error_rate.signal", "'api'", "one of sources that has requests and errors"),
        ("{error_rate: }", "error_rate", "nothing", "signal, or none"),
        ("{error_rate: none}", "error_rate", "none, and no other metric", "at least one metric that is not in dry run"),
        ("{error_rate: {dry_run: true}}", "error_rate", "only metrics in dry run", "at least one metric that is not in dry run"),
        ("{latency: {p98: {}}}", "latency.p98", "the name 'p98'", "p50, p75, p90, p95, p99, p99.5 or p99.9"),
        ("{latency: {p99: {margin: 10001%}}}", "latency.p99.margin", "'10001%'", "a percentage from 0% to 10000%"),
        ("{false_alarm: 0%}", "false_alarm", "'0%'", "a percentage from 0.0001% to 49%"),
        ("{false_pass: 50%}", "false_pass", "'50%'", "a percentage from 0.0001% to 49%"),
        ("{warmup: 15m}", "deadline", "'15m'", "longer than warmup (15m)"),
        ("{warmup: 5m, deadline: 4m}", "deadline", "'4m'", "longer than warmup (5m)"),
        ("{min_duration: 5m, deadline: 4m}", "deadline", "'4m'", "at least min_duration (5m)"),
        ("{when_unsure: wait}", "when_unsure", "'wait'", "hold, promote or rollback"),
        ("{slo: {}}", "slo.target", "nothing", "required: a percentage from 1% to 99.9999%"),
        ("{slo: {target: 100%}}", "slo.target", "'100%'", "a percentage from 1% to 99.9999%"),
        ("{sources: {a: {kind: statsd}}}", "sources.a.kind", "'statsd'", "events, prometheus or http"),
        ("{sources: {a: {kind: events, value: a}}}", "sources.a.value", "'a'", "nothing with kind: events"),
        ("{sources: {a: {kind: prometheus, value: a}}}", "sources.a.url", "nothing", "required with kind: prometheus: a URL"),
        (f"{{sources: {{a: {{{PROMETHEUS}}}}}}}", "sources.a", "no query", "requests and errors, or histogram"),
        (f"{{sources: {{a: {{{PROMETHEUS}, errors: a}}}}}}", "sources.a.errors", "errors", "requests and errors together"),
        (f"{{sources: {{a: {{{PROMETHEUS}, requests: a, histogram: b}}}}}}", "sources.a.requests", "requests and histogram", "together"),
        (f"{{sources: {{a: {{{PROMETHEUS}, value: a, per: event}}}}}}", "sources.a.per", "'event'", "only with kind: events"),
        ("{sources: {a: {kind: http, url: 'ftp://h', value: $.a}}}", "sources.a.url", "'ftp://h'", "begins with http:// or https://"),
        ("{sources: {a: {kind: http, url: 'http://h/{slut}', value: $.a}}}", "sources.a.url", "{slut}", "only {service}, {environment}"),
        ("{sources: {a: {kind: http, url: 'http://h/{slot', value: $.a}}}", "sources.a.url", "{slot", "only {service}, {environment}"),
        ("{sources: {a: {kind: http, url: 'http://h', value: a b}}}", "sources.a.value", "'a b'", "with kind: http, a JSON path"),
        ("{sources: {a: {kind: http, url: 'http://h', value: '$.{pod}'}}}", "sources.a.value", "{pod}", "only {service}, {environment}"),
    ],
)  # fmt: skip
def test_a_single_mistake_is_a_single_problem_in_plain_words(block: str, key: str, found: str, allowed: str) -> None:
    (problem,) = problems(block)
    assert (problem.key, problem.found) == (key, found)
    assert allowed in problem.allowed


def test_all_mistakes_are_told_at_once_with_their_lines_wherever_the_block_stands() -> None:
    block = "  warmup: 20m\n  deadline: 5m\n  error_rate:\n    margin: -1%\n  latency:\n    p9: {}\n  sources: {a: 3}\n"
    expected = [(3, "analysis.deadline"), (5, "analysis.error_rate.margin"), (7, "analysis.latency.p9")]
    assert [(p.line, p.key) for p in problems("analysis:\n" + block)][:3] == expected
    with pytest.raises(InvalidConfig) as caught:
        parse(LEAST + "analysis:\n" + block)
    assert [(p.line - 4, p.key) for p in caught.value.problems][:3] == expected
    alone = block.replace("\n  ", "\n")[2:]
    assert [(p.line + 1, f"analysis.{p.key}") for p in problems(alone)][:3] == expected


def test_a_url_with_a_password_or_a_token_is_not_shown() -> None:
    for source in (
        "kind: http, url: 'http://ada:hunter2@h', value: $.a",
        "kind: http, url: 'htp://h/?token=hunter2', value: $.a",
        "kind: events, url: 'http://h/?token=hunter2'",
    ):
        (problem,) = problems(f"{{sources: {{a: {{{source}}}}}}}")
        assert problem.key == "sources.a.url"
        assert "hunter2" not in str(problem)


def test_the_key_that_moved_here_is_told_where_it_is_now() -> None:
    for place, key in (("", "strategy"), ("environments: ", "environments.production.strategy")):
        strategy = "strategy: {limits: {when_unsure: promote}}"
        text = LEAST.replace("production: {}", f"production: {{{strategy}}}") if place else LEAST + strategy + "\n"
        with pytest.raises(InvalidConfig) as caught:
            parse(text)
        (problem,) = caught.value.problems
        assert problem.key == f"{key}.limits.when_unsure"
        assert (problem.found, problem.allowed) == ("a key that has moved", "analysis.when_unsure")


# --- a file of its own


@pytest.mark.parametrize(
    ("text", "line", "key", "found"),
    [
        ("", 0, "the file", "an empty file"),
        ("[]", 1, "the file", "a list"),
        ("3", 1, "the file", "a single value"),
        ("analysis:\n", 1, "analysis", "nothing"),
        ("analysis: {}\nmore: 1\n", 2, "more", "an unknown key"),
        (LEAST, 1, "analysis", "nothing"),
    ],
)
def test_a_file_that_is_no_block_is_one_problem(text: str, line: int, key: str, found: str) -> None:
    (problem,) = problems(text)
    assert (problem.line, problem.key, problem.found) == (line, key, found)
    assert "service:" not in problem.allowed


def test_of_a_whole_crossfade_yaml_only_the_block_is_read() -> None:
    assert read("service: 3\nanalysis: {strict: true}\n", "crossfade.yaml").strict


def test_a_file_is_read_from_its_place_and_named_in_each_problem(tmp_path: Path) -> None:
    path = tmp_path / "analysis.yaml"
    path.write_bytes(b"\xef\xbb\xbfstrict: true\n")
    assert load(path).strict
    path.write_text("strict: true\nwarmap: 1s\n")
    with pytest.raises(InvalidConfig, match=r"analysis\.yaml:2: warmap: found an unknown key"):
        load(path)
    path.write_bytes(b"strict: true\nx: \xff\n")
    with pytest.raises(InvalidConfig, match=r"analysis\.yaml:2: the file: found the byte 0xff"):
        load(path)
    with pytest.raises(NotFound, match="holds the analysis block"):
        load(tmp_path / "none.yaml")
