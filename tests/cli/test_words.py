"""What the terminal says of notices and incidents: whole, also where it is narrow."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console, RenderableType

from crossfade.cli import notices, report

NOTICE: dict[str, Any] = {
    "id": 38, "target": "pager", "state": "waiting", "tries": 1, "answer": "pager.example.org did not answer within 20 s",
    "began": 1000.0, "state_of": "resolved", "severity": "ticket", "service": "bookshop", "environment": "production",
    "title": "budget:answered",
}  # fmt: skip
INCIDENT: dict[str, Any] = {
    "service": "bookshop", "environment": "production", "begins": 0.0, "ends": 7.0, "duration": 7.0, "failed": 1,
    "share": 1.0, "how": "automatic rollback", "drill": None, "what": "errors 47 %",
}  # fmt: skip


def lines(shown: RenderableType, width: int = 80) -> list[str]:
    out = io.StringIO()
    Console(file=out, width=width).print(shown)
    return [line.rstrip() for line in out.getvalue().splitlines()]


def test_a_notice_is_told_with_its_whole_place_on_a_narrow_terminal() -> None:
    assert lines(notices._shown([NOTICE], 1060.0)) == [
        "#38  ticket  bookshop/production  to pager  1 m ago  waits, tried once",
        "    Resolved: budget:answered  pager.example.org did not answer within 20 s",
    ]


@pytest.mark.parametrize(
    ("state", "answer", "told"),
    [
        ("sent", "p answered 204", "pager was told. p answered 204."),
        ("failed", "p answered 500", "pager was not told. p answered 500."),
        ("waiting", "", "pager was not told yet: "),
    ],
)
def test_a_test_of_a_target_says_what_came_of_it(state: str, answer: str, told: str) -> None:
    assert notices._tried("pager", {**NOTICE, "state": state, "answer": answer}).startswith(told)


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({}, "lasted 7 s, 1 request failed, 100 % exposed, ended by an automatic rollback"),
        ({"how": "by itself", "failed": None, "drill": 3}, "lasted 7 s, 100 % exposed, ended by itself, in a drill"),
        ({"ends": None, "how": "not over", "failed": 0}, "for 7 s so far, 0 requests failed, 100 % exposed, not over"),
    ],
)
def test_an_incident_is_told_with_its_whole_place_on_a_narrow_terminal(changed: dict[str, Any], told: str) -> None:
    found = {"incidents": {"list": [{**INCIDENT, **changed}]}}
    expected = ["  1970-01-01 00:00 UTC  bookshop/production", f"    {told}", "    errors 47 %"]
    assert lines(report._incidents(found), 100) == expected
