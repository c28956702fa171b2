"""Records in the ledger's database: one table, told apart by their kind."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from crossfade.domain.values import EnvKey
from crossfade.ports.records import Record, Records, no_record, taken
from crossfade.store import tables as t
from crossfade.store.database import Database
from crossfade.store.feed import tell


class SqlRecords(Database, Records):
    """See `ports.records.Records`."""

    def add(
        self, kind: str, key: EnvKey, subject: str, data: Mapping[str, Any], now: float, *, ended: float | None = None
    ) -> Record:
        r = t.records.c
        mine = sa.and_(r.kind == kind, r.key == str(key), r.subject == subject, r.ended.is_(None))
        with self._writing() as c:
            known = c.execute(sa.select(r.id).where(mine)).scalar()
            if known is not None and ended is None:
                raise taken(kind, key, subject, known)
            values = {"kind": kind, "key": str(key), "subject": subject, "data": _text(data)}
            result = c.execute(t.records.insert().values(**values, began=now, ended=ended))
            assert result.inserted_primary_key is not None
            id = int(result.inserted_primary_key[0])
            tell(c, kind, str(key), now, {"id": id, "subject": subject, "ended": ended is not None}, None)
        return Record(id, kind, key, subject, data, now, ended)

    def save(self, id: int, data: Mapping[str, Any], now: float, *, ended: bool = False, told: bool = True) -> None:
        r = t.records.c
        with self._writing() as c:
            c.execute(t.records.update().where(r.id == id).values(data=_text(data)))
            if ended:
                c.execute(t.records.update().where(r.id == id, r.ended.is_(None)).values(ended=now))
            row = c.execute(sa.select(r.kind, r.key, r.subject, r.ended).where(r.id == id)).one_or_none()
            if row is None:
                raise no_record(id)
            if told:
                said = {"id": id, "subject": row.subject, "ended": row.ended is not None}
                tell(c, row.kind, row.key, now, said, None)

    def get(self, id: int) -> Record:
        with self._reading() as c:
            row = c.execute(sa.select(t.records).where(t.records.c.id == id)).one_or_none()
        if row is None:
            raise no_record(id)
        return _record(row)

    def list(
        self,
        kind: str,
        key: EnvKey | None = None,
        *,
        subject: str | None = None,
        open_only: bool = False,
        since: float | None = None,
        limit: int = 50,
        before: int | None = None,
    ) -> tuple[Record, ...]:
        r = t.records.c
        query = sa.select(t.records).where(r.kind == kind).order_by(r.id.desc()).limit(limit)
        if key is not None:
            query = query.where(r.key == str(key))
        if subject is not None:
            query = query.where(r.subject == subject)
        if open_only:
            query = query.where(r.ended.is_(None))
        if since is not None:
            query = query.where(sa.or_(r.ended.is_(None), r.ended >= since))
        if before is not None:
            query = query.where(r.id < before)
        with self._reading() as c:
            return tuple(_record(row) for row in c.execute(query))

    def prune(self, kind: str, before: float, keep: int) -> int:
        r = t.records.c
        newest = sa.select(r.id).where(r.kind == kind, r.ended.is_not(None)).order_by(r.id.desc()).limit(keep)
        with self._writing() as c:
            old = sa.and_(r.kind == kind, r.ended < before, r.id.not_in(newest))
            return int(c.execute(t.records.delete().where(old)).rowcount)


def _text(data: Any) -> str:
    return json.dumps(data, separators=(",", ":"), allow_nan=False)


def _record(row: sa.Row[Any]) -> Record:
    key = EnvKey.parse(row.key)
    return Record(row.id, row.kind, key, row.subject, json.loads(row.data), row.began, row.ended)
