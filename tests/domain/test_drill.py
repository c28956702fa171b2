"""Drills as a state machine: laws over everything that may happen to one, then its ways."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossfade.domain import rehearsal as machine
from crossfade.domain.drill import (
    EDGE_FAULTS,
    Aborted,
    Action,
    Conclude,
    Done,
    Drill,
    Event,
    Expose,
    Failed,
    Fault,
    GoTo,
    Inject,
    Lift,
    Mark,
    Observed,
    Phase,
    Recall,
    Rehearsal,
    Seen,
)
from crossfade.domain.errors import Refused
from crossfade.domain.rehearsal import MOST_TRIES, MOST_UNHEALTHY, NOTICED_WITHIN, decide
from crossfade.domain.values import EnvKey, ReleaseNumber

KEY, R11, R12, R13 = EnvKey("shop", "production"), ReleaseNumber(11), ReleaseNumber(12), ReleaseNumber(13)


def planned(fault: Fault | None = None, hold: float = 10.0) -> Rehearsal:
    target = None if fault in EDGE_FAULTS else R11
    return Rehearsal(KEY, "weekly", R12, target, 1, hold, fault, 60.0)


@dataclass
class Run:
    """A drill in a world of its own: releases move as its rollouts say, actions are remembered."""

    plan: Rehearsal
    now: float = 1000.0
    live: ReleaseNumber = R12
    done: list[Action] = field(default_factory=list)
    rollouts: dict[int, tuple[ReleaseNumber | None, Seen]] = field(default_factory=dict)
    lifted: bool = True

    def __post_init__(self) -> None:
        self.state, _ = machine.begin(7, self.plan, "ada", self.now)

    def tell(self, event: Event) -> None:
        self.state, _ = decide(self.state, event, self.now)

    def act(self, fails: Callable[[Action], str] = lambda _: "") -> None:
        """Do what is pending, as far as it can be done."""
        while self.state.pending:
            action = self.state.pending[0]
            if why := fails(action):
                self.tell(Failed(action.id, why))
                return
            self.done.append(action)
            rollout = None
            match action:
                case GoTo(release=release):
                    rollout = self._begin(release)
                case Expose():
                    rollout = self._begin(None)
                case Recall(rollout=id):
                    self._end(id, "rolled-back", "aborted")
                case Inject(fault=fault):
                    self.lifted = self.lifted and fault not in EDGE_FAULTS
                case Lift():
                    self.lifted = True
            self.tell(Done(action.id, rollout))

    def _begin(self, release: ReleaseNumber | None) -> int:
        id = len(self.rollouts) + 1
        self.rollouts[id] = (release, Seen(id, self.now, moved=self.now if release is None else None))
        return id

    def _end(self, id: int, outcome: str, reason: str = "") -> None:
        release, seen = self.rollouts[id]
        if seen.outcome:
            return
        if outcome == "promoted":
            if release is not None:
                self.live = release
            seen = replace(seen, outcome="promoted", moved=self.now)
        else:
            seen = replace(seen, outcome="rolled-back", failed=self.now, home=self.now, reason=reason)
        self.rollouts[id] = (release, seen)

    def end(self, outcome: str = "promoted", reason: str = "") -> None:
        """The rollout that is looked at ends."""
        assert self.state.current is not None
        self._end(self.state.current, outcome, reason)

    def look(self, seconds: float = 1.0, **seen: object) -> None:
        self.now += seconds
        rollout = self.rollouts[self.state.current][1] if self.state.current in self.rollouts else None
        told = {"live": self.live, "rollout": rollout, **seen}
        self.tell(Observed(self.now, **told))  # type: ignore[arg-type] # by name

    def to_the_end(self, most: int = 50) -> Run:
        """Everything goes well from here."""
        for _ in range(most):
            if self.state.phase.ended:
                return self
            self.act()
            if self.state.current is not None and not self.rollouts[self.state.current][1].outcome:
                self.end("rolled-back" if self.plan.target is None else "promoted")
            noticed = "seen" if self.state.injected is not None else ""
            self.look(5.0, notice=noticed, whole=self.state.noticed is not None)
        raise AssertionError(f"it never ended: {self.state}")

    def goes_to(self) -> list[ReleaseNumber]:
        return [action.release for action in self.done if isinstance(action, GoTo)]


def holding(fault: Fault | None = None, hold: float = 10.0) -> Run:
    """One whose older release serves."""
    run = Run(planned(fault, hold))
    run.act()
    run.look()
    run.end()
    run.look()
    run.act()
    assert run.state.phase is Phase.HOLDING
    return run


# --- laws

chances = st.randoms(use_true_random=False)
faults = st.sampled_from([None, *Fault])


def storm(run: Run, chance: random.Random, abort: bool = True) -> None:
    """Whatever may happen, in any order, for a while; afterwards everything goes well."""
    for n in range(chance.randrange(1, 25)):
        if run.state.phase.ended:
            return
        run.act(lambda one: "" if isinstance(one, Lift) else chance.choice(["", "", "", "it does not answer"]))
        if run.state.current is not None and chance.random() < 0.6:
            run.end(chance.choice(["promoted", "promoted", "rolled-back"]), "its replicas died")
        seen: dict[str, object] = {
            "faults": ("it is ill",) if chance.random() < 0.2 else (),
            "harm": "5 % errors" if chance.random() < 0.1 else "",
            "notice": "seen" if chance.random() < 0.5 else "",
            "whole": chance.random() < 0.5,
        }
        if chance.random() < 0.05:
            seen["stranger"] = 99
        run.look(chance.choice([0.3, 2.0, 20.0, 100.0]), **seen)
        if abort and chance.random() < 0.1:
            try:
                run.tell(Aborted(f"a{n}", "bob"))
            except Refused:
                assert run.state.aborted or run.state.phase in machine.HOMEWARD or run.state.phase.ended


@given(faults, chances)
def test_every_drill_ends_whatever_happens_to_it(fault: Fault | None, chance: random.Random) -> None:
    run = Run(planned(fault))
    storm(run, chance)
    run.to_the_end(200)
    assert not run.state.pending


@given(faults, chances)
def test_it_has_passed_only_with_the_release_live_that_was_live_before(
    fault: Fault | None, chance: random.Random
) -> None:
    run = Run(planned(fault))
    storm(run, chance)
    run.to_the_end(200)
    if run.state.phase is not Phase.FAILED:
        assert (run.live, run.state.landed) == (R12, R12)
        assert not run.state.failure
    if run.state.phase is Phase.PASSED and fault is not None:
        assert run.state.noticed is not None


@given(st.sampled_from(sorted(EDGE_FAULTS)), chances)
def test_what_was_injected_at_the_edge_is_lifted_before_the_end(fault: Fault, chance: random.Random) -> None:
    run = Run(planned(fault))
    storm(run, chance)
    run.to_the_end(200)
    assert run.lifted


@given(faults, chances)
def test_an_event_that_was_seen_changes_nothing(fault: Fault | None, chance: random.Random) -> None:
    run = Run(planned(fault))
    events: list[Event] = []
    real = run.tell

    def tell(event: Event) -> None:
        real(event)
        events.append(event)
        state = run.state
        for old in events:
            if not isinstance(old, Failed):
                assert decide(state, old, run.now + 1)[0] == state

    run.tell = tell  # type: ignore[method-assign] # it is listened to
    storm(run, chance, abort=False)


@given(faults, chances)
def test_an_aborted_drill_moves_nothing_but_home(fault: Fault | None, chance: random.Random) -> None:
    run = Run(planned(fault))
    storm(run, chance, abort=False)
    try:
        machine.allow(run.state)
    except Refused:
        return
    run.tell(Aborted("a", "bob"))
    pending = len([action for action in run.state.pending if isinstance(action, GoTo) and action.release == R11])
    before = run.goes_to().count(R11)
    run.to_the_end(200)
    assert run.goes_to().count(R11) <= before + pending
    assert run.live == R12


@given(faults, chances)
def test_nothing_is_moved_once_somebody_else_moves(fault: Fault | None, chance: random.Random) -> None:
    run = Run(planned(fault))
    storm(run, chance, abort=False)
    run.act()
    if run.state.phase in (Phase.STARTING, Phase.ENDING) or run.state.phase.ended:
        return
    before = list(run.goes_to())
    run.look(stranger=99)
    assert run.state.phase is Phase.ENDING
    run.to_the_end()
    assert run.goes_to() == before
    assert run.state.phase is Phase.FAILED


# --- its ways


def test_it_goes_back_holds_and_comes_home() -> None:
    run = Run(planned()).to_the_end()
    assert run.state.phase is Phase.PASSED
    assert run.goes_to() == [R11, R12]
    assert [action.label for action in run.done if isinstance(action, Mark)] == [
        "begin",
        "back",
        "forth",
        "home",
        "end",
    ]
    assert isinstance(run.done[-1], Conclude)


def test_harm_ends_the_hold_at_once_and_the_drill_has_failed() -> None:
    run = holding()
    run.look(harm="5 % errors")
    assert run.state.phase is Phase.GOING_FORTH
    assert run.to_the_end().state.phase is Phase.FAILED
    assert run.state.failure == "r11 harms: 5 % errors"
    assert run.live == R12


def test_an_unhealthy_older_release_is_looked_at_a_few_times() -> None:
    run = holding()
    for _ in range(MOST_UNHEALTHY - 1):
        run.look(faults=("status 503",))
    run.look()
    for _ in range(MOST_UNHEALTHY):
        assert run.state.phase is Phase.HOLDING
        run.look(faults=("status 503",))
    assert run.state.phase is Phase.GOING_FORTH
    assert "r11 became unhealthy: status 503" in run.state.failure


def test_a_way_back_that_fails_leaves_everything_as_it_is() -> None:
    run = Run(planned())
    run.act()
    run.end("rolled-back", "r11 did not get healthy within 60 s")
    run.look()
    assert run.to_the_end().state.phase is Phase.FAILED
    assert run.goes_to() == [R11]
    assert "r11 did not get healthy" in run.state.failure


def test_a_refused_way_back_moves_nothing() -> None:
    run = Run(planned())
    run.act(lambda action: "r11 cannot be restored" if isinstance(action, GoTo) else "")
    run.to_the_end()
    assert (run.state.phase, run.goes_to()) == (Phase.FAILED, [])
    assert "the way back could not be begun: r11 cannot be restored" in run.state.failure


def test_the_way_home_is_tried_again_and_then_said_to_be_impossible() -> None:
    run = holding()
    run.look(10.0)
    for _ in range(MOST_TRIES):
        assert run.state.phase is Phase.GOING_FORTH
        run.act()
        run.end("rolled-back", "its port is taken")
        run.look()
    run.to_the_end()
    assert (run.state.phase, run.live, run.state.landed) == (Phase.FAILED, R11, R11)
    assert "r11 is still live, since r12 could not be returned to: its port is taken" in run.state.failure


def test_a_killed_replica_that_nobody_notices_fails_the_drill_before_anything_is_moved() -> None:
    run = Run(planned(Fault.KILL_REPLICA))
    run.act()
    assert run.state.phase is Phase.FAULTY
    run.look(NOTICED_WITHIN)
    run.to_the_end()
    assert (run.state.phase, run.goes_to()) == (Phase.FAILED, [])


def test_a_killed_replica_is_noticed_then_one_goes_back_and_it_is_seen_whole() -> None:
    run = Run(planned(Fault.KILL_REPLICA))
    run.act()
    run.look(notice="shop-1 was killed by SIGKILL")
    assert run.state.phase is Phase.GOING_BACK
    run.act()
    run.look(whole=True)
    state = run.to_the_end().state
    assert state.phase is Phase.PASSED
    assert (state.injected, state.noticed, state.whole) == (1000.0, 1001.0, 1002.0)


def test_a_killed_server_is_killed_on_the_way_back() -> None:
    run = Run(planned(Fault.KILL_CONTROL_PLANE)).to_the_end()
    order = [type(action) for action in run.done]
    assert order.index(GoTo) < order.index(Inject)
    assert run.state.phase is Phase.PASSED


@pytest.mark.parametrize("fault", sorted(EDGE_FAULTS))
def test_a_canary_with_a_fault_is_taken_back_by_the_judge(fault: Fault) -> None:
    run = Run(planned(fault))
    run.act()
    assert [type(action) for action in run.done] == [Mark, Inject, Expose]
    run.look()
    assert run.state.phase is Phase.EXPOSED
    run.end("rolled-back", "6 of 10 candidate requests failed")
    run.look()
    state = run.to_the_end().state
    assert (state.phase, state.noticed, state.notice) == (Phase.PASSED, 1001.0, "6 of 10 candidate requests failed")
    assert run.goes_to() == []


def test_a_step_that_passes_with_the_fault_fails_the_drill_and_is_taken_back() -> None:
    run = Run(planned(Fault.ERRORS))
    run.act()
    run.look(rollout=Seen(1, 1000.0, moved=1000.5, going=True))
    assert [type(action) for action in run.state.pending] == [Lift, Recall]
    run.to_the_end()
    assert run.state.phase is Phase.FAILED
    assert "the judge let a step pass" in run.state.failure


def test_a_judge_that_takes_too_long_fails_the_drill() -> None:
    run = Run(planned(Fault.ERRORS))
    run.act()
    run.look(61.0)
    run.to_the_end()
    assert run.state.failure == "the judge did not take the canary back within 1 m 00 s".replace("1 m 00 s", "60 s")


def test_an_abort_during_the_hold_goes_home_at_once() -> None:
    run = holding(hold=600.0)
    run.tell(Aborted("a", "bob"))
    run.look(0.1)
    assert run.state.phase is Phase.GOING_FORTH
    with pytest.raises(Refused, match="for bob already"):
        run.tell(Aborted("b", "eve"))
    assert run.to_the_end().state.phase is Phase.ABORTED
    assert run.live == R12


def test_an_abort_on_the_way_back_aborts_the_rollout() -> None:
    run = Run(planned())
    run.act()
    run.tell(Aborted("a", "bob"))
    run.look()
    assert [type(action) for action in run.state.pending] == [Lift, Recall]
    run.to_the_end()
    assert (run.state.phase, run.goes_to(), run.live) == (Phase.ABORTED, [R11], R12)


def test_a_release_that_somebody_else_has_made_live_is_left_alone() -> None:
    run = holding()
    run.live = R13
    run.look()
    run.to_the_end()
    assert (run.state.phase, run.goes_to()) == (Phase.FAILED, [R11])
    assert "r13 is live, which is not the drill's doing" in run.state.failure


def test_one_that_has_ended_cannot_be_aborted() -> None:
    state: Drill = Run(planned()).to_the_end().state
    with pytest.raises(Refused, match="has ended"):
        machine.allow(state)
