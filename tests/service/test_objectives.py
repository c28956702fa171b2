"""What is counted once a second, and what is said of it: with gaps, restarts, clocks that jump and sources that hang."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from crossfade.domain.access import Role
from crossfade.domain.alert import Severity
from crossfade.domain.analysis.policy import Analysis, Source, SourceKind
from crossfade.domain.analysis.totals import Totals
from crossfade.domain.errors import CrossfadeError, Frozen, Invalid, NotFound, StorageFailed, Unavailable
from crossfade.domain.health import CheckResult
from crossfade.domain.release import ReleaseConfig
from crossfade.domain.rollout import Rollout
from crossfade.domain.slo import EDGE, PROBE, Counted, Exhausted, Kind, Objective, Probe, Series, SloPolicy
from crossfade.domain.traffic import Slot
from crossfade.domain.values import DAY, EnvKey
from crossfade.ports import Approval
from crossfade.service import Request
from crossfade.service.outside import Answered, Outside, _Probed
from tests.service.stage import ADMIN, KEY, OPERATOR, STAGING, VIEWER, Stage, person

ANSWERS = Objective("answers", 0.999)
FAST = Objective("fast", 0.99, Kind.LATENCY, threshold=0.3)
POLICY = SloPolicy((ANSWERS, FAST), probe=Probe(0.0))


class World:
    """A release is live with objectives, and a test turns the clock second by second."""

    def __init__(self, policy: SloPolicy = POLICY, **settings: Any) -> None:
        self.stage = Stage()
        self.stage.live(slo=policy, **settings)
        self.stage.signals.ensure(KEY)
        self.restart()

    def restart(self) -> None:
        """A server that was just started."""
        self.service = self.stage.another_server()
        self.passed = 0.0
        self.service.objectives.monotonic = lambda: self.passed

    def second(
        self,
        requests: int = 0,
        errors: int = 0,
        seconds: float | None = 0.005,
        slot: Slot = Slot.BLUE,
        lasts: float = 1.0,
    ) -> None:
        """One second (or what it ``lasts``) passes in which so much is served, and the edge is looked at."""
        self.stage.now += lasts
        self.passed += lasts
        if requests:
            self.stage.signals.serve(KEY, slot, requests, errors, seconds=seconds)
        self.service.objectives.look()

    def counted(self, name: str, seconds: float = 1e5, key: EnvKey = KEY) -> Counted:
        found = self.stage.parts.histories.count(Series(key, name), self.stage.now - seconds, self.stage.now)
        return Counted(round(found.total, 6), round(found.bad, 6), round(found.covered, 6))

    def alerts(self) -> dict[str, Severity]:
        return {alert.name: alert.severity for alert in self.service.alerts.list(KEY, open_only=True)}


def test_each_second_is_counted_once_for_the_edge_and_each_objective() -> None:
    world = World()
    for _ in range(10):
        world.second(100, 1)
    assert world.counted(EDGE) == Counted(900, 9, 9), "what was before the first look is not known"
    assert world.counted("answers") == Counted(900, 9, 9)
    assert world.counted("fast") == Counted(900, 0, 9)


def test_of_latencies_the_share_of_the_samples_counts_and_without_any_it_waits_and_then_is_not_known() -> None:
    world = World()
    world.second()
    world.second(10, seconds=1.0)
    assert world.counted("fast") == Counted(10, 10, 1)
    for _ in range(5):
        world.second(10, seconds=None)
    assert world.counted("fast") == Counted(10, 10, 1), "nobody knows yet"
    world.second(10, seconds=0.01)
    assert world.counted("fast") == Counted(70, 10, 7)
    for _ in range(12):
        world.second(10, seconds=None)
    assert world.counted("fast").covered == 7
    assert world.counted("answers").covered == 19


def test_a_reading_that_fails_is_made_up_for_when_the_edge_has_counted_on() -> None:
    world = World()
    world.second()
    world.stage.signals.fails_with = Unavailable("The edge does not answer.")
    for _ in range(5):
        world.second(10)
    assert world.counted(EDGE) == Counted()
    world.stage.signals.fails_with = None
    world.second(10)
    assert world.counted(EDGE) == Counted(60, 0, 6)


def test_an_edge_that_has_lost_its_counts_leaves_a_gap_and_nothing_negative_or_doubled() -> None:
    world = World()
    world.second()
    world.second(100, 10)
    world.stage.signals.lose()
    world.second(40)
    assert world.counted(EDGE) == Counted(100, 10, 1)
    world.second(5)
    assert world.counted(EDGE) == Counted(105, 10, 2)


def test_what_the_edge_counts_while_there_is_no_server_is_known_after_it() -> None:
    world = World()
    world.second()
    world.second(100, 1)
    world.stage.signals.serve(KEY, Slot.BLUE, 600, 6)
    world.stage.now += 60
    world.restart()
    world.second(10)
    assert world.counted(EDGE) == Counted(710, 7, 62)
    assert world.counted(EDGE, 61).total == pytest.approx(610)
    world.second(10)
    assert world.counted(EDGE) == Counted(720, 7, 63)


def test_a_server_that_was_killed_and_forgot_where_it_stood_counts_nothing_twice() -> None:
    world = World()
    for _ in range(20):
        world.second(100, 1)  # it was written down at the first look, and not since
    world.restart()
    world.second(100, 1)
    assert world.counted(EDGE) == Counted(2000, 20, 20)


@pytest.mark.parametrize("jump", [3600.0, -3600.0])
def test_a_clock_that_jumps_leaves_a_gap_and_no_burst(jump: float) -> None:
    world = World()
    world.second()
    world.second(100)
    world.stage.now += jump
    world.second(5000, 5000)
    assert world.counted(EDGE).bad == 0
    before = world.counted(EDGE).total
    world.second(7)
    assert world.counted(EDGE).total == before + 7


def test_a_failure_pages_at_once_and_is_over_only_when_it_is_calm() -> None:
    world = World()
    for _ in range(10):
        world.second(600, lasts=60)
    assert world.alerts() == {}
    world.second(150, 150, lasts=15)
    assert world.alerts()["burn:answers"] is Severity.PAGE
    (alert, *_) = [a for a in world.service.alerts.list(KEY, open_only=True) if a.name == "burn:answers"]
    assert alert.facts["proposal"]["command"] == "", "there is no release to go back to"
    for _ in range(4):
        world.second(600, lasts=60)
    assert world.alerts()["burn:answers"] is Severity.PAGE, "its short window still has it"
    for _ in range(30):
        world.second(2400, lasts=240)
    assert world.alerts().get("burn:answers") is not Severity.PAGE
    opened = [a for a in world.service.alerts.list(KEY, limit=500) if a.name == "burn:answers"]
    assert [a.severity for a in opened].count(Severity.PAGE) == 1, "it does not flap"


def known(world: World, days: float = 2.0) -> None:
    """So much of the window is known, in which nobody asked for anything."""
    begins, ends = world.stage.now - days * DAY, world.stage.now
    world.stage.parts.histories.add(Series(KEY, "answers"), begins, ends, Counted(0.0, 0.0, ends - begins))


def test_a_budget_of_which_hardly_a_day_is_known_freezes_nothing_yet() -> None:
    world = World()
    world.second()
    for _ in range(60):
        world.second(100, 2)
    assert world.service.objectives.exhausted(KEY) is None
    (alert,) = [a for a in world.service.alerts.list(KEY, open_only=True) if a.name == "budget:answers"]
    assert "nothing is frozen yet" in alert.sentence
    world.stage.service = world.service
    assert isinstance(world.stage.deploy(ADMIN), Rollout)


def test_an_alert_that_says_that_nothing_is_frozen_yet_says_so_no_more_when_it_is() -> None:
    world = World()
    world.second()
    for _ in range(60):
        world.second(100, 2)
    known(world)
    for _ in range(20):
        world.second(100, 2)
    assert world.service.objectives.exhausted(KEY) is not None
    (alert,) = [a for a in world.service.alerts.list(KEY, open_only=True) if a.name == "budget:answers"]
    assert "nothing but rollbacks and fixes is deployed" in alert.sentence


def test_a_used_up_budget_freezes_deployments_says_until_when_and_lets_fixes_through() -> None:
    world = World()
    known(world)
    world.second()
    for _ in range(60):
        world.second(100, 2)
    found = world.service.objectives.exhausted(KEY)
    assert found is not None and found.objective == "answers"
    assert found.lifts is not None and found.lifts > world.stage.now
    world.stage.service = world.service
    with pytest.raises(Frozen, match="error budget of answers is used up"):
        world.stage.deploy(ADMIN)
    assert world.alerts()["budget:answers"] is Severity.TICKET
    view = world.service.objectives.view(KEY)
    assert view["frozen"]["lifts"] == found.lifts
    state = _fix(world, "it closes what r1 leaks")
    assert isinstance(state, Rollout)
    assert world.service.fixes.marked(KEY, state.plan.candidate) == "it closes what r1 leaks"
    assert [note["what"] for note in world.stage.noted()].count("rollout.fix") == 1


def _fix(world: World, why: str) -> Rollout | Approval:
    number = world.stage.parts.store.releases(KEY, limit=1)[0]
    return world.service.deploy(Request(KEY, number.digest, {}, {}, "fix", OPERATOR, why))


def test_a_fix_without_a_reason_is_refused_before_anything_is_numbered() -> None:
    world = World()
    before = world.stage.parts.store.releases(KEY)
    with pytest.raises(Invalid, match="a reason of 1 to"):
        _fix(world, "  \n ")
    assert world.stage.parts.store.releases(KEY) == before


def test_a_freeze_applies_where_the_objectives_are_and_a_rollback_is_never_kept() -> None:
    world = World()
    known(world)
    world.second()
    for _ in range(60):
        world.second(100, 2)
    world.stage.service = world.service
    world.stage.deploy(ADMIN, STAGING)
    environment = world.stage.parts.store.environment(KEY)
    assert environment is not None and environment.live is not None
    world.service.refuse_frozen(STAGING, ReleaseConfig(("x",)))
    second = World()
    known(second)
    second.stage.live(slo=POLICY)
    second.second()
    for _ in range(60):
        second.second(100, 2, slot=Slot.GREEN)
    assert second.service.objectives.exhausted(KEY) is not None
    assert second.service.rollback(KEY, None, OPERATOR).plan.candidate.n == 1


def test_where_the_policy_is_to_warn_nothing_is_frozen() -> None:
    world = World(replace(POLICY, exhausted=Exhausted.WARN))
    world.second()
    for _ in range(60):
        world.second(100, 2)
    assert world.service.objectives.exhausted(KEY) is None
    assert "budget:answers" in world.alerts()


def test_whoever_may_not_deploy_may_not_mark_a_fix() -> None:
    world = World()
    with pytest.raises(CrossfadeError, match="operator"):
        world.service.fixes.mark(KEY, world.stage.parts.store.releases(KEY)[0].number, "because", VIEWER)
    with pytest.raises(CrossfadeError, match="1 to 200 characters"):
        world.service.fixes.mark(KEY, world.stage.parts.store.releases(KEY)[0].number, "  ", ADMIN)


def test_the_view_and_the_history_are_whole_also_before_anything_was_counted() -> None:
    world = World()
    view = world.service.objectives.view(KEY)
    assert [one["state"] for one in view["objectives"]] == ["unknown", "unknown"]
    assert view["objectives"][0]["budget"] == {"allowed": 0.0, "used": 0.0, "left": None, "exhausted": False}
    assert (view["probe"], view["frozen"], view["alerts"]) == (None, None, [])
    assert world.service.objectives.history(KEY, "answers", 0, world.stage.now, 60) == []
    with pytest.raises(NotFound, match="no objective 'nothing'"):
        world.service.objectives.history(KEY, "nothing", 0, 1, 1)


class Elsewhere:
    """A source that counts what it is told, and hangs while it is told to."""

    def __init__(self) -> None:
        self.requests = self.errors = 0.0
        self.hangs = threading.Event()
        self.asked: list[Mapping[str, str]] = []
        self.trouble = ""

    def read(self, source: Source, arm: Mapping[str, str]) -> Totals:
        self.asked.append(arm)
        while self.hangs.is_set():
            time.sleep(0.01)
        if self.trouble:
            raise Unavailable(self.trouble)
        return Totals({"requests": {"a": self.requests}, "errors": {"a": self.errors}})


def test_an_objective_with_a_source_is_counted_by_it_and_one_that_hangs_holds_up_nobody() -> None:
    source = Source("api", SourceKind.PROMETHEUS, "http://127.0.0.1:1", requests="up", errors="down")
    policy = SloPolicy((ANSWERS, Objective("paid", 0.995, signal="api")), probe=Probe(0.0))
    world = World(policy, analysis=Analysis(sources=(source,)))
    elsewhere = Elsewhere()
    world.stage.parts = replace(world.stage.parts, sources=elsewhere)
    world.restart()
    asking, name = world.service.objectives.elsewhere, (KEY, "paid")
    elsewhere.hangs.set()
    world.second()
    for _ in range(3):
        world.second(10, 1)
    assert world.counted("answers") == Counted(30, 3, 3), "a source that hangs holds up nobody"
    elsewhere.hangs.clear()
    asking.stop()
    world.stage.now += 5
    asking.turn(name)
    elsewhere.requests, elsewhere.errors = 100.0, 4.0
    world.stage.now += 5
    asking.turn(name)
    assert world.counted("paid") == Counted(100, 4, 5)
    assert elsewhere.asked[-1] == {
        "service": "bookshop", "environment": "production", "slot": "blue", "release": "r1", "arm": "baseline",
    }  # fmt: skip
    elsewhere.trouble = "api: connection refused"
    world.stage.now += 5
    asking.turn(name)
    (paid,) = [one for one in world.service.objectives.view(KEY)["objectives"] if one["name"] == "paid"]
    assert "connection refused" in paid["sentence"]
    elsewhere.trouble = ""
    world.stage.now += 300
    asking.turn(name)
    assert world.counted("paid").covered == 5, "of so long a time nobody knows how often it began anew"


# --- from outside


class Answers:
    """What the prober is answered."""

    def __init__(self) -> None:
        self.faults: tuple[str, ...] = ()

    def check(self, base_url: str, checks: Any, headers: Any) -> tuple[CheckResult, ...]:
        return tuple(CheckResult(check.name, base_url, self.faults, 0.01) for check in checks)

    def flow(self, *_: Any) -> tuple[CheckResult, ...]:
        raise AssertionError("nobody asks for it")


def probed(world: World, served: float = 0.0) -> tuple[Outside, _Probed, Answers]:
    answers = Answers()
    parts = replace(world.stage.parts, prober=answers)
    config = ReleaseConfig(("x",), slo=replace(POLICY, probe=Probe(10.0)))
    return Outside(parts, world.service.alerts, lambda _key, _since: served), _Probed(KEY, config), answers


def test_each_question_from_outside_stands_for_the_time_since_the_last_one() -> None:
    world = World()
    outside, one, _ = probed(world)
    for at, fault in ((100.0, ""), (110.0, "status 500, expected 200"), (117.0, "")):
        outside.asked(one, Answered(at, fault))
    world.stage.now = 200.0
    assert world.counted(PROBE, 200) == Counted(3, 1, 27)


def test_three_bad_answers_in_a_row_are_told_once_and_three_good_ones_end_it() -> None:
    world = World()
    outside, one, _ = probed(world)
    for at in range(10):
        outside.asked(one, Answered(100.0 + 10 * at, "timed out after 5 s"))
    assert world.alerts() == {"prober": Severity.PAGE}
    outside.asked(one, Answered(210.0))
    assert "prober" in world.alerts()
    for at in range(2):
        outside.asked(one, Answered(220.0 + 10 * at))
    assert world.alerts() == {}
    assert len(world.service.alerts.list(KEY)) == 1


def test_a_history_that_is_broken_is_said_once_and_the_prober_tells_all_the_same(
    caplog: pytest.LogCaptureFixture,
) -> None:
    world = World()
    histories = world.stage.parts.histories

    def write(*_: object) -> None:
        raise StorageFailed("Cannot write probe.rings: Not a directory.")

    def read(*_: object) -> Any:
        raise StorageFailed("Cannot read probe.rings: Not a directory.")

    histories.add, histories.count, histories.bins = write, read, read  # type: ignore[method-assign, assignment]  # a broken disk
    outside, one, _ = probed(world)
    outside._served = read
    for at in range(4):
        outside.asked(one, Answered(100.0 + 10 * at, "connection refused", unreached=True))
    assert world.alerts() == {"prober": Severity.PAGE}
    assert len([one for one in caplog.records if one.levelname == "WARNING"]) == 1
    caplog.clear()
    for _ in range(10):
        world.second(10, 1)
    assert 1 <= len([one for one in caplog.records if "Cannot" in one.getMessage()]) <= 3


def test_what_is_the_probers_own_fault_is_not_counted_and_said_to_be_its_own() -> None:
    world = World()
    outside, one, answers = probed(world, served=50.0)
    answers.faults = ("connection refused",)
    outside._probed[KEY] = one
    for _ in range(3):
        world.stage.now += 10
        outside._turn(KEY)
    assert world.counted(PROBE) == Counted()
    (alert,) = world.service.alerts.list(KEY, open_only=True)
    assert (alert.severity, alert.facts["own"]) == (Severity.TICKET, True)
    assert "while the edge serves others" in alert.sentence
    answers.faults = ("too many open files",)
    world.stage.now += 10
    outside._turn(KEY)
    assert world.counted(PROBE) == Counted()


def test_an_edge_that_nobody_reaches_is_bad_as_far_as_anybody_can_tell() -> None:
    world = World()
    outside, one, answers = probed(world, served=0.0)
    answers.faults = ("connection refused",)
    outside._probed[KEY] = one
    world.stage.now += 10
    outside._turn(KEY)
    assert world.counted(PROBE) == Counted(1, 1, 10)


def test_a_prober_that_hangs_holds_up_nobody() -> None:
    world = World(replace(POLICY, probe=Probe(0.1)))

    class Hangs(Answers):
        def check(self, *_: Any) -> tuple[CheckResult, ...]:
            time.sleep(5)
            raise AssertionError("it never answers")

    world.stage.parts = replace(world.stage.parts, prober=Hangs())
    world.restart()
    world.second()
    world.second(10)
    assert world.counted(EDGE) == Counted(10, 0, 1)
    world.service.objectives.outside.stop()


def test_the_thread_counts_by_itself_and_leaves_where_it_stood() -> None:
    world = World()
    world.service.objectives.monotonic = time.monotonic
    world.service.objectives.start()
    deadline = time.monotonic() + 10
    while world.counted(EDGE) == Counted() and time.monotonic() < deadline:
        world.stage.signals.serve(KEY, Slot.BLUE, 10)
        world.stage.now += 0.1
        time.sleep(0.1)
    world.service.objectives.stop()
    assert world.counted(EDGE).total > 0
    (meter,) = world.stage.parts.records.list("meter", KEY)
    assert meter.data["requests"] > 0


def test_an_approval_is_refused_by_a_used_up_budget_as_well_unless_it_is_of_a_fix() -> None:
    world = World()
    known(world)
    world.stage.config = replace(world.stage.config, approval=Role.OPERATOR)
    world.second()
    for _ in range(60):
        world.second(100, 2)
    olga, otto = person("olga", "operator"), person("otto", "operator")
    digest = world.stage.parts.store.releases(KEY, limit=1)[0].digest
    asked = world.service.deploy(Request(KEY, digest, {}, {}, "", olga))
    assert isinstance(asked, Approval)
    with pytest.raises(Frozen):
        world.service.approvals.approve(asked.id, otto)
    fix = world.service.deploy(Request(KEY, digest, {}, {}, "", olga, "it closes what leaks"))
    assert isinstance(fix, Approval)
    assert world.service.approvals.approve(fix.id, otto).plan.candidate == fix.release
