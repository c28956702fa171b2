"""Changes of flags that wait for a second person: who may give the word, and what it is put upon."""

from __future__ import annotations

import threading

import pytest

from crossfade.domain.access import Role
from crossfade.domain.errors import (
    Forbidden,
    InvalidBatch,
    Moved,
    NotFound,
    Refused,
)
from crossfade.service.flags import Flags, done
from tests.service.flag_stage import BOB, OFF, ON, REQUIRING, SPLIT, flag_stage, served, waits, written
from tests.service.stage import ADMIN, KEY, OPERATOR, STAGING, VIEWER, Stage, person


@pytest.fixture
def stage() -> Stage:
    return flag_stage()


@pytest.fixture
def flags(stage: Stage) -> Flags:
    return stage.service.flags


# --- requests


@pytest.fixture
def strict(flags: Flags) -> Flags:
    """Production wants an operator's word."""
    flags.save(KEY, "a", SPLIT | {"defaultVariant": "on"}, ADMIN)
    flags.set_settings(KEY, Role.OPERATOR, ADMIN)
    return flags


def test_a_change_that_wants_a_word_waits_for_it_and_is_made_with_it(stage: Stage, strict: Flags) -> None:
    request = waits(strict.save(KEY, "a", ON, OPERATOR, note="go"))
    assert strict.serving(KEY).version == 1
    assert strict.flag(KEY, "a")["requests"] == [request.id]
    assert done(request)["request"]["after"]["flags/a"]["defaultVariant"] == "on"
    version = strict.approve(request.id, BOB)
    assert (version.by, version.note, strict.serving(KEY).version) == ("olga, approved by bob", "go", 2)
    said = strict.request(request.id)
    assert (said["state"], said["decided_by"], said["applied"]) == ("approved", "bob", 2)
    assert [one["what"] for one in stage.noted()][-2:] == ["flag.ask", "flag.approve"]
    with pytest.raises(Refused, match="approved by bob"):
        strict.approve(request.id, BOB)


def test_every_change_waits_but_a_kill_and_what_the_engine_does(strict: Flags) -> None:
    strict.save(STAGING, "c", ON, BOB)
    assert strict.bring(KEY, {"flags": {"b": ON}}, False, False, OPERATOR)["request"]["flags"] == ["b"]
    assert strict.promote(STAGING, "c", KEY, BOB)["request"]["flags"] == ["c"]
    for made in (
        strict.save(KEY, "new", ON, OPERATOR),
        strict.remove(KEY, "a", OPERATOR),
        strict.switch(KEY, "a", False, OPERATOR),
        strict.pause_rule(KEY, "a", "ramp", True, OPERATOR),
        strict.set_shares(KEY, "a", "ramp", {"on": 10}, OPERATOR),
    ):
        assert waits(made).state == "waiting"
    assert strict.serving(KEY).version == 1
    assert strict.kill(KEY, "a", "now", OPERATOR).number == 2
    assert strict.revive(KEY, "a", OPERATOR).number == 3
    engine = person("crossfade", "admin", via="engine")
    assert written(strict.set_shares(KEY, "a", "ramp", {"on": 10}, engine)).number == 4
    assert waits(strict.restore(KEY, 2, OPERATOR)).what == "flag.restore"


def test_nobody_approves_their_own_and_nobody_without_the_role(strict: Flags) -> None:
    request = waits(strict.save(KEY, "a", ON, OPERATOR))
    for by in (OPERATOR, person("olga", "admin", via="token"), VIEWER):
        with pytest.raises(Forbidden):
            strict.approve(request.id, by)
    assert "somebody else" in strict.may_approve(request.id, OPERATOR)
    assert strict.may_approve(request.id, BOB) == ""
    strict.set_settings(KEY, Role.ADMIN, ADMIN)
    harder = waits(strict.save(KEY, "b", ON, OPERATOR))
    with pytest.raises(Forbidden):
        strict.approve(harder.id, BOB)
    strict.approve(harder.id, ADMIN)


def test_a_request_is_put_upon_what_others_have_changed_meanwhile(strict: Flags) -> None:
    request = waits(strict.save(KEY, "a", ON, OPERATOR))
    strict.set_settings(KEY, None, ADMIN)
    strict.save(KEY, "b", OFF, BOB)
    strict.approve(request.id, BOB)
    assert strict.serving(KEY).evaluator.keys == ("a", "b")
    assert served(strict) == "on"


def test_a_request_whose_flag_has_changed_meanwhile_is_refused(strict: Flags) -> None:
    request = waits(strict.save(KEY, "a", ON, OPERATOR))
    strict.set_settings(KEY, None, ADMIN)
    strict.save(KEY, "a", OFF, BOB)
    with pytest.raises(Moved, match="flags/a has changed since"):
        strict.approve(request.id, BOB)
    assert strict.request(request.id)["state"] == "waiting"
    assert strict.reject(request.id, "make it anew", BOB)["state"] == "rejected"
    with pytest.raises(Refused, match="rejected by bob"):
        strict.approve(request.id, BOB)


def test_a_request_that_does_not_fit_any_more_is_refused_and_waits(strict: Flags) -> None:
    request = waits(strict.save(KEY, "b", REQUIRING, OPERATOR))
    strict.set_settings(KEY, None, ADMIN)
    strict.remove(KEY, "a", BOB)
    with pytest.raises(InvalidBatch, match="a flag of this flag set"):
        strict.approve(request.id, BOB)
    assert strict.request(request.id)["state"] == "waiting"


def test_a_kill_beats_a_request_that_waits_and_outlives_it(strict: Flags) -> None:
    request = waits(strict.save(KEY, "a", ON, OPERATOR))
    strict.kill(KEY, "a", "it burns", OPERATOR)
    strict.approve(request.id, BOB)
    flag = strict.serving(KEY).flags.flags["a"]
    assert (flag.default, flag.killed is not None) == ("on", True)


def test_who_asked_may_take_it_back(strict: Flags) -> None:
    request = waits(strict.save(KEY, "a", ON, OPERATOR))
    with pytest.raises(Forbidden):
        strict.reject(request.id, "", VIEWER)
    assert strict.reject(request.id, "a mistake", OPERATOR)["decided_by"] == "olga"
    assert strict.requests(waiting=True) == []
    with pytest.raises(NotFound):
        strict.reject(99, "", BOB)


def test_a_newer_request_for_the_same_flag_takes_the_place_of_the_older(strict: Flags) -> None:
    first = waits(strict.save(KEY, "a", ON, OPERATOR))
    second = waits(strict.save(KEY, "a", OFF, BOB))
    assert [one["request"] for one in strict.requests(KEY, waiting=True)] == [second.id]
    with pytest.raises(Refused, match="superseded"):
        strict.approve(first.id, BOB)


def test_of_two_who_approve_at_once_one_makes_the_version(strict: Flags) -> None:
    request = waits(strict.save(KEY, "a", ON, OPERATOR))
    made: list[int] = []
    refused: list[Refused] = []

    def approve() -> None:
        try:
            made.append(strict.approve(request.id, BOB).number)
        except Refused as error:
            refused.append(error)

    threads = [threading.Thread(target=approve) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (made, len(refused)) == ([2], 5)
