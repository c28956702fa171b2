"""Changing flags: who may, what is refused, and what every change leaves behind."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from crossfade.domain.access import Role
from crossfade.domain.errors import (
    CrossfadeError,
    Forbidden,
    Invalid,
    InvalidBatch,
    Moved,
    NotFound,
    Refused,
)
from crossfade.domain.values import EnvKey
from crossfade.service.flags import Flags
from tests.service.flag_stage import BOB, OFF, ON, REQUIRING, SPLIT, flag_stage, served, written
from tests.service.stage import ADMIN, KEY, OPERATOR, STAGING, VIEWER, Stage, person


@pytest.fixture
def stage() -> Stage:
    return flag_stage()


@pytest.fixture
def flags(stage: Stage) -> Flags:
    return stage.service.flags


# --- who may change what


@pytest.mark.parametrize("by", [VIEWER, person("eve", "admin@bookshop/staging"), person("nobody")])
def test_only_an_operator_changes_flags(flags: Flags, by: Any) -> None:
    flags.save(KEY, "a", SPLIT, OPERATOR)
    changes = [
        lambda: flags.save(KEY, "a", ON, by),
        lambda: flags.remove(KEY, "a", by),
        lambda: flags.kill(KEY, "a", "", by),
        lambda: flags.revive(KEY, "a", by),
        lambda: flags.switch(KEY, "a", False, by),
        lambda: flags.pause_rule(KEY, "a", "ramp", True, by),
        lambda: flags.set_shares(KEY, "a", "ramp", {"on": 1}, by),
        lambda: flags.restore(KEY, 1, by),
        lambda: flags.bring(KEY, {"flags": {}}, True, False, by),
        lambda: flags.bring(KEY, {"flags": {}}, True, True, by),
        lambda: flags.promote(STAGING, "a", KEY, by),
        lambda: flags.set_settings(KEY, Role.ADMIN, by),
    ]
    for change in changes:
        with pytest.raises(Forbidden):
            change()  # type: ignore[no-untyped-call] # of one kind each
    assert flags.serving(KEY).version == 1


def test_an_operator_does_not_say_whose_word_changes_wait_for(flags: Flags) -> None:
    with pytest.raises(Forbidden):
        flags.set_settings(KEY, None, OPERATOR)


# --- changes of one flag


def test_every_fault_of_a_flag_is_told_and_nothing_is_changed(flags: Flags) -> None:
    bad = {"state": "ON", "variants": {"on": None}, "defaultVariant": "off", "surprise": 1}
    with pytest.raises(InvalidBatch) as caught:
        flags.save(KEY, "a", bad, OPERATOR)
    places = {fault.place for fault in caught.value.faults}
    assert {"flags.a.state", "flags.a.variants.on", "flags.a.defaultVariant", "flags.a.surprise"} <= places
    assert flags.serving(KEY).version == 0


@pytest.mark.parametrize("name", ["", "x" * 201, "a\nb", "\ud800"])
def test_a_key_that_cannot_be_one_is_refused(flags: Flags, name: str) -> None:
    with pytest.raises(Invalid):
        flags.save(KEY, name, OFF, OPERATOR)


def test_what_cannot_be_written_down_is_refused(flags: Flags) -> None:
    deep: Any = {}
    for _ in range(5000):
        deep = {"x": deep}
    for value in (float("nan"), "\ud800", deep, {1, 2}):
        with pytest.raises(Invalid):
            flags.save(KEY, "a", {**OFF, "variants": {"on": value, "off": False}}, OPERATOR)


def test_saving_what_is_there_already_changes_nothing(flags: Flags) -> None:
    flags.save(KEY, "a", OFF, OPERATOR)
    assert written(flags.save(KEY, "a", {**OFF, "crossfade": {"owner": ""}}, OPERATOR)).number == 1
    assert len(flags.versions(KEY)) == 1


def test_a_change_upon_an_older_version_is_refused_when_the_flag_has_changed_since(flags: Flags) -> None:
    flags.save(KEY, "a", OFF, OPERATOR)
    flags.save(KEY, "b", OFF, OPERATOR)
    assert written(flags.save(KEY, "a", ON, BOB, expects=1)).number == 3  # b is somebody else's business
    with pytest.raises(Moved) as caught:
        flags.save(KEY, "a", SPLIT, OPERATOR, expects=2)
    assert (caught.value.fields["expected"], caught.value.fields["found"]) == (2, 3)
    for expects in (0, 4, 99):
        with pytest.raises(Moved):
            flags.save(KEY, "a", SPLIT, OPERATOR, expects=expects)
    assert written(flags.save(KEY, "new", OFF, OPERATOR, expects=0)).number == 4
    assert served(flags) == "on"


def test_changes_of_many_at_once_are_all_made(flags: Flags) -> None:
    failed: list[CrossfadeError] = []

    def change(n: int) -> None:
        try:
            flags.save(KEY, f"f{n}", OFF, OPERATOR)
        except CrossfadeError as error:
            failed.append(error)

    threads = [threading.Thread(target=change, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert sorted(flags.serving(KEY).evaluator.keys) == [f"f{n}" for n in range(8)]


def test_every_change_is_in_the_audit_log_with_what_was_and_what_is(stage: Stage, flags: Flags) -> None:
    flags.save(KEY, "a", OFF, OPERATOR)
    flags.kill(KEY, "a", "it burns", OPERATOR)
    flags.remove(KEY, "a", BOB)
    noted = [one for one in stage.noted() if one["what"].startswith("flag.")]
    assert [(one["what"], one["who"], one["key"]) for one in noted] == [
        ("flag.save", "olga", f"{KEY}/a"),
        ("flag.kill", "olga", f"{KEY}/a"),
        ("flag.remove", "bob", f"{KEY}/a"),
    ]
    assert noted[0]["before"] == {"flags/a": None}
    assert noted[1]["after"]["flags/a"]["crossfade"]["killed"]["why"] == "it burns"
    assert noted[2]["after"] == {"flags/a": None, "version": 3}


def test_of_a_huge_change_the_audit_log_has_the_places(stage: Stage, flags: Flags) -> None:
    many = {"flags": {f"f{n:04}": OFF for n in range(2000)}}
    assert flags.bring(KEY, many, False, False, OPERATOR)["version"] == 1
    noted = stage.noted()[-1]
    assert (noted["after"]["count"], len(noted["after"]["places"])) == (2000, 100)


def test_a_flag_that_others_require_is_not_removed(flags: Flags) -> None:
    flags.save(KEY, "a", ON, OPERATOR)
    flags.save(KEY, "b", REQUIRING, OPERATOR)
    with pytest.raises(Refused, match="required by b"):
        flags.remove(KEY, "a", OPERATOR)
    with pytest.raises(InvalidBatch, match="a variant of a"):
        flags.save(KEY, "a", {**ON, "variants": {"yes": True}, "defaultVariant": "yes"}, OPERATOR)
    flags.remove(KEY, "b", OPERATOR)
    flags.remove(KEY, "a", OPERATOR)
    assert flags.serving(KEY).evaluator.keys == ()


def test_a_flag_that_is_ramped_is_not_removed(stage: Stage, flags: Flags) -> None:
    flags.save(KEY, "a", ON, OPERATOR)
    ramp = stage.parts.flags.add_ramp(KEY, "a", {}, 1.0)
    with pytest.raises(Refused, match="ramped"):
        flags.remove(KEY, "a", OPERATOR)
    stage.parts.flags.save_ramp(ramp.id, {}, 2.0, ended=True)
    flags.remove(KEY, "a", OPERATOR)


def test_a_flag_that_there_is_not_cannot_be_changed(flags: Flags) -> None:
    for change in (
        lambda: flags.remove(KEY, "a", OPERATOR),
        lambda: flags.kill(KEY, "a", "", OPERATOR),
        lambda: flags.switch(KEY, "a", True, OPERATOR),
        lambda: flags.flag(KEY, "a"),
        lambda: flags.why(KEY, "a", {}),
        lambda: flags.promote(STAGING, "a", KEY, ADMIN),
        lambda: flags.restore(KEY, 1, OPERATOR),
    ):
        with pytest.raises(NotFound):
            change()


# --- kill


def test_a_killed_flag_serves_its_off_variant_to_everybody_until_it_is_revived(flags: Flags) -> None:
    flags.save(KEY, "a", ON | {"crossfade": {"off": "off"}}, OPERATOR)
    assert flags.kill(KEY, "a", "it burns", OPERATOR).number == 2
    assert served(flags) == "off"
    assert flags.kill(KEY, "a", "another reason", BOB).number == 2
    killed = flags.flag(KEY, "a")["flag"]["crossfade"]["killed"]
    assert (killed["by"], killed["why"]) == ("olga", "it burns")
    flags.revive(KEY, "a", BOB)
    assert served(flags) == "on"
    assert flags.revive(KEY, "a", BOB).number == 3


def test_nobody_revives_a_flag_by_changing_it(flags: Flags) -> None:
    flags.save(KEY, "a", ON | {"crossfade": {"off": "off"}}, OPERATOR)
    flags.kill(KEY, "a", "it burns", OPERATOR)
    flags.save(KEY, "a", {**ON, "crossfade": {"off": "off", "owner": "ada"}}, OPERATOR)
    flags.restore(KEY, 1, OPERATOR)
    flags.bring(KEY, {"flags": {"a": ON}}, True, False, OPERATOR)
    flags.save(STAGING, "a", ON, BOB)
    flags.promote(STAGING, "a", KEY, BOB)
    assert flags.serving(KEY).flags.flags["a"].killed is not None


def test_nobody_kills_a_flag_by_saving_it(flags: Flags) -> None:
    killed = {"killed": {"by": "eve", "at": 1.0, "why": "x"}}
    flags.save(KEY, "a", {**ON, "crossfade": killed}, OPERATOR)
    flags.save(KEY, "a", {**OFF, "crossfade": killed}, OPERATOR)
    assert flags.serving(KEY).flags.flags["a"].killed is None


# --- rules


def test_a_rule_is_paused_and_goes_on(flags: Flags) -> None:
    flags.save(KEY, "a", {**OFF, "crossfade": {"rules": [{"name": "all", "serve": "on"}]}}, OPERATOR)
    assert served(flags) == "on"
    flags.pause_rule(KEY, "a", "all", True, OPERATOR)
    assert served(flags) == "off"
    flags.pause_rule(KEY, "a", "all", False, OPERATOR)
    assert served(flags) == "on"
    with pytest.raises(NotFound, match="Its rules: all"):
        flags.pause_rule(KEY, "a", "none", True, OPERATOR)


def test_raising_a_share_evicts_nobody_and_lowering_lets_the_newest_go(flags: Flags) -> None:
    flags.save(KEY, "a", SPLIT, OPERATOR)

    def on() -> set[str]:
        return {str(n) for n in range(500) if served(flags, targetingKey=str(n)) == "on"}

    first = on()
    flags.set_shares(KEY, "a", "ramp", {"on": 4000}, OPERATOR)
    second = on()
    flags.set_shares(KEY, "a", "ramp", {"on": 1000}, OPERATOR)
    assert first < second
    assert on() == first
    with pytest.raises(InvalidBatch):
        flags.set_shares(KEY, "a", "ramp", {"on": 10_001}, OPERATOR)
    flags.save(KEY, "b", {**OFF, "crossfade": {"rules": [{"name": "all", "serve": "on"}]}}, OPERATOR)
    with pytest.raises(Refused, match="no split"):
        flags.set_shares(KEY, "b", "all", {"on": 1}, OPERATOR)


def test_a_flag_is_disabled_and_enabled(flags: Flags) -> None:
    flags.save(KEY, "a", ON, OPERATOR)
    flags.switch(KEY, "a", False, OPERATOR)
    assert served(flags) is None
    flags.switch(KEY, "a", True, OPERATOR)
    assert served(flags) == "on"


# --- versions


def test_a_version_is_written_again_as_the_newest(flags: Flags) -> None:
    flags.save(KEY, "a", ON, OPERATOR)
    flags.save(KEY, "a", OFF, OPERATOR)
    flags.save(KEY, "b", OFF, OPERATOR)
    version = written(flags.restore(KEY, 1, BOB))
    assert (version.number, version.flags, version.note) == (4, ("a", "b"), "version 1 again")
    assert flags.version(KEY, 4)["document"] == flags.version(KEY, 1)["document"]
    assert [one["version"] for one in flags.versions(KEY, 2)] == [4, 3]


def test_a_view_tells_the_newest_change_of_each_flag(flags: Flags) -> None:
    flags.save(KEY, "a", ON, OPERATOR)
    flags.save(KEY, "b", OFF, BOB, note="why not")
    flags.save(KEY, "a", OFF, BOB)
    rows = {row["key"]: row["changed"] for row in flags.view(KEY)["flags"]}
    assert {name: (row["version"], row["by"], row["note"]) for name, row in rows.items()} == {
        "a": (3, "bob", ""),
        "b": (2, "bob", "why not"),
    }


# --- staging to production


def test_a_flag_is_promoted_with_all_that_it_uses(flags: Flags) -> None:
    document = {
        "flags": {"a": {**OFF, "targeting": {"if": [{"$ref": "beta"}, "on"]}}, "other": ON},
        "$evaluators": {"beta": {"segment": "staff"}, "unused": {"var": "x"}},
        "crossfade": {"segments": {"staff": {"if": {"==": [{"var": "team"}, "shop"]}}, "more": {"if": {"var": "y"}}}},
    }
    flags.bring(STAGING, document, True, False, BOB)
    tried = flags.promote(STAGING, "a", KEY, BOB, dry_run=True)
    assert (tried["dry_run"], tried["version"], flags.serving(KEY).version) == (True, 0, 0)
    made = flags.promote(STAGING, "a", KEY, BOB)
    assert made["changes"] == tried["changes"]
    assert made["version"] == 1
    mine = flags.serving(KEY).flags
    assert (set(mine.flags), set(mine.evaluators), set(mine.segments)) == ({"a"}, {"beta"}, {"staff"})
    assert served(flags, team="shop") == "on"
    assert flags.versions(KEY)[0]["note"] == f"from {STAGING} version 1"


def test_a_flag_whose_prerequisites_are_missing_is_not_promoted(flags: Flags) -> None:
    flags.save(STAGING, "a", ON, BOB)
    flags.save(STAGING, "b", REQUIRING, BOB)
    with pytest.raises(Refused, match=r"requires a, which bookshop/production does not have"):
        flags.promote(STAGING, "b", KEY, BOB)
    flags.promote(STAGING, "a", KEY, BOB)
    flags.promote(STAGING, "b", KEY, BOB)


def test_a_flag_is_promoted_within_its_service_only(flags: Flags) -> None:
    flags.save(STAGING, "a", ON, BOB)
    for to in (EnvKey("other", "production"), STAGING):
        with pytest.raises(Invalid, match="another environment of bookshop"):
            flags.promote(STAGING, "a", to, ADMIN)


def test_a_flag_that_is_killed_in_staging_is_promoted_alive(flags: Flags) -> None:
    flags.save(STAGING, "a", ON, BOB)
    flags.kill(STAGING, "a", "a test", BOB)
    flags.promote(STAGING, "a", KEY, BOB)
    assert flags.serving(KEY).flags.flags["a"].killed is None


# --- files


def test_a_file_comes_beside_the_flags_that_there_are_or_in_their_place(flags: Flags) -> None:
    flags.save(KEY, "a", ON, OPERATOR)
    file = {"$schema": "https://flagd.dev/schema/v0/flags.json", "flags": {"b": OFF}, "metadata": {"team": "shop"}}
    tried = flags.bring(KEY, file, False, True, OPERATOR)
    assert [change["flag"] for change in tried["changes"]] == ["b"]
    assert flags.serving(KEY).version == 1
    flags.bring(KEY, file, False, False, OPERATOR)
    assert (flags.serving(KEY).evaluator.keys, dict(flags.serving(KEY).flags.metadata)) == (("a", "b"), {})
    flags.bring(KEY, file, True, False, OPERATOR)
    assert (flags.serving(KEY).evaluator.keys, dict(flags.serving(KEY).flags.metadata)) == (("b",), {"team": "shop"})


def test_a_file_of_another_hash_version_does_not_come_beside_others(flags: Flags) -> None:
    flags.save(KEY, "a", ON, OPERATOR)
    file = {"flags": {"b": OFF}, "metadata": {"hashVersion": 2}}
    with pytest.raises(Refused, match="hash version 2"):
        flags.bring(KEY, file, False, False, OPERATOR)
    flags.bring(KEY, file, True, False, OPERATOR)
    assert flags.serving(KEY).flags.hash_version == 2


def test_what_is_exported_can_be_brought_and_is_the_same(flags: Flags) -> None:
    flags.save(KEY, "a", SPLIT, OPERATOR)
    flags.save(KEY, "b", REQUIRING, OPERATOR)
    flags.bring(STAGING, flags.export(KEY, plain=False), True, False, BOB)
    assert flags.export(STAGING, plain=False) == flags.export(KEY, plain=False)
    plain = flags.export(KEY, plain=True)
    assert all("crossfade" not in flag for flag in plain["flags"].values())
    assert flags.bring(STAGING, plain, True, True, BOB)["dry_run"]


@pytest.mark.parametrize(
    "document",
    [
        {"flags": []},
        {"flags": {"a": None}},
        {"flags": {"a": {**OFF, "targeting": {"nonsense": []}}}},
        {"flags": {"a": {**OFF, "targeting": {"$ref": "missing"}}}},
        {"flags": {"a": OFF}, "$evaluators": {"x": {"$ref": "x"}}},
        {"flags": {"a": {**OFF, "targeting": {"fractional": [["on", -1], ["off", 2**40]]}}}},
        {"flags": {"a": {**OFF, "crossfade": {"requires": [{"flag": "a", "variants": ["on"]}]}}}},
        {"flags": {"a": {**OFF, "crossfade": {"needs": "12"}}}},
        {"metadata": {"hashVersion": 9}},
        {"surprise": 1},
    ],
)  # fmt: skip
def test_a_hostile_file_changes_nothing_and_says_why(flags: Flags, document: dict[str, Any]) -> None:
    with pytest.raises(Invalid):
        flags.bring(KEY, document, False, False, OPERATOR)
    assert flags.serving(KEY).version == 0


def test_a_note_may_not_be_a_novel(flags: Flags) -> None:
    with pytest.raises(Invalid, match="note"):
        flags.save(KEY, "a", ON, OPERATOR, note="x" * 501)
    flags.save(KEY, "a", ON, OPERATOR)
    with pytest.raises(Invalid, match="why"):
        flags.kill(KEY, "a", "x" * 501, OPERATOR)


def test_numbers_are_not_truths(flags: Flags) -> None:
    flags.save(KEY, "a", {**OFF, "variants": {"on": 1, "off": 0}}, OPERATOR)
    assert written(flags.save(KEY, "a", OFF, OPERATOR)).number == 2
    assert flags.serving(KEY).evaluator.evaluate("a", {}, 0.0).value is False
