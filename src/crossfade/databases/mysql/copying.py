"""Follows the copies of one phase: from the tool's start, by way of the comparison, to the swap. Each step is in the ledger."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any, Final

from pymysql.connections import Connection

from crossfade.databases.mysql.connection import value
from crossfade.databases.mysql.ledger import COPIED, COPYING, SWAPPED, Ledger, Row
from crossfade.databases.mysql.online import Change, OnlineChange
from crossfade.databases.mysql.statements import Copy
from crossfade.databases.mysql.verify import verify
from crossfade.domain.errors import Refused
from crossfade.domain.migrations.phases import Phase, Progress
from crossfade.ports.databases import Watch

LOOK_EVERY: Final = 0.1
TELL_EVERY: Final = 0.25
ASK_EVERY: Final = 0.5
Maker = Callable[[Change], OnlineChange]


def change(position: int, part: str, number: int, copy: Copy) -> Change:
    """How a copy and the table that it replaces are called: so that what is left of it is known after a crash."""
    return Change(copy.table, copy.clause, f"crossfade_{position}_{part}_{number}")


class Copying:
    """The copies of one part of a migration (``expand``, ``contract`` or ``abort``)."""

    def __init__(
        self,
        connection: Connection[Any],
        ledger: Ledger,
        row: Row,
        part: str,
        copies: Sequence[Copy],
        make: Maker,
        watch: Watch,
    ) -> None:
        self._connection, self._ledger, self._row, self._part, self._watch = connection, ledger, row, part, watch
        self._changes = [change(row.position, part, i, copy) for i, copy in enumerate(copies)]
        self._tools = [make(one) for one in self._changes]

    def run(self, skipped: Sequence[str] = ()) -> bool:
        """To the end of the swap; False when cancelled, and then what was not swapped is gone. Raises Refused, Unavailable.

        ``skipped``: tables that are left as they are.
        """
        states = self.states()
        todo = [i for i, one in enumerate(self._changes) if states.get(i) != SWAPPED and one.table not in skipped]
        with ExitStack() as stack:
            for tool in self._tools:
                stack.callback(tool.close)
            for i in todo:
                if states.get(i) == COPIED and self._tools[i].followed():
                    continue
                if not self._copied(i) or not self._verified(i):
                    for j in todo:
                        self._tools[j].abort()
                    return False
                self._note(i, COPIED)
            for i in todo:
                self._watch.tell(f"swap {self._changes[i].table}: the copy takes the table's place")
                self._tools[i].cut_over()
                self._note(i, SWAPPED)
            for i in self.states():
                self._tools[i].finish()
        return True

    def states(self) -> dict[int, str]:
        """Where each stands; a swap that a crash has kept from the ledger is noted."""
        found = self._ledger.copies(self._row.position, self._part)
        for i in [i for i, state in found.items() if state == COPIED and self._tools[i].swapped()]:
            self._note(i, SWAPPED)
            found[i] = SWAPPED
        return found

    def swapped(self) -> list[str]:
        """Tables whose copies have taken their places."""
        return [self._changes[i].table for i, state in sorted(self.states().items()) if state == SWAPPED]

    def abort(self) -> None:
        """Take away all that is left of them, except that what was swapped stays swapped."""
        states = self.states()
        for i, tool in enumerate(self._tools):
            if states.get(i) == SWAPPED:
                tool.finish()
            else:
                tool.abort()

    def _copied(self, number: int) -> bool:
        one, tool = self._changes[number], self._tools[number]
        total = self._estimate(one.table)
        self._note(number, COPYING, 0, total)
        self._watch.tell(f"copy {one.table}: {one.clause}")
        tool.start()
        told = asked = -TELL_EVERY
        why = ""
        rate = _Rate()
        while True:
            now = time.monotonic()
            seen = tool.seen()
            if seen.failed:
                tool.abort()
                raise self.trouble(f"{one.table} was not copied: {seen.failed}")
            done = total if seen.copied else int(total * seen.share)
            if now - asked >= ASK_EVERY or seen.copied:
                asked = now
                why = self._why()
                tool.throttle(bool(why))
                self._note(number, COPYING, done, total)
            if now - told >= TELL_EVERY or seen.copied:
                told = now
                self._progress(
                    one.table, done, total, rate.of(now, done), seen.eta, "" if seen.copied else why or seen.waits
                )
            if seen.copied:
                return not self._watch.cancel.is_set()
            if self._watch.cancel.wait(LOOK_EVERY):
                return False

    def _verified(self, number: int) -> bool:
        one, tool = self._changes[number], self._tools[number]
        if not tool.verifiable:
            return True
        self._watch.tell(f"verify {one.table}: every row is compared with its copy")
        found = verify(self._connection, one.table, one.new, self._watch.cancel, self._compared(one.table))
        if not found.finished:
            return False
        if found.wrong:
            tool.abort()
            raise self.trouble(f"{found.wrong} rows of {one.table} would be lost or changed", found.samples)
        self._watch.tell(f"verified {one.table}: {found.rows} rows, checksum {found.checksum:08x}")
        self._note(number, COPYING, found.rows, found.rows)
        return True

    def _why(self) -> str:
        """Why to wait now; empty when there is no reason."""
        return "paused" if self._ledger.paused(self._row.position) else self._watch.throttle()

    def _compared(self, table: str) -> Callable[[int], None]:
        asked = told = 0.0

        def tell(count: int) -> None:
            nonlocal asked, told
            now = time.monotonic()
            if now - told >= TELL_EVERY:
                told = now
                self._progress(table, count, count, 0.0, None, f"{count} rows are compared with their copies")
            if now - asked >= ASK_EVERY:
                asked = now
                while (why := self._why()) and not self._watch.cancel.wait(ASK_EVERY):
                    self._progress(table, count, count, 0.0, None, why)

        return tell

    def trouble(self, what: str, samples: Sequence[str] = ()) -> Refused:
        """What stopped it, noted in the ledger."""
        self._ledger.trouble(self._row.position, what, samples)
        shown = "".join(f"\n  {one}" for one in samples[:5])
        return Refused(
            f"{self._row.version}: {what}{':' if shown else '.'}{shown}",
            hint="The table is as it was. Change what is wrong and run it again, or abort the migration.",
            samples=list(samples),
        )

    def _note(self, number: int, state: str, done: int | None = None, total: int = 0) -> None:
        position, relation = self._row.position, self._changes[number].table
        if done is None:
            self._ledger.state(position, self._part, {number: state})
        else:
            self._ledger.copy(position, self._part, number, relation, state, done, total)

    def _progress(self, table: str, done: int, total: int, rate: float, eta: float | None, waits: str) -> None:
        phase = {"expand": Phase.BACKFILLING, "contract": Phase.CONTRACTING}.get(self._part, Phase.ABORTING)
        self._watch.progress(Progress(phase, table, done, total, round(rate, 1), eta, waits))

    def _estimate(self, table: str) -> int:
        query = "SELECT TABLE_ROWS FROM information_schema.TABLES WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = %s"
        return int(value(self._connection, query, (table,)) or 0)


class _Rate:
    """Rows a second since the beginning."""

    def __init__(self) -> None:
        self._began = 0.0

    def of(self, now: float, done: int) -> float:
        self._began = self._began or now
        return done / (now - self._began) if now > self._began else 0.0
