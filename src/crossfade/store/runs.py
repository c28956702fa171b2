"""The ledger of runs: their states, where commits come from, statements about artifacts, reports for later gates."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import sqlalchemy as sa
from pydantic import TypeAdapter
from sqlalchemy.exc import IntegrityError

from crossfade.domain.errors import NotFound
from crossfade.domain.pipeline.run import Run, RunPlan, Status, begin
from crossfade.domain.values import Digest, ReleaseNumber
from crossfade.ports.pipeline import DELIVERIES_KEPT, Source, Statement
from crossfade.store import tables as t
from crossfade.store.database import Database
from crossfade.store.feed import tell

_PLAN = TypeAdapter(RunPlan)
_RUN = TypeAdapter(Run)
_SOURCE = TypeAdapter(Source)
# A plan never changes once it is written, and is the larger part.
_plan = lru_cache(maxsize=500)(_PLAN.validate_json)

OPEN = tuple(status.value for status in Status if not status.ended)


class SqlRuns(Database):
    """`ports.pipeline.Runs`."""

    # --- runs

    def add_run(self, plan: RunPlan) -> Run:
        with self._writing() as c:
            result = c.execute(
                t.runs.insert().values(
                    service=plan.service,
                    commit=plan.commit.id,
                    plan=_PLAN.dump_json(plan).decode(),
                    state="",
                    status=Status.QUEUED.value,
                )
            )
            assert result.inserted_primary_key is not None
            run = begin(int(result.inserted_primary_key[0]), plan)
            _write(c, run, plan.queued)
        return run

    def save_run(self, run: Run, now: float) -> None:
        with self._writing() as c:
            _write(c, run, now)

    def run(self, id: int) -> Run:
        with self._reading() as c:
            row = c.execute(sa.select(t.runs).where(t.runs.c.id == id)).one_or_none()
        if row is None:
            raise NotFound(f"There is no run #{id}.", hint="`crossfade runs` lists them.")
        return _read(row)

    def runs(
        self, service: str | None = None, *, open_only: bool = False, limit: int = 50, before: int | None = None
    ) -> tuple[Run, ...]:
        query = sa.select(t.runs).order_by(t.runs.c.id.desc()).limit(limit)
        if service is not None:
            query = query.where(t.runs.c.service == service)
        if open_only:
            query = query.where(t.runs.c.status.in_(OPEN))
        if before is not None:
            query = query.where(t.runs.c.id < before)
        with self._reading() as c:
            rows = c.execute(query).all()
        return tuple(_read(row) for row in rows)

    def counts(self, limit: int) -> Mapping[tuple[str, str], int]:
        newest = sa.select(t.runs.c.service, t.runs.c.status).order_by(t.runs.c.id.desc()).limit(limit).subquery()
        query = sa.select(newest.c.service, newest.c.status, sa.func.count()).group_by(
            newest.c.service, newest.c.status
        )
        with self._reading() as c:
            return {(service, status): count for service, status, count in c.execute(query)}

    def passed_stages(self, service: str, commit: str) -> Mapping[str, int]:
        with self._reading() as c:
            query = (
                sa.select(t.runs).where(t.runs.c.service == service, t.runs.c.commit == commit).order_by(t.runs.c.id)
            )
            rows = c.execute(query).all()
        runs = [_read(row) for row in rows]
        return {s.name.value: run.id for run in runs for s in run.stages if s.status is Status.PASSED}

    def note_release(self, service: str, number: ReleaseNumber, run: int) -> None:
        mine = sa.and_(t.run_releases.c.service == service, t.run_releases.c.release == number.n)
        with self._writing() as c:
            c.execute(t.run_releases.delete().where(mine))
            c.execute(t.run_releases.insert().values(service=service, release=number.n, run=run))

    def run_of(self, service: str, number: ReleaseNumber) -> int | None:
        mine = sa.and_(t.run_releases.c.service == service, t.run_releases.c.release == number.n)
        with self._reading() as c:
            return c.execute(sa.select(t.run_releases.c.run).where(mine)).scalar()

    # --- where commits come from

    def add_source(self, source: Source) -> None:
        with self._writing() as c:
            c.execute(t.sources.delete().where(t.sources.c.service == source.service))
            c.execute(t.sources.insert().values(service=source.service, source=_SOURCE.dump_json(source).decode()))

    def source(self, service: str) -> Source | None:
        with self._reading() as c:
            text = c.execute(sa.select(t.sources.c.source).where(t.sources.c.service == service)).scalar()
        return None if text is None else _SOURCE.validate_json(text)

    def sources(self) -> tuple[Source, ...]:
        with self._reading() as c:
            texts = c.execute(sa.select(t.sources.c.source).order_by(t.sources.c.service)).scalars().all()
        return tuple(_SOURCE.validate_json(text) for text in texts)

    def remove_source(self, service: str) -> None:
        with self._writing() as c:
            found = c.execute(t.sources.delete().where(t.sources.c.service == service))
        if not found.rowcount:
            raise NotFound(f"There is no source of {service}.", hint="`crossfade sources` lists them.")

    def claim_delivery(self, service: str, delivery: str, now: float) -> bool:
        try:
            with self._writing() as c:
                result = c.execute(t.deliveries.insert().values(service=service, delivery=delivery[:200], at=now))
                assert result.inserted_primary_key is not None
                seq = result.inserted_primary_key[0]
                if seq % 100 == 0:
                    mine = c.execute(
                        sa.select(t.deliveries.c.seq)
                        .where(t.deliveries.c.service == service)
                        .order_by(t.deliveries.c.seq.desc())
                        .offset(DELIVERIES_KEPT)
                        .limit(1)
                    ).scalar()
                    if mine is not None:
                        old = sa.and_(t.deliveries.c.service == service, t.deliveries.c.seq <= mine)
                        c.execute(t.deliveries.delete().where(old))
        except IntegrityError:
            return False
        return True

    def give_up_delivery(self, service: str, delivery: str) -> None:
        mine = sa.and_(t.deliveries.c.service == service, t.deliveries.c.delivery == delivery[:200])
        with self._writing() as c:
            c.execute(t.deliveries.delete().where(mine))

    # --- statements and reports

    def keep_statement(self, statement: Statement) -> None:
        try:
            with self._writing() as c:
                c.execute(
                    t.statements.insert().values(
                        digest=statement.digest.text, envelope=statement.envelope, run=statement.run, at=statement.at
                    )
                )
        except IntegrityError:
            pass  # the first one stays: it is of the run that built the artifact first

    def statement(self, digest: Digest) -> Statement | None:
        with self._reading() as c:
            row = c.execute(sa.select(t.statements).where(t.statements.c.digest == digest.text)).one_or_none()
        return None if row is None else Statement(digest, row.envelope, row.run, row.at)

    def keep_report(self, run: int, stage: str, path: str, content: bytes) -> None:
        mine = sa.and_(t.reports.c.run == run, t.reports.c.stage == stage, t.reports.c.path == path)
        with self._writing() as c:
            c.execute(t.reports.delete().where(mine))
            c.execute(t.reports.insert().values(run=run, stage=stage, path=path, content=content))

    def report(self, run: int, stage: str, path: str) -> bytes | None:
        mine = sa.and_(t.reports.c.run == run, t.reports.c.stage == stage, t.reports.c.path == path)
        with self._reading() as c:
            return c.execute(sa.select(t.reports.c.content).where(mine)).scalar()


def _write(c: sa.Connection, run: Run, now: float) -> None:
    state = _RUN.dump_json(run, exclude={"plan"}).decode()
    c.execute(t.runs.update().where(t.runs.c.id == run.id).values(state=state, status=run.status.value))
    current = run.current
    said = {
        "run": run.id,
        "service": run.plan.service,
        "status": run.status.value,
        "stage": current.name.value if current is not None else None,
        "ended": run.status.ended,
    }
    tell(c, "run", str(run.plan.key), now, said, None)


def _read(row: sa.Row[Any]) -> Run:
    return _run(row.plan, row.state)


@lru_cache(maxsize=500)
def _run(plan: str, state: str) -> Run:
    """A value: those that wait are read again and again."""
    return _RUN.validate_python(json.loads(state) | {"plan": _plan(plan)})
