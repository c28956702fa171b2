"""The laws of the watch after a promotion, whatever happens in whatever order."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from crossfade.domain.slo import OnBurn
from crossfade.domain.values import Digest, EnvKey, ReleaseNumber
from crossfade.domain.watch import (
    Cause,
    Done,
    Event,
    Failed,
    Looked,
    Means,
    Ordered,
    Phase,
    Plan,
    Remedied,
    Remedy,
    Returning,
    Spent,
    Watch,
    alert,
    begin,
    decide,
    refusal,
)

R4, R5, R6 = ReleaseNumber(4), ReleaseNumber(5), ReleaseNumber(6)
OURS, THEIRS = Digest("sha256:" + "a" * 64), Digest("sha256:" + "b" * 64)
PLAN = Plan(EnvKey("shop", "production"), 7, R5, OURS, R4, 1000.0, 2800.0)
BURN = Cause(Means.BURN, "answers", "answers burns", 1100.0)
EARLIER = Cause(Means.BURN, "fast", "fast burns", 900.0)
BACK = Remedied("rollout #8 goes back to r4", "r4", 0.0, 8)
KILL = Remedied("flag search is killed", "search=on", 0.0)

causes = st.lists(st.sampled_from([BURN, EARLIER, Cause(Means.PROFILE, "errors", "errors 5 %", 1200.0)]), max_size=2)
spent = st.lists(
    st.builds(
        Spent,
        st.sampled_from([R4, R5, R6]),
        st.sampled_from([OURS, THEIRS]),
        st.floats(0, 3000),
        st.sampled_from([True, False, None]),
    ),
    max_size=2,
)
looks = st.builds(
    Looked,
    at=st.just(0.0),
    causes=causes.map(tuple),
    holder=st.sampled_from([None, None, None, 9]),
    moved=st.sampled_from(["", "", "", "", "", "r6 is live now"]),
    harmful=st.sampled_from([None, True, False]),
    returning=st.sampled_from([None, Returning(8), Returning(8, 1200.0), Returning(8, failed="it did not start")]),
    spent=spent.map(tuple),
    drill=st.sampled_from([None, None, None, None, 3]),
)
events = st.one_of(looks, looks, looks, st.sampled_from(["back", "kill", "fails", "passing", "ordered"]))
steps = st.lists(st.tuples(st.floats(0.25, 400), events), max_size=40)
plans = st.sampled_from([PLAN, PLAN, replace(PLAN, on_burn=OnBurn.PROPOSE)])


def what(step: Looked | str, state: Watch, now: float) -> Event:
    """The event, with what it is about as it is now."""
    action = state.pending[0].id if state.pending else "none"
    match step:
        case Looked():
            return replace(step, at=now)
        case "back":
            return Done(action, replace(BACK, at=now))
        case "kill":
            return Done(action, replace(KILL, at=now))
        case "fails" | "passing":
            return Failed(action, "it could not be done", passing=step == "passing")
        case _:
            return Ordered(f"order-{now}", "ada")


Step = tuple[Watch, Event, Watch, tuple[Remedy, ...], float]


def lived(plan: Plan, script: list[tuple[float, Looked | str]]) -> list[Step]:
    """Each step of a watch: the state before, the event, the state after, what is to be done, and when."""
    state, now, found = begin(1, plan), plan.began, []
    for seconds, step in script:
        now += seconds
        if step == "kill" and not (state.pending and state.pending[0].kills):
            continue  # nobody kills a flag that was not asked for
        event = what(step, state, now)
        after, actions = decide(state, event, now)
        found.append((state, event, after, actions, now))
        state = after
    return found


@given(plans, steps)
def test_it_goes_back_once_at_most_and_kills_one_flag_at_most(
    plan: Plan, script: list[tuple[float, Looked | str]]
) -> None:
    done = [after.done for _, _, after, _, _ in lived(plan, script)]
    last = done[-1] if done else ()
    assert sum(one.rollout is not None for one in last) <= 1
    assert sum(one.rollout is None for one in last) <= 1


@given(plans, steps)
def test_it_acts_only_in_its_time_on_a_cause_after_the_promotion_and_while_no_rollout_holds_the_environment(
    plan: Plan, script: list[tuple[float, Looked | str]]
) -> None:
    for before, event, after, actions, now in lived(plan, script):
        if not actions or actions == before.pending:
            continue  # nothing new is to be done
        assert plan.began <= now < plan.until
        assert plan.on_burn is OnBurn.ROLLBACK
        assert isinstance(event, Looked) and event.holder is None and not event.moved
        assert event.drill is None
        assert after.cause is not None and after.cause.began >= plan.began
        assert actions[0].calls == after.cause.sentence != ""
        assert before.returned is None
        if before.phase is Phase.WATCHING:
            assert refusal(plan, event.spent, now) == ""


@given(plans, steps)
def test_an_event_that_was_seen_changes_nothing(plan: Plan, script: list[tuple[float, Looked | str]]) -> None:
    for _, event, after, actions, now in lived(plan, script):
        assert decide(after, event, now) == (after, actions)


@given(plans, steps, steps)
def test_what_a_person_orders_or_does_ends_it(
    plan: Plan, script: list[tuple[float, Looked | str]], rest: list[tuple[float, Looked | str]]
) -> None:
    lives = lived(plan, script)
    state, now = (lives[-1][2], lives[-1][4]) if lives else (begin(1, plan), plan.began)
    for event in (Ordered("mine", "ada"), Looked(now + 1, moved="r6 is live now", causes=(BURN,))):
        ended, actions = decide(state, event, now + 1)
        assert ended.phase.ended and actions == ()
        for seconds, step in rest:
            now += seconds
            assert decide(ended, what(step, ended, now), now) == (ended, ())


@given(plans, steps)
def test_it_ends_when_its_time_is_over_and_nothing_else_happens(
    plan: Plan, script: list[tuple[float, Looked | str]]
) -> None:
    lives = lived(plan, script)
    state, now = (lives[-1][2], lives[-1][4]) if lives else (begin(1, plan), plan.began)
    now = max(now, plan.until)
    for _ in range(20):
        now += 100
        returning = Returning(8, now - 1000) if state.returned is not None else None
        state, _ = decide(state, Looked(now, returning=returning), now)
    assert state.phase.ended
    assert state.reason


def test_harm_is_taken_back_and_it_is_said_that_it_has_helped() -> None:
    state = begin(1, PLAN)
    state, actions = decide(state, Looked(1001), 1001)
    assert (state.phase, actions) == (Phase.WATCHING, ())
    state, (remedy,) = decide(state, Looked(1110, (BURN,)), 1110)
    assert (state.phase, remedy.kills, state.detected) == (Phase.ACTING, True, 1110)
    state, _ = decide(state, Done(remedy.id, BACK), 1111)
    state, _ = decide(state, Looked(1112, returning=Returning(8)), 1112)
    assert state.waiting == "rollout #8 goes back to r4"
    state, _ = decide(state, Looked(1114, returning=Returning(8, 1113.0), harmful=False), 1114)
    assert state.phase is Phase.SETTLING, "what was in flight may still fail"
    state, _ = decide(state, Looked(1116, returning=Returning(8, 1113.0), harmful=False), 1116)
    assert (state.phase, state.switched, state.recovered) == (Phase.HELPED, 1113, 1116)


def test_going_back_that_does_not_help_is_said_so_and_left_to_a_person() -> None:
    state = begin(1, PLAN)
    state, (remedy,) = decide(state, Looked(1110, (BURN,)), 1110)
    state, _ = decide(state, Done(remedy.id, BACK), 1111)
    for now in range(1112, 1300):
        state, actions = decide(state, Looked(now, (BURN,), returning=Returning(8, 1113.0), harmful=True), now)
        assert actions == ()
    assert state.phase is Phase.NOT_HELPED
    said = alert(state)
    assert said is not None and said[1].startswith("rolled back, and it did not help")


def test_a_flag_whose_kill_does_not_help_is_followed_by_the_way_back() -> None:
    state = begin(1, PLAN)
    state, (first,) = decide(state, Looked(1110, (BURN,)), 1110)
    state, _ = decide(state, Done(first.id, KILL), 1111)
    state, actions = decide(state, Looked(1115, harmful=True), 1115)
    assert actions == ()
    state, (second,) = decide(state, Looked(1124, harmful=True), 1124)
    assert second.id != first.id and not second.kills


def test_a_flag_whose_kill_helps_leaves_the_release_watched() -> None:
    state = begin(1, PLAN)
    state, (first,) = decide(state, Looked(1110, (BURN,)), 1110)
    state, _ = decide(state, Done(first.id, KILL), 1111)
    state, _ = decide(state, Looked(1114, harmful=False), 1114)
    assert (state.phase, state.cause) == (Phase.WATCHING, None)
    state, (second,) = decide(state, Looked(1200, (BURN,)), 1200)
    assert not second.kills


def test_what_was_decided_and_not_done_for_a_minute_is_decided_anew() -> None:
    state = begin(1, PLAN)
    state, (first,) = decide(state, Looked(1110, (BURN,)), 1110)
    state, actions = decide(state, Looked(1500), 1500)
    assert (state.phase, actions) == (Phase.WATCHING, ())
    state, (second,) = decide(state, Looked(1501, (BURN,)), 1501)
    assert second.id != first.id
    assert decide(state, Done(first.id, BACK), 1502)[0].done == (), "the old one is not waited for any more"


def test_a_burn_that_began_before_the_promotion_is_not_blamed_on_it() -> None:
    state, actions = decide(begin(1, PLAN), Looked(1110, (EARLIER,)), 1110)
    assert (state.phase, actions) == (Phase.WATCHING, ())


def test_in_a_drill_it_waits_whatever_is_live_and_goes_on_afterwards() -> None:
    drilled = Looked(1100.0, moved="r4 is live now", causes=(BURN,), drill=3)
    state, actions = decide(begin(1, PLAN), drilled, 1100.0)
    assert (state.phase, actions, state.cause) == (Phase.WATCHING, (), None)
    assert state.waiting == "drill #3 is under way: it waits for its end"
    state, _ = decide(state, Looked(1101.0), 1101.0)
    assert (state.phase, state.waiting) == (Phase.WATCHING, "")
    state, actions = decide(state, Looked(1102.0, causes=(BURN,)), 1102.0)
    assert (state.phase, len(actions)) == (Phase.ACTING, 1)
    # What was decided and not begun before the drill did is decided anew.
    state, actions = decide(state, replace(drilled, at=1103.0), 1103.0)
    assert (state.phase, actions) == (Phase.WATCHING, ())
    # Its time goes by all the same.
    state, _ = decide(state, replace(drilled, at=2900.0), 2900.0)
    assert state.phase is Phase.WATCHING
    state, _ = decide(state, Looked(2901.0), 2901.0)
    assert state.phase is Phase.PASSED


def test_the_same_release_or_artifact_is_not_taken_back_twice_within_a_day() -> None:
    day = 86_400.0
    later = replace(PLAN, began=5000.0, until=6800.0)
    assert "it was taken back before" in refusal(later, [Spent(R5, OURS, 1200, helped=True)], 5100)
    assert "the same artifact, as r4" in refusal(later, [Spent(R4, OURS, 1200, helped=True)], 5100)
    assert refusal(later, [Spent(R4, THEIRS, 4900, helped=True)], 5100) == ""
    much_later = replace(PLAN, began=day + 5000, until=day + 6800)
    assert refusal(much_later, [Spent(R5, OURS, 1200, helped=True)], day + 5100) == ""


def test_after_a_return_that_did_not_help_the_next_release_is_not_taken_back_within_the_time_of_a_watch() -> None:
    later = replace(PLAN, release=R6, digest=THEIRS, began=1500.0, until=3300.0)
    for helped in (False, None):
        assert "has not helped" in refusal(later, [Spent(R5, OURS, 1200, helped)], 1600)
        assert refusal(later, [Spent(R5, OURS, 1200, helped)], 3100) == ""


def test_where_nothing_may_be_done_by_itself_it_is_proposed_with_the_reason() -> None:
    state, actions = decide(begin(1, replace(PLAN, on_burn=OnBurn.PROPOSE)), Looked(1110, (BURN,)), 1110)
    assert (state.phase, actions) == (Phase.PROPOSED, ())
    said = alert(state)
    assert said is not None and "answers burns" in said[1] and "slo.on_burn" in said[1]
    state, (remedy,) = decide(begin(1, PLAN), Looked(1110, (BURN,)), 1110)
    state, _ = decide(state, Failed(remedy.id, "no release to go back to"), 1111)
    assert (state.phase, state.refused) == (Phase.PROPOSED, "no release to go back to")


def test_what_fails_in_passing_is_tried_again() -> None:
    state, (remedy,) = decide(begin(1, PLAN), Looked(1110, (BURN,)), 1110)
    state, actions = decide(state, Failed(remedy.id, "the ledger does not answer", passing=True), 1111)
    assert actions == (remedy,)
    assert state.waiting == "tries again: the ledger does not answer"
