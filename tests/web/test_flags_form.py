"""The targeting editor's form: a flag that is opened and saved stays the same, and what is typed is what is meant."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossfade.domain.flags.audience import CODE_DEFAULT
from crossfade.domain.flags.document import read_flag, write_flag
from crossfade.domain.flags.model import FlagSet, Segment
from crossfade.domain.values import FULL
from crossfade.web import flag_words as words
from crossfade.web.flag_conditions import (
    OPERATORS,
    Condition,
    condition_of,
    list_of,
    logic_of,
    logic_of_when,
    same,
    text_of,
    text_of_list,
    value_of,
    when_of,
)
from crossfade.web.flag_form import FlagForm, RequireRow, RuleForm, act, data_of, field_of, form_of, read_form
from crossfade.web.flag_view import bar, flag_view, places, preview_of

NOW = 1_790_000_000.0
KNOWN = FlagSet(segments={"beta": Segment("beta", {"var": "beta"})}, evaluators={"staff": {"var": "staff"}})

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
names = st.text("abcxyz-_. é", min_size=1, max_size=8).map(str.strip).filter(bool)
attributes = st.sampled_from(["country", "plan", "user.name", "targetingKey"])
conditions = st.builds(Condition, attributes, st.sampled_from(list(OPERATORS)), st.text(max_size=20))


@given(scalars)
def test_a_value_is_read_as_it_was_written(value: object) -> None:
    assert same(value_of(text_of(value)), value)


@given(st.lists(scalars))
def test_values_by_commas_are_read_as_they_were_written(values: list[object]) -> None:
    assert same(list_of(text_of_list(values)), values)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("de", "de"),
        (" de ", "de"),
        ("12", 12),
        ("-1.5", -1.5),
        ("true", True),
        ("null", None),
        ('"12"', "12"),
        ("12 months", "12 months"),
        ("1e999", "1e999"),
        ("", ""),
        ('"half', '"half'),
        ("[1]", "[1]"),
        ("NaN", "NaN"),
    ],
)
def test_what_is_typed_is_what_is_meant(typed: str, meant: object) -> None:
    assert same(value_of(typed), meant)
    assert list_of("de, at,12") == ["de", "at", 12]


@given(conditions)
def test_a_condition_that_was_typed_is_found_again_in_its_fields(condition: Condition) -> None:
    logic = logic_of(condition)
    found = condition_of(logic)
    if found is not None:
        assert same(logic_of(found), logic)
    else:
        # A name with blanks around it, or a version with them, is shown as JSON instead of being changed.
        assert not same(when_of(logic).json, "")
    assert same(logic_of_when(when_of(logic)), logic)


@given(st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8))
def test_any_condition_at_all_is_kept_as_it_is(logic: object) -> None:
    assert same(logic_of_when(when_of(logic)), logic)
    assert len(words.condition(logic)) <= words.LONGEST


def test_conditions_are_said_in_words() -> None:
    both = {"and": [{"segment": "beta"}, {"==": [{"var": "country"}, "de"]}]}
    assert words.condition(both) == 'in segment beta and country is "de"'
    assert words.condition({"!": {"in": [{"var": "plan"}, ["free", 1]]}}) == 'plan is none of "free", 1'
    assert words.condition({"or": [both, {"sem_ver": [{"var": "v"}, ">=", "2.1"]}]}) == (
        '(in segment beta and country is "de") or v \N{GREATER-THAN OR EQUAL TO} "2.1"'
    )
    assert words.condition(None) == "everybody"
    assert words.condition({"fancy": [1, 2]}) == '{"fancy": [1, 2]}'
    deep: Any = True
    for _ in range(200):
        deep = {"!": {"and": [deep]}}
    assert words.condition(deep).endswith("\N{HORIZONTAL ELLIPSIS}")


# --- a whole flag


@st.composite
def splits(draw: st.DrawFn, variants: list[str]) -> dict[str, Any]:
    """Slices in the order in which they were given out, none of them of the rest."""
    cuts = sorted(draw(st.sets(st.integers(0, FULL), max_size=8)))
    rest, others = variants[0], variants[1:]
    shares: dict[str, list[list[int]]] = {}
    for begin, end in draw(st.permutations(list(pairwise(cuts)))):
        taken = draw(st.booleans())
        if others and taken:
            shares.setdefault(draw(st.sampled_from(others)), []).append([begin, end])
    return {"split": {"by": draw(attributes), "shares": shares, "rest": rest}}


@st.composite
def flags(draw: st.DrawFn) -> dict[str, Any]:
    variants = draw(st.lists(names, min_size=1, max_size=5, unique=True))
    variant = st.sampled_from(variants)
    times = st.none() | st.integers(1, 10**9).map(float)
    rules = []
    for name in draw(st.lists(names, max_size=4, unique=True)):
        linear = st.builds(
            lambda one, rest, start, end: {
                "linear": {"variant": one, "rest": rest, "by": "plan", "from": start, "to": end}
                | {"begins": 5.0, "ends": 9.0}
            },
            variant,
            variant,
            st.integers(0, FULL),
            st.integers(0, FULL),
        )
        rule: dict[str, Any] = {"name": name, "serve": draw(variant | splits(variants) | linear)}
        when = st.lists(st.builds(logic_of, conditions) | st.sampled_from([{"segment": "beta"}, {"$ref": "staff"}]))
        if wanted := draw(when):
            rule["if"] = {"and": wanted}
        if draw(st.booleans()):
            rule["paused"] = True
        if (since := draw(times)) is not None:
            rule |= {"from": since, "until": since + 60.0}
        rules.append(rule)
    ours: dict[str, Any] = {"rules": rules, "description": draw(st.text("ab c", max_size=9)).strip()}
    ours |= {"owner": draw(st.sampled_from(["", "ada"])), "permanent": draw(st.booleans()), "needs": "r12"}
    ours |= {"tags": draw(st.lists(st.sampled_from(["shop", "a b"]), unique=True)), "off": draw(variant)}
    return {
        "state": draw(st.sampled_from(["ENABLED", "DISABLED"])),
        "variants": {name: draw(st.booleans() | st.text(max_size=5) | st.integers()) for name in variants},
        "defaultVariant": draw(st.none() | variant),
        "targeting": {"if": [True, variants[0]]},
        "metadata": {"team": "shop", "n": 1.5},
        "crossfade": {name: value for name, value in ours.items() if value},
    }


@given(flags())
def test_a_flag_that_is_opened_and_saved_stays_the_same(data: dict[str, Any]) -> None:
    before = read_flag("f", data, KNOWN)
    made, problems = data_of(form_of("f", write_flag(before), 7), write_flag(before))
    assert problems == []
    assert read_flag("f", made, KNOWN) == before


@given(flags())
def test_every_flag_can_be_shown(data: dict[str, Any]) -> None:
    flag = flag_view("shop/production", "f", write_flag(read_flag("f", data, KNOWN)), NOW)
    assert flag.headline
    for pieces in (flag.bar, *(rule.bar for rule in flag.rules)):
        assert all(0 <= piece.at <= FULL for piece in pieces)
        assert abs(sum(piece.wide for piece in pieces) - FULL) <= len(pieces) or not pieces


def flag(**ours: Any) -> dict[str, Any]:
    return {
        "state": "ENABLED",
        "variants": {"on": True, "off": False},
        "defaultVariant": "off",
        **({"crossfade": ours} if ours else {}),
    }


def ramp(bp: int) -> dict[str, Any]:
    shares = {"on": [[0, bp]]} if bp else {}
    return {"name": "ramp", "serve": {"split": {"by": "targetingKey", "shares": shares, "rest": "off"}}}


def test_a_raised_share_keeps_the_buckets_that_were_given_out() -> None:
    data = flag(rules=[{"name": "r", "serve": {"split": {"by": "k", "shares": {"on": [[500, 1500]]}, "rest": "off"}}}])
    form = form_of("f", data, 1)
    assert form.rules[0].shares == {"on": "10"}
    made, problems = data_of(replace(form, rules=(replace(form.rules[0], shares={"on": "12,5"}),)), data)
    assert problems == []
    assert made["crossfade"]["rules"][0]["serve"]["split"]["shares"] == {"on": [[500, 1500], [0, 250]]}


@pytest.mark.parametrize(
    "slices",
    ["", "no json", "[]", '{"on": 7}', '{"on": [[0, 20000]]}', '{"on": [[0, 9], [5, 12]]}', '{"on": [["x", 1]]}'],
)
def test_buckets_that_somebody_has_tampered_with_are_given_out_anew(slices: str) -> None:
    form = form_of("f", flag(rules=[ramp(0)]), 1)
    rule = replace(form.rules[0], shares={"on": "10"}, slices=slices)
    made, problems = data_of(replace(form, rules=(rule,)), None)
    assert problems == []
    assert made["crossfade"]["rules"][0]["serve"]["split"]["shares"] == {"on": [[0, 1000]]}


def test_whether_it_is_on_or_killed_is_not_the_forms_to_say() -> None:
    now = {**flag(killed={"by": "ada", "at": 1.0, "why": "harm"}), "state": "DISABLED"}
    made, _ = data_of(form_of("f", flag(), 1), now)
    assert made["state"] == "DISABLED"
    assert made["crossfade"]["killed"]["why"] == "harm"


def problems_of(form: FlagForm) -> dict[str, str]:
    return {one.field: one.text for one in data_of(form, None)[1]}


def test_what_is_wrong_is_said_by_its_field() -> None:
    form = form_of("f", flag(rules=[ramp(1000)]), 1)
    rule = form.rules[0]
    bad = replace(
        form,
        variants=(
            *form.variants[:1],
            replace(form.variants[0], value="{"),
            replace(form.variants[1], name="", value="1"),
        ),
        rest='{"state": "DISABLED", "crossfade": {"rules": []}}',
        rules=(
            replace(rule, shares={"on": "70", "b": "70"}, since="yesterday"),
            replace(rule, shares={"on": "lots"}),
            replace(rule, when=when_of({"fancy": 1}), serve="linear", begins="", ends="2026-03-01T10:00", start="200"),
            replace(rule, when=replace(rule.when, conditions=(Condition("", "explode"),))),
        ),
    )
    found = problems_of(bad)
    assert "two variants on" in found["variant-1-name"]
    assert "no JSON" in found["variant-1-value"]
    assert "has a name" in found["variant-2-name"]
    assert "has fields above" in found["rest"]
    assert "140 % together" in found["rule-0-shares"]
    assert "rule-0-since" in found
    assert "percentage" in found["rule-1-shares"]
    assert {"rule-2-begins", "rule-2-start"} <= found.keys()
    assert "rule-3-condition-0-attribute" in found
    for rest in ("[]", "{", '{"crossfade": 1}', '{"metadata": NaN}'):
        assert "rest" in problems_of(replace(form, rest=rest)), rest


@pytest.mark.parametrize(
    ("place", "field"),
    [
        ("flags.f.crossfade.rules[0].name", "rule-0-name"),
        ("flags.f.crossfade.rules[1].if", "rule-1-json"),
        ("flags.f.crossfade.rules[0].if", "rule-0-segment"),
        ("flags.f.crossfade.rules[0].serve", "rule-0-serve"),
        ("flags.f.crossfade.rules[0].serve.split.shares.on", "rule-0-shares"),
        ("flags.f.crossfade.rules[0].serve.split.rest", "rule-0-rest"),
        ("flags.f.crossfade.rules[0].serve.linear.ends", "rule-0-ends"),
        ("flags.f.crossfade.rules[0].serve.linear.from", "rule-0-start"),
        ("flags.f.crossfade.rules[0].from", "rule-0-since"),
        ("flags.f.crossfade.rules[0].until", "rule-0-until"),
        ("flags.f.crossfade.requires[0].flag", "require-1-flag"),
        ("flags.f.crossfade.requires[9].flag", "requires"),
        ("flags.f.crossfade.requires", "requires"),
        ("flags.f.crossfade.tags[2]", "tags"),
        ("flags.f.crossfade.needs", "needs"),
        ("flags.f.variants.off", "variant-1-value"),
        ("flags.f.variants", "variants"),
        ("flags.f.defaultVariant", "default"),
        ("flags.f.targeting", "rest"),
        ("flags.f.metadata.team", "rest"),
        ("flags.f.whatever", ""),
        ("flags", "name"),
        ("", ""),
    ],
)
def test_a_fault_of_the_data_is_found_in_its_field(place: str, field: str) -> None:
    rules = (RuleForm("a"), RuleForm("b", when_of({"fancy": 1})))
    form = FlagForm(name="f", rules=rules, requires=(RequireRow(), RequireRow("other", "on")))
    assert field_of(place, form) == field


def test_rows_are_added_moved_and_removed_by_buttons() -> None:
    form = FlagForm(name="f")
    for order in (
        "add-rule",
        "add-rule",
        "add-variant",
        "add-require",
        "add-condition-1",
        "up-rule-1",
        "remove-variant-0",
    ):
        form = act(form, order)
    assert [rule.name for rule in form.rules] == ["rule-2", "rule-1"]
    assert len(form.rules[0].when.conditions) == 1
    assert form.names == ["off"]
    for order in (
        "explode",
        "remove-rule-77",
        "up-rule-0",
        "remove-condition-0-9",
        "remove-condition-77-0",
        "",
        "add-rule-x",
    ):
        assert len(act(form, order).rules) == 2
    for _ in range(100):
        form = act(form, "add-rule")
    assert len(form.rules) == 50


@given(st.dictionaries(st.text("rule-0123456789namevcodt", max_size=30), st.text(max_size=10)))
def test_any_fields_at_all_are_a_form(fields: dict[str, str]) -> None:
    form = read_form(fields)
    data_of(form, None)
    flag_view_of = form_of("f", flag(), 1)
    assert data_of(flag_view_of, flag())[0] == flag()


# --- states and bars


def test_a_flags_state_is_said_in_words() -> None:
    def shown(data: dict[str, Any], ramp: dict[str, Any] | None = None) -> tuple[str, str]:
        found = flag_view("shop/production", "f", data, NOW, ramp)
        return found.state, found.headline

    assert shown(flag()) == ("on", "On: everybody gets off")
    assert shown(flag(rules=[ramp(1000)])) == ("on", "On: on to 10 %, off to 90 %")
    staff = {"name": "staff", "if": {"segment": "staff"}, "serve": "on"}
    assert shown(flag(rules=[staff])) == ("on", "On: everybody gets off, but for its rules")
    assert shown({**flag(), "state": "DISABLED"})[0] == "off"
    killed = flag(killed={"by": "ada", "at": 1.0, "why": ""}, rules=[ramp(1000)])
    assert shown(killed) == ("killed", "Killed: everybody gets off")
    assert shown(flag(rules=[ramp(1000)]), {"paused": None}) == ("ramping", "Ramps up: on to 10 %, off to 90 %")
    assert shown(flag(rules=[ramp(1000)]), {"paused": 1.0})[0] == "paused"
    assert shown(flag(rules=[{**staff, "paused": True}]))[0] == "paused"
    assert shown({**flag(), "targeting": {"if": [True, "on"]}})[1] == "On: its targeting says who gets what"
    assert shown({**flag(), "defaultVariant": None}) == ("on", "On: everybody gets what the code says")


@given(st.dictionaries(names, st.integers(0, 10**6), max_size=8))
def test_the_parts_of_a_bar_stand_side_by_side(counts: dict[str, int]) -> None:
    pieces = bar(counts, {})
    at = 0
    for piece in pieces:
        assert piece.at == at
        at += piece.wide
    if sum(counts.values()):
        assert abs(at - FULL) <= len(pieces)


def test_a_preview_says_who_moves_from_what_to_what() -> None:
    crowd = {
        "contexts": 4,
        "moved": 3,
        "before": {"off": 3, CODE_DEFAULT: 1},
        "after": {"on": 2, "off": 2},
        "moves": [{"from": "off", "to": "on", "n": 2}, {"from": CODE_DEFAULT, "to": "off", "n": 1}],
    }
    nobody = {"contexts": 0, "moved": 0, "before": {}, "after": {}, "moves": []}
    one = {"context": {"a": 1, "targetingKey": "ada"}, "before": {"variant": None, "error": None}}
    rows = [{**one, "after": {"variant": "on", "error": None}}, {**one, "after": {"variant": None, "error": "GENERAL"}}]
    shade = {"on": "0", "off": "rest"}
    found = preview_of({"seen": nobody, "made_up": crowd, "contexts": rows}, shade)
    (made_up,) = found.crowds
    assert (made_up.total, made_up.moved) == (4, 3)
    assert made_up.moves == (("off", "on", 2), ("what the code says", "off", 1))
    assert made_up.tallies[0].counts == (("what the code says", "0", 1), ("off", "rest", 3))
    assert [piece.wide for piece in made_up.tallies[1].pieces] == [5000, 5000]
    assert found.examples[0].context == '{"targetingKey": "ada", "a": 1}'
    assert [(row.before, row.after) for row in found.examples] == [
        ("what the code says", "on"),
        ("what the code says", "an error"),
    ]
    assert len(preview_of({"seen": crowd, "made_up": crowd, "contexts": []}, shade).crowds) == 2


# --- what differs


@given(flags(), flags())
def test_what_differs_is_said_of_what_differs_only(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert words.differences(one, one) == []
    rows = words.differences(one, other)
    assert all(row["before"] != row["after"] for row in rows)
    assert len({row["what"] for row in rows}) == len(rows)
    back = words.differences(other, one)
    assert {(row["what"], row["before"], row["after"]) for row in rows} == {
        (row["what"], row["after"], row["before"]) for row in back
    }


def test_what_differs_is_said_in_words() -> None:
    before = flag(rules=[ramp(1000)], owner="ada")
    after = {**flag(rules=[{**ramp(2500), "if": {"segment": "beta"}}]), "state": "DISABLED"}
    assert [words.sentence(row) for row in words.differences(before, after)] == [
        "state: switched on \N{RIGHTWARDS ARROW} switched off",
        "owner: ada \N{RIGHTWARDS ARROW} \N{EN DASH}",
        "rule ramp is for: everybody \N{RIGHTWARDS ARROW} in segment beta",
        "rule ramp serves: on to 10 %, off to the rest \N{RIGHTWARDS ARROW} on to 25 %, off to the rest",
    ]
    assert words.differences(None, flag())[0]["after"] == "is there"
    assert words.differences(None, None) == []
    shared = places({"segments/beta": None, "metadata": {"a": 1}}, {"segments/beta": {"if": True}, "metadata": None})
    assert [(row["what"], row["flag"]) for row in shared] == [("metadata", ""), ("segment beta", "")]
