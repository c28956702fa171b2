"""What was applied to a database, kept in the database itself: its schema ``crossfade``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from psycopg import Connection, errors
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from crossfade.domain.errors import Busy, NotFound
from crossfade.domain.migrations.phases import Phase, Progress, Record
from crossfade.domain.migrations.plan import Fill, Name

LOCK: Final = 0x63726F7373666164
"""The advisory lock of whoever works on the migrations of a database: ``crossfad``."""
TABLES: Final = """
CREATE SCHEMA IF NOT EXISTS crossfade;
CREATE TABLE IF NOT EXISTS crossfade.migrations (
  position integer PRIMARY KEY,
  version text NOT NULL,
  checksum text NOT NULL,
  source text NOT NULL,
  phase text NOT NULL,
  layer jsonb NOT NULL,
  settle jsonb NOT NULL DEFAULT '[]',
  step integer NOT NULL DEFAULT 0,
  paused boolean NOT NULL DEFAULT false,
  trouble text NOT NULL DEFAULT '',
  samples jsonb NOT NULL DEFAULT '[]',
  contracts boolean NOT NULL DEFAULT true,
  began timestamptz NOT NULL DEFAULT now(),
  expanded timestamptz, verified timestamptz, contracted timestamptz, aborted timestamptz
);
CREATE UNIQUE INDEX IF NOT EXISTS migrations_version ON crossfade.migrations (version) WHERE phase <> 'aborted';
CREATE TABLE IF NOT EXISTS crossfade.backfills (
  position integer NOT NULL REFERENCES crossfade.migrations ON DELETE CASCADE,
  relation text NOT NULL,
  cursor jsonb, fence jsonb,
  done bigint NOT NULL DEFAULT 0, total bigint NOT NULL DEFAULT 0, failed bigint NOT NULL DEFAULT 0,
  finished boolean NOT NULL DEFAULT false, verified boolean NOT NULL DEFAULT false, checksum text NOT NULL DEFAULT '',
  PRIMARY KEY (position, relation)
);
COMMENT ON SCHEMA crossfade IS 'What Crossfade has migrated: do not edit'
"""
HOLDER: Final = """
SELECT a.pid, a.application_name, a.usename, a.backend_start FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid
 WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
   AND l.classid = (%(lock)s::bigint >> 32)::bigint::oid AND l.objid = (%(lock)s::bigint & 4294967295)::oid
"""


@dataclass(frozen=True, slots=True)
class Row:
    """A migration as the ledger knows it. ``layer`` and ``settle`` are JSON of the domain's."""

    position: int
    version: str
    checksum: str
    source: str
    phase: Phase
    layer: Any
    settle: Any
    step: int
    paused: bool
    trouble: str
    samples: tuple[str, ...]
    contracts: bool
    expanded: float
    verified: float
    contracted: float


@dataclass(frozen=True, slots=True)
class Walk:
    """How far a backfill has come. ``cursor`` and ``fence`` are keys as text, or block numbers; None before the first."""

    cursor: Any
    fence: Any
    done: int
    total: int
    failed: int
    finished: bool


class Ledger:
    """On a connection of its own caller: what is changed is part of the transaction that is open there, if one is."""

    def __init__(self, connection: Connection[Any]) -> None:
        self._connection = connection

    def prepare(self) -> None:
        """Make the tables where they are not there yet."""
        if not self.exists():
            try:
                with self._connection.transaction():
                    self._connection.execute(TABLES)
            except (errors.UniqueViolation, errors.DuplicateObject, errors.DuplicateTable):
                return  # somebody else was faster by a moment

    def exists(self) -> bool:
        row = self._connection.execute("SELECT to_regclass('crossfade.backfills') IS NOT NULL").fetchone()
        return bool(row and row[0])

    @contextmanager
    def held(self) -> Iterator[None]:
        """Work on migrations, alone. Raises Busy, which names who does already."""
        got = self._connection.execute("SELECT pg_try_advisory_lock(%s)", (LOCK,)).fetchone()
        if not got or not got[0]:
            holder = self._connection.execute(HOLDER, {"lock": LOCK}).fetchone()
            who = (
                f"pid {holder[0]} ({holder[1]}, user {holder[2]}, since {holder[3]:%H:%M:%S})" if holder else "somebody"
            )
            raise Busy(
                f"The migrations of this database are being worked on by {who}.", hint="Wait for its end, or end it."
            )
        try:
            yield
        finally:
            if not self._connection.closed and not self._connection.broken:
                self._connection.execute("SELECT pg_advisory_unlock(%s)", (LOCK,))

    def rows(self) -> list[Row]:
        """Oldest first; those that were aborted too."""
        if not self.exists():
            return []
        with self._connection.cursor(row_factory=dict_row) as cursor:
            found = cursor.execute(
                "SELECT *, extract(epoch FROM expanded)::float8 AS e, extract(epoch FROM verified)::float8 AS v,"
                " extract(epoch FROM contracted)::float8 AS c FROM crossfade.migrations ORDER BY position"
            ).fetchall()
        return [
            Row(
                one["position"],
                one["version"],
                one["checksum"],
                one["source"],
                Phase(one["phase"]),
                one["layer"],
                one["settle"],
                one["step"],
                one["paused"],
                one["trouble"],
                tuple(one["samples"]),
                one["contracts"],
                one["e"] or 0.0,
                one["v"] or 0.0,
                one["c"] or 0.0,
            )
            for one in found
        ]

    def row(self, version: str) -> Row:
        """One that was not aborted. Raises NotFound."""
        for one in self.rows():
            if one.version == version and one.phase is not Phase.ABORTED:
                return one
        raise NotFound(
            f"No migration {version} was applied to this database.", hint="crossfade migrate ledger lists them."
        )

    def next_position(self) -> int:
        found = self._connection.execute("SELECT coalesce(max(position), 0) + 1 FROM crossfade.migrations").fetchone()
        assert found is not None  # an aggregate always has a row
        return int(found[0])

    def begin(
        self,
        position: int,
        version: str,
        checksum: str,
        source: str,
        phase: Phase,
        layer: Any,
        settle: Any,
        *,
        contracts: bool,
    ) -> None:
        self._connection.execute(
            "INSERT INTO crossfade.migrations (position, version, checksum, source, phase, layer, settle, contracts, expanded)"
            " VALUES (%s, %s, %s, %s, %s, %s, %s, %s, CASE WHEN %s = 'expanded' THEN now() END)",
            (position, version, checksum, source, phase.value, Jsonb(layer), Jsonb(settle), contracts, phase.value),
        )

    def phase(self, position: int, phase: Phase, *, step: int = 0) -> None:
        """A migration enters a phase."""
        column = {
            Phase.EXPANDED: ", expanded = now()",
            Phase.VERIFIED: ", verified = now(), trouble = '', samples = '[]'",
            Phase.CONTRACTED: ", contracted = now()",
            Phase.ABORTED: ", aborted = now()",
        }.get(phase, "")
        query = f"UPDATE crossfade.migrations SET phase = %s, step = %s{column} WHERE position = %s"  # noqa: S608 - of the four above
        self._connection.execute(query, (phase.value, step, position))

    def step(self, position: int, step: int) -> None:
        self._connection.execute("UPDATE crossfade.migrations SET step = %s WHERE position = %s", (step, position))

    def layer(self, position: int, layer: Any) -> None:
        self._connection.execute(
            "UPDATE crossfade.migrations SET layer = %s WHERE position = %s", (Jsonb(layer), position)
        )

    def settle(self, position: int, layer: Any, settle: Any) -> None:
        self._connection.execute(
            "UPDATE crossfade.migrations SET layer = %s, settle = %s WHERE position = %s",
            (Jsonb(layer), Jsonb(settle), position),
        )

    def trouble(self, position: int, text: str, samples: Sequence[str] = ()) -> None:
        self._connection.execute(
            "UPDATE crossfade.migrations SET trouble = %s, samples = %s WHERE position = %s",
            (text[:2000], Jsonb(list(samples)), position),
        )

    def pause(self, position: int, paused: bool) -> None:
        self._connection.execute("UPDATE crossfade.migrations SET paused = %s WHERE position = %s", (paused, position))

    def paused(self, position: int) -> bool:
        found = self._connection.execute(
            "SELECT paused FROM crossfade.migrations WHERE position = %s", (position,)
        ).fetchone()
        return bool(found and found[0])

    # --- backfills

    def walk(self, position: int, fill: Fill) -> Walk:
        """How far one is; begun when it was not."""
        self._connection.execute(
            "INSERT INTO crossfade.backfills (position, relation) VALUES (%s, %s) ON CONFLICT DO NOTHING",
            (position, str(fill.table)),
        )
        found = self._connection.execute(
            "SELECT cursor, fence, done, total, failed, finished FROM crossfade.backfills WHERE position = %s AND relation = %s",
            (position, str(fill.table)),
        ).fetchone()
        assert found is not None  # it was inserted above
        return Walk(*found)

    def fence(self, position: int, table: Name, fence: Any, total: int) -> None:
        self._connection.execute(
            "UPDATE crossfade.backfills SET fence = %s, total = %s WHERE position = %s AND relation = %s",
            (Jsonb(fence), total, position, str(table)),
        )

    def walked(self, position: int, table: Name, cursor: Any, rows: int, failed: int) -> None:
        self._connection.execute(
            "UPDATE crossfade.backfills SET cursor = %s, done = done + %s, failed = failed + %s WHERE position = %s AND relation = %s",
            (Jsonb(cursor), rows, failed, position, str(table)),
        )

    def again(self, position: int) -> None:
        """Walk all from the beginning: rows that are filled are passed over."""
        self._connection.execute(
            "UPDATE crossfade.backfills SET cursor = NULL, fence = NULL, failed = 0, finished = false WHERE position = %s",
            (position,),
        )

    def finished(self, position: int, table: Name) -> None:
        self._connection.execute(
            "UPDATE crossfade.backfills SET finished = true WHERE position = %s AND relation = %s",
            (position, str(table)),
        )

    def verified(self, position: int, table: Name, checksum: str) -> None:
        self._connection.execute(
            "UPDATE crossfade.backfills SET verified = true, checksum = %s WHERE position = %s AND relation = %s",
            (checksum, position, str(table)),
        )

    def records(self) -> list[Record]:
        """All migrations, as the port gives them."""
        if not self.exists():
            return []
        walks: dict[int, list[Progress]] = {}
        rows = self.rows()
        phases = {row.position: row.phase for row in rows}
        for position, relation, done, total in self._connection.execute(
            "SELECT position, relation, done, total FROM crossfade.backfills ORDER BY position, relation"
        ):
            walks.setdefault(position, []).append(Progress(phases[position], relation, done, max(total, done)))
        return [
            Record(
                row.version,
                row.position,
                row.checksum,
                row.source,
                row.phase,
                row.expanded,
                row.verified,
                row.contracted,
                tuple(walks.get(row.position, ())),
                row.paused,
                row.trouble,
                row.samples,
                row.contracts,
            )
            for row in rows
        ]
