"""What a report says of what was written down: hand-computed figures, gaps, rights, and days that are kept for good."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from pydantic import TypeAdapter

from crossfade.domain.alert import Severity
from crossfade.domain.drill import Drill, Fault, Rehearsal, Seen
from crossfade.domain.drill import Phase as DrillPhase
from crossfade.domain.errors import Forbidden, Invalid, NotFound, Refused
from crossfade.domain.report.span import DAY, Span
from crossfade.domain.slo import EDGE, Counted, Series
from crossfade.domain.values import EnvKey
from crossfade.domain.watch import Cause, Means, Remedied, Watch
from crossfade.domain.watch import Phase as WatchPhase
from crossfade.domain.watch import Plan as WatchPlan
from crossfade.service.days import KIND, Days
from tests.service.report_stage import DIGEST, NOVEMBER, Ledger, at
from tests.service.stage import ADMIN, KEY, OPERATOR, STAGING, VIEWER, Stage, person

DECEMBER = Span.of_month("2026-12")


@pytest.fixture
def stage() -> Stage:
    stage = Stage()
    stage.now = float(NOVEMBER.ends) + 3600.0
    return stage


@pytest.fixture
def ledger(stage: Stage) -> Ledger:
    return Ledger(stage.parts, KEY)


def figures(report: Mapping[str, Any]) -> dict[str, tuple[Any, int]]:
    return {one["figure"]: (one["value"], one["n"]) for one in report["figures"]}


def test_a_month_as_computed_by_hand(stage: Stage, ledger: Ledger) -> None:
    first = ledger.deploy(at(2), lost=0)
    ledger.fail(at(5), took=30.0)  # back after 30 s; 1 % saw it
    ledger.deploy(at(5, 0.1))  # begun 6 minutes after it: a fix
    ledger.fail(at(9), weight=0, exposed=0, failed=0)  # nobody saw it
    second = ledger.deploy(at(12), took=60.0)
    assert ledger.live == second.plan.candidate
    ledger.go_back(at(12) + 60.0 + 600.0, first.plan.candidate, took=2.0)  # within its watch, by itself
    ledger.deploy(at(20), lost=2)
    for day in range(1, 31):
        ledger.quiet_day(int(at(day)), bad=86.4 if day == 5 else 0.0)
    report = stage.service.reports.report([KEY], NOVEMBER)
    assert figures(report) == {
        # 30 days of 86,400 requests each, 86.4 of which failed
        "edge": (pytest.approx(1 - 86.4 / (30 * 86_400)), 30 * 86_400),
        "outside": (1.0, 30 * 8640),
        "incidents": (2, 30),
        "frequency": (pytest.approx(4 / 30, abs=1e-4), 4),
        "lead_time": (None, 0),
        "fail_rate": (0.5, 6),
        "fail_rate_exposed": (pytest.approx(2 / 6, abs=1e-6), 6),
        # 30 s; and from half of the rollout's minute until the rollback's end: 30 + 600 + 2
        "recovery": (pytest.approx((30.0 + 632.0) / 2), 2),
        "rework": (pytest.approx(1 / 6, abs=1e-6), 6),
        "lost": (2, 7),
        "drill_recovery": (None, 0),
    }
    newest, oldest = report["incidents"]["list"]
    assert (oldest["share"], oldest["failed"], oldest["how"], oldest["duration"]) == (
        0.01,
        12,
        "automatic rollback",
        30.0,
    )
    assert (newest["share"], newest["release"], newest["detection"]) == (1.0, str(second.plan.candidate), 630.0)
    (place,) = report["environments"]
    (objective,) = place["objectives"]
    assert objective["budget_left"] == pytest.approx(1 - 86.4 / (0.001 * 30 * 86_400), abs=1e-6)
    assert objective["burn"][3][1] == 1.0 and objective["burn"][4][1] == objective["budget_left"]
    assert [day["deployments"] for day in report["days"]][:5] == [0, 1, 0, 0, 1]
    assert report["receipts"]["rollbacks"] == 1


def test_a_month_without_anything_says_nothing_and_not_zero(stage: Stage, ledger: Ledger) -> None:
    ledger.deploy(at(2))
    report = stage.service.reports.report([KEY], Span.of_month("2025-03"))
    assert {value for value, _ in figures(report).values()} == {None}
    assert {n for _, n in figures(report).values()} == {0}
    future = stage.service.reports.report([KEY], Span.of_month("2027-05"))
    assert {value for value, _ in figures(future).values()} == {None}
    assert (future["days"], future["whole"], future["until"]) == ([], False, future["begins"])


def test_gaps_are_gaps_and_no_hundred_per_cent(stage: Stage, ledger: Ledger) -> None:
    ledger.deploy(at(2))
    ledger.count(int(at(3)), covered=DAY / 2)
    report = stage.service.reports.report([KEY], NOVEMBER)
    edge = report["environments"][0]["edge"]
    assert edge["good"] == 1.0
    assert edge["covered"] == pytest.approx(0.5 / 30, abs=1e-6)
    assert [day["edge"]["good"] for day in report["days"][:4]] == [None, None, 1.0, None]


def test_the_month_under_way_is_told_so_far_and_compared_with_the_one_before(stage: Stage, ledger: Ledger) -> None:
    ledger.deploy(at(2))
    ledger.deploy(at(3))
    stage.now = DECEMBER.begins + 10.5 * DAY
    ledger.deploy(DECEMBER.begins + 2 * DAY)
    report = stage.service.reports.report([KEY], DECEMBER)
    frequency = next(one for one in report["figures"] if one["figure"] == "frequency")
    assert (frequency["value"], frequency["n"], frequency["before"]["n"]) == (pytest.approx(1 / 10.5, abs=1e-4), 1, 2)
    assert frequency["before"]["value"] == pytest.approx(2 / 29, abs=1e-4), "nothing is known of its first day"
    assert not report["whole"]
    assert len(report["days"]) == 11


def test_a_page_and_bad_minutes_are_one_incident_and_a_rehearsal_is_none(stage: Stage, ledger: Ledger) -> None:
    ledger.deploy(at(2))
    begins = int(at(7, 3))
    ledger.parts.histories.add(Series(KEY, EDGE), begins, begins + 300, Counted(3000.0, 90.0, 300.0))
    stage.now = begins + 120.0
    stage.service.alerts.open(KEY, "burn:answers", Severity.PAGE, "answers burns 20 times too fast")
    stage.service.alerts.open(KEY, "drill:weekly", Severity.PAGE, "the drill has failed")
    stage.service.alerts.open(KEY, "burn:slow", Severity.TICKET, "slowly")
    stage.now = begins + 900.0
    stage.service.alerts.resolve(KEY, "burn:answers", "it is over")
    stage.now = float(NOVEMBER.ends)
    (incident,) = stage.service.reports.report([KEY], NOVEMBER)["incidents"]["list"]
    assert incident["what"] == "answers burns 20 times too fast"
    # The alert forgets later than the harm is over.
    assert (incident["duration"], incident["detection"], incident["failed"]) == (300.0, 120.0, 90)
    assert incident["how"] == "by itself"


def test_days_outlive_the_histories_and_a_restart(stage: Stage, ledger: Ledger) -> None:
    ledger.deploy(at(2))
    for day in range(1, 31):
        ledger.quiet_day(int(at(day)), bad=800.0 if day == 8 else 0.0)
    before = stage.service.reports.report([KEY], NOVEMBER)
    assert Days(stage.parts).keep() == 30
    assert Days(stage.parts).keep() == 0  # a server that was started again finds them
    for series in stage.parts.histories.all():
        stage.parts.histories.remove(series)
    stage.now += 400 * DAY
    after = stage.service.reports.report([KEY], NOVEMBER)
    kept = ("edge", "outside", "objectives")
    assert [after["environments"][0][name] for name in kept] == [before["environments"][0][name] for name in kept]
    assert after["days"] == before["days"]
    assert after["incidents"]["n"] == before["incidents"]["n"]
    assert len(stage.parts.records.list(KIND, KEY)) == 1


def test_a_day_is_written_down_when_it_is_over_and_only_once(stage: Stage, ledger: Ledger) -> None:
    ledger.deploy(at(2))
    ledger.quiet_day(int(at(2)))
    days = Days(stage.parts)
    stage.now = at(3) + 60.0
    assert days.keep() == 0  # late counts may still come
    stage.now = at(3) + 180.0
    assert [days.keep(), days.keep()] == [1, 0]
    ledger.quiet_day(int(at(3)))
    stage.now = at(9)
    assert days.keep() == 1
    (record,) = stage.parts.records.list(KIND, KEY)
    assert [day["at"] for day in record.data["days"]] == [at(2), at(3)]


def test_the_thread_writes_days_down(stage: Stage, ledger: Ledger) -> None:
    ledger.deploy(at(2))
    ledger.quiet_day(int(at(2)))
    days = Days(stage.parts, interval=0.01)
    days.start()
    try:
        for _ in range(500):
            if stage.parts.records.list(KIND, KEY):
                break
            days._stop.wait(0.02)
    finally:
        days.stop()
    assert len(stage.parts.records.list(KIND, KEY)) == 1


def test_a_report_is_of_what_the_asker_sees(stage: Stage, ledger: Ledger) -> None:
    ledger.deploy(at(2))
    Ledger(stage.parts, STAGING).deploy(at(2, 1))
    reports = stage.service.reports
    assert reports.keys([], ADMIN, NOVEMBER) == [KEY]  # production of all
    assert reports.keys(["bookshop"], ADMIN, NOVEMBER) == [KEY, STAGING]
    assert reports.keys(["*/staging"], ADMIN, NOVEMBER) == [STAGING]
    assert reports.keys([], person("s", "viewer@bookshop/staging"), NOVEMBER) == [STAGING]
    assert reports.keys(["bookshop"], person("s", "viewer@bookshop/staging"), NOVEMBER) == [STAGING]
    with pytest.raises(Forbidden):
        reports.keys([str(KEY)], person("s", "viewer@bookshop/staging"), NOVEMBER)
    with pytest.raises(NotFound, match="no nothing"):
        reports.keys(["nothing"], ADMIN, NOVEMBER)
    for wrong in ("", "/", "a/", "a/b/c"):
        with pytest.raises(Invalid):
            reports.keys([wrong], ADMIN, NOVEMBER)


def test_an_environment_that_is_gone_keeps_its_days(stage: Stage) -> None:
    gone = EnvKey("atlas", "production")
    other = Stage()
    other.now = stage.now
    Ledger(other.parts, gone).deploy(at(2))
    Ledger(other.parts, gone).quiet_day(int(at(2)))
    Days(other.parts).keep()
    (record,) = other.parts.records.list(KIND, gone)
    stage.parts.records.add(KIND, gone, record.subject, record.data, stage.now, ended=stage.now)
    keys = stage.service.reports.keys([], ADMIN, NOVEMBER)
    (place,) = stage.service.reports.report(keys, NOVEMBER)["environments"]
    assert (place["gone"], place["edge"]["n"]) == (True, 86_400)


def test_a_person_may_mark_a_deployment_and_take_it_back(stage: Stage, ledger: Ledger) -> None:
    rollout = ledger.deploy(at(2))
    again = ledger.deploy(at(4), took=10.0)
    reports = stage.service.reports
    reports.mark(rollout.id, True, "it lost orders", OPERATOR)
    report = reports.report([KEY], NOVEMBER)
    (failure,) = report["failures"]
    # From half of its minute until the next good one has all the traffic.
    assert (failure["why"], failure["recovery"]) == ("marked as failed", at(4) + 10.0 - (at(2) + 30.0))
    reports.mark(rollout.id, False, "it did not", OPERATOR)
    assert reports.report([KEY], NOVEMBER)["failures"] == []
    assert stage.noted()[-1]["what"] == "rollout.mark"
    with pytest.raises(Forbidden):
        reports.mark(again.id, True, "", VIEWER)
    with pytest.raises(Refused):
        reports.mark(ledger.fail(at(5)).id, True, "", OPERATOR)


def test_a_drill_is_no_rollback_and_has_its_own_figures(stage: Stage, ledger: Ledger) -> None:
    first = ledger.deploy(at(2))
    second = ledger.deploy(at(3))
    back = ledger.go_back(at(3, 0.1), first.plan.candidate)
    forth = ledger.go_back(at(3, 0.2), second.plan.candidate)
    plan = Rehearsal(KEY, "weekly", second.plan.candidate, first.plan.candidate, fault=Fault.KILL_REPLICA)
    state = Drill(1, plan, phase=DrillPhase.PASSED, back=Seen(forth.id, at(3, 0.2)))
    receipt = {"detection": 0.2, "decision": 0.1, "switch": 0.5, "recovery": 2.5, "harmed": 0, "rollouts": [back.id]}
    data = {"drill": TypeAdapter(Drill).dump_python(state, mode="json"), "outcome": "passed", "receipt": receipt}
    stage.parts.records.add("drill", KEY, "weekly", data, at(3, 0.1), ended=at(3, 0.3))
    report = stage.service.reports.report([KEY], NOVEMBER)
    assert figures(report)["fail_rate"] == (0.0, 2)
    assert figures(report)["drill_recovery"] == (2.5, 1)
    (told,) = report["drills"]["list"]
    assert (told["outcome"], told["fault"], told["harmed"]) == ("passed", "kill-replica", 0)


def test_a_watch_knows_when_the_harm_of_a_promoted_release_began(stage: Stage, ledger: Ledger) -> None:
    first = ledger.deploy(at(2))
    second = ledger.deploy(at(3), took=60.0)
    promoted = at(3) + 60.0
    back = ledger.go_back(promoted + 905.0, first.plan.candidate, took=1.0)
    plan = WatchPlan(KEY, second.id, second.plan.candidate, DIGEST, first.plan.candidate, promoted, promoted + 1800.0)
    cause = Cause(Means.BURN, "answers", "answers burns 40 times too fast", promoted + 890.0)
    done = Remedied("rollout goes back", "r1", promoted + 905.0, back.id)
    state = Watch(
        1, plan, WatchPhase.HELPED, cause=cause, done=(done,), detected=promoted + 900.0, recovered=promoted + 906.0
    )
    data = {"watch": TypeAdapter(Watch).dump_python(state, mode="json"), "receipt": {"harmed": 31}}
    stage.parts.records.add("watch", KEY, str(second.id), data, promoted, ended=promoted + 950.0)
    report = stage.service.reports.report([KEY], NOVEMBER)
    (incident,) = report["incidents"]["list"]
    # The harm lasted 16 s; DORA's recovery counts from the first exposed request all the same.
    assert (incident["duration"], incident["detection"], incident["repair"]) == (16.0, 10.0, 6.0)
    assert (incident["what"], incident["failed"], incident["how"]) == (cause.sentence, 31, "automatic rollback")
    assert (incident["release"], incident["rollouts"]) == ("r2", [second.id])
    assert figures(report)["recovery"] == (30.0 + 906.0, 1)


def test_lead_time_and_rework_are_of_what_runs_and_people_have_said(stage: Stage, ledger: Ledger) -> None:
    ledger.deploy(at(2), took=60.0)
    second = ledger.deploy(at(3), took=60.0)
    stage.service.fixes.mark(KEY, second.plan.candidate, "orders are kept again", OPERATOR)
    stage.service.reports.committed = lambda _, number: at(2) - 540.0 if number.n == 1 else None
    found = figures(stage.service.reports.report([KEY], NOVEMBER))
    assert found["lead_time"] == (600.0, 1)
    assert found["rework"] == (0.5, 2)


def test_rollouts_of_a_month_are_found_among_those_before_and_after(stage: Stage, ledger: Ledger) -> None:
    for day in range(-40, 60, 2):
        ledger.deploy(at(1) + day * DAY)
    stage.now = at(1) + 100 * DAY
    report = stage.service.reports.report([KEY], NOVEMBER)
    assert figures(report)["frequency"][1] == 15
    assert stage.service.reports._first_after(0.0) == 1
