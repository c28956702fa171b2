import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossfade.domain.errors import Invalid
from crossfade.domain.traffic import Counters, Slot, Split
from crossfade.domain.values import EVERYTHING, NOTHING, Weight

weights = st.integers(0, 10_000).map(Weight)
buckets = st.integers(0, 9_999)
slots = st.sampled_from(Slot)


@given(weights, slots)
def test_weights_sum_to_ten_thousand(weight: Weight, slot: Slot) -> None:
    split = Split.giving(slot, weight)
    assert split.blue.bp + split.green.bp == 10_000
    assert split.of(slot) == weight


@given(buckets, slots)
def test_no_weight_admits_nobody_and_full_weight_everybody(bucket: int, slot: Slot) -> None:
    assert Split.giving(slot, NOTHING).admits(bucket) is slot.other
    assert Split.giving(slot, EVERYTHING).admits(bucket) is slot


@given(buckets, slots, weights, weights)
def test_raising_a_weight_evicts_nobody(bucket: int, slot: Slot, one: Weight, other: Weight) -> None:
    low, high = sorted((one, other))
    if Split.giving(slot, low).admits(bucket) is slot:
        assert Split.giving(slot, high).admits(bucket) is slot


@given(weights, slots)
def test_a_slot_is_served_exactly_its_share_of_the_buckets(weight: Weight, slot: Slot) -> None:
    split = Split.giving(slot, weight)
    assert sum(split.admits(b) is slot for b in range(10_000)) == weight.bp


@pytest.mark.parametrize("bucket", [-1, 10_000])
def test_a_bucket_outside_the_range_is_refused(bucket: int) -> None:
    with pytest.raises(Invalid):
        Split.wholly(Slot.BLUE).admits(bucket)


def test_only_a_wholly_given_split_has_an_active_slot() -> None:
    assert Split.wholly(Slot.GREEN).active is Slot.GREEN
    assert Split.wholly(Slot.BLUE).active is Slot.BLUE
    assert Split.giving(Slot.GREEN, Weight(1)).active is None


counts = st.integers(0, 10**9)


@given(counts, counts, counts, counts)
def test_a_difference_and_its_start_add_up_to_the_end(a: int, b: int, more: int, worse: int) -> None:
    start = Counters(a, b, 0, 0, (("5xx", b),))
    end = Counters(a + more, b + worse, 0, 3, (("5xx", b + worse),))
    assert start.plus(end.since(start)) == end


def test_counts_that_shrank_never_make_a_negative_difference() -> None:
    gone = Counters(5, 1).since(Counters(10, 4))
    assert (gone.requests, gone.errors) == (0, 0)
