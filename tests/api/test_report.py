"""`GET /report` and `POST /rollouts/{id}/failed`: forms, filters, rights, and what is refused."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest

from tests.api.world import KEY, World, problem
from tests.service.report_stage import NOVEMBER, Ledger, at

PLACE = "/api/v1/report"


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = World(tmp_path)
    made.now = float(NOVEMBER.ends) + 3600.0
    ledger = Ledger(made.parts, KEY)
    ledger.deploy(at(2))
    ledger.fail(at(5))
    ledger.quiet_day(int(at(5)), bad=40.0)
    return made


def test_a_report_is_given_as_json_markdown_and_csv(world: World) -> None:
    with world.client() as client:
        found = client.get(f"{PLACE}?month=2026-11&service=shop&environment=production")
        assert found.json()["title"] == "November 2026"
        assert [one["service"] for one in found.json()["environments"]] == ["shop"]
        text = client.get(f"{PLACE}?month=2026-11&format=markdown")
        assert text.headers["content-type"] == "text/markdown; charset=utf-8"
        assert text.text.startswith("# Report: November 2026")
        sheet = client.get(f"{PLACE}?month=2026-11&format=csv")
        assert sheet.headers["content-type"] == "text/csv; charset=utf-8"
        rows = list(csv.DictReader(io.StringIO(sheet.text, newline="")))
        assert {row["section"] for row in rows} >= {
            "figures",
            "before",
            "days",
            "environments",
            "incidents",
            "failures",
        }
        fails = next(row for row in rows if row["section"] == "figures" and row["figure"] == "Change fail rate")
        assert (fails["value"], fails["n"]) == ("0.5", "2")


def test_days_may_be_asked_for_in_place_of_a_month(world: World) -> None:
    with world.client() as client:
        found = client.get(f"{PLACE}?from=2026-11-05&to=2026-11-05").json()
        assert (found["title"], len(found["days"])) == ("2026-11-05", 1)
        assert found["days"][0]["edge"]["bad"] == 40
        assert client.get(PLACE).json()["title"] == "December 2026"


@pytest.mark.parametrize(
    "query",
    ["month=november", "month=2026-13", "from=2026-11-01", "to=2026-11-01", "from=2026-11-09&to=2026-11-01",
     "month=2026-11&from=2026-11-01&to=2026-11-02", "format=pdf", "key=a/b/c", "key=shop&service=shop",
     "from=2020-01-01&to=2026-01-01", "service=&environment="],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused(world: World, query: str) -> None:
    with world.client() as client:
        problem(client.get(f"{PLACE}?{query}"), 422, "invalid")


def test_a_report_is_of_what_the_token_sees(world: World) -> None:
    with world.client(world.token("viewer@other/production")) as client:
        assert client.get(f"{PLACE}?month=2026-11").json()["environments"] == []
        problem(client.get(f"{PLACE}?month=2026-11&service=shop&environment=production"), 403, "forbidden")
        problem(client.get(f"{PLACE}?month=2026-11&service=shop"), 404, "not-found")
    with world.client() as client:
        problem(client.get(f"{PLACE}?service=nothing"), 404, "not-found")


def test_a_deployment_is_marked_as_failed(world: World) -> None:
    with world.client() as client:
        marked = client.post("/api/v1/rollouts/1/failed", json={"why": "it lost orders"})
        assert marked.json()["failed"] is True
        fails = client.get(f"{PLACE}?month=2026-11").json()["dora"]["fail_rate"]
        assert (fails["failed"], fails["n"]) == (2, 2)
        problem(client.post("/api/v1/rollouts/2/failed", json={}), 409, "refused")
        problem(client.post("/api/v1/rollouts/77/failed", json={}), 404, "not-found")
    with world.client(world.token("viewer")) as client:
        problem(client.post("/api/v1/rollouts/1/failed", json={}), 403, "forbidden")


def test_three_hundred_environments_are_one_report(world: World) -> None:
    from crossfade.domain.values import EnvKey

    for number in range(300):
        Ledger(world.parts, EnvKey(f"service-{number}", "production")).deploy(at(3))
    with world.client() as client:
        found = client.get(f"{PLACE}?month=2026-11").json()
        assert len(found["environments"]) == 301
        frequency = next(one for one in found["figures"] if one["figure"] == "frequency")
        assert frequency["n"] == 301
        assert "burn" not in found["environments"][0]["objectives"][0]
        assert "and 281 more" in client.get(f"{PLACE}?month=2026-11&format=markdown").text
