"""Objectives, alerts and watches over HTTP."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from crossfade.api.slo import MOST_BINS, USUAL_BINS, usual_step
from crossfade.domain.access import Grant
from crossfade.domain.alert import Severity
from crossfade.domain.environment import Occupant
from crossfade.domain.release import BlueGreen, ReleaseConfig
from crossfade.domain.rings import LONGEST
from crossfade.domain.rollout import Kind as Deployment
from crossfade.domain.rollout import Plan
from crossfade.domain.slo import Counted, Kind, Objective, Series, SloPolicy
from crossfade.domain.traffic import Slot
from tests.api.world import ADA, DIGEST, KEY, STAGING, World, problem
from tests.service.report_stage import Ledger

POLICY = SloPolicy((Objective("answers", 0.999), Objective("fast", 0.99, Kind.LATENCY, threshold=0.3)))
PLACE = "/api/v1/environments/shop/production"
NOW = 1_800_000_000.0


class Held(World):
    """r2 is live in production, after r1, and nothing is under way. It is held to something. Staging has nothing live."""

    def settle(self) -> None:
        self.now = NOW
        ledger = Ledger(self.parts, KEY, POLICY)
        ledger.config = self.config
        ledger.deploy(NOW - 7200)
        last = ledger.deploy(NOW - 600)
        self.parts.store.occupy(KEY, Slot.GREEN, Occupant(last.plan.candidate, last.id, 1))
        first = self.parts.store.add_release(STAGING, DIGEST, self.config, "", NOW)
        plan = Plan(STAGING, Deployment.DEPLOY, first.number, None, Slot.BLUE, BlueGreen())
        self.parts.store.begin(plan, "ada", NOW)

    def count(self, begins: float, ends: float, total: float, bad: float, name: str = "answers") -> None:
        self.parts.histories.add(Series(KEY, name), begins, ends, Counted(total, bad, ends - begins))


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> World:
    made = Held(tmp_path_factory.mktemp("world"), config=ReleaseConfig(("x",), slo=POLICY))
    made.settle()
    return made


@pytest.fixture
def world(shared: World) -> World:
    """In which nothing was counted yet, and no alert was ever opened."""
    parts = shared.parts
    for series in parts.histories.all():
        parts.histories.remove(series)
    for record in parts.records.list("alert", open_only=True):
        parts.records.save(record.id, record.data, NOW, ended=True)
    parts.records.prune("alert", NOW + 1, 0)
    return shared


@pytest.fixture
def fresh(tmp_path: Path) -> World:
    made = Held(tmp_path, config=ReleaseConfig(("x",), slo=POLICY))
    made.settle()
    return made


def count(world: World, *counted: Any) -> None:
    assert isinstance(world, Held)
    world.count(*counted)


def test_what_was_promised_what_was_kept_and_what_is_left(world: World) -> None:
    count(world, NOW - 3600, NOW, 10_000, 5)
    with world.client(world.token("viewer@shop/production")) as client:
        found = client.get(f"{PLACE}/slo").json()
    answers, _ = found["objectives"]
    assert (answers["name"], answers["target"], answers["state"]) == ("answers", 0.999, "ok")
    assert answers["share_good"] == pytest.approx(0.9995)
    assert answers["budget"] == {
        "allowed": pytest.approx(10),
        "used": pytest.approx(5),
        "left": pytest.approx(0.5),
        "exhausted": False,
    }
    assert answers["covered"] == pytest.approx(3600 / answers["window"])
    assert {rule["severity"] for rule in answers["rules"]} == {"page", "ticket"}
    assert found["frozen"] is None


def test_of_what_was_not_counted_nothing_is_said(world: World) -> None:
    with world.client() as client:
        for one in client.get(f"{PLACE}/slo").json()["objectives"]:
            assert (one["state"], one["share_good"], one["budget"]["left"]) == ("unknown", None, None)


def test_a_budget_that_is_used_up_says_what_is_frozen_and_until_when(world: World) -> None:
    count(world, NOW - 172_800, NOW, 48_000, 4_800)
    with world.client() as client:
        found = client.get(f"{PLACE}/slo").json()
    assert found["objectives"][0]["state"] in ("exhausted", "page")
    assert found["frozen"]["sentence"]
    assert found["frozen"]["lifts"] is None or found["frozen"]["lifts"] > NOW


def test_an_environment_that_there_is_not_is_named(world: World) -> None:
    with world.client() as client:
        for what in ("slo", "slo/answers/history", "alerts", "watches"):
            answer = problem(client.get(f"/api/v1/environments/shop/nowhere/{what}"), 404, "not-found")
            assert "shop/production" in answer["hint"]


# --- history


def test_history_has_gaps_where_nothing_is_known(world: World) -> None:
    count(world, NOW - 600, NOW - 500, 100, 1)
    count(world, NOW - 300, NOW - 200, 100, 0)
    with world.client() as client:
        asked = {"from": NOW - 600, "to": NOW, "step": 100}
        found = client.get(f"{PLACE}/slo/answers/history", params=asked).json()
    assert found["next"] is None
    assert [row["at"] - NOW for row in found["items"]] == [-600, -300]
    assert [row["bad"] for row in found["items"]] == [pytest.approx(1), pytest.approx(0)]
    assert all(row["covered"] == pytest.approx(row["seconds"]) for row in found["items"])


def test_history_comes_in_pages_once_and_in_order(world: World) -> None:
    count(world, NOW - 600, NOW, 6000, 0)
    with world.client() as client:
        asked: dict[str, Any] = {"from": NOW - 600, "to": NOW, "step": 10, "limit": 7}
        found: list[float] = []
        while True:
            page = client.get(f"{PLACE}/slo/answers/history", params=asked).json()
            assert len(page["items"]) <= 7
            found += [row["at"] for row in page["items"]]
            if page["next"] is None:
                break
            asked["cursor"] = page["next"]
    assert found == [NOW - 600 + 10 * n for n in range(60)]


def test_without_a_time_the_history_is_of_the_last_hour(world: World) -> None:
    count(world, NOW - 7200, NOW, 7200, 0)
    with world.client() as client:
        rows = client.get(f"{PLACE}/slo/answers/history").json()["items"]
    assert rows[0]["at"] == NOW - 3600
    assert {row["seconds"] for row in rows} == {10}


@pytest.mark.parametrize("span", [1, 60, 3600, 86_400, LONGEST])
def test_a_bin_is_as_long_as_shows_a_time_well(span: float) -> None:
    assert span / usual_step(span) <= USUAL_BINS


@pytest.mark.parametrize(
    ("asked", "place"),
    [
        ({"from": NOW, "to": NOW - 1}, "from"),
        ({"from": NOW - 1.5 * MOST_BINS, "to": NOW, "step": 1}, "step"),
        ({"from": "nan"}, "from"),
        ({"to": "1e400"}, "to"),
        ({"step": 0}, "step"),
        ({"step": -10}, "step"),
        ({"from": -1}, "from"),
    ],
)
def test_a_time_that_cannot_be_shown_is_refused_with_what_can(world: World, asked: dict[str, Any], place: str) -> None:
    with world.client() as client:
        answer = problem(client.get(f"{PLACE}/slo/answers/history", params=asked), 422, "invalid")
    assert place in answer["title"]


def test_an_objective_that_there_is_not_is_answered_with_those_there_are(world: World) -> None:
    with world.client() as client:
        for name in ("nothing", "%00", "ans%2Fwers", "é"):
            answer = client.get(f"{PLACE}/slo/{name}/history")
            assert answer.status_code == 404, answer.text
        hint = problem(client.get(f"{PLACE}/slo/nothing/history"), 404, "not-found")["hint"]
    assert "answers" in hint and "@edge" in hint


# --- alerts


def opened(world: World, name: str = "burn:answers", severity: Severity = Severity.PAGE) -> int:
    return world.service.alerts.open(KEY, name, severity, f"{name}: something burns", {"objective": "answers"}).id


def test_alerts_are_listed_for_who_may_see_them(world: World) -> None:
    first, second = opened(world), opened(world, "prober", Severity.TICKET)
    world.service.alerts.open(STAGING, "prober", Severity.INFO, "elsewhere")
    world.service.alerts.resolve(KEY, "prober", "the prober is answered again")
    with world.client() as client:
        assert len(client.get("/api/v1/alerts").json()["items"]) == 3
        assert [row["id"] for row in client.get(f"{PLACE}/alerts?open=true").json()["items"]] == [first]
        page = client.get("/api/v1/alerts?service=shop&environment=production&limit=1").json()
        assert [row["id"] for row in page["items"]] == [second]
        more = client.get(f"/api/v1/alerts?service=shop&environment=production&limit=1&cursor={page['next']}").json()
        assert [row["id"] for row in more["items"]] == [first]
        problem(client.get("/api/v1/alerts?service=shop"), 422, "invalid")
    with world.client(world.token("viewer@shop/staging")) as client:
        assert [row["environment"] for row in client.get("/api/v1/alerts").json()["items"]] == ["staging"]
        problem(client.get("/api/v1/alerts?service=shop&environment=production"), 403, "forbidden")
        problem(client.get(f"{PLACE}/alerts"), 403, "forbidden")


def test_an_alert_is_acknowledged_by_an_operator_under_their_own_name(world: World) -> None:
    id = opened(world)
    world.service.accounts.add("ada", [Grant.parse("operator")], None, ADA)
    text = world.service.accounts.issue("ci", [Grant.parse("operator@shop/*")], None, ADA, owner="ada")[1]
    with world.client(world.token("viewer")) as client:
        problem(client.post(f"/api/v1/alerts/{id}/acknowledge", json={}), 403, "forbidden")
    with world.client(text) as client:
        for _ in range(2):
            found = client.post(f"/api/v1/alerts/{id}/acknowledge", json={"by": "eve"}).json()
            assert (found["acknowledged"], found["ended"]) == ("ada", None)
        problem(client.post("/api/v1/alerts/999/acknowledge", json={}), 404, "not-found")
        problem(client.post(f"/api/v1/alerts/{id}/acknowledge", json={"surprise": 1}), 422, "invalid")
    noted = world.service.audit.page(5)
    assert [row["who"] for row in noted if row["what"] == "alert.acknowledge"] == ["ada"]


def test_one_that_is_over_stays_over(world: World) -> None:
    id = opened(world)
    world.service.alerts.resolve(KEY, "burn:answers", "it burns no more")
    with world.client() as client:
        found = client.post(f"/api/v1/alerts/{id}/acknowledge", json={}).json()
    assert (found["acknowledged"], found["resolution"]) == ("", "it burns no more")


def test_what_others_wrote_is_quoted_and_nothing_else(world: World) -> None:
    sentence = 'r2 says "<script>" \x1b[2J \u202e and \ud83d'
    world.service.alerts.open(KEY, "burn:answers", Severity.PAGE, sentence)
    with world.client() as client:
        for place in (f"{PLACE}/alerts", f"{PLACE}/slo"):
            answer = client.get(place)
            assert answer.status_code == 200
            assert answer.content.isascii() and b"\x1b" not in answer.content


# --- watches


def test_a_watch_is_seen_in_the_list_alone_and_with_the_objectives(fresh: World) -> None:
    fresh.service.watches.look()
    with fresh.client() as client:
        (row,) = client.get(f"{PLACE}/watches").json()["items"]
        assert (row["release"], row["previous"], row["phase"], row["ended"]) == ("r2", "r1", "watching", False)
        assert row["until"] == row["began"] + POLICY.watch
        whole = client.get(f"/api/v1/watches/{row['id']}").json()
        assert whole["journal"]
        assert client.get(f"{PLACE}/slo").json()["watch"]["id"] == row["id"]
        problem(client.get("/api/v1/watches/999"), 404, "not-found")
        problem(client.get(f"/api/v1/drills/{row['id']}"), 404, "not-found")
    with fresh.client(fresh.token("viewer")) as client:
        problem(client.post(f"/api/v1/watches/{row['id']}/end", json={}), 403, "forbidden")


def test_an_operator_ends_a_watch(fresh: World) -> None:
    fresh.service.watches.look()
    with fresh.client(fresh.token("operator@shop/production")) as client:
        (row,) = client.get(f"{PLACE}/watches").json()["items"]
        assert client.post(f"/api/v1/watches/{row['id']}/end", json={}).json()["ended"]
        assert client.get(f"{PLACE}/watches").json()["items"][0]["ended"]


def test_without_objectives_there_is_nothing_to_hold_an_environment_to(tmp_path: Path) -> None:
    world = Held(tmp_path, config=ReleaseConfig(("x",), slo=replace(POLICY, objectives=())))
    world.settle()
    with world.client() as client:
        found = client.get(f"{PLACE}/slo").json()
        assert (found["objectives"], found["frozen"], found["alerts"]) == ([], None, [])
        found = client.get("/api/v1/environments/shop/staging/slo").json()
        assert (found["objectives"], found["probe"]) == ([], None)
