"""What was told to whom, and what monitoring elsewhere is given, over the API and on the command line."""

from __future__ import annotations

import shutil
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from crossfade.bootstrap.notices import make_post
from crossfade.domain.alert import Severity
from crossfade.domain.errors import Refused
from crossfade.domain.notice import Notice
from crossfade.domain.release import ReleaseConfig
from crossfade.domain.slo import Counted, Objective, Series, SloPolicy
from crossfade.service.notices import Post
from crossfade.spec.server import ServerSpec, parse
from tests.api.world import KEY, STAGING, World
from tests.notifiers.targets import http_target, until
from tests.service.test_notices import ALL, Pigeon

PROMISED = ReleaseConfig(("x",), slo=SloPolicy(objectives=(Objective("answers", 0.999),)))


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path, config=PROMISED)
    made.settle()
    yield made
    made.service.notices.stop()


def tell(world: World, *about: str) -> Pigeon:
    pager = Pigeon()
    world.service.notices.equip(Post({"pager": pager, "mail": Pigeon()}, ALL))
    world.service.notices.start()
    for number, name in enumerate(about):
        key = STAGING if number % 2 else KEY
        world.service.notices.tell(Notice(name, 1.0, Severity.TICKET, "drill", key, name, "it failed"))
    until(lambda: len(pager.got) == len(about))
    until(lambda: all(row["state"] == "sent" for row in world.service.notices.list()))
    return pager


def test_each_sees_what_was_told_of_what_they_see_page_by_page(world: World) -> None:
    tell(world, *(f"drill-{number}" for number in range(7)))
    with world.client() as client:
        first = client.get("/api/v1/notices?limit=4").json()
        rest = client.get(f"/api/v1/notices?limit=4&cursor={first['next']}").json()
        assert [row["about"] for row in (*first["items"], *rest["items"])] == [f"drill-{n}" for n in range(6, -1, -1)]
        assert rest["next"] is None
        assert client.get("/api/v1/notices?target=mail").json()["items"] == []
    with world.client(world.token("viewer@shop/staging")) as client:
        assert {row["environment"] for row in client.get("/api/v1/notices").json()["items"]} == {"staging"}
    with world.client(None) as client:
        assert client.get("/api/v1/notices").status_code == 401


def test_only_an_admin_tries_a_target(world: World) -> None:
    tell(world)
    with world.client(world.token("operator")) as client:
        assert client.post("/api/v1/notices/test", json={"target": "pager"}).status_code == 403
    with world.client(world.token("admin")) as client:
        found = client.post("/api/v1/notices/test", json={"target": "pager"})
        assert (found.status_code, found.json()["state"], found.json()["answer"]) == (200, "sent", "taken")
        assert client.post("/api/v1/notices/test", json={"target": "nobody"}).status_code == 422
        assert client.post("/api/v1/notices/test", json={"targets": "pager"}).status_code == 422


def test_prometheus_takes_the_rules_and_grafana_gets_its_dashboard(world: World, tmp_path: Path) -> None:
    with world.client(world.token("viewer")) as client:
        answer = client.get("/api/v1/export/prometheus-rules")
        assert answer.headers["content-type"].startswith("application/yaml")
        assert 'objective: "answers"' in answer.text
        assert client.get("/api/v1/export/grafana-dashboard").json()["title"] == "Crossfade"
    if (promtool := shutil.which("promtool")) is not None:
        path = tmp_path / "rules.yml"
        path.write_text(answer.text)
        checked = subprocess.run([promtool, "check", "rules", str(path)], capture_output=True, text=True, check=False)
        assert checked.returncode == 0, checked.stdout
    with world.client(world.token("viewer@shop/production")) as client:
        assert client.get("/api/v1/export/prometheus-rules").status_code == 403


def scraped(world: World) -> dict[tuple[str, ...], float]:
    with world.client(world.token("viewer")) as client:
        text = client.get("/metrics").text
    samples = [one for family in text_string_to_metric_families(text) for one in family.samples]
    return {(one.name, *(one.labels.get(name, "") for name in ("environment", "objective", "severity"))): one.value
            for one in samples}  # fmt: skip


def test_objectives_are_counted_from_the_servers_beginning_and_never_backwards(world: World) -> None:
    series = Series(KEY, "answers")
    world.now = 10_000.0
    world.parts.histories.add(series, 9_000.0, 9_900.0, Counted(9_000.0, 900.0, 900.0))
    total, bad = (
        ("crossfade_slo_requests_total", "production", "answers", ""),
        ("crossfade_slo_bad_total", "production", "answers", ""),
    )
    assert scraped(world)[total] == 0
    world.parts.histories.add(series, 9_970.0, 10_070.0, Counted(1_000.0, 10.0, 100.0))
    world.now = 10_100.0
    found = scraped(world)
    assert (found[total], found[bad]) == (pytest.approx(1_000.0), pytest.approx(10.0))
    assert found["crossfade_slo_target_ratio", "production", "answers", ""] == 0.999
    assert scraped(world)[total] == found[total]
    world.now = 10_050.0  # the clock was set back
    assert scraped(world)[total] == found[total]


def test_open_alerts_and_waiting_notices_are_counted(world: World) -> None:
    pager = tell(world)
    world.service.alerts.open(KEY, "burn:answers", Severity.PAGE, "burns")
    until(lambda: pager.got)
    assert scraped(world)["crossfade_alerts_open", "production", "", "page"] == 1
    assert scraped(world)["crossfade_alerts_open", "production", "", "ticket"] == 0
    assert scraped(world)["crossfade_alerts_open", "staging", "", "page"] == 0


# --- from server.yaml


WHOLE = """
notify:
  targets:
    pager: {{kind: webhook, url: "{url}/hook", secret_file: hook}}
    chat: {{kind: slack, url_file: chat}}
    events: {{kind: cdevents, url: "{url}/events"}}
    mail: {{kind: email, smtp: "127.0.0.1:9", from: a@example.org, to: [b@example.org], user: u, password_file: password, tls: none}}
  routes: [{{to: [pager, chat, events]}}]
traces: {{otlp: "{url}", headers_file: headers}}
"""


def secret(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(text)
    (folder / name).chmod(stat.S_IRUSR | stat.S_IWUSR)


@pytest.fixture
def state(tmp_path: Path) -> Path:
    secret(tmp_path, "hook", "whsec_" + "a" * 32 + "\n")
    secret(tmp_path, "chat", "https://hooks.example.org/services/T0/SECRET\n")
    secret(tmp_path, "password", "hunter2\n")
    secret(tmp_path, "headers", "Authorization: Bearer abc\n\nX-Scope-OrgID: shop\n")
    return tmp_path


def spec(url: str = "http://127.0.0.1:9") -> ServerSpec:
    return parse(WHOLE.format(url=url))


def test_a_server_tells_whom_its_file_names(world: World, state: Path) -> None:
    with http_target() as twin:
        secret(state, "chat", f"{twin.url}/chat\n")
        read = spec(twin.url)
        world.service.notices.equip(make_post(state, read.notify, read.traces, "https://x.example"))
        world.service.notices.start()
        world.service.alerts.open(KEY, "burn:answers", Severity.PAGE, "burns")
        until(lambda: len(twin.got) == 4)
        assert {got.path for got in twin.got} == {"/hook", "/chat", "/events"}
        assert world.service.notices.targets() == ["pager", "chat", "events", "mail", "traces"]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("hook", "hunter2", "does not hold a secret"),
        ("hook", "", "does not hold a secret"),
        ("hook", "x" * 100_000, "does not hold a secret"),
        ("chat", "http://hooks.example.org/SECRET", "does not hold a URL with https"),
        ("password", "", "does not hold a secret"),
        ("headers", "Authorization Bearer abc", "has a line that is no header"),
        ("headers", "A: b\nEvil\x00: c", "has a line that is no header"),
    ],
)
def test_a_file_that_does_not_hold_what_it_should_stops_the_server_and_is_not_shown(
    state: Path, name: str, text: str, said: str
) -> None:
    secret(state, name, text)
    read = spec()
    with pytest.raises(Refused, match=said) as caught:
        make_post(state, read.notify, read.traces, "")
    for word in ("hunter2", "SECRET", "Bearer"):
        assert word not in str(caught.value)


@pytest.mark.parametrize("name", ["hook", "chat", "password", "headers"])
def test_a_file_that_is_not_there_is_named(state: Path, name: str) -> None:
    (state / name).unlink()
    read = spec()
    with pytest.raises(Refused, match=f"{name} cannot be read"):
        make_post(state, read.notify, read.traces, "")
