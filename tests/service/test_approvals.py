"""Releases that wait for a second person's word: who may give it, and that one word begins one rollout."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest

from crossfade.domain.access import Actor, Role, local_actor
from crossfade.domain.errors import Busy, CrossfadeError, Forbidden, NotFound, Refused, Unavailable
from crossfade.domain.rollout import Rollout
from crossfade.ports import Approval
from crossfade.service.approvals import wanted
from tests.service.stage import ADMIN, KEY, OPERATOR, STAGING, VIEWER, Stage, person

BOB = person("bob", "operator@bookshop/*")


@pytest.fixture
def stage() -> Stage:
    """Deployments want an operator's word."""
    stage = Stage()
    stage.config = replace(stage.config, approval=Role.OPERATOR)
    return stage


def asked(stage: Stage, by: Actor = OPERATOR) -> Approval:
    approval = stage.deploy(by)
    assert isinstance(approval, Approval)
    return approval


def test_a_deployment_that_wants_a_word_waits_for_it_and_begins_with_it(stage: Stage) -> None:
    approval = asked(stage)
    service = stage.service
    assert (stage.driver.driven, service.rollouts(None, 10)) == ([], [])
    assert [one["approval"] for one in service.approvals.waiting(KEY)] == [approval.id]
    state = service.approvals.approve(approval.id, BOB)
    assert (state.plan.candidate, stage.driver.driven) == (approval.release, [state.id])
    assert service.rollout(state.id)["by"] == "olga, approved by bob"
    said = service.approvals.get(approval.id)
    assert (said["state"], said["decided_by"], said["rollout"]) == ("approved", "bob", state.id)
    assert service.approvals.waiting() == []


@pytest.mark.parametrize("via", ["session", "token"])
def test_nobody_approves_their_own_by_whatever_way_they_come(stage: Stage, via: str) -> None:
    approval = asked(stage)
    same = person("olga", "admin", via=via)
    with pytest.raises(Forbidden, match="somebody else"):
        stage.service.approvals.approve(approval.id, same)
    assert "somebody else" in stage.service.approvals.may_decide(approval.id, same)
    assert stage.service.approvals.may_decide(approval.id, BOB) == ""


def test_the_state_folders_holder_is_one_person_under_any_name(stage: Stage) -> None:
    approval = asked(stage, ADMIN)
    with pytest.raises(Forbidden):
        stage.service.approvals.approve(approval.id, local_actor("bob"))
    assert stage.service.approvals.approve(approval.id, BOB).id in stage.driver.driven


def test_the_word_wants_the_role_in_that_environment(stage: Stage) -> None:
    stage.config = replace(stage.config, approval=Role.ADMIN)
    approval = asked(stage)
    for by in (VIEWER, BOB, person("sam", "admin@bookshop/staging")):
        with pytest.raises(Forbidden, match="role admin for bookshop/production"):
            stage.service.approvals.approve(approval.id, by)
        with pytest.raises(Forbidden):
            stage.service.approvals.reject(approval.id, by, "no")
    assert (
        stage.service.approvals.approve(approval.id, person("amy", "admin@bookshop/production")).id
        in stage.driver.driven
    )


def test_a_release_that_drops_the_approval_needs_one(stage: Stage) -> None:
    stage.service.approvals.approve(asked(stage).id, BOB)
    stage.finish(stage.parts.store.rollouts(KEY)[0])
    stage.config = replace(stage.config, approval=None)
    approval = asked(stage)
    assert approval.role is Role.OPERATOR
    stage.finish(stage.service.approvals.approve(approval.id, BOB))
    assert isinstance(stage.deploy(OPERATOR), Rollout)


def test_of_two_roles_the_higher_one_is_wanted(stage: Stage) -> None:
    none, operator, admin = (replace(stage.config, approval=role) for role in (None, Role.OPERATOR, Role.ADMIN))
    assert [wanted(none, None), wanted(none, none), wanted(none, operator)] == [None, None, Role.OPERATOR]
    assert [wanted(operator, admin), wanted(admin, operator)] == [Role.ADMIN] * 2


def test_a_rollback_waits_for_nobody(stage: Stage) -> None:
    for _ in range(2):
        stage.finish(stage.service.approvals.approve(asked(stage).id, BOB))
    assert stage.service.rollback(KEY, None, OPERATOR).plan.candidate.n == 1


def test_of_many_words_at_once_one_begins_the_rollout(stage: Stage) -> None:
    approval = asked(stage)
    begun: list[int] = []
    refused: list[str] = []

    def approve(n: int) -> None:
        try:
            begun.append(stage.service.approvals.approve(approval.id, person(f"p{n}", "operator")).id)
        except CrossfadeError as error:
            refused.append(error.code)

    threads = [threading.Thread(target=approve, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(begun), len(refused)) == (1, 7)
    assert stage.driver.driven == begun
    said = stage.service.approvals.get(approval.id)
    assert (said["state"], said["rollout"]) == ("approved", begun[0])
    assert [entry["what"] for entry in stage.noted()].count("approval.approve") == 1


def test_a_word_that_comes_while_another_begins_the_rollout_finds_it_decided(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    approval = asked(stage)
    heard: list[str] = []

    def approve() -> None:
        with pytest.raises(Refused) as caught:
            stage.service.approvals.approve(approval.id, person("amy", "admin"))
        heard.append(caught.value.what)

    late = threading.Thread(target=approve)

    def drive(_rollout: int) -> None:
        late.start()
        late.join(timeout=0.2)  # it has to wait for us: we cannot wait for it

    monkeypatch.setattr(stage.driver, "drive", drive)
    stage.service.approvals.approve(approval.id, BOB)
    late.join()
    assert len(heard) == 1
    assert "approved by bob" in heard[0]
    assert [entry["what"] for entry in stage.noted()].count("approval.approve") == 1


def test_what_was_decided_stays_decided(stage: Stage) -> None:
    approval = asked(stage)
    stage.service.approvals.reject(approval.id, BOB, "not on a Friday")
    amy = person("amy", "admin")
    with pytest.raises(Refused, match="rejected by bob"):
        stage.service.approvals.approve(approval.id, amy)
    with pytest.raises(Refused, match="rejected by bob"):
        stage.service.approvals.reject(approval.id, amy, "")
    assert stage.service.approvals.get(approval.id)["why"] == "not on a Friday"
    assert stage.driver.driven == []
    with pytest.raises(NotFound):
        stage.service.approvals.approve(99, BOB)


def test_who_asked_may_take_it_back(stage: Stage) -> None:
    approval = asked(stage)
    stage.service.approvals.reject(approval.id, OPERATOR, "changed my mind")
    assert stage.service.approvals.waiting() == []


def test_a_newer_request_takes_the_place_of_the_one_that_waits(stage: Stage) -> None:
    older, newer = asked(stage), asked(stage, BOB)
    with pytest.raises(Refused, match="superseded"):
        stage.service.approvals.approve(older.id, BOB)
    assert [one["approval"] for one in stage.service.approvals.waiting()] == [newer.id]
    assert [one["approval"] for one in stage.service.approvals.page(1, newer.id, KEY)] == [older.id]
    assert stage.service.approvals.key(newer.id) == KEY


def test_while_a_rollout_holds_the_environment_the_word_is_refused_and_it_waits_on(stage: Stage) -> None:
    approval = asked(stage)
    stage.config = replace(stage.config, approval=None)
    state = stage.deploy(ADMIN)
    assert isinstance(state, Rollout)
    with pytest.raises(Busy):
        stage.service.approvals.approve(approval.id, BOB)
    assert stage.service.approvals.get(approval.id)["state"] == "waiting"
    stage.finish(state)
    assert stage.service.approvals.approve(approval.id, BOB).id in stage.driver.driven


def test_what_could_not_begin_waits_again(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    approval = asked(stage)

    def full(*_args: object) -> Rollout:
        raise Unavailable("no room")

    with monkeypatch.context() as broken:
        broken.setattr(stage.parts.store, "begin", full)
        with pytest.raises(Unavailable):
            stage.service.approvals.approve(approval.id, BOB)
    assert stage.service.approvals.get(approval.id)["state"] == "waiting"
    assert stage.service.approvals.approve(approval.id, BOB).id in stage.driver.driven


class Death(BaseException):
    """The server ends here."""


@pytest.mark.parametrize("begun", [False, True])
def test_after_a_crash_between_the_word_and_its_rollout_the_next_word_begins_one_rollout(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, begun: bool
) -> None:
    approval = asked(stage)

    def die(*_args: object) -> None:
        raise Death

    with monkeypatch.context() as broken:
        part, name = (stage.parts.access, "decided_rollout") if begun else (stage.parts.store, "begin")
        broken.setattr(part, name, die)
        with pytest.raises(Death):
            stage.service.approvals.approve(approval.id, BOB)
    state = stage.another_server().approvals.approve(approval.id, person("amy", "admin"))
    assert len(stage.parts.store.rollouts(KEY)) == 1
    said = stage.service.approvals.get(approval.id)
    assert (said["state"], said["rollout"]) == ("approved", state.id)


def test_each_word_is_noted_and_told_to_those_who_watch(stage: Stage) -> None:
    stage.service.approvals.reject(asked(stage).id, BOB, "no")
    stage.service.approvals.approve(asked(stage).id, BOB)
    noted = [(entry["what"], entry["who"], entry["key"]) for entry in stage.noted()]
    place = str(KEY)
    assert noted == [
        ("rollout.ask", "olga", place),
        ("approval.reject", "bob", place),
        ("rollout.ask", "olga", place),
        ("approval.approve", "bob", place),
    ]
    changes = [c.data["state"] for c in stage.parts.store.changes(0) if c.kind == "approval"]
    assert changes == ["waiting", "rejected", "waiting", "approved"]
    before, after = stage.noted()[-1]["before"], stage.noted()[-1]["after"]
    assert (before["state"], after["state"], after["rollout"]) == ("waiting", "approved", 1)


def test_environments_wait_apart(stage: Stage) -> None:
    here = asked(stage)
    elsewhere = stage.deploy(BOB, STAGING)
    assert isinstance(elsewhere, Approval)
    assert [one["approval"] for one in stage.service.approvals.waiting()] == [elsewhere.id, here.id]
    assert [one["approval"] for one in stage.service.approvals.waiting(STAGING)] == [elsewhere.id]
