"""The promises of `ports.Access`, kept by the ledger and by its twin."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from crossfade.domain.access import Grant, Role
from crossfade.domain.audit import AuditEntry
from crossfade.domain.errors import NotFound, Refused
from crossfade.domain.values import EnvKey, ReleaseNumber
from crossfade.fakes.access import FakeAccess
from crossfade.ports import Access, Account, Approval, Login, Token
from crossfade.store.access import SqlAccess

KEY, STAGING = EnvKey("bookshop", "production"), EnvKey("bookshop", "staging")
GRANTS = (Grant(Role.OPERATOR, "bookshop/*"), Grant(Role.VIEWER))
ADA = Account("ada", GRANTS, 1.0, "a hash", "", False)
TOKEN = Token("t1", "ci", "ada", GRANTS, 2.0, "a hash", 90.0)
LOGIN = Login("h1", "ada", None, "csrf", 10.0, 10.0, 50.0)
ASKED = Approval(0, KEY, ReleaseNumber(2), Role.OPERATOR, "ada", "ada", 5.0)


@pytest.fixture(params=["fake", "sqlite"])
def access(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Access]:
    if request.param == "fake":
        yield FakeAccess()
        return
    real = SqlAccess(f"sqlite:///{tmp_path / 'ledger.db'}")
    yield real
    real.dispose()


def at_once(call: Callable[[], object], count: int = 6) -> None:
    threads = [threading.Thread(target=call) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_an_account_reads_back_as_it_was_written_and_changes_but_for_its_beginning(access: Access) -> None:
    access.add_account(ADA)
    assert access.account("ada") == ADA
    changed = Account("ada", (), 99.0, "another", "https://issuer", True)
    access.change_account(changed)
    assert access.account("ada") == replace(changed, created=1.0)


def test_accounts_are_listed_by_name_and_have_each_another(access: Access) -> None:
    for name in ("bob", "ada"):
        access.add_account(replace(ADA, name=name))
    assert [account.name for account in access.accounts()] == ["ada", "bob"]
    with pytest.raises(Refused, match="'ada' already"):
        access.add_account(ADA)
    assert access.account("eve") is None


def test_an_unknown_account_is_neither_changed_nor_removed(access: Access) -> None:
    with pytest.raises(NotFound, match="'ada'"):
        access.change_account(ADA)
    with pytest.raises(NotFound, match="'ada'"):
        access.remove_account("ada")


def test_with_an_account_its_tokens_and_sessions_go_and_nobody_elses(access: Access) -> None:
    access.add_account(ADA)
    access.add_token(TOKEN)
    access.add_token(replace(TOKEN, id="t2", owner=""))
    access.open_session(LOGIN)
    access.open_session(replace(LOGIN, hash="h2", name="bob"))
    access.remove_account("ada")
    access.add_account(ADA)
    assert [token.id for token in access.tokens()] == ["t2"]
    assert (access.session("h1"), access.session("h2")) == (None, replace(LOGIN, hash="h2", name="bob"))


def test_a_token_reads_back_and_is_listed_newest_first_by_owner(access: Access) -> None:
    access.add_token(TOKEN)
    access.add_token(replace(TOKEN, id="t2", created=3.0, expires=None))
    access.add_token(replace(TOKEN, id="t3", owner="", created=4.0))
    assert access.token("t1") == TOKEN
    assert access.token("t9") is None
    assert [token.id for token in access.tokens()] == ["t3", "t2", "t1"]
    assert [token.id for token in access.tokens("ada")] == ["t2", "t1"]
    assert [token.id for token in access.tokens("")] == ["t3"]


def test_a_token_is_revoked_at_the_first_word(access: Access) -> None:
    access.add_token(TOKEN)
    access.token_used("t1", 6.0)
    access.revoke_token("t1", 7.0)
    access.revoke_token("t1", 8.0)
    assert access.token("t1") == replace(TOKEN, used=6.0, revoked=7.0)
    with pytest.raises(NotFound):
        access.revoke_token("t9", 1.0)


def test_sessions_are_kept_until_they_end_or_are_ended(access: Access) -> None:
    linked = replace(LOGIN, hash="h2", grants=GRANTS, expires=500.0)
    for session in (LOGIN, linked):
        access.open_session(session)
    access.session_seen("h1", 20.0)
    assert access.session("h1") == replace(LOGIN, seen=20.0)
    assert access.session("h2") == linked
    access.open_session(replace(LOGIN, hash="h3", name="bob", created=51.0, expires=500.0))
    assert access.session("h1") is None
    access.end_sessions("ada")
    assert access.session("h2") is None
    access.end_session("h3")
    access.end_session("h3")
    assert access.session("h3") is None


def test_a_session_may_have_no_grants_at_all_which_is_not_those_of_its_account(access: Access) -> None:
    access.open_session(replace(LOGIN, grants=()))
    found = access.session("h1")
    assert found is not None
    assert found.grants == ()


def test_a_link_is_used_once_and_in_its_time(access: Access) -> None:
    access.add_link("l1", "ada", GRANTS, 10.0)
    access.add_link("l2", "ada", GRANTS, 10.0)
    assert access.use_link("l1", 10.0) == ("ada", GRANTS)
    assert access.use_link("l1", 10.0) is None
    assert access.use_link("l2", 10.5) is None
    assert access.use_link("l2", 9.0) is None
    assert access.use_link("l9", 1.0) is None


def test_of_many_at_once_one_uses_a_link(access: Access) -> None:
    access.add_link("l1", "ada", GRANTS, 10.0)
    found: list[object] = []
    at_once(lambda: found.append(access.use_link("l1", 5.0)))
    assert len([one for one in found if one is not None]) == 1


def test_approvals_are_numbered_and_a_newer_one_of_the_environment_supersedes(access: Access) -> None:
    one = access.ask_approval(ASKED)
    elsewhere = access.ask_approval(replace(ASKED, key=STAGING))
    two = access.ask_approval(replace(ASKED, release=ReleaseNumber(3), asked=6.0))
    assert one == replace(ASKED, id=one.id)
    assert access.approval(one.id) == replace(one, state="superseded", decided=6.0)
    assert access.approvals(waiting=True) == (two, elsewhere)
    assert [a.id for a in access.approvals(KEY)] == [two.id, one.id]
    assert [a.id for a in access.approvals(limit=1)] == [two.id]
    assert [a.id for a in access.approvals(before=elsewhere.id)] == [one.id]
    assert access.approval(99) is None


def test_an_approval_is_decided_once_whoever_is_first(access: Access) -> None:
    asked = access.ask_approval(ASKED)
    no = replace(asked, state="rejected", decided_by="bob", decided=7.0, why="not today")
    done: list[bool] = []
    at_once(lambda: done.append(access.decide(no)))
    assert sorted(done)[-2:] == [False, True]
    assert not access.decide(replace(no, state="approved"))
    assert access.approval(asked.id) == no
    assert not access.decide(replace(no, id=99))


def test_what_was_approved_and_could_not_begin_waits_again_but_not_what_did(access: Access) -> None:
    asked = access.ask_approval(ASKED)
    yes = replace(asked, state="approved", decided_by="bob", decided=7.0)
    access.decide(yes)
    access.reopen(asked.id)
    assert access.approval(asked.id) == asked
    access.decide(yes)
    access.decided_rollout(asked.id, 4)
    access.reopen(asked.id)
    assert access.approval(asked.id) == replace(yes, rollout=4)


def test_what_was_rejected_does_not_wait_again(access: Access) -> None:
    asked = access.ask_approval(ASKED)
    access.decide(replace(asked, state="rejected", decided_by="bob", decided=7.0))
    access.reopen(asked.id)
    assert access.approvals(waiting=True) == ()


def entry(seq: int, key: str = "bookshop/production") -> AuditEntry:
    return AuditEntry(seq, 1.5, "ada ü", "local", "127.0.0.1", "rollout.begin", key, {"b": 1, "a": [None]}, {"x": 0.1})


def test_the_audit_log_numbers_without_gaps_also_at_once_and_its_chain_fits(access: Access) -> None:
    assert access.verify_audit().entries == 0
    at_once(lambda: access.note(entry))
    assert [one.seq for one in access.audit(10)] == [6, 5, 4, 3, 2, 1]
    found = access.verify_audit()
    assert (found.ok, found.entries) == (True, 6)


def test_the_audit_log_reads_back_newest_first_by_page_and_key(access: Access) -> None:
    for key in ("bookshop/production", "ada", "bookshop/production"):
        access.note(partial(entry, key=key))
    assert access.audit(1) == (entry(3),)
    assert [one.seq for one in access.audit(10, before=3)] == [2, 1]
    assert [one.seq for one in access.audit(10, key="ada")] == [2]


def test_an_entry_that_cannot_be_made_leaves_no_gap(access: Access) -> None:
    def fails(seq: int) -> AuditEntry:
        raise ValueError(seq)

    with pytest.raises(ValueError, match="1"):
        access.note(fails)
    assert access.note(entry).seq == 1
