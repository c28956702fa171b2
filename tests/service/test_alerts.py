"""An alert is opened once for one cause."""

from __future__ import annotations

import pytest

from crossfade.domain.alert import Alert, Severity
from crossfade.domain.errors import Forbidden, NotFound
from tests.service.stage import ADMIN, KEY, OPERATOR, STAGING, VIEWER, Stage

BURN = "burn:answers"


@pytest.fixture
def stage() -> Stage:
    return Stage()


@pytest.fixture
def told(stage: Stage) -> list[tuple[Alert, str]]:
    heard: list[tuple[Alert, str]] = []
    stage.service.alerts.told = lambda alert, what: heard.append((alert, what))
    return heard


def test_an_alert_is_open_once_for_one_cause(stage: Stage, told: list[tuple[Alert, str]]) -> None:
    alerts = stage.service.alerts
    first = alerts.open(KEY, BURN, Severity.TICKET, "burns 4 times too fast", {"burn": 4.0})
    stage.now += 5
    again = alerts.open(KEY, BURN, Severity.TICKET, "burns 5 times too fast", {"burn": 5.0})
    assert (again.id, again.began, again.sentence) == (first.id, first.began, "burns 5 times too fast")
    assert alerts.open(STAGING, BURN, Severity.TICKET, "elsewhere").id != first.id
    assert [what for _, what in told] == ["opened", "opened"]
    assert [one.sentence for one in alerts.list(KEY, open_only=True)] == ["burns 5 times too fast"]


def test_figures_that_change_all_the_time_are_written_now_and_then(stage: Stage) -> None:
    alerts = stage.service.alerts
    alerts.open(KEY, BURN, Severity.TICKET, "burns 4.0 times")
    written = len(stage.parts.store.changes(0))
    for n in range(20):
        stage.now += 1
        alerts.open(KEY, BURN, Severity.TICKET, f"burns 4.{n} times")
    assert 2 <= len(stage.parts.store.changes(0)) - written <= 5
    assert alerts.open(KEY, BURN, Severity.PAGE, "burns 15 times").severity is Severity.PAGE


def test_what_is_over_can_begin_anew(stage: Stage, told: list[tuple[Alert, str]]) -> None:
    alerts = stage.service.alerts
    assert alerts.resolve(KEY, BURN, "nothing was wrong") is None
    first = alerts.open(KEY, BURN, Severity.PAGE, "burns")
    stage.now += 60
    over = alerts.resolve(KEY, BURN, "it burns no more")
    assert over is not None
    assert (over.ended, over.resolution) == (stage.now, "it burns no more")
    assert alerts.open(KEY, BURN, Severity.PAGE, "burns again").id != first.id
    assert [what for _, what in told] == ["opened", "resolved", "opened"]


def test_whoever_has_seen_it_is_asked_again_when_it_gets_worse(stage: Stage, told: list[tuple[Alert, str]]) -> None:
    alerts = stage.service.alerts
    opened = alerts.open(KEY, BURN, Severity.TICKET, "burns")
    assert alerts.acknowledge(opened.id, OPERATOR).acknowledged == OPERATOR.name
    assert alerts.open(KEY, BURN, Severity.TICKET, "burns on").acknowledged == OPERATOR.name
    worse = alerts.open(KEY, BURN, Severity.PAGE, "burns fast")
    assert (worse.acknowledged, worse.severity) == ("", Severity.PAGE)
    assert alerts.open(KEY, BURN, Severity.TICKET, "burns slower").severity is Severity.TICKET
    assert [what for _, what in told] == ["opened", "opened"]
    assert [one["what"] for one in stage.noted()[-1:]] == ["alert.acknowledge"]


def test_only_who_may_work_there_acknowledges(stage: Stage) -> None:
    opened = stage.service.alerts.open(KEY, BURN, Severity.PAGE, "burns")
    with pytest.raises(Forbidden):
        stage.service.alerts.acknowledge(opened.id, VIEWER)
    with pytest.raises(NotFound, match="#99"):
        stage.service.alerts.acknowledge(99, ADMIN)
    drill = stage.parts.records.add("drill", KEY, "weekly", {}, stage.now)
    with pytest.raises(NotFound, match="no alert"):
        stage.service.alerts.get(drill.id)


def test_one_who_cannot_be_told_keeps_no_alert_from_being_known(stage: Stage) -> None:
    def broken(_alert: Alert, _what: str) -> None:
        raise RuntimeError

    stage.service.alerts.told = broken
    stage.service.alerts.open(KEY, BURN, Severity.PAGE, "burns")
    assert len(stage.service.alerts.list(KEY)) == 1
