"""What a scrape finds, and whether the server is ready."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from crossfade.domain.errors import Unavailable
from tests.api.world import World


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = World(tmp_path)
    made.settle()
    return made


def test_a_scrape_is_what_prometheus_reads_and_says_what_is_live(world: World) -> None:
    with world.client(world.token("viewer")) as client:
        client.get("/api/v1/environments/shop/production")
        client.get("/api/v1/nowhere")
        answer = client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    samples = [one for family in text_string_to_metric_families(answer.text) for one in family.samples]
    found = {(one.name, *sorted(one.labels.items())): one.value for one in samples}
    place = (("environment", "production"), ("service", "shop"))
    assert found["crossfade_live_release_info", place[0], ("release", "r1"), place[1], ("slot", "blue")] == 1
    assert found["crossfade_edge_reachable", *place] in (0, 1)
    assert sum(value for name, value in found.items() if name[0] == "crossfade_rollouts") == 3
    route = "/api/v1/environments/{service_name}/{environment}"
    assert found["crossfade_api_requests_total", ("method", "GET"), ("route", route), ("status", "200")] == 1
    assert found["crossfade_api_requests_total", ("method", "GET"), ("route", "none"), ("status", "404")] == 1
    assert found["crossfade_api_request_seconds_count", ("route", route)] == 1
    if (promtool := shutil.which("promtool")) is not None:
        checked = subprocess.run(
            [promtool, "check", "metrics"], input=answer.text, capture_output=True, text=True, check=False
        )
        assert checked.returncode == 0, checked.stdout + checked.stderr


def test_a_server_whose_edge_is_silent_is_up_but_not_ready(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    with world.client(None) as client:
        assert client.get("/readyz").json() == {"ready": True, "reasons": []}

        def silent() -> None:
            raise Unavailable("/state/run/edge.sock is gone")

        monkeypatch.setattr(world.parts.router, "keys", silent)
        answer = client.get("/readyz")
        assert (answer.status_code, answer.json()["reasons"]) == (503, ["The edge does not answer (unavailable)."])
        assert client.get("/healthz").status_code == 200


def test_every_metric_is_documented_and_every_documented_metric_is_there(world: World) -> None:
    with world.client(world.token("viewer")) as client:
        client.get("/api/v1/environments")
        answer = client.get("/metrics")
    there = {
        family.name for family in text_string_to_metric_families(answer.text) if not family.name.endswith("_created")
    }
    page = (Path(__file__).parents[2] / "docs" / "reference" / "api.md").read_text()
    documented = {name.removesuffix("_total") for name in re.findall(r"`(crossfade_[a-z_]+)`", page)}
    assert documented == there
