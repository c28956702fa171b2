from hypothesis import given
from hypothesis import strategies as st

from crossfade.domain.release import SMALLEST_WINDOW, ReleaseConfig, window
from crossfade.domain.values import ReleaseNumber

promotions = st.lists(st.integers(1, 12).map(ReleaseNumber), max_size=40)


def numbers(*ns: int) -> tuple[ReleaseNumber, ...]:
    return tuple(ReleaseNumber(n) for n in ns)


@given(promotions, st.integers(0, 10))
def test_the_window_holds_at_least_three_previous_releases_when_there_were_as_many(
    promoted: list[ReleaseNumber], size: int
) -> None:
    live = promoted[-1] if promoted else None
    previous = set(promoted) - {live}
    assert len(window(promoted, live, size)) >= min(len(previous), SMALLEST_WINDOW)


@given(promotions, st.integers(0, 10))
def test_the_window_never_holds_what_is_live_or_anything_twice(promoted: list[ReleaseNumber], size: int) -> None:
    live = promoted[-1] if promoted else None
    found = window(promoted, live, size)
    assert live not in found
    assert len(set(found)) == len(found)


def test_the_last_one_that_was_live_comes_first() -> None:
    assert window(numbers(1, 2, 3, 4), ReleaseNumber(4), 3) == numbers(3, 2, 1)


def test_after_a_rollback_the_release_that_was_left_comes_first() -> None:
    assert window(numbers(1, 2, 3, 1), ReleaseNumber(1), 3) == numbers(3, 2)


def test_an_edge_bound_to_every_address_is_reached_on_loopback() -> None:
    assert ReleaseConfig(("x",), bind="0.0.0.0", port=80).url == "http://127.0.0.1:80"  # noqa: S104 - it is asked how that is reached
    assert ReleaseConfig(("x",), bind="::1", port=80).url == "http://[::1]:80"
