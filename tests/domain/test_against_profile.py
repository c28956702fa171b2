"""A release against what the release before it showed: what is found, how soon, and what is not."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crossfade.domain.analysis import latency
from crossfade.domain.analysis.against_profile import (
    ALARM,
    ENOUGH,
    Evidence,
    Look,
    Profile,
    advance,
    begin,
    harm,
    judge,
    profile_of,
)
from crossfade.domain.analysis.sample import Histogram, History
from crossfade.domain.analysis.verdict import Finding
from crossfade.domain.signal import EDGES_MS

WATCH = 1800.0


def latencies(rng: np.random.Generator, n: int, median: float, spread: float = 0.4) -> tuple[tuple[int, int], ...]:
    """So many samples, lognormal, by bucket."""
    found: dict[int, int] = {}
    for seconds in rng.lognormal(math.log(median), spread, n):
        found[latency.bucket_of(seconds)] = found.get(latency.bucket_of(seconds), 0) + 1
    return tuple(sorted(found.items()))


def history(
    requests: int = 60_000, share: float = 0.001, median: float = 0.05, bursts: tuple[float, ...] = ()
) -> History:
    counts = [0.0] * (len(EDGES_MS) + 1)
    for bucket, n in latencies(np.random.default_rng(1), min(requests, 20_000), median):
        counts[bucket] = float(n)
    return History(requests, round(requests * share), bursts, Histogram(EDGES_MS, tuple(counts)), 600.0)


def first_fail(profile: Profile, looks: list[Look]) -> int | None:
    """How many looks it took to fail; None: it did not."""
    seen = begin(profile)
    for i, look in enumerate(looks, 1):
        seen = advance(profile, seen, look, WATCH)
        if judge(profile, seen, WATCH)[0].finding is Finding.FAIL:
            return i
    return None


def served(rng: np.random.Generator, seconds: int, rate: float, share: float, median: float = 0.05) -> list[Look]:
    found = []
    for _ in range(seconds):
        n = int(rng.poisson(rate))
        found.append(Look(1.0, n, int(rng.binomial(n, share)), latencies(rng, n // 4, median)))
    return found


@pytest.mark.parametrize("seed", range(10))
def test_five_percent_of_errors_are_found_within_seconds(seed: int) -> None:
    rng = np.random.default_rng(seed)
    found = first_fail(profile_of(history()), served(rng, 60, 100, 0.05))
    assert found is not None and found <= 10


@pytest.mark.parametrize("seed", range(5))
def test_what_begins_late_is_found_within_seconds_too(seed: int) -> None:
    rng = np.random.default_rng(seed)
    looks = served(rng, 900, 100, 0.001) + served(rng, 60, 100, 0.05)
    found = first_fail(profile_of(history()), looks)
    assert found is not None and 900 < found <= 920


@pytest.mark.parametrize("seed", range(5))
def test_a_total_failure_of_a_service_with_a_request_a_second_is_found_within_seconds(seed: int) -> None:
    rng = np.random.default_rng(seed)
    found = first_fail(profile_of(history(600, 0.0)), served(rng, 60, 1.0, 1.0))
    assert found is not None and found <= 20


@pytest.mark.parametrize("seed", range(5))
def test_requests_that_take_twice_as_long_are_found_within_seconds(seed: int) -> None:
    rng = np.random.default_rng(seed)
    found = first_fail(profile_of(history()), served(rng, 60, 100, 0.001, median=0.1))
    assert found is not None and found <= 20


@pytest.mark.parametrize("seed", range(8))
def test_a_load_that_rises_and_falls_as_on_any_day_is_no_harm(seed: int) -> None:
    """Five times as many requests, a quarter slower, and twice the errors, by and by."""
    rng = np.random.default_rng(seed)
    looks: list[Look] = []
    for second in range(900):
        day = math.sin(math.pi * second / 900)
        looks += served(rng, 1, 20 + 80 * day, 0.001 * (1 + day), 0.05 * (1 + 0.25 * day))
    assert first_fail(profile_of(history()), looks) is None


@pytest.mark.parametrize("seed", range(8))
def test_one_burst_that_is_over_is_no_harm(seed: int) -> None:
    rng = np.random.default_rng(seed)
    looks = served(rng, 60, 100, 0.001)
    looks[30:32] = [Look(1.0, 100, 60), Look(1.0, 100, 60)]
    assert first_fail(profile_of(history()), looks) is None


def test_at_its_limit_it_hardly_ever_fails() -> None:
    """The stated chance is 1 in 1000; here 200 times 5 minutes exactly at the limit, where most alarms are."""
    profile = profile_of(History(60_000, 60, (), None, 600.0))
    limit = profile.tests[0].limit
    failed = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        n = rng.poisson(100, 300)
        looks = [Look(1.0, int(m), int(rng.binomial(m, limit))) for m in n]
        failed += first_fail(profile, looks) is not None
    assert failed <= max(1, 200 * ALARM * 5)


def test_of_a_profile_of_too_few_requests_it_says_so() -> None:
    for few in (History(), history(50)):
        profile = profile_of(few)
        verdict, metric = judge(profile, advance(profile, begin(profile), Look(1.0, 100, 100), WATCH), WATCH)
        assert (verdict.finding, metric) == (Finding.NO_DATA, "")
        assert "100 are needed" in verdict.sentence


def test_errors_that_come_in_bursts_by_themselves_take_longer_to_tell() -> None:
    calm, bursty = profile_of(history()), profile_of(history(bursts=(0.0, 0.0, 30.0, 0.0, 0.0, 25.0, 0.0, 5.0)))
    assert bursty.tests[0].burst > calm.tests[0].burst == 1.0
    looks = served(np.random.default_rng(3), 120, 100, 0.02)
    slow, fast = first_fail(bursty, looks), first_fail(calm, looks)
    assert fast is not None and (slow is None or slow >= fast)


looks = st.builds(
    lambda seconds, requests, share, counts: Look(
        seconds, requests, round(requests * share), tuple(sorted(counts.items()))
    ),
    st.floats(0, 100),
    st.integers(0, 500),
    st.floats(0, 1),
    st.dictionaries(st.integers(0, 200), st.integers(1, 50), max_size=4),
)


@settings(max_examples=50)
@given(st.lists(looks, max_size=20))
def test_what_was_written_down_goes_on_as_it_was(script: list[Look]) -> None:
    profile = profile_of(history())
    whole = kept = begin(profile)
    for look in script:
        whole = advance(profile, whole, look, WATCH)
        kept = Evidence.from_data(json.loads(json.dumps(kept.to_data(), allow_nan=False)))
        kept = advance(profile, kept, look, WATCH)
    assert judge(profile, kept, WATCH) == judge(profile, whole, WATCH)


@settings(max_examples=50)
@given(st.lists(looks, max_size=20))
def test_without_anything_bad_nothing_fails(script: list[Look]) -> None:
    profile = profile_of(History(60_000, 60, (), None, 600.0))
    good = [Look(one.seconds, one.requests, 0) for one in script]
    assert first_fail(profile, good) is None


def test_whether_harm_goes_on_is_said_from_a_few_requests_on() -> None:
    profile = profile_of(history())
    assert harm(profile, "errors", Look(1.0, ENOUGH - 1, 5)) is None
    assert harm(profile, "errors", Look(1.0, 100, 50)) is True
    assert harm(profile, "errors", Look(1.0, 100, 0)) is False
    assert harm(profile, "latency", Look(1.0, 100, 0)) is None
    quick = latencies(np.random.default_rng(2), 100, 0.05)
    assert harm(profile, "latency", Look(1.0, 100, 0, quick)) is False
    assert harm(profile, "latency", Look(1.0, 100, 0, ((latency.bucket_of(5.0), 100),))) is True
