"""Rollouts and runs as traces: laws of spans, and what they say."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossfade.domain.environment import Entry
from crossfade.domain.pipeline.plan import Commit, Node, NodeKind, Outcome, Pipeline, Stage, StageName, Step
from crossfade.domain.pipeline.run import NodeState, Run, RunPlan, StageState, Status
from crossfade.domain.release import BlueGreen, Canary, Release, ReleaseConfig
from crossfade.domain.release import Step as Rung
from crossfade.domain.rollout import Kind, Phase, Plan, Rollout
from crossfade.domain.trace import Span, of_rollout, of_run, traceparent
from crossfade.domain.traffic import Slot
from crossfade.domain.values import Digest, EnvKey, ReleaseNumber, Weight

SEED = b"this installation"
KEY = EnvKey("bookshop", "production")
DIGEST = Digest("sha256:" + "a" * 64)
RELEASE = Release(ReleaseNumber(13), DIGEST, ReleaseConfig(("x",)), 1.0, "v2.1")
STEPS = (Rung(Weight(100), 10.0), Rung(Weight(2500), 10.0))

JOURNAL = (
    Entry(103.0, "started 2 replicas", "checking"),
    Entry(105.0, "connected", "ready"),
    Entry(106.0, "1 % to r13", "shifting", 100, "set-split"),
    Entry(116.0, "25 % to r13", "shifting", 2500, "set-split"),
    Entry(121.0, "rolls back: errors rose", "rolling-back"),
    Entry(121.5, "all traffic home", "rolling-back", 0, "set-split"),
    Entry(123.0, "closed", "rolled-back"),
)


def rollout(**other: object) -> Rollout:
    plan = Plan(KEY, Kind.DEPLOY, ReleaseNumber(13), ReleaseNumber(12), Slot.GREEN, Canary(STEPS))
    state = Rollout(8, plan, Phase.ROLLED_BACK, began=100.0, entered=123.0, reason="errors rose")
    return replace(state, **other)  # type: ignore[arg-type] # each test gives what it is about


def whole(spans: tuple[Span, ...]) -> None:
    """The laws of a trace."""
    root, *others = spans
    known = {span.id: span for span in spans}
    assert len(known) == len(spans)
    assert root.parent == ""
    for span in spans:
        assert (len(span.trace), len(span.id)) == (32, 16)
        assert span.trace == root.trace
        assert span.began <= span.ended
    for span in others:
        around = known[span.parent]
        assert around.began <= span.began and span.ended <= around.ended


entries = st.lists(
    st.builds(
        Entry,
        at=st.floats(0, 200),
        text=st.text(max_size=20),
        phase=st.sampled_from([phase.value for phase in Phase]),
        weight=st.none() | st.integers(0, 10_000),
        action=st.just(""),
    ),
    max_size=12,
)


@given(entries, st.floats(0, 300), st.sampled_from(Phase), st.sampled_from([BlueGreen(), Canary(STEPS)]))
def test_whatever_the_journal_and_its_clock_say_the_trace_is_one(
    journal: list[Entry], ended: float, phase: Phase, strategy: BlueGreen | Canary
) -> None:
    state = rollout(phase=phase)
    state = replace(state, plan=replace(state.plan, strategy=strategy))
    spans = of_rollout(SEED, state, journal, ended, RELEASE, "", None)
    whole(spans)
    assert spans == of_rollout(SEED, state, journal, ended, RELEASE, "", None)


def test_a_rollout_that_went_back_says_where_it_was_and_why() -> None:
    spans = of_rollout(SEED, rollout(), JOURNAL, 123.0, RELEASE, "https://x.example/rollouts/8", 7)
    whole(spans)
    root = spans[0]
    assert (root.name, root.error, root.began, root.ended) == (
        "rollout bookshop/production",
        "errors rose",
        100.0,
        123.0,
    )
    assert root.attributes["deployment.status"] == "failed"
    assert root.attributes["crossfade.release.baseline"] == "r12"
    assert [mark.attributes["crossfade.weight"] for mark in root.marks] == [100, 2500, 0]
    names = {span.name: span for span in spans}
    assert list(names) == ["rollout bookshop/production", "preparing", "checking", "ready", "shifting", "step at 1%",
                           "step at 25%", "rolling-back"]  # fmt: skip
    assert (names["step at 1%"].began, names["step at 1%"].ended) == (106.0, 116.0)
    assert (names["step at 25%"].parent, names["step at 25%"].ended) == (names["shifting"].id, 121.0)
    assert names["rolling-back"].error == "errors rose"
    assert names["rolling-back"].marks[-1].attributes["crossfade.journal"] == "closed"


def test_a_run_and_its_rollout_name_each_other() -> None:
    of_it = of_rollout(SEED, rollout(), JOURNAL, 123.0, RELEASE, "", 7)[0]
    spans = of_run(SEED, run(), 200.0, "https://x.example/runs/7")
    whole(spans)
    root = spans[0]
    assert of_it.links == ((root.trace, root.id),)
    assert root.links == ((of_it.trace, of_it.id),)
    deploy = next(span for span in spans if span.name == "deploy")
    assert deploy.links == root.links
    assert traceparent(SEED, "run-7") == f"00-{root.trace}-{root.id}-01"


def test_another_installation_has_other_traces() -> None:
    assert traceparent(SEED, "rollout-8") != traceparent(b"another", "rollout-8")
    assert traceparent(SEED, "rollout-8") != traceparent(SEED, "rollout-9")


def run(**other: object) -> Run:
    stages = (
        Stage(
            StageName.COMMIT,
            (Node("tests", NodeKind.COMMAND, what=Step(("true",))), Node("artifact", NodeKind.ARTIFACT)),
        ),
        Stage(StageName.PRODUCTION, (Node("deploy", NodeKind.DEPLOY),), environment="production"),
    )
    commit = Commit("4f2c81a" + "0" * 33, 1, 400.0, "Ada", "A change")
    plan = RunPlan(Pipeline("bookshop", stages), "https://ada:pw@git.example/shop.git", commit, "main", "push", "ada", "ada", (),
                   90.0, "{}")  # fmt: skip
    said = Outcome(False, "2 tests failed")
    nodes = (NodeState("tests", Status.FAILED, 101.0, 150.0, said, tries=1), NodeState("artifact", Status.SKIPPED))
    first = StageState(
        StageName.COMMIT, nodes, Status.FAILED, 1, 100.0, 151.0, reason="tests: 2 tests failed", held=3.0
    )
    deploy = NodeState("deploy", Status.PASSED, 160.0, 190.0, Outcome(True, "r13 is live"), tries=1)
    last = StageState(StageName.PRODUCTION, (deploy,), Status.PASSED, 1, 155.0, 195.0, rollout=8)
    made = Run(7, plan, (first, last), Status.FAILED, 100.0, 196.0, reason="tests: 2 tests failed")
    return replace(made, **other)  # type: ignore[arg-type] # each test gives what it is about


def test_a_run_has_a_span_for_each_stage_and_node_that_began() -> None:
    spans = of_run(SEED, run(), 200.0, "https://x.example/runs/7")
    assert [span.name for span in spans] == ["RUN bookshop", "stage commit", "tests", "stage production", "deploy"]
    root, _, tests, _, deploy = spans
    assert root.server
    assert (root.attributes["cicd.pipeline.result"], root.attributes["error.type"]) == ("failure", "run_failed")
    assert root.attributes["vcs.ref.head.revision"] == "4f2c81a" + "0" * 33
    assert root.attributes["vcs.repository.url.full"] == "https://git.example/shop.git"
    assert (tests.error, tests.attributes["cicd.pipeline.task.type"]) == ("2 tests failed", "test")
    assert deploy.attributes["cicd.pipeline.task.type"] == "deploy"


@given(
    st.floats(0, 300) | st.none(),
    st.floats(0, 300) | st.none(),
    st.floats(0, 300) | st.none(),
    st.floats(0, 300) | st.none(),
)
def test_a_clock_that_was_set_makes_no_span_that_leaves_the_one_around_it(
    began: float | None, finished: float | None, node_began: float | None, node_finished: float | None
) -> None:
    first, last = run().stages
    node = replace(first.nodes[0], began=node_began, finished=node_finished)
    first = replace(first, began=began, finished=finished, nodes=(node, *first.nodes[1:]))
    whole(of_run(SEED, run(stages=(first, last)), 200.0, ""))


@pytest.mark.parametrize("status", [Status.PASSED, Status.CANCELLED, Status.SUPERSEDED])
def test_only_what_failed_is_an_error(status: Status) -> None:
    root = of_run(SEED, run(status=status), 200.0, "")[0]
    assert root.error == "" and "error.type" not in root.attributes
