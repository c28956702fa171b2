"""Drills and proofs over HTTP."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from crossfade.domain.drill import DrillPlan, Fault, ProofPolicy
from crossfade.domain.environment import Occupant
from crossfade.domain.release import ReleaseConfig
from crossfade.domain.values import Digest, ReleaseNumber
from tests.api.world import DIGEST, KEY, TOKEN, World, problem
from tests.service.report_stage import Ledger

PLACE = "/api/v1/environments/shop/production"
NOW = 1_800_000_000.0
CONFIG = ReleaseConfig(
    ("x",),
    drills=(DrillPlan("weekly", "0 4 * * 2", "Europe/Berlin", 1, 30.0), DrillPlan("game day", fault=Fault.ERRORS)),
    proofs=ProofPolicy(3600.0),
)


class Built(Ledger):
    """Its releases are of an artifact that is there."""

    digest = DIGEST

    def release(self, at: float) -> ReleaseNumber:
        return self.parts.store.add_release(self.key, self.digest, self.config, "", at).number


class Rehearsing(World):
    """r3 is live, after r1 and r2; nothing is under way."""

    def settle(self) -> None:
        self.now = NOW
        ledger = Built(self.parts, KEY)
        ledger.config, ledger.digest = self.config, Digest(self.upload())
        for n in (3, 2, 1):
            last = ledger.deploy(NOW - n * 3600)
            self.parts.store.occupy(KEY, last.plan.slot, Occupant(last.plan.candidate, last.id, 1))


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = Rehearsing(tmp_path, config=CONFIG)
    made.settle()
    return made


def test_what_a_drill_would_do_is_said_before_it_is_done(world: World) -> None:
    with world.client(world.token("viewer")) as client:
        found = client.get(f"{PLACE}/drills/plan", params={"back": 2, "hold": 5}).json()
        assert (found["home"], found["target"], found["hold"], found["fault"]) == ("r3", "r1", 5.0, None)
        found = client.get(f"{PLACE}/drills/plan", params={"fault": "errors"}).json()
        assert (found["target"], found["fault"]) == (None, "errors")
        assert found["patience"] > 0
        refused = problem(client.get(f"{PLACE}/drills/plan", params={"back": 3}), 409, "not-restorable")
        assert "r2, r1" in refused["hint"]
        assert client.get(f"{PLACE}/drills").json() == {"items": [], "next": None}


def test_a_drill_is_begun_once_seen_and_aborted(world: World) -> None:
    with world.client(world.token("operator@shop/production")) as client:
        keyed = {"Idempotency-Key": "drill-1"}
        begun = client.post(f"{PLACE}/drills", json={"name": "weekly", "hold": 5.0}, headers=keyed)
        assert begun.status_code == 201, begun.text
        drill = begun.json()
        assert (drill["home"], drill["target"], drill["name"], drill["ok"]) == ("r3", "r2", "weekly", None)
        again = client.post(f"{PLACE}/drills", json={"name": "weekly", "hold": 5.0}, headers=keyed)
        assert again.json()["id"] == drill["id"]
        busy = problem(client.post(f"{PLACE}/drills", json={}), 409, "busy")
        assert f"#{drill['id']}" in busy["title"] and busy["hint"]
        (row,) = client.get(f"{PLACE}/drills").json()["items"]
        assert row["id"] == drill["id"] and "journal" not in row
        assert client.get(f"/api/v1/drills/{drill['id']}").json()["journal"]
        assert client.post(f"/api/v1/drills/{drill['id']}/abort", json={}).status_code == 200
        problem(client.post(f"/api/v1/drills/{drill['id']}/abort", json={}), 409, "refused")
    with world.client(world.token("viewer")) as client:
        problem(client.post(f"{PLACE}/drills", json={}), 403, "forbidden")
        problem(client.post(f"/api/v1/drills/{drill['id']}/abort", json={}), 403, "forbidden")
        problem(client.get("/api/v1/drills/999"), 404, "not-found")


def test_a_drill_is_refused_while_a_rollout_is_under_way(tmp_path: Path) -> None:
    world = World(tmp_path, config=CONFIG)
    world.settle()
    with world.client() as client:
        for answer in (client.post(f"{PLACE}/drills", json={}), client.get(f"{PLACE}/drills/plan")):
            refused = problem(answer, 409, "busy")
            assert "#2" in refused["title"] and refused["hint"]


def test_nothing_is_deployed_while_a_drill_is_under_way(world: World) -> None:
    with world.client() as client:
        begun = client.post(f"{PLACE}/drills", json={}).json()
        refused = problem(client.post(f"{PLACE}/releases/r1/rollouts", json={}), 409, "busy")
        assert f"#{begun['id']}" in refused["title"] + refused["hint"]


@pytest.mark.parametrize(
    "body",
    [
        {"back": 0},
        {"back": 21},
        {"back": True},
        {"back": "2"},
        {"hold": -1},
        {"hold": 3601},
        {"hold": "30s"},
        {"fault": "kill-everything"},
        {"name": "x\x00y"},
        {"name": "x" * 201},
        {"surprise": 1},
    ],
)
def test_a_drill_that_cannot_be_is_refused_with_what_can(shared: World, body: dict[str, Any]) -> None:
    with shared.client() as client:
        answer = problem(client.post(f"{PLACE}/drills", json=body), 422, "invalid")
    assert next(iter(body)) in answer["title"]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> World:
    made = Rehearsing(tmp_path_factory.mktemp("world"), config=CONFIG)
    made.settle()
    return made


@pytest.mark.parametrize("hold", ["nan", "inf", "-inf", "1e999"])
def test_a_hold_without_an_end_is_refused(shared: World, hold: str) -> None:
    with shared.client() as client:
        problem(client.get(f"{PLACE}/drills/plan", params={"hold": hold}), 422, "invalid")
        sent = client.post(
            f"{PLACE}/drills", content=f'{{"hold": {hold}}}', headers={"Authorization": f"Bearer {TOKEN}"}
        )
        problem(sent, 422, "invalid")


def test_the_schedule_says_when_each_drill_comes_and_which_is_overdue(world: World) -> None:
    with world.client(world.token("viewer")) as client:
        weekly, game = client.get(f"{PLACE}/drills/schedule").json()["items"]
        assert (weekly["name"], weekly["schedule"], weekly["last"]) == ("weekly", "0 4 * * 2", None)
        assert weekly["next"] > NOW and not weekly["overdue"]
        assert (game["next"], game["overdue"], game["fault"]) == (None, False, "errors")
        world.now = NOW + 30 * 86_400
        weekly, _ = client.get(f"{PLACE}/drills/schedule").json()["items"]
        assert weekly["overdue"] and "weekly" in weekly["sentence"]


def test_drills_are_listed_page_by_page(world: World) -> None:
    with world.client() as client:
        for _ in range(3):
            begun = client.post(f"{PLACE}/drills", json={}).json()
            data = world.parts.records.get(begun["id"]).data
            world.parts.records.save(begun["id"], data, NOW, ended=True)
        first = client.get(f"{PLACE}/drills?limit=2").json()
        rest = client.get(f"{PLACE}/drills?limit=2&cursor={first['next']}").json()
        assert [row["id"] for row in (*first["items"], *rest["items"])] == [3, 2, 1]
        assert rest["next"] is None


# --- proofs


def test_the_releases_of_the_window_are_proven_when_somebody_asks(world: World) -> None:
    with world.client(world.token("viewer")) as client:
        rows = client.get(f"{PLACE}/proofs").json()["items"]
        assert [(row["release"], row["proven"], row["ok"], row["asked"]) for row in rows] == [
            ("r2", None, None, False),
            ("r1", None, None, False),
        ]
        problem(client.post(f"{PLACE}/proofs", json={}), 403, "forbidden")
    with world.client() as client:
        asked = client.post(f"{PLACE}/proofs", json={})
        assert asked.status_code == 201
        assert asked.json()["asked"] == ["r2", "r1"]
        assert all(row["asked"] for row in client.get(f"{PLACE}/proofs").json()["items"])
        assert world.service.proofs.look()
        first, second = client.get(f"{PLACE}/proofs").json()["items"]
        assert (first["ok"], first["asked"], second["asked"]) == (True, False, True), first
        assert [check["what"] for check in first["checks"]] == ["artifact", "configuration", "schema", "start"]
        releases = {row["release"]: row for row in client.get(f"{PLACE}/releases").json()["items"]}
        assert releases["r2"]["proven"] == first["proven"]
        assert releases["r2"]["proof"]["took"] == first["took"]
        assert (releases["r1"]["proven"], releases["r1"]["proof"]) == (None, None)


@pytest.mark.parametrize(
    ("release", "status", "code"),
    [("r3", 409, "refused"), ("r99", 409, "refused"), ("nonsense", 422, "invalid"), ("r" + "9" * 30, 422, "invalid")],
)
def test_what_cannot_be_proven_is_refused(shared: World, release: str, status: int, code: str) -> None:
    with shared.client() as client:
        problem(client.post(f"{PLACE}/proofs", json={"release": release}), status, code)
