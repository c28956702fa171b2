"""The use cases of drills, on twins, with rollouts that end as a test says."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from crossfade.domain.alert import Severity
from crossfade.domain.drill import EDGE_FAULTS, DrillPlan, Fault
from crossfade.domain.environment import Entry, Occupant
from crossfade.domain.errors import Busy, Forbidden, Frozen, Invalid, NotFound, NotRestorable, Refused, Unavailable
from crossfade.domain.pipeline.freeze import Freeze
from crossfade.domain.release import Canary, Limits, Step
from crossfade.domain.rollout import Command, Kind, Phase, Rollout
from crossfade.domain.traffic import Slot
from crossfade.domain.values import EVERYTHING, NOTHING, ReleaseNumber, Weight
from crossfade.ports import Route
from tests.service.stage import ADMIN, KEY, OPERATOR, STAGING, VIEWER, Stage

R1, R2, R3 = (ReleaseNumber(n) for n in (1, 2, 3))
WEEKLY = DrillPlan("weekly", "0 4 * * 2", "Europe/Berlin", 1, 10.0)


class Rehearsal(Stage):
    """r3 is live in production, with two releases behind it; rollouts are ended by hand."""

    def __init__(self, **settings: Any) -> None:
        super().__init__()
        self.parts.router.ensure(Route(KEY, "127.0.0.1", 8080), 0)
        for _ in range(3):
            self.live(**settings)

    def finish(self, state: Rollout) -> None:
        """The rollout promotes its candidate, whose replicas run."""
        self.end(state, Phase.PROMOTED)

    def end(self, state: Rollout, phase: Phase, reason: str = "") -> None:
        """A rollout ends, with its journal."""
        store, plan = self.parts.store, state.plan
        occupant = Occupant(plan.candidate, state.id, 2)
        promoted = phase is Phase.PROMOTED
        entries = [Entry(self.now, "sets the weights", "promoting", 10_000, "set-split")]
        if promoted:
            release = store.release(KEY.service, plan.candidate)
            store.occupy(plan.key, plan.slot, occupant)
            specs = self.parts.specs(plan.key, plan.slot.value, release, occupant.names(plan.key))
            self.parts.runtime.start(plan.key, specs, store.fence(state.id))
            store.commit(state.id, plan.slot, plan.candidate, self.now + 600, self.now)
        else:
            entries = [
                Entry(self.now, "sets the weights", "shifting", 1000, "set-split"),
                Entry(self.now, "rolls back", "rolling-back"),
                Entry(self.now, "sets the weights for good", "rolling-back", 0, "set-split"),
            ]
        store.close(state.id, {}, self.now)
        weight = EVERYTHING if promoted else NOTHING
        store.save(replace(store.rollout(state.id), phase=phase, reason=reason, weight=weight), entries)

    def look(self, seconds: float = 1.0) -> None:
        self.now += seconds
        self.service.drills.look()

    def newest(self) -> Rollout:
        return self.parts.store.rollout(self.driver.driven[-1])

    def through(self, id: int, most: int = 60) -> dict[str, Any]:
        """Everything goes well until the drill has ended."""
        for _ in range(most):
            self.look()
            if (seen := self.service.drills.view(id))["ended"]:
                return seen
            for rollout in self.parts.store.rollouts(KEY, open_only=True):
                exposed = rollout.plan.kind is Kind.DEPLOY
                self.end(rollout, Phase.ROLLED_BACK if exposed else Phase.PROMOTED, "9 of 10 failed" if exposed else "")
        raise AssertionError(self.service.drills.view(id))

    def holding(self, **asked: Any) -> int:
        """A drill whose older release serves."""
        id = int(self.service.drills.begin(KEY, ADMIN, **asked)["id"])
        self.look()
        self.end(self.newest(), Phase.PROMOTED)
        self.look()
        assert self.service.drills.view(id)["phase"] == "holding"
        return id

    def alerts(self) -> dict[str, Severity]:
        return {one.name: one.severity for one in self.service.alerts.list(KEY, open_only=True)}


@pytest.fixture
def stage() -> Rehearsal:
    return Rehearsal()


def test_a_drill_goes_back_and_home_by_ordinary_rollbacks_of_its_own(stage: Rehearsal) -> None:
    heard: list[tuple[str, str]] = []
    stage.service.drills.told = lambda drill, what: heard.append((drill["phase"], what))
    id = stage.service.drills.begin(KEY, OPERATOR, "weekly", hold=5.0)["id"]
    ended = stage.through(id)
    assert (ended["phase"], ended["home"], ended["target"], ended["by"]) == ("passed", "r3", "r2", "olga")
    assert stage.service.environment(KEY).live == R3
    back, forth = (stage.parts.store.rollout(one) for one in ended["rollouts"])
    assert (back.plan.candidate, forth.plan.candidate) == (R2, R3)
    assert {back.plan.kind, forth.plan.kind} == {Kind.ROLLBACK}
    assert set(stage.parts.store.begun_by(ended["rollouts"]).values()) == {f"drill #{id}"}
    assert heard == [("starting", "began"), ("passed", "ended")]
    assert [one["what"] for one in stage.noted() if one["what"].startswith("drill")] == ["drill.begin", "drill.end"]
    receipt = ended["receipt"]
    assert (receipt["detection"], receipt["decision"]) == (None, None)
    assert receipt["switch"] == receipt["recovery"] == 0.0  # the twin's clock stands still meanwhile
    assert receipt["rollouts"] == ended["rollouts"]
    assert [one["id"] for one in stage.service.drills.list(KEY)] == [id]


def test_it_may_go_further_back(stage: Rehearsal) -> None:
    ended = stage.through(stage.service.drills.begin(KEY, ADMIN, back=2, hold=0.0)["id"])
    assert (ended["phase"], ended["target"]) == ("passed", "r1")


@pytest.mark.parametrize(
    ("asked", "said"),
    [({"back": 0}, "back"), ({"back": 21}, "back"), ({"back": True}, "back"), ({"hold": -1.0}, "hold"),
     ({"hold": float("nan")}, "hold"), ({"hold": 3601.0}, "hold")],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused(stage: Rehearsal, asked: dict[str, Any], said: str) -> None:
    with pytest.raises(Invalid, match=said):
        stage.service.drills.begin(KEY, ADMIN, **asked)


def test_only_who_may_roll_back_may_rehearse_it(stage: Rehearsal) -> None:
    with pytest.raises(Forbidden):
        stage.service.drills.begin(KEY, VIEWER)
    id = stage.service.drills.begin(KEY, OPERATOR)["id"]
    with pytest.raises(Forbidden):
        stage.service.drills.abort(id, VIEWER)


def test_nothing_is_rehearsed_where_it_would_be_no_rehearsal(stage: Rehearsal) -> None:
    drills = stage.service.drills
    with pytest.raises(NotFound):
        drills.begin(STAGING, ADMIN)
    with pytest.raises(NotRestorable, match=r"no release 3 back"):
        drills.begin(KEY, ADMIN, back=3)
    with pytest.raises(Refused, match="nobody supervises it"):
        drills.begin(KEY, ADMIN, fault=Fault.KILL_CONTROL_PLANE)
    stage.service.alerts.open(KEY, "burn:answers", Severity.PAGE, "burns 20 times too fast")
    with pytest.raises(Refused, match="burns 20 times too fast"):
        drills.begin(KEY, ADMIN)
    stage.service.alerts.resolve(KEY, "burn:answers", "over")
    other = stage.deploy(ADMIN)
    with pytest.raises(Busy, match=f"rollout #{other.id}"):
        drills.begin(KEY, ADMIN)
    assert isinstance(other, Rollout)
    stage.end(other, Phase.ROLLED_BACK)
    id = drills.begin(KEY, ADMIN)["id"]
    with pytest.raises(Busy, match=f"drill #{id}"):
        drills.begin(KEY, ADMIN)


def test_a_frozen_environment_is_left_alone() -> None:
    days = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
    stage = Rehearsal()
    stage.service.refuse_frozen = lambda *_: None  # type: ignore[method-assign] # until it is live
    stage.live(freezes=(Freeze("holidays", days),))
    del stage.service.refuse_frozen
    with pytest.raises(Frozen, match="holidays"):
        stage.service.drills.begin(KEY, ADMIN)


def test_a_deployment_waits_for_the_end_of_a_drill_and_a_rollback_does_not(stage: Rehearsal) -> None:
    id = stage.holding(hold=60.0)
    with pytest.raises(Busy, match=f"drill #{id}"):
        stage.deploy(ADMIN)
    state = stage.service.rollback(KEY, R1, ADMIN)
    stage.look()
    ended = stage.service.drills.view(id)
    stage.look()
    assert f"rollout #{state.id}, which is not the drill's" in ended["reason"]
    assert stage.service.drills.view(id)["phase"] == "failed"
    assert stage.newest().id == state.id
    assert stage.alerts() == {"drill:by-hand": Severity.PAGE}


def test_errors_of_the_older_release_send_it_home(stage: Rehearsal) -> None:
    for pool in Slot:
        stage.signals.serve(KEY, pool, 1000)
    id = stage.holding(hold=600.0)
    slot = stage.service.environment(KEY).slot
    assert slot is not None
    for _ in range(3):
        stage.signals.serve(KEY, slot, 100, errors=30)
        stage.look(1.5)
    seen = stage.service.drills.view(id)
    assert seen["phase"] == "going-forth", seen
    assert "r2 harms:" in seen["reason"]
    ended = stage.through(id)
    assert (ended["phase"], stage.service.environment(KEY).live) == ("failed", R3)
    assert stage.alerts() == {"drill:by-hand": Severity.TICKET}
    assert ended["receipt"]["harmed"] >= 60


def test_an_older_release_that_is_unhealthy_is_left(stage: Rehearsal) -> None:
    id = stage.holding(hold=600.0)
    stage.parts.prober.faults = lambda *_: ("status 503",)  # type: ignore[attr-defined] # the twin's
    config = stage.parts.store.release(KEY.service, R2).config
    assert config.checks == ()  # it has none, so only its replicas' end is seen
    names = stage.service.environment(KEY).slots[stage.service.environment(KEY).standby.other].names(KEY)
    stage.parts.runtime.end(names[0], comes_back=False)  # type: ignore[attr-defined] # the twin's
    for _ in range(4):
        stage.look(1.5)
    assert "became unhealthy" in stage.service.drills.view(id)["reason"]


def test_a_drill_that_passes_ends_the_alert_of_the_one_that_failed(stage: Rehearsal) -> None:
    id = stage.service.drills.begin(KEY, ADMIN, "weekly")["id"]
    stage.look()
    stage.end(stage.newest(), Phase.ROLLED_BACK, "it did not get healthy")
    stage.look()
    assert stage.through(id)["phase"] == "failed"
    assert stage.alerts() == {"drill:weekly": Severity.TICKET}
    stage.through(stage.service.drills.begin(KEY, ADMIN, "weekly", hold=0.0)["id"])
    assert stage.alerts() == {}


def test_what_a_drill_has_left_behind_pages_nobody_once_a_person_has_brought_another_release(stage: Rehearsal) -> None:
    stage.holding()
    theirs = stage.service.rollback(KEY, R3, OPERATOR)
    stage.look()
    assert stage.alerts()["drill:by-hand"] is Severity.PAGE
    stage.service.drills.begin_due()
    assert stage.alerts()["drill:by-hand"] is Severity.PAGE
    stage.finish(theirs)
    stage.service.drills.begin_due()
    assert stage.alerts()["drill:by-hand"] is Severity.TICKET
    stage.through(stage.service.drills.begin(KEY, ADMIN, hold=1.0)["id"])
    assert stage.alerts() == {}


def test_a_drill_waits_while_a_watch_acts_and_a_planned_one_says_so() -> None:
    stage = scheduled(replace(WEEKLY, schedule="* * * * *"))
    stage.service.drills.watched = lambda _key: "watch #5 is not done with what it has found: r3: errors"
    with pytest.raises(Busy, match="is watched: watch #5 is not done"):
        stage.service.drills.begin(KEY, ADMIN)
    stage.now += 30
    stage.service.drills.begin_due()
    assert stage.service.drills.list(KEY) == []
    assert "watch #5 is not done" in stage.service.drills.schedule(KEY)[0]["sentence"]
    stage.service.drills.watched = lambda _key: ""
    stage.service.drills.begin_due()
    assert len(stage.service.drills.list(KEY)) == 1


def test_an_overdue_drill_that_is_planned_no_more_is_no_alert_any_more() -> None:
    stage = scheduled()
    stage.now += 15 * 86_400.0
    stage.service.drills.begin_due()
    assert "drill-overdue:weekly" in stage.alerts()
    stage.live(drills=())
    stage.service.drills.begin_due()
    assert stage.alerts() == {}


@pytest.mark.parametrize("back", [5.0, 3600.0])
def test_a_clock_that_is_set_back_does_not_leave_the_older_release_live(stage: Rehearsal, back: float) -> None:
    id = stage.holding(hold=10.0)
    stage.now -= back
    stage.through(id, 30)
    assert stage.service.drills.view(id)["phase"] == "passed"
    id = stage.holding(hold=1.0)
    stage.look()
    stage.finish(stage.newest())
    stage.look(0.5)
    assert stage.service.drills.view(id)["phase"] == "checking"
    stage.now -= back
    assert stage.through(id, 20)["phase"] == "passed"


def test_a_server_that_dies_when_a_drill_has_failed_has_said_so(stage: Rehearsal) -> None:
    stage.holding()
    stage.service.rollback(KEY, R1, OPERATOR)

    def dies(*_: Any, **__: Any) -> None:
        raise SystemExit

    stage.service.drills._ended = dies  # type: ignore[method-assign]  # a server that is killed there does no more
    with pytest.raises(SystemExit):
        stage.look()
    assert stage.alerts() == {"drill:by-hand": Severity.PAGE}


def test_an_abort_goes_home_and_is_no_failure(stage: Rehearsal) -> None:
    id = stage.holding(hold=600.0)
    assert stage.service.drills.abort(id, OPERATOR)["ended"] is False
    with pytest.raises(Refused, match="for olga already"):
        stage.service.drills.abort(id, ADMIN)
    ended = stage.through(id)
    assert (ended["phase"], ended["reason"]) == ("aborted", "aborted by olga")
    assert stage.alerts() == {}
    with pytest.raises(Refused, match="has ended"):
        stage.service.drills.abort(id, ADMIN)
    alert = stage.service.alerts.open(KEY, "x", Severity.INFO, "x")
    with pytest.raises(NotFound, match=f"no drill #{alert.id}"):
        stage.service.drills.view(alert.id)


# --- game days


def test_a_killed_replica_is_one_of_the_live_release_and_is_noticed(stage: Rehearsal) -> None:
    killed: list[int] = []
    by_pid = {one.pid: one.name for one in stage.parts.runtime.replicas(KEY)}

    def kill(pid: int) -> None:
        killed.append(pid)
        stage.parts.runtime.end(by_pid[pid])  # type: ignore[attr-defined] # the twin's

    stage.service.drills.doing.kill = kill
    live = stage.service.environment(KEY)
    assert live.slot is not None
    id = stage.service.drills.begin(KEY, ADMIN, fault=Fault.KILL_REPLICA, hold=1.0)["id"]
    ended = stage.through(id)
    assert ended["phase"] == "passed"
    assert len(killed) == 1
    assert by_pid[killed[0]] in live.slots[live.slot].names(KEY)
    assert "was killed by SIGKILL" in ended["noticed"]
    assert ended["receipt"]["detection"] is not None


@pytest.mark.parametrize("fault", sorted(EDGE_FAULTS))
def test_a_fault_at_the_edge_is_on_the_canarys_slot_only_leased_and_lifted(stage: Rehearsal, fault: Fault) -> None:
    environment = stage.service.environment(KEY)
    id = stage.service.drills.begin(KEY, ADMIN, fault=fault)["id"]
    stage.look()
    canary = stage.newest()
    assert (canary.plan.candidate, canary.plan.baseline, canary.plan.slot) == (R3, R3, environment.standby)
    assert canary.plan.strategy == Canary((Step(Weight(1000), 60.0),), Limits())
    kept = stage.parts.router._environments[KEY].faults  # type: ignore[attr-defined] # the twin's
    assert {slot: one for slot, (one, _) in kept.items()} == {environment.standby: EDGE_FAULTS[fault]}
    first = kept[environment.standby][1]
    assert first <= stage.now + 15
    stage.look(8.0)
    assert kept[environment.standby][1] > first
    ended = stage.through(id)
    assert kept == {}
    assert (ended["phase"], ended["noticed"], ended["target"]) == ("passed", "9 of 10 failed", None)
    assert stage.service.environment(KEY).live == R3


def test_a_canary_goes_by_the_steps_that_the_release_has() -> None:
    steps = (Step(Weight(500), 30.0), Step(Weight(5000), 30.0))
    stage = Rehearsal(strategy=Canary(steps, Limits()))
    stage.service.drills.begin(KEY, ADMIN, fault=Fault.ERRORS)
    stage.look()
    assert stage.newest().plan.strategy == Canary(steps, Limits())


def test_a_server_that_is_killed_is_killed_once_and_the_next_one_goes_on(stage: Rehearsal) -> None:
    class Killed(BaseException):
        pass

    kills = itertools.count(1)

    def die() -> None:
        next(kills)
        raise Killed

    stage.service.drills.doing.kill_server = die
    id = stage.service.drills.begin(KEY, ADMIN, fault=Fault.KILL_CONTROL_PLANE, hold=1.0)["id"]
    with pytest.raises(Killed):
        stage.look()
    stage.service = stage.another_server()
    stage.service.drills.doing.kill_server = die
    stage.now += 4
    ended = stage.through(id)
    assert (ended["phase"], ended["noticed"], next(kills)) == ("passed", "the server is there again", 2)
    assert ended["receipt"]["detection"] >= 4


@pytest.mark.parametrize("fault", [None, Fault.KILL_REPLICA, Fault.ERRORS])
def test_a_server_that_dies_after_any_write_leaves_one_drill_with_one_end(fault: Fault | None) -> None:
    class Died(BaseException):
        pass

    for fatal in itertools.count(1):
        stage = Rehearsal()
        stage.service.drills.doing.kill = lambda _pid: None
        by_pid = {one.pid: one.name for one in stage.parts.runtime.replicas(KEY)}

        def kill(pid: int, stage: Rehearsal = stage, by_pid: dict[int, str] = by_pid) -> None:
            stage.parts.runtime.end(by_pid[pid])  # type: ignore[attr-defined] # the twin's

        stage.service.drills.doing.kill = kill
        id = stage.service.drills.begin(KEY, ADMIN, fault=fault, hold=1.0)["id"]
        real, writes = stage.parts.records.save, itertools.count(1)

        def save(
            *args: Any, real: Callable[..., None] = real, writes: Any = writes, fatal: int = fatal, **named: Any
        ) -> None:
            real(*args, **named)
            if next(writes) == fatal:
                raise Died

        stage.parts.records.save = save  # type: ignore[method-assign] # it dies behind the write
        died = False
        try:
            stage.through(id)
        except Died:
            died = True
            stage.service = stage.another_server()
            stage.service.drills.doing.kill = kill
        ended = stage.through(id) if died else stage.service.drills.view(id)
        assert ended["phase"] == "passed", (fatal, ended)
        assert stage.service.environment(KEY).live == R3
        begun = [by for by in stage.parts.store.begun_by(range(1, 30)).values() if by == f"drill #{id}"]
        assert len(begun) == (1 if fault in EDGE_FAULTS else 2)
        assert stage.parts.router.read(KEY).faults == {}
        if not died:
            break


def test_an_edge_that_does_not_answer_is_asked_again_and_then_the_drill_has_failed(stage: Rehearsal) -> None:
    id = stage.service.drills.begin(KEY, ADMIN, fault=Fault.ERRORS)["id"]
    stage.parts.router.fails_with = Unavailable("the edge does not answer")  # type: ignore[attr-defined] # the twin's
    stage.look(10.0)
    assert stage.service.drills.view(id)["phase"] == "starting"
    stage.look(40.0)
    stage.parts.router.fails_with = None  # type: ignore[attr-defined] # the twin's
    ended = stage.through(id)
    assert (ended["phase"], ended["reason"]) == ("failed", "errors cannot be injected: the edge does not answer")


# --- by schedule


def scheduled(plan: DrillPlan = WEEKLY) -> Rehearsal:
    return Rehearsal(drills=(plan,))


def run_at(stage: Rehearsal, at: float) -> list[dict[str, Any]]:
    stage.now = at
    stage.service.drills.begin_due()
    return stage.service.drills.list(KEY)


def test_a_planned_drill_begins_when_its_time_has_come_and_once() -> None:
    stage = scheduled()
    (row,) = stage.service.drills.schedule(KEY)
    due = row["next"]
    assert (row["name"], row["overdue"], row["last"]) == ("weekly", False, None)
    assert run_at(stage, due - 1) == []
    (drill,) = run_at(stage, due + 1)
    assert (drill["name"], drill["by"], drill["due"], drill["hold"]) == ("weekly", "crossfade", due, 10.0)
    stage.through(drill["id"])
    assert len(run_at(stage, stage.now + 5)) == 1
    (row,) = stage.service.drills.schedule(KEY)
    assert (row["last"]["id"], row["last"]["phase"]) == (drill["id"], "passed")
    assert row["next"] > due + 6 * 86_400


def test_one_that_a_rollout_is_in_the_way_of_waits_for_it_and_is_overdue_after_an_hour() -> None:
    stage = scheduled()
    due = stage.service.drills.schedule(KEY)[0]["next"]
    stage.now = due - 10
    other = stage.deploy(ADMIN)
    assert isinstance(other, Rollout)
    assert run_at(stage, due + 60) == []
    (row,) = stage.service.drills.schedule(KEY)
    assert f"rollout #{other.id}" in row["sentence"]
    assert not row["overdue"]
    run_at(stage, due + 3700)
    (row,) = stage.service.drills.schedule(KEY)
    assert row["overdue"]
    assert f"rollout #{other.id}" in row["sentence"]
    assert stage.alerts() == {"drill-overdue:weekly": Severity.TICKET}
    stage.end(other, Phase.ROLLED_BACK)
    stage.through(stage.service.drills.begin(KEY, ADMIN, "weekly", hold=0.0)["id"])
    run_at(stage, stage.now + 1)
    assert stage.alerts() == {}
    assert not stage.service.drills.schedule(KEY)[0]["overdue"]


def test_a_new_release_with_the_same_plan_does_not_make_an_overdue_drill_look_new() -> None:
    stage = scheduled()
    due = stage.service.drills.schedule(KEY)[0]["next"]
    stage.now = due + 7200
    stage.live(drills=(WEEKLY,))
    assert stage.service.drills.schedule(KEY)[0]["overdue"]
    stage.live(drills=(replace(WEEKLY, hold=20.0),))
    assert not stage.service.drills.schedule(KEY)[0]["overdue"]


def test_one_without_a_schedule_is_listed_and_never_begins() -> None:
    stage = scheduled(DrillPlan("by-us"))
    assert run_at(stage, stage.now + 90 * 86_400) == []
    (row,) = stage.service.drills.schedule(KEY)
    assert (row["next"], row["overdue"], row["sentence"]) == (None, False, "runs when somebody asks for it")


def test_the_rollouts_of_a_drill_can_be_aborted_by_a_person(stage: Rehearsal) -> None:
    id = stage.service.drills.begin(KEY, ADMIN)["id"]
    stage.look()
    stage.service.order(stage.newest().id, Command.ABORT, OPERATOR)
    stage.end(stage.newest(), Phase.ROLLED_BACK, "aborted by olga")
    assert stage.through(id)["reason"] == "the way back to r2 failed: aborted by olga"
