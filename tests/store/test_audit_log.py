"""The audit log in its table: whatever somebody does to the file is found, and nothing that they do stops the look."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from crossfade.domain.audit import AuditEntry
from crossfade.domain.release import ReleaseConfig
from crossfade.domain.values import Digest, EnvKey
from crossfade.store.access import SqlAccess
from crossfade.store.sql import SqlStore

ENTRIES = 7


def entry(seq: int) -> AuditEntry:
    return AuditEntry(seq, 0.1 * seq, "ada", "local", "", "rollout.begin", "a/x", {"n": seq}, {})


@pytest.fixture
def access(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SqlAccess]:
    """Seven entries, read two at a time."""
    monkeypatch.setattr("crossfade.store.access.PAGE", 2)
    access = SqlAccess(f"sqlite:///{tmp_path / 'ledger.db'}")
    for _ in range(ENTRIES):
        access.note(entry)
    yield access
    access.dispose()


def tamper(access: SqlAccess, statement: str, *values: int) -> None:
    with access._engine.begin() as connection:
        connection.exec_driver_sql(statement, values)


def test_the_whole_log_fits_however_it_is_paged(access: SqlAccess) -> None:
    found = access.verify_audit()
    assert (found.ok, found.entries, found.broken) == (True, ENTRIES, None)


@pytest.mark.parametrize("at", [1, 2, 4, ENTRIES])
@pytest.mark.parametrize(
    "change",
    [
        "UPDATE audit SET who = 'eve' WHERE seq = {at}",
        "UPDATE audit SET at = at + 1 WHERE seq = {at}",
        "UPDATE audit SET at = 'later' WHERE seq = {at}",
        "UPDATE audit SET who = x'616461' WHERE seq = {at}",
        "UPDATE audit SET before = '{{}}' WHERE seq = {at}",
        "UPDATE audit SET after = 'no JSON' WHERE seq = {at}",
        "UPDATE audit SET after = '5' WHERE seq = {at}",
        "UPDATE audit SET after = replace(hex(zeroblob(50000)), '0', '[') WHERE seq = {at}",
        "UPDATE audit SET hash = 'x' WHERE seq = {at}",
        "DELETE FROM audit WHERE seq = {at}",
    ],
)
def test_a_change_in_the_file_is_found_at_its_entry(access: SqlAccess, at: int, change: str) -> None:
    tamper(access, change.format(at=at))
    found = access.verify_audit()
    assert (found.ok, found.broken) == (False, at)
    assert found.why


def test_swapped_entries_are_found_at_the_first(access: SqlAccess) -> None:
    for old, new in ((3, 99), (5, 3), (99, 5)):
        tamper(access, "UPDATE audit SET seq = ? WHERE seq = ?", new, old)
    assert access.verify_audit().broken == 3


@pytest.mark.parametrize("left", [0, 1, 6])
def test_an_end_that_was_cut_off_is_found_and_what_comes_later_does_not_hide_it(access: SqlAccess, left: int) -> None:
    tamper(access, "DELETE FROM audit WHERE seq > ?", left)
    for _ in range(ENTRIES + 1):
        found = access.verify_audit()
        assert (found.ok, found.broken) == (False, left + 1)
        access.note(entry)


def test_a_ledger_from_before_there_were_accounts_is_brought_up_to_date_with_all_that_is_in_it(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    store = SqlStore(url)
    kept = store.add_release(EnvKey("a", "x"), Digest("sha256:" + "a" * 64), ReleaseConfig(("x",)), "v1", 1.0)
    tried = ("flag_usage", "flag_batches", "experiment_outcomes", "experiment_units", "experiments")
    flags = ("records", "ramps", "flag_requests", "flag_settings", "flag_versions")
    later = (*tried, *flags, "reports", "statements", "deliveries", "sources", "run_releases", "runs")
    tables = (*later, "feed", "answers", "accounts", "tokens", "sessions", "links", "approvals", "audit")
    with store._engine.begin() as connection:
        for table in tables:
            connection.exec_driver_sql(f"DROP TABLE {table}")
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '0003'")
    store.dispose()
    again, access = SqlStore(url), SqlAccess(url)
    assert again.releases(EnvKey("a", "x")) == (kept,)
    assert (again.changes_kept(), access.accounts(), access.verify_audit().ok) == ((0, 0), (), True)
    again.dispose()
    access.dispose()
