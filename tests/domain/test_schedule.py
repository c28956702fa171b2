"""Lines of cron: laws over zones and changes of clocks, then examples."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossfade.domain.errors import Invalid
from crossfade.domain.schedule import GRACE, Schedule, last_until, next_after, parse, turn

BERLIN = ZoneInfo("Europe/Berlin")
DAY = 86_400.0

zones = st.sampled_from(["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu"]).map(
    ZoneInfo
)
times = st.floats(1.6e9, 2.2e9)


@st.composite
def lines(draw: st.DrawFn) -> str:
    def field(low: int, high: int) -> str:
        some = st.lists(st.integers(low, high), min_size=1, max_size=3).map(lambda n: ",".join(map(str, n)))
        every = st.integers(2, 20).map(lambda n: f"*/{n}")
        return draw(st.one_of(st.just("*"), some, every))

    return f"{field(0, 59)} {field(0, 23)} {field(1, 28)} {field(1, 12)} {field(0, 7)}"


def local(zone: ZoneInfo, *when: int) -> float:
    return datetime(*when, tzinfo=zone).timestamp()  # type: ignore[arg-type, misc] # year, month, day, hour, minute


# --- laws


@given(lines(), zones, times)
def test_what_comes_next_is_later_a_whole_minute_and_nothing_comes_before_it(
    line: str, zone: ZoneInfo, t: float
) -> None:
    schedule = parse(line)
    found = next_after(schedule, zone, t)
    if found is None:
        return
    assert found > t
    assert found % 60 == 0
    assert next_after(schedule, zone, found - 0.001) == found
    between = t + (found - t) / 2
    assert next_after(schedule, zone, between) == found


@given(lines(), zones, times, st.floats(0, 40 * DAY))
def test_the_last_time_is_the_one_after_which_nothing_came(line: str, zone: ZoneInfo, t: float, reach: float) -> None:
    schedule = parse(line)
    last = last_until(schedule, zone, t - reach, t)
    if last is None:
        following = next_after(schedule, zone, t - reach)
        assert following is None or following > t
        return
    assert t - reach < last <= t
    following = next_after(schedule, zone, last)
    assert following is None or following > t


@given(st.integers(0, 23), st.integers(0, 59), zones, times)
def test_a_time_of_day_comes_once_a_day_whatever_the_clocks_do(
    hour: int, minute: int, zone: ZoneInfo, t: float
) -> None:
    schedule, days = parse(f"{minute} {hour} * * *"), []
    for _ in range(40):
        found = next_after(schedule, zone, t)
        assert found is not None
        days.append(datetime.fromtimestamp(found, zone).date())
        t = found
    assert len(set(days)) == 40
    assert (days[-1] - days[0]).days == 39


@given(lines(), zones, times, st.floats(0, 400 * DAY), st.one_of(st.none(), st.floats(0, 400 * DAY)))
def test_something_runs_or_is_overdue_only_when_it_was_due_and_has_not_begun_since(
    line: str, zone: ZoneInfo, now: float, planned: float, ago: float | None
) -> None:
    began = now - ago if ago is not None else None
    found = turn(parse(line), zone, now - planned, began, now)
    assert not (found.run and found.overdue)
    if found.run or found.overdue:
        assert found.due is not None
        assert now - planned < found.due <= now
        assert began is None or began < found.due
        assert found.run is (now - found.due <= GRACE) or found.next is not None
    assert found.next is None or found.next > now


@given(lines(), zones, times, st.floats(1, 40 * DAY))
def test_what_has_begun_does_not_run_again_before_its_next_time(
    line: str, zone: ZoneInfo, now: float, planned: float
) -> None:
    schedule = parse(line)
    first = turn(schedule, zone, now - planned, None, now)
    if first.run:
        again = turn(schedule, zone, now - planned, now, now)
        assert (again.run, again.overdue) == (False, False)
        assert first.next is None or not turn(schedule, zone, now - planned, now, first.next - 0.001).run
        assert first.next is None or turn(schedule, zone, now - planned, now, first.next).run


@given(st.text(max_size=120))
def test_any_text_is_a_line_that_comes_or_is_refused(text: str) -> None:
    try:
        schedule = parse(text)
    except Invalid:
        return
    assert next_after(schedule, UTC, 0.0) is not None


@given(
    st.lists(st.sampled_from([*"01760*,-/LW#?@٣", "59", "MON", "JAN"]), min_size=1, max_size=6),
    st.integers(0, 4),
)
def test_what_looks_like_a_field_and_is_none_is_refused(parts: list[str], place: int) -> None:
    fields = ["0", "4", "*", "*", "*"]
    fields[place] = "".join(parts)
    try:
        parse(" ".join(fields))
    except Invalid:
        return


# --- examples


@pytest.mark.parametrize(
    "line", ["", "* * * *", "* * * * * *", "60 * * * *", "0 0 30 2 *", "@daily", "0 4 * * MON-", "x" * 200]
)
def test_a_line_that_is_none_is_refused_with_what_one_is(line: str) -> None:
    with pytest.raises(Invalid, match=r"five fields|a time that comes"):
        parse(line)


def test_every_tuesday_at_four_is_at_four_on_the_clocks_before_and_after_they_change() -> None:
    schedule, t, found = parse("0 4 * * 2"), local(BERLIN, 2026, 3, 20), []
    for _ in range(3):
        at = next_after(schedule, BERLIN, t)
        assert at is not None
        found.append(datetime.fromtimestamp(at, BERLIN).strftime("%a %d %H:%M %Z"))
        t = at
    assert found == ["Tue 24 04:00 CET", "Tue 31 04:00 CEST", "Tue 07 04:00 CEST"]


def test_a_time_that_clocks_skip_comes_when_they_go_on() -> None:
    found = next_after(parse("30 2 * * *"), BERLIN, local(BERLIN, 2026, 3, 29))
    assert found == local(BERLIN, 2026, 3, 29, 3, 0)


def test_a_time_that_clocks_show_twice_comes_the_first_time_only() -> None:
    schedule = parse("30 2 * * *")
    first = next_after(schedule, BERLIN, local(BERLIN, 2026, 10, 25))
    assert first == datetime(2026, 10, 25, 2, 30, tzinfo=BERLIN, fold=0).timestamp()
    assert next_after(schedule, BERLIN, first) == local(BERLIN, 2026, 10, 26, 2, 30)
    second = datetime(2026, 10, 25, 2, 10, tzinfo=BERLIN, fold=1).timestamp()
    assert next_after(schedule, BERLIN, second) == local(BERLIN, 2026, 10, 26, 2, 30)


def test_a_line_with_a_star_goes_by_time_as_it_passes() -> None:
    schedule, t = parse("*/30 * * * *"), local(BERLIN, 2026, 10, 25, 1, 45)
    for _ in range(6):
        at = next_after(schedule, BERLIN, t)
        assert at is not None
        assert at - t in (900.0, 1800.0)
        t = at


def test_a_server_that_was_away_for_weeks_runs_what_it_missed_once_and_says_so_when_it_is_late() -> None:
    schedule = Schedule("0 4 * * 2")
    tuesday = local(BERLIN, 2026, 3, 24, 4, 0)
    weeks_ago = tuesday - 30 * DAY
    soon = turn(schedule, BERLIN, weeks_ago, tuesday - 21 * DAY, tuesday + 600)
    assert (soon.due, soon.run, soon.overdue) == (tuesday, True, False)
    late = turn(schedule, BERLIN, weeks_ago, tuesday - 21 * DAY, tuesday + DAY)
    assert (late.due, late.run, late.overdue) == (tuesday, False, True)
    assert late.next == local(BERLIN, 2026, 3, 31, 4, 0)


def test_what_was_planned_after_its_time_is_not_late() -> None:
    tuesday = local(BERLIN, 2026, 3, 24, 4, 0)
    found = turn(Schedule("0 4 * * 2"), BERLIN, tuesday + 60, None, tuesday + 2 * DAY)
    assert (found.due, found.run, found.overdue) == (None, False, False)


def test_what_comes_each_minute_may_wait_for_half_of_one() -> None:
    schedule, minute = parse("* * * * *"), 1_700_000_040.0
    assert turn(schedule, UTC, 0.0, minute - 60, minute + 29).run
    assert turn(schedule, UTC, 0.0, minute - 60, minute + 31).overdue
