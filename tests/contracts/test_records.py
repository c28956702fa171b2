"""The promises of `ports.records.Records`, kept by the ledger and by its twin."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from crossfade.domain.errors import Busy, NotFound
from crossfade.domain.values import EnvKey
from crossfade.fakes.records import MemoryRecords
from crossfade.fakes.store import FakeStore
from crossfade.ports import Record, Records, Store
from crossfade.store.records import SqlRecords
from crossfade.store.sql import SqlStore

KEY = EnvKey("bookshop", "production")
STAGING = EnvKey("bookshop", "staging")


@dataclass
class Ledger:
    records: Records
    store: Store


@pytest.fixture(params=["memory", "sqlite"])
def ledger(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Ledger]:
    if request.param == "memory":
        store = FakeStore()
        yield Ledger(MemoryRecords(store), store)
        return
    url = f"sqlite:///{tmp_path / 'crossfade.db'}"
    kept, records = SqlStore(url), SqlRecords(url)
    yield Ledger(records, kept)
    kept.dispose()
    records.dispose()


def test_a_record_is_read_as_it_was_written(ledger: Ledger) -> None:
    made = ledger.records.add("alert", KEY, "burn:answers", {"ü \ud800": [1, None, "x"]}, 10.0)
    assert ledger.records.get(made.id) == Record(
        made.id, "alert", KEY, "burn:answers", {"ü \ud800": [1, None, "x"]}, 10.0
    )


def test_an_environment_has_one_open_record_of_a_kind_and_subject(ledger: Ledger) -> None:
    first = ledger.records.add("drill", KEY, "weekly", {}, 10.0)
    with pytest.raises(Busy, match=f"#{first.id}"):
        ledger.records.add("drill", KEY, "weekly", {}, 11.0)
    ledger.records.add("drill", STAGING, "weekly", {}, 11.0)
    ledger.records.add("drill", KEY, "monthly", {}, 11.0)
    ledger.records.add("proof", KEY, "weekly", {}, 11.0)
    ledger.records.add("drill", KEY, "weekly", {"over": True}, 12.0, ended=12.0)
    ledger.records.save(first.id, {}, 13.0, ended=True)
    assert ledger.records.add("drill", KEY, "weekly", {}, 14.0).id > first.id


def test_what_has_ended_stays_ended_and_the_first_end_counts(ledger: Ledger) -> None:
    made = ledger.records.add("watch", KEY, "7", {"n": 1}, 10.0)
    ledger.records.save(made.id, {"n": 2}, 20.0, ended=True)
    ledger.records.save(made.id, {"n": 3}, 30.0)
    ledger.records.save(made.id, {"n": 4}, 40.0, ended=True)
    found = ledger.records.get(made.id)
    assert (found.data, found.began, found.ended) == ({"n": 4}, 10.0, 20.0)


def test_what_is_not_there_is_said(ledger: Ledger) -> None:
    with pytest.raises(NotFound, match="#77"):
        ledger.records.get(77)
    with pytest.raises(NotFound, match="#77"):
        ledger.records.save(77, {}, 1.0)


def test_lists_are_newest_first_and_filtered(ledger: Ledger) -> None:
    records = ledger.records
    a = records.add("alert", KEY, "a", {}, 10.0)
    b = records.add("alert", KEY, "b", {}, 20.0)
    c = records.add("alert", STAGING, "a", {}, 30.0)
    records.add("drill", KEY, "a", {}, 30.0)
    records.save(a.id, {}, 15.0, ended=True)

    def ids(found: tuple[Record, ...]) -> list[int]:
        return [one.id for one in found]

    assert ids(records.list("alert")) == [c.id, b.id, a.id]
    assert ids(records.list("alert", KEY)) == [b.id, a.id]
    assert ids(records.list("alert", KEY, open_only=True)) == [b.id]
    assert ids(records.list("alert", subject="a")) == [c.id, a.id]
    assert ids(records.list("alert", since=15.0)) == [c.id, b.id, a.id]
    assert ids(records.list("alert", since=15.5)) == [c.id, b.id]
    assert ids(records.list("alert", limit=1, before=c.id)) == [b.id]


def test_old_records_are_forgotten_but_for_the_newest_and_the_open_ones(ledger: Ledger) -> None:
    records = ledger.records
    made = [records.add("notice", KEY, f"n{i}", {}, float(i), ended=float(i)) for i in range(6)]
    still = records.add("notice", KEY, "open", {}, 0.0)
    other = records.add("drill", KEY, "x", {}, 0.0, ended=0.0)
    assert records.prune("notice", before=4.0, keep=3) == 3
    assert [one.id for one in records.list("notice")] == [still.id, *(one.id for one in made[:2:-1])]
    assert records.get(other.id) == other


def test_the_feed_hears_of_it_unless_it_is_not_worth_telling(ledger: Ledger) -> None:
    made = ledger.records.add("proof", KEY, "r3", {}, 10.0)
    ledger.records.save(made.id, {"n": 1}, 11.0, told=False)
    ledger.records.save(made.id, {"n": 2}, 12.0, ended=True)
    told = [(one.kind, one.key, dict(one.data)) for one in ledger.store.changes(0)]
    assert told == [
        ("proof", str(KEY), {"id": made.id, "subject": "r3", "ended": False}),
        ("proof", str(KEY), {"id": made.id, "subject": "r3", "ended": True}),
    ]


def test_of_many_who_add_at_once_one_is_first(ledger: Ledger) -> None:
    busy: list[Busy] = []

    def add() -> None:
        try:
            ledger.records.add("drill", KEY, "weekly", {}, 10.0)
        except Busy as error:
            busy.append(error)

    threads = [threading.Thread(target=add) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(busy) == 7
    assert len(ledger.records.list("drill", open_only=True)) == 1
