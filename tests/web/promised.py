"""An installation that has promised something: objectives in all states, a watch, drills, proofs, alerts and notices."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from crossfade.domain import rehearsal, watch
from crossfade.domain.access import Grant
from crossfade.domain.alert import Severity
from crossfade.domain.analysis import against_profile
from crossfade.domain.analysis.sample import History
from crossfade.domain.drill import DrillPlan, Fault, Rehearsal
from crossfade.domain.notice import Route
from crossfade.domain.release import Release
from crossfade.domain.rollout import Phase
from crossfade.domain.slo import EDGE, PROBE, Counted, Kind, Objective, Series, SloPolicy
from crossfade.domain.values import DAY, Digest, EnvKey, ReleaseNumber
from crossfade.fakes.signals import FakeSignals
from crossfade.ports import Parts
from crossfade.ports.notices import Answer, Dispatch, Result
from crossfade.service.drill_drive import Drive
from crossfade.service.notices import Post
from crossfade.service.watch_sight import Sight
from crossfade.service.watches import _Drive as _Watch
from crossfade.store.history import FolderHistories
from tests.service.stage import ADMIN, Stage

KEY, STAGING = EnvKey("bookshop", "production"), EnvKey("bookshop", "staging")
PASSWORD: Final = "a password of some length"
HOSTILE: Final = "<img src=x onerror=alert(1)> \u202egnp.exe"
PEOPLE: Final = {"vera": "viewer", "olga": "operator", "ada": "admin", "stranger": "viewer@other/staging"}
OBJECTIVES: Final = (
    Objective("answers", 0.999),
    Objective("fast", 0.99, Kind.LATENCY, threshold=0.3),
    Objective("paid", 0.995, signal="api"),
    Objective("new", 0.99, window=7 * DAY),
)
DRILLS: Final = (
    DrillPlan("weekly", "0 4 * * 2", "Europe/Berlin"),
    DrillPlan("game-day", fault=Fault.KILL_REPLICA),
)
POLICY: Final = SloPolicy(OBJECTIVES)
RPS: Final = 20.0
AHEAD: Final = 100.0
"""Seconds that its clock is turned by; browsers go by their own."""


class Desk:
    """A courier that says what a test wants."""

    people = True

    def __init__(self, result: Result = Result.SENT, sentence: str = "answered 200") -> None:
        self.result, self.sentence = result, sentence

    def takes(self, notice: object) -> bool:
        return True

    def carry(self, dispatch: Dispatch) -> Answer:
        return Answer(self.result, self.sentence)


class Promised(Stage):
    """Four releases have been live in production, and one in staging. The clock is the test's; it begins now."""

    def __init__(self) -> None:
        super().__init__()
        self.now = time.time() - AHEAD
        self.folder = tempfile.TemporaryDirectory(prefix="cf-")
        self.parts = replace(self.parts, histories=FolderHistories(Path(self.folder.name)))
        self.service = self.another_server()
        for _ in range(4):
            self.promoted(KEY, slo=POLICY, drills=DRILLS)
        self.promoted(STAGING, slo=replace(POLICY, objectives=OBJECTIVES[:1]))

    def peopled(self) -> None:
        """With accounts, for those who log in by a password."""
        for name, grant in PEOPLE.items():
            self.service.accounts.add(name, [Grant.parse(grant)], PASSWORD, ADMIN)

    def promoted(self, key: EnvKey = KEY, **settings: Any) -> Release:
        """A release that a rollout has promoted, as the engine leaves it."""
        release = self.live(key, **settings)
        state = self.parts.store.rollouts(key, limit=1)[0]
        self.parts.store.save(replace(state, phase=Phase.PROMOTED, entered=self.now), ())
        return release

    def served(self, key: EnvKey = KEY) -> None:
        """30 days of traffic, with a gap: `fast` is kept, `answers` burns just now, `paid` has used its budget up."""
        now = self.now
        long_ago = now - 30 * DAY
        bad = {"answers": 0.0002, "fast": 0.0007, "paid": 0.02, EDGE: 0.0002, PROBE: 0.0001}
        for name, share in bad.items():
            series = Series(key, name)
            for n in range(28):
                if n != 13:  # nobody counted for a day
                    self._add(series, long_ago + n * DAY, DAY, share * (0.5 + n % 4 / 3))
            self._add(series, long_ago + 28 * DAY, 2 * DAY - 7200.0, share)
            for n in range(10):
                burns = name == "answers" and n >= 4
                self._add(series, now - 7200.0 + n * 600.0, 600.0, 0.05 if burns else share)
            for n in range(120):
                burns = name == "answers" and n >= 20
                self._add(series, now - 1200.0 + n * 10.0, 10.0, 0.05 if burns else share)

    def _add(self, series: Series, begins: float, seconds: float, share: float) -> None:
        total = RPS * seconds
        self.parts.histories.add(series, begins, begins + seconds, Counted(total, total * share, seconds))

    def alerted(self) -> None:
        """Two alerts that are open, one of them acknowledged and one hostile, and one that is over."""
        alerts = self.service.alerts
        proposal = {
            "sentence": "go back to r3: it is warm, and served well",
            "command": f"crossfade rollback {KEY} --to r3",
        }
        sentence = "answers: 5 % of the requests of the last 5 min failed: the budget burns 50 times as fast as it may"
        alerts.open(KEY, "burn:answers", Severity.PAGE, sentence, {"objective": "answers", "proposal": proposal})
        late = alerts.open(KEY, "drill-overdue:weekly", Severity.TICKET, f"drill weekly has not run {HOSTILE}")
        alerts.acknowledge(late.id, ADMIN)
        alerts.open(STAGING, "prober", Severity.PAGE, "the edge does not answer")
        self.now += 95.0
        alerts.resolve(STAGING, "prober", "it is answered again as it should be")

    def drilled(self, outcome: str = "passed", **settings: Any) -> int:
        """A drill that has ended so, with its receipt; its number."""
        drill = self.service.drills.begin(KEY, ADMIN, **settings)
        record = self.parts.records.get(drill["id"])
        data = dict(record.data)
        begun = data["journal"][0]["at"]
        ways = ("going-back", "holding", "going-forth", "checking", "ending")
        lines = [{"at": begun + n, "text": phase, "phase": phase} for n, phase in enumerate(ways, 1)]
        reason = "r3 became unhealthy: it is there: 503" if outcome == "failed" else ""
        if reason:
            lines[2]["text"] = f"going-forth: {reason}"
        data["drill"] = {
            **data["drill"],
            "phase": outcome,
            "failure": reason,
            "aborted": "ada" * (outcome == "aborted"),
        }
        data["outcome"] = outcome
        data["journal"] = [*data["journal"], *lines, {"at": begun + 6, "text": outcome, "phase": outcome}]
        data["receipt"] = _receipt(drill, begun)
        self.parts.records.save(drill["id"], data, begun + 41.2, ended=True)
        self.service.drills._drives.pop(drill["id"], None)
        return int(drill["id"])

    def watched(self) -> int:
        """The watch of the newest release; its number."""
        signals = self.parts.signals
        assert isinstance(signals, FakeSignals)
        self.service.watches.look()
        return int(self.service.watches.list(KEY, 1)[0]["id"])

    def told(self) -> None:
        """Two targets: one hears everything, one is out of reach."""
        post = Post(
            {"desk": Desk(), "pager": Desk(Result.LATER, "connection refused")},
            (Route(("desk", "pager")),),
            origin="http://crossfade.test",
        )
        self.service.notices.equip(post)
        self.service.notices.start()


def kept_drill(parts: Parts, key: EnvKey, text: str) -> int:
    """The record of a drill under way in which somebody's text stands wherever it can; its number."""
    plan = Rehearsal(key, text, ReleaseNumber(2), ReleaseNumber(1))
    state = replace(rehearsal.begin(0, plan, text, 1.0)[0], waiting=text, notice=text, failure=text)
    journal = [{"at": 1.0, "text": text, "phase": "starting"}]
    return parts.records.add("drill", key, text, Drive(state, journal=journal).to_data(), 1.0).id


def kept_watch(parts: Parts, key: EnvKey, text: str) -> int:
    """The same of a watch."""
    digest = Digest("sha256:" + "0" * 64)
    plan = watch.Plan(key, 1, ReleaseNumber(2), digest, ReleaseNumber(1), 1.0, 2.0)
    cause = watch.Cause(watch.Means.BURN, text, text, 1.0)
    state = replace(watch.begin(0, plan), cause=cause, waiting=text, refused=text, reason=text)
    profile = against_profile.profile_of(History())
    sight = Sight(profile, History(), 1.0, evidence=against_profile.begin(profile), verdict=text)
    drive = _Watch(state, sight, SloPolicy(), journal=[{"at": 1.0, "text": text, "phase": "watching"}])
    return parts.records.add("watch", key, "1", drive.to_data(), 1.0).id


def _receipt(drill: Mapping[str, Any], began: float) -> dict[str, Any]:
    span = {"seconds": 12.4, "requests": 248, "failed": 0, "p50_ms": 4.2, "p99_ms": 18.9}
    parts: Sequence[str] = ("back", "hold", "forth", "after")
    return {
        "drill": drill["id"],
        "detection": 1.4 if drill["fault"] else None,
        "decision": 0.2 if drill["fault"] else None,
        "switch": 2.31,
        "recovery": 3.91 if drill["fault"] else 2.31,
        "forth": 1.87,
        "whole": 4.2 if drill["fault"] else None,
        "requests": 992,
        "harmed": 2 if drill["fault"] else 0,
        "lost": 0,
        "traffic": {name: {**span, "failed": 2 if name == "back" and drill["fault"] else 0} for name in parts},
        "counts_lost": False,
        "began": began,
    }
