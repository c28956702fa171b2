import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossfade.domain.errors import Invalid
from crossfade.domain.traffic import CONTROL, Counters, Lease, Pool, Slot, Split, pool_of
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


@st.composite
def controlled(draw: st.DrawFn) -> tuple[Split, Slot]:
    """A split with a control pool, and the slot of the candidate; the control's share may be nothing."""
    candidate = draw(slots)
    weight = draw(st.integers(0, 10_000))
    share = draw(st.integers(0, 10_000 - weight))
    return Split.giving(candidate, Weight(weight)).with_control(candidate.other, Weight(share)), candidate


def served(split: Split, pool: Pool) -> set[int]:
    return {bucket for bucket in range(10_000) if split.admits(bucket) is pool}


@given(controlled())
def test_a_control_pool_has_exactly_its_share_and_all_of_it_from_the_baseline(one: tuple[Split, Slot]) -> None:
    split, candidate = one
    assert len(served(split, CONTROL)) == split.control.bp
    assert len(served(split, candidate.other)) == split.of(candidate.other).bp - split.control.bp
    assert served(split, candidate) == served(split.without_control, candidate)


@given(controlled(), weights)
def test_raising_the_candidates_weight_takes_nobody_from_the_control(one: tuple[Split, Slot], weight: Weight) -> None:
    split, candidate = one
    higher = max(split.of(candidate), min(weight, split.control.rest))
    after = Split.giving(candidate, higher).with_control(candidate.other, split.control)
    assert served(after, CONTROL) == served(split, CONTROL)
    assert served(after, candidate) >= served(split, candidate)


@given(controlled(), weights)
def test_raising_the_controls_share_evicts_nobody_from_it(one: tuple[Split, Slot], share: Weight) -> None:
    split, candidate = one
    higher = max(split.control, min(share, split.of(candidate.other)))
    after = split.with_control(candidate.other, higher)
    assert served(after, CONTROL) >= served(split, CONTROL)
    assert served(after, candidate) == served(split, candidate)


@given(controlled())
def test_weights_count_the_control_in_its_slot(one: tuple[Split, Slot]) -> None:
    split, _ = one
    assert (split.blue, split.green) == (split.without_control.blue, split.without_control.green)
    assert split.active is split.without_control.active


@given(controlled())
def test_a_split_is_one_number_and_can_be_read_from_it(one: tuple[Split, Slot]) -> None:
    split, _ = one
    assert Split.from_code(split.code) == split
    assert (split.code == split.green.bp) == (split.control == NOTHING)


@given(st.integers(-(10**9), 10**9))
def test_a_number_is_the_code_of_one_split_or_of_none(code: int) -> None:
    try:
        split = Split.from_code(code)
    except Invalid:
        return
    assert split.code == code


def test_a_control_cannot_take_more_than_its_slot_has() -> None:
    with pytest.raises(Invalid, match=r"control.*blue \(40 %\)"):
        Split(Weight(6000)).with_control(Slot.BLUE, Weight(4001))
    assert Split(Weight(6000)).with_control(Slot.BLUE, Weight(4000)).admits(9999) is CONTROL


def test_a_split_says_whose_share_the_control_takes() -> None:
    split = Split.giving(Slot.BLUE, Weight(500)).with_control(Slot.GREEN, Weight(500))
    assert str(split) == "blue 5 % · green 95 % (of it control 5 %)"
    assert str(split.without_control) == "blue 5 % · green 95 %"


def test_a_lease_never_falls_back_to_a_control_pool() -> None:
    with pytest.raises(Invalid, match="without a control"):
        Lease(1.0, Split.wholly(Slot.BLUE).with_control(Slot.BLUE, Weight(1)))


def test_a_pool_is_known_by_its_name() -> None:
    assert [pool_of(name) for name in ("blue", "green", "control")] == [*Slot, CONTROL]
    with pytest.raises(ValueError, match="red"):
        pool_of("red")


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
