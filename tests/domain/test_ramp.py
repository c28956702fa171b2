"""The laws of a guarded ramp, over every order of events that Hypothesis can think of; then the stories."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crossfade.domain.analysis.policy import Advance, Analysis, WhenUnsure
from crossfade.domain.analysis.verdict import Finding, Verdict
from crossfade.domain.errors import Invalid, Refused
from crossfade.domain.flags import ramp as machine
from crossfade.domain.flags.ramp import (
    Action,
    Command,
    Conclude,
    Done,
    Event,
    Failed,
    Kill,
    Mark,
    Observed,
    Ordered,
    Phase,
    Plan,
    Ramp,
    SetShare,
    decide,
)
from crossfade.domain.release import Step
from crossfade.domain.values import EVERYTHING, EnvKey, Weight

KEY = EnvKey("bookshop", "production")
STEPS = (Step(Weight(100), 10.0), Step(Weight(5000), 10.0), Step(Weight(10_000), 10.0))
PASS = Verdict(Finding.PASS, ("fine",))
FAIL = Verdict(Finding.FAIL, ("5 % against 0.1 %",))
UNSURE = Verdict(Finding.INCONCLUSIVE, ("who knows",))
NO_DATA = Verdict(Finding.NO_DATA, ("too few",))


def plan(steps: tuple[Step, ...] = STEPS, **analysis: object) -> Plan:
    return Plan(KEY, "new-checkout", "on", "off", "ramp", steps, Analysis(**analysis))  # type: ignore[arg-type] # its own fields


# --- laws

plans = st.builds(
    lambda weights, unsure, advance, deadline: plan(
        tuple(Step(Weight(w), 5.0) for w in sorted(weights)), when_unsure=unsure, advance=advance, deadline=deadline
    ),
    st.sets(st.integers(1, 10_000), min_size=1, max_size=5),
    st.sampled_from(WhenUnsure),
    st.sampled_from(Advance),
    st.sampled_from([0.0, 8.0]),
)


@dataclass(frozen=True)
class Look:
    """What an observation says, without its time."""

    verdict: Verdict | None
    held: str
    changed: str


seen = st.builds(
    Look,
    st.sampled_from([None, PASS, PASS, PASS, FAIL, UNSURE, NO_DATA]),
    st.sampled_from(["", "", "", "", "rollout #7"]),
    st.sampled_from(["", "", "", "", "", "", "", "ada killed it"]),
)
moves = st.lists(
    st.one_of(st.just("done"), st.just("done"), st.just("failed"), st.sampled_from(Command), seen, seen), max_size=60
)
Trail = list[tuple[Ramp, Event | None]]


def play(plan: Plan, moves: list[object]) -> Trail:
    """Every state that the moves lead through, with the event that led there."""
    state, _ = machine.begin(7, plan, "ada", 1000.0)
    trail: Trail = [(state, None)]
    for serial, move in enumerate(moves):
        now = 1000.0 + serial * 1.7 + 1
        event: Event
        match move:
            case Command() as command:
                event = Ordered(f"o{serial}", command, "ada")
            case str() as how:
                first = state.pending[0].id if state.pending else "none"
                event = Done(first) if how == "done" else Failed(first, "it broke")
            case _:
                assert isinstance(move, Look)
                event = Observed(now, move.verdict, move.held, move.changed)
        try:
            state, _ = decide(state, event, now)
        except Refused:
            continue
        trail.append((state, event))
    return trail


def highest(state: Ramp) -> int:
    """The most that the flag may have from here on without another decision."""
    return max([a.weight.bp for a in state.pending if isinstance(a, SetShare)], default=state.weight.bp)


@given(plans, moves)
@settings(max_examples=400)
def test_the_share_never_rises_after_a_failed_verdict(plan: Plan, moves: list[object]) -> None:
    failed = False
    for (before, _), (after, event) in pairwise(play(plan, moves)):
        if isinstance(event, Observed) and event.verdict == FAIL and before.phase is Phase.RAMPING:
            failed = True
            assert after.phase is Phase.GOING_BACK
            assert isinstance(after.pending[0], Kill)
            assert event.verdict.sentence in after.pending[0].why
        if failed:
            assert after.weight.bp == 0
            assert not any(isinstance(action, SetShare) for action in after.pending)


@given(plans, moves)
@settings(max_examples=400)
def test_the_share_rises_only_when_a_step_has_passed_or_may_pass_unsure_or_a_person_says_so(
    plan: Plan, moves: list[object]
) -> None:
    for (before, _), (after, event) in pairwise(play(plan, moves)):
        if after.weight <= before.weight or before.phase.ended:
            continue
        if isinstance(event, Ordered) and event.command is Command.FINISH:
            continue
        assert after.verdict is None or after.phase is Phase.FINISHING  # a next step is judged anew
        last = event.verdict if isinstance(event, Observed) and event.verdict is not None else before.verdict
        assert last is not None
        unsure = plan.analysis.when_unsure is WhenUnsure.PROMOTE and last == UNSURE
        assert last == PASS or unsure


@given(plans, moves)
@settings(max_examples=300)
def test_an_event_that_was_seen_changes_nothing(plan: Plan, moves: list[object]) -> None:
    for state, event in play(plan, moves):
        if event is not None and not isinstance(event, Failed):
            again, _ = decide(state, event, 9999.0)
            assert again == state


@given(plans, moves)
@settings(max_examples=300)
def test_every_open_state_can_be_aborted_or_is_ending_already_and_then_ends_at_nothing(
    plan: Plan, moves: list[object]
) -> None:
    state = play(plan, moves)[-1][0]
    if state.phase.ended:
        return
    if state.phase in (Phase.RAMPING, Phase.FINISHING):
        state, actions = decide(state, Ordered("stop", Command.ABORT, "ada"), 9000.0)
        assert actions[0] == SetShare(actions[0].id, Weight(0))
        while state.pending:
            state, _ = decide(state, Done(state.pending[0].id), 9001.0)
        assert state.phase is Phase.ABORTED
    else:
        while state.pending:
            state, _ = decide(state, Done(state.pending[0].id), 9001.0)
        assert state.phase.ended


@given(plans, moves)
@settings(max_examples=300)
def test_every_state_reaches_an_end(plan: Plan, moves: list[object]) -> None:
    state = play(plan, moves)[-1][0]
    now = 5000.0
    for serial in range(200):
        if state.phase.ended:
            break
        now += 10
        if state.paused is not None:
            event: Event = Ordered(f"end{serial}", Command.RESUME, "ada")
        elif state.pending:
            event = Done(state.pending[0].id)
        else:
            event = Observed(now, PASS)
        state, _ = decide(state, event, now)
    assert state.phase.ended


@given(plans, moves)
@settings(max_examples=300)
def test_whoever_changes_the_flag_has_it_and_the_ramp_writes_no_share_any_more(plan: Plan, moves: list[object]) -> None:
    for (before, _), (after, event) in pairwise(play(plan, moves)):
        if isinstance(event, Observed) and event.changed and event.verdict != FAIL and before.phase is Phase.RAMPING:
            assert after.phase is Phase.LEAVING
            assert [type(action) for action in after.pending] == [Conclude]
            assert event.changed in after.reason


@given(plans, moves)
@settings(max_examples=300)
def test_a_step_is_judged_from_a_mark_of_its_own_and_no_action_has_the_id_of_another(
    plan: Plan, moves: list[object]
) -> None:
    known: dict[str, Action] = {}
    labels: dict[str, str] = {}
    for state, _ in play(plan, moves):
        for action in state.pending:
            assert known.setdefault(action.id, action) == action
            if isinstance(action, Mark):
                assert labels.setdefault(action.label, action.id) == action.id


@given(plans, moves)
@settings(max_examples=300)
def test_nothing_advances_while_it_is_paused_or_a_rollout_is_under_way(plan: Plan, moves: list[object]) -> None:
    for (before, _), (after, event) in pairwise(play(plan, moves)):
        if isinstance(event, Observed) and (before.paused is not None or event.held):
            assert after.step == before.step
            assert after.weight <= before.weight


# --- stories


class Story:
    """A ramp told step by step."""

    def __init__(self, plan: Plan) -> None:
        self.now = 0.0
        self.done: list[Action] = []
        self.state, _ = machine.begin(1, plan, "ada", self.now)

    def finish_actions(self) -> None:
        while self.state.pending:
            self.done.append(self.state.pending[0])
            self.state, _ = decide(self.state, Done(self.state.pending[0].id), self.now)

    def see(self, seconds: float, verdict: Verdict | None = PASS, held: str = "", changed: str = "") -> None:
        self.now += seconds
        self.state, _ = decide(self.state, Observed(self.now, verdict, held, changed), self.now)

    def order(self, command: Command) -> None:
        self.state, _ = decide(self.state, Ordered(f"o{self.now}{command}", command, "ada"), self.now)

    @property
    def shares(self) -> list[int]:
        return [action.weight.bp for action in self.done if isinstance(action, SetShare)]


def begun(**analysis: object) -> Story:
    story = Story(plan(STEPS, **analysis))
    story.finish_actions()
    return story


def test_a_good_variant_rises_step_by_step_to_everybody() -> None:
    story = begun()
    for _ in STEPS:
        story.see(10.0)
        story.finish_actions()
    assert story.shares == [100, 5000, 10_000, 10_000]
    assert (story.state.phase, story.state.weight) == (Phase.FINISHED, EVERYTHING)


def test_a_harmful_variant_is_killed_with_the_verdict_as_why() -> None:
    story = begun()
    story.see(1.0, FAIL)
    assert story.state.pending[0] == Kill(story.state.pending[0].id, "5 % against 0.1 %")
    story.finish_actions()
    assert (story.state.phase, story.state.reason) == (Phase.FAILED, "5 % against 0.1 %")


def test_a_breach_during_a_pause_still_kills() -> None:
    story = begun()
    story.order(Command.PAUSE)
    story.see(1.0, FAIL)
    assert story.state.outcome is Phase.FAILED


@pytest.mark.parametrize(
    ("verdict", "when_unsure", "phase", "step"),
    [
        (UNSURE, "promote", Phase.RAMPING, 1),
        (UNSURE, "rollback", Phase.GOING_BACK, 0),
        (UNSURE, "hold", Phase.RAMPING, 0),
        (NO_DATA, "promote", Phase.RAMPING, 0),
        (NO_DATA, "hold", Phase.RAMPING, 0),
        (NO_DATA, "rollback", Phase.GOING_BACK, 0),
    ],
)
def test_an_unsure_step_does_what_the_policy_says_and_one_without_data_never_passes(
    verdict: Verdict, when_unsure: str, phase: Phase, step: int
) -> None:
    story = begun(when_unsure=WhenUnsure(when_unsure))
    story.see(10.0, verdict)
    assert (story.state.phase, story.state.step) == (phase, step)


def test_what_could_not_be_told_in_time_goes_back_without_a_kill() -> None:
    story = begun(when_unsure=WhenUnsure.ROLLBACK)
    story.see(10.0, UNSURE)
    story.finish_actions()
    assert story.shares == [100, 0]
    assert not any(isinstance(action, Kill) for action in story.done)
    assert story.state.phase is Phase.RETURNED


def test_a_step_waits_for_certainty_until_its_deadline_and_may_be_left_early() -> None:
    story = begun(deadline=30.0, when_unsure=WhenUnsure.ROLLBACK)
    story.see(20.0, UNSURE)
    assert "until it is sure, for another 10 s at most" in story.state.waiting
    story.see(11.0, UNSURE)
    assert story.state.outcome is Phase.RETURNED
    early = begun(advance=Advance.EARLY, min_duration=3.0)
    early.see(2.0)
    assert early.state.step == 0
    early.see(1.5)
    assert early.state.step == 1


def test_while_a_rollout_moves_traffic_the_ramp_waits_and_then_begins_its_step_anew() -> None:
    story = begun()
    story.see(5.0)
    story.see(20.0, None, held="rollout #7 moves the traffic")
    assert story.state.waiting == "waits: rollout #7 moves the traffic"
    assert story.state.weight.bp == 100
    story.see(1.0, None)
    assert [type(action) for action in story.state.pending] == [SetShare, Mark]
    story.finish_actions()
    story.see(9.0)
    assert story.state.step == 0
    story.see(1.5)
    assert story.state.step == 1


def test_a_paused_ramp_stays_and_its_clock_stands_still() -> None:
    story = begun()
    story.see(4.0)
    story.order(Command.PAUSE)
    story.see(1000.0)
    assert story.state.weight.bp == 100
    story.order(Command.RESUME)
    story.see(5.0)
    assert story.state.step == 0
    story.see(1.5)
    assert story.state.step == 1


def test_finish_skips_the_steps_that_are_left_and_can_still_be_aborted() -> None:
    story = begun()
    story.order(Command.FINISH)
    assert story.state.phase is Phase.FINISHING
    with pytest.raises(Refused, match="is finishing already"):
        story.order(Command.PAUSE)
    story.order(Command.ABORT)
    story.finish_actions()
    assert (story.state.phase, story.shares) == (Phase.ABORTED, [100, 0])


def test_what_is_over_or_going_back_takes_no_more_orders_and_says_why() -> None:
    story = begun()
    story.see(1.0, FAIL)
    with pytest.raises(Refused, match="is ending already: 5 % against"):
        story.order(Command.FINISH)
    story.finish_actions()
    with pytest.raises(Refused, match="has ended"):
        machine.allow(story.state, Command.ABORT)


def test_an_action_that_fails_is_tried_again() -> None:
    story = Story(plan())
    first = story.state.pending[0]
    story.state, actions = decide(story.state, Failed(first.id, "the ledger is away"), 1.0)
    assert actions[0] == first
    assert story.state.waiting == "tries again: the ledger is away"


@pytest.mark.parametrize(
    ("steps", "key"),
    [
        ((), "steps"),
        ((Step(Weight(0), 5.0),), "steps.0.weight"),
        ((Step(Weight(500), 5.0), Step(Weight(500), 5.0)), "steps.1.weight"),
        ((Step(Weight(500), 5.0), Step(Weight(100), 5.0)), "steps.1.weight"),
        ((Step(Weight(500), 0.0),), "steps.0.duration"),
        ((Step(Weight(500), float("nan")),), "steps.0.duration"),
        (tuple(Step(Weight(i + 1), 1.0) for i in range(60)), "steps"),
    ],
)
def test_steps_that_do_not_rise_or_last_are_refused_by_their_place(steps: tuple[Step, ...], key: str) -> None:
    with pytest.raises(Invalid, match=key):
        plan(steps).check()


def test_a_variant_cannot_be_ramped_against_itself() -> None:
    with pytest.raises(Invalid, match="variant"):
        replace(plan(), rest="on").check()
