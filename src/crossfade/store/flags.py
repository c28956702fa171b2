"""The ledger of flags: versions, settings, change requests and ramps. What was seen of them is in `experiments`."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import sqlalchemy as sa

from crossfade.domain.access import Role
from crossfade.domain.errors import NotFound, Refused
from crossfade.domain.values import EnvKey
from crossfade.ports.flags import (
    VERSIONS_KEPT,
    ChangeRequest,
    FlagSettings,
    FlagVersion,
    RampRow,
    moved,
    no_ramp,
    ramping,
    told_of,
)
from crossfade.store import tables as t
from crossfade.store.experiments import SqlExperiments
from crossfade.store.feed import tell


class SqlFlags(SqlExperiments):
    """`ports.flags.Flags`."""

    # --- versions

    def newest(self, key: EnvKey) -> int:
        with self._reading() as c:
            return _newest(c, key)

    def current(self, key: EnvKey) -> FlagVersion | None:
        mine = t.flag_versions.c.key == str(key)
        query = sa.select(t.flag_versions).where(mine).order_by(t.flag_versions.c.number.desc()).limit(1)
        with self._reading() as c:
            row = c.execute(query).one_or_none()
        return _version(row) if row is not None else None

    def version(self, key: EnvKey, number: int) -> FlagVersion:
        mine = sa.and_(t.flag_versions.c.key == str(key), t.flag_versions.c.number == number)
        with self._reading() as c:
            row = c.execute(sa.select(t.flag_versions).where(mine)).one_or_none()
        if row is None:
            raise NotFound(
                f"There is no version {number} of the flags of {key}.",
                hint=f"The last {VERSIONS_KEPT} are kept: `crossfade flags versions` lists them.",
            )
        return _version(row)

    def versions(self, key: EnvKey, *, limit: int = 50, before: int | None = None) -> tuple[FlagVersion, ...]:
        said = [column for column in t.flag_versions.c if column.name != "document"]
        query = sa.select(*said).where(t.flag_versions.c.key == str(key))
        if before is not None:
            query = query.where(t.flag_versions.c.number < before)
        with self._reading() as c:
            rows = c.execute(query.order_by(t.flag_versions.c.number.desc()).limit(limit)).all()
        return tuple(
            FlagVersion(key, row.number, None, row.by, row.at, row.note, tuple(json.loads(row.flags))) for row in rows
        )

    def write(
        self,
        key: EnvKey,
        document: Mapping[str, Any],
        flags: Sequence[str],
        by: str,
        now: float,
        *,
        expects: int,
        note: str = "",
        decided: ChangeRequest | None = None,
    ) -> FlagVersion:
        packed = zlib.compress(_text(document).encode(), 1)
        with self._writing() as c:
            newest = _newest(c, key)
            if newest != expects:
                raise moved(key, newest, expects)
            number = newest + 1
            if decided is not None and not _decide(c, replace(decided, applied=number)):
                raise Refused(f"Request {decided.id} does not wait any more.")
            c.execute(
                t.flag_versions.insert().values(
                    key=str(key), number=number, document=packed, by=by, at=now, note=note, flags=_text(list(flags))
                )
            )
            if number % 50 == 0:
                old = sa.and_(t.flag_versions.c.key == str(key), t.flag_versions.c.number <= number - VERSIONS_KEPT)
                c.execute(t.flag_versions.delete().where(old))
            tell(c, "flags", str(key), now, told_of(number, flags), None)
            if decided is not None:
                tell(c, "flag-request", str(key), now, {"request": decided.id, "state": decided.state}, None)
        return FlagVersion(key, number, document, by, now, note, tuple(flags))

    def keys(self) -> tuple[EnvKey, ...]:
        with self._reading() as c:
            found = c.execute(sa.select(t.flag_versions.c.key).distinct()).scalars().all()
        return tuple(EnvKey.parse(key) for key in found)

    # --- settings and requests

    def settings(self, key: EnvKey) -> FlagSettings:
        with self._reading() as c:
            role = c.execute(sa.select(t.flag_settings.c.approval).where(t.flag_settings.c.key == str(key))).scalar()
        return FlagSettings(Role(role) if role is not None else None)

    def set_settings(self, key: EnvKey, settings: FlagSettings) -> None:
        role = settings.approval.value if settings.approval is not None else None
        with self._writing() as c:
            c.execute(t.flag_settings.delete().where(t.flag_settings.c.key == str(key)))
            c.execute(t.flag_settings.insert().values(key=str(key), approval=role))

    def ask(self, request: ChangeRequest) -> ChangeRequest:
        r, key = t.flag_requests.c, str(request.key)
        with self._writing() as c:
            waiting = c.execute(sa.select(r.id, r.after).where(r.key == key, r.state == "waiting")).all()
            gone = [row.id for row in waiting if set(json.loads(row.after)) & set(request.after)]
            c.execute(t.flag_requests.update().where(r.id.in_(gone)).values(state="superseded", decided=request.asked))
            result = c.execute(
                t.flag_requests.insert().values(
                    key=key,
                    what=request.what,
                    before=_text(request.before),
                    after=_text(request.after),
                    version=request.version,
                    role=request.role.value,
                    by=request.by,
                    identity=request.identity,
                    asked=request.asked,
                    note=request.note,
                    state="waiting",
                    why="",
                )
            )
            assert result.inserted_primary_key is not None
            id = int(result.inserted_primary_key[0])
            for superseded in gone:
                tell(c, "flag-request", key, request.asked, {"request": superseded, "state": "superseded"}, None)
            tell(c, "flag-request", key, request.asked, {"request": id, "state": "waiting"}, None)
        return replace(request, id=id, state="waiting")

    def request(self, id: int) -> ChangeRequest | None:
        with self._reading() as c:
            row = c.execute(sa.select(t.flag_requests).where(t.flag_requests.c.id == id)).one_or_none()
        return _request(row) if row is not None else None

    def requests(
        self, key: EnvKey | None = None, *, waiting: bool = False, limit: int = 50, before: int | None = None
    ) -> tuple[ChangeRequest, ...]:
        r = t.flag_requests.c
        query = sa.select(t.flag_requests).order_by(r.id.desc()).limit(limit)
        if key is not None:
            query = query.where(r.key == str(key))
        if waiting:
            query = query.where(r.state == "waiting")
        if before is not None:
            query = query.where(r.id < before)
        with self._reading() as c:
            return tuple(_request(row) for row in c.execute(query))

    def decide(self, request: ChangeRequest) -> bool:
        with self._writing() as c:
            if not _decide(c, request):
                return False
            said = {"request": request.id, "state": request.state}
            tell(c, "flag-request", str(request.key), request.decided or 0.0, said, None)
        return True

    # --- ramps

    def add_ramp(self, key: EnvKey, flag: str, state: Mapping[str, Any], now: float) -> RampRow:
        r = t.ramps.c
        with self._writing() as c:
            open_ = sa.select(r.id).where(r.key == str(key), r.flag == flag, r.ended.is_(None))
            taken = c.execute(open_).scalar()
            if taken is not None:
                raise ramping(key, flag, taken)
            result = c.execute(t.ramps.insert().values(key=str(key), flag=flag, state=_text(state), began=now))
            assert result.inserted_primary_key is not None
            id = int(result.inserted_primary_key[0])
            tell(c, "ramp", str(key), now, {"ramp": id, "flag": flag, "ended": False}, None)
        return RampRow(id, key, flag, state, now)

    def save_ramp(
        self,
        id: int,
        state: Mapping[str, Any],
        now: float,
        *,
        ended: bool = False,
        evidence: Mapping[str, Any] | None = None,
        told: Mapping[str, Any] | None = None,
    ) -> None:
        r = t.ramps.c
        values: dict[str, Any] = {"state": _text(state)}
        if evidence is not None:
            values["evidence"] = _text(evidence)
        with self._writing() as c:
            c.execute(t.ramps.update().where(r.id == id).values(values))
            if ended:
                c.execute(t.ramps.update().where(r.id == id, r.ended.is_(None)).values(ended=now))
            row = c.execute(sa.select(r.key, r.flag, r.ended).where(r.id == id)).one_or_none()
            if row is None:
                raise no_ramp(id)
            if told is not None:
                said = {"ramp": id, "flag": row.flag, "ended": row.ended is not None, **told}
                tell(c, "ramp", row.key, now, said, None)

    def ramp(self, id: int) -> RampRow:
        with self._reading() as c:
            row = c.execute(sa.select(t.ramps).where(t.ramps.c.id == id)).one_or_none()
        if row is None:
            raise no_ramp(id)
        return _ramp(row)

    def ramp_evidence(self, id: int) -> Mapping[str, Any] | None:
        with self._reading() as c:
            text = c.execute(sa.select(t.ramps.c.evidence).where(t.ramps.c.id == id)).scalar()
        return json.loads(text) if text else None

    def ramps(
        self,
        key: EnvKey | None = None,
        *,
        flag: str | None = None,
        open_only: bool = False,
        limit: int = 50,
        before: int | None = None,
    ) -> tuple[RampRow, ...]:
        r = t.ramps.c
        query = sa.select(t.ramps).order_by(r.id.desc()).limit(limit)
        if key is not None:
            query = query.where(r.key == str(key))
        if flag is not None:
            query = query.where(r.flag == flag)
        if open_only:
            query = query.where(r.ended.is_(None))
        if before is not None:
            query = query.where(r.id < before)
        with self._reading() as c:
            return tuple(_ramp(row) for row in c.execute(query))


def _newest(c: sa.Connection, key: EnvKey) -> int:
    newest = sa.select(sa.func.max(t.flag_versions.c.number)).where(t.flag_versions.c.key == str(key))
    return c.execute(newest).scalar() or 0


def _decide(c: sa.Connection, request: ChangeRequest) -> bool:
    waits = sa.and_(t.flag_requests.c.id == request.id, t.flag_requests.c.state == "waiting")
    decided = {
        "state": request.state,
        "decided_by": request.decided_by,
        "decided": request.decided,
        "why": request.why,
        "applied": request.applied,
    }
    return bool(c.execute(t.flag_requests.update().where(waits).values(decided)).rowcount)


def _text(data: Any) -> str:
    return json.dumps(data, separators=(",", ":"), allow_nan=False)


def _version(row: sa.Row[Any]) -> FlagVersion:
    document = json.loads(zlib.decompress(row.document))
    flags = tuple(json.loads(row.flags))
    return FlagVersion(EnvKey.parse(row.key), row.number, document, row.by, row.at, row.note, flags)


def _request(row: sa.Row[Any]) -> ChangeRequest:
    return ChangeRequest(
        row.id,
        EnvKey.parse(row.key),
        row.what,
        json.loads(row.before),
        json.loads(row.after),
        row.version,
        Role(row.role),
        row.by,
        row.identity,
        row.asked,
        row.note,
        row.state,
        row.decided_by,
        row.decided,
        row.why,
        row.applied,
    )


def _ramp(row: sa.Row[Any]) -> RampRow:
    return RampRow(row.id, EnvKey.parse(row.key), row.flag, json.loads(row.state), row.began, row.ended)
