from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crossfade.domain.errors import Invalid
from crossfade.load import LoadPlan, Phase, Request, Streams

URL = "http://127.0.0.1:8080"
phases = st.lists(st.builds(Phase, st.floats(0.1, 500), st.floats(0.01, 5)), min_size=1, max_size=4)


@settings(deadline=None)
@given(phases, st.integers(1, 7))
def test_the_shards_have_every_arrival_once(given_phases: list[Phase], shards: int) -> None:
    plan = LoadPlan(URL, tuple(given_phases), slice=60)
    whole = list(plan.arrivals())
    assert len(whole) == plan.planned
    assert whole == sorted(whole)
    parts = [list(plan.arrivals(shard, shards)) for shard in range(shards)]
    assert sorted(at for part in parts for at in part) == whole
    assert max(map(len, parts)) - min(map(len, parts)) <= len(given_phases)


@settings(deadline=None)
@given(phases)
def test_arrivals_are_evenly_spaced_within_the_duration(given_phases: list[Phase]) -> None:
    plan = LoadPlan(URL, (given_phases[0],), slice=60)
    times = list(plan.arrivals())
    assert all(at < plan.duration + 1e-6 for at in times)
    gaps = [b - a for a, b in itertools.pairwise(times)]
    assert all(abs(gap - 1 / given_phases[0].rate) < 1e-6 for gap in gaps)


@settings(deadline=None)
@given(st.lists(st.floats(0.5, 100), min_size=1, max_size=8), st.integers(0, 5))
def test_every_kind_of_request_has_its_share_of_the_wheel(weights: list[float], shard: int) -> None:
    mix = tuple(Request(f"/{number}", weight) for number, weight in enumerate(weights))
    plan = LoadPlan(URL, (Phase(1, 1),), mix)
    wheel = plan.wheel(shard)
    for number, weight in enumerate(weights):
        assert wheel.count(number) / len(wheel) == pytest.approx(weight / sum(weights), abs=0.002)


def test_a_plan_is_the_same_after_a_journey_through_json() -> None:
    plan = LoadPlan(
        URL,
        (Phase(10, 2), Phase(20, 3)),
        (Request("/books/{1-40}", 3), Request("/cart", 1, "POST", '{"book": 1}', (("Content-Type", "text/plain"),))),
        (Streams("/feed", "sse", 4),),
        headers=(("X-A", "b"),),
        users=7,
        record_header="X-Slot",
    )
    assert LoadPlan.from_data(json.loads(json.dumps(plan.to_data()))) == plan


def test_requests_are_written_as_method_path_and_weight() -> None:
    assert Request.parse("/") == Request("/")
    assert Request.parse("/books/{1-40}@2.5") == Request("/books/{1-40}", 2.5)
    assert Request.parse("POST /cart@0.5") == Request("/cart", 0.5, "POST")
    assert Request.parse("/search?q=a@b") == Request("/search?q=a@b")
    assert Request("/books/{1-3}").paths == ("/books/1", "/books/2", "/books/3")


@pytest.mark.parametrize(
    "make",
    [
        lambda: LoadPlan("ftp://x", (Phase(1, 1),)),
        lambda: LoadPlan("http://x:port", (Phase(1, 1),)),
        lambda: LoadPlan(URL, ()),
        lambda: LoadPlan(URL, (Phase(1_000_000, 3600),)),
        lambda: LoadPlan(URL, (Phase(1, 1),), max_in_flight=0),
        lambda: LoadPlan(URL, (Phase(1, 1),), timeout=0),
        lambda: LoadPlan(URL, (Phase(1, 1),), headers=(("X", "a\r\nb"),)),
        lambda: Phase(0, 1),
        lambda: Phase(float("nan"), 1),
        lambda: Phase.parse("300"),
        lambda: Request("no-slash"),
        lambda: Request("/a b"),
        lambda: Request("/", 0),
        lambda: Request("/{1-2}/{3-4}"),
        lambda: Request("/{9-1}"),
        lambda: Request("/", headers=(("Content-Length", "5"),)),
        lambda: Request.parse("GET"),
        lambda: Request.from_data({"path": "/", "typo": 1}),
        lambda: Streams("/feed", "smoke-signals"),
        lambda: Streams.parse("sse", "/feed@many"),
        lambda: LoadPlan.from_data({"url": URL}),
    ],
)
def test_what_is_not_allowed_is_refused_before_anything_is_sent(make: object) -> None:
    with pytest.raises(Invalid):
        make()  # type: ignore[operator] # a lambda, whose type would say nothing
