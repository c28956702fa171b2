"""What an answer is judged by."""

from __future__ import annotations

import pytest

from crossfade.domain.health import Answer, Check, CheckResult, Expectation, judge_answer

OK = Answer(200, {"Content-Type": "text/html"}, "hello world", 0.010)


def judged(
    check: Check, answer: Answer = OK, found: dict[str, object] | None = None, json_fault: str = ""
) -> list[str]:
    return judge_answer(check, answer, json_fault, found or {})


def test_an_answer_is_healthy_when_nothing_is_asked_of_it_but_its_status() -> None:
    assert judged(Check("c", "/")) == []
    assert judged(Check("c", "/", status=(301, 404))) == ["status 200, expected 301 or 404"]


def test_no_answer_has_one_fault_only() -> None:
    check = Check("c", "/", body="x", json=(Expectation("$.a"),), headers=(("X", "."),), max_latency=0.0)
    assert judged(check, Answer(failure="connection refused", elapsed=1.0)) == ["connection refused"]


def test_a_result_is_healthy_without_faults() -> None:
    assert CheckResult("c", "/", (), 0.1).healthy
    assert not CheckResult("c", "/", ("x",), 0.1).healthy


@pytest.mark.parametrize(
    ("expected", "value", "healthy"),
    [
        (Expectation("$.x", "a"), "a", True),
        (Expectation("$.x", "a"), "b", False),
        (Expectation("$.x", 1), 1, True),
        (Expectation("$.x", 1), 1.0, True),
        (Expectation("$.x", 1), True, False),
        (Expectation("$.x", True), 1, False),
        (Expectation("$.x", False), False, True),
        (Expectation("$.x", ""), "", True),
        (Expectation("$.x", [1, 2]), [1, 2], True),
        (Expectation("$.x", [1, 2]), [2, 1], False),
        (Expectation("$.x"), None, True),
        (Expectation("$.x", minimum=0), 0, True),
        (Expectation("$.x", minimum=0), -0.1, False),
        (Expectation("$.x", maximum=0), 0, True),
        (Expectation("$.x", maximum=0), 0.1, False),
        (Expectation("$.x", minimum=1, maximum=2), 3, False),
        (Expectation("$.x", minimum=1), "2", False),
        (Expectation("$.x", minimum=0), True, False),
        (Expectation("$.x", minimum=0), None, False),
        (Expectation("$.x", present=False), None, False),
    ],
)
def test_a_json_value_is_held_against_what_is_expected(expected: Expectation, value: object, healthy: bool) -> None:
    assert (judged(Check("c", "/", json=(expected,)), found={"$.x": value}) == []) is healthy


def test_a_missing_json_value_is_a_fault_unless_it_should_be_absent() -> None:
    assert judged(Check("c", "/", json=(Expectation("$.x"),))) == ["JSON $.x is missing"]
    assert judged(Check("c", "/", json=(Expectation("$.x", present=False),))) == []


def test_a_body_that_is_not_json_is_a_fault_only_where_json_is_expected() -> None:
    assert judged(Check("c", "/", json=(Expectation("$.x"), Expectation("$.y"))), json_fault="no JSON") == ["no JSON"]
    assert judged(Check("c", "/"), json_fault="no JSON") == []


def test_headers_are_found_whatever_their_case() -> None:
    assert judged(Check("c", "/", headers=(("content-TYPE", "html$"),))) == []


def test_latency_is_a_fault_only_above_its_limit() -> None:
    assert judged(Check("c", "/", max_latency=0.010)) == []
    assert judged(Check("c", "/", max_latency=0.009)) == ["took 10 ms, limit 9 ms"]


def test_a_broken_expression_is_a_fault_and_no_accident() -> None:
    assert judged(Check("c", "/", body="(")) == ["body does not match '('"]


def test_a_fault_is_short_whatever_came_back() -> None:
    check = Check("c", "/", json=(Expectation("$.x", 1),), headers=(("X-Long", "^$"),))
    faults = judged(check, Answer(200, {"X-Long": "y" * 10_000}, "", 0.0), {"$.x": ["z" * 10_000]})
    assert len(faults) == 2
    assert all(len(fault) < 250 for fault in faults)
