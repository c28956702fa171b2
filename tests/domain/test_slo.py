"""Objectives: how fast a budget burns, what is left of it, and when it is over. Laws first."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossfade.domain.alert import Severity
from crossfade.domain.slo import (
    KNOWN,
    LEAST_BAD,
    Bin,
    Counted,
    Kind,
    Objective,
    Rule,
    State,
    assess,
    budget,
    burn,
    lifts_at,
    rules,
)
from crossfade.domain.values import DAY

NOW = 1_790_000_000.0
HOUR = 3600.0
ANSWERS = Objective("answers", 0.999)

OBJECTIVES = st.builds(
    Objective,
    st.just("answers"),
    st.floats(0.01, 0.999999),
    window=st.sampled_from([HOUR, DAY, 7 * DAY, 28 * DAY, 30 * DAY, 35 * DAY]) | st.floats(HOUR, 35 * DAY),
)


def steady(rate: float, share: float, since: float = 0.0, gaps: float = 0.0) -> Callable[[float, float], Counted]:
    """A service with ``rate`` requests a second of which ``share`` are bad, known since a moment but for ``gaps``."""

    def count(begins: float, ends: float) -> Counted:
        known = max(0.0, ends - max(begins, since)) * (1 - gaps)
        return Counted(rate * known, rate * known * share, known)

    return count


COUNTS = st.builds(
    lambda total, share, covered: Counted(total, total * share, covered),
    st.integers(0, 10**9).map(float),
    st.floats(0, 1),
    st.floats(0, 35 * DAY),
)


def any_service(rate: float, share: float, alive: float, gaps: float) -> Callable[[float, float], Counted]:
    return steady(rate, share, NOW - alive, gaps)


SERVICES = st.builds(
    any_service, st.floats(0, 1000), st.floats(0, 1), st.floats(0, 40 * DAY), st.sampled_from([0.0, 0.3, 0.9, 1.0])
)


@given(OBJECTIVES, COUNTS, st.floats(0, 1))
def test_more_bad_requests_never_burn_less_nor_leave_more_budget(
    objective: Objective, counted: Counted, more: float
) -> None:
    worse = Counted(counted.total, counted.bad + (counted.total - counted.bad) * more, counted.covered)
    assert (burn(objective, worse) or 0) >= (burn(objective, counted) or 0)
    assert budget(objective, worse).exhausted >= budget(objective, counted).exhausted
    left, less = budget(objective, counted).left, budget(objective, worse).left
    assert (left is None) == (less is None) and (left is None or less is None or less <= left)


@given(OBJECTIVES, st.floats(0.001, 1000), st.floats(0, 40 * DAY), st.floats(0, 1), st.floats(0, 1))
def test_what_fires_fires_when_more_is_bad(
    objective: Objective, rate: float, alive: float, share: float, more: float
) -> None:
    fewer = assess(objective, any_service(rate, share, alive, 0), NOW)
    many = assess(objective, any_service(rate, share + (1 - share) * more, alive, 0), NOW)
    for one, other in zip(fewer.burns, many.burns, strict=True):
        assert other.fires >= one.fires


@given(OBJECTIVES, st.floats(0, 1000), st.floats(0, 40 * DAY), st.sampled_from([0.0, 0.5, 0.9]))
def test_a_perfect_service_burns_nothing(objective: Objective, rate: float, alive: float, gaps: float) -> None:
    standing = assess(objective, any_service(rate, 0.0, alive, gaps), NOW)
    assert not standing.fires and not standing.budget.exhausted
    assert all(not one.burn_long for one in standing.burns)
    assert standing.state in (State.OK, State.UNKNOWN)


@given(OBJECTIVES, SERVICES)
def test_what_is_unknown_is_never_100_percent(objective: Objective, service: Callable[[float, float], Counted]) -> None:
    standing = assess(objective, service, NOW)
    whole = service(NOW - objective.window, NOW)
    assert standing.covered == pytest.approx(min(1.0, whole.covered / objective.window))
    if whole.covered == 0:
        assert standing.state is State.UNKNOWN
    if whole.total == 0:
        assert standing.share_good is None and standing.budget.left is None
    else:
        assert standing.share_good == pytest.approx(1 - whole.bad / whole.total)


@given(OBJECTIVES, st.floats(0.0, 1000), st.floats(0, 40 * DAY), st.floats(0, 1))
def test_nothing_fires_while_requests_keep_to_the_target(
    objective: Objective, rate: float, alive: float, part: float
) -> None:
    within = (1 - objective.target) * part * 0.999
    standing = assess(objective, any_service(rate, within, alive, 0), NOW)
    assert not standing.fires and not standing.budget.exhausted


@given(OBJECTIVES, SERVICES)
def test_fewer_than_five_bad_requests_wake_nobody(
    objective: Objective, service: Callable[[float, float], Counted]
) -> None:
    def count(begins: float, ends: float) -> Counted:
        found = service(begins, ends)
        bad = min(found.bad, LEAST_BAD - 0.01)
        return Counted(bad, bad, found.covered)

    standing = assess(objective, count, NOW)
    assert not standing.fires and not standing.budget.exhausted


@given(OBJECTIVES)
def test_a_total_failure_of_a_busy_service_pages_within_its_short_window(objective: Objective) -> None:
    fast = rules(objective)[0]

    def count(begins: float, ends: float) -> Counted:
        failing = min(ends - begins, fast.long)
        return Counted(100 * (ends - begins), 100 * failing, ends - begins)

    assert assess(objective, count, NOW).severity is Severity.PAGE


@given(OBJECTIVES)
def test_rules_spend_no_more_than_their_share_and_can_fire(objective: Objective) -> None:
    spare = 1 - objective.target
    found = rules(objective)
    assert 2 <= len(found) <= 4
    for rule, share in zip(found, (0.02, 0.05, 0.1, 0.1), strict=False):
        assert rule.threshold > 1 or (rule.severity is Severity.TICKET and rule.threshold == pytest.approx(1))
        assert rule.threshold * spare <= 1
        assert rule.long <= objective.window and rule.short == pytest.approx(rule.long / 12)
        assert rule.threshold * rule.long / objective.window <= share + 1e-9


def plain(found: tuple[Rule, ...]) -> list[tuple[str, float, float, float]]:
    """Severity, hours, minutes, threshold."""
    return [
        (rule.severity.value, round(rule.long / HOUR, 6), round(rule.short / 60, 6), round(rule.threshold, 6))
        for rule in found
    ]


def test_the_rules_of_30_days_are_those_of_the_workbook() -> None:
    assert plain(rules(ANSWERS)) == [
        ("page", 1, 5, 14.4),
        ("page", 6, 30, 6),
        ("ticket", 24, 120, 3),
        ("ticket", 72, 360, 1),
    ]


def test_the_rules_of_a_week_spend_the_same_shares_of_its_budget() -> None:
    assert plain(rules(Objective("answers", 0.999, window=7 * DAY))) == [
        ("page", 1, 5, 3.36),
        ("page", 4.2, 21, 2),  # at 1.4 for 6 hours the same is spent, which is no reason to get up
        ("ticket", 16.8, 84, 1),
    ]


def test_where_the_target_is_low_a_total_failure_is_still_told() -> None:
    found = rules(Objective("quick", 0.9, Kind.LATENCY, threshold=0.3))
    assert found[0].threshold == pytest.approx(5.5)  # 55 % of the requests; 14.4 times a budget of 10 % are 144 %
    assert found[2].threshold == pytest.approx(3)


def test_both_windows_must_burn() -> None:
    def over_again(begins: float, ends: float) -> Counted:
        """It was bad for half an hour, until ten minutes ago."""
        bad = max(0.0, min(ends, NOW - 600) - max(begins, NOW - 2400))
        return Counted(10 * (ends - begins), bad, ends - begins)

    standing = assess(ANSWERS, over_again, NOW)
    assert standing.burns[0].burn_long is not None and standing.burns[0].burn_long > 14.4
    assert standing.burns[0].burn_short == 0 and not standing.burns[0].fires


def test_a_short_window_that_is_hardly_known_does_not_say_that_it_goes_on() -> None:
    def count(known: float) -> Callable[[float, float], Counted]:
        return lambda begins, ends: Counted(1000, 500, (ends - begins) * known)

    assert not assess(ANSWERS, count(KNOWN - 0.01), NOW).fires
    assert assess(ANSWERS, count(KNOWN), NOW).fires


def test_a_service_that_is_four_minutes_old_is_judged_by_them() -> None:
    assert assess(ANSWERS, steady(10, 0.5, NOW - 240), NOW).severity is Severity.PAGE
    assert assess(ANSWERS, steady(10, 0.5, NOW - 60), NOW).severity is None


def test_a_standing_says_in_a_sentence_how_it_is() -> None:
    def said(service: Callable[[float, float], Counted], objective: Objective = ANSWERS) -> tuple[State, str]:
        standing = assess(objective, service, NOW)
        return standing.state, standing.sentence

    assert said(steady(100, 0.0005)) == (State.OK, "99.95 % were good in 30 d, and 50 % of the budget is left")
    assert said(steady(0, 0)) == (State.OK, "there were no requests")
    assert said(steady(10, 0.0, NOW)) == (State.UNKNOWN, "nothing is known yet")
    assert said(lambda begins, ends: steady(10, 0)(begins, min(ends, NOW - 600))) == (
        State.UNKNOWN,
        "not enough is known of the last 5 min",
    )
    assert said(steady(100, 0.02, NOW - DAY)) == (
        State.PAGE,
        "2 % of the requests of the last 5 min failed, and 2 % of those of 1 h: "  # noqa: ISC004 - one sentence
        "the budget burns 20 times as fast as it may, and 14.4 times is the limit",
    )
    quick = Objective("quick", 0.99, Kind.LATENCY, threshold=0.3)
    assert said(steady(1, 0.05), quick) == (
        State.EXHAUSTED,
        "129600 of 2592000 requests of the last 30 d took longer than 300 ms, and 25920 may",
    )


def test_a_page_is_told_before_a_used_up_budget_and_that_before_a_ticket() -> None:
    used_up = assess(ANSWERS, steady(100, 0.004), NOW)
    assert used_up.severity is Severity.TICKET and used_up.state is State.EXHAUSTED
    page = assess(ANSWERS, steady(100, 0.1), NOW)
    assert page.budget.exhausted and page.state is State.PAGE


# When a budget lifts.


def hourly(*bad: float, total: float = 1000.0, ends: float = NOW) -> list[Bin]:
    """Bins of an hour, oldest first, the last of which ends now."""
    count = len(bad)
    return [Bin(ends - (count - n) * HOUR, HOUR, Counted(total, one, HOUR)) for n, one in enumerate(bad)]


BINS = st.lists(
    st.tuples(st.integers(0, 5), st.integers(0, 2000), st.floats(0, 1), st.floats(0.01, 1)), min_size=1, max_size=30
)


@given(BINS, st.floats(0.5, 0.9999), st.integers(1, 80))
def test_a_used_up_budget_lifts_within_its_window_and_not_before(
    made: list[tuple[int, int, float, float]], target: float, hours: int
) -> None:
    objective = Objective("answers", target, window=hours * HOUR)
    bins: list[Bin] = []
    at = NOW
    for gap, total, share, known in reversed(made):
        at -= (gap + 1) * HOUR
        if at < NOW - objective.window:
            break
        bins.insert(0, Bin(at, HOUR, Counted(total, total * share, HOUR * known)))
    lifts = lifts_at(objective, bins, NOW)
    if not bins:
        assert lifts is None
        return
    assert lifts is not None and NOW <= lifts <= NOW + objective.window
    whole = Counted()
    for one in bins:
        whole = whole.plus(one.counted)
    rate = whole.total / whole.covered

    def owed(t: float) -> float:
        """Bad requests too many at a moment, were nothing bad to come."""
        bad, total = 0.0, rate * (t - NOW)
        for one in bins:
            stays = min(1.0, max(0.0, (one.at + HOUR - (t - objective.window)) / HOUR))
            bad, total = bad + stays * one.counted.bad, total + stays * one.counted.total
        return bad - (1 - target) * total

    assert owed(lifts) <= 1e-6 * max(1.0, whole.total)
    for n in range(1, 20):
        before = NOW + (lifts - NOW) * n / 20
        assert before == lifts or owed(before) >= -1e-6 * max(1.0, whole.total)


def test_a_budget_lifts_when_the_bad_hour_falls_out_of_the_window() -> None:
    objective = Objective("answers", 0.999, window=DAY)
    bins = hourly(500, *([0.0] * 23))
    assert lifts_at(objective, bins, NOW) == pytest.approx(NOW + HOUR, abs=HOUR * 0.06)
    assert lifts_at(objective, hourly(*([0.0] * 24)), NOW) == NOW
    assert lifts_at(objective, [], NOW) is None


def test_a_young_service_earns_its_budget_back_by_good_requests() -> None:
    lifts = lifts_at(ANSWERS, hourly(2), NOW)  # 2 of 1000 are bad, and 1 may be: it takes 1000 more, so an hour
    assert lifts == pytest.approx(NOW + HOUR)
