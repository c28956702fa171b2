"""When flags change by themselves: between two moments nothing that compares the time can come out differently."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from crossfade.domain.flags.model import Flag, FlagSet, Killed, Linear, Rule, Segment
from crossfade.domain.flags.moments import RAMP_TICK, Moments, moments

TIME = {"var": "$flagd.timestamp"}
times = st.integers(min_value=0, max_value=2_000_000_000).map(float)


def flags(*rules: Rule, **said: object) -> FlagSet:
    return FlagSet({"f": Flag("f", {"on": True, "off": False}, "off", rules=rules, **said)})  # type: ignore[arg-type] # fields by name


@given(st.lists(times, max_size=8), times)
def test_the_next_moment_is_the_first_that_is_still_to_come(named: list[float], now: float) -> None:
    found = Moments(tuple(sorted(set(named)))).after(now)
    assert found == min((one for one in named if one > now), default=None)


@given(begins=times, ends=times, now=times)
def test_no_rule_begins_or_ends_before_the_next_moment(begins: float, ends: float, now: float) -> None:
    rule = Rule("r", "on", begins=begins, ends=ends)
    until = moments(flags(rule)).after(now)

    def holds(at: float) -> bool:
        return begins <= at < ends

    sooner = [at for at in (begins, ends) if at > now and (until is None or at < until)]
    assert sooner == []
    assert until is not None or holds(now) == holds(2**40) == (begins <= now < ends)


def test_a_share_that_grows_is_looked_at_every_few_seconds_while_it_does() -> None:
    found = moments(flags(Rule("r", Linear("on", "off", 100.0, 200.0))))
    assert found.after(50.0) == 100.0
    assert found.after(100.5) == 101.0
    assert found.after(120.0) == 120.0 + RAMP_TICK
    assert found.after(198.0) == 200.0
    assert found.after(201.0) is None


def test_times_that_conditions_compare_with_are_moments_wherever_they_stand() -> None:
    within = {"<=": [100, TIME, 200]}
    assert moments(flags(targeting={"if": [within, "on"]})).fixed == (100, 101, 200, 201)
    assert moments(flags(Rule("r", "on", when={"and": [True, {">": [TIME, 300]}]}))).fixed == (300, 301)
    assert moments(FlagSet(flags().flags, evaluators={"e": {"<": [{"var": ["$flagd.timestamp"]}, 400]}})).fixed == (
        400,
        401,
    )
    assert moments(FlagSet(segments={"s": Segment("s", {"==": [TIME, 500.5]})})).fixed == (500.5, 501.5)


def test_what_does_not_depend_on_the_time_names_none() -> None:
    conditions = {"and": [{">": [{"var": "age"}, 18]}, {"in": ["@", {"var": "email"}]}, {"+": [TIME, 1]}]}
    assert moments(flags(targeting=conditions)) == Moments()
    timed = Rule("r", "on", begins=100.0)
    paused = Rule("r", "on", begins=100.0, paused=True)
    assert moments(flags(paused)) == Moments()
    assert moments(flags(timed, enabled=False)) == Moments()
    assert moments(flags(timed, killed=Killed("ada", 1.0, "it broke"))) == Moments()
