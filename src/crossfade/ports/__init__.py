"""What the engine needs of the world, as Protocols. Each has an adapter, a twin in `fakes`, and one contract suite.

Every write is idempotent: doing it twice is doing it once. Writes that move traffic or processes carry a
``fence``: the number of the environment's holder. An adapter keeps the highest fence that it has seen of an
environment (on disk, where it keeps its state) and raises `StaleFence` for a lower one.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, Final, Protocol, Self

from crossfade.domain.analysis.policy import Source
from crossfade.domain.analysis.sample import History, Moments
from crossfade.domain.analysis.totals import Totals
from crossfade.domain.drill import EdgeFault
from crossfade.domain.environment import Entry, Environment, Occupant, Retirement
from crossfade.domain.errors import Invalid, Unavailable
from crossfade.domain.events import Event
from crossfade.domain.health import Check, CheckResult, Flow
from crossfade.domain.release import Artifact, Release, ReleaseConfig
from crossfade.domain.rollout import Command, Ordered, Plan, Rollout
from crossfade.domain.signal import Failure as Failure
from crossfade.domain.signal import Latencies as Latencies
from crossfade.domain.signal import Reading as Reading
from crossfade.domain.traffic import Lease, Pool, Server, Slot, Split, Sticky
from crossfade.domain.values import Digest, EnvKey, ReleaseNumber
from crossfade.ports.access import Access as Access
from crossfade.ports.access import Account as Account
from crossfade.ports.access import Approval as Approval
from crossfade.ports.access import Login as Login
from crossfade.ports.access import Token as Token
from crossfade.ports.databases import Databases, NoDatabases
from crossfade.ports.flags import Flags
from crossfade.ports.pipeline import Profile
from crossfade.ports.records import Histories as Histories
from crossfade.ports.records import Record as Record
from crossfade.ports.records import Records as Records


class Artifacts(Protocol):
    """Immutable, content-addressed outputs of builds."""

    def put(self, tarball: BinaryIO, expected: Digest | None = None) -> Artifact:
        """Take a tar stream (optionally gzipped); name it by its content. Raises Invalid, StorageFailed."""

    def get(self, digest: Digest) -> Artifact | None: ...

    def folder(self, digest: Digest) -> Path:
        """The unpacked, read-only files. Raises NotFound."""

    def verify(self, digest: Digest) -> str:
        """Empty when the stored bytes still have this digest; else what is wrong (missing, changed)."""

    def remove(self, digest: Digest) -> None: ...

    def all(self) -> tuple[Artifact, ...]: ...


@dataclass(frozen=True, slots=True)
class ReplicaSpec:
    """What to run. ``name`` is unique and stable (``bookshop.production.r12-1``); it is also the identity of the replica.

    ``command`` may contain ``$PORT`` and ``$HOST``; both are also set in the environment. ``cwd`` is read-only
    by convention (an artifact's folder). ``env`` is complete apart from PATH, HOME and LANG; it may hold secrets.
    """

    name: str
    command: tuple[str, ...]
    cwd: Path
    env: Mapping[str, str]
    host: str = "127.0.0.1"
    stop_timeout: float = 10.0


@dataclass(frozen=True, slots=True)
class Replica:
    """One replica as the runtime knows it. ``state`` is starting, running, exited or stopped. ``pid`` 0 when not running.

    ``restarts`` counts how often it ended without being asked to. ``detail`` is a sentence for people.
    """

    name: str
    host: str
    port: int
    state: str
    pid: int = 0
    restarts: int = 0
    detail: str = ""


class Runtime(Protocol):
    """Starts and stops replicas, which outlive the control plane."""

    def start(self, key: EnvKey, specs: Sequence[ReplicaSpec], fence: int) -> tuple[Replica, ...]:
        """Start those that are not running yet, each on a free port of its own. Raises Unavailable, StorageFailed, StaleFence."""

    def stop(self, key: EnvKey, names: Sequence[str], fence: int) -> None:
        """SIGTERM, then SIGKILL after the replica's stop_timeout; gone when this returns. Unknown names are ignored."""

    def replicas(self, key: EnvKey) -> tuple[Replica, ...]:
        """All replicas of an environment, by name."""

    def replicas_of(self, keys: Sequence[EnvKey]) -> Mapping[EnvKey, tuple[Replica, ...]]:
        """The same of several, for little more than one costs."""

    def logs(self, name: str, lines: int = 50) -> tuple[str, ...]:
        """The last lines of a replica's output (stdout and stderr together); empty when there is none."""


@dataclass(frozen=True, slots=True)
class Route:
    """One environment at the edge: where it listens and how it treats requests. Times in seconds."""

    key: EnvKey
    bind: str
    port: int
    sticky: Sticky = field(default_factory=Sticky)
    request_timeout: float = 60.0
    drain_timeout: float = 30.0

    @classmethod
    def of(cls, key: EnvKey, config: ReleaseConfig) -> Self:
        """Where a release wants its environment to listen."""
        return cls(key, config.bind, config.port, config.sticky, config.request_timeout, config.drain_timeout)


@dataclass(frozen=True, slots=True)
class ServerStatus:
    """``status`` is up, down, or draining; ``sessions`` in flight, WebSockets included; ``check`` is the edge's last word."""

    server: Server
    status: str
    sessions: int
    check: str = ""


@dataclass(frozen=True, slots=True)
class EdgeState:
    """One environment as the edge has it now. ``lapsed``: a lease ran out and the edge went back by itself.

    ``faults`` are those of a game day that have not ended.
    """

    route: Route
    split: Split
    lease: Lease | None
    lapsed: bool
    servers: Mapping[Pool, tuple[ServerStatus, ...]]
    fence: int
    faults: Mapping[Slot, EdgeFault] = field(default_factory=dict)


class Router(Protocol):
    """Sends traffic to slots by weight. Every change is on disk before the edge has it."""

    def ensure(self, route: Route, fence: int) -> None:
        """Make the environment exist as described (hitless when the edge must reload). A new one has all weight on blue.

        Raises Refused when the port is taken (naming it), Unavailable, StorageFailed, StaleFence.
        """

    def remove(self, key: EnvKey, fence: int) -> None: ...

    def add_servers(self, key: EnvKey, slot: Pool, servers: Sequence[Server], fence: int, release: str = "") -> None:
        """Add those that are not there; returns when the edge sees each as up. Raises Unavailable after 10 s otherwise.

        ``release`` (``r12``) is told to the application with each request of the pool, in ``X-Crossfade-Release``, until
        the pool has no servers any more. Without it, what was said before still holds. Raises Invalid.
        """

    def drain_servers(self, key: EnvKey, slot: Pool, names: Sequence[str], fence: int) -> None:
        """No new requests to these; those in flight (WebSocket, SSE) go on."""

    def remove_servers(self, key: EnvKey, slot: Pool, names: Sequence[str], fence: int) -> None:
        """Take them out, cutting what is still in flight. Unknown names are ignored."""

    def set_split(self, key: EnvKey, split: Split, lease: Lease | None, fence: int) -> None:
        """Move the weights in one atomic step, with the lease they hold under (None: for good).

        Returns when the edge has acknowledged. Raises Unavailable, StorageFailed, StaleFence.
        """

    def renew(self, key: EnvKey, lease: Lease, fence: int) -> bool:
        """Prolong the lease; False when it had already lapsed (the split is then the fallback's)."""

    def open_preview(self, key: EnvKey, slot: Slot, secret: str, fence: int) -> None:
        """Requests with header ``X-Crossfade-Preview: secret`` reach ``slot`` whatever the split; nobody else does so."""

    def close_preview(self, key: EnvKey, fence: int) -> None: ...

    def hold(self, key: EnvKey, seconds: float, fence: int) -> None:
        """Let new requests wait at the edge, for at most ``seconds`` (≤ 30), then let them go by itself. 0 ends a hold."""

    def inject(self, key: EnvKey, slot: Slot, fault: EdgeFault | None, until: float, fence: int) -> None:
        """Disturb the requests of a slot until then (epoch s), when the edge ends it by itself; None ends it now.

        A second call replaces the first. Previews are spared. Raises Invalid.
        """

    def read(self, key: EnvKey) -> EdgeState:
        """Raises NotFound, Unavailable."""

    def read_many(self, keys: Sequence[EnvKey]) -> Mapping[EnvKey, EdgeState]:
        """The same of several, for little more than one costs; those that are not there are left out."""

    def keys(self) -> tuple[EnvKey, ...]: ...


class Signals(Protocol):
    """Counted facts about both slots and the control pool."""

    def read(self, key: EnvKey) -> Reading:
        """Raises NotFound, Unavailable."""

    def read_many(self, keys: Sequence[EnvKey]) -> Mapping[EnvKey, Reading]:
        """The same of several, for little more than one costs; those that are not there are left out. Raises Unavailable."""

    def history(self, key: EnvKey, slot: Pool) -> History:
        """What the slot's clients saw lately, as far as it is remembered: rate, burstiness and latencies.

        Empty when nothing is known. Raises Unavailable.
        """

    def forget(self, key: EnvKey, slot: Pool) -> None:
        """Another release comes into the slot: what its clients saw so far is no history of that one."""

    def profile(self, key: EnvKey) -> Profile | None:
        """What an environment's clients asked for, by hour; None when nothing is known."""

    def failures(self, key: EnvKey, since: float) -> tuple[Failure, ...]:
        """The failed requests that ended after ``since`` (epoch seconds), as far as they are remembered; oldest first."""


PLACEHOLDERS: Final = ("service", "environment", "slot", "release", "arm")
"""What ``{…}`` may name in the URL and the queries of a source."""


class Sources(Protocol):
    """Signals from elsewhere: what `domain.analysis.policy.Source` describes."""

    def read(self, source: Source, arm: Mapping[str, str]) -> Totals:
        """What a source says of one arm, now. ``arm`` is what the placeholders stand for: service, environment, slot,

        release (``r12``), arm (``baseline`` or ``candidate``). Answers within the source's timeout. Raises Unavailable, with
        the reason in a line, when it cannot be read or what it says cannot be: refused, late, an HTTP status, no series,
        stale, no number, too large, more errors than requests; Invalid for a source that cannot be asked at all.
        """


class NoSources:
    """`Sources` of an installation that has none."""

    def read(self, source: Source, arm: Mapping[str, str]) -> Totals:
        """See `Sources.read`."""
        raise Unavailable(f"{source.name}: there is no such source.")


class Prober(Protocol):
    """Asks replicas, or an edge, the questions of health checks and flows."""

    def check(self, base_url: str, checks: Sequence[Check], headers: Mapping[str, str]) -> tuple[CheckResult, ...]:
        """Run each check once against ``base_url`` (``http://127.0.0.1:8080``), sending ``headers`` with each."""

    def flow(
        self, base_url: str, flow: Flow, opening_headers: Mapping[str, str], continuing_headers: Mapping[str, str]
    ) -> tuple[CheckResult, ...]:
        """Run the opening checks, then the continuing ones with the same cookies and captures; stops at the first fault."""


class Secrets(Protocol):
    """Values that must not be in the store, logs, API or UI."""

    def put(self, values: Mapping[str, str]) -> str:
        """Keep them; returns a name derived from their content. An empty mapping is the empty name."""

    def get(self, name: str) -> Mapping[str, str]:
        """Raises NotFound."""


CHANGES_KEPT: Final = 10_000
"""How many of the newest changes the feed has at least."""

ANSWERS_KEPT: Final = 86_400.0
"""Seconds for which an answer that was given under an idempotency key is known."""


@dataclass(frozen=True)
class Change:
    """Something that happened, for those who watch. ``seq`` grows, with gaps; ``at`` is epoch seconds.

    ``kind`` is ``rollout`` (its state was saved), ``journal`` (a line of its journal), ``live`` (a release became it),
    ``closed`` (a rollout left its environment free), ``approval``, ``flags``, ``flag-request``, ``ramp``, ``experiment``,
    ``run``, ``alert``, ``watch``, ``drill``, ``proof``, ``notice``, ``fix``, ``days``, ``mark``, ``meter``,
    ``audit`` or ``sample``; ``key`` is the environment.
    """

    seq: int
    at: float
    kind: str
    key: str
    rollout: int | None
    data: Mapping[str, Any]

    @cached_property
    def text(self) -> str:
        """As JSON: made once, however many watch."""
        said = {"at": self.at, "kind": self.kind, "key": self.key, "rollout": self.rollout, "data": self.data}
        return json.dumps(said, separators=(",", ":"))


@dataclass(frozen=True, slots=True)
class Kept:
    """What was answered under an idempotency key. ``status`` is None while the first request is still at work."""

    fingerprint: str
    status: int | None
    body: str


class Store(Protocol):
    """The ledger: releases, rollouts, their journals, and what each environment holds. Durable when a call returns."""

    def environment(self, key: EnvKey) -> Environment | None: ...

    def environments(self, keys: Sequence[EnvKey] | None = None) -> tuple[Environment, ...]:
        """All, or those of some keys; by key as text."""

    def keys(self) -> tuple[EnvKey, ...]:
        """Of all environments, in no order."""

    def add_release(self, key: EnvKey, digest: Digest, config: ReleaseConfig, label: str, now: float) -> Release:
        """Number the release, one higher than any of its service, in whatever environment."""

    def release(self, service: str, number: ReleaseNumber) -> Release:
        """Raises NotFound."""

    def releases(self, key: EnvKey, *, limit: int | None = None, before: int | None = None) -> tuple[Release, ...]:
        """Newest first; those with a number below ``before`` only."""

    def promotions(self, key: EnvKey) -> tuple[ReleaseNumber, ...]:
        """Each promotion in time order; a release that was returned to occurs again."""

    def refuse_if_held(self, key: EnvKey) -> None:
        """Raises Busy, naming the holder, when a rollout holds the environment."""

    def begin(self, plan: Plan, by: str, now: float, expects: int | None = None) -> Rollout:
        """Take the environment and write the rollout down. Raises Busy, naming the holder, when it is taken.

        With ``expects``, only while the environment's fence is still that one (0: it has had no rollout); else Moved.
        """

    def save(self, state: Rollout, entries: Sequence[Entry]) -> None:
        """Write the state and append to its journal, in one transaction."""

    def rollout(self, id: int) -> Rollout:
        """Raises NotFound."""

    def rollouts(
        self, key: EnvKey | None = None, *, open_only: bool = False, limit: int = 50, before: int | None = None
    ) -> tuple[Rollout, ...]:
        """Newest first; those with an id below ``before`` only."""

    def last_rollouts(self, keys: Sequence[EnvKey]) -> Mapping[EnvKey, Rollout]:
        """The newest of each environment that has had one."""

    def begun_by(self, ids: Sequence[int]) -> Mapping[int, str]:
        """Who began each of these rollouts."""

    def fence(self, id: int) -> int:
        """The fence under which a rollout acts."""

    def journal(self, id: int) -> tuple[Entry, ...]: ...

    def order(self, id: int, command: Command, by: str, now: float) -> Ordered:
        """Keep a person's command for the engine."""

    def orders(self, id: int) -> tuple[Ordered, ...]:
        """All commands given to a rollout, in order."""

    def keep_reading(self, id: int, label: str, reading: Reading) -> None:
        """The first reading of a label stays."""

    def readings(self, id: int) -> Mapping[str, Reading]: ...

    def occupy(self, key: EnvKey, slot: Slot, occupant: Occupant | None) -> None: ...

    def keep_evidence(self, id: int, evidence: Mapping[str, Any]) -> None:
        """What the judge has seen of a rollout, as JSON; the newest stays."""

    def evidence(self, id: int) -> Mapping[str, Any] | None: ...

    def commit(self, id: int, slot: Slot, release: ReleaseNumber, warm_until: float, now: float) -> None:
        """Make the release live; the occupant of the other slot is warm until then. Once per rollout."""

    def close(self, id: int, receipt: Mapping[str, Any], now: float) -> None:
        """Keep the receipt and give the environment free."""

    def keep_receipt(self, id: int, receipt: Mapping[str, Any]) -> None: ...

    def receipt(self, id: int) -> Mapping[str, Any] | None: ...

    def retire(self, key: EnvKey, slot: Pool, names: Sequence[str], deadline: float) -> None: ...

    def retirements(self) -> tuple[Retirement, ...]: ...

    def retired(self, retirement: int) -> None: ...

    def unfinished_receipts(self) -> tuple[tuple[int, float], ...]:
        """Rollouts that were closed without the reading of label ``after``, with when they were closed."""

    def add_events(self, events: Sequence[Event], batch: str, now: float) -> int:
        """Count business events, all or none; how many. A ``batch`` that is known adds nothing and answers the same.

        The last `domain.events.BATCHES_KEPT` names of batches are known; an empty one is never. Raises InvalidBatch
        for events whose names would be more than `domain.events.MOST_NAMES` of one environment and release.
        """

    def event_tallies(self, key: EnvKey) -> Mapping[tuple[ReleaseNumber, str, str], Moments]:
        """All events that were posted for an environment, by release, pool (empty: not said) and name."""

    def tell(self, kind: str, key: str, data: Mapping[str, Any], now: float, rollout: int | None = None) -> None:
        """Append to the feed what no other method appends itself."""

    def changes(self, after: int, limit: int = 500) -> tuple[Change, ...]:
        """What came after a change, oldest first."""

    def changes_kept(self) -> tuple[int, int]:
        """The numbers of the oldest change that is kept and of the newest; 0 and 0 when there was none."""

    def claim_key(self, actor: str, name: str, fingerprint: str, now: float) -> Kept | None:
        """Take an idempotency key for a request; None when it is new, else what is known of the first request."""

    def keep_answer(self, actor: str, name: str, status: int, body: str) -> None:
        """Keep what was answered, for `ANSWERS_KEPT` seconds after the claim."""

    def give_up_key(self, actor: str, name: str) -> None:
        """The request failed in a way that is worth another try: the key is new again unless it was answered."""

    def give_up_keys(self) -> None:
        """At the start of a server: requests that were at work when it ended will never be answered."""


@dataclass(frozen=True)
class Parts:
    """Everything outside that a rollout touches. ``key`` is this installation's own secret; ``now`` is epoch seconds.

    ``api`` is the URL at which replicas reach the API of this installation, empty when there is none.
    """

    store: Store
    router: Router
    runtime: Runtime
    signals: Signals
    prober: Prober
    artifacts: Artifacts
    secrets: Secrets
    access: Access
    flags: Flags
    records: Records
    histories: Histories
    key: bytes
    now: Callable[[], float] = field(default=time.time)
    sources: Sources = field(default_factory=NoSources)
    api: str = ""
    databases: Databases = field(default_factory=NoDatabases)

    def specs(self, key: EnvKey, slot: str, release: Release, names: Sequence[str]) -> tuple[ReplicaSpec, ...]:
        """What the replicas of a release are started with in an environment. Raises NotFound when something of it is gone."""
        config = release.config
        env: dict[str, str] = {
            **dict(config.env),
            **(self.secrets.get(config.secrets) if config.secrets else {}),
            **self.databases.env(release),
        }
        env |= {
            "CROSSFADE_SERVICE": key.service,
            "CROSSFADE_ENVIRONMENT": key.environment,
            "CROSSFADE_RELEASE": str(release.number),
            "CROSSFADE_SLOT": slot,
        }
        if self.api:
            env["CROSSFADE_EVENTS_URL"] = f"{self.api}/api/v1/events"
            env["CROSSFADE_EVENTS_TOKEN"] = self.events_token(key)
            env["CROSSFADE_FLAGS_URL"] = self.api
            env["CROSSFADE_FLAGS_TOKEN"] = env["CROSSFADE_EVENTS_TOKEN"]
        folder = self.artifacts.folder(release.digest)
        return tuple(ReplicaSpec(name, config.command, folder, env, stop_timeout=config.stop_timeout) for name in names)

    def preview_secret(self, rollout: int) -> str:
        """What opens the preview of one rollout. Derived, so that a restarted engine knows it again."""
        return hmac.new(self.key, f"preview {rollout}".encode(), hashlib.sha256).hexdigest()[:40]

    def events_token(self, key: EnvKey) -> str:
        """What lets the replicas of one environment post its events, and nothing else."""
        proof = hmac.new(self.key, f"events {key}".encode(), hashlib.sha256).hexdigest()[:40]
        return f"{key.service}.{key.environment}.{proof}"

    def events_key(self, token: str) -> EnvKey | None:
        """The environment whose events a token lets post; None when it is none of ours."""
        service, _, rest = token.partition(".")
        environment, _, _ = rest.partition(".")
        try:
            key = EnvKey(service, environment)
        except Invalid:
            return None
        return key if hmac.compare_digest(self.events_token(key).encode(), token.encode()) else None
