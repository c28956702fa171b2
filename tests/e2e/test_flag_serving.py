"""Flags from a whole installation: over OFREP and flagd's sync service, through a server that is killed under its clients."""

from __future__ import annotations

import json
import os
import signal
import time
from typing import Any

import grpc
import httpx

from crossfade.api.flagd_sync import SERVICE, _messages
from crossfade.bootstrap.state import make_parts, prepare
from crossfade.domain.environment import Occupant
from crossfade.domain.release import BlueGreen, ReleaseConfig
from crossfade.domain.rollout import Kind, Plan
from crossfade.domain.traffic import Slot
from crossfade.domain.values import Digest, EnvKey, ReleaseNumber
from crossfade.ports import Store
from tests.e2e.installation import Installation, until
from tests.free_port import free_port

KEY = EnvKey("shop", "production")
PLACE = f"/api/v1/environments/{KEY.service}/{KEY.environment}"
WELCOME = {"state": "ENABLED", "variants": {"on": True, "off": False}, "defaultVariant": "on"}


def live(store: Store) -> None:
    """The environment exists, as a rollout leaves it in the ledger."""
    store.add_release(KEY, Digest("sha256:" + "a" * 64), ReleaseConfig(("serve",), port=1), "", time.time())
    release = ReleaseNumber(1)
    rollout = store.begin(Plan(KEY, Kind.DEPLOY, release, None, Slot.BLUE, BlueGreen()), "ada", time.time())
    store.occupy(KEY, Slot.BLUE, Occupant(release, rollout.id, 1))
    store.commit(rollout.id, Slot.BLUE, release, 0.0, time.time())
    store.close(rollout.id, {}, time.time())


def fetch(port: int, token: str) -> dict[str, Any]:
    made = _messages()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = channel.unary_unary(
            f"/{SERVICE}/FetchAllFlags",
            made["FetchAllFlagsRequest"].SerializeToString,
            made["FetchAllFlagsResponse"].FromString,
        )
        answer = call(made["FetchAllFlagsRequest"](selector=token), timeout=20, wait_for_ready=True)
    found: dict[str, Any] = json.loads(answer.flag_configuration)
    return found


def test_flags_are_served_again_by_the_server_that_follows_one_that_was_killed() -> None:
    with Installation() as installation:
        state, sync_port = installation.state, free_port()
        (state / "server.yaml").write_text(f"flags: {{grpc_port: {sync_port}}}\n")
        prepare(state)
        parts = make_parts(state)
        live(parts.store)
        token = parts.events_token(KEY)
        installation.up()
        url = f"http://127.0.0.1:{installation.api_port}"
        admin = {"Authorization": f"Bearer {(state / 'token').read_text().strip()}"}
        with httpx.Client(base_url=url, headers={"X-API-Key": token}, trust_env=False, timeout=20) as client:
            body = {"document": {"flags": {"welcome": WELCOME}}}
            assert client.post(f"{PLACE}/flag-imports", json=body, headers=admin).status_code == 200
            before = client.post("/ofrep/v1/evaluate/flags").json()
            assert [one["value"] for one in before["flags"]] == [True]
            assert fetch(sync_port, token)["flags"]["welcome"]["defaultVariant"] == "on"

            (stream,) = before["eventStreams"]
            pid = json.loads((state / "server.json").read_text())["pid"]
            with httpx.stream("GET", stream["url"], trust_env=False, timeout=20) as listening:
                lines = listening.iter_lines()
                assert next(lines) == ": welcome"
                os.kill(pid, signal.SIGKILL)
                try:
                    list(lines)
                except httpx.HTTPError:
                    pass

            def served() -> bool:
                try:
                    return client.post("/ofrep/v1/evaluate/flags/welcome").status_code == 200
                except httpx.HTTPError:
                    return False

            until(served, 60)
            assert json.loads((state / "server.json").read_text())["pid"] != pid
            assert client.post("/ofrep/v1/evaluate/flags").json()["flags"] == before["flags"]
            assert fetch(sync_port, token)["flags"]["welcome"]["defaultVariant"] == "on"
            with httpx.stream("GET", stream["url"], trust_env=False, timeout=20) as listening:
                lines = listening.iter_lines()
                assert next(lines) == ": welcome"
                client.post(f"{PLACE}/flags/welcome/commands", json={"command": "disable"}, headers=admin)
                assert next(line for line in lines if line.startswith("data: "))
            assert client.post("/ofrep/v1/evaluate/flags/welcome").json()["reason"] == "DISABLED"
