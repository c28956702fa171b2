"""The ledger on SQLAlchemy: SQLite in WAL mode by default, PostgreSQL by URL."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import sqlalchemy as sa
from pydantic import TypeAdapter
from sqlalchemy.exc import IntegrityError

from crossfade.domain import rollout as machine
from crossfade.domain.analysis.sample import Moments
from crossfade.domain.environment import Entry, Environment, Occupant, Retirement, moved
from crossfade.domain.errors import Busy, NotFound
from crossfade.domain.events import BATCHES_KEPT, Event, refuse_many_names, tally
from crossfade.domain.release import Release, ReleaseConfig
from crossfade.domain.rollout import Command, Ordered, Plan, Rollout
from crossfade.domain.traffic import Pool, Slot, pool_of
from crossfade.domain.values import Digest, EnvKey, ReleaseNumber
from crossfade.ports import ANSWERS_KEPT, Change, Kept, Reading
from crossfade.store import tables as t
from crossfade.store.database import Database
from crossfade.store.feed import tell

_STATE = TypeAdapter(Rollout)
_CONFIG = TypeAdapter(ReleaseConfig)
_READING = TypeAdapter(Reading)
# Both are values: what was read once need not be read again to be the same.
_state = lru_cache(maxsize=1000)(_STATE.validate_json)
_key = lru_cache(maxsize=1000)(EnvKey.parse)


class SqlStore(Database):
    """`ports.Store`. ``url`` is SQLAlchemy's.

    Raises StorageFailed when the database cannot be opened or written.
    """

    def __init__(self, url: str) -> None:
        super().__init__(url)
        # A release never changes once it is written.
        self._read_release = lru_cache(maxsize=2000)(self._release)

    # --- environments

    def environment(self, key: EnvKey) -> Environment | None:
        return next(iter(self._environments(t.environments.c.key == str(key))), None)

    def environments(self, keys: Sequence[EnvKey] | None = None) -> tuple[Environment, ...]:
        return self._environments(sa.true() if keys is None else t.environments.c.key.in_([str(key) for key in keys]))

    def keys(self) -> tuple[EnvKey, ...]:
        with self._reading() as c:
            return tuple(_key(key) for key in c.execute(sa.select(t.environments.c.key)).scalars())

    def _environments(self, where: sa.ColumnElement[bool]) -> tuple[Environment, ...]:
        with self._reading() as c:
            rows = c.execute(sa.select(t.environments).where(where).order_by(t.environments.c.key)).all()
            held = c.execute(sa.select(t.slots).where(t.slots.c.key.in_([row.key for row in rows]))).all()
        occupants: dict[str, dict[Slot, Occupant]] = {}
        for row in held:
            occupants.setdefault(row.key, {})[Slot(row.slot)] = Occupant(
                ReleaseNumber(row.release), row.generation, row.replicas, row.warm_until
            )
        return tuple(
            Environment(
                _key(row.key),
                ReleaseNumber(row.live) if row.live else None,
                Slot(row.slot) if row.slot else None,
                row.holder,
                row.fence,
                occupants.get(row.key, {}),
            )
            for row in rows
        )

    def occupy(self, key: EnvKey, slot: Slot, occupant: Occupant | None) -> None:
        with self._writing() as c:
            c.execute(t.slots.delete().where(t.slots.c.key == str(key), t.slots.c.slot == slot.value))
            if occupant is not None:
                c.execute(
                    t.slots.insert().values(
                        key=str(key),
                        slot=slot.value,
                        release=occupant.release.n,
                        generation=occupant.generation,
                        replicas=occupant.replicas,
                        warm_until=occupant.warm_until,
                    )
                )

    # --- releases

    def add_release(self, key: EnvKey, digest: Digest, config: ReleaseConfig, label: str, now: float) -> Release:
        with self._writing() as c:
            highest = c.execute(
                sa.select(sa.func.max(t.releases.c.number)).where(t.releases.c.service == key.service)
            ).scalar()
            number = (highest or 0) + 1
            c.execute(
                t.releases.insert().values(
                    service=key.service,
                    number=number,
                    key=str(key),
                    digest=digest.text,
                    config=_CONFIG.dump_json(config).decode(),
                    created=now,
                    label=label,
                )
            )
        return Release(ReleaseNumber(number), digest, config, now, label)

    def release(self, service: str, number: ReleaseNumber) -> Release:
        return self._read_release(service, number)

    def _release(self, service: str, number: ReleaseNumber) -> Release:
        with self._reading() as c:
            row = c.execute(
                sa.select(t.releases).where(t.releases.c.service == service, t.releases.c.number == number.n)
            ).one_or_none()
        if row is None:
            raise NotFound(f"{service} has no release {number}.", hint="`crossfade releases` lists them.")
        return _release(row)

    def releases(self, key: EnvKey, *, limit: int | None = None, before: int | None = None) -> tuple[Release, ...]:
        query = sa.select(t.releases).where(t.releases.c.key == str(key)).order_by(t.releases.c.number.desc())
        if before is not None:
            query = query.where(t.releases.c.number < before)
        with self._reading() as c:
            rows = c.execute(query.limit(limit)).all()
        return tuple(_release(row) for row in rows)

    def promotions(self, key: EnvKey) -> tuple[ReleaseNumber, ...]:
        with self._reading() as c:
            rows = c.execute(
                sa.select(t.promotions.c.release).where(t.promotions.c.key == str(key)).order_by(t.promotions.c.seq)
            ).all()
        return tuple(ReleaseNumber(row.release) for row in rows)

    # --- rollouts

    def refuse_if_held(self, key: EnvKey) -> None:
        with self._reading() as c:
            _held(c, str(key))

    def begin(self, plan: Plan, by: str, now: float, expects: int | None = None) -> Rollout:
        key = str(plan.key)
        with self._writing() as c:
            held = _held(c, key)
            fence = (held.fence if held is not None else 0) + 1
            if expects is not None and fence != expects + 1:
                raise moved(plan.key, fence - 1, expects)
            result = c.execute(
                t.rollouts.insert().values(key=key, fence=fence, phase="preparing", state="", by=by, began=now)
            )
            assert result.inserted_primary_key is not None
            number = int(result.inserted_primary_key[0])
            state, _ = machine.begin(number, plan, now)
            c.execute(
                t.rollouts.update()
                .where(t.rollouts.c.id == number)
                .values(state=_STATE.dump_json(state).decode(), phase=state.phase.value)
            )
            if held is None:
                c.execute(t.environments.insert().values(key=key, holder=number, fence=fence))
            else:
                c.execute(t.environments.update().where(t.environments.c.key == key).values(holder=number, fence=fence))
            tell(c, "rollout", key, now, _told(state), number)
        return state

    def save(self, state: Rollout, entries: Sequence[Entry]) -> None:
        with self._writing() as c:
            c.execute(
                t.rollouts.update()
                .where(t.rollouts.c.id == state.id)
                .values(phase=state.phase.value, state=_STATE.dump_json(state).decode())
            )
            if entries:
                last = c.execute(
                    sa.select(sa.func.max(t.journal.c.seq)).where(t.journal.c.rollout == state.id)
                ).scalar()
                c.execute(
                    t.journal.insert(),
                    [
                        {
                            "rollout": state.id,
                            "seq": (last or 0) + i,
                            "at": entry.at,
                            "text": entry.text,
                            "phase": entry.phase,
                            "weight": entry.weight,
                            "action": entry.action,
                        }
                        for i, entry in enumerate(entries, 1)
                    ],
                )
            key, at = str(state.plan.key), entries[-1].at if entries else state.entered
            for entry in entries:
                tell(c, "journal", key, entry.at, {"text": entry.text, "weight": entry.weight}, state.id)
            tell(c, "rollout", key, at, _told(state), state.id)

    def rollout(self, id: int) -> Rollout:
        return _state(self._row(id).state)

    def fence(self, id: int) -> int:
        return int(self._row(id).fence)

    def _row(self, id: int) -> sa.Row[Any]:
        with self._reading() as c:
            row = c.execute(sa.select(t.rollouts).where(t.rollouts.c.id == id)).one_or_none()
        if row is None:
            raise NotFound(f"There is no rollout #{id}.", hint="`crossfade status` shows the last ones.")
        return row

    def last_rollouts(self, keys: Sequence[EnvKey]) -> Mapping[EnvKey, Rollout]:
        named = t.rollouts.c.key.in_([str(key) for key in keys])
        newest = sa.select(sa.func.max(t.rollouts.c.id)).where(named).group_by(t.rollouts.c.key)
        with self._reading() as c:
            rows = c.execute(sa.select(t.rollouts.c.state).where(t.rollouts.c.id.in_(newest))).all()
        states = [_state(row.state) for row in rows]
        return {state.plan.key: state for state in states}

    def begun_by(self, ids: Sequence[int]) -> Mapping[int, str]:
        with self._reading() as c:
            rows = c.execute(sa.select(t.rollouts.c.id, t.rollouts.c.by).where(t.rollouts.c.id.in_(ids))).all()
        return {row.id: row.by for row in rows}

    def rollouts(
        self, key: EnvKey | None = None, *, open_only: bool = False, limit: int = 50, before: int | None = None
    ) -> tuple[Rollout, ...]:
        query = sa.select(t.rollouts.c.state).order_by(t.rollouts.c.id.desc()).limit(limit)
        if before is not None:
            query = query.where(t.rollouts.c.id < before)
        if key is not None:
            query = query.where(t.rollouts.c.key == str(key))
        if open_only:
            query = query.where(t.rollouts.c.closed.is_(None))
        with self._reading() as c:
            return tuple(_state(row.state) for row in c.execute(query))

    def journal(self, id: int) -> tuple[Entry, ...]:
        with self._reading() as c:
            rows = c.execute(sa.select(t.journal).where(t.journal.c.rollout == id).order_by(t.journal.c.seq)).all()
        return tuple(Entry(row.at, row.text, row.phase, row.weight, row.action) for row in rows)

    def order(self, id: int, command: Command, by: str, now: float) -> Ordered:
        with self._writing() as c:
            result = c.execute(t.orders.insert().values(rollout=id, command=command.value, by=by, at=now))
            assert result.inserted_primary_key is not None
            return Ordered(f"order-{result.inserted_primary_key[0]}", command, by)

    def orders(self, id: int) -> tuple[Ordered, ...]:
        with self._reading() as c:
            rows = c.execute(sa.select(t.orders).where(t.orders.c.rollout == id).order_by(t.orders.c.seq)).all()
        return tuple(Ordered(f"order-{row.seq}", Command(row.command), row.by) for row in rows)

    def keep_reading(self, id: int, label: str, reading: Reading) -> None:
        try:
            with self._writing() as c:
                c.execute(
                    t.readings.insert().values(rollout=id, label=label, reading=_READING.dump_json(reading).decode())
                )
        except IntegrityError:
            return  # the first reading of a label stays

    def readings(self, id: int) -> Mapping[str, Reading]:
        with self._reading() as c:
            rows = c.execute(sa.select(t.readings).where(t.readings.c.rollout == id)).all()
        return {row.label: _READING.validate_json(row.reading) for row in rows}

    def keep_evidence(self, id: int, evidence: Mapping[str, Any]) -> None:
        text = json.dumps(evidence, separators=(",", ":"), allow_nan=False)
        with self._writing() as c:
            mine = t.evidence.c.rollout == id
            if not c.execute(t.evidence.update().where(mine).values(evidence=text)).rowcount:
                c.execute(t.evidence.insert().values(rollout=id, evidence=text))

    def evidence(self, id: int) -> Mapping[str, Any] | None:
        with self._reading() as c:
            text = c.execute(sa.select(t.evidence.c.evidence).where(t.evidence.c.rollout == id)).scalar()
        return json.loads(text) if text else None

    def commit(self, id: int, slot: Slot, release: ReleaseNumber, warm_until: float, now: float) -> None:
        with self._writing() as c:
            key = c.execute(sa.select(t.rollouts.c.key).where(t.rollouts.c.id == id)).scalar_one()
            if c.execute(sa.select(t.promotions.c.seq).where(t.promotions.c.rollout == id)).first() is not None:
                return
            c.execute(t.promotions.insert().values(key=key, release=release.n, rollout=id, at=now))
            c.execute(
                t.environments.update().where(t.environments.c.key == key).values(live=release.n, slot=slot.value)
            )
            mine = sa.and_(t.slots.c.key == key, t.slots.c.slot == slot.value)
            others = sa.and_(t.slots.c.key == key, t.slots.c.slot == slot.other.value)
            c.execute(t.slots.update().where(mine).values(warm_until=None))
            c.execute(t.slots.update().where(others).values(warm_until=warm_until))
            tell(c, "live", key, now, {"release": str(release), "slot": slot.value}, id)

    def close(self, id: int, receipt: Mapping[str, Any], now: float) -> None:
        with self._writing() as c:
            c.execute(
                t.rollouts.update()
                .where(t.rollouts.c.id == id, t.rollouts.c.closed.is_(None))
                .values(closed=now, receipt=json.dumps(receipt))
            )
            freed = c.execute(sa.select(t.environments.c.key).where(t.environments.c.holder == id)).scalar()
            if freed is not None:
                c.execute(t.environments.update().where(t.environments.c.holder == id).values(holder=None))
                tell(c, "closed", freed, now, {}, id)

    def keep_receipt(self, id: int, receipt: Mapping[str, Any]) -> None:
        with self._writing() as c:
            c.execute(t.rollouts.update().where(t.rollouts.c.id == id).values(receipt=json.dumps(receipt)))

    def receipt(self, id: int) -> Mapping[str, Any] | None:
        text = self._row(id).receipt
        return json.loads(text) if text else None

    def unfinished_receipts(self) -> tuple[tuple[int, float], ...]:
        taken = sa.exists().where(t.readings.c.rollout == t.rollouts.c.id, t.readings.c.label == "after")
        with self._reading() as c:
            rows = c.execute(
                sa.select(t.rollouts.c.id, t.rollouts.c.closed).where(t.rollouts.c.closed.is_not(None), ~taken)
            ).all()
        return tuple((row.id, row.closed) for row in rows)

    # --- retirements

    def retire(self, key: EnvKey, slot: Pool, names: Sequence[str], deadline: float) -> None:
        try:
            with self._writing() as c:
                c.execute(
                    t.retirements.insert().values(
                        key=str(key), slot=slot.value, names=json.dumps(list(names)), deadline=deadline
                    )
                )
        except IntegrityError:
            return  # these are being retired already

    def retirements(self) -> tuple[Retirement, ...]:
        with self._reading() as c:
            rows = c.execute(sa.select(t.retirements).order_by(t.retirements.c.id)).all()
        return tuple(
            Retirement(row.id, _key(row.key), pool_of(row.slot), tuple(json.loads(row.names)), row.deadline)
            for row in rows
        )

    def retired(self, retirement: int) -> None:
        with self._writing() as c:
            c.execute(t.retirements.delete().where(t.retirements.c.id == retirement))

    # --- business events

    def add_events(self, events: Sequence[Event], batch: str, now: float) -> int:
        tallies = tally(events)
        with self._writing() as c:
            if batch:
                before = c.execute(
                    sa.select(t.event_batches.c.accepted).where(t.event_batches.c.batch == batch)
                ).scalar()
                if before is not None:
                    return int(before)
            refuse_many_names(events, {(key, release): _names(c, key, release) for key, release, _, _ in tallies})
            for (key, release, pool, name), new in tallies.items():
                place = {"key": str(key), "release": release.n, "pool": pool, "name": name}
                mine = sa.and_(*(t.event_tallies.c[column] == value for column, value in place.items()))
                more = {column: t.event_tallies.c[column] + getattr(new, column) for column in ("n", "sum", "sum_sq")}
                if not c.execute(t.event_tallies.update().where(mine).values(more)).rowcount:
                    c.execute(t.event_tallies.insert().values(**place, n=new.n, sum=new.sum, sum_sq=new.sum_sq))
            if batch:
                result = c.execute(t.event_batches.insert().values(batch=batch, accepted=len(events), at=now))
                assert result.inserted_primary_key is not None
                oldest = result.inserted_primary_key[0] - BATCHES_KEPT
                c.execute(t.event_batches.delete().where(t.event_batches.c.seq <= oldest))
        return len(events)

    def event_tallies(self, key: EnvKey) -> Mapping[tuple[ReleaseNumber, str, str], Moments]:
        with self._reading() as c:
            rows = c.execute(sa.select(t.event_tallies).where(t.event_tallies.c.key == str(key))).all()
        return {(ReleaseNumber(row.release), row.pool, row.name): Moments(row.n, row.sum, row.sum_sq) for row in rows}

    # --- the feed of changes

    def tell(self, kind: str, key: str, data: Mapping[str, Any], now: float, rollout: int | None = None) -> None:
        with self._writing() as c:
            tell(c, kind, key, now, data, rollout)

    def changes(self, after: int, limit: int = 500) -> tuple[Change, ...]:
        with self._reading() as c:
            rows = c.execute(sa.select(t.feed).where(t.feed.c.seq > after).order_by(t.feed.c.seq).limit(limit)).all()
        return tuple(Change(row.seq, row.at, row.kind, row.key, row.rollout, json.loads(row.data)) for row in rows)

    def changes_kept(self) -> tuple[int, int]:
        with self._reading() as c:
            row = c.execute(sa.select(sa.func.min(t.feed.c.seq), sa.func.max(t.feed.c.seq))).one()
        return (row[0] or 0, row[1] or 0)

    # --- answers that were given under an idempotency key

    def claim_key(self, actor: str, name: str, fingerprint: str, now: float) -> Kept | None:
        mine = sa.and_(t.answers.c.actor == actor, t.answers.c.name == name)
        with self._writing() as c:
            c.execute(t.answers.delete().where(t.answers.c.at < now - ANSWERS_KEPT))
            row = c.execute(sa.select(t.answers).where(mine)).one_or_none()
            if row is not None:
                return Kept(row.fingerprint, row.status, row.body or "")
            c.execute(t.answers.insert().values(actor=actor, name=name, fingerprint=fingerprint, at=now))
        return None

    def keep_answer(self, actor: str, name: str, status: int, body: str) -> None:
        mine = sa.and_(t.answers.c.actor == actor, t.answers.c.name == name)
        with self._writing() as c:
            c.execute(t.answers.update().where(mine).values(status=status, body=body))

    def give_up_key(self, actor: str, name: str) -> None:
        unanswered = t.answers.c.status.is_(None)
        with self._writing() as c:
            c.execute(t.answers.delete().where(t.answers.c.actor == actor, t.answers.c.name == name, unanswered))

    def give_up_keys(self) -> None:
        with self._writing() as c:
            c.execute(t.answers.delete().where(t.answers.c.status.is_(None)))


def _told(state: Rollout) -> dict[str, Any]:
    """What the feed says of a rollout."""
    return {
        "phase": state.phase.value,
        "weight": state.weight.bp,
        "step": state.step,
        "candidate": str(state.plan.candidate),
        "baseline": str(state.plan.baseline) if state.plan.baseline else None,
        "ended": state.phase.ended,
    }


def _names(c: sa.Connection, key: EnvKey, release: ReleaseNumber) -> tuple[str, ...]:
    """The names of events that a release has had."""
    tallies = t.event_tallies.c
    query = sa.select(tallies.name).distinct().where(tallies.key == str(key), tallies.release == release.n)
    return tuple(c.execute(query).scalars())


def _held(c: sa.Connection, key: str) -> sa.Row[Any] | None:
    """The environment's row. Raises Busy when a rollout holds it."""
    row = c.execute(sa.select(t.environments).where(t.environments.c.key == key)).one_or_none()
    if row is None or row.holder is None:
        return row
    holder = c.execute(sa.select(t.rollouts).where(t.rollouts.c.id == row.holder)).one()
    state = _state(holder.state)
    raise Busy(
        f"{key} is held by rollout #{holder.id} of {state.plan.candidate}, begun by {holder.by}, "
        f"now {state.phase} at {state.weight}.",
        hint="Wait for it (`--wait`), see `crossfade status`, or end it with `crossfade abort`.",
        rollout=holder.id,
        by=holder.by,
    )


def _release(row: sa.Row[Any]) -> Release:
    return Release(
        ReleaseNumber(row.number), Digest(row.digest), _CONFIG.validate_json(row.config), row.created, row.label
    )
