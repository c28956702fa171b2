"""A whole server that tells: its file, its thread, its end, and the command line."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.e2e.installation import Installation, until
from tests.notifiers.targets import Got, Twin, http_target

FILE = """
notify:
  targets:
    pager: {{kind: webhook, url: "{hanging}/hook", secret_file: hook}}
    chat: {{kind: slack, url_file: chat}}
    events: {{kind: cdevents, url: "{good}/events"}}
  routes: [{{kind: rollout, environment: shop/*, to: [pager, chat, events]}}]
traces: {{otlp: "{good}"}}
"""


def secret(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(stat.S_IRUSR | stat.S_IWUSR)


def at(twin: Twin, path: str) -> list[Got]:
    return [got for got in twin.got if got.path == path]


@pytest.mark.timeout(240)
def test_rollouts_are_told_while_one_target_hangs_and_the_next_server_goes_on() -> None:
    with http_target() as good, http_target() as hanging, Installation() as shop:
        hanging.hangs = True
        (shop.state / "server.yaml").write_text(FILE.format(good=good.url, hanging=hanging.url))
        secret(shop.state / "hook", "whsec_" + "a" * 32)
        secret(shop.state / "chat", f"{good.url}/chat/SECRETPATH")
        shop.up()
        for version in ("v1", "v2"):
            shop.configure(version)
            assert shop.deploy("--label", version)["rollout"]["phase"] == "promoted"
        assert shop.json("rollback")["rollout"]["phase"] == "promoted"
        until(lambda: hanging.got and len(at(good, "/v1/traces")) == 3 and len(at(good, "/chat/SECRETPATH")) == 3)
        events = [
            json.loads(got.body)["type"].split(".")[3]
            for got in until(lambda: at(good, "/events")[2:] and at(good, "/events"))
        ]
        assert events == ["deployed", "upgraded", "rolledback"]
        assert "back to r1 (v1)" in json.loads(at(good, "/chat/SECRETPATH")[-1].body)["text"]
        names = [
            [
                span.name
                for span in ExportTraceServiceRequest.FromString(got.body).resource_spans[0].scope_spans[0].spans
            ]
            for got in at(good, "/v1/traces")
        ]
        assert names[2][0] == "rollback shop/production"
        assert {"preparing", "connecting", "promoting"} <= {name for one in names for name in one}

        shown = shop.run("notices", "--target", "chat").stdout
        assert "r2 (v2) is live" in shown and "SECRETPATH" not in shown
        assert shop.run("notices", "test", "chat").stdout.startswith("chat was told. 127.0.0.1 answered 204")

        waiting = shop.client().notices("pager")
        assert len(waiting) == 3 and {row["state"] for row in waiting} == {"waiting"}
        shop.run("down", "--keep-traffic")
        hanging.hangs = False
        first = hanging.got[0].headers["webhook-id"]
        client = shop.up()
        until(lambda: {row["state"] for row in client.notices("pager")} == {"sent"}, 60)
        assert first in [got.headers["webhook-id"] for got in hanging.got[1:]]
        assert len(at(good, "/events")) == 3
