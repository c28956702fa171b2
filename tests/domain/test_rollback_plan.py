"""The one rollback plan: the cheapest remedy that applies, and when a flag's variant is to blame for it."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crossfade.domain.analysis import latency
from crossfade.domain.analysis.policy import ERROR_RATE, Analysis, Direction, Metric, Shape
from crossfade.domain.analysis.sample import History, Moments
from crossfade.domain.flags.arms import facts, tellable
from crossfade.domain.flags.pinning import KEPT, PINNED, Counted, Scene, Suspect, Trail, pin
from crossfade.domain.flags.steering import killable
from crossfade.domain.release import Limits
from crossfade.domain.rollback import PRECEDENCE, Facts, RollbackPlan, Way, What, plan
from crossfade.domain.signal import Latencies, Reading, VariantFacts
from crossfade.domain.traffic import Counters, Pool, Slot
from crossfade.domain.values import ReleaseNumber

# --- laws of the plan

numbers = st.integers(1, 20).map(ReleaseNumber)
suspects = st.builds(
    lambda flag, variant, pinned: Suspect(
        flag, variant, Counted(100, 10), Counted(100), Counted(300), Counted(5000, 5), pinned, "so it was found"
    ),
    st.sampled_from(["checkout", "search"]),
    st.sampled_from(["on", "b"]),
    st.booleans(),
)
ways = st.builds(Way, numbers, st.booleans(), st.sampled_from([(), ("its artifact is gone",)]))
facts_of = st.builds(
    Facts,
    st.just("errors 5 % against 0.1 %"),
    numbers,
    st.lists(suspects, max_size=3).map(tuple),
    st.sampled_from([None, 7]),
    st.one_of(st.none(), numbers),
    st.lists(ways, max_size=4).map(tuple),
)


@given(facts_of)
@settings(max_examples=400)
def test_exactly_one_remedy_is_chosen_and_it_is_the_cheapest_that_applies_or_none_with_a_reason(facts: Facts) -> None:
    found = plan(facts)
    applying = [remedy for remedy in found.remedies if remedy.applies]
    assert [PRECEDENCE.index(one.what) for one in found.remedies] == sorted(
        PRECEDENCE.index(one.what) for one in found.remedies
    )
    assert found.remedy == (applying[0] if applying else None)
    assert found.reason
    assert all(remedy.why and remedy.text for remedy in found.remedies)
    assert {remedy.what for remedy in found.remedies} == set(What)  # what does not apply is told too


@given(facts_of)
@settings(max_examples=400)
def test_a_flag_is_killed_only_when_the_harm_was_pinned_on_it_and_then_nothing_dearer_is_done(facts: Facts) -> None:
    remedy = plan(facts).remedy
    pinned = [suspect.name for suspect in facts.suspects if suspect.pinned]
    if pinned:
        assert remedy is not None
        assert (remedy.what, remedy.target) == (What.KILL_FLAG, pinned[0])
    else:
        assert remedy is None or remedy.what is not What.KILL_FLAG


@given(facts_of)
@settings(max_examples=300)
def test_nothing_is_restarted_while_a_weight_can_be_moved_and_nothing_that_cannot_be_restored_is_chosen(
    facts: Facts,
) -> None:
    remedy = plan(facts).remedy
    warm = any(way.warm and not way.why_not and way.release != facts.baseline for way in facts.ways)
    baseline = facts.rollout is not None and facts.baseline is not None
    if remedy is not None and remedy.what is What.RESTART_RELEASE:
        assert not warm
        assert not baseline
    broken = {str(way.release) for way in facts.ways if way.why_not and way.release != facts.baseline}
    whole = {str(way.release) for way in facts.ways if not way.why_not}
    if remedy is not None and remedy.what is not What.KILL_FLAG and remedy.target != str(facts.baseline):
        assert remedy.target not in broken - whole


def test_when_nothing_helps_it_says_so_and_why() -> None:
    gone = Way(ReleaseNumber(1), why_not=("it needs the shape before 02_price, which was contracted",))
    found = plan(Facts("the budget burns", ReleaseNumber(2), ways=(gone,)))
    assert found.remedy is None
    assert found.reason.startswith("nothing that is known helps: ")
    assert "it needs the shape before 02_price, which was contracted" in found.reason
    assert found.to_data()["chosen"] is None


def test_a_plan_says_what_it_costs_and_what_clients_notice() -> None:
    ways = (Way(ReleaseNumber(11), warm=True), Way(ReleaseNumber(10), start=30.0))
    found = plan(Facts("the budget burns", ReleaseNumber(12), ways=ways))
    assert found.remedy is not None
    assert (found.remedy.what, found.remedy.target, found.remedy.seconds) == (What.MOVE_WEIGHT, "r11", 5.0)
    assert found.remedy.notices == "new requests go to r11 at once; those in flight are finished by r12"
    assert found.remedies[-1].seconds == 35.0
    assert found.to_data()["remedies"][1]["what"] == "move-weight"


# --- whose fault it is


@dataclass(frozen=True)
class Cell:
    """Answers a second of one release with one variant: how many, their share of errors, their seconds, what they buy."""

    rate: int = 50
    errors: float = 0.001
    seconds: float = 0.02
    buys: float = 0.3


@dataclass(frozen=True)
class Traffic:
    """Release x variant: the baseline's and the candidate's answers with `on` and with `off`, and those of other pages."""

    base_on: Cell = Cell(0)
    base_off: Cell = Cell(950)
    cand_on: Cell = Cell(25)
    cand_off: Cell = Cell(25)
    other: Cell = Cell(0)

    def trail(self, seconds: int, seed: int = 3) -> list[Reading]:
        """A reading each second."""
        dice = random.Random(seed)
        counts = {slot: Counters() for slot in Slot}
        told: dict[Slot, dict[str, VariantFacts]] = {slot: {} for slot in Slot}
        made = [Reading(0.0, "s", dict(counts))]
        cells = (
            (Slot.BLUE, "new-checkout=on", self.base_on),
            (Slot.BLUE, "new-checkout=off", self.base_off),
            (Slot.GREEN, "new-checkout=on", self.cand_on),
            (Slot.GREEN, "new-checkout=off", self.cand_off),
            (Slot.GREEN, "", self.other),
        )
        for second in range(1, seconds + 1):
            for slot, name, cell in cells:
                failed = sum(dice.random() < cell.errors for _ in range(cell.rate))
                bought = sum(dice.random() < cell.buys for _ in range(cell.rate))
                counts[slot] = counts[slot].plus(Counters(cell.rate, failed))
                if name and cell.rate:
                    bucket = latency.bucket_of(cell.seconds)
                    events = {"checkout": Moments(bought, bought, bought)} if bought else {}
                    new = VariantFacts(cell.rate, failed, Latencies(((bucket, cell.rate),)), events)
                    told[slot][name] = told[slot].get(name, VariantFacts()).plus(new)
            variants: dict[Pool, dict[str, VariantFacts]] = {slot: dict(of) for slot, of in told.items()}
            made.append(Reading(float(second), "s", dict(counts), variants=variants))
        return made


SCENE = Scene(Slot.GREEN, Slot.BLUE, Analysis(), Limits())
ON = {("new-checkout", "on")}


def blamed(traffic: Traffic, seconds: int = 30, scene: Scene = SCENE, seed: int = 3) -> Suspect:
    (suspect,) = pin(scene, traffic.trail(seconds, seed), ON)
    return suspect


BAD = Cell(25, errors=0.3)


def test_a_variant_that_fails_within_a_release_that_is_fine_without_it_is_to_blame() -> None:
    suspect = blamed(Traffic(cand_on=BAD))
    assert suspect.pinned, suspect.why
    assert suspect.name == "new-checkout=on"
    assert "errors" in suspect.why
    assert "without it" in suspect.why


def test_it_is_known_after_about_as_many_errors_as_a_failed_verdict_takes() -> None:
    trail = Traffic(cand_on=BAD).trail(30)
    first = next(i for i in range(2, 31) if pin(SCENE, trail[:i], ON)[0].pinned)
    assert trail[first - 1].variants[Slot.GREEN]["new-checkout=on"].errors <= 20


@pytest.mark.parametrize("share", [0.02, 0.1, 0.3, 1.0])
def test_a_flag_is_never_killed_when_the_rest_of_the_candidate_is_as_bad(share: float) -> None:
    bad = Cell(25, errors=share)
    for seed in range(10):
        assert not blamed(Traffic(cand_on=bad, cand_off=bad), seed=seed).pinned


def test_a_release_that_fails_everywhere_is_to_blame_although_the_variant_fails_more() -> None:
    suspect = blamed(Traffic(cand_on=Cell(25, errors=0.6), cand_off=Cell(25, errors=0.1)))
    assert not suspect.pinned
    assert "the candidate is harmful without it too" in suspect.why


def test_pages_that_never_ask_for_the_flag_do_not_make_its_variant_look_bad() -> None:
    """The checkout page fails whatever its flag says; all other pages are fine."""
    page = Cell(25, errors=0.2)
    suspect = blamed(Traffic(cand_on=page, cand_off=page, other=Cell(500, errors=0.0)))
    assert not suspect.pinned
    assert "not surely worse than the flag's other variants" in suspect.why


def test_a_variant_that_all_answers_have_cannot_be_told_from_the_release() -> None:
    suspect = blamed(Traffic(cand_on=BAD, cand_off=Cell(0)))
    assert not suspect.pinned
    assert "it cannot be told from the release" in suspect.why


def test_a_variant_that_harms_both_releases_alike_is_to_blame_all_the_same() -> None:
    assert blamed(Traffic(base_on=Cell(200, errors=0.3), cand_on=BAD)).pinned


def test_a_slow_variant_and_one_that_sells_less_are_to_blame_by_the_same_policy() -> None:
    slowness = Metric("latency", Shape.HISTOGRAM, 0.5, quantile="p99", required=False)
    conversion = Metric("conversion", Shape.MEAN, 0.1, "checkout", direction=Direction.DROP, required=False)
    scene = replace(SCENE, analysis=Analysis(metrics=(ERROR_RATE, slowness, conversion)))
    slow = blamed(Traffic(cand_on=Cell(25, seconds=0.5)), scene=scene)
    assert slow.pinned
    assert "latency" in slow.why
    unsold = blamed(Traffic(cand_on=Cell(100, buys=0.1), cand_off=Cell(100)), 60, scene)
    assert unsold.pinned
    assert "conversion" in unsold.why


def test_a_candidate_that_is_alone_is_held_to_its_limits_and_to_what_the_baseline_was_like() -> None:
    alone = Traffic(base_off=Cell(0), cand_on=BAD, cand_off=Cell(500))
    assert blamed(alone).pinned
    worse = replace(alone, cand_off=Cell(500, errors=0.008))
    known = replace(SCENE, history=History(requests=10_000, errors=10))
    assert not blamed(worse, scene=known).pinned
    assert not blamed(replace(alone, cand_off=Cell(500, errors=0.05))).pinned


def test_innocent_variants_are_hardly_ever_blamed() -> None:
    """The level is PINNED over all that are looked at; a thousand looks are one."""
    wrong = 0
    for seed in range(100):
        trail = Traffic(cand_on=Cell(25, errors=0.02), cand_off=Cell(25, errors=0.02)).trail(60, seed)
        looks = (pin(SCENE, trail[:i], ON)[0].pinned for i in range(5, 61, 5))
        wrong += any(looks)
    assert wrong <= 100 * PINNED


def test_a_trail_keeps_its_beginning_and_its_end_and_stays_short() -> None:
    readings = [Reading(float(i), "s", {}) for i in range(3000)]
    trail = Trail(readings[0])
    for reading in readings[1:]:
        trail.add(reading)
    kept = trail.upto(Reading(3000.5, "s", {}))
    assert len(kept) <= KEPT + 1
    assert (kept[0].at, kept[-1].at) == (0.0, 3000.5)
    assert [reading.at for reading in kept] == sorted(reading.at for reading in kept)


def test_only_variants_that_a_kill_takes_away_are_suspects() -> None:
    on_off = {"state": "ENABLED", "variants": {"on": True, "off": False}, "defaultVariant": "off"}
    document = {
        "flags": {
            "a": on_off,
            "killed": {**on_off, "crossfade": {"killed": {"by": "ada", "at": 1.0, "why": ""}}},
            "inverse": {**on_off, "crossfade": {"off": "on"}},
            "disabled": {**on_off, "state": "DISABLED"},
        }
    }
    names = [f"{flag}={variant}" for flag in (*document["flags"], "gone") for variant in ("on", "off", "what")]
    assert killable(document, names) == {("a", "on"), ("inverse", "off")}


def test_variants_are_summed_over_pools_and_judged_by_what_answers_tell() -> None:
    reading = Traffic(base_on=Cell(10)).trail(2)[-1]
    assert facts(reading, "new-checkout", {"on"}).requests == 2 * (10 + 25)
    assert facts(reading, "new-checkout", {"on"}, (Slot.GREEN,)).requests == 2 * 25
    assert facts(reading, "new-checkout", {"on", "off"}, (Slot.GREEN,)).requests == 2 * 50
    policy, left_out = tellable(Analysis(metrics=(Metric("lag", Shape.MEAN, 0.1, "queue", dry_run=True),)))
    assert ([metric.name for metric in policy.metrics], left_out) == (["lag", "error_rate"], ())


def test_a_plan_can_be_written_down() -> None:
    found = plan(Facts("it burns", ReleaseNumber(3), (blamed(Traffic(cand_on=BAD)),), 7, ReleaseNumber(2)))
    assert isinstance(found, RollbackPlan)
    data = found.to_data()
    assert data["remedies"][data["chosen"]]["target"] == "new-checkout=on"
