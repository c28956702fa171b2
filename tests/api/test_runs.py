"""Pipelines over HTTP: runs and their logs, where commits come from, webhooks, statements, the value stream."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from crossfade.api.app import create_app
from crossfade.api.runs import PART, _told
from crossfade.api.stream import Streams
from crossfade.domain.access import Grant
from crossfade.domain.pipeline.webhooks import LARGEST
from tests.api.world import KEY, TOKEN, World, problem
from tests.engine.pipelines import ADA, Installation, Repository, script

WROTE = "ein Brötchen, bitte 🥐 \x1b[1m<b>\n"
SLOW = script("import time\nfor n in range(8):\n    print('line', n, flush=True)\n    time.sleep(0.15)")
SECRET = "what-signs-webhooks"


class Shop:
    """An installation with pipelines under its API, and a run that failed in its second step."""

    def __init__(self, folder: Path) -> None:
        self.installation = Installation()
        self.repository = Repository(folder / "shop")
        talk = script(f"import sys; sys.stdout.buffer.write({WROTE!a}.encode() * 3)")
        steps = {"talk": talk, "check": {"run": script("raise SystemExit(1)"), "needs": ["talk"]}}
        self.repository.configure({"commit": {"steps": steps}})
        self.repository.write("app.py", "")
        self.commit = self.repository.commit("Prices")
        self.installation.add(self.repository)
        self.run = self.installation.start(self.repository)
        self.installation.ended(self.run)
        self.app = create_app(self.installation.service, TOKEN, list, origin="http://here")

    def client(self, token: str | None = TOKEN) -> TestClient:
        headers = {"Authorization": f"Bearer {token}"} if token is not None else {}
        return TestClient(self.app, headers=headers, raise_server_exceptions=False, base_url="http://here")

    def token(self, grant: str) -> str:
        return self.installation.service.accounts.issue("t", [Grant.parse(grant)], None, ADA)[1]

    def log(self, node: str) -> str:
        return f"/api/v1/runs/{self.run}/stages/commit/nodes/{node}/log"


@pytest.fixture(scope="module")
def shop() -> Iterator[Shop]:
    folder = Path(tempfile.mkdtemp(prefix="cf-"))
    made = Shop(folder)
    yield made
    made.installation.remove()
    shutil.rmtree(folder)


def events(text: str) -> list[tuple[str, int, dict[str, Any]]]:
    """What a stream told: kind, id and data of each event."""
    found = []
    for block in text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.split("\n") if not line.startswith(":") and line)
        if "event" in fields:
            found.append((fields["event"], int(fields["id"]), json.loads(fields["data"])))
    return found


def test_a_run_is_begun_looked_at_cancelled_and_restarted(shop: Shop) -> None:
    with shop.client() as client:
        begun = client.post("/api/v1/runs", json={"service": "shop", "ref": "main"})
        assert begun.status_code == 202
        run = begun.json()
        assert (run["commit"], run["branch"], run["trigger"]) == (shop.commit, "main", "command")
        ended = shop.installation.ended(run["id"])
        seen = client.get(f"/api/v1/runs/{run['id']}").json()
        assert seen["stages"][0]["nodes"] == json.loads(json.dumps(ended["stages"][0]["nodes"]))
        problem(client.post(f"/api/v1/runs/{run['id']}/cancel", json={}), 409, "refused")
        again = client.post(f"/api/v1/runs/{run['id']}/restart", json={})
        assert again.json()["stages"][0]["attempt"] == 2
        shop.installation.ended(run["id"])
        problem(client.post("/api/v1/runs", json={"service": "other", "ref": "main"}), 404, "not-found")
        problem(client.post("/api/v1/runs", json={"service": "shop", "ref": "no-such"}), 404, "not-found")
        problem(client.post("/api/v1/runs", json={"service": "shop", "ref": "--upload-pack=x"}), 422, "invalid")
        problem(client.get("/api/v1/runs/9999"), 404, "not-found")


def test_runs_are_listed_page_by_page_for_who_may_see_them(shop: Shop) -> None:
    with shop.client() as client:
        shop.installation.ended(client.post("/api/v1/runs", json={"service": "shop", "ref": "main"}).json()["id"])
        whole = client.get("/api/v1/runs").json()["items"]
        first = client.get("/api/v1/runs?limit=1").json()
        second = client.get(f"/api/v1/runs?limit=1&cursor={first['next']}").json()
        assert [row["id"] for row in (*first["items"], *second["items"])] == [row["id"] for row in whole][:2]
        assert all(stage["nodes"] == [] for row in whole for stage in row["stages"])
        assert client.get("/api/v1/runs?service=other").json()["items"] == []
    with shop.client(shop.token("viewer@other/production")) as client:
        assert client.get("/api/v1/runs").json()["items"] == []
        problem(client.get(f"/api/v1/runs/{shop.run}"), 403, "forbidden")
        problem(client.get(shop.log("talk")), 403, "forbidden")
        problem(client.get("/api/v1/services/shop/stream"), 403, "forbidden")


def test_a_log_is_read_in_parts_of_which_none_cuts_a_character(shop: Shop) -> None:
    with shop.client() as client:
        text, offset, ended, part = "", 0, False, {}
        while not ended:
            part = client.get(f"{shop.log('talk')}?offset={offset}&limit=7").json()
            assert len(part["text"].encode()) == part["next"] - offset
            text, offset, ended = text + part["text"], part["next"], part["ended"]
        assert WROTE * 3 in text
        assert offset == part["size"] == len(text.encode())
        problem(client.get(shop.log("nothing")), 404, "not-found")
        problem(client.get(f"{shop.log('talk')}?offset=-1"), 422, "invalid")
        problem(client.get(f"{shop.log('..%2f..%2ftoken')}"), 404, "no-route")


def test_the_stream_of_a_log_ends_and_goes_on_where_a_reader_was(shop: Shop) -> None:
    with shop.client() as client:
        answer = client.get(f"{shop.log('talk')}/stream")
        assert answer.headers["content-type"].startswith("text/event-stream")
        (kind, at, data), (end, last, _) = events(answer.text)
        assert (kind, end, at) == ("log", "end", last)
        assert WROTE * 3 in data["text"]
        half = len(data["text"].partition("\n")[0].encode()) + 1
        rest = events(client.get(f"{shop.log('talk')}/stream", headers={"Last-Event-ID": str(half)}).text)
        assert rest[0][2]["text"] == data["text"].partition("\n")[2]
        problem(client.get(f"{shop.log('talk')}/stream", headers={"Last-Event-ID": "x"}), 422, "invalid")
        problem(client.get(f"{shop.log('nothing')}/stream"), 404, "not-found")


def test_a_log_is_streamed_while_it_is_written_in_order_and_without_loss(shop: Shop) -> None:
    shop.repository.git("checkout", "-q", "-b", "slow")
    shop.repository.configure({"commit": {"steps": {"talk": SLOW}}})
    shop.repository.commit("Slow")
    id = shop.installation.start(shop.repository, "slow")
    shop.repository.git("checkout", "-q", "main")
    with shop.client() as client:
        shop.installation.until(lambda: shop.installation.runs.run(id)["stages"][0]["nodes"][0]["began"])
        told = events(client.get(f"/api/v1/runs/{id}/stages/commit/nodes/talk/log/stream").text)
    assert told[-1][0] == "end"
    assert len(told) > 2
    text = "".join(data["text"] for kind, _, data in told if kind == "log")
    assert [line for line in text.splitlines() if line.startswith("line")] == [f"line {n}" for n in range(8)]
    assert [at for _, at, _ in told] == sorted(at for _, at, _ in told)


def test_a_slow_reader_makes_the_server_read_no_faster() -> None:
    log, asked = b"x" * (PART * 50), []

    def read(offset: int, limit: int) -> dict[str, Any]:
        asked.append(offset)
        part = log[offset : offset + limit]
        ended = offset + len(part) >= len(log)
        return {"text": part.decode(), "next": offset + len(part), "size": len(log), "ended": ended}

    async def take() -> None:
        streams = Streams()
        told = _told(read, 0, streams)
        for taken in range(10):
            await anext(told)
            assert len(asked) == taken
        assert streams.open == 1
        assert [text async for text in told][-1].startswith("event: end")
        assert streams.open == 0

    asyncio.run(take())
    assert asked == [PART * n for n in range(50)]


def test_of_a_sources_secrets_only_the_names_are_told_and_they_stay_when_not_given_again(shop: Shop) -> None:
    body: dict[str, Any] = {"repository": str(shop.repository.folder), "secrets": {"PIP_TOKEN": "hush"}}
    body["files"] = {"production": {"API_KEY": "hush"}}
    with shop.client() as client:
        made = client.put("/api/v1/sources/shelf", json=body)
        assert made.status_code == 200
        assert (made.json()["secrets"], made.json()["files"]) == (["PIP_TOKEN"], {"production": ["API_KEY"]})
        again = client.put("/api/v1/sources/shelf", json={"repository": body["repository"], "forge": "gitea"}).json()
        assert (again["secrets"], again["forge"]) == (["PIP_TOKEN"], "gitea")
        assert client.get("/api/v1/sources/shelf").json() == again
        assert "hush" not in client.get("/api/v1/sources").text + client.get("/api/v1/audit").text
        problem(client.put("/api/v1/sources/Sh elf", json=body), 422, "invalid")
        bad = client.put("/api/v1/sources/shelf", json={**body, "secrets": {"a b": "hush"}})
        assert bad.status_code == 422
        assert "hush" not in bad.text
        assert client.delete("/api/v1/sources/shelf").status_code == 204
        problem(client.get("/api/v1/sources/shelf"), 404, "not-found")


def test_a_signed_webhook_begins_one_run_and_a_forged_one_none(shop: Shop) -> None:
    push = {
        "ref": "refs/heads/main",
        "after": shop.commit,
        "deleted": False,
        "pusher": {"name": "ada"},
        "repository": {"full_name": "ada/shop"},
    }
    body = json.dumps(push).encode()
    signed = {
        "X-GitHub-Event": "push",
        "X-GitHub-Delivery": "5f0b7c1e-0000-4000-8000-000000000001",
        "X-Hub-Signature-256": f"sha256={hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()}",
        "Content-Type": "application/json",
    }
    with shop.client() as client:
        source = {"repository": str(shop.repository.folder), "forge": "github", "secrets": {"webhook": SECRET}}
        assert client.put("/api/v1/sources/shop", json=source).status_code == 200
    with shop.client(None) as forge:
        heard = forge.post("/api/v1/hooks/shop", content=body, headers=signed)
        assert heard.status_code == 202, heard.text
        run = shop.installation.ended(heard.json()["run"])
        assert (run["trigger"], run["by"], run["commit"]) == ("webhook", "github:ada", shop.commit)
        twice = forge.post("/api/v1/hooks/shop", content=body, headers=signed).json()
        assert (twice["run"], "heard before" in twice["said"]) == (None, True)
        problem(forge.post("/api/v1/hooks/shop", content=b" " * (LARGEST + 1), headers=signed), 413, "too-large")
        forged = {**signed, "X-Hub-Signature-256": "sha256=" + "0" * 64}
        for service in ["shop", "nobody"] * 10:
            problem(forge.post(f"/api/v1/hooks/{service}", content=body, headers=forged), 401, "unauthenticated")
        tired = forge.post("/api/v1/hooks/shop", content=body, headers=forged)
        assert (tired.status_code, "retry-after" in tired.headers) == (429, True)


def test_the_value_stream_says_how_long_each_stage_took(shop: Shop) -> None:
    with shop.client() as client:
        found = client.get("/api/v1/services/shop/stream?limit=5").json()
        (stage,) = [one for one in found["summary"]["stages"] if one["name"] == "commit"]
        assert 0 < stage["failed"] <= stage["n"] <= 5
        assert stage["worked_median"] > 0
        assert (found["summary"]["deployments"], found["summary"]["lead_median"]) == (0, None)
        assert client.get("/api/v1/services/other/stream").json()["runs"] == []


def test_an_artifact_that_no_pipeline_has_built_has_no_statement_that_holds(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.settle()
    world.with_pipelines()
    with world.client() as client:
        said = client.get(f"/api/v1/environments/{KEY}/releases/r1/statement").json()
        assert (said["ok"], said["statement"], said["envelope"]) == (False, None, None)
        assert said["sentence"].startswith("r1 is not verified: ")
        problem(client.get(f"/api/v1/environments/{KEY}/releases/r9/statement"), 404, "not-found")


def test_a_server_without_pipelines_says_so(tmp_path: Path) -> None:
    with World(tmp_path).client() as client:
        assert problem(client.get("/api/v1/runs"), 503, "unavailable")["title"] == "This server runs no pipelines."
