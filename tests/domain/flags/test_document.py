"""A document is read whole or not at all, and everything that is wrong with it is told by its place."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given, settings

from crossfade.domain.errors import InvalidBatch
from crossfade.domain.flags.document import check, read, read_flag, write, write_flag
from crossfade.domain.flags.model import Flag, FlagSet, Json, Linear, Prerequisite, Rule, Segment, Split
from crossfade.domain.flags.references import MOST_LEVELS
from tests.domain.flags.generated import sound_sets, values

PLAIN: dict[str, Json] = {"state": "ENABLED", "variants": {"on": True, "off": False}, "defaultVariant": "off"}


def document(*, ours: Json = None, segments: Json = None, evaluators: Json = None, **more: Json) -> dict[str, Json]:
    """Two flags, of which the first has what is given."""
    flag = {**PLAIN, **more} | ({"crossfade": ours} if ours is not None else {})
    made: dict[str, Json] = {"flags": {"flag": flag, "other": PLAIN}}
    if segments is not None:
        made["crossfade"] = {"segments": segments}
    if evaluators is not None:
        made["$evaluators"] = evaluators
    return made


def places(data: Json) -> list[str]:
    with pytest.raises(InvalidBatch) as caught:
        read(data)
    return [fault.place for fault in caught.value.faults]


@settings(max_examples=50, deadline=None)
@given(sound_sets)
def test_what_was_written_is_read_as_the_same(flag_set: FlagSet) -> None:
    written = json.loads(json.dumps(write(flag_set)))
    assert read(written) == flag_set
    assert write(read(written)) == written
    for key, flag in flag_set.flags.items():
        assert read_flag(key, json.loads(json.dumps(write_flag(flag))), flag_set) == flag


@given(values)
def test_any_json_at_all_is_read_or_told_to_be_wrong(data: Json) -> None:
    for whole in (data, {"flags": data}, {"flags": {"f": data}}, document(ours=data), document(targeting=data)):
        with contextlib.suppress(InvalidBatch):
            assert isinstance(read(whole), FlagSet)


def test_everything_of_ours_is_read() -> None:
    ours = {
        "description": "The new checkout",
        "owner": "ada",
        "tags": ["shop"],
        "permanent": True,
        "off": "off",
        "killed": {"by": "ada", "at": 1790000000, "why": "errors"},
        "needs": "r12",
        "requires": [{"flag": "other", "variants": ["on"]}],
        "seed": "checkout",
        "rules": [
            {"name": "staff", "if": {"segment": "beta"}, "serve": "on", "paused": True, "from": 1, "until": 2},
            {"name": "split", "serve": {"split": {"shares": {"on": [[0, 10], [20, 30]]}, "rest": "off"}}},
            {"name": "slow", "serve": {"linear": {"variant": "on", "rest": "off", "begins": 1, "ends": 9, "to": 500}}},
        ],
    }
    flag_set = read(document(ours=ours, segments={"beta": {"if": {"var": "beta"}}}))
    flag = flag_set.flags["flag"]
    assert (flag.needs and str(flag.needs), flag.off_variant, flag.seed) == ("r12", "off", "checkout")
    assert flag.killed and flag.killed.why == "errors"
    assert flag.requires == (Prerequisite("other", ("on",)),)
    assert flag.rules == (
        Rule("staff", "on", {"segment": "beta"}, True, 1.0, 2.0),
        Rule("split", Split({"on": ((0, 10), (20, 30))}, "off")),
        Rule("slow", Linear("on", "off", 1.0, 9.0, 0, 500)),
    )
    assert flag_set.segments == {"beta": Segment("beta", {"var": "beta"})}
    assert flag.rule("slow") is flag.rules[2]
    assert flag.rule("none") is None


def test_a_bare_number_is_a_share_that_was_never_changed() -> None:
    serve = {"split": {"shares": {"on": 1000, "b": 0, "c": 2000}, "rest": "off"}}
    flag = {**PLAIN, "variants": {"on": 1, "b": 2, "c": 3, "off": 4}}
    read_set = read({"flags": {"flag": {**flag, "crossfade": {"rules": [{"name": "r", "serve": serve}]}}}})
    split = read_set.flags["flag"].rules[0].serve
    assert split == Split({"on": ((0, 1000),), "b": (), "c": ((1000, 3000),)}, "off")


def test_what_flagd_allows_is_read_as_flagd_reads_it() -> None:
    loose = {"state": "ENABLED", "variants": {"true": 1}, "defaultVariant": True, "targeting": {}, "source": "x"}
    flag_set = read(
        {
            "$schema": "https://flagd.dev/schema/v0/flags.json",
            "flags": {"a": loose, "b": PLAIN | {"defaultVariant": ""}},
        }
    )
    assert flag_set.flags["a"].default == "true"
    assert flag_set.flags["a"].targeting is None
    assert flag_set.flags["b"].default is None
    assert flag_set.hash_version == 3
    assert read({"flags": {}, "metadata": {"hashVersion": 1}}).hash_version == 1
    assert read({}) == FlagSet()


NEVER = {"if": [{"==": [1, 2]}, "on"]}


@pytest.mark.parametrize(
    ("data", "where"),
    [
        ([], ["the document"]),
        ({"flagz": {}}, ["flagz"]),
        ({"flags": {"": PLAIN}}, ["flags"]),
        ({"flags": {"\ud800": PLAIN}}, ["flags"]),
        ({"flags": {"a\nb": PLAIN}}, ["flags"]),
        ({"flags": {".": PLAIN, "..": PLAIN, "...": PLAIN, "a/b": PLAIN}}, ["flags", "flags"]),
        ({"flags": {"f": {}}}, ["flags.f.state", "flags.f.variants"]),
        ({"flags": {"f": PLAIN | {"variants": {}}}}, ["flags.f.variants", "flags.f.defaultVariant"]),
        ({"flags": {"f": PLAIN | {"variants": {"on": None, "off": float("nan")}}}}, ["flags.f.variants.on", "flags.f.variants.off"]),
        ({"flags": {}, "metadata": {"hashVersion": 4}}, ["metadata.hashVersion"]),
        ({"flags": {}, "metadata": {"a": None, "b": {}}}, ["metadata.a", "metadata.b"]),
        (document(defaultVariant="none"), ["flags.flag.defaultVariant"]),
        (document(targeting=[]) | {"x": 1}, ["x"]),
        (document(targeting="on"), ["flags.flag.targeting"]),
        (document(targeting={"if": [1], "or": [2]}), ["flags.flag.targeting"]),
        (document(targeting={"if": [{"=~": ["a", "(a+)+$"]}, "on"]}), ["flags.flag.targeting.if[0]"]),
        (document(targeting={"if": [[{"!": {"nope": []}}], {"nope": []}]}), ["flags.flag.targeting.if[0][0].!", "flags.flag.targeting.if[1]"]),
        (document(targeting={"fractional": [["on", -1], ["off", 2**31]]}), ["flags.flag.targeting.fractional[0][1]", "flags.flag.targeting.fractional[1][1]"]),
        (document(targeting={"fractional": [["on", 2**31 - 1], ["off", 1]]}), ["flags.flag.targeting.fractional"]),
        (document(targeting={"fractional": [["on", 1.5], ["off", True], []]}), [f"flags.flag.targeting.fractional[{i}]" for i in ("0][1", "1][1")] + ["flags.flag.targeting.fractional[2]"]),
        (document(targeting={"if": [float("inf")]}), ["flags.flag.targeting.if[0]"]),
        (document(targeting={"if": [2**1023]}), ["flags.flag.targeting.if[0]"]),
        (document(targeting={"if": ["x" * 100_001]}), ["flags.flag.targeting.if[0]"]),
        (document(targeting={"if": [b"x"]}), ["flags.flag.targeting.if[0]"]),
        (document(targeting={"if": [{1: 2, 3: 4}]}), ["flags.flag.targeting.if[0]"]),
        (document(targeting={"if": [0] * 20_001}), ["flags.flag.targeting"]),
        (document(targeting={"$ref": 1}), ["flags.flag.targeting.$ref"]),
        (document(targeting={"$ref": "none"}), ["flags.flag.targeting"]),
        (document(targeting={"segment": "none"}), ["flags.flag.targeting"]),
        (document(evaluators={"x": {"$ref": "none"}, "y": {"nope": 1}}), ["$evaluators.y"]),
        (document(evaluators={"x": {"$ref": "none"}}), ["$evaluators.x"]),
        (document(evaluators={"x": {"!": {"$ref": "y"}}, "y": {"$ref": "x"}}), ["$evaluators.x"]),
        (document(evaluators={"segment:x": 1}, segments={"x": {"if": {"var": "a"}}}), ["$evaluators.segment:x"]),
        (document(segments={"x": {}, "y": {"if": {"segment": "y"}}}), ["crossfade.segments.x.if"]),
        (document(segments={"y": {"if": {"segment": "y"}}}), ["crossfade.segments.y.if"]),
        (document(ours={"wat": 1, "off": "none"}), ["flags.flag.crossfade.wat", "flags.flag.crossfade.off"]),
        (document(ours={"needs": 12, "tags": [1], "owner": 1}), ["flags.flag.crossfade.tags[0]", "flags.flag.crossfade.owner", "flags.flag.crossfade.needs"]),
        (document(ours={"killed": {"at": "now"}, "permanent": 1}), ["flags.flag.crossfade.permanent", "flags.flag.crossfade.killed.at"]),
        (document(ours={"requires": [{"flag": "none", "variants": ["on"]}]}), ["flags.flag.crossfade.requires[0].flag"]),
        (document(ours={"requires": [{"flag": "other", "variants": ["nope"]}]}), ["flags.flag.crossfade.requires[0].variants"]),
        (document(ours={"requires": [{"flag": "other", "variants": []}]}), ["flags.flag.crossfade.requires[0].variants"]),
        (document(ours={"requires": [{"flag": "flag", "variants": ["on"]}]}), ["flags.flag.crossfade.requires"]),
        (document(ours={"rules": [{"name": "a", "serve": "on"}, {"name": "a", "serve": "none"}]}), ["flags.flag.crossfade.rules[1].serve", "flags.flag.crossfade.rules[1].name"]),
        (document(ours={"rules": [{"name": "a", "serve": 1, "from": 5, "until": 5}]}), ["flags.flag.crossfade.rules[0].until", "flags.flag.crossfade.rules[0].serve"]),
        (document(ours={"rules": [{"serve": "on", "if": {"nope": 1}}]}), ["flags.flag.crossfade.rules[0].name", "flags.flag.crossfade.rules[0].if"]),
        (document(ours={"rules": [{"name": "a", "serve": "on"}] * 201}), ["flags.flag.crossfade.rules"]),
    ],
)  # fmt: skip
def test_every_fault_is_told_by_its_place(data: Json, where: list[str]) -> None:
    assert places(data) == where


@pytest.mark.parametrize(
    ("serve", "where"),
    [
        ({"split": {"shares": {"on": [[0, 5], [4, 9]]}, "rest": "off"}}, ["split.shares"]),
        ({"split": {"shares": {"on": [[0, 10_001]]}, "rest": "off"}}, ["split.shares.on[0]"]),
        ({"split": {"shares": {"on": [[5, 5], [1], [0.5, 2]]}, "rest": "off"}}, [f"split.shares.on[{i}]" for i in range(3)]),
        ({"split": {"shares": {"on": 10_001}, "rest": "off"}}, ["split.shares.on"]),
        ({"split": {"shares": {"none": 1}, "rest": "off"}}, ["split.shares.none"]),
        ({"split": {"shares": {"off": 1}, "rest": "off"}}, ["split.shares.off"]),
        ({"split": {"shares": {"on": 1}}}, ["split.rest"]),
        ({"split": {"shares": {}, "rest": "off", "by": ""}}, ["split.by"]),
        ({"linear": {"variant": "on", "rest": "off"}}, ["linear.begins", "linear.ends"]),
        ({"linear": {"variant": "on", "rest": "off", "begins": 5, "ends": 5}}, ["linear.ends"]),
        ({"linear": {"variant": "on", "rest": "off", "begins": 5, "ends": 1e9}}, ["linear.ends"]),
        ({"linear": {"variant": "on", "rest": "off", "begins": 1, "ends": 5, "from": -1, "to": 10_001}}, ["linear.from", "linear.to"]),
        ({"linear": {"variant": "x", "rest": "y", "begins": 1, "ends": True}}, ["linear.ends", "linear.variant", "linear.rest"]),
        ({"ramp": {}}, [""]),
    ],
)  # fmt: skip
def test_every_fault_of_what_a_rule_serves_is_told_by_its_place(serve: Json, where: list[str]) -> None:
    found = places(document(ours={"rules": [{"name": "r", "serve": serve}]}))
    base = "flags.flag.crossfade.rules[0].serve"
    assert found == [f"{base}.{one}" if one else base for one in where]


def nested(levels: int) -> Json:
    logic: Json = {"var": "a"}
    for _ in range(levels):
        logic = {"!": [logic]}
    return logic


def test_logic_of_too_many_levels_is_told_however_deep_it_is() -> None:
    assert read(document(targeting=nested(58))).flags
    assert places(document(targeting=nested(60))) == ["flags.flag.targeting"]
    assert places(document(targeting=nested(100_000))) == ["flags.flag.targeting"]


def test_references_that_grow_without_end_are_told() -> None:
    bomb: dict[str, Json] = {"e0": {"var": "a"}}
    for i in range(1, 30):
        bomb[f"e{i}"] = {"or": [{"$ref": f"e{i - 1}"}] * 2}
    assert places(document(evaluators=bomb))[0] == "$evaluators.e14"
    chain = {"e0": nested(50)} | {f"e{i}": {"!": {"$ref": f"e{i - 1}"}} for i in range(1, 500)}
    assert "$evaluators.e50" in places(document(evaluators=chain))


def flags_in_a_row(count: int, targeting: Json = None) -> dict[str, Any]:
    flags: dict[str, Any] = {"f0": PLAIN | ({"targeting": targeting} if targeting else {})}
    for i in range(1, count):
        flags[f"f{i}"] = PLAIN | {"crossfade": {"requires": [{"flag": f"f{i - 1}", "variants": ["on"]}]}}
    return flags


def test_prerequisites_may_not_go_on_for_ever() -> None:
    assert read({"flags": flags_in_a_row(MOST_LEVELS + 1)}).flags
    assert places({"flags": flags_in_a_row(MOST_LEVELS + 2)}) == [f"flags.f{MOST_LEVELS + 1}.crossfade.requires"]
    assert len(places({"flags": flags_in_a_row(5000)})) == 5000 - MOST_LEVELS - 1
    circle = flags_in_a_row(3)
    circle["f0"] = PLAIN | {"crossfade": {"requires": [{"flag": "f2", "variants": ["on"]}]}}
    assert places({"flags": circle}) == [f"flags.{key}.crossfade.requires" for key in ("f2", "f1", "f0")]


def test_a_prerequisite_whose_buckets_nobody_else_can_draw_is_told() -> None:
    short = {"fractional": [["on", 50], ["off", 50]]}
    flags = flags_in_a_row(2, targeting={"if": [{"var": "a"}, short]})
    assert places({"flags": flags}) == ["flags.f1.crossfade.requires[0].flag"]
    assert read({"flags": flags, "metadata": {"hashVersion": 2}}).flags
    by = {"fractional": [{"var": "targetingKey"}, ["on", 50], ["off", 50]]}
    assert read({"flags": flags_in_a_row(2, targeting=by)}).flags


def test_one_flag_is_read_as_part_of_what_is_known() -> None:
    known = read(document(segments={"beta": {"if": {"var": "beta"}}}))
    data = PLAIN | {
        "crossfade": {"requires": [{"flag": "other", "variants": ["on"]}]},
        "targeting": {"segment": "beta"},
    }
    assert read_flag("new", data, known).requires[0].flag == "other"
    with pytest.raises(InvalidBatch, match="circle"):
        read_flag("other", PLAIN | {"crossfade": {"requires": [{"flag": "other", "variants": ["on"]}]}}, known)
    with pytest.raises(InvalidBatch, match=r"flags\.new\.targeting"):
        read_flag("new", PLAIN | {"targeting": {"segment": "none"}}, known)
    with pytest.raises(InvalidBatch, match=r"flags\.new"):
        read_flag("new", None, known)


def test_a_flag_set_that_lost_what_others_refer_to_is_told() -> None:
    flag_set = read(document(ours={"requires": [{"flag": "other", "variants": ["on"]}]}))
    check(flag_set)
    with pytest.raises(InvalidBatch, match=r"requires\[0\]\.flag"):
        check(FlagSet({"flag": flag_set.flags["flag"]}))
    with pytest.raises(InvalidBatch, match="segment:gone"):
        check(FlagSet({"f": Flag("f", {"on": 1}, targeting={"segment": "gone"})}))


def test_many_faults_are_counted() -> None:
    with pytest.raises(InvalidBatch, match="And 15 more"):
        read({"flags": {f"f{i}": PLAIN | {"state": "ON"} for i in range(20)}})
