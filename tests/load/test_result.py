from __future__ import annotations

import json
from pathlib import Path

import pytest

from crossfade.load import FailedRequest, LoadPlan, Phase, Quantiles, Records, Request, Result, StreamFacts

PLAN = LoadPlan("http://127.0.0.1:1", (Phase(10, 4),), (Request("/"), Request("/b", method="POST")))


def records() -> Records:
    """40 requests, one each 100 ms; every tenth fails, and those from 2 s on are served by green and slower."""
    made = Records(began_at=1000.0)
    for number in range(40):
        start = number / 10
        value = made.value_number(b"green" if number >= 20 else b"blue")
        failed = number % 10 == 9
        kind = made.kind_number("status-500") if failed else 0
        made.add(start, 0.2 if number >= 20 else 0.1, 500 if failed else 200, kind, value, number % 2)
        made.lags.append(0.0001)
        if failed:
            made.note(FailedRequest(1000 + start, "status-500", "/", "/", 500, "", 0.1, ""))
    made.elapsed = 4.0
    made.streams = [StreamFacts("/feed", "sse", 2, opened=2, messages=9)]
    return made


def test_slices_can_be_added_up_to_compare_before_with_after() -> None:
    result = Result.of(PLAN, records())
    before, after = result.between(1000.0, 1002.0), result.between(1002.0, 1010.0)
    assert (before.requests, before.failed) == (after.requests, after.failed) == (20, 2)
    assert before.by_header == {"blue": (20, 2)} and after.by_header == {"green": (20, 2)}
    assert before.quantile(0.5) == pytest.approx(0.1, rel=0.1)
    assert after.quantile(0.99) == pytest.approx(0.2, rel=0.1)
    assert result.between(0, 1).requests == 0
    assert [failure.at for failure in result.failures_between(1002.0, 1003.0)] == [1002.9]


def test_groups_tell_requests_and_header_values_apart() -> None:
    result = Result.of(PLAN, records())
    assert {name: (group.requests, group.failed) for name, group in result.by_request.items()} == {
        "/": (20, 0),
        "POST /b": (20, 4),
    }
    assert result.by_header["green"].latency.p50 == pytest.approx(0.2)
    assert result.by_status == {200: 36, 500: 4}


def test_a_result_is_the_same_after_a_journey_through_json() -> None:
    result = Result.of(PLAN, records())
    back = Result.from_data(json.loads(json.dumps(result.to_data())))
    assert back.to_data() == result.to_data()
    assert back.between(1000, 1002).by_header == result.between(1000, 1002).by_header


def test_records_are_the_same_after_a_journey_through_a_file(tmp_path: Path) -> None:
    records().save(tmp_path / "r")
    assert Result.of(PLAN, Records.load(tmp_path / "r")) == Result.of(PLAN, records())


def test_joined_records_keep_their_names_although_each_part_numbers_them_anew() -> None:
    one, other = Records(1000.0), Records(1000.0)
    one.add(0, 0.1, 0, one.kind_number("reset"), one.value_number(b"blue"), 0)
    other.add(0, 0.1, 200, 0, other.value_number(b"green"), 0)
    other.add(0.1, 0.1, 0, other.kind_number("refused"), other.value_number(b"blue"), 1)
    one.elapsed = other.elapsed = 1.0
    result = Result.of(PLAN, Records.joined([one, other]))
    assert result.by_kind == {"reset": 1, "refused": 1}
    assert {value: group.requests for value, group in result.by_header.items()} == {"blue": 2, "green": 1}
    assert result.failed == 2


def test_quantiles_are_exact_ranks() -> None:
    found = Quantiles.of([n / 1000 for n in range(1, 1001)])
    assert found == Quantiles(0.5, 0.9, 0.99, 0.999, 1.0)
    assert Quantiles.of([]) == Quantiles()


def test_late_starts_make_a_run_void_only_beyond_the_floor_and_the_share_of_the_median() -> None:
    def void(lag: float, latency: float, floor: float) -> bool:
        made = Records(1000.0)
        made.add(0, latency, 200, 0, 0, 0)
        made.lags.append(lag)
        made.elapsed = 1.0
        plan = LoadPlan("http://127.0.0.1:1", (Phase(1, 1),), lag_floor=floor)
        return bool(Result.of(plan, made).void)

    assert void(0.02, 0.001, 0.01)
    assert not void(0.009, 0.001, 0.01), "within the floor"
    assert not void(0.02, 0.5, 0.01), "within a tenth of the median"
    assert void(0.06, 0.5, 0.01)


def test_there_are_never_more_header_values_than_the_limit() -> None:
    made = Records()
    numbers = {made.value_number(str(n).encode()) for n in range(5000)}
    assert len(made.values) <= 1002 and max(numbers) < len(made.values)
    assert made.values[made.value_number(b"4999")] == "(other)"
