"""The twin of the ledger of flags: the same promises, in memory."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from crossfade.domain.errors import NotFound, Refused
from crossfade.domain.values import EnvKey, ReleaseNumber
from crossfade.ports import Store
from crossfade.ports.flags import (
    BATCHES_KEPT,
    LATE,
    MOST_OUTCOMES,
    MOST_UNITS,
    MOST_USAGES,
    VERSIONS_KEPT,
    ChangeRequest,
    Evaluations,
    ExperimentRow,
    Exposure,
    FlagSettings,
    FlagVersion,
    RampRow,
    Taken,
    Tracked,
    Unit,
    moved,
    named_already,
    no_experiment,
    no_ramp,
    ramping,
    told_of,
)


class MemoryFlags:
    """`ports.flags.Flags` in memory. ``store`` is whose feed is told; bounds as of `SqlFlags`."""

    def __init__(self, store: Store, most_units: int = MOST_UNITS, most_outcomes: int = MOST_OUTCOMES) -> None:
        self._store, self._most_units, self._most_outcomes = store, most_units, most_outcomes
        self._lock = threading.RLock()
        self._versions: dict[EnvKey, dict[int, FlagVersion]] = {}
        self._settings: dict[EnvKey, FlagSettings] = {}
        self._requests: dict[int, ChangeRequest] = {}
        self._ramps: dict[int, RampRow] = {}
        self._evidence: dict[int, Any] = {}
        self._experiments: dict[tuple[EnvKey, str], ExperimentRow] = {}
        self._units: dict[tuple[EnvKey, str], dict[bytes, Unit]] = {}
        self._outcomes: dict[tuple[EnvKey, str], list[Tracked]] = {}
        self._batches: dict[str, Taken] = {}
        self._usage: dict[tuple[EnvKey, str, str, ReleaseNumber], Evaluations] = {}

    # --- versions

    def newest(self, key: EnvKey) -> int:
        with self._lock:
            return max(self._versions.get(key, ()), default=0)

    def current(self, key: EnvKey) -> FlagVersion | None:
        with self._lock:
            return _copy(self._versions[key][self.newest(key)]) if key in self._versions else None

    def version(self, key: EnvKey, number: int) -> FlagVersion:
        with self._lock:
            found = self._versions.get(key, {}).get(number)
        if found is None:
            raise NotFound(
                f"There is no version {number} of the flags of {key}.",
                hint=f"The last {VERSIONS_KEPT} are kept: `crossfade flags versions` lists them.",
            )
        return _copy(found)

    def versions(self, key: EnvKey, *, limit: int = 50, before: int | None = None) -> tuple[FlagVersion, ...]:
        with self._lock:
            found = sorted(self._versions.get(key, {}).items(), reverse=True)
        mine = [replace(one, document=None) for number, one in found if before is None or number < before]
        return tuple(mine[:limit])

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
        with self._lock:
            newest = self.newest(key)
            if newest != expects:
                raise moved(key, newest, expects)
            number = newest + 1
            if decided is not None and not self._decide(replace(decided, applied=number)):
                raise Refused(f"Request {decided.id} does not wait any more.")
            written = _copy(FlagVersion(key, number, document, by, now, note, tuple(flags)))
            kept = self._versions.setdefault(key, {})
            kept[number] = written
            if number % 50 == 0:
                self._versions[key] = {n: one for n, one in kept.items() if n > number - VERSIONS_KEPT}
            self._store.tell("flags", str(key), told_of(number, flags), now)
            if decided is not None:
                self._told(decided, now)
            return _copy(written)

    def keys(self) -> tuple[EnvKey, ...]:
        with self._lock:
            return tuple(self._versions)

    # --- settings and requests

    def settings(self, key: EnvKey) -> FlagSettings:
        return self._settings.get(key, FlagSettings())

    def set_settings(self, key: EnvKey, settings: FlagSettings) -> None:
        with self._lock:
            self._settings[key] = settings

    def ask(self, request: ChangeRequest) -> ChangeRequest:
        with self._lock:
            for id, one in self._requests.items():
                if one.key == request.key and one.state == "waiting" and set(one.after) & set(request.after):
                    self._requests[id] = replace(one, state="superseded", decided=request.asked)
                    self._told(self._requests[id], request.asked)
            before, after = _json(request.before), _json(request.after)
            numbered = replace(request, id=len(self._requests) + 1, state="waiting", before=before, after=after)
            self._requests[numbered.id] = numbered
            self._told(numbered, request.asked)
            return numbered

    def request(self, id: int) -> ChangeRequest | None:
        return self._requests.get(id)

    def requests(
        self, key: EnvKey | None = None, *, waiting: bool = False, limit: int = 50, before: int | None = None
    ) -> tuple[ChangeRequest, ...]:
        with self._lock:
            found = [
                one
                for id, one in sorted(self._requests.items(), reverse=True)
                if key in (None, one.key)
                and not (waiting and one.state != "waiting")
                and (before is None or id < before)
            ]
        return tuple(found[:limit])

    def decide(self, request: ChangeRequest) -> bool:
        with self._lock:
            done = self._decide(request)
            if done:
                self._told(request, request.decided or 0.0)
            return done

    def _decide(self, request: ChangeRequest) -> bool:
        known = self._requests.get(request.id)
        if known is None or known.state != "waiting":
            return False
        self._requests[request.id] = replace(
            known,
            state=request.state,
            decided_by=request.decided_by,
            decided=request.decided,
            why=request.why,
            applied=request.applied,
        )
        return True

    def _told(self, request: ChangeRequest, now: float) -> None:
        self._store.tell("flag-request", str(request.key), {"request": request.id, "state": request.state}, now)

    # --- ramps

    def add_ramp(self, key: EnvKey, flag: str, state: Mapping[str, Any], now: float) -> RampRow:
        with self._lock:
            taken = next((one.id for one in self.ramps(key, flag=flag, open_only=True)), None)
            if taken is not None:
                raise ramping(key, flag, taken)
            row = RampRow(len(self._ramps) + 1, key, flag, _json(state), now)
            self._ramps[row.id] = row
            self._store.tell("ramp", str(key), {"ramp": row.id, "flag": flag, "ended": False}, now)
            return row

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
        with self._lock:
            row = replace(self.ramp(id), state=_json(state))
            if ended and row.ended is None:
                row = replace(row, ended=now)
            self._ramps[id] = row
            if evidence is not None:
                self._evidence[id] = _json(evidence)
            if told is not None:
                said = {"ramp": id, "flag": row.flag, "ended": row.ended is not None, **told}
                self._store.tell("ramp", str(row.key), said, now)

    def ramp(self, id: int) -> RampRow:
        with self._lock:
            if id not in self._ramps:
                raise no_ramp(id)
            return self._ramps[id]

    def ramp_evidence(self, id: int) -> Mapping[str, Any] | None:
        return self._evidence.get(id)

    def ramps(
        self,
        key: EnvKey | None = None,
        *,
        flag: str | None = None,
        open_only: bool = False,
        limit: int = 50,
        before: int | None = None,
    ) -> tuple[RampRow, ...]:
        with self._lock:
            found = [
                one
                for id, one in sorted(self._ramps.items(), reverse=True)
                if key in (None, one.key)
                and flag in (None, one.flag)
                and not (open_only and one.ended is not None)
                and (before is None or id < before)
            ]
        return tuple(found[:limit])

    # --- experiments

    def add_experiment(self, row: ExperimentRow) -> None:
        with self._lock:
            if (row.key, row.name) in self._experiments:
                raise named_already(row.key, row.name)
            self._experiments[row.key, row.name] = replace(row, state=_json(row.state), units=0, left_out=0)
            self._units[row.key, row.name], self._outcomes[row.key, row.name] = {}, []

    def experiment(self, key: EnvKey, name: str) -> ExperimentRow:
        with self._lock:
            if (key, name) not in self._experiments:
                raise no_experiment(key, name)
            return self._experiments[key, name]

    def experiments(self, key: EnvKey) -> tuple[ExperimentRow, ...]:
        with self._lock:
            return tuple(one for one in reversed(self._experiments.values()) if one.key == key)

    def save_experiment(self, row: ExperimentRow) -> None:
        with self._lock:
            known = self.experiment(row.key, row.name)
            self._experiments[row.key, row.name] = replace(
                known, state=_json(row.state), events=row.events, started=row.started, ended=row.ended, until=row.until
            )

    def remove_experiment(self, key: EnvKey, name: str) -> None:
        with self._lock:
            self.experiment(key, name)
            for kept in (self._experiments, self._units, self._outcomes):
                del kept[key, name]

    def units(self, key: EnvKey, name: str) -> Iterator[Unit]:
        with self._lock:
            self.experiment(key, name)
            return iter(list(self._units[key, name].values()))

    def outcomes(self, key: EnvKey, name: str) -> Iterator[Tracked]:
        with self._lock:
            self.experiment(key, name)
            return iter(list(self._outcomes[key, name]))

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
        with self._lock:
            if batch and batch in self._batches:
                return self._batches[batch]
            open_ = [one for one in self.experiments(key) if one.until is None or one.until >= now - LATE]
            exposed = {i for row in open_ for i in self._expose(row, exposures)}
            tracked = {i for row in open_ for i in self._track(row, tracks)}
            for one in usage:
                self._use(key, one)
            left_out = len(exposures) - len(exposed) + len(tracks) - len(tracked)
            done = Taken(len(exposed), len(tracked), len(usage), left_out)
            if batch:
                self._batches[batch] = done
                for old in list(self._batches)[:-BATCHES_KEPT]:
                    del self._batches[old]
            return done

    def _expose(self, row: ExperimentRow, exposures: Sequence[Exposure]) -> set[int]:
        units, counted, left_out = self._units[row.key, row.name], set(), 0
        for i, one in enumerate(exposures):
            if row.started is None or one.flag != row.flag or not _within(one.at, row.started, row.ended):
                continue
            known = units.get(one.unit)
            if known is not None:
                units[one.unit] = _again(known, one)
            elif len(units) >= self._most_units:
                left_out += 1
                continue
            else:
                attributes = dict(one.attributes)
                units[one.unit] = Unit(one.unit, one.variant, one.at, one.release, one.slot, attributes)
            counted.add(i)
        self._count(row, left_out)
        return counted

    def _track(self, row: ExperimentRow, tracks: Sequence[Tracked]) -> set[int]:
        outcomes = self._outcomes[row.key, row.name]
        mine = [(i, one) for i, one in enumerate(tracks) if one.name in row.events and _within(one.at, 0.0, row.until)]
        room = max(0, self._most_outcomes - len(outcomes))
        outcomes += [one for _, one in mine[:room]]
        self._count(row, len(mine[room:]))
        return {i for i, _ in mine[:room]}

    def _count(self, row: ExperimentRow, left_out: int) -> None:
        known = self._experiments[row.key, row.name]
        units = len(self._units[row.key, row.name])
        self._experiments[row.key, row.name] = replace(known, units=units, left_out=known.left_out + left_out)

    def _use(self, key: EnvKey, one: Evaluations) -> None:
        place = (key, one.flag, one.variant, one.release)
        known = self._usage.get(place)
        if known is not None:
            first, last = min(known.first, one.first), max(known.last, one.last)
            self._usage[place] = replace(known, n=known.n + one.n, first=first, last=last)
            return
        self._usage[place] = one
        mine = sorted(
            (found for found in self._usage if found[:2] == (key, one.flag)),
            key=lambda found: (-self._usage[found].last, -found[3].n),
        )
        for old in mine[MOST_USAGES:]:
            del self._usage[old]

    def usage(self, key: EnvKey, flag: str | None = None) -> tuple[Evaluations, ...]:
        with self._lock:
            found = [one for (of, name, _, _), one in self._usage.items() if of == key and flag in (None, name)]
        return tuple(sorted(found, key=lambda one: (one.flag, -one.last, one.variant, one.release)))


def _within(at: float, begins: float, ends: float | None) -> bool:
    return begins <= at and (ends is None or at < ends)


def _again(known: Unit, one: Exposure) -> Unit:
    if one.variant == known.variant:
        return replace(known, at=min(known.at, one.at))
    if known.crossed is None or one.at < known.crossed:
        return replace(known, other=one.variant, crossed=one.at)
    return known


def _json(data: Mapping[str, Any]) -> Any:
    """As it would be read back."""
    return json.loads(json.dumps(data, allow_nan=False))


def _copy(version: FlagVersion) -> FlagVersion:
    return replace(version, document=_json(version.document or {}))
