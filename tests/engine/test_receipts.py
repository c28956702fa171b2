"""The receipt as a pure function of what is on record."""

from __future__ import annotations

from dataclasses import replace

from crossfade.domain import rollout as machine
from crossfade.domain.environment import Entry
from crossfade.domain.receipt import build
from crossfade.domain.release import Canary, Step
from crossfade.domain.rollout import Kind, Phase, Plan, Rollout
from crossfade.domain.signal import Failure, Latencies, Reading
from crossfade.domain.traffic import Counters, Slot
from crossfade.domain.values import EnvKey, ReleaseNumber, Weight

PLAN = Plan(
    EnvKey("bookshop", "production"),
    Kind.DEPLOY,
    ReleaseNumber(2),
    ReleaseNumber(1),
    Slot.GREEN,
    Canary((Step(Weight(500), 5.0),)),
)
ENTRIES = [
    Entry(101.0, "starts", "preparing", 0, "start-replicas"),
    Entry(110.0, "sets the weights", "shifting", 500, "set-split"),
    Entry(120.0, "sets the weights", "promoting", 10000, "set-split"),
]


def state() -> Rollout:
    return replace(machine.begin(7, PLAN, 100.0)[0], phase=Phase.PROMOTED)


def reading(at: float, blue: int, green: int = 0, failed: int = 0, segment: str = "s") -> Reading:
    return Reading(
        at,
        segment,
        {
            Slot.BLUE: Counters(blue, 0),
            Slot.GREEN: Counters(green, failed, by_cause=(("5xx", failed),) if failed else ()),
        },
        latencies={Slot.BLUE: Latencies(((80, blue),)), Slot.GREEN: Latencies(((90, green),))},
    )


READINGS = {
    "begin": reading(100.0, 1000),
    "step-0": reading(110.0, 2000),
    "end": reading(120.5, 2900, 100, 2),
    "after": reading(125.5, 2900, 600, 2),
}


def test_before_during_and_after_are_told_apart_and_add_up() -> None:
    receipt = build(state(), ENTRIES, READINGS, (), 120.6)
    spans = receipt["traffic"]
    assert spans["before"]["total"]["requests"] == 1000
    assert spans["during"]["green"] == {
        "requests": 100,
        "failed": 2,
        "p50_ms": spans["during"]["green"]["p50_ms"],
        "p99_ms": spans["during"]["green"]["p99_ms"],
    }
    assert spans["after"]["blue"]["requests"] == 0
    assert receipt["requests"] == sum(spans[name]["total"]["requests"] for name in spans) == 2500
    assert receipt["failed_by_cause"] == {"5xx": 2}
    assert receipt["exposed"] == {"requests": 600, "failed": 2}


def test_what_the_control_pool_served_is_in_the_receipt_too() -> None:
    failed = Counters(50, 3, retries=2, by_cause=(("5xx", 3),))
    readings = {**READINGS, "after": replace(READINGS["after"], control=failed)}
    receipt = build(state(), ENTRIES, readings, (), 120.6)
    assert (receipt["requests"], receipt["failed"], receipt["retries"]) == (2550, 5, 2)
    assert receipt["failed_by_cause"] == {"5xx": 5}


def test_only_broken_connections_soon_after_a_move_are_held_against_the_switch() -> None:
    failures = [
        Failure(105.0, Slot.BLUE, 503, "connect", True),
        Failure(110.5, Slot.GREEN, 500, "5xx", False),
        Failure(111.9, Slot.GREEN, 0, "response", True),
        Failure(113.0, Slot.GREEN, 0, "response", True),
    ]
    receipt = build(state(), ENTRIES, READINGS, failures, 120.6)
    assert receipt["broken_connections"] == 3
    assert receipt["dropped_by_switch"] == 1


def test_a_rollout_that_moved_nothing_has_a_receipt_too() -> None:
    receipt = build(replace(state(), phase=Phase.ROLLED_BACK, reason="never healthy"), ENTRIES[:1], {}, (), 101.0)
    assert receipt["outcome"] == "rolled-back"
    assert receipt["traffic"] == {}
    assert receipt["dropped_by_switch"] == 0


def test_counts_that_the_edge_lost_on_the_way_are_said_to_be_lost() -> None:
    readings = READINGS | {"end": reading(120.5, 50, 10, segment="s2"), "after": reading(125.5, 60, 20, segment="s2")}
    receipt = build(state(), ENTRIES, readings, (), 120.6)
    assert receipt["counts_lost_at"] == ["end"]
    assert receipt["requests"] == 80
