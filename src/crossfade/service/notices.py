"""Telling people: what happens is routed, written down, and handed to a thread for each target.

Nobody who tells waits: not for the ledger, not for a target. What is written down is sent at least once, also by
the next server; what a killed server had not written down yet is looked for when the next one starts.
"""

from __future__ import annotations

import builtins
import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from crossfade.domain import notice as rules
from crossfade.domain import occasions, trace
from crossfade.domain.access import Actor, Role
from crossfade.domain.alert import Alert, Severity
from crossfade.domain.errors import Busy, CrossfadeError, Invalid, NotFound, Refused
from crossfade.domain.notice import Notice, Route, State
from crossfade.domain.values import EnvKey
from crossfade.ports import Change, Parts, Record
from crossfade.ports.notices import Answer, Courier, Dispatch, Result, Tracer
from crossfade.ports.pipeline import Runs
from crossfade.service.alerts import Alerts
from crossfade.service.audit import Audit
from crossfade.service.outbox import KIND, Outbox, dispatch_id, kept

MOST_UNTOLD: Final = 2_000
"""Things that may wait to be written down."""
LOOK_EVERY: Final = 5.0
"""Seconds between two looks for reminders and summaries that are due."""
MOST_TRIES: Final = 60
"""How often it is tried to write something down, every `LOOK_EVERY` seconds."""
MOST_OPEN: Final = 10_000
LOOKED_BACK: Final = 200
"""Rollouts that are looked through at the start."""
KEPT_FOR: Final = 90 * 86_400.0
KEPT: Final = 1_000
TRACES: Final = "traces"
"""The target that rollouts and runs go to as traces; no other may be called so."""
ENDS_WITHIN: Final = 1.0
"""Seconds that the end of a server waits for what is being sent."""
FIRST_TRY: Final = 35.0
"""Seconds that a test waits for its one try."""

log = logging.getLogger("crossfade.notices")


@dataclass(frozen=True, slots=True)
class Post:
    """Who can be told, and who is told what. ``origin`` is where browsers reach the dashboard.

    ``repeat``: seconds after which an open page that nobody has acknowledged is told again; 0: never.
    """

    couriers: Mapping[str, Courier] = field(default_factory=dict)
    routes: tuple[Route, ...] = ()
    tracer: Tracer | None = None
    repeat: float = 4 * 3600.0
    origin: str = ""


class Notices:
    """Use cases. ``runs``: the ledger of runs, in an installation with pipelines. `tell` is for everybody."""

    def __init__(self, parts: Parts, alerts: Alerts, audit: Audit) -> None:
        self._parts, self._alerts, self._audit = parts, alerts, audit
        self._post = Post()
        self.runs: Runs | None = None
        self.views: Mapping[str, Callable[[int], Mapping[str, Any]]] = {}
        """How the use cases of ``drill`` and ``watch`` show one of theirs."""
        self._inbox: queue.Queue[Callable[[], None] | None] = queue.Queue(MOST_UNTOLD)
        self._outboxes: dict[str, Outbox] = {}
        self._held: dict[str, list[Record]] = {}
        self._told: dict[str, deque[float]] = {}
        self._thread: threading.Thread | None = None
        self._full = False
        self._later: builtins.list[tuple[Callable[[], None], int]] = []
        alerts.told = self._alerted

    # --- life

    def equip(self, post: Post) -> None:
        """Say who can be told. Before `start`."""
        self._post = post
        carries: dict[str, Callable[[Dispatch], Answer]] = {name: one.carry for name, one in post.couriers.items()}
        if post.tracer is not None:
            carries[TRACES] = self._trace
        self._outboxes = {name: Outbox(name, self._parts, carry) for name, carry in carries.items()}

    def start(self) -> None:
        """Send what waits since the last server, and tell from now on."""
        if not self._outboxes:
            return
        self._thread = threading.Thread(target=self._run, name="notices", daemon=True)
        self._thread.start()
        for outbox in self._outboxes.values():
            outbox.start()

    def stop(self) -> None:
        """Tell no more. What waits is known."""
        if self._thread is None:
            return
        try:
            self._inbox.put_nowait(None)
        except queue.Full:
            log.warning("the server ends with much that is not told; the next one looks for it")
        self._thread.join(timeout=3)
        for outbox in self._outboxes.values():
            outbox.stop()
        until = time.monotonic() + ENDS_WITHIN
        for outbox in self._outboxes.values():
            outbox.join(max(0.0, until - time.monotonic()))

    # --- to tell

    def tell(self, notice: Notice) -> None:
        """Tell everybody whom the routes name. Never waits, never raises."""
        self._put(lambda: self._route(notice))

    def heard(self, changes: Sequence[Change]) -> None:
        """Something has happened: of what has ended people are told. Never waits, never raises."""
        for change in changes:
            if change.kind == "rollout" and change.rollout is not None and change.data.get("ended"):
                self._put(partial(self._rollout_ended, change.rollout))
            elif change.kind in self.views and change.data.get("ended"):
                self._put(partial(self._record_ended, change.kind, int(change.data["id"])))
            elif change.kind == "run" and change.data.get("ended"):
                self._put(partial(self._run_ended, change.data["run"]))

    def _alerted(self, alert: Alert, what: str) -> None:
        self.tell(occasions.of_alert(alert, what, self._post.origin))

    def _put(self, work: Callable[[], None]) -> None:
        if not self._outboxes:
            return
        try:
            self._inbox.put_nowait(work)
            self._full = False
        except queue.Full:
            if not self._full:
                log.error("too much is waiting to be told: what comes now is left out")
            self._full = True

    # --- to see, and to try

    def targets(self) -> list[str]:
        """Whom the server can tell."""
        return list(self._outboxes)

    def waiting(self) -> dict[str, int]:
        """How many notices wait for each target."""
        return {name: len(outbox) + len(self._held.get(name, ())) for name, outbox in self._outboxes.items()}

    def list(
        self,
        limit: int = 50,
        before: int | None = None,
        key: EnvKey | None = None,
        target: str | None = None,
    ) -> list[dict[str, Any]]:
        """What was sent to whom, or waits, newest first."""
        found: list[dict[str, Any]] = []
        while len(found) < limit:
            page = self._parts.records.list(KIND, key, limit=max(limit, 50), before=before)
            found += [self.view(one) for one in page if target in (None, one.data["target"])]
            if len(page) < max(limit, 50):
                break
            before = page[-1].id
        return found[:limit]

    def view(self, record: Record) -> dict[str, Any]:
        """One as data."""
        data = record.data
        said = {name: value for name, value in data["notice"].items() if name not in ("facts", "state")}
        return {
            "id": record.id,
            "message": dispatch_id(self._parts, record.id),
            "target": data["target"],
            "state": data["state"],
            "tries": data["tries"],
            "answer": data["answer"],
            "digest": data["digest"],
            "next": data["next"],
            "began": record.began,
            "ended": record.ended,
            "state_of": data["notice"]["state"],
            **said,
        }

    def test(self, target: str, by: Actor) -> dict[str, Any]:
        """Send a notice to one target, whatever the routes say, and wait for what comes of it.

        Raises Forbidden, Invalid for a target that there is not, Refused where nobody is to be told.
        """
        by.require(Role.ADMIN, None)
        if not self._outboxes:
            hint = "Write notify: into server.yaml, and start the server anew."
            raise Refused("This server tells nobody of anything.", hint=hint)
        if target not in self._post.couriers:
            raise Invalid("target", target, f"one of {', '.join(self._post.couriers) or 'none'}")
        now = self._parts.now()
        sentence = f"{by.name} tries whether {target} can be told. Nothing is wrong."
        place = next(iter(sorted(self._parts.store.keys())), EnvKey("crossfade", "test"))
        about = f"test-{now:.3f}"
        made = Notice(about, now, Severity.INFO, "test", place, "a test", sentence, url=self._post.origin)
        record = self._parts.records.add(KIND, place, rules.mark(target, made), kept(target, made, "waiting", now), now)
        self._audit.note(by, "notices.test", "", {}, {"target": target, "notice": record.id})
        self._outboxes[target].add(record)
        self._outboxes[target].tried(record.id, FIRST_TRY)
        return self.view(self._parts.records.get(record.id))

    # --- the thread

    def _run(self) -> None:
        for first in (self._take_up, self._look_back):
            self._safely(first)
        looked = self._parts.now()
        while True:
            try:
                work = self._inbox.get(timeout=1.0)
            except queue.Empty:
                pass
            else:
                if work is None:
                    return
                if self._later:
                    self._later.append((work, 0))  # what is told keeps its order
                else:
                    self._safely(work)
            now = self._parts.now()
            if not 0 <= now - looked < LOOK_EVERY:
                looked = now
                self._safely(self.look)
                later, self._later = self._later, []
                for work, tries in later:
                    if self._later:
                        self._later.append((work, tries))
                    else:
                        self._safely(work, tries)

    def _safely(self, work: Callable[[], None], tries: int = 0) -> None:
        """Do it; what the ledger does not take is tried again."""
        try:
            work()
        except CrossfadeError as error:
            again = tries + 1 < MOST_TRIES and len(self._later) < MOST_UNTOLD
            log.warning("a notice cannot be written down%s: %s", "" if again else " and is lost", error)
            if again:
                self._later.append((work, tries + 1))
        except Exception:
            log.exception("a notice is lost")

    def _take_up(self) -> None:
        """What an earlier server had written down and not sent."""
        now = self._parts.now()
        self._parts.records.prune(KIND, now - KEPT_FOR, KEPT)
        for record in reversed(self._parts.records.list(KIND, open_only=True, limit=MOST_OPEN)):
            outbox = self._outboxes.get(record.data["target"])
            if outbox is None:
                data = {**record.data, "state": "failed", "answer": "there is no such target any more", "next": None}
                self._parts.records.save(record.id, data, now, ended=True)
            elif record.data["state"] == "held":
                self._held.setdefault(record.data["target"], []).append(record)
            else:
                outbox.add(record)

    def _look_back(self) -> None:
        """What an earlier server had not even written down. What was told already is known, and not told again."""
        for alert in self._alerts.list(open_only=True, limit=MOST_OPEN):
            self._alert_again(alert, "opened")
        newest = next(iter(self._parts.records.list(KIND, limit=1)), None)
        if newest is None:
            return  # it is the first server that tells anybody: the past is no news
        since = max(newest.began, self._parts.now() - rules.KNOWN_FOR) - 60.0
        for record in self._parts.records.list("alert", since=since, limit=MOST_OPEN):
            if record.ended is not None:
                self._alert_again(self._alerts.get(record.id), "resolved")
        for kind in self.views:
            for record in self._parts.records.list(kind, since=since, limit=LOOKED_BACK):
                if record.ended is not None:
                    self._record_ended(kind, record.id)
        for state in reversed(self._parts.store.rollouts(limit=LOOKED_BACK)):
            if state.phase.ended and state.entered >= since:
                self._rollout_ended(state.id)
        if self.runs is not None:
            for run in reversed(self.runs.runs(limit=LOOKED_BACK)):
                if run.status.ended and (run.finished or 0.0) >= since:
                    self._run_ended(run.id)

    def _alert_again(self, alert: Alert, what: str) -> None:
        self._route(occasions.of_alert(alert, what, self._post.origin))

    def look(self) -> None:
        """Remind of pages that nobody looks after, and sum up what was too much."""
        now, post = self._parts.now(), self._post
        if post.repeat > 0:
            for alert in self._alerts.list(open_only=True, limit=MOST_OPEN):
                nth = rules.reminder(alert.began, post.repeat, now)
                if nth and alert.severity is Severity.PAGE and not alert.acknowledged:
                    self._route(occasions.of_reminder(alert, nth, now, post.origin))
        for target, records in list(self._held.items()):
            if now - records[0].began >= rules.STORM_SPAN:
                self._sum_up(target, records, now)
                del self._held[target]

    def _sum_up(self, target: str, records: Sequence[Record], now: float) -> None:
        notices = [Notice.from_data(record.data["notice"]) for record in records]
        made = rules.summary(notices, records[0].id, now)
        self._write(target, made, now, "waiting")
        for record in records:
            data = {**record.data, "state": "summed", "answer": f"told by {made.about}", "next": None}
            self._parts.records.save(record.id, data, now, ended=True, told=False)

    # --- one notice

    def _route(self, notice: Notice) -> None:
        for target in self._recipients(notice):
            self._write(target, notice, self._parts.now())

    def _recipients(self, notice: Notice) -> tuple[str, ...]:
        if notice.state is State.RESOLVED:
            found = [name for name in self._post.couriers if self._knows(name, notice)]
        else:
            found = [name for name in rules.recipients(self._post.routes, notice) if name in self._post.couriers]
        couriers = self._post.couriers
        reminder = notice.state is State.REMINDER
        wanted = [n for n in found if couriers[n].takes(notice) and (couriers[n].people or not reminder)]
        traced = self._post.tracer is not None and notice.kind in ("rollout", "run")
        return (*wanted, TRACES) if traced else tuple(wanted)

    def _knows(self, target: str, notice: Notice) -> bool:
        """Whether a target was told that the thing began, or is going to be."""
        records = self._parts.records
        opened = (records.list(KIND, notice.key, subject=one, limit=1) for one in rules.openings(target, notice))
        return any(found and found[0].data["state"] != "failed" for found in opened)

    def _write(self, target: str, notice: Notice, now: float, state: str = "") -> None:
        """Write a notice to a target down, once, and hand it over."""
        records, subject = self._parts.records, rules.mark(target, notice)
        known = next(iter(records.list(KIND, notice.key, subject=subject, limit=1)), None)
        if known is not None and now - known.began < rules.KNOWN_FOR:
            return
        times = self._told.setdefault(target, deque(maxlen=rules.STORM))
        people = target in self._post.couriers and self._post.couriers[target].people
        state = state or ("held" if people and (self._held.get(target) or rules.stormy(times, now)) else "waiting")
        try:
            record = records.add(KIND, notice.key, subject, kept(target, notice, state, now), now)
        except Busy:
            return  # it is on its way
        if state == "held":
            self._held.setdefault(target, []).append(record)
        else:
            times.append(now)
            self._outboxes[target].add(record)

    # --- what has ended

    def _rollout_ended(self, id: int) -> None:
        store = self._parts.store
        state = store.rollout(id)
        if not state.phase.ended:
            return
        receipt = store.receipt(id) or {}
        ended = receipt.get("ended") or state.entered
        release = store.release(state.plan.key.service, state.plan.candidate)
        parent = trace.traceparent(self._parts.key, f"rollout-{id}")
        self._route(occasions.of_rollout(state, receipt, release, ended, self._post.origin, parent))

    def _record_ended(self, kind: str, id: int) -> None:
        view = self.views[kind](id)
        if view["ended"]:
            said = (occasions.of_drill if kind == "drill" else occasions.of_watch)(view, self._post.origin)
            if said is not None:
                self._route(said)

    def _run_ended(self, id: int) -> None:
        if self.runs is None:
            return
        run = self.runs.run(id)
        if run.status.ended:
            parent = trace.traceparent(self._parts.key, f"run-{id}")
            self._route(occasions.of_run(run, self._parts.now(), self._post.origin, parent))

    def _trace(self, dispatch: Dispatch) -> Answer:
        """Make the spans of what has ended, and export them."""
        notice, store, seed = dispatch.notice, self._parts.store, self._parts.key
        assert self._post.tracer is not None
        try:
            if notice.kind == "run" and self.runs is not None:
                spans = trace.of_run(seed, self.runs.run(notice.facts["run"]), notice.at, notice.url)
            else:
                state = store.rollout(notice.facts["rollout"])
                release = store.release(state.plan.key.service, state.plan.candidate)
                run = self.runs.run_of(state.plan.key.service, release.number) if self.runs is not None else None
                spans = trace.of_rollout(seed, state, store.journal(state.id), notice.at, release, notice.url, run)
        except NotFound as error:
            return Answer(Result.REFUSED, str(error))
        return self._post.tracer.export(spans)
