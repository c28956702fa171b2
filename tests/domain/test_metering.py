"""What was counted between two looks: never doubled, never negative, and unknown where it is."""

from __future__ import annotations

import json
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from crossfade.domain.analysis import latency
from crossfade.domain.metering import Mark, Stretch, between, counted, jumped, slow
from crossfade.domain.signal import Latencies, Reading
from crossfade.domain.slo import Counted, Kind, Objective
from crossfade.domain.traffic import Counters, Slot

histograms = st.dictionaries(st.integers(0, 200), st.integers(1, 100), max_size=5).map(
    lambda found: Latencies(tuple(sorted(found.items())))
)
marks = st.builds(
    Mark, st.floats(0, 1000), st.sampled_from(["a", "b"]), st.integers(0, 1000), st.integers(0, 1000), histograms
)
FAST = Objective("fast", 0.99, Kind.LATENCY, threshold=0.3)


@given(marks, marks)
def test_a_difference_is_never_negative_and_only_of_one_segment_and_of_time_that_went_forth(
    earlier: Mark, later: Mark
) -> None:
    found = between(earlier, later)
    if found is None:
        fell = later.requests < earlier.requests or later.errors < earlier.errors
        assert earlier.segment != later.segment or later.at <= earlier.at or fell
        return
    assert earlier.segment == later.segment
    assert found.seconds > 0
    assert 0 <= found.errors <= found.requests == later.requests - earlier.requests


@given(st.lists(st.tuples(st.floats(0.1, 100), st.integers(0, 50), st.integers(0, 50)), min_size=2, max_size=10))
def test_what_is_counted_in_parts_is_what_is_counted_at_once(steps: list[tuple[float, int, int]]) -> None:
    found, at, requests, errors = [Mark(0.0, "a")], 0.0, 0, 0
    for seconds, more, bad in steps:
        at, requests, errors = at + seconds, requests + more, errors + min(more, bad)
        found.append(Mark(at, "a", requests, errors))
    parts = [between(one, other) for one, other in pairwise(found)]
    whole = between(found[0], found[-1])
    assert whole is not None and None not in parts
    assert sum(part.requests for part in parts if part) == whole.requests
    assert sum(part.errors for part in parts if part) == whole.errors


@given(marks)
def test_a_mark_that_was_written_down_is_the_same(mark: Mark) -> None:
    assert Mark.from_data(json.loads(json.dumps(mark.to_data()))) == mark


@given(histograms, st.floats(1e-4, 100))
def test_the_share_of_slow_ones_is_that_beyond_the_nearest_edge(found: Latencies, threshold: float) -> None:
    share = slow(found, threshold)
    if not found.samples:
        assert share is None
        return
    surely = sum(n for b, n in found.counts if latency.upper_edge(b - 1) >= threshold * 1.0906)
    surely_not = sum(n for b, n in found.counts if latency.upper_edge(b) <= threshold / 1.0906)
    assert share is not None
    assert surely <= round(share * found.samples) <= found.samples - surely_not


def test_all_pools_and_the_edge_itself_are_counted_together() -> None:
    some = Latencies(((3, 2),))
    reading = Reading(
        5.0,
        "a",
        {Slot.BLUE: Counters(10, 1), Slot.GREEN: Counters(20, 2)},
        Counters(3, 3),
        {Slot.BLUE: some},
        Counters(4),
        some,
    )
    assert Mark.of(reading) == Mark(5.0, "a", 37, 6, Latencies(((3, 4),)))


def test_of_latencies_nothing_is_known_without_samples_and_no_requests_are_known_to_be_none() -> None:
    assert counted(FAST, Stretch(0, 1, 10, 2)) is None
    assert counted(FAST, Stretch(0, 1)) == Counted(0, 0, 1)
    late = Latencies(((latency.bucket_of(1.0), 1), (latency.bucket_of(0.01), 3)))
    assert counted(FAST, Stretch(0, 2, 100, 50, late)) == Counted(100, 25, 2)
    assert counted(Objective("answers", 0.999), Stretch(0, 2, 100, 50, late)) == Counted(100, 50, 2)


def test_what_is_known_already_is_not_counted_again() -> None:
    assert Stretch(0, 10, 100, 5).less(40, 5, 6) == Stretch(6, 10, 60, 0)
    assert Stretch(0, 10, 100, 5).less(400, 50, 6) == Stretch(6, 10, 0, 0)


def test_a_clock_that_was_set_is_noticed() -> None:
    assert not jumped(1.0, 1.01) and not jumped(60.0, 60.5)
    assert jumped(3600.0, 1.0) and jumped(-3600.0, 1.0)
