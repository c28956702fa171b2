"""Laws of notices: who gets them, how often they are tried, and in which words."""

from __future__ import annotations

import json
from itertools import pairwise
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossfade.domain import occasions
from crossfade.domain.alert import Alert, Severity
from crossfade.domain.errors import Invalid
from crossfade.domain.notice import (
    KINDS,
    LARGEST_FACTS,
    LONGEST_PAUSE,
    LONGEST_SENTENCE,
    MOST_REFUSALS,
    NAMES,
    STORM,
    STORM_SPAN,
    TRIED_FOR,
    Notice,
    Route,
    State,
    Template,
    Templates,
    again,
    line,
    mark,
    openings,
    recipients,
    reminder,
    stormy,
    summary,
)
from crossfade.domain.values import EnvKey

KEY = EnvKey("bookshop", "production")
TARGETS = ("pager", "chat", "mail")

notices = st.builds(
    Notice,
    about=st.text(min_size=1, max_size=20),
    at=st.floats(0, 4e9),
    severity=st.sampled_from(Severity),
    kind=st.sampled_from(KINDS),
    key=st.builds(EnvKey, st.sampled_from(("bookshop", "shop")), st.sampled_from(("staging", "production"))),
    title=st.text(max_size=300),
    sentence=st.text(max_size=1500),
    state=st.sampled_from(State),
    url=st.just("https://x.example/"),
    facts=st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=20), max_size=4),
    nth=st.integers(0, 9),
)
routes = st.builds(
    Route,
    to=st.lists(st.sampled_from(TARGETS), min_size=1, max_size=3).map(tuple),
    severities=st.frozensets(st.sampled_from(Severity)),
    kinds=st.frozensets(st.sampled_from(KINDS), max_size=3),
    places=st.lists(st.sampled_from(("*/*", "bookshop/*", "*/staging", "shop/production", "s*p/*")), max_size=2).map(
        tuple
    ),
)


def made(**other: Any) -> Notice:
    said: dict[str, Any] = {"about": "alert-1", "at": 5.0, "severity": Severity.PAGE, "kind": "alert", "key": KEY,
                            "title": "t", "sentence": "s"}  # fmt: skip
    return Notice(**said | other)


# --- to whom


@given(st.lists(routes, max_size=6), notices)
def test_a_target_gets_a_notice_once_whatever_the_order_of_routes(all_: list[Route], notice: Notice) -> None:
    found = recipients(all_, notice)
    assert len(found) == len(set(found))
    assert set(found) == set(recipients(all_[::-1], notice))
    assert set(found) == {name for route in all_ if route.takes(notice) for name in route.to}


@given(routes, notices)
def test_a_route_that_says_more_takes_no_more(route: Route, notice: Notice) -> None:
    assert Route(route.to).takes(notice)
    if route.takes(notice):
        assert Route(route.to, route.severities).takes(notice)
        assert Route(route.to, kinds=route.kinds).takes(notice)


@pytest.mark.parametrize(
    ("place", "takes"),
    [("bookshop/production", True), ("bookshop/*", True), ("*/production", True), ("*shop/prod*", True), ("*", True),
     ("bookshop/staging", False), ("book/*", False), ("shop/production", False), ("bookshop.production", False)],
)  # fmt: skip
def test_a_star_stands_for_any_letters_and_nothing_else_does(place: str, takes: bool) -> None:
    assert Route(("chat",), places=(place,)).takes(made()) is takes


# --- what is known


@given(notices)
def test_a_notice_is_read_as_it_was_written_and_written_within_bounds(notice: Notice) -> None:
    data = json.loads(json.dumps(notice.to_data()))
    assert Notice.from_data(data).to_data() == data
    assert len(data["sentence"]) <= LONGEST_SENTENCE and data["sentence"].isprintable()


def test_facts_that_are_too_many_are_left_out() -> None:
    assert "left_out" in made(facts={"x": "y" * LARGEST_FACTS}).to_data()["facts"]


@given(notices)
def test_an_opening_is_known_by_whoever_is_told_of_its_end(notice: Notice) -> None:
    for severity in Severity:
        opened = Notice(notice.about, 1.0, severity, notice.kind, notice.key, "", "", State.OPENED)
        assert mark("chat", opened) in openings("chat", notice)
        assert mark("mail", opened) not in openings("chat", notice)


def test_what_differs_in_state_severity_or_number_is_another_notice() -> None:
    all_ = [made(state=state, severity=severity, nth=nth)
            for state in State for severity in Severity for nth in ((1, 2) if state is State.REMINDER else (0,))]  # fmt: skip
    assert len({mark("chat", one) for one in all_}) == len(all_)
    assert mark("chat", made(sentence="other words", at=9.0)) == mark("chat", made())


# --- when


@given(st.sampled_from(Severity), st.booleans(), st.integers(0, 2**32))
def test_tries_come_ever_later_and_come_to_an_end(severity: Severity, refused: bool, seed: int) -> None:
    chance = Random(seed)
    began, now, times = 1000.0, 1000.0, [1000.0]
    for tries in range(1, 500):
        due = again(severity, tries, refused, began, now, chance.random())
        if due is None:
            break
        assert now < due <= began + TRIED_FOR[severity]
        assert due - now <= LONGEST_PAUSE * 1.5
        now = due
        times.append(now)
    else:
        pytest.fail("it is tried for ever")
    if refused:
        assert len(times) == MOST_REFUSALS
    else:
        assert times[-1] >= began + TRIED_FOR[severity] - LONGEST_PAUSE * 1.5


def test_pauses_double() -> None:
    pauses = [again(Severity.PAGE, n, False, 0.0, 0.0, 0.5) for n in range(1, 12)]
    assert pauses[:4] == [2.0, 4.0, 8.0, 16.0]
    assert pauses[-1] == LONGEST_PAUSE


@given(st.floats(0, 1e9), st.floats(60, 1e6), st.lists(st.floats(0, 1e7), max_size=20))
def test_reminders_are_counted_by_the_clock_and_never_fewer_later(
    began: float, repeat: float, after: list[float]
) -> None:
    counts = [reminder(began, repeat, began + seconds) for seconds in sorted(after)]
    assert counts == sorted(counts)
    assert reminder(began, repeat, began - 5) == 0
    assert reminder(began, 0.0, began + 1e6) == 0


@given(st.lists(st.floats(0, 100), max_size=60))
def test_nobody_gets_more_in_a_minute_than_a_storm_has(gaps: list[float]) -> None:
    now = 0.0
    told: list[float] = []
    for gap in gaps:
        now += gap / 10
        if not stormy(told, now):
            told.append(now)
    for first, last in zip(told, told[STORM:], strict=False):
        assert last - first >= STORM_SPAN - 1e-9


@given(st.lists(notices, min_size=1, max_size=30))
def test_a_summary_is_as_severe_as_the_worst_and_counts_all(all_: list[Notice]) -> None:
    said = summary(all_, 7, 9.0)
    assert said.severity == min((one.severity for one in all_), key=tuple(Severity).index)
    assert f"{len(all_)} more notices" in said.title
    assert summary(all_, 7, 11.0).about == said.about


# --- in which words


@given(notices)
def test_what_a_notice_says_is_put_in_as_it_is(notice: Notice) -> None:
    filled = Template.parse("{title}|{{{severity}}}|{mark}").fill(notice)
    assert filled.startswith(line(notice.title, 200) + "|{" + notice.severity.value + "}|")


@pytest.mark.parametrize(
    "text",
    ["{titel}", "{}", "{0}", "{title!r}", "{title:>10}", "{title.__class__}", "{title[0]}", "{", "}", "{title", "{{title}",
     "{url:{title}}"],
)  # fmt: skip
def test_a_template_has_names_and_nothing_that_could_be_carried_out(text: str) -> None:
    with pytest.raises(Invalid):
        Template.parse(text)


def test_every_name_stands_for_something() -> None:
    text = Template.parse(" ".join(f"{{{name}}}" for name in NAMES)).fill(made(url="https://x.example"))
    assert text == "t s  page happened alert bookshop production https://x.example 1970-01-01T00:00:05.000Z"
    assert Templates().subject.fill(made(state=State.RESOLVED)) == "Resolved: bookshop/production: t"


@given(st.text(max_size=400), st.integers(2, 100))
def test_a_line_is_a_line(text: str, longest: int) -> None:
    found = line(text, longest)
    assert len(found) <= longest and (found.isprintable() or not found)
    assert all(a != " " or b != " " for a, b in pairwise(found))


# --- of what


def test_an_alert_is_one_thing_from_its_beginning_to_its_end() -> None:
    alert = Alert(12, KEY, "burn:answers", Severity.PAGE, "it burns", 100.0)
    opened, nth = occasions.of_alert(alert, "opened", "https://x.example"), occasions.of_reminder(alert, 3, 900.0, "")
    over = occasions.of_alert(
        Alert(12, KEY, "burn:answers", Severity.PAGE, "it burns", 100.0, 500.0, "", "calm"), "resolved", ""
    )
    assert {opened.about, nth.about, over.about} == {"alert-12"}
    assert (opened.state, nth.state, over.state) == (State.OPENED, State.REMINDER, State.RESOLVED)
    assert (over.sentence, over.at, opened.url, over.url) == ("calm", 500.0, "https://x.example/alerts/12", "")
    assert nth.sentence == "Open for 13 m 20 s, and acknowledged by nobody: it burns"
