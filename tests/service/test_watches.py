"""Watches driven by hand, second by second: what they see, what they do, and what they leave to people."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from crossfade.domain.alert import Severity
from crossfade.domain.environment import Entry, Occupant
from crossfade.domain.errors import Busy, Forbidden, Refused, StorageFailed, Unavailable
from crossfade.domain.rollout import Command, Kind, Phase, Rollout
from crossfade.domain.slo import Exhausted, Objective, OnBurn, Probe, SloPolicy
from crossfade.domain.slo import Kind as Counts
from crossfade.domain.values import ReleaseNumber
from crossfade.fakes.runtime import FakeRuntime
from crossfade.ports import ReplicaSpec
from tests.service.stage import ADMIN, KEY, OPERATOR, VIEWER, Stage

POLICY = SloPolicy((Objective("answers", 0.999),), probe=Probe(0.0), watch=600.0, exhausted=Exhausted.WARN)


class World:
    """r1 was live for a while, and r2 has just been promoted; r1 is warm. The test turns the clock."""

    def __init__(self, policy: SloPolicy = POLICY, before: int = 60, **settings: Any) -> None:
        self.stage, self.policy, self.passed = Stage(), policy, 0.0
        self.settings = settings
        self.stage.signals.ensure(KEY)
        self.restart()
        self.promote()
        for _ in range(before):
            self.second(50)

    def restart(self) -> None:
        """A server that was just started."""
        self.service = self.stage.service = self.stage.another_server()
        self.service.objectives.monotonic = lambda: self.passed

    def promote(self, **changes: Any) -> Rollout:
        """Another release becomes live, and its watch begins."""
        self.stage.config = replace(self.stage.config, slo=replace(self.policy, **changes), **self.settings)
        state = self.stage.deploy(OPERATOR)
        assert isinstance(state, Rollout)
        return self.finish(state)

    def finish(self, state: Rollout) -> Rollout:
        """The rollout promotes its candidate, whose replicas run."""
        store, plan, now = self.stage.parts.store, state.plan, self.stage.now
        if plan.kind is Kind.DEPLOY:
            self.stage.signals.forget(KEY, plan.slot)
        store.occupy(KEY, plan.slot, Occupant(plan.candidate, state.id, 1))
        store.commit(state.id, plan.slot, plan.candidate, now + 600, now)
        done = replace(state, phase=Phase.PROMOTED, entered=now)
        store.save(done, [Entry(now, "moves the weight", "promoting", 10_000, "set-split")])
        store.close(state.id, {}, now)
        self.look()
        return done

    def look(self) -> None:
        self.service.objectives.look()
        self.service.watches.look()

    def second(self, requests: int = 0, errors: int = 0, seconds: float = 0.005) -> None:
        """One second passes, in which the live release serves so much."""
        self.stage.now += 1
        self.passed += 1
        environment = self.stage.parts.store.environment(KEY)
        assert environment is not None and environment.slot is not None
        if requests:
            self.stage.signals.serve(KEY, environment.slot, requests, errors, seconds=seconds)
        self.look()

    def until(self, phase: str, errors: int = 0, most: int = 60, requests: int = 50) -> dict[str, Any]:
        """Seconds pass until the newest watch is in a phase; the watch."""
        for _ in range(most):
            self.second(requests, errors)
            if self.watch()["phase"] == phase:
                return self.watch()
        raise AssertionError(f"it is not {phase}: {json.dumps(self.watch(), indent=1)}")

    def watch(self) -> dict[str, Any]:
        return self.service.watches.list(KEY, 1)[0]

    def rollbacks(self) -> list[Rollout]:
        return [one for one in self.stage.parts.store.rollouts(KEY) if one.plan.kind is Kind.ROLLBACK]

    def alerts(self) -> dict[str, tuple[Severity, str]]:
        return {one.name: (one.severity, one.sentence) for one in self.service.alerts.list(KEY, open_only=True)}


def test_each_promotion_of_a_deployment_is_watched_once_and_a_rollback_is_not() -> None:
    world = World()
    first = world.watch()
    assert (first["release"], first["previous"], first["phase"]) == ("r1", None, "watching")
    state = world.promote()
    assert (world.watch()["release"], world.watch()["rollout"], world.watch()["previous"]) == ("r2", state.id, "r1")
    world.second()
    assert [one["phase"] for one in world.service.watches.list(KEY)] == ["watching", "superseded"]
    world.restart()
    world.look()
    assert len(world.service.watches.list(KEY)) == 2
    world.finish(world.service.rollback(KEY, None, OPERATOR))
    world.second()
    assert [one["phase"] for one in world.service.watches.list(KEY)] == ["superseded", "superseded"]


def test_without_objectives_the_profile_alone_tells_and_without_a_time_nothing_is_watched() -> None:
    world = World(SloPolicy(probe=Probe(0.0)))
    world.promote()
    assert world.until("settling", errors=5)["cause"]["means"] == "profile"
    world = World(SloPolicy(probe=Probe(0.0), watch=0.0))
    world.promote()
    assert world.service.watches.list(KEY) == []


def test_errors_are_taken_back_by_crossfade_itself_and_what_it_took_is_told() -> None:
    world = World()
    world.promote()
    for _ in range(20):
        world.second(50)
    watch = world.until("settling", errors=5)
    (back,) = world.rollbacks()
    assert watch["done"] == [
        {"text": f"rollout #{back.id} goes back to r1", "target": "r1", "at": back.began, "rollout": back.id}
    ]
    assert world.stage.driver.driven[-1] == back.id
    assert world.alerts()["watch"][0] is Severity.PAGE
    world.second(50, 5)
    assert "goes back to r1" in world.watch()["waiting"]
    world.finish(back)
    watch = world.until("helped")
    assert "watch" not in world.alerts()
    receipt = watch["receipt"]
    assert receipt["helped"] is True
    assert 3 <= receipt["detection"] <= 15
    assert receipt["harmed"] == pytest.approx(5 * (receipt["detection"] + 2), abs=6)
    assert receipt["recovery"] >= receipt["detection"]
    noted = world.stage.noted()[-1]
    assert (noted["who"], noted["what"]) == ("crossfade", "rollout.rollback")
    whole = world.service.watches.view(watch["id"])
    assert whole["profile"]["requests"] == pytest.approx(3000, abs=100)
    assert [one["phase"] for one in whole["journal"]][-1] == "helped"
    assert whole["plans"][0]["remedies"]


def test_slower_answers_are_taken_back_too() -> None:
    world = World()
    world.promote()
    for _ in range(60):
        world.second(50, seconds=0.05)
        if world.rollbacks():
            break
    assert world.watch()["cause"]["name"] == "latency"
    assert world.watch()["receipt"] is None


def test_a_burn_of_an_objective_is_taken_back_where_there_is_no_profile() -> None:
    slow = Objective("fast", 0.9, Counts.LATENCY, threshold=1.0)
    world = World(replace(POLICY, objectives=(*POLICY.objectives, slow)), before=0)
    for _ in range(5):
        world.second(10)
    world.promote()
    assert world.service.watches.view(world.watch()["id"])["profile"]["tests"] == []
    watch = world.until("settling", errors=20)
    assert (watch["cause"]["means"], watch["cause"]["name"]) == ("burn", "answers")


def test_one_bad_second_of_a_young_service_is_not_taken_back() -> None:
    world = World(before=0)
    for _ in range(5):
        world.second(10)
    world.promote()
    for _ in range(5):
        world.second(10)
    world.second(50, 50)
    for _ in range(30):
        world.second(10)
    assert (world.watch()["phase"], world.rollbacks()) == ("watching", [])


def test_a_burn_from_before_the_promotion_is_not_blamed_on_the_release() -> None:
    world = World()
    for _ in range(130):
        world.second(50, 10)
    world.promote()
    assert "burned before the promotion" in world.service.watches.view(world.watch()["id"])["journal"][-1]["text"]
    for _ in range(60):
        world.second(50, 10)
    assert world.watch()["phase"] == "watching"
    assert world.rollbacks() == []


def test_replicas_that_all_died_are_taken_back_without_any_traffic() -> None:
    world = World()
    state = world.promote()
    names = Occupant(ReleaseNumber(2), state.id, 1).names(KEY)
    runtime = world.stage.parts.runtime
    assert isinstance(runtime, FakeRuntime)
    runtime.start(KEY, [ReplicaSpec(name, ("x",), Path(), {}) for name in names], 9)
    for _ in range(10):
        world.second()
    assert world.watch()["phase"] == "watching"
    for name in names:
        runtime.end(name, comes_back=False)
    watch = world.until("settling", requests=0)
    assert watch["cause"]["means"] == "crash"


def test_nothing_is_done_while_a_rollout_holds_the_environment() -> None:
    world = World()
    world.promote()
    for _ in range(10):
        world.second(50)
    world.stage.config = replace(world.stage.config, slo=POLICY)
    state = world.stage.deploy(OPERATOR)
    assert isinstance(state, Rollout)
    for _ in range(40):
        world.second(50, 10)
    assert world.rollbacks() == []
    assert world.watch()["waiting"] == f"rollout #{state.id} is under way: it decides"
    store = world.stage.parts.store
    store.save(replace(state, phase=Phase.ROLLED_BACK, entered=world.stage.now), [])
    store.close(state.id, {}, world.stage.now)
    world.until("settling", errors=10)


def test_what_does_not_help_is_said_and_nothing_more_is_done_by_itself() -> None:
    world = World()
    world.promote()
    world.until("settling", errors=10)
    world.finish(world.rollbacks()[0])
    world.until("not-helped", errors=10)
    severity, sentence = world.alerts()["watch"]
    assert severity is Severity.PAGE and sentence.startswith("rolled back, and it did not help")
    for _ in range(60):
        world.second(50, 10)
    assert len(world.rollbacks()) == 1
    world.promote()
    assert "watch" not in world.alerts(), "somebody has brought another one"


def test_where_no_release_can_be_gone_back_to_it_says_so() -> None:
    world = World(before=0)
    world.second(10)
    watch = world.until("proposed", errors=40)
    assert "nothing that is known helps" in watch["refused"]
    assert world.alerts()["watch"][0] is Severity.PAGE


def test_what_is_to_be_proposed_only_is_not_done() -> None:
    world = World(replace(POLICY, on_burn=OnBurn.PROPOSE))
    world.promote()
    world.until("proposed", errors=10)
    (alert,) = [one for one in world.service.alerts.list(KEY, open_only=True) if one.name == "watch"]
    assert alert.facts["proposal"]["command"] == "crossfade rollback bookshop/production --to r1"
    assert world.rollbacks() == []


def test_outside_its_time_a_burn_is_told_with_what_a_person_can_do() -> None:
    world = World()
    world.promote(watch=60.0)
    for _ in range(70):
        world.second(50)
    assert world.watch()["phase"] == "passed"
    for _ in range(30):
        world.second(50, 25)
    assert world.rollbacks() == []
    (alert,) = [one for one in world.service.alerts.list(KEY, open_only=True) if one.name == "burn:answers"]
    assert alert.facts["proposal"]["command"] == "crossfade rollback bookshop/production --to r1"


def test_of_a_burn_that_a_watch_does_nothing_about_it_is_said_what_a_person_can_do() -> None:
    world = World(before=130)
    world.promote()
    for _ in range(6):
        for _ in range(10):
            world.second(50)
        world.second(50, 25)  # each is over before anything could be done
    assert (world.watch()["phase"], world.rollbacks()) == ("watching", [])
    (alert,) = [one for one in world.service.alerts.list(KEY, open_only=True) if one.name == "burn:answers"]
    assert alert.severity is Severity.PAGE
    assert alert.facts["watch"] == world.watch()["id"]
    assert alert.facts["proposal"]["command"] == "crossfade rollback bookshop/production --to r1"


def test_nobody_is_told_to_go_back_further_for_a_burn_that_a_watch_has_ended() -> None:
    world = World(before=130)
    third = world.promote()
    for _ in range(20):
        world.second(50)
    world.until("settling", errors=50)
    world.finish(world.rollbacks()[0])
    watch = world.until("helped")
    for _ in range(15):
        world.second(50)
    (alert,) = [one for one in world.service.alerts.list(KEY, open_only=True) if one.name == "burn:answers"]
    assert third.plan.baseline == world.service.environment(KEY).live
    assert (alert.facts.get("watch"), alert.facts.get("proposal")) == (watch["id"], None)
    for _ in range(15):
        world.second(50, 25)
    (alert,) = [one for one in world.service.alerts.list(KEY, open_only=True) if one.name == "burn:answers"]
    assert "proposal" in alert.facts


def test_a_person_who_rolls_back_while_a_watch_does_so_does_not_abort_it() -> None:
    world = World()
    world.promote()
    for _ in range(20):
        world.second(50)
    world.until("settling", errors=5)
    (back,) = world.rollbacks()
    assert world.service.rollback(KEY, None, OPERATOR).id == back.id
    assert world.stage.parts.store.orders(back.id) == ()
    assert world.service.order_current(KEY, Command.ABORT, OPERATOR).id == back.id


def test_nobody_goes_back_to_what_a_watch_has_taken_back_unless_it_is_named() -> None:
    world = World()
    world.promote()
    for _ in range(20):
        world.second(50)
    bad = world.promote()
    for _ in range(20):
        world.second(50)
    world.until("settling", errors=5)
    world.finish(world.rollbacks()[0])
    watch = world.until("helped")
    # Whoever was paged and comes late wants what is done already.
    with pytest.raises(Refused, match=f"r3 was live before r2, and watch #{watch['id']} has taken it back: r2 is live"):
        world.service.rollback(KEY, None, OPERATOR)
    remedy = world.service.going_back(KEY, "r2 does harm, too").remedy
    assert remedy is not None and remedy.target == "r1"
    plan, _ = world.service.drills.plan(KEY)
    assert plan.target == ReleaseNumber(1)
    # Somebody has brought it again, so it may be gone back to.
    world.finish(world.service.rollback(KEY, bad.plan.candidate, OPERATOR))
    world.promote()
    assert world.service.rollback(KEY, None, OPERATOR).plan.candidate == bad.plan.candidate


def test_a_person_may_end_a_watch() -> None:
    world = World()
    world.promote()
    watch = world.watch()
    with pytest.raises(Forbidden):
        world.service.watches.end(watch["id"], VIEWER)
    assert world.service.watches.end(watch["id"], OPERATOR)["phase"] == "superseded"
    for _ in range(30):
        world.second(50, 25)
    assert world.rollbacks() == []
    assert [note["what"] for note in world.stage.noted()][-1] == "watch.end"


def test_what_a_person_has_brought_meanwhile_is_left_alone() -> None:
    world = World()
    world.promote()
    for _ in range(5):
        world.second(50)
    world.finish(world.service.rollback(KEY, None, OPERATOR))
    for _ in range(30):
        world.second(50, 25)
    assert len(world.rollbacks()) == 1


@pytest.mark.parametrize("dies", ["before it acts", "after it has begun"])
def test_a_server_that_is_killed_goes_back_once(dies: str) -> None:
    world = World()
    world.promote()
    for _ in range(10):
        world.second(50)
    save = world.stage.parts.records.save
    deaths: list[str] = []

    def dying(id: int, data: Any, now: float, **named: Any) -> None:
        phase = data.get("watch", {}).get("phase")
        if phase == "settling" and dies == "after it has begun" and not deaths:
            deaths.append(phase)
            raise KeyboardInterrupt
        save(id, data, now, **named)
        if phase == "acting" and dies == "before it acts" and not deaths:
            deaths.append(phase)
            raise KeyboardInterrupt

    world.stage.parts.records.save = dying  # type: ignore[method-assign]  # the ledger of a server that dies
    with pytest.raises(KeyboardInterrupt):
        world.until("settling", errors=10)
    assert deaths
    assert len(world.rollbacks()) == (1 if dies == "after it has begun" else 0)
    world.restart()
    world.until("settling", errors=10)
    assert len(world.rollbacks()) == 1
    world.finish(world.rollbacks()[0])
    world.until("helped")


def test_a_part_that_does_not_answer_is_waited_for() -> None:
    world = World()
    world.promote()
    for _ in range(10):
        world.second(50)
    carry_out = world.service.carry_out
    failed: list[int] = []

    def failing(*given: Any, **named: Any) -> Any:
        if len(failed) < 3:
            failed.append(1)
            raise Unavailable("The ledger does not answer.")
        return carry_out(*given, **named)

    world.service.carry_out = failing  # type: ignore[method-assign]  # a ledger that is away for a while
    world.until("settling", errors=10)
    assert len(failed) == 3
    assert len(world.rollbacks()) == 1


def test_the_harm_of_a_candidate_is_not_blamed_on_the_release_that_is_watched() -> None:
    world = World()
    world.promote()
    for _ in range(10):
        world.second(50)
    state = world.stage.deploy(OPERATOR)
    assert isinstance(state, Rollout)
    for _ in range(20):
        world.stage.signals.serve(KEY, state.plan.slot, 50, 50)
        world.second(50)
    store = world.stage.parts.store
    store.save(replace(state, phase=Phase.ROLLED_BACK, entered=world.stage.now), [])
    store.close(state.id, {}, world.stage.now)
    for _ in range(60):
        world.second(50)
    assert (world.watch()["phase"], world.rollbacks()) == ("watching", [])
    world.until("settling", errors=10)


def test_a_server_that_dies_when_a_watch_has_ended_leaves_no_alert_behind() -> None:
    world = World()
    world.promote()
    for _ in range(20):
        world.second(50)
    world.until("settling", errors=5)
    (back,) = world.rollbacks()
    records, save = world.stage.parts.records, world.stage.parts.records.save

    def dies(*said: Any, ended: bool = False, **more: Any) -> None:
        save(*said, ended=ended, **more)
        if ended and records.get(said[0]).kind == "watch":
            raise SystemExit

    records.save = dies  # type: ignore[method-assign]  # a ledger that dies
    world.finish(back)
    with pytest.raises(SystemExit):
        world.until("helped")
    records.save = save  # type: ignore[method-assign]  # a ledger that dies
    world.restart()
    world.second(50)
    assert world.watch()["phase"] == "helped"
    assert "watch" not in world.alerts()


def test_histories_that_cannot_be_read_do_not_blind_a_watch_for_the_rest() -> None:
    world = World()
    histories = world.stage.parts.histories

    def broken(*_: object) -> Any:
        raise StorageFailed("Cannot read answers.rings: Not a directory.")

    histories.count = histories.bins = broken  # type: ignore[method-assign, assignment]  # a broken disk
    world.promote()
    assert (world.watch()["release"], world.watch()["phase"]) == ("r2", "watching")
    for _ in range(20):
        world.second(50)
    watch = world.until("settling", errors=10)
    assert watch["cause"]["means"] == "profile"
    world.finish(world.rollbacks()[0])
    assert world.until("helped")["receipt"]["harmed"] is None


def test_a_clock_that_is_set_back_while_it_settles_does_not_make_it_settle_for_as_long() -> None:
    world = World()
    world.promote()
    for _ in range(20):
        world.second(50)
    world.until("settling", errors=5)
    (back,) = world.rollbacks()
    world.finish(back)
    world.stage.now -= 7200
    for _ in range(330):
        world.second(5)
        if world.watch()["ended"]:
            break
    assert world.watch()["phase"] in ("helped", "unknown")


def drill(world: World, errors: int = 25) -> int:
    """A drill is under way: the release before serves, and does harm; the drill's number."""
    drill = int(world.service.drills.begin(KEY, ADMIN, hold=5.0)["id"])
    world.service.drills.look()
    (back,) = world.stage.parts.store.rollouts(KEY, open_only=True)
    world.finish(back)
    for _ in range(5):
        world.second(50, errors)
    return drill


def home(world: World, drill: int) -> None:
    """The drill goes home, and ends: it fails, since nothing really runs here."""
    for _ in range(90):
        world.second(50)
        world.service.drills.look()
        for rollout in world.stage.parts.store.rollouts(KEY, open_only=True):
            world.finish(rollout)
        if world.service.drills.view(drill)["ended"]:
            return
    raise AssertionError(world.service.drills.view(drill))


def test_a_watch_waits_for_the_end_of_a_drill_and_goes_on_without_what_clients_saw_in_it() -> None:
    world = World()
    state = world.promote()
    until = world.watch()["until"]
    for _ in range(20):
        world.second(50)
    number = drill(world)
    assert world.service.environment(KEY).live == ReleaseNumber(1)
    assert (world.watch()["rollout"], world.watch()["phase"]) == (state.id, "watching")
    assert world.watch()["waiting"] == f"drill #{number} is under way: it waits for its end"
    world.restart()
    home(world, number)
    for _ in range(20):
        world.second(50)
    watch = world.watch()
    assert (watch["rollout"], watch["release"], watch["phase"]) == (state.id, "r2", "watching")
    assert (watch["cause"], watch["waiting"], watch["until"]) == (None, "", until)
    world.until("settling", errors=10)
    assert world.watch()["rollout"] == state.id


def test_what_clients_saw_in_a_drill_that_moved_nothing_is_not_counted_either() -> None:
    world = World()
    world.promote()
    for _ in range(20):
        world.second(50)
    world.service.watches.drilled = lambda _key: 9
    for _ in range(20):
        world.second(50, 10)
    world.service.watches.drilled = lambda _key: None
    for _ in range(20):
        world.second(50)
    assert (world.watch()["phase"], world.watch()["cause"], world.rollbacks()) == ("watching", None, [])


def test_a_drill_that_ends_with_another_release_live_ends_the_watch() -> None:
    world = World()
    world.promote()
    number = drill(world)
    world.service.drills.abort(number, ADMIN)
    world.service.rollback(KEY, ReleaseNumber(2), OPERATOR)
    world.service.drills.look()
    assert world.watch()["phase"] == "watching"
    (theirs,) = world.stage.parts.store.rollouts(KEY, open_only=True)
    world.stage.parts.store.close(theirs.id, {}, world.stage.now)
    for _ in range(5):
        world.second(50)
        world.service.drills.look()
    assert world.watch()["sentence"] == "r2: r1 is live now"
    assert world.watch()["phase"] == "superseded"


def test_a_release_that_a_drill_began_with_at_once_is_watched_when_it_is_over() -> None:
    world = World()
    stage = world.stage
    before = world.watch()["id"]
    world.look = world.service.objectives.look  # type: ignore[method-assign]  # the watches are slow today
    state = world.promote()
    number = drill(world)
    home(world, number)
    del world.look  # and here they are again
    stage.now += 31
    world.second(50)
    watch = world.watch()
    assert watch["id"] != before
    assert (watch["rollout"], watch["release"], watch["until"]) == (state.id, "r2", state.entered + 600)
    for _ in range(20):
        world.second(50)
    assert (world.watch()["phase"], world.watch()["cause"]) == ("watching", None)


def test_a_drill_waits_while_a_watch_is_not_done_with_what_it_has_found() -> None:
    world = World()
    world.promote()
    for _ in range(20):
        world.second(50)
    watch = world.until("settling", errors=5)
    (back,) = world.rollbacks()
    store = world.stage.parts.store
    store.close(back.id, {}, world.stage.now)
    world.service.alerts.resolve(KEY, "watch", "somebody is faster than the drill")
    with pytest.raises(Busy, match=f"watch #{watch['id']} is not done with what it has found: r2: "):
        world.service.drills.begin(KEY, ADMIN)


def test_an_edge_that_cannot_be_read_is_no_harm() -> None:
    world = World()
    world.promote()
    world.stage.signals.fails_with = Unavailable("The edge does not answer.")
    for _ in range(30):
        world.second()
    assert world.watch()["phase"] in ("watching", "settling")
