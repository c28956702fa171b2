"""OpenSLO files: what of them is counted and how, and what is refused, with file, line and what is allowed."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crossfade.bootstrap.pipelines import describe
from crossfade.bootstrap.state import read_config
from crossfade.domain.analysis.policy import Shape
from crossfade.domain.errors import Invalid, InvalidConfig, Problem
from crossfade.domain.slo import Kind, Objective
from crossfade.domain.values import DAY
from crossfade.spec import openslo_queries as queries
from crossfade.spec.loader import load, parse
from crossfade.spec.openslo import SOMEWHERE, convert, read

LEAST = """\
service: bookshop
run: {command: [./shop]}
health: [{name: it answers, path: /health}]
environments: {production: {}}
"""

# As tools that keep to the specification write them: one document each, with the indicator inside.
AVAILABILITY = """\
apiVersion: openslo/v1
kind: SLO
metadata:
  name: checkout-availability
  displayName: Checkout answers
  labels: {team: [shop]}
  annotations: {example.com/enabled: "true"}
spec:
  description: 99 percent of requests succeed over a rolling 28-day window.
  service: checkout
  budgetingMethod: Occurrences
  timeWindow:
    - duration: 28d
      isRolling: true
  indicator:
    metadata:
      name: checkout-success-ratio
    spec:
      ratioMetric:
        counter: true
        good:
          metricSource:
            type: Prometheus
            spec:
              query: 'http_server_request_duration_seconds_count{service_name="checkout",http_response_status_code!~"5.."}'
        total:
          metricSource:
            type: Prometheus
            spec:
              query: 'http_server_request_duration_seconds_count{service_name="checkout"}'
  objectives:
    - displayName: 99% availability
      target: 0.99
"""

# Several documents that refer to each other, with the kinds around them.
WHOLE = """\
# What the shop promises.
apiVersion: openslo/v1
kind: Service
metadata: {name: shop}
spec: {description: Sells books}
---
apiVersion: openslo/v1
kind: DataSource
metadata:
  name: metrics
spec:
  type: Prometheus
  connectionDetails:
    url: http://prometheus.internal:9090
---
apiVersion: openslo/v1
kind: SLI
metadata: {name: failures}
spec:
  description: requests that failed
  ratioMetric:
    counter: true
    bad:
      metricSource:
        metricSourceRef: metrics
        spec: {query: 'sum(rate(http_requests_total{code=~"5.."}[5m]))'}
    total:
      metricSource:
        metricSourceRef: metrics
        spec: {query: 'sum(rate(http_requests_total[5m]))'}
...
---
apiVersion: openslo/v1
kind: SLO
metadata: {name: Shop Answers}
spec:
  service: shop
  indicatorRef: failures
  timeWindow: [{duration: 4w, isRolling: true}]
  budgetingMethod: Occurrences
  objectives:
    - {displayName: good, targetPercent: 99.9}
    - {displayName: better, target: 0.9995}
  alertPolicies:
    - alertPolicyRef: high-burn
---
apiVersion: openslo/v1
kind: AlertPolicy
metadata: {name: high-burn}
spec: {alertWhenBreaching: true}
"""

LATENCY = """\
- apiVersion: openslo/v1
  kind: SLO
  metadata: {name: fast}
  spec:
    indicator:
      spec:
        thresholdMetric:
          metricSource:
            type: prometheus
            spec: {query: 'sum by (le) (rate(http_request_duration_seconds_bucket{job="shop"}[5m]))'}
    timeWindow: [{duration: 30d, isRolling: true}]
    budgetingMethod: Occurrences
    objectives: [{op: lte, value: 0.3, target: 0.95}]
"""

PARTS = """\
apiVersion: openslo/v1
kind: SLO
metadata: {name: fast}
spec:
  indicator:
    spec:
      ratioMetric:
        counter: true
        good: {metricSource: {type: Prometheus, spec: {query: 'latency_seconds_bucket{job="shop",le="0.3"}'}}}
        total: {metricSource: {type: Prometheus, spec: {query: 'latency_seconds_count{job="shop"}'}}}
  budgetingMethod: Occurrences
  objectives: [{target: 0.95}]
"""


def told(*texts: str, url: str = SOMEWHERE) -> list[str]:
    with pytest.raises(InvalidConfig) as caught:
        read([(f"{number}.yaml", text) for number, text in enumerate(texts, 1)], url)
    return [str(problem) for problem in caught.value.problems]


def test_good_and_total_of_one_metric_become_the_series_that_are_not_good() -> None:
    found = read([("a.yaml", AVAILABILITY)], SOMEWHERE)
    assert found.objectives == [
        {"name": "checkout-availability", "target": "99%", "window": "28d", "signal": "checkout-availability"}
    ]
    all_of_it = 'http_server_request_duration_seconds_count{service_name="checkout"}'
    good = 'http_server_request_duration_seconds_count{service_name="checkout",http_response_status_code!~"5.."}'
    assert found.sources == {
        "checkout-availability": {
            "kind": "prometheus",
            "url": SOMEWHERE,
            "requests": all_of_it,
            "errors": f"{all_of_it} unless {good}",
        }
    }


def test_a_bucket_and_the_count_of_a_histogram_become_their_difference_series_by_series() -> None:
    (source,) = read([("a.yaml", PARTS)], SOMEWHERE).sources.values()
    count, bucket = 'latency_seconds_count{job="shop"}', 'latency_seconds_bucket{job="shop",le="0.3"}'
    assert (source["requests"], source["errors"]) == (count, f"({count} - ignoring(le) {bucket}) or {count}")


def test_documents_refer_to_each_other_and_each_objective_gets_a_name() -> None:
    found = read([("a.yaml", WHOLE)])
    assert found.objectives == [
        {"name": "shop-answers-99.9", "target": "99.9%", "window": "28d", "signal": "shop-answers"},
        {"name": "shop-answers-99.95", "target": "99.95%", "window": "28d", "signal": "shop-answers"},
    ]
    assert found.sources == {
        "shop-answers": {
            "kind": "prometheus",
            "url": "http://prometheus.internal:9090",
            "requests": "http_requests_total",
            "errors": 'http_requests_total{code=~"5.."}',
        }
    }
    assert found.ignored == ["Service shop", "AlertPolicy high-burn"]


def test_many_documents_behind_many_lines_take_no_longer_than_their_text() -> None:
    # Each of them with the lines before it would be 180 MB, and take minutes.
    with pytest.raises(InvalidConfig) as told:
        read([("a.yaml", "\n" * 900_000 + "---\nkind: SLO\n" * 200)])
    assert (len(told.value.problems), told.value.problems[0].line, told.value.problems[-1].line) == (
        200,
        900_002,
        900_400,
    )
    with pytest.raises(InvalidConfig, match="more than 200 documents"):
        read([("a.yaml", "---\nkind: SLO\n" * 60_000)])


def test_files_refer_to_each_other() -> None:
    documents = WHOLE.split("---\n")
    assert (
        read([(f"{n}.yaml", text) for n, text in enumerate(reversed(documents))]).sources
        == read([("a", WHOLE)]).sources
    )


def test_a_threshold_of_a_histogram_becomes_latency() -> None:
    found = read([("a.yaml", LATENCY)], SOMEWHERE)
    assert found.objectives == [
        {"name": "fast", "kind": "latency", "under": "0.3s", "target": "95%", "window": "30d", "signal": "fast"}
    ]
    (source,) = found.sources.values()
    assert source["histogram"] == 'http_request_duration_seconds_bucket{job="shop"}'


def test_objectives_that_are_counted_alike_share_a_source() -> None:
    other = WHOLE.split("---\n")[3].replace("Shop Answers", "shop-too")
    assert list(read([("a.yaml", WHOLE), ("b.yaml", other)]).sources) == ["shop-answers"]


@pytest.mark.parametrize(
    ("query", "counted"),
    [
        ("a_total", "a_total"),
        (" sum ( a_total ) ", "a_total"),
        ('sum(rate(a_total{b="x)]{"}[5m])) by (c, d)', 'a_total{b="x)]{"}'),
        ("sum without (pod) (increase(a:b_total{x='y'}[{{.window}}]))", "a:b_total{x='y'}"),
        ("((rate(a[1h])))", "a"),
        ("sum(a) / sum(b)", None),
        ("sum(a) + sum(b)", None),
        ("avg(a)", None),
        ("histogram_quantile(0.9, rate(a_bucket[5m]))", None),
        ("a offset 5m", None),
        ("rate(sum(a)[5m:])", None),
        ('{__name__="a"}', None),
        ("up == 0", None),
        ("", None),
        ("(" * 50 + "a" + ")" * 50, None),
    ],
)
def test_the_counter_behind_a_query_is_found_or_nothing_is(query: str, counted: str | None) -> None:
    assert queries.counter(query) == counted


@settings(deadline=None)
@given(st.text(st.sampled_from("sumrate()[]{}\"'`=, 5m\n\\ab_"), max_size=200))
def test_no_query_crashes_and_what_is_found_is_a_selector(query: str) -> None:
    found = queries.counter(query)
    assert found is None or queries.name_of(found)


def edit(old: str, new: str, text: str = AVAILABILITY) -> str:
    assert old in text
    return text.replace(old, new)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (edit("openslo/v1", "openslo/v2alpha"), "1.yaml:1: apiVersion: found 'openslo/v2alpha'; allowed: openslo/v1"),
        (
            edit("kind: SLO", "kind: UserJourney"),
            ("1.yaml:2: kind: found 'UserJourney'; allowed: SLO, SLI, DataSource, Service, AlertPolicy, AlertCondition, "
            "AlertNotificationTarget"),
        ),
        (edit("  name: checkout-availability\n", ""), "1.yaml:3: metadata.name: found nothing; allowed: required: a name"),
        (
            edit("name: checkout-availability", "name: '@@'"),
            "1.yaml:4: metadata.name: found '@@'; allowed: ",
        ),
        (
            edit("method: Occurrences".replace("method", "budgetingMethod"), "budgetingMethod: Timeslices"),
            "1.yaml:11: spec.budgetingMethod: found 'Timeslices'; allowed: Occurrences: requests are counted, not slices of time",
        ),
        (
            edit("isRolling: true", "isRolling: false"),
            ("1.yaml:13: spec.timeWindow[0]: found a window of the calendar; "
            "allowed: isRolling: true: a budget that moves along with time"),
        ),
        (
            edit("duration: 28d", "duration: 90d"),
            "1.yaml:13: spec.timeWindow[0].duration: found '90d'; allowed: at most 35d: what was counted is kept so long",
        ),
        (
            edit("duration: 28d", "duration: 1M"),
            "1.yaml:13: spec.timeWindow[0].duration: found '1M'; allowed: a number with m, h, d or w, from 1h to 35d",
        ),
        (
            edit("target: 0.99\n", "target: 1.0\n"),
            ("1.yaml:33: spec.objectives[0].target: found 1.0; allowed: at most 99.9999%: with 100% there is no error budget, "
            "and each failed request would be an alarm"),
        ),
        (
            edit("target: 0.99\n", "target: 99.9\n"),
            "1.yaml:33: spec.objectives[0].target: found 99.9; allowed: a percentage from 1% to 99.9999%, as a share: 0.999",
        ),
        (
            edit("target: 0.99\n", "timeSliceTarget: 0.99\n"),
            "1.yaml:32: spec.objectives[0]: found neither; allowed: one of target and targetPercent",
        ),
        (
            edit("      target: 0.99\n", "      target: 0.99\n      compositeWeight: 1\n"),
            ("1.yaml:34: spec.objectives[0].compositeWeight: found an unknown key; allowed: displayName, op, value, target, "
            "targetPercent, timeSliceTarget, timeSliceWindow"),
        ),
        (
            edit("counter: true", "counter: false"),
            "1.yaml:20: spec.indicator.spec.ratioMetric.counter: found false; allowed: true: requests are counted by counters",
        ),
        (
            edit("        good:", "        raw: {}\n        good:"),
            ("1.yaml:21: spec.indicator.spec.ratioMetric.raw: found a ratio that was worked out already; allowed: total with "
            "good or bad: a ratio does not say how many requests there were"),
        ),
        (
            edit("        good:", "        best:"),
            ("1.yaml:21: spec.indicator.spec.ratioMetric.best: found an unknown key; allowed: counter, good, bad, total, raw, "
            "rawType"),
        ),
        (
            edit("type: Prometheus\n            spec:\n              query: 'http_server_request_duration_seconds_count{service_name=\"checkout\"}'",
                 "type: Datadog\n            spec:\n              query: 'sum:trace.http.hits'"),
            "1.yaml:28: spec.indicator.spec.ratioMetric.total.metricSource.type: found 'Datadog'; allowed: Prometheus",
        ),
        (
            edit("'http_server_request_duration_seconds_count{service_name=\"checkout\"}'", "sum(a) / sum(b)"),
            ("1.yaml:30: spec.indicator.spec.ratioMetric.total.metricSource.spec.query: found 'sum(a) / sum(b)'; allowed: a "
            "counter by its name, also in sum(…) and in rate(…[5m]) or increase(…[5m])"),
        ),
        (
            edit("  indicator:\n", "  indicatorRef: x\n  indicator:\n"),
            "1.yaml:16: spec.indicator: found both; allowed: one of indicator and indicatorRef",
        ),
        (
            edit("sum by (le) (rate(http_request_duration_seconds_bucket{job=\"shop\"}[5m]))", "queue_depth", LATENCY),
            ("1.yaml:10: [0].spec.indicator.spec.thresholdMetric.metricSource.spec.query: found 'queue_depth'; allowed: the "
            "_bucket series of a histogram in seconds: single values do not say how many requests there were"),
        ),
        (
            edit("sum by (le) (rate(http_request_duration_seconds_bucket{job=\"shop\"}[5m]))", "took_ms_bucket", LATENCY),
            ("1.yaml:10: [0].spec.indicator.spec.thresholdMetric.metricSource.spec.query: found 'took_ms_bucket'; allowed: a "
            "histogram in seconds"),
        ),
        (
            edit("sum by (le) (rate(", "histogram_quantile(0.9, rate(", LATENCY),
            "1.yaml:10: [0].spec.indicator.spec.thresholdMetric.metricSource.spec.query: found ",
        ),
        (
            edit("op: lte", "op: gt", LATENCY),
            "1.yaml:13: [0].spec.objectives[0].op: found 'gt'; allowed: lt or lte: what takes longer is bad",
        ),
        (
            edit("value: 0.3", "value: 500", LATENCY),
            "1.yaml:13: [0].spec.objectives[0].value: found 500; allowed: seconds, from 0.001 to 300",
        ),
        (
            edit("http://prometheus.internal:9090", "http://ada:secret@prometheus.internal", WHOLE),
            ("1.yaml:14: spec.connectionDetails.url: found a value that is not shown; allowed: a URL that begins with http:// or "
            "https://, without a user name and password"),
        ),
        (
            edit("indicatorRef: failures", "indicatorRef: others", WHOLE),
            "1.yaml:38: spec.indicatorRef: found 'others'; allowed: the name of an SLI: failures",
        ),
        ("just text\n", "1.yaml:1: the file: found 'just text'; allowed: a mapping of apiVersion, kind, metadata, spec"),
        ("# nothing\n---\n", "1.yaml: the file: found an empty file; allowed: objects of OpenSLO, at least one SLO"),
        ("a: 1\n---\nb: [\n", "1.yaml:1: apiVersion: found nothing; allowed: openslo/v1"),
    ],
)  # fmt: skip
def test_what_cannot_be_counted_is_refused_with_its_line_and_what_is_allowed(text: str, problem: str) -> None:
    said = told(text)
    assert any(one.startswith(problem) for one in said), said


def test_all_problems_of_all_files_are_told_at_once_in_their_order() -> None:
    wrong = edit("budgetingMethod: Occurrences", "budgetingMethod: Timeslices")
    said = told(wrong + "---\n" + edit("openslo/v1", "v1"), edit("kind: SLO", "kind: X"))
    assert [one.split(": found")[0] for one in said] == [
        "1.yaml:11: spec.budgetingMethod",
        "1.yaml:35: apiVersion",
        "2.yaml:2: kind",
    ]


def test_where_prometheus_is_must_be_said_somewhere() -> None:
    (said,) = told(AVAILABILITY, url="")
    assert said.startswith(
        "1.yaml:27: spec.indicator.spec.ratioMetric.total.metricSource.metricSourceRef: found no DataSource; "
        "allowed: the name of a DataSource with connectionDetails.url: there is none"
    )


def test_two_slos_of_one_name_are_refused() -> None:
    (said,) = told(AVAILABILITY, AVAILABILITY)
    assert said.startswith(
        "2.yaml:4: metadata.name: found 'checkout-availability'; allowed: a name that no other SLO has"
    )


def test_what_is_converted_is_a_block_that_a_configuration_can_have() -> None:
    text = convert(WHOLE, "slo/shop.yaml")
    assert (
        text
        == """\
# From slo/shop.yaml. Left out: Service shop, AlertPolicy high-burn.
slo:
  objectives:
    - {name: shop-answers-99.9, target: 99.9%, window: 28d, signal: shop-answers}
    - {name: shop-answers-99.95, target: 99.95%, window: 28d, signal: shop-answers}
  sources:
    shop-answers:
      kind: prometheus
      url: "http://prometheus.internal:9090"
      requests: http_requests_total
      errors: "http_requests_total{code=~\\"5..\\"}"
"""
    )
    config = parse(LEAST + text).for_environment("production")
    assert config.slo.objectives[0] == Objective("shop-answers-99.9", 0.999, window=28 * DAY, signal="shop-answers")
    assert [source.shape for source in config.analysis.sources] == [Shape.RATE]
    for one in (AVAILABILITY, LATENCY, PARTS):
        assert "# From x.yaml. Check url: http://127.0.0.1:9090 is where" in convert(one, "x.yaml")
        assert parse(LEAST + convert(one, "x.yaml")).for_environment("production").slo.objectives


# As `slo.openslo` of a crossfade.yaml.


def project(folder: Path, text: str, **files: str) -> Path:
    path = folder / "crossfade.yaml"
    path.write_text(LEAST + text)
    for name, content in files.items():
        (folder / f"{name}.yaml").write_text(content)
    return path


def test_files_are_read_with_the_configuration_and_what_they_say_is_sent_on_as_data(tmp_path: Path) -> None:
    text = "slo:\n  objectives: [{name: edge, target: 99%}]\n  openslo: [whole.yaml, fast.yaml]\n"
    spec = load(project(tmp_path, text, whole=WHOLE, fast=LATENCY))
    config = spec.for_environment("production")
    assert [one.name for one in config.slo.objectives] == ["edge", "shop-answers-99.9", "shop-answers-99.95", "fast"]
    assert config.slo.objectives[-1] == Objective("fast", 0.95, Kind.LATENCY, 30 * DAY, 0.3, "fast")
    # The latency file does not say where Prometheus is, and neither does the configuration: the DataSource there is one.
    assert {source.url for source in config.analysis.sources} == {"http://prometheus.internal:9090"}
    data = spec.to_data()
    assert "openslo" not in data["slo"]
    assert read_config(data, "bookshop", "production") == config


def test_an_environment_has_files_of_its_own(tmp_path: Path) -> None:
    path = project(tmp_path, "", whole=WHOLE)
    path.write_text(
        LEAST.replace("production: {}", "production: {slo: {openslo: [whole.yaml]}}, staging: {port: 8081}")
    )
    spec = load(path)
    assert len(spec.for_environment("production").slo.objectives) == 2
    assert spec.for_environment("staging").slo.objectives == ()


def test_the_prometheus_of_the_configuration_counts_for_files_that_name_none(tmp_path: Path) -> None:
    judged = 'analysis: {sources: {api: {kind: prometheus, url: "http://p:1", requests: a, errors: b}}}\n'
    spec = load(project(tmp_path, judged + "slo: {openslo: [a.yaml]}\n", a=AVAILABILITY))
    assert {one.url for one in spec.for_environment("production").analysis.sources} == {"http://p:1"}


def test_problems_in_files_are_told_beside_those_of_the_configuration(tmp_path: Path) -> None:
    text = "slo:\n  watch: soon\n  openslo:\n    - a.yaml\n    - gone.yaml\n"
    path = project(tmp_path, text, a=edit("kind: SLO", "kind: X"))
    with pytest.raises(InvalidConfig) as caught:
        load(path)
    assert [(Path(p.file).name, p.line, p.key, p.found) for p in caught.value.problems] == [
        ("crossfade.yaml", 6, "slo.watch", "'soon'"),
        ("crossfade.yaml", 9, "slo.openslo[1]", "'gone.yaml', which is not there"),
    ]
    path = project(tmp_path, "slo:\n  openslo: [a.yaml]\n", a=edit("kind: SLO", "kind: X"))
    with pytest.raises(InvalidConfig, match=r"a\.yaml:2: kind: found 'X'"):
        load(path)


def test_a_name_that_the_configuration_has_already_is_refused_in_the_file(tmp_path: Path) -> None:
    text = "slo: {objectives: [{name: checkout-availability, target: 99%}], openslo: [a.yaml]}\n"
    judged = 'analysis: {sources: {api: {kind: prometheus, url: "http://p:1", requests: a, errors: b}}}\n'
    with pytest.raises(InvalidConfig, match=r"a\.yaml:4: metadata\.name: found 'checkout-availability'"):
        load(project(tmp_path, judged + text, a=AVAILABILITY))


@pytest.mark.parametrize("name", ["/etc/passwd", "../a.yaml", "a/../../b.yaml", "", "a\\b"])
def test_files_are_inside_the_project(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidConfig, match="paths of files inside the project"):
        load(project(tmp_path, f"slo: {{openslo: ['{name}']}}\n"))


def test_a_server_does_not_read_files_that_a_client_has_left_unread() -> None:
    data = parse(LEAST + "slo: {openslo: [a.yaml]}\n").to_data()
    with pytest.raises(Invalid, match=r"a\.yaml"):
        read_config(data, "bookshop", "production")


def test_a_pipeline_reads_the_files_of_its_commit() -> None:
    content = (LEAST + "slo: {openslo: [slo/a.yaml]}\n").encode()
    asked: list[str] = []

    def file(path: str) -> bytes | None:
        asked.append(path)
        return WHOLE.encode()

    assert "shop-answers-99.9" in describe(content, "crossfade.yaml", file).config
    assert asked == ["slo/a.yaml"]
    with pytest.raises(InvalidConfig, match="which is not there"):
        describe(content, "crossfade.yaml", lambda _: None)


def _survives(text: str) -> None:
    problems: tuple[Problem, ...] | None = None
    try:
        read([("a.yaml", text)], SOMEWHERE)
    except InvalidConfig as error:
        problems = error.problems
    assert problems is None or problems
    assert all(p.found and p.allowed and len(p.found) < 300 for p in problems or ())


@settings(deadline=None, max_examples=200)
@given(st.sampled_from([AVAILABILITY, WHOLE, LATENCY]), st.integers(0, 1200), st.integers(0, 60), st.text(max_size=8))
def test_no_cut_or_insertion_crashes_the_reading(text: str, at: int, cut: int, other: str) -> None:
    _survives(text[:at] + other + text[at + cut :])


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@settings(deadline=None, max_examples=200)
@given(st.data())
def test_no_value_anywhere_crashes_the_reading(data: st.DataObject) -> None:
    from crossfade.spec.tree import read as plain
    from tests.spec.specs import as_yaml

    (document,) = [plain(AVAILABILITY).data]
    here = document
    while True:
        key = data.draw(st.sampled_from(sorted(here) if isinstance(here, dict) else range(len(here))))
        if isinstance(here[key], dict | list) and here[key] and data.draw(st.booleans()):
            here = here[key]
            continue
        here[key] = data.draw(JSON)
        break
    _survives(as_yaml(document)[0])
