"""How often something may be tried: never more failures than allowed, in any window."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from crossfade.domain.throttle import Throttle

LIMIT, WINDOW = 3, 10.0
TRIES = st.lists(st.tuples(st.sampled_from("ab"), st.floats(0, 8)), max_size=40)


@given(TRIES)
def test_no_window_has_more_failures_than_the_limit(tries: list[tuple[str, float]]) -> None:
    throttle, now = Throttle(LIMIT, WINDOW), 0.0
    failed: dict[str, list[float]] = {"a": [], "b": []}
    for name, later in tries:
        now += later
        if throttle.wait(name, now) == 0:
            throttle.failed(name, now)
            failed[name].append(now)
    for times in failed.values():
        assert all(sum(0 <= at - began < WINDOW for at in times) <= LIMIT for began in times)


@given(TRIES)
def test_who_waits_as_long_as_is_said_may_try(tries: list[tuple[str, float]]) -> None:
    throttle, now = Throttle(LIMIT, WINDOW), 0.0
    for name, later in tries:
        now += later + throttle.wait(name, now + later) + 1e-6
        assert throttle.wait(name, now) == 0
        throttle.failed(name, now)


def test_fewer_failures_than_the_limit_cost_nothing_and_one_more_the_rest_of_the_window() -> None:
    throttle = Throttle(LIMIT, WINDOW)
    for at in (0.0, 1.0, 2.0):
        assert throttle.wait("a", at) == 0
        throttle.failed("a", at)
    assert throttle.wait("a", 3.0) == 7.0
    assert throttle.wait("b", 3.0) == 0


def test_a_success_forgets_what_failed() -> None:
    throttle = Throttle(LIMIT, WINDOW)
    for _ in range(LIMIT):
        throttle.failed("a", 0.0)
    throttle.forget("a")
    assert throttle.wait("a", 0.0) == 0


@given(st.lists(st.integers(0, 50), max_size=60))
def test_invented_names_push_out_only_those_that_failed_longest_ago(names: list[int]) -> None:
    throttle = Throttle(1, WINDOW, most=5)
    for name in names:
        throttle.failed(str(name), 0.0)
    newest = list(dict.fromkeys(reversed(names)))
    assert [name for name in set(names) if throttle.wait(str(name), 0.0)] == [
        name for name in set(names) if name in newest[:5]
    ]
