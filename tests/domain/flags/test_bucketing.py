"""Buckets are those of the evaluators of flagd, now and before."""

from __future__ import annotations

from bisect import bisect_right

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossfade.domain.flags import bucketing
from crossfade.domain.flags.evaluate import compiled
from crossfade.domain.flags.model import Json
from tests.domain.flags.generated import VARIANTS, targeted, values


@pytest.mark.parametrize(
    ("text", "hashed"),
    [
        (b"", 0),
        (b"test", 0xBA6BD213),
        (b"Hello, world!", 0xC0363E43),
        (b"The quick brown fox jumps over the lazy dog", 0x2E4FF723),
    ],
)
def test_the_hash_is_murmurs(text: bytes, hashed: int) -> None:
    assert bucketing.murmur(text) == hashed


@pytest.mark.parametrize(
    ("value", "encoded"),
    [  # RFC 8949, appendix A, but for whole floats, which are the integers that they are
        (0, "00"),
        (24, "1818"),
        (1_000_000, "1a000f4240"),
        (-1, "20"),
        (1.5, "f93e00"),
        (1.1, "fb3ff199999999999a"),
        (2.0, "02"),
        (-0.0, "00"),
        (1e300, "fb7e37e43c8800759c"),
        (True, "f5"),
        ("a", "6161"),
        ("ü", "62c3bc"),
        ("x" * 300, "79012c" + "78" * 300),
        ([1, [2, 3]], "8201820203"),
        ({"b": [2, 3], "a": 1}, "a26161016162820203"),
    ],
)
def test_values_are_written_in_deterministic_cbor(value: Json, encoded: str) -> None:
    written = bucketing.cbor(value)
    assert written is not None
    assert written.hex() == encoded


@pytest.mark.parametrize("value", [None, "\ud800", ["\ud800"], {"a": "\ud800"}])
def test_what_cannot_be_written_has_no_bucket(value: Json) -> None:
    assert bucketing.hash_of(value, 3) is None


QUARTERS = {"red": 25, "blue": 25, "green": 25, "yellow": 25}


@pytest.mark.parametrize(
    ("key", "by", "shares", "v1", "v2", "v3"),
    [  # as openfeature-provider-flagd 0.2.6, and openfeature-flagd-core 1.0.0 and 2.0.0 have answered
        ("user-1", None, {"a": 50, "b": 50}, "b", "b", "b"),
        ("user-2", None, {"a": 25, "b": 25, "c": 25, "d": 25}, "b", "d", "a"),
        ("user-3", None, {"a": 1, "b": 2, "c": 3}, "c", "b", "c"),
        ("größe", None, {"a": 10, "b": 10, "c": 80}, "c", "c", "b"),
        (None, "rachel@faas.com", QUARTERS, "green", "blue", "blue"),
        (None, "monica@faas.com", QUARTERS, "yellow", "blue", "yellow"),
        (None, "joey@faas.com", QUARTERS, "blue", "yellow", "yellow"),
        (None, "ross@faas.com", QUARTERS, "red", "red", "red"),
        (None, "x", {"a": 1, "b": 1, "c": 1}, "b", "a", "a"),
        ("", "", {"a": 1, "b": 1}, None, None, "a"),
        (None, "x", {"a": 0, "b": 0}, None, None, None),
    ],
)
@pytest.mark.parametrize("hash_version", [1, 2, 3])
@pytest.mark.parametrize("constant", [True, False])
def test_each_hash_version_gives_the_variants_of_its_evaluator(
    key: str | None,
    by: str | None,
    shares: dict[str, int],
    v1: str | None,
    v2: str | None,
    v3: str | None,
    hash_version: int,
    constant: bool,
) -> None:
    weighted = [[name, weight if constant else {"+": [weight]}] for name, weight in shares.items()]
    args = weighted if by is None else [by if constant else {"var": "email"}, *weighted]
    flag_set = targeted({"cat": [">", {"fractional": args}]}, "headerColor", hash_version)
    context = {"targetingKey": key, "email": by}
    found = compiled(flag_set).evaluate("headerColor", context, 0.0)
    wanted = (v1, v2, v3)[hash_version - 1] or "null"
    assert found.details == f"The targeting came to '>{wanted}', which is no variant of the flag."


@given(values, st.sampled_from([1, 2, 3]))
def test_a_hash_has_32_bits_or_is_none(value: Json, version: int) -> None:
    hashed = bucketing.hash_of(value, version)
    assert hashed is None or 0 <= hashed < 2**32


@given(st.integers(0, 2**32 - 1), st.lists(st.integers(0, 10_000), min_size=1, max_size=6))
def test_whoever_has_a_hash_is_in_one_share_that_is_not_empty(hashed: int, weights: list[int]) -> None:
    for version in (2, 3):
        chosen = bucketing.choose(hashed, range(len(weights)), weights, version)
        assert (chosen is None) == (sum(weights) == 0)
        assert chosen is None or weights[chosen] > 0


@given(st.integers(0, 2**32 - 1))
def test_a_place_in_the_first_version_is_at_most_once_in_two_billion_beyond_all_shares(hashed: int) -> None:
    ends = bucketing.ends_of([1, 1], 1)
    assert ends is not None
    assert bisect_right(ends, bucketing.place(hashed, 2, 1)) < 2 or hashed in (2**31 - 1, 2**31, 2**31 + 1)


def test_weights_may_not_come_to_more_than_31_bits() -> None:
    assert bucketing.ends_of([2**31 - 1], 3) is not None
    assert bucketing.ends_of([2**31 - 1, 1], 3) is None


def test_the_short_ways_hash_what_the_long_way_hashes() -> None:
    for key in ["u", "u" * 23, "u" * 24, "u" * 255, "u" * 256, "u" * 70_000, "größe", "ü" * 127, "ü" * 128]:
        for seed in ["", "s", "s" * 200, "größe"]:
            shares = [["on", 5], ["off", 5]]
            written = {"fractional": [{"cat": [seed, {"var": "targetingKey"}]}, *shares]}
            other = {"fractional": [{"cat": [seed, {"var": ["targetingKey", None]}, ""]}, *shares]}
            context = {"targetingKey": key}
            one, two = (compiled(targeted(logic)).evaluate("flag", context, 0.0) for logic in (written, other))
            assert one == two
            assert one.variant in VARIANTS
            short = compiled(targeted({"fractional": shares}, seed or "f")).evaluate(seed or "f", context, 0.0)
            hashed = bucketing.short_hash(seed or "f", key, 3)
            assert hashed is not None
            assert short.variant == bucketing.choose(hashed, ["on", "off"], [5, 5], 3)
