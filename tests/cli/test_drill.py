"""`crossfade drill`, `prove` and `proofs` on a running installation, as people type them."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from crossfade.cli import drill_show
from tests.e2e.installation import Installation, Load, until

DONE, FAILED, USAGE = 0, 1, 2
LONG = 240.0
"""Seconds that a command may take on a busy machine."""
DRILLS = [{"name": "weekly", "schedule": "0 4 * * 2", "hold": "1s"}, {"name": "game-day", "fault": "errors"}]


@pytest.fixture(scope="module")
def shop() -> Iterator[Installation]:
    """r3 is live, after r1 and r2."""
    with Installation() as shop:
        shop.up()
        for version in ("v1", "v2", "v3"):
            shop.configure(version, drills=DRILLS)
            assert shop.deploy()["rollout"]["phase"] == "promoted"
        yield shop


def ran(shop: Installation, *words: str) -> tuple[int, str]:
    """What a command ends with, and what it says."""
    done = shop.run(*words, check=False, timeout=LONG)
    return done.returncode, done.stdout + done.stderr


def test_a_dry_run_says_what_a_drill_would_do_and_does_nothing(shop: Installation) -> None:
    code, said = ran(shop, "drill", "--back", "2", "--hold", "5s", "--dry-run")
    assert code == DONE, said
    assert "from r3 back to r1" in said and "r1 serves for 5 s" in said and "home to r3" in said
    code, said = ran(shop, "drill", "--fault", "errors", "--dry-run")
    assert code == DONE and "as a canary" in said
    assert shop.json("drill", "list") == {"drills": []}
    code, said = ran(shop, "drill", "--back", "3", "--dry-run")
    assert code == FAILED and "r2, r1" in said


def test_nothing_is_moved_before_somebody_has_said_yes(shop: Installation) -> None:
    code, said = ran(shop, "drill")
    assert code == USAGE
    assert "--yes" in said and "--dry-run" in said


@pytest.mark.parametrize(
    "words", [("--back", "0"), ("--back", "21"), ("--hold", "5"), ("--hold", "2h"), ("--fault", "flood"), ("--name", "\x1b[31m")]
)  # fmt: skip
def test_a_drill_that_cannot_be_is_refused_as_usage(shop: Installation, words: tuple[str, ...]) -> None:
    code, said = ran(shop, "drill", "--yes", *words)
    assert code == USAGE, said
    assert "\x1b" not in said


def test_a_drill_is_followed_to_its_receipt_and_harms_nobody(shop: Installation) -> None:
    with Load(shop.port) as load:
        until(lambda: load.has_seen(50))
        code, said = ran(shop, "drill", "--hold", "1s", "--yes", "--name", "[bold]x[/]")
    assert code == DONE, said
    assert "r3 → r2 → r3" in said and "holding" in said and "passed after" in said
    assert re.search(r"switch +[\d.]+ m?s ", said) and "0 harmed" in said
    assert load.seen.broken == [] and set(load.seen.statuses) == {200}
    (row,) = shop.json("drill", "list")["drills"]
    assert (row["ok"], row["home"], row["target"], row["name"]) == (True, "r3", "r2", "[bold]x[/]")
    assert row["receipt"]["harmed"] == 0
    shown = shop.run("drill", "show", str(row["id"])).stdout
    assert "begins the return to r2" in shown and "[bold]x[/]" in shown
    assert "[bold]x[/]" in shop.run("drill", "list").stdout


def test_the_drill_that_kills_the_server_is_followed_by_who_began_it(shop: Installation) -> None:
    before = shop.pid_of("server")
    code, said = ran(shop, "drill", "--fault", "kill-control-plane", "--hold", "1s", "--yes", "--json")
    assert code == DONE, said
    assert '"ok": true' in said and '"fault": "kill-control-plane"' in said
    assert shop.pid_of("server") != before


def test_a_drill_that_somebody_ends_goes_home_and_has_failed_to_be_one(shop: Installation) -> None:
    begun = shop.json("drill", "--hold", "10m", "--yes", "--detach")
    id = str(begun["id"])
    until(lambda: shop.json("drill", "show", id)["phase"] == "holding", LONG, "the older release")
    code, said = ran(shop, "drill", "--yes")
    assert code == FAILED and f"#{id}" in said
    assert "r3 is brought back" in shop.run("drill", "abort", id).stdout
    ended = until(lambda: (found := shop.json("drill", "show", id))["ended"] and found, LONG, "its end")
    assert ended["phase"] == "aborted" and ended["ok"] is False
    assert shop.version() == "v3"
    code, said = ran(shop, "drill", "abort", id)
    assert code == FAILED


def test_a_drill_during_a_rollout_is_refused_with_what_to_do(shop: Installation) -> None:
    shop.configure("v4", drills=DRILLS, strategy=shop.canary("10%", "50%", duration="10m"))
    rollout = shop.json("deploy", str(shop.project), "--detach")
    until(lambda: shop.client().environment("shop/production")["rollout"], LONG)
    for words in (("--yes",), ("--dry-run",)):
        code, said = ran(shop, "drill", *words)
        assert code == FAILED
        assert f"#{rollout['id']}" in said and len(said.splitlines()) >= 2, said
    shop.run("abort")
    until(lambda: shop.client().environment("shop/production")["rollout"] is None, LONG, "the end of the rollout")


def test_the_schedule_says_when_each_comes(shop: Installation) -> None:
    said = shop.run("drill", "schedule").stdout
    assert "0 4 * * 2" in said and "game-day" in said and "runs when somebody asks for it" in said
    weekly, game = shop.json("drill", "schedule")["scheduled"]
    assert (weekly["name"], weekly["last"], weekly["overdue"]) == ("weekly", None, False)
    assert (game["fault"], game["next"]) == ("errors", None)


def test_an_overdue_drill_is_shouted() -> None:
    row: dict[str, Any] = {"name": "weekly", "environment": "shop/production", "schedule": "0 4 * * 2", "back": 1,
                           "fault": None, "last": None, "overdue": True, "sentence": "it was to be at 4"}  # fmt: skip
    from crossfade.cli.terminal import Terminal

    console = Terminal()
    with console.capture() as captured:
        console.print(drill_show.scheduled([row], 0.0))
    assert "OVERDUE" in captured.get()


def test_releases_are_proven_and_show_when_and_how_long_it_took(shop: Installation) -> None:
    code, said = ran(shop, "prove")
    assert code == DONE, said
    assert "r2 can be restored" in said and "r1 can be restored" in said
    proofs = shop.json("proofs")["proofs"]
    assert [(row["release"], row["ok"]) for row in proofs] == [("r2", True), ("r1", True)]
    (again,) = shop.json("prove", "r1")["proofs"]
    assert again["proven"] > proofs[1]["proven"]
    assert "ago, " in shop.run("releases").stdout
    rows = {row["release"]: row for row in shop.json("releases")}
    assert rows["r1"]["proven"] == again["proven"] and rows["r3"]["proof"] is None
    code, said = ran(shop, "prove", "production", "r3")
    assert code == FAILED and "r2, r1" in said
    assert "r2" in shop.run("proofs", "shop/production").stdout


def test_on_a_terminal_it_asks_and_shows_how_far_it_is(shop: Installation) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "crossfade.cli.main", "--state", str(shop.state), "drill", "--hold", "2s"]
    environment = {**os.environ, "COLUMNS": "80", "TERM": "xterm"}
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment, close_fds=True)
    os.close(theirs)
    said = ""
    try:
        answered = False
        while True:
            if not select.select([ours], [], [], LONG)[0]:
                raise AssertionError(said)
            try:
                read = os.read(ours, 65_536)
            except OSError:  # how a terminal says that nobody is there any more
                break
            if not read:
                break
            said += read.decode(errors="replace")
            if not answered and "Go on?" in said:
                answered = True
                os.write(ours, b"y\n")
        assert process.wait(LONG) == DONE, said
    finally:
        process.kill()
        process.wait()
        os.close(ours)
    assert "back ✓" in said and "of 2 s" in said and "Receipt of drill" in said
