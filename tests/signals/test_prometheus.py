"""What only the real Prometheus can show: labels, what has vanished or become old, and its own words for faults."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from crossfade.domain.analysis.policy import Source, SourceKind
from crossfade.domain.analysis.totals import increase, since
from crossfade.domain.errors import Unavailable
from crossfade.signals.sources import ElsewhereSources
from crossfade.spec.openslo import read as read_openslo
from tests.free_port import free_port
from tests.routers.rig import until
from tests.signals.rig import Application, Prometheus

ARM = {"service": "shop", "environment": "production", "slot": "green", "release": "r2", "arm": "candidate"}
BASELINE = {**ARM, "slot": "blue", "release": "r1", "arm": "baseline"}


@pytest.fixture(scope="module")
def application() -> Iterator[Application]:
    with Application() as application:
        yield application


@pytest.fixture(scope="module")
def prometheus(application: Application) -> Iterator[Prometheus]:
    with Prometheus(application.port) as prometheus:
        yield prometheus


@pytest.fixture
def ask(application: Application, prometheus: Prometheus) -> Any:
    """Exposes lines, waits for them to be scraped, and reads a source."""

    def read(*lines: str, arm: dict[str, str] = ARM, **queries: Any) -> Any:
        application.lines = list(lines)
        while True:
            prometheus.scraped(application)
            try:
                found = ElsewhereSources().read(source(prometheus, **queries), arm)
            except Unavailable:
                if prometheus.steady():
                    raise
            else:
                if prometheus.steady():
                    return found

    return read


def source(prometheus: Prometheus, **queries: Any) -> Source:
    return Source("own", SourceKind.PROMETHEUS, prometheus.url, **{"timeout": 10.0, **queries})


REQUESTS = 'http_requests_total{{release="{}",code="{}"}} {}'
BY_RELEASE = {
    "requests": 'http_requests_total{service!="x",release="{release}"}',
    "errors": 'http_requests_total{release="{release}",code=~"5.."}',
}


def test_the_labels_of_an_arm_choose_its_series_and_the_braces_of_promql_stay(ask: Any) -> None:
    lines = [REQUESTS.format(r, c, n) for r, c, n in (("r1", 200, 90), ("r1", 503, 1), ("r2", 200, 8), ("r2", 500, 2))]
    candidate, baseline = ask(*lines, **BY_RELEASE), ask(*lines, arm=BASELINE, **BY_RELEASE)
    assert (candidate.sum("requests"), candidate.sum("errors")) == (10, 2)
    assert (baseline.sum("requests"), baseline.sum("errors")) == (91, 1)


def test_an_error_counter_that_does_not_exist_yet_is_no_error_and_then_counts_from_zero(ask: Any) -> None:
    first = ask(REQUESTS.format("r2", 200, 8), **BY_RELEASE)
    assert first.counters["errors"] == {}
    later = ask(REQUESTS.format("r2", 200, 9), REQUESTS.format("r2", 500, 3), **BY_RELEASE)
    assert increase(later, first) == {"requests": 4.0, "errors": 3.0}


def test_errors_and_requests_of_one_process_restart_together_though_their_metrics_have_other_names(ask: Any) -> None:
    queries = {"requests": "seen_total", "errors": "failed_total"}
    first = ask("seen_total 9", "failed_total 5", **queries)
    later = ask("seen_total 10", "failed_total 4", **queries)
    assert increase(later, first) == {"requests": 10.0, "errors": 4.0}


def test_metrics_that_differ_in_their_name_only_are_series_of_their_own(ask: Any) -> None:
    totals = ask("a_seen 4", "b_seen 5", requests='{__name__=~"[ab]_seen"}', errors="vector(0)")
    assert totals.sum("requests") == 9


def test_a_value_may_be_any_expression_that_gives_one_number(ask: Any) -> None:
    assert ask("a 4", "b 5", value="a / on() b").value == pytest.approx(0.8)
    assert ask("a 4", value="scalar(a)").value == 4
    with pytest.raises(Unavailable, match="2 series match"):
        ask('a{x="1"} 4', 'a{x="2"} 5', value="a")


def test_a_gauge_that_was_not_measured_again_is_the_same_observation(ask: Any, prometheus: Prometheus) -> None:
    stamp = int(time.time() * 1000)
    first = ask(f"depth 7 {stamp}", value="depth")
    again = ask(f"depth 7 {stamp}", value="depth")
    assert first.at == again.at == pytest.approx(stamp / 1000)
    assert since(source(prometheus, value="depth"), again, first).means["own"].n == 0
    assert since(source(prometheus, value="depth"), ask("depth 7", value="depth"), first).means["own"].n == 1


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("nothing_of_the_kind", "value: no series matches nothing_of_the_kind"),
        ("a{", "answers HTTP 400: invalid parameter .*parse error"),
        ("a / 0 - a / 0", "NaN|nan: not a number"),
        ("a[1m]", "the query gives a matrix; an instant vector is wanted"),
        ('"text"', "the query gives a string"),
        ("vector(1) / 0", "inf: not a number"),
        ("a offset -1s + on() group_left", "parse error"),
    ],
)
def test_what_cannot_be_read_is_unavailable_with_the_reason_in_a_line(ask: Any, query: str, reason: str) -> None:
    with pytest.raises(Unavailable, match=reason) as caught:
        ask("a 4", value=query)
    assert "\n" not in caught.value.what
    assert len(caught.value.what) < 500


def test_a_sample_that_brings_its_own_time_becomes_stale(ask: Any) -> None:
    old = int((time.time() - 100) * 1000)
    lines = [f'pushed_total{{x="{x}"}} {n} {old}' for x, n in (("1", 5), ("a}b", 6))]
    queries = {"requests": 'pushed_total{x!="{"}', "errors": "vector(0)"}
    with pytest.raises(Unavailable, match=r"requests: stale: the newest sample of .* is 10\d s old, more than .*60 s"):
        ask(*lines, **queries)
    assert ask(*lines, **queries, stale_after=200.0).sum("requests") == 11


def test_one_series_that_is_fresh_is_enough(ask: Any) -> None:
    old = int((time.time() - 100) * 1000)
    assert ask(f'mixed{{x="1"}} 5 {old}', 'mixed{x="2"} 6', requests="mixed", errors="vector(0)").sum("requests") == 11


def test_more_series_than_a_thousand_are_too_many(ask: Any) -> None:
    lines = [f'many_total{{x="{i}"}} 1' for i in range(1001)]
    with pytest.raises(Unavailable, match="1001 series match many_total; at most 1000"):
        ask(*lines, requests="many_total", errors="vector(0)")
    assert ask(*lines[:1000], requests="many_total", errors="vector(0)").sum("requests") == 1000


def test_series_without_le_or_with_other_edges_make_no_histogram(ask: Any) -> None:
    with pytest.raises(Unavailable, match="no label le"):
        ask("a 4", histogram="a")
    with pytest.raises(Unavailable, match=r"two series have the labels .* le=1"):
        ask('a_bucket{le="1"} 4', 'a_bucket{le="1.0"} 4', histogram="a_bucket")
    one, other = 'a_bucket{i="1",le="+Inf"} 4', 'a_bucket{i="2",le="1"} 4'
    with pytest.raises(Unavailable, match="differ in their buckets"):
        ask(one, other, 'a_bucket{i="2",le="+Inf"} 4', histogram="a_bucket")


def test_a_target_that_stopped_is_no_data_at_once_also_in_a_sum(prometheus: Prometheus) -> None:
    with Application() as leaving, Prometheus(leaving.port) as own:
        leaving.lines = ["leaving_total 5"]
        own.scraped(leaving)
        queries = {"requests": "sum(leaving_total)", "errors": "vector(0)"}
        assert ElsewhereSources().read(source(own, **queries), ARM).sum("requests") == 5
        leaving.server.socket.close()
        until(lambda: own.query("leaving_total") == [])
        with pytest.raises(Unavailable, match="no series matches sum"):
            ElsewhereSources().read(source(own, **queries), ARM)
        own.stop()
        with pytest.raises(Unavailable, match=rf"http://127.0.0.1:{own.port}/api/v1/query: connection refused"):
            ElsewhereSources().read(source(own, **queries), ARM)


def test_a_prometheus_that_is_not_there_is_unavailable() -> None:
    nowhere = Source("own", SourceKind.PROMETHEUS, f"http://user:hunter2@127.0.0.1:{free_port()}", value="up")
    with pytest.raises(Unavailable, match="connection refused") as caught:
        ElsewhereSources().read(nowhere, ARM)
    assert "hunter2" not in str(caught.value)


OPENSLO = """
apiVersion: openslo/v1
kind: SLO
metadata: {{name: pages}}
spec:
  service: shop
  budgetingMethod: Occurrences
  timeWindow: [{{duration: 30d, isRolling: true}}]
  objectives: [{{displayName: pages, target: 0.99}}]
  indicator:
    metadata: {{name: pages}}
    spec:
      ratioMetric:
        counter: true
        good: {{metricSource: {{type: Prometheus, spec: {{query: '{good}'}}}}}}
        total: {{metricSource: {{type: Prometheus, spec: {{query: '{total}'}}}}}}
"""


@pytest.mark.parametrize(
    ("good", "total", "lines", "counted"),
    [
        (
            'sum(rate(http_requests_total{code!~"5.."}[5m]))',
            "sum(rate(http_requests_total[5m]))",
            [
                'http_requests_total{code="200"} 97',
                'http_requests_total{code="503"} 2',
                'http_requests_total{code="404"} 1',
            ],
            (100, 2),
        ),
        (
            'sum(increase(took_seconds_bucket{le="0.3"}[5m]))',
            "sum(increase(took_seconds_count[5m]))",
            ['took_seconds_bucket{le="0.3"} 90', 'took_seconds_bucket{le="+Inf"} 100', "took_seconds_count 100"],
            (100, 10),
        ),
        (
            "answered_total",
            "asked_total",
            ['answered_total{pod="a"} 5', 'asked_total{pod="a"} 7', 'asked_total{pod="b"} 3'],
            (10, 5),
        ),
    ],
)
def test_what_an_openslo_file_counts_is_counted_by_prometheus(
    ask: Any, good: str, total: str, lines: list[str], counted: tuple[int, int]
) -> None:
    (made,) = read_openslo([("pages.yaml", OPENSLO.format(good=good, total=total))], "http://here").sources.values()
    found = ask(*lines, requests=made["requests"], errors=made["errors"])
    assert (found.sum("requests"), found.sum("errors")) == counted
