"""The ledger of experiments: what each is, which units got which variant, what they did, and which release evaluates what."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final, NamedTuple

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from crossfade.domain.values import EnvKey, ReleaseNumber
from crossfade.ports.flags import (
    BATCHES_KEPT,
    LATE,
    MOST_OUTCOMES,
    MOST_UNITS,
    MOST_USAGES,
    Evaluations,
    ExperimentRow,
    Exposure,
    Taken,
    Tracked,
    Unit,
    named_already,
    no_experiment,
)
from crossfade.store import tables as t
from crossfade.store.database import Database

AT_ONCE: Final = 500
"""Units that are asked for in one statement."""
PAGE: Final = 10_000
"""Rows that are read at once."""


class _First(NamedTuple):
    """What is known of a unit."""

    variant: str
    at: float
    other: str
    crossed: float | None

    def again(self, one: Exposure) -> _First:
        """With one more exposure: an earlier one of the same variant was the first, one of another variant crosses."""
        if one.variant == self.variant:
            return self._replace(at=min(self.at, one.at))
        if self.crossed is None or one.at < self.crossed:
            return self._replace(other=one.variant, crossed=one.at)
        return self


class SqlExperiments(Database):
    """The part of `ports.flags.Flags` that counts. ``most_units`` and ``most_outcomes`` bound one experiment."""

    def __init__(self, url: str, most_units: int = MOST_UNITS, most_outcomes: int = MOST_OUTCOMES) -> None:
        super().__init__(url)
        self._most_units, self._most_outcomes = most_units, most_outcomes

    # --- experiments

    def add_experiment(self, row: ExperimentRow) -> None:
        try:
            with self._writing() as c:
                c.execute(
                    t.experiments.insert().values(
                        key=str(row.key),
                        name=row.name,
                        flag=row.flag,
                        created=row.created,
                        units=0,
                        outcomes=0,
                        left_out=0,
                        **_changing(row),
                    )
                )
        except IntegrityError:
            raise named_already(row.key, row.name) from None

    def experiment(self, key: EnvKey, name: str) -> ExperimentRow:
        with self._reading() as c:
            return _row(_found(c, key, name))

    def experiments(self, key: EnvKey) -> tuple[ExperimentRow, ...]:
        query = sa.select(t.experiments).where(t.experiments.c.key == str(key)).order_by(t.experiments.c.id.desc())
        with self._reading() as c:
            return tuple(_row(row) for row in c.execute(query))

    def save_experiment(self, row: ExperimentRow) -> None:
        with self._writing() as c:
            id = _found(c, row.key, row.name).id
            c.execute(t.experiments.update().where(t.experiments.c.id == id).values(_changing(row)))

    def remove_experiment(self, key: EnvKey, name: str) -> None:
        with self._writing() as c:
            id = _found(c, key, name).id
            c.execute(t.experiment_units.delete().where(t.experiment_units.c.experiment == id))
            c.execute(t.experiment_outcomes.delete().where(t.experiment_outcomes.c.experiment == id))
            c.execute(t.experiments.delete().where(t.experiments.c.id == id))

    def units(self, key: EnvKey, name: str) -> Iterator[Unit]:
        u = t.experiment_units
        with self._reading() as c:
            id = _found(c, key, name).id
        return (
            Unit(
                row.unit,
                row.variant,
                row.at,
                _number(row.release),
                row.slot,
                json.loads(row.attributes),
                row.other,
                row.crossed,
            )
            for row in self._all(sa.select(u).where(u.c.experiment == id), u.c.unit)
        )

    def outcomes(self, key: EnvKey, name: str) -> Iterator[Tracked]:
        o = t.experiment_outcomes
        with self._reading() as c:
            id = _found(c, key, name).id
        return (
            Tracked(row.name, row.unit, row.value, row.at, _number(row.release), row.slot)
            for row in self._all(sa.select(o).where(o.c.experiment == id), o.c.seq)
        )

    def _all(self, query: sa.Select[Any], by: sa.Column[Any]) -> Iterator[sa.Row[Any]]:
        """The rows, a page at a time: a read that takes long would keep the write-ahead log from being cut."""
        last = None
        while True:
            page = query.order_by(by).limit(PAGE)
            with self._reading() as c:
                rows = c.execute(page.where(by > last) if last is not None else page).all()
            yield from rows
            if len(rows) < PAGE:
                return
            last = getattr(rows[-1], by.name)

    # --- what was seen

    def take(
        self,
        key: EnvKey,
        batch: str,
        exposures: Sequence[Exposure],
        tracks: Sequence[Tracked],
        usage: Sequence[Evaluations],
        now: float,
    ) -> Taken:
        with self._writing() as c:
            if batch:
                before = c.execute(sa.select(t.flag_batches.c.taken).where(t.flag_batches.c.batch == batch)).scalar()
                if before is not None:
                    return Taken(**json.loads(before))
            e = t.experiments.c
            still = sa.or_(e.until.is_(None), e.until >= now - LATE)
            open_ = c.execute(sa.select(t.experiments).where(e.key == str(key), still)).all()
            exposed = set[int]().union(*(self._expose(c, row, exposures) for row in open_))
            tracked = set[int]().union(*(self._track(c, row, tracks) for row in open_))
            for one in usage:
                _use(c, key, one)
            left_out = len(exposures) - len(exposed) + len(tracks) - len(tracked)
            done = Taken(len(exposed), len(tracked), len(usage), left_out)
            if batch:
                result = c.execute(t.flag_batches.insert().values(batch=batch, taken=json.dumps(asdict(done)), at=now))
                assert result.inserted_primary_key is not None
                oldest = result.inserted_primary_key[0] - BATCHES_KEPT
                c.execute(t.flag_batches.delete().where(t.flag_batches.c.seq <= oldest))
        return done

    def _expose(self, c: sa.Connection, row: sa.Row[Any], exposures: Sequence[Exposure]) -> set[int]:
        """Write down those that count for an experiment; their places."""
        if row.started is None:
            return set()
        mine = [
            (i, one)
            for i, one in enumerate(exposures)
            if one.flag == row.flag and _within(one.at, row.started, row.ended)
        ]
        if not mine:
            return set()
        u, counted = t.experiment_units.c, set()
        known: dict[bytes, _First] = {}
        units = list({one.unit for _, one in mine})
        for start in range(0, len(units), AT_ONCE):
            some = units[start : start + AT_ONCE]
            query = sa.select(u.unit, u.variant, u.at, u.other, u.crossed).where(
                u.experiment == row.id, u.unit.in_(some)
            )
            known |= {one.unit: _First(one.variant, one.at, one.other, one.crossed) for one in c.execute(query)}
        fresh: dict[bytes, Exposure] = {}
        changed: set[bytes] = set()
        room, left_out = self._most_units - row.units, 0
        for i, one in mine:
            first = known.get(one.unit)
            if first is None:
                if len(fresh) >= room:
                    left_out += 1
                    continue
                fresh[one.unit] = one
                known[one.unit] = _First(one.variant, one.at, "", None)
            else:
                known[one.unit] = first.again(one)
                if known[one.unit] != first and one.unit not in fresh:
                    changed.add(one.unit)
            counted.add(i)
        if fresh:
            c.execute(
                t.experiment_units.insert(),
                [
                    {
                        "experiment": row.id,
                        "unit": unit,
                        "release": one.release.n if one.release is not None else None,
                        "slot": one.slot,
                        "attributes": json.dumps(dict(one.attributes)),
                        **known[unit]._asdict(),
                    }
                    for unit, one in fresh.items()
                ],
            )
        for unit in changed:
            same = sa.and_(u.experiment == row.id, u.unit == unit)
            c.execute(t.experiment_units.update().where(same).values(known[unit]._asdict()))
        _count(c, row.id, units=len(fresh), left_out=left_out)
        return counted

    def _track(self, c: sa.Connection, row: sa.Row[Any], tracks: Sequence[Tracked]) -> set[int]:
        """As `_expose`."""
        events = set(json.loads(row.events))
        mine = [(i, one) for i, one in enumerate(tracks) if one.name in events and _within(one.at, 0.0, row.until)]
        room = max(0, self._most_outcomes - row.outcomes)
        if mine[:room]:
            c.execute(
                t.experiment_outcomes.insert(),
                [
                    {
                        "experiment": row.id,
                        "name": one.name,
                        "unit": one.unit,
                        "value": one.value,
                        "at": one.at,
                        "release": one.release.n if one.release is not None else None,
                        "slot": one.slot,
                    }
                    for _, one in mine[:room]
                ],
            )
        _count(c, row.id, outcomes=len(mine[:room]), left_out=len(mine[room:]))
        return {i for i, _ in mine[:room]}

    def usage(self, key: EnvKey, flag: str | None = None) -> tuple[Evaluations, ...]:
        u = t.flag_usage.c
        query = sa.select(t.flag_usage).where(u.key == str(key)).order_by(u.flag, u.last.desc(), u.variant, u.release)
        if flag is not None:
            query = query.where(u.flag == flag)
        with self._reading() as c:
            return tuple(
                Evaluations(row.flag, row.variant, ReleaseNumber(row.release), row.n, row.first, row.last)
                for row in c.execute(query)
            )


def _found(c: sa.Connection, key: EnvKey, name: str) -> sa.Row[Any]:
    e = t.experiments.c
    row = c.execute(sa.select(t.experiments).where(e.key == str(key), e.name == name)).one_or_none()
    if row is None:
        raise no_experiment(key, name)
    return row


def _changing(row: ExperimentRow) -> dict[str, Any]:
    state = json.dumps(row.state, separators=(",", ":"), allow_nan=False)
    times = {"started": row.started, "ended": row.ended, "until": row.until}
    return {"state": state, "events": json.dumps(list(row.events)), **times}


def _row(row: sa.Row[Any]) -> ExperimentRow:
    return ExperimentRow(
        EnvKey.parse(row.key),
        row.name,
        row.flag,
        json.loads(row.state),
        tuple(json.loads(row.events)),
        row.created,
        row.started,
        row.ended,
        row.until,
        row.units,
        row.left_out,
    )


def _count(c: sa.Connection, experiment: int, **more: int) -> None:
    values: Mapping[str, Any] = {name: t.experiments.c[name] + n for name, n in more.items() if n}
    if values:
        c.execute(t.experiments.update().where(t.experiments.c.id == experiment).values(values))


def _use(c: sa.Connection, key: EnvKey, one: Evaluations) -> None:
    u = t.flag_usage.c
    place = {"key": str(key), "flag": one.flag, "variant": one.variant, "release": one.release.n}
    mine = sa.and_(*(u[column] == value for column, value in place.items()))
    first = sa.case((u.first > one.first, one.first), else_=u.first)
    last = sa.case((u.last < one.last, one.last), else_=u.last)
    if c.execute(t.flag_usage.update().where(mine).values(n=u.n + one.n, first=first, last=last)).rowcount:
        return
    c.execute(t.flag_usage.insert().values(**place, n=one.n, first=one.first, last=one.last))
    of_flag = sa.and_(u.key == str(key), u.flag == one.flag)
    oldest = (
        sa.select(u.variant, u.release).where(of_flag).order_by(u.last.desc(), u.release.desc()).offset(MOST_USAGES)
    )
    for row in c.execute(oldest).all():
        c.execute(t.flag_usage.delete().where(of_flag, u.variant == row.variant, u.release == row.release))


def _within(at: float, begins: float, ends: float | None) -> bool:
    return begins <= at and (ends is None or at < ends)


def _number(n: int | None) -> ReleaseNumber | None:
    return ReleaseNumber(n) if n is not None else None
