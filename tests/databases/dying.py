"""A whole migration in a process of its own, which kills itself at its n-th record in the ledger: see test_faults.py."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

from crossfade.databases.postgres.database import PostgresDatabase
from crossfade.databases.postgres.ledger import Ledger
from crossfade.domain.migrations.operations import Migration
from crossfade.domain.migrations.phases import Phase
from crossfade.spec.migrations import parse
from tests.databases.shop import Heard

CHANGES = """
- alter_column: {table: books, column: price, type: 'numeric(10,2)', up: price / 100.0, down: (price * 100)::int}
- add_column: {table: loans, column: {name: until, type: date, unique: true}, up: "'2026-01-01'::date + id::int"}
- create_index: {name: by_title, table: books, columns: [title]}
"""
MORE = """
- split_column: {table: authors, column: name, into: [{name: given, type: text, up: "split_part(name, ' ', 1)"},
    {name: family, type: text, up: "split_part(name, ' ', 2)"}], down: "given || ' ' || family"}
- drop_index: {name: books_low}
"""
RECORDS = ("step", "phase", "begin", "walked", "layer", "finished", "verified", "fence")


def migration(version: str, operations: str) -> Migration:
    return parse(f"{version}.yaml", "operations:\n" + operations)


def everything(url: str) -> None:
    """Whatever is not done yet: as a person says it again after a crash."""
    database, heard = PostgresDatabase(url), Heard()
    known = {one.version: one.phase for one in database.ledger()}
    going = (Phase.CONTRACTED, Phase.CONTRACTING, Phase.ABORTING, Phase.ABORTED)
    for each in (migration("02", CHANGES), migration("03", MORE)):
        if known.get(each.version) not in going:
            database.expand(each, heard.watch())
            assert database.backfill(each.version, heard.watch())
    database.contract("02", heard.watch())
    if known.get("03") is not Phase.ABORTED:
        database.abort("03", heard.watch())


def main(url: str, die_at: int) -> int:
    """How many boundaries there were: before and after each record."""
    count = 0

    def boundary() -> None:
        nonlocal count
        count += 1
        if count == die_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def wrap(name: str) -> None:
        real = getattr(Ledger, name)

        def recorded(self: Ledger, *given: Any, **more: Any) -> Any:
            boundary()
            found = real(self, *given, **more)
            boundary()
            return found

        setattr(Ledger, name, recorded)

    for name in RECORDS:
        wrap(name)
    everything(url)
    return count


if __name__ == "__main__":
    sys.stdout.write(str(main(sys.argv[1], int(sys.argv[2]))))
