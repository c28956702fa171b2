"""`crossfade audit verify`: reads the ledger itself, and names the first entry that is not what was written."""

from __future__ import annotations

import json
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from crossfade.bootstrap.state import make_parts, prepare
from crossfade.cli.audit import line
from crossfade.cli.main import app
from crossfade.domain.access import local_actor
from crossfade.service.audit import Audit


@pytest.fixture(scope="module")
def written() -> Iterator[Path]:
    """A state folder whose ledger has five entries."""
    state = Path(tempfile.mkdtemp(prefix="cf-", dir="/tmp"))
    prepare(state)
    parts = make_parts(state)
    audit = Audit(parts)
    for number in range(1, 6):
        audit.note(local_actor("ada@laptop", "127.0.0.1"), "account.add", f"a{number}", {}, {"grants": ["viewer"]})
    for part in (parts.store, parts.access):
        getattr(part, "dispose", lambda: None)()
    yield state
    shutil.rmtree(state)


@pytest.fixture
def state(written: Path) -> Iterator[Path]:
    copy = Path(tempfile.mkdtemp(prefix="cf-", dir="/tmp"))
    shutil.copytree(written, copy, dirs_exist_ok=True)
    yield copy
    shutil.rmtree(copy)


def verify(state: Path) -> tuple[int, dict[str, Any]]:
    done = CliRunner().invoke(app, ["--state", str(state), "audit", "verify", "--json"])
    return done.exit_code, json.loads(done.stdout)


def spoil(state: Path, *statements: str) -> None:
    ledger = sqlite3.connect(state / "crossfade.db")
    with ledger:
        for statement in statements:
            ledger.execute(statement)
    ledger.close()


def test_a_log_that_nobody_touched_is_sound_without_a_server(state: Path) -> None:
    code, found = verify(state)
    assert (code, found["ok"], found["entries"], found["broken"]) == (0, True, 5, None)
    assert len(found["head"]) == 64


SPOILT: dict[str, tuple[Callable[[], tuple[str, ...]], int]] = {
    "another name": (lambda: ("UPDATE audit SET who = 'grace@laptop' WHERE seq = 3",), 3),
    "another time": (lambda: ("UPDATE audit SET at = at + 1 WHERE seq = 1",), 1),
    "other grants": (lambda: ("""UPDATE audit SET after = '{"grants": ["admin"]}' WHERE seq = 5""",), 5),
    "an entry that was taken out": (lambda: ("DELETE FROM audit WHERE seq = 2",), 2),
    "an end that was cut off": (lambda: ("DELETE FROM audit WHERE seq > 3",), 4),
    "two that changed places": (
        lambda: (
            "UPDATE audit SET seq = 99 WHERE seq = 2",
            "UPDATE audit SET seq = 2 WHERE seq = 3",
            "UPDATE audit SET seq = 3 WHERE seq = 99",
        ),
        2,
    ),
    "what is no JSON": (lambda: ("UPDATE audit SET before = '{' WHERE seq = 4",), 4),
}


@pytest.mark.parametrize("way", SPOILT)
def test_a_log_that_was_spoilt_is_broken_and_the_entry_is_named(state: Path, way: str) -> None:
    statements, broken = SPOILT[way]
    spoil(state, *statements())
    code, found = verify(state)
    assert (code, found["ok"], found["broken"]) == (1, False, broken), found
    told = CliRunner().invoke(app, ["--state", str(state), "audit", "verify"])
    assert f"BROKEN at entry {broken}" in told.stdout


def test_a_folder_without_a_ledger_says_so(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["--state", str(tmp_path), "audit", "verify"])
    assert done.exit_code == 1
    assert not list(tmp_path.iterdir())


def test_an_entry_reads_as_a_sentence() -> None:
    entry: dict[str, Any] = {
        "seq": 7,
        "at": 0.0,
        "who": "ada",
        "via": "session",
        "address": "192.0.2.7",
        "what": "account.change",
        "key": "grace",
        "before": {"grants": ["viewer"], "disabled": False},
        "after": {"grants": ["viewer", "operator@*/staging"], "disabled": False},
    }
    told = line(entry).plain
    assert told.startswith("     7  19")
    assert told.endswith("ada (session 192.0.2.7)  account.change  grace  grants viewer → viewer, operator@*/staging")
