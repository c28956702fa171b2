"""Telling people: nothing waits for a target, nothing is told twice, nothing that was written down is forgotten."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from crossfade.domain.alert import Severity
from crossfade.domain.errors import Forbidden, Invalid, Refused, StorageFailed
from crossfade.domain.notice import KNOWN_FOR, STORM, STORM_SPAN, TRIED_FOR, Notice, Route, State, Templates
from crossfade.domain.rollout import Phase
from crossfade.domain.trace import Span
from crossfade.fakes.records import MemoryRecords
from crossfade.notifiers.slack import Slack
from crossfade.notifiers.webhook import Webhook, secrets_of
from crossfade.ports import Parts
from crossfade.ports.notices import Answer, Courier, Dispatch, Result
from crossfade.service import Service
from crossfade.service.notices import Notices, Post
from tests.notifiers.targets import http_target, until
from tests.service.stage import ADMIN, KEY, OPERATOR, STAGING, VIEWER, Stage

SECRET = "whsec_" + "a" * 32


class Pigeon:
    """A courier that keeps what it carries. ``answers`` are the next results, then sent."""

    def __init__(self, people: bool = True) -> None:
        self._people = people
        self.got: list[Dispatch] = []
        self.answers: list[Answer] = []
        self.asked = 0
        self.held = threading.Event()
        self.held.set()

    @property
    def people(self) -> bool:
        return self._people

    def takes(self, notice: Notice) -> bool:
        return True

    def carry(self, dispatch: Dispatch) -> Answer:
        self.asked += 1
        self.held.wait(60)
        self.got.append(dispatch)
        return self.answers.pop(0) if self.answers else Answer(Result.SENT, "taken", digest="sha256:0")

    @property
    def said(self) -> list[tuple[str, str]]:
        """What it was told, by title and state."""
        return [(one.notice.title, one.notice.state.value) for one in self.got]


class Collector:
    """A tracer that keeps what it gets."""

    def __init__(self) -> None:
        self.got: list[tuple[Span, ...]] = []

    def export(self, spans: Any) -> Answer:
        self.got.append(tuple(spans))
        return Answer(Result.SENT, "taken")


ALL = (Route(("pager",)),)


@pytest.fixture
def stage() -> Iterator[Stage]:
    made = Stage()
    yield made
    made.service.notices.stop()


def begin(stage: Stage, post: Post) -> Notices:
    notices = stage.service.notices
    notices.equip(post)
    notices.start()
    return notices


def anew(stage: Stage, post: Post) -> Notices:
    """As the next server has it."""
    stage.service.notices.stop()
    stage.service = stage.another_server()
    return begin(stage, post)


def notice(stage: Stage, about: str = "drill-1", **other: Any) -> Notice:
    said: dict[str, Any] = {"about": about, "at": stage.now, "severity": Severity.TICKET, "kind": "drill", "key": KEY,
                            "title": about, "sentence": "it failed"}  # fmt: skip
    return Notice(**said | other)


def rows(notices: Notices, state: str) -> list[dict[str, Any]]:
    return [row for row in notices.list(500) if row["state"] == state]


# --- to whom, and how often


def test_a_notice_goes_to_whom_routes_name_and_it_is_known_that_it_did(stage: Stage) -> None:
    pager, chat = Pigeon(), Pigeon()
    routes = (Route(("pager",), frozenset({Severity.PAGE})), Route(("chat", "chat"), kinds=frozenset({"drill"})))
    notices = begin(stage, Post({"pager": pager, "chat": chat}, routes))
    notices.tell(notice(stage))
    until(lambda: rows(notices, "sent"))
    assert (len(pager.got), len(chat.got)) == (0, 1)
    [row] = notices.list()
    assert (row["target"], row["tries"], row["answer"], row["digest"]) == ("chat", 1, "taken", "sha256:0")
    assert (row["title"], row["state_of"], row["ended"], row["next"]) == ("drill-1", "happened", stage.now, None)
    assert row["message"] == chat.got[0].id


def test_the_same_is_told_once_within_a_day(stage: Stage) -> None:
    pager = Pigeon()
    notices = begin(stage, Post({"pager": pager}, ALL))
    for _ in range(3):
        notices.tell(notice(stage))
    notices.tell(notice(stage, "drill-2"))
    until(lambda: len(pager.got) == 2)
    assert {one.notice.about for one in pager.got} == {"drill-1", "drill-2"}
    stage.now += KNOWN_FOR
    notices.tell(notice(stage))
    until(lambda: len(pager.got) == 3)


def test_an_end_is_told_to_those_who_were_told_of_the_beginning(stage: Stage) -> None:
    pager, chat = Pigeon(), Pigeon()
    routes = (Route(("pager",), frozenset({Severity.PAGE})), Route(("chat",), frozenset({Severity.TICKET})))
    notices = begin(stage, Post({"pager": pager, "chat": chat}, routes))
    alerts = stage.service.alerts
    alerts.open(KEY, "burn:answers", Severity.PAGE, "burns")
    alerts.open(KEY, "budget:answers", Severity.INFO, "half is used")
    until(lambda: len(pager.got) == 1)
    alerts.resolve(KEY, "burn:answers", "calm")
    alerts.resolve(KEY, "budget:answers", "there is budget again")
    until(lambda: len(pager.got) == 2)
    assert pager.said == [("burn:answers", "opened"), ("burn:answers", "resolved")]
    assert chat.got == []
    assert len(notices.list()) == 2


def test_what_gets_worse_is_told_again(stage: Stage) -> None:
    pager = Pigeon()
    begin(stage, Post({"pager": pager}, ALL))
    stage.service.alerts.open(KEY, "burn:answers", Severity.TICKET, "burns slowly")
    stage.service.alerts.open(KEY, "burn:answers", Severity.TICKET, "burns a bit faster")
    stage.service.alerts.open(KEY, "burn:answers", Severity.PAGE, "burns")
    until(lambda: len(pager.got) == 2)
    assert {one.notice.severity for one in pager.got} == {Severity.TICKET, Severity.PAGE}


def test_a_page_is_repeated_to_people_until_somebody_looks_after_it(stage: Stage) -> None:
    pager, events = Pigeon(), Pigeon(people=False)
    notices = begin(stage, Post({"pager": pager, "events": events}, (Route(("pager", "events")),), repeat=3600.0))
    alert = stage.service.alerts.open(KEY, "burn:answers", Severity.PAGE, "burns")
    stage.service.alerts.open(KEY, "drill:weekly", Severity.TICKET, "failed")
    until(lambda: len(pager.got) == 2)
    stage.now += 3700
    notices.look()
    notices.look()
    stage.now += 3600
    notices.look()
    until(lambda: len(pager.got) == 4)
    stage.service.alerts.acknowledge(alert.id, OPERATOR)
    stage.now += 3600
    notices.look()
    assert pager.said[2:] == [("burn:answers", "reminder")] * 2
    until(lambda: len(events.got) == 2)
    assert {one.notice.state for one in events.got} == {State.OPENED}


def test_a_storm_is_told_in_one_message_and_programs_get_each_event(stage: Stage) -> None:
    pager, events = Pigeon(), Pigeon(people=False)
    notices = begin(stage, Post({"pager": pager, "events": events}, (Route(("pager", "events")),)))
    for number in range(STORM + 7):
        notices.tell(notice(stage, f"drill-{number}", severity=Severity.PAGE if number == STORM + 3 else Severity.INFO))
    until(lambda: len(events.got) == STORM + 7)
    until(lambda: len(pager.got) == STORM)
    assert len(rows(notices, "held")) == 7
    assert notices.waiting() == {"pager": 7, "events": 0}
    stage.now += STORM_SPAN
    until(lambda: len(pager.got) == STORM + 1)
    last = pager.got[-1].notice
    assert (last.kind, last.title, last.severity) == ("summary", "7 more notices", Severity.PAGE)
    until(lambda: len(rows(notices, "summed")) == 7)


# --- targets that are not well


def test_what_fails_is_tried_again_under_the_same_name(stage: Stage) -> None:
    pager = Pigeon()
    pager.answers = [Answer(Result.LATER, "it answered 500")] * 2
    notices = begin(stage, Post({"pager": pager}, ALL))
    notices.tell(notice(stage))
    until(lambda: len(pager.got) == 1)
    until(lambda: notices.list()[0]["tries"] == 1)
    [row] = notices.list()
    assert (row["state"], row["answer"]) == ("waiting", "it answered 500")
    assert stage.now + 1.0 <= row["next"] <= stage.now + 3.0
    stage.now += 5
    until(lambda: notices.list()[0]["tries"] == 2)
    stage.now += 10
    until(lambda: rows(notices, "sent"))
    assert len({one.id for one in pager.got}) == 1


def test_a_target_that_wants_to_be_left_alone_is(stage: Stage) -> None:
    pager = Pigeon()
    pager.answers = [Answer(Result.LATER, "it answered 429", after=300.0)]
    notices = begin(stage, Post({"pager": pager}, ALL))
    notices.tell(notice(stage))
    until(lambda: notices.list() and notices.list()[0]["tries"] == 1)
    assert notices.list()[0]["next"] == stage.now + 300.0


def test_what_nobody_takes_is_given_up_and_told_as_that(stage: Stage) -> None:
    pager = Pigeon()
    pager.answers = [Answer(Result.LATER, "connection refused")] * 9
    notices = begin(stage, Post({"pager": pager}, ALL))
    notices.tell(notice(stage))
    until(lambda: notices.list() and notices.list()[0]["tries"] == 1)
    stage.now += TRIED_FOR[Severity.TICKET] + 1
    until(lambda: rows(notices, "failed"))
    assert rows(notices, "failed")[0]["answer"] == "connection refused"


def test_a_refusal_is_tried_three_times(stage: Stage) -> None:
    pager = Pigeon()
    pager.answers = [Answer(Result.REFUSED, "it answered 404")] * 9
    notices = begin(stage, Post({"pager": pager}, ALL))
    notices.tell(notice(stage))
    for tries in (1, 2, 3):
        until(lambda tries=tries: notices.list() and notices.list()[0]["tries"] == tries)  # type: ignore[misc] # bound now
        stage.now += 60
    until(lambda: rows(notices, "failed"))
    assert len(pager.got) == 3


def test_the_most_severe_goes_first(stage: Stage) -> None:
    pager = Pigeon()
    pager.held.clear()
    notices = begin(stage, Post({"pager": pager}, ALL))
    notices.tell(notice(stage, severity=Severity.INFO))
    until(lambda: pager.asked)
    for severity in (Severity.INFO, Severity.TICKET, Severity.PAGE):
        notices.tell(notice(stage, f"drill-{severity}", severity=severity))
    until(lambda: len(notices.list()) == 4)
    pager.held.set()
    until(lambda: len(pager.got) == 4)
    assert [one.notice.severity for one in pager.got[-3:]] == [Severity.PAGE, Severity.TICKET, Severity.INFO]


def test_a_target_that_hangs_holds_up_neither_the_others_nor_a_rollback() -> None:
    stage = Stage()
    with http_target() as hanging, http_target() as good:
        hanging.hangs = True
        couriers: dict[str, Courier] = {
            "pager": Webhook(hanging.url, secrets_of(SECRET)),
            "chat": Slack(good.url, Templates()),
        }
        notices = begin(stage, Post(couriers, (Route(("pager", "chat")),)))
        stage.live()
        stage.live()
        for number in range(50):
            stage.service.alerts.open(KEY, f"burn:{number}", Severity.PAGE, "burns")
        until(lambda: hanging.got)
        before = len(stage.driver.driven)
        stage.service.rollback(KEY, None, ADMIN)
        assert len(stage.driver.driven) == before + 1
        until(lambda: len(good.got) >= STORM)
        assert len(hanging.got) == 1 and not hanging.released.is_set()
        assert notices.waiting()["pager"] == 50
        notices.stop()


def test_whoever_tells_never_waits_and_never_fails(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    pager = Pigeon()
    stuck, go = threading.Event(), threading.Event()

    def add(*_: Any, **__: Any) -> Any:
        stuck.set()
        go.wait(60)
        raise OSError("disk full")

    monkeypatch.setattr("crossfade.service.notices.MOST_UNTOLD", 50)
    monkeypatch.setattr(stage.parts.records, "add", add)
    notices = anew(stage, Post({"pager": pager}, ALL))
    for number in range(500):
        notices.tell(notice(stage, f"drill-{number}"))
    assert stuck.wait(30)
    go.set()
    monkeypatch.undo()

    def told() -> bool:
        notices.tell(notice(stage, "the last"))
        return any(row["title"] == "the last" for row in notices.list(5))

    until(told)


def test_a_ledger_that_cannot_be_written_for_a_moment_loses_nothing(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    pager, failed = Pigeon(), threading.Event()

    def add(*_: Any, **__: Any) -> Any:
        failed.set()
        raise StorageFailed("the disk is full")

    notices = begin(stage, Post({"pager": pager}, ALL))
    monkeypatch.setattr(stage.parts.records, "add", add)
    notices.tell(notice(stage))
    assert failed.wait(30)
    monkeypatch.undo()
    stage.now += 10
    until(lambda: pager.got)


def test_where_nobody_is_to_be_told_nothing_is_written_down(stage: Stage) -> None:
    begin(stage, Post())
    stage.service.alerts.open(KEY, "burn:answers", Severity.PAGE, "burns")
    assert stage.service.notices.list() == []
    with pytest.raises(Refused, match="tells nobody"):
        stage.service.notices.test("pager", ADMIN)


# --- servers that end


def test_what_was_written_down_is_sent_by_the_next_server_under_the_same_name(stage: Stage) -> None:
    pager = Pigeon()
    pager.answers = [Answer(Result.LATER, "it answered 503")]
    notices = begin(stage, Post({"pager": pager}, ALL))
    notices.tell(notice(stage))
    until(lambda: notices.list() and notices.list()[0]["tries"] == 1)
    stage.now += 100
    another = Pigeon()
    notices = anew(stage, Post({"pager": another}, ALL))
    until(lambda: rows(notices, "sent"))
    assert another.got[0].id == pager.got[0].id
    assert another.got[0].notice == pager.got[0].notice


def test_an_alert_that_a_killed_server_had_not_written_down_is_told_by_the_next(stage: Stage) -> None:
    pager = Pigeon()
    begin(stage, Post({"pager": pager}, ALL))
    first = stage.service.alerts.open(KEY, "burn:answers", Severity.PAGE, "burns")
    until(lambda: len(pager.got) == 1)
    # The notice gets lost with the server; the alerts do not.
    stage.service.alerts.told = lambda _alert, _what: None
    stage.now += 5
    stage.service.alerts.resolve(KEY, "burn:answers", "calm")
    stage.service.alerts.open(STAGING, "burn:answers", Severity.PAGE, "burns too")
    notices = anew(stage, Post({"pager": pager}, ALL))
    until(lambda: len(pager.got) == 3)
    assert [one.notice.state for one in pager.got if one.notice.about == f"alert-{first.id}"] == [
        State.OPENED, State.RESOLVED,
    ]  # fmt: skip
    assert [one.notice.key for one in pager.got if one.notice.about != f"alert-{first.id}"] == [STAGING]
    assert len(notices.list()) == 3
    anew(stage, Post({"pager": pager}, ALL)).tell(notice(stage, "drill-9"))
    until(lambda: len(pager.got) == 4)
    assert pager.got[-1].notice.about == "drill-9"


def test_the_first_server_that_tells_anybody_does_not_tell_of_the_past(stage: Stage) -> None:
    ended(stage, Phase.PROMOTED)
    pager = Pigeon()
    notices = anew(stage, Post({"pager": pager}, ALL))
    notices.tell(notice(stage))
    until(lambda: pager.got)
    assert [one.notice.kind for one in pager.got] == ["drill"]


def test_what_waits_for_a_target_that_is_gone_is_given_up(stage: Stage) -> None:
    pager = Pigeon()
    pager.answers = [Answer(Result.LATER, "x")]
    notices = begin(stage, Post({"pager": pager}, ALL))
    notices.tell(notice(stage))
    until(lambda: notices.list() and notices.list()[0]["tries"] == 1)
    notices = anew(stage, Post({"chat": Pigeon()}, ()))
    until(lambda: rows(notices, "failed"))
    assert rows(notices, "failed")[0]["answer"] == "there is no such target any more"


CHILD = """
import sys, time
from dataclasses import replace
from tests.service.stage import Stage, KEY
from tests.service.test_notices import SECRET
from crossfade.domain.alert import Severity
from crossfade.domain.notice import Route
from crossfade.notifiers.webhook import Webhook, secrets_of
from crossfade.service.notices import Post
from crossfade.service import Service
from crossfade.store.records import SqlRecords
from crossfade.store.sql import SqlStore

database, url = sys.argv[1:]
stage = Stage(SqlStore(database))
stage.parts = replace(stage.parts, records=SqlRecords(database), now=time.time)
service = stage.another_server()
service.notices.equip(Post({"pager": Webhook(url, secrets_of(SECRET))}, (Route(("pager",)),)))
service.notices.start()
service.alerts.open(KEY, "burn:answers", Severity.PAGE, "burns")
time.sleep(120)
"""


def test_a_server_that_is_killed_while_it_sends_loses_nothing(tmp_path: Path) -> None:
    from crossfade.store.records import SqlRecords
    from crossfade.store.sql import SqlStore

    database = f"sqlite:///{tmp_path / 'crossfade.db'}"
    store, records = SqlStore(database), SqlRecords(database)
    with http_target() as twin:
        twin.hangs = True
        child = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(CHILD), database, twin.url],
            cwd=Path(__file__).parents[2],
            env={**os.environ, "PYTHONPATH": "."},
        )
        try:
            until(lambda: twin.got, 60)
        finally:
            os.kill(child.pid, signal.SIGKILL)
            child.wait(30)
        twin.hangs = False
        stage = Stage(store)
        stage.parts = replace(stage.parts, records=records, now=time.time)
        stage.service = stage.another_server()
        notices = begin(stage, Post({"pager": Webhook(twin.url, secrets_of(SECRET))}, ALL))
        until(lambda: rows(notices, "sent"), 60)
        notices.stop()
        twin.released.set()
        first, second = twin.got
    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    assert first.body == second.body
    assert json.loads(second.body)["data"]["title"] == "burn:answers"
    store.dispose()
    records.dispose()


# --- rollouts, and their traces


def ended(stage: Stage, phase: Phase, reason: str = "") -> int:
    """A rollout that has ended so."""
    from crossfade.domain.rollout import Rollout

    state = stage.deploy(ADMIN)
    assert isinstance(state, Rollout)
    stage.now += 30
    if phase is Phase.PROMOTED:
        stage.finish(state)
    else:
        stage.parts.store.close(state.id, {"requests": 1200, "failed": 40, "ended": stage.now}, stage.now)
    stage.parts.store.save(replace(state, phase=phase, reason=reason, entered=stage.now), ())
    return state.id


def test_the_end_of_a_rollout_is_told_with_what_clients_saw(stage: Stage) -> None:
    pager, collector = Pigeon(), Collector()
    notices = begin(stage, Post({"pager": pager}, ALL, collector, origin="https://x.example"))
    notices_seen = len(stage.parts.store.changes(0))
    number = ended(stage, Phase.ROLLED_BACK, "errors rose")
    notices.heard(stage.parts.store.changes(notices_seen))
    until(lambda: pager.got and collector.got)
    told = pager.got[0].notice
    assert (told.kind, told.severity, told.title) == ("rollout", Severity.TICKET, "r1 (v1) was taken back")
    assert "errors rose" in told.sentence and "1200 requests meanwhile, 40 failed" in told.sentence
    assert told.url == f"https://x.example/rollouts/{number}"
    root = collector.got[0][0]
    assert told.facts["traceparent"] == f"00-{root.trace}-{root.id}-01"
    assert (root.attributes["deployment.status"], root.error) == ("failed", "errors rose")
    until(lambda: len(rows(notices, "sent")) == 2)
    assert {row["target"] for row in notices.list()} == {"pager", "traces"}
    notices.heard(stage.parts.store.changes(notices_seen))
    notices.tell(notice(stage, "the last"))
    until(lambda: pager.got[-1].notice.about == "the last")
    assert len(pager.got) == 2 and len(collector.got) == 1


def test_a_rollout_that_ended_with_the_server_is_told_by_the_next(stage: Stage) -> None:
    pager = Pigeon()
    notices = begin(stage, Post({"pager": pager}, ALL))
    notices.tell(notice(stage))
    until(lambda: pager.got)
    ended(stage, Phase.PROMOTED)
    anew(stage, Post({"pager": pager}, ALL))
    until(lambda: len(pager.got) == 2)
    assert pager.got[-1].notice.title == "r1 (v1) is live"


# --- tests of targets


def test_a_target_is_tried_once_and_it_is_said_what_came_of_it(stage: Stage) -> None:
    pager = Pigeon()
    notices = begin(stage, Post({"pager": pager}, ()))
    assert notices.test("pager", ADMIN)["state"] == "sent"
    stage.now += 1
    pager.answers = [Answer(Result.LATER, "connection refused")]
    found = notices.test("pager", ADMIN)
    assert (found["state"], found["answer"], found["kind"]) == ("failed", "connection refused", "test")
    with pytest.raises(Invalid, match="pager"):
        notices.test("nobody", ADMIN)
    for one in (OPERATOR, VIEWER):
        with pytest.raises(Forbidden):
            notices.test("pager", one)
    assert [entry["what"] for entry in stage.noted()].count("notices.test") == 2
    assert len(pager.got) == 2


def test_no_secret_is_in_what_is_kept(stage: Stage) -> None:
    with http_target() as twin:
        twin.answers, twin.says = [401] * 3, f"no: {SECRET} {twin.url}/services/T00/SECRETPATH".encode()
        notices = begin(stage, Post({"chat": Slack(f"{twin.url}/services/T00/SECRETPATH", Templates())}, ()))
        found = notices.test("chat", ADMIN)
        assert found["state"] == "failed"
    records = stage.parts.records
    assert isinstance(records, MemoryRecords)
    assert "SECRETPATH" not in json.dumps([dict(one.data) for one in records.list("notice")])
    assert isinstance(stage.parts, Parts) and isinstance(stage.service, Service)
