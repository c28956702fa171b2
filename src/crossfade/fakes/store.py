"""The twin of the ledger: the same promises, in memory."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from crossfade.domain import rollout as machine
from crossfade.domain.analysis.sample import Moments
from crossfade.domain.environment import Entry, Environment, Occupant, Retirement, moved
from crossfade.domain.errors import Busy, NotFound
from crossfade.domain.events import BATCHES_KEPT, Event, Tallies, refuse_many_names, tally
from crossfade.domain.release import Release, ReleaseConfig
from crossfade.domain.rollout import Command, Ordered, Plan, Rollout
from crossfade.domain.traffic import Pool, Slot
from crossfade.domain.values import Digest, EnvKey, ReleaseNumber
from crossfade.ports import ANSWERS_KEPT, CHANGES_KEPT, Change, Kept, Reading


class FakeStore:
    """`ports.Store` in memory."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._environments: dict[EnvKey, Environment] = {}
        self._slots: dict[tuple[EnvKey, Slot], Occupant] = {}
        self._releases: dict[tuple[str, int], tuple[EnvKey, Release]] = {}
        self._rollouts: dict[int, Rollout] = {}
        self._begun: dict[int, tuple[int, str]] = {}
        self._closed: dict[int, float] = {}
        self._receipts: dict[int, Mapping[str, Any]] = {}
        self._journal: dict[int, list[Entry]] = {}
        self._orders: list[tuple[int, Ordered]] = []
        self._readings: dict[int, dict[str, Reading]] = {}
        self._evidence: dict[int, str] = {}
        self._promotions: list[tuple[EnvKey, ReleaseNumber, int]] = []
        self._retirements: dict[int, Retirement] = {}
        self._tallies: Tallies = {}
        self._batches: dict[str, int] = {}
        self._serial = 0
        self._feed: list[Change] = []
        self._told = 0
        self._answers: dict[tuple[str, str], tuple[float, Kept]] = {}

    def environment(self, key: EnvKey) -> Environment | None:
        with self._lock:
            found = self._environments.get(key)
            if found is None:
                return None
            return replace(found, slots={s: o for (k, s), o in self._slots.items() if k == key})

    def environments(self, keys: Sequence[EnvKey] | None = None) -> tuple[Environment, ...]:
        with self._lock:
            wanted = self._environments if keys is None else set(keys)
            found = (self.environment(key) for key in sorted(wanted, key=str))
            return tuple(environment for environment in found if environment is not None)

    def keys(self) -> tuple[EnvKey, ...]:
        with self._lock:
            return tuple(self._environments)

    def occupy(self, key: EnvKey, slot: Slot, occupant: Occupant | None) -> None:
        with self._lock:
            self._slots.pop((key, slot), None)
            if occupant is not None:
                self._slots[key, slot] = occupant

    def add_release(self, key: EnvKey, digest: Digest, config: ReleaseConfig, label: str, now: float) -> Release:
        with self._lock:
            highest = max((n for service, n in self._releases if service == key.service), default=0)
            release = Release(ReleaseNumber(highest + 1), digest, config, now, label)
            self._releases[key.service, highest + 1] = (key, release)
            return release

    def release(self, service: str, number: ReleaseNumber) -> Release:
        found = self._releases.get((service, number.n))
        if found is None:
            raise NotFound(f"{service} has no release {number}.", hint="`crossfade releases` lists them.")
        return found[1]

    def releases(self, key: EnvKey, *, limit: int | None = None, before: int | None = None) -> tuple[Release, ...]:
        with self._lock:
            mine = [release for k, release in self._releases.values() if k == key]
        asked = [release for release in mine if before is None or release.number.n < before]
        return tuple(sorted(asked, key=lambda release: release.number, reverse=True)[:limit])

    def promotions(self, key: EnvKey) -> tuple[ReleaseNumber, ...]:
        return tuple(number for k, number, _ in self._promotions if k == key)

    def refuse_if_held(self, key: EnvKey) -> None:
        found = self._environments.get(key)
        if found is None or found.holder is None:
            return
        state, (_, by) = self._rollouts[found.holder], self._begun[found.holder]
        raise Busy(
            f"{key} is held by rollout #{state.id} of {state.plan.candidate}, begun by {by}, "
            f"now {state.phase} at {state.weight}.",
            hint="Wait for it (`--wait`), see `crossfade status`, or end it with `crossfade abort`.",
            rollout=state.id,
            by=by,
        )

    def begin(self, plan: Plan, by: str, now: float, expects: int | None = None) -> Rollout:
        with self._lock:
            self.refuse_if_held(plan.key)
            found = self._environments.get(plan.key) or Environment(plan.key)
            if expects is not None and found.fence != expects:
                raise moved(plan.key, found.fence, expects)
            number = len(self._rollouts) + 1
            state, _ = machine.begin(number, plan, now)
            self._rollouts[number] = state
            self._begun[number] = (found.fence + 1, by)
            self._environments[plan.key] = replace(found, holder=number, fence=found.fence + 1)
            self.tell("rollout", str(plan.key), _summary(state), now, number)
            return state

    def save(self, state: Rollout, entries: Sequence[Entry]) -> None:
        with self._lock:
            self._rollouts[state.id] = state
            self._journal.setdefault(state.id, []).extend(entries)
            key, at = str(state.plan.key), entries[-1].at if entries else state.entered
            for entry in entries:
                self.tell("journal", key, {"text": entry.text, "weight": entry.weight}, entry.at, state.id)
            self.tell("rollout", key, _summary(state), at, state.id)

    def rollout(self, id: int) -> Rollout:
        if id not in self._rollouts:
            raise NotFound(f"There is no rollout #{id}.", hint="`crossfade status` shows the last ones.")
        return self._rollouts[id]

    def fence(self, id: int) -> int:
        self.rollout(id)
        return self._begun[id][0]

    def last_rollouts(self, keys: Sequence[EnvKey]) -> Mapping[EnvKey, Rollout]:
        with self._lock:
            return {state.plan.key: state for _, state in sorted(self._rollouts.items()) if state.plan.key in keys}

    def begun_by(self, ids: Sequence[int]) -> Mapping[int, str]:
        with self._lock:
            return {id: self._begun[id][1] for id in ids if id in self._begun}

    def rollouts(
        self, key: EnvKey | None = None, *, open_only: bool = False, limit: int = 50, before: int | None = None
    ) -> tuple[Rollout, ...]:
        with self._lock:
            found = [
                state
                for id, state in sorted(self._rollouts.items(), reverse=True)
                if key in (None, state.plan.key)
                and not (open_only and id in self._closed)
                and (before is None or id < before)
            ]
        return tuple(found[:limit])

    def journal(self, id: int) -> tuple[Entry, ...]:
        return tuple(self._journal.get(id, ()))

    def order(self, id: int, command: Command, by: str, now: float) -> Ordered:
        with self._lock:
            self.rollout(id)
            order = Ordered(f"order-{len(self._orders) + 1}", command, by)
            self._orders.append((id, order))
            return order

    def orders(self, id: int) -> tuple[Ordered, ...]:
        return tuple(order for rollout, order in self._orders if rollout == id)

    def keep_reading(self, id: int, label: str, reading: Reading) -> None:
        with self._lock:
            self.rollout(id)
            self._readings.setdefault(id, {}).setdefault(label, reading)

    def readings(self, id: int) -> Mapping[str, Reading]:
        return dict(self._readings.get(id, {}))

    def keep_evidence(self, id: int, evidence: Mapping[str, Any]) -> None:
        with self._lock:
            self.rollout(id)
            self._evidence[id] = json.dumps(evidence, allow_nan=False)

    def evidence(self, id: int) -> Mapping[str, Any] | None:
        kept = self._evidence.get(id)
        return json.loads(kept) if kept else None

    def commit(self, id: int, slot: Slot, release: ReleaseNumber, warm_until: float, now: float) -> None:
        with self._lock:
            key = self.rollout(id).plan.key
            if any(rollout == id for _, _, rollout in self._promotions):
                return
            self._promotions.append((key, release, id))
            self._environments[key] = replace(self._environments[key], live=release, slot=slot)
            for place, until in ((slot, None), (slot.other, warm_until)):
                if (key, place) in self._slots:
                    self._slots[key, place] = replace(self._slots[key, place], warm_until=until)
            self.tell("live", str(key), {"release": str(release), "slot": slot.value}, now, id)

    def close(self, id: int, receipt: Mapping[str, Any], now: float) -> None:
        with self._lock:
            if id not in self._closed:
                self._closed[id] = now
                self._receipts[id] = dict(receipt)
            for key, environment in list(self._environments.items()):
                if environment.holder == id:
                    self._environments[key] = replace(environment, holder=None)
                    self.tell("closed", str(key), {}, now, id)

    def keep_receipt(self, id: int, receipt: Mapping[str, Any]) -> None:
        self._receipts[id] = dict(receipt)

    def receipt(self, id: int) -> Mapping[str, Any] | None:
        self.rollout(id)
        return self._receipts.get(id)

    def unfinished_receipts(self) -> tuple[tuple[int, float], ...]:
        with self._lock:
            return tuple((i, at) for i, at in sorted(self._closed.items()) if "after" not in self._readings.get(i, {}))

    def retire(self, key: EnvKey, slot: Pool, names: Sequence[str], deadline: float) -> None:
        with self._lock:
            if any(r.names == tuple(names) for r in self._retirements.values()):
                return
            self._serial += 1
            self._retirements[self._serial] = Retirement(self._serial, key, slot, tuple(names), deadline)

    def retirements(self) -> tuple[Retirement, ...]:
        with self._lock:
            return tuple(self._retirements[id] for id in sorted(self._retirements))

    def retired(self, retirement: int) -> None:
        with self._lock:
            self._retirements.pop(retirement, None)

    def add_events(self, events: Sequence[Event], batch: str, now: float) -> int:
        with self._lock:
            if batch and batch in self._batches:
                return self._batches[batch]
            refuse_many_names(events, self._event_names())
            for place, new in tally(events).items():
                old = self._tallies.get(place, Moments(0.0, 0.0, 0.0))
                self._tallies[place] = Moments(old.n + new.n, old.sum + new.sum, old.sum_sq + new.sum_sq)
            if batch:
                self._batches[batch] = len(events)
                for oldest in list(self._batches)[:-BATCHES_KEPT]:
                    del self._batches[oldest]
            return len(events)

    def _event_names(self) -> dict[tuple[EnvKey, ReleaseNumber], set[str]]:
        names: dict[tuple[EnvKey, ReleaseNumber], set[str]] = {}
        for key, release, _, name in self._tallies:
            names.setdefault((key, release), set()).add(name)
        return names

    def event_tallies(self, key: EnvKey) -> Mapping[tuple[ReleaseNumber, str, str], Moments]:
        with self._lock:
            return {(release, pool, name): m for (k, release, pool, name), m in self._tallies.items() if k == key}

    def tell(self, kind: str, key: str, data: Mapping[str, Any], now: float, rollout: int | None = None) -> None:
        with self._lock:
            self._told += 1
            self._feed.append(Change(self._told, now, kind, key, rollout, json.loads(json.dumps(data))))
            if self._told % 100 == 0:
                del self._feed[:-CHANGES_KEPT]

    def changes(self, after: int, limit: int = 500) -> tuple[Change, ...]:
        with self._lock:
            return tuple(change for change in self._feed if change.seq > after)[:limit]

    def changes_kept(self) -> tuple[int, int]:
        with self._lock:
            return (self._feed[0].seq, self._feed[-1].seq) if self._feed else (0, 0)

    def claim_key(self, actor: str, name: str, fingerprint: str, now: float) -> Kept | None:
        with self._lock:
            self._answers = {place: known for place, known in self._answers.items() if known[0] >= now - ANSWERS_KEPT}
            known = self._answers.setdefault((actor, name), (now, fresh := Kept(fingerprint, None, "")))
            return None if known[1] is fresh else known[1]

    def keep_answer(self, actor: str, name: str, status: int, body: str) -> None:
        with self._lock:
            if (actor, name) in self._answers:
                at, kept = self._answers[actor, name]
                self._answers[actor, name] = (at, Kept(kept.fingerprint, status, body))

    def give_up_key(self, actor: str, name: str) -> None:
        with self._lock:
            if (actor, name) in self._answers and self._answers[actor, name][1].status is None:
                del self._answers[actor, name]

    def give_up_keys(self) -> None:
        with self._lock:
            self._answers = {place: known for place, known in self._answers.items() if known[1].status is not None}


def _summary(state: Rollout) -> dict[str, Any]:
    return {
        "phase": state.phase.value,
        "weight": state.weight.bp,
        "step": state.step,
        "candidate": str(state.plan.candidate),
        "baseline": str(state.plan.baseline) if state.plan.baseline else None,
        "ended": state.phase.ended,
    }
