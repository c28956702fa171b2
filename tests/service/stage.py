"""The use cases on twins, with a clock that a test turns."""

from __future__ import annotations

import io
import itertools
import tarfile
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from crossfade.domain.access import Actor, Grant, local_actor
from crossfade.domain.release import Release, ReleaseConfig
from crossfade.domain.rollout import Rollout
from crossfade.domain.values import EnvKey
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
from crossfade.ports import Access, Approval, Parts, Store
from crossfade.service import Request, Service

KEY, STAGING = EnvKey("bookshop", "production"), EnvKey("bookshop", "staging")
ADMIN = local_actor("ada@laptop", "127.0.0.1")


class Driver:
    """What the engine was asked to drive; ``dies`` is raised instead, once."""

    def __init__(self) -> None:
        self.driven: list[int] = []
        self.dies: BaseException | None = None

    def drive(self, rollout: int) -> None:
        """See `service.Driver`."""
        if self.dies is not None:
            dies, self.dies = self.dies, None
            raise dies
        self.driven.append(rollout)

    def ring(self) -> None: ...


class Stage:
    """An installation without an engine. A release's configuration is what `config` says when it is deployed."""

    def __init__(self, store: Store | None = None, access: Access | None = None) -> None:
        self.now = 1_000_000.0
        self.config = ReleaseConfig(("python", "app.py"))
        self.driver = Driver()
        self.signals = FakeSignals(lambda: self.now)
        kept = store or FakeStore()
        self.parts = Parts(
            store=kept,
            router=FakeRouter(),
            runtime=FakeRuntime(),
            signals=self.signals,
            prober=FakeProber(),
            artifacts=FakeArtifacts(),
            secrets=FakeSecrets(),
            access=access or FakeAccess(),
            flags=MemoryFlags(kept),
            records=MemoryRecords(kept),
            histories=MemoryHistories(),
            key=b"key",
            now=lambda: self.now,
        )
        self.service = self.another_server()
        self._contents = itertools.count()

    def another_server(self) -> Service:
        """The use cases as a server that was just started has them."""
        ports = {KEY.environment: 8080, STAGING.environment: 8081}
        return Service(self.parts, self.driver, lambda _data, _service, e: replace(self.config, port=ports[e]))

    def deploy(self, by: Actor, key: EnvKey = KEY, secrets: Mapping[str, str] | None = None) -> Rollout | Approval:
        """Deploy something new."""
        tarball = io.BytesIO()
        with tarfile.open(fileobj=tarball, mode="w") as tar:
            tar.addfile(tarfile.TarInfo(f"file-{next(self._contents)}"))
        tarball.seek(0)
        artifact = self.service.take_artifact(tarball, None)
        return self.service.deploy(Request(key, artifact.digest, {}, secrets or {}, "v1", by))

    def live(self, key: EnvKey = KEY, **settings: Any) -> Release:
        """Make a release live there, with these settings."""
        before, self.config = self.config, replace(self.config, **settings)
        state = self.deploy(ADMIN, key)
        assert isinstance(state, Rollout)
        self.finish(state)
        self.config = before
        return self.parts.store.release(key.service, state.plan.candidate)

    def finish(self, state: Rollout) -> None:
        """The rollout promotes its candidate."""
        self.parts.store.commit(state.id, state.plan.slot, state.plan.candidate, 0.0, self.now)
        self.parts.store.close(state.id, {}, self.now)

    def noted(self) -> list[dict[str, Any]]:
        """The audit log, oldest first."""
        return self.service.audit.page(1000)[::-1]


def person(name: str, *grants: str, via: str = "session") -> Actor:
    """Somebody with an account."""
    return Actor(name, tuple(map(Grant.parse, grants)), via, "10.0.0.1")


OPERATOR = person("olga", "operator@bookshop/production")
VIEWER = person("vera", "viewer")
