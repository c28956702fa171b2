"""The promises of `ports.Sources`, kept by Prometheus, by JSON over HTTP, and by their twin."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from crossfade.domain.analysis.policy import Source, SourceKind
from crossfade.domain.analysis.sample import Histogram, Moments
from crossfade.domain.analysis.totals import Totals, bucket, increase, since
from crossfade.domain.errors import Unavailable
from crossfade.fakes.sources import FakeSources
from crossfade.ports import Sources
from crossfade.signals.sources import ElsewhereSources
from tests.signals.rig import Application, Prometheus

COUNTERS = ("requests", "errors", "count", "sum", "sum_squares")
SHAPES = {"rate": ("requests", "errors"), "histogram": ("histogram",), "mean": COUNTERS[2:], "gauge": ("value",)}
OTHER = {"baseline": "candidate", "candidate": "baseline"}


def arm(name: str = "candidate") -> dict[str, str]:
    slot, release = ("green", "r2") if name == "candidate" else ("blue", "r1")
    return {"service": "shop", "environment": "production", "slot": slot, "release": release, "arm": name}


@dataclass
class Bench:
    """Sources of each shape, and an application that counts what they give."""

    sources: Sources
    source: Callable[[str], Source]
    application: Application
    settle: Callable[[], None]

    def set(self, name: str, series: str = "w1", **fields: float) -> None:
        """These are now the numbers of one series of an arm."""
        with self.application.lock:
            if "value" in fields:
                self.application.values[name] = fields.pop("value")
            for field, number in fields.items():
                self.application.numbers.setdefault(name, {}).setdefault(field, {})[series] = number
        self.settle()

    def set_buckets(self, name: str, counts: dict[float, float], series: str = "w1") -> None:
        with self.application.lock:
            self.application.buckets.setdefault(name, {})[series] = counts
        self.settle()

    def read(self, shape: str, name: str = "candidate") -> Totals:
        return self.sources.read(self.source(shape), arm(name))


@pytest.fixture(scope="module")
def scraped() -> Iterator[tuple[Application, Prometheus]]:
    with Application() as application, Prometheus(application.port) as prometheus:
        yield application, prometheus


@pytest.fixture(params=["fake", "http", "prometheus"])
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    if request.param == "prometheus":
        application, prometheus = request.getfixturevalue("scraped")
        application.numbers, application.buckets, application.values = {}, {}, {}
        queries = {field: f'app_{field}_total{{arm="{{arm}}"}}' for field in COUNTERS}
        queries |= {"histogram": 'app_seconds_bucket{arm="{arm}"}', "value": 'app_value{arm="{arm}"}'}

        def by_promql(shape: str) -> Source:
            mine = {field: queries[field] for field in SHAPES[shape]}
            return Source(shape, SourceKind.PROMETHEUS, prometheus.url, timeout=10.0, **mine)  # type: ignore[arg-type]  # mypy takes all keywords for one type

        yield Bench(ElsewhereSources(), by_promql, application, lambda: prometheus.scraped(application))
        return
    if request.param == "http":
        paths = {field: f"$.workers[*].{field}" for field in COUNTERS} | {
            "histogram": "$.seconds[*]",
            "value": "$.value",
        }
        with Application() as application:

            def by_path(shape: str) -> Source:
                mine = {field: paths[field] for field in SHAPES[shape]}
                return Source(shape, SourceKind.HTTP, application.url + "/{arm}", timeout=10.0, **mine)  # type: ignore[arg-type]  # as above

            yield Bench(ElsewhereSources(), by_path, application, lambda: None)
        return
    fake, application = FakeSources(), Application()

    def copy() -> None:
        for shape in SHAPES:
            for name in OTHER:
                for field, series in application.numbers.get(name, {}).items():
                    for one, number in series.items():
                        fake.set(shape, name, one, **{field: number})
                for one, counts in application.buckets.get(name, {}).items():
                    fake.set_buckets(shape, name, counts, one)
                if name in application.values:
                    fake.set(shape, name, value=application.values[name])

    yield Bench(fake, lambda shape: Source(shape, **{f: f for f in SHAPES[shape]}), application, copy)  # type: ignore[arg-type]  # as above
    application.server.server_close()


def test_each_arm_has_counts_of_its_own(bench: Bench) -> None:
    bench.set("candidate", requests=10, errors=2)
    bench.set("baseline", requests=90, errors=1)
    candidate, baseline = bench.read("rate"), bench.read("rate", "baseline")
    assert (candidate.sum("requests"), candidate.sum("errors")) == (10, 2)
    assert (baseline.sum("requests"), baseline.sum("errors")) == (90, 1)


def test_increments_are_those_of_all_series_together(bench: Bench) -> None:
    bench.set("candidate", "w1", requests=10, errors=2)
    bench.set("candidate", "w2", requests=20, errors=0)
    first = bench.read("rate")
    bench.set("candidate", "w1", requests=15, errors=3)
    bench.set("candidate", "w2", requests=22, errors=1)
    assert since(bench.source("rate"), bench.read("rate"), first).rates == {"rate": (7.0, 2.0)}


def test_a_process_that_begins_again_counts_from_zero(bench: Bench) -> None:
    bench.set("candidate", "w1", requests=100, errors=50)
    bench.set("candidate", "w2", requests=100, errors=5)
    first = bench.read("rate")
    bench.set("candidate", "w1", requests=3, errors=1)
    assert increase(bench.read("rate"), first) == {"requests": 3.0, "errors": 1.0}


def test_a_process_that_is_new_counts_from_zero(bench: Bench) -> None:
    bench.set("candidate", "w1", requests=100, errors=50)
    bench.set("candidate", "w2", requests=0, errors=0)
    first = bench.read("rate")
    bench.set("candidate", "w3", requests=4, errors=0)
    assert increase(bench.read("rate"), first) == {"requests": 4.0, "errors": 0.0}


def test_a_histogram_has_counts_by_edge(bench: Bench) -> None:
    bench.set_buckets("candidate", {0.1: 5, 0.5: 8, math.inf: 9})
    bench.set_buckets("candidate", {0.1: 1, 0.5: 1, math.inf: 1}, "w2")
    first = bench.read("histogram")
    assert first.sum(bucket(0.5)) == 9
    bench.set_buckets("candidate", {0.1: 6, 0.5: 11, math.inf: 13})
    found = since(bench.source("histogram"), bench.read("histogram"), first).histograms
    assert found == {"histogram": Histogram((100.0, 500.0), (1.0, 2.0, 1.0))}


def test_a_mean_is_the_moments_of_the_new_values(bench: Bench) -> None:
    bench.set("candidate", count=2, sum=30, sum_squares=500)
    first = bench.read("mean")
    bench.set("candidate", count=4, sum=40, sum_squares=600)
    found = since(bench.source("mean"), bench.read("mean"), first).means
    assert found == {"mean": Moments(2.0, 10.0, 100.0)}


def test_a_gauge_is_its_value_now(bench: Bench) -> None:
    bench.set("candidate", value=2.5)
    first = bench.read("gauge")
    assert first.value == 2.5
    bench.set("candidate", value=-4)
    found = since(bench.source("gauge"), bench.read("gauge"), first).means
    assert found == {"gauge": Moments(1.0, -4.0, 16.0)}


@pytest.mark.parametrize("shape", list(SHAPES))
def test_an_arm_of_which_nothing_is_known_is_unavailable(bench: Bench, shape: str) -> None:
    bench.set("baseline", requests=1, errors=0, count=1, sum=1, sum_squares=1, value=1)
    bench.set_buckets("baseline", {0.1: 1, math.inf: 1})
    bench.read(shape, "baseline")
    with pytest.raises(Unavailable, match=r"no series matches|nothing is at"):
        bench.read(shape)


def test_more_errors_than_requests_are_reported(bench: Bench) -> None:
    bench.set("candidate", requests=3, errors=4)
    with pytest.raises(Unavailable, match="4 errors are more than 3 requests"):
        bench.read("rate")


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_what_is_no_number_is_reported(bench: Bench, number: float) -> None:
    bench.set("candidate", requests=5, errors=0, value=number)
    with pytest.raises(Unavailable, match="not a number"):
        bench.read("gauge")
    bench.set("candidate", requests=number, errors=0)
    with pytest.raises(Unavailable, match="not a number"):
        bench.read("rate")


def test_a_negative_counter_is_reported(bench: Bench) -> None:
    bench.set("candidate", requests=5, errors=-1)
    with pytest.raises(Unavailable, match="never negative"):
        bench.read("rate")


def test_a_histogram_without_its_last_bucket_is_reported(bench: Bench) -> None:
    bench.set_buckets("candidate", {0.1: 1, 0.5: 1})
    with pytest.raises(Unavailable, match=r"no \+Inf bucket|no series matches"):
        bench.read("histogram")
