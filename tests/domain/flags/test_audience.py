"""Who gets what is counted before a change and after it."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from crossfade.domain.flags.audience import CODE_DEFAULT, FAILED, audience
from crossfade.domain.flags.evaluate import compiled
from crossfade.domain.flags.model import Flag, FlagSet, Json, Rule, Split
from crossfade.domain.flags.split import reallocate
from tests.domain.flags.generated import NOW, contexts, flag_sets

PEOPLE = [{"targetingKey": f"user-{i}"} for i in range(1000)]
FLAG = Flag("flag", {"on": True, "off": False}, "off", rules=(Rule("ramp", Split({"on": ((0, 1000),)}, "off")),))


def test_those_who_move_are_counted_by_where_they_go() -> None:
    split = FLAG.rules[0].serve
    assert isinstance(split, Split)
    raised = replace(FLAG, rules=(replace(FLAG.rules[0], serve=reallocate(split, {"on": 5000})),))
    found = audience(compiled(FlagSet({"flag": FLAG})), compiled(FlagSet({"flag": raised})), "flag", PEOPLE, NOW)
    assert found.contexts == 1000
    assert found.before == {"off": 906, "on": 94}
    assert sum(found.after.values()) == 1000
    assert found.moves == {("off", "on"): found.after["on"] - 94}
    assert found.moved == found.after["on"] - 94


def test_without_the_flag_before_the_code_had_its_own_default() -> None:
    after = compiled(FlagSet({"flag": Flag("flag", {"on": True}, "on")}))
    for before in (None, compiled(FlagSet())):
        found = audience(before, after, "flag", PEOPLE[:3], NOW)
        assert (found.before, found.after) == ({CODE_DEFAULT: 3}, {"on": 3})
        assert found.moves == {(CODE_DEFAULT, "on"): 3}


def test_what_fails_is_counted_as_well() -> None:
    broken = compiled(FlagSet({"flag": replace(FLAG, rules=(), targeting={"/": [1, 0]})}))
    assert audience(broken, broken, "flag", PEOPLE[:3], NOW).after == {FAILED: 3}
    assert audience(broken, broken, "none", [], NOW).contexts == 0


@settings(max_examples=30, deadline=None)
@given(flag_sets(), st.lists(contexts, max_size=5))
def test_nobody_moves_where_nothing_changes(flag_set: FlagSet, asked: list[dict[str, Json]]) -> None:
    evaluator = compiled(flag_set)
    for key in evaluator.keys:
        found = audience(evaluator, compiled(flag_set), key, asked, NOW)
        assert found.moves == {}
        assert found.before == found.after
        assert sum(found.before.values()) == len(asked)
