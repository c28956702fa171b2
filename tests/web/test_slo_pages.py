"""The pages of objectives, alerts, watches, drills, proofs and notices: what they say, to whom, and what they do."""

from __future__ import annotations

import html
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fastapi import FastAPI
from hypothesis import given
from hypothesis import strategies as st

from crossfade.domain.access import Grant
from crossfade.domain.alert import Severity
from crossfade.domain.drill import LONGEST_HOLD, Fault
from crossfade.domain.errors import Invalid
from crossfade.domain.release import Release
from crossfade.domain.rollout import Rollout
from crossfade.domain.slo import Counted, Series
from crossfade.domain.values import DAY, FULL
from crossfade.web import drill_view, drills, slo_view
from crossfade.web.alerts import proposal_of, title_of
from crossfade.web.app import mount
from tests.service.stage import ADMIN
from tests.web.promised import HOSTILE, KEY, PEOPLE, STAGING, Promised
from tests.web.test_house import ORIGIN, Visitor

HERE = f"/environments/{KEY}"
ONCE = "0123456789abcdef"


# --- words and pictures


def objective(**changes: Any) -> dict[str, Any]:
    found: dict[str, Any] = {
        "name": "answers",
        "kind": "availability",
        "target": 0.999,
        "window": 30 * DAY,
        "threshold": None,
        "signal": "",
        "state": "ok",
        "share_good": 0.9995,
        "covered": 1.0,
        "budget": {"allowed": 100.0, "used": 50.0, "left": 0.5, "exhausted": False},
    }
    return found | changes


shares = st.floats(0, 1)
lefts = st.floats(-1e6, 1)


@given(shares)
def test_a_share_of_good_requests_is_never_said_to_be_more_than_it_is(share: float) -> None:
    said = slo_view.good(share)
    assert float(said.removesuffix(" %")) <= 100 * share + 1e-5
    assert (said == "100 %") == (share == 1.0)


@given(lefts)
def test_the_bar_of_a_budget_is_as_long_as_what_is_left(left: float) -> None:
    found = slo_view.budget(
        objective(budget={"allowed": 100.0, "used": 100 - 100 * left, "left": left, "exhausted": left < 0})
    )
    assert 0 <= found.wide <= FULL
    assert found.wide == round(FULL * max(0.0, left))
    assert (found.tone == "gone") == (left <= 0)
    assert ("left" in found.said) == (left > 0)


def test_what_is_not_known_is_neither_a_full_nor_an_empty_budget() -> None:
    none = {"allowed": 0.0, "used": 0.0, "left": None, "exhausted": False}
    found = slo_view.budget(objective(share_good=None, budget=none))
    assert (found.tone, found.said) == ("unknown", "not known yet")


@st.composite
def histories(draw: st.DrawFn) -> list[dict[str, Any]]:
    """What was counted in some of sixty bins of a minute, from the 1000th on."""
    rows = []
    for n in sorted(draw(st.sets(st.integers(0, 59)))):
        total = draw(st.integers(0, 500))
        bad = draw(st.integers(0, total))
        rows.append({"at": 60_000.0 + n * 60, "seconds": 60.0, "covered": 60.0, "total": total, "bad": bad})
    return rows


@given(histories())
def test_a_curve_is_drawn_where_something_is_known_and_a_gap_everywhere_else(rows: list[dict[str, Any]]) -> None:
    drawn = slo_view.curve(objective(), rows, 60_000.0, 63_600.0, 60.0)
    known = {row["at"] + 60.0: row for row in rows}
    assert drawn["at"] == [60_060.0 + n * 60 for n in range(60)]
    for at, bad in zip(drawn["at"], drawn["bad"], strict=True):
        in_gap = any(begins < at <= ends for begins, ends in drawn["gaps"])
        assert in_gap == (at not in known)
        assert (bad is None) == (in_gap or not known[at]["total"])
    total, bad = sum(row["total"] for row in rows), sum(row["bad"] for row in rows)
    left = [value for value in drawn["left"] if value is not None]
    assert left == sorted(left, reverse=True), "a budget only burns"
    if total:
        assert left[-1] == pytest.approx(100 * (1 - bad / (0.001 * total)), abs=0.01)


@given(st.floats(3600, 35 * DAY))
def test_no_curve_has_more_points_than_can_be_seen(window: float) -> None:
    for one in slo_view.ranges(window):
        assert one.span / one.step <= slo_view.MOST_POINTS + 1
        assert one.span <= window or one.name != "window"


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(300, "5 min"), (3600, "1 h"), (5040, "1.4 h"), (30 * 86_400, "30 d"), (90, "1.5 min"), (0.5, "500 ms")],
)
def test_a_length_that_somebody_chose_is_said_in_one_unit(seconds: float, said: str) -> None:
    assert slo_view.span(seconds) == said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("the edge does not answer", "The edge does not answer."),
        ("answers: 5 % failed", "answers: 5 % failed."),
        ("r12 cannot be restored", "r12 cannot be restored."),
        ("", ""),
        ("It is over.", "It is over."),
    ],
)
def test_a_sentence_gets_its_point_and_names_stay_as_they_are(text: str, said: str) -> None:
    assert slo_view.told(text) == said


def test_what_wants_a_person_most_is_said_first() -> None:
    ok, page = objective(name="fast"), objective(name="answers", state="page")
    out = objective(name="paid", state="exhausted")
    assert slo_view.headline([ok]) == "What was promised is kept"
    assert slo_view.headline([ok, out, page]) == "answers burns fast; 1 more wants looking at"
    assert slo_view.headline([ok, out]) == "paid has used up its error budget"
    assert slo_view.headline([]) == "Nothing is promised here yet"


def test_an_alert_says_what_it_is_about_and_leads_to_the_rollback_that_it_proposes() -> None:
    assert title_of("burn:answers") == "answers burns its error budget"
    assert title_of("drill-overdue:weekly") == "Drill weekly is overdue"
    assert title_of("something:else") == "Something else"
    facts = {"proposal": {"sentence": "go back to r3", "command": f"crossfade rollback {KEY} --to r3"}}
    assert proposal_of(KEY, facts) == {
        "said": "Go back to r3.",
        "place": f"{HERE}/rollback?to=r3",
        "label": "Roll back to r3",
    }
    assert proposal_of(KEY, {"proposal": {"sentence": "nothing helps", "command": ""}})["place"] == ""  # type: ignore[index]  # it is not None
    assert proposal_of(KEY, {}) is None


@pytest.mark.parametrize(("text", "seconds"), [("30s", 30), ("2min", 120), ("0", 0), ("1h", LONGEST_HOLD), ("", 30)])
def test_a_form_says_how_long_in_words(text: str, seconds: float) -> None:
    assert drills.asked_of({"hold": text}).hold == seconds


@pytest.mark.parametrize(
    "form", [{"hold": "61min"}, {"hold": "-1"}, {"hold": "1e9"}, {"back": "0"}, {"back": "²"}, {"fault": "explode"}]
)
def test_what_a_form_cannot_mean_is_refused(form: dict[str, str]) -> None:
    with pytest.raises(Invalid):
        drills.asked_of(form)


@pytest.mark.parametrize("fault", [None, *Fault])
def test_a_drill_says_beforehand_what_it_will_do(fault: Fault | None) -> None:
    said = " ".join(drill_view.what_happens("r4", ["r3", "r2"], 2, 30.0, fault))
    assert ("canary" if fault in drill_view.AT_THE_EDGE else "r2 serves for 30 s") in said


# --- the pages


@pytest.fixture(scope="module")
def world() -> Promised:
    """One for the tests that only look."""
    promised = Promised()
    promised.drilled(name="weekly")
    promised.drilled("failed")
    promised.drilled(name="game-day", fault=Fault.KILL_REPLICA)
    promised.served()
    promised.watched()
    promised.alerted()
    promised.now += 5.0
    return promised


def visitors(promised: Promised) -> Callable[[str], Visitor]:
    app = FastAPI()
    mount(app, promised.service, origin=ORIGIN, key=b"k" * 32)
    known: dict[str, Visitor] = {}

    def visitor(name: str) -> Visitor:
        if name not in known:
            known[name] = Visitor(app)  # by a link: a password takes its time
            secret = promised.service.accounts.new_link(name, [Grant.parse(PEOPLE[name])], ADMIN)
            assert known[name].get(f"/login/link?secret={secret}").status_code == 303
        return known[name]

    return visitor


@pytest.fixture(scope="module")
def who(world: Promised) -> Callable[[str], Visitor]:
    return visitors(world)


@pytest.fixture
def own() -> Iterator[tuple[Promised, Callable[[str], Visitor]]]:
    """For tests that change something."""
    promised = Promised()
    yield promised, visitors(promised)
    promised.service.notices.stop()


Who = Callable[[str], Visitor]
Own = tuple[Promised, Who]


def text_of(visitor: Visitor, place: str, status: int = 200) -> str:
    """What a page says, without its tags."""
    answer = visitor.get(place)
    assert answer.status_code == status, answer.text
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", "", answer.text)))


def test_the_page_of_objectives_says_how_each_stands(who: Who) -> None:
    said = text_of(who("vera"), f"{HERE}/slo")
    assert "answers burns fast; 1 more wants looking at" in said
    assert "99.9 % of requests are answered without an error, over 30 d" in said
    assert "99 % of requests are answered within 300 ms, over 30 d" in said
    assert "counted by the source api" in said
    assert re.search(r"9\d % left", said)
    assert re.search(r"4\d\d % used", said)
    assert "No new rollout begins:" in said
    assert "It lifts" in said
    assert "97 % of the last 30 d is known" in said
    assert "Nothing of the last 7 d is known." in said
    assert "r4 is watched" in said
    assert "of 30 min left" in said
    assert "Roll back to r3" in said


def test_the_parts_that_change_come_without_a_frame(who: Who) -> None:
    for place in (f"{HERE}/slo/part", f"{HERE}/drills/part", "/drills/1/part"):
        part = who("vera").get(place, headers={"X-Requested-With": "fetch"}).text
        assert "data-part=" in part
        assert "<html" not in part


@pytest.mark.parametrize("span", ["hour", "day", "window"])
def test_a_history_is_what_a_chart_can_draw(who: Who, span: str) -> None:
    found = who("vera").get(f"{HERE}/slo/history?objective=answers&span={span}").json()
    assert len(found["at"]) == len(found["bad"]) == len(found["left"])
    assert found["limit"] == 0.1
    if span == "window":
        (gap,) = [[begins, ends] for begins, ends in found["gaps"] if ends - begins > 20 * 3600]
        assert gap[1] - gap[0] == pytest.approx(86_400, abs=2 * found["step"])


def test_a_history_that_there_is_not_is_said_not_to_be(who: Who) -> None:
    assert who("vera").get(f"{HERE}/slo/history?objective=nothing").status_code == 404
    assert who("vera").get(f"{HERE}/slo/history?objective=answers&span=year").status_code == 422
    assert who("vera").get("/environments/bookshop/nowhere/slo").status_code == 404


def test_where_nothing_is_promised_it_is_said_what_to_do(own: Own) -> None:
    promised, visitor = own
    promised.promoted(STAGING)
    said = text_of(visitor("vera"), f"/environments/{STAGING}/slo")
    assert "Nothing is promised here yet" in said
    assert "objectives: - {name: answers, target: 99.9%}" in said
    assert "None is planned." in text_of(visitor("vera"), f"/environments/{STAGING}/drills")
    assert "This server tells nobody of anything" in text_of(visitor("vera"), "/notices")
    assert "Nothing wants a person now." in text_of(visitor("vera"), "/alerts")


def test_alerts_are_listed_the_most_urgent_first_and_those_that_are_over_last(who: Who) -> None:
    said = text_of(who("vera"), "/alerts")
    assert said.index("answers burns its error budget") < said.index("Drill weekly is overdue")
    assert said.index("Drill weekly is overdue") < said.index("The edge, asked from outside")
    assert "Seen by ada@laptop, who looks after it." in said
    assert "It is answered again as it should be." in said
    assert "95 s" in said
    assert "<img src=x" not in who("vera").get("/alerts").text
    assert HOSTILE.partition(" ")[0] in said
    only = text_of(who("vera"), f"/alerts?environment={STAGING}")
    assert "answers burns" not in only


def test_everybody_sees_the_alerts_of_what_they_see(who: Who, world: Promised) -> None:
    stranger = who("stranger")
    assert "answers burns" not in stranger.get("/alerts").text
    assert stranger.get(f"/alerts?environment={KEY}").status_code == 403
    first = world.service.alerts.list(open_only=True)[-1]
    assert stranger.get(f"/alerts/{first.id}").status_code == 403
    assert who("vera").get("/alerts/99999").status_code == 404
    assert "2 alerts" not in stranger.get("/").text


def test_a_person_says_that_they_look_after_an_alert(own: Own) -> None:
    promised, visitor = own
    alert = promised.service.alerts.open(KEY, "burn:answers", Severity.PAGE, "it burns")
    place = f"/alerts/{alert.id}/acknowledge"
    assert "I look after it" not in visitor("vera").get("/alerts").text
    assert visitor("vera").post(place).status_code == 403
    badge = '<span class="badge">1<span class="unseen"> that nobody looks after'
    assert badge in visitor("olga").get("/alerts").text
    for _ in range(2):
        answer = visitor("olga").post(place, page="/alerts")
        assert (answer.status_code, answer.headers["location"]) == (303, "/alerts")
    assert promised.service.alerts.get(alert.id).acknowledged == "olga"
    assert "Seen by olga, who looks after it." in text_of(visitor("vera"), f"/alerts/{alert.id}")
    assert badge not in visitor("olga").get("/alerts").text


def test_older_alerts_are_on_the_next_page(own: Own) -> None:
    promised, visitor = own
    for n in range(35):
        promised.service.alerts.open(KEY, f"drill:d{n}", Severity.TICKET, "it failed")
        promised.service.alerts.resolve(KEY, f"drill:d{n}", "it has passed")
    page = visitor("vera").get("/alerts").text
    assert page.count("it has passed") + page.count("It has passed") == 30
    older = re.search(r'href="(/alerts\?before=\d+)"', page)
    assert older is not None
    assert visitor("vera").get(older[1]).text.count("It has passed") == 5


# --- drills and proofs


def test_the_page_of_drills_has_the_schedule_and_the_receipts(who: Who) -> None:
    said = text_of(who("vera"), f"{HERE}/drills")
    assert "0 4 * * 2 Europe/Berlin" in said
    assert "one replica of what is live is killed" in said
    assert "r4 → r3 → r4" in said
    assert "1.4 s" in said
    assert "This wants the role operator for bookshop/production." in said
    assert "Prove now" not in said
    assert "It was never tried." in said


def test_a_drill_shows_what_it_measured_and_where_it_stumbled(who: Who) -> None:
    passed = text_of(who("vera"), "/drills/3")
    assert "r3 had all traffic 2.3 s after the order; r4 was back in 1.9 s." in passed
    assert "Requests harmed2 of 992" in passed
    failed = text_of(who("vera"), "/drills/2")
    assert "It failed" in failed
    assert "r3 serves for 30 s failed" in failed
    assert "Returns to r4 done" in failed
    assert who("stranger").get("/drills/1").status_code == 403
    assert who("vera").get("/drills/9999").status_code == 404


def test_a_drill_is_begun_once_watched_and_aborted(own: Own) -> None:
    promised, visitor = own
    olga, place = visitor("olga"), f"{HERE}/new-drill"
    asked = text_of(olga, f"{place}?back=2&hold=1min")
    assert "All traffic goes from r4 back to r2" in asked
    assert "r2 serves for 1 min" in asked
    form = {"once": ONCE, "back": "2", "hold": "1min", "name": "weekly", "fault": ""}
    places = [olga.post(place, form, page=place).headers["location"] for _ in range(2)]
    (drill,) = promised.service.drills.list(KEY)
    assert places == [f"/drills/{drill['id']}"] * 2
    assert (drill["name"], drill["back"], drill["hold"], drill["by"]) == ("weekly", 2, 60.0, "olga")
    page = visitor("vera").get(f"/drills/{drill['id']}").text
    assert "Abort" in page
    assert f"/drills/{drill['id']}/abort" not in page
    assert "is under way" in text_of(olga, f"{HERE}/drills")
    assert "has drill #" in text_of(olga, place)
    abort = f"/drills/{drill['id']}/abort"
    assert "All traffic returns to r4" in text_of(olga, abort)
    assert visitor("vera").post(abort, {"once": ONCE}).status_code == 403
    assert olga.post(abort, {"once": ONCE}, page=abort).status_code == 303
    assert "for olga" in promised.service.drills.view(drill["id"])["waiting"]


def test_a_drill_is_refused_during_a_rollout_with_the_reason(own: Own) -> None:
    promised, visitor = own
    state = promised.deploy(ADMIN)
    assert isinstance(state, Rollout)
    place = f"{HERE}/new-drill"
    assert f"Rollout #{state.id} is under way" in text_of(visitor("olga"), f"{HERE}/drills")
    asked = visitor("olga").get(place).text
    assert "Begin it" not in asked
    answer = visitor("olga").post(place, {"once": ONCE}, page=place)
    assert answer.status_code == 409
    assert f"#{state.id}" in answer.text
    assert promised.service.drills.list(KEY) == []


def test_a_form_that_says_nonsense_is_shown_again_with_what_was_typed(own: Own) -> None:
    _, visitor = own
    place = f"{HERE}/new-drill"
    answer = visitor("olga").post(place, {"once": ONCE, "hold": "for ever"}, page=place)
    assert answer.status_code == 422
    assert 'value="for ever"' in answer.text
    assert "up to an hour" in answer.text
    assert visitor("vera").post(place, {"once": ONCE}, page=place).status_code == 403


def test_a_script_that_asks_gets_only_what_a_drill_would_do(own: Own) -> None:
    _, visitor = own
    place = f"{HERE}/new-drill?fault=errors"
    part = visitor("olga").get(place, headers={"HX-Request": "true"}).text
    assert "<form" not in part
    assert "The judge has to see it" in part


def test_an_overdue_drill_is_shown_wherever_one_looks(own: Own) -> None:
    promised, visitor = own
    promised.drilled(name="weekly")
    promised.now += 15 * DAY
    assert any(row["overdue"] for row in promised.service.drills.schedule(KEY))
    assert "overdue" in text_of(visitor("vera"), f"{HERE}/drills")
    assert "Drill weekly is overdue" in text_of(visitor("vera"), HERE)
    assert "drill overdue" in glanced(visitor("vera"), "drill overdue")


def test_a_release_is_proven_when_somebody_asks(own: Own) -> None:
    promised, visitor = own
    page = f"{HERE}/drills"
    assert visitor("vera").post(f"{HERE}/proofs", {"once": ONCE, "release": "r3"}).status_code == 403
    answer = visitor("olga").post(f"{HERE}/proofs", {"once": ONCE, "release": "r3"}, page=page)
    assert (answer.status_code, answer.headers["location"]) == (303, page)
    assert "soon it was asked for" in text_of(visitor("olga"), page)
    refused = visitor("olga").post(f"{HERE}/proofs", {"once": ONCE, "release": "r4"}, page=page)
    assert refused.status_code == 409
    assert "r4 is not in the rollback window" in refused.text
    assert promised.service.proofs.look()
    assert "r3 can be restored" in text_of(visitor("olga"), page)
    said = text_of(visitor("vera"), f"{HERE}/releases/r3")
    assert "Proven" in said
    assert "it took" in said


# --- watches


def test_a_watch_says_what_it_looks_at_and_is_ended_by_who_may(own: Own) -> None:
    promised, visitor = own
    place = f"/watches/{promised.watched()}"
    said = text_of(visitor("vera"), place)
    assert "r4 is watched" in said
    assert "against what those of r3 saw" in said
    assert "This wants the role operator" in said
    assert "From now on nothing is taken back by itself" in text_of(visitor("olga"), f"{place}/end")
    assert visitor("vera").post(f"{place}/end", {"once": ONCE}).status_code == 403
    answer = visitor("olga").post(f"{place}/end", {"once": ONCE}, page=f"{place}/end")
    assert (answer.status_code, answer.headers["location"]) == (303, place)
    assert "was watched until" in text_of(visitor("vera"), place)
    assert "It has ended." in text_of(visitor("olga"), f"{place}/end")
    assert "No promotion is watched now" in text_of(visitor("vera"), f"{HERE}/slo")


# --- notices


def waited_for(found: Callable[[], bool]) -> None:
    until = time.monotonic() + 30
    while not found():
        assert time.monotonic() < until
        time.sleep(0.02)


def test_what_was_told_to_whom_is_shown_with_what_came_of_it(own: Own) -> None:
    promised, visitor = own
    promised.told()
    promised.service.alerts.open(KEY, "burn:answers", Severity.PAGE, f"it burns {HOSTILE}")
    listed = promised.service.notices.list
    waited_for(lambda: len(listed()) == 2 and all(one["tries"] for one in listed()))
    said = text_of(visitor("vera"), "/notices")
    assert "answers burns its error budget" in said
    assert "told answered 200" in said
    assert "on its way connection refused" in said
    assert "Send a test" not in said
    assert "<img src=x" not in visitor("vera").get("/notices").text
    assert "answers burns" not in visitor("stranger").get("/notices").text
    assert "connection refused" not in visitor("vera").get("/notices?target=desk").text


def test_an_admin_tries_whether_a_target_can_be_told(own: Own) -> None:
    promised, visitor = own
    promised.told()
    assert visitor("olga").post("/notices/test", {"once": ONCE, "target": "desk"}).status_code == 403
    for _ in range(2):
        answer = visitor("ada").post("/notices/test", {"once": ONCE, "target": "desk"}, page="/notices")
        assert (answer.status_code, answer.headers["location"]) == (303, "/notices")
    (one,) = promised.service.notices.list()
    assert (one["kind"], one["state"]) == ("test", "sent")
    refused = visitor("ada").post("/notices/test", {"once": ONCE, "target": "nobody"}, page="/notices")
    assert refused.status_code == 422
    assert "one of desk, pager" in refused.text


# --- what other pages say of it


def glanced(visitor: Visitor, wanted: str) -> str:
    """The start page, once what is promised has been looked up."""
    waited_for(lambda: wanted in text_of(visitor, "/"))
    return text_of(visitor, "/")


def test_the_start_page_has_the_budget_the_alerts_and_the_freeze(who: Who) -> None:
    said = glanced(who("vera"), "% left")
    assert re.search(r"\d\d % left of answers: burns fast", said)
    assert "2 alerts" in said
    assert "frozen" in said
    row = re.search(r'<li class="row is-(\w+)" id="row-bookshop--production"', who("vera").get("/").text)
    assert row is not None
    assert row[1] == "trouble"


def test_the_page_of_an_environment_has_its_budgets_and_what_comes_next(who: Who) -> None:
    said = text_of(who("vera"), HERE)
    assert "answers burns its error budget" in said
    assert "fast is kept" in said
    assert re.search(r"9\d % left 99\.9\d\d % good of 99 % promised", said)
    assert "r4 is watched" in said
    assert "Drill weekly comes in" in said


def test_a_release_is_deployed_again_as_a_fix_while_the_budget_is_used_up(own: Own) -> None:
    promised, visitor = own
    series, now = Series(KEY, "paid"), promised.now
    promised.parts.histories.add(series, now - 172_800.0, now - 10.0, Counted(10_000.0, 5_000.0, 172_790.0))
    place = f"{HERE}/releases/r2/rollout"
    assert "only a fix is rolled out" in text_of(visitor("olga"), place)
    refused = visitor("olga").post(place, {"once": ONCE}, page=place)
    assert refused.status_code == 409
    assert "is frozen" in refused.text
    answer = visitor("olga").post(place, {"once": ONCE, "fix": "it has no leak"}, page=place)
    assert answer.status_code == 303
    assert promised.service.fixes.marked(KEY, release_of(promised, "r2").number) == "it has no leak"


def release_of(promised: Promised, text: str) -> Release:
    return next(one for one in promised.parts.store.releases(KEY, limit=10) if str(one.number) == text)


def test_the_world_of_these_tests_is_one_that_keeps_its_word(world: Promised) -> None:
    found = {one["name"]: one["state"] for one in world.service.objectives.view(KEY)["objectives"]}
    assert found == {"answers": "page", "fast": "ok", "paid": "exhausted", "new": "unknown"}
