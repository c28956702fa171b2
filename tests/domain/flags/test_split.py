"""Percentages are honest: who was in stays in while a share grows, and who came last goes first when it shrinks."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crossfade.domain.errors import InvalidBatch
from crossfade.domain.flags.evaluate import compiled
from crossfade.domain.flags.model import Flag, FlagSet, Linear, Rule, Split
from crossfade.domain.flags.split import reallocate, share_of, variant_of
from tests.domain.flags.generated import NOW, shares_of, splits

NAMES = ("on", "off", "b")


def held(split: Split) -> dict[str, set[int]]:
    """The buckets of each variant, the rest's with it."""
    buckets: dict[str, set[int]] = {split.rest: set(range(10_000))}
    for variant, slices in split.shares.items():
        mine = {bucket for begin, end in slices for bucket in range(begin, end)}
        buckets[split.rest] -= mine
        buckets[variant] = buckets.get(variant, set()) | mine
    return buckets


changes = splits(NAMES).flatmap(
    lambda split: st.tuples(st.just(split), shares_of(split, [name for name in NAMES if name != split.rest]))
)


@given(changes)
def test_a_change_gives_the_shares_that_were_asked_for_and_leaves_the_others(
    change: tuple[Split, dict[str, int]],
) -> None:
    split, shares = change
    after = reallocate(split, shares)
    for variant in set(NAMES) - {split.rest}:
        assert share_of(after, variant) == shares.get(variant, share_of(split, variant))
        assert len(held(after).get(variant, ())) == share_of(after, variant)
    assert sum(share_of(after, variant) for variant in NAMES) == 10_000


@given(changes)
def test_raising_a_share_evicts_nobody_and_lowering_it_admits_nobody(change: tuple[Split, dict[str, int]]) -> None:
    split, shares = change
    before, after = held(split), held(reallocate(split, shares))
    for variant in set(NAMES) - {split.rest}:
        was, now = before.get(variant, set()), after.get(variant, set())
        assert was <= now if share_of(split, variant) <= len(now) else now <= was


@given(changes)
def test_only_a_lowered_variant_loses_anybody(change: tuple[Split, dict[str, int]]) -> None:
    split, shares = change
    after = reallocate(split, shares)
    for bucket in range(0, 10_000, 7):
        was, now = variant_of(split, bucket), variant_of(after, bucket)
        if was != now:
            assert was == split.rest or share_of(after, was) < share_of(split, was)


@given(splits(NAMES), st.data())
def test_what_came_last_goes_first(split: Split, data: st.DataObject) -> None:
    variant = data.draw(st.sampled_from([name for name in NAMES if name != split.rest]))
    free = share_of(split, split.rest)
    raised, again = sorted(data.draw(st.tuples(st.integers(0, free), st.integers(0, free))))
    start = share_of(split, variant)
    once = reallocate(split, {variant: start + raised})
    twice = reallocate(once, {variant: start + again})
    assert held(reallocate(twice, {variant: start + raised})) == held(once)
    assert held(reallocate(twice, {variant: start})) == held(split)


@given(splits(NAMES))
def test_no_bucket_is_given_out_twice(split: Split) -> None:
    assert sum(map(len, held(split).values())) == 10_000


@pytest.mark.parametrize(
    ("shares", "place"),
    [
        ({"on": -1}, "shares.on"),
        ({"on": 10_001}, "shares.on"),
        ({"on": True}, "shares.on"),
        ({"on": 50.5}, "shares.on"),
        ({"on": 6000, "b": 4001}, "shares"),
        ({"on": 9500}, "shares"),
        ({"on": 1000, "off": 9000}, "shares.off"),
    ],
)
def test_shares_that_are_not_allowed_are_named(shares: dict[str, int], place: str) -> None:
    split = Split({"b": ((0, 1000),)}, "off")
    with pytest.raises(InvalidBatch) as caught:
        reallocate(split, shares)
    assert caught.value.faults[0].place == place


def test_the_rest_may_be_named_with_what_is_left_for_it() -> None:
    split = Split({"b": ((0, 1000),)}, "off")
    assert reallocate(split, {"on": 1000, "off": 8000}).shares == {"b": ((0, 1000),), "on": ((1000, 2000),)}


# --- who gets what


def served(serve: str | Split | Linear, now: float = NOW, people: int = 10_000, seed: str | None = None) -> list[str]:
    flag = Flag("flag", {"on": 1, "off": 2, "b": 3}, "off", rules=(Rule("rule", serve),), seed=seed)
    evaluator = compiled(FlagSet({"flag": flag}))
    return [evaluator.evaluate("flag", {"targetingKey": f"user-{i}"}, now).variant or "" for i in range(people)]


@settings(max_examples=20, deadline=None)
@given(splits(NAMES))
def test_people_get_their_variants_in_the_shares_of_the_split(split: Split) -> None:
    people = 10_000 if split.by == "targetingKey" else 10
    counts = Counter(served(split, people=people))
    for variant in NAMES:
        if split.by != "targetingKey":
            # Who has nothing to hash gets the rest, unless all get the same.
            assert len(counts) == 1
        else:
            share = share_of(split, variant) / 10_000
            # Five standard errors of a share among so many.
            assert abs(counts[variant] / people - share) <= 5 * (share * (1 - share) / people) ** 0.5 + 1e-9


@settings(max_examples=20, deadline=None)
@given(changes)
def test_people_move_only_where_their_buckets_do(change: tuple[Split, dict[str, int]]) -> None:
    split, shares = change
    after = reallocate(split, shares)
    for was, now in zip(served(split, people=500), served(after, people=500), strict=True):
        if was not in (now, split.rest):
            assert share_of(after, was) < share_of(split, was)


def test_no_share_admits_nobody_and_all_of_it_everybody() -> None:
    for split in (Split({}, "off"), Split({"on": ()}, "off")):
        assert set(served(split)) == {"off"}
    assert set(served(reallocate(Split({}, "off"), {"on": 10_000}))) == {"on"}
    assert set(served(Linear("on", "off", NOW + 1.0, NOW + 9.0))) == {"off"}
    assert set(served(Linear("on", "off", NOW - 9.0, float(NOW)))) == {"on"}


def test_the_same_seed_aligns_two_flags_and_another_one_does_not() -> None:
    tenth, half = (Split({"on": ((0, share),)}, "off") for share in (1000, 5000))
    small, large = served(tenth, seed="checkout"), served(half, seed="checkout")
    assert all(other == "on" for one, other in zip(small, large, strict=True) if one == "on")
    other = served(half, seed="basket")
    assert 300 < sum(one == other_one == "on" for one, other_one in zip(small, other, strict=True)) < 700


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 10_000), st.sampled_from([100.0, 86_400.0, 400 * 86_400.0]))
def test_a_ramp_goes_one_way_and_takes_everybody_along(start: int, end: int, lasts: float) -> None:
    ramp = Linear("on", "off", float(NOW), NOW + lasts, start, end)
    before = served(ramp, NOW - 10.0, people=300)
    for part in (0.0, 0.3, 0.31, 0.9, 1.0, 2.0):
        after = served(ramp, NOW + part * lasts, people=300)
        kept = "on" if end >= start else "off"
        assert all(now == kept for was, now in zip(before, after, strict=True) if was == kept)
        before = after


def test_a_ramp_is_halfway_at_half_time() -> None:
    for lasts in (10.0, 3600.0, 30 * 86_400.0, 3 * 366 * 86_400.0):
        counts = Counter(served(Linear("on", "off", NOW - lasts / 2, NOW + lasts / 2)))
        assert counts["on"] == pytest.approx(5000, abs=250)
