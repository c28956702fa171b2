"""What migrations need of a database, as a Protocol. One object is one database of one environment."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Protocol

from crossfade.domain.migrations.operations import Migration
from crossfade.domain.migrations.phases import Progress, Record
from crossfade.domain.migrations.plan import Plan
from crossfade.domain.release import DatabaseUse, Release
from crossfade.domain.values import Digest, EnvKey
from crossfade.ports.pipeline import Cancel


@dataclass(frozen=True, slots=True)
class Watch:
    """Who follows a phase. ``tell`` takes a line for people; ``progress`` numbers, at most a few times a second.

    ``throttle`` says why it should wait now (the error budget burns), else empty; it is asked between batches. ``duty`` is
    the share of time, 0 < duty <= 1, that a backfill may work. Once ``cancel`` is set, a phase ends at the next boundary, and
    goes on from there when it is called again.
    """

    tell: Callable[[str], None]
    progress: Callable[[Progress], None]
    throttle: Callable[[], str]
    cancel: Cancel
    duty: float = 1.0
    cancel_blockers: bool = False
    """End the sessions that stand in the way of a lock, after the last try."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What lint found. ``rule`` is stable; ``severity``: ``error``, ``warning`` or ``note``. Lines count from 1, 0: unknown."""

    rule: str
    severity: str
    file: str
    line: int
    sentence: str
    hint: str = ""
    tool: str = "crossfade"


@dataclass(frozen=True, slots=True)
class Trace:
    """What a statement locks and rewrites, seen on a scratch copy. ``locks``: relation and mode, ``rewrites``: relations."""

    statement: str
    locks: tuple[tuple[str, str], ...]
    rewrites: tuple[str, ...] = ()
    seconds: float = 0.0


class Database(Protocol):
    """Every phase may be called again after a crash at any place, and goes on; one that is done already is nothing to do.

    All methods raise Unavailable when the database does not answer, and Busy while another process works on its migrations.
    """

    def describe(self) -> str:
        """Kind, version and place for people, without the password: ``PostgreSQL 15.4 at 127.0.0.1:5432/shop``."""

    def ledger(self) -> Sequence[Record]:
        """All migrations that were ever applied, oldest first; empty before the first."""

    def check(self, migrations: Sequence[Migration]) -> None:
        """Refuse files that were edited after they were applied, are missing, or stand before applied ones. Raises Refused."""

    def plan(self, migrations: Sequence[Migration]) -> Sequence[Plan]:
        """What those not yet applied would do, with hazards; changes nothing. Raises Invalid for what cannot be."""

    def expand(self, migration: Migration, watch: Watch) -> None:
        """Make the new shape beside the old one. Raises Refused when a hazard blocks it or a lock cannot be had: all is as before."""

    def backfill(self, version: str, watch: Watch) -> bool:
        """Fill the new shape and verify it; False when cancelled before its end. Raises Refused with a sample of rows that cannot be."""

    def contract(self, version: str, watch: Watch) -> None:
        """Take the old shape away. Raises Refused unless it is verified and the oldest that is open."""

    def abort(self, version: str, watch: Watch) -> None:
        """Take the new shape away. Raises Refused for one that others build on, or whose contract has begun."""

    def pause(self, version: str, paused: bool) -> None:
        """Let the backfill wait, or go on. Raises NotFound."""

    def environment(self, version: str) -> Mapping[str, str]:
        """Variables for replicas made for a version (empty: from before all), so that they see its shape. May hold secrets."""

    def replicas(self, version: str) -> int:
        """How many sessions of a version's replicas are connected now."""


class Databases(Protocol):
    """The databases of environments, as their releases know them."""

    def version(self, digest: Digest, use: DatabaseUse) -> str:
        """The newest migration in an artifact; empty when it has none. Raises InvalidConfig for files that are none."""

    def migrations(self, release: Release) -> Sequence[Migration]:
        """Those that a release carries, in order. Raises InvalidConfig, NotFound."""

    def of(self, release: Release) -> Database | None:
        """The database that a release uses; None when it says nothing of one. Raises Invalid, NotFound for a URL that is none."""

    def ledger(self, release: Release, lately: float = 1.0) -> Sequence[Record] | None:
        """Its ledger as it was at most ``lately`` seconds ago; None when it does not answer, or there is none."""

    def env(self, release: Release) -> Mapping[str, str]:
        """What its replicas are told besides their own variables, so that they see their version. May hold secrets."""

    def exclusive(self, key: EnvKey) -> AbstractContextManager[None]:
        """Between deciding that an environment is free and taking it, for rollouts and contracts."""

    def contracting(self, key: EnvKey, version: str | None) -> None:
        """Note which contract runs in an environment; None: it has ended."""

    def busy(self, key: EnvKey) -> str:
        """The version whose contract runs in an environment; empty when none does."""


class NoDatabases:
    """`Databases` of an installation whose services have none."""

    def __init__(self) -> None:
        self._locks: defaultdict[EnvKey, threading.Lock] = defaultdict(threading.Lock)
        self._contracting: dict[EnvKey, str] = {}

    def version(self, digest: Digest, use: DatabaseUse) -> str:
        return ""

    def migrations(self, release: Release) -> Sequence[Migration]:
        return ()

    def of(self, release: Release) -> Database | None:
        return None

    def ledger(self, release: Release, lately: float = 1.0) -> Sequence[Record] | None:
        return None

    def env(self, release: Release) -> Mapping[str, str]:
        return {}

    def exclusive(self, key: EnvKey) -> AbstractContextManager[None]:
        return _locked(self._locks[key])

    def contracting(self, key: EnvKey, version: str | None) -> None:
        if version is None:
            self._contracting.pop(key, None)
        else:
            self._contracting[key] = version

    def busy(self, key: EnvKey) -> str:
        return self._contracting.get(key, "")


@contextmanager
def _locked(lock: threading.Lock) -> Iterator[None]:
    with lock:
        yield


class Linter(Protocol):
    """Looks at migrations before anything is changed."""

    def lint(self, migrations: Sequence[tuple[Migration, str]]) -> Sequence[Finding]:
        """Each migration with its file's text. Raises Unavailable when a tool is missing."""
