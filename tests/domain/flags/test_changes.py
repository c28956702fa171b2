"""A difference between two flag sets is a sentence, and nothing that differs is left out."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings

from crossfade.domain.flags.changes import compare
from crossfade.domain.flags.model import Flag, FlagSet, Json, Killed, Linear, Prerequisite, Rule, Segment, Split
from crossfade.domain.flags.split import reallocate
from crossfade.domain.values import ReleaseNumber
from tests.domain.flags.generated import flag_sets

VARIANTS: dict[str, Json] = {"on": True, "off": False}
SPLIT = Split({"on": ((0, 500),)}, "off")
REST = "`on`, rest `off` by targetingKey"
STAFF = Rule("staff", "on", {"var": "staff"})
FLAG = Flag("checkout", VARIANTS, "off", rules=(STAFF, Rule("ramp", SPLIT)))


def sentences(old: Flag | None, new: Flag | None) -> list[str]:
    sets = [FlagSet({} if flag is None else {flag.key: flag}) for flag in (old, new)]
    return [change.sentence for change in compare(*sets)]


@settings(max_examples=50, deadline=None)
@given(flag_sets(), flag_sets())
def test_there_is_a_change_where_there_is_a_difference_and_none_where_there_is_not(old: FlagSet, new: FlagSet) -> None:
    assert compare(old, old) == ()
    changed = {change.flag for change in compare(old, new)}
    for key in {*old.flags, *new.flags}:
        assert (key in changed) == (old.flags.get(key) != new.flags.get(key))
    shared = (old.evaluators, old.metadata, old.segments) == (new.evaluators, new.metadata, new.segments)
    assert ("" in changed) != shared


def test_a_flag_that_came_or_went_is_told() -> None:
    assert sentences(None, FLAG) == ["checkout: flag: not there -> enabled, on | off, default off"]
    assert sentences(replace(FLAG, enabled=False), None) == [
        "checkout: flag: disabled, on | off, default off -> not there"
    ]


def test_what_people_change_is_told_in_their_words() -> None:
    ramp = replace(FLAG.rules[1], serve=reallocate(SPLIT, {"on": 1000}))
    for changed, sentence in (
        (replace(FLAG, enabled=False), "state: enabled -> disabled"),
        (replace(FLAG, killed=Killed("ada", 1.0, "errors")), "kill switch: not killed -> killed by ada: errors"),
        (replace(FLAG, killed=Killed("", 1.0, "")), "kill switch: not killed -> killed"),
        (replace(FLAG, variants={"on": 1, "off": False}), "variant on: true -> 1"),
        (replace(FLAG, variants={**VARIANTS, "b": "x"}), "variant b: not there -> x"),
        (replace(FLAG, default=None), "default: off -> none"),
        (replace(FLAG, targeting={"if": [1, "on"]}), 'targeting: none -> {"if": [1, "on"]}'),
        (replace(FLAG, tags=("shop",)), 'tags: none -> ["shop"]'),
        (replace(FLAG, needs=ReleaseNumber(12)), "needs: none -> r12"),
        (
            replace(FLAG, requires=(Prerequisite("accounts", ("on",)),)),
            'requires: none -> [{"flag": "accounts", "variants": ["on"]}]',
        ),
        (replace(FLAG, rules=(STAFF, ramp)), "rule ramp: share of `on`: 5 % -> 10 %"),
        (replace(FLAG, rules=FLAG.rules[::-1]), "order of the rules: staff, ramp -> ramp, staff"),
        (replace(FLAG, rules=FLAG.rules[1:]), 'rule staff: `on` if {"var": "staff"} -> not there'),
        (replace(FLAG, rules=(replace(STAFF, paused=True), FLAG.rules[1])), "rule staff: active -> paused"),
        (
            replace(FLAG, rules=(replace(STAFF, when=None), FLAG.rules[1])),
            'rule staff: if: {"var": "staff"} -> everybody',
        ),
        (replace(FLAG, rules=(replace(STAFF, ends=5.0), FLAG.rules[1])), "rule staff: until: none -> 5.0"),
        (replace(FLAG, rules=(replace(STAFF, serve="off"), FLAG.rules[1])), "rule staff: serves: `on` -> `off`"),
        (
            replace(FLAG, rules=(STAFF, Rule("ramp", Linear("on", "off", 1.0, 2.0)))),
            f"rule ramp: serves: 5 % {REST} -> `on` from 0 % to 100 % between 1 and 2, {REST[6:]}",
        ),
        (
            replace(FLAG, rules=(STAFF, Rule("ramp", Split({"on": ((100, 600),)}, "off")))),
            'rule ramp: slices: {"on": [[0, 500]]} -> {"on": [[100, 600]]}',
        ),
    ):
        assert sentences(FLAG, changed) == [f"checkout: {sentence}"]


def test_what_all_flags_share_is_told_of_none() -> None:
    old = FlagSet(evaluators={"x": 1}, metadata={"a": 1}, segments={"beta": Segment("beta", {"var": "a"})})
    new = FlagSet(evaluators={"x": 2}, segments={"beta": Segment("beta", {"var": "b"})})
    assert [change.sentence for change in compare(old, new)] == [
        "evaluator x: 1 -> 2",
        "metadata a: 1 -> not there",
        'segment beta: {"if": {"var": "a"}} -> {"if": {"var": "b"}}',
    ]
