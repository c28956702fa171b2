"""Reports by example: figures computed by hand, hostile names, and what a receipt of a rollout says of it."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest

from crossfade.domain.errors import Invalid
from crossfade.domain.release import BlueGreen
from crossfade.domain.report.availability import Day, stretches
from crossfade.domain.report.deployments import Deployment, failures, read
from crossfade.domain.report.dora import measure
from crossfade.domain.report.incidents import How, Piece, Source, concluded, merge
from crossfade.domain.report.markdown import markdown, plain
from crossfade.domain.report.plots import nines
from crossfade.domain.report.report import Facts, build
from crossfade.domain.report.sheet import cell
from crossfade.domain.report.span import DAY, Span, day_of
from crossfade.domain.report.words import UNKNOWN, cases, change, lasting, percent
from crossfade.domain.rollout import Kind, Phase, Plan, Rollout
from crossfade.domain.slo import Bin, Counted
from crossfade.domain.traffic import Slot
from crossfade.domain.values import EnvKey, ReleaseNumber
from tests.domain.report.made import SPAN

KEY = EnvKey("shop", "production")
DAWN = float(SPAN.begins)


def promoted(id: int, at: float, release: str, baseline: str | None = None, **more: Any) -> Deployment:
    """Ten minutes from its beginning until it has all the traffic, which it has some of after a minute."""
    times = {"exposed_from": DAWN + at + 60.0, "switched": DAWN + at + 600.0, "ended": DAWN + at + 600.0}
    return Deployment(id, KEY, release, baseline, False, DAWN + at, promoted=True, watch=1800.0, **(times | more))


def test_lead_times_are_of_the_first_promotion_of_each_release() -> None:
    times = [
        promoted(1, 0.0, "r1", committed=DAWN - 3000.0),  # 3600 s
        promoted(2, 5000.0, "r2", "r1", committed=DAWN + 4600.0),  # 1000 s
        promoted(3, 9000.0, "r1", "r2", committed=DAWN - 3000.0),  # deployed again: it was in production before
        promoted(4, 12000.0, "r3", "r1"),  # nobody knows its commit
    ]
    found = measure(times, (), SPAN, SPAN.ends)
    assert (found.lead_time.n, found.lead_time.median) == (2, 2300.0)
    assert found.lead_time.p90 == pytest.approx(3340.0)
    assert (found.deployments, found.per_day) == (4, pytest.approx(4 / 30))


def test_a_rollback_within_the_watch_makes_a_failure_and_a_later_one_does_not() -> None:
    one = promoted(1, 0.0, "r2", "r1")
    back = promoted(2, 0.0, "r1", "r2", automatic=True)

    def gone_back(after: float) -> Deployment:
        began = DAWN + 600.0 + after
        return replace(back, rollback=True, began=began, exposed_from=began, switched=began + 4.0, ended=began + 4.0)

    (failure,) = failures([one, gone_back(1800.0)])
    assert (failure.exposed, failure.automatic, failure.recovery) == (True, True, 540.0 + 1800.0 + 4.0)
    assert failures([one, gone_back(1801.0)]) == ()
    assert failures([one, replace(gone_back(5.0), drill=True)]) == ()
    assert failures([one, replace(gone_back(5.0), baseline="r7")]) == ()


def test_a_rollback_that_did_not_come_through_leaves_it_to_the_next_good_release() -> None:
    one = promoted(1, 0.0, "r2", "r1")
    broken = Deployment(2, KEY, "r1", "r2", True, DAWN + 700.0, DAWN + 800.0)
    (failure,) = failures([one, broken])
    assert (failure.recovered, failure.recovery) == (None, None)
    (failure,) = failures([one, broken, promoted(3, 2000.0, "r3", "r2")])
    assert failure.recovery == 2600.0 - 60.0
    assert measure([one, broken], failures([one, broken]), SPAN, SPAN.ends).unrecovered == 1


def test_what_nobody_saw_is_a_failure_without_exposure() -> None:
    unseen = Deployment(1, KEY, "r2", "r1", False, DAWN, DAWN + 60.0, reason="it keeps exiting")
    asked = replace(unseen, id=2, exposed_from=DAWN + 10.0, requests=0)
    seen = replace(asked, id=3, requests=1, home=DAWN + 12.5)
    found = failures([unseen, asked, seen])
    assert [(one.exposed, one.recovery) for one in found] == [(False, None), (False, None), (True, 2.5)]
    told = measure([unseen, asked, seen], found, SPAN, SPAN.ends).to_data()["fail_rate"]
    assert (told["share"], told["exposed"]["share"], told["unexposed"]["failed"]) == (1.0, 0.333333, 2)


def test_a_fix_is_what_is_marked_or_begun_within_the_watch_of_a_failure() -> None:
    bad = Deployment(1, KEY, "r2", "r1", False, DAWN, DAWN + 60.0, watch=1800.0)
    soon, late = promoted(2, 1800.0, "r3", "r1"), promoted(3, 1900.0, "r4", "r3")
    marked = promoted(4, 90_000.0, "r5", "r4", fix=True)
    every = [bad, soon, late, marked]
    assert measure(every, failures(every), SPAN, SPAN.ends).fixes == 2


def test_a_receipt_says_when_clients_were_exposed_and_when_all_were_home() -> None:
    plan = Plan(KEY, Kind.DEPLOY, ReleaseNumber(2), ReleaseNumber(1), Slot.GREEN, BlueGreen())
    state = Rollout(7, plan, Phase.ROLLED_BACK, began=100.0, entered=131.0, reason="it fails")
    steps = [
        {"at": 110.0, "phase": "shifting", "weight": 100},
        {"at": 120.0, "phase": "shifting", "weight": 2500},
        {"at": 129.0, "phase": "rolling-back", "weight": None},
        {"at": 130.0, "phase": "rolling-back", "weight": 0},
    ]
    kill = {"what": "kill-flag", "target": "new=on", "at": 125.0, "why": "it fails", "before": {"seconds": 5.0,
            "with": {"requests": 9, "failed": 4}}}  # fmt: skip
    receipt = {"steps": steps, "exposed": {"requests": 50, "failed": 9}, "requests": 900, "dropped_by_switch": 1,
               "remedies": [kill, {"what": "move-weight"}]}  # fmt: skip
    one = read(state, receipt, by="ada", watch=60.0)
    times = (one.exposed_from, one.noticed, one.home, one.switched, one.ended)
    assert times == (110.0, 129.0, 130.0, None, 131.0)
    assert (one.share, one.requests, one.failed, one.served, one.lost) == (0.25, 50, 9, 900, 1)
    assert [(k.target, k.begins, k.at, k.failed) for k in one.kills] == [("new=on", 120.0, 125.0, 4)]
    lost = read(state, None)
    assert (lost.exposed_from, lost.requests, lost.lost, lost.kills) == (None, None, None, ())


def test_bad_minutes_are_a_stretch_and_a_gap_ends_it() -> None:
    def minute(n: int, total: float, bad: float) -> Bin:
        return Bin(n * 60.0, 60.0, Counted(total, bad, 60.0))

    bins = [minute(0, 100, 0), minute(1, 100, 3), minute(2, 100, 4), minute(4, 100, 50), minute(5, 100, 0.9)]
    assert [(one.begins, one.ends, one.bad) for one in stretches(bins)] == [(60.0, 180.0, 7.0), (240.0, 300.0, 50.0)]
    # One of a dozen in a quiet night.
    assert stretches([minute(0, 12, 1), minute(1, 0, 0)]) == ()


def test_an_incident_is_told_by_who_knows_it_best() -> None:
    page = Piece(KEY, Source.ALERT, 4, 130.0, 900.0, "answers burns", 130.0)
    edge = Piece(KEY, Source.EDGE, 0, 60.0, 180.0, "3.0% of 900 requests failed", failed=27.0)
    back = Piece(
        KEY, Source.ROLLOUT, 7, 70.0, 170.0, "r2 went back: it fails", 165.0, "r2", 0.05, 12.0, How.ROLLBACK, 7
    )
    far = replace(edge, begins=5000.0, ends=5060.0)
    one, other = merge([far, page, edge, back])
    told = one.to_data(1000.0)
    assert (told["what"], told["release"], told["share"], told["how"]) == (back.what, "r2", 0.05, "automatic rollback")
    # Harm ends before the page does, whose windows have to forget it first.
    # The edge knows the minutes of it, the rollout the moments.
    assert (told["begins"], told["ends"], told["duration"]) == (70.0, 170.0, 100.0)
    assert (told["detection"], told["repair"], told["failed"], told["rollouts"]) == (60.0, 40.0, 27.0, [7])
    assert (other.how, other.to_data(9000.0)["detection"]) == (How.ITSELF, None)
    open_one = merge([replace(edge, ends=None)])[0].to_data(100.0)
    assert (open_one["ends"], open_one["how"], open_one["duration"]) == (None, "not over", 40.0)


def test_an_incident_knows_the_rollback_that_ended_it_and_the_drill_that_it_was_in() -> None:
    (one,) = merge([Piece(KEY, Source.EDGE, 0, DAWN + 10.0, DAWN + 100.0, "bad")])
    back = replace(promoted(9, 0.0, "r1", "r2"), rollback=True, switched=DAWN + 90.0)
    assert concluded(one, [back], ()).how is How.PERSON
    assert concluded(one, [replace(back, automatic=True)], ()).how is How.ROLLBACK
    assert concluded(one, [replace(back, switched=DAWN + 900.0)], ()).how is How.ITSELF
    assert concluded(one, (), [(3, KEY, DAWN, DAWN + 50.0)]).drill == 3
    report = build([Facts(KEY, pieces=one.pieces)], [], SPAN, SPAN.ends)
    assert (report["incidents"]["n"], report["incidents"]["in_drills"]) == (1, 0)


def test_minutes_of_the_edge_that_only_cover_what_the_watch_knows_make_an_incident_no_longer() -> None:
    edge = Piece(KEY, Source.EDGE, 0, 60.0, 120.0, "bad", failed=81.0)
    watch = Piece(KEY, Source.WATCH, 3, 92.0, 98.0, "r3: errors", 96.0, failed=81.0, how=How.ROLLBACK)
    (one,) = merge([edge, watch])
    assert (one.begins, one.ends) == (92.0, 98.0)
    # What was bad for minutes before and after it was bad.
    (one,) = merge([replace(edge, begins=0.0, ends=240.0), watch])
    assert (one.begins, one.ends) == (0.0, 240.0)
    (one,) = merge([edge, replace(watch, ends=None)])
    assert (one.begins, one.ends) == (92.0, None)


def test_nothing_has_noticed_what_only_a_person_marks() -> None:
    one = promoted(1, 0.0, "r1", marked=True)
    report = build([Facts(KEY, deployments=(one, promoted(2, 900.0, "r2", "r1")))], [], SPAN, SPAN.ends)
    (told,) = report["incidents"]["list"]
    assert (told["duration"], told["detection"], told["repair"], told["how"]) == (1440.0, None, None, "person")
    assert report["incidents"]["unnoticed"] == 1


@pytest.mark.parametrize(
    ("source", "at", "drill"),
    [
        (Source.WATCH, 101.0, 0), (Source.WATCH, 100.0, 3), (Source.WATCH, 39.0, 0), (Source.ROLLOUT, 130.0, 0),
        (Source.EDGE, 0.0, 3), (Source.EDGE, -20.0, 0), (Source.EDGE, 60.0, 3), (Source.EDGE, 120.0, 0),
        (Source.ALERT, 150.0, 3), (Source.ALERT, 161.0, 0), (Source.ALERT, 39.0, 0),
    ],
)  # fmt: skip
def test_an_incident_is_of_a_drill_as_exactly_as_its_beginning_is_known(source: Source, at: float, drill: int) -> None:
    (one,) = merge([Piece(KEY, source, 1, DAWN + at, DAWN + at + 60.0, "bad")])
    assert concluded(one, (), [(3, KEY, DAWN + 40.0, DAWN + 100.0)]).drill == drill


def test_a_frequency_is_of_the_days_since_the_first_that_is_known() -> None:
    def frequency(now: float, **known: Any) -> tuple[float | None, str]:
        report = build([Facts(KEY, **known)], [], SPAN, now)
        (one,) = (one for one in report["figures"] if one["figure"] == "frequency")
        return one["value"], one["of"]

    one = promoted(1, 0.0, "r1")
    assert frequency(one.began + 700.0, deployments=(one,)) == (1.0, "deployments in 1 day")
    assert frequency(day_of(one.began) + 2.5 * DAY, deployments=(one,)) == (0.4, "deployments in 2.5 days")
    seen = Day(SPAN.begins, Counted(9.0, 0.0, 60.0))
    assert frequency(SPAN.ends, days=(seen,), deployments=(one,)) == (0.0333, "deployments in 30 days")
    assert frequency(SPAN.ends) == (None, "deployments")
    earlier = [Facts(KEY, days=(replace(seen, at=SPAN.previous.begins),))]
    (one,) = build([Facts(KEY, deployments=(promoted(2, 9.0 * DAY, "r2"),))], earlier, SPAN, SPAN.ends)["environments"]
    assert one["dora"]["frequency"]["days"] == 30.0


@pytest.mark.parametrize(
    ("month", "days"), [("2026-02", 28), ("2028-02", 29), ("2026-03", 31), ("2026-10", 31), ("1970-01", 31)]
)  # in March and October of 2026 Europe moves its clocks; UTC has no such days
def test_months_are_of_utc(month: str, days: int) -> None:
    span = Span.of_month(month)
    assert (span.ends - span.begins, span.month) == (days * DAY, month)


@pytest.mark.parametrize("month", ["", "2026", "2026-13", "2026-00", "1969-12", "9001-01", "2026-1", "\uff12026-11"])
def test_what_is_no_month_is_refused(month: str) -> None:
    with pytest.raises(Invalid, match="2026-11"):
        Span.of_month(month)


def test_some_days_are_compared_with_as_many_before_them() -> None:
    span = Span.of_days("2026-11-10", "2026-11-16")
    assert (span.title, span.month, span.previous.title) == (
        "2026-11-10 to 2026-11-16",
        None,
        "2026-11-03 to 2026-11-09",
    )
    assert Span.of_days("2026-11-01", "2026-11-30").month == "2026-11"
    for first, last in [("2026-11-02", "2026-11-01"), ("2026-02-30", "2026-03-01"), ("2026-01-01", "2027-06-01")]:
        with pytest.raises(Invalid):
            Span.of_days(first, last)


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (None, UNKNOWN), (0.0, "0 %"), (1.0, "100 %"), (0.5, "50 %"), (0.9995, "99.95 %"), (0.999987, "99.9987 %"),
        (1 - 1e-12, "> 99.999999 %"), (1e-12, "< 0.000001 %"), (0.01, "1 %"), (-0.5, "-50 %"), (-31.0, "-3100 %"),
        (-8.59375, "-859 %"), (-0.0123, "-1.2 %"),
    ],
)  # fmt: skip
def test_shares_are_told_with_the_digits_that_matter(value: float | None, told: str) -> None:
    assert percent(value) == told


def test_one_of_something_is_told_as_one() -> None:
    told = [
        cases(n, of) for n, of in [(1, "days known"), (1, "failed deployments"), (1, "passed drills"), (0, "releases")]
    ]
    assert told == ["1 day known", "1 failed deployment", "1 passed drill", "0 releases"]


def test_durations_and_changes_are_told_in_their_units() -> None:
    assert [lasting(s) for s in (None, 0.34, 75.0, 90_000.0, 864_000.0)] == [
        UNKNOWN,
        "340 ms",
        "75 s",
        "25 h 00 m",
        "10.0 d",
    ]
    assert change(-0.0005, "share") == "\N{MINUS SIGN}0.05 pp"
    assert (change(60.0, "seconds"), change(0.0, "per day")) == ("+60 s", "±0")
    assert [nines(share) for share in (0.0, 0.9, 0.999, 1.0)] == pytest.approx([0.0, 1.0, 3.0, 6.0])


@pytest.mark.parametrize(
    "text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", " =1", "\r=1", "=cmd|' /C calc'!A0", '=HYPERLINK("http://x")']
)
def test_what_a_sheet_would_carry_out_is_text(text: str) -> None:
    assert cell(text).lstrip('"').startswith(("'", "\N{REPLACEMENT CHARACTER}"))
    assert cell(-0.5) == "-0.5"  # a number is none


def test_a_hostile_name_is_text_in_markdown() -> None:
    told = plain("a|b\n# head <img src=x onerror=alert(1)> [x](javascript:alert(1)) `code` https://evil.test \u202e")
    bare = re.sub(r"\\.", "", told)
    assert not set(bare) & set("\n\u202e|<>[]()`#")
    # Nor does an address become a link by itself.
    assert not {"https", "javascript"} & set(re.findall(r"\w+", told))
    piece = Piece(KEY, Source.ALERT, 1, DAWN, DAWN + 1, "<script>|=1+1", DAWN)
    report = build([Facts(KEY, pieces=(piece,))], [], SPAN, SPAN.ends)
    assert "\\<script\\>\\|=1\\+1" in markdown(report)
