"""What follows from two readings."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from crossfade.domain.analysis.sample import Moments
from crossfade.domain.signal import Latencies, Reading
from crossfade.domain.traffic import CONTROL, POOLS, Counters, Pool, Slot

READING = TypeAdapter(Reading)

values = st.lists(st.integers(-1000, 1000).map(float), max_size=20)


def moments(found: list[float]) -> Moments:
    return Moments(float(len(found)), sum(found), sum(value * value for value in found))


NONE = Reading(1.0, "s", {slot: Counters() for slot in Slot})


@given(values, values)
def test_the_moments_of_a_difference_are_those_of_what_came_later(before: list[float], later: list[float]) -> None:
    assert moments(before + later).since(moments(before)) == moments(later)
    assert moments(before).plus(moments(later)) == moments(before + later)


@given(st.dictionaries(st.sampled_from(POOLS), st.dictionaries(st.sampled_from("abc"), values)))
def test_a_difference_of_readings_has_the_events_that_came_in_between(
    told: dict[Pool, dict[str, list[float]]],
) -> None:
    first = replace(NONE, events={pool: {"a": Moments(2.0, 3.0, 5.0)} for pool in POOLS})
    second = {
        pool: {
            name: moments(told.get(pool, {}).get(name, [])).plus(first.events[pool].get(name, Moments(0, 0, 0)))
            for name in "abc"
        }
        for pool in POOLS
    }
    fresh = replace(NONE, events=second).since(first)
    for pool in POOLS:
        wanted = {name: moments(found) for name, found in told.get(pool, {}).items() if found}
        assert fresh.events[pool] == wanted


def test_events_that_were_counted_anew_are_all_new() -> None:
    first = replace(NONE, events={Slot.BLUE: {"sale": Moments(9.0, 9.0, 9.0)}})
    second = replace(NONE, events={Slot.BLUE: {"sale": Moments(2.0, 3.0, 5.0)}})
    assert second.since(first).events == {Slot.BLUE: {"sale": Moments(2.0, 3.0, 5.0)}}


def test_the_control_pool_is_in_the_total_and_in_no_slot() -> None:
    latencies = Latencies(((80, 4),))
    before = replace(NONE, control=Counters(10, 1), refused={CONTROL: 2})
    after = replace(NONE, control=Counters(14, 3), control_latencies=latencies, refused={CONTROL: 7}).since(before)
    assert (after.control.requests, after.control.errors) == (4, 2)
    assert (after.total().requests, after.total().errors, after.total().samples) == (4, 2, 4)
    assert after.facts(CONTROL) == after.total()
    assert after.facts(Slot.BLUE).requests == 0
    assert after.refused == {CONTROL: 5}


def test_a_reading_comes_back_from_json_as_it_was_and_older_ones_have_no_control() -> None:
    whole = replace(
        NONE,
        control=Counters(3),
        control_latencies=Latencies(((1, 3),)),
        events={pool: {"sale": Moments(1.0, 2.0, 4.0)} for pool in POOLS},
        refused={Slot.GREEN: 1},
    )
    assert READING.validate_json(READING.dump_json(whole)) == whole
    assert READING.validate_python(READING.dump_python(whole, mode="json")) == whole
    old = READING.validate_json('{"at":1.0,"segment":"s","slots":{"blue":{"requests":1},"green":{}}}')
    assert (old.control, old.events) == (Counters(), {})
