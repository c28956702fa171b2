import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossfade.domain.analysis import latency

seconds = st.floats(1e-5, 300)


@given(seconds)
def test_a_latency_lies_at_or_below_the_upper_edge_of_its_bucket(value: float) -> None:
    edge = latency.upper_edge(latency.bucket_of(value))
    assert value <= edge * (1 + 1e-12)
    assert edge <= value * 2 ** (1 / 8) * (1 + 1e-9)


@given(st.lists(seconds, min_size=1, max_size=200), st.floats(0.01, 1))
def test_a_quantile_is_never_too_low_and_at_most_nine_percent_too_high(values: list[float], q: float) -> None:
    counts: dict[int, int] = {}
    for value in values:
        counts[latency.bucket_of(value)] = counts.get(latency.bucket_of(value), 0) + 1
    exact = sorted(values)[max(1, -(-int(q * len(values) * 10**9) // 10**9)) - 1]
    found = latency.quantile(counts, q)
    assert found is not None
    assert found >= exact * (1 - 1e-9)


def test_no_counts_have_no_quantile() -> None:
    assert latency.quantile({}, 0.99) is None


@pytest.mark.parametrize("value", [0.0, -1.0, 1e-9])
def test_what_is_too_short_to_tell_is_in_the_first_bucket(value: float) -> None:
    assert latency.bucket_of(value) == 0


def test_what_is_too_long_is_in_the_last_bucket() -> None:
    assert latency.bucket_of(1e9) == latency.LAST


histograms = st.dictionaries(st.integers(0, latency.LAST), st.integers(1, 1000)).map(lambda d: tuple(sorted(d.items())))


@given(histograms, histograms)
def test_a_histogram_that_grew_by_another_differs_by_it(
    one: tuple[tuple[int, int], ...], other: tuple[tuple[int, int], ...]
) -> None:
    assert latency.subtract(latency.add(one, other), one) == other
