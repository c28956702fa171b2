"""The judge of a rollout between its looks: what it takes in, what it keeps, how it goes on after a restart."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from crossfade.domain.analysis.policy import ERROR_RATE, Analysis, Direction, Metric, Shape, Source, SourceKind
from crossfade.domain.analysis.verdict import Finding
from crossfade.domain.release import Canary, Step
from crossfade.domain.rollout import Kind, Phase, Plan
from crossfade.domain.traffic import Slot
from crossfade.domain.values import EnvKey, ReleaseNumber, Weight
from crossfade.engine.judging import Judging
from crossfade.fakes.access import FakeAccess
from crossfade.fakes.artifacts import FakeArtifacts
from crossfade.fakes.flags import MemoryFlags
from crossfade.fakes.history import MemoryHistories
from crossfade.fakes.prober import FakeProber
from crossfade.fakes.records import MemoryRecords
from crossfade.fakes.router import FakeRouter
from crossfade.fakes.runtime import FakeRuntime
from crossfade.fakes.secrets import FakeSecrets
from crossfade.fakes.signals import FakeSignals
from crossfade.fakes.sources import FakeSources
from crossfade.fakes.store import FakeStore
from crossfade.ports import Parts

KEY = EnvKey("bookshop", "production")
STRATEGY = Canary((Step(Weight(500), 60.0), Step(Weight(5000), 60.0)))
REQUIRED = Analysis(metrics=(ERROR_RATE,), deadline=600.0)


class Stage:
    """A rollout at its first step, a clock, and readings that a test writes."""

    def __init__(self, analysis: Analysis) -> None:
        self.now = 1000.0
        self.signals = FakeSignals(lambda: self.now)
        self.signals.ensure(KEY)
        self.sources = FakeSources()
        self.store = FakeStore()
        self.parts = Parts(
            store=self.store,
            router=FakeRouter(),
            runtime=FakeRuntime(),
            signals=self.signals,
            prober=FakeProber(),
            artifacts=FakeArtifacts(),
            secrets=FakeSecrets(),
            access=FakeAccess(),
            flags=MemoryFlags(self.store),
            records=MemoryRecords(self.store),
            histories=MemoryHistories(),
            key=b"key",
            now=lambda: self.now,
            sources=self.sources,
        )
        plan = Plan(KEY, Kind.DEPLOY, ReleaseNumber(2), ReleaseNumber(1), Slot.GREEN, STRATEGY, analysis=analysis)
        started = self.store.begin(plan, "ada", self.now)
        self.state = replace(started, phase=Phase.SHIFTING, weight=Weight(500), entered=self.now)
        self.mark = self.signals.read(KEY)
        self.random = random.Random(7)
        self.judging = Judging(self.parts, self.state)

    def serve(self, seconds: int, bad: float = 0.0, base: float = 0.0) -> Finding:
        """So many seconds at 1000 requests/s, with these shares of errors; the last finding."""
        finding = Finding.NO_DATA
        for _ in range(seconds):
            self.now += 1.0
            for slot, requests, share in ((Slot.BLUE, 950, base), (Slot.GREEN, 50, bad)):
                self.signals.serve(KEY, slot, requests, sum(self.random.random() < share for _ in range(requests)))
            finding = self.look()
            if finding is Finding.FAIL:
                break
        return finding

    def look(self) -> Finding:
        return self.judging.look(self.state, self.signals.read(KEY), self.mark).finding

    def restart(self) -> None:
        """The server ends at once, and another one comes up."""
        self.judging.close()
        self.judging = Judging(self.parts, self.state)


def test_a_bad_candidate_fails_within_seconds_and_the_sentence_has_its_numbers() -> None:
    stage = Stage(REQUIRED)
    began = stage.now
    assert stage.serve(30, bad=0.2) is Finding.FAIL
    assert stage.now - began <= 5
    verdict = stage.judging.look(stage.state, stage.signals.read(KEY), stage.mark)
    assert "errors" in verdict.sentence
    assert "with 95 % confidence at every moment" in verdict.sentence
    assert "limit 0.1 pp more" in verdict.sentence


def test_an_incident_on_both_arms_is_not_the_candidates() -> None:
    assert Stage(REQUIRED).serve(60, bad=0.1, base=0.1) is not Finding.FAIL


def test_a_good_candidate_passes_in_time_and_has_to_pass_anew_in_the_next_step() -> None:
    stage = Stage(replace(REQUIRED, metrics=(replace(ERROR_RATE, margin=0.02),)))
    assert stage.serve(30, bad=0.001, base=0.001) is Finding.PASS
    stage.state = replace(stage.state, step=1, weight=Weight(5000), entered=stage.now)
    assert stage.serve(1) is not Finding.PASS


def test_evidence_outlives_the_server() -> None:
    stage, other = Stage(REQUIRED), Stage(REQUIRED)
    for one in (stage, other):
        one.serve(6, bad=0.002, base=0.001)
    stage.restart()
    for one in (stage, other):
        one.serve(6, bad=0.004, base=0.001)
    kept, through = stage.store.evidence(stage.state.id), other.store.evidence(other.state.id)
    assert kept is not None
    assert through is not None
    assert kept["evidence"]["fail"]["values"] == pytest.approx(through["evidence"]["fail"]["values"], rel=1e-9)
    assert kept["evidence"]["seen"] == through["evidence"]["seen"]


def test_what_happened_while_the_server_was_away_is_seen_when_it_is_back_and_counted_once() -> None:
    stage = Stage(REQUIRED)
    stage.serve(3)
    stage.now += 20
    stage.signals.serve(KEY, Slot.BLUE, 19_000, 0)
    stage.signals.serve(KEY, Slot.GREEN, 1_000, 300)
    stage.restart()
    assert stage.look() is Finding.FAIL
    kept = stage.store.evidence(stage.state.id)
    assert kept is not None
    assert kept["evidence"]["seen"]["rates"][""] == [950.0 * 3 + 19_000, 0.0, 50.0 * 3 + 1_000, 300.0]


def test_counts_that_are_lost_begin_a_new_segment_and_nothing_is_taken_twice() -> None:
    stage = Stage(REQUIRED)
    stage.serve(5, bad=0.001, base=0.001)
    stage.signals.lose()
    stage.serve(2)
    kept = stage.store.evidence(stage.state.id)
    assert kept is not None
    assert kept["evidence"]["seen"]["rates"][""][0] == 950.0 * 7


def test_a_step_without_candidate_requests_has_no_data() -> None:
    stage = Stage(REQUIRED)
    stage.now += 5
    stage.signals.serve(KEY, Slot.BLUE, 5000, 0)
    assert stage.look() is Finding.NO_DATA


def test_a_source_that_does_not_answer_is_no_data_with_its_reason_if_it_is_required() -> None:
    source = Source("api", SourceKind.PROMETHEUS, "http://127.0.0.1:1", requests="a", errors="b")
    metric = Metric("api_errors", Shape.RATE, 0.01, "api")
    for required, finding in ((True, Finding.NO_DATA), (False, Finding.INCONCLUSIVE)):
        analysis = Analysis(metrics=(ERROR_RATE, replace(metric, required=required)), deadline=60, sources=(source,))
        stage = Stage(analysis)
        try:
            assert stage.serve(3) is finding
        finally:
            stage.judging.close()


def test_without_required_metrics_the_judge_only_ever_fails() -> None:
    stage = Stage(Analysis())
    assert stage.serve(2) is Finding.PASS
    assert stage.serve(20, bad=0.2) is Finding.FAIL


def test_alone_the_candidate_is_held_to_what_the_baseline_was_like() -> None:
    stage = Stage(REQUIRED)
    stage.signals.forget(KEY, Slot.BLUE)
    stage.now += 60
    stage.signals.serve(KEY, Slot.BLUE, 60_000, 60)
    stage.mark = stage.signals.read(KEY)
    stage.judging = Judging(stage.parts, stage.state)
    stage.state = replace(stage.state, weight=Weight(10_000), entered=stage.now)
    for _ in range(5):
        stage.now += 1
        stage.signals.serve(KEY, Slot.GREEN, 1000, 1)
        assert stage.look() is Finding.PASS
    stage.now += 1
    stage.signals.serve(KEY, Slot.GREEN, 1000, 60)
    assert stage.look() is Finding.FAIL


def test_business_events_are_compared_per_request() -> None:
    metric = Metric("conversion", Shape.MEAN, 0.1, "checkout", direction=Direction.DROP, required=False)
    stage = Stage(Analysis(metrics=(ERROR_RATE, metric), deadline=600))
    assert stage.store.event_tallies(KEY) == {}
    assert stage.serve(3) is not Finding.FAIL
