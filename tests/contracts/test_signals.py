"""The promises of `ports.Signals`, kept by the edge's and by their twin."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from crossfade.domain.errors import NotFound
from crossfade.domain.signal import Reading
from crossfade.domain.traffic import Slot, Split
from crossfade.domain.values import EnvKey
from crossfade.fakes.signals import FakeSignals
from crossfade.ports import Signals
from crossfade.signals.edge import EdgeSignals
from tests.routers.rig import Environment, Rig, until

PATHS = {"": "/", "5xx": "/status/500", "response": "/empty", "broken": "/truncated"}


@dataclass
class Bench:
    """Signals, an environment, and a way to have requests served: how many, by which slot, failing of what."""

    signals: Signals
    key: EnvKey
    serve: Callable[[int, Slot, str], None]

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
    return rig.environment()


@pytest.fixture(params=["fake", "edge"])
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    if request.param == "fake":
        fake, key = FakeSignals(), EnvKey("bookshop", "production")
        fake.ensure(key)
        yield Bench(fake, key, lambda n, slot, cause: fake.serve(key, slot, n, n if cause else 0, cause=cause or "5xx"))
        return
    environment: Environment = request.getfixturevalue("environment")

    def serve(count: int, slot: Slot, cause: str) -> None:
        environment.rig.router.set_split(environment.key, Split.wholly(slot), None, 1)
        for _ in range(count):
            environment.get(PATHS[cause], method="POST" if cause == "response" else "GET")

    signals = EdgeSignals(environment.rig.folder, environment.rig.run, every=0.2)
    signals.start()
    yield Bench(signals, environment.key, serve)
    signals.stop()


def test_each_request_is_counted_once_in_the_slot_that_served_it(bench: Bench) -> None:
    before = bench.signals.read(bench.key)
    bench.serve(7, Slot.BLUE, "")
    bench.serve(3, Slot.GREEN, "")
    reading = bench.reading(10, before)
    assert (reading.slots[Slot.BLUE].requests, reading.slots[Slot.GREEN].requests) == (7, 3)
    assert reading.total().errors == 0
    assert reading.edge.requests == 0


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


def test_an_unknown_environment_is_not_found(bench: Bench) -> None:
    with pytest.raises(NotFound, match="nowhere"):
        bench.signals.read(EnvKey("nowhere", "production"))
    assert bench.signals.failures(EnvKey("nowhere", "production"), 0.0) == ()
