"""Reports to others, against a server that takes them as a forge does."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from crossfade.notifiers import Notifiers
from crossfade.notifiers.cdevents import event
from crossfade.ports.pipeline import News, Source

COMMIT = "4f2c81a" + "0" * 33
TOKEN = "a-token-that-nobody-sees"
NEWS = News(
    "run-7-stage-ended-commit-1", 1_700_000_000.0, "stage-ended", 7, "shop", COMMIT, "main", "failure", "x" * 200,
    "http://127.0.0.1/runs/7", {"stage": "commit", "environment": None, "artifact": None},
)  # fmt: skip


class Twin:
    """A forge and a sink: keeps what it gets, and answers what it is told to, then 201."""

    def __init__(self) -> None:
        self.got: list[tuple[str, dict[str, str], Any]] = []
        self.answers: list[int] = []
        twin = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                found = {name.lower(): value for name, value in self.headers.items()}
                twin.got.append((self.path, found, body))
                status = twin.answers.pop(0) if twin.answers else 201
                said = json.dumps({"message": f"no: {found.get('authorization')}"}).encode()
                self.send_response(status)
                self.send_header("Location", "/elsewhere")
                self.send_header("Content-Length", str(len(said)))
                self.end_headers()
                self.wfile.write(said)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture
def twin() -> Iterator[Twin]:
    made = Twin()
    thread = threading.Thread(target=made.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield made
    made.server.shutdown()
    thread.join()
    made.server.server_close()


def tell(source: Source, news: News = NEWS) -> tuple[str, ...]:
    return Notifiers(pause=lambda _: None).tell(source, {"token": TOKEN}, news)


def source(forge: str, twin: Twin) -> Source:
    return Source("shop", "/srv/shop.git", 0.0, forge=forge, api=twin.url, project="ada/shop")


@pytest.mark.parametrize(
    ("forge", "path", "header", "value", "name", "state"),
    [
        ("github", "/repos/ada/shop/statuses/", "authorization", f"Bearer {TOKEN}", "context", "failure"),
        ("gitea", "/api/v1/repos/ada/shop/statuses/", "authorization", f"token {TOKEN}", "context", "failure"),
        ("gitlab", "/projects/ada%2Fshop/statuses/", "private-token", TOKEN, "name", "failed"),
    ],
)
def test_a_forge_gets_a_status_for_each_stage(
    forge: str, path: str, header: str, value: str, name: str, state: str, twin: Twin
) -> None:
    assert tell(source(forge, twin)) == ()
    [(asked, headers, body)] = twin.got
    assert asked == path + COMMIT
    assert headers[header] == value
    assert (body[name], body["state"], body["target_url"]) == ("crossfade/commit", state, NEWS.url)
    assert len(body["description"]) == 140


def test_a_busy_forge_is_asked_three_times_at_most(twin: Twin) -> None:
    twin.answers = [429, 503]
    assert tell(source("github", twin)) == ()
    assert len(twin.got) == 3
    twin.answers = [500] * 9
    [fault] = tell(source("github", twin))
    assert "it answered 500" in fault
    assert len(twin.got) == 6
    assert TOKEN not in fault


def test_a_refusal_is_told_once_and_shows_no_token(twin: Twin) -> None:
    twin.answers = [401]
    [fault] = tell(source("github", twin))
    assert "GitHub was not told: it answered 401" in fault
    assert TOKEN not in fault
    assert len(twin.got) == 1


def test_a_redirect_is_not_followed(twin: Twin) -> None:
    twin.answers = [307]
    assert tell(source("github", twin))
    assert len(twin.got) == 1


def test_a_token_is_not_sent_in_the_clear() -> None:
    plain = Source("shop", "x", 0.0, forge="gitea", api="http://forge.invalid", project="ada/shop")
    assert tell(plain) == ("Gitea was not told: a token is sent by https only",)


def test_nobody_who_listens_is_said_and_the_secret_path_is_not() -> None:
    chat = Source("shop", "x", 0.0, chat=("http://127.0.0.1:9/services/SECRET",))
    [fault] = tell(chat, replace(NEWS, kind="ended"))
    assert fault.startswith("The chat at 127.0.0.1 was not told: ConnectError")
    assert "SECRET" not in fault


def test_a_chat_hears_how_it_ended_and_nobody_is_called_by_a_branchs_name(twin: Twin) -> None:
    chat = Source("shop", "x", 0.0, chat=(f"{twin.url}/hook",))
    assert tell(chat) == ()
    assert tell(chat, replace(NEWS, kind="ended", branch="<!channel>", sentence="tests failed")) == ()
    [(_, _, body)] = twin.got
    assert body == {"text": f"shop 4f2c81a (&lt;!channel&gt;): tests failed {NEWS.url}"}


@pytest.mark.parametrize(
    ("kind", "id", "type", "required"),
    [
        ("queued", "run-7-queued", "pipelinerun.queued.0.2.0", {"pipelineName", "url"}),
        ("stage-began", "run-7-stage-began-commit-1", "pipelinerun.started.0.2.0", {"pipelineName", "url"}),
        ("ended", "run-7-ended-1", "pipelinerun.finished.0.2.0", {"pipelineName", "url", "outcome", "errors"}),
        ("gate", "1", "testsuiterun.finished.0.2.0", {"outcome", "environment", "testSuite", "reason"}),
        ("deployed", "2", "service.deployed.0.2.0", {"environment", "artifactId"}),
        ("upgraded", "3", "service.upgraded.0.2.0", {"environment", "artifactId"}),
        ("rolledback", "4", "service.rolledback.0.2.0", {"environment", "artifactId"}),
    ],
)
def test_a_sink_gets_cdevents_in_cloudevents(kind: str, id: str, type: str, required: set[str], twin: Twin) -> None:
    facts = {"stage": "commit", "environment": "production", "artifact": "sha256:" + "0" * 64, "gate": "tests"}
    sink = Source("shop", "x", 0.0, sinks=(f"{twin.url}/events",))
    assert tell(sink, replace(NEWS, kind=kind, id=id, facts=facts)) == ()
    [(_, headers, body)] = twin.got
    assert headers["content-type"].startswith("application/cloudevents+json")
    assert {"specversion", "id", "source", "type", "data"} <= body.keys()
    context, subject = body["data"]["context"], body["data"]["subject"]
    assert set(context) == {"version", "id", "source", "type", "timestamp"}
    assert context["type"] == body["type"] == f"dev.cdevents.{type}"
    assert set(subject) == {"id", "source", "type", "content"}
    assert set(subject["content"]) == required


def test_what_cdevents_has_no_word_for_is_not_sent() -> None:
    assert event(Source("shop", "x", 0.0), NEWS) is None
    assert event(Source("shop", "x", 0.0), replace(NEWS, kind="stage-began", id="run-7-stage-began-staging-1")) is None
