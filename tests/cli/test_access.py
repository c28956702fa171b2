"""Accounts, tokens, approvals and the audit log, as a person at a terminal meets them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner, Result

from crossfade.cli.client import Client, Problem
from crossfade.cli.context import who
from crossfade.cli.main import app
from tests.e2e.installation import Installation, until

PASSWORD = "correct horse battery staple"


class Terminal:
    """The CLI in this process, on a real server."""

    def __init__(self, world: Installation) -> None:
        self.world = world

    def run(self, *words: str, typed: str = "") -> Result:
        return CliRunner().invoke(app, ["--state", str(self.world.state), *words], input=typed, env={"COLUMNS": "200"})

    def json(self, *words: str, typed: str = "", code: int = 0) -> Any:
        done = self.run(*words, "--json", typed=typed)
        assert done.exit_code == code, done.output
        return json.loads(done.stdout)

    def as_token(self, token: str) -> Client:
        return Client(self.world.client().url, token)


@pytest.fixture(scope="module")
def world() -> Iterator[Installation]:
    with Installation() as installation:
        installation.up()
        yield installation


@pytest.fixture
def terminal(world: Installation) -> Terminal:
    """Without the accounts of the test before."""
    found = Terminal(world)
    for account in found.json("accounts"):
        found.json("accounts", "remove", account["name"], "--yes")
    return found


def test_before_the_first_account_the_way_to_it_is_told(terminal: Terminal) -> None:
    assert "crossfade accounts add NAME --role admin" in terminal.run("accounts").stdout


def test_an_account_is_added_changed_kept_out_and_removed(terminal: Terminal) -> None:
    made = terminal.json(
        "accounts", "add", "grace", "--role", "operator", "--on", "shop/staging", "--on", "books/*",
        "--password-stdin", typed=f"{PASSWORD}\n",
    )  # fmt: skip
    assert made["grants"] == ["operator@shop/staging", "operator@books/*"]
    assert made["has_password"] is True
    assert PASSWORD not in json.dumps(made)
    terminal.json("accounts", "change", "grace", "--role", "viewer")
    (row,) = terminal.json("accounts", "list")
    assert (row["grants"], row["disabled"]) == (["viewer"], False)
    assert terminal.json("accounts", "change", "grace", "--disable")["disabled"] is True
    assert "disabled" in terminal.run("accounts").stdout
    assert terminal.json("accounts", "change", "grace", "--enable")["disabled"] is False
    terminal.json("accounts", "password", "grace", "--password-stdin", typed="another horse, another battery\n")
    terminal.json("accounts", "remove", "grace", "--yes")
    assert terminal.json("accounts") == []


@pytest.mark.parametrize(
    ("words", "typed", "told"),
    [
        (("add", "grace", "--role", "viewr", "--password-stdin"), PASSWORD, "viewer, operator or admin"),
        (("add", "grace", "--role", "viewer", "--on", "shop", "--no-password"), "", "service/environment"),
        (("add", "Grace Hopper", "--role", "viewer", "--no-password"), "", "a-z"),
        (("add", "grace", "--role", "viewer", "--password-stdin"), "short", "10 to 1000 characters"),
        (("add", "grace", "--role", "viewer"), "", "--password-stdin"),
        (("change", "grace"), "", "--role, --disable or --enable"),
        (("change", "grace", "--on", "a/b", "--disable"), "", "--role"),
        (("remove", "grace"), "", "--yes"),
    ],
)
def test_what_is_not_allowed_is_told_with_what_is(
    terminal: Terminal, words: tuple[str, ...], typed: str, told: str
) -> None:
    done = terminal.run("accounts", *words, typed=typed)
    assert (done.exit_code, told in done.stderr) == (2, True), done.output
    assert typed == "" or typed not in done.output


def test_an_account_that_there_is_not_is_named(terminal: Terminal) -> None:
    for words in (("change", "nobody", "--disable"), ("remove", "nobody", "--yes")):
        done = terminal.run("accounts", *words)
        assert (done.exit_code, "nobody" in done.stderr) == (1, True), done.output


def test_a_token_is_shown_once_and_alone_on_standard_output(terminal: Terminal) -> None:
    done = terminal.run("tokens", "add", "ci", "--role", "viewer", "--expires", "30d")
    text = done.stdout.strip()
    assert text.startswith("cf_")
    assert "not shown again" in done.stderr
    assert terminal.as_token(text).environments() is not None
    secret = text.rsplit("_", 1)[1]
    assert secret not in terminal.run("tokens").output
    row = next(row for row in terminal.json("tokens") if row["name"] == "ci")
    terminal.json("tokens", "revoke", row["id"])
    with pytest.raises(Problem) as caught:
        terminal.as_token(text).environments()
    assert caught.value.status == 401
    assert "revoked" in terminal.run("tokens", "list").stdout


def test_a_token_of_an_account_never_does_more_than_its_owner(terminal: Terminal) -> None:
    terminal.json("accounts", "add", "grace", "--role", "viewer", "--no-password")
    done = terminal.run("tokens", "add", "mine", "--role", "operator", "--owner", "grace")
    assert (done.exit_code, "more than its owner" in done.stderr) == (1, True)
    token = terminal.json("tokens", "add", "mine", "--role", "viewer", "--owner", "grace")["token"]
    terminal.as_token(token).environments()
    terminal.json("accounts", "change", "grace", "--disable")
    with pytest.raises(Problem) as caught:
        terminal.as_token(token).environments()
    assert caught.value.status == 401


def test_a_length_of_time_without_a_unit_is_refused(terminal: Terminal) -> None:
    assert terminal.run("tokens", "add", "ci", "--role", "viewer", "--expires", "30").exit_code == 2


def test_what_was_done_is_in_the_audit_log_newest_last(terminal: Terminal) -> None:
    terminal.json("accounts", "add", "grace", "--role", "viewer", "--no-password")
    terminal.json("accounts", "change", "grace", "--role", "admin")
    entries = terminal.json("audit", "--limit", "2")
    assert [(entry["what"], entry["key"]) for entry in entries] == [
        ("account.add", "grace"),
        ("account.change", "grace"),
    ]
    assert {entry["who"] for entry in entries} == {who()}
    assert "grants viewer → admin" in terminal.run("audit", "list", "-n", "1").stdout
    assert terminal.json("audit", "-e", "shop/nowhere") == []
    assert terminal.json("audit", "verify")["ok"] is True


def test_a_release_that_wants_an_approval_waits_for_somebody_else(terminal: Terminal) -> None:
    world = terminal.world
    world.configure("v1", environments={"production": {"port": world.port, "approval": "operator"}})
    asked = terminal.json("deploy", str(world.project))
    assert (asked["state"], asked["role"]) == ("waiting", "operator")
    number = str(asked["approval"])
    (row,) = terminal.json("approvals")
    assert (row["release"], row["environment"]) == ("r1", "production")

    own = terminal.run("approve", number)
    assert (own.exit_code, "somebody else has to approve it" in own.stderr) == (1, True)
    assert terminal.json("reject", number, "--why", "not on a Friday")["why"] == "not on a Friday"
    assert terminal.run("approvals").stdout.strip() == "Nothing waits for approval."

    token = terminal.json("tokens", "add", "grace", "--role", "operator", "--on", "shop/*")["token"]
    waiting = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "crossfade.cli.main",
            "--state",
            str(world.state),
            "deploy",
            str(world.project),
            "--wait",
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    with waiting:
        (row,) = until(lambda: terminal.json("approvals"), what="the second request")
        rollout = terminal.as_token(token).approve(row["approval"])
        told, _ = waiting.communicate(timeout=60)
    assert waiting.returncode == 0, told
    assert "anybody but" in told and f"rollout #{rollout['id']} of r2" in told
    assert world.version() == "v1"


def test_a_link_to_the_dashboard_logs_in_once(terminal: Terminal) -> None:
    url = terminal.run("dashboard", "--role", "viewer").stdout.strip()
    assert url.startswith(terminal.world.client().url)
    with httpx.Client(trust_env=False, follow_redirects=True) as browser:
        assert browser.get(url).status_code == 200
        assert browser.get(terminal.world.client().url + "/").url.path == "/"
    with httpx.Client(trust_env=False, follow_redirects=True) as another:
        another.get(url)
        assert another.get(terminal.world.client().url + "/").url.path == "/login"
