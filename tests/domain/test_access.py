"""Who may do what where: laws of roles and grants."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossfade.domain.access import EVERYWHERE, Actor, Grant, Role, account_name, local_actor
from crossfade.domain.errors import Forbidden, Invalid
from crossfade.domain.values import EnvKey

KEYS = tuple(EnvKey(service, environment) for service in ("a", "b") for environment in ("x", "y"))
PLACES: tuple[EnvKey | None, ...] = (*KEYS, None)
HALVES = st.sampled_from(("*", "a", "b", "x"))
WHERE = st.just(EVERYWHERE) | st.builds("{}/{}".format, HALVES, st.sampled_from(("*", "x", "y")))
GRANTS = st.builds(Grant, st.sampled_from(Role), WHERE)
MANY = st.lists(GRANTS, max_size=3).map(tuple)


def lets(*grants: Grant) -> set[tuple[Role, EnvKey | None]]:
    """All that somebody with these grants may do."""
    actor = Actor("ada", grants, "session")
    return {(role, place) for role in Role for place in PLACES if actor.may(role, place)}


@given(GRANTS, MANY)
def test_what_is_within_others_lets_nobody_do_more_than_those(grant: Grant, others: tuple[Grant, ...]) -> None:
    if grant.within(others):
        assert lets(grant) <= lets(*others)


@given(GRANTS, GRANTS, GRANTS)
def test_within_is_a_partial_order(a: Grant, b: Grant, c: Grant) -> None:
    assert a.within([a])
    if a.within([b]) and b.within([c]):
        assert a.within([c])
    if a.within([b]) and b.within([a]):
        assert a == b


@given(GRANTS, MANY)
def test_more_grants_never_let_somebody_do_less(grant: Grant, others: tuple[Grant, ...]) -> None:
    assert lets(*others) <= lets(grant, *others)


@given(MANY)
def test_a_role_covers_those_before_it_in_the_same_place(grants: tuple[Grant, ...]) -> None:
    for role, place in lets(*grants):
        assert {(lesser, place) for lesser in Role if role.covers(lesser)} <= lets(*grants)


@given(MANY)
def test_only_a_grant_for_everywhere_covers_the_installation(grants: tuple[Grant, ...]) -> None:
    widest = [grant.role for grant in grants if grant.where == EVERYWHERE]
    for role in Role:
        assert ((role, None) in lets(*grants)) == any(held.covers(role) for held in widest)


def test_all_environments_are_less_than_the_installation() -> None:
    assert Grant(Role.ADMIN, "*/*").within([Grant(Role.ADMIN)])
    assert not Grant(Role.ADMIN).within([Grant(Role.ADMIN, "*/*")])


@given(GRANTS)
def test_a_grant_reads_back_as_it_is_written(grant: Grant) -> None:
    assert Grant.parse(str(grant)) == grant


@pytest.mark.parametrize(
    "text",
    ["", "owner", "Admin", "admin@", "admin@a", "admin@a/", "admin@/x", "admin@a/x/y", "admin@a*/x", "admin@A/x", "@*"],
)
def test_what_is_no_grant_is_refused(text: str) -> None:
    with pytest.raises(Invalid):
        Grant.parse(text)


@given(st.text(max_size=20))
def test_any_text_is_a_grant_or_invalid(text: str) -> None:
    try:
        assert Grant.parse(Grant.parse(text).__str__()) == Grant.parse(text)
    except Invalid:
        return


@pytest.mark.parametrize("name", ["", "-a", "Ada", "a b", "a\n", "token:ci", "a" * 101, "\ud800"])
def test_an_account_has_a_plain_name(name: str) -> None:
    with pytest.raises(Invalid, match="account"):
        account_name(name)
    assert account_name("ada.l@example.org") == "ada.l@example.org"


def test_a_refusal_says_what_is_wanted_where_and_what_one_has() -> None:
    actor = Actor("eve", (Grant(Role.VIEWER, "a/*"),), "token")
    with pytest.raises(Forbidden, match=r"role operator for a/x; eve has viewer@a/\*"):
        actor.require(Role.OPERATOR, KEYS[0])
    with pytest.raises(Forbidden, match="the whole installation"):
        actor.require(Role.VIEWER, None)
    actor.require(Role.VIEWER, KEYS[0])
    assert not actor.sees(EnvKey("b", "x"))


def test_the_holder_of_the_state_folder_may_do_all_and_is_one_person_under_any_name() -> None:
    one, other = local_actor("ada@laptop"), local_actor("")
    assert len(lets(*one.grants)) == len(Role) * len(PLACES)
    assert one.identity == other.identity == "local"
    assert other.name == "somebody"
    assert Actor("ada", (), "session").identity == "ada"
