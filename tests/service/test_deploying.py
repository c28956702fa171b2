"""When nothing may be deployed: during a freeze, without a statement where one is wanted, on an environment that has moved."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from crossfade.domain.access import Role
from crossfade.domain.errors import Frozen, Moved, Refused
from crossfade.domain.pipeline.freeze import Freeze
from crossfade.domain.rollout import Kind, Rollout
from crossfade.domain.values import ReleaseNumber
from crossfade.ports import Approval
from tests.service.stage import ADMIN, KEY, OPERATOR, Stage

WEEKEND = Freeze("weekend", ("sat", "sun"))
SATURDAY = datetime(2026, 11, 21, 12, tzinfo=UTC).timestamp()
MONDAY = datetime(2026, 11, 23, tzinfo=UTC).timestamp()


@pytest.fixture
def stage() -> Stage:
    found = Stage()
    found.now = SATURDAY
    return found


def test_nothing_is_deployed_during_a_freeze_and_it_is_said_until_when(stage: Stage) -> None:
    stage.live()
    with_freeze = stage.config
    stage.now = MONDAY
    stage.live(freezes=(WEEKEND,))
    stage.now = SATURDAY
    assert stage.config == with_freeze
    # A release that has no freeze any more is held to the one that is live.
    with pytest.raises(Frozen, match=r"is frozen \(weekend\) until 2026-11-23 00:00 UTC"):
        stage.deploy(OPERATOR)
    with pytest.raises(Frozen):
        stage.service.deploy_again(KEY, ReleaseNumber(1), ADMIN)
    stage.now = MONDAY
    assert isinstance(stage.deploy(OPERATOR), Rollout)


def test_a_rollback_is_possible_during_a_freeze(stage: Stage) -> None:
    stage.now = MONDAY
    stage.live()
    stage.live(freezes=(WEEKEND,))
    stage.now = SATURDAY
    assert stage.service.rollback(KEY, None, OPERATOR).plan.kind is Kind.ROLLBACK


def test_an_approval_that_is_given_during_a_freeze_waits_on(stage: Stage) -> None:
    stage.now = MONDAY
    stage.live(freezes=(WEEKEND,))
    stage.config = replace(stage.config, approval=Role.OPERATOR)
    asked = stage.deploy(ADMIN)
    assert isinstance(asked, Approval)
    stage.now = SATURDAY
    with pytest.raises(Frozen):
        stage.service.approvals.approve(asked.id, OPERATOR)
    stage.now = MONDAY
    assert stage.service.approvals.approve(asked.id, OPERATOR).plan.candidate == asked.release


def test_an_artifact_without_a_statement_is_refused_where_one_is_wanted(stage: Stage) -> None:
    stage.live(provenance_required=False)
    stage.service.attested = lambda digest, service: ()
    stage.live(provenance_required=True)
    stage.service.attested = lambda digest, service: ("nobody has signed for it",)
    # Neither by a release that does not want it any more, nor by one from before.
    with pytest.raises(Refused, match="nobody has signed for it"):
        stage.deploy(OPERATOR)
    with pytest.raises(Refused, match="nobody has signed for it"):
        stage.service.deploy_again(KEY, ReleaseNumber(1), OPERATOR)
    assert stage.service.rollback(KEY, None, OPERATOR).plan.candidate == ReleaseNumber(1)


def test_what_was_decided_on_another_state_of_the_environment_is_refused(stage: Stage) -> None:
    first = stage.live()
    environment = stage.service.environment(KEY)
    again = stage.live()
    with pytest.raises(Moved, match="1 more of its rollouts began"):
        stage.service.begin_or_ask(KEY, first, ADMIN, environment.fence)
    fence = stage.service.environment(KEY).fence
    assert isinstance(stage.service.begin_or_ask(KEY, again, ADMIN, fence), Rollout)
