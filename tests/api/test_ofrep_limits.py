"""What is refused before anything is evaluated: too often, too large, not understood."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossfade.api.ofrep_limits import DEEPEST, Buckets, Malformed, Rate, context_in

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(
    per_second=st.floats(min_value=0.5, max_value=1e4),
    burst=st.integers(min_value=1, max_value=50),
    gaps=st.lists(st.floats(min_value=0, max_value=2), max_size=60),
)
def test_nobody_gets_more_than_a_burst_and_what_the_rate_gives_and_who_waits_as_told_is_let_in(
    per_second: float, burst: int, gaps: list[float]
) -> None:
    buckets, now = Buckets(Rate(per_second, burst)), 0.0
    for taken, gap in enumerate(gaps, 1):
        now += gap
        wait = buckets.take("ada", now)
        assert isinstance(wait, int)
        if wait:
            now += wait
            assert buckets.take("ada", now) == 0
        assert taken <= burst + now * per_second + 1e-6


def test_who_asks_too_often_keeps_nobody_else_out() -> None:
    buckets = Buckets(Rate(1, 2))
    assert [buckets.take("eve", 0.0) for _ in range(3)] == [0, 0, 1]
    assert buckets.take("ada", 0.0) == 0


def test_inventing_names_does_not_fill_the_memory() -> None:
    buckets = Buckets(Rate(1, 1), most=10)
    for number in range(1000):
        buckets.take(str(number), 0.0)
    assert len(buckets._left) == 10


def test_a_clock_that_goes_back_gives_nothing() -> None:
    buckets = Buckets(Rate(1, 1))
    assert buckets.take("ada", 100.0) == 0
    assert buckets.take("ada", 50.0) == 1


@given(st.dictionaries(st.text(), json_values, max_size=4))
def test_a_context_comes_out_as_it_was_sent(context: dict[str, Any]) -> None:
    assert context_in(json.dumps({"context": context}, ensure_ascii=False).encode()) == context
    assert context_in(json.dumps({"context": context}).encode()) == context


@given(st.binary(max_size=200))
def test_whatever_is_sent_is_a_context_or_malformed(body: bytes) -> None:
    try:
        assert isinstance(context_in(body), dict)
    except Malformed as error:
        refused = error
    else:
        return
    assert (refused.status, refused.code) in {(400, "PARSE_ERROR"), (400, "INVALID_CONTEXT")}


@pytest.mark.parametrize("body", [b"", b"{}", b'{"context": null}', b'{"context": {}}', b'{"other": 1}'])
def test_a_body_without_a_context_has_an_empty_one(body: bytes) -> None:
    assert context_in(body) == {}


NESTED = b'{"context": {"a": ' + b"[" * DEEPEST + b"]" * DEEPEST + b"}}"


@pytest.mark.parametrize(
    ("body", "code", "word"),
    [
        (b"\xff\xfe{}", "PARSE_ERROR", "UTF-8"),
        ('{"context": {"a": "ä"}}'.encode("latin-1"), "PARSE_ERROR", "UTF-8"),
        ("{}".encode("utf-16"), "PARSE_ERROR", "UTF-8"),
        (b"{", "PARSE_ERROR", "not JSON"),
        (b"[]", "PARSE_ERROR", "not a JSON object"),
        (b"null", "PARSE_ERROR", "not a JSON object"),
        (b'{"context": {"a": NaN}}', "PARSE_ERROR", "NaN"),
        (b'{"context": {"a": -Infinity}}', "PARSE_ERROR", "-Infinity"),
        (b'{"context": {"a": 1' + b"0" * 5000 + b"}}", "PARSE_ERROR", "not JSON"),
        (b"[" * 100_000, "PARSE_ERROR", "deep"),
        (b'{"context": []}', "INVALID_CONTEXT", "not a JSON object"),
        (b'{"context": "targetingKey"}', "INVALID_CONTEXT", "not a JSON object"),
        (b'{"context": {"a": "\\ud800"}}', "INVALID_CONTEXT", "half of a character"),
        (b'{"context": {"\\udfff": 1}}', "INVALID_CONTEXT", "half of a character"),
        (NESTED, "INVALID_CONTEXT", "deeper than"),
    ],
)
def test_what_cannot_be_understood_is_named(body: bytes, code: str, word: str) -> None:
    with pytest.raises(Malformed) as caught:
        context_in(body)
    assert (caught.value.status, caught.value.code) == (400, code)
    assert word in caught.value.details


def test_many_brackets_that_are_not_deep_are_taken() -> None:
    flat = {"groups": [[n] for n in range(100)]}
    assert context_in(json.dumps({"context": flat}).encode()) == flat
