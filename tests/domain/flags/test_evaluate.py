"""An evaluation is an answer, always: the same for the same question, and the flag's `off` when it is killed."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crossfade.domain.flags.document import read
from crossfade.domain.flags.evaluate import compiled
from crossfade.domain.flags.model import (
    ErrorCode,
    Evaluation,
    Flag,
    FlagSet,
    Json,
    Killed,
    Prerequisite,
    Reason,
    Rule,
    Surroundings,
)
from crossfade.domain.values import ReleaseNumber
from tests.domain.flags.generated import NOW, VARIANTS, contexts, flag_sets, operations, sound_sets, targeted, values

KILLED = Killed("ada", float(NOW), "too many errors")


@settings(max_examples=50, deadline=None)
@given(flag_sets(), contexts, st.sampled_from([1, 2, 3]))
def test_an_evaluation_depends_on_its_arguments_alone(
    flag_set: FlagSet, context: dict[str, Json], version: int
) -> None:
    flag_set = replace(flag_set, metadata={"hashVersion": version})
    evaluator = compiled(flag_set)
    asked = copy.deepcopy(context)
    first = evaluator.all(context, NOW)
    assert context == asked
    assert evaluator.all(context, NOW) == first
    assert evaluator.all(context, NOW, 0, 2) + evaluator.all(context, NOW, 2) == first
    assert [evaluator.evaluate(key, context, NOW) for key in evaluator.keys] == first
    assert compiled(flag_set).all(copy.deepcopy(context), NOW) == first


@settings(max_examples=50, deadline=None)
@given(operations, values, st.sampled_from([1, 2, 3]))
def test_an_evaluation_never_raises_whatever_the_context(targeting: Json, context: Json, version: int) -> None:
    evaluator = compiled(targeted(json.loads(json.dumps(targeting)), hash_version=version))
    found = evaluator.evaluate("flag", context, float(NOW))
    assert found == evaluator.all(context, float(NOW))[0]
    if not isinstance(context, dict):
        assert (found.error, found.reason) == (ErrorCode.INVALID_CONTEXT, Reason.ERROR)
    if found.error is not None:
        assert (found.value, found.variant) == (None, None)
        assert found.details.endswith(".")


@settings(max_examples=50, deadline=None)
@given(flag_sets(), contexts)
def test_a_kill_always_wins(flag_set: FlagSet, context: dict[str, Json]) -> None:
    key, flag = list(flag_set.flags.items())[-1]
    killed = replace(flag, enabled=True, killed=KILLED)
    evaluator = compiled(replace(flag_set, flags={**flag_set.flags, key: killed}))
    found = evaluator.evaluate(key, context, NOW)
    off = flag.off_variant
    assert (found.variant, found.error) == (off, None)
    assert found.value == (None if off is None else flag.variants[off])
    assert found.reason is (Reason.DEFAULT if off is None else Reason.STATIC)


@settings(max_examples=50, deadline=None)
@given(sound_sets, contexts)
def test_a_flag_is_off_while_a_prerequisite_is_not_met(flag_set: FlagSet, context: dict[str, Json]) -> None:
    evaluator = compiled(flag_set)
    for key, flag in flag_set.flags.items():
        others = [evaluator.evaluate(one.flag, context, NOW) for one in flag.requires]
        if flag.killed or not flag.enabled or any(other.error for other in others):
            continue
        found = evaluator.evaluate(key, context, NOW)
        if any(other.variant not in one.variants for one, other in zip(flag.requires, others, strict=True)):
            if found.error is None:
                assert found.variant == flag.off_variant
        else:
            without = replace(flag_set, flags={**flag_set.flags, key: replace(flag, requires=())})
            assert compiled(without).evaluate(key, context, NOW).variant == found.variant


def flagged(**more: Any) -> FlagSet:
    return FlagSet({"flag": Flag("flag", VARIANTS, "off", **more)})


def variant(flag_set: FlagSet, context: dict[str, Json] | None = None, now: float = NOW, **around: Any) -> str | None:
    return compiled(flag_set, Surroundings(**around)).evaluate("flag", context or {}, now).variant


def test_a_flag_that_is_not_there_is_told() -> None:
    found = compiled(flagged()).evaluate("other", {}, NOW)
    assert found == Evaluation(
        "other", None, None, Reason.ERROR, {}, ErrorCode.FLAG_NOT_FOUND, "There is no flag 'other'."
    )


def test_a_disabled_flag_gives_no_value() -> None:
    found = compiled(flagged(enabled=False, targeting={"if": [True, "on"]}, killed=KILLED)).evaluate("flag", {}, NOW)
    assert (found.value, found.variant, found.reason, found.error) == (None, None, Reason.DISABLED, None)


def test_without_targeting_the_default_is_static_and_without_a_default_it_is_the_codes() -> None:
    assert compiled(flagged()).evaluate("flag", {}, NOW).reason is Reason.STATIC
    bare = FlagSet({"flag": Flag("flag", VARIANTS)})
    found = compiled(bare).evaluate("flag", {}, NOW)
    assert (found.value, found.variant, found.reason) == (None, None, Reason.DEFAULT)


@pytest.mark.parametrize(
    ("targeting", "name", "reason"),
    [
        ({"if": [{"var": "a"}, "on"]}, "off", Reason.DEFAULT),
        ({"!!": [{"var": "a"}]}, "false", Reason.TARGETING_MATCH),
        ({"!": [{"var": "a"}]}, "true", Reason.TARGETING_MATCH),
        ({"+": [{"var": "a"}, 1]}, "1", Reason.TARGETING_MATCH),
        ({"if": [True, "on"]}, "on", Reason.TARGETING_MATCH),
    ],
)
def test_what_targeting_comes_to_is_named_as_flagd_names_it(targeting: Json, name: str, reason: Reason) -> None:
    found = compiled(targeted(targeting)).evaluate("flag", {}, NOW)
    assert (found.variant, found.reason, found.value) == (name, reason, VARIANTS[name])


@pytest.mark.parametrize(
    ("targeting", "said"),
    [
        ({"if": [True, "nobody"]}, "came to 'nobody'"),
        ({"var": "list"}, "came to 'a list'"),
        ({"var": ""}, "came to 'an object'"),
        ({"/": [1, 0]}, "ZeroDivisionError"),
        ({"var": "big"}, "a number of thousands of digits"),
        ({"cat": [{"var": "long"}] * 2}, "more than 100000 characters"),
        ({"merge": [{"var": "list"}] * 10_001}, "more than 10000 items"),
        ({"*": [{"var": "big"}, 2]}, "more than 308 digits"),
        ({"cat": [{"var": "big"}]}, "ValueError"),
        ({"cat": [{"var": "deep"}]}, "nested too deeply"),
    ],
)
def test_what_cannot_be_evaluated_is_an_error_that_says_why(targeting: Json, said: str) -> None:
    deep: Json = []
    for _ in range(5000):
        deep = [deep]
    context = {"list": [1], "big": 10**5000, "long": "x" * 60_000, "deep": deep}
    found = compiled(targeted(targeting)).evaluate("flag", context, NOW)
    assert (found.error, found.reason) == (ErrorCode.GENERAL, Reason.ERROR)
    assert said in found.details


LIST = {"var": "list"}
LIST_OF_ALL = [[n] for n in range(2000)]


@pytest.mark.parametrize(
    "targeting",
    [
        {"all": [LIST, {"all": [{"var": ""}, {"==": [{"var": ""}, 1]}]}]},
        {"reduce": [LIST, {"merge": [{"var": "accumulator"}, {"var": "accumulator"}, 1]}, []]},
        {"reduce": [LIST, {"cat": [{"var": "accumulator"}, {"var": "accumulator"}, "x"]}, ""]},
        {"reduce": [LIST, {"*": [{"var": "accumulator"}, {"var": "accumulator"}]}, 3]},
        {"cat": [{"reduce": [LIST, [{"var": "accumulator"}, {"var": "accumulator"}], 1]}]},
        {
            "===": [
                {"reduce": [LIST, [{"var": "accumulator"}] * 2, 1]},
                {"reduce": [LIST, [{"var": "accumulator"}] * 2, 1]},
            ]
        },
        {
            "in": [
                {"reduce": [LIST, [{"var": "accumulator"}] * 2, 1]},
                [{"reduce": [LIST, [{"var": "accumulator"}] * 2, 1]}],
            ]
        },
        {"map": [LIST, {"in": [[1], LIST_OF_ALL]}]},
        {"map": [LIST, {"cat": [{"var": ""}]}]},
        {"missing": [{"reduce": [[1] * 60, [{"var": "accumulator"}] * 2, 1]}]},
        {"map": [LIST, {"map": [{"var": ""}, {"reduce": [[1, 2, 3, 4, 5], {"var": "current"}, 0]}]}]},
    ],
)
def test_a_loop_that_grows_without_end_is_ended(targeting: Json) -> None:
    found = compiled(targeted(targeting)).evaluate("flag", {"list": [[1] * 10_000] * 1000}, NOW)
    assert found.error is ErrorCode.GENERAL
    assert "more than" in found.details


def test_logic_that_was_never_read_is_a_parse_error() -> None:
    deep: Json = {"var": "a"}
    for _ in range(2000):
        deep = {"!": [deep]}
    evaluators: dict[str, Json] = {"x": {"$ref": "y"}, "y": {"!": [{"$ref": "x"}]}}
    for logic, said in (
        ({"iff": [1]}, "`iff` is no operator"),
        ({"$ref": "z"}, "no evaluator `z`"),
        ({"$ref": "x"}, "in a circle: x -> y -> x"),
        (deep, "nested too deeply"),
    ):
        flag_set = replace(targeted(logic), evaluators=evaluators if logic != deep else {})
        found = compiled(flag_set).evaluate("flag", {}, NOW)
        assert found.error is ErrorCode.PARSE_ERROR
        assert said in found.details


def test_metadata_is_that_of_the_set_with_the_flags_own() -> None:
    flag_set = replace(flagged(metadata={"team": "shop", "x": 1}), metadata={"flagSetId": "s", "x": 2})
    assert compiled(flag_set).evaluate("flag", {}, NOW).metadata == {"flagSetId": "s", "team": "shop", "x": 1}
    assert compiled(flag_set).evaluate("none", {}, NOW).metadata == {"flagSetId": "s", "x": 2}


def test_any_mapping_is_a_context() -> None:
    class Mapped(dict[str, Json]):
        pass

    evaluator = compiled(targeted({"if": [{"==": [{"var": "a"}, 1]}, "on"]}))
    assert evaluator.evaluate("flag", Mapped(a=1), NOW).variant == "on"
    assert evaluator.all(Mapped(a=1), NOW)[0].variant == "on"


def test_the_time_and_the_key_are_there_lazily() -> None:
    timed = targeted({"if": [{">=": [{"var": "$flagd.timestamp"}, NOW]}, {"var": "$flagd.flagKey"}]}, key="on")
    assert compiled(timed).evaluate("on", {"$flagd": {"timestamp": 0, "flagKey": "b"}}, NOW + 0.9).variant == "on"
    assert compiled(timed).evaluate("on", {}, NOW - 0.1).variant == "off"


def test_shared_logic_that_looks_at_the_key_sees_that_of_each_flag() -> None:
    keyed = {"if": [{"$ref": "mine"}, "on", "off"]}
    flags = {key: Flag(key, VARIANTS, "off", targeting=keyed) for key in ("on", "b")}
    evaluator = compiled(FlagSet(flags, {"mine": {"==": [{"var": "$flagd.flagKey"}, "b"]}}))
    assert [one.variant for one in evaluator.all({}, NOW)] == ["off", "on"]


# --- what is ours


def test_a_need_is_met_by_the_release_that_asks_or_else_by_the_oldest_that_serves() -> None:
    needing = flagged(needs=ReleaseNumber(12), rules=(Rule("all", "on"),))
    for asks, wanted in (("r12", "on"), ("r112", "on"), ("r11", "off"), ("r2", "off"), ("12", "off"), (12, "off")):
        assert variant(needing, {"release": asks}, release=ReleaseNumber(13)) == wanted
    assert variant(needing, {}, release=ReleaseNumber(12)) == "on"
    assert variant(needing, {"release": ""}, release=ReleaseNumber(11)) == "off"
    assert variant(needing, {}) == "off"


def test_rules_are_asked_in_order_in_their_time_and_not_while_paused() -> None:
    staff = {"ends_with": [{"var": "email"}, "@x.org"]}
    timed = Rule("timed", "b", begins=NOW + 10.0, ends=NOW + 20.0)
    rules = (Rule("paused", "true", paused=True), Rule("staff", "on", staff), timed)
    flag_set = flagged(rules=rules, targeting={"if": [{"var": "old"}, "1"]})
    assert variant(flag_set, {"email": "ada@x.org"}) == "on"
    assert variant(flag_set, {"email": "ada@y.org"}) == "off"
    assert variant(flag_set, {"old": True}) == "1"
    assert [variant(flag_set, {"old": True}, NOW + at) for at in (9.5, 10, 19.5, 20)] == ["1", "b", "b", "1"]


def test_a_prerequisite_is_asked_as_it_would_answer_itself() -> None:
    base = Flag("base", VARIANTS, "off", rules=(Rule("some", "on", {"==": [{"var": "plan"}, "pro"]}),))
    needs = (Prerequisite("base", ("on",)),)
    for changed, free, pro in (
        (base, "off", "on"),
        (replace(base, killed=KILLED), "off", "off"),
        (replace(base, killed=KILLED, off="on"), "on", "on"),
        (replace(base, enabled=False), "off", "off"),
        (replace(base, default="on"), "on", "on"),
        (replace(base, rules=(), default="on"), "on", "on"),
        (replace(base, rules=()), "off", "off"),
        (replace(base, needs=ReleaseNumber(9)), "off", "off"),
    ):
        flag = Flag("flag", VARIANTS, "off", requires=needs, rules=(Rule("all", "on"),))
        flag_set = FlagSet({"base": changed, "flag": flag})
        assert variant(flag_set) == free
        assert variant(flag_set, {"plan": "pro"}) == pro


def test_a_bucket_of_a_prerequisite_is_the_one_that_it_draws_itself() -> None:
    document = {
        "flags": {
            "base": {
                "state": "ENABLED",
                "variants": {"on": True, "off": False},
                "defaultVariant": "off",
                "targeting": {"fractional": [["on", 50], ["off", 50]]},
            },
            "flag": {
                "state": "ENABLED",
                "variants": {"on": True, "off": False},
                "defaultVariant": "off",
                "crossfade": {
                    "requires": [{"flag": "base", "variants": ["on"]}],
                    "rules": [{"name": "all", "serve": "on"}],
                },
            },
        },
        "metadata": {"hashVersion": 2},
    }
    evaluator = compiled(read(document))
    for i in range(200):
        base, flag = evaluator.all({"targetingKey": f"user-{i}"}, NOW)
        assert base.variant == flag.variant
    assert [one.variant for one in evaluator.all({}, NOW)] == ["off", "off"]
