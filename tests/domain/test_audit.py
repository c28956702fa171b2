"""The chain of the audit log: whatever is done to it is found, and where it begins is named."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

from hypothesis import assume, given
from hypothesis import strategies as st

from crossfade.domain.audit import GENESIS, AuditEntry, verify

DATA = st.dictionaries(st.text(max_size=3), st.none() | st.integers() | st.text(max_size=3), max_size=2)
TIMES = st.floats(0, 1e10)
WORDS = st.text(max_size=4)
DRAFTS = st.builds(AuditEntry, st.just(0), TIMES, WORDS, WORDS, WORDS, WORDS, WORDS, DATA, DATA)
Log = list[tuple[AuditEntry, str]]


def written(drafts: Sequence[AuditEntry]) -> Log:
    log: Log = []
    for draft in drafts:
        entry = replace(draft, seq=len(log) + 1)
        log.append((entry, entry.hash(log[-1][1] if log else GENESIS)))
    return log


LOGS = st.lists(DRAFTS, min_size=1, max_size=6).map(written)
NUMBER = st.integers(0, 5)


@given(LOGS)
def test_what_was_written_fits(log: Log) -> None:
    found = verify(log, len(log))
    assert (found.ok, found.entries, found.broken, found.head) == (True, len(log), None, log[-1][1])


def test_an_empty_log_fits() -> None:
    assert verify([], None).head == GENESIS


@given(LOGS, NUMBER, st.sampled_from([field.name for field in fields(AuditEntry)]), st.data())
def test_a_changed_field_is_found_at_its_entry(log: Log, at: int, name: str, data: st.DataObject) -> None:
    at %= len(log)
    entry, kept = log[at]
    strategies: dict[str, st.SearchStrategy[Any]] = {"seq": st.integers(), "at": TIMES, "before": DATA, "after": DATA}
    other = data.draw(strategies.get(name, WORDS))
    assume(repr(other) != repr(getattr(entry, name)) and other != getattr(entry, name))
    log[at] = (replace(entry, **{name: other}), kept)
    found = verify(log, len(log))
    assert (found.ok, found.broken) == (False, at + 1)
    assert f"entry {at + 1}" in found.why


@given(LOGS, NUMBER)
def test_a_removed_entry_is_found_where_it_was_also_the_last(log: Log, at: int) -> None:
    at %= len(log)
    whole = len(log)
    del log[at]
    assert verify(log, whole).broken == at + 1


@given(LOGS, NUMBER)
def test_a_removed_entry_is_found_although_the_others_were_numbered_anew(log: Log, at: int) -> None:
    at %= len(log)
    del log[at]
    assume(at < len(log))
    again = [(replace(entry, seq=i), kept) for i, (entry, kept) in enumerate(log, 1)]
    assert verify(again, len(again)).broken == at + 1


@given(LOGS, NUMBER, NUMBER)
def test_swapped_entries_are_found_at_the_first(log: Log, one: int, other: int) -> None:
    one, other = one % len(log), other % len(log)
    assume(one != other)
    log[one], log[other] = log[other], log[one]
    assert verify(log, len(log)).broken == min(one, other) + 1


@given(LOGS, NUMBER, DRAFTS)
def test_an_inserted_entry_is_found_where_the_old_ones_go_on(log: Log, at: int, draft: AuditEntry) -> None:
    at %= len(log)
    before = log[at - 1][1] if at else GENESIS
    new = replace(draft, seq=at + 1)
    moved = [(replace(entry, seq=entry.seq + 1), kept) for entry, kept in log[at:]]
    assume(new != log[at][0])
    found = verify([*log[:at], (new, new.hash(before)), *moved], len(log) + 1)
    assert (found.ok, found.broken) == (False, at + 2)


@given(LOGS, NUMBER)
def test_a_log_that_was_written_anew_from_some_entry_on_has_another_head(log: Log, at: int) -> None:
    at %= len(log)
    changed = [entry for entry, _ in log]
    changed[at] = replace(changed[at], who=changed[at].who + "!")
    again = verify(written(changed), len(log))
    assert again.ok
    assert again.head != verify(log).head
