"""What it would take to go back, and doing it: for a person who asks, and for whatever watches a release after its rollout."""

from __future__ import annotations

import pytest

from crossfade.domain.analysis.policy import Analysis
from crossfade.domain.errors import Forbidden, Refused
from crossfade.domain.release import BlueGreen, Limits
from crossfade.domain.rollback import What
from crossfade.domain.rollout import Rollout
from crossfade.domain.traffic import Slot
from crossfade.domain.values import ReleaseNumber
from crossfade.ports import Reading
from tests.service.stage import ADMIN, KEY, OPERATOR, VIEWER, Stage

FLAG = {"state": "ENABLED", "variants": {"on": True, "off": False}, "defaultVariant": "off"}


@pytest.fixture
def stage() -> Stage:
    made = Stage()
    made.signals.ensure(KEY)
    made.parts.flags.write(KEY, {"flags": {"new-checkout": FLAG}}, ("new-checkout",), "ada", made.now, expects=0)
    return made


def trail(stage: Stage, bad: float, rest: float = 0.0) -> list[Reading]:
    """Ten seconds of the live release's traffic: the shares of errors with the variant and without."""
    slot = stage.service.environment(KEY).slot or Slot.BLUE
    readings = [stage.signals.read(KEY)]
    for _ in range(10):
        stage.now += 1
        for variant, share in (("on", bad), ("off", rest)):
            failed = round(50 * share)
            told = f"new-checkout={variant}"
            if failed:
                stage.signals.answer(KEY, slot, told, times=failed, status=500)
            stage.signals.answer(KEY, slot, told, times=50 - failed)
        readings.append(stage.signals.read(KEY))
    return readings


def test_a_live_release_that_is_harmed_by_a_variant_keeps_running_and_the_flag_is_killed(stage: Stage) -> None:
    stage.live()
    stage.live(analysis=Analysis(), strategy=BlueGreen(limits=Limits(error_rate=None)))
    plan = stage.service.remedy(KEY, "the error budget burns 20 times too fast", trail(stage, 0.3))
    assert plan.remedy is not None
    assert (plan.remedy.what, plan.remedy.target) == (What.KILL_FLAG, "new-checkout=on")
    with pytest.raises(Forbidden):
        stage.service.carry_out(KEY, plan, VIEWER)
    stage.service.carry_out(KEY, plan, OPERATOR)
    current = stage.parts.flags.current(KEY)
    assert current is not None
    assert current.document is not None
    assert "20 times" in current.document["flags"]["new-checkout"]["crossfade"]["killed"]["why"]
    assert stage.service.environment(KEY).holder is None


def test_a_release_that_is_harmful_by_itself_is_left_for_the_one_before(stage: Stage) -> None:
    stage.live()
    stage.live()
    plan = stage.service.remedy(KEY, "the error budget burns", trail(stage, 0.3, 0.3))
    assert plan.remedies[0].what is What.KILL_FLAG
    assert plan.remedy is not None
    assert plan.remedy.target == "r1"
    stage.service.carry_out(KEY, plan, OPERATOR)
    holder = stage.service.environment(KEY).holder
    assert holder is not None
    assert stage.parts.store.rollout(holder).plan.candidate == ReleaseNumber(1)


def test_a_first_release_has_nothing_to_go_back_to_and_that_is_said(stage: Stage) -> None:
    stage.live()
    plan = stage.service.going_back(KEY, "it burns")
    assert plan.remedy is None
    with pytest.raises(Refused, match="nothing that is known helps"):
        stage.service.carry_out(KEY, plan, OPERATOR)


def test_while_a_rollout_is_under_way_its_view_says_what_going_back_would_take(stage: Stage) -> None:
    stage.live()
    state = stage.deploy(ADMIN)
    assert isinstance(state, Rollout)
    view = stage.service.rollout(state.id)
    back = view["going_back"]
    chosen = back["remedies"][back["chosen"]]
    assert (chosen["what"], chosen["target"], chosen["seconds"]) == ("move-weight", "r1", 1.0)
    assert (view["plan"], view["killed"]) == (None, [])
    plan = stage.service.going_back(KEY, "it burns")
    assert plan.remedy is not None
    assert plan.remedy.target == "r1"
    stage.service.carry_out(KEY, plan, OPERATOR)
    orders = stage.parts.store.orders(state.id)
    assert [order.command.value for order in orders] == ["abort"]
    stage.finish(state)
    assert stage.service.rollout(state.id)["id"] == state.id
