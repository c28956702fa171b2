"""Logic means what it means to flagd."""

from __future__ import annotations

import json

from hypothesis import given, settings
from hypothesis import strategies as st

from crossfade.domain.flags.evaluate import compiled
from crossfade.domain.flags.model import Json
from tests.domain.flags.generated import NOW, Oracle, contexts, operations, plain, targeted


@settings(max_examples=500, deadline=None)
@given(operations, st.lists(contexts, min_size=1, max_size=3))
def test_logic_comes_to_what_flagds_own_evaluator_makes_of_it(targeting: Json, asked: list[dict[str, Json]]) -> None:
    flag_set = targeted(json.loads(json.dumps(targeting)))
    ours = compiled(flag_set)
    theirs = Oracle(ours.lowered)
    for context in asked:
        assert plain(ours.evaluate("flag", context, NOW)) == plain(theirs.evaluate("flag", context, NOW))
