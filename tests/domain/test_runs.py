"""A run, whatever happens to it and in whatever order: the laws of the pipeline, then examples."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from crossfade.domain.access import Grant, Role
from crossfade.domain.errors import Invalid, Refused
from crossfade.domain.health import Check
from crossfade.domain.pipeline.plan import (
    Commit,
    Compare,
    Gate,
    GateKind,
    Load,
    Node,
    NodeKind,
    Outcome,
    Pipeline,
    QueuePolicy,
    Requests,
    SmokeFlow,
    Stage,
    StageName,
    Step,
    in_order,
    nodes_of,
)
from crossfade.domain.pipeline.queue import Ground, superseded, turn
from crossfade.domain.pipeline.run import (
    MOST_ATTEMPTS,
    Admitted,
    Began,
    Broke,
    Cancel,
    Closed,
    Deploying,
    Event,
    Held,
    NodeEnded,
    Restart,
    Resumed,
    Run,
    RunPlan,
    Status,
    Supersede,
    Waits,
    begin,
    decide,
    ready,
    settled,
    stopping,
)
from crossfade.domain.values import Digest, EnvKey, ReleaseNumber

DIGEST = Digest("sha256:" + "a" * 64)
PASSED, FAILED = Outcome(True, "good"), Outcome(False, "bad")
FLOWS = (SmokeFlow("buy", (Check("home", "/"),)),)


def pipeline(**changes: object) -> Pipeline:
    steps = {"format": (Step(("f",)), ()), "test": (Step(("t",)), ()), "pack": (Step(("p",)), ("test",))}
    gates = {"coverage": (Gate(GateKind.COVERAGE, "c.xml"), ("test",)), "lint": (Gate(GateKind.SARIF, "*.sarif"), None)}
    compare = Compare((Requests("GET /"),))
    made = Pipeline(
        "shop",
        (
            Stage(StageName.COMMIT, nodes_of(StageName.COMMIT, steps, gates)),
            Stage(StageName.INTEGRATION, nodes_of(StageName.INTEGRATION, steps, {}, compare=compare)),
            Stage(
                StageName.STAGING,
                nodes_of(StageName.STAGING, {"browser": (Step(("b",)), ())}, {}, smoke=FLOWS, load=Load()),
                environment="staging",
            ),
            Stage(StageName.PRODUCTION, nodes_of(StageName.PRODUCTION, {}, {}), environment="production"),
        ),
    )
    return replace(made, **changes)  # type: ignore[arg-type] # the tests say which


def plan(depth: int = 1, **changes: object) -> RunPlan:
    commit = Commit(f"{depth:040x}", depth, 0.0, "ada", "a change")
    grants = (Grant(Role.ADMIN),)
    made = pipeline(**changes)
    return RunPlan(
        made, "/repo", commit, "main", "command", "ada", "local", grants, 0.0, "{}", environment=made.environment
    )


def run(id: int = 1, depth: int = 1, **changes: object) -> Run:
    return begin(id, plan(depth, **changes))


OUTCOMES = st.sampled_from(
    [PASSED, FAILED, Outcome(False, "lost", infrastructure=True), Outcome(False, "none", "no-data")]
)


@st.composite
def events(draw: st.DrawFn, state: Run) -> Event:
    """Something that may happen now, or too late, or that makes no sense at all."""
    stage = draw(st.sampled_from(list(StageName)))
    current = state.current
    if current is not None and draw(st.integers(0, 9)) < 8:
        stage = current.name
    names = [node.name for node in state.plan.pipeline.stage(stage).nodes]
    node = draw(st.sampled_from(names))
    deploys = [Deploying(stage, ReleaseNumber(7), draw(st.sampled_from([None, 3])))] if stage.deploys else []
    likely: list[Event] = [Began(stage, one.name) for one in ready(state)]
    at_work = [] if current is None else [n.name for n in current.nodes if n.status is Status.RUNNING]
    likely += [NodeEnded(stage, name, draw(OUTCOMES), draw(st.sampled_from([None, DIGEST]))) for name in at_work]
    return draw(
        st.sampled_from(
            [
                *likely * 3,
                Admitted(stage),
                Held("waits"),
                Waits(stage, node, draw(st.sampled_from(["", "why"]))),
                *deploys,
                NodeEnded(stage, node, draw(OUTCOMES), DIGEST, cancelled=draw(st.booleans())),
                Closed(stage),
                Closed(stage),
                Broke(stage, "broken"),
                Cancel("ada"),
                Supersede("newer"),
                Restart("ada"),
                Resumed(),
            ]
        )
    )


@given(st.data())
def test_the_laws_of_a_run_hold_whatever_happens_to_it_in_whatever_order(data: st.DataObject) -> None:
    state, now = run(), 0.0
    for _ in range(data.draw(st.integers(1, 80))):
        event = data.draw(events(state))
        now += 1.0
        try:
            after = decide(state, event, now)
        except Refused:
            assert isinstance(event, Cancel | Restart)
            continue
        check(state, event, after)
        state = after


def check(before: Run, event: Event, after: Run) -> None:
    # A deployment in flight ends by what became of its rollout, and by nothing else.
    for old, new in zip(before.stages, after.stages, strict=True):
        if old.in_flight:
            ended = isinstance(event, NodeEnded) and event.node == NodeKind.DEPLOY
            assert new.in_flight or ended
            assert not (new.status is Status.CANCELLED and new.in_flight)
    # What has ended stays as it ended.
    if before.status.ended:
        assert after == before or isinstance(event, Restart)
    # What was tested is what is deployed: once made, the artifact changes only with a new build.
    if before.artifact is not None and after.artifact != before.artifact:
        assert isinstance(event, NodeEnded) and event.node == NodeKind.ARTIFACT
    # A stage passes only when all of it has passed, and begins only when all before it have.
    for number, stage in enumerate(after.stages):
        nodes = after.plan.pipeline.stage(stage.name)
        if stage.status is Status.PASSED:
            assert all(node.status is Status.PASSED for node in stage.nodes)
        if stage.status is Status.RUNNING:
            assert all(earlier.status is Status.PASSED for earlier in after.stages[:number])
        for node in stage.nodes:
            # No gate passes without a report, no node without what it needs.
            if node.status is Status.PASSED:
                assert node.outcome is not None and node.outcome.passed and node.outcome.finding != "no-data"
                planned = nodes.node(node.name)
                for need in planned.needs:
                    status = stage.node(need).status
                    assert status is Status.PASSED or (planned.kind is NodeKind.GATE and status is Status.FAILED)
    if after.status is Status.PASSED:
        assert all(stage.status is Status.PASSED for stage in after.stages) and after.artifact is not None
    assert not set(ready(after)) or not stopping(after)
    # Said twice is said once, save for what has a number of its own.
    if not isinstance(event, Restart | Resumed | Cancel | NodeEnded):
        assert decide(after, event, 1e6) == after or isinstance(event, Held | Closed | Admitted | Began)


@given(st.data())
def test_every_run_comes_to_an_end_when_its_nodes_do(data: st.DataObject) -> None:
    state, now = run(), 0.0
    for _ in range(400):
        now += 1.0
        current = state.current
        if state.status.ended or current is None:
            break
        if current.status is not Status.RUNNING:
            state = decide(state, Admitted(current.name), now)
        for node in ready(state):
            state = decide(state, Began(current.name, node.name), now)
        at_work = [n.name for n in state.stage(current.name).nodes if n.status is Status.RUNNING]
        if at_work:
            name = data.draw(st.sampled_from(at_work))
            state = decide(state, NodeEnded(current.name, name, data.draw(OUTCOMES), DIGEST), now)
        if settled(state):
            state = decide(state, Closed(current.name), now)
    assert state.status in (Status.PASSED, Status.FAILED)
    failed = any(node.status is Status.FAILED for stage in state.stages for node in stage.nodes)
    assert (state.status is Status.FAILED) == failed
    assert (state.reason == "") == (state.status is Status.PASSED)


def played(state: Run, *events: Event) -> Run:
    for event in events:
        state = decide(state, event, 1.0)
    return state


def passed_until(state: Run, stop: StageName) -> Run:
    for stage in state.plan.pipeline.stages:
        if stage.name is stop:
            break
        state = played(state, Admitted(stage.name))
        while nodes := ready(state):
            for node in nodes:
                state = played(state, Began(stage.name, node.name), NodeEnded(stage.name, node.name, PASSED, DIGEST))
        state = played(state, Closed(stage.name))
    return state


def test_a_run_that_is_written_down_and_read_again_is_the_same() -> None:
    adapter = TypeAdapter(Run)
    state = passed_until(run(), StageName.STAGING)
    assert adapter.validate_json(adapter.dump_json(state)) == state


def test_the_nodes_of_a_stage_begin_when_what_they_need_has_passed_and_no_more_than_may_at_once() -> None:
    state = played(run(), Admitted(StageName.COMMIT))
    assert [node.name for node in ready(state)] == ["format", "test"]
    assert [node.name for node in ready(played(run(parallel=1), Admitted(StageName.COMMIT)))] == ["format"]
    state = played(state, Began(StageName.COMMIT, "test"), NodeEnded(StageName.COMMIT, "test", PASSED))
    assert [node.name for node in ready(state)] == ["format", "pack", "coverage"]


def test_a_gate_reads_the_report_of_a_step_that_has_failed_but_not_of_one_that_was_skipped() -> None:
    commit = StageName.COMMIT
    state = played(run(), Admitted(commit), Began(commit, "test"), NodeEnded(commit, "test", FAILED))
    nodes = state.stage(commit)
    assert "coverage" in [node.name for node in ready(state)]
    assert (nodes.node("pack").status, nodes.node("lint").status) == (Status.SKIPPED, Status.SKIPPED)
    assert nodes.node("artifact").status is Status.SKIPPED


def test_the_reason_of_a_failed_run_names_the_stage_the_node_and_what_it_said() -> None:
    commit = StageName.COMMIT
    state = played(run(), Admitted(commit), Began(commit, "format"), NodeEnded(commit, "format", FAILED))
    state = played(state, Began(commit, "test"), NodeEnded(commit, "test", PASSED))
    while nodes := ready(state):
        state = played(state, Began(commit, nodes[0].name), NodeEnded(commit, nodes[0].name, PASSED))
    state = played(state, Closed(commit))
    assert (state.status, state.reason) == (Status.FAILED, "commit: format: bad")


def test_what_fails_for_no_fault_of_the_commit_is_tried_again_and_then_fails() -> None:
    commit, lost = StageName.COMMIT, Outcome(False, "lost", infrastructure=True)
    state = played(run(), Admitted(commit))
    for tries in (1, 2):
        state = played(state, Began(commit, "format"), NodeEnded(commit, "format", lost))
        assert state.stage(commit).node("format").status is Status.PENDING, tries
    state = played(state, Began(commit, "format"), NodeEnded(commit, "format", lost))
    assert state.stage(commit).node("format").status is Status.FAILED


def test_a_cancelled_run_ends_when_what_is_at_work_has_ended() -> None:
    commit = StageName.COMMIT
    state = played(run(), Admitted(commit), Began(commit, "test"), Cancel("ada"))
    assert stopping(state) and not state.status.ended and not settled(state)
    state = played(state, NodeEnded(commit, "test", FAILED, cancelled=True))
    assert settled(state)
    state = played(state, Closed(commit))
    assert (state.status, state.reason) == (Status.CANCELLED, "cancelled by ada")


def test_a_deployment_in_flight_is_neither_cancelled_nor_superseded_nor_lost_with_the_server() -> None:
    staging = StageName.STAGING
    state = played(passed_until(run(), staging), Admitted(staging), Began(staging, "deploy"))
    state = played(state, Deploying(staging, ReleaseNumber(3), 7))
    with pytest.raises(Refused, match="in flight is not cancelled"):
        decide(state, Cancel("ada"), 2.0)
    assert decide(state, Supersede("newer"), 2.0) == state
    resumed = decide(state, Resumed(), 2.0)
    assert resumed.in_flight and resumed.stage(staging).rollout == 7
    assert resumed.stage(staging).node("deploy").status is Status.RUNNING


def test_one_that_waits_for_an_approval_can_be_cancelled() -> None:
    staging = StageName.STAGING
    state = played(passed_until(run(), staging), Admitted(staging), Began(staging, "deploy"))
    state = played(state, Deploying(staging, ReleaseNumber(3), approval=2), Waits(staging, "deploy", "approval 2"))
    assert (state.status, state.waiting) == (Status.WAITING, "approval 2")
    assert stopping(decide(state, Cancel("ada"), 2.0))


def test_a_failed_run_goes_on_from_the_stage_that_failed_with_the_same_artifact() -> None:
    staging = StageName.STAGING
    state = played(passed_until(run(), staging), Admitted(staging), Began(staging, "deploy"))
    state = played(state, NodeEnded(staging, "deploy", FAILED), Closed(staging))
    assert state.status is Status.FAILED
    again = decide(state, Restart("ada"), 3.0)
    assert (again.status, again.artifact, again.stage(staging).attempt) == (Status.QUEUED, DIGEST, 2)
    assert again.stage(StageName.COMMIT).status is Status.PASSED
    with pytest.raises(Refused):
        decide(again, Restart("ada"), 3.0)


def test_a_stage_that_ends_the_server_again_and_again_is_given_up() -> None:
    state = played(run(), Admitted(StageName.COMMIT), Began(StageName.COMMIT, "test"))
    for _ in range(MOST_ATTEMPTS):
        assert not stopping(state)
        state = played(state, Resumed(), Began(StageName.COMMIT, "test"))
    assert stopping(state) and "the server ended" in state.reason


def test_the_time_that_a_stage_waits_is_kept_with_the_reason() -> None:
    state = decide(run(), Held("waits for #7"), 10.0)
    state = decide(state, Held("waits for #8"), 15.0)
    state = decide(state, Admitted(StageName.COMMIT), 40.0)
    assert dict(state.stage(StageName.COMMIT).waits) == {"waits for #7": 5.0, "waits for #8": 25.0}


# --- the graph


def test_steps_that_need_each_other_in_a_circle_are_refused_by_name() -> None:
    with pytest.raises(Invalid, match="a -> b -> a"):
        in_order("x", {"a": ["b"], "b": ["a"]})
    with pytest.raises(Invalid, match="one of b"):
        in_order("x", {"a": ["c"], "b": []})


@given(st.permutations(["a", "b", "c", "d", "e"]), st.data())
def test_an_order_of_steps_has_each_after_those_that_it_needs(names: list[str], data: st.DataObject) -> None:
    needs = {
        name: data.draw(st.sets(st.sampled_from(names[:i]) if i else st.nothing())) for i, name in enumerate(names)
    }
    order = in_order("x", needs)
    assert sorted(order) == sorted(names)
    assert all(order.index(other) < order.index(name) for name in names for other in needs[name])


def test_the_artifact_is_built_last_and_load_comes_after_all_that_could_disturb_it() -> None:
    commit, staging = pipeline().stage("commit"), pipeline().stage("staging")
    assert set(commit.node("artifact").needs) == {node.name for node in commit.nodes} - {"artifact"}
    assert staging.node("browser").needs == ("deploy",)
    assert set(staging.node("load").needs) == {"browser", "smoke"}
    with pytest.raises(Invalid, match="a name other than"):
        nodes_of(StageName.COMMIT, {"deploy": (Step(("x",)), ())}, {})
    assert isinstance(commit.nodes[0], Node)


# --- turns


def zones(name: str) -> object:
    from zoneinfo import ZoneInfo

    return ZoneInfo(name)


def said(state: Run, others: list[Run], slots: int = 2, ground: Ground | None = None) -> Event | None:
    return turn(state, others, slots, ground, 0.0, zones)  # type: ignore[arg-type] # a ZoneInfo is a tzinfo


@given(st.integers(1, 4), st.integers(1, 12), st.randoms(use_true_random=False))
def test_runs_verify_in_the_order_in_which_they_came_and_no_more_than_may_at_once(
    slots: int, count: int, chance: Random
) -> None:
    waiting = {number: run(number, number, supersede=False) for number in range(1, count + 1)}
    begun: list[int] = []
    while len(begun) < count or any(not state.status.ended for state in waiting.values()):
        order = sorted(waiting)
        chance.shuffle(order)
        for number in order:
            state = waiting[number]
            if state.status.ended:
                continue
            current = state.current
            assert current is not None
            if current.status is Status.RUNNING:
                if chance.random() < 0.5:
                    waiting[number] = decide(decide(state, Broke(current.name, "x"), 1.0), Closed(current.name), 1.0)
                continue
            others = [other for other in waiting.values() if other.id != number and not other.status.ended]
            event = said(state, others, slots)
            assert event is not None
            waiting[number] = decide(state, event, 1.0)
            if isinstance(event, Admitted):
                begun.append(number)
        assert sum(s.current is not None and s.current.status is Status.RUNNING for s in waiting.values()) <= slots
    # With several at once two may begin in one look; who came earlier never begins after somebody `slots` behind.
    assert all(number <= begun[place] + slots for place, number in enumerate(sorted(begun)))
    assert sorted(begun) == list(range(1, count + 1))


def at(stage: StageName, id: int, depth: int, **changes: object) -> Run:
    return passed_until(run(id, depth, **changes), stage)


def test_only_one_run_at_a_time_is_in_an_environment_and_the_others_say_whom_they_wait_for() -> None:
    holder = played(at(StageName.STAGING, 1, 1), Admitted(StageName.STAGING))
    event = said(at(StageName.STAGING, 2, 2), [holder], ground=Ground())
    assert event == Held("waits for run #1, which holds shop/staging")
    event = said(at(StageName.STAGING, 2, 2), [], ground=Ground(holder=9))
    assert event == Held("waits for rollout #9, which holds shop/staging")


def test_an_older_commit_never_replaces_a_newer_one() -> None:
    event = said(at(StageName.PRODUCTION, 2, 1), [], ground=Ground(relation="older", live="abcdef0 (r9)"))
    assert isinstance(event, Supersede) and "older than abcdef0 (r9)" in event.why


def test_of_those_that_wait_for_an_environment_only_the_latest_goes_on_unless_each_shall_have_its_turn() -> None:
    one, two = at(StageName.STAGING, 1, 1), at(StageName.STAGING, 2, 2)
    assert isinstance(said(one, [two], ground=Ground()), Supersede)
    assert isinstance(said(two, [one], ground=Ground()), Held)
    one, two = (at(StageName.STAGING, n, n, queue=QueuePolicy.QUEUE) for n in (1, 2))
    assert said(one, [two], ground=Ground()) == Admitted(StageName.STAGING)
    assert said(two, [one], ground=Ground()) == Held("waits for run #1, which is before it at shop/staging")


def test_the_verification_of_a_commit_is_cancelled_when_a_newer_one_of_its_branch_comes() -> None:
    old, new = run(1, 1), run(2, 2)
    assert superseded(old, [new]) is not None and superseded(new, [old]) is None
    assert superseded(run(1, 1, supersede=False), [new]) is None
    deploying = played(at(StageName.STAGING, 1, 1), Admitted(StageName.STAGING))
    assert superseded(deploying, [new]) is None


def test_keys_of_a_run_are_those_of_the_last_environment_that_it_deploys_to() -> None:
    assert run().plan.key == EnvKey("shop", "production")
