"""The report: what is gathered for it from everything that was written down, for those environments that the asker sees."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any, Final

from crossfade.domain.access import Actor, Role
from crossfade.domain.alert import Severity
from crossfade.domain.errors import CrossfadeError, Invalid, NotFound, Refused
from crossfade.domain.report.deployments import Deployment, read
from crossfade.domain.report.incidents import How, Piece, Source
from crossfade.domain.report.markdown import markdown
from crossfade.domain.report.plots import PLOTS
from crossfade.domain.report.report import Drill, Facts, Proof, build
from crossfade.domain.report.sheet import csv_of
from crossfade.domain.report.span import DAY, Span
from crossfade.domain.rollout import Kind, Rollout
from crossfade.domain.slo import EDGE, Series
from crossfade.domain.values import EnvKey, ReleaseNumber
from crossfade.ports import Parts
from crossfade.ports.records import Record
from crossfade.service.audit import Audit
from crossfade.service.days import REMEMBERED, Days
from crossfade.service.fixes import KIND as FIX
from crossfade.service.steering import CUSTODIAN

PRODUCTION: Final = "production"
"""The environments that a report is about when nobody says which: DORA's measures are of production."""
EVERY: Final = "*"
AROUND: Final = 2 * DAY
"""Seconds before and after a span in which is looked for failures that belong to deployments of it."""
WAITED: Final = 60 * DAY
"""Seconds before a span in which a release of it may have been marked as a fix."""
PAGE: Final = 500
MARK: Final = "mark"
REHEARSED: Final = ("drill", "proof")
"""Beginnings of the names of alerts that tell of rehearsals, and not of clients."""


class Reports:
    """Use cases. ``committed`` says when the commit was made that a release came from, where a pipeline knows it.

    ``overdue`` says, in sentences, which drills of an environment should have been held.
    """

    def __init__(self, parts: Parts, audit: Audit) -> None:
        self._parts, self._audit = parts, audit
        self.days = Days(parts)
        self.committed: Callable[[str, ReleaseNumber], float | None] = lambda _service, _release: None
        self.overdue: Callable[[EnvKey], Sequence[str]] = lambda _key: ()

    # --- to see

    def keys(self, wanted: Sequence[str], by: Actor, span: Span) -> list[EnvKey]:
        """The environments that are meant, of those that the actor sees, by name; also such as are gone by now.

        ``wanted`` are services, environments (``*/staging``) or both (``shop/production``, ``shop/*``). Without any, those
        that are called production, else all. Raises Forbidden, Invalid, NotFound.
        """
        known = sorted({*self._parts.store.keys(), *self.days.kept(span)})
        seen = [key for key in known if by.sees(key)]
        if not wanted:
            return [key for key in seen if key.environment == PRODUCTION] or seen
        found: set[EnvKey] = set()
        for text in wanted:
            service, slash, environment = text.partition("/")
            if not service or (slash and not environment) or "/" in environment:
                raise Invalid("environment", text, "service, service/environment, or either half as *")
            matching = [
                key
                for key in known
                if service in (EVERY, key.service) and (not slash or environment in (EVERY, key.environment))
            ]
            mine = [key for key in matching if by.sees(key)]
            if not mine and EVERY not in (service, environment):
                if slash:
                    by.require(Role.VIEWER, EnvKey(service, environment))
                raise NotFound(f"There is no {text}.", hint=f"Known: {', '.join(map(str, seen)) or 'none yet'}.")
            found.update(mine)
        return sorted(found)

    def report(self, keys: Iterable[EnvKey], span: Span) -> dict[str, Any]:
        """The document of `domain.report.report.build`, of these environments."""
        now, chosen = self._parts.now(), sorted(set(keys))
        return build(self._facts(chosen, span, now), self._facts(chosen, span.previous, now), span, now)

    @staticmethod
    def markdown(report: Mapping[str, Any]) -> str:
        """As text for people."""
        return markdown(report)

    @staticmethod
    def csv(report: Mapping[str, Any]) -> str:
        """As lines for sheets."""
        return csv_of(report)

    @staticmethod
    def plot(report: Mapping[str, Any], name: str) -> str:
        """As SVG: availability, deployments, recovery or budget. Raises NotFound."""
        draw = PLOTS.get(name)
        if draw is None:
            raise NotFound(f"There is no plot {name!r}.", hint=f"There are {', '.join(PLOTS)}.")
        return draw(report)

    # --- to change

    def mark(self, rollout: int, failed: bool, why: str, by: Actor) -> dict[str, Any]:
        """Say of a deployment that it has failed, though nobody rolled it back; or that it has not, after all.

        Raises Forbidden, NotFound, Refused for a rollback, or a rollout that did not promote its candidate.
        """
        state = self._parts.store.rollout(rollout)
        key = state.plan.key
        by.require(Role.OPERATOR, key)
        if state.plan.kind is Kind.ROLLBACK or state.phase.value != "promoted":
            raise Refused(
                f"rollout #{rollout} is no deployment that was promoted.", hint="All others count as they ended."
            )
        now, subject = self._parts.now(), str(rollout)
        data = {"rollout": rollout, "failed": failed, "why": why, "by": by.name}
        before = next(iter(self._parts.records.list(MARK, key, subject=subject, limit=1)), None)
        if before is None:
            self._parts.records.add(MARK, key, subject, data, now, ended=now)
        else:
            self._parts.records.save(before.id, data, now)
        was = {"rollout": rollout, "failed": before is not None and bool(before.data["failed"])}
        self._audit.note(by, "rollout.mark", str(key), was, {**was, "failed": failed, "why": why})
        return data

    # --- what is known

    def _facts(self, keys: Sequence[EnvKey], span: Span, now: float) -> list[Facts]:
        there = {one.key: one for one in self._parts.store.environments(keys)}
        policies = {key: self.days.policy(key, one.live) for key, one in there.items()}
        days = self.days.of(keys, span, policies)
        wanted = set(keys)
        deployments = self._by_key(self._deployments(wanted, span))
        alerts = [r for r in self._records("alert", span) if r.key in wanted and _is_page(r)]
        watches = (_watched(r) for r in self._records("watch", span) if r.key in wanted)
        pieces = self._by_key([*(self._page(r, now) for r in alerts), *(one for one in watches if one is not None)])
        drills = self._by_key(_drill(r) for r in self._records("drill", span) if r.key in wanted)
        proofs = self._by_key(_proof(r) for r in self._records("proof", span) if r.key in wanted and _is_over(r))
        current = span.has(now)
        return [
            Facts(
                key,
                days.get(key, ()),
                tuple(policies.get(key, ())),
                tuple(deployments.get(key, ())),
                tuple(pieces.get(key, ())),
                tuple(drills.get(key, ())),
                tuple(proofs.get(key, ())),
                tuple(self.overdue(key)) if current and key in there else (),
                key not in there,
            )
            for key in keys
        ]

    @staticmethod
    def _by_key(found: Iterable[Any]) -> dict[EnvKey, list[Any]]:
        by_key: dict[EnvKey, list[Any]] = {}
        for one in found:
            by_key.setdefault(one.key, []).append(one)
        return by_key

    def _records(self, kind: str, span: Span) -> Iterator[Record]:
        """Those of a kind that began in a span, or a little before it."""
        return (record for record in self._since(kind, span.begins - AROUND) if record.began < span.ends)

    def _since(self, kind: str, begins: float) -> Iterator[Record]:
        """Those of a kind that began at a time or later, newest first."""
        before: int | None = None
        while page := self._parts.records.list(kind, limit=PAGE, before=before):
            yield from (record for record in page if record.began >= begins)
            if page[-1].began < begins:
                return
            before = page[-1].id

    def _page(self, record: Record, now: float) -> Piece:
        """A page as a piece of an incident, with the requests that the edge failed meanwhile, where that is known."""
        ends = record.ended if record.ended is not None else now
        failed = None
        if now - record.began < REMEMBERED * DAY and ends > record.began:
            counted = self._parts.histories.count(Series(record.key, EDGE), record.began, ends)
            failed = counted.bad if counted.covered > 0 else None
        return Piece(
            record.key,
            Source.ALERT,
            record.id,
            record.began,
            record.ended,
            str(record.data["sentence"]),
            record.began,
            failed=failed,
        )

    def _deployments(self, keys: set[EnvKey], span: Span) -> Iterator[Deployment]:
        """All rollouts of these environments that began in a span, or a little before or after it."""
        store = self._parts.store
        rehearsed = {id for record in self._records("drill", span) for id in _rollouts_of(record)}
        # Whatever is said of a rollout is said after it began; a release is marked as a fix before, and may wait for approval.
        marks = {record.data["rollout"]: record.data for record in self._since(MARK, span.begins - AROUND)}
        fixes = {(record.key, record.subject) for record in self._since(FIX, span.begins - WAITED)}

        @cache
        def watch(service: str, release: ReleaseNumber) -> float:
            return store.release(service, release).config.slo.watch

        states = [state for state in self._rollouts(span) if state.plan.key in keys]
        by: dict[int, str] = {}
        for at in range(0, len(states), PAGE):
            by |= store.begun_by([state.id for state in states[at : at + PAGE]])
        for state in states:
            plan, who = state.plan, by.get(state.id, "")
            yield read(
                state,
                store.receipt(state.id),
                by=who,
                watch=watch(plan.key.service, plan.candidate),
                automatic=who == CUSTODIAN.name,
                drill=state.id in rehearsed,
                marked=bool(marks.get(state.id, {}).get("failed")),
                fix=(plan.key, str(plan.candidate)) in fixes,
                committed=self._committed(plan.key.service, plan.candidate),
            )

    def _committed(self, service: str, release: ReleaseNumber) -> float | None:
        try:
            return self.committed(service, release)
        except CrossfadeError:
            return None

    def _rollouts(self, span: Span) -> Iterator[Rollout]:
        begins, ends = span.begins - AROUND, span.ends + AROUND
        before: int | None = self._first_after(ends)
        while page := self._parts.store.rollouts(limit=PAGE, before=before):
            for state in page:
                if begins <= state.began < ends:
                    yield state
            if page[-1].began < begins:
                return
            before = page[-1].id

    def _first_after(self, at: float) -> int:
        """A number that no rollout which began before ``at`` has or exceeds: the ledger is not read from its end for it."""
        newest = next(iter(self._parts.store.rollouts(limit=1)), None)
        if newest is None or newest.began < at:
            return newest.id + 1 if newest is not None else 1
        low, high = 1, newest.id
        while low < high:
            middle = (low + high) // 2
            found = next(iter(self._parts.store.rollouts(limit=1, before=middle + 1)), None)
            if found is not None and found.began >= at:
                high = middle
            else:
                low = middle + 1
        return low


def _is_page(record: Record) -> bool:
    return record.data.get("severity") == Severity.PAGE.value and not record.subject.startswith(REHEARSED)


def _is_over(record: Record) -> bool:
    """Whether a proof has said something: one that was interrupted has not."""
    return record.data.get("ok") is not None


def _rollouts_of(record: Record) -> Iterator[int]:
    """The rollouts that a drill has begun, as far as it has come."""
    drill: Mapping[str, Any] = record.data.get("drill") or {}
    seen = (drill.get(leg) or {} for leg in ("there", "back"))
    known = [*((record.data.get("receipt") or {}).get("rollouts") or ()), *(leg.get("rollout") for leg in seen)]
    yield from {int(one) for one in (*known, drill.get("current")) if one is not None}


def _drill(record: Record) -> Drill:
    data = record.data
    state, receipt = data.get("drill") or {}, data.get("receipt") or {}
    return Drill(
        record.id,
        record.key,
        record.subject,
        record.began,
        record.ended,
        str(data.get("outcome") or ""),
        str(state.get("failure") or state.get("notice") or ""),
        str((state.get("plan") or {}).get("fault") or ""),
        *(_number(receipt.get(name)) for name in ("detection", "decision", "switch", "recovery", "harmed")),
    )


def _watched(record: Record) -> Piece | None:
    """A watch that has done something; None of all others."""
    watch, receipt = record.data.get("watch") or {}, record.data.get("receipt") or {}
    cause, done = watch.get("cause"), watch.get("done") or ()
    if not cause or not done:
        return None
    plan = watch["plan"]
    ends = next((at for at in (watch.get("recovered"), watch.get("switched"), record.ended) if at is not None), None)
    went_back = any(one.get("rollout") is not None for one in done)
    return Piece(
        record.key,
        Source.WATCH,
        record.id,
        cause["began"],
        max(ends, cause["began"]) if ends is not None else None,
        cause["sentence"],
        watch.get("detected"),
        f"r{plan['release']['n']}",
        1.0,
        _number(receipt.get("harmed")),
        How.ROLLBACK if went_back else How.KILL,
        plan["rollout"],
    )


def _proof(record: Record) -> Proof:
    data = record.data
    release = str(data.get("release") or record.subject)
    return Proof(record.id, record.key, release, record.began, bool(data.get("ok")), _number(data.get("took")))


def _number(found: object) -> float | None:
    return float(found) if isinstance(found, int | float) and not isinstance(found, bool) else None
