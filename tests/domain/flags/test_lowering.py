"""What is ours means the same to every evaluator of flagd once it is lowered."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from crossfade.domain.flags.document import read
from crossfade.domain.flags.evaluate import compiled
from crossfade.domain.flags.lowering import lower
from crossfade.domain.flags.model import NOWHERE, FlagSet, Json, Surroundings
from crossfade.domain.values import ReleaseNumber
from tests.domain.flags.generated import NOW, Oracle, contexts, flag_sets, plain, sound_sets

surroundings = st.just(NOWHERE) | st.integers(6, 13).map(lambda n: Surroundings(ReleaseNumber(n)))
moments = st.integers(-4 * 3600, 4 * 3600).map(lambda seconds: NOW + seconds)


@settings(max_examples=300, deadline=None)
@given(flag_sets(), surroundings, st.lists(st.tuples(contexts, moments), min_size=1, max_size=4))
def test_a_lowered_flag_set_gives_the_same_answers_in_flagds_own_evaluator(
    flag_set: FlagSet, around: Surroundings, asked: list[tuple[dict[str, Json], int]]
) -> None:
    ours = compiled(flag_set, around)
    theirs = Oracle(lower(flag_set, around))
    for context, now in asked:
        for key in ours.keys:
            assert plain(ours.evaluate(key, context, now)) == plain(theirs.evaluate(key, context, now))


@settings(deadline=None)
@given(sound_sets, surroundings, contexts, moments)
def test_a_flag_set_that_was_lowered_and_read_again_gives_the_same_answers(
    flag_set: FlagSet, around: Surroundings, context: dict[str, Json], now: int
) -> None:
    again = read(lower(flag_set, around))
    assert compiled(again).all(context, now) == compiled(flag_set, around).all(context, now)
