"""The promises of `ports.Signals`, kept by the edge's and by their twin."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import pytest

from crossfade.domain.analysis import latency
from crossfade.domain.analysis.sample import Moments
from crossfade.domain.errors import NotFound
from crossfade.domain.signal import Reading, VariantFacts
from crossfade.domain.traffic import CONTROL, POOLS, Pool, Slot, Split
from crossfade.domain.values import EVERYTHING, EnvKey
from crossfade.fakes.signals import FakeSignals
from crossfade.ports import Signals
from crossfade.signals.edge import EdgeSignals
from tests.routers.rig import Environment, Rig, until

PATHS = {"": "/", "5xx": "/status/500", "response": "/empty", "broken": "/truncated"}


@dataclass
class Bench:
    """Signals, an environment, and three ways to have requests served: how many, by which pool, failing of what; one,

    by which pool, with which business events in its answer (more than one header line: joined by ``|``); and one, by which
    pool, with which variants and events, status and seconds (None: a stream).
    """

    signals: Signals
    key: EnvKey
    serve: Callable[[int, Pool, str], None]
    tell: Callable[[Pool, str], None]
    answer: Callable[[Pool, str, str, int, float | None], None]

    def reading(self, total: int, since: Reading | None = None) -> Reading:
        """The reading in which so many requests have been counted."""

        def counted() -> Reading | None:
            reading = self.signals.read(self.key).since(since)
            return reading if reading.total().requests >= total else None

        reading = until(counted)
        assert isinstance(reading, Reading)
        return reading


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    with Rig() as rig:
        yield rig


@pytest.fixture(scope="module")
def environment(rig: Rig) -> Environment:
    return rig.environment(control=1)


@pytest.fixture(params=["fake", "edge"])
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    if request.param == "fake":
        fake, key = FakeSignals(), EnvKey("bookshop", "production")
        fake.ensure(key)

        def tell_fake(pool: Pool, header: str) -> None:
            fake.serve(key, pool)
            fake.tell(key, pool, header.replace("|", "\n"))

        yield Bench(
            fake,
            key,
            lambda n, pool, cause: fake.serve(key, pool, n, n if cause else 0, cause=cause or "5xx"),
            tell_fake,
            lambda pool, variants, events, status, seconds: fake.answer(
                key,
                pool,
                variants.replace("|", "\n"),
                events.replace("|", "\n"),
                status=status,
                seconds=seconds,
            ),
        )
        return
    environment: Environment = request.getfixturevalue("environment")

    def turn_to(pool: Pool) -> None:
        blue = Split.wholly(Slot.BLUE)
        whole = Split.wholly(pool) if isinstance(pool, Slot) else blue.with_control(Slot.BLUE, EVERYTHING)
        environment.rig.router.set_split(environment.key, whole, None, 1)

    def tell(pool: Pool, header: str) -> None:
        turn_to(pool)
        answer = environment.get(X_Say_Events=header)
        assert answer.status == 200
        assert "x-crossfade-event" not in answer.headers

    def answer(pool: Pool, variants: str, events: str, status: int, seconds: float | None) -> None:
        turn_to(pool)
        path = "/stream" if seconds is None else f"/slow/{seconds}" if seconds > 0.01 else f"/status/{status}"
        answer = environment.get(path, X_Say_Variants=variants, X_Say_Events=events)
        assert answer.status == status
        assert not {"x-crossfade-event", "x-crossfade-variant"} & set(answer.headers)

    def serve(count: int, pool: Pool, cause: str) -> None:
        turn_to(pool)
        for _ in range(count):
            environment.get(PATHS[cause], method="POST" if cause == "response" else "GET")

    signals = EdgeSignals(environment.rig.folder, environment.rig.run, every=0.2)
    signals.start()
    yield Bench(signals, environment.key, serve, tell, answer)
    signals.stop()


def test_each_request_is_counted_once_in_the_slot_that_served_it(bench: Bench) -> None:
    before = bench.signals.read(bench.key)
    bench.serve(7, Slot.BLUE, "")
    bench.serve(3, Slot.GREEN, "")
    reading = bench.reading(10, before)
    assert (reading.slots[Slot.BLUE].requests, reading.slots[Slot.GREEN].requests) == (7, 3)
    assert reading.total().errors == 0
    assert reading.edge.requests == 0


def test_several_environments_are_read_at_once_and_those_that_are_not_there_are_left_out(bench: Bench) -> None:
    before = bench.signals.read(bench.key)
    bench.serve(3, Slot.BLUE, "")
    bench.reading(3, before)
    found = bench.signals.read_many([bench.key, EnvKey("nobody", "nowhere")])
    assert list(found) == [bench.key]
    assert found[bench.key].since(before).slots[Slot.BLUE].requests == 3
    assert bench.signals.read_many([]) == {}


@pytest.mark.parametrize("cause", ["5xx", "response", "broken"])
def test_each_failed_request_is_counted_once_under_its_cause(bench: Bench, cause: str) -> None:
    before = bench.signals.read(bench.key)
    bench.serve(4, Slot.GREEN, "")
    bench.serve(5, Slot.GREEN, cause)
    green = bench.reading(9, before).slots[Slot.GREEN]
    assert (green.requests, green.errors, green.by_cause) == (9, 5, ((cause, 5),))


def test_each_failure_is_remembered_with_its_time_slot_and_kind(bench: Bench) -> None:
    began = time.time()
    bench.serve(2, Slot.GREEN, "5xx")
    bench.serve(2, Slot.BLUE, "broken")
    until(lambda: len(bench.signals.failures(bench.key, began)) >= 4)
    failures = bench.signals.failures(bench.key, began)
    assert [(f.slot, f.cause, f.transport) for f in failures] == [
        *[(Slot.GREEN, "5xx", False)] * 2,
        *[(Slot.BLUE, "broken", True)] * 2,
    ]
    assert [f.status for f in failures] == [500, 500, 200, 200]
    assert all(began <= f.at <= time.time() for f in failures)
    assert bench.signals.failures(bench.key, failures[-1].at) == ()


def test_latencies_are_sampled_per_slot(bench: Bench) -> None:
    before = bench.signals.read(bench.key)
    bench.serve(20, Slot.BLUE, "")

    def sampled() -> bool:
        return bench.signals.read(bench.key).since(before).latencies[Slot.BLUE].samples >= 20

    until(sampled)
    reading = bench.signals.read(bench.key).since(before)
    p50 = reading.latencies[Slot.BLUE].quantile(0.5)
    assert p50 is not None
    assert 0.00005 < p50 < 2
    assert reading.latencies[Slot.GREEN].samples == 0


def test_readings_of_an_undisturbed_source_are_of_one_segment(bench: Bench) -> None:
    first = bench.signals.read(bench.key)
    bench.serve(1, Slot.BLUE, "")
    second = bench.reading(1, first)
    assert first.segment == second.segment
    assert first.at <= second.at


def test_the_control_pool_is_counted_apart_from_its_slot(bench: Bench) -> None:
    before = bench.signals.read(bench.key)
    began = time.time()
    bench.serve(4, Slot.BLUE, "")
    bench.serve(5, CONTROL, "")
    bench.serve(2, CONTROL, "5xx")
    reading = bench.reading(11, before)
    assert reading.slots[Slot.BLUE].requests == 4
    assert (reading.control.requests, reading.control.errors, reading.control.by_cause) == (7, 2, (("5xx", 2),))
    assert (reading.total().requests, reading.total().errors) == (11, 2)
    until(lambda: bench.signals.read(bench.key).since(before).control_latencies.samples == 7)
    until(lambda: len(bench.signals.failures(bench.key, began)) == 2)
    assert {f.slot for f in bench.signals.failures(bench.key, began)} == {CONTROL}


def test_business_events_of_answers_are_summed_by_pool_and_name(bench: Bench) -> None:
    before = bench.signals.read(bench.key)
    for pool, header in (
        (Slot.BLUE, "checkout=23.50, signup"),
        (Slot.BLUE, "checkout=1.5"),
        (Slot.GREEN, "refund=-3,refund=-4"),
        (CONTROL, "signup|signup=0.5 ,\tsignup"),
    ):
        bench.tell(pool, header)
    bench.serve(3, Slot.GREEN, "")
    reading = bench.reading(7, before)
    assert reading.events == {
        Slot.BLUE: {"checkout": Moments(2, 25.0, 23.5**2 + 2.25), "signup": Moments(1, 1.0, 1.0)},
        Slot.GREEN: {"refund": Moments(2, -7.0, 25.0)},
        CONTROL: {"signup": Moments(3, 2.5, 2.25)},
    }
    assert not any(reading.refused.values())


@pytest.mark.parametrize(
    ("header", "good", "bad"),
    [
        ("a" * 40, 1, 0),
        ("a" * 41, 0, 1),
        ("Checkout", 0, 1),
        ("1st", 0, 1),
        ("-", 0, 1),
        ("=5", 0, 1),
        ("sale=", 0, 1),
        ("sale=nan, sale=inf, sale=-inf, sale=Infinity", 0, 4),
        ("sale=1e3, sale=0x10, sale=+1, sale=1_000, sale=1.2.3, sale=.5, sale=--1, sale=\u00b2", 0, 8),
        ("sale=1000000000000, sale=-1000000000000", 2, 0),
        ("sale=1000000000000.1, sale=-1000000000001", 0, 2),
        ("sale=" + "9" * 400, 0, 1),
        ("sale=1." + "0" * 30 + ", sale=1." + "0" * 31, 1, 1),
        ("sale = 5, sale =5, two words", 0, 3),
        (",, ,sale, ,", 1, 0),
        ("sale;x=1, sale\x01", 0, 2),
        (", ".join(["sale"] * 8), 8, 0),
        (", ".join(["sale"] * 30), 8, 22),
        ("|".join(["sale"] * 9), 8, 1),
        ("bad!, " + ", ".join(["sale"] * 8), 8, 1),
        ("sale," * 300, 0, 1),
        ("sale" + " " * 900 + "x", 0, 1),
        ("," * 1024, 0, 0),
    ],
)
def test_malformed_events_are_ignored_and_counted(bench: Bench, header: str, good: int, bad: int) -> None:
    before = bench.signals.read(bench.key)
    bench.tell(Slot.BLUE, header)
    reading = bench.reading(1, before)
    assert sum(moments.n for moments in reading.events.get(Slot.BLUE, {}).values()) == good
    assert reading.refused.get(Slot.BLUE, 0) == bad


def test_answers_are_counted_by_pool_and_by_each_variant_that_they_were_made_with(bench: Bench) -> None:
    before = bench.signals.read(bench.key)
    for pool, variants, events, status in (
        (Slot.BLUE, "new-checkout=on, other=b", "checkout=20, signup", 200),
        (Slot.BLUE, "new-checkout=off|other=b", "checkout=2", 200),
        (Slot.BLUE, "new-checkout=on", "", 404),
        (Slot.GREEN, "\tnew-checkout=on ,Other.2_x=B-1", "", 500),
        (Slot.GREEN, "new-checkout=on,new-checkout=on", "checkout", 503),
        (CONTROL, "new-checkout=on", "checkout=-3, checkout=5", 200),
    ):
        bench.answer(pool, variants, events, status, 0.002)
    bench.serve(3, Slot.BLUE, "5xx")
    reading = bench.reading(9, before)
    told = {
        pool: {name: counts(facts) for name, facts in of.items() if facts.requests}
        for pool, of in reading.variants.items()
    }
    assert told == {
        Slot.BLUE: {
            "new-checkout=on": (2, 0, {"checkout": Moments(1, 20, 400), "signup": Moments(1, 1, 1)}),
            "new-checkout=off": (1, 0, {"checkout": Moments(1, 2, 4)}),
            "other=b": (2, 0, {"checkout": Moments(2, 22, 404), "signup": Moments(1, 1, 1)}),
        },
        Slot.GREEN: {
            "new-checkout=on": (2, 2, {"checkout": Moments(1, 1, 1)}),
            "Other.2_x=B-1": (1, 1, {}),
        },
        CONTROL: {"new-checkout=on": (1, 0, {"checkout": Moments(2, 2, 34)})},
    }
    assert all(facts.latencies.samples == facts.requests for of in reading.variants.values() for facts in of.values())
    assert not any(reading.refused.values())
    assert (reading.slots[Slot.BLUE].requests, reading.slots[Slot.GREEN].errors) == (6, 2)


def counts(facts: VariantFacts) -> tuple[int, int, Mapping[str, Moments]]:
    return facts.requests, facts.errors, facts.events


def test_a_slow_variant_is_told_from_a_fast_one_by_its_latencies_and_a_stream_has_none(bench: Bench) -> None:
    before = bench.signals.read(bench.key)
    for seconds, variant in ((0.002, "pace=fast"), (0.3, "pace=slow"), (None, "pace=stream")):
        for _ in range(3):
            bench.answer(Slot.BLUE, variant, "", 200, seconds)
    told = bench.reading(9, before).variants[Slot.BLUE]
    slow, fast, stream = (told[f"pace={name}"].latencies for name in ("slow", "fast", "stream"))
    assert (slow.samples, fast.samples, stream.samples, told["pace=stream"].requests) == (3, 3, 0, 3)
    least = slow.counts[0][0]
    assert least >= latency.bucket_of(0.3)
    assert fast.counts[0][0] < least


@pytest.mark.parametrize(
    ("header", "good", "bad"),
    [
        (f"{'k' * 100}={'v' * 100}", 1, 0),
        (f"{'k' * 101}=v", 0, 1),
        (f"k={'v' * 101}", 0, 1),
        ("k", 0, 1),
        ("=", 0, 1),
        ('k=, =v, k==v, k=v=w, k = v, k= v, k=v;q, k="v", k/l=v, k:l=v', 0, 10),
        ("-=-, .=., _=_", 3, 0),
        (",, ,k=v, ,", 1, 0),
        ("k=v, k=v|k=v", 1, 0),
        ("k=v, k=w", 2, 0),
        ("k=\u00b2, \u00e4=v, k\x01=v, k=v\x7f", 0, 4),
        (", ".join(f"k{i}=v" for i in range(16)), 16, 0),
        (", ".join(f"k{i}=v" for i in range(40)), 16, 24),
        ("|".join(f"k{i}=v" for i in range(20)), 16, 4),
        ("bad, " + ", ".join(f"k{i}=v" for i in range(17)), 16, 2),
        ("k=v," * 1024, 1, 0),
        ("k=v," * 1025, 0, 1),
        ("x," * 2000, 0, 2000),
        ("k=v" + " " * 2000 + "x", 0, 1),
        ("," * 4096, 0, 0),
    ],
)
def test_malformed_variants_are_ignored_and_counted(bench: Bench, header: str, good: int, bad: int) -> None:
    before = bench.signals.read(bench.key)
    bench.answer(CONTROL, header, "", 200, 0.002)
    reading = bench.reading(1, before)
    assert sum(facts.requests for facts in reading.variants.get(CONTROL, {}).values()) == good
    assert reading.refused.get(CONTROL, 0) == bad


def test_a_refused_event_is_refused_once_however_many_variants_its_answer_had(bench: Bench) -> None:
    before = bench.signals.read(bench.key)
    bench.answer(Slot.GREEN, "a=1, b=2", "sale=3, Sale", 200, 0.002)
    reading = bench.reading(1, before)
    for name in ("a=1", "b=2"):
        assert reading.variants[Slot.GREEN][name].events == {"sale": Moments(1, 3, 9)}
    assert reading.refused[Slot.GREEN] == 1


def test_a_pool_has_at_most_fifty_names_of_events(bench: Bench) -> None:
    before = bench.signals.read(bench.key)
    known = set(before.events.get(Slot.GREEN, {}))
    for i in range(60):
        bench.tell(Slot.GREEN, f"name-{i}=2, other")
    reading = bench.signals.read(bench.key)
    assert len(known | set(reading.events[Slot.GREEN])) == 50
    since = reading.since(before)
    assert since.events[Slot.GREEN]["name-0"] == Moments(1, 2.0, 4.0)
    assert since.events[Slot.GREEN]["other"].n == 60
    assert sum(m.n for m in since.events[Slot.GREEN].values()) + since.refused[Slot.GREEN] == 120


def test_a_pool_has_at_most_two_hundred_variants(bench: Bench) -> None:
    before = bench.signals.read(bench.key)
    known = len(before.variants.get(Slot.GREEN, {}))
    for i in range(20):
        bench.answer(Slot.GREEN, ", ".join(f"many={i}-{k}" for k in range(16)), "", 200, 0.002)
    bench.answer(Slot.GREEN, "many=0-0, many=too-many", "", 200, 0.002)
    reading = bench.signals.read(bench.key)
    assert len(reading.variants[Slot.GREEN]) == 200
    since = reading.since(before)
    assert since.variants[Slot.GREEN]["many=0-0"].requests == 2
    assert since.refused[Slot.GREEN] == 20 * 16 + 1 - (200 - known)


@pytest.mark.parametrize("pool", POOLS)
def test_the_history_of_a_pool_is_what_its_clients_saw_since_its_release_came(bench: Bench, pool: Pool) -> None:
    bench.serve(3, pool, "")
    bench.signals.read(bench.key)
    bench.signals.forget(bench.key, pool)
    assert bench.signals.history(bench.key, pool).requests == 0
    bench.serve(5, pool, "")
    bench.serve(2, pool, "5xx")
    until(lambda: bench.signals.history(bench.key, pool).requests >= 7)

    def sampled() -> bool:
        histogram = bench.signals.history(bench.key, pool).histogram
        return histogram is not None and sum(histogram.counts) == 7

    until(sampled)
    history = bench.signals.history(bench.key, pool)
    assert (history.requests, history.errors) == (7, 2)
    assert history.seconds > 0
    bench.signals.forget(bench.key, pool)
    assert bench.signals.history(bench.key, pool).requests == 0


def test_nothing_is_known_of_the_history_of_an_unknown_environment(bench: Bench) -> None:
    history = bench.signals.history(EnvKey("nowhere", "production"), Slot.BLUE)
    assert (history.requests, history.errors, history.errors_per_10s) == (0, 0, ())


def test_an_unknown_environment_is_not_found(bench: Bench) -> None:
    with pytest.raises(NotFound, match="nowhere"):
        bench.signals.read(EnvKey("nowhere", "production"))
    assert bench.signals.failures(EnvKey("nowhere", "production"), 0.0) == ()
