"""What the start page says of an environment, and how pages say numbers."""

from __future__ import annotations

from typing import Any
from urllib.parse import urljoin, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossfade.domain.values import FULL, EnvKey
from crossfade.web.glance import groups, parts_of, row_of
from crossfade.web.pages import ago, percent, plain
from crossfade.web.sessions import local

KEY = EnvKey("bookshop", "production")


def status(**changes: Any) -> dict[str, Any]:
    replicas = [{"name": f"r4-{n}", "state": "running"} for n in (1, 2)]
    found: dict[str, Any] = {
        "live": "r4",
        "active_slot": "blue",
        "slots": {"blue": {"release": "r4", "replicas": replicas}, "green": None},
        "edge": {"reachable": True, "blue": FULL, "green": 0, "control": 0, "lapsed": False},
        "rollout": None,
        "last": {"phase": "promoted"},
    }
    return found | changes


def down(n: int) -> dict[str, Any]:
    replicas = [{"name": f"r4-{i}", "state": "exited" if i < n else "running"} for i in range(2)]
    return {"blue": {"release": "r4", "replicas": replicas}, "green": None}


SILENT = {"reachable": False, "why": "it is not there"}


@pytest.mark.parametrize(
    ("changes", "state", "health"),
    [
        ({}, "ok", "2 of 2 replicas up"),
        ({"slots": down(1)}, "trouble", "1 of 2 replicas up"),
        ({"edge": SILENT}, "trouble", "2 of 2 replicas up; the edge does not answer"),
        ({"last": {"phase": "rolled-back"}}, "failed", "2 of 2 replicas up"),
        ({"live": None, "active_slot": None, "edge": SILENT, "last": None}, "empty", "nothing is live"),
    ],
)
def test_an_environment_says_how_it_is(changes: dict[str, Any], state: str, health: str) -> None:
    row = row_of(KEY, status(**changes), None)
    assert (row.state, row.health) == (state, health)


def test_services_in_trouble_come_first() -> None:
    well = row_of(EnvKey("atlas", "production"), status(), None)
    sick = row_of(KEY, status(slots=down(2)), None)
    assert [name for name, _ in groups([well, sick])] == ["bookshop", "atlas"]


@given(st.integers(0, FULL), st.data())
def test_the_parts_of_the_bar_fill_it(green: int, data: st.DataObject) -> None:
    control = data.draw(st.integers(0, FULL - green))
    edge = {"reachable": True, "blue": FULL - green, "green": green, "control": control, "lapsed": False}
    parts = parts_of(status(edge=edge))
    assert sum(part.wide for part in parts) == FULL
    assert [part.at for part in parts] == [0, parts[0].wide, parts[0].wide + parts[1].wide]
    assert min(part.wide for part in parts) >= 0


@given(st.one_of(st.text(), st.from_regex(r"[/\\.:a-z@\t]{0,12}evil", fullmatch=True)))
def test_a_place_to_go_to_is_one_of_ours(text: str) -> None:
    found = urlsplit(urljoin("https://crossfade.test/login", local(text)))
    assert (found.scheme, found.netloc) == ("https", "crossfade.test")
    assert not local(text).startswith(("//", "/\\"))


@given(st.integers(1, 10**9), st.integers(0, 10**9))
def test_a_share_of_failures_is_never_rounded_to_none(failed: int, served: int) -> None:
    assert percent(failed, failed + served) != "0 %"


@given(st.text())
def test_text_keeps_its_direction(text: str) -> None:
    assert not set(plain(text)) & {"\u202a", "\u202b", "\u202d", "\u202e", "\u2066", "\u2067", "\u2068"}
    assert len(plain(text)) == len(text)


def test_times_are_said_as_people_say_them() -> None:
    assert [ago(100.0 - s, 100.0) for s in (0.2, 5, 65, 7300, 200_000)] == [
        "just now",
        "5 s ago",
        "1 min ago",
        "2 h ago",
        "2 d ago",
    ]
    assert (ago(160.0, 100.0), ago(None)) == ("in 1 min", "never")
