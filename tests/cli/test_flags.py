"""`crossfade flags` and `crossfade experiments` on a running server, as people type them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.installation import Installation

BOOLEAN: dict[str, Any] = {"state": "ENABLED", "variants": {"on": True, "off": False}, "defaultVariant": "off"}
SPLIT = {"name": "all", "serve": {"split": {"by": "targetingKey", "shares": {"on": [[0, 1000]]}, "rest": "off"}}}


@pytest.fixture(scope="module")
def shop() -> Iterator[Installation]:
    with Installation() as shop:
        shop.configure("v1")
        shop.up()
        shop.deploy()
        yield shop


def flag_set(folder: Path, **flags: Any) -> Path:
    path = folder / "flags.json"
    path.write_text(json.dumps({"flags": flags}))
    return path


def said(shop: Installation, *words: str) -> str:
    """What a command that must fail says."""
    done = shop.run(*words, check=False)
    assert done.returncode != 0, done.stdout
    return " ".join((done.stdout + done.stderr).split())


def test_what_others_have_written_does_not_speak_to_the_terminal(shop: Installation, tmp_path: Path) -> None:
    said_of = {"description": "\x1b[31mred \x9b2J\u202e", "owner": "[/]", "tags": ["[bold]b[/bold]", ":smile:"]}
    shop.run("flags", "import", str(flag_set(tmp_path, hostile={**BOOLEAN, "crossfade": said_of})))
    for words in (("list",), ("get", "hostile"), ("list", "--json"), ("get", "hostile", "--json"), ("versions",)):
        shown = shop.run("flags", *words).stdout
        assert not {"\x1b", "\x9b", "\u202e"} & set(shown)
    listed = shop.run("flags", "list").stdout
    assert "[/]" in listed and "[bold]b[/bold], :smile:" in listed
    assert shop.json("flags", "get", "hostile")["flag"]["crossfade"]["description"] == said_of["description"]


def test_a_file_that_says_a_thing_twice_is_refused(shop: Installation, tmp_path: Path) -> None:
    file = tmp_path / "twice.json"
    one = json.dumps(BOOLEAN)
    file.write_text(f'{{"flags": {{"twice": {one}, "twice": {one}}}}}')
    assert "each name of an object once" in said(shop, "flags", "import", str(file))


def test_a_flag_is_made_shared_explained_compared_and_made_what_it_was(shop: Installation, tmp_path: Path) -> None:
    shop.run("flags", "set", "banner", "--owner", "ada", "--tag", "shop", "--note", "the first")
    data = {**BOOLEAN, "crossfade": {"owner": "ada", "rules": [SPLIT]}}
    file = tmp_path / "banner.json"
    file.write_text(json.dumps(data))
    version = shop.json("flags", "set", "banner", "--file", str(file))["version"]
    would = shop.run("flags", "set", "banner", "--off", "--dry-run").stdout
    assert "Nothing was changed" in would and "of made-up people" in would
    assert shop.json("flags", "get", "banner")["version"] == version
    more = ("flags", "set", "banner", "--share", "all:on=25%", "--description", "A banner")
    assert "10 % -> 25 %" in shop.run(*more, "--dry-run").stdout
    assert shop.json(*more)["version"] == version + 1
    row = next(one for one in shop.json("flags", "list")["flags"] if one["key"] == "banner")
    assert row["rules"][0]["shares"] == {"on": 2500, "off": 7500}
    assert (row["owner"], row["description"]) == ("ada", "A banner")
    why = shop.run("flags", "why", "banner", "key=reader-1", "age=31").stdout
    assert "bucket" in why
    now = shop.json("flags", "list")["version"]
    assert "on" in shop.run("flags", "diff", str(version), str(now)).stdout
    shop.run("flags", "restore", str(version))
    assert shop.json("flags", "get", "banner")["flag"] == data
    assert "the first" in shop.run("flags", "versions").stdout


def test_every_fault_of_a_file_is_named_with_its_place_and_nothing_of_it_is_taken(
    shop: Installation, tmp_path: Path
) -> None:
    before = shop.json("flags", "list")["version"]
    bad = {
        "one": {**BOOLEAN, "defaultVariant": "maybe"},
        "two": {**BOOLEAN, "targeting": {"fractional": [["on", -1], ["off", 2**31]]}},
        "good": BOOLEAN,
    }
    done = shop.run("flags", "import", str(flag_set(tmp_path, **bad)), check=False)
    assert done.returncode == 2, done.stdout
    words = " ".join(done.stderr.split())
    assert "flags.one.defaultVariant" in words and "flags.two.targeting" in words, words
    assert shop.json("flags", "list")["version"] == before
    (tmp_path / "broken.json").write_bytes(b"\xff{")
    assert "JSON in UTF-8" in said(shop, "flags", "import", str(tmp_path / "broken.json"))
    assert "a file that can be read" in said(shop, "flags", "import", str(tmp_path / "none.json"))


def test_a_file_goes_out_and_comes_back_and_flagd_reads_the_plain_one(shop: Installation, tmp_path: Path) -> None:
    shop.run("flags", "import", str(flag_set(tmp_path, mine=BOOLEAN)))
    ours, plain = tmp_path / "ours.json", tmp_path / "plain.json"
    shop.run("flags", "export", "-o", str(ours))
    shop.run("flags", "export", "--flagd", "-o", str(plain))
    assert "crossfade" not in json.loads(plain.read_text())["flags"]["mine"]
    assert shop.json("flags", "import", str(ours), "--replace", "--dry-run")["changes"] == []


def test_a_killed_flag_says_so_until_it_is_revived(shop: Installation, tmp_path: Path) -> None:
    shop.run("flags", "import", str(flag_set(tmp_path, danger={**BOOLEAN, "defaultVariant": "on",
                                                                "crossfade": {"off": "off"}})))  # fmt: skip
    shop.run("flags", "kill", "danger", "--why", "it doubles orders")
    assert "it doubles orders" in shop.run("flags", "get", "danger").stdout
    assert "killed" in shop.run("flags", "list").stdout
    assert shop.json("flags", "why", "danger")["evaluation"]["variant"] == "off"
    shop.run("flags", "revive", "danger")
    assert shop.json("flags", "why", "danger")["evaluation"]["variant"] == "on"


def test_where_a_second_person_is_wanted_a_change_waits_and_a_kill_does_not(shop: Installation, tmp_path: Path) -> None:
    shop.run("flags", "import", str(flag_set(tmp_path, slow=BOOLEAN)))
    assert "operator" in shop.run("flags", "settings", "--approval", "operator").stdout
    try:
        asked = shop.json("flags", "set", "slow", "--default", "on")["request"]
        assert str(asked["request"]) in shop.run("flags", "requests").stdout
        assert "somebody else" in said(shop, "flags", "approve", str(asked["request"]))
        shop.run("flags", "kill", "slow")
        assert shop.json("flags", "get", "slow")["flag"]["crossfade"]["killed"]
        shop.run("flags", "reject", str(asked["request"]), "--why", "not today")
        assert "Nothing waits" in shop.run("flags", "requests").stdout
    finally:
        shop.run("flags", "settings", "--approval", "nobody")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("flags", "get", "nothing-of-the-kind"), "has no flag"),
        (("flags", "ramp", "nothing-of-the-kind"), "has no flag"),
        (("flags", "set", "banner", "--share", "on=10%"), "RULE:VARIANT=10%"),
        (("flags", "set", "banner", "--share", "all:on=120%"), "from 0% to 100%"),
        (("flags", "set", "banner", "--share", "none:on=12%"), "a rule of the flag that splits (all)"),
        (("flags", "set", "banner", "--share", "all:on=1%", "--file", "x.json"), "without --file"),
        (("flags", "set", "banner", "--pause", "none"), "a rule of the flag"),
        (("flags", "why", "banner", "nonsense"), "NAME=VALUE"),
        (("flags", "ramp", "banner", "--steps", "10%"), "how long it is judged"),
        (("flags", "ramp", "banner", "--pause", "--abort"), "one order at a time"),
        (("flags", "ramp", "banner", "--abort"), "a flag that is being ramped"),
        (("flags", "settings", "--approval", "viewer"), "nobody, operator or admin"),
        (("experiments", "show", "nothing"), "nothing"),
        (("experiments", "create", "x", "--flag", "banner", "--metric", "a=b"), "NAME=KIND:EVENT"),
        (("experiments", "create", "x", "--flag", "banner", "--metric", "a=mean:b,upside"), "margin=2%"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_what_is_allowed(
    shop: Installation, words: tuple[str, ...], expected: str
) -> None:
    assert expected in said(shop, *words)


def test_an_experiment_is_made_started_shown_stopped_and_removed(shop: Installation, tmp_path: Path) -> None:
    shop.run("flags", "import", str(flag_set(tmp_path, page={**BOOLEAN, "crossfade": {"rules": [SPLIT]}})))
    shop.run("experiments", "create", "page", "--flag", "page", "--metric", "bought=conversion:purchase,margin=2%")
    assert "Nothing counts yet" in shop.run("experiments", "show", "page").stdout
    shop.run("experiments", "start", "page")
    shown = shop.run("experiments", "show", "page", "--plots", str(tmp_path)).stdout
    assert "winner: nobody yet" in shown, shown
    assert {path.name for path in tmp_path.glob("*.svg")} == {
        f"page-{plot}.svg" for plot in ("course", "forest", "posterior", "segments")
    }
    assert "nobody has won yet" in said(shop, "experiments", "conclude", "page")
    shop.run("experiments", "stop", "page")
    assert "stopped" in shop.run("experiments", "list").stdout
    shop.run("experiments", "remove", "page")
    assert "No experiments" in shop.run("experiments", "list").stdout


def test_a_rollback_says_what_it_would_take_before_it_is_done(shop: Installation) -> None:
    told = shop.run("rollback", "--dry-run").stdout
    assert "kill a flag" in told and "nothing that is known helps" in told, told
