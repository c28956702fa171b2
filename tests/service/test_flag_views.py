"""What one sees of flags: previews, explanations, and what could go."""

from __future__ import annotations

import pytest

from crossfade.domain.errors import (
    Invalid,
    InvalidBatch,
)
from crossfade.service.flags import Flags
from tests.service.flag_stage import OFF, ON, REQUIRING, SPLIT, flag_stage, settle
from tests.service.stage import KEY, OPERATOR, Stage


@pytest.fixture
def stage() -> Stage:
    return flag_stage()


@pytest.fixture
def flags(stage: Stage) -> Flags:
    return stage.service.flags


# --- before one saves


def test_a_preview_tells_who_would_get_what_and_changes_nothing(flags: Flags) -> None:
    flags.save(KEY, "a", SPLIT, OPERATOR)
    for n in range(50):
        flags.serving(KEY).remember({"targetingKey": f"u{n}", "country": "de" if n % 2 else "fr"})
    data = {**OFF, "targeting": {"if": [{"==": [{"var": "country"}, "de"]}, "on"]}}
    found = flags.preview(KEY, "a", data, [{"country": "de"}, {"country": "fr"}])
    assert [(one["before"]["variant"], one["after"]["variant"]) for one in found["contexts"]] == [
        ("off", "on"),
        ("off", "off"),
    ]
    assert (found["seen"]["contexts"], found["seen"]["after"]) == (50, {"on": 25, "off": 25})
    assert found["made_up"]["contexts"] == 2000
    assert found["made_up"]["after"] == {"off": 2000}
    assert 150 < found["made_up"]["moves"][0]["n"] < 250  # those of the 10 %
    assert any("targeting" in change["what"] for change in found["changes"])
    assert flags.serving(KEY).version == 1


def test_a_preview_of_a_new_flag_starts_from_the_codes_own_default(flags: Flags) -> None:
    found = flags.preview(KEY, "new", ON)
    assert found["made_up"]["moves"] == [{"from": "(code default)", "to": "on", "n": 2000}]
    with pytest.raises(InvalidBatch):
        flags.preview(KEY, "new", REQUIRING)
    with pytest.raises(Invalid):
        flags.preview(KEY, "new", ON, [{}] * 101)


def test_why_tells_the_steps_that_led_there(flags: Flags) -> None:
    flags.save(KEY, "a", ON, OPERATOR)
    found = flags.why(KEY, "a", {"targetingKey": "u"})
    assert (found["flag"], found["evaluation"]["variant"], found["version"]) == ("a", "on", 1)
    with pytest.raises(Invalid):
        flags.why(KEY, "a", {"x": "y" * 200_000})


# --- what could go


def used(stage: Stage, flag: str, release: int, variant: str = "on", n: int = 5) -> None:
    told = {"flag": flag, "variant": variant, "n": n, "release": f"r{release}"}
    stage.service.flag_events.post(KEY, usage=[told])


DAY = 86_400.0


def kinds(flags: Flags) -> dict[str, str]:
    return {one["flag"]: one["kind"] for one in flags.stale(KEY)}


def test_a_flag_that_no_running_release_evaluates_is_stale(stage: Stage, flags: Flags) -> None:
    flags.bring(KEY, {"flags": dict.fromkeys(("a", "b", "kept"), SPLIT)}, True, False, OPERATOR)
    flags.save(KEY, "forever", {**SPLIT, "crossfade": {**SPLIT["crossfade"], "permanent": True}}, OPERATOR)
    assert kinds(flags) == {}  # they are new
    stage.now += 2 * DAY
    assert kinds(flags) == {"a": "unknown", "b": "unknown", "kept": "unknown"}
    used(stage, "a", 1)
    used(stage, "kept", 1)
    assert kinds(flags) == {"b": "unused"}
    settle(stage)  # r3, which nobody has heard of
    assert kinds(flags) == {"a": "unknown", "b": "unknown", "kept": "unknown"}
    used(stage, "kept", 3)
    assert kinds(flags) == {"a": "unused", "b": "unused"}
    row = next(one for one in flags.stale(KEY) if one["flag"] == "a")
    assert row["why"] == "no release that runs (r3) has evaluated it; the last that did was r1"
    assert flags.flag(KEY, "a")["stale"] == row


def test_a_flag_that_gives_everybody_the_same_for_long_could_go(stage: Stage, flags: Flags) -> None:
    everybody = {"rules": [{"name": "ramp", "serve": {"split": {"shares": {"on": 10_000}, "rest": "off"}}}]}
    flags.bring(
        KEY,
        {
            "flags": {
                "static": ON,
                "ramped": {**OFF, "crossfade": everybody},
                "split": SPLIT,
                "aimed": {**OFF, "targeting": {"if": [{"var": "x"}, "on"]}},
                "needs": {**ON, "crossfade": {"needs": "r1"}},
                "paused": {
                    **OFF,
                    "crossfade": {"rules": [{"name": "x", "serve": "on", "if": {"var": "x"}, "paused": True}]},
                },
            }
        },
        True,
        False,
        OPERATOR,
    )
    stage.now += 31 * DAY
    for name in flags.serving(KEY).evaluator.keys:
        used(stage, name, 1)
    assert kinds(flags) == {"static": "decided", "ramped": "decided", "paused": "decided"}
    flags.kill(KEY, "split", "x", OPERATOR)
    stage.now += 31 * DAY
    assert kinds(flags)["split"] == "decided"
    why = {one["flag"]: one["why"] for one in flags.stale(KEY)}
    assert why["ramped"] == "everybody has got 'on' for 62 days: it could be removed"


def test_a_view_has_what_lists_show(stage: Stage, flags: Flags) -> None:
    flags.save(KEY, "a", SPLIT, OPERATOR)
    ramp = stage.parts.flags.add_ramp(KEY, "a", {}, 1.0)
    row = flags.view(KEY)["flags"][0]
    assert row["rules"] == [{"name": "ramp", "paused": False, "serves": "split", "shares": {"on": 1000, "off": 9000}}]
    assert (row["ramp"], row["experiments"], row["killed"], row["off"]) == (ramp.id, [], None, "off")
    assert flags.compare(KEY, 0, 1)[0]["flag"] == "a"
    used(stage, "a", 1)
    assert flags.flag(KEY, "a")["usage"] == [
        {"variant": "on", "release": "r1", "n": 5, "first": stage.now, "last": stage.now}
    ]
