"""An installation in memory under a real API: what every test of a route needs."""

from __future__ import annotations

import io
import socket
import tarfile
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from fastapi import FastAPI
from fastapi.testclient import TestClient

from crossfade.api.app import create_app
from crossfade.bootstrap.pipelines import compose_pipelines, make_works
from crossfade.bootstrap.state import prepare
from crossfade.domain.access import Grant, local_actor
from crossfade.domain.environment import Occupant
from crossfade.domain.pipeline.plan import Commit, Node, NodeKind, Pipeline, Stage, StageName, Step
from crossfade.domain.pipeline.run import RunPlan
from crossfade.domain.release import BlueGreen, ReleaseConfig
from crossfade.domain.rollout import Kind, Plan
from crossfade.domain.traffic import Slot
from crossfade.domain.values import Digest, EnvKey, ReleaseNumber
from crossfade.fakes.access import FakeAccess
from crossfade.fakes.artifacts import FakeArtifacts
from crossfade.fakes.flags import MemoryFlags
from crossfade.fakes.history import MemoryHistories
from crossfade.fakes.prober import FakeProber
from crossfade.fakes.records import MemoryRecords
from crossfade.fakes.router import FakeRouter
from crossfade.fakes.runtime import FakeRuntime
from crossfade.fakes.secrets import FakeSecrets
from crossfade.fakes.signals import FakeSignals
from crossfade.fakes.store import FakeStore
from crossfade.ports import Parts, Store
from crossfade.ports.pipeline import Works
from crossfade.service import Service

KEY, STAGING = EnvKey("shop", "production"), EnvKey("shop", "staging")
DIGEST = Digest("sha256:" + "a" * 64)
TOKEN = "the-state-folders-own"
ADA = local_actor("ada@laptop")


class Idle:
    """A driver that drives nothing."""

    def drive(self, rollout: int) -> None: ...

    def ring(self) -> None: ...


class World:
    """r1 is live in production, r2 is being rolled out; staging rolls out its first. The clock is the test's."""

    def __init__(self, folder: Path, store: Store | None = None, config: ReleaseConfig | None = None) -> None:
        self.now = 1000.0
        kept = store or FakeStore()
        self.parts = Parts(
            kept,
            FakeRouter(),
            FakeRuntime(),
            FakeSignals(),
            FakeProber(),
            FakeArtifacts(folder / "artifacts"),
            FakeSecrets(),
            FakeAccess(),
            MemoryFlags(kept),
            MemoryRecords(kept),
            MemoryHistories(),
            b"key",
            lambda: self.now,
        )
        self.config = config or ReleaseConfig(("x",))
        self.folder = folder
        self.works: Works | None = None
        self.restart()

    def restart(self) -> None:
        """A new server over the same parts."""
        self.service = Service(self.parts, Idle(), lambda *_: self.config)
        if self.works is not None:
            compose_pipelines(self.parts, self.works, self.service)
        self.app: FastAPI = create_app(self.service, TOKEN, list, origin="http://here")

    def with_pipelines(self) -> Works:
        """From here on it has them, and a ledger of its own for them; no run is driven. Run 1 is of production."""
        # Not in the test's own folder, whose path is too long for sockets.
        self.place = tempfile.TemporaryDirectory(prefix="cf-", dir="/tmp")
        state = Path(self.place.name)
        prepare(state)
        self.works = make_works(state, self.parts)
        self.restart()
        node = Node("tests", NodeKind.COMMAND, what=Step(("true",)))
        stages = (Stage(StageName.COMMIT, (node,)), Stage(StageName.PRODUCTION, (), environment=KEY.environment))
        commit = Commit("4f2c81a" + "0" * 33, 1, 400.0, "Ada", "A change")
        pipeline = Pipeline(KEY.service, stages)
        plan = RunPlan(
            pipeline, "/srv", commit, "main", "command", "ada", "ada", (), 500.0, "{}", environment=KEY.environment
        )
        self.works.runs.add_run(plan)
        return self.works

    def settle(self) -> None:
        """What the class says."""
        store = self.parts.store
        for _ in range(2):
            store.add_release(KEY, DIGEST, self.config, "", 1.0)
        store.add_release(STAGING, DIGEST, self.config, "", 1.0)
        slot = Slot.BLUE
        for number in (ReleaseNumber(1), ReleaseNumber(2)):
            state = store.begin(Plan(KEY, Kind.DEPLOY, number, None, slot, BlueGreen()), "ada", 500.0)
            store.occupy(KEY, slot, Occupant(number, state.id, 1))
            if number.n == 1:
                store.commit(state.id, slot, number, 0.0, 500.0)
                store.close(state.id, {"rollout": state.id}, 500.0)
            slot = slot.other
        store.begin(Plan(STAGING, Kind.DEPLOY, ReleaseNumber(3), None, Slot.BLUE, BlueGreen()), "ada", 500.0)

    def token(self, *grants: str, expires: float | None = None) -> str:
        """The text of a new token."""
        made = [Grant.parse(text) for text in grants]
        return self.service.accounts.issue("t", made, expires, ADA)[1]

    def client(self, token: str | None = TOKEN) -> TestClient:
        headers = {"Authorization": f"Bearer {token}"} if token is not None else {}
        return TestClient(self.app, headers=headers, raise_server_exceptions=False, base_url="http://here")

    def upload(self) -> str:
        """The digest of an artifact that is there."""
        return self.parts.artifacts.put(io.BytesIO(tarball()), None).digest.text

    @contextmanager
    def serving(self) -> Iterator[str]:
        """On a real socket; the URL of the API."""
        server = uvicorn.Server(uvicorn.Config(self.app, log_config=None, lifespan="off"))
        self.service.hub.start()
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            listener.listen()
            thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
            thread.start()
            try:
                yield f"http://127.0.0.1:{listener.getsockname()[1]}"
            finally:
                self.service.hub.stop()
                server.should_exit = True
                thread.join()


def tarball() -> bytes:
    """One file."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        info = tarfile.TarInfo("app.py")
        info.size = 5
        tar.addfile(info, io.BytesIO(b"hello"))
    return made.getvalue()


def problem(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """The problem details of an answer that must be this one."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = answer.json()
    assert body["type"] == f"urn:crossfade:{code}"
    assert body["status"] == status
    return body
