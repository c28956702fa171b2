from hypothesis import given
from hypothesis import strategies as st

from crossfade.domain.analysis.limits import ArmFacts, hold_to
from crossfade.domain.analysis.verdict import PRECEDENCE, Finding
from crossfade.domain.release import Limits

NOBODY = ArmFacts()
LIMITS = Limits(error_rate=0.01, p99=0.5, min_requests=50)


def test_a_candidate_within_its_limits_passes_and_is_compared_with_the_baseline() -> None:
    verdict = hold_to(LIMITS, ArmFacts(500, 1, 0.01, 0.1, 500), NOBODY, ArmFacts(9500, 5, 0.01, 0.09, 9500))
    assert verdict.finding is Finding.PASS
    assert "1 of 500" in verdict.sentence
    assert "baseline 5 of 9500" in verdict.sentence


def test_too_many_errors_fail_with_numbers_and_the_limit() -> None:
    verdict = hold_to(LIMITS, ArmFacts(100, 20, 0.01, 0.1, 100), NOBODY, NOBODY)
    assert verdict.finding is Finding.FAIL
    assert "20 of 100 candidate requests failed (20 %, limit 1 %)" in verdict.sentence


def test_a_slow_candidate_fails_by_its_p99() -> None:
    verdict = hold_to(LIMITS, ArmFacts(100, 0, 0.01, 0.9, 100), NOBODY, NOBODY)
    assert verdict.finding is Finding.FAIL
    assert "p99 is 900 ms, limit 500 ms" in verdict.sentence


def test_few_requests_are_no_data_and_say_how_many_more_are_needed() -> None:
    verdict = hold_to(LIMITS, ArmFacts(12, 0, 0.01, 0.1, 12), NOBODY, NOBODY)
    assert verdict.finding is Finding.NO_DATA
    assert "38 more" in verdict.sentence


def test_no_requests_never_pass() -> None:
    assert hold_to(LIMITS, NOBODY, NOBODY, NOBODY).finding is Finding.NO_DATA


def test_a_candidate_that_fails_from_its_first_requests_fails_before_the_minimum() -> None:
    assert hold_to(LIMITS, ArmFacts(5, 3), NOBODY, NOBODY).finding is Finding.FAIL


def test_one_bad_request_is_no_breach() -> None:
    assert hold_to(LIMITS, ArmFacts(5, 1), NOBODY, NOBODY).finding is Finding.NO_DATA


def test_what_begins_late_is_caught_by_the_last_seconds() -> None:
    whole = ArmFacts(100_000, 60, 0.01, 0.1, 1000)
    lately = ArmFacts(500, 50, 0.01, 0.1, 500)
    verdict = hold_to(LIMITS, whole, lately, NOBODY)
    assert verdict.finding is Finding.FAIL
    assert "lately" in verdict.sentence


def test_the_precedence_names_every_finding_once() -> None:
    assert sorted(PRECEDENCE) == sorted(Finding)


@given(st.integers(1, 10_000), st.integers(0, 10_000), st.integers(1, 500))
def test_more_errors_never_turn_a_fail_into_anything_better(requests: int, errors: int, more: int) -> None:
    errors = min(errors, requests)
    worse = min(requests, errors + more)
    before = hold_to(LIMITS, ArmFacts(requests, errors), NOBODY, NOBODY)
    after = hold_to(LIMITS, ArmFacts(requests, worse), NOBODY, NOBODY)
    if before.finding is Finding.FAIL:
        assert after.finding is Finding.FAIL
