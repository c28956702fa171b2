"""The laws of a rollout, over every order of events that Hypothesis can think of; then the stories."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crossfade.domain import rollout as machine
from crossfade.domain.actions import (
    Action,
    ClearSlot,
    Close,
    Commit,
    Discard,
    KillFlag,
    Migrate,
    Probe,
    SetSplit,
    Snapshot,
    StartReplicas,
)
from crossfade.domain.analysis.policy import Advance, Analysis, WhenUnsure
from crossfade.domain.analysis.verdict import Finding, Verdict
from crossfade.domain.errors import Refused
from crossfade.domain.flags.pinning import Counted, Suspect
from crossfade.domain.release import BlueGreen, Canary, Limits, Step, Strategy
from crossfade.domain.rollback import Facts, RollbackPlan
from crossfade.domain.rollback import plan as cheapest
from crossfade.domain.rollout import (
    Command,
    Done,
    Event,
    Failed,
    Kind,
    Observed,
    Ordered,
    Phase,
    Plan,
    Rollout,
    decide,
)
from crossfade.domain.traffic import Slot, Split
from crossfade.domain.values import EVERYTHING, EnvKey, ReleaseNumber, Weight

KEY = EnvKey("bookshop", "production")
CANARY = Canary((Step(Weight(500), 10.0), Step(Weight(5000), 10.0)))
PASS = Verdict(Finding.PASS, ("fine",))
FAIL = Verdict(Finding.FAIL, ("3 of 5 failed",))
NO_DATA = Verdict(Finding.NO_DATA, ("too few",))


def plan(strategy: Strategy = CANARY, *, baseline: int | None = 1, kind: Kind = Kind.DEPLOY, schema: str = "") -> Plan:
    previous = ReleaseNumber(baseline) if baseline else None
    slot = Slot.GREEN if baseline else Slot.BLUE
    return Plan(KEY, kind, ReleaseNumber(2), previous, slot, strategy, 30.0, schema=schema)


# --- laws

limits = st.builds(Limits)
canaries = st.builds(
    lambda weights, lim: Canary(tuple(Step(Weight(w), 5.0) for w in sorted(weights)), lim),
    st.sets(st.integers(1, 10_000), min_size=1, max_size=5),
    limits,
)
blue_greens = st.builds(BlueGreen, watch=st.floats(0, 20), limits=limits, manual=st.booleans())
plans = st.builds(
    lambda strategy, baseline, kind, schema: plan(
        strategy, baseline=baseline, kind=kind if baseline else Kind.DEPLOY, schema=schema
    ),
    st.one_of(canaries, blue_greens),
    st.sampled_from([None, 1]),
    st.sampled_from(Kind),
    st.sampled_from(["", "", "02_price"]),
)
verdicts = st.sampled_from([None, PASS, FAIL, NO_DATA, Verdict(Finding.INCONCLUSIVE, ("who knows",))])
moves = st.lists(
    st.one_of(
        st.just("done"),
        st.just("done"),
        st.just("failed"),
        st.sampled_from(Command),
        st.tuples(
            st.booleans(),
            st.integers(0, 4),
            st.booleans(),
            verdicts,
            st.sampled_from(["", "", "a", "b", "c", "d", "?"]),
        ),
    ),
    max_size=60,
)


def remedies(flag: str) -> RollbackPlan:
    """What it would take: killing the flag when one is named, else going back; ``?`` is one that may yet be to blame."""
    leans, pinned = flag == "?", flag not in ("", "?")
    counted = (Counted(9, 9), Counted(9), Counted(9), Counted(9))
    suspect = Suspect(flag if pinned else "z", "on", *counted, pinned, "so it was found", leans)
    return cheapest(Facts("3 of 5 failed", ReleaseNumber(2), (suspect,), 7, ReleaseNumber(1)))


def event_of(state: Rollout, move: object, now: float, serial: int) -> Event | None:
    if isinstance(move, Command):
        return Ordered(f"o{serial}", move, "ada")
    if move in ("done", "failed"):
        if not state.pending:
            return Observed(now, verdict=PASS)
        first = state.pending[0].id
        return Done(first) if move == "done" else Failed(first, "it broke")
    assert isinstance(move, tuple)
    healthy, restarts, lapsed, verdict, flag = move
    plan = remedies(flag) if verdict == FAIL else None
    return Observed(now, () if healthy else ("sick",), restarts, lapsed, verdict, (), plan)


def play(plan: Plan, moves: list[object]) -> list[tuple[Rollout, Event | None]]:
    """Every state that the moves lead through, with the event that led there."""
    state, _ = machine.begin(7, plan, 1000.0)
    trail: list[tuple[Rollout, Event | None]] = [(state, None)]
    for serial, move in enumerate(moves):
        now = 1000.0 + serial * 1.7 + 1
        event = event_of(state, move, now, serial)
        assert event is not None
        try:
            state, _ = decide(state, event, now)
        except Refused:
            continue
        trail.append((state, event))
    return trail


def candidate_weight(action: Action, plan: Plan) -> int | None:
    return action.split.of(plan.slot).bp if isinstance(action, SetSplit) else None


@given(plans, moves)
@settings(max_examples=400)
def test_a_failed_verdict_never_raises_the_candidates_weight(plan: Plan, moves: list[object]) -> None:
    trail = play(plan, moves)
    for (before, _), (after, event) in pairwise(trail):
        if isinstance(event, Observed) and event.verdict == FAIL and before.phase in (Phase.SHIFTING, Phase.WATCHING):
            if before.pending:
                continue
            assert after.weight <= before.weight
            if after.doubted is not None:
                # A variant may be to blame: a second look, for a moment and no longer.
                assert event.remedies is not None
                assert event.remedies.leaning
                assert event.at - after.doubted < machine.SECOND_LOOK
                continue
            if not any(isinstance(action, SetSplit) for action in after.pending):
                # The flag that is to blame is killed instead: the traffic stays as it is, judged anew from there.
                assert [type(action) for action in after.pending] == [Snapshot, KillFlag]
                continue
            assert after.phase is Phase.ROLLING_BACK
            assert after.weight.bp == 0
            first = after.pending[0]
            assert isinstance(first, SetSplit)
            assert first.split == plan.home


@given(plans, moves)
@settings(max_examples=400)
def test_a_flag_is_killed_only_as_the_plan_of_a_failed_verdict_says_at_most_once_and_few_in_all(
    plan: Plan, moves: list[object]
) -> None:
    kills: dict[str, KillFlag] = {}
    for (_, _), (state, event) in pairwise(play(plan, moves)):
        for action in state.pending:
            if isinstance(action, KillFlag) and action.id not in kills:
                assert isinstance(event, Observed)
                assert event.remedies is not None
                assert event.remedies.remedy is not None
                assert event.remedies.remedy.target == f"{action.flag}={action.variant}"
                kills[action.id] = action
        flags = [killing.flag for killing in state.killed]
        assert len(flags) == len(set(flags)) <= machine.MOST_KILLS


@given(plans, moves)
@settings(max_examples=400)
def test_nothing_advances_during_a_second_look_or_until_every_client_has_heard_of_a_kill(
    plan: Plan, moves: list[object]
) -> None:
    for (before, _), (after, event) in pairwise(play(plan, moves)):
        waits = before.settles is not None or before.doubted is not None
        if not waits or (isinstance(event, Ordered) and event.command is Command.PROMOTE):
            continue
        assert after.step == before.step
        assert after.weight <= before.weight
        assert after.phase in (before.phase, Phase.ROLLING_BACK)


@given(plans, moves)
@settings(max_examples=300)
def test_an_event_that_was_seen_changes_nothing(plan: Plan, moves: list[object]) -> None:
    for state, event in play(plan, moves):
        if event is not None and not isinstance(event, Failed):
            again, _ = decide(state, event, 9999.0)
            assert again == state


@given(plans, moves)
@settings(max_examples=300)
def test_every_state_reaches_an_end(plan: Plan, moves: list[object]) -> None:
    state = play(plan, moves)[-1][0]
    now = 5000.0
    for serial in range(400):
        if state.phase.ended:
            break
        now += 1
        if state.paused is not None:
            event: Event = Ordered(f"end{serial}", Command.RESUME, "ada")
        elif state.pending:
            event = Done(state.pending[0].id)
        elif state.phase is Phase.READY:
            event = Ordered(f"end{serial}", Command.PROMOTE, "ada")
        else:
            event = Observed(now, verdict=PASS)
        state, _ = decide(state, event, now)
    assert state.phase.ended


@given(plans, moves)
@settings(max_examples=300)
def test_before_the_point_of_no_return_every_state_goes_back_when_asked(plan: Plan, moves: list[object]) -> None:
    state = play(plan, moves)[-1][0]
    if state.phase.ended or state.phase in (Phase.PROMOTING, Phase.ROLLING_BACK):
        return
    state, actions = decide(state, Ordered("stop", Command.ABORT, "ada"), 9000.0)
    assert actions[0] == SetSplit(actions[0].id, plan.home, None)
    while state.pending:
        state, actions = decide(state, Done(state.pending[0].id), 9001.0)
    assert state.phase is Phase.ROLLED_BACK


@given(plans, moves)
@settings(max_examples=300)
def test_no_traffic_moves_before_the_candidate_was_healthy_and_probed(plan: Plan, moves: list[object]) -> None:
    for state, _ in play(plan, moves):
        if state.phase in machine.EARLY:
            assert state.weight.bp == 0
            assert not any(candidate_weight(a, plan) for a in state.pending)


@given(plans, moves)
@settings(max_examples=300)
def test_an_unpromoted_weight_is_always_a_lease(plan: Plan, moves: list[object]) -> None:
    for state, _ in play(plan, moves):
        for action in state.pending:
            if isinstance(action, SetSplit) and action.split != plan.home and state.phase is not Phase.PROMOTING:
                assert action.fallback == plan.home


@given(plans, moves)
@settings(max_examples=300)
def test_going_back_moves_the_traffic_before_it_touches_anything_else(plan: Plan, moves: list[object]) -> None:
    for state, event in play(plan, moves):
        if state.phase is Phase.ROLLING_BACK and len(state.pending) == 4:
            assert isinstance(state.pending[0], SetSplit)
        kinds = [type(action) for action in state.pending]
        if Discard in kinds and SetSplit in kinds:
            assert kinds.index(SetSplit) < kinds.index(Discard)
        assert event is None or kinds.count(Close) <= 1


@given(plans, moves)
@settings(max_examples=300)
def test_no_replica_starts_before_the_database_has_what_it_needs(plan: Plan, moves: list[object]) -> None:
    migrated = not plan.schema
    for (before, _), (state, event) in pairwise(play(plan, moves)):
        if before.pending and isinstance(before.pending[0], Migrate) and isinstance(event, Done):
            migrated = True
        assert migrated or not any(isinstance(action, StartReplicas | ClearSlot) for action in state.pending)


@given(plans, moves)
@settings(max_examples=300)
def test_action_ids_never_repeat(plan: Plan, moves: list[object]) -> None:
    seen: dict[str, Action] = {}
    for state, _ in play(plan, moves):
        for action in state.pending:
            assert seen.setdefault(action.id, action) == action


# --- stories


class Story:
    """A rollout told step by step."""

    def __init__(self, plan: Plan) -> None:
        self.now = 0.0
        self.state, _ = machine.begin(1, plan, self.now)

    def finish_actions(self, *, but: type | None = None) -> list[Action]:
        done: list[Action] = []
        while self.state.pending and not (but and isinstance(self.state.pending[0], but)):
            done.append(self.state.pending[0])
            self.state, _ = decide(self.state, Done(self.state.pending[0].id), self.now)
        return done

    def see(self, seconds: float, *faults: str, verdict: Verdict | None = PASS, restarts: int = 0) -> None:
        self.now += seconds
        self.state, _ = decide(self.state, Observed(self.now, faults, restarts, False, verdict), self.now)

    def fail(self, flag: str) -> None:
        self.now += 0.5
        event = Observed(self.now, verdict=FAIL, remedies=remedies(flag))
        self.state, _ = decide(self.state, event, self.now)

    def order(self, command: Command) -> None:
        self.state, _ = decide(self.state, Ordered(f"o{self.now}{command}", command, "ada"), self.now)

    def to_first_step(self) -> None:
        self.finish_actions()
        self.see(0.1)
        self.finish_actions()


def test_a_good_canary_rises_step_by_step_and_is_promoted() -> None:
    story = Story(plan())
    weights = []
    story.to_first_step()
    while not story.state.phase.ended:
        weights.append(story.state.weight.bp)
        story.see(10.0)
        story.finish_actions()
    assert weights == [500, 5000]
    assert story.state.phase is Phase.PROMOTED
    assert story.state.weight == EVERYTHING


def test_a_step_lasts_its_whole_duration_from_the_moment_the_weight_was_set() -> None:
    story = Story(plan())
    story.to_first_step()
    story.see(9.9)
    assert story.state.weight.bp == 500
    story.see(0.2)
    assert story.state.weight.bp == 5000


def test_a_step_without_enough_data_holds_and_says_what_it_waits_for() -> None:
    story = Story(plan())
    story.to_first_step()
    story.see(60.0, verdict=NO_DATA)
    assert story.state.phase is Phase.SHIFTING
    assert "holds at 5 %" in story.state.waiting
    assert "too few" in story.state.waiting


UNSURE = Verdict(Finding.INCONCLUSIVE, ("too close to call",))


def judged_by(**how: object) -> Plan:
    return replace(plan(), analysis=Analysis(**how))  # type: ignore[arg-type]  # each test names fields of Analysis


@pytest.mark.parametrize(
    ("verdict", "when_unsure", "phase", "step"),
    [
        (UNSURE, "promote", Phase.SHIFTING, 1),
        (UNSURE, "rollback", Phase.ROLLING_BACK, 0),
        (UNSURE, "hold", Phase.SHIFTING, 0),
        (NO_DATA, "promote", Phase.SHIFTING, 0),
        (NO_DATA, "rollback", Phase.ROLLING_BACK, 0),
    ],
)
def test_an_unsure_step_does_what_the_configuration_says_and_one_without_data_never_passes(
    verdict: Verdict, when_unsure: str, phase: Phase, step: int
) -> None:
    story = Story(judged_by(when_unsure=WhenUnsure(when_unsure)))
    story.to_first_step()
    story.see(10.0, verdict=verdict)
    assert (story.state.phase, story.state.step) == (phase, step)


def test_a_step_that_is_over_waits_for_certainty_until_the_deadline() -> None:
    story = Story(judged_by(when_unsure=WhenUnsure.ROLLBACK, deadline=30.0))
    story.to_first_step()
    story.see(20.0, verdict=UNSURE)
    assert story.state.phase is Phase.SHIFTING
    assert "until it is sure, for another 10 s at most" in story.state.waiting
    story.see(11.0, verdict=UNSURE)
    assert story.state.phase is Phase.ROLLING_BACK


def test_a_step_that_passed_may_end_before_its_time_but_not_before_the_least_time() -> None:
    story = Story(judged_by(advance=Advance.EARLY, min_duration=3.0))
    story.to_first_step()
    story.see(2.0, verdict=PASS)
    assert story.state.step == 0
    story.see(1.5, verdict=PASS)
    assert story.state.step == 1


def test_a_step_that_passed_waits_for_its_time_unless_told_otherwise() -> None:
    story = Story(plan())
    story.to_first_step()
    story.see(2.0, verdict=PASS)
    assert story.state.step == 0


def test_a_breach_sends_all_traffic_home_and_gives_its_reason() -> None:
    story = Story(plan())
    story.to_first_step()
    story.see(1.0, verdict=FAIL)
    assert story.state.phase is Phase.ROLLING_BACK
    assert story.state.reason == "3 of 5 failed"
    assert isinstance(story.finish_actions()[0], SetSplit)
    assert story.state.phase is Phase.ROLLED_BACK


def test_a_flag_that_is_to_blame_is_killed_and_the_step_begins_anew() -> None:
    story = Story(plan())
    story.to_first_step()
    story.fail("a")
    assert [type(action) for action in story.state.pending] == [Snapshot, KillFlag]
    story.finish_actions()
    assert (story.state.phase, story.state.weight.bp) == (Phase.SHIFTING, 500)
    assert story.state.killed[0].name == "a=on"
    assert "3 of 5 failed" in story.state.killed[0].why
    story.see(machine.SETTLES - 0.5, verdict=None)
    assert not story.state.pending
    assert "until every client has heard that flag a is killed" in story.state.waiting
    story.see(1.0, verdict=None)
    assert [a.label for a in story.state.pending if isinstance(a, Snapshot)] == ["step-0-without-1"]
    story.finish_actions()
    story.see(9.0)
    assert story.state.step == 0
    story.see(1.5)
    assert story.state.step == 1


def test_the_same_flag_is_not_killed_twice_and_a_fourth_one_does_not_save_a_candidate() -> None:
    story = Story(plan())
    story.to_first_step()
    for flag in ("a", "b", "c"):
        story.fail(flag)
        story.finish_actions()
        story.see(machine.SETTLES, verdict=None)
        story.finish_actions()
    again = replace(story.state)
    story.fail("a")
    assert story.state.phase is Phase.ROLLING_BACK
    story.state = again
    story.fail("d")
    assert story.state.phase is Phase.ROLLING_BACK
    assert len(story.state.considered) == 4


def test_a_failed_verdict_counts_after_a_second_look_whatever_was_seen_since() -> None:
    for verdict in (FAIL, PASS, None):
        story = Story(plan())
        story.to_first_step()
        story.fail("?")
        assert (story.state.phase, story.state.weight.bp) == (Phase.SHIFTING, 500)
        assert "whether z=on is to blame" in story.state.waiting
        story.see(machine.SECOND_LOOK / 2, verdict=PASS)
        assert story.state.phase is Phase.SHIFTING
        story.see(machine.SECOND_LOOK, verdict=verdict)
        assert story.state.phase is Phase.ROLLING_BACK
        assert story.state.reason == "3 of 5 failed"


def test_a_second_look_that_finds_the_variant_kills_its_flag() -> None:
    story = Story(plan())
    story.to_first_step()
    story.fail("?")
    story.fail("a")
    story.finish_actions()
    assert [killing.flag for killing in story.state.killed] == ["a"]
    assert story.state.reason == ""


def test_a_flag_that_cannot_be_killed_sends_all_traffic_home() -> None:
    story = Story(plan())
    story.to_first_step()
    story.fail("a")
    story.finish_actions(but=KillFlag)
    story.state, _ = decide(story.state, Failed(story.state.pending[0].id, "the ledger is away"), story.now)
    assert story.state.phase is Phase.ROLLING_BACK
    assert "3 of 5 failed" in story.state.reason
    assert "flag a could not be killed: the ledger is away" in story.state.reason
    assert story.state.killed == ()


def test_an_abort_before_the_kill_kills_nothing() -> None:
    story = Story(plan())
    story.to_first_step()
    story.fail("a")
    story.order(Command.ABORT)
    done = story.finish_actions()
    assert not any(isinstance(action, KillFlag) for action in done)
    assert (story.state.phase, story.state.killed) == (Phase.ROLLED_BACK, ())


def test_a_resume_while_a_kill_settles_does_not_advance() -> None:
    story = Story(replace(plan(BlueGreen(watch=5.0))))
    story.to_first_step()
    story.see(4.9)
    story.fail("a")
    story.finish_actions()
    story.order(Command.PAUSE)
    story.now += 1
    story.order(Command.RESUME)
    assert story.state.phase is Phase.WATCHING


def test_one_unhealthy_look_is_forgiven_and_three_in_a_row_are_not() -> None:
    story = Story(plan())
    story.to_first_step()
    story.see(1, "sick")
    story.see(1)
    story.see(1, "sick")
    story.see(1, "sick")
    assert story.state.phase is Phase.SHIFTING
    story.see(1, "sick")
    assert story.state.phase is Phase.ROLLING_BACK
    assert "sick" in story.state.reason


def test_a_candidate_that_never_gets_healthy_moves_nothing() -> None:
    story = Story(plan())
    story.finish_actions()
    story.see(29, "503 from /health")
    assert story.state.phase is Phase.CHECKING
    story.see(2, "503 from /health")
    assert story.state.phase is Phase.ROLLING_BACK
    assert "did not get healthy within 30 s: 503 from /health" in story.state.reason


def test_a_candidate_that_keeps_exiting_is_not_waited_for() -> None:
    story = Story(plan())
    story.finish_actions()
    story.see(1, "exited with status 3", restarts=3)
    assert "keeps exiting (3 times): exited with status 3" in story.state.reason


def test_a_failed_probe_moves_nothing() -> None:
    story = Story(plan())
    story.finish_actions()
    story.see(0.1)
    story.finish_actions(but=Probe)
    failed = Failed(story.state.pending[0].id, "the cart is empty", ("last line",))
    story.state, actions = decide(story.state, failed, story.now)
    assert story.state.phase is Phase.ROLLING_BACK
    assert story.state.detail == ("last line",)
    assert all(not candidate_weight(a, story.state.plan) for a in actions)


def test_a_paused_step_stays_however_long_and_its_clock_stands_still() -> None:
    story = Story(plan())
    story.to_first_step()
    story.see(4)
    story.order(Command.PAUSE)
    story.see(1000)
    assert story.state.weight.bp == 500
    story.order(Command.RESUME)
    story.see(5)
    assert story.state.weight.bp == 500
    story.see(1.5)
    assert story.state.weight.bp == 5000


def test_a_breach_during_a_pause_still_rolls_back() -> None:
    story = Story(plan())
    story.to_first_step()
    story.order(Command.PAUSE)
    story.see(1, verdict=FAIL)
    assert story.state.phase is Phase.ROLLING_BACK


def test_promote_skips_the_steps_that_are_left() -> None:
    story = Story(plan())
    story.to_first_step()
    story.order(Command.PROMOTE)
    done = story.finish_actions()
    assert [a.split for a in done if isinstance(a, SetSplit)] == [Split.wholly(Slot.GREEN)]
    assert story.state.phase is Phase.PROMOTED


def test_promote_is_refused_before_the_candidate_is_healthy() -> None:
    story = Story(plan())
    story.finish_actions()
    with pytest.raises(Refused, match="has not passed its health checks"):
        story.order(Command.PROMOTE)


def test_abort_is_refused_past_the_point_of_no_return_and_names_the_way_back() -> None:
    story = Story(plan())
    story.to_first_step()
    story.order(Command.PROMOTE)
    with pytest.raises(Refused, match="point of no return"):
        story.order(Command.ABORT)


def test_the_first_release_takes_all_traffic_once_it_is_healthy() -> None:
    story = Story(plan(baseline=None))
    story.to_first_step()
    story.finish_actions()
    assert story.state.phase is Phase.PROMOTED


def test_a_blue_green_switch_is_one_move_and_watched() -> None:
    story = Story(plan(BlueGreen(watch=5.0)))
    story.to_first_step()
    assert story.state.phase is Phase.WATCHING
    assert story.state.weight == EVERYTHING
    story.see(4, verdict=NO_DATA)
    assert story.state.phase is Phase.WATCHING
    story.see(2, verdict=NO_DATA)
    assert story.state.phase is Phase.PROMOTING


def test_a_manual_blue_green_waits_for_promote() -> None:
    story = Story(plan(BlueGreen(manual=True)))
    story.to_first_step()
    story.see(1000)
    assert story.state.phase is Phase.READY
    assert "crossfade promote" in story.state.waiting
    story.order(Command.PROMOTE)
    assert story.state.phase is Phase.PROMOTING


def test_a_rollback_is_neither_probed_nor_watched() -> None:
    story = Story(plan(BlueGreen(watch=60), kind=Kind.ROLLBACK))
    done = story.finish_actions()
    story.see(0.1)
    done += story.finish_actions()
    assert story.state.phase is Phase.PROMOTED
    assert not any(isinstance(a, Probe) for a in done)
    assert any(isinstance(a, Commit) for a in done)


def test_a_lapsed_lease_begins_the_step_anew_and_too_many_lapses_end_it() -> None:
    story = Story(plan())
    story.to_first_step()
    for lapse in range(machine.MOST_LAPSES):
        story.now += 3
        story.state, actions = decide(story.state, Observed(story.now, lapsed=True, verdict=PASS), story.now)
        assert any(candidate_weight(a, story.state.plan) == 500 for a in actions), lapse
        assert [a.label for a in actions if isinstance(a, Snapshot)] == [machine.mark(story.state)]
        story.finish_actions()
        assert story.state.entered == story.now
    story.now += 3
    story.state, _ = decide(story.state, Observed(story.now, lapsed=True, verdict=PASS), story.now)
    assert story.state.phase is Phase.ROLLING_BACK
    assert "lapsed" in story.state.reason


def test_an_action_that_fails_after_the_point_of_no_return_is_tried_again() -> None:
    story = Story(plan())
    story.to_first_step()
    story.order(Command.PROMOTE)
    first = story.state.pending[0]
    story.state, actions = decide(story.state, Failed(first.id, "the edge is away"), story.now)
    assert actions[0] == first
    assert "the edge is away" in story.state.waiting


def test_what_cannot_be_tidied_does_not_keep_a_rollback_from_ending() -> None:
    story = Story(plan())
    story.finish_actions(but=StartReplicas)
    story.state, _ = decide(story.state, Failed(story.state.pending[0].id, "no port"), story.now)
    story.finish_actions(but=Discard)
    story.state, _ = decide(story.state, Failed(story.state.pending[0].id, "supervisor away"), story.now)
    story.finish_actions()
    assert story.state.phase is Phase.ROLLED_BACK
    assert "left undone: supervisor away" in story.state.detail
