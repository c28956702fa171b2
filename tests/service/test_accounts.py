"""Accounts and what they show to be known: nobody gets further than they should, and nobody learns why not."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable

import pytest

from crossfade.domain.access import Actor, Grant, Role
from crossfade.domain.errors import CrossfadeError, Forbidden, Invalid, NotFound, Refused, TooMany, Unauthenticated
from crossfade.ports import Account
from crossfade.service.accounts import LINK_LASTS, Accounts
from tests.service.stage import ADMIN, VIEWER, Stage, person

HERE, PASSWORD = "10.0.0.1", "correct horse battery"
EVERYTHING, OPERATES = (Grant(Role.ADMIN),), (Grant(Role.OPERATOR, "bookshop/*"),)


@pytest.fixture(scope="module")
def people() -> tuple[Account, ...]:
    """Ada is an admin with a password, Olga an operator of one service with another. Hashed once: it is dear."""
    stage = Stage()
    stage.service.accounts.add("ada", EVERYTHING, PASSWORD, ADMIN)
    stage.service.accounts.add("olga", OPERATES, PASSWORD + "!", ADMIN)
    return stage.parts.access.accounts()


@pytest.fixture
def stage(people: tuple[Account, ...]) -> Stage:
    """With these people."""
    stage = Stage()
    for account in people:
        stage.parts.access.add_account(account)
    return stage


@pytest.fixture
def accounts(stage: Stage) -> Accounts:
    return stage.service.accounts


def said(call: Callable[[], object]) -> tuple[str, str, str]:
    """What the outside hears of a failure."""
    with pytest.raises(CrossfadeError) as caught:
        call()
    return caught.value.code, caught.value.what, caught.value.hint


def test_a_password_is_kept_as_an_argon2id_hash_and_shown_nowhere(stage: Stage) -> None:
    kept = stage.parts.access.account("ada")
    assert kept is not None
    assert kept.password.startswith("$argon2id$")
    assert PASSWORD not in f"{kept!r} {stage.service.accounts.list()!r} {stage.noted()!r}"
    assert kept.password not in f"{kept!r} {stage.service.accounts.list()!r} {stage.noted()!r}"


def test_who_logs_in_has_the_grants_that_the_account_has_now(accounts: Accounts) -> None:
    session = accounts.by_session(accounts.log_in("olga", PASSWORD + "!", HERE), HERE)
    assert session.actor == Actor("olga", OPERATES, "session", HERE)
    secret = accounts.log_in("olga", PASSWORD + "!", HERE)
    accounts.change("olga", grants=(Grant(Role.VIEWER),), by=ADMIN)
    assert accounts.by_session(secret, HERE).actor.grants == (Grant(Role.VIEWER),)


def test_all_that_can_be_wrong_with_a_login_sounds_the_same(stage: Stage, accounts: Accounts) -> None:
    accounts.add("nora", (), None, ADMIN)
    accounts.add("dora", (), PASSWORD, ADMIN)
    accounts.change("dora", disabled=True, by=ADMIN)
    accounts.log_in_as("otto", (), "https://issuer", HERE)
    tries = {
        (name, password): said(lambda name=name, password=password: accounts.log_in(name, password, name[:9]))  # type: ignore[misc]  # mypy infers no defaults of a lambda
        for name, password in (
            ("ada", "wrong"),
            ("ada", ""),
            ("ada", "\ud800"),
            ("eve", PASSWORD),
            ("nora", ""),
            ("dora", PASSWORD),
            ("otto", ""),
            ("x" * 5000, "y" * 5000),
            ("\ud800\x00", PASSWORD),
        )
    }
    assert set(tries.values()) == {("unauthenticated", "The name or the password is wrong.", "")}


def test_after_ten_failures_a_name_waits_at_that_address_also_with_the_right_password(
    stage: Stage, accounts: Accounts
) -> None:
    for _ in range(10):
        said(lambda: accounts.log_in("ada", "wrong", HERE))
    with pytest.raises(TooMany) as caught:
        accounts.log_in("ada", PASSWORD, HERE)
    assert caught.value.retry_after == 300
    assert accounts.log_in("ada", PASSWORD, "10.9.9.9")
    stage.now += 300
    assert accounts.log_in("ada", PASSWORD, HERE)


def test_an_address_that_tries_many_names_waits_too(accounts: Accounts) -> None:
    for n in range(20):
        said(lambda n=n: accounts.log_in(f"name{n}", "wrong", HERE))  # type: ignore[misc]  # mypy infers no defaults of a lambda
    with pytest.raises(TooMany):
        accounts.log_in("ada", PASSWORD, HERE)


def test_tries_at_once_are_counted_like_those_one_after_another(accounts: Accounts) -> None:
    heard: list[str] = []

    def fail() -> None:
        try:
            accounts.log_in("ada", "wrong", HERE)
        except CrossfadeError as error:
            heard.append(error.code)

    threads = [threading.Thread(target=fail) for _ in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert heard.count("unauthenticated") <= 11  # two hash at once
    assert len(heard) == 24


@pytest.mark.parametrize("password", ["short", "x" * 1001, "half a character \ud800"])
def test_a_password_has_a_length_and_is_not_repeated_in_the_refusal(accounts: Accounts, password: str) -> None:
    with pytest.raises(Invalid) as caught:
        accounts.add("bob", (), password, ADMIN)
    assert password not in str(caught.value)
    with pytest.raises(NotFound):
        accounts.get("bob")


def test_one_changes_ones_own_password_with_the_old_one_and_the_sessions_end(stage: Stage, accounts: Accounts) -> None:
    secret = accounts.log_in("olga", PASSWORD + "!", HERE)
    olga = accounts.by_session(secret, HERE).actor
    with pytest.raises(Unauthenticated):
        accounts.set_password("olga", "a new password", olga)
    with pytest.raises(Unauthenticated):
        accounts.set_password("olga", "a new password", olga, "wrong")
    with pytest.raises(Forbidden):
        accounts.set_password("ada", "a new password", olga, PASSWORD)
    accounts.set_password("olga", "a new password", olga, PASSWORD + "!")
    with pytest.raises(Unauthenticated):
        accounts.by_session(secret, HERE)
    assert accounts.log_in("olga", "a new password", HERE)
    assert "a new password" not in repr(stage.noted())


def test_a_token_cannot_change_its_owners_password_nor_make_tokens(accounts: Accounts) -> None:
    _, text = accounts.issue(
        "ci", EVERYTHING, None, accounts.by_session(accounts.log_in("ada", PASSWORD, HERE), HERE).actor
    )
    token = accounts.by_token(text, HERE)
    with pytest.raises(Forbidden):
        accounts.set_password("ada", "a new password", token, PASSWORD)
    with pytest.raises(Forbidden):
        accounts.issue("more", EVERYTHING, None, token)


def test_an_admin_neither_shuts_itself_out_nor_is_that_done_by_others(accounts: Accounts) -> None:
    ada = person("ada", "admin")
    for call in (
        lambda: accounts.change("ada", disabled=True, by=ada),
        lambda: accounts.change("ada", grants=(Grant(Role.ADMIN, "*/*"),), by=ada),
        lambda: accounts.remove("ada", ada),
    ):
        assert said(call)[0] == "refused"
    for by in (VIEWER, person("olga", "admin@*/*")):
        with pytest.raises(Forbidden):
            accounts.add("eve", (), None, by)
        with pytest.raises(Forbidden):
            accounts.change("ada", disabled=True, by=by)
        with pytest.raises(Forbidden):
            accounts.remove("ada", by)
        with pytest.raises(Forbidden):
            accounts.new_link("eve", EVERYTHING, by)
    assert accounts.get("ada").grants == EVERYTHING


# --- tokens


def issued(accounts: Accounts, *, expires: float | None = None, grants: tuple[Grant, ...] = OPERATES) -> str:
    return accounts.issue("ci", grants, expires, ADMIN, "olga")[1]


def test_a_token_is_its_owner_with_its_own_grants(accounts: Accounts) -> None:
    text = issued(accounts, grants=(Grant(Role.VIEWER, "bookshop/staging"),))
    assert re.fullmatch(r"cf_[0-9a-f]{12}_[A-Za-z0-9_-]{43}", text)
    actor = accounts.by_token(text, HERE)
    assert (actor.name, actor.via, actor.address, actor.identity) == ("olga", "token", HERE, "olga")
    assert actor.grants == (Grant(Role.VIEWER, "bookshop/staging"),)


def test_an_installations_token_is_nobodys_account(accounts: Accounts) -> None:
    _, text = accounts.issue("ci", EVERYTHING, None, ADMIN)
    assert accounts.by_token(text, HERE).name == "token:ci"
    with pytest.raises(Forbidden):
        accounts.issue("ci", OPERATES, None, VIEWER, "")


def test_all_that_can_be_wrong_with_a_token_sounds_the_same(stage: Stage, accounts: Accounts) -> None:
    def revoked() -> str:
        text = issued(accounts)
        accounts.revoke(text.split("_")[1], ADMIN)
        return text

    good = issued(accounts)
    wrong = [good[:-1] + ("A" if good[-1] != "A" else "B"), good + "x", good.upper(), "", "cf_", "cf_\ud800", revoked()]
    wrong.append("cf_" + "0" * 12 + good[15:])
    expired = issued(accounts, expires=stage.now + 5)
    stage.now += 5
    heard = {said(lambda text=text: accounts.by_token(text, HERE)) for text in (*wrong, expired)}  # type: ignore[misc]  # mypy infers no defaults of a lambda
    accounts.change("olga", disabled=True, by=ADMIN)
    heard.add(said(lambda: accounts.by_token(good, HERE)))
    accounts.change("olga", disabled=False, by=ADMIN)
    assert accounts.by_token(good, HERE).name == "olga"
    accounts.remove("olga", ADMIN)
    accounts.add("olga", OPERATES, None, ADMIN)
    heard.add(said(lambda: accounts.by_token(good, HERE)))
    assert len(heard) == 1


def test_a_token_that_was_found_right_once_is_still_looked_at_each_time(accounts: Accounts) -> None:
    text = issued(accounts)
    accounts.by_token(text, HERE)
    accounts.revoke(text.split("_")[1], ADMIN)
    with pytest.raises(Unauthenticated):
        accounts.by_token(text, HERE)


def test_what_is_taken_from_the_owner_is_taken_from_the_token(accounts: Accounts) -> None:
    text = issued(accounts)
    accounts.change("olga", grants=(Grant(Role.OPERATOR, "bookshop/staging"),), by=ADMIN)
    assert accounts.by_token(text, HERE).grants == ()
    accounts.change("olga", grants=EVERYTHING, by=ADMIN)
    assert accounts.by_token(text, HERE).grants == OPERATES


@pytest.mark.parametrize("grant", ["admin", "admin@bookshop/*", "operator", "operator@*/*", "viewer@other/x"])
def test_a_token_never_does_more_than_its_owner(accounts: Accounts, grant: str) -> None:
    for by, owner in ((ADMIN, "olga"), (person("olga", "operator@bookshop/*"), None)):
        with pytest.raises(Forbidden, match=re.escape(grant)):
            accounts.issue("ci", (Grant.parse(grant),), None, by, owner)


def test_an_admin_of_all_environments_makes_no_admin_of_the_installation(accounts: Accounts) -> None:
    with pytest.raises(Forbidden):
        accounts.issue("ci", EVERYTHING, None, person("eve", "admin@*/*"))


def test_a_token_has_a_name_grants_and_a_time_to_come(stage: Stage, accounts: Accounts) -> None:
    for name, grants, expires in (
        ("", OPERATES, None),
        ("a\nb", OPERATES, None),
        ("ci", (), None),
        ("ci", OPERATES, stage.now),
    ):
        with pytest.raises(Invalid):
            accounts.issue(name, grants, expires, ADMIN)


def test_only_its_owner_and_admins_know_of_a_token_and_revoke_it(accounts: Accounts) -> None:
    info, text = accounts.issue("ci", OPERATES, None, ADMIN, "olga")
    assert text.split("_")[2] not in repr(accounts.tokens())
    with pytest.raises(NotFound):
        accounts.revoke(info.id, VIEWER)
    accounts.revoke(info.id, person("olga"))
    assert accounts.tokens("olga")[0].revoked is not None


def test_when_a_token_was_used_last_is_known_to_the_minute(stage: Stage, accounts: Accounts) -> None:
    text, began = issued(accounts), stage.now
    for later in (0.0, 30.0, 61.0):
        stage.now = began + later
        accounts.by_token(text, HERE)
    assert accounts.tokens("olga")[0].used == began + 61


# --- sessions and links


def test_a_session_ends_when_it_is_not_used_when_it_is_old_and_when_one_logs_out(
    stage: Stage, accounts: Accounts
) -> None:
    limits = accounts.limits
    idle, busy = (accounts.log_in("ada", PASSWORD, HERE) for _ in range(2))
    ends = stage.now + limits.session
    while stage.now + limits.idle < ends:
        stage.now += limits.idle
        assert accounts.by_session(busy, HERE).expires == ends
    with pytest.raises(Unauthenticated):
        accounts.by_session(idle, HERE)
    stage.now = ends
    with pytest.raises(Unauthenticated):
        accounts.by_session(busy, HERE)
    third = accounts.log_in("ada", PASSWORD, HERE)
    accounts.log_out(third)
    accounts.log_out(third)
    with pytest.raises(Unauthenticated):
        accounts.by_session(third, HERE)


def test_each_session_has_a_secret_and_a_csrf_value_of_its_own_and_the_ledger_has_no_secret(
    stage: Stage, accounts: Accounts
) -> None:
    one, other = (accounts.log_in("ada", PASSWORD, HERE) for _ in range(2))
    assert one != other
    assert accounts.by_session(one, HERE).csrf != accounts.by_session(other, HERE).csrf
    assert stage.parts.access.session(one) is None


def test_the_sessions_of_a_disabled_account_end_and_do_not_come_back(accounts: Accounts) -> None:
    secret = accounts.log_in("olga", PASSWORD + "!", HERE)
    accounts.change("olga", disabled=True, by=ADMIN)
    accounts.change("olga", disabled=False, by=ADMIN)
    with pytest.raises(Unauthenticated):
        accounts.by_session(secret, HERE)


def test_a_link_logs_in_once_within_ten_minutes_as_the_state_folders_holder(stage: Stage, accounts: Accounts) -> None:
    link, late = (accounts.new_link("ada@laptop", EVERYTHING, ADMIN) for _ in range(2))
    actor = accounts.by_session(accounts.by_link(link, HERE), HERE).actor
    assert (actor.name, actor.grants, actor.identity) == ("ada@laptop", EVERYTHING, "local")
    stage.now += LINK_LASTS + 1
    heard = {said(lambda text=text: accounts.by_link(text, HERE)) for text in (link, late, "", "x")}  # type: ignore[misc]  # mypy infers no defaults of a lambda
    assert len(heard) == 1
    assert link not in repr(stage.noted())


def test_an_issuers_people_follow_what_it_says_and_take_nobodys_name(accounts: Accounts) -> None:
    issuer = "https://issuer"
    first = accounts.log_in_as("otto", OPERATES, issuer, HERE)
    accounts.log_in_as("otto", (), issuer, HERE)
    assert accounts.by_session(first, HERE).actor.grants == ()
    for name, other in (("ada", issuer), ("otto", "https://another")):
        with pytest.raises(Refused):
            accounts.log_in_as(name, EVERYTHING, other, HERE)
    with pytest.raises(Refused, match=issuer):
        accounts.set_password("otto", "a new password", ADMIN)
    accounts.change("otto", disabled=True, by=ADMIN)
    with pytest.raises(Unauthenticated):
        accounts.log_in_as("otto", EVERYTHING, issuer, HERE)
    assert accounts.get("otto").grants == ()


def test_each_change_of_access_is_noted_with_what_was_before_and_after(stage: Stage, accounts: Accounts) -> None:
    accounts.add("bob", (), None, ADMIN)
    accounts.change("olga", grants=(), by=ADMIN)
    info, _ = accounts.issue("ci", EVERYTHING, None, ADMIN)
    accounts.revoke(info.id, ADMIN)
    accounts.log_out(accounts.log_in("ada", PASSWORD, HERE))
    accounts.remove("olga", ADMIN)
    noted = {entry["what"]: entry for entry in stage.noted()}
    assert list(noted) == [
        "account.add",
        "account.change",
        "token.issue",
        "token.revoke",
        "session.begin",
        "session.end",
        "account.remove",
    ]
    assert noted["account.change"]["before"]["grants"] == ["operator@bookshop/*"]
    assert noted["account.change"]["after"]["grants"] == []
    assert (noted["account.change"]["who"], noted["account.change"]["via"]) == ("ada@laptop", "local")
    assert (noted["session.begin"]["who"], noted["session.begin"]["address"]) == ("ada", HERE)
    assert stage.service.audit.verify().ok


def test_what_was_refused_is_not_noted_as_done(stage: Stage, accounts: Accounts) -> None:
    before = len(stage.noted())
    with pytest.raises(Refused):
        accounts.add("ada", (), None, ADMIN)
    with pytest.raises(NotFound):
        accounts.remove("eve", ADMIN)
    said(lambda: accounts.log_in("ada", "wrong", HERE))
    assert [entry["what"] for entry in stage.noted()[before:]] == ["session.refuse"]


def test_a_login_that_failed_is_noted_of_accounts_that_there_are_only(stage: Stage, accounts: Accounts) -> None:
    # What is typed into the wrong field may be a password.
    for name in ("ada", "correct horse battery"):
        with pytest.raises(Unauthenticated):
            accounts.log_in(name, "not the password", "10.0.0.7")
    refused = [entry for entry in stage.service.audit.page(10) if entry["what"] == "session.refuse"]
    assert [(entry["who"], entry["address"]) for entry in refused] == [("ada", "10.0.0.7")]
