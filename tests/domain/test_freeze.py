"""Freeze windows hold when they say, in their own zone, also over midnight and when clocks are changed."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossfade.domain.errors import Invalid
from crossfade.domain.pipeline.freeze import DAYS, Freeze, frozen_until

ZONES = st.sampled_from(["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata"])
TIMES = st.builds(lambda h, m: f"{h:02}:{m:02}", st.integers(0, 23), st.integers(0, 59))
FREEZES = st.builds(
    Freeze,
    st.just("x"),
    st.lists(st.sampled_from(DAYS), max_size=3).map(tuple),
    TIMES,
    TIMES,
    st.none(),
    ZONES,
)
MOMENTS = st.integers(
    int(datetime(2026, 1, 1, tzinfo=UTC).timestamp()), int(datetime(2027, 1, 1, tzinfo=UTC).timestamp())
)


@given(st.lists(FREEZES, max_size=3), MOMENTS)
def test_nothing_is_frozen_any_more_at_the_time_that_is_told(freezes: list[Freeze], now: int) -> None:
    found = frozen_until(freezes, now, ZoneInfo)
    if found is not None and found[1] < now + 390 * 86400:
        assert found[1] > now
        assert frozen_until(freezes, found[1], ZoneInfo) is None
        assert frozen_until(freezes, (now + found[1]) / 2, ZoneInfo) is not None


@given(FREEZES, MOMENTS)
def test_more_freezes_never_end_earlier(freeze: Freeze, now: int) -> None:
    one = frozen_until([freeze], now, ZoneInfo)
    two = frozen_until([freeze, Freeze("y", ("mon",))], now, ZoneInfo)
    assert one is None or (two is not None and two[1] >= one[1])


def moment(text: str, zone: str = "Europe/Berlin") -> float:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp()


def test_a_weekend_begins_on_friday_evening_and_ends_with_sunday() -> None:
    weekend = [
        Freeze("weekend", ("fri",), "17:00", zone="Europe/Berlin"),
        Freeze("weekend", ("sat", "sun"), zone="Europe/Berlin"),
    ]
    assert frozen_until(weekend, moment("2026-11-20 16:59"), ZoneInfo) is None
    found = frozen_until(weekend, moment("2026-11-20 17:00"), ZoneInfo)
    assert found is not None and found[1] == moment("2026-11-23 00:00")


def test_a_window_over_midnight_belongs_to_the_day_on_which_it_begins() -> None:
    night = [Freeze("night", ("mon",), "22:00", "06:00", zone="Europe/Berlin")]
    assert frozen_until(night, moment("2026-11-24 05:59"), ZoneInfo) is not None
    assert frozen_until(night, moment("2026-11-23 05:59"), ZoneInfo) is None


def test_dates_hold_from_the_first_day_to_the_end_of_the_last() -> None:
    days = [Freeze("christmas", dates=("2026-12-20", "2027-01-02"))]
    found = frozen_until(days, moment("2026-12-20 00:00", "UTC"), ZoneInfo)
    assert found is not None and found[1] == moment("2027-01-03 00:00", "UTC")


@pytest.mark.parametrize("text", ["24:01", "7:00", "07:60", "noon", "\uff10\uff17:00", ""])
def test_a_time_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(Invalid, match="HH:MM"):
        Freeze("x", begins=text)


def test_days_and_dates_that_are_none_are_refused() -> None:
    with pytest.raises(Invalid, match="mon, tue"):
        Freeze("x", ("monday",))
    with pytest.raises(Invalid, match="not after the last"):
        Freeze("x", dates=("2026-12-02", "2026-12-01"))
