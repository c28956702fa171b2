"""Business events: whose they are, and what is refused of a batch."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossfade.domain.errors import InvalidBatch
from crossfade.domain.events import MOST_NAMES, Event, Held, Ledger, attribute, parse, refuse_many_names, tally
from crossfade.domain.values import EnvKey, ReleaseNumber

KEY = EnvKey("shop", "production")
R1, R2 = ReleaseNumber(1), ReleaseNumber(2)
LEDGER = Ledger({KEY: {"blue": Held(R1, 0.0), "green": Held(R2, 50.0)}}, lambda key, number: number in (R1, R2))


def raw(**changes: Any) -> dict[str, Any]:
    fields = {"service": "shop", "environment": "production", "name": "checkout", "value": 1.0, "slot": "blue"}
    return {**fields, "release": "", "at": None, **changes}


def problems(batch: list[dict[str, Any]]) -> dict[str, str]:
    """Place → what is allowed, of everything that is wrong."""
    with pytest.raises(InvalidBatch) as caught:
        attribute(parse(batch), LEDGER, 100.0)
    return {problem["place"]: problem["allowed"] for problem in caught.value.fields["problems"]}


def events(*values: float, release: ReleaseNumber = R1, name: str = "checkout") -> list[Event]:
    return [Event(KEY, release, "blue", name, value) for value in values]


@given(st.lists(st.floats(-1e6, 1e6), min_size=1), st.data())
def test_a_tally_is_the_same_in_whatever_order_and_batches_events_come(
    values: list[float], data: st.DataObject
) -> None:
    whole = next(iter(tally(events(*values)).values()))
    shuffled = next(iter(tally(events(*data.draw(st.permutations(values)))).values()))
    assert whole == shuffled
    cut = data.draw(st.integers(0, len(values)))
    parts = [m for part in (values[:cut], values[cut:]) for m in tally(events(*part)).values()]
    assert sum(m.n for m in parts) == whole.n == len(values)
    assert sum(m.sum for m in parts) == pytest.approx(whole.sum, abs=1e-6)
    assert sum(m.sum_sq for m in parts) == pytest.approx(whole.sum_sq)


def test_a_release_wins_over_the_slot_and_a_slot_alone_means_what_it_holds_now() -> None:
    batch = [raw(), raw(slot="green"), raw(slot="green", release="r1"), raw(slot="", release="r2")]
    assert [(e.release, e.pool) for e in attribute(parse(batch), LEDGER, 100.0)] == [
        (R1, "blue"),
        (R2, "green"),
        (R1, "green"),
        (R2, ""),
    ]


def test_every_problem_of_a_batch_is_named_by_its_index() -> None:
    batch = [raw(), raw(name="Check out"), raw(value=math.nan, slot="purple"), raw(slot=""), raw(service="../x")]
    assert set(problems(batch)) == {"events.1.name", "events.2.value", "events.2.slot", "events.3", "events.4.service"}
    assert problems([raw(release="r9"), raw(release="r1"), raw(slot="control")]) == {
        "events.0.release": "a release of shop/production",
        "events.2.slot": "a slot that holds a release: blue (r1), green (r2)",
    }


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan, 1.1e12, -1.1e12])
def test_values_that_are_not_finite_or_huge_are_refused(value: float) -> None:
    assert set(problems([raw(value=value)])) == {"events.0.value"}


@pytest.mark.parametrize("name", ["", "9lives", "a" * 41, "Checkout", "a b", "a\n", "é"])
def test_names_are_short_and_plain(name: str) -> None:
    assert set(problems([raw(name=name)])) == {"events.0.name"}


def test_an_event_from_before_the_slot_had_its_release_must_name_its_own() -> None:
    assert set(problems([raw(slot="green", at=49.0)])) == {"events.0.at"}
    assert [e.release for e in attribute(parse([raw(slot="green", release="r1", at=49.0)]), LEDGER, 100.0)] == [R1]
    assert [e.release for e in attribute(parse([raw(slot="green", at=51.0)]), LEDGER, 100.0)] == [R2]


def test_an_event_from_the_future_is_refused_beyond_what_clocks_differ() -> None:
    assert set(problems([raw(at=401.0), raw(at=399.0), raw(at=-1.0)])) == {"events.0.at", "events.2.at"}


def test_a_release_has_so_many_names_of_events_and_no_more() -> None:
    many = [Event(KEY, R1, "", f"e{i}", 1.0) for i in range(MOST_NAMES)]
    refuse_many_names(many, {})
    refuse_many_names([Event(KEY, R2, "", "other", 1.0)], {(KEY, R1): [e.name for e in many]})
    with pytest.raises(InvalidBatch, match=r"events\.1\.name"):
        refuse_many_names([many[0], Event(KEY, R1, "", "other", 1.0)], {(KEY, R1): [e.name for e in many]})


def test_of_many_problems_the_first_are_said_and_all_are_listed() -> None:
    with pytest.raises(InvalidBatch, match="And 15 more") as caught:
        parse([raw(name="X")] * 20)
    assert len(caught.value.fields["problems"]) == 20
