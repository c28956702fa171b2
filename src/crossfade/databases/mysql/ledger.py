"""What was applied to a database, in the database: its migrations, and how far each copy of a table is."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pymysql.connections import Connection

from crossfade.databases.mysql.connection import rows, value
from crossfade.domain.errors import NotFound
from crossfade.domain.migrations.operations import Phased
from crossfade.domain.migrations.phases import Phase, Progress, Record

MIGRATIONS: Final = "crossfade_migrations"
COPIES: Final = "crossfade_copies"
TABLES: Final = (
    f"""CREATE TABLE IF NOT EXISTS {MIGRATIONS} (
  position int NOT NULL PRIMARY KEY, version varchar(64) NOT NULL, checksum varchar(80) NOT NULL,
  source varchar(255) NOT NULL, phase varchar(16) NOT NULL, statements longtext NOT NULL, step int NOT NULL DEFAULT 0,
  paused tinyint NOT NULL DEFAULT 0, trouble text NOT NULL, samples longtext NOT NULL, contracts tinyint NOT NULL,
  expanded double NOT NULL DEFAULT 0, verified double NOT NULL DEFAULT 0, contracted double NOT NULL DEFAULT 0
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin COMMENT='What Crossfade has migrated: do not edit'""",
    f"""CREATE TABLE IF NOT EXISTS {COPIES} (
  position int NOT NULL, part varchar(16) NOT NULL, number int NOT NULL, relation varchar(64) NOT NULL,
  state varchar(16) NOT NULL, done bigint NOT NULL DEFAULT 0, total bigint NOT NULL DEFAULT 0,
  PRIMARY KEY (position, part, number)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin COMMENT='What Crossfade has migrated: do not edit'""",
)
COPYING, COPIED, SWAPPED = "copying", "copied", "swapped"
TIMES: Final = {Phase.EXPANDED: "expanded", Phase.VERIFIED: "verified", Phase.CONTRACTED: "contracted"}


@dataclass(frozen=True, slots=True)
class Row:
    """A migration as the ledger knows it. ``step`` counts the steps done of the running phase."""

    position: int
    version: str
    checksum: str
    source: str
    phase: Phase
    sql: Phased
    step: int
    paused: bool
    trouble: str
    samples: tuple[str, ...]
    contracts: bool
    expanded: float
    verified: float
    contracted: float


class Ledger:
    """On a connection of its caller's."""

    def __init__(self, connection: Connection[Any]) -> None:
        self._connection = connection

    def prepare(self) -> None:
        """Make the tables where they are not there yet."""
        if not self.exists():
            for statement in TABLES:
                rows(self._connection, statement)

    def exists(self) -> bool:
        query = "SELECT COUNT(*) FROM information_schema.TABLES WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = %s"
        return bool(value(self._connection, query, (COPIES,)))

    def rows(self) -> list[Row]:
        """Oldest first; those that were aborted too."""
        if not self.exists():
            return []
        found = rows(
            self._connection,
            "SELECT position, version, checksum, source, phase, statements, step, paused, trouble, samples, contracts,"  # noqa: S608 - a constant
            f" expanded, verified, contracted FROM {MIGRATIONS} ORDER BY position",
        )
        return [_row(*one) for one in found]

    def row(self, version: str) -> Row:
        """One that was not aborted. Raises NotFound."""
        for one in self.rows():
            if one.version == version and one.phase is not Phase.ABORTED:
                return one
        raise NotFound(
            f"No migration {version} was applied to this database.", hint="crossfade migrate ledger lists them."
        )

    def begin(self, version: str, checksum: str, source: str, sql: Phased) -> None:
        """A migration is being expanded. Raises the driver's errors."""
        position = (value(self._connection, f"SELECT MAX(position) FROM {MIGRATIONS}") or 0) + 1  # noqa: S608 - a constant
        text = json.dumps(
            {"expand": sql.expand, "backfill": sql.backfill, "contract": sql.contract, "abort": sql.abort}
        )
        rows(
            self._connection,
            f"INSERT INTO {MIGRATIONS} (position, version, checksum, source, phase, statements, trouble, samples, contracts)"  # noqa: S608 - a constant
            " VALUES (%s, %s, %s, %s, %s, %s, '', '[]', %s)",
            (position, version, checksum, source, Phase.EXPANDING.value, text, bool(sql.contract)),
        )

    def phase(self, position: int, phase: Phase) -> None:
        """A migration enters a phase; its steps count from 0 again."""
        self._set(position, phase=phase.value, step=0, **({TIMES[phase]: time.time()} if phase in TIMES else {}))

    def remove(self, position: int) -> None:
        """As if it had never begun."""
        rows(self._connection, f"DELETE FROM {MIGRATIONS} WHERE position = %s", (position,))  # noqa: S608 - a constant

    def step(self, position: int, step: int) -> None:
        self._set(position, step=step)

    def trouble(self, position: int, text: str, samples: Sequence[str] = ()) -> None:
        """What stopped it; empty once it goes on."""
        self._set(position, trouble=text[:2000], samples=json.dumps(list(samples)))

    def pause(self, position: int, paused: bool) -> None:
        self._set(position, paused=int(paused))

    def paused(self, position: int) -> bool:
        return bool(value(self._connection, f"SELECT paused FROM {MIGRATIONS} WHERE position = %s", (position,)))  # noqa: S608 - a constant

    # --- copies

    def copies(self, position: int, part: str) -> dict[int, str]:
        """The states of a phase's copies, by their number."""
        query = f"SELECT number, state FROM {COPIES} WHERE position = %s AND part = %s"  # noqa: S608 - a constant
        return {int(number): str(state) for number, state in rows(self._connection, query, (position, part))}

    def copy(
        self, position: int, part: str, number: int, relation: str, state: str, done: int = 0, total: int = 0
    ) -> None:
        """Where a copy stands, in rows."""
        rows(
            self._connection,
            f"REPLACE INTO {COPIES} (position, part, number, relation, state, done, total) VALUES (%s, %s, %s, %s, %s, %s, %s)",  # noqa: S608 - a constant
            (position, part, number, relation, state, done, total),
        )

    def state(self, position: int, part: str, states: Mapping[int, str]) -> None:
        """Several at once."""
        self._connection.begin()
        for number, state in states.items():
            query = f"UPDATE {COPIES} SET state = %s WHERE position = %s AND part = %s AND number = %s"  # noqa: S608 - a constant
            rows(self._connection, query, (state, position, part, number))
        self._connection.commit()

    def forget(self, position: int) -> None:
        """All copies of a migration."""
        rows(self._connection, f"DELETE FROM {COPIES} WHERE position = %s", (position,))  # noqa: S608 - a constant

    def records(self) -> list[Record]:
        """All migrations, as the port gives them."""
        every = self.rows()
        phases = {one.position: one.phase for one in every}
        progress: dict[int, list[Progress]] = {}
        query = f"SELECT position, relation, done, total FROM {COPIES} WHERE part = 'expand' ORDER BY position, number"  # noqa: S608 - a constant
        for position, relation, done, total in rows(self._connection, query) if every else ():
            progress.setdefault(position, []).append(Progress(phases[position], relation, done, total))
        return [
            Record(
                one.version,
                one.position,
                one.checksum,
                one.source,
                one.phase,
                one.expanded,
                one.verified,
                one.contracted,
                tuple(progress.get(one.position, ())),
                one.paused,
                one.trouble,
                one.samples,
                one.contracts,
            )
            for one in every
        ]

    def _set(self, position: int, **values: Any) -> None:
        names = ", ".join(f"{name} = %s" for name in values)
        rows(self._connection, f"UPDATE {MIGRATIONS} SET {names} WHERE position = %s", (*values.values(), position))  # noqa: S608 - names of this module


def _phased(text: str) -> Phased:
    found = json.loads(text)
    return Phased(*(tuple(found[name]) for name in ("expand", "backfill", "contract", "abort")))


def _row(
    position: int,
    version: str,
    checksum: str,
    source: str,
    phase: str,
    statements: str,
    step: int,
    paused: int,
    trouble: str,
    samples: str,
    contracts: int,
    expanded: float,
    verified: float,
    contracted: float,
) -> Row:
    return Row(
        position,
        version,
        checksum,
        source,
        Phase(phase),
        _phased(statements),
        step,
        bool(paused),
        trouble,
        tuple(json.loads(samples)),
        bool(contracts),
        expanded,
        verified,
        contracted,
    )
